//! Dependents of what is gone: `metadata.ownerReferences`, as Kubernetes' garbage collector has it.
//!
//! ```text
//! owner is gone ──────────▶ dependents: one that has no other owner is deleted, else only forgets this one
//! owner, foregroundDeletion ▶ the same, and it waits for those that block it ─▶ it goes
//! owner, orphan ──────────▶ dependents forget it ─▶ it goes
//! ```
//!
//! Level-triggered: every step is decided on what the store has now, so a crash between any two of them is made good by
//! the next look. An owner is gone when no object of its key has the uid that is named; a uid never comes back, so that
//! stays true. Of an owner that is of no kind that is stored here nothing can be known: it counts as there.
//!
//! Only what is in a namespace is collected: nobody's Namespace or DockerHost goes because of a reference. Events are
//! not looked at. Uses only the store, the cache and the clock; run by [`super::run`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::recorder::{EventType, Recorder};
use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::model::{Key, ObjectMeta, OwnerReference, Time};
use crate::runtime::{Error, Outcome, Queue, Runner};
use crate::store::removal::{Cascade, FOREGROUND_FINALIZER, ORPHAN_FINALIZER, removal};
use crate::store::{Precondition, Record, SharedStore, StoreError, Txn, typed};

/// Runs until shutdown.
pub async fn run(
    store: SharedStore,
    cache: Arc<Cache>,
    clock: SharedClock,
    recorder: Arc<Recorder>,
    shutdown: CancellationToken,
) {
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = cache.ready() => {}
    }
    let queue = Arc::new(Queue::new(clock.clone()));
    let collector = Arc::new(Collector { store, cache: cache.clone(), clock, recorder });
    let reconcile = move |key| {
        let collector = collector.clone();
        async move { collector.reconcile(&key).await }
    };
    tokio::join!(Runner::new(queue.clone()).run(reconcile, shutdown.clone()), feed(&cache, &queue, shutdown));
}

/// A change makes ready the object itself, those that name it, and those that it names or named and that wait for it.
async fn feed(cache: &Cache, queue: &Queue<Key>, shutdown: CancellationToken) {
    let mut changes = cache.subscribe();
    // Of what is gone the cache no longer tells whom it named.
    let mut named: BTreeMap<Key, BTreeSet<Key>> = BTreeMap::new();
    loop {
        let key = tokio::select! {
            () = shutdown.cancelled() => return,
            key = changes.next() => key,
        };
        let owners = cache.owners(&key);
        let before = named.remove(&key).unwrap_or_default();
        for owner in owners.union(&before).filter(|owner| cache.waits_for_dependents(owner)) {
            queue.add(owner.clone());
        }
        for dependent in cache.dependents(&key) {
            queue.add(dependent);
        }
        if !owners.is_empty() || cache.waits_for_dependents(&key) {
            queue.add(key.clone());
        }
        if !owners.is_empty() {
            named.insert(key, owners);
        }
    }
}

struct Collector {
    store: SharedStore,
    cache: Arc<Cache>,
    clock: SharedClock,
    recorder: Arc<Recorder>,
}

/// How an owner stands to a dependent of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is there, as far as can be known.
    There,
    /// It is being deleted, and its dependents before it.
    Waits,
    Gone,
}

/// What becomes of a dependent.
#[derive(Debug, PartialEq)]
enum Verdict {
    Stays,
    /// It has these owners left.
    Keeps(Vec<OwnerReference>),
    /// Nobody has it any more. `foreground`: somebody waits for it to be gone, and all that it has.
    Goes {
        foreground: bool,
    },
}

/// Decides on the owners that an object names.
fn judge(owners: &[(OwnerReference, Standing)]) -> Verdict {
    let has = |wanted| owners.iter().any(|(_, standing)| *standing == wanted);
    match (has(Standing::There), has(Standing::Waits) || has(Standing::Gone)) {
        (_, false) => Verdict::Stays,
        (true, true) => {
            let there = owners.iter().filter(|(_, standing)| *standing == Standing::There);
            Verdict::Keeps(there.map(|(owner, _)| owner.clone()).collect())
        }
        (false, true) => Verdict::Goes { foreground: has(Standing::Waits) },
    }
}

