//! Several simulated daemons by host name: the simulation's [`Engines`].

use std::collections::BTreeMap;
use std::sync::Arc;

use portreeve::clock::SharedClock;
use portreeve::docker::Engines;
use portreeve::docker::engine::{Engine, EngineError, EngineErrorKind, EngineResult};
use portreeve::model::DockerHost;

use super::SimEngine;

#[derive(Clone)]
pub struct SimFleet {
    engines: BTreeMap<String, SimEngine>,
}

impl SimFleet {
    pub fn new(clock: &SharedClock, hosts: &[&str], seed: u64) -> SimFleet {
        let engine = |(n, host): (usize, &&str)| {
            ((*host).to_owned(), SimEngine::new(host, clock.clone(), seed.wrapping_add(n as u64 * 0x1_0001)))
        };
        SimFleet { engines: hosts.iter().enumerate().map(engine).collect() }
    }

    /// Panics when there is no such host.
    pub fn host(&self, name: &str) -> &SimEngine {
        self.engines.get(name).unwrap_or_else(|| panic!("no host {name} in the simulation"))
    }

    pub fn all(&self) -> impl Iterator<Item = (&str, &SimEngine)> {
        self.engines.iter().map(|(name, engine)| (name.as_str(), engine))
    }

    /// Writes tried on all of them.
    pub fn writes(&self) -> usize {
        self.engines.values().map(SimEngine::writes).sum()
    }
}

impl Engines for SimFleet {
    fn engine(&self, host: &DockerHost) -> EngineResult<Arc<dyn Engine>> {
        match self.engines.get(&host.metadata.name) {
            Some(engine) => Ok(Arc::new(engine.clone())),
            None => Err(EngineError {
                op: "connect",
                object: host.metadata.name.clone(),
                kind: EngineErrorKind::Invalid,
                message: format!("the simulation has no daemon at {}", host.spec.endpoint),
            }),
        }
    }

    fn forget(&self, _host_name: &str) {}
}
