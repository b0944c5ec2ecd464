//! The plan of an instance that should run: find its container, make it, repair it, start it, wait for it.

use std::time::Duration;

use jiff::Timestamp;

use crate::controllers::probes::{Attempt, ProbeTarget};
use crate::docker::engine::{ContainerInfo, ContainerSpec, RunState};
use crate::docker::labels;
use crate::model::{
    ImagePullPolicy, Instance, InstanceStatus, LastExit, MicroTime, Phase, Power, Resource, Time, condition,
};

use super::super::freezers::ASKED_AGAIN;
use super::action::{Action, Plan};
use super::desired::{container_spec, limits, named_volumes};
use super::freezing::{self, UNPAUSE_FAILED, is_alive};
use super::health;
use super::network::NetworkSeen;
use super::plan::{Observed, Presence, Site, idle, must_bind, remove_strays, until_sleep};
use super::report::{MAKING_ROOM, NO_ROOM, Report, told_failing};
use super::values;
use super::wakefulness;

/// An app that ran this long before it ended has recovered: its next end is a first one again.
const RECOVERED: Duration = Duration::from_secs(10 * 60);
/// Longest wait of a crash loop.
const MAX_CRASH_DELAY: Duration = Duration::from_secs(5 * 60);

/// How long after its `crashes`-th quick end in a row a container is started again: at once, 10 s, 20 s, … 5 min.
pub fn crash_delay(crashes: i64) -> Duration {
    match crashes {
        ..=1 => Duration::ZERO,
        n => (Duration::from_secs(10) * (1 << (n - 2).min(10) as u32)).min(MAX_CRASH_DELAY),
    }
}

pub fn plan_run(site: &Site, desired: &Instance, seen: &Observed, report: Report, now: Timestamp) -> Plan {
    let spec = container_spec(&site.cluster, desired);
    let (best, others) = choose(&seen.containers, &spec);
    let mut actions = remove_strays(seen);
    actions.extend(others.iter().map(|c| Action::RemoveStray { id: c.id.clone() }));
    // One that was adopted was there before anybody asked, often without a limit, and counts then as all that its host has.
    let runs = best.is_some_and(|c| is_alive(c) || desired.is_adopted(&c.id));
    with_room(desired, runs, plan_up(desired, seen, report, spec, best, actions, now))
}

/// Puts the reservation of memory and CPU into the plan: before what takes more of them, after what gives some back.
fn with_room(desired: &Instance, runs: bool, mut plan: Plan) -> Plan {
    let (asks, held) = (desired.spec.asks(), desired.status.allocated_resources.as_ref());
    let limits = plan.actions.iter().position(|a| matches!(a, Action::UpdateLimits { .. }));
    let takes = |a: &Action| {
        matches!(
            a,
            Action::Start { .. } | Action::CreateContainer(_) | Action::Pull { .. } | Action::UpdateLimits { .. }
        )
    };
    // What runs as it should holds what it has been given, by whomever.
    let changes = |a: &Action| matches!(a, Action::CreateContainer(_) | Action::UpdateLimits { .. });
    let runs = runs && (held.is_none() || !plan.actions.iter().any(changes));
    let at = match held {
        Some(held) if *held == asks => return plan,
        // It has its old limits still.
        Some(held) if limits.is_some() && held.covers(&asks) => return plan,
        Some(held) if held.covers(&asks) => 0,
        // What can run with what it holds does not wait for more.
        Some(_) if let Some(limits) = limits => {
            let update = plan.actions.remove(limits);
            plan.actions.push(update);
            plan.actions.len() - 1
        }
        _ if runs => 0,
        _ if !plan.actions.iter().any(takes) => return plan,
        _ => 0,
    };
    plan.actions.insert(at, Action::Reserve { runs });
    for action in &mut plan.actions[at..] {
        if let Action::Mark(status) = action {
            status.allocated_resources = Some(asks.clone());
        }
    }
    plan
}

