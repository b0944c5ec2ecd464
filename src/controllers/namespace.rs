//! Namespaces that are being deleted: their contents are deleted, it is told what they wait for, and then they go.
//!
//! ```text
//! API marks Terminating ─▶ contents: deleted, or marked and left to their finalizers ─▶ empty ─▶ the record goes
//! ```
//!
//! Level-triggered: every step is found out from the store anew, so a crash between any two of them is made good by the
//! next look. Nothing comes into a namespace that is marked (see [`crate::model::namespace_use_mark`]), so what was
//! once seen empty stays so. Uses only the store, the cache's changes and the clock; run by [`super::run`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::model::{Condition, Key, Kind, NAMESPACE_FINALIZER, Namespace, Time, namespace_use_mark, set_condition};
use crate::runtime::{Error, Outcome, Queue, Runner};
use crate::store::removal::{Cascade, removal};
use crate::store::{ListRequest, Op, Precondition, Record, SharedStore, StoreError, Txn, typed};

/// Objects read, and deleted in one transaction, at a time.
const PAGE: usize = 50;
/// The most bytes of marked objects in one transaction, but for a single larger one; the store takes 4 MiB.
const MOST_BYTES: usize = 1 << 20;
/// How often a page is read again because one of its objects was written meanwhile.
const ATTEMPTS: usize = 16;
/// How soon a namespace that waits is looked at though nothing in it changed.
const RECHECK: Duration = Duration::from_secs(60);

/// Runs until shutdown.
pub async fn run(store: SharedStore, cache: Arc<Cache>, clock: SharedClock, shutdown: CancellationToken) {
    tokio::select! {
        () = shutdown.cancelled() => return,
        () = cache.ready() => {}
    }
    let queue = Arc::new(Queue::new(clock.clone()));
    let ending = Arc::new(Ending { store, clock, known: Mutex::default() });
    let reconcile = {
        let ending = ending.clone();
        move |key| {
            let ending = ending.clone();
            async move { ending.reconcile(&key).await }
        }
    };
    tokio::join!(Runner::new(queue.clone()).run(reconcile, shutdown.clone()), feed(&cache, &queue, &ending, shutdown));
}

/// Every change of a Namespace makes it ready, and so does every change in one that ends.
async fn feed(cache: &Cache, queue: &Queue<Key>, ending: &Ending, shutdown: CancellationToken) {
    let mut changes = cache.subscribe();
    loop {
        let key = tokio::select! {
            () = shutdown.cancelled() => return,
            key = changes.next() => key,
        };
        if key.kind == Kind::Namespace {
            queue.add(key);
        } else if ending.known().contains(&key.namespace) {
            queue.add(Key::new(Kind::Namespace, "", key.namespace));
        }
    }
}

struct Ending {
    store: SharedStore,
    clock: SharedClock,
    /// The namespaces that were seen to end: changes in others are nothing to us.
    known: Mutex<BTreeSet<String>>,
}

/// What is left in a namespace: objects by kind, and by the finalizer that holds them.
#[derive(Default)]
struct Left {
    kinds: BTreeMap<Kind, usize>,
    finalizers: BTreeMap<String, usize>,
}

impl Ending {
    fn known(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the end of a namespace as far as it can now be.
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let found = self.store.get(&key.to_string()).await.map_err(Error::retry)?;
        let namespace = found.as_ref().map(typed::decode::<Namespace>).transpose().map_err(Error::retry)?;
        let ends = namespace.as_ref().is_some_and(|n| n.metadata.deletion_timestamp.is_some());
        let (Some(record), Some(namespace), true) = (found, namespace, ends) else {
            self.known().remove(&key.name);
            return Ok(Outcome::Done);
        };
        // Before looking: what goes after it was looked at comes back as a change.
        self.known().insert(key.name.clone());
        let left = self.empty(&key.name).await.map_err(Error::retry)?;
        let written = if left.kinds.is_empty() {
            self.finish(key, &record, namespace).await
        } else {
            self.tell(key, &record, namespace, &left).await
        };
        match written {
            Ok(()) if left.kinds.is_empty() => Ok(Outcome::Done),
            Ok(()) => Ok(Outcome::Recheck(RECHECK)),
            // Someone else wrote the Namespace: decided anew on what it is now.
            Err(StoreError::Conflict { .. }) => Ok(Outcome::Recheck(Duration::ZERO)),
            Err(e) => Err(Error::retry(e)),
        }
    }

