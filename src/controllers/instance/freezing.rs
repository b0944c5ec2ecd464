//! The first stage of sleep: frozen, with its memory, ports and run kept. Pure.
//!
//! ```text
//! Ready, idle for freezeAfter ──▶ commit Frozen ──▶ still idle? ──▶ pause
//! Frozen, used               ──▶ unpause ──▶ commit Running, Ready       (no probe: it is the run that was ready)
//! Frozen, idle for after     ──▶ commit Stopping ──▶ stop                (a stop ends the pause: the app hears it)
//! ```
//!
//! Only what is Ready and as its spec asks for is frozen. What is frozen counts as up: a spec that changes meanwhile is
//! brought about at once, as for one that runs. One that ends while it is frozen is asleep. What somebody else has frozen
//! goes on.

use std::time::Duration;

use jiff::Timestamp;

use crate::docker::engine::{ContainerInfo, RunState};
use crate::model::{ConditionStatus, Instance, InstanceStatus, Phase, condition, is_true};

use super::action::{Action, Plan};
use super::desired::container_spec;
use super::health::{HAS_STARTED, is_run};
use super::plan::{ActivitySeen, Observed, SHOWN, Site, idle, must_bind, plan_rest, until_sleep};
use super::report::Report;
use super::running::{self, choose, is_to_be_renamed, needs_replacement, plan_run};

/// The reason of Ready while it is frozen.
pub const FROZEN: &str = "Frozen";
/// The condition that tells, by being False, that its host's daemon does not freeze it.
pub const FREEZABLE: &str = "Freezable";
/// The reason of Ready: it is frozen, and its daemon does not end that.
pub const UNPAUSE_FAILED: &str = "UnpauseFailed";

/// Time until it may be frozen if nobody uses it; `None`: it is not to be, or its use is not known.
pub fn until_frozen(desired: &Instance, activity: ActivitySeen, now: Timestamp) -> Option<Duration> {
    let after = desired.spec.freeze_after().filter(|_| !activity.cannot_freeze)?;
    let left = after.saturating_sub(idle(desired, activity, now)?);
    let ready = condition(&desired.status.conditions, "Ready")?;
    match desired.status.phase {
        Phase::Frozen => Some(left),
        // One that is not ready would not be ready at once.
        Phase::Running if ready.status == ConditionStatus::True => {
            let up = Duration::try_from(now.duration_since(ready.last_transition_time.timestamp())).unwrap_or_default();
            Some(left.max(after.min(SHOWN).saturating_sub(up)))
        }
        _ => None,
    }
}

/// Whether it has been without use for long enough.
pub fn is_due(desired: &Instance, activity: ActivitySeen, now: Timestamp) -> bool {
    until_frozen(desired, activity, now) == Some(Duration::ZERO)
}

/// How long one that was frozen by a process before this one has been without use, as its record has it. Not less than
/// what froze it, whatever the clock says: a restart of the control plane wakes nobody.
pub fn idle_by_record(desired: &Instance, now: Timestamp) -> Option<Duration> {
    let (status, least) = (&desired.status, desired.spec.freeze_after()?);
    let since = status.last_active.and_then(|at| Duration::try_from(now.duration_since(at.timestamp())).ok());
    (status.phase == Phase::Frozen).then(|| since.unwrap_or_default().max(least))
}

/// What is to be told about whether it can be frozen; `refusal`: its daemon's words.
pub fn tell_refusal(report: &mut Report, desired: &Instance, refusal: Option<&str>) {
    match refusal {
        _ if desired.spec.freeze_after().is_none() => report.status.conditions.retain(|c| c.type_ != FREEZABLE),
        Some(words) => {
            let message = format!("{} does not freeze it, so it runs on until it sleeps: {words}", desired.status.node);
            report.condition(FREEZABLE, ConditionStatus::False, "PauseRefused", message);
        }
        // Whether it can be by now is found out when it is tried.
        None => {}
    }
}

/// The run of the status, which was Ready when it was frozen.
pub fn is_frozen_run(desired: &Instance, container: &ContainerInfo) -> bool {
    desired.status.phase == Phase::Frozen && is_run(desired, container)
}

/// The plan of one that should be frozen.
pub fn plan_freeze(site: &Site, desired: &Instance, seen: &Observed, report: Report, now: Timestamp) -> Plan {
    let spec = container_spec(&site.cluster, desired);
    let (best, others) = choose(&seen.containers, &spec);
    let frozen = desired.status.phase == Phase::Frozen;
    let Some(container) = best.filter(|c| is_alive(c)) else {
        return match frozen {
            true => fall_asleep(plan_rest(site, desired, seen, report, Phase::Asleep, now), desired),
            // One that ran has crashed.
            false => plan_run(site, desired, seen, report, now),
        };
    };
    let as_it_should_be = others.is_empty()
        && (!frozen || is_run(desired, container))
        && seen.strays.is_empty()
        && !must_bind(desired, seen)
        && !needs_replacement(desired, container, seen, &spec)
        && !is_to_be_renamed(desired, container, &spec)
        && !running::is_to_be_updated(desired, container)
        && desired.status.allocated_resources.as_ref() == Some(&desired.spec.asks());
    if !as_it_should_be {
        return plan_run(site, desired, seen, report, now);
    }
    if frozen {
        return keep_frozen(desired, seen, report, container, now);
    }
    let up = plan_run(site, desired, seen, report, now);
    let ready = up.status.phase == Phase::Running && is_true(&up.status.conditions, "Ready");
    if !up.actions.is_empty() || !ready {
        return up;
    }
    let mut report = Report::of(desired, now);
    report.status = up.status;
    begin(desired, seen, report, container, now)
}

