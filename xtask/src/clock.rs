//! The real clock. The chores run in real time; everything else in this repository takes a clock.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::sys;

#[expect(clippy::disallowed_methods, reason = "the chores run in real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// As [`wait`], but an interrupt ends it: for everything but cleaning up.
pub fn wait_unless_interrupted<T>(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> Result<T, String>,
) -> Result<T> {
    let done = wait(what, limit, || if sys::interrupted() { Ok(None) } else { ready().map(Some) })?;
    done.context("interrupted")
}

/// Polls until `ready` gives a value; after `limit`, fails with the last reason it gave.
pub fn wait<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<T, String>) -> Result<T> {
    let start = now();
    let mut pause = Duration::from_millis(5);
    loop {
        let reason = match ready() {
            Ok(value) => return Ok(value),
            Err(reason) => reason,
        };
        if start.elapsed() > limit {
            bail!("{what}: not within {} s: {reason}", limit.as_secs());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
