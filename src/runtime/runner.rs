//! Runs reconciles: one per key, many keys at once.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::lanes::Lanes;
use super::{Backoff, Error, Outcome, Queue};

/// Counters since start, for metrics and tests.
#[derive(Debug, Default)]
pub struct RunnerStats {
    pub reconciles: AtomicU64,
    pub failures: AtomicU64,
    pub panics: AtomicU64,
}

/// Takes keys from a queue and reconciles them.
pub struct Runner<K> {
    pub queue: Arc<Queue<K>>,
    /// Most reconciles at once. Generous: a reconcile that waits for a sick daemon holds only a task, and the limits
    /// per daemon are the engine's.
    pub cap: usize,
    /// Most reconciles at once of the keys of one lane.
    pub share: usize,
    /// What a key shares its fate with: what is stuck in one lane holds no more than the lane's share.
    pub lane: Box<dyn Fn(&K) -> String + Send + Sync>,
    pub backoff: Backoff,
    pub stats: Arc<RunnerStats>,
}

impl<K: Clone + Eq + Hash + Ord + Display + Send + Sync + 'static> Runner<K> {
    pub fn new(queue: Arc<Queue<K>>) -> Runner<K> {
        let lane = Box::new(|_: &K| String::new());
        Runner { queue, cap: 4096, share: 4096, lane, backoff: Backoff::default(), stats: Arc::default() }
    }

    /// Runs until shutdown; then waits for nothing: dropping the tasks is a crash, which every reconcile survives.
    pub async fn run<F, Fut>(self, reconcile: F, shutdown: CancellationToken)
    where
        F: Fn(K) -> Fut,
        Fut: Future<Output = Result<Outcome, Error>> + Send + 'static,
    {
        let mut tasks: JoinSet<Result<Outcome, Error>> = JoinSet::new();
        let mut keys: HashMap<Id, (K, String)> = HashMap::new();
        let mut lanes = Lanes::new(self.share);
        let mut tries = Tries { failures: HashMap::new(), busy: HashMap::new() };
        loop {
            let (key, lane) = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(ended) = tasks.join_next_with_id() => {
                    let id = match &ended { Ok((id, _)) => *id, Err(e) => e.id() };
                    let Some((key, lane)) = keys.remove(&id) else { continue };
                    self.conclude(&key, ended.map(|(_, result)| result), &mut tries);
                    self.queue.done(&key);
                    let Some(next) = lanes.leave(&lane) else { continue };
                    (next, lane)
                }
                key = self.queue.next(), if tasks.len() < self.cap => {
                    let lane = (self.lane)(&key);
                    let Some(key) = lanes.enter(&lane, key) else { continue };
                    (key, lane)
                }
            };
            self.stats.reconciles.fetch_add(1, Ordering::Relaxed);
            let span = tracing::info_span!("reconcile", %key);
            let handle = tasks.spawn(reconcile(key.clone()).instrument(span));
            keys.insert(handle.id(), (key, lane));
        }
    }

    fn conclude(&self, key: &K, ended: Result<Result<Outcome, Error>, JoinError>, tries: &mut Tries<K>) {
        let Tries { failures, busy } = tries;
        if let Ok(Err(Error::Busy(cause))) = ended {
            // Not begun: it says nothing of the failures before.
            let attempt = busy.entry(key.clone()).and_modify(|n| *n = n.saturating_add(1)).or_insert(1);
            let delay = Backoff::while_busy().delay(key, *attempt);
            tracing::debug!(%key, attempt = *attempt, retry_in = ?delay, error = %Chain(&*cause), "busy");
            self.queue.hold(key.clone(), delay);
            return;
        }
        busy.remove(key);
        let cause = match ended {
            Ok(Ok(outcome)) => {
                // A step forward that is to be followed at once says nothing about the step that failed.
                if outcome != Outcome::Recheck(std::time::Duration::ZERO) {
                    failures.remove(key);
                }
                if let Outcome::Recheck(after) = outcome {
                    self.queue.add_after(key.clone(), after);
                }
                return;
            }
            Ok(Err(Error::Terminal(cause))) => {
                failures.remove(key);
                tracing::warn!(%key, error = %Chain(&*cause), "cannot be reconciled until it changes");
                return;
            }
            Ok(Err(Error::Retry(cause) | Error::Busy(cause))) => cause,
            Err(e) => {
                self.stats.panics.fetch_add(1, Ordering::Relaxed);
                Box::new(e) as _
            }
        };
        self.stats.failures.fetch_add(1, Ordering::Relaxed);
        let attempt = failures.entry(key.clone()).and_modify(|n| *n = n.saturating_add(1)).or_insert(1);
        let delay = self.backoff.delay(key, *attempt);
        tracing::warn!(%key, attempt = *attempt, retry_in = ?delay, error = %Chain(&*cause), "reconcile failed");
        self.queue.hold(key.clone(), delay);
    }
}

/// How often in a row keys failed, or could not be begun.
struct Tries<K> {
    failures: HashMap<K, u32>,
    busy: HashMap<K, u32>,
}

