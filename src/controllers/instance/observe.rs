//! Looking: everything that one decision needs, and no more. Reads only.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::try_join_all;
use sha2::{Digest, Sha256};

use crate::controllers::probes::ProbeTarget;
use crate::docker::engine::{ContainerInfo, Engine, EngineError, EngineErrorKind, EngineResult, RunState};
use crate::docker::inventory::SightingKind;
use crate::docker::labels;
use crate::model::{DAEMON_SHARED, Instance, Key, Phase, Power, Resource, UNREACHABLE, condition, is_true};
use crate::scheduler::place;

use super::super::Context;
use super::adoption::dress;
use super::apply::LEFT_ALONE;
use super::asking;
use super::candidate;
use super::desired::{container_spec, named_volumes};
use super::freezing::idle_by_record;
use super::health::started;
use super::loss::{Loss, given_up, loss};
use super::moving;
use super::network::{NetworkSeen, is_of};
use super::plan::{ActivitySeen, NodeSeen, Observed, Presence, Want, is_laid_to_rest, must_bind, want};
use super::routes;
use super::running::is_in_its_network;
use super::startup;
use super::values::ValueNames;

/// Looks at the world for one instance. An error that says that the node cannot be reached is an observation; any
/// other is returned.
pub async fn observe(ctx: &Context, desired: &Instance) -> EngineResult<Observed> {
    let mut seen = Observed {
        node: NodeSeen::Reachable,
        containers: vec![],
        address_changed: false,
        node_ready: false,
        name_taken_by: None,
        strays: vec![],
        network: NetworkSeen::Absent,
        volumes: BTreeMap::new(),
        image_present: None,
        values: value_names(ctx, desired),
        activity: activity(ctx, desired),
        startup: None,
        health: ctx.health.seen(desired),
        leave: None,
        loss: None,
        freeze_refusal: ctx.freezers.refusal(&desired.status.node, ctx.clock.monotonic()),
        taken: routes::taken(ctx, desired),
    };
    if let Some(adopt) = desired.to_adopt().filter(|_| desired.metadata.deletion_timestamp.is_none()) {
        seen.node = NodeSeen::ToAdopt(candidate::look(ctx, desired, adopt).await?);
        return Ok(seen);
    }
    if desired.status.node.is_empty() {
        // Not for each of thousands that rest.
        let runs = want(desired, seen.activity, ctx.clock.now()) == Want::Run;
        let runs = runs && desired.metadata.deletion_timestamp.is_none();
        seen.node = NodeSeen::Unbound(runs.then(|| place(desired, &ctx.loads.fleet())));
        return Ok(seen);
    }
    let Some(host) = ctx.cache.host(&desired.status.node) else {
        seen.node = NodeSeen::Missing;
        return Ok(seen);
    };
    seen.node_ready = is_true(&host.status.conditions, "Ready");
    seen.leave = moving::leave(desired, &host, || ctx.loads.fleet());
    seen.address_changed = host.spec.reach_address() != desired.status.address;
    if let Some(shared) = condition(&host.status.conditions, "Ready").filter(|c| c.reason == DAEMON_SHARED) {
        seen.node = NodeSeen::Unreachable(format!("{}: {}", desired.status.node, shared.message));
        return Ok(seen);
    }
    if let Some(gone) = condition(&host.status.conditions, "Ready").filter(|c| c.reason == UNREACHABLE)
        && ctx.absences.of(&host.metadata.name, ctx.clock.monotonic()).is_some()
    {
        let loss = host_loss(ctx, desired);
        // What the host's own checks have found out, and go on looking at, each instance would wait for in vain. But who
        // would be made anew elsewhere looks for itself, right before.
        if !matches!(loss, Some(Loss::Recreate(_) | Loss::GivenUp)) {
            seen.loss = loss;
            seen.node = NodeSeen::Unreachable(format!("{}: {}", desired.status.node, gone.message));
            return Ok(seen);
        }
    }
    let looked = match ctx.engines.engine(&host) {
        Ok(engine) => look(ctx, &*engine, desired, &mut seen).await,
        Err(e) => Err(e),
    };
    match looked {
        Ok(()) => Ok(seen),
        Err(e) if e.kind.is_away() || matches!(e.kind, EngineErrorKind::Timeout | EngineErrorKind::Invalid) => {
            seen.loss = host_loss(ctx, desired);
            seen.node = NodeSeen::Unreachable(format!("{}: {e}", desired.status.node));
            Ok(seen)
        }
        Err(e) => Err(e),
    }
}

