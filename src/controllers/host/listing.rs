//! What is on the host: events as hints, and listings as the truth behind them. A listing follows every gap in the
//! events, every request, and comes by itself now and then: a run in which every event is lost still converges.

use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt;

use super::super::{Context, InstanceQueue};
use super::{images, record};
use crate::docker::engine::{Engine, EngineEvent, EngineResult};
use crate::docker::inventory::HostInventory;
use crate::docker::labels;

/// A full listing at least this often.
const RELIST_EVERY: Duration = Duration::from_secs(60);
/// Requested listings at most this often.
const RELIST_AT_MOST: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(2);
/// Several images that come together are looked at once: loading an archive tells of each.
const IMAGES_SETTLE: Duration = Duration::from_millis(250);

pub async fn run(ctx: &Context, queue: &InstanceQueue, name: &str) {
    loop {
        let Some(host) = record(ctx, name) else { return };
        let result = match ctx.engines.engine(&host) {
            Ok(engine) => follow(ctx, queue, name, &*engine).await,
            Err(e) => Err(e),
        };
        if let Err(e) = result {
            tracing::debug!(host = name, error = %e, "listening to the daemon ended");
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Listens until the stream ends. It is opened before the listing, so that nothing falls between them.
async fn follow(ctx: &Context, queue: &InstanceQueue, name: &str, engine: &dyn Engine) -> EngineResult<()> {
    let mut events = engine.events((labels::CLUSTER, &ctx.site.cluster), None).await?;
    list(ctx, queue, name, engine).await?;
    let mut images_due = None;
    loop {
        let wake = async {
            tokio::select! {
                () = ctx.relist.taken(name) => tokio::time::sleep(RELIST_AT_MOST).await,
                () = tokio::time::sleep(RELIST_EVERY) => {}
            }
        };
        tokio::pin!(wake);
        loop {
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(Ok(event)) if event.object == "image" => {
                        images_due.get_or_insert_with(|| Box::pin(tokio::time::sleep(IMAGES_SETTLE)));
                    }
                    Some(Ok(event)) => hint(queue, &event),
                    Some(Err(e)) => return Err(e),
                    None => return Ok(()),
                },
                () = due(&mut images_due) => {
                    images_due = None;
                    images::arrived(ctx, queue, name, engine).await;
                }
                () = &mut wake => break,
            }
        }
        list(ctx, queue, name, engine).await?;
    }
}

/// Waits for a time that may not be set.
async fn due(time: &mut Option<Pin<Box<tokio::time::Sleep>>>) {
    match time {
        Some(time) => time.await,
        None => std::future::pending().await,
    }
}

/// An event says only which instance to look at.
fn hint(queue: &InstanceQueue, event: &EngineEvent) {
    // Our own execs and probes are no change.
    if event.action.starts_with("exec_") || event.action.starts_with("health_status") {
        return;
    }
    if let Some(key) = event.instance() {
        queue.add(key);
    }
}

async fn list(ctx: &Context, queue: &InstanceQueue, name: &str, engine: &dyn Engine) -> EngineResult<()> {
    let ours = [(labels::CLUSTER, ctx.site.cluster.as_str())];
    let (containers, networks) = futures::try_join!(engine.list_containers(&ours), engine.list_networks(&ours))?;
    for key in ctx.inventory.replace(name, HostInventory { containers, networks }) {
        queue.add(key);
    }
    // What is here and has no record, or belongs elsewhere, is looked at on every listing until it is gone.
    for key in ctx.inventory.keys(name) {
        if ctx.cache.instance(&key).is_none_or(|i| i.status.node != name) {
            queue.add(key);
        }
    }
    Ok(())
}
