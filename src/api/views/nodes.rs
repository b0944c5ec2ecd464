//! The core/v1 Node view of DockerHosts: what kubectl's typed commands (cordon, taint, drain, top, describe) speak of.
//!
//! A Node has the name and the uid of its DockerHost, and is written through to it: labels, annotations,
//! `spec.unschedulable` and `spec.taints`. Everything else of it is derived. It is neither made nor deleted by itself. Who
//! owns which of its fields is kept with the DockerHost ([`super::node_owners`]).

use jiff::Timestamp;
use serde::Deserialize as _;
use serde_json::{Map, Value, json};

use super::super::apply::request::apply_node;
use super::super::apply::{NODE_VIEW, Writer};
use super::super::body::Parsed;
use super::super::columns::{self, Column};
use super::super::error::ApiError;
use super::super::handler::Call;
use super::super::patch::Patch;
use super::super::query::WriteOptions;
use super::super::reply::Reply;
use super::super::update::{Candidate, Part, modify};
use super::super::{admit, discovery, object};
use super::{View, node_owners};
use crate::model::{Condition, ConditionStatus, DockerHost, FieldError, FieldErrors, Key, Kind, condition};

/// The field paths that Nodes may be selected by.
pub const SELECTABLE: &[&str] = &["metadata.name", "metadata.namespace", "spec.unschedulable"];

pub static COLUMNS: [Column; 10] = [
    columns::NAME,
    columns::column("Status", "string", "Whether the daemon answers, and whether new instances come."),
    columns::column("Roles", "string", "The roles of the node."),
    columns::AGE,
    columns::column("Version", "string", "The version of the control plane."),
    columns::wide("Internal-IP", "string", "The address that host ports are published on."),
    columns::wide("External-IP", "string", "None: hosts have one address."),
    columns::wide("OS-Image", "string", "The host's operating system."),
    columns::wide("Kernel-Version", "string", "The host's kernel."),
    columns::wide("Container-Runtime", "string", "The daemon and its version."),
];

/// The Node of a DockerHost; `None` when the record cannot be read.
pub fn project(host: &Value, now: Timestamp) -> Option<Value> {
    let typed = DockerHost::deserialize(host).ok()?;
    let (meta, spec, status) = (&typed.metadata, &typed.spec, &typed.status);
    let quantity = |pointer: &str| host.pointer(pointer).map(as_text);
    let resources = json!({
        // the name by which everybody asks Kubernetes for them
        "nvidia.com/gpu": quantity("/status/capacity/gpus"),
        "cpu": quantity("/status/capacity/cpu"),
        "memory": quantity("/status/capacity/memory"),
        "pods": quantity("/status/capacity/instances"),
    });
    let address = spec.reach_address();
    let address_type = if address.parse::<std::net::IpAddr>().is_ok() { "InternalIP" } else { "InternalDNS" };
    let runtime = if status.version.is_empty() { String::new() } else { format!("docker://{}", status.version) };
    let mut annotations = host.pointer("/metadata/annotations").and_then(Value::as_object).cloned();
    if let Some(annotations) = &mut annotations {
        node_owners::annotations_shown(annotations);
    }
    let mut node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version,
            "creationTimestamp": meta.creation_timestamp, "deletionTimestamp": meta.deletion_timestamp,
            "labels": (!meta.labels.is_empty()).then_some(&meta.labels), "annotations": annotations,
            "managedFields": host.pointer("/metadata/managedFields").and_then(node_owners::shown),
        },
        "spec": {
            "unschedulable": spec.unschedulable.then_some(true),
            "taints": (!spec.taints.is_empty()).then_some(&spec.taints),
        },
        "status": {
            "conditions": conditions(&typed, now),
            "addresses": [
                {"type": address_type, "address": address},
                {"type": "Hostname", "address": meta.name},
            ],
            "capacity": resources, "allocatable": resources,
            "nodeInfo": {
                "kernelVersion": status.kernel, "osImage": status.os, "containerRuntimeVersion": runtime,
                "kubeletVersion": discovery::git_version(), "kubeProxyVersion": "", "architecture": status.architecture,
                "operatingSystem": "linux", "machineID": status.daemon_id, "systemUUID": "", "bootID": "",
            },
        },
    });
    object::strip_nulls(&mut node);
    Some(node)
}

