//! Looking at a container that an instance is to adopt. Reads only.

use crate::docker::adoption::translate;
use crate::docker::engine::{EngineErrorKind, EngineResult};
use crate::model::{Adopt, Instance, Resource, is_true};

use super::super::Context;
use super::adoption::{AdoptionSeen, Offer};

/// What there is of the container, and whether it can be taken.
pub async fn look(ctx: &Context, desired: &Instance, adopt: &Adopt) -> EngineResult<AdoptionSeen> {
    let Some(host) = ctx.cache.host(&adopt.node) else {
        return Ok(AdoptionSeen::Unknown(format!("DockerHost {} has no record", adopt.node)));
    };
    if !is_true(&host.status.conditions, "Ready") {
        return Ok(AdoptionSeen::Unknown(format!("DockerHost {} is not ready", adopt.node)));
    }
    if let Some(other) = claimed_by(ctx, desired, &adopt.container_id) {
        return Ok(AdoptionSeen::Unfit(vec![format!("is {other}'s already")]));
    }
    let described = match ctx.engines.engine(&host) {
        Ok(engine) => engine.describe(&adopt.container_id).await,
        Err(e) => Err(e),
    };
    let described = match described {
        Ok(Some(described)) => described,
        Ok(None) => return Ok(AdoptionSeen::Unfit(vec![format!("is not on {}", adopt.node)])),
        Err(e) if matches!(e.kind, EngineErrorKind::Busy | EngineErrorKind::Server) => return Err(e),
        Err(e) => return Ok(AdoptionSeen::Unknown(format!("{}: {e}", adopt.node))),
    };
    let address = host.spec.reach_address();
    let found = translate(&described, &address);
    Ok(if found.refusals.is_empty() {
        let (spec, restart_policy) = (found.spec, found.restart_policy);
        AdoptionSeen::Fits(Box::new(Offer { address, spec, restart_policy }))
    } else {
        AdoptionSeen::Unfit(found.refusals)
    })
}

/// The instance that has adopted this container before.
pub fn claimed_by(ctx: &Context, desired: &Instance, container_id: &str) -> Option<String> {
    let all = ctx.cache.instances();
    let other =
        all.iter().find(|other| other.metadata.uid != desired.metadata.uid && other.is_adopted(container_id))?;
    Some(other.key().to_string())
}
