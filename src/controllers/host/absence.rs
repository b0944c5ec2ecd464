//! Since when hosts have not answered this process: what a host's record says may be older than this process, and what
//! one process has not seen for itself it acts on for nobody.
//!
//! health, for each look ──▶ [`Absences::note`]; instances, on the loss of their host ──▶ [`Absences::of`]

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Monotonic times of the first look in a row that had no answer, by host. A host that answered last has no entry.
#[derive(Debug, Default)]
pub struct Absences {
    since: Mutex<HashMap<String, Duration>>,
}

impl Absences {
    fn since(&self) -> MutexGuard<'_, HashMap<String, Duration>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a look that ended now.
    pub fn note(&self, host: &str, answered: bool, now: Duration) {
        if answered {
            self.forget(host);
        } else {
            self.since().entry(host.to_owned()).or_insert(now);
        }
    }

    /// For how long no look had an answer.
    pub fn of(&self, host: &str, now: Duration) -> Option<Duration> {
        self.since().get(host).map(|since| now.saturating_sub(*since))
    }

    /// The host is gone, or another by now.
    pub fn forget(&self, host: &str) {
        self.since().remove(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_looks_in_a_row_count() {
        let absences = Absences::default();
        let s = Duration::from_secs;
        absences.note("a", false, s(10));
        absences.note("a", false, s(14));
        assert_eq!((absences.of("a", s(20)), absences.of("b", s(20))), (Some(s(10)), None));
        absences.note("a", true, s(21));
        assert_eq!(absences.of("a", s(22)), None);
        absences.note("a", false, s(23));
        assert_eq!(absences.of("a", s(24)), Some(s(1)));
    }
}
