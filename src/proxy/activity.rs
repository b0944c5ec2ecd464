//! When each instance was last used, and what is open to it right now.
//!
//! ```text
//! service, tunnel ──touch/open──▶ Activity ──idle/open_count──▶ instance controller (falls asleep, wakes)
//! ```
//!
//! Kept in memory: what the process before this one knew can be taken up ([`Activity::remember`]); of what is not known,
//! [`Activity::idle`] is `None`, and the controller gives grace. Times come from the monotonic clock, so a jump of the wall clock stops nobody.
//!
//! Invariants: a guard is counted until it is dropped, however its task ends; whoever sees the count fall to zero also
//! sees the time of that fall; there is one entry per key at most, gone with [`Activity::forget`].

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::access::Place;
use crate::clock::SharedClock;
use crate::model::Key;

/// Power of two. Enough that two cores hardly ever meet on one lock.
const SHARDS: usize = 16;

/// How long a tunnel's byte flow may go unrecorded: see [`OpenGuard::touch_if_due`]. A tenth of the shortest `freezeAfter`.
const TOUCH_EVERY: Duration = Duration::from_millis(100);

/// Added to the clock's time, so that uses from before this process began have a time as well.
const BASE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Last use and open requests per instance. Cheap to share; every method takes a short lock at most.
pub struct Activity {
    clock: SharedClock,
    hasher: RandomState,
    shards: [RwLock<HashMap<Key, Arc<Entry>>>; SHARDS],
    /// What is known from before this process began, until it is asked for.
    remembered: Mutex<HashMap<Key, Duration>>,
}

/// One key's record. Outlives [`Activity::forget`] only in the guards that still hold it.
#[derive(Default)]
struct Entry {
    /// Nanoseconds of the monotonic clock; zero: not known.
    last: AtomicU64,
    open: AtomicUsize,
    /// Of those, by [`Session`].
    sessions: [AtomicUsize; 3],
}

/// What is open to an instance past the proxy, by the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    Exec,
    Attach,
    /// One connection to a port.
    Forward,
}

impl Entry {
    fn touch(&self, now: Duration) {
        // The latest wins: a thread that was preempted with an older time must not turn the clock back.
        self.last.fetch_max(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
    }

    fn last(&self) -> Duration {
        Duration::from_nanos(self.last.load(Ordering::Acquire))
    }
}

impl Activity {
    pub fn new(clock: SharedClock) -> Arc<Activity> {
        let (shards, remembered) = Default::default();
        Arc::new(Activity { clock, hasher: RandomState::new(), shards, remembered })
    }

    fn now(&self) -> Duration {
        BASE + self.clock.monotonic()
    }

    /// For how long each instance has been without use, as [`Activity::idle`] has it.
    pub fn snapshot(&self) -> HashMap<Key, Duration> {
        let keys = self.shards.iter().flat_map(|shard| {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.keys().cloned().collect::<Vec<_>>()
        });
        let seen = keys.filter_map(|key| Some((key.clone(), self.idle(&key)?)));
        // What nobody has asked for yet is still what is known.
        let mut known = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.extend(seen);
        known
    }

    /// Takes up what another process knew: a snapshot of it. The time between the two does not count, as nobody could use
    /// anything then.
    pub fn remember(&self, before: HashMap<Key, Duration>) {
        *self.remembered.lock().unwrap_or_else(PoisonError::into_inner) = before;
    }

    /// What is remembered of an instance, once: later it is old. `counts`: as a use at that time. Whether there was any.
    pub fn recall(&self, key: &Key, counts: bool) -> bool {
        let before = self.remembered.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        if let Some(idle) = before.filter(|_| counts) {
            self.entry(key).touch(self.now().saturating_sub(idle));
        }
        before.is_some()
    }

    /// Records that the instance is used now.
    pub fn touch(&self, key: &Key) {
        self.entry(key).touch(self.now());
    }

