//! The Docker seam: [`EngineRead`] observes, [`EngineWrite`] acts. Types of our own, so that the deciding code knows
//! no client library, and a simulated engine can stand in for a daemon.
//!
//! Facts that bind every implementation:
//! - A timeout means *unknown*, never failed: the call may still happen later.
//! - Names and ids given here are full; an implementation never passes on something that a daemon could take for an
//!   id prefix of another container.
//! - "Already so" is success: starting a started, stopping a stopped, removing a missing object.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::adoption::Description;
use super::labels;
use super::login::Login;
use super::turns::Turn;
use crate::model::{Key, SecretText, Subnet};

/// Why a call did not do its work. `message` holds the daemon's own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op} {object}: {message}")]
pub struct EngineError {
    /// `create container`
    pub op: &'static str,
    /// `pr.default.alice`
    pub object: String,
    pub kind: EngineErrorKind,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineErrorKind {
    /// 404, of the object itself.
    NotFound,
    /// 404 of create: the image is not there; or a pull that the registry refused.
    ImageMissing,
    /// 409: a name is taken, or a removal is under way.
    Conflict,
    /// A host port is taken by something else.
    PortTaken,
    /// A subnet overlaps that of another network of the daemon.
    SubnetTaken,
    /// The daemon's disk is full.
    NoSpace,
    /// 400 and other refusals that the same request will meet again.
    Invalid,
    /// 5xx: may pass.
    Server,
    /// Another daemon answers at the endpoint than the host's own: nothing was done.
    WrongDaemon,
    /// What the daemon is to be reached with is missing or of no use: nobody was asked, nothing was done.
    Credentials,
    /// Who is there does not let us in, or is not known to us: nothing was done.
    LoginRefused,
    /// No connection: nothing was done.
    Unreachable,
    /// No answer in time: unknown whether done.
    Timeout,
    /// The daemon has as many calls as it gets at once: nothing was done; try again soon.
    Busy,
}

impl EngineErrorKind {
    /// Whether the host's own daemon was not reached: nothing was done.
    pub fn is_away(self) -> bool {
        use EngineErrorKind::*;
        matches!(self, Unreachable | WrongDaemon | Credentials | LoginRefused)
    }
}

pub type EngineResult<T> = Result<T, EngineError>;

/// What to make. Every field is explicit: nothing is left to the daemon's defaults that matters to us.
///
/// Its JSON is what a container's spec hash is made of, so a field that is added must not be written when it has its
/// default: else every container would be made anew by an upgrade of this program.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ContainerSpec {
    /// Begins with a non-hexadecimal letter, so that it can never be an id prefix.
    pub name: String,
    /// Image reference or id.
    pub image: String,
    pub labels: BTreeMap<String, String>,
    /// In place of the image's entrypoint; empty: the image's.
    pub entrypoint: Vec<String>,
    /// In place of the image's command; empty: the image's.
    pub cmd: Vec<String>,
    pub working_dir: String,
    pub user: String,
    /// `NAME=value`
    pub env: Vec<String>,
    /// What Secrets and ConfigMaps add to the environment, by reference, so that a value that changes is no other
    /// container. Of one name the later wins; none has a name that `env` has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env_sources: Vec<EnvSource>,
    /// What `env_sources` led to, `NAME=value`: there only while the container is being made.
    #[serde(skip)]
    pub env_opened: Vec<SecretText>,
    pub hostname: String,
    pub ports: Vec<PortMap>,
    pub mounts: Vec<Mount>,
    /// The one network to attach to.
    pub network: String,
    pub limits: Limits,
    pub shm_bytes: i64,
    /// Empty: the daemon's default.
    pub runtime: String,
    /// The GPU devices, as [`EngineInfo::gpus`] names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
    pub privileged: bool,
    pub read_only_root: bool,
    /// The whole set: the implementation drops ALL and adds these.
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
}

impl ContainerSpec {
    /// The whole environment, `NAME=value`. What takes it must not show it.
    pub fn environment(&self) -> Vec<String> {
        let opened = self.env_opened.iter().map(|text| text.expose().to_owned());
        self.env.iter().cloned().chain(opened).collect()
    }
}

