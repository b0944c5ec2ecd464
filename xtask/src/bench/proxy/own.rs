//! A control plane of a part's own, over a simulated daemon of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{APP, DOMAIN, IMAGE, PATIENCE, Tools};
use crate::bench::api::Load;
use crate::bench::fleet::sim::Sim;
use crate::bench::fleet::{self, Look};
use crate::clock;
use crate::demo::server::Server;

/// Clients that create instances.
const CLIENTS: usize = 16;

pub struct Own {
    pub server: Server,
    pub sim: Sim,
    pub pid: i32,
    pub dir: PathBuf,
}

impl Own {
    /// In a directory of this name.
    pub fn start(tools: &Tools, name: &str) -> Result<Own> {
        let dir = tools.dir.join(name);
        let sockets = dir.join("hosts");
        fs::create_dir_all(&sockets)?;
        let sim = Sim::start(&tools.sim, &sockets, 1, IMAGE, false, false)?;
        let at = (dir.join("data"), dir.join("serve.log"));
        let server = Server::start_at(&tools.portreeve, at, None, DOMAIN, &[])?;
        let pid = server.identity().context("the server has ended")?.pid;
        let mut own = Own { server, sim, pid, dir };
        own.server.ready()?;
        Ok(own)
    }

    /// Creates many instances, of which so many are to run, and waits until nothing is left to do.
    pub fn create(&self, load: &Path, instances: &[Value], running: u64) -> Result<Look> {
        let job = json!({"kubeconfig": self.server.kubeconfig, "portreeve_pid": self.pid, "dir": self.dir});
        let load = Load { program: load.to_owned(), job };
        let lines = instances.iter().map(|object| format!("{object}\n")).collect::<String>();
        let paths = [
            ("hosts.jsonl", fleet::docker_hosts(&self.sim)?, "/apis/portreeve.dev/v1/dockerhosts"),
            ("instances.jsonl", lines, "/apis/portreeve.dev/v1/namespaces/default/instances"),
        ];
        for (file, lines, path) in paths {
            fs::write(self.dir.join(file), lines)?;
            load.ask(&json!({"post": {"path": path, "file": file, "clients": CLIENTS}}))?;
        }
        fleet::until(&load, self.pid, PATIENCE * 5, "the instances", |look| (look.running, running))?;
        fleet::settled(&load, self.pid, &self.sim)?;
        fleet::look(&load, self.pid)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // Its files go with the run's directory.
        if let Some(process) = self.server.identity() {
            let _ = process.kill();
        }
    }
}

/// An instance that runs if it is given an app, whose port becomes its own.
pub fn instance(name: &str, app: Option<SocketAddr>, routes: &Value) -> Value {
    let mut port = json!({"name": "http", "containerPort": 8080});
    if let Some(app) = app {
        port["hostPort"] = app.port().into();
    }
    json!({
        "apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": {"name": name},
        "spec": {
            "owner": name, "power": if app.is_some() { "Running" } else { "Stopped" }, "image": IMAGE,
            "ports": [port], "resources": {"memory": "32Mi", "cpu": "50m"}, "routes": routes,
        },
    })
}

/// Applies the simulated host and these objects, and waits until each instance of them is ready.
pub fn apply(server: &Server, sim: &Sim, dir: &Path, objects: &[Value]) -> Result<()> {
    let host = sim.hosts()?.into_iter().next().context("no simulated host")?;
    if host["address"].as_str() != Some(&APP.to_string()) {
        anyhow::bail!("the simulated host is at {}, not where the app is", host["address"]);
    }
    let mut manifest = fleet::docker_hosts(sim)?;
    for object in objects {
        manifest.push_str(&format!("---\n{object}\n"));
    }
    let file = dir.join("objects.yaml");
    fs::write(&file, manifest)?;
    server.cli(&["apply", "-f", file.to_str().context("the manifest's path is not UTF-8")?])?;
    let instances = objects.iter().filter(|object| object["kind"] == "Instance").count();
    clock::wait_unless_interrupted("the instances", PATIENCE, || {
        let seen = server.instances().map_err(|e| format!("{e:#}"))?;
        if seen.iter().filter(|i| i.ready).count() == instances { Ok(()) } else { Err(format!("{seen:?}")) }
    })
}
