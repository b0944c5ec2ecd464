//! The real clock.

use std::time::Instant;

#[expect(clippy::disallowed_methods, reason = "a benchmark runs in real time")]
pub fn now() -> Instant {
    Instant::now()
}
