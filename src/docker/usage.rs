//! Live use: what containers use now, measured when somebody asks and at no other time.
//!
//! ```text
//! read(host, runs) ──▶ for each run: known and fresh? ──▶ else readings of its counters, a while apart ──▶ rate
//! ```
//!
//! A CPU counter says something only beside an earlier one. A daemon would take the second reading itself, and hold the
//! call for two seconds, each time and for each container. Both are ours instead: a newer daemon answers each at once,
//! an older one at its next full second, so a rate takes two seconds at most from either. The last reading is kept, so
//! whoever looks again within a minute costs one call per container, over a longer window.
//!
//! Invariants: nothing is asked of a daemon unless somebody waits for it; of one container one reading is under way,
//! whoever waits for it; an answer comes within `PATIENCE`, with what is known by then; memory is bounded by the
//! containers asked for within the last minute.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::engine::{ContainerStats, Engine};
use super::{Engines, turns};
use crate::clock::SharedClock;
use crate::model::DockerHost;

/// What was measured is good for this long.
const FRESH: Duration = Duration::from_secs(10);
/// Between two readings at least: several periods of the limits that a container is held to (100 ms). Less than a second,
/// so that an older daemon's next full second is not missed.
const SHORTEST: Duration = Duration::from_millis(700);
/// At most: longer ago is another matter than now.
const LONGEST: Duration = Duration::from_secs(60);
/// How long an answer may take. What a host has not told by then is unknown.
const PATIENCE: Duration = Duration::from_secs(4);
/// Readings at once of one host.
const OF_A_HOST: usize = turns::READINGS;
/// Of all hosts: each is a connection, and a process has about a thousand unless it is given more. Taken after the host's
/// turn, so that a host that hangs holds no more than its share.
const OF_ALL: usize = 256;

/// One run of a container: from a start to its end, over which the counters only grow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// Full id.
    pub container: String,
    pub started_at: Option<Timestamp>,
}

/// What a run uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// When the last reading came, by our clock: those of the hosts differ.
    pub at: Timestamp,
    /// The time before that which the CPU is the mean of.
    pub window: Duration,
    /// Billionths of a core.
    pub nanocores: u64,
    /// Bytes of the working set.
    pub memory: u64,
}

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    Used(Used),
    /// It does not run: it uses nothing.
    NotRunning,
    /// Its daemon did not say, or not in time.
    Unknown,
}

/// Measures containers of a fleet.
pub struct Meter {
    engines: Arc<dyn Engines>,
    clock: SharedClock,
    slots: Mutex<HashMap<Run, Arc<Slot>>>,
    /// By host name.
    turns: Mutex<HashMap<String, Arc<Semaphore>>>,
    all: Semaphore,
}

/// The place of one run.
struct Slot {
    /// Held by who reads.
    turn: Semaphore,
    known: Mutex<Known>,
}

/// What is known of a run. Pure: the time is an argument, always monotonic.
#[derive(Debug, Default)]
struct Known {
    /// The last reading, and when it came.
    reading: Option<(ContainerStats, Duration)>,
    used: Option<(Used, Duration)>,
}

/// What is to be done about a run.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Done(Used),
    /// A reading would come too soon after the last one.
    Wait(Duration),
    Read,
}

impl Known {
    fn fresh(&self, now: Duration) -> Option<Used> {
        self.used.filter(|(_, at)| now.saturating_sub(*at) < FRESH).map(|(used, _)| used)
    }

    fn next(&self, now: Duration) -> Step {
        if let Some(used) = self.fresh(now) {
            return Step::Done(used);
        }
        match self.reading.map(|(_, at)| now.saturating_sub(at)) {
            Some(age) if age < SHORTEST => Step::Wait(SHORTEST - age),
            Some(_) | None => Step::Read,
        }
    }

    /// Takes in a reading that came at `now`.
    fn take(&mut self, new: ContainerStats, now: Duration, wall: Timestamp) {
        let last = self.reading.replace((new, now)).filter(|(_, at)| now.saturating_sub(*at) <= LONGEST);
        if let Some((window, nanocores)) = last.and_then(|(old, _)| rate(&old, &new)) {
            self.used = Some((Used { at: wall, window, nanocores, memory: new.memory }, now));
        }
    }

    /// Whether it can still be of use.
    fn is_over(&self, now: Duration) -> bool {
        self.reading.is_none_or(|(_, at)| now.saturating_sub(at) > LONGEST)
    }
}

/// The time between two readings and the mean of billionths of a core. `None` when they are not two of one run in that
/// order: the counter fell, or the daemon's clock was set back.
pub fn rate(old: &ContainerStats, new: &ContainerStats) -> Option<(Duration, u64)> {
    let window = Duration::try_from(new.read_at.duration_since(old.read_at)).ok().filter(|w| !w.is_zero())?;
    let used = u128::from(new.cpu_nanos.checked_sub(old.cpu_nanos)?);
    let nanocores = used * 1_000_000_000 / window.as_nanos();
    Some((window, u64::try_from(nanocores).unwrap_or(u64::MAX)))
}

impl Meter {
    pub fn new(engines: Arc<dyn Engines>, clock: SharedClock) -> Meter {
        Meter { engines, clock, slots: Mutex::default(), turns: Mutex::default(), all: Semaphore::new(OF_ALL) }
    }

