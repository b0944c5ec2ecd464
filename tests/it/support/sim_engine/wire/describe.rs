//! How a daemon describes what it has: JSON as it was recorded on Docker 20.10.24, with the world's values in it.

use std::sync::LazyLock;

use jiff::Timestamp;
use portreeve::docker::engine::{ContainerStats, Mount, PortMap, RunState};
use serde_json::{Map, Value, json};

use super::super::SimEngine;
use super::super::describe::state;
use super::super::world::{SimContainer, SimNetwork, World};

fn recorded(text: &str) -> Value {
    serde_json::from_str(text).expect("recorded JSON")
}

pub static VERSION: LazyLock<Value> = LazyLock::new(|| recorded(include_str!("recorded/version.json")));
static INFO: LazyLock<Value> = LazyLock::new(|| recorded(include_str!("recorded/info.json")));
static INSPECT: LazyLock<Value> = LazyLock::new(|| recorded(include_str!("recorded/inspect.json")));

/// In nanoseconds; the year 1 is never.
fn time(at: Option<Timestamp>) -> Value {
    at.map_or_else(|| "0001-01-01T00:00:00Z".into(), |at| format!("{at:.9}").into())
}

fn protocol(port: u16) -> String {
    format!("{port}/tcp")
}

/// By container port, as configured.
fn bindings(ports: &[PortMap]) -> Value {
    let mut all = Map::new();
    for port in ports {
        let binding = json!({"HostIp": port.host_ip, "HostPort": port.host_port.to_string()});
        match all.entry(protocol(port.container_port)).or_insert_with(|| json!([])) {
            Value::Array(list) => list.push(binding),
            _ => unreachable!("made above"),
        }
    }
    Value::Object(all)
}

/// The endpoints of a container; addresses only while it runs. Aliases are left out of listings.
fn networks(world: &World, c: &SimContainer, aliases: Option<[&str; 1]>) -> Value {
    let endpoint = |name: &String, id: &String| {
        let network = world.networks.get(name).filter(|n| n.id == *id && c.alive());
        let gateway = network.map(|n| n.subnet.gateway().to_string()).unwrap_or_default();
        let address = gateway
            .rsplit_once('.')
            .map(|(head, last)| format!("{head}.{}", last.parse::<u8>().unwrap_or_default().wrapping_add(1)));
        let prefix = network.and_then(|n| n.subnet.to_string().split_once('/')?.1.parse::<u8>().ok());
        json!({
            "IPAMConfig": null, "Links": null, "Aliases": aliases, "NetworkID": id,
            "EndpointID": if network.is_some() { c.id.chars().rev().collect() } else { String::new() },
            "Gateway": gateway, "IPAddress": address.unwrap_or_default(), "IPPrefixLen": prefix.unwrap_or_default(),
            "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
            "MacAddress": if network.is_some() { "02:42:0a:d5:00:02" } else { "" }, "DriverOpts": null,
        })
    };
    Value::Object(c.endpoints.iter().map(|(name, id)| (name.clone(), endpoint(name, id))).collect())
}

fn mount(given: &Mount) -> Value {
    match given {
        Mount::Bind { source, target, read_only } => json!({
            "Type": "bind", "Source": source, "Destination": target, "Mode": if *read_only { "ro" } else { "" },
            "RW": !read_only, "Propagation": "rprivate",
        }),
        Mount::Volume { name, target, read_only } => json!({
            "Type": "volume", "Name": name, "Source": format!("/var/lib/docker/volumes/{name}/_data"),
            "Destination": target, "Driver": "local", "Mode": "z", "RW": !read_only, "Propagation": "",
        }),
    }
}

fn put(value: &mut Value, fields: Value) {
    if let (Value::Object(to), Value::Object(from)) = (value, fields) {
        to.extend(from);
    }
}

