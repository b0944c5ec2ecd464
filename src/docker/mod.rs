//! Docker: one client per daemon, behind the seam of [`engine`].
//!
//! ```text
//! controllers ──▶ Engines::engine(host) ──▶ dyn Engine ──▶ bollard over our transport ──▶ daemon
//! ```
//!
//! Everything else sees a daemon only through [`engine::Engine`], and gets it only from an [`Engines`]: in the
//! server the pool of real clients, in simulations a fleet of simulated daemons.

pub mod adoption;
mod bollard;
mod breaker;
mod classify;
mod credentials;
mod endpoint;
pub mod engine;
mod gate;
mod identity;
pub mod inventory;
pub mod labels;
pub mod login;
mod pool;
pub mod reference;
mod ssh;
mod streams;
pub mod timeouts;
mod tls;
mod transport;
pub mod turns;
pub mod usage;

use std::sync::Arc;

use self::engine::{Engine, EngineResult};
use crate::model::DockerHost;

pub use self::credentials::SecretSource;
pub use self::pool::Pool;

/// The daemons of a fleet.
pub trait Engines: Send + Sync {
    /// The client of this host's daemon: cheap, connects to nothing. `Invalid` when the host's endpoint or
    /// credentials cannot be used.
    fn engine(&self, host: &DockerHost) -> EngineResult<Arc<dyn Engine>>;

    /// Lets go of what is kept for a host that is gone from the records. Calls under way end as they would have.
    fn forget(&self, host_name: &str);
}