/// Variables whose values a Secret or ConfigMap holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum EnvSource {
    /// Every value, under the prefix and its key.
    All {
        #[serde(serialize_with = "as_text")]
        source: Key,
        prefix: String,
        optional: bool,
    },
    /// One value, under another name.
    One {
        variable: String,
        #[serde(serialize_with = "as_text")]
        source: Key,
        key: String,
        optional: bool,
    },
}

fn as_text<S: Serializer>(key: &Key, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(key)
}

/// Limits that can change without a new container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Bytes; swap is limited to the same, so none is given.
    pub memory: i64,
    /// Thousandths of a core.
    pub cpu_milli: i64,
    pub pids: i64,
}

/// One published TCP port.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PortMap {
    pub container_port: u16,
    pub host_ip: String,
    pub host_port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Mount {
    /// A directory of the host, made if missing.
    Bind { source: String, target: String, read_only: bool },
    /// A named Docker volume, which must exist: binding to a missing one would silently make an empty one.
    Volume { name: String, target: String, read_only: bool },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunState {
    #[default]
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
}

/// A container as the daemon describes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerInfo {
    /// All 64 hexadecimal digits.
    pub id: String,
    /// Without the leading slash.
    pub name: String,
    /// `sha256:…`
    pub image_id: String,
    /// The reference it was created from.
    pub image: String,
    pub labels: BTreeMap<String, String>,
    pub state: RunState,
    pub exit_code: i64,
    pub oom_killed: bool,
    /// The daemon's words of the last failed start; empty if none.
    pub error: String,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub limits: Limits,
    /// `no`, `always`, …
    pub restart_policy: String,
    /// Names of the attached networks.
    pub networks: Vec<String>,
    /// As configured, not as currently published.
    pub ports: Vec<PortMap>,
}

/// One line of a listing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerSummary {
    pub id: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub state: RunState,
}

/// What a running container has taken, as of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContainerStats {
    /// When, by the daemon's clock.
    pub read_at: Timestamp,
    /// CPU time since its start, in nanoseconds: over all cores, so it can grow faster than the time. Begins anew with
    /// each start.
    pub cpu_nanos: u64,
    /// Bytes of memory that it cannot do without: what it holds less the file cache that may go (the working set).
    pub memory: u64,
}

