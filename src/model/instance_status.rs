//! The status of an Instance: what is bound to it and what was seen of it. Only controllers write it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::is_default;
use super::{Adopted, Condition, MicroTime, Quantity, Time};

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Not placed or not begun.
    #[default]
    Pending,
    /// The node fetches the image.
    Pulling,
    /// The container is being made or started, or has not passed its startup probe.
    Starting,
    /// Started; the Ready condition tells whether it can serve.
    Running,
    /// Paused for being idle: its memory stays, and the next request wakes it within milliseconds.
    Frozen,
    /// Stopped for being idle; the next request wakes it.
    Asleep,
    /// Being stopped or removed.
    Stopping,
    /// Stopped by `power: Stopped`.
    Stopped,
    /// A new container replaces the old one.
    Upgrading,
    /// Leaves its node for another.
    Moving,
    /// Cannot run; the Ready condition tells why and what is tried next.
    Failed,
    /// The node cannot be reached; what runs there is unknown.
    Lost,
}

impl Phase {
    pub const ALL: [Phase; 12] = [
        Phase::Pending,
        Phase::Pulling,
        Phase::Starting,
        Phase::Running,
        Phase::Frozen,
        Phase::Asleep,
        Phase::Stopping,
        Phase::Stopped,
        Phase::Upgrading,
        Phase::Moving,
        Phase::Failed,
        Phase::Lost,
    ];
}

/// The observed state of an Instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    #[serde(default)]
    pub phase: Phase,
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub observed_generation: i64,
    /// The DockerHost that the instance is bound to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub node: String,
    /// Where the proxy reaches the host ports.
    #[serde(default, skip_serializing_if = "is_default")]
    pub address: String,
    /// The full id of the container.
    #[serde(default, rename = "containerID", skip_serializing_if = "is_default")]
    pub container_id: String,
    /// When the container was last started.
    #[serde(default, skip_serializing_if = "is_default")]
    pub started_at: Option<Time>,
    /// When that start was first seen, by the control plane's clock: what a daemon's clock says may be off.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start_seen_at: Option<Time>,
    /// When the container ended that was last stopped on purpose, by its daemon's clock: this end is no crash.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ended_at: Option<MicroTime>,
    /// The image of the container that is there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub image: ImageStatus,
    /// The host ports bound to the instance, whether it runs or not.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub ports: Vec<BoundPort>,
    /// Host ports of the node that something else holds, which kept a start from succeeding: others are bound in their
    /// place. Forgotten when the app runs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub refused_ports: Vec<u16>,
    /// What the instance holds of its node's memory and CPU: from when it is placed or wakes until it has fallen asleep or
    /// stopped. While a larger limit in the spec waits for room it is the smaller one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated_resources: Option<AllocatedResources>,
    /// The node's GPU devices bound to the instance, whether it runs or not: `0`, `GPU-8dbd3a9f`, `nvidia.com/gpu=0`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gpus: Vec<String>,
    /// The IPv4 subnet of the instance's network, cut from its node's `subnetPool` and kept while it is bound there. Empty
    /// for a network that is older than subnets of ours: the daemon chose that one's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub subnet: String,
    /// Subnets that the node's daemon refused because something else has them: others are bound in their place. Forgotten
    /// when the app runs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub refused_subnets: Vec<String>,
    /// The Docker volumes that the container was made with: one of these that is gone is lost data, not a new volume.
    #[serde(default, skip_serializing_if = "is_default")]
    pub volumes: Vec<String>,
    /// The container that the instance began with, when it was not made for it. It stays written when another has taken its
    /// place: a container is adopted once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopted: Option<Adopted>,
    /// The address to open in a browser.
    #[serde(default, skip_serializing_if = "is_default")]
    pub url: String,
    /// When the instance was last used; written when it falls asleep and now and then while awake.
    #[serde(default, skip_serializing_if = "is_default")]
    pub last_active: Option<Time>,
    /// How often the container was started again after it had ended by itself, or its liveness probe had failed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restarts: i64,
    /// How often in a row it ended soon after its start; decides the back-off.
    #[serde(default, skip_serializing_if = "is_default")]
    pub crashes: i64,
    /// How the container last ended by itself, or for its liveness probe.
    #[serde(default, skip_serializing_if = "is_default")]
    pub last_exit: Option<LastExit>,
    /// Scheduled, Ready, UpToDate, HostLost; Freezable where the node's daemon does not freeze it; RoutesAccepted where another
    /// instance has a host of its routes.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Memory and CPU that a node has set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AllocatedResources {
    /// Bytes of memory.
    pub memory: Quantity,
    /// Cores.
    pub cpu: Quantity,
}

impl AllocatedResources {
    /// Whether this is at least as much of both.
    pub fn covers(&self, other: &AllocatedResources) -> bool {
        self.memory.value() >= other.memory.value() && self.cpu.milli() >= other.cpu.milli()
    }
}

/// What a container was made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ImageStatus {
    /// The image as the container was made from it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reference: String,
    /// The image's id (`sha256:…`) on the node.
    #[serde(default, skip_serializing_if = "is_default")]
    pub id: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BoundPort {
    /// The name of the port, as in `spec.ports`.
    pub name: String,
    /// The port of the host that leads to it.
    pub host_port: u16,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastExit {
    /// The exit code; above 128, the signal that ended it and 128.
    pub exit_code: i64,
    /// Whether the kernel killed it for passing its memory limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub oom_killed: bool,
    /// When that run of the container began.
    #[serde(default, skip_serializing_if = "is_default")]
    pub started_at: Option<Time>,
    /// When it ended, by its daemon's clock.
    pub finished_at: Time,
    /// When that end was first seen, by the control plane's clock; the next start is reckoned from here.
    #[serde(default, skip_serializing_if = "is_default")]
    pub seen_at: Option<Time>,
    /// Whether it was stopped because its liveness probe failed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unhealthy: bool,
}

impl InstanceStatus {
    pub fn host_port(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|p| p.name == name).map(|p| p.host_port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_is_among_all() {
        let schema = serde_json::to_value(schemars::schema_for!(Phase)).unwrap();
        let told = schema["oneOf"].as_array().unwrap().iter().map(|one| one["const"].clone());
        assert_eq!(told.collect::<Vec<_>>(), Phase::ALL.map(|phase| serde_json::to_value(phase).unwrap()));
    }
}