    /// Records a use as of a time to come: until then it counts as used, and earlier uses do not shorten that.
    pub fn touch_ahead(&self, key: &Key, by: Duration) {
        self.entry(key).touch(self.now() + by);
    }

    /// Records a use of so long ago, which a later one outweighs.
    pub fn touch_back(&self, key: &Key, ago: Duration) {
        self.entry(key).touch(self.now().saturating_sub(ago));
    }

    /// Records a use that lasts until the guard is dropped: a request, or an upgraded connection.
    pub fn open(&self, key: &Key) -> OpenGuard {
        let entry = self.entry(key);
        entry.open.fetch_add(1, Ordering::AcqRel);
        entry.touch(self.now());
        OpenGuard { entry, clock: self.clock.clone(), place: None, session: None, counted: true }
    }

    /// The same for a session by the API.
    pub fn open_session(&self, key: &Key, session: Session) -> OpenGuard {
        let mut guard = self.open(key);
        guard.entry.sessions[session as usize].fetch_add(1, Ordering::AcqRel);
        guard.session = Some(session);
        guard
    }

    /// For a request that is no use: counted nowhere.
    pub fn pass(&self) -> OpenGuard {
        let entry = Arc::new(Entry::default());
        entry.open.fetch_add(1, Ordering::AcqRel);
        OpenGuard { entry, clock: self.clock.clone(), place: None, session: None, counted: true }
    }

    /// How long the instance has been without use: zero while something is open, `None` when it was never seen.
    pub fn idle(&self, key: &Key) -> Option<Duration> {
        let entry = self.known(key)?;
        // Count before time: a guard writes its time before it lets go of its count.
        if entry.open.load(Ordering::Acquire) > 0 {
            return Some(Duration::ZERO);
        }
        Some(entry.last()).filter(|last| !last.is_zero()).map(|last| self.now().saturating_sub(last))
    }

    /// How many requests and upgraded connections are open to the instance, held ones included.
    pub fn open_count(&self, key: &Key) -> usize {
        self.known(key).map_or(0, |e| e.open.load(Ordering::Acquire))
    }

    /// How many of them are sessions of this kind.
    pub fn session_count(&self, key: &Key, session: Session) -> usize {
        self.known(key).map_or(0, |e| e.sessions[session as usize].load(Ordering::Acquire))
    }

    /// Drops the record of a deleted instance. Guards still open end without effect on a successor of the same name.
    pub fn forget(&self, key: &Key) {
        self.shard(key).write().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Forgets the use of an instance that is sent to sleep, so that it sleeps on; not while something is open to it. A
    /// request that comes in this moment is held, and who is held repeats the wish.
    pub fn rest(&self, key: &Key) {
        // The entry stays: connections that count by what passes over them hold it.
        if let Some(entry) = self.known(key).filter(|entry| entry.open.load(Ordering::Acquire) == 0) {
            entry.last.store(0, Ordering::Release);
        }
    }

    fn shard(&self, key: &Key) -> &RwLock<HashMap<Key, Arc<Entry>>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    fn known(&self, key: &Key) -> Option<Arc<Entry>> {
        // No code that may panic runs under these locks; a poisoned one is as good as new.
        self.shard(key).read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn entry(&self, key: &Key) -> Arc<Entry> {
        self.known(key).unwrap_or_else(|| {
            let mut shard = self.shard(key).write().unwrap_or_else(PoisonError::into_inner);
            shard.entry(key.clone()).or_default().clone()
        })
    }
}

impl fmt::Debug for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Activity").finish_non_exhaustive()
    }
}

/// One open use of an instance. Dropping it counts as a use.
pub struct OpenGuard {
    entry: Arc<Entry>,
    clock: SharedClock,
    /// Among the open requests of its route, for as long.
    place: Option<Place>,
    session: Option<Session>,
    /// Among those that are open.
    counted: bool,
}

impl OpenGuard {
    /// Keeps a place for as long as the use lasts.
    pub fn keep(&mut self, place: Option<Place>) {
        self.place = place;
    }

