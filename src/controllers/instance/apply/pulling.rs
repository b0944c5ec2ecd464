//! Waiting for a pull: how far it is, and whether it is still wanted. A step of the executor.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::super::recorder::EventType;
use super::super::report::pull_told;
use super::super::values;
use super::{Executor, Step, StepError};
use crate::docker::engine::Engine;
use crate::model::{EVICT_ANNOTATION, Instance, Key, RECREATE_ANNOTATION, RESTART_ANNOTATION};
use crate::store::{StoreError, typed};

/// How often a pull tells how far it is, and looks whether it is still wanted.
const PULL_TICK: Duration = Duration::from_secs(2);
/// Between two words on one pull, for each pull that is being told of: ten writes a second, however many wait.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// A place among the pulls that are being told of, until dropped.
struct Told<'a>(&'a AtomicU32);

impl Told<'_> {
    fn enter(all: &AtomicU32) -> Told<'_> {
        all.fetch_add(1, Ordering::Relaxed);
        Told(all)
    }

    fn every(&self) -> Duration {
        TELL_EVERY * self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Executor<'_> {
    pub(super) async fn pull(
        &mut self,
        engine: &dyn Engine,
        image: &str,
        secret: Option<&Key>,
    ) -> Result<Step, StepError> {
        let login = match secret {
            None => None,
            Some(secret) => match self.there(values::open_login(&*self.ctx.opened, secret, image).await).await? {
                Some(login) => Some(login),
                None => return Ok(Step::LookAgain),
            },
        };
        self.event(EventType::Normal, "Pulling", format!("pulling image {image}"));
        let progress = Arc::new(Mutex::new(String::new()));
        let hear = {
            let progress = progress.clone();
            move |text: String| *progress.lock().unwrap_or_else(PoisonError::into_inner) = text
        };
        let began = self.ctx.clock.monotonic();
        let told = Told::enter(&self.ctx.pulling);
        let mut told_at = began;
        let pulling = engine.pull_with(image, login.as_ref(), &hear);
        tokio::pin!(pulling);
        loop {
            match tokio::time::timeout(PULL_TICK, &mut pulling).await {
                Ok(Ok(())) => break,
                Ok(Err(e)) => return Err(e.into()),
                Err(_) => {}
            }
            if !self.still_pulls().await? {
                return Ok(Step::LookAgain);
            }
            let now = self.ctx.clock.monotonic();
            if now - told_at < told.every() {
                continue;
            }
            told_at = now;
            let said = progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if !said.is_empty() {
                let status = pull_told(&self.instance, format!("pulling image {image}: {said}"), self.ctx.clock.now());
                match self.write_status(status).await {
                    // Somebody else has written: the next time tells it.
                    Ok(()) | Err(StoreError::Conflict { .. }) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        let took = self.ctx.clock.monotonic() - began;
        self.event(EventType::Normal, "Pulled", format!("pulled image {image} in {:.1} s", took.as_secs_f64()));
        Ok(Step::Next)
    }

    /// Whether the pull is still wanted. Most writes to a record (a label, a wish to wake, a touch of what keeps it in a
    /// repository) say nothing of that: a pull that each of them dropped might never end. Takes the record as it is now.
    async fn still_pulls(&mut self) -> Result<bool, StoreError> {
        let Some(now) = typed::get::<Instance>(&*self.ctx.store, &self.key).await? else { return Ok(false) };
        let asked = |i: &Instance| {
            let meta = &i.metadata;
            let marks =
                [RESTART_ANNOTATION, EVICT_ANNOTATION, RECREATE_ANNOTATION].map(|m| meta.annotations.get(m).cloned());
            (meta.uid.clone(), meta.generation, meta.deletion_timestamp, i.status.node.clone(), marks)
        };
        if asked(&now) != asked(&self.instance) {
            return Ok(false);
        }
        self.revision = typed::revision_of(&now).unwrap_or_default();
        self.instance = now;
        Ok(true)
    }
}
