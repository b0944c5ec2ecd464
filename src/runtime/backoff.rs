//! Exponential back-off with jitter that is a function of key and attempt: spread over keys, the same on every run.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Delay after the first failure.
    pub base: Duration,
    /// Longest delay before jitter.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { base: Duration::from_millis(500), max: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// For what was not even begun: someone may be waiting for it.
    pub fn while_busy() -> Backoff {
        Backoff { base: Duration::from_secs(1), max: Duration::from_secs(15) }
    }

    /// The delay after `failures` failures in a row (from 1 on): doubling up to `max`, within ±20 %.
    pub fn delay(&self, key: &impl Hash, failures: u32) -> Duration {
        let plain = self.base.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.max);
        let mut hasher = DefaultHasher::new();
        (key, failures).hash(&mut hasher);
        let unit = (hasher.finish() >> 11) as f64 / (1u64 << 53) as f64;
        plain.mul_f64(0.8 + 0.4 * unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_and_differ_between_keys() {
        let backoff = Backoff::default();
        for failures in 1..100 {
            let d = backoff.delay(&"a", failures);
            let plain = 0.5 * 2f64.powi(failures as i32 - 1);
            assert!(d.as_secs_f64() <= plain.min(60.0) * 1.2 + 1e-9 && d.as_secs_f64() >= plain.min(60.0) * 0.8 - 1e-9);
        }
        assert_ne!(backoff.delay(&"a", 3), backoff.delay(&"b", 3));
    }
}
