//! A real API server on a loopback port, over the memory store, with the controllers that end Namespaces and collect
//! dependents.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use portreeve::api::{ApiState, Attach, AttachError, AuditLog, Credentials, attach, serve};
use portreeve::cache::Cache;
use portreeve::clock::SystemClock;
use portreeve::controllers::recorder::Recorder;
use portreeve::controllers::{garbage, namespace};
use portreeve::docker::engine::ContainerSpec;
use portreeve::docker::labels;
use portreeve::model::{Key, Kind};
use portreeve::serve::{DockerContainers, DockerLiveUse};
use portreeve::store::{Keyring, MemoryStore, Op, SealingStore, SharedStore, Txn};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::sim_engine::fleet::SimFleet;
use super::sim_engine::image::SimImage;

/// The names of the daemons of [`ApiServer::fleet`].
pub const HOSTS: [&str; 2] = ["local", "other"];

/// Bound on everything that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct ApiServer {
    pub dir: TempDir,
    /// As it is behind the seal: what the files would hold.
    pub store: SharedStore,
    pub cache: Arc<Cache>,
    /// Daemons that live use is measured on; nothing else looks at them.
    pub fleet: SimFleet,
    pub kubeconfig: PathBuf,
    pub shutdown: CancellationToken,
    pub client: Client,
    pub serving: JoinHandle<()>,
}

impl ApiServer {
    pub async fn start() -> ApiServer {
        ApiServer::start_with(Arc::new(NothingRuns)).await
    }

    pub async fn start_with(attach: Arc<dyn Attach>) -> ApiServer {
        ApiServer::start_in(tempfile::tempdir().expect("a directory"), MemoryStore::new(), attach).await
    }

    /// Whose readers may take nothing for so long.
    pub async fn start_patient(patience: Duration) -> ApiServer {
        ApiServer::start_patient_with(patience, Arc::new(NothingRuns)).await
    }

    pub async fn start_patient_with(patience: Duration, attach: Arc<dyn Attach>) -> ApiServer {
        let dir = tempfile::tempdir().expect("a directory");
        ApiServer::start_tuned(dir, MemoryStore::new(), attach, |state| state.patience = patience).await
    }

    /// Over a store of one's own, with its credentials and its audit log in a directory.
    pub async fn start_in(dir: TempDir, store: SharedStore, attach: Arc<dyn Attach>) -> ApiServer {
        ApiServer::start_tuned(dir, store, attach, |_| {}).await
    }

