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

/// What Ready says of an app that is up.
pub const HAS_STARTED: &str = "the app has started";

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
    (is_up(desired) || desired.status.phase == Phase::Frozen) && is_run(desired, container)
}

/// Whether the status speaks of this run of this container, which may be frozen.
pub fn is_run(desired: &Instance, container: &ContainerInfo) -> bool {
    let status = &desired.status;
    matches!(container.state, RunState::Running | RunState::Paused)
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
    let frozen = desired.status.phase == Phase::Frozen && started;
    if desired.spec.probes.readiness.is_none() || frozen {
        // What was frozen was ready, and is so at once.
        report.ready("Running", HAS_STARTED);
    } else if !started {
        report.not_ready(READINESS_PENDING, "the app has started; waiting for its readiness probe");
    } else {
        match &seen.health.readiness {
            Verdict::Pending => {}
            Verdict::Passing => drop(report.ready("Running", HAS_STARTED)),
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

#[cfg(test)]
mod tests {
    use super::super::plan::{ActivitySeen, NodeSeen, Site, plan};
    use super::super::{container_spec, network_spec};
    use super::*;
    use crate::controllers::instance::NetworkSeen;
    use crate::controllers::probes::{Attempt, HealthSeen};
    use crate::docker::labels;
    use crate::model::{InstanceStatus, Resource};
    use jiff::Timestamp;
    use serde_json::json;

    fn now() -> Timestamp {
        Timestamp::from_second(1_767_225_600).unwrap()
    }

    fn failing() -> Verdict {
        Verdict::Failing { times: 3, cause: "web: no".into() }
    }

    /// One that runs, and for which all is as it should be.
    fn world(probes: serde_json::Value) -> (Instance, Observed) {
        let mut desired: Instance = serde_json::from_value(json!({
            "metadata": {"name": "alice", "namespace": "default", "uid": "u", "generation": 1},
            "spec": {"image": "app:1", "power": "Running", "ports": [{"name": "web", "containerPort": 80}], "probes": probes},
            "status": {"node": "h1", "address": "10.0.0.1", "ports": [{"name": "web", "hostPort": 30001}],
                       "subnet": "10.213.0.0/28"},
        }))
        .unwrap();
        desired.status.allocated_resources = Some(desired.spec.asks());
        let spec = container_spec("c", &desired);
        let network = network_spec("c", &desired);
        let container = ContainerInfo {
            id: "a".repeat(64),
            name: spec.name.clone(),
            image: spec.image.clone(),
            labels: spec.labels.clone(),
            state: RunState::Running,
            started_at: Some(now()),
            limits: spec.limits,
            restart_policy: "no".into(),
            networks: vec![labels::object_name(&desired.key())],
            ports: spec.ports.clone(),
            ..ContainerInfo::default()
        };
        let seen = Observed {
            node: NodeSeen::Reachable,
            containers: vec![container],
            address_changed: false,
            node_ready: true,
            name_taken_by: None,
            strays: vec![],
            network: NetworkSeen::Ours {
                subnets: network.subnet.iter().map(ToString::to_string).collect(),
                closed: false,
            },
            volumes: Default::default(),
            image_present: None,
            values: Default::default(),
            activity: ActivitySeen::default(),
            startup: Some(Attempt::Passed),
            health: HealthSeen::default(),
            leave: None,
            loss: None,
            freeze_refusal: None,
            taken: vec![],
        };
        (desired, seen)
    }

    fn look(desired: &mut Instance, seen: &Observed) -> Vec<String> {
        let plan = plan(&Site { cluster: "c".into(), ..Site::default() }, desired, seen, now());
        desired.status = plan.status;
        plan.actions.iter().map(ToString::to_string).collect()
    }

    fn told(status: &InstanceStatus) -> (Phase, ConditionStatus, String) {
        let ready = condition(&status.conditions, "Ready").unwrap();
        (status.phase, ready.status, ready.reason.clone())
    }

    fn probe() -> serde_json::Value {
        json!({"tcp": {"port": "web"}})
    }

    #[test]
    fn ready_follows_the_verdict_and_stays_where_there_is_none() {
        let (mut desired, mut seen) = world(json!({"readiness": probe()}));
        use ConditionStatus::{False, True};
        seen.health.readiness = Verdict::Passing;
        look(&mut desired, &seen);
        let expected = (Phase::Running, False, READINESS_PENDING.to_owned());
        assert_eq!(told(&desired.status), expected, "what was known before it had started is of another run");
        for (verdict, status, reason) in [
            (Verdict::Pending, False, READINESS_PENDING),
            (failing(), False, READINESS_FAILED),
            (Verdict::Pending, False, READINESS_FAILED),
            (Verdict::Passing, True, "Running"),
            (Verdict::Pending, True, "Running"),
            (failing(), False, READINESS_FAILED),
        ] {
            seen.health.readiness = verdict.clone();
            assert_eq!(look(&mut desired, &seen), [""; 0], "{verdict:?}");
            assert_eq!(told(&desired.status), (Phase::Running, status, reason.to_owned()), "{verdict:?}");
            let before = desired.status.clone();
            look(&mut desired, &seen);
            assert_eq!(desired.status, before, "{verdict:?}: written twice");
        }
        desired.spec.probes.readiness = None;
        assert_eq!(look(&mut desired, &seen), [""; 0]);
        assert_eq!(told(&desired.status), (Phase::Running, True, "Running".into()), "nobody asks any more");
    }

    #[test]
    fn one_that_is_dead_is_stopped_until_it_has_stopped_whatever_is_found_out_meanwhile() {
        let (mut desired, mut seen) = world(json!({"liveness": probe()}));
        seen.health.liveness = failing();
        assert_eq!(look(&mut desired, &seen), [""; 0], "it has not started yet");
        let stop = format!("stop {}", "a".repeat(12));
        assert_eq!(look(&mut desired, &seen), [stop.as_str()]);
        assert_eq!(told(&desired.status), (Phase::Starting, ConditionStatus::False, LIVENESS_FAILED.into()));
        seen.health = HealthSeen::default();
        assert_eq!(look(&mut desired, &seen), [stop.as_str()], "it was told, and is carried out");

        let c = &mut seen.containers[0];
        (c.state, c.finished_at, c.exit_code) = (RunState::Exited, Some(now()), 137);
        let done = look(&mut desired, &seen);
        assert!(done.iter().any(|a| a.starts_with("start ")), "{done:?}");
        let status = &desired.status;
        assert_eq!((status.restarts, status.crashes), (1, 1));
        assert!(status.last_exit.as_ref().is_some_and(|exit| exit.unhealthy), "{:?}", status.last_exit);
        assert_eq!(told(status).0, Phase::Starting);
    }

    #[test]
    fn what_was_found_out_of_another_run_or_without_a_probe_kills_nobody() {
        let (mut desired, mut seen) = world(json!({"liveness": probe()}));
        look(&mut desired, &seen);
        seen.health.liveness = failing();
        let mut restarted = seen.clone();
        restarted.containers[0].started_at = Some(now() + jiff::SignedDuration::from_secs(1));
        assert_eq!(look(&mut desired.clone(), &restarted), [""; 0]);
        let mut unasked = desired.clone();
        unasked.spec.probes.liveness = None;
        assert_eq!(look(&mut unasked, &seen), [""; 0]);
        assert_eq!(look(&mut desired, &seen).len(), 1);
    }
}
