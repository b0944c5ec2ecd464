//! What a fleet looks like now.

use serde_json::{Value, json};

use super::registry;
use super::state::{Fleet, Host};
use crate::docker::Docker;
use crate::sys;

/// `off`, `dead`, `paused`, `silent` or `up`.
fn state(host: &Host) -> &'static str {
    let pids = host.find_pids();
    match (pids.init, pids.dockerd) {
        (None, _) => "off",
        (Some(_), None) => "dead",
        (Some(_), Some(pid)) if sys::stat(pid).is_some_and(|s| s.stopped) => "paused",
        (Some(_), Some(_)) if Docker::at(&host.socket).ping().is_err() => "silent",
        (Some(_), Some(_)) => "up",
    }
}

fn registry_state(fleet: &Fleet) -> &'static str {
    if registry::running(&fleet.dir).is_some() { "up" } else { "off" }
}

pub fn json(fleet: &Fleet) -> Value {
    let hosts: Vec<Value> = fleet
        .hosts
        .iter()
        .map(|h| {
            json!({
                "name": h.name, "state": state(h), "address": h.address, "socket": h.socket,
                "endpoint": h.endpoint, "tcp": h.tcp, "disk": h.disk, "pids": h.find_pids(),
            })
        })
        .collect();
    json!({
        "name": fleet.name, "subnet": format!("{}.0/24", fleet.subnet), "gateway": fleet.gateway,
        "registry": fleet.registry.as_ref().map(|address| {
            let process = registry::running(&fleet.dir);
            json!({"address": address, "state": registry_state(fleet), "pid": process.map(|p| p.pid)})
        }),
        "file": fleet.path(), "certs": fleet.certs, "hosts": hosts,
    })
}

pub fn print(fleet: &Fleet) {
    println!("{:<6} {:<8} {:<14} ENDPOINT", "HOST", "STATE", "ADDRESS");
    for host in &fleet.hosts {
        println!("{:<6} {:<8} {:<14} {}", host.name, state(host), host.address, host.endpoint);
    }
    if let Some(address) = &fleet.registry {
        println!("\nregistry {address}: {}", registry_state(fleet));
    }
}
