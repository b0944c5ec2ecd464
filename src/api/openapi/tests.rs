//! That the documents say what is served, and all of it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::metrics::Use;
use super::super::registry;
use super::super::views::{leases, metrics, nodes, pods};
use super::{DOCUMENTS, schema_of};

fn documents() -> impl Iterator<Item = (&'static str, Value)> {
    DOCUMENTS.iter().map(|(path, document)| (path.as_str(), serde_json::from_slice(&document.text).unwrap()))
}

#[test]
fn every_kind_that_is_served_is_described() {
    for (path, document) in documents() {
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            let open = schema.get("properties").is_none() && !name.ends_with(".Patch");
            assert!(!open, "{path}: {name} says nothing of its fields");
            assert!(schema["description"].as_str().is_some_and(|d| !d.is_empty()), "{path}: {name}");
        }
    }
    for resource in registry::all() {
        for sub in &resource.subresources {
            let (group, version, kind) = sub.speaks;
            let place =
                super::path(if group == "autoscaling" || group == "policy" { resource.group } else { group }, version);
            let document =
                DOCUMENTS.get(&place).unwrap_or_else(|| panic!("{}/{}: no {place}", resource.plural, sub.name));
            let text = String::from_utf8_lossy(&document.text);
            assert!(text.contains(&format!(".{kind}\"")), "{}/{}", resource.plural, sub.name);
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn references(node: &Value, found: &mut BTreeSet<String>) {
        match node {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|inner| references(inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| references(inner, found)),
            _ => {}
        }
    }
    for (path, document) in documents() {
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{path}: {reference}");
        }
    }
}

/// Each field that a schema has, by its path.
fn described(schema: &Value, at: &str, found: &mut BTreeSet<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{at}.{name}");
        found.insert(path.clone());
        described(field, &path, found);
        described(&field["items"], &path, found);
    }
}

/// The paths of the properties that nothing is said of, and how many there are in all.
fn silent(node: &Value, at: &str, found: &mut Vec<String>) -> usize {
    let mut count = 0;
    for (name, field) in node["properties"].as_object().into_iter().flatten() {
        let path = format!("{at}.{name}");
        if field["description"].as_str().is_none_or(|text| text.trim().is_empty()) {
            found.push(path.clone());
        }
        count += 1 + silent(field, &path, found);
    }
    for inner in ["items", "additionalProperties"].into_iter().filter_map(|name| node.get(name)) {
        count += silent(inner, at, found);
    }
    count
}

#[test]
fn every_field_of_every_document_has_its_text() {
    let (mut found, mut count) = (vec![], 0);
    for (path, document) in documents() {
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            count += silent(schema, &format!("{path}: {name}"), &mut found);
        }
        for (url, item) in document["paths"].as_object().unwrap() {
            let operations = item.as_object().unwrap().iter();
            for (method, operation) in operations.filter(|(name, _)| *name != "parameters") {
                let parameters = [&item["parameters"], &operation["parameters"]];
                for parameter in parameters.into_iter().flat_map(|list| list.as_array().into_iter().flatten()) {
                    count += 1;
                    if parameter["description"].as_str().is_none_or(str::is_empty) {
                        found.push(format!("{method} {url}: {}", parameter["name"]));
                    }
                }
            }
        }
    }
    assert!(found.is_empty(), "nothing is said of {found:#?}");
    assert!(count > 1000, "{count}");
}

/// The paths of all that an object has.
fn filled(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let path = format!("{at}.{name}");
                found.insert(path.clone());
                filled(inner, &path, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| filled(item, at, found)),
        _ => {}
    }
}

/// That the fields of a kind are those that at least one of the objects has, and that each object is as described.
#[track_caller]
fn same(group: &'static str, kind: &'static str, shown: &[Value]) {
    let schema = schema_of(group, kind).unwrap();
    let (mut said, mut there) = (BTreeSet::new(), BTreeSet::new());
    described(schema, "", &mut said);
    for object in shown {
        let errors = crate::model::schema::check_by(schema, object).errors;
        assert!(errors.is_empty(), "{errors:?}: {object:#}");
        filled(object, "", &mut there);
    }
    let outside = |path: &String| ![".metadata.", ".spec.nodeSelector."].iter().any(|free| path.starts_with(free));
    let said: BTreeSet<String> = said.into_iter().filter(outside).collect();
    let there: BTreeSet<String> = there.into_iter().filter(outside).collect();
    let (never, silent) = (said.difference(&there).collect::<Vec<_>>(), there.difference(&said).collect::<Vec<_>>());
    assert!(never.is_empty() && silent.is_empty(), "{kind}: never filled {never:?}, not described {silent:?}");
}

