//! Tests against real Docker daemons. `cargo xtask test` brings the daemons up and runs them; a plain `cargo test`
//! leaves them out, because they need root.
//!
//! [`engine`] tests one room; the others test the whole program from outside, as users and their browsers see it.

mod access;
mod adopt;
mod browser;
mod certs;
mod control_plane;
mod converge;
mod daemon;
mod engine;
mod failures;
mod far;
mod freeze;
mod gpus;
mod http;
mod kubectl;
mod loss;
mod network;
mod probes;
mod reach;
mod registry;
mod relay;
mod sleep;
mod ssh;
mod top;
mod wakeful;
mod wire;
