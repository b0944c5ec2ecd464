//! The integration tests: one binary, so that there is one link step. None of these needs a Docker daemon.

mod api;
mod arrows;
mod cli;
mod crash;
mod docker;
mod docker_wire;
mod engine_server;
mod examples;
mod garbage;
mod images;
mod kube_rs;
mod kubectl;
mod metrics;
mod namespaces;
mod plan;
mod proxy;
mod scale;
mod sim;
mod store;
mod support;
mod values;
mod watch;
