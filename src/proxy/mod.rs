//! User traffic: finds the instance that a request is for, wakes it when it sleeps, and streams both ways.
//!
//! ```text
//! listener ▶ connection ▶ service ▶ access ▶ router ▶ target ──Ready──▶ upstream ▶ response body, or tunnel after an upgrade
//!                                                        └────Wake───▶ hold ▶ target … or, for a browser, waiting ▶ a page that follows it
//! ```
//!
//! Reads the cache; its only outputs to the rest are [`Waker::wake`] and [`Activity`].

mod access;
mod activity;
mod body;
mod certificate_files;
mod certificates;
mod challenges;
mod connection;
mod forwarded;
mod front;
mod gather;
mod headers;
mod hold;
mod last_words;
mod linger;
mod listener;
mod messages;
mod pages;
mod proxy_protocol;
mod router;
mod service;
mod stalled;
mod stats;
mod target;
mod tunnel;
mod upstream;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

pub use access::{Access, Fetch, Looked, Secrets, Witness};
pub use activity::{Activity, OpenGuard, Session};
pub use certificate_files::{CertificateFiles, FilesError};
pub use certificates::{Certificate, Certificates};
pub use challenges::{Answer, Challenges, UnderWay};
pub use forwarded::{ToldBy, Trusted};
pub use front::{Entrance, Front};
pub use listener::serve;
pub use stats::Stats;

use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::model::Key;

/// Where the proxy says that an instance is wanted. The controllers implement it.
pub trait Waker: Send + Sync + 'static {
    /// Asks for the instance to be looked at soon: it has fresh activity. Idempotent, returns at once, never fails;
    /// called at most about once a second for each instance, however many requests wait for it.
    fn wake(&self, key: &Key);
}

/// What the proxy works with.
pub struct ProxyState {
    pub cache: Arc<Cache>,
    pub activity: Arc<Activity>,
    pub waker: Arc<dyn Waker>,
    pub clock: SharedClock,
    pub limits: Limits,
    pub front: Front,
    pub stats: Stats,
    /// Who is let through to an instance.
    pub access: Arc<Access>,
    /// What an ACME server is answered that comes by HTTP.
    pub challenges: Arc<Challenges>,
}

/// Bounds of everything that visitors or apps could otherwise make grow.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Visitors' connections at once, tunnels included; more wait in the kernel's queue.
    pub connections: usize,
    /// From a connection's beginning until it is known whose it is, and the same for TLS.
    pub handshake: Duration,
    /// From the first moment a request is waited for until its head is there; also ends idle keep-alive.
    pub header_read: Duration,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Bytes buffered per connection and direction at most.
    pub buffer: usize,
    /// Requests under way over one connection of HTTP/2.
    pub streams_per_connection: u32,
    /// Requests under way over all connections of HTTP/2.
    pub streams_in_all: usize,
    /// How long a request is held for its instance to become ready.
    pub hold: Duration,
    /// The same when its image has to be pulled first: that time does not count otherwise.
    pub hold_pulling: Duration,
    /// How long a browser is held before it is shown a page: most wakes are over by then.
    pub page_after: Duration,
    /// Requests held for one instance.
    pub held_per_instance: usize,
    /// Requests held for all instances.
    pub held_in_all: usize,
    /// One attempt to connect to an app.
    pub connect: Duration,
    /// How long an instance that is said to be ready may refuse connections before its request fails.
    pub retry: Duration,
    /// How long an unused connection to an app is kept.
    pub idle_for: Duration,
    /// Unused connections to one port of one instance.
    pub idle_per_target: usize,
    /// Unused connections to all apps.
    pub idle_in_all: usize,
    /// How long a visitor may take nothing of what is ready for it, or send nothing of a body that its app waits for.
    pub stalled: Duration,
    /// How long one direction of a tunnel may outlast the other; how long what a visitor still sends is thrown away after
    /// an answer that did not wait for it.
    pub linger: Duration,
    /// How long open requests may take to finish on shutdown.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 20_000,
            handshake: Duration::from_secs(10),
            header_read: Duration::from_secs(30),
            header_bytes: 64 * 1024,
            buffer: 256 * 1024,
            streams_per_connection: 128,
            streams_in_all: 20_000,
            hold: Duration::from_secs(60),
            hold_pulling: Duration::from_secs(10 * 60),
            page_after: Duration::from_secs(1),
            held_per_instance: 1_000,
            held_in_all: 10_000,
            connect: Duration::from_secs(2),
            retry: Duration::from_secs(5),
            idle_for: Duration::from_secs(30),
            idle_per_target: 64,
            idle_in_all: 2_048,
            stalled: Duration::from_secs(120),
            linger: Duration::from_secs(30),
            drain: Duration::from_secs(20),
        }
    }
}
