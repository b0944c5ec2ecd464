//! What a status says: the small pieces from which plans and failures compose it.

use jiff::Timestamp;

use crate::docker::engine::{EngineError, EngineErrorKind};
use crate::model::{Condition, ConditionStatus, Instance, InstanceStatus, Phase, condition, set_condition};

use super::action::Action;

/// The reason of a condition: its node is full, and others there fall asleep to make room.
pub const MAKING_ROOM: &str = "MakingRoom";
/// The reason of a condition: its node is full, and nobody there can make room.
pub const NO_ROOM: &str = "NoRoom";

/// A status in the making.
pub struct Report {
    pub status: InstanceStatus,
    generation: i64,
    now: Timestamp,
}

impl Report {
    /// Begins from the stored status, as of the desired generation.
    pub fn of(desired: &Instance, now: Timestamp) -> Report {
        let mut status = desired.status.clone();
        status.observed_generation = desired.metadata.generation;
        Report { status, generation: desired.metadata.generation, now }
    }

    pub fn phase(&mut self, phase: Phase) -> &mut Report {
        self.status.phase = phase;
        self
    }

    pub fn condition(
        &mut self,
        type_: &str,
        status: ConditionStatus,
        reason: &str,
        message: impl Into<String>,
    ) -> &mut Report {
        set_condition(
            &mut self.status.conditions,
            Condition {
                type_: type_.into(),
                status,
                reason: reason.into(),
                message: message.into(),
                observed_generation: self.generation,
                last_transition_time: self.now.into(),
            },
        );
        self
    }

    pub fn ready(&mut self, reason: &str, message: impl Into<String>) -> &mut Report {
        self.condition("Ready", ConditionStatus::True, reason, message)
    }

    pub fn not_ready(&mut self, reason: &str, message: impl Into<String>) -> &mut Report {
        self.condition("Ready", ConditionStatus::False, reason, message)
    }

    pub fn up_to_date(&mut self, yes: bool, reason: &str, message: impl Into<String>) -> &mut Report {
        self.condition("UpToDate", yes.into(), reason, message)
    }

    /// Tells something of the spec that is brought about now, while another is to come.
    pub fn of_before(&mut self, desired: &Instance, tell: impl FnOnce(&mut Report)) {
        let generation = std::mem::replace(&mut self.generation, desired.status.observed_generation);
        tell(self);
        self.generation = generation;
    }

    pub fn take(&mut self) -> InstanceStatus {
        std::mem::take(&mut self.status)
    }

    pub fn snapshot(&self) -> Box<InstanceStatus> {
        Box::new(self.status.clone())
    }
}

/// Whether it is told that this very spec could not be brought about, for one of these reasons. While a failure is being
/// retried it stays told: a reason that comes and goes with each try would say less, and each change would be written.
pub fn told_failing(desired: &Instance, reasons: &[&str]) -> bool {
    condition(&desired.status.conditions, "UpToDate").is_some_and(|c| {
        c.status == ConditionStatus::False
            && c.observed_generation == desired.metadata.generation
            && reasons.contains(&c.reason.as_str())
    })
}

/// The status after an action failed, with the daemon's own words.
pub fn after_failure(desired: &Instance, action: &Action, error: &EngineError, now: Timestamp) -> InstanceStatus {
    let mut report = Report::of(desired, now);
    match error.kind {
        // A pull waits for a registry, which may be silent while the host is well.
        EngineErrorKind::Timeout if !matches!(action, Action::Pull { .. }) => {
            host_lost(&mut report, &error.to_string());
        }
        kind if kind.is_away() => host_lost(&mut report, &error.to_string()),
        _ => {
            let (reason, message) = (failure_reason(action, error.kind), error.to_string());
            let serving = matches!(report.status.phase, Phase::Running);
            match action {
                // The old container still serves: an image that cannot be had must not take it down.
                Action::Pull { .. } | Action::CheckValues(_) | Action::UpdateLimits { .. } | Action::Rename { .. }
                    if serving =>
                {
                    report.status.observed_generation = desired.status.observed_generation;
                    report.up_to_date(false, reason, message);
                }
                Action::Start { .. } if error.kind == EngineErrorKind::PortTaken => {
                    refuse_ports(&mut report.status, desired, &error.message);
                    report.phase(Phase::Failed).not_ready(reason, message);
                }
                Action::Stop { .. }
                | Action::Unpause { .. }
                | Action::RemoveContainer { .. }
                | Action::RemoveNetwork { .. }
                | Action::RemoveVolume { .. } => {
                    report.not_ready(reason, message);
                }
                _ => {
                    report.phase(Phase::Failed).not_ready(reason, message);
                }
            }
        }
    }
    report.take()
}