/// Quantities are texts in core kinds, also where ours are numbers.
fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The conditions that Nodes have, as far as they are known. Ready comes last, as kubectl's own order.
fn conditions(host: &DockerHost, now: Timestamp) -> Vec<Value> {
    let mut found: Vec<Value> = ["MemoryPressure", "DiskPressure", "PIDPressure"]
        .into_iter()
        .filter_map(|type_| condition(&host.status.conditions, type_))
        .map(|c| core_condition(c, now))
        .collect();
    found.push(match condition(&host.status.conditions, "Ready") {
        Some(ready) => core_condition(ready, now),
        None => json!({
            "type": "Ready", "status": "Unknown", "reason": "NotSeenYet", "message": "the daemon was not asked yet",
            "lastTransitionTime": host.metadata.creation_timestamp,
        }),
    });
    found
}

fn core_condition(c: &Condition, now: Timestamp) -> Value {
    json!({
        "type": c.type_, "status": c.status, "reason": c.reason, "message": c.message,
        "lastTransitionTime": c.last_transition_time, "lastHeartbeatTime": heartbeat(c, now),
    })
}

/// When the daemon last answered. While a host is ready its checks pass, seconds apart; they are not written down each
/// time, so the time of the last one is now.
pub fn heartbeat(ready: &Condition, now: Timestamp) -> Value {
    if ready.status == ConditionStatus::True { object::time(now) } else { json!(ready.last_transition_time) }
}

pub fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let text = |pointer: &str| node.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let shown = |text: &str| Value::from(if text.is_empty() { columns::NONE } else { text });
    let items = |pointer: &str| node.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let ready = items("/status/conditions").find(|c| c["type"] == "Ready").and_then(|c| c["status"].as_str());
    let mut status = match ready {
        Some("True") => "Ready".to_owned(),
        Some("False") => "NotReady".to_owned(),
        _ => "Unknown".to_owned(),
    };
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let roles: Vec<&str> = object::meta(node)
        .and_then(|m| m.get("labels")?.as_object())
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    let address = items("/status/addresses").find(|a| a["type"] == "InternalIP").and_then(|a| a["address"].as_str());
    vec![
        text("/metadata/name").into(),
        status.into(),
        shown(&roles.join(",")),
        columns::since(object::text(node, "creationTimestamp"), now).into(),
        text("/status/nodeInfo/kubeletVersion").into(),
        shown(address.unwrap_or_default()),
        columns::NONE.into(),
        shown(text("/status/nodeInfo/osImage")),
        shown(text("/status/nodeInfo/kernelVersion")),
        shown(text("/status/nodeInfo/containerRuntimeVersion")),
    ]
}

/// Why a Node is not made or deleted.
pub fn not_by_itself() -> ApiError {
    ApiError::method_not_allowed("a node is the view of a DockerHost (dockerhosts.portreeve.dev): write that one")
}

/// PUT of a Node.
pub async fn replace(call: &Call, name: &str, parsed: Parsed) -> Result<Reply, ApiError> {
    if !parsed.value.is_object() {
        return Err(ApiError::bad_request("the request body is not an object"));
    }
    write(call, name, &parsed.duplicates, |_| Ok(parsed.value.clone())).await
}

/// PATCH of a Node.
pub async fn patch(call: &Call, name: &str, patch: Patch) -> Result<Reply, ApiError> {
    let subject = View::Nodes.subject(name);
    let duplicates = patch.duplicates().to_vec();
    write(call, name, &duplicates, |node| patch.apply(&subject, node).map(|(patched, _)| patched)).await
}

/// PATCH of a Node with `application/apply-patch+yaml`.
pub async fn apply(call: &Call, name: &str, bytes: &[u8]) -> Result<Reply, ApiError> {
    let (key, now) = (Key::host(name), call.state.clock.now());
    let applied = apply_node(call, &key, bytes, |node| as_host(node, name)).await;
    let mut reply = applied.map_err(|e| {
        if e.code() != http::StatusCode::NOT_FOUND {
            return e;
        }
        let why = format!(
            "there is no node {name:?}, and none is made by itself: make the DockerHost of that name \
             (dockerhosts.portreeve.dev)"
        );
        ApiError::method_not_allowed(&why)
    })?;
    reply.body = project(&reply.body, now)
        .ok_or_else(|| ApiError::internal(format!("{key}: the stored object cannot be read")))?;
    Ok(reply)
}

