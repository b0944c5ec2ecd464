//! Whether an instance may be routed to now: the one place that reads phases for traffic. Pure.
//!
//! Called by the service for every request and by a hold for every change of the instance.

use crate::model::{Instance, Phase, Power, condition, is_true};

/// What to do with a request for an instance's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Connect here.
    Ready(Target<'a>),
    /// It ran when its node's daemon was last heard of, and may well go on: the daemon hangs, or is cut off from us, and its
    /// containers are not. Try it, once, if nobody else can be there.
    Unsure(Target<'a>),
    /// Not up yet, or asleep: wake it and wait.
    Wake,
    /// Waiting would not help.
    Refuse(Refusal),
}

/// Where an instance's port is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// IP address or host name, without brackets.
    pub address: &'a str,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its owner switched it off.
    Stopped,
    /// It is being deleted.
    Gone,
    /// It cannot run; the controller tries again in its own time.
    Failed,
    /// Its node is full, and nobody there can make room; or no node takes it.
    Full,
    /// Its node cannot be reached, and it did not run there, or does not answer.
    Lost,
}

/// Decides for the port named `port`.
pub fn decide<'a>(instance: &'a Instance, port: &str) -> Decision<'a> {
    let status = &instance.status;
    if instance.metadata.deletion_timestamp.is_some() {
        return Decision::Refuse(Refusal::Gone);
    }
    // The wish counts before the controller has acted on it: nobody's request keeps a stopped app alive.
    if instance.spec.power == Power::Stopped {
        return Decision::Refuse(Refusal::Stopped);
    }
    let bound = status.host_port(port).filter(|_| !status.address.is_empty());
    let target = bound.map(|port| Target { address: status.address.as_str(), port });
    match (status.phase, target) {
        (Phase::Lost, Some(target)) if status.started_at.is_some() => return Decision::Unsure(target),
        // What rests keeps its phase while its node is away, and nobody could wake it there.
        _ if is_because(instance, "HostUnreachable") => return Decision::Refuse(Refusal::Lost),
        _ => {}
    }
    match status.phase {
        // Bound a moment later: the port is newer than the container.
        Phase::Running if is_true(&status.conditions, "Ready") => target.map_or(Decision::Wake, Decision::Ready),
        // It goes on waiting by itself.
        Phase::Pending if is_because(instance, "NoRoom") || is_because(instance, "Unschedulable") => {
            Decision::Refuse(Refusal::Full)
        }
        Phase::Running | Phase::Pending | Phase::Pulling | Phase::Starting => Decision::Wake,
        Phase::Frozen | Phase::Asleep | Phase::Stopping | Phase::Upgrading | Phase::Moving => Decision::Wake,
        // Power is no longer Stopped (see above), so the controller is about to leave this phase.
        Phase::Stopped => Decision::Wake,
        // Another subnet is chosen within a second or two.
        Phase::Failed if is_because(instance, "SubnetTaken") => Decision::Wake,
        Phase::Failed => Decision::Refuse(Refusal::Failed),
        Phase::Lost => Decision::Refuse(Refusal::Lost),
    }
}

