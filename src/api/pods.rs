//! The core/v1 Pod view of Instances: read-only, for `kubectl logs`, `exec` and `get pods`.
//!
//! A Pod is there as long as the instance has a container. Its uid is that of the container's incarnation, so that
//! clients which wait for a Pod to go see it go when the container is made anew.

use axum::response::Response;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error::{ApiError, Subject};
use super::handler::Call;
use super::list as records;
use super::reply::Reply;
use super::selector::Selector;
use super::{ApiState, negotiate, object};
use crate::model::{Instance, Key, Kind, Phase, condition, is_true};

/// The one container of every Pod.
pub const CONTAINER: &str = "main";
const SELECTABLE: &[&str] = &["metadata.name", "metadata.namespace", "spec.nodeName", "status.phase"];

/// The Pod of an instance; `None` without a container.
pub fn project(instance: &Value) -> Option<Value> {
    let typed: Instance = serde_json::from_value(instance.clone()).ok()?;
    let status = &typed.status;
    if status.container_id.is_empty() {
        return None;
    }
    let ready = is_true(&status.conditions, "Ready");
    let started = status.started_at.map(|t| t.to_string());
    let running = matches!(status.phase, Phase::Running | Phase::Starting | Phase::Upgrading | Phase::Stopping);
    let phase = match status.phase {
        Phase::Running | Phase::Starting | Phase::Upgrading | Phase::Stopping => "Running",
        Phase::Pending | Phase::Pulling => "Pending",
        Phase::Asleep | Phase::Stopped => "Succeeded",
        Phase::Failed => "Failed",
        Phase::Lost => "Unknown",
    };
    let state = if running {
        json!({"running": {"startedAt": started}})
    } else if matches!(status.phase, Phase::Pending | Phase::Pulling | Phase::Lost) {
        json!({"waiting": {"reason": format!("{:?}", status.phase)}})
    } else {
        let exit = status.last_exit.as_ref();
        json!({"terminated": {
            "exitCode": exit.map_or(0, |e| e.exit_code),
            "reason": if exit.is_some_and(|e| e.oom_killed) { "OOMKilled".to_owned() } else { format!("{:?}", status.phase) },
            "startedAt": started,
            "finishedAt": exit.map(|e| e.finished_at.to_string()),
        }})
    };
    let message = condition(&status.conditions, "Ready").map(|c| c.message.clone()).unwrap_or_default();
    let since = condition(&status.conditions, "Ready").map(|c| c.last_transition_time.to_string());
    let ports: Vec<Value> = typed
        .spec
        .ports
        .iter()
        .map(|p| json!({"name": p.name, "containerPort": p.container_port, "hostPort": status.host_port(&p.name), "protocol": "TCP"}))
        .collect();
    let meta = &typed.metadata;
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": meta.name, "namespace": meta.namespace, "uid": incarnation(&meta.uid, &status.container_id),
            "resourceVersion": meta.resource_version, "creationTimestamp": started.clone().or(meta.creation_timestamp.map(|t| t.to_string())),
            "labels": meta.labels,
            "ownerReferences": [{
                "apiVersion": Kind::Instance.api_version(), "kind": "Instance", "name": meta.name, "uid": meta.uid,
                "controller": true,
            }],
        },
        "spec": {
            "nodeName": status.node, "restartPolicy": "Always",
            "containers": [{"name": CONTAINER, "image": typed.spec.image, "ports": ports, "resources": {}}],
        },
        "status": {
            "phase": phase, "podIP": status.address, "hostIP": status.address, "startTime": started, "message": message,
            "conditions": [{
                "type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": since,
            }],
            "containerStatuses": [{
                "name": CONTAINER, "image": typed.spec.image, "imageID": status.image.id,
                "containerID": format!("docker://{}", status.container_id), "ready": ready,
                "restartCount": status.restarts, "started": running, "state": state, "lastState": {},
            }],
        },
    });
    object::strip_nulls(&mut pod);
    Some(pod)
}

/// A uid from the instance's and the container's.
fn incarnation(uid: &str, container_id: &str) -> String {
    let digest = Sha256::digest(format!("{uid}/{container_id}").as_bytes());
    let bytes: [u8; 16] = std::array::from_fn(|i| digest[i]);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// The Pod of a name, or 404.
pub async fn fetch(state: &ApiState, namespace: &str, name: &str) -> Result<Value, ApiError> {
    let missing = || ApiError::not_found(&Subject::pod(name));
    let record = state.store.get(&Key::instance(namespace, name).to_string()).await?.ok_or_else(missing)?;
    project(&object::decode(Kind::Instance, &record)?).ok_or_else(missing)
}

pub async fn get(call: &Call, name: &str) -> Result<Response, ApiError> {
    let namespace = call.place.namespace.as_deref().unwrap_or_default();
    let pod = fetch(&call.state, namespace, name).await?;
    let version = object::text(&pod, "resourceVersion").to_owned();
    Ok(Reply::ok(shaped(call, vec![pod], json!({"resourceVersion": version}), false)?).into_response())
}

pub async fn list(call: &Call) -> Result<Response, ApiError> {
    if call.query.flag("watch") {
        return Err(ApiError::method_not_allowed("pods cannot be watched; watch the instances"));
    }
    let selector = Selector::parse(call.query.get("labelSelector"), call.query.get("fieldSelector"), SELECTABLE)?;
    let namespace = call.place.namespace.as_deref();
    let all = Selector::default();
    let found = records::collect(&call.state, Kind::Instance, namespace, &all, &records::Window::default()).await?;
    let pods: Vec<Value> = found.items.iter().filter_map(project).filter(|p| selector.matches(p)).collect();
    let meta = json!({"resourceVersion": found.revision.0.to_string()});
    Ok(Reply::ok(shaped(call, pods, meta, true)?).into_response())
}

/// One Pod or a list of them, in the form that was asked for.
fn shaped(call: &Call, mut pods: Vec<Value>, meta: Value, many: bool) -> Result<Value, ApiError> {
    let now = call.state.clock.now();
    Ok(match negotiate::form(&call.headers)? {
        negotiate::Form::Json | negotiate::Form::Metadata(_) if many => {
            json!({"kind": "PodList", "apiVersion": "v1", "metadata": meta, "items": pods})
        }
        negotiate::Form::Json | negotiate::Form::Metadata(_) => pods.pop().unwrap_or_default(),
        negotiate::Form::Table(version) => {
            let columns = ["Name", "Ready", "Status", "Restarts", "Age", "Node"];
            let definition = |name: &&str| {
                let (kind, format) = if *name == "Name" { ("string", "name") } else { ("string", "") };
                json!({"name": name, "type": kind, "format": format, "description": "", "priority": i32::from(*name == "Node")})
            };
            let rows: Vec<Value> = pods
                .iter()
                .map(|pod| json!({"cells": cells(pod, now), "object": super::table::metadata_only(pod.clone(), version)}))
                .collect();
            json!({
                "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": meta,
                "columnDefinitions": columns.iter().map(definition).collect::<Vec<_>>(), "rows": rows,
            })
        }
    })
}

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let at = |pointer: &str| pod.pointer(pointer).cloned().unwrap_or_default();
    let ready = at("/status/containerStatuses/0/ready") == true;
    vec![
        at("/metadata/name"),
        if ready { "1/1".into() } else { "0/1".into() },
        at("/status/phase"),
        at("/status/containerStatuses/0/restartCount").to_string().into(),
        super::columns::since(object::text(pod, "creationTimestamp"), now).into(),
        at("/spec/nodeName"),
    ]
}
