//! Who waits for room on a full host, and who was asked to fall asleep for whom. In memory: an instance that waits is
//! looked at again anyway, also by a control plane that has just begun, and then asks anew.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::model::Key;
use crate::scheduler::Amount;

/// How long somebody who was asked for room counts as asked; who waits for it asks again before that.
pub const ASKED: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub struct Crowd {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What each of them lacks, and since when it waits.
    waiting: HashMap<Key, (Amount, Duration)>,
    /// For whom, and until when it counts.
    asked: HashMap<Key, (Key, Duration)>,
    /// Those that have not been told yet.
    fresh: Vec<Key>,
}

impl Crowd {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that this one waits. It keeps its place if it did before.
    pub fn wait(&self, key: &Key, needs: Amount, now: Duration) {
        self.state().waiting.entry(key.clone()).or_insert((needs, now)).0 = needs;
    }

    /// Asks others to fall asleep, again or for the first time.
    pub fn ask(&self, who: &Key, others: &[Key], now: Duration) {
        let mut state = self.state();
        // What has ended is asked anew.
        state.asked.retain(|_, (_, until)| *until > now);
        for other in others {
            if state.asked.insert(other.clone(), (who.clone(), now + ASKED)).is_none() {
                state.fresh.push(other.clone());
            }
        }
        drop(state);
        self.news.notify_one();
    }

    /// It waits no more. Those that were asked for it and have not begun to fall asleep need not.
    pub fn settled(&self, key: &Key, has_begun: impl Fn(&Key) -> bool) {
        let mut state = self.state();
        if state.waiting.remove(key).is_some() {
            state.asked.retain(|other, (who, _)| who != key || has_begun(other));
        }
    }

    /// Whether it was asked, by whomever.
    pub fn is_asked(&self, key: &Key, now: Duration) -> bool {
        self.asked_by(key, now).is_some()
    }

    /// Who has asked it.
    pub fn asked_by(&self, key: &Key, now: Duration) -> Option<Key> {
        self.state().asked.get(key).filter(|(_, until)| *until > now).map(|(who, _)| who.clone())
    }

    /// Those who wait, who came first before others, with what they lack.
    pub fn waiting(&self) -> Vec<(Key, Amount)> {
        let mut all: Vec<_> =
            self.state().waiting.iter().map(|(key, (needs, since))| (*since, key.clone(), *needs)).collect();
        all.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        all.into_iter().map(|(_, key, needs)| (key, needs)).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.state().waiting.is_empty()
    }

    /// Waits for those that were asked just now, and takes them.
    pub async fn asked(&self) -> Vec<Key> {
        loop {
            let fresh = std::mem::take(&mut self.state().fresh);
            if !fresh.is_empty() {
                return fresh;
            }
            self.news.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_asked_counts_for_a_while_and_only_for_who_still_waits() {
        let (crowd, at) = (Crowd::default(), Duration::from_secs);
        let [a, b, x, y] = ["a", "b", "x", "y"].map(|name| Key::instance("default", name));
        crowd.wait(&a, Amount::default(), at(0));
        crowd.ask(&a, &[x.clone(), y.clone()], at(0));
        assert_eq!(crowd.asked_by(&x, at(29)), Some(a.clone()));
        assert!(!crowd.is_asked(&x, at(30)) && !crowd.is_asked(&b, at(0)));
        assert_eq!(std::mem::take(&mut crowd.state().fresh), [x.clone(), y.clone()]);

        crowd.ask(&a, &[x.clone(), y.clone()], at(40));
        assert_eq!(crowd.state().fresh.len(), 2, "asked anew, they are told anew");
        crowd.settled(&b, |_| true);
        assert!(crowd.is_asked(&x, at(41)));
        crowd.settled(&a, |key| *key == y);
        assert!(!crowd.is_asked(&x, at(41)) && crowd.is_asked(&y, at(41)), "what has begun is gone through with");
        assert!(crowd.is_empty());
    }

    #[tokio::test]
    async fn each_is_told_once_and_who_waits_keeps_its_place() {
        let (crowd, at) = (Crowd::default(), Duration::from_secs);
        let [a, b, x] = ["a", "b", "x"].map(|name| Key::instance("default", name));
        crowd.ask(&a, std::slice::from_ref(&x), at(0));
        crowd.ask(&a, std::slice::from_ref(&x), at(1));
        assert_eq!(crowd.asked().await, [x]);
        assert!(tokio::time::timeout(Duration::from_millis(1), crowd.asked()).await.is_err());

        let much = Amount { memory: 5, cpu_milli: 5 };
        crowd.wait(&b, Amount::default(), at(0));
        crowd.wait(&a, Amount::default(), at(1));
        crowd.wait(&b, much, at(2));
        assert_eq!(crowd.waiting(), [(b, much), (a, Amount::default())]);
    }
}
