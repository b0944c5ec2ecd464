//! What an Instance's status says, judged for those who wait for it. Pure.

use serde_json::Value;

use super::until::Seen;
use crate::model::{Instance, Phase, Power, condition, is_true};

/// Reads an Instance; one that this program cannot read is nothing to judge.
fn read(object: Option<&Value>) -> Result<Instance, Seen> {
    let object = object.ok_or_else(|| Seen::NotYet("it does not exist".into()))?;
    serde_json::from_value(object.clone()).map_err(|e| Seen::NotYet(format!("its answer cannot be read: {e}")))
}

/// `Starting: waiting for the startup probe`.
pub fn describe(instance: &Instance) -> String {
    let ready = condition(&instance.status.conditions, "Ready");
    let scheduled = condition(&instance.status.conditions, "Scheduled");
    let told = [scheduled, ready].into_iter().flatten().filter(|c| c.status != crate::model::ConditionStatus::True);
    let why =
        told.map(|c| if c.message.is_empty() { c.reason.clone() } else { c.message.clone() }).find(|w| !w.is_empty());
    match why {
        Some(why) => format!("{:?}: {why}", instance.status.phase),
        None => format!("{:?}", instance.status.phase),
    }
}

fn is_ready(instance: &Instance) -> bool {
    instance.status.phase == Phase::Running && is_true(&instance.status.conditions, "Ready")
}

/// Whether the status speaks of the spec as it is now.
fn is_current(instance: &Instance) -> bool {
    instance.status.observed_generation >= instance.metadata.generation
}

fn judge(object: Option<&Value>, done: impl FnOnce(&Instance) -> bool) -> Seen {
    match read(object) {
        Ok(instance) if done(&instance) => Seen::Done,
        Ok(instance) => Seen::NotYet(describe(&instance)),
        Err(seen) => seen,
    }
}

/// Up and able to serve.
pub fn awake(object: Option<&Value>) -> Seen {
    judge(object, |i| is_current(i) && is_ready(i))
}

/// Off, and staying so.
pub fn stopped(object: Option<&Value>) -> Seen {
    judge(object, |i| is_current(i) && i.status.phase == Phase::Stopped)
}

/// At rest until the next use.
pub fn asleep(object: Option<&Value>) -> Seen {
    judge(object, |i| is_current(i) && i.status.phase == Phase::Asleep)
}

/// As its spec wants it: serving, or at rest where that is wanted.
pub fn settled(object: Option<&Value>) -> Seen {
    judge(object, |i| is_current(i) && is_settled(i))
}

fn is_settled(instance: &Instance) -> bool {
    match instance.spec.power {
        Power::Auto => is_ready(instance) || matches!(instance.status.phase, Phase::Frozen | Phase::Asleep),
        Power::Running => is_ready(instance),
        Power::Stopped => instance.status.phase == Phase::Stopped,
    }
}

/// Settled, and with the image asked for where it runs.
pub fn upgraded(object: Option<&Value>, image: &str) -> Seen {
    let up = |i: &Instance| is_ready(i) || i.status.phase == Phase::Frozen;
    judge(object, |i| is_current(i) && is_settled(i) && (!up(i) || i.status.image.reference == image))
}

/// Serving again, from another container (or another run of it) than before.
pub fn restarted(object: Option<&Value>, before: &Instance) -> Seen {
    let run = |i: &Instance| (i.status.container_id.clone(), i.status.started_at);
    judge(object, |i| is_current(i) && is_ready(i) && run(i) != run(before))
}

/// Whether it is off or asleep: then what it was given comes into force when it next runs.
pub fn rests(object: Option<&Value>) -> bool {
    read(object).is_ok_and(|i| matches!(i.status.phase, Phase::Asleep | Phase::Stopped))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn instance(power: &str, phase: &str, ready: bool, observed: i64) -> Value {
        let ready = if ready { "True" } else { "False" };
        json!({
            "metadata": {"name": "a", "generation": 2},
            "spec": {"image": "a:2", "power": power},
            "status": {
                "phase": phase, "observedGeneration": observed, "containerID": "c1", "image": {"reference": "a:1"},
                "conditions": [{"type": "Ready", "status": ready, "message": "the probe fails", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        })
    }

    #[test]
    fn a_status_of_an_older_spec_settles_nothing() {
        let old = instance("Auto", "Running", true, 1);
        for seen in [awake(Some(&old)), settled(Some(&old)), upgraded(Some(&old), "a:1")] {
            assert_eq!(seen, Seen::NotYet("Running".into()));
        }
    }

    #[test]
    fn each_wait_ends_at_the_state_that_it_is_for() {
        let running = instance("Auto", "Running", true, 2);
        let asleep = instance("Auto", "Asleep", false, 2);
        let stopped_ = instance("Stopped", "Stopped", false, 2);
        assert_eq!(awake(Some(&running)), Seen::Done);
        assert_eq!(awake(Some(&asleep)), Seen::NotYet("Asleep: the probe fails".into()));
        assert_eq!(settled(Some(&asleep)), Seen::Done);
        let frozen = instance("Auto", "Frozen", false, 2);
        assert_eq!(settled(Some(&frozen)), Seen::Done);
        assert_ne!(awake(Some(&frozen)), Seen::Done);
        let upgraded = upgraded(Some(&frozen), "a:2");
        assert_ne!(upgraded, Seen::Done, "one that is frozen is upgraded at once");
        assert_ne!(settled(Some(&instance("Running", "Asleep", false, 2))), Seen::Done);
        assert_eq!(stopped(Some(&stopped_)), Seen::Done);
        assert_ne!(stopped(Some(&running)), Seen::Done);
        assert_eq!(awake(None), Seen::NotYet("it does not exist".into()));
    }

    #[test]
    fn an_upgrade_waits_for_the_image_and_a_restart_for_another_container() {
        let running = instance("Auto", "Running", true, 2);
        assert_eq!(upgraded(Some(&running), "a:1"), Seen::Done);
        assert_ne!(upgraded(Some(&running), "a:2"), Seen::Done);
        let before: Instance = serde_json::from_value(running.clone()).unwrap();
        assert_ne!(restarted(Some(&running), &before), Seen::Done);
        let mut after = running;
        after["status"]["containerID"] = json!("c2");
        assert_eq!(restarted(Some(&after), &before), Seen::Done);
    }
}
