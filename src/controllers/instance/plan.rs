//! Deciding: from what should be and what is seen to what to do. Total, synchronous, no I/O, no clock of its own.
//!
//! ```text
//! deleting? ──▶ remove everything, then the finalizer
//! unbound?  ──▶ place and bind
//! no node?  ──▶ say so, wait
//! want Run | Freeze | Sleep | Stop ──▶ the steps that lead there (running.rs, freezing.rs)
//! ```
//!
//! Planning twice changes nothing: the plan for the world that a plan leads to has no actions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::controllers::probes::busy::BusySeen;
use crate::controllers::probes::{Attempt, HealthSeen};
use crate::docker::engine::{ContainerInfo, RunState};
use crate::docker::labels;
use crate::model::{
    ConditionStatus, FINALIZER, Instance, InstanceStatus, MicroTime, Phase, Power, Reclaim, Resource, WAKE_ANNOTATION,
    condition,
};
use crate::scheduler::{Placement, Unplaced};

use super::action::{Action, Plan};
use super::adoption::{self, AdoptionSeen, plan_adoption};
use super::desired::{container_spec, named_volumes};
use super::freezing;
use super::loss::{Loss, forget, plan_lost};
use super::moving::{Leave, plan_move};
use super::network::NetworkSeen;
use super::report::{Report, host_lost};
use super::routes::{self, Taken};
use super::running;
use super::values::ValueNames;
use super::wakefulness;

/// What does not change while the server runs.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// The id on all labels.
    pub cluster: String,
    pub domain: String,
    /// How a user's browser reaches a host of a route; `{host}` stands for it: `http://{host}:7080`.
    pub url: String,
}

/// All that was looked at for one decision.
#[derive(Clone, Debug)]
pub struct Observed {
    pub node: NodeSeen,
    /// Every container with this instance's uid on its node.
    pub containers: Vec<ContainerInfo>,
    /// The node is reached at another address than the one that the instance is bound to.
    pub address_changed: bool,
    /// The node's record says that it is ready.
    pub node_ready: bool,
    /// A container that has our name and not our labels.
    pub name_taken_by: Option<String>,
    /// Containers on the node that carry this instance's name and another uid: left by a record that is gone.
    pub strays: Vec<String>,
    pub network: NetworkSeen,
    /// By the name in Docker: is it there, and ours?
    pub volumes: BTreeMap<String, Presence>,
    /// Whether the image is on the node; `None`: not looked up, because no container is to be made.
    pub image_present: Option<bool>,
    /// The names of the values of the Secrets and ConfigMaps that the spec names, of those that are there.
    pub values: ValueNames,
    pub activity: ActivitySeen,
    /// One attempt of the startup probe; `None`: not made.
    pub startup: Option<Attempt>,
    /// What the other probes have found out of the run that the status names.
    pub health: HealthSeen,
    /// The wish that it leaves its node; `None`: it may stay.
    pub leave: Option<Leave>,
    /// What is to be done about a node that does not answer; `None`: to wait.
    pub loss: Option<Loss>,
    /// What its node's daemon said when it was last asked to freeze a container and did not.
    pub freeze_refusal: Option<String>,
    /// The hosts of its routes that other instances have.
    pub taken: Vec<Taken>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum NodeSeen {
    /// Where it would go; `None`: not asked, because it is not to run.
    Unbound(Option<Result<Placement, Unplaced>>),
    /// Not bound; the container that it is to begin with.
    ToAdopt(AdoptionSeen),
    /// Bound to a DockerHost that has no record.
    Missing,
    Unreachable(String),
    Reachable,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    #[default]
    Absent,
    Ours,
    Foreign,
}

/// Use of an instance, as the proxy counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActivitySeen {
    /// Time since the last use, on the monotonic clock; `None`: not used since this process began.
    pub idle: Option<Duration>,
    /// All that is open to it now: requests, connections and sessions.
    pub open: usize,
    /// Those of them that came by the API.
    pub sessions: Sessions,
    /// Whether its memory is wanted for another on its node, and nobody uses it.
    pub yields: bool,
    /// Whether it is busy, as far as that is asked.
    pub busy: BusySeen,
    /// Whether its node's daemon has refused to freeze containers.
    pub cannot_freeze: bool,
}

/// What is open to an instance by the API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    pub exec: usize,
    pub attach: usize,
    /// Forwarded connections, not the clients that could forward some.
    pub forward: usize,
}

/// What the instance should be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Run,
    /// Keep its memory, and stand still.
    Freeze,
    Sleep,
    Stop,
}

