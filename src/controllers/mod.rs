//! The controllers: each observes, plans and applies for one kind. They meet only in the store.
//!
//! ```text
//! cache changes ─┐
//! docker events ─┼──▶ queue ──▶ runner ──▶ instance::reconcile
//! proxy wakes  ──┤
//! resync       ──┤             host::watch: one task per DockerHost: status, events, relists
//! verdicts     ──┘◀──────────── probes: asks what runs, one task for all
//! cache changes ──▶ queue ──▶ namespace: the end of Namespaces
//! cache changes ──▶ queue ──▶ garbage: dependents of what is gone
//! ```

mod crowd;
mod freezers;
pub mod garbage;
pub mod host;
pub mod instance;
mod loads;
pub mod namespace;
pub mod probes;
pub mod recorder;
mod repeats;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::docker::Engines;
use crate::docker::inventory::Inventory;
use crate::model::{
    Condition, ConditionStatus, DockerHost, DockerHostSpec, DockerHostStatus, Instance, Key, Kind, Resource, is_true,
};
use crate::runtime::{Queue, Runner, RunnerStats};
use crate::scheduler::{Amount, free};
use crate::store::SharedStore;

use crowd::Crowd;
use freezers::Freezers;
use host::{Absences, Relist};
use instance::{ActivitySeen, MAKING_ROOM, NO_ROOM, Site, VALUE_REASONS, Want, want};
use loads::Loads;
use probes::{Health, Prober};
use recorder::Recorder;
use repeats::Repeats;

/// How the use of instances is known; implemented over the proxy's table.
pub trait ActivityView: Send + Sync {
    fn seen(&self, key: &Key) -> ActivitySeen;
    /// Counts as a use, so much later than now: uses before that time do not shorten it.
    fn touch_ahead(&self, key: &Key, by: Duration);
    /// Counts as a use so long ago.
    fn touch_back(&self, key: &Key, ago: Duration);
    /// What is known from before this process began, once; `counts`: as a use at that time. Whether there was any.
    fn recall(&self, key: &Key, counts: bool) -> bool;
    fn forget(&self, key: &Key);
    /// As [`ActivityView::forget`], unless something is open.
    fn rest(&self, key: &Key);
}

/// All that the controllers may touch, injected.
pub struct Context {
    pub site: Site,
    pub store: SharedStore,
    /// The same with Secrets opened: only for filling containers.
    pub opened: SharedStore,
    pub cache: Arc<Cache>,
    pub engines: Arc<dyn Engines>,
    pub prober: Arc<dyn Prober>,
    pub activity: Arc<dyn ActivityView>,
    pub health: Health,
    pub clock: SharedClock,
    pub recorder: Arc<Recorder>,
    pub loads: Loads,
    pub inventory: Inventory,
    pub relist: Relist,
    pub absences: Absences,
    /// Held while a node and ports are chosen and committed.
    pub binding: tokio::sync::Mutex<()>,
    pub repeats: Repeats,
    pub crowd: Crowd,
    pub freezers: Freezers,
    /// Pulls that reconciles wait for now.
    pub pulling: AtomicU32,
}

impl Context {
    #[expect(clippy::too_many_arguments, reason = "the one place where everything is handed over")]
    pub fn new(
        site: Site,
        store: SharedStore,
        opened: SharedStore,
        cache: Arc<Cache>,
        engines: Arc<dyn Engines>,
        prober: Arc<dyn Prober>,
        activity: Arc<dyn ActivityView>,
        clock: SharedClock,
        recorder: Recorder,
    ) -> Context {
        let loads = Loads::new(cache.clone());
        Context {
            site,
            store,
            opened,
            cache,
            loads,
            engines,
            prober,
            activity,
            health: Health::default(),
            clock,
            recorder: Arc::new(recorder),
            inventory: Inventory::default(),
            relist: Relist::default(),
            absences: Absences::default(),
            binding: tokio::sync::Mutex::new(()),
            repeats: Repeats::default(),
            crowd: Crowd::default(),
            freezers: Freezers::default(),
            pulling: AtomicU32::new(0),
        }
    }
}