    /// From now on it is no use for being open, nor is its end: only what is noted of it.
    pub fn count_by_touch(&mut self) {
        self.uncount();
    }

    fn uncount(&mut self) {
        if std::mem::take(&mut self.counted) {
            self.entry.touch(BASE + self.clock.monotonic());
            self.entry.open.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Records a use, unless one was recorded within the last tenth of a second: for calls as frequent as packets. Whether it did.
    pub fn touch_if_due(&self) -> bool {
        let due = self.is_touch_due();
        if due {
            self.entry.touch(BASE + self.clock.monotonic());
        }
        due
    }

    /// Whether that would record one.
    pub fn is_touch_due(&self) -> bool {
        (BASE + self.clock.monotonic()).saturating_sub(self.entry.last()) >= TOUCH_EVERY
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        if let Some(session) = self.session {
            self.entry.sessions[session as usize].fetch_sub(1, Ordering::AcqRel);
        }
        self.uncount();
    }
}

impl fmt::Debug for OpenGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenGuard").field("last", &self.entry.last()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::clock::VirtualClock;

    fn alice() -> Key {
        Key::instance("default", "alice")
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_never_seen_is_not_idle_but_unknown() {
        let activity = Activity::new(VirtualClock::new());
        assert_eq!((activity.idle(&alice()), activity.open_count(&alice())), (None, 0));
        activity.touch(&alice());
        advance(Duration::from_secs(3)).await;
        assert_eq!(activity.idle(&alice()), Some(Duration::from_secs(3)));
        activity.forget(&alice());
        assert_eq!(activity.idle(&alice()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_use_of_long_ago_does_not_hide_a_later_one() {
        let activity = Activity::new(VirtualClock::new());
        let ago = Duration::from_secs(300);
        activity.touch_back(&alice(), ago);
        assert_eq!(activity.idle(&alice()), Some(ago));
        activity.touch(&alice());
        activity.touch_back(&alice(), ago);
        assert_eq!(activity.idle(&alice()), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_process_knew_is_taken_up_once() {
        let before = Activity::new(VirtualClock::new());
        let bob = Key::instance("default", "bob");
        before.touch(&alice());
        advance(Duration::from_secs(1800)).await;
        let _open = before.open(&bob);
        let known = before.snapshot();
        assert_eq!(known, HashMap::from([(alice(), Duration::from_secs(1800)), (bob.clone(), Duration::ZERO)]));

        // Of longer ago than this process has been there.
        let after = Activity::new(VirtualClock::new());
        after.remember(known);
        assert_eq!(after.idle(&alice()), None, "nobody asked");
        assert!(after.recall(&alice(), true));
        assert_eq!(after.idle(&alice()), Some(Duration::from_secs(1800)));
        after.rest(&alice());
        assert!(!after.recall(&alice(), true), "it fell asleep since");
        after.forget(&bob);
        assert!(!after.recall(&bob, true), "it was deleted");

        let after = Activity::new(VirtualClock::new());
        after.remember(HashMap::from([(alice(), Duration::from_secs(1))]));
        assert!(after.recall(&alice(), false));
        assert_eq!((after.idle(&alice()), after.recall(&alice(), true)), (None, false), "a sleeper is not woken by it");
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_nobody_uses_is_laid_to_rest() {
        let activity = Activity::new(VirtualClock::new());
        activity.rest(&alice());
        let open = activity.open(&alice());
        activity.rest(&alice());
        assert_eq!((activity.idle(&alice()), activity.open_count(&alice())), (Some(Duration::ZERO), 1));
        drop(open);
        activity.rest(&alice());
        assert_eq!(activity.idle(&alice()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_open_is_in_use_and_its_end_is_a_use() {
        let activity = Activity::new(VirtualClock::new());
        let (one, two) = (activity.open(&alice()), activity.open(&alice()));
        advance(Duration::from_secs(3600)).await;
        assert_eq!((activity.open_count(&alice()), activity.idle(&alice())), (2, Some(Duration::ZERO)));
        drop(one);
        assert_eq!((activity.open_count(&alice()), activity.idle(&alice())), (1, Some(Duration::ZERO)));
        drop(two);
        advance(Duration::from_secs(5)).await;
        assert_eq!((activity.open_count(&alice()), activity.idle(&alice())), (0, Some(Duration::from_secs(5))));
    }

    #[tokio::test(start_paused = true)]
    async fn what_counts_by_what_passes_is_no_use_for_being_open() {
        let activity = Activity::new(VirtualClock::new());
        let mut tunnel = activity.open(&alice());
        advance(Duration::from_secs(5)).await;
        tunnel.count_by_touch();
        advance(Duration::from_secs(60)).await;
        assert_eq!((activity.open_count(&alice()), activity.idle(&alice())), (0, Some(Duration::from_secs(60))));
        assert!(tunnel.touch_if_due());
        advance(Duration::from_secs(7)).await;
        assert_eq!(activity.idle(&alice()), Some(Duration::from_secs(7)));

        activity.rest(&alice());
        assert_eq!(activity.idle(&alice()), None);
        assert!(tunnel.touch_if_due(), "it is the same connection still");
        assert_eq!(activity.idle(&alice()), Some(Duration::ZERO));

        advance(Duration::from_secs(7)).await;
        drop(tunnel);
        assert_eq!((activity.open_count(&alice()), activity.idle(&alice())), (0, Some(Duration::from_secs(7))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_by_the_api_is_open_like_a_request_and_counted_by_its_kind() {
        let activity = Activity::new(VirtualClock::new());
        let (request, exec) = (activity.open(&alice()), activity.open_session(&alice(), Session::Exec));
        let forward = activity.open_session(&alice(), Session::Forward);
        let counts = || {
            let of = |session| activity.session_count(&alice(), session);
            (activity.open_count(&alice()), of(Session::Exec), of(Session::Attach), of(Session::Forward))
        };
        assert_eq!(counts(), (3, 1, 0, 1));
        drop((request, forward));
        assert_eq!(counts(), (1, 1, 0, 0));
        advance(Duration::from_secs(3600)).await;
        assert_eq!(activity.idle(&alice()), Some(Duration::ZERO));
        drop(exec);
        assert_eq!(counts(), (0, 0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_aborted_task_closes_what_it_had_open() {
        let activity = Activity::new(VirtualClock::new());
        let guard = activity.open(&alice());
        let task = tokio::spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        assert_eq!(activity.open_count(&alice()), 1);
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        assert_eq!(activity.open_count(&alice()), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_of_a_forgotten_instance_does_not_count_for_its_successor() {
        let activity = Activity::new(VirtualClock::new());
        let old = activity.open(&alice());
        activity.forget(&alice());
        let new = activity.open(&alice());
        drop(old);
        assert_eq!(activity.open_count(&alice()), 1);
        drop(new);
        assert_eq!(activity.open_count(&alice()), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn frequent_touches_are_recorded_ten_times_a_second() {
        let activity = Activity::new(VirtualClock::new());
        let guard = activity.open(&alice());
        let last = || activity.known(&alice()).unwrap().last();
        let begun = last();
        advance(Duration::from_millis(99)).await;
        guard.touch_if_due();
        assert_eq!(last(), begun);
        advance(Duration::from_millis(1)).await;
        guard.touch_if_due();
        assert_eq!(last(), begun + Duration::from_millis(100));
    }

    #[test]
    fn counts_stay_exact_under_contention() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _inside = runtime.enter();
        let activity = Activity::new(VirtualClock::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for i in 0..1000 {
                        let key = Key::instance("default", format!("i{}", i % 7));
                        drop(activity.open(&key));
                    }
                });
            }
        });
        for i in 0..7 {
            assert_eq!(activity.open_count(&Key::instance("default", format!("i{i}"))), 0);
        }
    }
}
