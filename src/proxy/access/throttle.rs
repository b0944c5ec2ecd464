//! How much of a route's traffic is let through at a time: a token bucket, and a count of what is open, for each host name.
//!
//! Only routes with limits have an entry, and it goes when it is as good as new: when nothing is open and its bucket is
//! full again.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::Clock as RateClock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::super::pages::Page;
use super::super::stats::Access as Outcome;
use crate::clock::SharedClock;
use crate::model::{Key, RouteLimits};

const SWEEP_EVERY: Duration = Duration::from_secs(60);

pub struct Throttle {
    clock: Monotonic,
    routes: Mutex<Routes>,
}

#[derive(Default)]
struct Routes {
    by_host: HashMap<(Key, String), Entry>,
    swept: Duration,
}

struct Entry {
    limits: RouteLimits,
    bucket: Option<Bucket>,
    open: Arc<AtomicUsize>,
    /// When it was last asked, on the monotonic clock.
    used: Duration,
}

type Bucket = RateLimiter<NotKeyed, InMemoryState, Monotonic, NoOpMiddleware<Duration>>;

#[derive(Clone)]
struct Monotonic(SharedClock);

impl RateClock for Monotonic {
    type Instant = Duration;
    fn now(&self) -> Duration {
        self.0.monotonic()
    }
}

/// Which limit a request is beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Rate,
    Connections,
}

impl Over {
    pub fn page(self) -> Page {
        match self {
            Over::Rate => Page::TooMany,
            Over::Connections => Page::Busy,
        }
    }

    pub fn outcome(self) -> Outcome {
        match self {
            Over::Rate => Outcome::Rate,
            Over::Connections => Outcome::Connections,
        }
    }
}

/// One of a route's open requests, until dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Throttle {
    pub fn new(clock: SharedClock) -> Throttle {
        Throttle { clock: Monotonic(clock), routes: Mutex::default() }
    }

    /// Counts one request. `None` where what is open is not limited.
    pub fn enter(&self, key: &Key, host: &str, limits: &RouteLimits) -> Result<Option<Place>, Over> {
        if *limits == RouteLimits::default() {
            return Ok(None);
        }
        let now = self.clock.now();
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.sweep(now);
        let entry = routes
            .by_host
            .entry((key.clone(), host.to_ascii_lowercase()))
            .or_insert_with(|| Entry::new(limits, &self.clock, Arc::default()));
        if entry.limits != *limits {
            // What is open stays counted; a new rate begins with all of its burst.
            *entry = Entry::new(limits, &self.clock, entry.open.clone());
        }
        entry.used = now;
        // First what is open: a request that finds no place takes nothing of the rate.
        let most = limits.connections.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        if most.is_some_and(|most| entry.open.load(Ordering::Acquire) >= most) {
            return Err(Over::Connections);
        }
        if entry.bucket.as_ref().is_some_and(|bucket| bucket.check().is_err()) {
            return Err(Over::Rate);
        }
        // Counted under the lock, so that no two requests see the same last place.
        Ok(most.is_some().then(|| {
            entry.open.fetch_add(1, Ordering::AcqRel);
            Place(entry.open.clone())
        }))
    }
}

impl Routes {
    fn sweep(&mut self, now: Duration) {
        if now.saturating_sub(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = now;
        self.by_host.retain(|_, entry| {
            entry.open.load(Ordering::Acquire) > 0 || now.saturating_sub(entry.used) < entry.refills_within()
        });
    }
}

impl Entry {
    fn new(limits: &RouteLimits, clock: &Monotonic, open: Arc<AtomicUsize>) -> Entry {
        // The schema has no 0; should there be one, 1 is the least that says anything.
        let positive = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let bucket = limits.requests_per_second.map(positive).map(|rate| {
            let burst = limits.burst.map_or(rate, positive);
            RateLimiter::direct_with_clock(Quota::per_second(rate).allow_burst(burst), clock.clone())
        });
        Entry { limits: limits.clone(), bucket, open, used: clock.now() }
    }

    /// How long an empty bucket takes to be full, and a little more.
    fn refills_within(&self) -> Duration {
        let rate = self.limits.requests_per_second.unwrap_or(1).max(1);
        let burst = self.limits.burst.unwrap_or(rate);
        SWEEP_EVERY + Duration::from_secs(u64::from(burst.div_ceil(rate)))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::clock::VirtualClock;

    fn limits(rate: Option<u32>, burst: Option<u32>, connections: Option<u32>) -> RouteLimits {
        RouteLimits { requests_per_second: rate, burst, connections }
    }

    fn alice() -> Key {
        Key::instance("default", "alice")
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_then_the_rate_and_hosts_do_not_share() {
        let throttle = Throttle::new(VirtualClock::new());
        let limits = limits(Some(2), Some(5), None);
        let mut passed = 0;
        while throttle.enter(&alice(), "a.test", &limits).is_ok() {
            passed += 1;
        }
        assert_eq!(passed, 5);
        assert!(throttle.enter(&alice(), "b.test", &limits).is_ok());
        assert!(throttle.enter(&Key::instance("default", "bob"), "a.test", &limits).is_ok());
        assert_eq!(throttle.enter(&alice(), "A.TEST", &limits).err(), Some(Over::Rate), "one name in any case");
        for _ in 0..4 {
            advance(Duration::from_millis(500)).await;
            assert!(throttle.enter(&alice(), "a.test", &limits).is_ok());
            assert_eq!(throttle.enter(&alice(), "a.test", &limits).err(), Some(Over::Rate));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn places_come_back_and_outlast_a_change_of_the_limits() {
        let throttle = Throttle::new(VirtualClock::new());
        let enter = |most| throttle.enter(&alice(), "a.test", &limits(None, None, Some(most)));
        let (one, two) = (enter(2).unwrap(), enter(2).unwrap());
        assert!(one.is_some() && two.is_some());
        assert_eq!(enter(2).err(), Some(Over::Connections));
        let three = enter(3).unwrap();
        assert_eq!(enter(3).err(), Some(Over::Connections));
        drop(one);
        let _again = enter(3).unwrap();
        drop((two, three));
        assert_eq!(enter(1).err(), Some(Over::Connections), "one is open still");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_as_good_as_new_is_forgotten_and_nothing_else() {
        let throttle = Throttle::new(VirtualClock::new());
        let count = || throttle.routes.lock().unwrap().by_host.len();
        assert!(throttle.enter(&alice(), "free.test", &RouteLimits::default()).unwrap().is_none());
        assert_eq!(count(), 0, "a route without limits costs nothing");
        for i in 0..100 {
            throttle.enter(&alice(), &format!("h{i}.test"), &limits(Some(1), None, None)).unwrap();
        }
        let _open = throttle.enter(&alice(), "open.test", &limits(None, None, Some(9))).unwrap();
        throttle.enter(&alice(), "slow.test", &limits(Some(1), Some(1000), None)).unwrap();
        advance(SWEEP_EVERY * 3).await;
        throttle.enter(&alice(), "new.test", &limits(Some(1), None, None)).unwrap();
        assert_eq!(count(), 3, "what is open, what is not full again, and the new one");
    }
}