fn plan_up(
    desired: &Instance,
    seen: &Observed,
    mut report: Report,
    spec: ContainerSpec,
    best: Option<&ContainerInfo>,
    mut actions: Vec<Action>,
    now: Timestamp,
) -> Plan {
    if let Some(paused) = best.filter(|c| c.state == RunState::Paused && !is_stuck(desired)) {
        return match told(desired) == UNPAUSE_FAILED {
            true => freezing::plan_stuck(report, paused),
            false => freezing::plan_thaw(desired, seen, report, paused),
        };
    }
    if let Some(lost) = lost_volume(desired, seen) {
        report.phase(Phase::Failed).not_ready("VolumeLost", lost);
        return Plan { status: report.take(), actions, recheck: Some(Duration::from_secs(30)) };
    }
    let replace = must_bind(desired, seen) || best.is_none_or(|c| needs_replacement(desired, c, seen, &spec));
    // An adopted one has another name and other networks: whose ours are does not matter before they are needed.
    let kept_as_it_is = !replace && best.is_some_and(|c| desired.is_adopted(&c.id));
    if let Some(foreign) = foreign_name(seen, &spec, best).filter(|_| !kept_as_it_is) {
        report.phase(Phase::Failed).not_ready("NameConflict", foreign);
        return Plan { status: report.take(), actions, recheck: Some(Duration::from_secs(30)) };
    }
    if replace {
        return plan_container(desired, seen, report, spec, best, actions);
    }
    let Some(container) = best else { unreachable!("handled above") };
    if is_to_be_renamed(desired, container, &spec) {
        actions.push(Action::Rename { id: container.id.clone(), name: spec.name.clone() });
    }
    if is_to_be_updated(desired, container) {
        actions.push(Action::UpdateLimits { id: container.id.clone(), limits: limits(desired) });
    }
    match container.state {
        RunState::Running | RunState::Restarting => plan_running(desired, seen, report, container, actions, now),
        RunState::Created | RunState::Exited => plan_start(desired, report, container, actions, now),
        RunState::Paused | RunState::Dead | RunState::Removing => unreachable!("needs_replacement takes these"),
    }
}

/// The container to keep, and those to remove: at most one may be left.
pub fn choose<'a>(
    containers: &'a [ContainerInfo],
    spec: &ContainerSpec,
) -> (Option<&'a ContainerInfo>, Vec<&'a ContainerInfo>) {
    let mut all: Vec<&ContainerInfo> = containers.iter().collect();
    // Best last: of the right spec, running, of the right name; ties by id, so that every look chooses alike.
    all.sort_by_key(|c| {
        (hash(c) == spec.labels.get(labels::SPEC_HASH), c.state == RunState::Running, c.name == spec.name, c.id.clone())
    });
    (all.pop(), all)
}

/// Whether it has lost its name. One that was adopted keeps the name that others know it by.
pub fn is_to_be_renamed(desired: &Instance, container: &ContainerInfo, spec: &ContainerSpec) -> bool {
    container.name != spec.name && !desired.is_adopted(&container.id)
}

/// Whether it has other limits, or another restart policy, than it should.
pub fn is_to_be_updated(desired: &Instance, container: &ContainerInfo) -> bool {
    container.limits != limits(desired) || container.restart_policy != "no"
}

/// The reason of its Ready condition.
fn told(desired: &Instance) -> &str {
    condition(&desired.status.conditions, "Ready").map_or("", |c| c.reason.as_str())
}

/// Whether neither the end of its pause nor its stop was to be had: only a removal ends it.
fn is_stuck(desired: &Instance) -> bool {
    desired.status.phase == Phase::Starting && told(desired) == "StopFailed"
}

fn hash(container: &ContainerInfo) -> Option<&String> {
    container.labels.get(labels::SPEC_HASH)
}