/// As many as a host has instances by default: a host that hangs holds a quarter of what may run at once.
const RECONCILES_PER_HOST: usize = 1024;

/// The queue of instances to look at; wakes from the proxy go into it, too.
pub type InstanceQueue = Arc<Queue<Key>>;

/// Runs every controller until shutdown. Waits for the cache first: acting on an empty view would be wrong.
pub async fn run(ctx: Arc<Context>, queue: InstanceQueue, stats: Arc<RunnerStats>, shutdown: CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = ctx.cache.ready() => {}
    }
    let mut runner = Runner::new(queue.clone());
    runner.stats = stats.clone();
    runner.share = RECONCILES_PER_HOST;
    runner.lane = {
        let cache = ctx.cache.clone();
        Box::new(move |key| cache.instance(key).map(|i| i.status.node.clone()).unwrap_or_default())
    };
    let reconcile = {
        let ctx = ctx.clone();
        move |key| instance::reconcile(ctx.clone(), key)
    };
    tokio::join!(
        runner.run(reconcile, shutdown.clone()),
        feed(ctx.clone(), queue.clone(), shutdown.clone()),
        namespace::run(ctx.store.clone(), ctx.cache.clone(), ctx.clock.clone(), shutdown.clone()),
        garbage::run(ctx.store.clone(), ctx.cache.clone(), ctx.clock.clone(), ctx.recorder.clone(), shutdown.clone()),
        probes::run(ctx.clone(), queue.clone(), shutdown.clone()),
        host::run(ctx, queue, stats, shutdown),
    );
}

/// Every change of an Instance makes it ready; a change of a host makes ready what is on it and what has no host; a
/// change of a Secret or ConfigMap what names it.
async fn feed(ctx: Arc<Context>, queue: InstanceQueue, shutdown: CancellationToken) {
    let mut changes = ctx.cache.subscribe();
    let mut wishes: HashMap<Key, Wish> = HashMap::new();
    let mut ready: HashMap<String, (bool, String)> = HashMap::new();
    let mut offers: HashMap<String, Offer> = HashMap::new();
    for instance in ctx.cache.instances() {
        queue.add(instance.key());
    }
    loop {
        let key = tokio::select! {
            () = shutdown.cancelled() => return,
            asked = ctx.crowd.asked() => {
                asked.into_iter().for_each(|key| queue.add_now(key));
                continue;
            }
            key = changes.next() => key,
        };
        match key.kind {
            Kind::Instance => {
                let Some(instance) = ctx.cache.instance(&key) else {
                    wishes.remove(&key);
                    queue.add_now(key);
                    // One that is gone has given back ports and memory.
                    add_unbound(&ctx, &queue);
                    add_waiting(&ctx, &queue);
                    continue;
                };
                if instance.status.allocated_resources.is_none() {
                    add_waiting(&ctx, &queue);
                }
                // A status that a reconcile wrote itself is no news, and must not end its back-off.
                let wish = Wish::of(&instance);
                if wishes.get(&key) == Some(&wish) {
                    queue.add(key);
                } else {
                    wishes.insert(key.clone(), wish);
                    queue.add_now(key);
                }
            }
            Kind::DockerHost => {
                let Some(host) = ctx.cache.host(&key.name) else {
                    ready.remove(&key.name);
                    offers.remove(&key.name);
                    continue;
                };
                // Only what instances can tell apart: whether it is there, and how it is reached.
                let now = (is_true(&host.status.conditions, "Ready"), format!("{:?}", host.spec));
                if ready.get(&key.name) != Some(&now) {
                    let is_back = now.0;
                    ready.insert(key.name.clone(), now);
                    for instance in ctx.cache.on_node(&key.name) {
                        queue.add_now(instance.key());
                    }
                    // What was made anew elsewhere while it was away must not run here for longer than it has to.
                    for key in ctx.inventory.keys(&host.metadata.name).into_iter().filter(|_| is_back) {
                        if ctx.cache.instance(&key).is_none_or(|i| i.status.node != host.metadata.name) {
                            queue.add_now(key);
                        }
                    }
                }
                let offer = Offer::of(&host);
                if offers.get(&key.name) != Some(&offer) {
                    offers.insert(key.name.clone(), offer);
                    add_unbound(&ctx, &queue);
                    add_waiting(&ctx, &queue);
                }
            }
            Kind::Secret | Kind::ConfigMap => {
                for instance in ctx.cache.users_of(&key) {
                    if is_told(&instance, &VALUE_REASONS) {
                        queue.add_now(instance.key());
                    } else {
                        queue.add(instance.key());
                    }
                }
            }
            Kind::Namespace | Kind::Event | Kind::AccessToken => {}
        }
    }
}