/// A network to make: a bridge of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkSpec {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Its addresses; `None`: of the daemon's choice, which has few.
    pub subnet: Option<Subnet>,
    /// Made without masquerading: what leaves the host has a private address, to which nobody answers.
    pub closed: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetworkInfo {
    pub id: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// In CIDR notation, as the daemon writes them; others than IPv4 ones, too.
    pub subnets: Vec<String>,
    /// Made without masquerading.
    pub closed: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeInfo {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageInfo {
    /// `sha256:…`
    pub id: String,
    pub repo_digests: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineInfo {
    pub daemon_id: String,
    pub version: String,
    pub api_version: String,
    pub os: String,
    pub kernel: String,
    /// As Go names it: amd64, arm64.
    pub architecture: String,
    pub storage_driver: String,
    pub runtimes: Vec<String>,
    /// The GPU devices that the daemon tells of, which is none where nobody has told it.
    pub gpus: Vec<String>,
    pub memory_bytes: i64,
    pub cpus: i64,
    /// When the first certificate ends by which it is reached, its own or ours; `None` without TLS.
    pub certificates_end: Option<Timestamp>,
    /// What keeps another connection from being made: this one still does.
    pub credentials_fault: Option<String>,
}

/// A hint that something happened to a container, network or volume of ours, or to an image. Hints get lost; relist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineEvent {
    /// `container`, `network`, `volume`, `image`
    pub object: String,
    /// Of a container, network or image its id, of a pulled image its reference, of a volume its name.
    pub id: String,
    /// `die`, `start`, `pause`, `unpause`, `rename`, `update`, `destroy`, `disconnect`, …
    pub action: String,
    /// The actor's attributes; for containers, their labels are among them.
    pub attributes: BTreeMap<String, String>,
}

impl EngineEvent {
    /// Whether it may be about something with this label. Events of networks and volumes carry no labels, so theirs is
    /// told by the name, which is a guess: the listener looks before it acts. A container without any such label may have
    /// been adopted, which its listener knows. Images are nobody's: anyone may wait for
    /// one, and their events carry the image's own labels, which say nothing.
    pub fn concerns(&self, label: (&str, &str)) -> bool {
        match self.object.as_str() {
            "image" => true,
            "network" | "volume" => self.instance().is_some(),
            _ => self.attributes.get(label.0).is_none_or(|value| value == label.1),
        }
    }

    /// The instance that it names, if it names one.
    pub fn instance(&self) -> Option<Key> {
        match self.object.as_str() {
            "image" => None,
            "network" => labels::key_of_name(self.attributes.get("name")?),
            "volume" => labels::key_of_name(&self.id),
            _ => labels::instance_key(&self.attributes),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    pub follow: bool,
    /// Last lines only.
    pub tail: Option<u64>,
    pub since: Option<Timestamp>,
    /// Nothing younger. `tail` counts before this is applied, in the daemon as here: do not combine them.
    pub until: Option<Timestamp>,
    pub timestamps: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    Stdout,
    Stderr,
}

#[derive(Clone, Debug, Default)]
pub struct ExecOptions {
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// What to see of a container's own output.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttachOptions {
    pub stdout: bool,
    pub stderr: bool,
}

/// A running command inside a container.
pub struct ExecSession {
    pub exec_id: String,
    pub input: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
    pub output: BoxStream<'static, EngineResult<(OutputStream, Bytes)>>,
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSession").field("exec_id", &self.exec_id).finish_non_exhaustive()
    }
}

/// Observing.
#[async_trait]
pub trait EngineRead: Send + Sync {
    async fn info(&self) -> EngineResult<EngineInfo>;
    /// Whether anyone answers, on a connection of its own that nothing else is sent on: whoever it is, and however its runtime
    /// does. Waits for no turn.
    async fn ping(&self) -> EngineResult<()>;
    /// All containers, running or not, that carry every one of these labels.
    async fn list_containers(&self, labels: &[(&str, &str)]) -> EngineResult<Vec<ContainerSummary>>;
    /// `None` when there is none. `container`: a full id or one of our names.
    async fn container(&self, container: &str) -> EngineResult<Option<ContainerInfo>>;
    /// Everything that the daemon says of a container and its image, for one that somebody else made. `None` when there is no
    /// such container. `id`: full.
    async fn describe(&self, id: &str) -> EngineResult<Option<Description>>;
    /// What a container uses right now: one reading, which the daemon takes at once or within a second. `None` when there is no such container
    /// or it does not run. `container`: a full id or one of our names.
    async fn stats(&self, container: &str) -> EngineResult<Option<ContainerStats>>;
    /// Beats as long as a container runs: each item is a reading that the daemon has just had its runtime take, one a second or
    /// so, without being asked again. Ends when the container does not run. `container`: a full id or one of our names.
    async fn pulse(&self, container: &str) -> EngineResult<BoxStream<'static, EngineResult<()>>>;
    async fn image(&self, reference: &str) -> EngineResult<Option<ImageInfo>>;
    async fn network(&self, name: &str) -> EngineResult<Option<NetworkInfo>>;
    async fn list_networks(&self, labels: &[(&str, &str)]) -> EngineResult<Vec<NetworkInfo>>;
    /// Of any name: volumes have no ids that a part of could mean another.
    async fn volume(&self, name: &str) -> EngineResult<Option<VolumeInfo>>;
    /// Events from `since` on (or from now) that [concern](EngineEvent::concerns) this label key and value. Ends or errs
    /// when the connection does.
    async fn events(
        &self,
        label: (&str, &str),
        since: Option<Timestamp>,
    ) -> EngineResult<BoxStream<'static, EngineResult<EngineEvent>>>;
    async fn logs(
        &self,
        container: &str,
        options: LogOptions,
    ) -> EngineResult<BoxStream<'static, EngineResult<(OutputStream, Bytes)>>>;
    /// What a container writes from now on, until it ends. Our containers have no terminal and no open standard input.
    async fn attach(
        &self,
        container_id: &str,
        options: AttachOptions,
    ) -> EngineResult<BoxStream<'static, EngineResult<(OutputStream, Bytes)>>>;
}

/// Acting. Every call is idempotent.
#[async_trait]
pub trait EngineWrite: Send + Sync {
    /// Pulls without a login.
    async fn pull(&self, reference: &str, progress: &(dyn Fn(String) + Send + Sync)) -> EngineResult<()> {
        self.pull_with(reference, None, progress).await
    }
    /// Pulls; `progress` hears a short sentence now and then. One pull of one reference with one login at a time: later
    /// callers share it.
    async fn pull_with(
        &self,
        reference: &str,
        login: Option<&Login>,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> EngineResult<()>;
    /// Returns the id. A name that is taken is `Conflict`: the caller looks whether it is ours.
    async fn create_container(&self, spec: &ContainerSpec) -> EngineResult<String>;
    async fn start_container(&self, id: &str) -> EngineResult<()>;
    /// The same before whatever is being made: for a container that ran before, which somebody waits for.
    async fn wake_container(&self, id: &str) -> EngineResult<()> {
        self.start_container(id).await
    }
    /// A turn to stop a container with, for who must not announce a stop that has to wait; `Busy` when none comes soon.
    async fn stop_turn(&self, id: &str) -> EngineResult<Turn>;
    /// Freezes every process of a running container where it is; its memory, ports and network stay. `Conflict` when it does
    /// not run; `Server` when it runs on, because the daemon cannot or would not.
    async fn pause_container(&self, id: &str) -> EngineResult<()>;
    /// Lets a frozen container go on, before whatever is being made. `Conflict` when it does not run at all; `Server` when it
    /// is still frozen.
    async fn unpause_container(&self, id: &str) -> EngineResult<()>;
    /// Asks to stop, at once, and kills after `grace` (whole seconds). One that is frozen hears it, goes on, and has its
    /// grace.
    async fn stop_in_turn(&self, turn: Turn, id: &str, grace: Duration) -> EngineResult<()>;
    /// Waits for a turn, then stops.
    async fn stop_container(&self, id: &str, grace: Duration) -> EngineResult<()> {
        let turn = self.stop_turn(id).await?;
        self.stop_in_turn(turn, id, grace).await
    }
    /// Removes by force, with its anonymous volumes.
    async fn remove_container(&self, id: &str) -> EngineResult<()>;
    /// Removes by force, and leaves every volume: of one that somebody else made, an anonymous one may hold its data.
    async fn remove_keeping_volumes(&self, id: &str) -> EngineResult<()>;
    async fn rename_container(&self, id: &str, name: &str) -> EngineResult<()>;
    /// Sets limits and restart policy `no`.
    async fn update_container(&self, id: &str, limits: Limits) -> EngineResult<()>;
    /// One of the name that is there is success, whatever it is like: the caller looks.
    async fn create_network(&self, network: &NetworkSpec) -> EngineResult<()>;
    async fn remove_network(&self, name: &str) -> EngineResult<()>;
    async fn connect_network(&self, network: &str, container_id: &str) -> EngineResult<()>;
    async fn create_volume(&self, name: &str, labels: &BTreeMap<String, String>) -> EngineResult<()>;
    async fn remove_volume(&self, name: &str) -> EngineResult<()>;
    async fn exec(&self, container_id: &str, options: ExecOptions) -> EngineResult<ExecSession>;
    async fn exec_resize(&self, exec_id: &str, width: u16, height: u16) -> EngineResult<()>;
    /// The exit code, once the command has ended.
    async fn exec_exit_code(&self, exec_id: &str) -> EngineResult<Option<i64>>;
}

/// One daemon.
pub trait Engine: EngineRead + EngineWrite {}
impl<T: EngineRead + EngineWrite> Engine for T {}
