//! The work queue: keys, deduplicated, some of them for later.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::SharedClock;

/// Invariants: a key is ready at most once; a key handed out is not handed out again until [`Queue::done`]; of several
/// delays for one key the earliest counts. Memory is bounded by the number of distinct keys.
pub struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    clock: SharedClock,
}

struct State<K> {
    ready: VecDeque<K>,
    is_ready: HashSet<K>,
    /// Handed out and not yet done.
    running: HashSet<K>,
    /// Added while running: ready again once done.
    again: HashSet<K>,
    delayed: BTreeSet<(Duration, K)>,
    due: HashMap<K, Duration>,
    /// Not before this time, whatever hints come: a failure's back-off.
    held: HashMap<K, Duration>,
}

impl<K: Clone + Eq + Hash + Ord> Queue<K> {
    pub fn new(clock: SharedClock) -> Queue<K> {
        let state = State {
            ready: VecDeque::new(),
            is_ready: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            delayed: BTreeSet::new(),
            due: HashMap::new(),
            held: HashMap::new(),
        };
        Queue { state: Mutex::new(state), wake: Notify::new(), clock }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State<K>> {
        // A panic cannot leave the sets half-changed in a way that matters: every step is a set operation.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Makes the key ready now, or when its back-off has passed. For hints: what a failed reconcile wrote comes back as
    /// one, and must not make it run again at full speed.
    pub fn add(&self, key: K) {
        let now = self.clock.monotonic();
        self.state().add_held(key, now);
        self.wake.notify_one();
    }

    /// Makes the key ready now and ends its back-off. For news: what should be has changed.
    pub fn add_now(&self, key: K) {
        let mut state = self.state();
        state.held.remove(&key);
        state.add(key);
        drop(state);
        self.wake.notify_one();
    }

    /// Keeps the key back for `delay`, and makes it ready then.
    pub fn hold(&self, key: K, delay: Duration) {
        let until = self.clock.monotonic() + delay;
        self.state().held.insert(key.clone(), until);
        self.add_after(key, delay);
    }

    /// Makes the key ready after `delay`, or earlier if it already waits for an earlier time.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let due = self.clock.monotonic() + delay;
        let mut state = self.state();
        let due = due.max(state.held.get(&key).copied().unwrap_or_default());
        state.delay(key, due);
        drop(state);
        self.wake.notify_one();
    }

    /// The next ready key, in order of becoming ready. The caller must say [`Queue::done`] in the end. Cancel safe.
    pub async fn next(&self) -> K {
        loop {
            let notified = self.wake.notified();
            let next_due = {
                let mut state = self.state();
                state.promote(self.clock.monotonic());
                if let Some(key) = state.ready.pop_front() {
                    state.is_ready.remove(&key);
                    // A reconcile looks at everything, so a delay that was set before is served by it.
                    if let Some(due) = state.due.remove(&key) {
                        state.delayed.remove(&(due, key.clone()));
                    }
                    state.running.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.delayed.first().map(|(due, _)| *due)
            };
            match next_due {
                Some(due) => {
                    let wait = due.saturating_sub(self.clock.monotonic());
                    let _ = tokio::time::timeout(wait, notified).await;
                }
                None => notified.await,
            }
        }
    }

    /// The key is no longer being reconciled.
    pub fn done(&self, key: &K) {
        let mut state = self.state();
        state.running.remove(key);
        if state.again.remove(key) {
            let now = self.clock.monotonic();
            state.add_held(key.clone(), now);
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Keys that are ready or running, and keys that wait for a time.
    pub fn len(&self) -> (usize, usize) {
        let state = self.state();
        (state.ready.len() + state.running.len(), state.delayed.len())
    }
}

impl<K: Clone + Eq + Hash + Ord> State<K> {
    fn add(&mut self, key: K) {
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.is_ready.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn add_held(&mut self, key: K, now: Duration) {
        match self.held.get(&key) {
            // While it runs it is only noted: whether it is held is decided when it is done.
            Some(&until) if until > now && !self.running.contains(&key) => self.delay(key, until),
            _ => self.add(key),
        }
    }

    fn delay(&mut self, key: K, due: Duration) {
        match self.due.get(&key) {
            Some(&earlier) if earlier <= due => return,
            Some(&later) => {
                self.delayed.remove(&(later, key.clone()));
            }
            None => {}
        }
        self.due.insert(key.clone(), due);
        self.delayed.insert((due, key));
    }

    fn promote(&mut self, now: Duration) {
        while let Some((due, _)) = self.delayed.first()
            && *due <= now
        {
            let (_, key) = self.delayed.pop_first().expect("first exists");
            self.due.remove(&key);
            self.held.remove(&key);
            self.add(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::VirtualClock;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_is_handed_out_once() {
        let q = Queue::new(VirtualClock::new());
        q.add("a");
        q.add("a");
        q.add("b");
        assert_eq!((q.next().await, q.next().await), ("a", "b"));
        assert_eq!(q.len(), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_running_comes_again_only_after_done() {
        let q = Queue::new(VirtualClock::new());
        q.add("a");
        assert_eq!(q.next().await, "a");
        q.add("a");
        assert!(tokio::time::timeout(Duration::from_secs(9), q.next()).await.is_err());
        q.done(&"a");
        assert_eq!(q.next().await, "a");
        q.done(&"a");
        assert_eq!(q.len(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_counts_and_a_reconcile_serves_it() {
        let clock = VirtualClock::new();
        let q = Queue::new(clock.clone());
        q.add_after("a", Duration::from_secs(60));
        q.add_after("a", Duration::from_secs(5));
        q.add_after("a", Duration::from_secs(30));
        assert_eq!(q.next().await, "a");
        assert_eq!(clock.monotonic().as_secs(), 5);
        q.done(&"a");
        assert_eq!(q.len(), (0, 0), "the later delays are gone");
    }

    #[tokio::test(start_paused = true)]
    async fn hints_do_not_shorten_a_back_off_and_news_does() {
        let clock = VirtualClock::new();
        let q = Queue::new(clock.clone());
        q.add("a");
        assert_eq!(q.next().await, "a");
        q.add("a");
        q.hold("a", Duration::from_secs(10));
        q.done(&"a");
        q.add("a");
        q.add_after("a", Duration::from_secs(1));
        assert_eq!(q.next().await, "a");
        assert_eq!(clock.monotonic().as_secs(), 10);
        q.hold("a", Duration::from_secs(10));
        q.done(&"a");
        q.add_now("a");
        assert_eq!(q.next().await, "a");
        assert_eq!(clock.monotonic().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_set_while_waiting_is_noticed() {
        let q = std::sync::Arc::new(Queue::new(VirtualClock::new()));
        let waiting = tokio::spawn({
            let q = q.clone();
            async move { q.next().await }
        });
        tokio::task::yield_now().await;
        q.add_after("late", Duration::from_secs(1));
        assert_eq!(waiting.await.unwrap(), "late");
    }
}
