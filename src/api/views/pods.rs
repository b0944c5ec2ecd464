//! The core/v1 Pod view of Instances, for `kubectl logs`, `exec`, `get pods` and `drain`. It is not written; deleting a Pod
//! makes the container anew, and never deletes the Instance.
//!
//! A Pod is there as long as the instance has a container. Its uid is that of the container's incarnation, so that
//! clients which wait for a Pod to go see it go when the container is made anew.

use jiff::Timestamp;
use serde::Deserialize as _;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::columns::{self, Column};
use super::super::delete::DeleteOptions;
use super::super::error::{ApiError, Subject};
use super::super::handler::Call;
use super::super::object;
use super::super::query::WriteOptions;
use super::super::reply::Reply;
use super::super::update::{Candidate, Part, modify};
use super::{View, pod_spec};
use crate::model::{Condition, Instance, Key, Kind, LastExit, Phase, RECREATE_ANNOTATION, Time, condition, is_true};

/// The reason of an instance's Ready condition while it leaves its node; the controller's word.
const MOVING: &str = "Moving";
/// The one container of every Pod.
pub const CONTAINER: &str = "main";
/// The field paths that Pods may be selected by.
pub const SELECTABLE: &[&str] = &["metadata.name", "metadata.namespace", "spec.nodeName", "status.phase"];

pub static COLUMNS: [Column; 7] = [
    columns::NAME,
    columns::column("Ready", "string", "How many of the containers are ready."),
    columns::column("Status", "string", "The phase."),
    columns::column("Restarts", "string", "How often the container was started again."),
    columns::AGE,
    columns::wide("IP", "string", "Where its host ports are reached."),
    columns::wide("Node", "string", "The DockerHost that it runs on."),
];

/// The Pod of an instance; `None` without a container.
pub fn project(instance: &Value) -> Option<Value> {
    let typed = Instance::deserialize(instance).ok()?;
    let status = &typed.status;
    if status.container_id.is_empty() {
        return None;
    }
    let ready = is_true(&status.conditions, "Ready");
    let started = status.started_at.map(|t| t.to_string());
    let running =
        matches!(status.phase, Phase::Running | Phase::Starting | Phase::Upgrading | Phase::Stopping | Phase::Moving);
    let phase = match status.phase {
        // One that sleeps wakes on use, and kubectl must not refuse to use it: that it waits is told below.
        Phase::Running
        | Phase::Starting
        | Phase::Upgrading
        | Phase::Stopping
        | Phase::Moving
        | Phase::Frozen
        | Phase::Asleep => "Running",
        Phase::Pending | Phase::Pulling => "Pending",
        Phase::Stopped => "Succeeded",
        Phase::Failed => "Failed",
        Phase::Lost => "Unknown",
    };
    let state = if running {
        json!({"running": {"startedAt": started}})
    } else if matches!(status.phase, Phase::Pending | Phase::Pulling | Phase::Lost | Phase::Frozen | Phase::Asleep) {
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
    let (meta, annotations) = (&typed.metadata, pod_spec::annotations(&typed));
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": meta.name, "namespace": meta.namespace, "uid": incarnation(&meta.uid, &status.container_id),
            "resourceVersion": meta.resource_version, "creationTimestamp": started.clone().or(meta.creation_timestamp.map(|t| t.to_string())),
            "labels": meta.labels, "annotations": (!annotations.is_empty()).then_some(annotations), "deletionTimestamp": going_since(&typed),
            "ownerReferences": [{
                "apiVersion": Kind::Instance.api_version(), "kind": "Instance", "name": meta.name, "uid": meta.uid,
                "controller": true,
            }],
        },
        "spec": pod_spec::spec(&typed),
        "status": {
            "phase": phase, "podIP": status.address, "podIPs": [{"ip": status.address}], "hostIP": status.address,
            "hostIPs": [{"ip": status.address}], "startTime": started, "message": message, "qosClass": "Guaranteed",
            "conditions": conditions(&status.conditions),
            "containerStatuses": [{
                "name": CONTAINER, "image": typed.spec.image, "imageID": status.image.id,
                "containerID": format!("docker://{}", status.container_id), "ready": ready,
                "restartCount": status.restarts, "started": running, "state": state, "lastState": last_state(&typed),
            }],
        },
    });
    object::strip_nulls(&mut pod);
    Some(pod)
}

/// Those that Kubernetes knows, as far as the Instance tells them: it has one container, which is ready when it is.
fn conditions(of: &[Condition]) -> Vec<Value> {
    let shown = [("PodScheduled", "Scheduled"), ("ContainersReady", "Ready"), ("Ready", "Ready")];
    let known = shown.into_iter().filter_map(|(name, ours)| Some((name, condition(of, ours)?)));
    known
        .map(|(name, told)| {
            json!({
                "type": name, "status": told.status, "reason": told.reason, "message": told.message,
                "lastTransitionTime": told.last_transition_time,
            })
        })
        .collect()
}

/// How the run before the present one ended, when it ended by itself.
fn last_state(instance: &Instance) -> Value {
    let status = &instance.status;
    let over = |exit: &&LastExit| status.started_at.is_some_and(|started| exit.finished_at <= started);
    let Some(exit) = status.last_exit.as_ref().filter(over) else { return json!({}) };
    let reason = match exit.exit_code {
        _ if exit.oom_killed => "OOMKilled",
        0 => "Completed",
        _ => "Error",
    };
    json!({"terminated": {
        "exitCode": exit.exit_code, "reason": reason, "startedAt": exit.started_at, "finishedAt": exit.finished_at,
    }})
}

