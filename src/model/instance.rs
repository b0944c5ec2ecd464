//! Instance: one user's app. The spec is what the user wrote; [`InstanceSpec`]'s methods apply the defaults where they are used.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::{is_default, resource};
use super::{
    Adopt, AllocatedResources, EnvFrom, EnvVar, Idle, InstanceStatus, Kind, Placement, Probes, Quantity, Route,
};

/// The finalizer that keeps an Instance until its container is really gone.
pub const FINALIZER: &str = "portreeve.dev/container";
/// Annotation: an RFC 3339 time at which someone asked for the instance to be awake (`portreeve wake`).
pub const WAKE_ANNOTATION: &str = "portreeve.dev/wake";
/// Annotation: the run of the container that is to fall asleep as soon as nothing uses it, as [`Instance::run`] names it
/// (`portreeve sleep`). The next run has another name, so a mark counts once.
pub const SLEEP_ANNOTATION: &str = "portreeve.dev/sleep";
/// Annotation: a change of its value re-creates the container (`portreeve restart`, `kubectl delete pod`).
pub const RESTART_ANNOTATION: &str = "portreeve.dev/restart";

/// Annotation: the id of a container that is to be made anew once, and since when (`kubectl delete pod`).
pub const RECREATE_ANNOTATION: &str = "portreeve.dev/recreate";
/// Annotation: the node that the instance is to leave, and since when (an eviction). It goes when the instance has left.
pub const EVICT_ANNOTATION: &str = "portreeve.dev/evict";

resource! {
    /// One private app of one user: a container that sleeps when idle and wakes on the next request.
    Instance, Kind::Instance, InstanceSpec, InstanceStatus
}

/// The desired state of an Instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceSpec {
    /// The user that the instance belongs to; free text that access rules match against.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 253))]
    pub owner: String,
    /// The image to run: `registry/repository:tag` or `repository@sha256:digest`.
    #[serde(default)]
    #[schemars(required, length(min = 1, max = 512))]
    pub image: String,
    /// When to pull the image. Default: Always for the tag `latest`, else IfNotPresent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// A Secret of the Instance's namespace, of type kubernetes.io/dockerconfigjson, with the login to the image's registry.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 253))]
    pub image_pull_secret: String,
    /// The program to run, in place of the image's entrypoint.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 256))]
    pub command: Vec<String>,
    /// Arguments, in place of the image's command.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 256))]
    pub args: Vec<String>,
    /// The directory to run in. Default: the image's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub working_dir: String,
    /// The user, or user:group, to run as. Default: the image's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub user: String,
    /// Environment variables. A later entry of the same name wins.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 512), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// Environment variables from all values of Secrets and ConfigMaps. A later entry wins over an earlier one, and env
    /// over all of them. Keys that cannot be names of variables are left out.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub env_from: Vec<EnvFrom>,
    /// Ports that the app listens on. Each gets a host port of its own on the node, kept for the instance's life.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub ports: Vec<Port>,
    /// Data that outlives the container.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub volumes: Vec<Volume>,
    /// Limits of the container.
    #[serde(default, skip_serializing_if = "is_default")]
    pub resources: Resources,
    /// How to find out whether the app is up.
    #[serde(default, skip_serializing_if = "is_default")]
    pub probes: Probes,
    /// Whether it runs. Default: Auto.
    #[serde(default, skip_serializing_if = "is_default")]
    pub power: Power,
    /// When an instance with power Auto goes to sleep.
    #[serde(default, skip_serializing_if = "is_default")]
    pub idle: Idle,
    /// Hosts and paths that lead to the instance's ports. Default: `{name}.{domain}`, all paths to the first port.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub routes: Vec<Route>,
    /// The instance's own network.
    #[serde(default, skip_serializing_if = "is_default")]
    pub network: InstanceNetwork,
    /// Where the instance may run.
    #[serde(default, skip_serializing_if = "is_default")]
    pub placement: Placement,
    /// The OCI runtime, as the node's daemon names it. Default: the daemon's default.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 63))]
    pub runtime: String,
    /// How many of the node's GPUs the instance has, each for itself alone. It keeps them while it sleeps, as it keeps its
    /// host ports. Default: 0.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(range(max = 64))]
    pub gpus: u32,
    /// Labels of the container, for other programs on its host, such as Traefik; in values `{name}` and `{namespace}` stand for
    /// the instance's. A change makes a new container, as Docker changes no labels. Setting any is the administrators' alone:
    /// such programs may believe whatever stands there.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("maxProperties" = 64))]
    pub container_labels: BTreeMap<String, String>,
    /// What the container may do to its host. Default: as little as ordinary images need.
    #[serde(default, skip_serializing_if = "is_default")]
    pub security: Security,
    /// A container that runs already, to begin with: it becomes the instance's as it is, and goes on running. What this spec
    /// says otherwise is brought about by another in its place. Set when the Instance is made, by administrators; changed never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<Adopt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// Before each new container.
    Always,
    /// When its host does not have it.
    IfNotPresent,
    /// Its host has it, or the instance fails.
    Never,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Power {
    /// Sleeps when idle, and wakes on the next request.
    #[default]
    Auto,
    /// Always on.
    Running,
    /// Stays off, whoever asks for it.
    Stopped,
}