/// Writes what a changed Node means to its DockerHost. `change` gets the Node as it is.
async fn write(
    call: &Call,
    name: &str,
    duplicates: &[String],
    change: impl Fn(&Value) -> Result<Value, ApiError>,
) -> Result<Reply, ApiError> {
    let options = WriteOptions::of(&call.query)?;
    let now = call.state.clock.now();
    let key = Key::host(name);
    let unreadable = || ApiError::internal(format!("{key}: the stored object cannot be read"));
    let writer = Writer { subresource: NODE_VIEW.into(), ..call.writer(Kind::DockerHost, &options) };
    let written = modify(call, &key, Part::Main, &writer, options.dry_run, |host| {
        let node = project(host, now).ok_or_else(unreadable)?;
        let mut wanted = change(&node)?;
        object::strip_nulls(&mut wanted);
        let mut candidate = written_through(host, &node, &wanted)?;
        let warnings = admit::known_fields(Kind::DockerHost, &mut candidate, duplicates, options.fields)?;
        Ok(Candidate { object: candidate, warnings, managers: None })
    });
    let mut reply = written.await.map_err(|e| View::Nodes.told(e, name))?;
    reply.body = project(&reply.body, now).ok_or_else(unreadable)?;
    Ok(reply)
}

/// The parts of a Node that can be written.
pub(super) const WRITABLE: [(&str, &str); 4] =
    [("metadata", "labels"), ("metadata", "annotations"), ("spec", "unschedulable"), ("spec", "taints")];
/// What every client sends back as it was, or not at all.
const SERVER_SET: [&str; 6] =
    ["resourceVersion", "uid", "creationTimestamp", "deletionTimestamp", "managedFields", "generation"];

/// The DockerHost that a changed Node stands for. Errs when something else of it was changed: a change that is not
/// carried out must not look like one that was.
fn written_through(host: &Value, node: &Value, wanted: &Value) -> Result<Value, ApiError> {
    let name = object::text(node, "name");
    let given = object::text(wanted, "name");
    admit::same_name(if given.is_empty() { name } else { given }, name)?;
    admit::same_type(wanted, &View::Nodes.api_version(), View::Nodes.kind())?;
    only_writable(node, wanted)?;
    let mut candidate = host.clone();
    for (part, field) in WRITABLE {
        let mut value = wanted.get(part).and_then(|p| p.get(field)).cloned();
        let now = host.get(part).and_then(|p| p.get(field));
        if field == "annotations"
            && let Value::Object(annotations) = value.get_or_insert_with(|| json!({}))
        {
            node_owners::annotations_stored(now, annotations);
        }
        let Some(target) = candidate.get_mut(part).and_then(Value::as_object_mut) else { continue };
        match value.filter(|v| !is_nothing(v)) {
            Some(value) => drop(target.insert(field.into(), value)),
            // Someone may own that there is nothing.
            None if now.is_some_and(is_nothing) => {}
            None => drop(target.remove(field)),
        }
    }
    let meta = |object: &Value| object::meta(object).and_then(|m| m.get("managedFields")).cloned();
    if let Some(owners) = meta(wanted).filter(|owners| meta(node).as_ref() != Some(owners)) {
        let stored = node_owners::stored(meta(host).as_ref(), &owners);
        object::meta_mut(&mut candidate).insert("managedFields".into(), stored);
    }
    // The client's hold on a version and a uid is the DockerHost's to check.
    for field in ["resourceVersion", "uid"] {
        let held = object::text(wanted, field).to_owned();
        object::meta_mut(&mut candidate).insert(field.into(), held.into());
    }
    Ok(candidate)
}

/// What of a DockerHost a Node's configuration means, as one who applies it says it.
fn as_host(config: &Value, name: &str) -> Result<Value, ApiError> {
    let given = object::text(config, "name");
    admit::same_name(if given.is_empty() { name } else { given }, name)?;
    admit::same_type(config, &View::Nodes.api_version(), View::Nodes.kind())?;
    only_writable(&json!({"metadata": {"name": name}}), config)?;
    let kind = Kind::DockerHost;
    let mut host = json!({"apiVersion": kind.api_version(), "kind": kind.info().name, "metadata": {"name": name}});
    for field in ["resourceVersion", "uid"] {
        if let held @ Value::String(_) = &config["metadata"][field] {
            host["metadata"][field] = held.clone();
        }
    }
    for (part, field) in WRITABLE {
        if let Some(value) = config.get(part).and_then(|p| p.get(field)) {
            host[part][field] = value.clone();
        }
    }
    if let Some(Value::Object(annotations)) = host["metadata"].get_mut("annotations") {
        node_owners::annotations_stored(None, annotations);
    }
    Ok(host)
}

