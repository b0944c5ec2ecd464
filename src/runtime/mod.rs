//! The reconcile runtime: a delaying, deduplicating queue and a runner. Knows no kinds; generic over the key.
//!
//! ```text
//! any trigger ──add(key)──▶ Queue ──next()──▶ Runner ──reconcile(key)──▶ Done | Recheck(delay) | Retry | Terminal
//!                             ▲──────────────── add_after(key, delay) ──────────┘
//! ```
//!
//! Level-triggered: a key says only *look at this*; never what happened. Invariants: one reconcile per key at a time;
//! a key added while it is reconciled is reconciled again afterwards; a panic costs only its own key a back-off.

mod backoff;
mod lanes;
mod outcome;
mod queue;
mod runner;

pub use backoff::Backoff;
pub use lanes::Lanes;
pub use outcome::{Error, Outcome};
pub use queue::Queue;
pub use runner::{Runner, RunnerStats};