#[test]
fn a_pod_has_what_its_schema_says_and_nothing_else() {
    let pod = |phase: &str| {
        let check = match phase {
            "Running" => json!({"http": {"port": "web", "path": "/health"}}),
            "Asleep" => json!({"exec": {"command": ["ready"]}}),
            _ => json!({"tcp": {"port": "web"}}),
        };
        let instance = json!({
            "apiVersion": "portreeve.dev/v1", "kind": "Instance",
            "metadata": {"name": "a", "namespace": "ns", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"},
                         "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "image": "app:1", "command": ["app"], "args": ["-v"], "workingDir": "/srv",
                "ports": [{"name": "web", "containerPort": 80}],
                "env": [{"name": "A", "value": "a"},
                        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}},
                        {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": true}}}],
                "envFrom": [{"prefix": "P_", "secretRef": {"name": "s", "optional": true}},
                            {"configMapRef": {"name": "c", "optional": true}}],
                "volumes": [{"name": "data", "mountPath": "/data"},
                            {"name": "conf", "mountPath": "/conf", "hostPath": "/srv/{name}", "readOnly": true}],
                "probes": {"startup": check, "readiness": check, "liveness": {"checks": [check]}},
                "placement": {"nodeSelector": {"zone": "a"}, "tolerations": [
                    {"key": "k", "operator": "Exists", "effect": "NoSchedule"}, {"key": "k", "value": "v"}]},
            },
            "status": {
                "phase": phase, "node": "n", "address": "10.0.0.1", "containerID": "c", "image": {"id": "sha256:1"},
                "startedAt": "2026-01-02T00:00:00Z", "ports": [{"name": "web", "hostPort": 30000}], "restarts": 1,
                "lastExit": {"exitCode": 1, "finishedAt": "2026-01-01T12:00:00Z", "startedAt": "2026-01-01T11:00:00Z"},
                "conditions": [{"type": "Ready", "status": "False", "reason": "R", "message": "m",
                                "lastTransitionTime": "2026-01-02T00:00:00Z"}],
            },
        });
        pods::project(&instance).unwrap()
    };
    same("", "Pod", &["Running", "Frozen", "Asleep", "Failed", "Stopped", "Lost", "Pulling"].map(pod));
}

#[test]
fn a_node_and_its_lease_have_what_their_schemas_say_and_nothing_else() {
    let host = json!({
        "apiVersion": "portreeve.dev/v1", "kind": "DockerHost",
        "metadata": {"name": "a", "uid": "u", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"endpoint": "tcp://10.0.0.3:2376", "unschedulable": true,
                 "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]},
        "status": {
            "version": "27.0", "kernel": "6.1", "os": "Debian", "architecture": "amd64", "daemonID": "d",
            "capacity": {"memory": "4Gi", "cpu": 4, "instances": 9},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Connected", "message": "m",
                            "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        },
    });
    let unseen = json!({"metadata": {"name": "b", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
                        "spec": {"endpoint": "tcp://host.example:2376"}});
    let node = |host: &Value| nodes::project(host, Timestamp::UNIX_EPOCH).unwrap();
    same("", "Node", &[node(&host), node(&unseen)]);
    same("coordination.k8s.io", "Lease", &[leases::project(&host, Timestamp::UNIX_EPOCH).unwrap()]);
}

#[test]
fn metrics_have_what_their_schemas_say_and_nothing_else() {
    let now = Timestamp::UNIX_EPOCH;
    let used = Use { at: now, window: std::time::Duration::from_secs(1), nanocores: 1, memory: 4096 };
    let of = json!({"metadata": {"name": "a", "namespace": "ns", "labels": {"a": "b"}}});
    same("metrics.k8s.io", "PodMetrics", &[metrics::of_pod(&of, &used, now)]);
    same("metrics.k8s.io", "NodeMetrics", &[metrics::of_node(&of, &used, now)]);
}