/// `GET /containers/{}/json`
pub fn container(world: &World, c: &SimContainer) -> Value {
    let (id, spec) = (&c.id, &c.spec);
    let process: Vec<&String> = spec.entrypoint.iter().chain(&spec.cmd).collect();
    let home = format!("/var/lib/docker/containers/{id}");
    let mut told = INSPECT.clone();
    put(
        &mut told,
        json!({
            "Id": id, "Created": time(Some(c.created_at)), "Image": c.image_id, "Name": format!("/{}", c.name),
            "Path": process.first().map_or("/app", |p| p.as_str()), "Args": process.get(1..).unwrap_or_default(),
            "ResolvConfPath": format!("{home}/resolv.conf"), "HostnamePath": format!("{home}/hostname"),
            "HostsPath": format!("{home}/hosts"), "LogPath": format!("{home}/{id}-json.log"),
            "Mounts": spec.mounts.iter().map(mount).collect::<Vec<_>>(),
        }),
    );
    put(
        &mut told["State"],
        json!({
            "Status": state(c.state), "Running": c.alive(), "Paused": c.state == RunState::Paused,
            "OOMKilled": c.oom_killed, "Dead": c.state == RunState::Dead, "Pid": if c.alive() { 4242 } else { 0 },
            "ExitCode": c.exit_code, "Error": c.error, "StartedAt": time(c.started_at),
            "FinishedAt": time(c.finished_at),
        }),
    );
    let text = |m: &Mount| match m {
        Mount::Bind { source, target, read_only } => {
            Some(format!("{source}:{target}{}", if *read_only { ":ro" } else { "" }))
        }
        Mount::Volume { .. } => None,
    };
    let volume = |m: &Mount| match m {
        Mount::Volume { name, target, read_only } => {
            let mut given = json!({"Type": "volume", "Source": name, "Target": target});
            if *read_only {
                given["ReadOnly"] = true.into();
            }
            Some(given)
        }
        Mount::Bind { .. } => None,
    };
    let restart = json!({"Name": c.restart_policy, "MaximumRetryCount": 0});
    put(
        &mut told["HostConfig"],
        json!({
            "Binds": spec.mounts.iter().filter_map(text).collect::<Vec<_>>(), "NetworkMode": spec.network,
            "PortBindings": bindings(&spec.ports), "RestartPolicy": restart, "CapAdd": spec.capabilities,
            "Privileged": spec.privileged, "ReadonlyRootfs": spec.read_only_root, "ShmSize": spec.shm_bytes,
            "Memory": c.limits.memory, "MemorySwap": c.limits.memory, "NanoCpus": c.limits.cpu_milli * 1_000_000,
            "PidsLimit": c.limits.pids,
            "SecurityOpt": spec.no_new_privileges.then_some(["no-new-privileges"]),
        }),
    );
    let volumes: Vec<_> = spec.mounts.iter().filter_map(volume).collect();
    if !volumes.is_empty() {
        told["HostConfig"]["Mounts"] = volumes.into();
    }
    let layers = format!("/var/lib/docker/overlay2/{id}");
    let base = c.image_id.strip_prefix("sha256:").unwrap_or(&c.image_id);
    told["GraphDriver"]["Data"] = json!({
        "LowerDir": format!("{layers}-init/diff:/var/lib/docker/overlay2/{base}/diff"),
        "MergedDir": format!("{layers}/merged"), "UpperDir": format!("{layers}/diff"), "WorkDir": format!("{layers}/work"),
    });
    let list = |words: &Vec<String>| (!words.is_empty()).then(|| words.clone());
    let exposed: Map<String, Value> = spec.ports.iter().map(|p| (protocol(p.container_port), json!({}))).collect();
    put(
        &mut told["Config"],
        json!({
            "Hostname": spec.hostname, "User": spec.user, "ExposedPorts": exposed, "Env": spec.env,
            "Cmd": list(&spec.cmd), "Image": spec.image, "WorkingDir": spec.working_dir,
            "Entrypoint": list(&spec.entrypoint), "Labels": spec.labels,
        }),
    );
    let alive = c.alive();
    put(
        &mut told["NetworkSettings"],
        json!({
            "SandboxID": if alive { id.as_str() } else { "" },
            "SandboxKey": if alive { format!("/var/run/docker/netns/{}", &id[..12]) } else { String::new() },
            "Ports": if alive { bindings(&spec.ports) } else { json!({}) }, "Networks": networks(world, c, Some([&id[..12]])),
        }),
    );
    told
}

/// One of `GET /containers/json`
pub fn listed(world: &World, c: &SimContainer) -> Value {
    let spec = &c.spec;
    let process: Vec<&str> = spec.entrypoint.iter().chain(&spec.cmd).map(String::as_str).collect();
    let published =
        spec.ports.iter().filter(|_| c.alive()).map(
            |p| json!({"IP": p.host_ip, "PrivatePort": p.container_port, "PublicPort": p.host_port, "Type": "tcp"}),
        );
    let status = match c.state {
        RunState::Running => "Up 2 minutes".to_owned(),
        RunState::Paused => "Up 2 minutes (Paused)".to_owned(),
        RunState::Exited => format!("Exited ({}) 2 minutes ago", c.exit_code),
        other => state(other).to_owned(),
    };
    json!({
        "Id": c.id, "Names": [format!("/{}", c.name)], "Image": spec.image, "ImageID": c.image_id,
        "Command": process.join(" "), "Created": c.created_at.as_second(), "Ports": published.collect::<Vec<_>>(),
        "Labels": spec.labels, "State": state(c.state), "Status": status,
        "HostConfig": {"NetworkMode": spec.network}, "NetworkSettings": {"Networks": networks(world, c, None)},
        "Mounts": spec.mounts.iter().map(mount).collect::<Vec<_>>(),
    })
}

