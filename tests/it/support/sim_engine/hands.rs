//! The test's own hands on a simulated daemon: settings, a stranger at its console, mishaps, and what can be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use portreeve::docker::engine::{ContainerSpec, Limits, NetworkSpec, OutputStream, PortMap, RunState};
use portreeve::docker::{labels, reference};
use tokio::sync::broadcast;

use super::fault::{CrashPoint, Fault, FaultRates};
use super::image::SimImage;
use super::world::Usage;
use super::{Hung, Op, Pace, SimEngine};

/// A container as a test compares it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeenContainer {
    pub name: String,
    /// Empty when it carries none: a stranger's.
    pub uid: String,
    pub running: bool,
    pub paused: bool,
    pub ports: Vec<PortMap>,
    pub networks: Vec<String>,
    pub image: String,
    /// Bytes, thousandths of a core, processes.
    pub limits: (i64, i64, i64),
    pub restart_policy: String,
}

/// All that a daemon holds, without ids and times: equal worlds have equal snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub containers: Vec<SeenContainer>,
    /// By name, their subnets.
    pub networks: BTreeMap<String, String>,
    pub volumes: BTreeSet<String>,
}

impl Snapshot {
    /// How many containers each uid has.
    pub fn by_uid(&self) -> BTreeMap<&str, usize> {
        let mut count = BTreeMap::new();
        for c in self.containers.iter().filter(|c| !c.uid.is_empty()) {
            *count.entry(c.uid.as_str()).or_default() += 1;
        }
        count
    }
}

/// Settings and mishaps.
impl SimEngine {
    pub fn add_image(&self, reference: &str, image: SimImage) {
        let mut world = self.world();
        let id = format!("sha256:{}", world.rng.id());
        world.images.insert(reference::image(reference), SimImage { id, ..image });
    }

    pub fn set_pace(&self, pace: Pace) {
        self.way().pace = pace;
    }

    pub fn set_disk_full(&self, full: bool) {
        self.world().disk_full = full;
    }

    /// Its kernel can freeze containers, or not.
    pub fn set_freezer(&self, there: bool) {
        self.world().no_freezer = !there;
    }

    /// No directory can be made below this host path.
    pub fn forbid_bind(&self, root: &str) {
        self.world().forbidden_binds.insert(root.to_owned());
    }

    /// The next call of this operation meets this fault; several queue up.
    pub fn arm(&self, op: &'static str, fault: Fault) {
        self.way().armed.push_back((op, fault));
    }

    /// Takes back what was armed and has met no call.
    pub fn disarm(&self) {
        self.way().armed.clear();
    }

    /// How many faults armed by hand wait for their call.
    pub fn armed(&self) -> usize {
        self.way().armed.len()
    }

    /// From now on calls go wrong at these rates; the default is never.
    pub fn set_fault_rates(&self, rates: FaultRates) {
        self.way().rates = rates;
        self.world().lost_events = rates.lost_events;
    }

    /// Lets the calling process die at this point, which several daemons may share; `None` for the next process.
    pub fn set_crash_point(&self, point: Option<Arc<CrashPoint>>) {
        self.way().crash = point;
    }

    /// A crash point of this daemon alone.
    pub fn fail_after_write(&self, writes: u64) -> Arc<CrashPoint> {
        let point = CrashPoint::after_writes(writes);
        self.set_crash_point(Some(point.clone()));
        point
    }

    /// Its clock is this much ahead of everyone else's.
    pub fn set_clock_off(&self, ahead: jiff::SignedDuration) {
        self.world().clock_off = ahead;
    }

    /// Whoever asks for this host's engine next panics, once.
    pub fn panic_once(&self) {
        self.inner.panics.store(true, Ordering::SeqCst);
    }

    /// Nobody answers for this long; what runs goes on running. Event streams break.
    pub fn go_away(&self, time: Duration) {
        self.way().away_until = self.inner.clock.monotonic() + time;
        self.break_event_streams();
    }

    /// What of it hangs, from now on.
    pub fn set_hung(&self, hung: Option<Hung>) {
        self.way().hung = hung;
    }

    pub fn come_back(&self) {
        self.way().away_until = Duration::ZERO;
    }

    /// Running containers die, as with a daemon that is killed and does not keep them; back after this long.
    pub fn crash_daemon(&self, down: Duration) {
        self.go_away(down);
        self.step(|world| {
            let ids: Vec<_> = world.containers.keys().cloned().collect();
            for id in ids {
                world.end(&id, 255, false);
            }
        });
    }

    /// The host comes back with an empty disk.
    pub fn lose_disk(&self) {
        let mut world = self.world();
        world.containers.clear();
        world.networks.clear();
        world.volumes.clear();
        for image in world.images.values_mut() {
            image.local = false;
        }
    }