    /// Deletes everything in a namespace, or begins to; Instances first, as they take the longest.
    async fn empty(&self, namespace: &str) -> Result<Left, StoreError> {
        let mut left = Left::default();
        for kind in Kind::all().filter(|k| k.info().namespaced) {
            let mut after = None;
            loop {
                after = self.empty_page(kind, namespace, after, &mut left).await?;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(left)
    }

    /// Deletes a page of objects in one transaction. Returns where the next one begins, if there is one.
    async fn empty_page(
        &self,
        kind: Kind,
        namespace: &str,
        after: Option<String>,
        left: &mut Left,
    ) -> Result<Option<String>, StoreError> {
        let mut tries = 0;
        loop {
            let prefix = kind.prefix(Some(namespace));
            let request = ListRequest { prefix, after: after.clone(), limit: Some(PAGE), ..Default::default() };
            let page = self.store.list(request).await?;
            let now = Time::from(self.clock.now()).to_string();
            let (mut txn, mut held) = (Txn::default(), vec![]);
            let (mut bytes, mut last) = (0, None);
            for record in &page.records {
                let step = removal(record, &now, Some(Cascade::Background))?;
                if let Some(Op::Put { value, .. }) = &step.op {
                    bytes += value.len();
                    if bytes > MOST_BYTES && last.is_some() {
                        break;
                    }
                }
                last = Some(&record.key);
                if let Some(op) = step.op {
                    txn.when.push(unchanged(record));
                    txn.then.push(op);
                }
                if !step.finalizers.is_empty() {
                    held.push(step.finalizers);
                }
            }
            tries += 1;
            match if txn.then.is_empty() { Ok(page.revision) } else { self.store.txn(txn).await } {
                Err(StoreError::Conflict { .. }) if tries < ATTEMPTS => continue,
                Err(e) => return Err(e),
                Ok(_) => {}
            }
            if !held.is_empty() {
                *left.kinds.entry(kind).or_default() += held.len();
            }
            for finalizer in held.into_iter().flatten() {
                *left.finalizers.entry(finalizer).or_default() += 1;
            }
            let end = page.records.last().filter(|_| !page.more).map(|record| &record.key);
            return Ok(last.filter(|last| Some(*last) != end).map(ToString::to_string));
        }
    }

    /// Says in the status what the end waits for.
    async fn tell(&self, key: &Key, record: &Record, mut namespace: Namespace, left: &Left) -> Result<(), StoreError> {
        let kinds: Vec<String> =
            left.kinds.iter().map(|(kind, n)| format!("{} has {n} resource instances", resource(*kind))).collect();
        let why = format!("Some resources are remaining: {}", kinds.join(", "));
        self.condition(&mut namespace, "NamespaceContentRemaining", true, "SomeResourcesRemain", &why);
        let finalizers: Vec<String> =
            left.finalizers.iter().map(|(name, n)| format!("{name} in {n} resource instances")).collect();
        let why = format!("Some content in the namespace has finalizers remaining: {}", finalizers.join(", "));
        self.condition(&mut namespace, "NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", &why);
        typed::replace_status(&*self.store, key, record.modified, &namespace.status).await.map(drop)
    }

    /// Lets an empty namespace go, or, when others hold it, takes our own hold off it.
    async fn finish(&self, key: &Key, record: &Record, mut namespace: Namespace) -> Result<(), StoreError> {
        namespace.spec.finalizers.retain(|f| f != NAMESPACE_FINALIZER);
        if namespace.spec.finalizers.is_empty() && namespace.metadata.finalizers.is_empty() {
            let then = [key.to_string(), namespace_use_mark(&key.name)].map(|key| Op::Delete { key });
            self.store.txn(Txn { when: vec![unchanged(record)], then: then.to_vec() }).await?;
            tracing::info!(namespace = %key.name, "the namespace is empty and gone");
            return Ok(());
        }
        let why = "All content successfully removed";
        self.condition(&mut namespace, "NamespaceContentRemaining", false, "ContentRemoved", why);
        let why = "All content-preserving finalizers finished";
        self.condition(&mut namespace, "NamespaceFinalizersRemaining", false, "ContentHasNoFinalizers", why);
        let members = [("spec", json!(namespace.spec)), ("status", json!(namespace.status))];
        typed::replace_members(&*self.store, key, record.modified, &members).await.map(drop)
    }

    fn condition(&self, namespace: &mut Namespace, type_: &str, holds: bool, reason: &str, message: &str) {
        let new = Condition {
            type_: type_.into(),
            status: holds.into(),
            reason: reason.into(),
            message: message.into(),
            observed_generation: namespace.metadata.generation,
            last_transition_time: self.clock.now().into(),
        };
        set_condition(&mut namespace.status.conditions, new);
    }
}

/// `instances.portreeve.dev`, `secrets`
fn resource(kind: Kind) -> String {
    let info = kind.info();
    if info.group.is_empty() { info.plural.into() } else { format!("{}.{}", info.plural, info.group) }
}

fn unchanged(record: &Record) -> Precondition {
    Precondition::Unchanged { key: record.key.to_string(), modified: record.modified }
}