pub fn info(engine: &SimEngine) -> Value {
    let mut told = INFO.clone();
    let world = engine.world();
    let running = world.containers.values().filter(|c| c.state == RunState::Running).count();
    let paused = world.containers.values().filter(|c| c.state == RunState::Paused).count();
    put(
        &mut told,
        json!({
            "ID": world.daemon_id, "Name": engine.name(), "Containers": world.containers.len(),
            "ContainersRunning": running, "ContainersPaused": paused,
            "ContainersStopped": world.containers.len() - running - paused,
            "Images": world.images.values().filter(|image| image.local).count(), "SystemTime": time(Some(world.wall)),
        }),
    );
    told
}

/// `GET /containers/{}/stats`, of one that does not run the year 1 and nothing counted.
pub fn stats(id: &str, name: &str, told: Option<ContainerStats>) -> Value {
    let none = json!({"cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0}});
    let mut all = json!({
        "read": time(told.map(|t| t.read_at)), "preread": "0001-01-01T00:00:00Z", "pids_stats": {},
        "blkio_stats": {"io_service_bytes_recursive": null}, "num_procs": 0, "storage_stats": {},
        "cpu_stats": none, "precpu_stats": none, "memory_stats": {}, "name": format!("/{name}"), "id": id,
    });
    if let Some(ContainerStats { cpu_nanos, memory, .. }) = told {
        all["pids_stats"] = json!({"current": 3, "limit": 64});
        all["cpu_stats"]["cpu_usage"]["total_usage"] = cpu_nanos.into();
        all["cpu_stats"]["online_cpus"] = 2.into();
        all["memory_stats"] = json!({
            "usage": memory, "max_usage": memory, "limit": 268_435_456,
            "stats": {"active_anon": 8192, "cache": 0, "total_cache": 0, "total_inactive_file": 0},
        });
    }
    all
}

/// `GET /networks/{}`; of a list, too, where the containers are left out.
pub fn network(name: &str, network: &SimNetwork, containers: Option<&World>) -> Value {
    let inside: Map<String, Value> = containers
        .into_iter()
        .flat_map(|world| world.containers.values())
        .filter(|c| c.alive() && c.endpoints.get(name) == Some(&network.id))
        .map(|c| {
            (
                c.id.clone(),
                json!({"Name": c.name, "EndpointID": c.id, "MacAddress": "", "IPv4Address": "", "IPv6Address": ""}),
            )
        })
        .collect();
    json!({
        "Name": name, "Id": network.id, "Created": "2026-01-01T00:00:00.000000000Z", "Scope": "local",
        "Driver": "bridge", "EnableIPv6": false,
        "IPAM": {"Driver": "default", "Options": null, "Config": [{
            "Subnet": network.subnet.to_string(), "Gateway": network.subnet.gateway().to_string(),
        }]},
        "Internal": false, "Attachable": false, "Ingress": false, "ConfigFrom": {"Network": ""}, "ConfigOnly": false,
        "Containers": inside,
        "Options": {"com.docker.network.bridge.enable_ip_masquerade": (!network.closed).to_string()},
        "Labels": network.labels,
    })
}

/// Those that every daemon has.
pub fn builtin_networks() -> [Value; 3] {
    [("bridge", "bridge", true), ("host", "host", false), ("none", "null", false)].map(|(name, driver, subnet)| {
        let config = if subnet { json!([{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]) } else { json!([]) };
        let id: String = name.bytes().cycle().take(32).map(|b| format!("{b:02x}")).collect();
        json!({
            "Name": name, "Id": id, "Created": "2026-01-01T00:00:00.000000000Z", "Scope": "local", "Driver": driver,
            "EnableIPv6": false, "IPAM": {"Driver": "default", "Options": null, "Config": config},
            "Internal": false, "Attachable": false, "Ingress": false, "ConfigFrom": {"Network": ""},
            "ConfigOnly": false, "Containers": {}, "Options": {}, "Labels": {},
        })
    })
}

pub fn volume(name: &str, labels: &std::collections::BTreeMap<String, String>) -> Value {
    json!({
        "CreatedAt": "2026-01-01T00:00:00Z", "Driver": "local", "Labels": (!labels.is_empty()).then_some(labels),
        "Mountpoint": format!("/var/lib/docker/volumes/{name}/_data"), "Name": name, "Options": {}, "Scope": "local",
    })
}
