//! What probes of a running app mean for its instance: readiness decides whether it is Ready, liveness whether its container
//! is started anew. Pure: what was found out is in the observation, and counts only for the very run that is seen.

use crate::controllers::probes::Verdict;
use crate::docker::engine::{ContainerInfo, RunState};
use crate::model::{ConditionStatus, Instance, Phase, Time, condition};

use super::action::{Action, Plan};
use super::plan::Observed;
use super::report::Report;

/// The reason of Ready: it has started, and its readiness probe has not passed yet.
pub const READINESS_PENDING: &str = "ReadinessPending";
/// The reason of Ready: it runs, and its readiness probe fails.
pub const READINESS_FAILED: &str = "ReadinessFailed";
/// The reason of Ready: its liveness probe failed, and its container is being stopped to be started anew.
pub const LIVENESS_FAILED: &str = "LivenessFailed";

/// Whether it is told that the app is up: it has passed its startup probe, and serves or would if it were ready.
pub fn is_up(desired: &Instance) -> bool {
    let told = condition(&desired.status.conditions, "Ready");
    desired.status.phase == Phase::Running
        && told.is_some_and(|c| {
            c.status == ConditionStatus::True || [READINESS_PENDING, READINESS_FAILED].contains(&c.reason.as_str())
        })
}

/// Whether this very run of this container has passed its startup probe before.
pub fn started(desired: &Instance, container: &ContainerInfo) -> bool {
    is_up(desired) && is_run(desired, container)
}

/// Whether the status speaks of this run of this container.
fn is_run(desired: &Instance, container: &ContainerInfo) -> bool {
    let status = &desired.status;
    container.state == RunState::Running
        && status.container_id == container.id
        && status.started_at == container.started_at.map(Time::from)
}

fn message(probe: &str, times: u32, cause: &str) -> String {
    match times {
        1 => format!("the {probe} probe failed: {cause}"),
        n => format!("the {probe} probe failed {n} times in a row: {cause}"),
    }
}

/// Tells of an app that has started whether it is ready. `started`: it had before, so that what is told of it stays until
/// something else is found out.
pub fn tell_ready(report: &mut Report, desired: &Instance, seen: &Observed, started: bool) {
    report.phase(Phase::Running);
    if desired.spec.probes.readiness.is_none() {
        report.ready("Running", "the app has started");
    } else if !started {
        report.not_ready(READINESS_PENDING, "the app has started; waiting for its readiness probe");
    } else {
        match &seen.health.readiness {
            Verdict::Pending => {}
            Verdict::Passing => drop(report.ready("Running", "the app has started")),
            Verdict::Failing { times, cause } => {
                report.not_ready(READINESS_FAILED, message("readiness", *times, cause));
            }
        }
    }
}

/// Why the container is to be started anew; `None`: it is not. What has once been told is carried out, whatever was found
/// out since, and by whichever process.
pub fn death(desired: &Instance, seen: &Observed, container: &ContainerInfo) -> Option<String> {
    if !is_run(desired, container) {
        return None;
    }
    let told = condition(&desired.status.conditions, "Ready")?;
    if desired.status.phase == Phase::Starting && [LIVENESS_FAILED, "StopFailed"].contains(&told.reason.as_str()) {
        return Some(told.message.clone());
    }
    match &seen.health.liveness {
        Verdict::Failing { times, cause } if is_up(desired) && desired.spec.probes.liveness.is_some() => {
            Some(message("liveness", *times, cause))
        }
        Verdict::Pending | Verdict::Passing | Verdict::Failing { .. } => None,
    }
}

/// Stops a container whose app is dead. The next look finds it ended and starts it, with the back-off of a crash.
pub fn plan_restart(mut report: Report, container: &ContainerInfo, why: String, mut actions: Vec<Action>) -> Plan {
    report.phase(Phase::Starting).not_ready(LIVENESS_FAILED, why);
    actions.push(Action::Stop { id: container.id.clone(), only_if_idle: false });
    Plan { status: report.take(), actions, recheck: None }
}

/// Whether the container's end was our own doing, for its liveness probe.
pub fn ended_for_liveness(desired: &Instance) -> bool {
    condition(&desired.status.conditions, "Ready").is_some_and(|c| c.reason == LIVENESS_FAILED)
}
