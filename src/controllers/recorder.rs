//! Events: what happened to an object, for people. Repeats are counted in one Event; old ones are swept away.
//!
//! Recording never holds a reconcile up: an Event goes through a bounded channel to one task and is dropped, with a
//! count, when that is full. Events are no state that anything depends on. What happened in a namespace that is being
//! deleted, or gone, is not recorded: an Event would outlive it or hold up its end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::SignedDuration;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::SharedClock;
use crate::model::{
    Event, EventSource, Key, Kind, Namespace, ObjectMeta, ObjectReference, Resource, Time, namespace_use_mark,
};
use crate::store::{Op, Precondition, Record, Revision, SharedStore, StoreError, Txn, typed};

/// Events are kept this long after they last happened, as in Kubernetes.
const KEEP: SignedDuration = SignedDuration::from_hours(1);
const SWEEP_EVERY: Duration = Duration::from_secs(5 * 60);
/// Events deleted in one transaction.
const SWEPT_AT_ONCE: usize = 100;
/// How often an Event is written again because its Namespace was written meanwhile.
const ATTEMPTS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Normal,
    Warning,
}

struct Note {
    about: ObjectReference,
    namespace: String,
    type_: EventType,
    reason: String,
    message: String,
}

/// The sending side: cheap, never blocks.
pub struct Recorder {
    notes: mpsc::Sender<Note>,
    dropped: AtomicU64,
}

/// The receiving side, to be run once.
pub struct RecorderTask {
    notes: mpsc::Receiver<Note>,
    store: SharedStore,
    clock: SharedClock,
}

impl Recorder {
    pub fn new(store: SharedStore, clock: SharedClock) -> (Recorder, RecorderTask) {
        let (tx, rx) = mpsc::channel(1024);
        (Recorder { notes: tx, dropped: AtomicU64::new(0) }, RecorderTask { notes: rx, store, clock })
    }

