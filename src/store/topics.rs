//! Who watches what: one topic for each watched prefix, so that a change wakes only those whose prefix it has.
//!
//! A change looks up the prefixes of its own key, once for each length in use; the number of watchers of other
//! prefixes does not matter. Sequence numbers are those of the [`super::log`]'s changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

#[derive(Default)]
pub(super) struct Topics {
    registry: Arc<Mutex<Registry>>,
}

#[derive(Default)]
struct Registry {
    by_prefix: HashMap<Arc<str>, Topic>,
    /// How many topics have a prefix of this length in bytes.
    lengths: BTreeMap<usize, usize>,
}

struct Topic {
    /// One more than the sequence number of the newest change with the prefix.
    head: watch::Sender<u64>,
    /// One more than the sequence number of the newest change with the prefix that the ring has forgotten.
    forgotten: Arc<AtomicU64>,
    subscribers: usize,
}

/// One watcher's place in a topic; the topic goes with its last one.
pub(super) struct Subscription {
    registry: Arc<Mutex<Registry>>,
    prefix: Arc<str>,
    head: watch::Receiver<u64>,
    forgotten: Arc<AtomicU64>,
}

impl Topics {
    /// Subscribes; `end` is the sequence number that the next change will have.
    pub fn subscribe(&self, prefix: &str, end: u64) -> Subscription {
        let mut registry = lock(&self.registry);
        if !registry.by_prefix.contains_key(prefix) {
            // A new topic knows nothing of the past: `end` makes every watcher look through what is there.
            let topic = Topic { head: watch::Sender::new(end), forgotten: Arc::default(), subscribers: 0 };
            registry.by_prefix.insert(prefix.into(), topic);
            *registry.lengths.entry(prefix.len()).or_default() += 1;
        }
        let (prefix, _) = registry.by_prefix.get_key_value(prefix).expect("it was just made");
        let prefix = prefix.clone();
        let topic = registry.by_prefix.get_mut(&prefix).expect("it was just made");
        topic.subscribers += 1;
        let (head, forgotten) = (topic.head.subscribe(), topic.forgotten.clone());
        Subscription { registry: self.registry.clone(), prefix, head, forgotten }
    }

    /// To be held while the ring changes.
    pub fn lock(&self) -> Wakes<'_> {
        Wakes { registry: lock(&self.registry), heads: HashMap::new() }
    }
}

/// The topics while the ring changes; wakes are collected, so that each watcher is woken once for a whole group.
pub(super) struct Wakes<'a> {
    registry: MutexGuard<'a, Registry>,
    heads: HashMap<Arc<str>, u64>,
}

impl Wakes<'_> {
    pub fn changed(&mut self, key: &str, seq: u64) {
        for (prefix, _) in self.registry.matching(key) {
            match self.heads.get_mut(prefix) {
                Some(head) => *head = seq + 1,
                None => {
                    self.heads.insert(prefix.clone(), seq + 1);
                }
            }
        }
    }

    pub fn forgotten(&self, key: &str, seq: u64) {
        for (_, topic) in self.registry.matching(key) {
            topic.forgotten.store(seq + 1, Ordering::Release);
        }
    }

    pub fn send(self) {
        for (prefix, head) in self.heads {
            if let Some(topic) = self.registry.by_prefix.get(&prefix) {
                topic.head.send_replace(head);
            }
        }
    }
}

impl Registry {
    fn matching<'a>(&'a self, key: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a Topic)> {
        let lengths = self.lengths.keys().take_while(|len| **len <= key.len());
        lengths.filter_map(|len| self.by_prefix.get_key_value(key.get(..*len)?))
    }
}

impl Subscription {
    /// One more than the newest sequence number that may concern this watcher; marks it as seen.
    pub fn head(&mut self) -> u64 {
        *self.head.borrow_and_update()
    }

    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Acquire)
    }

    /// Until the head moves past what [`Subscription::head`] last told. Cancel safe.
    pub async fn changed(&mut self) {
        if self.head.changed().await.is_err() {
            // Unreachable while this subscription keeps its topic; wait for ever rather than spin.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut registry = lock(&self.registry);
        let Some(topic) = registry.by_prefix.get_mut(&self.prefix) else { return };
        topic.subscribers -= 1;
        if topic.subscribers > 0 {
            return;
        }
        registry.by_prefix.remove(&self.prefix);
        if let Some(count) = registry.lengths.get_mut(&self.prefix.len()) {
            *count -= 1;
            if *count == 0 {
                registry.lengths.remove(&self.prefix.len());
            }
        }
    }
}

fn lock(registry: &Mutex<Registry>) -> MutexGuard<'_, Registry> {
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}