    async fn start_tuned(
        dir: TempDir,
        store: SharedStore,
        attach: Arc<dyn Attach>,
        tune: impl FnOnce(&mut ApiState),
    ) -> ApiServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let clock = SystemClock::new();
        let credentials = Credentials::load_or_create(dir.path(), address, None, clock.now()).expect("credentials");
        let cache = Cache::new("localhost");
        let shutdown = CancellationToken::new();
        put(&store, json!({"kind": "Namespace", "metadata": {"name": "default"}, "status": {"phase": "Active"}})).await;
        tokio::spawn(cache.clone().run(store.clone(), shutdown.clone()));
        tokio::spawn(namespace::run(store.clone(), cache.clone(), clock.clone(), shutdown.clone()));
        let (recorder, _) = Recorder::new(store.clone(), clock.clone());
        let told = Arc::new(recorder);
        tokio::spawn(garbage::run(store.clone(), cache.clone(), clock.clone(), told, shutdown.clone()));
        let ring = Arc::new(Keyring::ephemeral().expect("a key"));
        let opened = SealingStore::over(store.clone(), ring, &Kind::Secret.prefix(None));
        let mut state = ApiState::new(opened, cache.clone(), clock.clone(), &credentials, attach, "localhost");
        let fleet = SimFleet::new(&clock, &HOSTS, 11);
        let live = DockerLiveUse::new(cache.clone(), Arc::new(fleet.clone()), clock);
        state.live = Arc::new(live);
        state.containers = Arc::new(DockerContainers { cache: cache.clone(), engines: Arc::new(fleet.clone()) });
        state.audit = AuditLog::to_file(dir.path().join("audit.log")).expect("an audit log");
        tune(&mut state);
        let stop = shutdown.clone();
        let serving = tokio::spawn(async move { serve(listener, state, stop).await.expect("serving") });
        tokio::time::timeout(PATIENCE, cache.ready()).await.expect("the cache got ready");
        let kubeconfig = credentials.kubeconfig_path.clone();
        let client = Client::from_kubeconfig(&kubeconfig);
        ApiServer { dir, store, cache, fleet, kubeconfig, shutdown, client, serving }
    }

    /// Waits until an object has these finalizers left.
    pub async fn until_finalizers(&self, path: &str, wanted: &Value) {
        let left = async {
            while self.client.get(path).await.expect(200)["metadata"]["finalizers"] != *wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, left).await.expect("the others are taken off");
    }

    /// The lines of the audit log, once there are so many.
    pub async fn audit(&self, count: usize) -> Vec<Value> {
        let path = self.dir.path().join("audit.log");
        let written = async {
            loop {
                let text = std::fs::read_to_string(&path).expect("the audit log");
                let lines: Vec<Value> = text
                    .split_inclusive('\n')
                    .filter(|l| l.ends_with('\n'))
                    .map(|l| serde_json::from_str(l).expect("a JSON line"))
                    .collect();
                if lines.len() >= count {
                    return lines;
                }
                // Written by a thread that tells nobody.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, written).await.expect("as many audit lines")
    }

    /// Writes an object past the API, as a controller does.
    pub async fn put(&self, object: Value) {
        put(&self.store, object).await;
    }

    /// The record of an access token, once its last use is told and is another than this one. It is written beside the
    /// request, and nobody is told.
    pub async fn used(&self, token: &str, before: Option<&str>) -> Value {
        let path = format!("/apis/portreeve.dev/v1/accesstokens/{token}");
        let told = async {
            loop {
                let record = self.client.get(&path).await.expect(200);
                match record["status"]["lastUsed"].as_str() {
                    Some(last) if Some(last) != before => return record,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, told).await.expect("the use was written down")
    }

    /// Changes the status of an instance in the default namespace, as its controller does.
    pub async fn put_status(&self, name: &str, status: Value) {
        let key = Key::instance("default", name).to_string();
        let record = self.store.get(&key).await.expect("a read").expect("the instance");
        let mut object: Value = serde_json::from_slice(&record.value).expect("JSON");
        object["status"] = status;
        self.put(object).await;
    }

    /// A DockerHost, one of [`HOSTS`], as its controller has found it.
    pub async fn put_host(&self, name: &str, ready: bool) {
        let ready = if ready { "True" } else { "False" };
        self.put(json!({
            "apiVersion": "portreeve.dev/v1", "kind": "DockerHost",
            "metadata": {"name": name, "uid": format!("uid-{name}"), "generation": 1, "labels": {"zone": name},
                         "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"endpoint": "unix:///x", "address": "10.0.0.7"},
            "status": {
                "version": "27.3.1", "capacity": {"memory": "1Gi", "cpu": "2", "instances": 100},
                "allocated": {"memory": "256Mi", "cpu": "500m", "instances": 1},
                "conditions": [{"type": "Ready", "status": ready, "reason": "Told", "message": "",
                                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        }))
        .await;
        self.seen().await;
    }

    /// Lets an instance that there is run on a host, where it takes thousandths of a core and MiB.
    pub async fn runs(&self, namespace: &str, name: &str, host: &str, cpu_milli: u64, mib: u64) {
        let engine = self.fleet.host(host);
        engine.add_image("app:1", SimImage::server());
        let container = labels::object_name(&Key::instance(namespace, name));
        let id = engine.create_by_hand(ContainerSpec {
            name: container.clone(),
            image: "app:1".into(),
            network: "bridge".into(),
            ..Default::default()
        });
        engine.set_use(&container, cpu_milli, mib << 20);
        let key = Key::instance(namespace, name).to_string();
        let record = self.store.get(&key).await.expect("a read").expect("the instance");
        let mut object: Value = serde_json::from_slice(&record.value).expect("JSON");
        object["status"] = running();
        object["status"]["containerID"] = id.into();
        object["status"]["node"] = host.into();
        self.put(object).await;
        self.seen().await;
    }

    /// Until the cache shows what was written.
    pub async fn seen(&self) {
        let seen = self.cache.wait_for(self.store.revision());
        tokio::time::timeout(PATIENCE, seen).await.expect("the cache followed");
    }

    /// Removes an object past the API.
    pub async fn remove(&self, key: &Key) {
        let txn = Txn { when: vec![], then: vec![Op::Delete { key: key.to_string() }] };
        self.store.txn(txn).await.expect("a delete");
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn put(store: &SharedStore, object: Value) {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let kind = Kind::all().find(|k| k.info().name == text("/kind")).expect("a known kind");
    let key = Key::new(kind, text("/metadata/namespace"), text("/metadata/name"));
    let txn = Txn { when: vec![], then: vec![Op::Put { key: key.to_string(), value: object.to_string().into() }] };
    store.txn(txn).await.expect("a write");
}

/// An [`Attach`] for servers without containers.
struct NothingRuns;

#[async_trait::async_trait]
impl Attach for NothingRuns {
    async fn logs(
        &self,
        key: &Key,
        _: attach::LogOptions,
    ) -> Result<futures::stream::BoxStream<'static, Result<bytes::Bytes, AttachError>>, AttachError> {
        Err(AttachError::NoContainer(key.clone()))
    }
    async fn exec(&self, key: &Key, _: attach::ExecOptions) -> Result<attach::ExecIo, AttachError> {
        Err(AttachError::NoContainer(key.clone()))
    }
    async fn attach(&self, key: &Key, _: attach::AttachOptions) -> Result<attach::ExecIo, AttachError> {
        Err(AttachError::NoContainer(key.clone()))
    }
    async fn connect(&self, key: &Key, _: u16) -> Result<attach::Connection, AttachError> {
        Err(AttachError::NoContainer(key.clone()))
    }
}

/// A record of some 200 KiB, as its `turn`-th write left it.
pub fn heavy(name: &str, turn: usize) -> Value {
    let mut heavy = instance(name);
    heavy["metadata"]["namespace"] = "default".into();
    heavy["metadata"]["uid"] = "u".into();
    heavy["metadata"]["annotations"] = json!({"turn": turn.to_string(), "weight": "x".repeat(200 << 10)});
    heavy
}

/// An instance as a user writes it.
pub fn instance(name: &str) -> Value {
    json!({
        "apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": {"name": name},
        "spec": {"image": "app:1", "ports": [{"name": "web", "containerPort": 8080}]},
    })
}

/// The status of an instance that runs.
pub fn running() -> Value {
    json!({
        "phase": "Running", "node": "local", "address": "127.0.0.1", "containerID": "c0ffee",
        "startedAt": "2026-01-01T00:00:00Z", "ports": [{"name": "web", "hostPort": 30001}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    })
}
