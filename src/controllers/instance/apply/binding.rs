//! Where an instance is: the commits by which it takes a node, host ports and a subnet, and gives up its node for another.
//! Steps of the executor.
//!
//! Invariant: one instance binds at a time, and has seen what those before it have taken.

use std::sync::Arc;

use super::super::super::recorder::EventType;
use super::super::adoption::{NOT_ADOPTABLE, Offer, adopted};
use super::super::candidate;
use super::super::loss::{HOST_LOST, Loss};
use super::super::moving::elsewhere;
use super::super::observe::{activity, host_loss};
use super::super::plan::{Want, want};
use super::super::report::Report;
use super::{Executor, Step, StepError};
use crate::docker::engine::EngineError;
use crate::docker::labels;
use crate::model::{
    AllocatedResources, BoundPort, ConditionStatus, EVICT_ANNOTATION, ImageStatus, Instance, InstanceStatus, Phase,
    Span, Subnet,
};
use crate::scheduler::{HostLoad, Placement, Unplaced, place, place_at};
use crate::store::{StoreError, typed};

/// Writes down where it goes, and what it holds there. `subnet`: its network, too.
fn take_place(report: &mut Report, placement: &Placement, asks: Option<AllocatedResources>, subnet: bool) {
    report.status.allocated_resources = asks.or(report.status.allocated_resources.take());
    let status = &mut report.status;
    status.node = placement.node.clone();
    status.address = placement.address.clone();
    let ports = placement.ports.iter();
    status.ports = ports.map(|p| BoundPort { name: p.name.clone(), host_port: p.host_port }).collect();
    status.gpus = placement.gpus.clone();
    if subnet {
        status.subnet = placement.subnet.to_string();
    }
    report.condition("Scheduled", ConditionStatus::True, "Bound", placement.message.clone());
}

/// Writes down that it is bound nowhere while it rests.
fn rest_unbound(report: &mut Report, want: Want) {
    let phase = if want == Want::Stop { Phase::Stopped } else { Phase::Asleep };
    report.phase(phase).not_ready(&format!("{phase:?}"), "has left its node; the next wake places it");
    report.condition("Scheduled", ConditionStatus::False, "Unbound", "is placed when it wakes");
}

/// Forgets all that is true of one node only.
fn forget_place(status: &mut InstanceStatus) {
    status.node.clear();
    status.address.clear();
    status.ports.clear();
    status.refused_ports.clear();
    status.gpus.clear();
    status.allocated_resources = None;
    status.subnet.clear();
    status.refused_subnets.clear();
    status.container_id.clear();
    status.volumes.clear();
    status.started_at = None;
    status.start_seen_at = None;
    status.ended_at = None;
    status.image = ImageStatus::default();
    status.crashes = 0;
}

/// Only its ports are in question, not whether the node would take it anew.
fn is_there_already(on: &mut HostLoad, candidate: &mut Instance) {
    on.load.memory = 0;
    on.load.instances = 0;
    candidate.spec.resources.memory = "1".parse().ok();
    let host = Arc::make_mut(&mut on.host);
    host.spec.unschedulable = false;
    host.spec.taints.clear();
    candidate.spec.placement.node_selector.clear();
}