impl Collector {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        match self.look(key).await {
            Ok(()) => Ok(Outcome::Done),
            // Someone else wrote it: decided anew on what it is now.
            Err(StoreError::Conflict { .. }) => Ok(Outcome::Recheck(Duration::ZERO)),
            Err(e) => Err(Error::retry(e)),
        }
    }

    async fn look(&self, key: &Key) -> Result<(), StoreError> {
        let Some(record) = self.store.get(&key.to_string()).await? else { return Ok(()) };
        let meta = typed::metadata(&record)?;
        if meta.deletion_timestamp.is_none() {
            return self.collect(key, &record, &meta).await;
        }
        let held = [ORPHAN_FINALIZER, FOREGROUND_FINALIZER].into_iter().find(|f| meta.is_held_by(f));
        let Some(held) = held else { return Ok(()) };
        // Everybody who named it when it was marked is known then.
        self.cache.wait_for(record.modified).await;
        if held == ORPHAN_FINALIZER {
            self.set_free(key, &meta).await?;
        } else if self.is_blocked(key, &meta).await? {
            return Ok(());
        }
        let rest: Vec<String> = meta.finalizers.iter().filter(|f| *f != held).cloned().collect();
        typed::replace_finalizers(&*self.store, key, record.modified, &rest).await?;
        tracing::info!(%key, finalizer = held, "its dependents keep it no longer");
        Ok(())
    }

    /// Deletes an object whose owners are gone, or takes those off it.
    async fn collect(&self, key: &Key, record: &Record, meta: &ObjectMeta) -> Result<(), StoreError> {
        if key.namespace.is_empty() {
            return Ok(());
        }
        let mut owners = Vec::with_capacity(meta.owner_references.len());
        for owner in &meta.owner_references {
            owners.push((owner.clone(), self.standing(key, owner).await?));
        }
        let foreground = match judge(&owners) {
            Verdict::Stays => return Ok(()),
            Verdict::Keeps(left) => {
                typed::replace_owners(&*self.store, record, &left).await?;
                tracing::info!(%key, left = left.len(), "owners that are gone were taken off it");
                return Ok(());
            }
            // Where its own dependents wait already, it must not wait for them: they may wait for it.
            Verdict::Goes { foreground } => {
                let dependents = self.cache.dependents(key);
                foreground && !dependents.is_empty() && !dependents.iter().any(|d| self.cache.waits_for_dependents(d))
            }
        };
        let now = Time::from(self.clock.now()).to_string();
        let step = removal(record, &now, foreground.then_some(Cascade::Foreground))?;
        let unchanged = Precondition::Unchanged { key: record.key.to_string(), modified: record.modified };
        self.store.txn(Txn { when: vec![unchanged], then: step.op.into_iter().collect() }).await?;
        let names: Vec<String> = owners.iter().map(|(owner, _)| format!("{} {}", owner.kind, owner.name)).collect();
        let why = format!("deleted, because all of its owners are gone or go: {}", names.join(", "));
        tracing::info!(%key, owners = ?names, "deleted, because all of its owners are gone or go");
        self.recorder.event(key, &meta.uid, EventType::Normal, "OwnerGone", why);
        Ok(())
    }

    async fn standing(&self, dependent: &Key, owner: &OwnerReference) -> Result<Standing, StoreError> {
        let Some(key) = owner.key(dependent) else { return Ok(Standing::There) };
        let found = self.store.get(&key.to_string()).await?;
        let found = found.as_ref().map(typed::metadata).transpose()?.filter(|found| found.uid == owner.uid);
        Ok(match found {
            None => Standing::Gone,
            Some(meta) if meta.is_held_by(FOREGROUND_FINALIZER) => Standing::Waits,
            Some(_) => Standing::There,
        })
    }

    /// The records of those that name this owner, with what they name.
    async fn dependents(
        &self,
        key: &Key,
        owner: &ObjectMeta,
    ) -> Result<Vec<(Record, Vec<OwnerReference>)>, StoreError> {
        let mut found = vec![];
        for dependent in self.cache.dependents(key) {
            let Some(record) = self.store.get(&dependent.to_string()).await? else { continue };
            let owners = typed::metadata(&record)?.owner_references;
            if owners.iter().any(|o| o.uid == owner.uid) {
                found.push((record, owners));
            }
        }
        Ok(found)
    }

    /// Takes an owner off all that name it.
    async fn set_free(&self, key: &Key, owner: &ObjectMeta) -> Result<(), StoreError> {
        for (record, mut owners) in self.dependents(key, owner).await? {
            owners.retain(|o| o.uid != owner.uid);
            typed::replace_owners(&*self.store, &record, &owners).await?;
        }
        Ok(())
    }

    /// Whether a dependent keeps an owner that is deleted in the foreground. Each is deleted by its own reconcile, and its
    /// end makes the owner ready again. One that is never collected keeps nobody.
    async fn is_blocked(&self, key: &Key, owner: &ObjectMeta) -> Result<bool, StoreError> {
        let blocks = |o: &OwnerReference| o.uid == owner.uid && o.block_owner_deletion == Some(true);
        let collected = |record: &Record| record.key.parse::<Key>().is_ok_and(|key| !key.namespace.is_empty());
        let dependents = self.dependents(key, owner).await?;
        Ok(dependents.iter().any(|(record, owners)| collected(record) && owners.iter().any(blocks)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> OwnerReference {
        OwnerReference { name: name.into(), uid: format!("uid-{name}"), ..Default::default() }
    }

    #[test]
    fn a_dependent_goes_when_none_of_its_owners_is_there() {
        use Standing::{Gone, There, Waits};
        let judged = |standings: &[Standing]| {
            let owners: Vec<_> = standings.iter().zip(["a", "b", "c"]).map(|(s, name)| (owner(name), *s)).collect();
            judge(&owners)
        };
        assert_eq!(judged(&[]), Verdict::Stays, "it never had one");
        assert_eq!(judged(&[There, There]), Verdict::Stays);
        assert_eq!(judged(&[Gone]), Verdict::Goes { foreground: false });
        assert_eq!(judged(&[Gone, Waits]), Verdict::Goes { foreground: true });
        assert_eq!(judged(&[Gone, There, Waits]), Verdict::Keeps(vec![owner("b")]));
        assert_eq!(judged(&[There, Gone, There]), Verdict::Keeps(vec![owner("a"), owner("c")]));
    }
}
