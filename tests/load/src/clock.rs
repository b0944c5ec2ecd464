//! The real clock, and what it measured.

use std::time::Instant;

use serde::Serialize;

#[expect(clippy::disallowed_methods, reason = "a benchmark runs in real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    pub count: usize,
    pub p50: u32,
    pub p99: u32,
    pub max: u32,
}

impl Latency {
    pub fn of(mut micros: Vec<u32>) -> Latency {
        micros.sort_unstable();
        let at = |share: f64| {
            let index = (micros.len() as f64 * share).ceil() as usize;
            micros.get(index.saturating_sub(1)).copied().unwrap_or_default()
        };
        Latency { count: micros.len(), p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

/// Microseconds since a moment.
pub fn micros(since: Instant) -> u32 {
    u32::try_from(now().duration_since(since).as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let of = |values: std::ops::RangeInclusive<u32>| Latency::of(values.collect());
        let hundred = of(1..=100);
        assert_eq!((hundred.p50, hundred.p99, hundred.max), (50, 99, 100));
        assert_eq!((of(7..=7).p50, of(7..=7).p99), (7, 7));
        assert_eq!(Latency::of(vec![]).p99, 0);
    }
}
