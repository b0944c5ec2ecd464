//! The instance controller: one Instance record, and the container, network and volumes that it stands for.
//!
//! ```text
//! key ──▶ observe ──▶ plan (pure) ──▶ apply ──▶ look again
//! ```
//!
//! [`reconcile`] is level-triggered and knows nothing of what triggered it.

mod action;
mod apply;
mod desired;
mod moving;
mod observe;
mod plan;
mod probe;
mod report;
mod running;
mod sweep;
mod values;

use std::sync::Arc;

pub use action::{Action, Plan, STOP_GRACE};
pub use desired::container_spec;
pub use moving::{Leave, elsewhere};
pub use plan::{ActivitySeen, NodeSeen, Observed, Presence, Site, Want, plan, want};
pub use probe::{NetProber, ProbeTarget, Prober};
pub use running::crash_delay;
pub use values::{REASONS as VALUE_REASONS, ValueNames};

use super::Context;
use crate::model::{Instance, Key};
use crate::runtime::{Error, Outcome};
use crate::store::typed;
use apply::Executor;

/// How often the same plan may be carried out in a row before it counts as leading nowhere.
const MAX_REPEATS: u32 = 5;

/// Brings one instance closer to what it should be.
pub async fn reconcile(ctx: Arc<Context>, key: Key) -> Result<Outcome, Error> {
    let found = typed::get::<Instance>(&*ctx.store, &key).await.map_err(Error::retry)?;
    let Some(instance) = found else {
        sweep::sweep(&ctx, &key, None).await?;
        ctx.activity.forget(&key);
        ctx.repeats.forget(&key);
        return Ok(Outcome::Done);
    };
    if let Err(e) = sweep::sweep(&ctx, &key, Some(&instance)).await {
        // A sick host that holds a stray must not keep the instance from its own; every listing comes back to it.
        tracing::debug!(%key, error = %e, "a stray was not removed");
    }
    let seen = observe::observe(&ctx, &instance).await.map_err(Error::retry)?;
    let plan = plan::plan(&ctx.site, &instance, &seen, ctx.clock.now());
    tracing::debug!(%plan, "planned");
    if leads_nowhere(&ctx, &key, &plan) {
        return Err(Error::retry(format!("the same plan was carried out {MAX_REPEATS} times without effect: {plan}")));
    }
    let node = instance.status.node.clone();
    let result = Executor::new(&ctx, instance).run(plan).await;
    if result.is_err() {
        // Failures have their own back-off; and what could not be done may have met something not listed yet.
        ctx.repeats.forget(&key);
        if !node.is_empty() {
            ctx.relist.request(&node);
        }
    }
    result
}

/// A daemon can acknowledge a change and not make it (a limit that its kernel does not know): without this check the
/// same action would be sent for ever, at full speed.
fn leads_nowhere(ctx: &Context, key: &Key, plan: &Plan) -> bool {
    let acts = plan.actions.iter().any(|a| !matches!(a, Action::AwaitStartup { .. } | Action::Mark(_)));
    let times = ctx.repeats.count(key, acts.then(|| plan.to_string()), ctx.clock.monotonic());
    times > MAX_REPEATS
}