fn value_names(ctx: &Context, desired: &Instance) -> ValueNames {
    let named = desired.spec.sources().map(|(kind, name)| Key::new(kind, &desired.metadata.namespace, name));
    named.filter_map(|key| Some((key.clone(), ctx.cache.value_names(&key)?))).collect()
}

/// What is to be done about the loss of the instance's host, as it is now.
pub fn host_loss(ctx: &Context, desired: &Instance) -> Option<Loss> {
    let now = ctx.clock.now();
    let host = ctx.cache.host(&desired.status.node)?;
    let away = ctx.absences.of(&host.metadata.name, ctx.clock.monotonic());
    let rests =
        want(desired, activity(ctx, desired), now) != Want::Run || desired.metadata.deletion_timestamp.is_some();
    if let Some(given_up) = given_up(desired, &host, away, rests, now, || ctx.loads.fleet()) {
        return Some(given_up);
    }
    if rests { None } else { loss(desired, &host, away, now, || ctx.loads.fleet()) }
}

/// The longest time by which the grace after a restart is lengthened.
const SPREAD: Duration = Duration::from_secs(10 * 60);

/// The use of an instance. One that this process sees awake for the first time counts as used when it was used last, where
/// the process before this one has left that; else as used now: what happened before is not known, and a restart of the control plane must not put everyone to sleep. Nor may it let everyone fall
/// asleep in one moment, one time without use later: what has a container already counts as used a little later still.
pub fn activity(ctx: &Context, desired: &Instance) -> ActivitySeen {
    let key = desired.key();
    let mut seen = ctx.activity.seen(&key);
    let asked = ctx.crowd.is_asked(&key, ctx.clock.monotonic());
    let rests = matches!(desired.status.phase, Phase::Frozen | Phase::Asleep) || is_laid_to_rest(desired);
    let may_run = !rests && !desired.is_sent_to_sleep() && !asked;
    let first = seen.idle.is_none() && desired.spec.power == Power::Auto;
    // A sleeper sleeps on, whatever was known of it.
    let known = first && ctx.activity.recall(&key, may_run);
    if first && may_run {
        if !known {
            let made_before = !desired.status.container_id.is_empty();
            let by = if made_before { spread(desired) } else { Duration::ZERO };
            ctx.activity.touch_ahead(&key, by);
        }
        seen = ctx.activity.seen(&key);
    } else if let Some(idle) = idle_by_record(desired, ctx.clock.now()).filter(|_| first) {
        // Frozen by a process before this one: it sleeps deeper when its time is over.
        ctx.activity.touch_back(&key, idle);
        seen = ctx.activity.seen(&key);
    }
    regarded(ctx, desired, seen)
}

/// The use of an instance as it counts now, of which nothing is written down: what its host and others on it say to that.
pub fn regarded(ctx: &Context, desired: &Instance, mut seen: ActivitySeen) -> ActivitySeen {
    let asked = ctx.crowd.is_asked(&desired.key(), ctx.clock.monotonic());
    let (node, now) = (&desired.status.node, ctx.clock.monotonic());
    seen.cannot_freeze = match desired.status.phase {
        Phase::Frozen => ctx.freezers.has_refused(node, &desired.key(), now),
        _ => ctx.freezers.refusal(node, now).is_some(),
    };
    // Who uses it now is not put off for another.
    seen.yields =
        asked && seen.open == 0 && seen.idle.is_none_or(|idle| idle >= LEFT_ALONE.min(desired.spec.idle_after()));
    seen.busy = asking::seen(ctx, desired);
    seen
}

/// Up to a quarter of the time without use, by a hash of the uid: the same at every restart.
fn spread(desired: &Instance) -> Duration {
    let digest = Sha256::digest(desired.metadata.uid.as_bytes());
    let share = f64::from(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])) / f64::from(u32::MAX);
    (desired.spec.idle_after() / 4).min(SPREAD).mul_f64(share)
}