/// Prints an error with all its sources.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(e) = source {
            write!(f, ": {e}")?;
            source = e.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::clock::VirtualClock;

    #[tokio::test(start_paused = true)]
    async fn a_panic_and_a_failure_back_off_alone_while_others_run() {
        let clock = VirtualClock::new();
        let queue = Arc::new(Queue::new(clock.clone()));
        for key in ["panics", "fails", "works"] {
            queue.add(key.to_owned());
        }
        let seen: Arc<Mutex<Vec<(String, u64)>>> = Arc::default();
        let shutdown = CancellationToken::new();
        let runner = Runner::new(queue.clone());
        let stats = runner.stats.clone();
        let reconcile = {
            let (seen, clock) = (seen.clone(), clock.clone());
            move |key: String| {
                let attempt = {
                    let mut seen = seen.lock().unwrap();
                    seen.push((key.clone(), clock.monotonic().as_secs()));
                    seen.iter().filter(|(k, _)| *k == key).count()
                };
                async move {
                    match key.as_str() {
                        "panics" if attempt < 3 => panic!("on purpose"),
                        "fails" if attempt < 3 => Err(Error::retry("not yet")),
                        _ => Ok(Outcome::Done),
                    }
                }
            }
        };
        let running = tokio::spawn(runner.run(reconcile, shutdown.clone()));
        tokio::time::sleep(Duration::from_secs(30)).await;
        shutdown.cancel();
        running.await.unwrap();
        let seen = seen.lock().unwrap();
        let count = |key: &str| seen.iter().filter(|(k, _)| k == key).count();
        assert_eq!((count("panics"), count("fails"), count("works")), (3, 3, 1), "{seen:?}");
        assert_eq!(stats.panics.load(Ordering::Relaxed), 2);
        assert_eq!(queue.len(), (0, 0));
    }

    /// As with a daemon that answers reads and hangs at every start.
    #[tokio::test(start_paused = true)]
    async fn three_thousand_keys_of_a_stuck_lane_keep_no_other_waiting() {
        let clock = VirtualClock::new();
        let queue = Arc::new(Queue::new(clock.clone()));
        let shutdown = CancellationToken::new();
        let places = Arc::new(tokio::sync::Semaphore::new(4));
        let most: Arc<Mutex<(usize, usize)>> = Arc::default();
        let reconcile = {
            let (clock, most) = (clock.clone(), most.clone());
            move |key: String| {
                let (clock, most, places) = (clock.clone(), most.clone(), places.clone());
                async move {
                    if key.starts_with("well") {
                        let asked: u64 = key.rsplit('-').next().unwrap().parse().unwrap();
                        assert_eq!(clock.monotonic().as_secs(), asked, "{key} had to wait");
                        return Ok(Outcome::Done);
                    }
                    let count = |up: bool| {
                        let (now, peak) = &mut *most.lock().unwrap();
                        *now = if up { *now + 1 } else { *now - 1 };
                        *peak = (*peak).max(*now);
                    };
                    count(true);
                    let turn = tokio::time::timeout(Duration::from_secs(10), places.acquire()).await;
                    let result = match turn {
                        Ok(_turn) => {
                            tokio::time::sleep(Duration::from_secs(60)).await;
                            Err(Error::retry("no answer"))
                        }
                        Err(_) => Err(Error::Busy("no turn".into())),
                    };
                    count(false);
                    result
                }
            }
        };
        (0..3000).for_each(|n| queue.add(format!("hung-{n}")));
        let mut runner = Runner::new(queue.clone());
        runner.cap = 2000;
        runner.share = 500;
        runner.lane = Box::new(|key: &String| key.split('-').next().unwrap().to_owned());
        let stats = runner.stats.clone();
        let running = tokio::spawn(runner.run(reconcile, shutdown.clone()));
        for second in 1..120 {
            tokio::time::sleep(Duration::from_secs(second) - clock.monotonic()).await;
            queue.add(format!("well-{second}"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        shutdown.cancel();
        running.await.unwrap();
        assert_eq!(most.lock().unwrap().1, 500);
        assert_eq!(stats.panics.load(Ordering::Relaxed), 0);
        assert!(stats.failures.load(Ordering::Relaxed) <= 8, "being busy is no failure");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_never_runs_twice_at_once_and_a_stuck_one_blocks_no_other() {
        let queue = Arc::new(Queue::new(VirtualClock::new()));
        queue.add("stuck".to_owned());
        queue.add("free".to_owned());
        let running: Arc<Mutex<HashMap<String, (usize, usize)>>> = Arc::default();
        let shutdown = CancellationToken::new();
        let reconcile = {
            let running = running.clone();
            move |key: String| {
                let running = running.clone();
                async move {
                    {
                        let mut r = running.lock().unwrap();
                        let (now, all) = r.entry(key.clone()).or_default();
                        *now += 1;
                        *all += 1;
                        assert_eq!(*now, 1, "{key} runs twice");
                    }
                    tokio::time::sleep(Duration::from_secs(if key == "stuck" { 3600 } else { 1 })).await;
                    running.lock().unwrap().get_mut(&key).unwrap().0 -= 1;
                    Ok(Outcome::Recheck(Duration::from_secs(1)))
                }
            }
        };
        let task = tokio::spawn(Runner::new(queue.clone()).run(reconcile, shutdown.clone()));
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            queue.add("stuck".to_owned());
            queue.add("free".to_owned());
        }
        shutdown.cancel();
        task.await.unwrap();
        let running = running.lock().unwrap();
        assert_eq!(running["stuck"].1, 1);
        assert!(running["free"].1 > 10);
    }
}
