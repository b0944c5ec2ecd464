//! A whole control plane in virtual time: the real controllers, cache and memory store over simulated daemons.
//!
//! ```text
//! test ──▶ World::{apply, change, delete, request, crash} ──▶ store ──▶ controllers ──▶ SimFleet
//! ```
//!
//! A crash drops every task at once and loses all memory but the store's and the daemons'.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use portreeve::api::Exposition;
use portreeve::cache::Cache;
use portreeve::clock::{SharedClock, VirtualClock};
use portreeve::controllers::instance::Site;
use portreeve::controllers::probes::{Attempt, NetTarget, Prober};
use portreeve::controllers::recorder::Recorder;
use portreeve::controllers::{self, Context};
use portreeve::model::{DockerHost, FINALIZER, Instance, Key, Kind, Namespace, Resource};
use portreeve::proxy::Activity;
use portreeve::runtime::{Queue, RunnerStats};
use portreeve::scheduler::allocated;
use portreeve::serve::{Metrics, Seen};
use portreeve::store::{Keyring, MemoryStore, Revision, SealingStore, SharedStore, StoreError, typed};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::sim_engine::fleet::SimFleet;
use super::sim_engine::health::Answer;
use super::sim_engine::image::{SimCommand, SimImage};

pub const CLUSTER: &str = "sim";
/// Longer than the time between two checks of a host, and one of a daemon that hangs.
const HOST_CHECK: Duration = Duration::from_secs(30);

/// The simulation.
pub struct World {
    pub clock: SharedClock,
    pub store: SharedStore,
    /// The store as the API has it: with Secrets opened.
    pub opened: SharedStore,
    pub fleet: SimFleet,
    process: Option<Process>,
    probes: Arc<Probed>,
    uids: AtomicU64,
}

/// What dies with the control plane.
struct Process {
    tasks: JoinSet<()>,
    pub activity: Arc<Activity>,
    pub queue: Arc<Queue<Key>>,
    pub cache: Arc<Cache>,
    stats: Arc<RunnerStats>,
    ctx: Arc<Context>,
}

/// Attempts of probes over the network.
#[derive(Default)]
struct Probed {
    all: AtomicU64,
    /// Where nobody listened.
    vain: AtomicU64,
}

struct SimProber(SimFleet, Arc<Probed>);

#[async_trait]
impl Prober for SimProber {
    async fn probe(&self, target: &NetTarget, limit: Duration) -> Attempt {
        self.1.all.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let path = target.path.as_deref();
        let found = self.0.all().find_map(|(_, engine)| engine.answer(&target.address, target.port, path));
        match found {
            Some(Answer::Serves | Answer::Quiet) => Attempt::Passed,
            Some(Answer::Unready) => Attempt::Failed("GET /ready: 503 Service Unavailable".into()),
            Some(Answer::Hangs) => {
                tokio::time::sleep(limit).await;
                Attempt::Failed(format!("no answer within {limit:?}"))
            }
            None => {
                self.1.vain.fetch_add(1, Ordering::Relaxed);
                Attempt::Failed("connect: Connection refused".into())
            }
        }
    }

    async fn status(&self, target: &NetTarget, limit: Duration) -> Result<u16, String> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let path = target.path.as_deref();
        match self.0.all().find_map(|(_, engine)| engine.answer(&target.address, target.port, path)) {
            Some(Answer::Serves) => Ok(200),
            Some(Answer::Quiet) => Ok(204),
            Some(Answer::Unready) => Ok(503),
            Some(Answer::Hangs) => {
                tokio::time::sleep(limit).await;
                Err(format!("no answer within {limit:?}"))
            }
            None => Err("connect: Connection refused".into()),
        }
    }
}

/// The images that every simulated host has, and one that it must pull.
fn stock(fleet: &SimFleet) {
    for (_, engine) in fleet.all() {
        engine.add_image("app:1", SimImage::server());
        engine.add_image("app:2", SimImage::server().boots_in(Duration::from_millis(900)));
        engine.add_image("app:3", SimImage::server().remote(Duration::from_secs(7)));
        engine.add_image("stubborn:1", SimImage::server().ignores_stop());
        engine.add_image("hung:1", SimImage::server().hangs_at(81));
        let says = |code| SimCommand::Says { stdout: "a secret".into(), code };
        let app = SimImage::server().runs(&["is-up"], says(0)).runs(&["is-down"], says(3));
        engine.add_image("commands:1", app.runs(&["never"], SimCommand::Sleeps(Duration::from_secs(86_400))));
        engine.add_image("crashing:1", SimImage::server().exits(Duration::from_secs(1), 7));
    }
}