/// What to say of a volume that the last container had and that is not there any more. An empty one in its place would
/// hide the loss.
pub fn lost_volume(desired: &Instance, seen: &Observed) -> Option<String> {
    let absent = |name: &String| seen.volumes.get(name) == Some(&Presence::Absent);
    let mut named = named_volumes(desired);
    let (volume, name) =
        named.find(|(v, name)| absent(name) && (!v.volume_name.is_empty() || desired.status.volumes.contains(name)))?;
    if !volume.volume_name.is_empty() && !desired.status.volumes.contains(&name) {
        return Some(format!("volume {name} is not on the host, and one that is named by volumeName is never made"));
    }
    Some(format!("volume {name} held this instance's data and is gone; restore it, or delete the instance"))
}

fn foreign_name(seen: &Observed, spec: &ContainerSpec, best: Option<&ContainerInfo>) -> Option<String> {
    if let Some(id) = &seen.name_taken_by
        && best.is_none_or(|c| c.name != spec.name)
    {
        let short = id.get(..12).unwrap_or(id);
        return Some(format!(
            "the name {} is taken by container {short}, which is not ours; remove or rename it",
            spec.name
        ));
    }
    if seen.network == NetworkSeen::Foreign {
        return Some(format!("the name {} is taken by a network that is not ours; remove it", spec.network));
    }
    let volume = seen.volumes.iter().find(|(_, presence)| **presence == Presence::Foreign)?;
    Some(format!("the name {} is taken by a volume that is not ours; remove it", volume.0))
}

/// Whether only a new container gives what is desired. Data is in volumes; a container is not kept for its own sake.
pub fn needs_replacement(desired: &Instance, container: &ContainerInfo, seen: &Observed, spec: &ContainerSpec) -> bool {
    hash(container) != spec.labels.get(labels::SPEC_HASH)
        || desired.is_condemned(&container.id)
        || !is_in_its_network(desired, container, seen)
        || matches!(container.state, RunState::Dead | RunState::Removing)
        || container.state == RunState::Paused && is_stuck(desired)
        // A start that failed can leave the container poisoned, its port with it, or tied to a network that is gone.
        || (!is_alive(container) && !container.error.is_empty())
}

/// Whether it is attached as it should be. One that was adopted stays in the networks that it was found in.
pub fn is_in_its_network(desired: &Instance, container: &ContainerInfo, seen: &Observed) -> bool {
    desired.is_adopted(&container.id)
        || (seen.network.is_right(desired) && container.networks == [labels::object_name(&desired.key())])
}

