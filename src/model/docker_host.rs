//! DockerHost: one Docker daemon.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::{is_default, resource};
use super::{Condition, Kind, OUT_OF_SERVICE, Quantity, Taint, TaintEffect, Time};

resource! {
    /// One Docker daemon that runs instances.
    DockerHost, Kind::DockerHost, DockerHostSpec, DockerHostStatus
}

/// The desired state of a DockerHost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DockerHostSpec {
    /// Where the daemon listens: `unix:///var/run/docker.sock`, `tcp://10.0.0.3:2376` (mutual TLS), or where the docker
    /// command reaches it: `ssh://deploy@10.0.0.3:22`, whose user and port may be left to ssh's settings.
    #[serde(default)]
    #[schemars(required, length(min = 1, max = 512))]
    pub endpoint: String,
    /// Credentials of a tcp endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<HostTls>,
    /// How to log in at an ssh endpoint. Default: as the settings of the control plane's user say (`~/.ssh`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<HostSsh>,
    /// The IP address on which host ports are published and where routes reach them.
    /// Default: the endpoint's, if that is an IP address; 127.0.0.1 for a unix endpoint.
    #[serde(default, skip_serializing_if = "is_default")]
    pub address: String,
    /// What instances may use in all. Default: what the daemon reports, less 512Mi.
    #[serde(default, skip_serializing_if = "is_default")]
    pub capacity: Capacity,
    /// How often its memory and its cores may be promised to instances that are awake.
    #[serde(default, skip_serializing_if = "is_default")]
    pub overcommit: Overcommit,
    /// The id of the only daemon to talk to. Default: that of the daemon that answered first; to accept another in
    /// its place, say its id here.
    #[serde(default, rename = "daemonID", skip_serializing_if = "is_default")]
    #[schemars(length(max = 256))]
    pub daemon_id: String,
    /// Host ports for instances, inclusive. Default: 30000-39999.
    #[serde(default, skip_serializing_if = "is_default")]
    pub port_range: String,
    /// The private IPv4 range that the networks of instances are cut from, one subnet each; nothing else of the host's may
    /// be in it, nor anything that instances are to reach. Default: 10.213.0.0/16.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 18))]
    pub subnet_pool: String,
    /// Prefix length of one such subnet: 28 has 13 addresses for containers, 29 has 5. Networks that are there keep
    /// theirs. Default: 28.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 24, max = 29))]
    pub subnet_size: Option<u8>,
    /// Whether new instances stay away.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unschedulable: bool,
    /// Marks that keep instances away which do not tolerate them.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "atomic"))]
    pub taints: Vec<Taint>,
}

/// Credentials for a daemon's mutual TLS: exactly one of directory and secret, or else that there is none. They are read anew
/// for each connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostTls {
    /// A directory on the control plane's machine with ca.pem, and cert.pem with key.pem
    /// (or client-cert.pem with client-key.pem). previous-cert.pem with previous-key.pem are shown to a daemon that
    /// does not trust the signer of the other. Also, as in Secrets of type kubernetes.io/tls: ca.crt, tls.crt, tls.key.
    #[serde(default, skip_serializing_if = "is_default")]
    pub directory: String,
    /// The name of a Secret in the namespace `portreeve-system`, which only administrators may write to and read Secrets
    /// in; its keys are named as the files of a directory are.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 253))]
    pub secret: String,
    /// No TLS at all. Whoever reaches such an endpoint is root on its machine, and whoever is on the way reads and changes
    /// everything, Secrets too: only where the network itself admits and encrypts (WireGuard). Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub insecure_plaintext: bool,
}

impl HostTls {
    /// Whether there is to be no TLS; credentials that are named count, whatever else is said.
    pub fn is_plaintext(&self) -> bool {
        self.insecure_plaintext && self.directory.is_empty() && self.secret.is_empty()
    }
}

/// How to log in by ssh. The host's key must be known in any case. Read anew for each connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostSsh {
    /// The name of a Secret in the namespace `portreeve-system`, of type kubernetes.io/ssh-auth: ssh-privatekey is a key
    /// without a passphrase, and known_hosts the host's keys as ssh-keyscan prints them. No settings of the control plane's
    /// user count then.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 253))]
    pub secret: String,
    /// A file with the private key on the control plane's machine; no other key is tried then.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 512))]
    pub identity_file: String,
    /// A file with the hosts' keys on the control plane's machine; no other such file counts then.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 512))]
    pub known_hosts: String,
}

/// Amounts of what a host has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Capacity {
    /// Bytes of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
    /// Number of instances, awake or not. Default: 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100000))]
    pub instances: Option<i64>,
    /// Number of GPUs. Default: those that the daemon tells of, by its `node-generic-resources` or by CDI. A daemon that tells of
    /// none is asked for the devices 0, 1 and so on, which is how NVIDIA's runtime counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 64))]
    pub gpus: Option<i64>,
}

impl Capacity {
    /// How many instances a host takes.
    pub fn most_instances(&self) -> i64 {
        self.instances.unwrap_or(1000)
    }
}