async fn look(ctx: &Context, engine: &dyn Engine, desired: &Instance, seen: &mut Observed) -> EngineResult<()> {
    let key = desired.key();
    let name = labels::object_name(&key);
    let volumes = named_volumes(desired).map(|(volume, name)| async move {
        let found = engine.volume(&name).await?;
        let presence = match found {
            // Whose it is was the business of who named it.
            Some(_) if !volume.volume_name.is_empty() => Presence::Ours,
            found => presence(ctx, desired, found.map(|v| v.labels)),
        };
        Ok::<_, EngineError>((name, presence))
    });
    let adopted = async {
        match desired.adopted_here() {
            Some(adopted) => engine.container(&adopted.container_id).await,
            None => Ok(None),
        }
    };
    let (named, adopted, network, volumes) =
        futures::try_join!(engine.container(&name), adopted, engine.network(&name), try_join_all(volumes))?;
    seen.network = NetworkSeen::of(&ctx.site.cluster, desired, network);
    seen.volumes = volumes.into_iter().collect();
    sort_container(ctx, desired, named, seen);
    sort_container(ctx, desired, adopted, seen);
    if seen.containers.is_empty() {
        // Not under its name: renamed by hand, or not there.
        let uid = (labels::UID, desired.metadata.uid.as_str());
        for found in engine.list_containers(&[(labels::CLUSTER, &ctx.site.cluster), uid]).await? {
            if found.name != name {
                sort_container(ctx, desired, engine.container(&found.id).await?, seen);
            }
        }
    }
    for sighting in ctx.inventory.sightings(&key) {
        let known = |id: &String| seen.containers.iter().any(|c| c.id == *id) || seen.strays.contains(id);
        if sighting.host == desired.status.node && sighting.kind == SightingKind::Container && !known(&sighting.id) {
            sort_container(ctx, desired, engine.container(&sighting.id).await?, seen);
        }
    }
    asking::ask(ctx, engine, desired, &mut seen.activity).await;
    let up = matches!(want(desired, seen.activity, ctx.clock.now()), Want::Run | Want::Freeze);
    if up && desired.metadata.deletion_timestamp.is_none() {
        look_closer(ctx, engine, desired, seen).await?;
    }
    Ok(())
}

/// What only an instance that should be up needs to know.
async fn look_closer(ctx: &Context, engine: &dyn Engine, desired: &Instance, seen: &mut Observed) -> EngineResult<()> {
    let spec = container_spec(&ctx.site.cluster, desired);
    let current =
        seen.containers.iter().find(|c| c.labels.get(labels::SPEC_HASH) == spec.labels.get(labels::SPEC_HASH));
    let must_bind = must_bind(desired, seen);
    let in_place = |c: &&ContainerInfo| {
        !must_bind
            && matches!(c.state, RunState::Running | RunState::Paused)
            && is_in_its_network(desired, c, seen)
            && !desired.is_condemned(&c.id)
    };
    match current.filter(in_place) {
        // One that is paused goes on before it is asked anything.
        Some(container) if started(desired, container) || container.state == RunState::Paused => {}
        Some(container) => {
            if let Some(target) = ProbeTarget::startup(desired) {
                seen.startup = startup::attempt(ctx, Some(engine), desired, &container.id, &target).await;
            }
        }
        // A container may have to be made.
        None => {
            seen.image_present = Some(match engine.image(&spec.image).await {
                Ok(found) => found.is_some(),
                // No image can have such a name: the pull tells so, and what serves goes on.
                Err(e) if e.kind == EngineErrorKind::Invalid => false,
                Err(e) => return Err(e),
            });
        }
    }
    Ok(())
}

fn sort_container(ctx: &Context, desired: &Instance, found: Option<ContainerInfo>, seen: &mut Observed) {
    let Some(mut container) = found else { return };
    if desired.is_adopted(&container.id) {
        dress(&ctx.site.cluster, desired, &mut container);
        // It may have a name like ours.
        if seen.containers.iter().all(|c| c.id != container.id) {
            seen.containers.push(container);
        }
        return;
    }
    let key = desired.key();
    let label = |name: &str| container.labels.get(name).map(String::as_str);
    if label(labels::CLUSTER) != Some(&ctx.site.cluster) || labels::instance_key(&container.labels) != Some(key) {
        if container.name == labels::object_name(&desired.key()) {
            seen.name_taken_by = Some(container.id);
        }
    } else if label(labels::UID) == Some(&desired.metadata.uid) {
        seen.containers.push(container);
    } else {
        seen.strays.push(container.id);
    }
}

fn presence(ctx: &Context, desired: &Instance, labels: Option<BTreeMap<String, String>>) -> Presence {
    match labels {
        None => Presence::Absent,
        Some(labels) if is_of(&ctx.site.cluster, desired, &labels) => Presence::Ours,
        Some(_) => Presence::Foreign,
    }
}
