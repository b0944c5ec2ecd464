//! The `coordination.k8s.io/v1` Lease of each DockerHost, in namespace `kube-node-lease`: what `kubectl describe node`
//! reads to tell when a node was last heard of. Read-only, and derived: no heartbeat is ever written.

use jiff::Timestamp;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::super::columns::{self, Column};
use super::super::object;
use super::nodes;
use crate::model::{DockerHost, condition};

/// The namespace of all of them.
pub const NAMESPACE: &str = "kube-node-lease";

/// How long after its last check a host counts as lost: two checks.
const LASTS_SECONDS: u32 = 8;

pub const SELECTABLE: &[&str] = &["metadata.name", "metadata.namespace"];

pub static COLUMNS: [Column; 3] = [columns::NAME, columns::column("Holder", "string", "The DockerHost."), columns::AGE];

/// The Lease of a DockerHost; `None` before its daemon was first asked.
pub fn project(host: &Value, now: Timestamp) -> Option<Value> {
    let typed = DockerHost::deserialize(host).ok()?;
    let ready = condition(&typed.status.conditions, "Ready")?;
    let mut renewed = nodes::heartbeat(ready, now);
    if let Some(text) = renewed.as_str().and_then(|t| t.strip_suffix('Z')) {
        // Kubernetes' MicroTime: its decoder insists on the fraction.
        renewed = format!("{text}.000000Z").into();
    }
    let meta = &typed.metadata;
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": meta.name, "namespace": NAMESPACE, "uid": meta.uid, "resourceVersion": meta.resource_version,
            "creationTimestamp": meta.creation_timestamp,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": meta.name, "uid": meta.uid}],
        },
        "spec": {"holderIdentity": meta.name, "leaseDurationSeconds": LASTS_SECONDS, "renewTime": renewed},
    });
    object::strip_nulls(&mut lease);
    Some(lease)
}

pub fn cells(lease: &Value, now: Timestamp) -> Vec<Value> {
    let at = |pointer: &str| lease.pointer(pointer).cloned().unwrap_or_default();
    vec![
        at("/metadata/name"),
        at("/spec/holderIdentity"),
        columns::since(object::text(lease, "creationTimestamp"), now).into(),
    ]
}
