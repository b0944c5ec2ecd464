//! A queue of changed keys that merges repeats: never longer than the number of distinct keys, never losing one.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::model::Key;

#[derive(Default)]
pub(super) struct Pending {
    queue: Mutex<Queue>,
    some: Notify,
}

#[derive(Default)]
struct Queue {
    /// In the order of their first change.
    order: VecDeque<Key>,
    members: HashSet<Key>,
}

impl Pending {
    pub fn add(&self, keys: impl IntoIterator<Item = Key>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        for key in keys {
            if queue.members.insert(key.clone()) {
                queue.order.push_back(key);
            }
        }
        if !queue.order.is_empty() {
            self.some.notify_one();
        }
    }

    fn take(&self) -> Option<Key> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let key = queue.order.pop_front()?;
        queue.members.remove(&key);
        Some(key)
    }
}

/// The keys of objects that changed, each once however often it changed. Dropping it ends the subscription.
pub struct Subscription {
    pending: Arc<Pending>,
}

impl Subscription {
    pub(super) fn new(pending: Arc<Pending>) -> Subscription {
        Subscription { pending }
    }

    /// The next changed key that is there already.
    pub fn try_next(&mut self) -> Option<Key> {
        self.pending.take()
    }

    /// The next changed key. A key that changes again after it was handed out comes again. Cancel safe.
    pub async fn next(&mut self) -> Key {
        loop {
            if let Some(key) = self.pending.take() {
                return key;
            }
            self.pending.some.notified().await;
        }
    }
}
