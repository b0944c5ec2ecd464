//! How long a daemon takes: drawn from times that were recorded on a real one, and slower when its processors are
//! shared by several calls.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::super::fault::Rng;
use super::call::Call;

/// Of each call, in microseconds: the shortest, the 10th, 50th, 90th and 99th percentile, the longest.
type Quantiles = [u32; 6];

const SHARES: [f64; 6] = [0.0, 0.1, 0.5, 0.9, 0.99, 1.0];

/// Of a list: what it takes beside its containers, and each of them. From 2.8, 5.6 and 6.3 ms for 20, 40 and 60.
const LIST: (Duration, Duration) = (Duration::from_micros(1_400), Duration::from_micros(85));

/// Processors of a daemon's machine. Work is in this many parts, so that it is slower only while others are under way.
const PROCESSORS: usize = 2;
const PARTS: u32 = 4;

/// The times of one daemon.
pub enum Pace {
    /// At once: for tests of what is done, not when.
    None,
    Recorded(Times),
}

pub struct Times {
    rng: Mutex<Rng>,
    /// Calls that work at this moment.
    working: AtomicUsize,
}

impl Pace {
    pub fn recorded(seed: u64) -> Pace {
        Pace::Recorded(Times { rng: Mutex::new(Rng::new(seed)), working: AtomicUsize::new(0) })
    }

    /// A call that the daemon answers from memory.
    pub async fn quick(&self, call: Call) {
        if let Pace::Recorded(times) = self {
            sleep(times.draw(call)).await;
        }
    }

    /// A listing of so many.
    pub async fn list(&self, count: usize) {
        if let Pace::Recorded(_) = self {
            sleep(LIST.0 + LIST.1 * u32::try_from(count).unwrap_or(u32::MAX)).await;
        }
    }

    /// A call that is work: it shares the processors with all others that are.
    pub async fn work(&self, call: Call) {
        let Pace::Recorded(times) = self else { return };
        let part = times.draw(call) / PARTS;
        let _working = Working::begin(&times.working);
        for _ in 0..PARTS {
            let sharing = times.working.load(Ordering::Relaxed).max(PROCESSORS);
            sleep(part.mul_f64(sharing as f64 / PROCESSORS as f64)).await;
        }
    }
}

/// One that works, until dropped.
struct Working<'a>(&'a AtomicUsize);

impl Working<'_> {
    fn begin(count: &AtomicUsize) -> Working<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Working(count)
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Times {
    fn draw(&self, call: Call) -> Duration {
        let share = self.rng.lock().unwrap_or_else(PoisonError::into_inner).below(1_000_000) as f64 / 1e6;
        Duration::from_micros(at(&recorded(call), share))
    }
}

/// The value at this share, between the recorded ones.
fn at(quantiles: &Quantiles, share: f64) -> u64 {
    let above = SHARES.iter().position(|s| share < *s).unwrap_or(SHARES.len() - 1).max(1);
    let (low, high) = (f64::from(quantiles[above - 1]), f64::from(quantiles[above]));
    let part = (share - SHARES[above - 1]) / (SHARES[above] - SHARES[above - 1]);
    (low + (high - low) * part.clamp(0.0, 1.0)) as u64
}

/// Recorded on Docker 20.10.24 with overlay2, iptables and two processors, one call at a time, of 60 containers in as many
/// networks (240 of inspect), while compilers ran beside it (load 4 to 5): the worst are of a busy machine.
fn recorded(call: Call) -> Quantiles {
    match call {
        Call::Info => [7_630, 8_508, 11_152, 13_595, 19_000, 19_531],
        Call::CreateContainer => [9_215, 10_915, 13_934, 23_623, 76_000, 76_981],
        Call::Start => [324_497, 400_492, 444_719, 579_127, 640_000, 648_951],
        Call::Stop | Call::Kill => [150_757, 162_456, 193_501, 244_485, 750_000, 766_854],
        Call::RemoveContainer => [9_916, 11_953, 16_699, 39_657, 170_000, 176_553],
        Call::CreateNetwork => [86_384, 100_730, 127_834, 191_422, 250_000, 253_357],
        Call::RemoveNetwork => [168_204, 175_569, 208_630, 257_342, 310_000, 313_054],
        Call::Pause | Call::Unpause => [10_977, 13_047, 17_200, 19_658, 25_000, 25_711],
        Call::Rename => [3_188, 3_649, 4_446, 5_858, 15_000, 15_379],
        Call::Update => [12_954, 15_272, 18_596, 21_793, 31_000, 31_877],
        Call::CreateVolume | Call::RemoveVolume => [1_021, 1_298, 1_806, 2_391, 8_000, 8_352],
        Call::InspectNetwork => [1_255, 1_487, 1_985, 3_227, 7_000, 7_017],
        Call::InspectImage => [507, 594, 784, 941, 2_800, 2_881],
        Call::InspectVolume => [408, 486, 624, 852, 1_700, 1_772],
        _ => [322, 356, 411, 507, 997, 5_252],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portreeve::clock::VirtualClock;

    #[test]
    fn what_is_drawn_lies_between_what_was_recorded() {
        let quantiles = [10, 20, 30, 40, 50, 100];
        for (share, value) in [(0.0, 10), (0.1, 20), (0.3, 25), (0.5, 30), (0.9, 40), (0.99, 50), (1.0, 100)] {
            assert_eq!(at(&quantiles, share), value, "{share}");
        }
        assert!(ALL.iter().all(|call| recorded(*call).is_sorted()));
    }

    const ALL: [Call; 4] = [Call::Start, Call::Info, Call::Ping, Call::CreateNetwork];

    #[tokio::test(start_paused = true)]
    async fn starts_at_once_share_the_processors() {
        let took = async |count: usize| {
            let (pace, clock) = (Pace::recorded(7), VirtualClock::new());
            futures::future::join_all((0..count).map(|_| pace.work(Call::Start))).await;
            clock.monotonic()
        };
        let (one, two, twenty) = (took(1).await, took(2).await, took(20).await);
        assert!(two < one * 3, "there are two processors: {one:?} {two:?}");
        let each = twenty / 20;
        assert!(each > Duration::from_millis(160) && each < Duration::from_millis(330), "{each:?}");
    }
}
