//! Time, injected: the only place that reads a clock, so that the same code runs in virtual time.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

/// What the code may know of time.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock: for what people read. It may jump.
    fn now(&self) -> Timestamp;
    /// Time since some fixed point of this process; never falls. For idle times, leases and back-off.
    fn monotonic(&self) -> Duration;
}

pub type SharedClock = Arc<dyn Clock>;

/// The machine's clocks. `monotonic` follows tokio's clock, so `tokio::time::pause` governs it in tests.
pub struct SystemClock {
    start: tokio::time::Instant,
}

impl SystemClock {
    #[expect(clippy::new_ret_no_self, reason = "every user wants it shared and behind the trait")]
    pub fn new() -> SharedClock {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
        Arc::new(SystemClock { start: tokio::time::Instant::now() })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
        Timestamp::now()
    }
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Wall time that moves with tokio's clock from a fixed beginning: under `tokio::time::pause`, deterministic.
pub struct VirtualClock {
    epoch: Timestamp,
    start: tokio::time::Instant,
}

impl VirtualClock {
    /// Begins at 2026-01-01T00:00:00Z.
    #[expect(clippy::new_ret_no_self, reason = "every user wants it shared and behind the trait")]
    pub fn new() -> SharedClock {
        let epoch = Timestamp::from_second(1_767_225_600).expect("a time in range");
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
        Arc::new(VirtualClock { epoch, start: tokio::time::Instant::now() })
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        self.epoch + self.start.elapsed()
    }
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}
