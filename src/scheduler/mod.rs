//! Which host an instance goes to, and why: pure functions over a snapshot.
//!
//! Filters first, each of which can say why it refuses; then the least loaded of the hosts that are left. What a host
//! carries is derived from the statuses of the instances bound to it: there is no second table that could leak.
//!
//! ```text
//! instances, hosts ──▶ Fleet::new ──▶ place(instance) ──▶ Placement | Unplaced (why, host by host counted)
//! ```

mod filter;
mod load;
mod place;

pub use filter::Refusal;
pub use load::{Fleet, HostLoad, allocated};
pub use place::{PlacedPort, Placement, Unplaced, place};
