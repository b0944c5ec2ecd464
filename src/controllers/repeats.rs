//! Counts how often the same plan was carried out in a row for a key.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::model::Key;

/// The same plan counts as repeated only within this time: a plan that comes back after an hour is a new one.
const REPEAT_WINDOW: Duration = Duration::from_secs(30);

/// Holds one entry per key that is acting now; an instance at rest has none.
#[derive(Debug, Default)]
pub struct Repeats {
    plans: Mutex<HashMap<Key, (String, u32, Duration)>>,
}

impl Repeats {
    /// Takes note of a plan (`None`: nothing to do) and tells how many times in a row, quickly, it came.
    pub fn count(&self, key: &Key, plan: Option<String>, now: Duration) -> u32 {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(plan) = plan else {
            plans.remove(key);
            return 0;
        };
        match plans.get_mut(key) {
            Some((last, times, since)) if *last == plan && now.saturating_sub(*since) < REPEAT_WINDOW => {
                *times += 1;
                *times
            }
            _ => {
                plans.insert(key.clone(), (plan, 1, now));
                1
            }
        }
    }

    pub fn forget(&self, key: &Key) {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_plan_in_quick_succession_counts() {
        let (repeats, key) = (Repeats::default(), Key::instance("a", "b"));
        let count =
            |plan: &str, at| repeats.count(&key, (!plan.is_empty()).then(|| plan.into()), Duration::from_secs(at));
        assert_eq!((count("x", 0), count("x", 1), count("y", 2), count("x", 3)), (1, 2, 1, 1));
        assert_eq!((count("", 4), count("x", 5)), (0, 1));
        assert_eq!(count("x", 5 + REPEAT_WINDOW.as_secs()), 1);
    }
}
