//! What the daemon alone takes for a wake: the container of an instance once more, without us.
//!
//! It is asked for only once the daemon has answered the start, so it is no strict bound: who asks earlier can be
//! answered a little earlier.
//!
//! It has the same image, configuration, limits and kind of network; only the names and the host port differ. What
//! creates it copies what the daemon says about the instance's own, so that the two cannot drift apart.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::first_byte;
use crate::demo::engine::Engine;
use crate::{clock, sys};

const NAME: &str = "bench-raw";
/// Outside the range of the instances.
const PORT: u16 = 40_001;
/// Between one try and the next.
const POLL: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// A container that is started by hand.
pub struct Raw<'a> {
    engine: &'a Engine,
    id: String,
    address: SocketAddr,
}

/// One start.
pub struct Start {
    /// Until the daemon had answered.
    pub call: Duration,
    /// Until the first byte of a good answer of the app.
    pub total: Duration,
}

impl<'a> Raw<'a> {
    /// Makes a stopped twin of a container.
    pub fn twin(engine: &'a Engine, of: &str) -> Result<Raw<'a>> {
        let docker = &engine.docker;
        let seen = docker.call("GET", &format!("/v1.41/containers/{of}/json"), None)?;
        let theirs = seen["HostConfig"]["NetworkMode"].as_str().context("the container has no network")?;
        let network = docker.call("GET", &format!("/v1.41/networks/{theirs}"), None)?;
        let body = json!({
            "Name": NAME,
            "Driver": network["Driver"],
            "Options": network["Options"],
            "Internal": network["Internal"],
            "EnableIPv6": network["EnableIPv6"],
        });
        docker.call("POST", "/v1.41/networks/create", Some(&body))?;
        let body = container(&seen)?;
        let made = docker.call("POST", &format!("/v1.41/containers/create?name={NAME}"), Some(&body))?;
        let id = made["Id"].as_str().context("the new container has no id")?.to_owned();
        let address = SocketAddr::new(engine.address.parse().context("the daemon's address")?, PORT);
        Ok(Raw { engine, id, address })
    }

    /// Starts it and asks until it answers.
    pub fn start(&self) -> Result<Start> {
        let start = clock::now();
        self.engine.docker.call("POST", &format!("/v1.41/containers/{}/start", self.id), None)?;
        let call = start.elapsed();
        loop {
            // refused until the app listens; a connection that hangs is not waited for
            let host = self.address.to_string();
            let asked =
                first_byte::get(self.address, &host, "/health", Duration::from_millis(50), Duration::from_secs(1));
            match asked {
                Ok(at) => return Ok(Start { call, total: at.duration_since(start) }),
                Err(error) if start.elapsed() > PATIENCE => return Err(error.context("the raw container")),
                Err(_) if sys::interrupted() => bail!("interrupted"),
                Err(_) => thread::sleep(POLL),
            }
        }
    }

    /// Stops it, as an instance falls asleep.
    pub fn stop(&self) -> Result<()> {
        self.engine.docker.call("POST", &format!("/v1.41/containers/{}/stop?t=10", self.id), None).map(drop)
    }
}

/// What to create, from what the daemon says about another one.
fn container(seen: &Value) -> Result<Value> {
    let mut body = seen["Config"].clone();
    let mut host = seen["HostConfig"].clone();
    let ports = host["PortBindings"].as_object_mut().context("the container publishes nothing")?;
    if ports.len() != 1 {
        bail!("the container publishes {} ports, not one", ports.len());
    }
    for bindings in ports.values_mut() {
        bindings[0]["HostPort"] = PORT.to_string().into();
    }
    host["NetworkMode"] = NAME.into();
    // ours are for our controller
    body["Labels"] = json!({});
    body["HostConfig"] = host;
    Ok(body)
}

/// Whether a container runs, as the daemon says.
pub fn running(engine: &Engine, id: &str) -> Result<bool> {
    let seen = engine.docker.call("GET", &format!("/v1.41/containers/{id}/json"), None)?;
    seen["State"]["Running"].as_bool().context("the daemon does not say whether the container runs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_differs_in_names_and_port_only() {
        let seen = json!({
            "Config": {"Image": "app:1", "Env": ["A=1"], "Labels": {"portreeve.dev/uid": "1"}},
            "HostConfig": {"Memory": 64, "NanoCpus": 5, "Init": true, "NetworkMode": "pr.default.x",
                "PortBindings": {"8080/tcp": [{"HostIp": "10.0.0.1", "HostPort": "30000"}]}},
        });
        let made = container(&seen).unwrap();
        assert_eq!(
            made,
            json!({"Image": "app:1", "Env": ["A=1"], "Labels": {},
                "HostConfig": {"Memory": 64, "NanoCpus": 5, "Init": true, "NetworkMode": NAME,
                    "PortBindings": {"8080/tcp": [{"HostIp": "10.0.0.1", "HostPort": "40001"}]}}})
        );
        assert!(container(&json!({"Config": {}, "HostConfig": {"PortBindings": {}}})).is_err());
        assert!(container(&json!({})).is_err());
    }
}
