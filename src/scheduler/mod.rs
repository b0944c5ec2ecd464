//! Which host an instance goes to, and why: pure functions over a snapshot.
//!
//! The least loaded host that no filter refuses; each filter can say why it does. What a host carries is derived from the
//! statuses of the instances bound to it: there is no second table that could leak.
//!
//! ```text
//! instances, hosts, as they change ──▶ Fleet ──▶ place(instance) ──▶ Placement | Unplaced (why, host by host counted)
//! ```

mod filter;
#[cfg(test)]
mod laws;
mod load;
mod order;
mod place;
mod room;

pub use filter::Refusal;
pub use load::{Fleet, HostLoad, Load, allocated};
pub use place::{PlacedPort, Placement, Unplaced, place, place_at, place_elsewhere};
pub use room::{Amount, Idler, Room, free, room};
