//! Tests against real Docker daemons. `cargo xtask test` brings the daemons up and runs them; a plain `cargo test`
//! leaves them out, because they need root.

mod converge;
mod engine;
mod sleep;
