//! The loss of a host: whether an instance is made anew on another while its own does not answer. Pure.
//!
//! ```text
//! onHostLoss: Recreate, wants to run ──▶ away for hostLossAfter? ──▶ most hosts away? ──▶ another fits? ──▶ one commit
//! ```
//!
//! What cannot be reached cannot be stopped: until the host is back its copy may run there. It is nobody's by then: the
//! commit takes the instance's routes and ports away from it, and whatever of it is found when the host is back is a
//! stray. So only an instance that keeps nothing on its host is made anew, which admission sees to.

use std::ops::Deref;
use std::time::Duration;

use jiff::Timestamp;

use crate::model::{ConditionStatus, DockerHost, Instance, OnHostLoss, Span, UNREACHABLE, Volume, condition, is_true};
use crate::scheduler::{Fleet, Placement};

use super::action::{Action, Plan};
use super::moving::elsewhere;
use super::report::{Report, host_lost};

/// The condition that tells what is done about the loss: True while the host is lost.
pub const HOST_LOST: &str = "HostLost";

/// How often it is looked whether the host answers again; while the record does not say that it is not ready, nobody
/// would tell.
const LOOK: Duration = Duration::from_secs(5);

/// What is to be done about the loss of a host, for an instance with `onHostLoss: Recreate` that wants to run.
#[derive(Clone, Debug, PartialEq)]
pub enum Loss {
    /// It has not lasted long enough: for so much longer.
    Recent(Duration),
    /// So many of so many hosts are away.
    MostAway { away: usize, of: usize },
    /// No other host takes it, in the scheduler's words.
    NoOther(String),
    /// It goes there.
    Recreate(Placement),
    /// The host is out of service, by an operator's word: what is being deleted goes, what rests is bound nowhere until it
    /// wakes.
    GivenUp,
}

/// What is to be done about a host whose instances an operator has given up, and which does not answer: neither data nor
/// policies nor time keep them there. `rests`: it does not want to run, or is being deleted.
pub fn given_up<F: Deref<Target = Fleet>>(
    instance: &Instance,
    host: &DockerHost,
    away: Option<Duration>,
    rests: bool,
    now: Timestamp,
    fleet: impl FnOnce() -> F,
) -> Option<Loss> {
    // No record of another time will do: this process, too, has asked it in vain.
    lasted(host, away, now).filter(|_| host.is_out_of_service())?;
    // Left behind, it would be no stray: nothing on it tells whose it is.
    if instance.is_adopted(&instance.status.container_id) && instance.metadata.deletion_timestamp.is_none() {
        return None;
    }
    if rests {
        return Some(Loss::GivenUp);
    }
    Some(match elsewhere(instance, &fleet()) {
        Ok(placement) => Loss::Recreate(placement),
        Err(why) => Loss::NoOther(why),
    })
}

/// What is to be done. `away`: for how long this process has had no answer from the host.
pub fn loss<F: Deref<Target = Fleet>>(
    instance: &Instance,
    host: &DockerHost,
    away: Option<Duration>,
    now: Timestamp,
    fleet: impl FnOnce() -> F,
) -> Option<Loss> {
    if instance.spec.placement.on_host_loss != OnHostLoss::Recreate
        || instance.spec.volumes.iter().any(Volume::keeps_data)
        // Left behind, it would be no stray: nothing on it tells whose it is.
        || instance.is_adopted(&instance.status.container_id)
    {
        return None;
    }
    let (after, lasted) = (instance.spec.placement.host_loss_after(), lasted(host, away, now).unwrap_or_default());
    if lasted < after {
        return Some(Loss::Recent(after - lasted));
    }
    let fleet = fleet();
    let lost = fleet.hosts().filter(|on| is_away(&on.host)).count();
    // Hosts do not fail together, but their connections to the control plane do.
    if lost * 2 > fleet.hosts().len() {
        return Some(Loss::MostAway { away: lost, of: fleet.hosts().len() });
    }
    Some(match elsewhere(instance, &fleet) {
        Ok(placement) => Loss::Recreate(placement),
        Err(why) => Loss::NoOther(why),
    })
}

fn is_away(host: &DockerHost) -> bool {
    condition(&host.status.conditions, "Ready")
        .is_some_and(|c| c.status == ConditionStatus::False && c.reason == UNREACHABLE)
}