/// Factors of a host's capacity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overcommit {
    /// Of the memory: above 1, instances that use all that they may have end one another. From 0.1 to 10. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Of the cores, which those who want them at the same time share. From 0.1 to 100. Default: 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Quantity>,
}

/// What is reserved of a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Allocation {
    /// Bytes of memory: the limits of the instances that are neither asleep nor stopped.
    pub memory: Quantity,
    /// Cores: their CPU limits.
    pub cpu: Quantity,
    /// Number of instances bound to it, awake or not.
    pub instances: i64,
    /// Number of GPUs bound to them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gpus: i64,
}

/// The observed state of a DockerHost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DockerHostStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub observed_generation: i64,
    /// Ready: the daemon answers. TLSValid: the certificates by which it is reached are good for a month or more.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Version of the daemon.
    #[serde(default, skip_serializing_if = "is_default")]
    pub version: String,
    /// The newest API version that the daemon speaks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub api_version: String,
    /// The daemon's own id.
    #[serde(default, rename = "daemonID", skip_serializing_if = "is_default")]
    pub daemon_id: String,
    /// The operating system, with its version: `Debian GNU/Linux 12 (bookworm)`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub os: String,
    /// The version of the kernel.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kernel: String,
    /// As Go names it: amd64, arm64.
    #[serde(default, skip_serializing_if = "is_default")]
    pub architecture: String,
    /// What the daemon keeps images and containers with: overlay2, btrfs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub storage_driver: String,
    /// The names of the runtimes that the daemon can start containers with: runc, runsc.
    #[serde(default, skip_serializing_if = "is_default")]
    pub runtimes: Vec<String>,
    /// The GPU devices that instances may have, as the daemon names them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gpus: Vec<String>,
    /// What instances may use in all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub capacity: Capacity,
    /// When the first of the certificates ends by which the daemon is reached: its own, or the newest shown to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<Time>,
    /// What the instances bound here reserve of the capacity, as placement counts it. What they use at the moment is in
    /// `metrics.k8s.io`, not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated: Option<Allocation>,
}

/// The reason of a Ready condition: nobody answers, or not in time.
pub const UNREACHABLE: &str = "Unreachable";
/// The reason of a condition: what the daemon is to be reached with is not there, or is of no use.
pub const CREDENTIALS_INVALID: &str = "CredentialsInvalid";
/// The reason of a Ready condition: who is there does not let us in, or shows another key than the known one.
pub const LOGIN_REFUSED: &str = "LoginRefused";
/// The reason of a Ready condition: another, older DockerHost leads to the same daemon.
pub const DAEMON_SHARED: &str = "DaemonShared";
/// The reason of a Ready condition: another daemon answers than before.
pub const DAEMON_CHANGED: &str = "DaemonChanged";

impl DockerHost {
    /// Bytes of memory that instances which are awake may hold in all; `None`: not known yet.
    pub fn memory_limit(&self) -> Option<i128> {
        let memory = self.status.capacity.memory.as_ref()?;
        Some(times(memory.value(), self.spec.overcommit.memory.as_ref(), 1))
    }

    /// Thousandths of a core that they may hold in all.
    pub fn cpu_limit(&self) -> Option<i128> {
        let cpu = self.status.capacity.cpu.as_ref()?;
        Some(times(cpu.milli(), self.spec.overcommit.cpu.as_ref(), 4))
    }

    /// Whether an operator has given up what is on it, should it not answer.
    pub fn is_out_of_service(&self) -> bool {
        let word = |t: &Taint| t.key == OUT_OF_SERVICE && t.effect == TaintEffect::NoExecute;
        self.spec.taints.iter().any(word)
    }

    /// The id of the only daemon to talk to; empty before any was seen.
    pub fn expected_daemon(&self) -> &str {
        if self.spec.daemon_id.is_empty() { &self.status.daemon_id } else { &self.spec.daemon_id }
    }

    /// Whether both records lead to one daemon, as far as is known.
    pub fn is_same_daemon(&self, other: &DockerHost) -> bool {
        !self.expected_daemon().is_empty() && self.expected_daemon() == other.expected_daemon()
    }
}

impl DockerHostSpec {
    /// First and last host port for instances. An unreadable range, which validation refuses, gives the default.
    pub fn ports(&self) -> (u16, u16) {
        parse_port_range(&self.port_range).unwrap_or((30000, 39999))
    }
}

fn times(amount: i64, factor: Option<&Quantity>, default: i64) -> i128 {
    let milli = factor.map_or(default * 1000, Quantity::milli);
    i128::from(amount) * i128::from(milli) / 1000
}

pub(crate) fn parse_port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first > 0 && first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_are_inclusive_and_ordered() {
        assert_eq!(parse_port_range("30000-30000"), Some((30000, 30000)));
        for bad in ["", "1", "2-1", "0-5", "1-70000", "a-b"] {
            assert_eq!(parse_port_range(bad), None, "{bad}");
        }
    }
}