/// How many ports, and how many subnets, that something else holds are remembered.
const MOST_REFUSED: usize = 8;

/// Takes note that the daemon has the subnet for something else: at once if another's network is seen in it (`held`); if
/// none is, when it is not the first time, as a late call for this very network may have it.
pub fn refuse_subnet(status: &mut InstanceStatus, desired: &Instance, held: bool) {
    let told = condition(&desired.status.conditions, "Ready").is_some_and(|c| c.reason == "SubnetTaken");
    if status.subnet.is_empty() || !(held || told) {
        return;
    }
    remember(&mut status.refused_subnets, status.subnet.clone());
}

/// Takes note of the ports that something else holds, when it is not the first time: what held one may have been a late
/// container of this very instance. Ports that the user fixed are theirs to change.
fn refuse_ports(status: &mut InstanceStatus, desired: &Instance, message: &str) {
    if condition(&desired.status.conditions, "Ready").is_none_or(|c| c.reason != "PortTaken") {
        return;
    }
    let free = desired.spec.ports.iter().filter(|p| p.host_port.is_none());
    let bound: Vec<u16> = free.filter_map(|p| desired.status.host_port(&p.name)).collect();
    let numbers: Vec<&str> = message.split(|c: char| !c.is_ascii_digit()).collect();
    let named: Vec<u16> = bound.iter().copied().filter(|p| numbers.contains(&p.to_string().as_str())).collect();
    for port in if named.is_empty() { bound } else { named } {
        remember(&mut status.refused_ports, port);
    }
}

/// Puts what was refused last at the end, once, and forgets what was longest ago.
fn remember<T: PartialEq>(refused: &mut Vec<T>, last: T) {
    refused.retain(|one| *one != last);
    refused.push(last);
    let surplus = refused.len().saturating_sub(MOST_REFUSED);
    refused.drain(..surplus);
}

/// The status with how far a pull is, where a pull is what it tells of: a failure that is being retried stays told.
pub fn pull_told(desired: &Instance, message: String, now: Timestamp) -> InstanceStatus {
    let mut report = Report::of(desired, now);
    report.status.observed_generation = desired.status.observed_generation;
    let replacing = condition(&desired.status.conditions, "UpToDate").is_some_and(|c| c.reason == "Replacing");
    match desired.status.phase {
        Phase::Pulling => {
            report.not_ready("Pulling", message);
        }
        Phase::Running if replacing => {
            report.up_to_date(false, "Replacing", message);
        }
        _ => {}
    }
    report.take()
}

/// What is known when the node does not answer: nothing.
pub fn host_lost(report: &mut Report, message: &str) {
    let phase = match report.status.phase {
        // What rests needs no node to rest, and must not come back awake.
        phase @ (Phase::Frozen | Phase::Asleep | Phase::Stopped | Phase::Stopping) => phase,
        _ if report.status.container_id.is_empty() => Phase::Pending,
        _ => Phase::Lost,
    };
    // Which call failed first differs from look to look: a message that changed each time would be written each time.
    let told = condition(&report.status.conditions, "Ready").filter(|c| c.reason == "HostUnreachable");
    let message = told.map_or_else(|| message.to_owned(), |c| c.message.clone());
    report.phase(phase).condition("Ready", ConditionStatus::Unknown, "HostUnreachable", message);
}

/// The reason for people and programs: the daemon's kind of refusal where it says more than the action.
pub fn failure_reason(action: &Action, kind: EngineErrorKind) -> &'static str {
    match kind {
        EngineErrorKind::PortTaken => "PortTaken",
        EngineErrorKind::SubnetTaken => "SubnetTaken",
        EngineErrorKind::NoSpace => "NoSpace",
        EngineErrorKind::ImageMissing => "ImagePullFailed",
        EngineErrorKind::Timeout if matches!(action, Action::Pull { .. }) => action.failure_reason(),
        EngineErrorKind::Unreachable
        | EngineErrorKind::WrongDaemon
        | EngineErrorKind::Credentials
        | EngineErrorKind::LoginRefused
        | EngineErrorKind::Timeout
        | EngineErrorKind::Busy => "HostUnreachable",
        EngineErrorKind::Invalid => match action {
            Action::CheckValues(_) | Action::CreateContainer(_) | Action::Start { .. } => "InvalidConfiguration",
            _ => action.failure_reason(),
        },
        EngineErrorKind::NotFound | EngineErrorKind::Conflict | EngineErrorKind::Server => action.failure_reason(),
    }
}
