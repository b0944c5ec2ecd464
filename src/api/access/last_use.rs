//! When access tokens were last used, written into their records beside the requests that use them.
//!
//! ```text
//! tokens::find ──▶ LastUses::note ──▶ a task ──▶ store       the request goes on at once, whatever becomes of the task
//! ```
//!
//! Invariants: of one token at most one write is under way, of all together `MOST`, and none for longer than `TIME`. A use
//! that finds no place is not written down; the next one is.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::super::object;
use super::tokens::status;
use crate::model::{AccessToken, Key, Kind};
use crate::store::{Op, Precondition, Record, SharedStore, Store, StoreError, Txn};

/// How often it is written down that a token is used: a write per request would wear the disk for nothing.
const EVERY: SignedDuration = SignedDuration::from_hours(1);
/// Writes under way at a time: a store that is slow is not to be given ever more of them.
const MOST: usize = 16;
/// How long one write may take.
const TIME: Duration = Duration::from_secs(10);

/// The tokens whose use is being written down. Cheap to clone.
#[derive(Clone, Default)]
pub struct LastUses(Arc<Mutex<HashSet<Key>>>);

/// A token's place among them, until dropped.
struct Place {
    key: Key,
    all: LastUses,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.lock().remove(&self.key);
    }
}

impl LastUses {
    /// Writes down that a token is used, if that was not done within the hour. `record`: as it was read for the request;
    /// of several requests that come at once, one writes. What goes wrong is told in the log only.
    pub fn note(&self, store: &SharedStore, key: &Key, record: Record, token: &AccessToken, now: Timestamp) {
        if !is_due(token, now) {
            return;
        }
        let (store, of) = (store.clone(), key.clone());
        self.beside(key, async move { write(&*store, &of, &record, now).await });
    }

    /// Does the work in a task, if there is a place.
    fn beside(&self, key: &Key, work: impl Future<Output = Result<(), String>> + Send + 'static) {
        let Some(place) = self.take(key) else { return };
        tokio::spawn(async move {
            let done = tokio::time::timeout(TIME, work).await;
            let done = done.unwrap_or_else(|_| Err(format!("the store did not answer within {} s", TIME.as_secs())));
            if let Err(error) = done {
                tracing::warn!(key = %place.key, error, "the use of an access token could not be written down");
            }
            drop(place);
        });
    }

    fn take(&self, key: &Key) -> Option<Place> {
        let mut all = self.lock();
        let has_place = all.len() < MOST && all.insert(key.clone());
        has_place.then(|| Place { key: key.clone(), all: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_due(token: &AccessToken, now: Timestamp) -> bool {
    // The wall clock may jump, also back.
    token.status.last_used.is_none_or(|last| now.duration_since(last.timestamp()).abs() >= EVERY)
}

async fn write(store: &dyn Store, key: &Key, record: &Record, now: Timestamp) -> Result<(), String> {
    let mut object = object::decode(Kind::AccessToken, record).map_err(|e| e.to_string())?;
    status(&mut object)["lastUsed"] = object::time(now);
    let value = object::encode(&object).map_err(|e| e.to_string())?;
    let txn = Txn {
        when: vec![Precondition::Unchanged { key: key.to_string(), modified: record.modified }],
        then: vec![Op::Put { key: key.to_string(), value }],
    };
    match store.txn(txn).await {
        // Somebody else has written: the next use is told, or this one is already.
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_use_is_written_down_again_after_an_hour_and_when_the_clock_was_set_back() {
        let at = |minutes: i64| Timestamp::from_second(1_767_225_600 + minutes * 60).expect("a time");
        let mut token = AccessToken::default();
        assert!(is_due(&token, at(0)));
        token.status.last_used = Some(at(0).into());
        for (minutes, due) in [(0, false), (59, false), (60, true), (-59, false), (-60, true)] {
            assert_eq!(is_due(&token, at(minutes)), due, "{minutes} minutes later");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn writes_that_hang_are_few_and_are_given_up() {
        let (uses, begun) = (LastUses::default(), Arc::new(AtomicUsize::new(0)));
        let hang = |name: &str| {
            let begun = begun.clone();
            uses.beside(&Key::new(Kind::AccessToken, "", name), async move {
                begun.fetch_add(1, Ordering::Relaxed);
                std::future::pending().await
            });
        };
        // In virtual time: until every task waits.
        let settled = || tokio::time::sleep(Duration::from_millis(1));
        for name in ["a", "a", "b", "a"] {
            hang(name);
            settled().await;
        }
        assert_eq!(begun.load(Ordering::Relaxed), 2, "one of each token");
        for n in 0..2 * MOST {
            hang(&format!("c{n}"));
        }
        settled().await;
        assert_eq!(begun.load(Ordering::Relaxed), MOST, "and so many in all");
        tokio::time::sleep(TIME).await;
        assert!(uses.lock().is_empty(), "they were given up");
        hang("a");
        settled().await;
        assert_eq!(begun.load(Ordering::Relaxed), MOST + 1);
    }
}