/// Whether this is the reason of its Ready condition.
pub fn is_because(instance: &Instance, reason: &str) -> bool {
    condition(&instance.status.conditions, "Ready").is_some_and(|c| c.reason == reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BoundPort, Condition, ConditionStatus, Time};

    fn instance(phase: Phase, ready: ConditionStatus) -> Instance {
        let mut inst = Instance::default();
        inst.status.phase = phase;
        inst.status.address = "10.0.0.3".into();
        inst.status.ports = vec![BoundPort { name: "web".into(), host_port: 30001 }];
        inst.status.conditions = vec![Condition {
            type_: "Ready".into(),
            status: ready,
            reason: String::new(),
            message: String::new(),
            observed_generation: 1,
            last_transition_time: Time::from(jiff::Timestamp::UNIX_EPOCH),
        }];
        inst
    }

    const READY: Decision<'static> = Decision::Ready(Target { address: "10.0.0.3", port: 30001 });

    #[test]
    fn only_running_and_ready_is_routed_to() {
        use ConditionStatus::{False, True, Unknown};
        let failed = Decision::Refuse(Refusal::Failed);
        let lost = Decision::Refuse(Refusal::Lost);
        for (phase, when_ready, otherwise) in [
            (Phase::Pending, Decision::Wake, Decision::Wake),
            (Phase::Pulling, Decision::Wake, Decision::Wake),
            (Phase::Starting, Decision::Wake, Decision::Wake),
            (Phase::Running, READY, Decision::Wake),
            (Phase::Frozen, Decision::Wake, Decision::Wake),
            (Phase::Asleep, Decision::Wake, Decision::Wake),
            (Phase::Stopping, Decision::Wake, Decision::Wake),
            (Phase::Stopped, Decision::Wake, Decision::Wake),
            (Phase::Upgrading, Decision::Wake, Decision::Wake),
            (Phase::Moving, Decision::Wake, Decision::Wake),
            (Phase::Failed, failed, failed),
            (Phase::Lost, lost, lost),
        ] {
            assert_eq!(decide(&instance(phase, True), "web"), when_ready, "{phase:?}, ready");
            for not in [False, Unknown] {
                assert_eq!(decide(&instance(phase, not), "web"), otherwise, "{phase:?}, {not:?}");
            }
            let mut stopped = instance(phase, True);
            stopped.spec.power = Power::Stopped;
            assert_eq!(decide(&stopped, "web"), Decision::Refuse(Refusal::Stopped), "{phase:?}, power Stopped");
            stopped.metadata.deletion_timestamp = Some(Time::from(jiff::Timestamp::UNIX_EPOCH));
            assert_eq!(decide(&stopped, "web"), Decision::Refuse(Refusal::Gone), "{phase:?}, being deleted");
        }
    }

    #[test]
    fn what_ran_on_a_node_that_does_not_answer_is_tried() {
        let target = Target { address: "10.0.0.3", port: 30001 };
        let mut inst = instance(Phase::Lost, ConditionStatus::Unknown);
        inst.status.conditions[0].reason = "HostUnreachable".into();
        assert_eq!(decide(&inst, "web"), Decision::Refuse(Refusal::Lost), "it never ran");
        inst.status.started_at = Some(Time::from(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(decide(&inst, "web"), Decision::Unsure(target));
        assert_eq!(decide(&inst, "other"), Decision::Refuse(Refusal::Lost), "nothing is bound there");
        inst.status.phase = Phase::Asleep;
        assert_eq!(decide(&inst, "web"), Decision::Refuse(Refusal::Lost), "nobody can wake it there");
    }

    #[test]
    fn a_subnet_that_was_taken_is_waited_out() {
        let mut inst = instance(Phase::Failed, ConditionStatus::False);
        inst.status.conditions[0].reason = "SubnetTaken".into();
        assert_eq!(decide(&inst, "web"), Decision::Wake);
        inst.status.conditions[0].reason = "PortTaken".into();
        assert_eq!(decide(&inst, "web"), Decision::Refuse(Refusal::Failed), "whoever has it may keep it");
    }

    #[test]
    fn a_visitor_waits_while_room_is_made_and_not_where_there_is_none() {
        let mut inst = instance(Phase::Pending, ConditionStatus::False);
        inst.status.conditions[0].reason = "MakingRoom".into();
        assert_eq!(decide(&inst, "web"), Decision::Wake);
        for reason in ["NoRoom", "Unschedulable"] {
            inst.status.conditions[0].reason = reason.into();
            inst.status.phase = Phase::Pending;
            assert_eq!(decide(&inst, "web"), Decision::Refuse(Refusal::Full), "{reason}");
            // What it was refused for when it last wanted to run says nothing of the next time.
            inst.status.phase = Phase::Asleep;
            assert_eq!(decide(&inst, "web"), Decision::Wake, "{reason}");
        }
    }

    #[test]
    fn nobody_waits_for_a_node_that_cannot_be_reached() {
        for phase in
            [Phase::Frozen, Phase::Asleep, Phase::Stopping, Phase::Stopped, Phase::Pending, Phase::Lost, Phase::Moving]
        {
            let mut inst = instance(phase, ConditionStatus::Unknown);
            inst.status.conditions[0].reason = "HostUnreachable".into();
            assert_eq!(decide(&inst, "web"), Decision::Refuse(Refusal::Lost), "{phase:?}");
        }
    }

    #[test]
    fn a_port_that_is_not_bound_yet_is_waited_for() {
        let mut inst = instance(Phase::Running, ConditionStatus::True);
        assert_eq!(decide(&inst, "new"), Decision::Wake);
        inst.status.address.clear();
        assert_eq!(decide(&inst, "web"), Decision::Wake);
    }
}
