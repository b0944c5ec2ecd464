//! What a Pod is made of, from the spec of its Instance: for `kubectl describe pod` and for tools that show Pods.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::pods::CONTAINER;
use crate::model::{Check, Instance, InstanceSpec, Phase, Probe, Quantity, Volume};

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
        "startupProbe": startup(spec),
        "readinessProbe": spec.probes.readiness.as_ref().map(probe),
        "livenessProbe": spec.probes.liveness.as_ref().map(probe),
    })
}

/// As Kubernetes counts them, in whole seconds and none of them 0.
fn seconds(time: Duration) -> u64 {
    time.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX).max(1)
}

/// A startup probe's time in all is, elsewhere, so many failures.
fn startup(spec: &InstanceSpec) -> Option<Value> {
    let check = spec.probes.startup.as_ref()?.check()?;
    let period = seconds(spec.startup_period().unwrap_or_default());
    let failures = seconds(spec.startup_timeout()).div_ceil(period);
    let mut shown = shown(check, spec.startup_attempt_timeout());
    shown["periodSeconds"] = period.into();
    shown["successThreshold"] = 1.into();
    shown["failureThreshold"] = failures.into();
    Some(shown)
}

/// Of several checks the first: a Pod's probe has one.
fn probe(probe: &Probe) -> Value {
    let mut shown = shown(&probe.all().into_iter().next().unwrap_or_default(), probe.attempt_timeout());
    shown["periodSeconds"] = seconds(probe.period()).into();
    shown["successThreshold"] = probe.successes().into();
    shown["failureThreshold"] = probe.failures().into();
    shown
}

fn shown(check: &Check, limit: Duration) -> Value {
    let path = |path: &str| if path.is_empty() { "/".to_owned() } else { path.to_owned() };
    json!({
        "httpGet": check.http.as_ref().map(|http| json!({"path": path(&http.path), "port": http.port, "scheme": "HTTP"})),
        "tcpSocket": check.tcp.as_ref().map(|tcp| json!({"port": tcp.port})),
        "exec": check.exec.as_ref().map(|exec| json!({"command": exec.command})),
        "timeoutSeconds": seconds(limit),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_shown_as_kubernetes_counts_them() {
        let spec: InstanceSpec = serde_json::from_value(json!({
            "image": "a", "ports": [{"name": "web", "containerPort": 80}],
            "probes": {
                "startup": {"http": {"port": "web"}, "period": "250ms", "timeout": "90s"},
                "readiness": {"exec": {"command": ["ready"]}, "period": "1500ms", "successes": 2},
                "liveness": {"checks": [{"tcp": {"port": "web"}}, {"http": {"port": "web"}}], "attemptTimeout": "100ms"},
            },
        }))
        .unwrap();
        let counts = |shown: &Value| {
            ["periodSeconds", "timeoutSeconds", "successThreshold", "failureThreshold"].map(|name| shown[name].clone())
        };
        let startup = startup(&spec).unwrap();
        assert_eq!(startup["httpGet"], json!({"path": "/", "port": "web", "scheme": "HTTP"}));
        assert_eq!(counts(&startup), [1, 2, 1, 90]);
        let readiness = probe(spec.probes.readiness.as_ref().unwrap());
        assert_eq!(
            (&readiness["exec"]["command"][0], counts(&readiness)),
            (&json!("ready"), [2, 1, 2, 3].map(Value::from))
        );
        let liveness = probe(spec.probes.liveness.as_ref().unwrap());
        assert_eq!(
            (&liveness["tcpSocket"]["port"], counts(&liveness)),
            (&json!("web"), [10, 1, 1, 3].map(Value::from))
        );
    }
}
