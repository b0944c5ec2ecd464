//! What several tests share.

pub mod daemon;
pub mod engine_conformance;
pub mod sim_engine;