/// Why it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// `spec.power` says so.
    Power,
    /// Something is open to it.
    Open,
    /// Who asked for it is to see it up, however long that takes; what cannot come up is Failed after a while.
    OnItsWay,
    /// Its schedule keeps it awake.
    Scheduled,
    /// It is busy.
    Busy,
    /// Nobody uses it; whether it is busy is not known yet.
    Asking,
    /// It was sent to sleep by hand.
    Sent,
    /// Another on its node is to have its memory.
    Yields,
    /// It was used lately.
    Used,
    /// It was not for so long that it is frozen, and not for so long that it is stopped.
    Still,
    /// It was not.
    Idle,
    /// Not used since this process began: a sleeper sleeps on, anything else gets its time of grace.
    Unseen,
}

/// Decides whether the instance should be awake.
pub fn want(desired: &Instance, activity: ActivitySeen, now: Timestamp) -> Want {
    verdict(desired, activity, now).0
}

/// The same with its reason.
pub fn verdict(desired: &Instance, activity: ActivitySeen, now: Timestamp) -> (Want, Because) {
    match desired.spec.power {
        Power::Running => (Want::Run, Because::Power),
        Power::Stopped => (Want::Stop, Because::Power),
        Power::Auto if activity.open > 0 => (Want::Run, Because::Open),
        Power::Auto if comes_up(&desired.status) => (Want::Run, Because::OnItsWay),
        Power::Auto if wakefulness::is_kept_awake(desired, now) => (Want::Run, Because::Scheduled),
        // While it wakes, the status still names the run before.
        Power::Auto if desired.is_sent_to_sleep() && is_up(desired.status.phase) => (Want::Sleep, Because::Sent),
        Power::Auto if activity.yields && is_up(desired.status.phase) => {
            wakefulness::unless_busy(desired, activity, (Want::Sleep, Because::Yields))
        }
        Power::Auto => match until_sleep(desired, activity, now) {
            Some(Duration::ZERO) => wakefulness::unless_busy(desired, activity, (Want::Sleep, Because::Idle)),
            Some(_) if freezing::is_due(desired, activity, now) => {
                wakefulness::unless_busy(desired, activity, (Want::Freeze, Because::Still))
            }
            Some(_) => (Want::Run, Because::Used),
            None if desired.status.phase == Phase::Asleep || is_laid_to_rest(desired) => (Want::Sleep, Because::Unseen),
            None if freezing::idle_by_record(desired, now).is_some() => (Want::Freeze, Because::Unseen),
            None => (Want::Run, Because::Unseen),
        },
    }
}

/// An instance that has come up is shown so for so long, or for its time without use if that is shorter.
pub const SHOWN: Duration = Duration::from_secs(60);

/// Time until it may fall asleep if nobody uses it; `None`: not used since this process began. Not before it was up for
/// a moment: a start that takes longer than the time without use would be undone before anybody has seen it. For a
/// moment only: one that ends and starts again now and then would otherwise never sleep.
pub fn until_sleep(desired: &Instance, activity: ActivitySeen, now: Timestamp) -> Option<Duration> {
    let after = wakefulness::rests_after(desired, now);
    let left = after.saturating_sub(idle(desired, activity, now)?);
    let ready = condition(&desired.status.conditions, "Ready").filter(|c| c.status == ConditionStatus::True);
    // Of a clock that has been put back since then, nothing is known.
    let up = ready.and_then(|c| Duration::try_from(now.duration_since(c.last_transition_time.timestamp())).ok());
    Some(up.map_or(left, |up| left.max(after.min(SHOWN).saturating_sub(up))))
}

/// Whether it is on its way up, if only in the queue before its host. What has never been up is so, too, while it fails:
/// asleep, it would hide why.
fn comes_up(status: &InstanceStatus) -> bool {
    match status.phase {
        Phase::Pending | Phase::Pulling | Phase::Starting | Phase::Upgrading => true,
        Phase::Failed => status.started_at.is_none(),
        _ => false,
    }
}

/// Whether the status speaks of a run that goes on, or is just being ended.
fn is_up(phase: Phase) -> bool {
    matches!(phase, Phase::Running | Phase::Frozen | Phase::Stopping)
}

