//! The Kubernetes-convention API over HTTPS: an unmodified kubectl works against it.
//!
//! ```text
//! client ──TLS──▶ server ──▶ handler: authenticate ▶ parse path ▶ authorize ▶ records ──txn──▶ store
//!                                                                     watch ◀──────── changes ──┘
//! ```
//!
//! Called by `serve`, which hands over an [`ApiState`]. Objects pass through as JSON values, as users wrote them; the
//! typed model is used to check them, never to rewrite them. Every answer that is an error is a `Status`, made in
//! `error` alone. Nothing is answered to anyone without credentials but the health checks.

mod access;
mod admit;
mod apply;
pub mod attach;
mod body;
mod columns;
mod compress;
mod connections;
mod create;
mod cross;
mod cut;
mod delete;
mod delivery;
mod discovery;
mod drain;
mod error;
mod exposition;
mod feed;
mod handler;
mod host_containers;
mod items;
mod list;
mod logs;
mod metrics;
mod namespaces;
mod negotiate;
mod object;
mod openapi;
mod patch;
mod protobuf;
mod query;
mod registry;
mod reply;
mod scale;
mod selector;
mod server;
mod strategic;
mod streams;
mod table;
mod target;
mod tls_stream;
mod update;
mod views;
mod watch;
mod why;

use std::sync::Arc;

pub use access::{AuditLog, Authenticator, CredentialError, Credentials, OwnCertificate, Serving, User};
pub use attach::{Attach, AttachError};
pub use error::ApiError;
pub use exposition::{Exposition, Stats};
pub use host_containers::{HostContainers, HostSilent};
pub use metrics::{LiveUse, NoUse, Use};
pub use server::{ServeError, serve};
pub use views::eviction::Destinations;
pub use why::Explains;

use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::store::{SharedStore, unopened};

/// What the API works with; made by `serve` and handed to [`server::serve`].
#[derive(Clone)]
pub struct ApiState {
    pub store: SharedStore,
    /// The same with Secrets as they are stored, sealed. What is deleted is read here: a Secret whose seal does not open
    /// must not stay for ever, and its namespace with it.
    pub sealed: SharedStore,
    pub cache: Arc<Cache>,
    pub clock: SharedClock,
    pub auth: Authenticator,
    /// What each client takes at a time.
    pub limits: Arc<access::Limits>,
    /// Where it is written down who did what.
    pub audit: AuditLog,
    /// The TLS side of [`Credentials`].
    pub tls: Arc<rustls::ServerConfig>,
    /// Logs, exec, attach and connections.
    pub attach: Arc<dyn Attach>,
    /// What runs uses now.
    pub live: Arc<dyn LiveUse>,
    /// What runs on hosts and is nobody's.
    pub containers: Arc<dyn HostContainers>,
    /// Why Instances are as they are.
    pub explains: Arc<dyn Explains>,
    /// Where instances can go.
    pub destinations: Arc<dyn Destinations>,
    /// What `/metrics` shows.
    pub exposition: Arc<dyn Exposition>,
    pub stats: Stats,
    /// The domain under which instances are routed.
    pub domain: Arc<str>,
    /// How long the reader of an answer may take nothing.
    pub patience: std::time::Duration,
}

impl ApiState {
    pub fn new(
        store: SharedStore,
        cache: Arc<Cache>,
        clock: SharedClock,
        credentials: &Credentials,
        attach: Arc<dyn Attach>,
        domain: &str,
    ) -> ApiState {
        ApiState {
            sealed: unopened(&store),
            store,
            cache,
            clock,
            auth: credentials.auth.clone(),
            limits: Arc::default(),
            audit: AuditLog::default(),
            tls: credentials.server_config.clone(),
            attach,
            live: metrics::nobody(),
            containers: host_containers::nowhere(),
            explains: why::silent(),
            destinations: Arc::new(views::eviction::Anywhere),
            exposition: Arc::new(exposition::Nothing),
            stats: Stats::default(),
            domain: domain.into(),
            patience: cut::PATIENCE,
        }
    }
}