/// Since when this incarnation is on its way out: made anew, moved, deleted with its instance, or evicted.
fn going_since(instance: &Instance) -> Option<String> {
    let evicted = || {
        let (_, since) = instance.eviction().filter(|(node, _)| *node == instance.status.node)?;
        marked_at(instance, since)
    };
    ending_since(instance).or_else(evicted)
}

/// Since when this incarnation is being ended, whether its instance leaves the node or not.
fn ending_since(instance: &Instance) -> Option<String> {
    let (meta, status) = (&instance.metadata, &instance.status);
    if let Some(time) = meta.deletion_timestamp {
        return Some(time.to_string());
    }
    let ready = condition(&status.conditions, "Ready");
    if let Some(moving) = ready.filter(|c| c.reason == MOVING) {
        return Some(moving.last_transition_time.to_string());
    }
    let (_, since) = instance.recreation().filter(|(id, _)| *id == status.container_id)?;
    marked_at(instance, since)
}

/// The time of a mark; one that tells none is as old as the instance.
fn marked_at(instance: &Instance, since: &str) -> Option<String> {
    let since = since.parse::<Timestamp>().ok().map(Time::from).or(instance.metadata.creation_timestamp)?;
    Some(since.to_string())
}

/// Sets an annotation.
pub fn annotate(object: &mut Value, name: &str, value: String) {
    let annotations = object::meta_mut(object).entry("annotations").or_insert_with(|| json!({}));
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[name] = value.into();
}

/// DELETE of a Pod: its container is to be made anew, with the same ports and volumes. The mark names the container, so
/// it is done once, however often it is asked for.
pub async fn delete(call: &Call, name: &str, options: &DeleteOptions) -> Result<Reply, ApiError> {
    let key = Key::instance(call.place.namespace.clone().unwrap_or_default(), name);
    let subject = Subject::pod(name);
    let now = Time::from(call.state.clock.now());
    let writer = call.writer(Kind::Instance, &WriteOptions::of(&call.query)?);
    let written = modify(call, &key, Part::Main, &writer, options.dry_run, |instance| {
        let pod = project(instance).ok_or_else(|| ApiError::not_found(&subject))?;
        options.check(&subject, &pod)?;
        let mut new = instance.clone();
        // One that is evicted may have to stay, and is made anew where it is.
        if Instance::deserialize(instance).is_ok_and(|typed| ending_since(&typed).is_none()) {
            let id = instance.pointer("/status/containerID").and_then(Value::as_str).unwrap_or_default();
            annotate(&mut new, RECREATE_ANNOTATION, format!("{id} {now}"));
        }
        Ok(Candidate { object: new, warnings: vec![], managers: None })
    });
    let reply = written.await.map_err(|e| View::Pods.told(e, name))?;
    project(&reply.body).map(Reply::ok).ok_or_else(|| ApiError::not_found(&subject))
}

/// A uid from the instance's and the container's.
fn incarnation(uid: &str, container_id: &str) -> String {
    let digest = Sha256::digest(format!("{uid}/{container_id}").as_bytes());
    let bytes: [u8; 16] = std::array::from_fn(|i| digest[i]);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// As Kubernetes' own printer has it: that it goes says more than what its container waits for or ended by, and that more
/// than the phase.
fn shown_status(pod: &Value) -> Value {
    let phase = pod.pointer("/status/phase").cloned().unwrap_or_default();
    let goes = pod.pointer("/metadata/deletionTimestamp").is_some();
    if goes && phase == "Unknown" {
        return phase;
    }
    if goes && phase != "Succeeded" && phase != "Failed" {
        return "Terminating".into();
    }
    let state = pod.pointer("/status/containerStatuses/0/state");
    let reason = |of: &str| state.and_then(|s| s.get(of)?.get("reason")).cloned();
    reason("waiting").or_else(|| reason("terminated")).unwrap_or(phase)
}

pub fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let at = |pointer: &str| pod.pointer(pointer).cloned().unwrap_or_default();
    let ready = at("/status/containerStatuses/0/ready") == true;
    vec![
        at("/metadata/name"),
        if ready { "1/1".into() } else { "0/1".into() },
        shown_status(pod),
        at("/status/containerStatuses/0/restartCount").to_string().into(),
        columns::since(object::text(pod, "creationTimestamp"), now).into(),
        at("/status/podIP"),
        at("/spec/nodeName"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_pod_is_what_kubernetes_own_printer_says() {
        let shown = |phase: &str, state: Value, goes: bool| {
            let deleted = goes.then_some("2026-01-01T00:00:00Z");
            let mut pod = json!({
                "metadata": {"name": "a", "deletionTimestamp": deleted},
                "status": {"phase": phase, "containerStatuses": [{"state": state}]},
            });
            object::strip_nulls(&mut pod);
            cells(&pod, Timestamp::UNIX_EPOCH)[2].clone()
        };
        let running = || json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        let waiting = || json!({"waiting": {"reason": "Asleep"}});
        let ended = || json!({"terminated": {"reason": "OOMKilled", "exitCode": 137}});
        for (phase, state, goes, wanted) in [
            ("Running", running(), false, "Running"),
            ("Running", waiting(), false, "Asleep"),
            ("Failed", ended(), false, "OOMKilled"),
            ("Pending", json!({}), false, "Pending"),
            ("Running", running(), true, "Terminating"),
            ("Running", waiting(), true, "Terminating"),
            ("Failed", ended(), true, "OOMKilled"),
            ("Unknown", json!({}), true, "Unknown"),
        ] {
            assert_eq!(shown(phase, state.clone(), goes), wanted, "{phase} {state} {goes}");
        }
    }

    #[test]
    fn a_row_has_a_cell_for_each_column() {
        assert_eq!(cells(&json!({}), Timestamp::UNIX_EPOCH).len(), COLUMNS.len());
    }
}
