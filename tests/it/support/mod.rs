//! What several tests share.

pub mod api_server;
pub mod client;
pub mod daemon;
pub mod engine_conformance;
pub mod faulty_store;
pub mod sim_engine;
pub mod world;
