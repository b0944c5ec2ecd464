//! How the apps of a simulated daemon are: serving, not ready, or hung at some of their ports. And who asked them.

use std::collections::BTreeSet;
use std::time::Duration;

use portreeve::docker::engine::{PortMap, RunState};

use super::SimEngine;
use super::world::{SimContainer, World};

/// The path that an app which is not ready refuses; all others it serves.
pub const READY: &str = "/ready";
/// The path at which an app says whether it is busy.
pub const BUSY: &str = "/busy";

/// What an app says to whoever connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Serves,
    Unready,
    /// It has nothing to say: 204.
    Quiet,
    /// It accepts, and says nothing.
    Hangs,
}

/// How an app is.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    pub unready: bool,
    pub busy: bool,
    /// How often it was asked whether it is busy.
    pub asked_busy: u64,
    /// The container ports that hang, until it is started again.
    pub hung: BTreeSet<u16>,
    /// Attempts of probes that reached it.
    pub asked: u64,
}

impl World {
    fn at(&mut self, host_ip: &str, host_port: u16) -> Option<(&mut SimContainer, u16)> {
        let now = self.now;
        let at = |p: &&PortMap| p.host_port == host_port && (p.host_ip == "0.0.0.0") | (p.host_ip == host_ip);
        let up = self.containers.values_mut().filter(|c| c.state == RunState::Running && c.serves_from <= now);
        up.filter_map(|c| {
            let port = c.spec.ports.iter().find(at)?.container_port;
            Some((c, port))
        })
        .next()
    }
}

impl SimEngine {
    /// What a prober is told at this address now; `None`: nobody listens there.
    pub fn answer(&self, host_ip: &str, host_port: u16, path: Option<&str>) -> Option<Answer> {
        let mut world = self.world();
        let (c, port) = world.at(host_ip, host_port)?;
        c.condition.asked += 1;
        c.condition.asked_busy += u64::from(path == Some(BUSY));
        Some(match path {
            _ if c.condition.hung.contains(&port) => Answer::Hangs,
            Some(READY) if c.condition.unready => Answer::Unready,
            Some(BUSY) if !c.condition.busy => Answer::Quiet,
            _ => Answer::Serves,
        })
    }

    /// The app says of itself that it cannot serve, or that it can again.
    pub fn set_unready(&self, name: &str, unready: bool) {
        if let Some(c) = self.world().named(name) {
            c.condition.unready = unready;
        }
    }

    /// The app says of itself that it is busy, or that it is not any more.
    pub fn set_busy(&self, name: &str, busy: bool) {
        if let Some(c) = self.world().named(name) {
            c.condition.busy = busy;
        }
    }

    /// Nothing ails any app any more.
    pub fn heal(&self) {
        for c in self.world().containers.values_mut() {
            (c.condition.unready, c.condition.hung) = (false, BTreeSet::new());
        }
    }

    /// The app hangs at one of its ports until its container is started again.
    pub fn hang_at(&self, name: &str, container_port: u16) {
        if let Some(c) = self.world().named(name) {
            c.condition.hung.insert(container_port);
        }
    }

    /// How often this command was begun in containers.
    pub fn execs(&self, command: &str) -> usize {
        self.world().execs.values().filter(|exec| exec.options.command == [command]).count()
    }

    pub fn condition(&self, name: &str) -> Option<Condition> {
        self.world().named(name).map(|c| c.condition.clone())
    }

    /// When each start of it was made, of those that are in the list of writes.
    pub fn starts(&self, name: &str) -> Vec<Duration> {
        let id = self.world().named(name).map(|c| c.id.clone()).unwrap_or_default();
        let starts = self.ops().into_iter().filter(|op| op.op == "start container" && op.object == id);
        starts.map(|op| op.at).collect()
    }
}

impl World {
    fn named(&mut self, name: &str) -> Option<&mut SimContainer> {
        self.containers.values_mut().find(|c| c.name == name)
    }
}