/// Time since the last use or the last `portreeve wake`, whichever is shorter.
pub fn idle(desired: &Instance, activity: ActivitySeen, now: Timestamp) -> Option<Duration> {
    let asked = desired.metadata.annotations.get(WAKE_ANNOTATION).and_then(|t| t.parse::<Timestamp>().ok());
    let since_asked = asked
        .filter(|asked| !wakefulness::is_spent(desired, *asked, now))
        .map(|t| now.duration_since(t))
        // A clock a little ahead is now; one far ahead would keep the instance awake for ever.
        .filter(|since| *since > SignedDuration::from_mins(-5))
        .map(|since| Duration::try_from(since).unwrap_or_default());
    match (activity.idle, since_asked) {
        (Some(a), Some(b)) => Some(a.min(b)),
        // Asked for long ago, and not used since this process began: the age of the wish is no activity.
        (None, Some(asked)) if asked < desired.spec.idle_after() => Some(asked),
        (a, _) => a,
    }
}

/// How long what is seen of a node is trusted while its record does not say that it is ready.
const UNSURE: Duration = Duration::from_secs(5);

/// How often an instance that is to leave its node looks whether another can take it.
const STUCK: Duration = Duration::from_secs(30);

/// The decision.
pub fn plan(site: &Site, desired: &Instance, seen: &Observed, now: Timestamp) -> Plan {
    let mut plan = decide(site, desired, seen, now);
    if seen.node == NodeSeen::Reachable && !seen.node_ready {
        // A node that answers once and is gone again before its record said so changes nothing in that record:
        // nobody would be told.
        plan.recheck = Some(plan.recheck.map_or(UNSURE, |r| r.min(UNSURE)));
    }
    if seen.containers.iter().any(|c| desired.is_adopted(&c.id)) {
        plan.recheck = Some(plan.recheck.map_or(adoption::LOOK, |r| r.min(adoption::LOOK)));
    }
    if seen.leave.is_some() {
        // What could not go may be able to later, and no change of its own record would tell.
        plan.recheck = Some(plan.recheck.map_or(STUCK, |r| r.min(STUCK)));
    }
    if let Some(change) = wakefulness::until_change(desired, now) {
        plan.recheck = Some(plan.recheck.map_or(change, |r| r.min(change)));
    }
    plan
}

fn decide(site: &Site, desired: &Instance, seen: &Observed, now: Timestamp) -> Plan {
    let mut report = Report::of(desired, now);
    routes::tell(&mut report, site, desired, &seen.taken);
    if report.status.observed_generation != desired.status.observed_generation {
        // A new spec is a new chance.
        report.status.crashes = 0;
    }
    if desired.metadata.deletion_timestamp.is_some() {
        return plan_removal(desired, seen, report);
    }
    let want = want(desired, seen.activity, now);
    if seen.node == NodeSeen::Reachable {
        forget(&mut report);
    }
    match &seen.node {
        NodeSeen::Unbound(placement) => plan_binding(want, placement.as_ref(), report),
        NodeSeen::ToAdopt(seen) => plan_adoption(desired, seen, report),
        NodeSeen::Missing => {
            let message = format!("DockerHost {} has no record", desired.status.node);
            host_lost(&mut report, &message);
            Plan { status: report.take(), actions: vec![], recheck: Some(Duration::from_secs(30)) }
        }
        NodeSeen::Unreachable(why) => plan_lost(desired, seen.loss.as_ref(), why, report),
        NodeSeen::Reachable if let Some(plan) = plan_move(desired, seen, want, &mut report) => plan,
        NodeSeen::Reachable => match want {
            Want::Run => running::plan_run(site, desired, seen, report, now),
            Want::Freeze => freezing::plan_freeze(site, desired, seen, report, now),
            Want::Sleep => freezing::fall_asleep(plan_rest(site, desired, seen, report, Phase::Asleep, now), desired),
            Want::Stop => plan_rest(site, desired, seen, report, Phase::Stopped, now),
        },
    }
}

/// Whether the bound ports are just those that the spec asks for, each once, and none that the node refuses.
pub fn ports_bound(desired: &Instance) -> bool {
    let (wanted, bound) = (&desired.spec.ports, &desired.status.ports);
    let distinct: BTreeSet<u16> = bound.iter().map(|p| p.host_port).collect();
    wanted.len() == bound.len()
        && distinct.len() == bound.len()
        && wanted.iter().all(|p| {
            desired.status.host_port(&p.name).is_some_and(|host_port| match p.host_port {
                Some(fixed) => fixed == host_port,
                None => !desired.status.refused_ports.contains(&host_port),
            })
        })
}

/// Whether it has as many GPUs as it asks for.
fn gpus_bound(desired: &Instance) -> bool {
    desired.status.gpus.len() == desired.spec.gpus as usize
}

/// Whether ports, GPUs or a subnet are to be chosen before a container can be made.
pub fn must_bind(desired: &Instance, seen: &Observed) -> bool {
    seen.address_changed || !ports_bound(desired) || !gpus_bound(desired) || seen.network.needs_subnet(desired)
}

