//! Rules between fields, which a schema cannot say. Types, ranges and unknown fields are the schema's.
//!
//! Every error names the field's path and what was expected, in the words of kube-apiserver.

use std::collections::{BTreeMap, BTreeSet};

use super::adoption::{is_volume_name, validate_adoption};
use super::container_labels::validate_container_labels;
use super::docker_host::parse_port_range;
use super::endpoint::validate_endpoint;
use super::env::validate_env;
use super::idle::validate_idle;
use super::image_reference::image_problem;
use super::probes::validate_probes;
use super::route::validate_routes;
use super::subnet::validate_subnets;
use super::validate_taints::{validate_taints, validate_tolerations};
use super::{DockerHost, FieldError, FieldErrors, Instance, OnHostLoss, Quantity, Reclaim, is_label_key, is_subdomain};

/// Characters of a label's value.
const MOST_LABEL: usize = 63;
const HOST_NAME_RULE: &str =
    "must be a DNS subdomain of at most 63 characters: lower case letters, digits, '-' and '.'";
const LABEL_RULE: &str =
    "must be a DNS label (RFC 1123): lower case letters, digits and '-', beginning and ending with a letter or digit";

pub(super) fn is_dns_label(text: &str, max: usize) -> bool {
    !text.is_empty()
        && text.len() <= max
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

pub(super) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// The rule for every object's name: a DNS label of at most 63 characters, because it becomes part of a host name.
pub fn validate_name(field: &str, name: &str) -> Option<FieldError> {
    if name.is_empty() {
        return Some(FieldError::required(field, "name or generateName is required"));
    }
    (!is_dns_label(name, 63)).then(|| FieldError::invalid(field, quoted(name), LABEL_RULE))
}

/// The rule for the name of a DockerHost: a DNS subdomain, as hosts are named, short enough for the value of a label.
pub fn validate_host_name(field: &str, name: &str) -> Option<FieldError> {
    if name.is_empty() {
        return Some(FieldError::required(field, "name or generateName is required"));
    }
    (!is_subdomain(name) || name.len() > MOST_LABEL).then(|| FieldError::invalid(field, quoted(name), HOST_NAME_RULE))
}

/// Checks an Instance's rules between fields. Empty means valid; all problems are reported at once.
pub fn validate_instance(instance: &Instance) -> Vec<FieldError> {
    let spec = &instance.spec;
    let mut errors = FieldErrors::default();

    if spec.image.trim().is_empty() {
        errors.push(FieldError::required("spec.image", "the image to run"));
    } else if let Some(why) = image_problem(&spec.image) {
        errors.push(FieldError::invalid("spec.image", quoted(&spec.image), why));
    }

    validate_env(instance, &mut errors);
    validate_ports(instance, &mut errors);
    validate_volumes(instance, &mut errors);
    validate_container_labels(instance, &mut errors);
    validate_resources(instance, &mut errors);
    validate_probes(instance, &mut errors);
    validate_idle(instance, &mut errors);
    validate_routes(instance, &mut errors);
    validate_tolerations(&spec.placement.tolerations, &mut errors);
    validate_host_loss(instance, &mut errors);
    validate_adoption(instance, &mut errors);
    for (list, caps) in [("capAdd", &spec.security.cap_add), ("capDrop", &spec.security.cap_drop)] {
        for (i, cap) in caps.iter().enumerate() {
            if cap.is_empty() || cap.starts_with("CAP_") || !cap.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') {
                errors.push(FieldError::invalid(
                    format!("spec.security.{list}[{i}]"),
                    quoted(cap),
                    "must be a capability in capitals without CAP_, such as NET_ADMIN",
                ));
            }
        }
    }
    errors.into()
}

fn validate_ports(instance: &Instance, errors: &mut FieldErrors) {
    let (mut names, mut container, mut host) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (i, port) in instance.spec.ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        if !is_dns_label(&port.name, 15) {
            errors.push(FieldError::invalid(
                format!("{path}.name"),
                quoted(&port.name),
                &format!("{LABEL_RULE}, at most 15 characters"),
            ));
        }
        if !names.insert(&port.name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), quoted(&port.name)));
        }
        if !container.insert(port.container_port) {
            errors.push(FieldError::duplicate(format!("{path}.containerPort"), port.container_port));
        }
        if let Some(p) = port.host_port
            && !host.insert(p)
        {
            errors.push(FieldError::duplicate(format!("{path}.hostPort"), p));
        }
    }
}