impl World {
    /// Hosts by name, with their records; no control plane runs yet.
    pub async fn new(hosts: &[&str], seed: u64) -> World {
        let clock = VirtualClock::new();
        let fleet = SimFleet::new(&clock, hosts, seed);
        stock(&fleet);
        let store: SharedStore = MemoryStore::new();
        let ring = Arc::new(Keyring::ephemeral().unwrap());
        let opened = SealingStore::over(store.clone(), ring, &Kind::Secret.prefix(None));
        for (i, name) in hosts.iter().enumerate() {
            let host: DockerHost = serde_json::from_value(json!({
                "apiVersion": "portreeve.dev/v1", "kind": "DockerHost",
                "metadata": {"name": name, "uid": format!("host-{name}"), "generation": 1},
                "spec": {"endpoint": format!("unix:///sim/{name}"), "address": format!("10.0.0.{}", i + 1),
                         "capacity": {"memory": "8Gi", "cpu": "8"}},
            }))
            .unwrap();
            typed::create(&*store, &host).await.unwrap();
        }
        let default: Namespace = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        typed::create(&*store, &default).await.unwrap();
        World { clock, store, opened, fleet, process: None, probes: Arc::default(), uids: AtomicU64::new(1) }
    }

    /// Starts the control plane.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let cache = Cache::new("example.com");
        let activity = Activity::new(self.clock.clone());
        let (recorder, recorder_task) = Recorder::new(self.store.clone(), self.clock.clone());
        let ctx = Arc::new(Context::new(
            Site { cluster: CLUSTER.into(), domain: "example.com".into(), url: "https://{host}".into() },
            self.store.clone(),
            self.opened.clone(),
            cache.clone(),
            Arc::new(self.fleet.clone()),
            Arc::new(SimProber(self.fleet.clone(), self.probes.clone())),
            activity.clone(),
            self.clock.clone(),
            recorder,
        ));
        let queue = Arc::new(Queue::new(self.clock.clone()));
        let stats: Arc<RunnerStats> = Arc::default();
        let never = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(cache.clone().run(self.store.clone(), never.clone()));
        tasks.spawn(recorder_task.run(never.clone()));
        tasks.spawn(controllers::run(ctx.clone(), queue.clone(), stats.clone(), never));
        self.process = Some(Process { tasks, activity, queue, cache, stats, ctx });
    }

    /// kill -9 of the control plane.
    pub async fn crash(&mut self) {
        if let Some(mut process) = self.process.take() {
            assert_eq!(process.stats.panics.load(Ordering::Relaxed), 0, "a reconcile panicked");
            process.tasks.shutdown().await;
        }
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("the control plane runs")
    }

    /// Reconciles and watchers that panicked. A crash of the world does not pass while there is one.
    pub fn panics(&self) -> u64 {
        self.process().stats.panics.load(Ordering::Relaxed)
    }

    /// Reconciles begun since the control plane started.
    pub fn reconciles(&self) -> u64 {
        self.process().stats.reconciles.load(Ordering::Relaxed)
    }

    /// Attempts of probes over the network so far.
    pub fn probes(&self) -> u64 {
        self.probes.all.load(Ordering::Relaxed)
    }

    /// Those of them that found nobody.
    pub fn vain_probes(&self) -> u64 {
        self.probes.vain.load(Ordering::Relaxed)
    }

    /// The uses that the control plane counts.
    pub fn activity(&self) -> &Activity {
        &self.process().activity
    }

    /// A user's request reaches the proxy.
    pub fn request(&self, name: &str) {
        let key = Key::instance("default", name);
        self.process().activity.touch(&key);
        self.process().queue.add(key);
    }

    /// Somebody who is held repeats the wish.
    pub fn wake(&self, name: &str) {
        self.process().queue.add(Key::instance("default", name));
    }

    /// A user's connection that stays open until the guard is dropped.
    pub fn connect(&self, name: &str) -> portreeve::proxy::OpenGuard {
        self.process().activity.open(&Key::instance("default", name))
    }

    /// A session by the API, as long.
    pub fn session(&self, name: &str, session: portreeve::proxy::Session) -> portreeve::proxy::OpenGuard {
        self.process().activity.open_session(&Key::instance("default", name), session)
    }

    /// Why an instance is as it is, as the API tells it.
    pub async fn why(&self, name: &str) -> portreeve::model::InstanceExplanation {
        let instance = self.get(name).await.expect("it is there");
        controllers::instance::explain(&self.process().ctx, &instance)
    }

    pub fn cache(&self) -> &Arc<Cache> {
        &self.process().cache
    }

    /// Creates an instance as the API does.
    pub async fn apply(&self, name: &str, spec: Value) {
        let uid = format!("uid-{}", self.uids.fetch_add(1, Ordering::Relaxed));
        let instance: Instance = serde_json::from_value(json!({
            "apiVersion": "portreeve.dev/v1", "kind": "Instance",
            "metadata": {"name": name, "namespace": "default", "uid": uid, "generation": 1, "finalizers": [FINALIZER],
                         "creationTimestamp": self.clock.now().to_string()},
            "spec": spec,
        }))
        .unwrap();
        assert_eq!(portreeve::model::validate_instance(&instance), []);
        match typed::create(&*self.store, &instance).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(e) => panic!("{e}"),
        }
    }

    pub async fn get(&self, name: &str) -> Option<Instance> {
        typed::get(&*self.store, &Key::instance("default", name)).await.unwrap()
    }

    pub async fn instances(&self) -> Vec<Instance> {
        typed::list(&*self.store, None).await.unwrap().items
    }

    /// Changes an instance as a user does, whatever the controllers write meanwhile.
    pub async fn change(&self, name: &str, change: impl Fn(&mut Instance)) {
        loop {
            let Some(mut instance) = self.get(name).await else { return };
            let before = instance.spec.clone();
            change(&mut instance);
            if instance.spec != before {
                instance.metadata.generation += 1;
            }
            match typed::update(&*self.store, &instance).await {
                Ok(_) => return,
                Err(StoreError::Conflict { .. }) => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    pub async fn delete(&self, name: &str) {
        let now = self.clock.now();
        self.change(name, |instance| {
            if instance.metadata.deletion_timestamp.is_none() {
                instance.metadata.deletion_timestamp = Some(now.into());
                instance.metadata.generation += 1;
            }
        })
        .await;
    }

    /// Waits in virtual time until the condition holds; panics with the instances as they are when it does not.
    pub async fn until(&self, what: &str, limit: Duration, holds: impl AsyncFn(&World) -> bool) {
        let end = self.clock.monotonic() + limit;
        while !holds(self).await {
            if self.clock.monotonic() >= end {
                let instances = self.instances().await;
                let told: Vec<_> =
                    instances.iter().map(|i| (i.key().to_string(), i.metadata.generation, &i.status)).collect();
                panic!("not within {limit:?}: {what}\n{told:#?}\n{:#?}", self.snapshots());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a scrape of `/metrics` is answered now.
    pub fn metrics(&self) -> String {
        let process = self.process();
        let (cache, store) = (process.cache.clone(), self.store.clone());
        let seen = Seen { cache, store, queue: process.queue.clone(), reconciles: process.stats.clone() };
        let (nobody, health) = (Default::default(), &process.ctx.health);
        let metrics = Metrics::new(seen, &self.clock, &nobody, &Default::default(), &Default::default(), health);
        metrics.text().expect("written to memory")
    }

    pub async fn phase(&self, name: &str) -> Option<portreeve::model::Phase> {
        self.get(name).await.map(|i| i.status.phase)
    }

    pub fn snapshots(&self) -> Vec<(String, super::sim_engine::hands::Snapshot)> {
        self.fleet.all().map(|(name, engine)| (name.to_owned(), engine.snapshot())).collect()
    }

    /// The hosts tell what is reserved on them.
    async fn hosts_told(&self) -> bool {
        let hosts = typed::list::<DockerHost>(&*self.store, None).await.unwrap().items;
        let instances = self.instances().await;
        let instances: Vec<_> = instances.into_iter().map(Arc::new).collect();
        hosts.iter().all(|host| {
            let bound: Vec<_> = instances.iter().filter(|i| i.status.node == host.metadata.name).cloned().collect();
            host.status.allocated == Some(allocated(&bound))
        })
    }

    /// Nothing is written any more, neither to a daemon nor to the store, for this long.
    pub async fn assert_quiet(&self, time: Duration) {
        self.until("every host tells what is reserved on it", HOST_CHECK, World::hosts_told).await;
        let (begin, revision) = (self.clock.monotonic(), self.store.revision());
        tokio::time::sleep(time).await;
        let new: Vec<_> = self
            .fleet
            .all()
            .flat_map(|(host, e)| e.ops().into_iter().map(move |op| (host.to_owned(), op)))
            .filter(|(_, op)| op.at > begin)
            .collect();
        assert!(new.is_empty(), "the world was right at {begin:?}, and yet: {new:#?}");
        assert_eq!(self.store.revision(), revision, "the store was written: {:#?}", self.changes_after(revision).await);
    }

    async fn changes_after(&self, revision: Revision) -> Vec<String> {
        let mut watch = self.store.watch("", revision).await.unwrap();
        let mut seen = vec![];
        while let Ok(Ok(change)) = tokio::time::timeout(Duration::from_millis(1), watch.next()).await {
            seen.push(format!("{} {:?}", change.key, change.now.map(|r| r.value)));
        }
        seen
    }
}
