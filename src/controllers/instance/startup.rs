//! Waiting for an app that has just started: attempts of its startup probe, made by the reconcile itself, so that nobody
//! who waits for the app waits for another's turn.

use std::time::Duration;

use super::super::Context;
use crate::controllers::probes::{Asked, Attempt, ProbeKind, ProbeTarget, check};
use crate::docker::engine::Engine;
use crate::model::{Instance, Resource};

/// How long one step waits for an app before everything is looked at again.
pub const AWAIT_SLICE: Duration = Duration::from_secs(1);

/// One attempt; `None` while the time between two of them is not over.
pub async fn attempt(
    ctx: &Context,
    engine: Option<&dyn Engine>,
    instance: &Instance,
    container_id: &str,
    target: &ProbeTarget,
) -> Option<Attempt> {
    let (key, now) = (instance.key(), ctx.clock.monotonic());
    if !ctx.health.startup_due(&key, instance.spec.startup_period(), now).is_zero() {
        return None;
    }
    ctx.health.startup_tried(&key, Some(now));
    let asked = Asked { key: &key, kind: ProbeKind::Startup, check: 0 };
    let made = check(ctx, engine, asked, container_id, target, instance.spec.startup_attempt_timeout()).await;
    ctx.health.count(ProbeKind::Startup, &made);
    if made == Attempt::Passed {
        // The next look asks once more, and tells it.
        ctx.health.startup_tried(&key, None);
    }
    Some(made)
}

/// How long to wait for the next one: for the period of the spec; else a fiftieth of the time waited so far, so that a fast
/// app is found up at once, and a slow one is not hammered.
pub fn pause(ctx: &Context, instance: &Instance, waited: Duration) -> Duration {
    let period = instance.spec.startup_period();
    if period.is_none() {
        return (waited / 50).clamp(Duration::from_millis(1), Duration::from_millis(250));
    }
    let due = ctx.health.startup_due(&instance.key(), period, ctx.clock.monotonic());
    due.clamp(Duration::from_millis(1), AWAIT_SLICE)
}