pub fn is_alive(container: &ContainerInfo) -> bool {
    matches!(container.state, RunState::Running | RunState::Paused | RunState::Restarting)
}

/// One that ended while it was frozen is asleep, as nobody uses it: what froze it is no use that wakes it.
pub fn fall_asleep(mut rest: Plan, desired: &Instance) -> Plan {
    if rest.actions.is_empty() && desired.status.phase == Phase::Frozen {
        let asleep = std::mem::replace(&mut rest.status, desired.status.clone());
        rest.actions = vec![Action::Rest, Action::Mark(Box::new(asleep))];
    }
    rest
}

/// Says that it is frozen, and then freezes it: from the commit on the proxy holds requests.
fn begin(desired: &Instance, seen: &Observed, mut report: Report, container: &ContainerInfo, now: Timestamp) -> Plan {
    let before = report.snapshot();
    tell_frozen(&mut report, desired);
    report.status.last_active = Some((now - idle(desired, seen.activity, now).unwrap_or_default()).into());
    let mut actions = vec![Action::Mark(report.snapshot())];
    if container.state == RunState::Running {
        actions.push(Action::Pause { id: container.id.clone() });
    }
    Plan { status: *before, actions, recheck: None }
}

fn keep_frozen(
    desired: &Instance,
    seen: &Observed,
    mut report: Report,
    container: &ContainerInfo,
    now: Timestamp,
) -> Plan {
    tell_frozen(&mut report, desired);
    report.up_to_date(true, "UpToDate", "the container is of the current spec");
    if container.state == RunState::Running {
        // Somebody has let it go on, or the pause is yet to come.
        let actions = vec![Action::Pause { id: container.id.clone() }];
        return Plan { status: report.take(), actions, recheck: None };
    }
    report.status.conditions.retain(|c| c.type_ != FREEZABLE);
    let left = until_sleep(desired, seen.activity, now).unwrap_or_else(|| desired.spec.idle_after());
    Plan { status: report.take(), actions: vec![], recheck: Some(left.max(Duration::from_millis(100))) }
}

fn tell_frozen(report: &mut Report, desired: &Instance) {
    let after = desired.spec.idle.freeze_after.as_ref().map(ToString::to_string).unwrap_or_default();
    report.phase(Phase::Frozen).not_ready(FROZEN, format!("not used for {after}; goes on with the next request"));
}

/// The plan of one whose container is paused and should run: it goes on before anything else is done to it, so that
/// whoever waits for it has it at once.
pub fn plan_thaw(desired: &Instance, seen: &Observed, report: Report, container: &ContainerInfo) -> Plan {
    let mut actions = vec![Action::Unpause { id: container.id.clone(), drift: desired.status.phase != Phase::Frozen }];
    if is_frozen_run(desired, container) && !must_bind(desired, seen) {
        actions.push(Action::Mark(Box::new(thawed(report, desired).take())));
    }
    Plan { status: desired.status.clone(), actions, recheck: None }
}

/// The plan of one whose daemon did not end its pause: it is started anew, in the same container.
pub fn plan_stuck(mut report: Report, container: &ContainerInfo) -> Plan {
    report.phase(Phase::Starting);
    let actions = vec![Action::Stop { id: container.id.clone(), only_if_idle: false }];
    Plan { status: report.take(), actions, recheck: None }
}

/// Tells that the run goes on. Of a spec that has changed meanwhile nothing is said yet.
fn thawed(mut report: Report, desired: &Instance) -> Report {
    report.status.observed_generation = desired.status.observed_generation;
    report.of_before(desired, |report| {
        report.phase(Phase::Running).ready("Running", HAS_STARTED);
    });
    report
}

/// What is written when a frozen one that somebody uses goes on, if its record alone tells that nothing else is to be done
/// first: then nobody needs to look at its host. The look that follows finds out what the record did not know.
pub fn thawed_at_once(desired: &Instance, now: Timestamp) -> Option<InstanceStatus> {
    let status = &desired.status;
    let plain = status.phase == Phase::Frozen
        && condition(&status.conditions, "Ready").is_some_and(|c| c.reason == FROZEN)
        && status.observed_generation == desired.metadata.generation
        && desired.metadata.deletion_timestamp.is_none()
        && !desired.is_condemned(&status.container_id);
    plain.then(|| thawed(Report::of(desired, now), desired).take())
}
