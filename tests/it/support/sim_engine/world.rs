//! The inside of a simulated daemon: its containers, networks, volumes and images, and what each call does to them.
//! No waiting and no failures of the way here; every method is one atomic step of the daemon.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use portreeve::docker::engine::{
    ContainerSpec, EngineErrorKind, EngineEvent, ExecOptions, Limits, Mount, NetworkSpec, OutputStream, RunState,
};
use portreeve::docker::reference;
use portreeve::model::{Subnet, SubnetSet};
use tokio::sync::broadcast;

use super::fault::Rng;
use super::image::SimImage;

/// Why the daemon said no, in its own words.
pub struct Refusal {
    pub kind: EngineErrorKind,
    pub message: String,
}

pub type Done<T> = Result<T, Refusal>;

pub fn refuse<T>(kind: EngineErrorKind, message: impl Into<String>) -> Done<T> {
    Err(Refusal { kind, message: message.into() })
}

#[derive(Clone)]
pub struct SimContainer {
    pub id: String,
    pub name: String,
    pub spec: ContainerSpec,
    pub image_id: String,
    pub state: RunState,
    pub exit_code: i64,
    pub oom_killed: bool,
    pub error: String,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub limits: Limits,
    pub restart_policy: String,
    /// Network name to the id that it had when the container was attached; empty until the first start.
    pub endpoints: BTreeMap<String, String>,
    /// How often it was started: an exit planned for an earlier run is void.
    pub runs: u64,
    /// Monotonic time from which the app answers.
    pub serves_from: Duration,
    pub logs: Vec<(Timestamp, OutputStream, Bytes)>,
    pub usage: Usage,
    /// A start that a dying daemon left half done: no start works until it is removed.
    pub poisoned: bool,
    pub condition: super::health::Condition,
}

/// What a container takes of its host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Nanoseconds of CPU up to `since`.
    pub cpu_nanos: u64,
    /// Monotonic.
    pub since: Duration,
    /// Thousandths of a core from then on.
    pub cpu_milli: u64,
    pub memory: u64,
}

impl Usage {
    /// What an app takes that has just started.
    pub fn fresh(now: Duration) -> Usage {
        Usage { cpu_nanos: 20_000_000, since: now, cpu_milli: 1, memory: 6 << 20 }
    }

    pub fn cpu_at(&self, now: Duration) -> u64 {
        let passed = now.saturating_sub(self.since).as_micros() as u64;
        self.cpu_nanos + passed * self.cpu_milli
    }
}

impl SimContainer {
    pub fn alive(&self) -> bool {
        matches!(self.state, RunState::Running | RunState::Paused)
    }

    fn attributes(&self) -> BTreeMap<String, String> {
        let mut all = self.spec.labels.clone();
        all.insert("name".into(), self.name.clone());
        all.insert("image".into(), self.spec.image.clone());
        all
    }
}

#[derive(Clone)]
pub struct SimNetwork {
    pub id: String,
    pub labels: BTreeMap<String, String>,
    pub subnet: Subnet,
    pub closed: bool,
}

/// The daemon's own bridge.
const BRIDGE: &str = "172.17.0.0/16";

/// Where a daemon takes subnets from by itself: as many as a real one.
fn default_pools() -> impl Iterator<Item = Subnet> {
    let wide = (17..=31).map(|n| format!("172.{n}.0.0/16"));
    let narrow = (0..16).map(|n| format!("192.168.{}.0/20", n * 16));
    wide.chain(narrow).map(|text| text.parse().expect("a subnet"))
}

pub struct SimExec {
    pub container: String,
    pub options: ExecOptions,
    pub exit_code: Option<i64>,
}

/// An exit of its own accord, to come.
pub struct PlannedExit {
    pub id: String,
    pub run: u64,
    pub after: Duration,
    pub code: i64,
    pub oom: bool,
}