impl Executor<'_> {
    /// Takes a container that runs already, and with it its node and its ports, alone as in [`Self::bind`]: of two that
    /// want one container, one gets it.
    pub(super) async fn adopt(&mut self, offer: &Offer) -> Result<Step, StepError> {
        let _alone = self.ctx.binding.lock().await;
        self.ctx.cache.wait_for(self.ctx.store.revision()).await;
        let Some(adopt) = self.instance.to_adopt().cloned() else { return Ok(Step::LookAgain) };
        if candidate::claimed_by(self.ctx, &self.instance, &adopt.container_id).is_some() {
            return Ok(Step::LookAgain);
        }
        let mut candidate = self.instance.clone();
        candidate.spec.placement.node = adopt.node.clone();
        for port in candidate.spec.ports.iter_mut().filter(|p| p.host_port.is_none()) {
            let found = offer.spec.ports.iter().find(|p| p.container_port == port.container_port);
            port.host_port = found.and_then(|p| p.host_port);
        }
        let mut report = Report::of(&self.instance, self.ctx.clock.now());
        let placed = self.place_there(&mut candidate, |_| {});
        let placement = match placed {
            Ok(placement) if placement.address == offer.address => placement,
            Ok(_) => return Ok(Step::LookAgain),
            Err(why) => {
                report.phase(Phase::Failed).not_ready(NOT_ADOPTABLE, why.to_string());
                self.write_status(report.take()).await?;
                return Err(StepError::Told(why.to_string()));
            }
        };
        report.phase(Phase::Pending).not_ready("Pending", "adopted, not yet looked at");
        take_place(&mut report, &placement, Some(self.instance.spec.asks()), true);
        let bound = Instance { status: report.status.clone(), ..self.instance.clone() };
        report.status.adopted = Some(adopted(&self.ctx.site.cluster, &bound, &adopt, offer));
        let id = adopt.container_id.get(..12).unwrap_or_default();
        report.condition("Scheduled", ConditionStatus::True, "Adopted", format!("its container ran on {}", adopt.node));
        self.write_status(report.take()).await?;
        self.ctx.cache.wait_for(self.revision).await;
        self.event(EventType::Normal, "Adopted", format!("adopted container {id} on {}", adopt.node));
        Ok(Step::Next)
    }

    /// On the node that the candidate names, where it is already. `change`: what else to know of it.
    fn place_there(&self, candidate: &mut Instance, change: impl FnOnce(&mut HostLoad)) -> Result<Placement, Unplaced> {
        let fleet = self.ctx.loads.fleet();
        let Some(mut on) = fleet.host(&candidate.spec.placement.node).cloned() else { return place(candidate, &fleet) };
        change(&mut on);
        is_there_already(&mut on, candidate);
        place_at(candidate, &on, fleet.hosts().len())
    }

    /// Chooses node, ports and subnet and commits them, alone: two instances that are placed at once must not get one
    /// port. `network`: whether a network is to be made in the subnet; else the instance's stays as it is.
    pub(super) async fn bind(&mut self, network: bool) -> Result<Step, StepError> {
        // One try after the other would take long where others have many, and might come round in a circle.
        let refused = !self.instance.status.refused_subnets.is_empty();
        let held = if refused { self.held_by_others().await? } else { vec![] };
        let _alone = self.ctx.binding.lock().await;
        self.ctx.cache.wait_for(self.ctx.store.revision()).await;
        let mut candidate = self.instance.clone();
        let rebinding = !candidate.status.node.is_empty();
        if rebinding {
            // The node stays, because the data is there; ports that are still asked for stay, too.
            candidate.spec.placement.node = candidate.status.node.clone();
            let fixed: Vec<u16> = candidate.spec.ports.iter().filter_map(|p| p.host_port).collect();
            let kept = |port: &u16| !fixed.contains(port) && !candidate.status.refused_ports.contains(port);
            for port in &mut candidate.spec.ports {
                port.host_port = port.host_port.or_else(|| candidate.status.host_port(&port.name).filter(kept));
            }
        }
        let now = self.ctx.clock.now();
        let placed = if rebinding {
            let status = candidate.status.clone();
            self.place_there(&mut candidate, |on| {
                status.ports.iter().for_each(|port| on.load.give_port(port.host_port));
                status.gpus.iter().for_each(|gpu| on.load.give_gpu(gpu));
                status.subnet.parse().into_iter().for_each(|own| on.load.give_subnet(own));
                status.refused_ports.iter().for_each(|port| on.load.take_port(*port));
                let refused = status.refused_subnets.iter().filter_map(|s| s.parse().ok());
                held.into_iter().chain(refused).for_each(|subnet| on.load.take_subnet(subnet));
                if !network {
                    on.load.forget_subnets();
                }
            })
        } else {
            place(&candidate, &self.ctx.loads.fleet())
        };
        let placement = match placed {
            Ok(placement) => placement,
            Err(why) => {
                let mut report = Report::of(&self.instance, now);
                if rebinding {
                    // What runs goes on running with the ports that it has.
                    report.status.observed_generation = self.instance.status.observed_generation;
                    // None is left but those that were refused, and they may be free again.
                    report.status.refused_subnets.clear();
                    report.up_to_date(false, "Unschedulable", why.to_string());
                    self.write_status(report.take()).await?;
                    self.event(EventType::Warning, "Unschedulable", why.to_string());
                    return Err(StepError::Told(why.to_string()));
                }
                report.condition("Scheduled", ConditionStatus::False, "Unschedulable", why.to_string());
                // Visitors of the one are held: it may be over in a moment.
                let reason = if why.awaits_hosts() { "HostsNotReady" } else { "Unschedulable" };
                report.phase(Phase::Pending).not_ready(reason, why.to_string());
                self.write_status(report.take()).await?;
                return Ok(Step::LookAgain);
            }
        };
        let mut report = Report::of(&self.instance, now);
        if rebinding {
            report.status.observed_generation = self.instance.status.observed_generation;
            if report.status.phase == Phase::Running {
                report.phase(Phase::Upgrading).not_ready("Upgrading", "its host ports, its GPUs or its network change");
            }
        } else {
            report.phase(Phase::Pending).not_ready("Pending", "bound, not yet made");
        }
        // What it holds of a node that it is bound to already is for `reserve` to say.
        let asks = (!rebinding).then(|| self.instance.spec.asks());
        take_place(&mut report, &placement, asks, network || !rebinding);
        self.write_status(report.take()).await?;
        self.ctx.cache.wait_for(self.revision).await;
        self.event(EventType::Normal, "Scheduled", format!("bound to {}: {}", placement.node, placement.message));
        Ok(Step::Next)
    }

    /// Gives up the old node and takes a new one in one commit, alone as in [`Self::bind`]. Who rests takes none: it is
    /// placed when it wakes.
    pub(super) async fn leave(&mut self) -> Result<Step, StepError> {
        let _alone = self.ctx.binding.lock().await;
        self.ctx.cache.wait_for(self.ctx.store.revision()).await;
        let now = self.ctx.clock.now();
        let want = want(&self.instance, activity(self.ctx, &self.instance), now);
        let old = self.instance.status.node.clone();
        let mut report = Report::of(&self.instance, now);
        forget_place(&mut report.status);
        let message = match (want, elsewhere(&self.instance, &self.ctx.loads.fleet())) {
            (Want::Run, Ok(placement)) => {
                report.phase(Phase::Pending).not_ready("Pending", "bound, not yet made");
                take_place(&mut report, &placement, Some(self.instance.spec.asks()), true);
                format!("moved from {old} to {}: {}", placement.node, placement.message)
            }
            // Nothing of it is left on the old node: it waits for a host as a new one does.
            (Want::Run, Err(why)) => {
                report.condition("Scheduled", ConditionStatus::False, "Unschedulable", why.clone());
                report.phase(Phase::Pending).not_ready("Unschedulable", why.clone());
                format!("left {old}, and no host can take it: {why}")
            }
            (Want::Freeze | Want::Sleep | Want::Stop, _) => {
                self.rest_if_frozen(want);
                rest_unbound(&mut report, want);
                format!("left {old}; it is placed when it wakes")
            }
        };
        self.commit_leave(report.take()).await?;
        self.event(EventType::Normal, "Moved", message);
        Ok(Step::LookAgain)
    }

    /// Takes another node in the place of one that is lost, in one commit, alone as in [`Self::bind`]; or nothing, when
    /// the node is back by now or no other takes its place any more. What is left there is a stray from here on.
    pub(super) async fn leave_lost(&mut self) -> Result<Step, StepError> {
        let _alone = self.ctx.binding.lock().await;
        self.ctx.cache.wait_for(self.ctx.store.revision()).await;
        let loss = host_loss(self.ctx, &self.instance);
        let old = self.instance.status.node.clone();
        let now = self.ctx.clock.now();
        let after = Span::from(self.instance.spec.placement.host_loss_after());
        let out = self.ctx.cache.host(&old).is_some_and(|host| host.is_out_of_service());
        let lost = if out { format!("{old} is out of service") } else { format!("{old} had not answered for {after}") };
        let mut report = Report::of(&self.instance, now);
        forget_place(&mut report.status);
        let (reason, told, why) = match loss {
            Some(Loss::Recreate(placement)) => {
                report.phase(Phase::Pending).not_ready("Pending", "bound, not yet made");
                take_place(&mut report, &placement, Some(self.instance.spec.asks()), true);
                ("Recreated", format!("{lost}: made anew on {}", placement.node), format!(" ({})", placement.message))
            }
            Some(Loss::GivenUp) if self.instance.metadata.deletion_timestamp.is_none() => {
                let want = want(&self.instance, activity(self.ctx, &self.instance), now);
                self.rest_if_frozen(want);
                rest_unbound(&mut report, want);
                ("GivenUp", format!("{lost}: it is placed when it wakes"), String::new())
            }
            _ => return Ok(Step::LookAgain),
        };
        report.condition(HOST_LOST, ConditionStatus::False, reason, told.clone());
        self.commit_leave(report.take()).await?;
        let data = match self.instance.local_data() {
            Some(data) if out => format!("; {data} stayed there"),
            _ => String::new(),
        };
        let message = format!("{told}{why}{data}; what may still run on {old} is removed when that host is back");
        self.event(EventType::Warning, reason, message);
        Ok(Step::LookAgain)
    }

    /// What was frozen is asleep elsewhere: its use, which only froze it, must not wake it there.
    fn rest_if_frozen(&self, want: Want) {
        if want == Want::Freeze {
            self.ctx.activity.rest(&self.key);
        }
    }

    /// Commits that it has left, and with it that an eviction has had its way.
    async fn commit_leave(&mut self, status: InstanceStatus) -> Result<(), StoreError> {
        let (store, revision) = (&*self.ctx.store, self.revision);
        self.revision = typed::replace_status_and_unmark(store, &self.key, revision, &status, EVICT_ANNOTATION).await?;
        self.instance.status = status;
        self.instance.metadata.annotations.remove(EVICT_ANNOTATION);
        self.ctx.cache.wait_for(self.revision).await;
        Ok(())
    }

    /// The subnets of the daemon's other networks, whoever's they are.
    pub(super) async fn held_by_others(&self) -> Result<Vec<Subnet>, EngineError> {
        let own = labels::object_name(&self.key);
        let networks = self.engine()?.list_networks(&[]).await?;
        let others = networks.iter().filter(|n| n.name != own).flat_map(|n| &n.subnets);
        Ok(others.filter_map(|s| Subnet::read(s)).collect())
    }
}
