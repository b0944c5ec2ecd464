//! Hosts whose daemon has refused to freeze a container: it may have no freezer (a kernel without that cgroup, a rootless
//! daemon), and then each of its instances would ask in vain. In memory: a control plane that has just begun asks each
//! host once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long nobody on that host asks again.
pub const ASKED_AGAIN: Duration = Duration::from_secs(10 * 60);

/// By host: until when it is not asked, and what it said.
#[derive(Debug, Default)]
pub struct Freezers(Mutex<HashMap<String, (Duration, String)>>);

impl Freezers {
    pub fn refused(&self, host: &str, words: String, now: Duration) {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|_, (until, _)| *until > now);
        hosts.insert(host.to_owned(), (now + ASKED_AGAIN, words));
    }

    /// What the host's daemon said, while it is not asked again.
    pub fn refusal(&self, host: &str, now: Duration) -> Option<String> {
        let hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(host).filter(|(until, _)| *until > now).map(|(_, words)| words.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_holds_for_its_host_and_for_a_while() {
        let (freezers, at) = (Freezers::default(), Duration::from_secs);
        freezers.refused("h1", "no freezer".into(), at(0));
        assert_eq!(freezers.refusal("h1", at(599)), Some("no freezer".into()));
        assert_eq!((freezers.refusal("h1", at(600)), freezers.refusal("h2", at(0))), (None, None));
    }
}