fn plan_binding(want: Want, placement: Option<&Result<Placement, Unplaced>>, mut report: Report) -> Plan {
    match (want, placement) {
        (Want::Stop, _) => {
            report.phase(Phase::Stopped).not_ready("Stopped", "spec.power is Stopped");
            Plan { status: report.take(), actions: vec![], recheck: None }
        }
        (Want::Sleep | Want::Freeze, _) => {
            report.phase(Phase::Asleep).not_ready("Asleep", "wakes on the next request");
            Plan { status: report.take(), actions: vec![], recheck: None }
        }
        // The status is written by the binding itself, in the same commit as the ports.
        (Want::Run, Some(Ok(_))) => {
            Plan { status: report.take(), actions: vec![Action::Bind { network: true }], recheck: None }
        }
        // It began to be wanted between the look and the decision.
        (Want::Run, None) => Plan { status: report.take(), actions: vec![], recheck: Some(Duration::ZERO) },
        (Want::Run, Some(Err(why))) => {
            let message = why.to_string();
            report.phase(Phase::Pending);
            report.condition("Scheduled", ConditionStatus::False, "Unschedulable", message.clone());
            report.not_ready("Unschedulable", message);
            Plan { status: report.take(), actions: vec![], recheck: Some(Duration::from_secs(30)) }
        }
    }
}

/// Asleep or stopped: the container stays, with its ports and data, and does not run.
pub fn plan_rest(
    site: &Site,
    desired: &Instance,
    seen: &Observed,
    mut report: Report,
    phase: Phase,
    now: Timestamp,
) -> Plan {
    let spec = container_spec(&site.cluster, desired);
    let (best, others) = running::choose(&seen.containers, &spec);
    let ended = desired.status.phase == Phase::Frozen && !best.is_some_and(freezing::is_alive);
    let (reason, message) = match phase {
        Phase::Asleep if desired.is_sent_to_sleep() => ("Asleep", "put to sleep; wakes on the next request".to_owned()),
        Phase::Asleep if ended || is_told(desired, ENDED) => ("Asleep", ENDED.to_owned()),
        Phase::Asleep if seen.activity.yields || is_told(desired, MADE_ROOM) => ("Asleep", MADE_ROOM.to_owned()),
        Phase::Asleep if is_laid_to_rest(desired) => ("Asleep", BY_SCHEDULE.to_owned()),
        Phase::Asleep if is_up(desired.status.phase) && wakefulness::is_kept_asleep(desired, now) => {
            ("Asleep", BY_SCHEDULE.to_owned())
        }
        Phase::Asleep => {
            let after = desired.spec.idle.after.as_ref().map_or("30m".to_owned(), ToString::to_string);
            ("Asleep", format!("not used for {after}; wakes on the next request"))
        }
        _ => ("Stopped", "spec.power is Stopped".to_owned()),
    };
    let mut actions = remove_strays(seen);
    actions.extend(others.iter().map(|c| Action::RemoveStray { id: c.id.clone() }));
    if let Some(container) = best {
        let id = container.id.clone();
        match container.state {
            RunState::Running | RunState::Restarting | RunState::Paused => {
                actions.push(Action::Stop { id, only_if_idle: phase == Phase::Asleep });
            }
            RunState::Dead => actions.push(Action::RemoveContainer { id }),
            // The next wake makes another.
            RunState::Created | RunState::Exited if desired.is_condemned(&container.id) => {
                actions.push(Action::RemoveContainer { id });
            }
            RunState::Created | RunState::Exited
                if running::is_to_be_renamed(desired, container, &spec) && seen.name_taken_by.is_none() =>
            {
                actions.push(Action::Rename { id, name: spec.name.clone() });
            }
            RunState::Created | RunState::Exited | RunState::Removing => {}
        }
    }
    let mut recheck = None;
    if actions.is_empty() {
        // It rests on, and who wakes it is told; but the loss is told now, while there may still be a copy to restore.
        match running::lost_volume(desired, seen) {
            Some(lost) => {
                report.phase(phase).not_ready("VolumeLost", lost);
                recheck = Some(Duration::from_secs(30));
            }
            None => {
                report.phase(phase).not_ready(reason, message);
            }
        }
        report.status.crashes = 0;
        report.status.allocated_resources = None;
        if phase == Phase::Asleep
            && let Some(idle) = seen.activity.idle.filter(|_| desired.status.phase != Phase::Asleep)
        {
            report.status.last_active = Some((now - idle).into());
        }
        report.status.container_id = best.map(|c| c.id.clone()).unwrap_or_default();
        report.status.ended_at =
            best.filter(|c| c.state == RunState::Exited).and_then(|c| c.finished_at).map(MicroTime::from);
    } else {
        let status = desired.status.clone();
        if actions.iter().any(|a| matches!(a, Action::Stop { .. })) {
            report.phase(Phase::Stopping).not_ready("Stopping", message);
            if let Some(idle) = seen.activity.idle.filter(|_| phase == Phase::Asleep) {
                // The stop may forget it.
                report.status.last_active = Some((now - idle).into());
            }
            actions.insert(0, Action::Mark(report.snapshot()));
        }
        report.status = status;
    }
    Plan { status: report.take(), actions, recheck }
}