pub struct World {
    pub rng: Rng,
    pub wall: Timestamp,
    /// By how much the daemon's clock is ahead.
    pub clock_off: SignedDuration,
    pub now: Duration,
    pub containers: BTreeMap<String, SimContainer>,
    pub networks: BTreeMap<String, SimNetwork>,
    pub volumes: BTreeMap<String, BTreeMap<String, String>>,
    pub images: BTreeMap<String, SimImage>,
    pub execs: BTreeMap<String, SimExec>,
    pub daemon_id: String,
    /// When the certificates by which it is reached end.
    pub certificates_end: Option<Timestamp>,
    /// The GPU devices that are there.
    pub gpus: Vec<String>,
    /// Host ports taken by processes that are no containers.
    pub taken_ports: BTreeSet<u16>,
    /// Host paths under which no directory can be made.
    pub forbidden_binds: BTreeSet<String>,
    pub disk_full: bool,
    /// Its kernel cannot freeze containers.
    pub no_freezer: bool,
    pub planned_exits: Vec<PlannedExit>,
    pub lost_events: u32,
    /// The last 256, as a daemon keeps them.
    pub history: VecDeque<(Timestamp, EngineEvent)>,
    pub live: broadcast::Sender<EngineEvent>,
}

impl World {
    /// By full id or whole name: a daemon's prefix search is what nobody may rely on.
    pub fn find(&self, container: &str) -> Option<&SimContainer> {
        self.containers.get(container).or_else(|| self.containers.values().find(|c| c.name == container))
    }

    pub fn find_mut(&mut self, container: &str) -> Done<&mut SimContainer> {
        let id = self.find(container).map(|c| c.id.clone());
        match id.and_then(|id| self.containers.get_mut(&id)) {
            Some(c) => Ok(c),
            None => refuse(EngineErrorKind::NotFound, format!("No such container: {container}")),
        }
    }

    pub fn emit(&mut self, object: &str, id: &str, action: &str, attributes: BTreeMap<String, String>) {
        let event = EngineEvent { object: object.into(), id: id.into(), action: action.into(), attributes };
        if self.rng.percent(self.lost_events) {
            return;
        }
        if self.history.len() == 256 {
            self.history.pop_front();
        }
        self.history.push_back((self.wall, event.clone()));
        // Nobody listening is no error.
        let _ = self.live.send(event);
    }

