//! `start`, `stop`, `restart`, `wake`, `sleep` and `upgrade`: one patch to the desired state, then waiting for what is seen to
//! follow. Nothing is started or stopped from here: the controllers do that.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::client::JSON;
use super::error::{Error, Exit, Result};
use super::kinds::ResourceType;
use super::output::print;
use super::session::Session;
use super::state;
use super::until::{Seen, Target, until};
use super::url::with_query;
use crate::clock::SystemClock;
use crate::model::{
    Instance, Keep, Phase, Power, RESTART_ANNOTATION, SLEEP_ANNOTATION, Span, WAKE_ANNOTATION, end, held,
};

/// What the verbs of power have in common.
#[derive(Args, Debug)]
pub struct PowerArgs {
    /// The instances
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub wait: WaitFlags,
}

#[derive(Args, Debug)]
pub struct WaitFlags {
    /// Wait until it is so
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub wait: bool,
    /// How long to wait for each
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    pub timeout: Span,
}

/// Wake instances, also those that are stopped.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve start alice
  portreeve start alice bob --timeout 30s
  portreeve start alice --wait=false")]
pub struct StartArgs {
    #[command(flatten)]
    pub power: PowerArgs,
}

/// Stop instances; they stay off, whatever is requested, until `start`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve stop alice
  portreeve stop alice bob --wait=false")]
pub struct StopArgs {
    #[command(flatten)]
    pub power: PowerArgs,
}

/// Re-create the containers of instances, with the same ports and volumes; sleepers wake.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve restart alice
  portreeve restart alice --timeout 30s")]
pub struct RestartArgs {
    #[command(flatten)]
    pub power: PowerArgs,
}

/// Wake sleeping instances, as a request would.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve wake alice
  portreeve wake alice bob --wait=false")]
pub struct WakeArgs {
    #[command(flatten)]
    pub power: PowerArgs,
}

/// Put instances to sleep now; the next request wakes them. One in use falls asleep when what is open is closed.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve sleep alice
  portreeve sleep alice bob --wait=false")]
pub struct SleepArgs {
    #[command(flatten)]
    pub power: PowerArgs,
}

/// Give an instance another image.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve upgrade alice --image registry.example/app:0.4.0
  portreeve upgrade alice --image app:2 --wait=false")]
pub struct UpgradeArgs {
    /// The instance
    pub name: String,
    /// The image to run
    #[arg(long, value_name = "REFERENCE")]
    pub image: String,
    #[command(flatten)]
    pub wait: WaitFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerVerb {
    Start,
    Stop,
    Restart,
    Wake,
    Sleep,
}

pub async fn run(verb: PowerVerb, args: &PowerArgs, session: &Session) -> Result<Exit> {
    let resource = ResourceType::instances();
    let (mut exit, mut asked) = (Exit::Done, vec![]);
    for name in &args.names {
        match ask(verb, name, &resource, session).await {
            Ok(before) => asked.push((name, before)),
            Err(e @ (Error::Server(_) | Error::Failed(_))) => {
                e.report();
                exit = Exit::Failed;
            }
            Err(e) => return Err(e),
        }
    }
    for (name, before) in asked {
        if args.wait.wait {
            let check = |object: Option<&Value>| match verb {
                PowerVerb::Start | PowerVerb::Wake => state::awake(object),
                PowerVerb::Stop => state::stopped(object),
                PowerVerb::Sleep => state::asleep(object),
                PowerVerb::Restart => state::restarted(object, &before),
            };
            wait(session, &resource, name, args.wait.timeout.duration(), check).await?;
        }
        print(&format!("{} {}\n", resource.named(name), done(verb, args.wait.wait)))?;
    }
    Ok(exit)
}

fn done(verb: PowerVerb, waited: bool) -> &'static str {
    match (verb, waited) {
        (PowerVerb::Start, true) => "started",
        (PowerVerb::Stop, true) => "stopped",
        (PowerVerb::Restart, true) => "restarted",
        (PowerVerb::Wake, true) => "awake",
        (PowerVerb::Sleep, true) => "asleep",
        (PowerVerb::Start, false) => "start requested",
        (PowerVerb::Stop, false) => "stop requested",
        (PowerVerb::Restart, false) => "restart requested",
        (PowerVerb::Wake, false) => "wake requested",
        (PowerVerb::Sleep, false) => "sleep requested",
    }
}

