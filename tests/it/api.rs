//! The API as a client sees it: real TLS, real HTTP, the memory store.

mod access;
mod apply;
mod compress;
mod configmaps;
mod discovery;
mod errors;
mod events;
mod host_ways;
mod namespaces;
mod nodes;
mod policy;
mod protobuf;
mod published;
mod reach;
mod records;
mod schema;
mod secrets;
mod strangers;
mod tokens;
mod tools;
mod writes;

pub use reach::{Scripted, uses};
