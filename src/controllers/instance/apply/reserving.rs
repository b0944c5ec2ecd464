//! Taking room on the node that the instance is bound to: a step of the executor.
//!
//! Invariant: what instances hold of a node is never more than it may promise, but for what ran there before anybody was
//! asked. As in `binding`, one instance takes at a time and has seen what those before it have taken.

use std::time::Duration;

use super::super::super::recorder::EventType;
use super::super::health::is_up;
use super::super::observe::activity;
use super::super::plan::idle;
use super::super::report::{MAKING_ROOM, NO_ROOM, Report, told_failing};
use super::super::wakefulness::is_kept_awake;
use super::{Executor, Step, StepError};
use crate::controllers::probes::busy::Answer;
use crate::model::{Instance, Phase, Power, Resource};
use crate::scheduler::{Amount, Idler, Room, free, room};

/// One that was used more lately than this is not put to sleep for another.
pub const LEFT_ALONE: Duration = Duration::from_secs(60);
/// How often one that others make room for looks whether they have.
const MAKING: Duration = Duration::from_secs(5);
/// How often one that nobody can make room for looks again; it is told sooner when something is given back.
const WAITING: Duration = Duration::from_secs(30);

impl Executor<'_> {
    /// Commits what it is to hold of its node, if that has room for it. `runs`: its container runs already, and holds it
    /// whatever is said.
    pub(super) async fn reserve(&mut self, runs: bool) -> Result<Step, StepError> {
        let _alone = self.ctx.binding.lock().await;
        self.ctx.cache.wait_for(self.ctx.store.revision()).await;
        let found = if runs { Room::Enough } else { self.look_for_room() };
        let node = self.instance.status.node.clone();
        match found {
            Room::Enough => {
                let begun = |key: &_| self.ctx.cache.instance(key).is_some_and(|i| i.status.phase == Phase::Stopping);
                self.ctx.crowd.settled(&self.key, begun);
                let mut status = self.instance.status.clone();
                status.allocated_resources = Some(self.instance.spec.asks());
                self.write_status(status).await?;
                self.ctx.cache.wait_for(self.revision).await;
                Ok(Step::Next)
            }
            Room::Make(others) => {
                self.ctx.crowd.ask(&self.key, &others, self.ctx.clock.monotonic());
                tracing::info!(node, asked = others.len(), "others fall asleep to make room");
                self.tell(MAKING_ROOM, format!("{node} is full; what nobody uses there falls asleep first")).await?;
                Ok(Step::Wait(MAKING))
            }
            Room::Full => {
                let asks = self.instance.spec.asks();
                let (memory, cpu) = (asks.memory, asks.cpu);
                let why = format!(
                    "{node} has not {memory} of memory and {cpu} of CPU to spare, and nothing there may fall asleep for it"
                );
                self.tell(NO_ROOM, why).await?;
                Ok(Step::Wait(WAITING))
            }
        }
    }

    /// Takes note that it waits for room, and says why.
    async fn tell(&mut self, reason: &str, why: String) -> Result<(), StepError> {
        self.ctx.crowd.wait(&self.key, self.lacks(), self.ctx.clock.monotonic());
        let mut report = Report::of(&self.instance, self.ctx.clock.now());
        if self.instance.status.allocated_resources.is_some() {
            // It goes on as it is, with what it holds.
            report.status.observed_generation = self.instance.status.observed_generation;
            let told = told_failing(&self.instance, &[reason]);
            report.up_to_date(false, reason, why.clone());
            if !told {
                self.event(EventType::Warning, reason, why);
            }
        } else {
            report.phase(Phase::Pending).not_ready(reason, why);
        }
        Ok(self.write_status(report.take()).await?)
    }

    /// What it asks for beyond what it holds.
    fn lacks(&self) -> Amount {
        let held = self.instance.status.allocated_resources.as_ref().map_or(Amount::default(), Amount::of);
        Amount::of(&self.instance.spec.asks()).minus(held)
    }

    fn look_for_room(&self) -> Room {
        let node = &self.instance.status.node;
        let left = {
            let fleet = self.ctx.loads.fleet();
            // What has no record takes nobody; who asks it for anything is told so.
            let Some(on) = fleet.host(node) else { return Room::Enough };
            free(&on.host, &on.load)
        };
        let needed = self.lacks().beyond(left);
        if needed.is_met() {
            return Room::Enough;
        }
        let (mut coming, mut idlers) = (Amount::default(), vec![]);
        let now = self.ctx.clock.monotonic();
        for other in self.ctx.cache.on_node(node) {
            let (key, Some(holds)) = (other.key(), other.status.allocated_resources.as_ref().map(Amount::of)) else {
                continue;
            };
            let asker = self.ctx.crowd.asked_by(&key, now);
            let mine = asker.as_ref() == Some(&self.key);
            if mine && other.status.phase == Phase::Stopping {
                coming = coming.plus(holds);
                self.ctx.crowd.ask(&self.key, &[key], now);
            } else if key != self.key
                && (mine || asker.is_none())
                && let Some(idle) = self.may_rest(&other)
            {
                idlers.push(Idler { key, holds, frozen: other.status.phase == Phase::Frozen, idle });
            }
        }
        match room(needed.minus(coming), idlers) {
            // It comes, but it is not there.
            Room::Enough => Room::Make(vec![]),
            found => found,
        }
    }

    /// How long this one has not been used, if it may be put to sleep for another.
    fn may_rest(&self, other: &Instance) -> Option<Duration> {
        let now = self.ctx.clock.now();
        let seen = activity(self.ctx, other);
        let may = (is_up(other) || other.status.phase == Phase::Frozen)
            && other.spec.power == Power::Auto
            && other.metadata.deletion_timestamp.is_none()
            && !is_kept_awake(other, now)
            // Another may be found who is not, or of whom it can be found out.
            && !matches!(seen.busy.answer, Answer::Busy | Answer::Silent)
            && seen.open == 0;
        // Who asked for it by hand has it for as long as it would stay awake.
        let by_hand = idle(other, Default::default(), now).is_some();
        seen.idle.filter(|idle| may && !by_hand && *idle >= LEFT_ALONE.min(other.spec.idle_after()))
    }
}
