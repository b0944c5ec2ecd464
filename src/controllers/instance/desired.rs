//! What the daemon should have for an instance: a pure function of its spec and its bound host ports.

use sha2::{Digest, Sha256};

use crate::docker::engine::{ContainerSpec, EnvSource, Limits, Mount, PortMap};
use crate::docker::labels;
use crate::model::{DEFAULT_CAPABILITIES, EnvVar, Instance, Key, RESTART_ANNOTATION, Resource, Volume};

/// The container of an instance that is bound to a node, with its spec hash among the labels.
pub fn container_spec(cluster: &str, instance: &Instance) -> ContainerSpec {
    let key = instance.key();
    let (spec, status) = (&instance.spec, &instance.status);
    let mut result = ContainerSpec {
        name: labels::object_name(&key),
        image: spec.image.clone(),
        labels: spec.container_labels.iter().map(|(key, value)| (key.clone(), instance.fill(value))).collect(),
        entrypoint: spec.command.clone(),
        cmd: spec.args.clone(),
        working_dir: spec.working_dir.clone(),
        user: spec.user.clone(),
        env: env(instance),
        env_sources: env_sources(instance),
        env_opened: vec![],
        hostname: key.name.clone(),
        ports: spec
            .ports
            .iter()
            .filter_map(|p| {
                let host_port = status.host_port(&p.name)?;
                Some(PortMap { container_port: p.container_port, host_ip: status.address.clone(), host_port })
            })
            .collect(),
        mounts: spec.volumes.iter().map(|v| mount(instance, v)).collect(),
        network: labels::object_name(&key),
        limits: limits(instance),
        shm_bytes: spec.shm_bytes(),
        runtime: spec.runtime.clone(),
        gpus: status.gpus.clone(),
        privileged: spec.security.privileged,
        read_only_root: spec.security.read_only_root,
        capabilities: capabilities(instance),
        no_new_privileges: spec.security.no_new_privileges.unwrap_or(true),
    };
    let restart = instance.metadata.annotations.get(RESTART_ANNOTATION);
    let hash = spec_hash(&result, restart.map_or("", |r| r));
    result.labels.extend(labels::owner_labels(cluster, &key, &instance.metadata.uid));
    result.labels.insert(labels::ROLE.into(), "app".into());
    result.labels.insert(labels::SPEC_HASH.into(), hash);
    result
}

/// Limits that can change in place.
pub fn limits(instance: &Instance) -> Limits {
    Limits { memory: instance.spec.memory_bytes(), cpu_milli: instance.spec.cpu_milli(), pids: instance.spec.pids() }
}

/// The named Docker volumes of an instance: volume of the spec, and name in Docker.
pub fn named_volumes(instance: &Instance) -> impl Iterator<Item = (&Volume, String)> {
    instance.spec.volumes.iter().filter(|v| v.host_path.is_empty()).map(|v| (v, instance.volume_name(v)))
}

/// Hash of all that needs a new container when it changes: 64 bits of SHA-256, in hexadecimal.
fn spec_hash(spec: &ContainerSpec, restart: &str) -> String {
    let fixed = ContainerSpec { limits: Limits::default(), ..spec.clone() };
    let json = serde_json::to_vec(&fixed).expect("plain data serialises");
    let digest = Sha256::new().chain_update(&json).chain_update([0]).chain_update(restart).finalize();
    digest[..8].iter().map(|b| format!("{b:02x}")).collect()
}

/// The variables by name; the last entry of a name wins, in the place of the first.
fn variables(instance: &Instance) -> Vec<&EnvVar> {
    let mut result: Vec<&EnvVar> = vec![];
    for var in &instance.spec.env {
        match result.iter_mut().find(|earlier| earlier.name == var.name) {
            Some(earlier) => *earlier = var,
            None => result.push(var),
        }
    }
    result
}

/// `NAME=value`
fn env(instance: &Instance) -> Vec<String> {
    let plain = variables(instance).into_iter().filter(|var| var.value_from.is_none());
    plain.map(|var| format!("{}={}", var.name, var.value)).collect()
}

fn env_sources(instance: &Instance) -> Vec<EnvSource> {
    let source = |kind, name: &str| Key::new(kind, &instance.metadata.namespace, name);
    let all = instance.spec.env_from.iter().filter_map(|from| {
        let (kind, r) = from.source()?;
        Some(EnvSource::All { source: source(kind, &r.name), prefix: from.prefix.clone(), optional: r.optional })
    });
    let one = variables(instance).into_iter().filter_map(|var| {
        let (kind, r) = var.value_from.as_ref()?.source()?;
        let (source, key) = (source(kind, &r.name), r.key.clone());
        Some(EnvSource::One { variable: var.name.clone(), source, key, optional: r.optional })
    });
    all.chain(one).collect()
}

fn mount(instance: &Instance, volume: &Volume) -> Mount {
    let (target, read_only) = (volume.mount_path.clone(), volume.read_only);
    if volume.host_path.is_empty() {
        Mount::Volume { name: instance.volume_name(volume), target, read_only }
    } else {
        Mount::Bind { source: instance.fill(&volume.host_path), target, read_only }
    }
}

