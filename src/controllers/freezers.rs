//! Hosts whose daemon has refused to freeze a container: it may have no freezer (a kernel without that cgroup, a rootless
//! daemon), and then each of its instances would ask in vain. In memory: a control plane that has just begun asks each
//! host once.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::model::Key;

/// How long nobody on that host asks again.
pub const ASKED_AGAIN: Duration = Duration::from_secs(10 * 60);

/// By host.
#[derive(Debug, Default)]
pub struct Freezers(Mutex<HashMap<String, Refusal>>);

#[derive(Debug, Default)]
struct Refusal {
    until: Duration,
    words: String,
    /// For whom: what was frozen there before stays so.
    whom: HashSet<Key>,
}

impl Freezers {
    pub fn refused(&self, host: &str, whom: &Key, words: String, now: Duration) {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|_, refusal| refusal.until > now);
        let refusal = hosts.entry(host.to_owned()).or_default();
        (refusal.until, refusal.words) = (now + ASKED_AGAIN, words);
        refusal.whom.insert(whom.clone());
    }

    /// Whether that was the answer for this one itself, while nobody there is asked again.
    pub fn has_refused(&self, host: &str, whom: &Key, now: Duration) -> bool {
        let hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(host).is_some_and(|refusal| refusal.until > now && refusal.whom.contains(whom))
    }

    /// What the host's daemon said, while it is not asked again.
    pub fn refusal(&self, host: &str, now: Duration) -> Option<String> {
        let hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(host).filter(|refusal| refusal.until > now).map(|refusal| refusal.words.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_holds_for_its_host_and_for_a_while() {
        let (freezers, at) = (Freezers::default(), Duration::from_secs);
        let [a, b] = ["a", "b"].map(|name| Key::instance("default", name));
        freezers.refused("h1", &a, "no freezer".into(), at(0));
        let refused = |whom| freezers.has_refused("h1", whom, at(1));
        assert_eq!((refused(&a), refused(&b), freezers.has_refused("h1", &a, at(600))), (true, false, false));
        assert_eq!(freezers.refusal("h1", at(599)), Some("no freezer".into()));
        assert_eq!((freezers.refusal("h1", at(600)), freezers.refusal("h2", at(0))), (None, None));
    }
}
