//! Several simulated daemons by host name: the simulation's [`Engines`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use portreeve::clock::SharedClock;
use portreeve::docker::Engines;
use portreeve::docker::engine::{Engine, EngineError, EngineErrorKind, EngineResult};
use portreeve::model::DockerHost;

use super::SimEngine;

#[derive(Clone)]
pub struct SimFleet {
    engines: BTreeMap<String, SimEngine>,
    /// Hosts whose endpoint leads to another's daemon.
    led_to: Arc<Mutex<BTreeMap<String, String>>>,
}

impl SimFleet {
    pub fn new(clock: &SharedClock, hosts: &[&str], seed: u64) -> SimFleet {
        let engine = |(n, host): (usize, &&str)| {
            ((*host).to_owned(), SimEngine::new(host, clock.clone(), seed.wrapping_add(n as u64 * 0x1_0001)))
        };
        SimFleet { engines: hosts.iter().enumerate().map(engine).collect(), led_to: Arc::default() }
    }

    /// Panics when there is no such host.
    pub fn host(&self, name: &str) -> &SimEngine {
        self.engines.get(name).unwrap_or_else(|| panic!("no host {name} in the simulation"))
    }

    pub fn all(&self) -> impl Iterator<Item = (&str, &SimEngine)> {
        self.engines.iter().map(|(name, engine)| (name.as_str(), engine))
    }

    /// From now on the endpoint of a host leads to the daemon of another; connections that are open break.
    pub fn lead(&self, host: &str, daemon_of: &str) {
        self.led_to.lock().unwrap().insert(host.to_owned(), daemon_of.to_owned());
        if let Some(engine) = self.engines.get(host) {
            engine.break_event_streams();
        }
    }

    /// Writes tried on all of them.
    pub fn writes(&self) -> usize {
        self.engines.values().map(SimEngine::writes).sum()
    }
}

impl Engines for SimFleet {
    fn engine(&self, host: &DockerHost) -> EngineResult<Arc<dyn Engine>> {
        let name = &host.metadata.name;
        let refused = |kind, message| EngineError { op: "connect", object: host.metadata.name.clone(), kind, message };
        let led_to = self.led_to.lock().unwrap().get(name).cloned();
        let Some(engine) = self.engines.get(led_to.as_ref().unwrap_or(name)) else {
            let message = format!("the simulation has no daemon at {}", host.spec.endpoint);
            return Err(refused(EngineErrorKind::Invalid, message));
        };
        let (expected, found) = (host.expected_daemon(), engine.daemon_id());
        if !expected.is_empty() && expected != found {
            let message = format!("another daemon answers there: {found}, not {expected}");
            return Err(refused(EngineErrorKind::WrongDaemon, message));
        }
        engine.asked_for();
        Ok(Arc::new(engine.clone()))
    }

    fn forget(&self, _host_name: &str) {}
}