/// Makes a container, in the place of `old` if there is one: the image first, so that a failed pull costs nothing.
fn plan_container(
    desired: &Instance,
    seen: &Observed,
    mut report: Report,
    spec: ContainerSpec,
    old: Option<&ContainerInfo>,
    mut actions: Vec<Action>,
) -> Plan {
    let serving = old.is_some_and(|c| c.state == RunState::Running) && health::is_up(desired);
    let policy = desired.spec.pull_policy();
    let present = seen.image_present.unwrap_or(false);
    let stale = desired.status.observed_generation != desired.metadata.generation
        || old.is_some_and(|c| hash(c) != spec.labels.get(labels::SPEC_HASH));
    if serving {
        // Until the new container is there, Ready speaks of the old spec; waiting clients must not take it for the new.
        report.status.observed_generation = desired.status.observed_generation;
        report.of_before(desired, |report| health::tell_ready(report, desired, seen, true));
    }
    if policy == ImagePullPolicy::Never && !present {
        let message = format!("image {} is not on the node, and imagePullPolicy is Never", desired.spec.image);
        if serving {
            report.up_to_date(false, "ImageMissing", message);
        } else {
            report.phase(Phase::Failed).not_ready("ImageMissing", message);
        }
        return Plan { status: report.take(), actions, recheck: Some(Duration::from_secs(30)) };
    }
    let pull = policy == ImagePullPolicy::Always || !present;
    let login = values::pull_secret(desired);
    let no_login = || login.as_ref().filter(|_| pull).and_then(|key| values::missing_login(key, &seen.values));
    if let Some(missing) = values::missing(&spec, &seen.values).or_else(no_login) {
        if serving {
            report.up_to_date(false, missing.reason, missing.message);
        } else {
            report.phase(Phase::Failed).not_ready(missing.reason, missing.message);
        }
        return Plan { status: report.take(), actions, recheck: Some(Duration::from_secs(30)) };
    }
    let replacing = |report: &mut Report| {
        if old.is_some() && stale {
            report.up_to_date(false, "Replacing", "the container is of an older spec");
        }
    };
    let check = old.is_some() && !spec.env_sources.is_empty();
    if !(pull && told_failing(desired, &["ImagePullFailed", "NoSpace"])
        || check && told_failing(desired, &["InvalidConfiguration", "CreateFailed"])
        || told_failing(desired, &[NO_ROOM, MAKING_ROOM]))
    {
        replacing(&mut report);
    }
    // While a failure is being retried it stays told; a phase that comes and goes would say less.
    let retrying =
        desired.status.phase == Phase::Failed && desired.status.observed_generation == desired.metadata.generation;
    let before = report.snapshot();
    if pull {
        if !serving && !retrying {
            report.phase(Phase::Pulling).not_ready("Pulling", format!("pulling image {}", desired.spec.image));
            actions.push(Action::Mark(report.snapshot()));
        }
        actions.push(Action::Pull { image: desired.spec.image.clone(), login });
    }
    if check {
        actions.push(Action::CheckValues(Box::new(spec.clone())));
    }
    if must_bind(desired, seen) {
        // What serves goes on until here. From the commit of the new ports on nobody is led to the old container, which
        // does not publish them, and which publishes others that may be another's by now.
        actions.push(Action::Bind { network: !seen.network.is_right(desired) });
        return Plan { status: *before, actions, recheck: None };
    }
    if !retrying {
        let (phase, reason) =
            if old.is_some() && stale { (Phase::Upgrading, "Upgrading") } else { (Phase::Starting, "Creating") };
        report.status.observed_generation = desired.metadata.generation;
        replacing(&mut report);
        report.phase(phase).not_ready(reason, "the container is being made");
        actions.push(Action::Mark(report.snapshot()));
    }
    if let Some(old) = old {
        if matches!(old.state, RunState::Running | RunState::Restarting) {
            // One that is paused here could not be stopped.
            actions.push(Action::Stop { id: old.id.clone(), only_if_idle: false });
        }
        actions.push(Action::RemoveContainer { id: old.id.clone() });
    }
    actions.extend(seen.network.steps(desired));
    for (volume, name) in named_volumes(desired) {
        if volume.volume_name.is_empty() && seen.volumes.get(&name) != Some(&Presence::Ours) {
            actions.push(Action::CreateVolume { name, volume: volume.name.clone() });
        }
    }
    actions.push(Action::CreateContainer(Box::new(spec)));
    Plan { status: *before, actions, recheck: None }
}

