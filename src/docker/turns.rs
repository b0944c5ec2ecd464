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

/// How long a wake does: about as long as visitors are held for it. It has begun by then unless hundreds came at once.
const WAKE_WAIT: Duration = Duration::from_secs(60);

/// Starts, and whatever else is work, at once: more only make each slower.
const HEAVY: usize = 4;

/// Ends of pauses at once.
const THAWS: usize = 32;

/// Readings of use at once.
pub const READINGS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// What belongs to making and unmaking instances: create, the first start, remove.
    Heavy,
    /// The start of a container that somebody waits for.
    Wake,
    /// The end of a pause, which is little work, and which somebody waits for.
    Thaw,
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
    /// Of what may be made at once.
    _making: Option<OwnedSemaphorePermit>,
}

pub struct Turns {
    /// All heavy work; wakes wait only here.
    heavy: Line,
    /// What is being made takes a place here first: never all of the heavy ones, so that a wake finds one that is free, or
    /// waits behind other wakes and what is under way.
    making: Line,
    light: Line,
    thaws: Line,
    stops: Line,
    readings: Line,
    health: Line,
}

/// The places of one weight, and those who wait for one.
struct Line {
    places: Arc<Semaphore>,
    waiting: Semaphore,
    patience: Duration,
}

impl Line {
    fn new(places: usize, waiting: usize) -> Line {
        let (places, waiting) = (Arc::new(Semaphore::new(places)), Semaphore::new(waiting));
        Line { places, waiting, patience: WAIT }
    }

    /// Why not, when no place comes free in time, or too many wait already.
    async fn place(&self) -> Result<OwnedSemaphorePermit, String> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Ok(place);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| "too many calls wait for the daemon".to_owned())?;
        match tokio::time::timeout(self.patience, self.places.clone().acquire_owned()).await {
            Ok(place) => Ok(place.expect("never closed")),
            Err(_) => Err(format!("the daemon was busy with other calls for {} s", self.patience.as_secs())),
        }
    }
}

impl Default for Turns {
    fn default() -> Turns {
        Turns {
            heavy: Line { patience: WAKE_WAIT, ..Line::new(HEAVY, 1024) },
            making: Line::new(HEAVY - 1, 64),
            light: Line::new(32, 1024),
            // Apart, so that nothing that is made, started or looked at keeps one waiting that needs milliseconds.
            thaws: Line { patience: WAKE_WAIT, ..Line::new(THAWS, 1024) },
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
    /// Waits for a turn; `Busy` when none comes in time, or too many wait already.
    pub async fn take(&self, op: &'static str, object: &str, weight: Weight) -> EngineResult<Turn> {
        let busy = |why: String| EngineError {
            op,
            object: object.to_owned(),
            kind: EngineErrorKind::Busy,
            message: format!("not done yet: {why}"),
        };
        let line = match weight {
            Weight::Heavy | Weight::Wake => &self.heavy,
            Weight::Light => &self.light,
            Weight::Thaw => &self.thaws,
            Weight::Stop => &self.stops,
            Weight::Reading => &self.readings,
            Weight::Health => &self.health,
        };
        let making = match weight {
            Weight::Heavy => Some(self.making.place().await.map_err(busy)?),
            _ => None,
        };
        Ok(Turn { _place: line.place().await.map_err(busy)?, _making: making })
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
        let held = join_all((0..3).map(|_| turns.take("start", "x", Weight::Heavy))).await;
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
    async fn what_is_frozen_finds_a_place_at_once_whatever_else_goes_on() {
        let (turns, clock) = (Turns::default(), VirtualClock::new());
        let all = [(Weight::Heavy, 3), (Weight::Wake, 1), (Weight::Light, 32), (Weight::Stop, 16)];
        let all = all.into_iter().flat_map(|(weight, times)| std::iter::repeat_n(weight, times));
        let _held = join_all(all.map(|weight| turns.take("start", "x", weight))).await;
        let thaws = join_all((0..THAWS).map(|_| turns.take("unpause container", "x", Weight::Thaw))).await;
        assert!(thaws.iter().all(Result::is_ok));
        assert_eq!(clock.monotonic(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_the_order_of_asking() {
        let turns = Turns::default();
        let mut held = join_all((0..3).map(|_| turns.take("start", "x", Weight::Heavy))).await;
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
            held.clear();
        };
        let (came, ()) = tokio::join!(waiting, free);
        assert!(came.iter().all(Result::is_ok));
        assert_eq!(*order.lock().unwrap(), [0, 1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_waited_for_goes_before_what_is_made() {
        const ONE: Duration = Duration::from_millis(200);
        let (turns, clock) = (Turns::default(), VirtualClock::new());
        let call = async |weight| {
            let turn = turns.take("start", "x", weight).await;
            let began = clock.monotonic();
            tokio::time::sleep(ONE).await;
            drop(turn.map_err(|e| e.kind)?);
            Ok::<_, EngineErrorKind>(began)
        };
        // Whatever was asked for before: as many as may wait are being made.
        let making = join_all((0..60).map(|_| call(Weight::Heavy)));
        let wake = async {
            tokio::task::yield_now().await;
            let one = call(Weight::Wake).await.unwrap();
            let many = join_all((0..200).map(|_| call(Weight::Wake))).await;
            (one, many)
        };
        let (made, (one, many)) = tokio::join!(making, wake);
        assert_eq!(one, Duration::ZERO, "a place was free");
        let many: Vec<_> = many.into_iter().collect::<Result<_, _>>().expect("nobody is turned away");
        // Three are being made while the first of them ask; what comes after waits with them, and no further one is late.
        let (last, alone) = (*many.iter().max().unwrap(), ONE * 200 / 4);
        assert!(last <= alone + ONE * 3, "{last:?} where {alone:?} are needed");
        assert!(made.iter().filter(|m| m.is_ok()).count() > 3, "and making goes on");
    }
}