fn capabilities(instance: &Instance) -> Vec<String> {
    let security = &instance.spec.security;
    let dropped = |cap: &str| security.cap_drop.iter().any(|d| d == cap || d == "ALL");
    let mut caps: Vec<String> = DEFAULT_CAPABILITIES
        .iter()
        .filter(|c| !dropped(c))
        .map(|c| (*c).to_owned())
        .chain(security.cap_add.iter().cloned())
        .collect();
    caps.sort();
    caps.dedup();
    caps
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn instance(spec: serde_json::Value) -> Instance {
        serde_json::from_value(json!({
            "metadata": {"name": "alice", "namespace": "default", "uid": "u1"},
            "spec": spec,
            "status": {"node": "n", "address": "10.0.0.3", "ports": [{"name": "web", "hostPort": 30001}]},
        }))
        .unwrap()
    }

    fn hash(instance: &Instance) -> String {
        container_spec("c", instance).labels[labels::SPEC_HASH].clone()
    }

    fn base() -> serde_json::Value {
        json!({
            "image": "app:1",
            "ports": [{"name": "web", "containerPort": 80}],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "A", "value": "3"}],
            "volumes": [{"name": "home", "mountPath": "/home"}, {"name": "data", "mountPath": "/d", "hostPath": "/srv/{name}"}],
        })
    }

    #[test]
    fn the_spec_is_translated_with_safe_defaults() {
        let c = container_spec("c", &instance(base()));
        assert_eq!(c.name, "pr.default.alice");
        assert_eq!(c.env, ["A=3", "B=2"]);
        assert_eq!(c.ports, [PortMap { container_port: 80, host_ip: "10.0.0.3".into(), host_port: 30001 }]);
        assert_eq!(
            c.mounts[0],
            Mount::Volume { name: "pr.default.alice.home".into(), target: "/home".into(), read_only: false }
        );
        assert_eq!(c.mounts[1], Mount::Bind { source: "/srv/alice".into(), target: "/d".into(), read_only: false });
        assert!(c.no_new_privileges && !c.privileged && !c.capabilities.contains(&"NET_RAW".to_owned()));
        assert_eq!(c.limits, Limits { memory: 256 << 20, cpu_milli: 500, pids: 512 });
    }

    #[test]
    fn only_what_needs_a_new_container_changes_the_hash() {
        let before = hash(&instance(base()));
        let with = |path: &str, value: serde_json::Value| {
            let mut spec = base();
            spec[path] = value;
            hash(&instance(spec))
        };
        for (path, value) in [
            ("idle", json!({"after": "1m"})),
            ("power", json!("Running")),
            ("resources", json!({"memory": "1Gi", "cpu": "2", "pids": 9})),
            ("routes", json!([{"host": "x.example"}])),
            (
                "routes",
                json!([{"auth": {"mode": "Token", "token": {"secretKeyRef": {"name": "s", "key": "k"}}},
                        "limits": {"requestsPerSecond": 5, "connections": 2}}]),
            ),
            ("owner", json!("someone")),
            (
                "probes",
                json!({"startup": {"tcp": {"port": "web"}}, "readiness": {"exec": {"command": ["a"]}},
                              "liveness": {"checks": [{"tcp": {"port": "web"}}]}}),
            ),
        ] {
            assert_eq!(with(path, value), before, "{path} would re-create the container");
        }
        for (path, value) in [
            ("image", json!("app:2")),
            ("env", json!([])),
            ("args", json!(["x"])),
            ("volumes", json!([])),
            ("resources", json!({"shm": "1Gi"})),
            ("security", json!({"capDrop": ["ALL"]})),
            ("user", json!("1000")),
            ("containerLabels", json!({"traefik.enable": "true"})),
        ] {
            assert_ne!(with(path, value), before, "{path} would not be applied");
        }
        let mut restarted = instance(base());
        restarted.metadata.annotations.insert(RESTART_ANNOTATION.into(), "now".into());
        assert_ne!(hash(&restarted), before);
    }

    #[test]
    fn labels_for_others_stand_beside_ours_and_take_none_of_their_places() {
        let mut spec = base();
        spec["containerLabels"] = json!({"rule": "Host(`{name}.test`)", labels::UID: "another's"});
        let labels = container_spec("c", &instance(spec)).labels;
        assert_eq!((labels["rule"].as_str(), labels[labels::UID].as_str()), ("Host(`alice.test`)", "u1"));
    }

    #[test]
    fn references_are_hashed_and_the_values_that_they_lead_to_are_not() {
        let with = |name: &str| {
            let mut spec = base();
            spec["env"] = json!([
                {"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}},
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "a", "optional": true}}},
            ]);
            spec["envFrom"] = json!([{"prefix": "P_", "secretRef": {"name": "s"}}]);
            container_spec("c", &instance(spec))
        };
        let mut found = with("s");
        assert_eq!(found.env, [""; 0], "the last entry of a name wins");
        let sources: Vec<String> = found.env_sources.iter().map(|s| s.source().to_string()).collect();
        assert_eq!(sources, ["secrets/default/s", "configmaps/default/c", "secrets/default/s"]);
        let before = spec_hash(&found, "");
        assert_ne!(before, spec_hash(&with("t"), ""));
        found.env_opened = vec![crate::model::SecretText::new("B=hunter2".into())];
        assert_eq!(spec_hash(&found, ""), before);
        assert!(!format!("{found:?}").contains("hunter2"));
    }

    #[test]
    fn the_hash_is_the_same_for_ever() {
        // A change of this value re-creates every container of every user on the next upgrade of this program.
        assert_eq!(hash(&instance(base())), "c710116f2f8bb15c");
    }

    #[test]
    fn dropping_all_capabilities_leaves_what_is_added() {
        let c = container_spec(
            "c",
            &instance(json!({"image": "a", "security": {"capDrop": ["ALL"], "capAdd": ["NET_ADMIN"]}})),
        );
        assert_eq!(c.capabilities, ["NET_ADMIN"]);
    }
}