/// A container that does not run and should.
fn plan_start(
    desired: &Instance,
    mut report: Report,
    container: &ContainerInfo,
    mut actions: Vec<Action>,
    now: Timestamp,
) -> Plan {
    record_container(&mut report.status, desired, container, now);
    if let Some(exit) = new_crash(desired, container, now) {
        let ran = container.started_at.zip(container.finished_at).map(|(from, to)| to.duration_since(from));
        let recovered = ran.is_some_and(|ran| ran.as_secs() >= RECOVERED.as_secs() as i64);
        report.status.crashes = if recovered { 1 } else { report.status.crashes + 1 };
        report.status.restarts += 1;
        report.status.last_exit = Some(exit);
    } else if let Some(told) = &mut report.status.last_exit
        && Some(told.finished_at) == container.finished_at.map(Time::from)
    {
        // A daemon hears of an end and of the kernel's reason for it one by one, in either order.
        told.oom_killed |= container.oom_killed;
    }
    if report.status.crashes > 1
        && let Some(exit) = report.status.last_exit.clone()
    {
        // By our own clock: a daemon's may be minutes off, which would shorten or lengthen every wait.
        let delay = crash_delay(report.status.crashes);
        let next = exit.seen_at.unwrap_or(exit.finished_at).timestamp() + delay;
        let wait = Duration::try_from(next.duration_since(now)).unwrap_or_default();
        // One that is longer than the delay is of a clock that has been put back meanwhile: it says nothing.
        if !wait.is_zero() && wait <= delay {
            let how = match exit.exit_code {
                _ if exit.unhealthy => "stopped because its liveness probe failed".to_owned(),
                code if exit.oom_killed => format!("killed for passing its memory limit with exit code {code}"),
                code => format!("ended by itself with exit code {code}"),
            };
            let message =
                format!("{how}, {} times in a row; next start at {}", report.status.crashes, Time::from(next));
            report.phase(Phase::Failed).not_ready("CrashLoopBackOff", message);
            return Plan { status: report.take(), actions, recheck: Some(wait) };
        }
    }
    let before = report.snapshot();
    let retrying =
        desired.status.phase == Phase::Failed && desired.status.observed_generation == desired.metadata.generation;
    if !retrying {
        // Should the start not take place, the end that is seen again is no new one.
        report.status.ended_at = container.finished_at.map(MicroTime::from);
        report.phase(Phase::Starting).not_ready("Starting", "the container is being started");
        actions.push(Action::Mark(report.snapshot()));
    }
    actions.push(Action::Start { id: container.id.clone(), again: container.state != RunState::Created });
    actions.extend(ProbeTarget::startup(desired).map(|target| Action::AwaitStartup { target, fresh: true }));
    Plan { status: *before, actions, recheck: None }
}

/// An end that is not told yet and that was not ours: what we stop is marked Stopping, Asleep or Stopped first.
fn new_crash(desired: &Instance, container: &ContainerInfo, now: Timestamp) -> Option<LastExit> {
    if container.state != RunState::Exited || container.id != desired.status.container_id {
        return None;
    }
    match desired.status.phase {
        Phase::Starting
        | Phase::Running
        | Phase::Failed
        | Phase::Upgrading
        | Phase::Lost
        | Phase::Pending
        | Phase::Pulling => {}
        // Nobody used what ended while it was frozen: its next start is a wake.
        Phase::Frozen | Phase::Asleep | Phase::Stopped | Phase::Stopping | Phase::Moving => return None,
    }
    let ended = container.finished_at?;
    let finished_at = Time::from(ended);
    // One that wakes and dies within a second has another end in the same. One that bears an earlier time is another, too:
    // the daemon's clock has been set back.
    if desired.status.last_exit.as_ref().is_some_and(|e| e.finished_at == finished_at)
        || desired.status.ended_at == Some(ended.into())
    {
        return None;
    }
    let started_at = container.started_at.map(Time::from);
    Some(LastExit {
        exit_code: container.exit_code,
        oom_killed: container.oom_killed,
        started_at,
        finished_at,
        seen_at: Some(now.into()),
        unhealthy: health::ended_for_liveness(desired),
    })
}