/// How long the host has been away: both by its record, which outlives this process, and by what this process has seen,
/// which no record of another time can lengthen. `None`: it is not known to be away.
fn lasted(host: &DockerHost, away: Option<Duration>, now: Timestamp) -> Option<Duration> {
    let ready = condition(&host.status.conditions, "Ready").filter(|_| is_away(host))?;
    // A daemon whose certificate has ended is refused by ourselves: it is there, and so is what runs on it.
    if host.status.certificate_expires.is_some_and(|end| end.timestamp() <= now) {
        return None;
    }
    // Of a clock that has been put back, nothing is known.
    let told = Duration::try_from(now.duration_since(ready.last_transition_time.timestamp())).unwrap_or_default();
    Some(told.min(away?))
}

/// The plan of an instance whose host does not answer, for the reason `why`.
pub fn plan_lost(desired: &Instance, loss: Option<&Loss>, why: &str, mut report: Report) -> Plan {
    host_lost(&mut report, why);
    let node = &desired.status.node;
    let after = Span::from(desired.spec.placement.host_loss_after());
    let (reason, message, actions, recheck) = match loss {
        None => {
            forget(&mut report);
            return Plan { status: report.take(), actions: vec![], recheck: Some(LOOK) };
        }
        Some(Loss::Recent(left)) => {
            let message = format!("{node} does not answer; made anew on another host when that has lasted {after}");
            ("Waiting", message, vec![], *left)
        }
        Some(Loss::MostAway { away, of }) => {
            let message = format!(
                "not made anew elsewhere, as {away} of {of} hosts do not answer: it may be the control plane that is cut off"
            );
            ("MostHostsLost", message, vec![], LOOK)
        }
        Some(Loss::NoOther(why)) => {
            let message = format!("{node} has not answered for {after}, and no other host takes its place: {why}");
            ("Unschedulable", message, vec![], LOOK)
        }
        Some(Loss::GivenUp) => {
            let message = format!("{node} is out of service; is placed when it wakes");
            ("GivenUp", message, vec![Action::LeaveLost], LOOK)
        }
        Some(Loss::Recreate(placement)) => {
            let message = format!("{node} has not answered for {after}; is made anew on {}", placement.node);
            ("Recreating", message, vec![Action::LeaveLost], LOOK)
        }
    };
    report.condition(HOST_LOST, ConditionStatus::True, reason, message);
    Plan { status: report.take(), actions, recheck: Some(recheck.min(LOOK)) }
}

