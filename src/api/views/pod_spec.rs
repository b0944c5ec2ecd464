//! What a Pod is made of, from the spec of its Instance: for `kubectl describe pod` and for tools that show Pods.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::pods::CONTAINER;
use crate::model::{Instance, Phase, Probe, Quantity, Volume};

/// What of annotations is not the Pod's: ours speak of the Instance, and kubectl's own is a copy of all of it.
const NOT_SHOWN: [&str; 2] = ["portreeve.dev/", "kubectl.kubernetes.io/last-applied-configuration"];

pub fn annotations(instance: &Instance) -> BTreeMap<&String, &String> {
    let all = instance.metadata.annotations.iter();
    all.filter(|(name, _)| !NOT_SHOWN.iter().any(|prefix| name.starts_with(prefix))).collect()
}

/// Nulls are for the caller to strip.
pub fn spec(instance: &Instance) -> Value {
    let (spec, placement) = (&instance.spec, &instance.spec.placement);
    let volumes: Vec<Value> = spec.volumes.iter().map(|volume| source(instance, volume)).collect();
    json!({
        "nodeName": instance.status.node, "restartPolicy": "Always",
        "nodeSelector": some(&placement.node_selector, placement.node_selector.is_empty()),
        "tolerations": some(&placement.tolerations, placement.tolerations.is_empty()),
        "containers": [container(instance)], "volumes": some(&volumes, volumes.is_empty()),
    })
}

/// What is empty is left out.
fn some<T>(value: T, is_empty: bool) -> Option<T> {
    (!is_empty).then_some(value)
}

fn container(instance: &Instance) -> Value {
    let (spec, status) = (&instance.spec, &instance.status);
    let rests = matches!(status.phase, Phase::Asleep | Phase::Stopped);
    let resources = json!({
        "memory": Quantity::from_bytes(spec.memory_bytes()), "cpu": Quantity::from_milli(spec.cpu_milli()),
        "nvidia.com/gpu": (spec.gpus > 0).then(|| spec.gpus.to_string()),
    });
    let ports = spec.ports.iter().map(|p| {
        let bound = status.host_port(&p.name);
        json!({"name": p.name, "containerPort": p.container_port, "hostPort": bound, "protocol": "TCP"})
    });
    let mounts: Vec<Value> = spec
        .volumes
        .iter()
        .map(|v| json!({"name": v.name, "mountPath": v.mount_path, "readOnly": v.read_only.then_some(true)}))
        .collect();
    json!({
        "name": CONTAINER, "image": spec.image, "imagePullPolicy": spec.pull_policy(),
        "command": some(&spec.command, spec.command.is_empty()), "args": some(&spec.args, spec.args.is_empty()),
        "workingDir": some(&spec.working_dir, spec.working_dir.is_empty()),
        "env": some(&spec.env, spec.env.is_empty()), "envFrom": some(&spec.env_from, spec.env_from.is_empty()),
        "ports": ports.collect::<Vec<_>>(),
        // One that rests holds nothing of its host.
        "resources": {"limits": resources, "requests": (!rests).then_some(&resources)},
        "volumeMounts": some(&mounts, mounts.is_empty()),
        "startupProbe": spec.probes.startup.as_ref().map(probe),
    })
}

fn probe(probe: &Probe) -> Value {
    json!({
        "httpGet": probe.http.as_ref().map(|http| json!({"path": http.path, "port": http.port, "scheme": "HTTP"})),
        "tcpSocket": probe.tcp.as_ref().map(|tcp| json!({"port": tcp.port})),
    })
}

/// A Docker volume is what a claim on storage is elsewhere: it has a name, and outlives the container.
fn source(instance: &Instance, volume: &Volume) -> Value {
    if volume.host_path.is_empty() {
        json!({"name": volume.name, "persistentVolumeClaim": {"claimName": instance.volume_name(volume)}})
    } else {
        json!({"name": volume.name, "hostPath": {"path": instance.fill(&volume.host_path)}})
    }
}
