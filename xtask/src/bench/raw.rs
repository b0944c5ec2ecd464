//! What the daemon alone takes for a wake or for an instance: its container once more, without us.
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
use crate::docker::Object;
use crate::{clock, sys};

/// Outside the range of the instances.
pub const FIRST_PORT: u16 = 40_001;
/// Between one try and the next.
const POLL: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// A container that is started by hand.
pub struct Raw<'a> {
    engine: &'a Engine,
    name: String,
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

/// What twins of a container are made from.
pub struct Shape {
    network: Value,
    /// As the daemon tells it.
    container: Value,
}

impl Shape {
    pub fn of(engine: &Engine, container: &str) -> Result<Shape> {
        let docker = &engine.docker;
        let container = docker.call("GET", &format!("/v1.41/containers/{container}/json"), None)?;
        let theirs = container["HostConfig"]["NetworkMode"].as_str().context("the container has no network")?;
        let network = docker.call("GET", &format!("/v1.41/networks/{theirs}"), None)?;
        Ok(Shape { network, container })
    }
}

impl<'a> Raw<'a> {
    /// Makes a stopped twin, and a network of the same name for it.
    pub fn twin(engine: &'a Engine, shape: &Shape, name: &str, port: u16) -> Result<Raw<'a>> {
        let docker = &engine.docker;
        let body = json!({
            "Name": name,
            "Driver": shape.network["Driver"],
            "Options": shape.network["Options"],
            "Internal": shape.network["Internal"],
            "EnableIPv6": shape.network["EnableIPv6"],
        });
        docker.call("POST", "/v1.41/networks/create", Some(&body))?;
        let body = container(&shape.container, name, port)?;
        let made = docker.call("POST", &format!("/v1.41/containers/create?name={name}"), Some(&body))?;
        let id = made["Id"].as_str().context("the new container has no id")?.to_owned();
        let address = SocketAddr::new(engine.address.parse().context("the daemon's address")?, port);
        Ok(Raw { engine, name: name.to_owned(), id, address })
    }

    /// Takes it and its network away.
    pub fn remove(self) -> Result<()> {
        self.engine.docker.remove(Object::Container, &self.id)?;
        self.engine.docker.remove(Object::Network, &self.name)
    }

    /// Starts it and asks until it answers.
    pub fn start(&self) -> Result<Start> {
        self.begin("start")
    }

    fn begin(&self, verb: &str) -> Result<Start> {
        let start = clock::now();
        self.engine.docker.call("POST", &format!("/v1.41/containers/{}/{verb}", self.id), None)?;
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

    /// Lets it go on after [`Raw::pause`], and asks until it answers.
    pub fn unpause(&self) -> Result<Start> {
        self.begin("unpause")
    }

    pub fn pause(&self) -> Result<()> {
        self.engine.docker.call("POST", &format!("/v1.41/containers/{}/pause", self.id), None).map(drop)
    }

    /// Stops it, as an instance falls asleep.
    pub fn stop(&self) -> Result<()> {
        self.engine.docker.call("POST", &format!("/v1.41/containers/{}/stop?t=10", self.id), None).map(drop)
    }
}

/// What to create, from what the daemon says about another one.
fn container(seen: &Value, name: &str, port: u16) -> Result<Value> {
    let mut body = seen["Config"].clone();
    let mut host = seen["HostConfig"].clone();
    let ports = host["PortBindings"].as_object_mut().context("the container publishes nothing")?;
    if ports.len() != 1 {
        bail!("the container publishes {} ports, not one", ports.len());
    }
    for bindings in ports.values_mut() {
        bindings[0]["HostPort"] = port.to_string().into();
    }
    host["NetworkMode"] = name.into();
    // ours are for our controller
    body["Labels"] = json!({});
    body["HostConfig"] = host;
    Ok(body)
}

/// Whether a container is frozen, as the daemon says.
pub fn paused(engine: &Engine, id: &str) -> Result<bool> {
    let seen = engine.docker.call("GET", &format!("/v1.41/containers/{id}/json"), None)?;
    seen["State"]["Paused"].as_bool().context("the daemon does not say whether the container is paused")
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
        let made = container(&seen, "twin", 40_001).unwrap();
        assert_eq!(
            made,
            json!({"Image": "app:1", "Env": ["A=1"], "Labels": {},
                "HostConfig": {"Memory": 64, "NanoCpus": 5, "Init": true, "NetworkMode": "twin",
                    "PortBindings": {"8080/tcp": [{"HostIp": "10.0.0.1", "HostPort": "40001"}]}}})
        );
        assert!(container(&json!({"Config": {}, "HostConfig": {"PortBindings": {}}}), "twin", 1).is_err());
        assert!(container(&json!({}), "twin", 1).is_err());
    }
}