/// The host answers, or nothing is to be done about it.
pub fn forget(report: &mut Report) {
    if is_true(&report.status.conditions, HOST_LOST) {
        report.status.conditions.retain(|c| c.type_ != HOST_LOST);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    const BEGAN: i64 = 1_767_225_600;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(BEGAN + seconds).unwrap()
    }

    /// Of this reason since [`BEGAN`]; `Connected` is ready.
    fn host(name: &str, reason: &str) -> DockerHost {
        let ready = if reason == "Connected" { "True" } else { "False" };
        serde_json::from_value(json!({
            "metadata": {"name": name}, "spec": {"endpoint": "unix:///x"},
            "status": {
                "capacity": {"memory": "4Gi", "cpu": "4"},
                "conditions": [{"type": "Ready", "status": ready, "reason": reason, "lastTransitionTime": at(0).to_string()}],
            },
        }))
        .unwrap()
    }

    fn instance(spec: Value) -> Instance {
        let mut whole = json!({"image": "app:1", "placement": {"onHostLoss": "Recreate"}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "metadata": {"name": "a", "namespace": "b", "uid": "u"}, "spec": whole,
            "status": {"phase": "Running", "node": "h1", "containerID": "c"},
        }))
        .unwrap()
    }

    fn found(instance: &Instance, hosts: &[(&str, &str)], seen: u64, now: i64) -> Option<Loss> {
        let hosts: Vec<_> = hosts.iter().map(|(name, reason)| Arc::new(host(name, reason))).collect();
        let fleet = || Box::new(Fleet::new(hosts.clone(), [instance]));
        loss(instance, &hosts[0], Some(Duration::from_secs(seen)), at(now), fleet)
    }

    const ONE_OF_TWO: [(&str, &str); 2] = [("h1", UNREACHABLE), ("h2", "Connected")];

    #[test]
    fn it_must_have_lasted_by_the_record_and_by_what_was_seen() {
        let i = instance(json!({}));
        let recent = |left| Some(Loss::Recent(Duration::from_secs(left)));
        assert_eq!(found(&i, &ONE_OF_TWO, 59, 3600), recent(1), "a control plane that began a minute ago");
        assert_eq!(found(&i, &ONE_OF_TWO, 3600, 59), recent(1), "a record that is a minute old");
        assert_eq!(found(&i, &ONE_OF_TWO, 3600, -3600), recent(60), "a clock that was put back");
        for (reason, why) in
            [("Connected", "it answers"), ("DaemonChanged", "someone answers"), ("DaemonShared", "it answers")]
        {
            assert_eq!(found(&i, &[("h1", reason), ("h2", "Connected")], 3600, 3600), recent(60), "{why}");
        }
        assert_eq!(
            loss(&i, &host("h1", UNREACHABLE), None, at(3600), Box::<Fleet>::default),
            recent(60),
            "never looked at"
        );
        let Some(Loss::Recreate(placement)) = found(&i, &ONE_OF_TWO, 60, 60) else { panic!("it is lost") };
        assert_eq!(placement.node, "h2");
        let patient = instance(json!({"placement": {"onHostLoss": "Recreate", "hostLossAfter": "5m"}}));
        assert_eq!(found(&patient, &ONE_OF_TWO, 60, 60), recent(240));
    }

    #[test]
    fn an_ended_certificate_is_no_loss() {
        let i = instance(json!({}));
        let mut ended = host("h1", UNREACHABLE);
        ended.status.certificate_expires = Some(at(100).into());
        let seen = |now| loss(&i, &ended, Some(Duration::from_secs(3600)), at(now), Box::<Fleet>::default);
        assert_eq!(seen(99), Some(Loss::NoOther("there is no other DockerHost".into())));
        assert_eq!(seen(100), Some(Loss::Recent(Duration::from_secs(60))));
    }

    #[test]
    fn who_waits_or_keeps_data_is_never_made_anew() {
        for spec in [
            json!({"placement": {}}),
            json!({"placement": {"onHostLoss": "Wait"}}),
            json!({"volumes": [{"name": "v", "mountPath": "/v", "reclaim": "Delete"}]}),
            json!({"volumes": [{"name": "v", "mountPath": "/v", "hostPath": "/srv"}]}),
        ] {
            assert_eq!(found(&instance(spec.clone()), &ONE_OF_TWO, 3600, 3600), None, "{spec}");
        }
    }

    #[test]
    fn what_keeps_most_hosts_away_is_not_the_hosts_fault() {
        let i = instance(json!({}));
        let at_once = |reasons: &[&'static str]| {
            let names = ["h1", "h2", "h3", "h4"];
            found(&i, &names.into_iter().zip(reasons.iter().copied()).collect::<Vec<_>>(), 60, 60)
        };
        let (away, here) = (UNREACHABLE, "Connected");
        assert_eq!(at_once(&[away]), Some(Loss::MostAway { away: 1, of: 1 }));
        assert_eq!(at_once(&[away, away]), Some(Loss::MostAway { away: 2, of: 2 }));
        assert_eq!(at_once(&[away, away, here]), Some(Loss::MostAway { away: 2, of: 3 }));
        assert!(matches!(at_once(&[away, away, here, here]), Some(Loss::Recreate(_))));
        let none_fits = "0/1 hosts fit: 1 not ready (DaemonChanged)";
        assert_eq!(at_once(&[away, "DaemonChanged"]), Some(Loss::NoOther(none_fits.into())));
    }

    #[test]
    fn only_the_last_step_acts_and_what_is_told_does_not_change_by_itself() {
        let i = instance(json!({}));
        let plan = |loss: Option<&Loss>| plan_lost(&i, loss, "h1: refused", Report::of(&i, at(0)));
        let Some(Loss::Recreate(placement)) = found(&i, &ONE_OF_TWO, 60, 60) else { panic!("it is lost") };
        let steps = [
            (Loss::Recent(Duration::from_secs(2)), "Waiting", vec![], 2),
            (Loss::Recent(Duration::from_secs(40)), "Waiting", vec![], 5),
            (Loss::MostAway { away: 2, of: 2 }, "MostHostsLost", vec![], 5),
            (Loss::NoOther("none".into()), "Unschedulable", vec![], 5),
            (Loss::Recreate(placement), "Recreating", vec![Action::LeaveLost], 5),
        ];
        for (loss, reason, actions, recheck) in steps {
            let plan = plan(Some(&loss));
            let told = condition(&plan.status.conditions, HOST_LOST).expect("it is told");
            assert_eq!((told.status, told.reason.as_str()), (ConditionStatus::True, reason));
            let ready = condition(&plan.status.conditions, "Ready").expect("it is told");
            assert_eq!(ready.reason, "HostUnreachable", "the proxy refuses visitors by it");
            assert_eq!((plan.actions, plan.recheck), (actions, Some(Duration::from_secs(recheck))));
        }
        assert_eq!(condition(&plan(None).status.conditions, HOST_LOST), None);
        let (soon, late) =
            (plan(Some(&Loss::Recent(Duration::from_secs(1)))), plan(Some(&Loss::Recent(Duration::from_secs(9)))));
        assert_eq!(soon.status, late.status, "each look would be written");
    }
}