    /// The GPU devices of a container.
    pub fn gpus_of(&self, id: &str) -> Option<Vec<String>> {
        self.world().containers.get(id).map(|c| c.spec.gpus.clone())
    }

    pub fn set_gpus(&self, gpus: &[&str]) {
        self.world().gpus = gpus.iter().map(|gpu| (*gpu).to_owned()).collect();
    }

    pub fn set_certificates_end(&self, end: Timestamp) {
        self.world().certificates_end = Some(end);
    }

    pub fn set_daemon_id(&self, id: &str) {
        self.world().daemon_id = id.to_owned();
    }

    /// Event streams end; events from now on go to new ones.
    pub fn break_event_streams(&self) {
        self.world().live = broadcast::channel(256).0;
    }
}

/// A stranger at the daemon's console. All panic when the container is not there: the test is wrong then.
impl SimEngine {
    fn id_of(&self, name: &str) -> String {
        self.world().find(name).unwrap_or_else(|| panic!("no container {name}")).id.clone()
    }

    pub fn kill_by_hand(&self, name: &str) {
        let id = self.id_of(name);
        self.step(|world| world.end(&id, 137, false));
    }

    pub fn stop_by_hand(&self, name: &str) {
        let id = self.id_of(name);
        self.by_hand(|world| world.stop(&id, 0));
    }

    pub fn start_by_hand(&self, name: &str) {
        let id = self.id_of(name);
        self.by_hand(|world| world.start(&id));
    }

    pub fn pause_by_hand(&self, name: &str, paused: bool) {
        let id = self.id_of(name);
        self.by_hand(|world| world.set_paused(&id, paused));
    }

    pub fn remove_by_hand(&self, name: &str) {
        let id = self.id_of(name);
        self.step(|world| world.remove(&id));
    }

    pub fn rename_by_hand(&self, name: &str, to: &str) {
        let id = self.id_of(name);
        self.by_hand(|world| world.rename(&id, to));
    }

    pub fn update_by_hand(&self, name: &str, limits: Limits, restart_policy: &str) {
        let id = self.id_of(name);
        self.by_hand(|world| world.update(&id, limits, restart_policy));
    }

    pub fn disconnect_by_hand(&self, network: &str, name: &str) {
        let id = self.id_of(name);
        self.by_hand(|world| world.disconnect(network, &id));
    }

    /// Disconnects everybody first.
    pub fn remove_network_by_hand(&self, network: &str) {
        self.by_hand(|world| {
            for id in users_of(world, network) {
                world.disconnect(network, &id)?;
            }
            world.remove_network(network)
        });
    }

    /// A stranger's network; the test is wrong when the daemon refuses it.
    pub fn create_network_by_hand(&self, name: &str, subnet: &str) {
        let subnet = Some(subnet.parse().expect("a subnet"));
        self.by_hand(|world| world.create_network(NetworkSpec { name: name.into(), subnet, ..Default::default() }));
    }

    /// Whether no network has any of it.
    pub fn is_subnet_free(&self, subnet: &str) -> bool {
        let subnet = subnet.parse().expect("a subnet");
        !self.world().networks.values().any(|n| n.subnet.overlaps(subnet))
    }

    /// Another network takes the place of one, with its labels, in a subnet of the daemon's choosing. The containers that
    /// run are attached to it.
    pub fn replace_network_by_hand(&self, network: &str) {
        self.by_hand(|world| {
            let users = users_of(world, network);
            for id in &users {
                world.disconnect(network, id)?;
            }
            let labels = world.networks.get(network).map(|n| n.labels.clone()).unwrap_or_default();
            world.remove_network(network)?;
            world.create_network(NetworkSpec { name: network.into(), labels, ..Default::default() })?;
            users.iter().try_for_each(|id| world.connect(network, id))
        });
    }

    pub fn remove_volume_by_hand(&self, name: &str) {
        self.by_hand(|world| world.remove_volume(name));
    }

    /// From a copy, under its old name.
    pub fn restore_volume_by_hand(&self, name: &str, labels: BTreeMap<String, String>) {
        self.by_hand(|world| world.create_volume(name, labels));
    }

    /// `docker load`: an image that the daemon did not have is there.
    pub fn load_image_by_hand(&self, reference: &str, image: SimImage) {
        self.add_image(reference, SimImage { local: true, ..image });
        self.step(|world| world.emit_image(&reference::image(reference), "load"));
    }

    /// `docker tag`: an image gets one more name.
    pub fn tag_image_by_hand(&self, of: &str, reference: &str) {
        let reference = reference::image(reference);
        self.step(|world| {
            let image = world.images.get(&reference::image(of)).filter(|i| i.local).cloned();
            let image = image.unwrap_or_else(|| panic!("no image {of}"));
            world.images.insert(reference.clone(), image);
            world.emit_image(&reference, "tag");
        });
    }