/// One port that the app listens on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Name, used by routes and probes: a DNS label of at most 15 characters.
    #[schemars(length(min = 1, max = 15))]
    pub name: String,
    /// Port inside the container.
    #[schemars(range(min = 1, max = 65535))]
    pub container_port: u16,
    /// A fixed port on the host. Default: a free one of the node's range, kept for the instance's life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub host_port: Option<u16>,
}

/// One volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Name, unique in the instance: a DNS label.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Absolute path inside the container.
    #[schemars(length(min = 1, max = 4096))]
    pub mount_path: String,
    /// Absolute path on the host, made if missing; `{name}` and `{namespace}` stand for the instance's.
    /// Default: a named Docker volume of the instance's own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub host_path: String,
    /// A Docker volume that is there already, by its name in Docker, in place of one of the instance's own. It is never made
    /// and never removed. Giving one is the administrators' alone: it may be another's.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 255))]
    pub volume_name: String,
    /// Mount without the right to write.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// What deleting the instance does to a named Docker volume. A host path is always retained. Default: Retain.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reclaim: Reclaim,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Reclaim {
    /// It stays, with all that is in it.
    #[default]
    Retain,
    /// It is removed, if it is the instance's own.
    Delete,
}

/// Limits of the container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Resources {
    /// Memory limit in bytes (`256Mi`), at least 6Mi; swap is not given. Default: 256Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// CPU limit in cores (`500m` is half a core). Default: 500m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Most processes and threads. Default: 512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4194304))]
    pub pids: Option<i64>,
    /// Size of /dev/shm in bytes. Default: 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm: Option<Quantity>,
}

/// The instance's own network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InstanceNetwork {
    /// What it reaches of the world. A change makes the network anew. Default: Open.
    #[serde(default, skip_serializing_if = "is_default")]
    pub egress: Egress,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Egress {
    /// What its host reaches.
    #[default]
    Open,
    /// Connections to beyond its host get no answer, and routes to it work; no wall, as datagrams leave and the host itself is
    /// reached.
    None,
}

/// What the container may do to its host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Security {
    /// All rights on the host. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub privileged: bool,
    /// Mount the container's root file system read-only. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only_root: bool,
    /// Capabilities to add to the default set, without CAP_.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 64))]
    pub cap_add: Vec<String>,
    /// Capabilities to take from the default set, without CAP_; ALL takes every one.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 64))]
    pub cap_drop: Vec<String>,
    /// Forbid gaining rights by set-uid programs. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_new_privileges: Option<bool>,
}

/// The capabilities of a container unless `security` says otherwise: what ordinary images need to drop root
/// themselves, own their files and listen below port 1024. NET_RAW, MKNOD, SYS_CHROOT, SETFCAP, SETPCAP and
/// AUDIT_WRITE of Docker's own default are not among them.
pub const DEFAULT_CAPABILITIES: [&str; 8] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];

impl InstanceSpec {
    pub fn memory_bytes(&self) -> i64 {
        self.resources.memory.as_ref().map_or(256 << 20, Quantity::value)
    }

    pub fn cpu_milli(&self) -> i64 {
        self.resources.cpu.as_ref().map_or(500, Quantity::milli)
    }

