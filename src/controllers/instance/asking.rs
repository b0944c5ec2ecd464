//! Finding out whether an instance is busy, before it is put to sleep: a part of the look, for those that are to be asked.
//!
//! ```text
//! a minute before: one reading of its CPU ─▶ at the time: another, and a question to the app ─▶ Busy ─▶ ActivitySeen
//! ```
//!
//! Nothing is asked at any other time. What cannot be found out keeps it awake for a while and is told.

use std::time::Duration;

use tokio::time::timeout;

use super::super::Context;
use super::super::recorder::EventType;
use super::observe::regarded;
use super::plan::ActivitySeen;
use super::wakefulness::{WINDOW, until_question};
use super::why;
use crate::controllers::probes::ProbeTarget;
use crate::controllers::probes::busy::{BusySeen, Found, PATIENCE, Question, Said};
use crate::docker::engine::Engine;
use crate::model::{BusyCheck, Check, CpuShare, Instance, InstanceExplanation, Resource};

/// How long a daemon may take for a reading: an older one gives it at its next full second.
const READING: Duration = Duration::from_secs(4);
/// The reason of the Events.
const UNKNOWN: &str = "BusyUnknown";

/// What is known of whether it is busy.
pub fn seen(ctx: &Context, desired: &Instance) -> BusySeen {
    ctx.health.busy.seen(desired, ctx.clock.monotonic())
}

/// Why it is as it is: what the controllers see, and nothing is asked for it.
pub fn explain(ctx: &Context, instance: &Instance) -> InstanceExplanation {
    let activity = regarded(ctx, instance, ctx.activity.seen(&instance.key()));
    why::explain(instance, activity, &ctx.health.busy.signs(instance), ctx.clock.now())
}

/// Asks, if it is time to.
pub async fn ask(ctx: &Context, engine: &dyn Engine, desired: &Instance, activity: &mut ActivitySeen) {
    let (busy, now) = (&ctx.health.busy, ctx.clock.monotonic());
    match until_question(desired, *activity, ctx.clock.now()) {
        Some(Duration::ZERO) if activity.busy.again.is_zero() => {
            let mut found = vec![];
            if let Some(share) = &desired.spec.idle.busy_cpu {
                found.push((Question::Cpu, read(ctx, engine, desired, share).await));
            }
            let busy_already = matches!(found.last(), Some((_, Found::Busy(_) | Found::Pending(_))));
            if let Some(check) = desired.spec.idle.busy_check.as_ref().filter(|_| !busy_already) {
                found.push((Question::Http, put(ctx, desired, check).await));
            }
            let said = busy.settle(desired, &found, ctx.clock.monotonic(), ctx.clock.now());
            tracing::debug!(key = %desired.key(), ?found, ?said, "asked whether it is busy");
            tell(ctx, desired, &said);
            activity.busy = seen(ctx, desired);
        }
        Some(left) if !left.is_zero() && left <= WINDOW && desired.spec.idle.busy_cpu.is_some() => {
            // What cannot be read now is tried again, and told, when it counts.
            if !busy.is_primed(desired, now)
                && let Ok(Ok(Some(first))) = timeout(READING, engine.stats(&desired.status.container_id)).await
            {
                busy.take(desired, first, ctx.clock.monotonic());
            }
        }
        Some(_) | None => {}
    }
}

/// Reads its CPU.
async fn read(ctx: &Context, engine: &dyn Engine, desired: &Instance, share: &CpuShare) -> Found {
    let busy = &ctx.health.busy;
    let early = busy.too_soon(desired, ctx.clock.monotonic());
    if !early.is_zero() {
        return Found::Pending(early);
    }
    let new = match timeout(READING, engine.stats(&desired.status.container_id)).await {
        Ok(Ok(Some(new))) => new,
        Ok(Ok(None)) => return Found::Idle("it does not run".into()),
        Ok(Err(e)) => return Found::Unknown(e.to_string()),
        Err(_) => return Found::Unknown(format!("no reading within {READING:?}")),
    };
    let now = ctx.clock.monotonic();
    let Some((window, nanocores)) = busy.take(desired, new, now) else {
        return Found::Pending(busy.too_soon(desired, now));
    };
    let percent = nanocores as f64 / 1e7;
    let message = format!("{percent:.1}% of one core over {} s; busyCpu is {share}", window.as_secs().max(1));
    if nanocores >= u64::from(share.milli()) * 1_000_000 { Found::Busy(message) } else { Found::Idle(message) }
}

/// Asks the app.
async fn put(ctx: &Context, desired: &Instance, check: &BusyCheck) -> Found {
    let one = Check { http: Some(check.http.clone()), ..Check::default() };
    let Some(ProbeTarget::Net { name, at }) = ProbeTarget::of(desired, &one) else {
        return Found::Unknown("its port is not bound yet".into());
    };
    // What stands in the query is the app's own business.
    let path = at.path.as_deref().unwrap_or("/").split('?').next().unwrap_or_default().to_owned();
    match ctx.prober.status(&at, check.timeout()).await {
        Ok(status @ (500..)) => Found::Unknown(format!("{name}: GET {path}: {status}")),
        Ok(status) => {
            let message = format!("{name}: GET {path}: {status}");
            if (200..300).contains(&status) && status != 204 { Found::Busy(message) } else { Found::Idle(message) }
        }
        Err(why) => Found::Unknown(format!("{name}: {why}")),
    }
}

fn tell(ctx: &Context, desired: &Instance, said: &Said) {
    let event = |message: String| {
        ctx.recorder.event(&desired.key(), &desired.metadata.uid, EventType::Warning, UNKNOWN, message);
    };
    let minutes = PATIENCE.as_secs() / 60;
    match said {
        Said::Unknown { first: true, why } => {
            event(format!(
                "it stays awake, for {minutes} minutes at most, as it is not known whether it is busy: {why}"
            ));
        }
        Said::GivenUp(why) => {
            event(format!("it rests, as for {minutes} minutes nobody could tell whether it is busy: {why}"));
        }
        Said::Unknown { first: false, .. } | Said::Busy | Said::Idle | Said::Pending => {}
    }
}