/// Errs when something is wanted that a Node cannot be told.
fn only_writable(node: &Value, wanted: &Value) -> Result<(), ApiError> {
    const WHY: &str = "only labels, annotations, spec.unschedulable and spec.taints of a node can be written; the rest is its DockerHost's";
    let mut errors = FieldErrors::default();
    for part in ["metadata", "spec"] {
        if wanted.get(part).is_some_and(|p| !p.is_object() && !p.is_null()) {
            return Err(ApiError::bad_request(format!("{part} in the request body is not an object")));
        }
        let (was, is) = (rest(node, part), rest(wanted, part));
        let changed = is.iter().filter(|(name, value)| was.get(*name) != Some(*value)).map(|(name, _)| name);
        errors.extend(changed.map(|name| FieldError::forbidden(format!("{part}.{name}"), WHY)));
    }
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let strange = wanted.as_object().into_iter().flatten().filter(|(name, _)| !known.contains(&name.as_str()));
    errors.extend(strange.map(|(name, _)| FieldError::forbidden(name, WHY)));
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(&View::Nodes.subject(object::text(node, "name")), &errors))
    }
}

/// Whether a value says no more than its absence.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    }
}

/// The members of a part that are neither writable nor the server's.
fn rest(object: &Value, part: &str) -> Map<String, Value> {
    let mut fields = object.get(part).and_then(Value::as_object).cloned().unwrap_or_default();
    fields.retain(|name, value| {
        !WRITABLE.contains(&(part, name.as_str())) && !SERVER_SET.contains(&name.as_str()) && !is_nothing(value)
    });
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Value {
        json!({
            "apiVersion": "portreeve.dev/v1", "kind": "DockerHost",
            "metadata": {"name": "a", "uid": "u", "resourceVersion": "7", "labels": {"zone": "x"}},
            "spec": {"endpoint": "tcp://10.0.0.3:2376"},
            "status": {
                "version": "27.0", "capacity": {"memory": "4Gi", "cpu": 4, "instances": 9},
                "conditions": [{"type": "Ready", "status": "True", "reason": "Connected", "message": "",
                                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        })
    }

    fn node() -> Value {
        project(&host(), Timestamp::UNIX_EPOCH).unwrap()
    }

    #[test]
    fn a_host_reads_as_a_node() {
        let node = node();
        assert_eq!(node["status"]["allocatable"], json!({"memory": "4Gi", "cpu": "4", "pods": "9"}));
        assert_eq!(node["status"]["addresses"][0], json!({"type": "InternalIP", "address": "10.0.0.3"}));
        assert_eq!(node["status"]["nodeInfo"]["containerRuntimeVersion"], "docker://27.0");
        assert_eq!(cells(&node, Timestamp::UNIX_EPOCH)[1], "Ready");
        assert_eq!(cells(&node, Timestamp::UNIX_EPOCH).len(), COLUMNS.len());
        assert_eq!(cells(&json!({}), Timestamp::UNIX_EPOCH)[1], "Unknown");
    }

    #[test]
    fn what_a_node_can_be_told_reaches_its_host() {
        let mut wanted = node();
        wanted["metadata"]["labels"] = json!({"zone": "y"});
        wanted["spec"] = json!({"unschedulable": true, "taints": [{"key": "k", "effect": "NoSchedule"}]});
        let written = written_through(&host(), &node(), &wanted).unwrap();
        assert_eq!(written["metadata"]["labels"], json!({"zone": "y"}));
        assert_eq!(
            written["spec"],
            json!({"endpoint": "tcp://10.0.0.3:2376", "unschedulable": true,
                                           "taints": [{"key": "k", "effect": "NoSchedule"}]})
        );
        let back = project(&written, Timestamp::UNIX_EPOCH).unwrap();
        wanted["spec"] = json!({"unschedulable": false, "taints": []});
        let written = written_through(&written, &back, &wanted).unwrap();
        assert_eq!(written["spec"], host()["spec"], "what is not so is not written down");
    }

    #[test]
    fn what_a_node_cannot_be_told_is_refused() {
        for (pointer, field) in [("/spec/podCIDR", "spec.podCIDR"), ("/metadata/finalizers", "metadata.finalizers")] {
            let mut wanted = node();
            let (part, name) = pointer[1..].split_once('/').unwrap();
            wanted[part][name] = json!(["x"]);
            let error = written_through(&host(), &node(), &wanted).unwrap_err();
            assert_eq!(error.code(), 422);
            assert!(error.to_string().contains(field), "{error}");
        }
        let mut wanted = node();
        wanted["metadata"]["name"] = "b".into();
        assert_eq!(written_through(&host(), &node(), &wanted).unwrap_err().code(), 400);
    }
}
