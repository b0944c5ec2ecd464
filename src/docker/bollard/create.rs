//! From our specification to the API's: every field that matters is explicit.

use std::collections::HashMap;

use ::bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount as ApiMount, MountType, PortBinding,
    RestartPolicy, RestartPolicyNameEnum,
};

use super::gpus;
use crate::docker::engine::{ContainerSpec, EngineError, EngineErrorKind, EngineResult, Limits, Mount, NetworkSpec};
use crate::docker::reference;

pub const OP: &str = "create container";

/// The restart policy of everything of ours: we restart, so that a daemon never wakes what was stopped on purpose.
pub fn never_restart() -> RestartPolicy {
    RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }
}

pub fn nano_cpus(limits: Limits) -> i64 {
    limits.cpu_milli.saturating_mul(1_000_000)
}

/// `None` leaves it to the image.
fn given<T>(list: &[T]) -> Option<Vec<T>>
where
    T: Clone,
{
    (!list.is_empty()).then(|| list.to_vec())
}

fn text(given: &str) -> Option<String> {
    (!given.is_empty()).then(|| given.to_owned())
}

/// `source:target[:ro]`: unlike a mount of type bind, this makes a missing directory. It has no way to write a colon.
fn bind(source: &str, target: &str, read_only: bool, name: &str) -> EngineResult<String> {
    if source.contains(':') || target.contains(':') || !source.starts_with('/') || !target.starts_with('/') {
        return Err(EngineError {
            op: OP,
            object: name.to_owned(),
            kind: EngineErrorKind::Invalid,
            message: format!("cannot bind {source:?} to {target:?}: both must be absolute, without a colon"),
        });
    }
    Ok(format!("{source}:{target}{}", if read_only { ":ro" } else { "" }))
}

