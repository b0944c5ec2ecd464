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

use super::stats::{End, Stats};
use super::target::{Decision, Refusal, decide};
use super::{Limits, Waker};
use crate::clock::SharedClock;
use crate::model::{Instance, Key, Phase};

/// How often, at most, the waker hears of one instance; and how often a waiting group repeats its wish, which the
/// controller may have missed.
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
    stats: Stats,
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
    pub fn new(
        waker: Arc<dyn Waker>,
        clock: SharedClock,
        limits: Limits,
        closing: CancellationToken,
        stats: Stats,
    ) -> Holds {
        Holds { waker, clock, limits, closing, stats, groups: Mutex::default() }
    }

    /// Joins the instance's group; the first of a group wakes the instance.
    pub fn enter(self: &Arc<Self>, key: &Key) -> Result<Hold, Full> {
        let begun = self.place(key).inspect_err(|Full| self.stats.ended(End::Full, Duration::ZERO))?;
        self.stats.hold();
        let hold = Hold { holds: self.clone(), key: key.clone() };
        if begun {
            self.waker.wake(key);
        }
        Ok(hold)
    }

    /// Takes a place; whether it is the first of its group.
    fn place(&self, key: &Key) -> Result<bool, Full> {
        let now = self.clock.monotonic();
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
        Ok(begun)
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request's place in its group, until dropped.
pub struct Hold {
    holds: Arc<Holds>,
    key: Key,
}

impl Hold {
    /// Waits until the instance of this `uid` may be routed to at `port`, or `deadline` (monotonic) has passed, which
    /// counts as `late`. While its image is pulled, the deadline moves on.
    pub async fn until_ready(
        &self,
        instance: &mut watch::Receiver<Option<Arc<Instance>>>,
        uid: &str,
        port: &str,
        deadline: &mut Duration,
        late: End,
    ) -> Outcome {
        let begun = self.holds.clock.monotonic();
        // Whoever is shown a page sees the pull there.
        let outcome = self.wait(instance, uid, port, deadline, late == End::Page).await;
        let end = match &outcome {
            Outcome::Ready(_) => End::Ready,
            Outcome::TimedOut => late,
            Outcome::Refused(_) => End::Refused,
            Outcome::Closing => End::Closing,
        };
        self.holds.stats.ended(end, self.holds.clock.monotonic().saturating_sub(begun));
        outcome
    }

    async fn wait(
        &self,
        instance: &mut watch::Receiver<Option<Arc<Instance>>>,
        uid: &str,
        port: &str,
        deadline: &mut Duration,
        pulls_count: bool,
    ) -> Outcome {
        let begun = self.holds.clock.monotonic();
        let (mut looked, mut pulling) = (begun, false);
        loop {
            let seen = instance.borrow_and_update().clone();
            let now = self.holds.clock.monotonic();
            if pulling && !pulls_count {
                // How long an image takes says nothing of how long its app does.
                let pulled = now.saturating_sub(looked);
                *deadline = (*deadline + pulled).min(begun + self.holds.limits.hold_pulling);
            }
            (looked, pulling) = (now, seen.as_ref().is_some_and(|i| i.status.phase == Phase::Pulling));
            match seen.filter(|i| i.metadata.uid == uid) {
                None => return Outcome::Refused(Refusal::Gone),
                Some(found) => match decide(&found, port) {
                    Decision::Ready(_) | Decision::Unsure(_) => return Outcome::Ready(found),
                    Decision::Refuse(why) => return Outcome::Refused(why),
                    Decision::Wake => {}
                },
            }
            let left = deadline.saturating_sub(now);
            if left.is_zero() {
                return Outcome::TimedOut;
            }
            tokio::select! {
                news = self.news(instance) => if news.is_none() {
                    return Outcome::Closing;
                },
                // While the deadline moves there is nothing to wake up for.
                () = tokio::time::sleep(if pulling { left.max(WAKE_EVERY) } else { left }) => {}
            }
        }
    }

    /// Waits for a change of the instance, or for a while, and says meanwhile that it is wanted. `None` when the server is
    /// going down.
    pub async fn news(&self, instance: &mut watch::Receiver<Option<Arc<Instance>>>) -> Option<()> {
        self.wake_if_due();
        tokio::select! {
            biased;
            // Nobody would write the word that this waits for: the controllers go down as well.
            () = self.holds.closing.cancelled() => None,
            changed = instance.changed() => changed.ok(),
            () = tokio::time::sleep(WAKE_EVERY) => Some(()),
        }
    }

    /// Wakes the instance again unless some member of the group did within the last second.
    pub fn wake_if_due(&self) {
        let now = self.holds.clock.monotonic();
        let due = match self.holds.groups().by_key.get_mut(&self.key) {
            Some(group) if now.saturating_sub(group.woken) >= WAKE_EVERY => {
                group.woken = now;
                true
            }
            Some(_) | None => false,
        };
        if due {
            self.holds.waker.wake(&self.key);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.stats.release();
        let mut groups = self.holds.groups();
        groups.total -= 1;
        if let Some(group) = groups.by_key.get_mut(&self.key) {
            group.held -= 1;
            if group.held == 0 {
                groups.by_key.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::advance;

    use super::*;
    use crate::clock::VirtualClock;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Waker for Count {
        fn wake(&self, _: &Key) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn holds(limits: Limits) -> (Arc<Holds>, Arc<Count>, SharedClock) {
        let (count, clock) = (Arc::<Count>::default(), VirtualClock::new());
        let stats = Stats::default();
        let holds = Holds::new(count.clone(), clock.clone(), limits, CancellationToken::new(), stats);
        (Arc::new(holds), count, clock)
    }

    fn asleep() -> Option<Arc<Instance>> {
        let mut inst = Instance::default();
        inst.metadata.uid = "u".into();
        inst.status.phase = Phase::Asleep;
        Some(Arc::new(inst))
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_wakes_once_a_second_however_many_wait_and_ends_at_its_deadline() {
        let (holds, count, clock) = holds(Limits::default());
        let (_sender, receiver) = watch::channel(asleep());
        let key = Key::instance("default", "alice");
        let deadline = Duration::from_millis(5500);
        let one = async || {
            let hold = holds.enter(&key).unwrap();
            let outcome =
                hold.until_ready(&mut receiver.clone(), "u", "web", &mut deadline.clone(), End::TimedOut).await;
            assert!(matches!(outcome, Outcome::TimedOut), "{outcome:?}");
            assert_eq!(clock.monotonic(), deadline);
        };
        futures::future::join_all((0..50).map(|_| one())).await;
        assert_eq!(count.0.load(Ordering::SeqCst), 6, "one to begin with, then one for each of five seconds");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_a_pull_does_not_count_up_to_a_bound_and_for_a_page_it_does() {
        const MINUTE: Duration = Duration::from_secs(60);
        let in_phase = |phase: Phase| {
            let mut inst = Instance { ..(*asleep().unwrap()).clone() };
            inst.status.phase = phase;
            Some(Arc::new(inst))
        };
        // Pulls for so long, and then starts for good.
        for (pull, late, ends) in [
            (3 * MINUTE, End::TimedOut, 4 * MINUTE),
            (Duration::from_secs(59), End::TimedOut, 2 * MINUTE - Duration::from_secs(1)),
            (20 * MINUTE, End::TimedOut, 10 * MINUTE),
            (3 * MINUTE, End::Page, MINUTE),
        ] {
            let (holds, _, clock) = holds(Limits::default());
            let (sender, mut receiver) = watch::channel(in_phase(Phase::Pulling));
            let key = Key::instance("default", "alice");
            let hold = holds.enter(&key).unwrap();
            let changes = async {
                tokio::time::sleep(pull).await;
                sender.send_replace(in_phase(Phase::Starting));
                std::future::pending::<()>().await;
            };
            let mut deadline = MINUTE;
            let outcome = tokio::select! {
                outcome = hold.until_ready(&mut receiver, "u", "web", &mut deadline, late) => outcome,
                () = changes => unreachable!(),
            };
            assert!(matches!(outcome, Outcome::TimedOut), "{outcome:?}");
            assert_eq!(clock.monotonic(), ends, "{pull:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeat_is_not_sent_by_every_member_but_is_sent_by_a_later_group() {
        let (holds, count, _clock) = holds(Limits::default());
        let key = Key::instance("default", "alice");
        let (a, b) = (holds.enter(&key).unwrap(), holds.enter(&key).unwrap());
        advance(WAKE_EVERY).await;
        a.wake_if_due();
        b.wake_if_due();
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
        drop((a, b));
        let _c = holds.enter(&key).unwrap();
        assert_eq!(count.0.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_counted_per_instance_and_in_all_and_come_back() {
        let (holds, _, _) = holds(Limits { held_per_instance: 1, held_in_all: 2, ..Default::default() });
        let [a, b, c] = ["a", "b", "c"].map(|name| Key::instance("default", name));
        let on_a = holds.enter(&a).ok().unwrap();
        assert_eq!(holds.enter(&a).err(), Some(Full));
        let _on_b = holds.enter(&b).ok().unwrap();
        assert_eq!(holds.enter(&c).err(), Some(Full));
        drop(on_a);
        let _on_c = holds.enter(&c).ok().unwrap();
        assert_eq!(holds.enter(&a).err(), Some(Full));
        assert_eq!(holds.groups().by_key.len(), 2, "an empty group leaves nothing behind");
    }
}
