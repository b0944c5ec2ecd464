//! Making a container: from the body of the request to the world's own terms.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use portreeve::docker::engine::{ContainerSpec, Limits, Mount, PortMap};
use serde::Deserialize;
use serde_json::json;

use super::answer::{self, Refused, Reply};
use super::containers::Restart;
use super::{Asked, Host};

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Given {
    image: String,
    labels: Option<BTreeMap<String, String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    env: Option<Vec<String>>,
    hostname: Option<String>,
    host_config: GivenHost,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct GivenHost {
    network_mode: Option<String>,
    port_bindings: Option<BTreeMap<String, Option<Vec<Binding>>>>,
    binds: Option<Vec<String>>,
    mounts: Option<Vec<GivenMount>>,
    memory: i64,
    nano_cpus: i64,
    pids_limit: Option<i64>,
    shm_size: i64,
    runtime: Option<String>,
    privileged: bool,
    readonly_rootfs: bool,
    cap_add: Option<Vec<String>>,
    security_opt: Option<Vec<String>>,
    restart_policy: Restart,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Binding {
    host_ip: String,
    host_port: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct GivenMount {
    r#type: String,
    source: String,
    target: String,
    read_only: bool,
}

fn ports(given: BTreeMap<String, Option<Vec<Binding>>>) -> Result<Vec<PortMap>, Refused> {
    let mut ports = Vec::new();
    for (container, bindings) in given {
        let bad = || Refused::bad(format!("invalid port specification: {container:?}"));
        let container_port = container.strip_suffix("/tcp").unwrap_or(&container).parse().map_err(|_| bad())?;
        for Binding { host_ip, host_port } in bindings.into_iter().flatten() {
            let host_port = if host_port.is_empty() { 0 } else { host_port.parse().map_err(|_| bad())? };
            ports.push(PortMap { container_port, host_ip, host_port });
        }
    }
    Ok(ports)
}

/// `SOURCE:TARGET[:ro]`, a directory or a volume.
fn bind(text: &str) -> Result<Mount, Refused> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, read_only) = match parts[..] {
        [source, target] => (source, target, false),
        [source, target, mode] => (source, target, mode.split(',').any(|m| m == "ro")),
        _ => return Err(Refused::bad(format!("invalid volume specification: '{text}'"))),
    };
    let (source, target) = (source.to_owned(), target.to_owned());
    Ok(if source.starts_with('/') {
        Mount::Bind { source, target, read_only }
    } else {
        Mount::Volume { name: source, target, read_only }
    })
}

fn mounts(binds: Vec<String>, given: Vec<GivenMount>) -> Result<Vec<Mount>, Refused> {
    let mut mounts = binds.iter().map(|text| bind(text)).collect::<Result<Vec<_>, _>>()?;
    for GivenMount { r#type, source, target, read_only } in given {
        mounts.push(match r#type.as_str() {
            "bind" => Mount::Bind { source, target, read_only },
            "volume" => Mount::Volume { name: source, target, read_only },
            other => return Err(Refused::bad(format!("invalid mount config for type {other:?}"))),
        });
    }
    Ok(mounts)
}

fn spec(name: &str, given: Given) -> Result<ContainerSpec, Refused> {
    let host = given.host_config;
    if let Some(runtime) = host.runtime.as_ref().filter(|runtime| !matches!(runtime.as_str(), "" | "runc")) {
        return Err(Refused::bad(format!("Unknown runtime specified {runtime}")));
    }
    let network = host.network_mode.filter(|mode| !matches!(mode.as_str(), "" | "default"));
    Ok(ContainerSpec {
        name: name.to_owned(),
        image: given.image,
        labels: given.labels.unwrap_or_default(),
        entrypoint: given.entrypoint.unwrap_or_default(),
        cmd: given.cmd.unwrap_or_default(),
        working_dir: given.working_dir.unwrap_or_default(),
        user: given.user.unwrap_or_default(),
        env: given.env.unwrap_or_default(),
        hostname: given.hostname.unwrap_or_default(),
        ports: ports(host.port_bindings.unwrap_or_default())?,
        mounts: mounts(host.binds.unwrap_or_default(), host.mounts.unwrap_or_default())?,
        network: network.unwrap_or_else(|| "bridge".to_owned()),
        limits: Limits {
            memory: host.memory,
            cpu_milli: host.nano_cpus / 1_000_000,
            pids: host.pids_limit.unwrap_or_default(),
        },
        shm_bytes: host.shm_size,
        runtime: host.runtime.unwrap_or_default(),
        privileged: host.privileged,
        read_only_root: host.readonly_rootfs,
        capabilities: host.cap_add.unwrap_or_default(),
        no_new_privileges: host.security_opt.unwrap_or_default().iter().any(|o| o == "no-new-privileges"),
        ..ContainerSpec::default()
    })
}

/// A daemon's own names are two words.
fn some_name(number: usize) -> String {
    format!("quiet_harbour{number}")
}

pub async fn create(host: &Arc<Host>, asked: &Asked) -> Reply {
    let mut given: Given = serde_json::from_slice(&asked.body).map_err(|e| Refused::bad(e.to_string()))?;
    let policy = std::mem::take(&mut given.host_config.restart_policy.name);
    let name = asked.query.get("name").trim_start_matches('/').to_owned();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if !name.is_empty() && (name.len() < 2 || !name.bytes().all(allowed)) {
        return Err(Refused::bad(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )));
    }
    let mut spec = spec(&name, given)?;
    host.pace.work(asked.call).await;
    let made = host.engine.step(|world| {
        if spec.name.is_empty() {
            spec.name = some_name(world.containers.len());
        }
        // A volume that is not there is made without a word, once everything else is right.
        let mut missing = Vec::new();
        for mount in &spec.mounts {
            if let Mount::Volume { name, .. } = mount
                && !world.volumes.contains_key(name)
            {
                world.volumes.insert(name.clone(), BTreeMap::new());
                missing.push(name.clone());
            }
        }
        let made = world.create(spec);
        match &made {
            Ok(id) => {
                if let Some(c) = world.containers.get_mut(id).filter(|_| !policy.is_empty()) {
                    c.restart_policy = policy;
                }
            }
            Err(_) => missing.iter().for_each(|name| drop(world.volumes.remove(name))),
        }
        made
    });
    let id = made.map_err(|refusal| Refused::of(asked.call, refusal))?;
    Ok(answer::json(StatusCode::CREATED, &json!({"Id": id, "Warnings": []})))
}