/// Writes what is wanted; returns the instance as it was before.
async fn ask(verb: PowerVerb, name: &str, resource: &ResourceType, session: &Session) -> Result<Instance> {
    let path = resource.object(&session.namespace, name)?;
    let object = session.client.get(&path, JSON).await?;
    let before: Instance = serde_json::from_value(object)
        .map_err(|e| Error::failed(format!("{} cannot be read: {e}", resource.named(name))))?;
    let patch = patch(verb, &before, SystemClock::new().now())?;
    if patch != json!({}) {
        session.client.merge_patch(&with_query(&path, &[("fieldManager", "portreeve")]), &patch).await?;
    }
    Ok(before)
}

/// The change of desired state that a verb stands for. Pure. The time is written with its fraction: a second restart
/// within a second is another one.
fn patch(verb: PowerVerb, before: &Instance, now: Timestamp) -> Result<Value> {
    let name = &before.metadata.name;
    // Who wakes it does not want it asleep.
    let annotate = |annotation: &str| {
        let mut annotations = json!({annotation: now.to_string()});
        if before.metadata.annotations.contains_key(SLEEP_ANNOTATION) {
            annotations[SLEEP_ANNOTATION] = Value::Null;
        }
        json!({"metadata": {"annotations": annotations}})
    };
    let stopped = before.spec.power == Power::Stopped;
    Ok(match verb {
        PowerVerb::Stop if stopped => json!({}),
        PowerVerb::Stop => json!({"spec": {"power": "Stopped"}}),
        PowerVerb::Start => {
            let mut patch = annotate(WAKE_ANNOTATION);
            if stopped {
                patch["spec"] = json!({"power": "Auto"});
            }
            patch
        }
        PowerVerb::Wake | PowerVerb::Restart if stopped => {
            return Err(Error::failed(format!(
                "instance {name:?} is stopped (spec.power: Stopped); use `portreeve start {name}`"
            )));
        }
        PowerVerb::Wake => annotate(WAKE_ANNOTATION),
        PowerVerb::Sleep => sleep(before, now)?,
        PowerVerb::Restart => {
            let mut patch = annotate(RESTART_ANNOTATION);
            patch["metadata"]["annotations"][WAKE_ANNOTATION] = json!(now.to_string());
            patch
        }
    })
}

/// What puts the present run of an instance to sleep.
fn sleep(before: &Instance, now: Timestamp) -> Result<Value> {
    let (name, phase) = (&before.metadata.name, before.status.phase);
    let power = match before.spec.power {
        Power::Auto => None,
        Power::Running => Some("Running"),
        Power::Stopped => Some("Stopped"),
    };
    if let Some(power) = power {
        return Err(Error::failed(format!(
            "instance {name:?} never sleeps (spec.power: {power}); only one with spec.power: Auto does"
        )));
    }
    let schedule = &before.spec.idle.schedule;
    if let Some(awake) = held(schedule, now).filter(|held| held.keep == Keep::Awake) {
        // A wish that waits for the end of it would stop the app then, whoever uses it by that time.
        let index = awake.index;
        let until = match end(schedule, &awake) {
            Some(end) => format!(" until {}", schedule[index].in_zone(end)),
            None => ", which renews itself".to_owned(),
        };
        return Err(Error::failed(format!("instance {name:?} is kept awake by spec.idle.schedule[{index}]{until}")));
    }
    match (phase, before.run()) {
        (Phase::Asleep, _) => Ok(json!({})),
        (Phase::Running | Phase::Frozen | Phase::Stopping, Some(run)) => {
            let mut annotations = json!({SLEEP_ANNOTATION: run});
            if before.metadata.annotations.contains_key(WAKE_ANNOTATION) {
                // A wish of a moment ago would wake it again.
                annotations[WAKE_ANNOTATION] = Value::Null;
            }
            Ok(json!({"metadata": {"annotations": annotations}}))
        }
        _ => Err(Error::failed(format!(
            "instance {name:?} does not run ({}); only one that runs can be put to sleep",
            state::describe(before)
        ))),
    }
}

pub async fn upgrade(args: &UpgradeArgs, session: &Session) -> Result<Exit> {
    let resource = ResourceType::instances();
    let path = resource.object(&session.namespace, &args.name)?;
    let query = [("fieldManager", "portreeve"), ("fieldValidation", "Strict")];
    let patch = json!({"spec": {"image": args.image}});
    session.client.merge_patch(&with_query(&path, &query), &patch).await?;
    let mut said = "upgrade requested";
    if args.wait.wait {
        let check = |object: Option<&Value>| {
            said = if state::rests(object) { "upgraded; it runs the image when it next wakes" } else { "upgraded" };
            state::upgraded(object, &args.image)
        };
        wait(session, &resource, &args.name, args.wait.timeout.duration(), check).await?;
    }
    print(&format!("{} {said}\n", resource.named(&args.name)))?;
    Ok(Exit::Done)
}