/// Why it sleeps although it was used not so long ago.
const MADE_ROOM: &str = "made room on its node for another; wakes on the next request";

const BY_SCHEDULE: &str = "put to sleep by spec.idle.schedule; wakes on the next request";

/// Why it sleeps although nobody put it to sleep.
const ENDED: &str = "its container ended while it was frozen; wakes on the next request";

/// Whether this is told of the sleep that it sleeps.
fn is_told(desired: &Instance, message: &str) -> bool {
    let told = condition(&desired.status.conditions, "Ready").is_some_and(|c| c.message == message);
    told && matches!(desired.status.phase, Phase::Stopping | Phase::Asleep)
}

/// Whether it is being put to sleep, or was, while its schedule wanted it at rest: the use before that is done with, or it would
/// be woken for it at the end of the stretch.
pub fn is_laid_to_rest(desired: &Instance) -> bool {
    is_told(desired, BY_SCHEDULE)
}

pub fn remove_strays(seen: &Observed) -> Vec<Action> {
    seen.strays.iter().map(|id| Action::RemoveStray { id: id.clone() }).collect()
}

/// Stops and removes all that the instance has on its node but its volumes.
pub fn clear_node(desired: &Instance, seen: &Observed) -> Vec<Action> {
    let mut actions = remove_strays(seen);
    for container in &seen.containers {
        if freezing::is_alive(container) {
            actions.push(Action::Stop { id: container.id.clone(), only_if_idle: false });
        }
        actions.push(Action::RemoveContainer { id: container.id.clone() });
    }
    if seen.network.is_ours() {
        actions.push(Action::RemoveNetwork { name: labels::object_name(&desired.key()) });
    }
    actions
}

/// Whether we still keep the record from going.
fn is_held(desired: &Instance) -> bool {
    desired.metadata.finalizers.iter().any(|f| f == FINALIZER)
}

/// Stops and removes everything but retained volumes, then lets the record go. Ports are free with the record.
fn plan_removal(desired: &Instance, seen: &Observed, mut report: Report) -> Plan {
    let wait = |report: &mut Report, why: &str| {
        report.phase(Phase::Stopping).not_ready("Terminating", format!("waiting for the node: {why}"));
        Plan { status: report.take(), actions: vec![], recheck: Some(Duration::from_secs(5)) }
    };
    match &seen.node {
        // Nothing is made before a node is bound.
        NodeSeen::Unbound(_) | NodeSeen::ToAdopt(_) => {
            return Plan { status: report.take(), actions: vec![Action::DropFinalizer], recheck: None };
        }
        NodeSeen::Missing => return wait(&mut report, &format!("DockerHost {} has no record", desired.status.node)),
        // Nobody is there to ask; what may be left there is a stray should the host come back.
        NodeSeen::Unreachable(_) if seen.loss == Some(Loss::GivenUp) && is_held(desired) => {
            return Plan { status: report.take(), actions: vec![Action::DropFinalizer], recheck: None };
        }
        NodeSeen::Unreachable(why) => return wait(&mut report, why),
        NodeSeen::Reachable => {}
    }
    if !is_held(desired) {
        // Ours is done; others keep the record.
        return Plan { status: report.take(), actions: vec![], recheck: None };
    }
    let mut actions = clear_node(desired, seen);
    // One that was let go is nobody's again, and stays as it is.
    actions.retain(|action| match action {
        Action::Stop { id, .. } | Action::RemoveContainer { id } => !desired.is_released(id),
        _ => true,
    });
    for (volume, name) in named_volumes(desired) {
        let own = volume.volume_name.is_empty();
        if own && volume.reclaim == Reclaim::Delete && seen.volumes.get(&name) == Some(&Presence::Ours) {
            actions.push(Action::RemoveVolume { name });
        }
    }
    if actions.is_empty() {
        actions.push(Action::DropFinalizer);
    }
    report.phase(Phase::Stopping).not_ready("Terminating", "being deleted");
    Plan { status: report.take(), actions, recheck: None }
}
