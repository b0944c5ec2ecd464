//! Leaving a node: asked for by the mark that an eviction leaves on the record, or driven out by a taint.
//!
//! ```text
//! mark or taint ──▶ container and network gone from the old node ──▶ one commit: the old binding and the mark go,
//!                                                                    a new binding comes where there is a place
//! ```
//!
//! The mark is durable, and every step is planned afresh from what is seen: a crash anywhere resumes. Nothing is made
//! on the new node before the commit, and the commit is planned only when nothing is left on the old one: an instance
//! never runs twice. Data does not move, so an instance with data on its node does not either. Pure.

use std::ops::Deref;

use crate::model::{DockerHost, Instance, Phase, TaintEffect, condition, untolerated};
use crate::scheduler::{Fleet, Placement, place_elsewhere};

use super::action::{Action, Plan};
use super::plan::{Observed, Want, clear_node};
use super::report::{NO_ROOM, Report};

/// The reason of the Ready condition while it leaves.
pub const REASON: &str = "Moving";

/// A wish to leave the node.
#[derive(Clone, Debug, PartialEq)]
pub struct Leave {
    /// For people.
    pub why: String,
    /// Whether another host could take it; why not.
    pub elsewhere: Result<(), String>,
}

/// Whether the instance should leave its node: because it must, or because it would have to wait there for room that
/// another has.
pub fn leave<F: Deref<Target = Fleet>>(
    instance: &Instance,
    host: &DockerHost,
    fleet: impl FnOnce() -> F,
) -> Option<Leave> {
    let waits = condition(&instance.status.conditions, "Ready").is_some_and(|c| c.reason == NO_ROOM);
    if waits && instance.local_data().is_none() && instance.status.phase == Phase::Pending {
        let why = format!("{} has no room for it", instance.status.node);
        return elsewhere(instance, &fleet()).is_ok().then_some(Leave { why, elsewhere: Ok(()) });
    }
    let why = if instance.evicted_from() == Some(&instance.status.node) {
        format!("evicted from {}", instance.status.node)
    } else {
        let tolerations = &instance.spec.placement.tolerations;
        let taint = untolerated(&host.spec.taints, tolerations, &[TaintEffect::NoExecute])?;
        format!("driven from {} by the taint {taint}", instance.status.node)
    };
    let elsewhere = match instance.local_data() {
        Some(data) => Err(format!("{data} is bound to {}", instance.status.node)),
        None => elsewhere(instance, &fleet()).map(drop),
    };
    Some(Leave { why, elsewhere })
}

/// Where the instance could go but to its own node; the scheduler's words when there is nothing.
pub fn elsewhere(instance: &Instance, fleet: &Fleet) -> Result<Placement, String> {
    let mut candidate = instance.clone();
    candidate.status = Default::default();
    place_elsewhere(&candidate, fleet, &instance.status.node).map_err(|why| match why.hosts {
        0 => "there is no other DockerHost".to_owned(),
        _ => why.to_string(),
    })
}

/// The plan of an instance that leaves; `None` when it stays, because nobody wants it away or nothing can take it.
pub fn plan_move(desired: &Instance, seen: &Observed, want: Want, report: &mut Report) -> Option<Plan> {
    let leave = seen.leave.as_ref().filter(|leave| leave.elsewhere.is_ok())?;
    let mut actions = clear_node(desired, seen);
    if actions.is_empty() {
        actions.push(Action::Leave);
    }
    // What rests goes on resting: a phase of its own would count as use.
    if want == Want::Run {
        report.phase(Phase::Moving);
    }
    report.not_ready(REASON, leave.why.clone());
    Some(Plan { status: report.take(), actions, recheck: None })
}