    /// What these containers of a host use, in their order. Answers within `PATIENCE`. Cancel safe: what was read stays
    /// known.
    pub async fn read(&self, host: &DockerHost, runs: &[Run]) -> Vec<Reading> {
        let name = &host.metadata.name;
        let engine = match self.engines.engine(host) {
            Ok(engine) => engine,
            Err(e) => {
                tracing::debug!(host = name, error = %e, "what runs there cannot be measured");
                return vec![Reading::Unknown; runs.len()];
            }
        };
        let turns =
            lock(&self.turns).entry(name.clone()).or_insert_with(|| Arc::new(Semaphore::new(OF_A_HOST))).clone();
        let slots: Vec<Arc<Slot>> = runs.iter().map(|run| self.slot(run)).collect();
        let each = slots.iter().zip(runs).map(|(slot, run)| self.measure(&*engine, &turns, slot, run));
        let told = match timeout(PATIENCE, join_all(each)).await {
            Ok(told) => told,
            Err(_) => {
                let now = self.clock.monotonic();
                let known = |slot: &Arc<Slot>| lock(&slot.known).fresh(now).map_or(Reading::Unknown, Reading::Used);
                slots.iter().map(known).collect()
            }
        };
        drop((slots, turns));
        self.sweep();
        told
    }

    async fn measure(&self, engine: &dyn Engine, turns: &Semaphore, slot: &Slot, run: &Run) -> Reading {
        let _turn = slot.turn.acquire().await.expect("never closed");
        loop {
            let step = lock(&slot.known).next(self.clock.monotonic());
            match step {
                Step::Done(used) => return Reading::Used(used),
                Step::Wait(time) => sleep(time).await,
                Step::Read => {
                    let read = {
                        let _host = turns.acquire().await.expect("never closed");
                        let _all = self.all.acquire().await.expect("never closed");
                        engine.stats(&run.container).await
                    };
                    match read {
                        Ok(Some(stats)) => {
                            let (now, wall) = (self.clock.monotonic(), self.clock.now());
                            lock(&slot.known).take(stats, now, wall);
                        }
                        Ok(None) => return Reading::NotRunning,
                        Err(e) => {
                            tracing::debug!(error = %e, "not measured");
                            return Reading::Unknown;
                        }
                    }
                }
            }
        }
    }

    fn slot(&self, run: &Run) -> Arc<Slot> {
        let new = || Arc::new(Slot { turn: Semaphore::new(1), known: Mutex::default() });
        lock(&self.slots).entry(run.clone()).or_insert_with(new).clone()
    }

    /// Forgets what is of no use any more and what nobody asks for at present.
    fn sweep(&self) {
        let now = self.clock.monotonic();
        lock(&self.slots).retain(|_, slot| Arc::strong_count(slot) > 1 || !lock(&slot.known).is_over(now));
        lock(&self.turns).retain(|_, turns| Arc::strong_count(turns) > 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one assignment: there is no half of one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn stats(at_ms: i64, cpu_ms: u64, memory: u64) -> ContainerStats {
        let read_at = Timestamp::from_millisecond(1_000_000 + at_ms).unwrap();
        ContainerStats { read_at, cpu_nanos: cpu_ms * 1_000_000, memory }
    }

    #[test]
    fn the_rate_is_the_mean_over_the_time_between_by_the_daemons_clock() {
        let window = |ms: u64| Duration::from_millis(ms);
        assert_eq!(rate(&stats(0, 100, 0), &stats(1000, 350, 0)), Some((window(1000), 250_000_000)));
        assert_eq!(rate(&stats(0, 0, 0), &stats(1500, 4500, 0)), Some((window(1500), 3_000_000_000)), "three cores");
        assert_eq!(rate(&stats(0, 7, 0), &stats(1000, 7, 0)), Some((window(1000), 0)));
        assert_eq!(rate(&stats(0, 7, 0), &stats(1000, 6, 0)), None, "another run");
        assert_eq!(rate(&stats(0, 7, 0), &stats(0, 8, 0)), None, "no time has passed");
        assert_eq!(rate(&stats(5, 7, 0), &stats(0, 8, 0)), None, "its clock was set back");
    }

    #[test]
    fn two_readings_a_second_apart_are_good_for_a_while_and_one_more_renews_them() {
        let (mut known, wall) = (Known::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(known.next(5000 * MS), Step::Read);
        known.take(stats(0, 100, 1), 5000 * MS, wall);
        assert_eq!(known.next(5300 * MS), Step::Wait(400 * MS));
        assert_eq!(known.next(6000 * MS), Step::Read);
        known.take(stats(1000, 200, 2), 6000 * MS, wall);
        let used = Used { at: wall, window: 1000 * MS, nanocores: 100_000_000, memory: 2 };
        assert_eq!(known.next(15_999 * MS), Step::Done(used));
        assert_eq!(known.next(16_000 * MS), Step::Read, "the last reading is the first of two");
        known.take(stats(15_000, 200, 3), 20_000 * MS, wall);
        let later = Used { at: wall, window: 14_000 * MS, nanocores: 0, memory: 3 };
        assert_eq!(known.next(20_001 * MS), Step::Done(later));

        assert!(!known.is_over(80_000 * MS));
        assert!(known.is_over(80_001 * MS));
        known.take(stats(90_000, 900, 4), 95_000 * MS, wall);
        assert_eq!(known.next(95_000 * MS), Step::Wait(SHORTEST), "the reading of a minute ago says nothing of now");
    }
}
