//! The real fleet: one client per host, made on first use and again when the host's endpoint, credentials
//! or daemon change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::Engines;
use super::bollard::BollardEngine;
use super::credentials::{NoSecrets, SecretSource};
use super::endpoint::Endpoint;
use super::engine::{Engine, EngineError, EngineErrorKind, EngineResult};
use crate::clock::SharedClock;
use crate::model::DockerHost;

pub struct Pool {
    clock: SharedClock,
    secrets: Arc<dyn SecretSource>,
    /// By host name.
    clients: Mutex<HashMap<String, Client>>,
}

struct Client {
    endpoint: Endpoint,
    daemon: String,
    engine: Arc<BollardEngine>,
}

impl Pool {
    /// Without Secrets: a host that names one is told that it is missing.
    #[expect(clippy::new_ret_no_self, reason = "every user wants it shared and behind the trait")]
    pub fn new(clock: SharedClock) -> Arc<dyn Engines> {
        Pool::with_secrets(clock, Arc::new(NoSecrets))
    }

    pub fn with_secrets(clock: SharedClock, secrets: Arc<dyn SecretSource>) -> Arc<dyn Engines> {
        Arc::new(Pool { clock, secrets, clients: Mutex::new(HashMap::new()) })
    }
}

impl Engines for Pool {
    fn engine(&self, host: &DockerHost) -> EngineResult<Arc<dyn Engine>> {
        let name = &host.metadata.name;
        let endpoint = Endpoint::of(&host.spec).map_err(|message| EngineError {
            op: "connect",
            object: name.clone(),
            kind: EngineErrorKind::Invalid,
            message,
        })?;
        let mut clients = self.clients.lock().expect("no panic while held");
        let daemon = host.expected_daemon();
        if let Some(kept) = clients.get(name).filter(|c| c.endpoint == endpoint && c.daemon == daemon) {
            return Ok(kept.engine.clone());
        }
        let engine = Arc::new(BollardEngine::new(name, &endpoint, daemon, &self.secrets, self.clock.clone())?);
        clients.insert(name.clone(), Client { endpoint, daemon: daemon.to_owned(), engine: engine.clone() });
        Ok(engine)
    }

    fn forget(&self, host_name: &str) {
        self.clients.lock().expect("no panic while held").remove(host_name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::VirtualClock;

    fn host(endpoint: &str) -> DockerHost {
        let mut host = DockerHost::default();
        host.metadata.name = "a".into();
        host.spec.endpoint = endpoint.into();
        host
    }

    fn same(a: &Arc<dyn Engine>, b: &Arc<dyn Engine>) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
    }

    #[tokio::test]
    async fn a_host_keeps_its_client_until_its_endpoint_changes() {
        let pool = Pool::new(VirtualClock::new());
        let first = pool.engine(&host("unix:///run/a.sock")).unwrap();
        assert!(same(&first, &pool.engine(&host("unix:///run/a.sock")).unwrap()));
        let moved = pool.engine(&host("unix:///run/b.sock")).unwrap();
        assert!(!same(&first, &moved));
        pool.forget("a");
        assert!(!same(&moved, &pool.engine(&host("unix:///run/b.sock")).unwrap()));
        let Err(error) = pool.engine(&host("tcp://10.0.0.3:2376")) else { panic!("no credentials") };
        assert_eq!(error.kind, EngineErrorKind::Invalid);
    }
}