    pub fn remove_image_by_hand(&self, reference: &str) {
        if let Some(image) = self.world().images.get_mut(&reference::image(reference)) {
            image.local = false;
        }
    }

    /// A stranger's running container, with a name and a host port that may be in somebody's way.
    pub fn create_by_hand(&self, spec: ContainerSpec) -> String {
        let mut made = String::new();
        self.by_hand(|world| {
            made = world.create(spec)?;
            world.start(&made)
        });
        made
    }

    /// A process of the host that listens there.
    pub fn take_port(&self, port: u16) {
        self.world().taken_ports.insert(port);
    }

    pub fn free_port(&self, port: u16) {
        self.world().taken_ports.remove(&port);
    }

    /// Leaves it as a daemon does that died while starting it: no start works any more.
    pub fn poison(&self, name: &str) {
        let id = self.id_of(name);
        self.step(|world| world.end(&id, 255, false));
        self.by_hand(|world| {
            world.find_mut(&id)?.poisoned = true;
            Ok(())
        });
    }

    /// The app takes so much of its host from now on: thousandths of a core, and bytes.
    pub fn set_use(&self, name: &str, cpu_milli: u64, memory: u64) {
        let id = self.id_of(name);
        self.by_hand(|world| {
            let now = world.now;
            let c = world.find_mut(&id)?;
            c.usage = Usage { cpu_nanos: c.usage.cpu_at(now), since: now, cpu_milli, memory };
            Ok(())
        });
    }

    /// The app writes a line.
    pub fn log(&self, name: &str, stream: OutputStream, line: &str) {
        let id = self.id_of(name);
        let line = Bytes::from(format!("{line}\n"));
        self.by_hand(|world| {
            let wall = world.wall;
            world.find_mut(&id)?.logs.push((wall, stream, line));
            Ok(())
        });
    }

    fn by_hand(&self, effect: impl FnOnce(&mut super::World) -> super::Done<()>) {
        if let Err(refusal) = self.step(effect) {
            panic!("the daemon refused what the test wanted: {}", refusal.message);
        }
    }
}

/// The containers that run in a network.
fn users_of(world: &super::World, network: &str) -> Vec<String> {
    let users = world.containers.values().filter(|c| c.alive() && c.endpoints.contains_key(network));
    users.map(|c| c.id.clone()).collect()
}

/// What can be seen.
impl SimEngine {
    /// Whether a network is there, and was made without masquerading.
    pub fn is_closed(&self, network: &str) -> bool {
        self.world().networks.get(network).is_some_and(|n| n.closed)
    }

    /// What a container was given to see, `NAME=value`.
    pub fn environment(&self, name: &str) -> Vec<String> {
        self.world().find(name).map(|c| c.spec.environment()).unwrap_or_default()
    }

    pub fn snapshot(&self) -> Snapshot {
        let world = self.world();
        let mut containers: Vec<_> = world
            .containers
            .values()
            .map(|c| SeenContainer {
                name: c.name.clone(),
                uid: c.spec.labels.get(labels::UID).cloned().unwrap_or_default(),
                running: c.state == RunState::Running,
                paused: c.state == RunState::Paused,
                ports: c.spec.ports.clone(),
                networks: c.endpoints.keys().cloned().collect(),
                image: c.spec.image.clone(),
                limits: (c.limits.memory, c.limits.cpu_milli, c.limits.pids),
                restart_policy: c.restart_policy.clone(),
            })
            .collect();
        containers.sort();
        Snapshot {
            containers,
            networks: world.networks.iter().map(|(name, n)| (name.clone(), n.subnet.to_string())).collect(),
            volumes: world.volumes.keys().cloned().collect(),
        }
    }

    /// Every write that was tried, in order: compare before and after to see that there was none.
    pub fn ops(&self) -> Vec<Op> {
        self.way().ops.clone()
    }

    /// How many writes were tried.
    pub fn writes(&self) -> usize {
        self.way().ops.len()
    }

    pub fn reads(&self) -> u64 {
        self.way().reads
    }

    /// From now on nobody is told what a container uses, or is again.
    pub fn refuse_stats(&self, fail: bool) {
        self.way().stats_fail = fail;
    }

    /// How often somebody asked what a container uses.
    pub fn stats_asked(&self) -> u64 {
        self.way().stats
    }

    /// How many pulls reached the registry.
    pub fn pulls(&self) -> u64 {
        self.way().pulls
    }

    /// How often this container came up since it was created.
    pub fn runs(&self, name: &str) -> u64 {
        self.world().find(name).map_or(0, |c| c.runs)
    }
}
