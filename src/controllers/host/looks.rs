//! When an instance is looked at though nothing told to: what no listing shows (limits, restart policy, volumes, the options
//! of a network) changes with an event, and events get lost, where many come at once, and with a stream that breaks.
//!
//! Pure: the time is an argument. After something has happened on a host, everything that should run there is looked at once
//! more, later, and spread out; a host on which nothing happens has one instance looked at now and then.
//!
//! listing: events, gaps ──▶ [`Looks::stir`] ──▶ [`Looks::due`], [`Looks::take`] ──▶ queue

use std::time::Duration;

use crate::model::Key;

/// From the first thing that happened to the round of looks that it causes: what happens meanwhile is served by it, too.
const AFTER: Duration = Duration::from_secs(15 * 60);
/// A round takes so long, or less.
const ROUND: Duration = Duration::from_secs(10 * 60);
/// The longest time between two looks of a round, which one of few would else have.
const SLOWEST: Duration = Duration::from_secs(30);
/// The longest time between two looks where nothing happens.
const SELDOM: Duration = Duration::from_secs(60 * 60);
/// Where nothing happens everyone has had its turn after so long.
const TURN: Duration = Duration::from_secs(6 * 60 * 60);

/// The looks at one host's instances. Times are monotonic.
#[derive(Debug)]
pub struct Looks {
    /// When the next round is to begin, if one is.
    round_at: Option<Duration>,
    /// Of the round under way, last first.
    left: Vec<Key>,
    pace: Duration,
    next: Duration,
    /// Who was last looked at outside of rounds.
    last: Option<Key>,
}

impl Looks {
    pub fn new(now: Duration) -> Looks {
        Looks { round_at: None, left: vec![], pace: SLOWEST, next: now + SELDOM, last: None }
    }

    /// Something happened on the host.
    pub fn stir(&mut self, now: Duration) {
        self.round_at.get_or_insert(now + AFTER);
    }

    /// Something may have happened of which nothing was told.
    pub fn missed(&mut self, now: Duration) {
        self.round_at = Some(now);
    }

    /// When somebody is to be looked at.
    pub fn due(&self) -> Duration {
        if self.left.is_empty() { self.round_at.map_or(self.next, |at| at.min(self.next)) } else { self.next }
    }

    /// Who is to be looked at, once it is due. `there`: those that should run on the host, in their order.
    pub fn take(&mut self, now: Duration, there: impl FnOnce() -> Vec<Key>) -> Option<Key> {
        if now < self.due() {
            return None;
        }
        if self.left.is_empty() {
            let mut there = there();
            if self.round_at.is_none_or(|at| now < at) {
                self.next = now + share(TURN, there.len()).min(SELDOM);
                let at = there.partition_point(|key| self.last.as_ref().is_some_and(|last| key <= last));
                self.last = there.get(at).or_else(|| there.first()).cloned();
                return self.last.clone();
            }
            self.round_at = None;
            self.pace = share(ROUND, there.len()).min(SLOWEST);
            there.reverse();
            self.left = there;
        }
        let key = self.left.pop();
        self.next = now + if self.left.is_empty() { SELDOM } else { self.pace };
        key
    }
}

/// What each of so many has of a time; of none, all.
fn share(time: Duration, count: usize) -> Duration {
    time.checked_div(u32::try_from(count).unwrap_or(u32::MAX)).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn keys(count: usize) -> Vec<Key> {
        (0..count).map(|n| Key::instance("default", format!("i{n:03}"))).collect()
    }

    /// Who is looked at, and when, until then.
    fn looks(looks: &mut Looks, count: usize, until: Duration) -> Vec<(u64, String)> {
        let mut seen = vec![];
        while looks.due() <= until {
            let now = looks.due();
            let key = looks.take(now, || keys(count));
            seen.extend(key.map(|key| (now.as_secs() / 60, key.name)));
        }
        seen
    }

    #[test]
    fn where_nothing_happens_one_after_the_other_is_looked_at_seldom() {
        let mut quiet = Looks::new(Duration::ZERO);
        let seen = looks(&mut quiet, 2, 200 * MINUTE);
        assert_eq!(seen, [(60, "i000".into()), (120, "i001".into()), (180, "i000".into())]);
        assert_eq!(quiet.take(200 * MINUTE, || unreachable!("it is not due")), None);
        assert_eq!(looks(&mut quiet, 0, 300 * MINUTE), [], "nobody is there");
        let mut large = Looks::new(Duration::ZERO);
        let seen: std::collections::BTreeSet<String> =
            looks(&mut large, 500, 7 * 60 * MINUTE).into_iter().map(|(_, name)| name).collect();
        assert_eq!(seen.len(), 500, "and everyone within a quarter of a day, however many they are");
    }

    #[test]
    fn after_something_happened_everyone_is_looked_at_once_within_half_an_hour() {
        for count in [1, 2, 100, 1000] {
            let mut stirred = Looks::new(Duration::ZERO);
            for at in [1, 2, 12] {
                stirred.stir(at * MINUTE);
            }
            let seen = looks(&mut stirred, count, 27 * MINUTE);
            let (first, last) = (seen[0].0, seen[count - 1].0);
            assert!(seen.len() == count && first == 16 && last <= 26, "{count}: {first} to {last}, {}", seen.len());
        }
        let mut stirred = Looks::new(Duration::ZERO);
        stirred.missed(MINUTE);
        assert_eq!(looks(&mut stirred, 1, 2 * MINUTE), [(1, "i000".into())], "what was missed may be there by now");
    }

    #[test]
    fn a_host_where_things_happen_all_the_time_has_a_round_every_quarter_of_an_hour() {
        let mut busy = Looks::new(Duration::ZERO);
        let mut seen = 0;
        for minute in 0..180u32 {
            busy.stir(minute * MINUTE);
            seen += looks(&mut busy, 10, minute * MINUTE).len();
        }
        assert!((80..=130).contains(&seen), "{seen} looks at ten instances in three hours");
    }
}