fn validate_volumes(instance: &Instance, errors: &mut FieldErrors) {
    let (mut names, mut paths) = (BTreeSet::new(), BTreeMap::new());
    for (i, volume) in instance.spec.volumes.iter().enumerate() {
        let path = format!("spec.volumes[{i}]");
        if !is_dns_label(&volume.name, 63) {
            errors.push(FieldError::invalid(format!("{path}.name"), quoted(&volume.name), LABEL_RULE));
        }
        if !names.insert(&volume.name) {
            errors.push(FieldError::duplicate(format!("{path}.name"), quoted(&volume.name)));
        }
        for (field, value) in [("mountPath", &volume.mount_path), ("hostPath", &volume.host_path)] {
            if field == "hostPath" && value.is_empty() {
                continue;
            }
            // ':' would end the path in Docker's own notation; '..' would leave the directory that an operator granted.
            if !value.starts_with('/') || value.contains([':', '\0']) || value.split('/').any(|s| s == "..") {
                errors.push(FieldError::invalid(
                    format!("{path}.{field}"),
                    quoted(value),
                    "must be an absolute path without '..' and ':'",
                ));
            }
        }
        if !volume.volume_name.is_empty() {
            let field = format!("{path}.volumeName");
            if !volume.host_path.is_empty() {
                errors.push(FieldError::forbidden(field, "only one of hostPath and volumeName may be set"));
            } else if !is_volume_name(&volume.volume_name) {
                let why = "must be the name of a Docker volume: letters, digits, '.', '-' and '_', beginning with a letter or digit";
                errors.push(FieldError::invalid(field, quoted(&volume.volume_name), why));
            }
            if volume.reclaim == Reclaim::Delete {
                let why = "Delete is for the instance's own volumes; one given by volumeName is always retained";
                errors.push(FieldError::forbidden(format!("{path}.reclaim"), why));
            }
        }
        let normal = volume.mount_path.trim_end_matches('/');
        if normal.is_empty() && volume.mount_path.starts_with('/') {
            errors.push(FieldError::invalid(
                format!("{path}.mountPath"),
                quoted(&volume.mount_path),
                "must not be the root",
            ));
        }
        if paths.insert(normal, i).is_some() {
            errors.push(FieldError::duplicate(format!("{path}.mountPath"), quoted(&volume.mount_path)));
        }
    }
}

/// What is made anew on another host begins without what it wrote on the one that is lost: that must be nothing.
fn validate_host_loss(instance: &Instance, errors: &mut FieldErrors) {
    let placement = &instance.spec.placement;
    if !placement.spread_by.is_empty() && !is_label_key(&placement.spread_by) {
        let (field, value) = ("spec.placement.spreadBy", quoted(&placement.spread_by));
        errors.push(FieldError::invalid(field, value, "must be the key of a label, such as app or example.com/tier"));
    }
    if let Some(after) = placement.host_loss_after.as_ref().filter(|a| a.duration().as_secs() < 10) {
        let (field, value) = ("spec.placement.hostLossAfter", quoted(&after.to_string()));
        errors.push(FieldError::invalid(field, value, "must be at least 10s"));
    }
    if placement.on_host_loss != OnHostLoss::Recreate {
        return;
    }
    let field = "spec.placement.onHostLoss";
    if !placement.node.is_empty() {
        let why = format!("Recreate needs another host, and spec.placement.node allows only {}", placement.node);
        errors.push(FieldError::forbidden(field, &why));
    }
    if let Some((i, volume)) = instance.spec.volumes.iter().enumerate().find(|(_, v)| v.keeps_data()) {
        let why = format!(
            "Recreate would leave the data of spec.volumes[{i}] ({}) behind on the lost host and begin without it; only \
             readOnly host paths go with it",
            volume.name
        );
        errors.push(FieldError::forbidden(field, &why));
    }
}

