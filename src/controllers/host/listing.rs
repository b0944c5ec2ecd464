//! What is on the host: events as hints, and listings as the truth behind them. A listing follows every gap in the
//! events, every request, and comes by itself: soon where something happens, seldom where nothing does. A run in which
//! every event is lost still converges.

use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;

use super::super::{Context, InstanceQueue};
use super::looks::Looks;
use super::{images, record};
use crate::docker::engine::{Engine, EngineError, EngineErrorKind, EngineEvent, EngineResult, RunState};
use crate::docker::inventory::HostInventory;
use crate::docker::labels;
use crate::model::{Key, Phase, Resource};

/// A full listing so long after the last one, when there was an event since or something is there that should not be: where
/// events come, some may have been lost.
const SOON: Duration = Duration::from_secs(60);
/// A full listing at least this often.
const SELDOM: Duration = Duration::from_secs(15 * 60);
/// Requested listings at most this often.
const RELIST_AT_MOST: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(2);
/// Several images that come together are looked at once: loading an archive tells of each.
const IMAGES_SETTLE: Duration = Duration::from_millis(250);

/// What is known of the host's listings, from one stream of events to the next. Times are monotonic.
struct Listed {
    at: Duration,
    /// Whether it is to be listed again soon.
    stirred: bool,
    looks: Looks,
}

impl Listed {
    fn due(&self) -> Duration {
        self.at + if self.stirred { SOON } else { SELDOM }
    }
}

/// `silence`: told when the daemon falls silent.
pub async fn run(ctx: &Context, queue: &InstanceQueue, name: &str, silence: mpsc::Sender<EngineError>) {
    let mut listed: Option<Listed> = None;
    loop {
        let Some(host) = record(ctx, name) else { return };
        let result = match ctx.engines.engine(&host) {
            Ok(engine) => {
                let result = follow(ctx, queue, name, &*engine, &mut listed).await;
                let now = ctx.clock.monotonic();
                if result.is_err() && listed.as_ref().is_some_and(|listed| listed.at + SOON <= now) {
                    // A daemon that lists, and tells of no events.
                    let _ = list(ctx, queue, name, &*engine, &mut listed).await;
                }
                result
            }
            Err(e) => Err(e),
        };
        if let Err(e) = result {
            tracing::debug!(host = name, error = %e, "listening to the daemon ended");
            if e.kind == EngineErrorKind::Timeout {
                // Refused when it has been told already.
                let _ = silence.try_send(e);
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Listens until the stream ends. It is opened before the listing, so that nothing falls between them.
async fn follow(
    ctx: &Context,
    queue: &InstanceQueue,
    name: &str,
    engine: &dyn Engine,
    listed: &mut Option<Listed>,
) -> EngineResult<()> {
    let mut events = engine.events((labels::CLUSTER, &ctx.site.cluster), None).await?;
    if let Some(before) = listed {
        before.looks.missed(ctx.clock.monotonic());
    }
    let mut images_due = None;
    loop {
        let listed = list(ctx, queue, name, engine, listed).await?;
        let requested = async {
            ctx.relist.taken(name).await;
            tokio::time::sleep(RELIST_AT_MOST).await;
        };
        tokio::pin!(requested);
        loop {
            let now = ctx.clock.monotonic();
            let listing_due = listed.due();
            if listing_due <= now {
                break;
            }
            while let Some(key) = listed.looks.take(now, || should_run(ctx, name)) {
                queue.add(key);
            }
            let next = listing_due.min(listed.looks.due()).saturating_sub(now);
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(Ok(event)) if event.object == "image" => {
                        images_due.get_or_insert_with(|| Box::pin(tokio::time::sleep(IMAGES_SETTLE)));
                    }
                    Some(Ok(event)) => if hint(ctx, queue, name, &event) {
                        listed.stirred = true;
                        listed.looks.stir(now);
                    },
                    Some(Err(e)) => return Err(e),
                    None => return Ok(()),
                },
                () = due(&mut images_due) => {
                    images_due = None;
                    images::arrived(ctx, queue, name, engine).await;
                }
                () = &mut requested => break,
                () = tokio::time::sleep(next) => {}
            }
        }
    }
}

/// Who should run there: what a listing does not show of those that rest is looked at when they wake.
fn should_run(ctx: &Context, name: &str) -> Vec<Key> {
    let there = ctx.cache.on_node(name);
    let running = there.iter().filter(|i| !matches!(i.status.phase, Phase::Asleep | Phase::Stopped));
    running.map(|i| i.key()).collect()
}

/// Waits for a time that may not be set.
async fn due(time: &mut Option<Pin<Box<tokio::time::Sleep>>>) {
    match time {
        Some(time) => time.await,
        None => std::future::pending().await,
    }
}

/// An event says only which instance to look at. Whether it says that something of ours has changed.
fn hint(ctx: &Context, queue: &InstanceQueue, name: &str, event: &EngineEvent) -> bool {
    // Our own execs and probes are no change.
    if event.action.starts_with("exec_") || event.action.starts_with("health_status") {
        return false;
    }
    if let Some(key) = event.instance() {
        queue.add(key);
        return true;
    }
    // A stranger's, or one that was adopted, whose labels say nothing.
    let adopted =
        ctx.cache.on_node(name).into_iter().filter(|i| event.object == "container" && i.is_adopted(&event.id));
    adopted.map(|i| queue.add(i.key())).count() > 0
}

/// One after the other, so that both are asked for on one connection: each new one costs the daemon more than they do.
async fn list<'a>(
    ctx: &Context,
    queue: &InstanceQueue,
    name: &str,
    engine: &dyn Engine,
    listed: &'a mut Option<Listed>,
) -> EngineResult<&'a mut Listed> {
    let at = ctx.clock.monotonic();
    let ours = [(labels::CLUSTER, ctx.site.cluster.as_str())];
    let containers = engine.list_containers(&ours).await?;
    let networks = engine.list_networks(&ours).await?;
    for key in ctx.inventory.replace(name, HostInventory { containers, networks }) {
        queue.add(key);
    }
    let listed = listed.get_or_insert_with(|| {
        let mut looks = Looks::new(at);
        // What happened while nobody watched is as unknown as what happens from now on.
        looks.stir(at);
        Listed { at, stirred: false, looks }
    });
    (listed.at, listed.stirred) = (at, false);
    // What was so already when the host was first listed is no difference to any listing.
    for instance in ctx.cache.on_node(name) {
        let (key, status) = (instance.key(), &instance.status);
        let as_told = match status.phase {
            // One that was adopted is in no listing.
            Phase::Running | Phase::Frozen if instance.is_adopted(&status.container_id) => true,
            Phase::Running => ctx.inventory.is_just(name, &key, RunState::Running, &[&status.container_id]),
            Phase::Frozen => ctx.inventory.is_just(name, &key, RunState::Paused, &[&status.container_id]),
            Phase::Asleep | Phase::Stopped => ctx.inventory.rests(name, &key),
            Phase::Pending
            | Phase::Pulling
            | Phase::Starting
            | Phase::Stopping
            | Phase::Upgrading
            | Phase::Moving
            | Phase::Failed
            | Phase::Lost => true,
        };
        if !as_told {
            listed.stirred = true;
            queue.add(key);
        }
    }
    // What is here and has no record, or belongs elsewhere, is looked at on every listing until it is gone.
    for key in ctx.inventory.keys(name) {
        if ctx.cache.instance(&key).is_none_or(|i| i.status.node != name) {
            listed.stirred = true;
            queue.add(key);
        }
    }
    Ok(listed)
}
