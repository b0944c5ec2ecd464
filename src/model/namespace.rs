//! Namespace: a scope for names, and what the end of one waits for.
//!
//! A Namespace that is to go is marked first (`deletionTimestamp`, phase Terminating); from that write on nothing new
//! comes into it. What makes an object in a namespace keeps to two rules that exclude every race with its end: its
//! transaction holds to the Namespace's revision, and writes [`namespace_use_mark`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::{is_default, resource};
use super::{Condition, Kind};

/// The namespace of what is the whole installation's: the Secrets that DockerHosts name. Whoever may read those is root
/// on the hosts, so only administrators get anything there but reading what is no Secret.
pub const SYSTEM_NAMESPACE: &str = "portreeve-system";

/// What stands in `spec.finalizers` until a namespace that ends is empty.
pub const NAMESPACE_FINALIZER: &str = "kubernetes";

/// `status.phase` while deletion is under way.
pub const TERMINATING: &str = "Terminating";

resource! {
    /// A scope for names.
    Namespace, Kind::Namespace, NamespaceSpec, NamespaceStatus
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NamespaceSpec {
    /// Who must finish before a namespace that is being deleted goes: `kubernetes` stands for its contents. Written at
    /// `finalize` only.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 64))]
    pub finalizers: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NamespaceStatus {
    /// Active or Terminating.
    #[serde(default, skip_serializing_if = "is_default")]
    pub phase: String,
    /// While it ends: what is left in it, and whose finalizers that waits for.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The store key that changes with every object made in a namespace, and goes with it.
pub fn namespace_use_mark(namespace: &str) -> String {
    format!("meta/api/namespace-use/{namespace}")
}