fn validate_resources(instance: &Instance, errors: &mut FieldErrors) {
    let r = &instance.spec.resources;
    let within = |field: &str, q: &Option<Quantity>, value: fn(&Quantity) -> i64, (min, least), (max, most)| {
        let q = q.as_ref()?;
        let why = match value(q) {
            n if n < min => format!("must be {least}"),
            n if n > max => format!("must be at most {most}"),
            _ => return None,
        };
        Some(FieldError::invalid(format!("spec.resources.{field}"), quoted(&q.to_string()), &why))
    };
    // 6Mi is dockerd's own least memory limit. No machine has more than the most: what is written there is a mistake.
    let (memory, cores) = ((16 << 40, "16Ti"), (4_096_000, "4096"));
    errors.extend(within("memory", &r.memory, Quantity::value, (6 << 20, "at least 6Mi"), memory));
    errors.extend(within("cpu", &r.cpu, Quantity::milli, (10, "at least 10m"), cores));
    errors.extend(within("shm", &r.shm, Quantity::value, (1, "greater than 0"), memory));
}

/// What names a port must name one that is there.
pub(super) fn unknown_port(instance: &Instance, field: &str, name: &str, errors: &mut FieldErrors) {
    if instance.spec.port(name).is_none() {
        let known: Vec<_> = instance.spec.ports.iter().map(|p| p.name.as_str()).collect();
        let why = format!(
            "must name one of spec.ports: {}",
            if known.is_empty() { "there are none".into() } else { known.join(", ") }
        );
        errors.push(FieldError::invalid(field, quoted(name), &why));
    }
}