/// A container that runs: is the app up?
fn plan_running(
    desired: &Instance,
    seen: &Observed,
    mut report: Report,
    container: &ContainerInfo,
    mut actions: Vec<Action>,
    now: Timestamp,
) -> Plan {
    record_container(&mut report.status, desired, container, now);
    if actions.iter().any(|a| matches!(a, Action::Rename { .. } | Action::UpdateLimits { .. })) {
        if health::is_up(desired) || desired.status.phase == Phase::Frozen {
            report.status.observed_generation = desired.status.observed_generation;
        }
        if !told_failing(desired, &["RenameFailed", "UpdateFailed", "NoSpace", NO_ROOM, MAKING_ROOM]) {
            report.up_to_date(false, "Updating", "the container is being updated");
        }
    } else {
        report.up_to_date(true, "UpToDate", "the container is of the current spec");
    }
    if let Some(why) = health::death(desired, seen, container) {
        return health::plan_restart(report, container, why, actions);
    }
    let (target, started) = (ProbeTarget::startup(desired), health::started(desired, container));
    if started || target.is_none() || seen.startup == Some(Attempt::Passed) {
        health::tell_ready(&mut report, desired, seen, started);
        freezing::tell_refusal(&mut report, desired, seen.freeze_refusal.as_deref());
        report.status.refused_ports.clear();
        report.status.refused_subnets.clear();
        if desired.status.phase != Phase::Running {
            report.status.last_active = Some(last_active(desired, seen, now));
        }
        return Plan { status: report.take(), actions, recheck: next_look(desired, seen, now) };
    }
    let began = report.status.start_seen_at.or(report.status.started_at).map_or(now, |t| t.timestamp());
    let since = Duration::try_from(now.duration_since(began)).unwrap_or_default();
    if since > desired.spec.startup_timeout() {
        let last = match &seen.startup {
            Some(Attempt::Failed(why) | Attempt::Unknown(why)) => Some(why.as_str()),
            // Its next attempt is not due yet: what is told of the last one stays.
            None if report.status.phase == Phase::Failed => None,
            Some(Attempt::Passed) | None => Some("not probed yet"),
        };
        if let Some(last) = last {
            let message = format!("the startup probe did not pass within {:?}: {last}", desired.spec.startup_timeout());
            report.phase(Phase::Failed).not_ready("StartupProbeFailed", message);
        }
        return Plan { status: report.take(), actions, recheck: Some(Duration::from_secs(2)) };
    }
    if report.status.phase != Phase::Failed || desired.status.container_id != container.id {
        report.phase(Phase::Starting).not_ready("Starting", "waiting for the startup probe");
    }
    actions.extend(target.map(|target| Action::AwaitStartup { target, fresh: false }));
    Plan { status: report.take(), actions, recheck: Some(Duration::from_secs(2)) }
}

fn record_container(status: &mut InstanceStatus, desired: &Instance, container: &ContainerInfo, now: Timestamp) {
    let started_at = container.started_at.map(Time::from);
    if status.container_id != container.id || status.started_at != started_at {
        status.start_seen_at = started_at.map(|_| now.into());
    }
    status.container_id = container.id.clone();
    status.started_at = started_at;
    status.image.reference = container.image.clone();
    status.image.id = container.image_id.clone();
    status.volumes = named_volumes(desired).map(|(_, name)| name).collect();
}

fn last_active(desired: &Instance, seen: &Observed, now: Timestamp) -> Time {
    Time::from(now - idle(desired, seen.activity, now).unwrap_or_default())
}

/// How often one that was sent to sleep and is in use is looked at; no other that is in use is looked at more often.
const SENT: Duration = Duration::from_secs(5);

/// When an instance that runs as it should needs a look: when it may fall asleep. What happens to it is told by its host's
/// events and listings, and what those do not show is looked for host by host.
fn next_look(desired: &Instance, seen: &Observed, now: Timestamp) -> Option<Duration> {
    let after = wakefulness::rests_after(desired, now);
    match desired.spec.power {
        Power::Auto if wakefulness::is_kept_awake(desired, now) => None,
        Power::Auto if seen.activity.open == 0 => {
            let asked_again = desired.spec.freeze_after().filter(|_| seen.activity.cannot_freeze).map(|_| ASKED_AGAIN);
            let sleep = until_sleep(desired, seen.activity, now).unwrap_or(after);
            let next = sleep.min(freezing::until_frozen(desired, seen.activity, now).or(asked_again).unwrap_or(sleep));
            Some(wakefulness::next_look(desired, seen.activity, next).max(Duration::from_millis(100)))
        }
        // It falls asleep when what is open is closed.
        Power::Auto if desired.is_sent_to_sleep() => Some(SENT.min(after)),
        Power::Auto => Some(desired.spec.freeze_after().map_or(after, |freeze| freeze.max(SENT)).min(after)),
        Power::Running | Power::Stopped => None,
    }
}