async fn wait(
    session: &Session,
    resource: &ResourceType,
    name: &str,
    timeout: Duration,
    mut check: impl FnMut(Option<&Value>) -> Seen,
) -> Result<()> {
    let target = Target { resource, namespace: &session.namespace, name };
    until(&session.client, &target, timeout, |object| match object {
        Some(_) => Ok(check(object)),
        None => Err(Error::failed(format!("{} was deleted meanwhile", target.display()))),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(verb: PowerVerb, power: Power) -> Result<Value> {
        let mut instance = Instance::default();
        instance.metadata.name = "alice".into();
        instance.spec.power = power;
        patch(verb, &instance, Timestamp::from_second(0).unwrap())
    }

    #[test]
    fn starting_keeps_an_always_on_instance_always_on() {
        let wake = json!({"metadata": {"annotations": {WAKE_ANNOTATION: "1970-01-01T00:00:00Z"}}});
        assert_eq!(patched(PowerVerb::Start, Power::Running).unwrap(), wake);
        assert_eq!(patched(PowerVerb::Start, Power::Auto).unwrap(), wake);
        let mut on = wake;
        on["spec"] = json!({"power": "Auto"});
        assert_eq!(patched(PowerVerb::Start, Power::Stopped).unwrap(), on);
    }

    #[test]
    fn only_a_running_instance_that_may_sleep_is_put_to_sleep() {
        for (power, word) in [(Power::Running, "Running"), (Power::Stopped, "Stopped")] {
            let error = patched(PowerVerb::Sleep, power).unwrap_err().to_string();
            assert!(error.contains(&format!("spec.power: {word}")) && error.contains("Auto"), "{error}");
        }
        let error = patched(PowerVerb::Sleep, Power::Auto).unwrap_err().to_string();
        assert!(error.contains("does not run (Pending)"), "{error}");
        let mut instance = Instance::default();
        let now = Timestamp::from_second(0).unwrap();
        instance.status.container_id = "c0ffee".into();
        instance.status.started_at = Some(now.into());
        instance.status.phase = Phase::Running;
        let asked = patch(PowerVerb::Sleep, &instance, now).unwrap();
        let mark = "c0ffee 1970-01-01T00:00:00Z";
        assert_eq!(asked, json!({"metadata": {"annotations": {SLEEP_ANNOTATION: mark}}}));
        instance.metadata.annotations.insert(SLEEP_ANNOTATION.into(), mark.into());
        assert!(instance.is_sent_to_sleep());
        let woken = patch(PowerVerb::Wake, &instance, now).unwrap();
        assert_eq!(woken["metadata"]["annotations"][SLEEP_ANNOTATION], Value::Null);
        assert!(woken["metadata"]["annotations"].as_object().unwrap().contains_key(SLEEP_ANNOTATION));
        instance.status.phase = Phase::Frozen;
        assert_eq!(patch(PowerVerb::Sleep, &instance, now).unwrap(), asked, "one that is frozen is stopped");
        instance.status.phase = Phase::Asleep;
        assert_eq!(patch(PowerVerb::Sleep, &instance, now).unwrap(), json!({}), "it sleeps already");
    }

    #[test]
    fn what_its_schedule_keeps_awake_is_not_sent_to_sleep_later() {
        let mut instance = Instance::default();
        let schedule = json!([{"keep": "Awake", "cron": "0 8 * * *", "for": "10h", "timeZone": "Europe/Berlin"}]);
        instance.spec.idle.schedule = serde_json::from_value(schedule).unwrap();
        instance.status.container_id = "c0ffee".into();
        instance.status.started_at = Some(Timestamp::from_second(0).unwrap().into());
        instance.status.phase = Phase::Running;
        let asked = |at: &str| patch(PowerVerb::Sleep, &instance, at.parse().unwrap());
        let error = asked("2026-01-02T07:00:00Z").unwrap_err().to_string();
        assert!(error.ends_with("spec.idle.schedule[0] until 2026-01-02 18:00 Europe/Berlin"), "{error}");
        assert!(asked("2026-01-02T17:00:00Z").is_ok(), "its end has come");
    }

    #[test]
    fn what_is_stopped_is_not_woken_nor_stopped_again() {
        for verb in [PowerVerb::Wake, PowerVerb::Restart] {
            let error = patched(verb, Power::Stopped).unwrap_err().to_string();
            assert!(error.contains("portreeve start alice"), "{error}");
        }
        assert_eq!(patched(PowerVerb::Stop, Power::Stopped).unwrap(), json!({}));
        assert_eq!(patched(PowerVerb::Stop, Power::Running).unwrap(), json!({"spec": {"power": "Stopped"}}));
    }
}
