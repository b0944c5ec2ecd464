//! Doing: a thin executor of plans. Actions run in order; the first that fails ends the run and becomes a condition
//! and an Event in the daemon's own words. There is no rollback: the next look decides afresh.

mod binding;
mod pulling;
mod reserving;
mod telling;

use std::sync::Arc;
use std::time::Duration;

use crate::controllers::probes::{Attempt, ProbeTarget};
use crate::docker::engine::{ContainerSpec, Engine, EngineError, EngineErrorKind};
use crate::docker::labels;
use crate::docker::turns::Turn;
use crate::model::{FINALIZER, Instance, InstanceStatus, Key, Phase, Resource, Subnet};
use crate::runtime::{Error, Outcome};
use crate::store::{Revision, StoreError, typed};

use super::super::Context;
use super::super::recorder::EventType;
use super::action::{Action, Plan, STOP_GRACE};
use super::engine_error;
use super::network::network_spec;
use super::observe::activity;
use super::plan::{ActivitySeen, Want, is_laid_to_rest, want};
use super::report::{after_failure, failure_reason, refuse_subnet};
use super::startup::{self, AWAIT_SLICE};
use super::values::{self, OpenError, Opened};

pub use reserving::LEFT_ALONE;

/// How often a pause that the daemon has not answered is looked at anew: whether somebody uses the instance by now.
const CALLED_OFF: Duration = Duration::from_millis(20);

/// One run of one plan.
pub struct Executor<'a> {
    ctx: &'a Context,
    key: Key,
    /// As stored at `revision`.
    instance: Instance,
    revision: Revision,
    /// To stop a container with, taken before it is said that it will be stopped.
    turn: Option<Turn>,
}

/// What a step says about the steps after it.
enum Step {
    Next,
    /// The world is another: look again now.
    LookAgain,
    /// Nothing of what comes after it can be done for so long.
    Wait(Duration),
}

enum StepError {
    Engine(EngineError),
    /// Told by a condition already.
    Told(String),
    Store(StoreError),
}

impl From<EngineError> for StepError {
    fn from(e: EngineError) -> StepError {
        StepError::Engine(e)
    }
}

impl From<StoreError> for StepError {
    fn from(e: StoreError) -> StepError {
        StepError::Store(e)
    }
}

