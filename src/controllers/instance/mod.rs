//! The instance controller: one Instance record, and the container, network and volumes that it stands for.
//!
//! ```text
//! key ──▶ observe ──▶ plan (pure) ──▶ apply ──▶ look again
//! ```
//!
//! [`reconcile`] is level-triggered and knows nothing of what triggered it.

mod action;
mod adoption;
mod apply;
mod asking;
mod candidate;
mod desired;
mod freezing;
mod health;
mod loss;
mod moving;
mod network;
mod observe;
mod plan;
mod report;
mod routes;
mod running;
mod startup;
mod sweep;
mod values;
mod wakefulness;
mod why;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Either, Shared, select};

pub use action::{Action, Plan, STOP_GRACE};
pub use adoption::{AdoptionSeen, NOT_ADOPTABLE, Offer};
pub use asking::explain;
pub use desired::container_spec;
pub use freezing::{FREEZABLE, FROZEN, UNPAUSE_FAILED};
pub use health::{LIVENESS_FAILED, READINESS_FAILED, READINESS_PENDING};
pub use loss::{HOST_LOST, Loss, loss};
pub use moving::{Leave, elsewhere};
pub use network::{NetworkSeen, network_spec};
pub use plan::{ActivitySeen, NodeSeen, Observed, Presence, Sessions, Site, Want, plan, want};
pub use report::{MAKING_ROOM, NO_ROOM};
pub use routes::{HOSTNAME_CONFLICT, ROUTES_ACCEPTED, Taken};
pub use running::crash_delay;
pub use values::{REASONS as VALUE_REASONS, ValueNames};

use super::Context;
use crate::docker::engine::{EngineError, EngineErrorKind};
use crate::model::{Instance, Key, Resource, is_true};
use crate::runtime::{Error, Outcome};
use crate::store::typed;
use apply::Executor;

/// How often the same plan may be carried out in a row before it counts as leading nowhere.
const MAX_REPEATS: u32 = 5;

/// How often a sweep that takes its time looks whether it keeps the instance from something.
const SWEEP_LOOK: Duration = Duration::from_millis(250);

/// Brings one instance closer to what it should be.
pub async fn reconcile(ctx: Arc<Context>, key: Key) -> Result<Outcome, Error> {
    let found = typed::get::<Instance>(&*ctx.store, &key).await.map_err(Error::retry)?;
    let Some(instance) = found else {
        sweep::sweep(&ctx, &key, None).await?;
        ctx.activity.forget(&key);
        ctx.repeats.forget(&key);
        ctx.health.forget(&key);
        return Ok(Outcome::Done);
    };
    // A host that hangs and holds a stray must not keep the instance from its own.
    let sweeping: Sweeping<'_> = async {
        if let Err(e) = sweep::sweep(&ctx, &key, Some(&instance)).await {
            // Every listing comes back to it.
            tracing::debug!(%key, error = %e, "a stray was not removed");
        }
    }
    .boxed()
    .shared();
    let acting = pin!(act(&ctx, &instance, sweeping.clone()));
    let result = match select(acting, sweeping.clone()).await {
        Either::Left((result, _)) => result,
        Either::Right(((), acting)) => acting.await,
    };
    // Where there is more to do, the next look begins the sweep again.
    if !matches!(result, Ok(Outcome::Recheck(Duration::ZERO))) && !finish(&ctx, &instance, sweeping).await {
        return result.map(|_| Outcome::Recheck(Duration::ZERO));
    }
    result
}

/// Somebody waits for one that is frozen, and its record tells all that needs to be known: nothing is looked at first.
async fn thaw(ctx: &Context, instance: &Instance) -> Option<Result<Outcome, Error>> {
    let now = ctx.clock.now();
    let status = freezing::thawed_at_once(instance, now)?;
    let host = ctx.cache.host(&status.node)?;
    let fit = is_true(&host.status.conditions, "Ready")
        && host.spec.reach_address() == status.address
        && plan::ports_bound(instance)
        && want(instance, observe::activity(ctx, instance), now) == Want::Run
        && moving::leave(instance, &host, || ctx.loads.fleet()).is_none();
    if !fit {
        return None;
    }
    Executor::new(ctx, instance.clone()).thaw(status).await
}

type Sweeping<'a> = Shared<BoxFuture<'a, ()>>;

/// Looks, decides, and does.
async fn act(ctx: &Context, instance: &Instance, sweeping: Sweeping<'_>) -> Result<Outcome, Error> {
    let key = instance.key();
    if let Some(thawed) = thaw(ctx, instance).await {
        return thawed;
    }
    let seen = observe::observe(ctx, instance).await.map_err(engine_error)?;
    let plan = plan::plan(&ctx.site, instance, &seen, ctx.clock.now());
    tracing::debug!(%plan, "planned");
    if leads_nowhere(ctx, &key, &plan) {
        return Err(Error::retry(format!("the same plan was carried out {MAX_REPEATS} times without effect: {plan}")));
    }
    if plan
        .actions
        .iter()
        .any(|a| matches!(a, Action::Bind { .. } | Action::Adopt(_) | Action::Leave | Action::LeaveLost))
    {
        // What is a stray now may lie on the very host that is taken next, and be its own then.
        sweeping.await;
    }
    let result = Executor::new(ctx, instance.clone()).run(plan).await;
    if result.is_err() {
        // Failures have their own back-off; and what could not be done may have met something not listed yet.
        ctx.repeats.forget(&key);
        let node = &instance.status.node;
        if !node.is_empty() && !matches!(result, Err(Error::Busy(_))) {
            ctx.relist.request(node);
        }
    }
    result
}

/// Lets the sweep end. `false` when it was given up, because something else is wanted of the instance by now.
async fn finish(ctx: &Context, instance: &Instance, sweeping: Sweeping<'_>) -> bool {
    let wish = |i: &Instance| {
        let seen = ctx.activity.seen(&i.key());
        let meta = &i.metadata;
        let deleting = meta.deletion_timestamp.is_some();
        (meta.uid.clone(), meta.generation, deleting, meta.annotations.clone(), want(i, seen, ctx.clock.now()))
    };
    let now = || ctx.cache.instance(&instance.key());
    let before = now().map(|i| wish(&i));
    loop {
        if tokio::time::timeout(SWEEP_LOOK, sweeping.clone()).await.is_ok() {
            return true;
        }
        if now().map(|i| wish(&i)) != before {
            return false;
        }
    }
}

/// A daemon that was busy did nothing: that is no failure.
fn engine_error(e: EngineError) -> Error {
    if e.kind == EngineErrorKind::Busy { Error::Busy(e.into()) } else { Error::retry(e) }
}

/// A daemon can acknowledge a change and not make it (a limit that its kernel does not know): without this check the
/// same action would be sent for ever, at full speed.
fn leads_nowhere(ctx: &Context, key: &Key, plan: &Plan) -> bool {
    let acts = plan.actions.iter().any(|a| !matches!(a, Action::AwaitStartup { .. } | Action::Mark(_)));
    let times = ctx.repeats.count(key, acts.then(|| plan.to_string()), ctx.clock.monotonic());
    times > MAX_REPEATS
}