/// Checks a DockerHost's rules between fields. Empty means valid.
pub fn validate_docker_host(host: &DockerHost) -> Vec<FieldError> {
    let spec = &host.spec;
    let mut errors = FieldErrors::default();
    validate_endpoint(spec, &mut errors);
    if !spec.port_range.is_empty() && parse_port_range(&spec.port_range).is_none() {
        errors.push(FieldError::invalid(
            "spec.portRange",
            quoted(&spec.port_range),
            "must be FIRST-LAST, such as 30000-39999",
        ));
    }
    for (field, factor, most) in [("memory", &spec.overcommit.memory, 10), ("cpu", &spec.overcommit.cpu, 100)] {
        if let Some(factor) = factor
            && !(100..=most * 1000).contains(&factor.milli())
        {
            let path = format!("spec.overcommit.{field}");
            errors.push(FieldError::invalid(path, factor.to_string(), &format!("must be from 0.1 to {most}")));
        }
    }
    validate_subnets(spec, &mut errors);
    validate_taints(&spec.taints, &mut errors);
    errors.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn errors(spec: Value) -> Vec<String> {
        let instance: Instance =
            serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "b"}, "spec": spec})).unwrap();
        validate_instance(&instance).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_plain_instance_is_valid() {
        assert_eq!(errors(json!({"image": "app:1", "ports": [{"name": "web", "containerPort": 80}]})), [""; 0]);
    }

    #[test]
    fn every_problem_is_reported_at_once_with_its_path() {
        let found = errors(json!({
            "image": "",
            "env": [{"name": "1X", "value": ""}],
            "ports": [{"name": "Web", "containerPort": 80}, {"name": "api", "containerPort": 80}],
            "volumes": [{"name": "data", "mountPath": "/a/../etc"}],
            "resources": {"memory": "1Mi", "cpu": "1m"},
            "probes": {"startup": {"http": {"port": "nope"}}},
            "idle": {"after": "10ms"},
            "routes": [{"host": "x y", "paths": [{"prefix": "api", "port": "gone"}]}],
            "security": {"capAdd": ["CAP_NET_ADMIN"]},
        }));
        let paths: Vec<_> = found.iter().map(|e| e.split(": ").next().unwrap()).collect();
        assert_eq!(
            paths,
            [
                "spec.image",
                "spec.env[0].name",
                "spec.ports[0].name",
                "spec.ports[1].containerPort",
                "spec.volumes[0].mountPath",
                "spec.resources.memory",
                "spec.resources.cpu",
                "spec.probes.startup.http.port",
                "spec.idle.after",
                "spec.routes[0].host",
                "spec.routes[0].paths[0].prefix",
                "spec.routes[0].paths[0].port",
                "spec.security.capAdd[0]",
            ],
            "{found:#?}"
        );
    }

    #[test]
    fn amounts_have_a_least_and_a_most() {
        let refused = |field: &str, value: &str| errors(json!({"image": "a", "resources": {field: value}}));
        for (field, good, bad, why) in [
            ("memory", "16Ti", "17Ti", "must be at most 16Ti"),
            ("memory", "6Mi", "5Mi", "must be at least 6Mi"),
            ("cpu", "4096", "4096001m", "must be at most 4096"),
            ("cpu", "10m", "9m", "must be at least 10m"),
            ("shm", "1", "0", "must be greater than 0"),
            ("shm", "16Ti", "8E", "must be at most 16Ti"),
        ] {
            assert_eq!(refused(field, good), [""; 0]);
            assert_eq!(refused(field, bad), [format!("spec.resources.{field}: Invalid value: {bad:?}: {why}")]);
        }
    }

    #[test]
    fn only_what_keeps_nothing_on_its_host_may_be_made_anew_elsewhere() {
        let found = |placement: Value, volumes: Value| {
            errors(json!({"image": "a", "placement": placement, "volumes": volumes}))
        };
        let recreate = || json!({"onHostLoss": "Recreate"});
        let volume = |more: Value| {
            let mut volume = json!({"name": "v", "mountPath": "/v"});
            volume.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!([volume])
        };
        assert_eq!(found(recreate(), json!([])), [""; 0]);
        assert_eq!(found(recreate(), volume(json!({"hostPath": "/models", "readOnly": true}))), [""; 0]);
        assert_eq!(found(json!({"onHostLoss": "Wait", "node": "a"}), volume(json!({}))), [""; 0]);
        for kept in [json!({}), json!({"reclaim": "Delete"}), json!({"readOnly": true}), json!({"hostPath": "/srv/a"})]
        {
            let refused = found(recreate(), volume(kept.clone()));
            assert_eq!(refused.len(), 1, "{kept}");
            assert!(
                refused[0].starts_with("spec.placement.onHostLoss: Forbidden: Recreate would leave"),
                "{refused:?}"
            );
        }
        let pinned = found(json!({"onHostLoss": "Recreate", "node": "a", "hostLossAfter": "9s"}), json!([]));
        assert_eq!(
            pinned,
            [
                "spec.placement.hostLossAfter: Invalid value: \"9s\": must be at least 10s",
                "spec.placement.onHostLoss: Forbidden: Recreate needs another host, and spec.placement.node allows only a",
            ]
        );
    }

    #[test]
    fn hosts_are_named_as_hosts_are() {
        for good in ["a", "docker1.example.com", &"a".repeat(63)] {
            assert_eq!(validate_host_name("metadata.name", good), None);
        }
        for bad in ["", "..", "a..b", ".a", "A", "-a", "a_b", "a/b", &"a".repeat(64)] {
            assert!(validate_host_name("metadata.name", bad).is_some(), "{bad:?} was taken for a name");
        }
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "alice", "a-1", "0"] {
            assert_eq!(validate_name("metadata.name", good), None);
        }
        for bad in ["", "..", "A", "-a", "a-", "a.b", "a_b", "ä", &"a".repeat(64)] {
            assert!(validate_name("metadata.name", bad).is_some(), "{bad:?} was taken for a name");
        }
    }

    #[test]
    fn a_tcp_host_needs_tls() {
        let mut host = DockerHost::default();
        host.spec.endpoint = "tcp://10.0.0.3:2376".into();
        assert_eq!(validate_docker_host(&host)[0].field, "spec.tls");
        host.spec.endpoint = "http://x".into();
        assert_eq!(validate_docker_host(&host)[0].field, "spec.endpoint");
    }
}
