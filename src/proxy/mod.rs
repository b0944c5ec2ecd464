//! User traffic: finds the instance that a request is for, wakes it when it sleeps, and streams both ways.
//!
//! ```text
//! listener ▶ service ▶ router ▶ target ──Ready──▶ upstream ▶ response body, or tunnel after an upgrade
//!                                  └────Wake───▶ hold ▶ target …
//! ```
//!
//! Reads the cache; its only outputs to the rest are [`Waker::wake`] and [`Activity`].

mod activity;
pub mod headers;
pub mod pages;
pub mod router;
pub mod target;

pub use activity::{Activity, OpenGuard};

use crate::model::Key;

/// Where the proxy says that an instance is wanted. The controllers implement it.
pub trait Waker: Send + Sync + 'static {
    /// Asks for the instance to be looked at soon: it has fresh activity. Idempotent, returns at once, never fails;
    /// called at most about once a second for each instance, however many requests wait for it.
    fn wake(&self, key: &Key);
}
