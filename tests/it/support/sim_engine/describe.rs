//! How a simulated daemon describes a container in full, as far as it knows of such things.

use portreeve::docker::adoption::Description;
use portreeve::docker::engine::{ContainerInfo, Mount, RunState};
use serde_json::{Map, Value, json};

use super::SimEngine;
use super::read::described;
use super::world::SimContainer;

impl SimEngine {
    /// A container by its id or name, as it is now: for assertions.
    pub fn seen(&self, container: &str) -> Option<ContainerInfo> {
        self.world().find(container).map(described)
    }

    /// The volumes that a container was made with.
    pub fn volumes_of(&self, container: &str) -> Vec<String> {
        let world = self.world();
        let mounts = world.find(container).map(|c| c.spec.mounts.clone()).unwrap_or_default();
        let named = mounts.into_iter().filter_map(|mount| match mount {
            Mount::Volume { name, .. } => Some(name),
            Mount::Bind { .. } => None,
        });
        named.collect()
    }
}

/// As a daemon words it.
pub fn state(state: RunState) -> &'static str {
    match state {
        RunState::Created => "created",
        RunState::Running => "running",
        RunState::Paused => "paused",
        RunState::Restarting => "restarting",
        RunState::Removing => "removing",
        RunState::Exited => "exited",
        RunState::Dead => "dead",
    }
}

pub fn told(c: &SimContainer) -> Description {
    let spec = &c.spec;
    let status = state(c.state);
    let mut ports = Map::new();
    for port in &spec.ports {
        let bindings = ports.entry(format!("{}/tcp", port.container_port)).or_insert_with(|| json!([]));
        let binding = json!({"HostIp": port.host_ip, "HostPort": port.host_port.to_string()});
        bindings.as_array_mut().expect("made above").push(binding);
    }
    let mounts = spec.mounts.iter().map(|mount| match mount {
        Mount::Bind { source, target, read_only } => {
            json!({"Type": "bind", "Source": source, "Destination": target, "Mode": "", "RW": !read_only, "Propagation": "rprivate"})
        }
        Mount::Volume { name, target, read_only } => {
            json!({"Type": "volume", "Name": name, "Destination": target, "Mode": "z", "RW": !read_only, "Propagation": ""})
        }
    });
    let networks: Map<String, Value> = c.endpoints.keys().map(|name| (name.clone(), json!({}))).collect();
    let security: &[&str] = if spec.no_new_privileges { &["no-new-privileges"] } else { &[] };
    let container = json!({
        "Id": c.id, "Name": format!("/{}", c.name), "Image": c.image_id, "State": {"Status": status},
        "HostConfig": {
            "NetworkMode": spec.network, "PortBindings": ports, "RestartPolicy": {"Name": c.restart_policy},
            "CapDrop": ["ALL"], "CapAdd": spec.capabilities, "SecurityOpt": security, "Privileged": spec.privileged,
            "ReadonlyRootfs": spec.read_only_root, "ShmSize": spec.shm_bytes, "Runtime": spec.runtime,
            "Memory": c.limits.memory, "NanoCpus": c.limits.cpu_milli * 1_000_000, "PidsLimit": c.limits.pids,
        },
        "Mounts": mounts.collect::<Vec<_>>(),
        "Config": {
            "Hostname": spec.hostname, "Image": spec.image, "Env": spec.environment(), "Cmd": spec.cmd,
            "Entrypoint": spec.entrypoint, "WorkingDir": spec.working_dir, "User": spec.user, "Labels": spec.labels,
        },
        "NetworkSettings": {"Networks": networks},
    });
    Description { container, image: Some(json!({"Config": {}})) }
}
