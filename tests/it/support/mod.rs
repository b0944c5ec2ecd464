//! What several tests share.

pub mod engine_conformance;
pub mod sim_engine;
