//! The host controller: one watcher per DockerHost. It keeps the host's status, listens for events, and lists what is
//! ours now and then; all that it ever tells others is *look at this key*.
//!
//! ```text
//! DockerHost record ──▶ watcher ─┬─ health: info every few seconds ──▶ status (conditions, capacity)
//!                                └─ listing: events and relists ──▶ inventory, queue
//!                                   └─ images: who waits for one that has come
//! ```

mod health;
mod images;
mod listing;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Context, InstanceQueue};
use crate::model::{DockerHost, DockerHostSpec, Kind, Resource};

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

/// Keeps one watcher per DockerHost until shutdown.
pub async fn run(ctx: Arc<Context>, queue: InstanceQueue, shutdown: CancellationToken) {
    let mut changes = ctx.cache.subscribe();
    let mut tasks = JoinSet::new();
    let mut watchers: HashMap<String, (DockerHostSpec, String, tokio::task::AbortHandle)> = HashMap::new();
    let mut ensure =
        |host: &DockerHost, watchers: &mut HashMap<String, (DockerHostSpec, String, tokio::task::AbortHandle)>| {
            let (name, uid) = (host.metadata.name.clone(), host.metadata.uid.clone());
            if watchers
                .get(&name)
                .is_some_and(|(spec, of, task)| *spec == host.spec && *of == uid && !task.is_finished())
            {
                return;
            }
            if let Some((.., old)) = watchers.remove(&name) {
                old.abort();
            }
            let task = tasks.spawn(watch(ctx.clone(), queue.clone(), name.clone()));
            watchers.insert(name, (host.spec.clone(), uid, task));
        };
    for host in ctx.cache.hosts() {
        ensure(&host, &mut watchers);
    }
    loop {
        let key = tokio::select! {
            () = shutdown.cancelled() => return,
            key = changes.next() => key,
        };
        if key.kind != Kind::DockerHost {
            continue;
        }
        match ctx.cache.host(&key.name) {
            Some(host) => ensure(&host, &mut watchers),
            None => {
                if let Some((.., task)) = watchers.remove(&key.name) {
                    task.abort();
                }
                ctx.inventory.forget(&key.name);
                ctx.engines.forget(&key.name);
            }
        }
    }
}

async fn watch(ctx: Arc<Context>, queue: InstanceQueue, name: String) {
    tokio::join!(health::run(&ctx, &name), listing::run(&ctx, &queue, &name));
}

/// The host's record, while there is one.
fn record(ctx: &Context, name: &str) -> Option<Arc<DockerHost>> {
    ctx.cache.host(name).filter(|h| h.key().name == name)
}