    pub fn emit_container(&mut self, id: &str, action: &str, extra: &[(&str, String)]) {
        if let Some(c) = self.containers.get(id) {
            let mut attributes = c.attributes();
            attributes.extend(extra.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
            self.emit("container", id, action, attributes);
        }
    }

    /// As a daemon tells of them: the name and no labels, the volume's not even among the attributes.
    fn emit_network(&mut self, id: &str, action: &str, name: &str) {
        self.emit("network", id, action, [("name".to_owned(), name.to_owned())].into());
    }

    fn emit_volume(&mut self, name: &str, action: &str) {
        self.emit("volume", name, action, [("driver".to_owned(), "local".to_owned())].into());
    }

    /// Of a pull the reference, of a load the id only; a tag names the reference beside the id.
    pub fn emit_image(&mut self, reference: &str, action: &str) {
        let Some(image) = self.images.get(reference) else { return };
        let image = image.id.clone();
        let (id, name) = match action {
            "pull" => (reference, reference.rsplit_once(':').map_or(reference, |(repository, _)| repository)),
            "tag" => (image.as_str(), reference),
            _ => (image.as_str(), image.as_str()),
        };
        self.emit("image", id, action, [("name".to_owned(), name.to_owned())].into());
    }

    pub fn need_space(&self, what: &str) -> Done<()> {
        if self.disk_full {
            return refuse(EngineErrorKind::NoSpace, format!("{what}: no space left on device"));
        }
        Ok(())
    }

    pub fn create(&mut self, spec: ContainerSpec) -> Done<String> {
        let image = match self.images.get(&reference::image(&spec.image)) {
            Some(image) if image.local => image.clone(),
            _ => {
                let message = format!("No such image: {}", reference::image(&spec.image));
                return refuse(EngineErrorKind::ImageMissing, message);
            }
        };
        if let Some(other) = self.containers.values().find(|c| c.name == spec.name) {
            let message = format!(
                "Conflict. The container name \"/{}\" is already in use by container \"{}\". You have to remove (or rename) that container to be able to reuse that name.",
                spec.name, other.id
            );
            return refuse(EngineErrorKind::Conflict, message);
        }
        if spec.limits.memory > 0 && spec.limits.memory < 6 << 20 {
            return refuse(EngineErrorKind::Invalid, "Minimum memory limit allowed is 6MB");
        }
        for mount in &spec.mounts {
            if let Mount::Volume { name, .. } = mount
                && !self.volumes.contains_key(name)
            {
                return refuse(EngineErrorKind::NotFound, format!("get {name}: no such volume"));
            }
        }
        self.need_space("mkdir /var/lib/docker/overlay2")?;
        let id = self.rng.id();
        let endpoints = [(spec.network.clone(), String::new())].into();
        let container = SimContainer {
            id: id.clone(),
            name: spec.name.clone(),
            image_id: image.id,
            state: RunState::Created,
            exit_code: 0,
            oom_killed: false,
            error: String::new(),
            created_at: self.wall,
            started_at: None,
            finished_at: None,
            limits: spec.limits,
            restart_policy: "no".into(),
            endpoints,
            runs: 0,
            serves_from: Duration::MAX,
            logs: Vec::new(),
            usage: Usage::default(),
            poisoned: false,
            condition: Default::default(),
            spec,
        };
        self.containers.insert(id.clone(), container);
        self.emit_container(&id, "create", &[]);
        Ok(id)
    }

    /// The end of a running container, by whatever hand; nothing when it does not run.
    pub fn end(&mut self, id: &str, code: i64, oom: bool) {
        let wall = self.wall;
        let Some(c) = self.containers.get_mut(id).filter(|c| c.alive()) else { return };
        c.state = RunState::Exited;
        c.exit_code = code;
        c.oom_killed = oom;
        c.finished_at = Some(wall);
        c.serves_from = Duration::MAX;
        if oom {
            self.emit_container(id, "oom", &[]);
        }
        self.emit_container(id, "die", &[("exitCode", code.to_string())]);
    }

    pub fn stop(&mut self, container: &str, code: i64) -> Done<()> {
        let c = self.find_mut(container)?;
        if !c.alive() {
            return Ok(());
        }
        let (id, paused) = (c.id.clone(), c.state == RunState::Paused);
        self.emit_container(&id, "kill", &[("signal", "15".into())]);
        if paused {
            // It goes on to hear the signal.
            self.emit_container(&id, "unpause", &[]);
        }
        self.end(&id, code, false);
        self.emit_container(&id, "stop", &[]);
        Ok(())
    }

    /// Freezes it, or lets it go on. Refused, in the words of a real one, when it is so already.
    pub fn set_paused(&mut self, container: &str, paused: bool) -> Done<()> {
        let no_freezer = self.no_freezer;
        let c = self.find_mut(container)?;
        let id = c.id.clone();
        let (to, action) = match (paused, c.state) {
            (true, RunState::Running) if no_freezer => {
                let message = format!("Cannot pause container {id}: cgroups: freezer not supported: unknown");
                return refuse(EngineErrorKind::Server, message);
            }
            (true, RunState::Running) => (RunState::Paused, "pause"),
            (true, RunState::Paused) => {
                return refuse(EngineErrorKind::Conflict, format!("Container {id} is already paused"));
            }
            (true, _) => return refuse(EngineErrorKind::Conflict, format!("Container {id} is not running")),
            (false, RunState::Paused) => (RunState::Running, "unpause"),
            (false, _) => return refuse(EngineErrorKind::Server, format!("Container {id} is not paused")),
        };
        c.state = to;
        self.emit_container(&id, action, &[]);
        Ok(())
    }

    /// The same as the seam has it: what is so already is done.
    pub fn pause(&mut self, container: &str, paused: bool) -> Done<()> {
        let wanted = if paused { RunState::Paused } else { RunState::Running };
        let refusal = match self.set_paused(container, paused) {
            Err(refusal) if refusal.kind != EngineErrorKind::NotFound => refusal,
            done => return done,
        };
        match self.find_mut(container)?.state {
            state if state == wanted => Ok(()),
            RunState::Running | RunState::Paused => refuse(EngineErrorKind::Server, refusal.message),
            _ => refuse(EngineErrorKind::Conflict, refusal.message),
        }
    }

    pub fn remove(&mut self, container: &str) {
        let Some(id) = self.find(container).map(|c| c.id.clone()) else { return };
        self.end(&id, 137, false);
        self.emit_container(&id, "destroy", &[]);
        self.containers.remove(&id);
    }

    pub fn rename(&mut self, container: &str, name: &str) -> Done<()> {
        let id = self.find_mut(container)?.id.clone();
        if let Some(other) = self.containers.values().find(|c| c.name == name) {
            if other.id == id {
                return Ok(());
            }
            let message = format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{}\". You have to remove (or rename) that container to be able to reuse that name.",
                other.id
            );
            return refuse(EngineErrorKind::Conflict, message);
        }
        let old = std::mem::replace(&mut self.containers.get_mut(&id).expect("found above").name, name.to_owned());
        self.emit_container(&id, "rename", &[("oldName", old)]);
        Ok(())
    }

