//! Holding requests for an instance that is not up, until it is.
//!
//! ```text
//! service ──enter──▶ Hold ──wake, at most once a second for all of them──▶ Waker
//!                     └──until_ready──▶ cache.observe ──▶ Outcome
//! ```
//!
//! Requests for one instance form a group: the first wakes it, all wait for the same word. A visitor who leaves drops
//! its hold and nothing else; the wake goes on. Waiting requests are bounded per instance and in all, so that a
//! sleeper nobody can wake costs a known amount of memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::target::{Decision, Refusal, decide};
use super::{Limits, Waker};
use crate::clock::SharedClock;
use crate::model::{Instance, Key};

/// How often, at most, the waker hears of one instance, and how often a waiting group repeats its wish: the controller may have restarted or missed it.
pub const WAKE_EVERY: Duration = Duration::from_secs(1);

/// How waiting ended.
#[derive(Debug)]
pub enum Outcome {
    /// It may be routed to.
    Ready(Arc<Instance>),
    TimedOut,
    /// It will not be ready; [`Refusal::Gone`] also when another instance has taken its name.
    Refused(Refusal),
    /// The server is going down.
    Closing,
}

/// As many requests wait as may.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

pub struct Holds {
    waker: Arc<dyn Waker>,
    clock: SharedClock,
    limits: Limits,
    closing: CancellationToken,
    groups: Mutex<Groups>,
}

#[derive(Default)]
struct Groups {
    by_key: HashMap<Key, Group>,
    total: usize,
}

struct Group {
    held: usize,
    /// When the waker was last called, on the monotonic clock.
    woken: Duration,
}

impl Holds {
    pub fn new(waker: Arc<dyn Waker>, clock: SharedClock, limits: Limits, closing: CancellationToken) -> Holds {
        Holds { waker, clock, limits, closing, groups: Mutex::default() }
    }

    /// Joins the instance's group; the first of a group wakes the instance.
    pub fn enter<'a>(&'a self, key: &'a Key) -> Result<Hold<'a>, Full> {
        let now = self.clock.monotonic();
        let begun = {
            let mut groups = self.groups();
            let Groups { by_key, total } = &mut *groups;
            if *total >= self.limits.held_in_all {
                return Err(Full);
            }
            let begun = match by_key.entry(key.clone()) {
                Entry::Occupied(group) if group.get().held >= self.limits.held_per_instance => return Err(Full),
                Entry::Occupied(mut group) => {
                    group.get_mut().held += 1;
                    false
                }
                Entry::Vacant(slot) => {
                    slot.insert(Group { held: 1, woken: now });
                    true
                }
            };
            *total += 1;
            begun
        };
        let hold = Hold { holds: self, key };
        if begun {
            self.waker.wake(key);
        }
        Ok(hold)
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request's place in its group, until dropped.
pub struct Hold<'a> {
    holds: &'a Holds,
    key: &'a Key,
}

impl Hold<'_> {
    /// Waits until the instance of this `uid` may be routed to at `port`, or `deadline` (monotonic) has passed.
    pub async fn until_ready(
        &self,
        instance: &mut watch::Receiver<Option<Arc<Instance>>>,
        uid: &str,
        port: &str,
        deadline: Duration,
    ) -> Outcome {
        loop {
            let seen = instance.borrow_and_update().clone();
            match seen.filter(|i| i.metadata.uid == uid) {
                None => return Outcome::Refused(Refusal::Gone),
                Some(found) => match decide(&found, port) {
                    Decision::Ready(_) => return Outcome::Ready(found),
                    Decision::Refuse(why) => return Outcome::Refused(why),
                    Decision::Wake => {}
                },
            }
            let left = deadline.saturating_sub(self.holds.clock.monotonic());
            if left.is_zero() {
                return Outcome::TimedOut;
            }
            self.wake_if_due();
            tokio::select! {
                biased;
                // Nobody would write the word that this waits for: the controllers go down as well.
                () = self.holds.closing.cancelled() => return Outcome::Closing,
                changed = instance.changed() => if changed.is_err() {
                    return Outcome::Closing;
                },
                () = tokio::time::sleep(left.min(WAKE_EVERY)) => {}
            }
        }
    }

    /// Wakes the instance again unless some member of the group did within the last second.
    pub fn wake_if_due(&self) {
        let now = self.holds.clock.monotonic();
        let due = match self.holds.groups().by_key.get_mut(self.key) {
            Some(group) if now.saturating_sub(group.woken) >= WAKE_EVERY => {
                group.woken = now;
                true
            }
            Some(_) | None => false,
        };
        if due {
            self.holds.waker.wake(self.key);
        }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut groups = self.holds.groups();
        groups.total -= 1;
        if let Some(group) = groups.by_key.get_mut(self.key) {
            group.held -= 1;
            if group.held == 0 {
                groups.by_key.remove(self.key);
            }
        }
    }
}
