//! Strays: what carries an instance's labels where it should not be. A create whose answer was lost can come to
//! effect after its record is gone, or on a host that the instance has left.

use crate::docker::engine::{EngineError, EngineErrorKind};
use crate::docker::inventory::{Sighting, SightingKind};
use crate::docker::labels;
use crate::model::{Instance, Key, is_true};
use crate::runtime::Error;

use super::super::Context;
use super::super::recorder::EventType;
use super::action::STOP_GRACE;
use super::engine_error;

/// Removes what the inventory shows of this name that belongs to no record, or to this record on another host.
/// Everything is looked at again on its daemon before it is touched. Volumes are never strays: they hold data.
pub async fn sweep(ctx: &Context, key: &Key, record: Option<&Instance>) -> Result<(), Error> {
    for sighting in ctx.inventory.sightings(key) {
        if is_stray(record, &sighting) {
            remove(ctx, key, record, &sighting).await.map_err(engine_error)?;
        }
    }
    Ok(())
}

/// On the instance's own node its own plan removes strays, in order with everything else.
fn is_stray(record: Option<&Instance>, sighting: &Sighting) -> bool {
    match record {
        None => true,
        Some(instance) => instance.status.node != sighting.host,
    }
}

async fn remove(ctx: &Context, key: &Key, record: Option<&Instance>, sighting: &Sighting) -> Result<(), EngineError> {
    let Some(host) = ctx.cache.host(&sighting.host) else { return Ok(()) };
    // Of a host that is not known to be itself nothing is taken away: listings come back to it when it is.
    if !is_true(&host.status.conditions, "Ready") {
        return Ok(());
    }
    let home = record.and_then(|instance| ctx.cache.host(&instance.status.node));
    if home.is_some_and(|home| home.is_same_daemon(&host)) {
        return Ok(());
    }
    let engine = match ctx.engines.engine(&host) {
        Ok(engine) => engine,
        Err(e) if e.kind == EngineErrorKind::Unreachable => return Ok(()),
        Err(e) => return Err(e),
    };
    let ours = |labels: &std::collections::BTreeMap<String, String>| {
        labels.get(labels::CLUSTER) == Some(&ctx.site.cluster) && labels::instance_key(labels).as_ref() == Some(key)
    };
    match sighting.kind {
        SightingKind::Container => {
            let Some(container) = engine.container(&sighting.id).await? else { return Ok(()) };
            if !ours(&container.labels) {
                return Ok(());
            }
            engine.stop_container(&container.id, STOP_GRACE).await?;
            engine.remove_container(&container.id).await?;
        }
        SightingKind::Network => {
            let Some(network) = engine.network(&sighting.id).await? else { return Ok(()) };
            if !ours(&network.labels) {
                return Ok(());
            }
            engine.remove_network(&network.name).await?;
        }
    }
    ctx.relist.request(&sighting.host);
    let uid = record.map_or(sighting.uid.as_str(), |r| &r.metadata.uid);
    let message = format!("removed a stray {:?} {} on {}", sighting.kind, sighting.id, sighting.host);
    tracing::warn!(%key, "{message}");
    ctx.recorder.event(key, uid, EventType::Warning, "StrayRemoved", message);
    Ok(())
}
