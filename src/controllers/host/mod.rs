//! The host controller: one watcher per DockerHost. It keeps the host's status, listens for events, and lists what is
//! ours now and then; all that it ever tells others is *look at this key*.
//!
//! ```text
//! DockerHost record ──▶ watcher ─┬─ health: is it there? ──▶ status (conditions, capacity)
//!                                │  ├─ absence: since when it has not answered
//!                                │  └─ certificates: how long they are good for
//!                                ├─ pulse: the daemon's readings of one container ──▶ health
//!                                └─ listing: events and relists ──▶ inventory, queue
//!                                   ├─ looks: now and then, at what no listing shows
//!                                   └─ images: who waits for one that has come
//! ```

mod absence;
mod certificates;
mod health;
mod images;
mod listing;
mod looks;
mod pulse;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

pub use absence::Absences;

use super::{Context, InstanceQueue};
use crate::model::{DockerHost, DockerHostSpec, Kind, Resource};
use crate::runtime::RunnerStats;
use pulse::Pulse;

/// Requests to list a host again, from anyone who found it different than thought.
#[derive(Debug, Default)]
pub struct Relist {
    wanted: Mutex<HashSet<String>>,
    changed: Notify,
}

impl Relist {
    pub fn request(&self, host: &str) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned());
        self.changed.notify_waiters();
    }

    /// Waits for a request for this host, and takes it.
    async fn taken(&self, host: &str) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.wanted.lock().unwrap_or_else(PoisonError::into_inner).remove(host) {
                return;
            }
            changed.await;
        }
    }
}

/// Pause before a watcher that panicked is made again.
const REMAKE: Duration = Duration::from_secs(5);

/// The watchers, one per DockerHost. Invariant: every task of `tasks` that was not aborted is some watcher's.
struct Watchers {
    ctx: Arc<Context>,
    queue: InstanceQueue,
    tasks: JoinSet<()>,
    by_host: HashMap<String, Watcher>,
}

struct Watcher {
    spec: DockerHostSpec,
    uid: String,
    task: AbortHandle,
}

impl Watchers {
    /// Makes the host's watcher, anew if the host is another than it was made for.
    fn ensure(&mut self, host: &DockerHost) {
        let found = self.by_host.get(&host.metadata.name);
        if found.is_some_and(|w| w.spec == host.spec && w.uid == host.metadata.uid && !w.task.is_finished()) {
            return;
        }
        self.make(host, Duration::ZERO);
    }

    fn make(&mut self, host: &DockerHost, after: Duration) {
        let name = host.metadata.name.clone();
        self.remove(&name);
        let (ctx, queue, watched) = (self.ctx.clone(), self.queue.clone(), name.clone());
        let task = self.tasks.spawn(async move {
            tokio::time::sleep(after).await;
            watch(ctx, queue, watched).await;
        });
        self.by_host.insert(name, Watcher { spec: host.spec.clone(), uid: host.metadata.uid.clone(), task });
    }

    fn remove(&mut self, name: &str) {
        if let Some(old) = self.by_host.remove(name) {
            old.task.abort();
        }
    }

    /// A task has ended: by our hand, because its host has no record, or in a panic. A host that nobody watches would be
    /// neither checked nor listed, and its record need not change for ever.
    fn ended(&mut self, ended: Result<(Id, ()), JoinError>, stats: &RunnerStats) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let Some(name) = self.by_host.iter().find(|(_, w)| w.task.id() == id).map(|(name, _)| name.clone()) else {
            return;
        };
        self.by_host.remove(&name);
        if let Err(e) = ended {
            stats.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!(host = name, error = %e, again_in = ?REMAKE, "the watcher of a host panicked");
        }
        if let Some(host) = record(&self.ctx, &name) {
            self.make(&host, REMAKE);
        }
    }
}

/// Keeps one watcher per DockerHost until shutdown.
pub async fn run(ctx: Arc<Context>, queue: InstanceQueue, stats: Arc<RunnerStats>, shutdown: CancellationToken) {
    let mut changes = ctx.cache.subscribe();
    let mut watchers = Watchers { ctx: ctx.clone(), queue, tasks: JoinSet::new(), by_host: HashMap::new() };
    for host in ctx.cache.hosts() {
        watchers.ensure(&host);
    }
    loop {
        let key = tokio::select! {
            () = shutdown.cancelled() => return,
            Some(ended) = watchers.tasks.join_next_with_id() => {
                watchers.ended(ended, &stats);
                continue;
            }
            key = changes.next() => key,
        };
        if key.kind != Kind::DockerHost {
            continue;
        }
        match ctx.cache.host(&key.name) {
            Some(host) => watchers.ensure(&host),
            None => {
                watchers.remove(&key.name);
                ctx.inventory.forget(&key.name);
                ctx.engines.forget(&key.name);
                ctx.absences.forget(&key.name);
            }
        }
    }
}

async fn watch(ctx: Arc<Context>, queue: InstanceQueue, name: String) {
    // One is enough: it says that something is to be looked at.
    let (silence, silences) = mpsc::channel(1);
    let pulse = Pulse::default();
    tokio::join!(
        health::run(&ctx, &name, &pulse, silences),
        pulse::run(&ctx, &name, &pulse, silence.clone()),
        listing::run(&ctx, &queue, &name, silence),
    );
}

/// The host's record, while there is one.
fn record(ctx: &Context, name: &str) -> Option<Arc<DockerHost>> {
    ctx.cache.host(name).filter(|h| h.key().name == name)
}