    pub fn update(&mut self, container: &str, limits: Limits, restart_policy: &str) -> Done<()> {
        let c = self.find_mut(container)?;
        if limits.memory > 0 && limits.memory < 6 << 20 {
            return refuse(EngineErrorKind::Invalid, "Minimum memory limit allowed is 6MB");
        }
        c.limits = limits;
        c.restart_policy = restart_policy.to_owned();
        let id = c.id.clone();
        self.emit_container(&id, "update", &[]);
        Ok(())
    }

    pub fn create_network(&mut self, spec: NetworkSpec) -> Done<()> {
        if self.networks.contains_key(&spec.name) {
            return Ok(());
        }
        let mut taken = SubnetSet::default();
        taken.extend(self.networks.values().map(|n| n.subnet).chain(BRIDGE.parse()));
        let subnet = match spec.subnet {
            Some(subnet) if taken.overlaps(subnet) => {
                let message = "Pool overlaps with other one on this address space";
                return refuse(EngineErrorKind::SubnetTaken, message);
            }
            Some(subnet) => subnet,
            None => match default_pools().find(|s| !taken.overlaps(*s)) {
                Some(subnet) => subnet,
                None => {
                    let message = "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network";
                    return refuse(EngineErrorKind::Server, message);
                }
            },
        };
        let id = self.rng.id();
        self.networks
            .insert(spec.name.clone(), SimNetwork { id: id.clone(), labels: spec.labels, subnet, closed: spec.closed });
        self.emit_network(&id, "create", &spec.name);
        Ok(())
    }

    pub fn remove_network(&mut self, name: &str) -> Done<()> {
        let Some(id) = self.networks.get(name).map(|n| n.id.clone()) else { return Ok(()) };
        if self.containers.values().any(|c| c.alive() && c.endpoints.get(name) == Some(&id)) {
            let message = format!("error while removing network: network {name} id {id} has active endpoints");
            return refuse(EngineErrorKind::Conflict, message);
        }
        self.networks.remove(name);
        self.emit_network(&id, "destroy", name);
        Ok(())
    }

    pub fn connect(&mut self, network: &str, container: &str) -> Done<()> {
        let Some(id) = self.networks.get(network).map(|n| n.id.clone()) else {
            return refuse(EngineErrorKind::NotFound, format!("network {network} not found"));
        };
        let c = self.find_mut(container)?;
        let container_id = c.id.clone();
        c.endpoints.insert(network.to_owned(), id);
        self.emit_network_use("connect", network, container_id);
        Ok(())
    }

    pub fn disconnect(&mut self, network: &str, container: &str) -> Done<()> {
        let c = self.find_mut(container)?;
        let id = c.id.clone();
        c.endpoints.remove(network);
        self.emit_network_use("disconnect", network, id);
        Ok(())
    }

    fn emit_network_use(&mut self, action: &str, network: &str, container: String) {
        let id = self.networks.get(network).map(|n| n.id.clone()).unwrap_or_default();
        let attributes = [("name".to_owned(), network.to_owned()), ("container".to_owned(), container)].into();
        self.emit("network", &id, action, attributes);
    }

    pub fn create_volume(&mut self, name: &str, labels: BTreeMap<String, String>) -> Done<()> {
        self.need_space("mkdir /var/lib/docker/volumes")?;
        if !self.volumes.contains_key(name) {
            self.volumes.insert(name.to_owned(), labels);
            self.emit_volume(name, "create");
        }
        Ok(())
    }

    pub fn remove_volume(&mut self, name: &str) -> Done<()> {
        let uses =
            |c: &SimContainer| c.spec.mounts.iter().any(|m| matches!(m, Mount::Volume { name: n, .. } if n == name));
        if let Some(user) = self.containers.values().find(|c| uses(c)) {
            let message = format!("remove {name}: volume is in use - [{}]", user.id);
            return refuse(EngineErrorKind::Conflict, message);
        }
        if self.volumes.remove(name).is_some() {
            self.emit_volume(name, "destroy");
        }
        Ok(())
    }
}