    /// What it is to hold of its node while it is awake.
    pub fn asks(&self) -> AllocatedResources {
        AllocatedResources {
            memory: Quantity::from_bytes(self.memory_bytes()),
            cpu: Quantity::from_milli(self.cpu_milli()),
        }
    }

    pub fn pids(&self) -> i64 {
        self.resources.pids.unwrap_or(512)
    }

    pub fn shm_bytes(&self) -> i64 {
        self.resources.shm.as_ref().map_or(64 << 20, Quantity::value)
    }

    pub fn pull_policy(&self) -> ImagePullPolicy {
        self.image_pull_policy.unwrap_or_else(|| {
            let last = self.image.rsplit('/').next().unwrap_or_default();
            let latest = !self.image.contains('@') && last.rsplit_once(':').is_none_or(|(_, tag)| tag == "latest");
            if latest { ImagePullPolicy::Always } else { ImagePullPolicy::IfNotPresent }
        })
    }

    pub fn port(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|p| p.name == name)
    }
}

impl Volume {
    /// Whether the instance may write to it: what it wrote is on one host, and on no other.
    pub fn keeps_data(&self) -> bool {
        self.host_path.is_empty() || !self.read_only
    }
}

impl Instance {
    /// The name of a volume in Docker: one of the instance's own, or that of one that was there.
    pub fn volume_name(&self, volume: &Volume) -> String {
        if !volume.volume_name.is_empty() {
            return volume.volume_name.clone();
        }
        format!("pr.{}.{}.{}", self.metadata.namespace, self.metadata.name, volume.name)
    }

    /// Whether this very container is to be made anew. The container after it has another id, so a mark counts once.
    pub fn is_condemned(&self, container_id: &str) -> bool {
        self.recreation().is_some_and(|(id, _)| !id.is_empty() && id == container_id)
    }

    /// The container that is to be made anew, and since when.
    pub fn recreation(&self) -> Option<(&str, &str)> {
        let mark = self.metadata.annotations.get(RECREATE_ANNOTATION)?;
        Some(mark.split_once(' ').unwrap_or((mark, "")))
    }

    /// The name of the container's present run: which container, and since when. `None` before there is any.
    pub fn run(&self) -> Option<String> {
        let status = &self.status;
        (!status.container_id.is_empty())
            .then(|| format!("{} {}", status.container_id, status.started_at.map_or(String::new(), |t| t.to_string())))
    }

    /// Whether its present run, or the one that ended last, was sent to sleep.
    pub fn is_sent_to_sleep(&self) -> bool {
        self.metadata.annotations.get(SLEEP_ANNOTATION).is_some_and(|mark| self.run().as_ref() == Some(mark))
    }

    /// The node that the instance is to leave.
    pub fn evicted_from(&self) -> Option<&str> {
        self.eviction().map(|(node, _)| node)
    }

    /// The node that the instance is to leave, and since when; the time is empty in a mark set by hand.
    pub fn eviction(&self) -> Option<(&str, &str)> {
        let mark = self.metadata.annotations.get(EVICT_ANNOTATION)?;
        Some(mark.split_once(' ').unwrap_or((mark, "")))
    }

    /// What binds the instance to its node for good: the first of its volumes, in words. Data does not move with it.
    pub fn local_data(&self) -> Option<String> {
        let volume = self.spec.volumes.first()?;
        Some(if volume.host_path.is_empty() {
            format!("the data of its volume {:?} (a Docker volume)", volume.name)
        } else {
            format!("the data of its volume {:?} ({} on the host)", volume.name, self.fill(&volume.host_path))
        })
    }

    /// Replaces `{name}` and `{namespace}`.
    pub fn fill(&self, text: &str) -> String {
        text.replace("{name}", &self.metadata.name).replace("{namespace}", &self.metadata.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_image(image: &str) -> InstanceSpec {
        InstanceSpec { image: image.into(), ..Default::default() }
    }

    #[test]
    fn only_a_latest_tag_is_always_pulled() {
        for image in ["app", "app:latest", "registry:5000/app"] {
            assert_eq!(with_image(image).pull_policy(), ImagePullPolicy::Always, "{image}");
        }
        for image in ["app:1", "registry:5000/app:1", "app@sha256:00"] {
            assert_eq!(with_image(image).pull_policy(), ImagePullPolicy::IfNotPresent, "{image}");
        }
    }
}