/// What a user can want of an instance: a change of it is news.
#[derive(Clone, Debug, PartialEq)]
struct Wish {
    uid: String,
    generation: i64,
    deleting: bool,
    annotations: BTreeMap<String, String>,
}

impl Wish {
    fn of(instance: &Instance) -> Wish {
        let meta = &instance.metadata;
        Wish {
            uid: meta.uid.clone(),
            generation: meta.generation,
            deleting: meta.deletion_timestamp.is_some(),
            annotations: meta.annotations.clone(),
        }
    }
}

/// All that placement looks at of a host itself. What is reserved there is the instances' own doing, and telling it must
/// not set those that wait going again.
#[derive(Clone, Debug, PartialEq)]
struct Offer {
    uid: String,
    labels: BTreeMap<String, String>,
    deleting: bool,
    spec: DockerHostSpec,
    status: DockerHostStatus,
}

impl Offer {
    fn of(host: &DockerHost) -> Offer {
        let meta = &host.metadata;
        Offer {
            uid: meta.uid.clone(),
            labels: meta.labels.clone(),
            deleting: meta.deletion_timestamp.is_some(),
            spec: host.spec.clone(),
            status: DockerHostStatus { allocated: None, ..host.status.clone() },
        }
    }
}

/// Whether one of its conditions is not met for one of these reasons.
fn is_told(instance: &Instance, reasons: &[&str]) -> bool {
    let unmet = |c: &&Condition| c.status == ConditionStatus::False;
    instance.status.conditions.iter().filter(unmet).any(|c| reasons.contains(&c.reason.as_str()))
}

/// Instances that wait for a host: spread over a moment, so that a crowd does not come back all at once. Those that rest
/// wait for none.
fn add_unbound(ctx: &Context, queue: &Queue<Key>) {
    let now = ctx.clock.now();
    let waits = |i: &Arc<Instance>| want(i, ctx.activity.seen(&i.key()), now) == Want::Run;
    for (i, instance) in ctx.cache.on_node("").into_iter().filter(waits).enumerate() {
        queue.add_after(instance.key(), Duration::from_millis(i as u64 / 10));
    }
}

/// Instances that wait for room where they are bound: those for whom there is some now, who came first before others. Who
/// needs more than there is keeps nobody waiting who needs less.
fn add_waiting(ctx: &Context, queue: &Queue<Key>) {
    if ctx.crowd.is_empty() {
        return;
    }
    let fleet = ctx.loads.fleet();
    let mut left: HashMap<String, Amount> = HashMap::new();
    for (key, needs) in ctx.crowd.waiting() {
        let Some(instance) = ctx.cache.instance(&key).filter(|i| is_told(i, &[NO_ROOM, MAKING_ROOM])) else {
            // Gone, or not wanted any more. Who is about to say that it waits asks once more when it has.
            ctx.crowd.settled(&key, |_| false);
            continue;
        };
        let Some(on) = fleet.host(&instance.status.node) else { continue };
        let left = left.entry(instance.status.node.clone()).or_insert_with(|| free(&on.host, &on.load));
        if needs.beyond(*left).is_met() {
            *left = left.minus(needs);
            queue.add_now(key);
        }
    }
}
