//! What can go wrong on the way to a simulated daemon, and when: single faults by hand, seeded schedules, and the
//! point at which the process that calls is to die.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// A small deterministic generator (splitmix64): the same seed gives the same run.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn percent(&mut self, chance: u32) -> bool {
        chance > 0 && self.below(100) < u64::from(chance)
    }

    /// 64 hexadecimal digits, as a daemon's ids are.
    pub fn id(&mut self) -> String {
        (0..4).map(|_| format!("{:016x}", self.next())).collect()
    }
}

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No connection: nothing is done.
    Refused,
    /// Done, and the answer never comes: a timeout.
    AnswerLost,
    /// A timeout now; done this much after the caller gave up.
    Late(Duration),
    /// A 500 of a daemon that did nothing.
    ServerError,
    /// A 500 of a daemon that did it all the same.
    ServerErrorButDone,
    /// A timeout, and never done.
    Hang,
    /// This call and all others find no daemon for a while; what runs goes on running.
    Away(Duration),
}

/// How often calls go wrong, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultRates {
    pub writes: u32,
    pub reads: u32,
    /// Events that silently never arrive.
    pub lost_events: u32,
}

impl FaultRates {
    pub(super) fn draw(self, rng: &mut Rng, write: bool) -> Option<Fault> {
        if !rng.percent(if write { self.writes } else { self.reads }) {
            return None;
        }
        Some(match rng.below(if write { 7 } else { 4 }) {
            0 => Fault::Refused,
            1 => Fault::ServerError,
            2 => Fault::Hang,
            3 => Fault::Away(Duration::from_millis(500 + rng.below(20_000))),
            4 => Fault::AnswerLost,
            5 => Fault::Late(Duration::from_millis(rng.below(30_000))),
            _ => Fault::ServerErrorButDone,
        })
    }
}

/// The death of the calling process right after its n-th write, counted over all daemons that share the point.
///
/// From then on no call of that process gets an answer, and no new one is carried out, so however slowly the test
/// ends the process, it does nothing more. Take the point away from the daemons before starting the next process.
pub struct CrashPoint {
    left: AtomicU64,
    reached: CancellationToken,
}

impl CrashPoint {
    /// `writes` of 0 is a process that dies before its first.
    pub fn after_writes(writes: u64) -> Arc<CrashPoint> {
        let point = CrashPoint { left: AtomicU64::new(writes), reached: CancellationToken::new() };
        if writes == 0 {
            point.reached.cancel();
        }
        Arc::new(point)
    }

    pub fn is_reached(&self) -> bool {
        self.reached.is_cancelled()
    }

    /// Waits for the n-th write.
    pub async fn reached(&self) {
        self.reached.cancelled().await;
    }

    pub(super) fn count(&self) {
        let before = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if before == Ok(1) {
            self.reached.cancel();
        }
    }
}