impl<'a> Executor<'a> {
    pub fn new(ctx: &'a Context, instance: Instance) -> Executor<'a> {
        let revision = typed::revision_of(&instance).unwrap_or_default();
        Executor { ctx, key: instance.key(), instance, revision, turn: None }
    }

    /// Writes what is seen, then acts.
    pub async fn run(mut self, plan: Plan) -> Result<Outcome, Error> {
        let again = Ok(Outcome::Recheck(Duration::ZERO));
        self.take_turn(&plan.actions).await.map_err(engine_error)?;
        match self.write_status(plan.status).await {
            Ok(()) => {}
            Err(StoreError::Conflict { .. }) => return again,
            Err(e) => return Err(Error::retry(e)),
        }
        let acts = !plan.actions.is_empty();
        let mut left = None;
        for (n, action) in plan.actions.iter().enumerate() {
            if matches!(action, Action::Mark(_)) {
                self.take_turn(&plan.actions[n..]).await.map_err(engine_error)?;
            }
            match self.is_current().await {
                Ok(true) => {}
                Ok(false) => return again,
                Err(e) => return Err(Error::retry(e)),
            }
            tracing::debug!(%action, "acting");
            match self.step(action).await {
                Ok(Step::Next) => {}
                Ok(Step::LookAgain) => return again,
                Ok(Step::Wait(time)) => {
                    // It was not carried out.
                    self.ctx.repeats.forget(&self.key);
                    return Ok(Outcome::Recheck(time));
                }
                Err(StepError::Store(StoreError::Conflict { .. })) => return again,
                Err(StepError::Store(e)) => return Err(Error::retry(e)),
                Err(StepError::Told(why)) => return Err(Error::retry(why)),
                Err(StepError::Engine(e)) if e.kind == EngineErrorKind::Busy => return Err(engine_error(e)),
                Err(StepError::Engine(e)) if action.may_be_left(e.kind) => {
                    self.event(EventType::Warning, action.failure_reason(), e.to_string());
                    left = Some(e);
                }
                Err(StepError::Engine(e)) => return self.failed(action, e).await,
            }
        }
        if let Some(left) = left {
            return Err(Error::retry(left));
        }
        Ok(match plan.recheck {
            _ if acts => Outcome::Recheck(Duration::ZERO),
            Some(after) => Outcome::Recheck(after),
            None => Outcome::Done,
        })
    }

    /// Lets a frozen container go on and says so, as its record alone tells what is to be done. `None`: it could not be, and
    /// a look at everything finds out why.
    pub async fn thaw(mut self, status: InstanceStatus) -> Option<Result<Outcome, Error>> {
        let id = self.instance.status.container_id.clone();
        if let Err(error) = self.engine().ok()?.unpause_container(&id).await {
            tracing::debug!(%error, "not thawed at once");
            return None;
        }
        Some(match self.write_status(status).await {
            Ok(()) | Err(StoreError::Conflict { .. }) => Ok(Outcome::Recheck(Duration::ZERO)),
            Err(e) => Err(Error::retry(e)),
        })
    }

    /// Whether the object is still the one that the plan was made for.
    async fn is_current(&self) -> Result<bool, StoreError> {
        let record = self.ctx.store.get(&self.key.to_string()).await?;
        Ok(record.is_some_and(|r| r.modified == self.revision))
    }

    /// Takes a turn if these actions stop a container without a long wait before it. What has to wait for its turn goes
    /// on serving meanwhile: nothing is said of the stop, and no visitor held for it, before it can be made at once.
    async fn take_turn(&mut self, actions: &[Action]) -> Result<(), EngineError> {
        let next = actions.iter().find(|a| {
            matches!(
                a,
                Action::Stop { .. } | Action::Pull { .. } | Action::CheckValues(_) | Action::AwaitStartup { .. }
            )
        });
        if let (Some(Action::Stop { id, .. }), None) = (next, &self.turn) {
            self.turn = Some(self.engine()?.stop_turn(id).await?);
        }
        Ok(())
    }

    async fn failed(&mut self, action: &Action, error: EngineError) -> Result<Outcome, Error> {
        let mut status = after_failure(&self.instance, action, &error, self.ctx.clock.now());
        if error.kind == EngineErrorKind::SubnetTaken {
            // Should the daemon not answer now, the next try finds out.
            let held = self.held_by_others().await.unwrap_or_default();
            let own = Subnet::read(&status.subnet);
            refuse_subnet(&mut status, &self.instance, held.iter().any(|s| own.is_some_and(|own| own.overlaps(*s))));
        }
        match self.write_status(status).await {
            Ok(()) => {}
            Err(StoreError::Conflict { .. }) => return Ok(Outcome::Recheck(Duration::ZERO)),
            Err(e) => return Err(Error::retry(e)),
        }
        let reason = failure_reason(action, error.kind);
        self.event(EventType::Warning, reason, error.to_string());
        Err(Error::retry(error))
    }

    fn event(&self, type_: EventType, reason: &str, message: impl Into<String>) {
        self.ctx.recorder.event(&self.key, &self.instance.metadata.uid, type_, reason, message);
    }

    /// Commits a status that differs, and tells what became of the instance.
    async fn write_status(&mut self, status: InstanceStatus) -> Result<(), StoreError> {
        if status == self.instance.status {
            return Ok(());
        }
        self.revision = typed::replace_status(&*self.ctx.store, &self.key, self.revision, &status).await?;
        let old = std::mem::replace(&mut self.instance.status, status);
        self.tell_changes(&old);
        Ok(())
    }

    async fn step(&mut self, action: &Action) -> Result<Step, StepError> {
        match action {
            Action::Bind { network } => return self.bind(*network).await,
            Action::Adopt(offer) => return self.adopt(offer).await,
            Action::Reserve { runs } => return self.reserve(*runs).await,
            Action::Leave => return self.leave().await,
            Action::LeaveLost => return self.leave_lost().await,
            Action::Mark(status) => {
                self.write_status((**status).clone()).await?;
                return Ok(Step::Next);
            }
            Action::DropFinalizer => {
                let rest: Vec<String> =
                    self.instance.metadata.finalizers.iter().filter(|f| *f != FINALIZER).cloned().collect();
                typed::replace_finalizers(&*self.ctx.store, &self.key, self.revision, &rest).await?;
                self.ctx.activity.forget(&self.key);
                return Ok(Step::LookAgain);
            }
            Action::AwaitStartup { target, fresh } => return self.await_startup(target, *fresh).await,
            Action::Pause { id } => return self.pause(id).await,
            Action::Rest => {
                self.ctx.activity.rest(&self.key);
                return Ok(Step::Next);
            }
            Action::Stop { only_if_idle: true, .. } => {
                let (seen, wanted) = self.wanted_now().await;
                if wanted != Want::Sleep {
                    return Ok(Step::LookAgain);
                }
                if self.instance.is_sent_to_sleep() || seen.yields || is_laid_to_rest(&self.instance) {
                    // What was used before does not wake it again.
                    self.ctx.activity.rest(&self.key);
                }
            }
            _ => {}
        }
        let engine = self.engine()?;
        self.act(&*engine, action).await
    }

    /// What is wanted of it, looked at once more: from the last commit on the proxy holds new requests, and one that came
    /// before is counted now.
    async fn wanted_now(&self) -> (ActivitySeen, Want) {
        self.ctx.cache.wait_for(self.revision).await;
        let seen = activity(self.ctx, &self.instance);
        (seen, want(&self.instance, seen, self.ctx.clock.now()))
    }

    /// Freezes a container that nobody uses. Where the daemon does not, it runs on, and nobody on its host asks again soon.
    async fn pause(&mut self, id: &str) -> Result<Step, StepError> {
        if self.wanted_now().await.1 != Want::Freeze {
            return Ok(Step::LookAgain);
        }
        let engine = self.engine()?;
        let paused = {
            let mut pausing = std::pin::pin!(engine.pause_container(id));
            loop {
                tokio::select! {
                    biased;
                    done = pausing.as_mut() => break done,
                    // A daemon may take long over it; who comes meanwhile does not wait for that. A pause that comes late is
                    // ended, as one of somebody else's.
                    () = tokio::time::sleep(CALLED_OFF) => {}
                }
                let seen = activity(self.ctx, &self.instance);
                if want(&self.instance, seen, self.ctx.clock.now()) != Want::Freeze {
                    return Ok(Step::LookAgain);
                }
            }
        };
        match paused {
            Ok(()) => {
                self.ctx.health.busy.stood_still(&self.instance);
                Ok(Step::Next)
            }
            // It has ended.
            Err(e) if matches!(e.kind, EngineErrorKind::Conflict | EngineErrorKind::NotFound) => Ok(Step::LookAgain),
            Err(e) if matches!(e.kind, EngineErrorKind::Server | EngineErrorKind::Invalid) => {
                self.event(EventType::Warning, "PauseRefused", e.to_string());
                self.ctx.freezers.refused(&self.instance.status.node, &self.key, e.message, self.ctx.clock.monotonic());
                Ok(Step::LookAgain)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn engine(&self) -> Result<Arc<dyn Engine>, EngineError> {
        let node = &self.instance.status.node;
        let host = self.ctx.cache.host(node).ok_or_else(|| EngineError {
            op: "reach",
            object: node.clone(),
            kind: EngineErrorKind::Unreachable,
            message: "the DockerHost has no record".into(),
        })?;
        self.ctx.engines.engine(&host)
    }

    async fn act(&mut self, engine: &dyn Engine, action: &Action) -> Result<Step, StepError> {
        let owner = || labels::owner_labels(&self.ctx.site.cluster, &self.key, &self.instance.metadata.uid);
        match action {
            Action::Pull { image, login } => return self.pull(engine, image, login.as_ref()).await,
            Action::CreateVolume { name, volume } => {
                let mut labels = owner();
                labels.insert(labels::VOLUME.into(), volume.clone());
                engine.create_volume(name, &labels).await?;
            }
            Action::CreateNetwork { .. } => {
                engine.create_network(&network_spec(&self.ctx.site.cluster, &self.instance)).await?;
            }
            Action::CheckValues(spec) => {
                if self.opened(spec).await?.is_none() {
                    return Ok(Step::LookAgain);
                }
            }
            Action::CreateContainer(spec) => {
                let Some(opened) = self.opened(spec).await? else { return Ok(Step::LookAgain) };
                let filled = ContainerSpec { env_opened: opened.env, ..(**spec).clone() };
                let made = engine.create_container(&filled).await;
                made.map_err(|e| values::without_values(e, &filled.env_opened))?;
                if !opened.left_out.is_empty() {
                    let keys = opened.left_out.join(", ");
                    let message = format!("not in the environment, as no variable can have such a name: {keys}");
                    self.event(EventType::Warning, "InvalidVariableNames", message);
                }
                self.event(
                    EventType::Normal,
                    "Created",
                    format!("created container {} from {}", spec.name, spec.image),
                );
            }
            Action::Start { id, again } => {
                if *again {
                    engine.wake_container(id).await?
                } else {
                    engine.start_container(id).await?
                }
                self.event(EventType::Normal, "Started", "started the container");
            }
            Action::Unpause { id, drift } => {
                engine.unpause_container(id).await?;
                if *drift {
                    self.event(EventType::Normal, "Repaired", "somebody had paused the container; it goes on");
                }
            }
            Action::Stop { id, .. } => match self.turn.take() {
                Some(turn) => engine.stop_in_turn(turn, id, STOP_GRACE).await?,
                None => engine.stop_container(id, STOP_GRACE).await?,
            },
            Action::RemoveContainer { id } | Action::RemoveStray { id } => {
                // What it had no name for may be its data all the same.
                if self.instance.is_adopted(id) {
                    engine.remove_keeping_volumes(id).await?;
                } else {
                    engine.remove_container(id).await?;
                }
                self.event(EventType::Normal, "Removed", action.to_string());
            }
            Action::Rename { id, name } => {
                engine.rename_container(id, name).await?;
                self.event(EventType::Normal, "Repaired", action.to_string());
            }
            Action::UpdateLimits { id, limits } => {
                engine.update_container(id, *limits).await?;
                self.event(EventType::Normal, "Updated", action.to_string());
            }
            Action::RemoveNetwork { name } => engine.remove_network(name).await?,
            Action::RemoveVolume { name } => engine.remove_volume(name).await?,
            Action::Bind { .. }
            | Action::Reserve { .. }
            | Action::Adopt(_)
            | Action::Leave
            | Action::LeaveLost
            | Action::Mark(_)
            | Action::DropFinalizer
            | Action::Pause { .. }
            | Action::Rest
            | Action::AwaitStartup { .. } => {}
        }
        Ok(Step::Next)
    }

    /// The values that a container is to have; `None` when one is gone since the cache was looked at.
    async fn opened(&self, spec: &ContainerSpec) -> Result<Option<Opened>, StepError> {
        if spec.env_sources.is_empty() {
            return Ok(Some(Opened::default()));
        }
        self.there(values::open(&*self.ctx.opened, spec).await).await
    }

    /// What was fetched; `None` when it is gone since the cache was looked at, which by now sees it.
    async fn there<T>(&self, fetched: Result<T, OpenError>) -> Result<Option<T>, StepError> {
        match fetched {
            Ok(found) => Ok(Some(found)),
            Err(OpenError::Gone) => {
                self.ctx.cache.wait_for(self.ctx.store.revision()).await;
                Ok(None)
            }
            Err(OpenError::Unfit(e)) => Err(e.into()),
            Err(OpenError::Store(e)) => Err(e.into()),
        }
    }

    /// Probes again and again. Ends early when it passes, or when the object changes.
    async fn await_startup(&self, target: &ProbeTarget, fresh: bool) -> Result<Step, StepError> {
        if fresh {
            self.ctx.health.startup_tried(&self.key, None);
        }
        let began = self.ctx.clock.monotonic();
        let before = self
            .instance
            .status
            .start_seen_at
            .and_then(|t| Duration::try_from(self.ctx.clock.now().duration_since(t.timestamp())).ok())
            .filter(|_| self.instance.status.phase != Phase::Starting)
            .unwrap_or_default();
        let id = &self.instance.status.container_id;
        let engine = match target {
            ProbeTarget::Exec { .. } => Some(self.engine()?),
            ProbeTarget::Net { .. } => None,
        };
        loop {
            let made = startup::attempt(self.ctx, engine.as_deref(), &self.instance, id, target).await;
            if made == Some(Attempt::Passed) {
                return Ok(Step::Next);
            }
            let waited = self.ctx.clock.monotonic() - began;
            if waited >= AWAIT_SLICE || !self.is_current().await? {
                return Ok(Step::LookAgain);
            }
            tokio::time::sleep(startup::pause(self.ctx, &self.instance, before + waited)).await;
        }
    }
}