    /// Tells what happened to an object.
    pub fn event(&self, key: &Key, uid: &str, type_: EventType, reason: &str, message: impl Into<String>) {
        // Events about cluster-scoped objects live in the namespace default, as in Kubernetes.
        let namespace = if key.namespace.is_empty() { "default".to_owned() } else { key.namespace.clone() };
        let mut message: String = message.into();
        if message.len() > 1024 {
            let end = (0..=1020).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
            message.truncate(end);
            message.push('…');
        }
        let note = Note { about: ObjectReference::of(key, uid), namespace, type_, reason: reason.into(), message };
        if self.notes.try_send(note).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events were dropped since start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl RecorderTask {
    /// Writes events until shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                note = self.notes.recv() => match note {
                    Some(note) => {
                        if let Err(e) = self.write(&note).await {
                            tracing::debug!(reason = %note.reason, error = %e, "an event was not recorded");
                        }
                    }
                    None => return,
                },
                _ = sweep.tick() => {
                    if let Err(e) = self.sweep().await {
                        tracing::debug!(error = %e, "old events were not swept");
                    }
                }
            }
        }
    }

    async fn write(&self, note: &Note) -> Result<(), StoreError> {
        let name = event_name(note);
        let key = Key::new(Kind::Event, &note.namespace, &name);
        let now = Time::from(self.clock.now());
        let Some(home) = self.open_namespace(&note.namespace).await? else { return Ok(()) };
        match typed::get::<Event>(&*self.store, &key).await? {
            Some(mut event) => {
                event.count += 1;
                event.last_timestamp = Some(now);
                typed::update(&*self.store, &event).await?;
            }
            None => {
                let event = Event {
                    api_version: Kind::Event.api_version(),
                    kind: Kind::Event.info().name.into(),
                    metadata: ObjectMeta {
                        name,
                        namespace: note.namespace.clone(),
                        uid: uid_of(&key),
                        creation_timestamp: Some(now),
                        ..Default::default()
                    },
                    involved_object: note.about.clone(),
                    reason: note.reason.clone(),
                    message: note.message.clone(),
                    type_: format!("{:?}", note.type_),
                    first_timestamp: Some(now),
                    last_timestamp: Some(now),
                    count: 1,
                    source: EventSource { component: "portreeve".into(), host: String::new() },
                    ..Event::default()
                };
                self.create(&event, home).await?;
            }
        }
        Ok(())
    }

    /// The record of a namespace that things may come into.
    async fn open_namespace(&self, name: &str) -> Result<Option<Record>, StoreError> {
        let found = self.store.get(&Key::new(Kind::Namespace, "", name).to_string()).await?;
        let Some(record) = found else { return Ok(None) };
        let ends = typed::decode::<Namespace>(&record)?.metadata.deletion_timestamp.is_some();
        Ok((!ends).then_some(record))
    }

    /// Stores a new Event in a namespace that stays open until it is in: the rules of `model::namespace`.
    async fn create(&self, event: &Event, mut home: Record) -> Result<(), StoreError> {
        let key = event.key().to_string();
        for _ in 0..ATTEMPTS {
            let open = Precondition::Unchanged { key: home.key.to_string(), modified: home.modified };
            let mark = Op::Put { key: namespace_use_mark(&event.metadata.namespace), value: key.clone().into() };
            let txn = Txn {
                when: vec![Precondition::Absent { key: key.clone() }, open],
                then: vec![Op::Put { key: key.clone(), value: typed::encode(event) }, mark],
            };
            match self.store.txn(txn).await {
                Err(StoreError::Conflict { key: by, .. }) if by != key => {}
                other => return other.map(drop),
            }
            match self.open_namespace(&event.metadata.namespace).await? {
                Some(now) => home = now,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    async fn sweep(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let events = typed::list::<Event>(&*self.store, None).await?;
        let over = |e: &&Event| e.last_heard(now).is_none_or(|heard| now.duration_since(heard) > KEEP);
        let old = events.items.iter().filter(|e| e.metadata.finalizers.is_empty()).filter(over);
        let old: Vec<(String, Revision)> =
            old.filter_map(|e| Some((e.key().to_string(), typed::revision_of(e)?))).collect();
        for some in old.chunks(SWEPT_AT_ONCE) {
            let when =
                some.iter().map(|(key, modified)| Precondition::Unchanged { key: key.clone(), modified: *modified });
            let then = some.iter().map(|(key, _)| Op::Delete { key: key.clone() });
            match self.store.txn(Txn { when: when.collect(), then: then.collect() }).await {
                // One of them has happened again: the next sweep takes the others.
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn digest(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
        hasher.update([0]);
    }
    hasher.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect()
}

/// The same event of the same object has the same name: that is how repeats find each other.
fn event_name(note: &Note) -> String {
    let hash = digest(&[&note.about.uid, &format!("{:?}", note.type_), &note.reason, &note.message]);
    let object: String = note.about.name.chars().take(46).collect();
    format!("{}-{}", object.trim_end_matches('-'), &hash[..16])
}

/// A stable id in the form of a UUID: events need one, and no randomness is needed for it.
fn uid_of(key: &Key) -> String {
    let h = digest(&[&key.to_string()]);
    format!("{}-{}-4{}-8{}-{}", &h[..8], &h[8..12], &h[13..16], &h[17..20], &h[20..32])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::clock::VirtualClock;
    use crate::store::{ListRequest, MemoryStore};

    #[tokio::test(start_paused = true)]
    async fn an_event_is_kept_for_an_hour_after_it_was_last_heard_of_however_that_is_told() {
        let (store, clock): (SharedStore, _) = (MemoryStore::new(), VirtualClock::new());
        let now = clock.now();
        let micro = |minutes: i64| format!("{}", now + SignedDuration::from_mins(minutes));
        let put = async |name: &str, fields: Value| {
            let mut event = json!({"metadata": {"name": name, "namespace": "n", "uid": name}});
            for (field, value) in fields.as_object().unwrap() {
                match field.strip_prefix("metadata.") {
                    Some(field) => event["metadata"][field] = value.clone(),
                    None => event[field] = value.clone(),
                }
            }
            let op = Op::Put { key: format!("events/n/{name}"), value: event.to_string().into() };
            store.txn(Txn { when: vec![], then: vec![op] }).await.unwrap();
        };
        put("coarse", json!({"lastTimestamp": micro(-30)})).await;
        put("newer", json!({"eventTime": micro(-30)})).await;
        put("series", json!({"eventTime": micro(-90), "series": {"count": 3, "lastObservedTime": micro(-30)}})).await;
        put("silent", json!({"metadata.creationTimestamp": micro(-30)})).await;
        put("old", json!({"eventTime": micro(-90), "metadata.creationTimestamp": micro(-61)})).await;
        put("future", json!({"lastTimestamp": micro(600), "metadata.creationTimestamp": micro(-61)})).await;
        put("held", json!({"lastTimestamp": micro(-90), "metadata.finalizers": ["example.com/x"]})).await;
        put("untold", json!({})).await;
        let names = async || {
            let all = store.list(ListRequest::default()).await.unwrap().records;
            all.iter().map(|record| record.key.trim_start_matches("events/n/").to_owned()).collect::<Vec<_>>()
        };
        let (_recorder, task) = Recorder::new(store.clone(), clock.clone());
        tokio::spawn(task.run(CancellationToken::new()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(names().await, ["coarse", "held", "newer", "series", "silent"]);
        tokio::time::sleep(Duration::from_secs(40 * 60)).await;
        assert_eq!(names().await, ["held"]);
    }
}