pub fn body(spec: &ContainerSpec) -> EngineResult<ContainerCreateBody> {
    let (mut binds, mut mounts) = (Vec::new(), Vec::new());
    for mount in &spec.mounts {
        match mount {
            Mount::Bind { source, target, read_only } => binds.push(bind(source, target, *read_only, &spec.name)?),
            Mount::Volume { name, target, read_only } => mounts.push(ApiMount {
                typ: Some(MountType::VOLUME),
                source: Some(name.clone()),
                target: Some(target.clone()),
                read_only: Some(*read_only),
                ..ApiMount::default()
            }),
        }
    }
    let mut ports: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in &spec.ports {
        reference::check_host_ip(OP, &spec.name, &port.host_ip)?;
        let binding = PortBinding { host_ip: Some(port.host_ip.clone()), host_port: Some(port.host_port.to_string()) };
        let bindings = ports.entry(format!("{}/tcp", port.container_port)).or_default();
        bindings.get_or_insert_default().push(binding);
    }
    let exposed = ports.keys().cloned().collect();
    let log_options = [("max-size", "10m"), ("max-file", "3")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let host_config = HostConfig {
        init: Some(true),
        restart_policy: Some(never_restart()),
        log_config: Some(HostConfigLogConfig { typ: Some("json-file".to_owned()), config: Some(log_options.into()) }),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(spec.capabilities.clone()),
        security_opt: spec.no_new_privileges.then(|| vec!["no-new-privileges".to_owned()]),
        privileged: Some(spec.privileged),
        readonly_rootfs: Some(spec.read_only_root),
        memory: Some(spec.limits.memory),
        memory_swap: Some(spec.limits.memory),
        nano_cpus: Some(nano_cpus(spec.limits)),
        pids_limit: Some(spec.limits.pids),
        shm_size: Some(spec.shm_bytes),
        port_bindings: Some(ports),
        publish_all_ports: Some(false),
        binds: Some(binds),
        mounts: Some(mounts),
        network_mode: Some(spec.network.clone()),
        runtime: text(&spec.runtime),
        device_requests: gpus::request(&spec.gpus),
        auto_remove: Some(false),
        ..HostConfig::default()
    };
    Ok(ContainerCreateBody {
        image: Some(reference::image_as_given(&spec.image)),
        labels: Some(spec.labels.clone().into_iter().collect()),
        entrypoint: given(&spec.entrypoint),
        cmd: given(&spec.cmd),
        working_dir: text(&spec.working_dir),
        user: text(&spec.user),
        env: Some(spec.environment()),
        hostname: text(&spec.hostname),
        exposed_ports: Some(exposed),
        // Probes of our own tell whether an app is up; the image's would only flood the events.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        tty: Some(false),
        open_stdin: Some(false),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    })
}

/// The option of a bridge that gives what leaves the host the host's own address; true when it is not said.
pub const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";

/// As JSON: the library has no field for CheckDuplicate, without which older daemons make a second one of the same name.
pub fn network_body(network: &NetworkSpec) -> serde_json::Value {
    let NetworkSpec { name, labels, subnet, closed } = network;
    let mut body = serde_json::json!({
        "Name": name, "CheckDuplicate": true, "Driver": "bridge", "Labels": labels, "EnableIPv6": false,
        // Said either way: a daemon can have a default of its own, and a network that is not as asked for is made anew.
        "Options": {MASQUERADE: (!closed).to_string()},
    });
    if let Some(subnet) = subnet {
        let config = serde_json::json!([{"Subnet": subnet.to_string(), "Gateway": subnet.gateway().to_string()}]);
        body["IPAM"] = serde_json::json!({"Driver": "default", "Config": config});
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::engine::PortMap;

    #[test]
    fn nothing_that_matters_is_left_to_the_daemon() {
        let spec = ContainerSpec {
            name: "pr.default.alice".into(),
            image: "app:1".into(),
            ports: vec![PortMap { container_port: 80, host_ip: "10.0.0.1".into(), host_port: 30000 }],
            mounts: vec![
                Mount::Bind { source: "/srv/a".into(), target: "/home".into(), read_only: true },
                Mount::Volume { name: "pr.default.alice.v".into(), target: "/data".into(), read_only: false },
            ],
            network: "pr.default.alice".into(),
            limits: Limits { memory: 64 << 20, cpu_milli: 250, pids: 9 },
            capabilities: vec!["CHOWN".into()],
            no_new_privileges: true,
            ..ContainerSpec::default()
        };
        let made = serde_json::to_value(body(&spec).unwrap()).unwrap();
        let host = &made["HostConfig"];
        for (pointer, value) in [
            ("/Init", serde_json::json!(true)),
            ("/RestartPolicy/Name", "no".into()),
            ("/LogConfig/Type", "json-file".into()),
            ("/CapDrop", serde_json::json!(["ALL"])),
            ("/CapAdd", serde_json::json!(["CHOWN"])),
            ("/SecurityOpt", serde_json::json!(["no-new-privileges"])),
            ("/Memory", (64 << 20).into()),
            ("/MemorySwap", (64 << 20).into()),
            ("/NanoCpus", 250_000_000.into()),
            ("/PidsLimit", 9.into()),
            ("/Binds", serde_json::json!(["/srv/a:/home:ro"])),
            ("/Mounts/0/Type", "volume".into()),
            ("/Mounts/0/Source", "pr.default.alice.v".into()),
            ("/NetworkMode", "pr.default.alice".into()),
            ("/PortBindings/80~1tcp/0/HostIp", "10.0.0.1".into()),
            ("/PortBindings/80~1tcp/0/HostPort", "30000".into()),
        ] {
            assert_eq!(host.pointer(pointer), Some(&value), "{pointer} in {host:#}");
        }
        assert_eq!(made["Healthcheck"]["Test"], serde_json::json!(["NONE"]));
        assert!(made.get("Cmd").is_none() && made.get("Entrypoint").is_none(), "the image's own");
        for anywhere in ["", "worker-1.example.com", "[fd00::3]"] {
            let ports = vec![PortMap { host_ip: anywhere.into(), ..spec.ports[0].clone() }];
            let refused = body(&ContainerSpec { ports, ..spec.clone() }).unwrap_err();
            assert_eq!(refused.kind, EngineErrorKind::Invalid, "{anywhere:?} would publish on every interface");
        }
        assert!(bind("/a:b", "/c", false, "x").is_err() && bind("a", "/c", false, "x").is_err());
    }
}
