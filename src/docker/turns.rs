//! Turns to call a daemon: how many calls it gets at once, and how long the others wait.
//!
//! Taken by the gate for each call, and by whoever is about to stop a container before it says
//! so. One set per daemon. Waiting is bounded in time and in number, so that a daemon that hangs keeps few callers
//! waiting, and none for long: the rest is told that it is [`Busy`](EngineErrorKind::Busy), which promises that nothing
//! was done.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::engine::{EngineError, EngineErrorKind, EngineResult};

/// How long a caller waits for its turn: about as long as one stop takes.
pub const WAIT: Duration = Duration::from_secs(10);

/// Readings of use at once.
pub const READINGS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Create, start, remove.
    Heavy,
    Light,
    Stop,
    /// What a container uses.
    Reading,
    /// Whether the daemon is well.
    Health,
}

/// A place among the calls to a daemon, until dropped.
#[derive(Debug)]
pub struct Turn {
    _place: OwnedSemaphorePermit,
}

pub struct Turns {
    heavy: Line,
    light: Line,
    stops: Line,
    readings: Line,
    health: Line,
}

/// The places of one weight, and those who wait for one.
struct Line {
    places: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Line {
    fn new(places: usize, waiting: usize) -> Line {
        Line { places: Arc::new(Semaphore::new(places)), waiting: Semaphore::new(waiting) }
    }
}

impl Default for Turns {
    fn default() -> Turns {
        Turns {
            // More starts at once only make each slower.
            heavy: Line::new(4, 64),
            light: Line::new(32, 1024),
            // Apart, because each may take its container's whole grace: sleepers must keep no reader waiting.
            stops: Line::new(16, 64),
            // Apart, because older daemons (20.10 at least) answer each only at their next full second.
            readings: Line::new(READINGS, 1024),
            // Apart, because a crowd of others must not make a daemon look ill.
            health: Line::new(2, 8),
        }
    }
}

impl Turns {
    /// Waits for a turn; `Busy` when none comes within [`WAIT`], or too many wait already.
    pub async fn take(&self, op: &'static str, object: &str, weight: Weight) -> EngineResult<Turn> {
        let line = match weight {
            Weight::Heavy => &self.heavy,
            Weight::Light => &self.light,
            Weight::Stop => &self.stops,
            Weight::Reading => &self.readings,
            Weight::Health => &self.health,
        };
        if let Ok(place) = line.places.clone().try_acquire_owned() {
            return Ok(Turn { _place: place });
        }
        let busy = |why: String| EngineError {
            op,
            object: object.to_owned(),
            kind: EngineErrorKind::Busy,
            message: format!("not done yet: {why}"),
        };
        let _waiting = line.waiting.try_acquire().map_err(|_| busy("too many calls wait for the daemon".to_owned()))?;
        match tokio::time::timeout(WAIT, line.places.clone().acquire_owned()).await {
            Ok(place) => Ok(Turn { _place: place.expect("never closed") }),
            Err(_) => Err(busy(format!("the daemon was busy with other calls for {} s", WAIT.as_secs()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;
    use crate::clock::VirtualClock;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_and_not_all_wait() {
        let (turns, clock) = (Turns::default(), VirtualClock::new());
        let held = join_all((0..4).map(|_| turns.take("start", "x", Weight::Heavy))).await;
        assert!(held.iter().all(Result::is_ok));
        let told = join_all((0..100).map(|_| async {
            let error = turns.take("start", "x", Weight::Heavy).await.expect_err("all places are held");
            assert_eq!(error.kind, EngineErrorKind::Busy);
            clock.monotonic()
        }))
        .await;
        assert_eq!(told.iter().filter(|at| at.is_zero()).count(), 36, "64 wait, the others are told at once");
        assert_eq!(told.iter().max(), Some(&WAIT));
        turns.take("stop", "x", Weight::Stop).await.expect("stops have places of their own");
        drop(held);
        turns.take("start", "x", Weight::Heavy).await.expect("a place came free");
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_the_order_of_asking() {
        let turns = Turns::default();
        let mut held = join_all((0..4).map(|_| turns.take("start", "x", Weight::Heavy))).await;
        let order = std::sync::Mutex::new(vec![]);
        let waiting = join_all((0..3).map(|n| {
            let (turns, order) = (&turns, &order);
            async move {
                let turn = turns.take("start", "x", Weight::Heavy).await;
                order.lock().unwrap().push(n);
                turn
            }
        }));
        let free = async {
            tokio::time::sleep(WAIT / 2).await;
            held.truncate(1);
        };
        let (came, ()) = tokio::join!(waiting, free);
        assert!(came.iter().all(Result::is_ok));
        assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
    }
}
