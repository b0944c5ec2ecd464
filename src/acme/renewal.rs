//! When the ACME server suggests that certificates be renewed (RFC 9773), and when it is asked that again. Pure.
//!
//! What it says is kept in memory alone: a restart asks anew. Without its word, and as long as it gives none, the rule of
//! [`Span::renewal`] holds by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::plan::{Span, Wanted};

/// Questions under way at a time.
const AT_ONCE: usize = 4;
/// The server is asked again about one certificate no sooner, and no later, whatever it says (RFC 9773 §4.3.2).
const SOONEST: Duration = Duration::from_secs(60);
const LATEST: Duration = Duration::from_secs(24 * 60 * 60);
/// After a question that came to nothing (RFC 9773 §4.3.3).
const FAILED: Duration = Duration::from_secs(6 * 60 * 60);

/// From when to when the server suggests that a certificate be renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    start: Timestamp,
    end: Timestamp,
}

impl Window {
    /// `None` for one that has no time in it.
    pub fn new(start: Timestamp, end: Timestamp) -> Option<Window> {
        (start < end).then_some(Window { start, end })
    }

    /// A moment of it; `share`: how far in, of a thousand.
    pub fn moment(&self, share: i32) -> Timestamp {
        let length = self.end.duration_since(self.start);
        self.start.checked_add(length / 1000 * share.clamp(0, 1000)).unwrap_or(self.start)
    }
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Window {
        window: Window,
        /// When it wishes to be asked again.
        again: Duration,
        /// A page that explains it, for people.
        explained: Option<String>,
    },
    /// The server tells no such thing.
    Nothing,
    Failed(String),
}

/// What is known of the certificate that a name has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    window: Option<Window>,
    again: Timestamp,
    /// Of the certificate that it is about.
    begins: Timestamp,
}

/// What the server said, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suggestions(BTreeMap<String, Known>);

impl Suggestions {
    /// Of the certificate with this span.
    pub fn window(&self, name: &str, span: Span) -> Option<Window> {
        self.0.get(name).filter(|known| known.begins == span.begins)?.window
    }

    /// A question about the certificate of a name that begins at `begins` has come to this. Whether the window is another now.
    pub fn heard(&mut self, name: &str, begins: Timestamp, said: &Said, now: Timestamp) -> bool {
        let before = self.0.get(name).filter(|known| known.begins == begins).and_then(|known| known.window);
        let (window, wait) = match said {
            Said::Window { window, again, explained: _ } => (Some(*window), (*again).clamp(SOONEST, LATEST)),
            Said::Nothing => (None, LATEST),
            // Its last word counts.
            Said::Failed(_) => (before, FAILED),
        };
        let again = now.checked_add(SignedDuration::try_from(wait).unwrap_or_default()).unwrap_or(now);
        self.0.insert(name.to_owned(), Known { window, again, begins });
        window != before
    }

    /// The names of whose certificates it is to be asked now; and when others are.
    pub fn due(
        &self,
        wanted: &Wanted,
        held: &BTreeMap<String, Span>,
        asking: &BTreeSet<String>,
        now: Timestamp,
    ) -> (Vec<String>, Option<Timestamp>) {
        let (mut due, mut later) = (vec![], None::<Timestamp>);
        let alive = held.iter().filter(|(name, span)| wanted.contains_key(*name) && now < span.ends);
        for (name, span) in alive.filter(|(name, _)| !asking.contains(*name)) {
            match self.0.get(name).filter(|known| known.begins == span.begins) {
                Some(known) if now < known.again => later = Some(later.map_or(known.again, |at| at.min(known.again))),
                _ => due.push(name.clone()),
            }
        }
        due.truncate(AT_ONCE.saturating_sub(asking.len()));
        (due, later)
    }

    /// Forgets what is of no name that has a certificate.
    pub fn prune(&mut self, held: &BTreeMap<String, Span>) {
        self.0.retain(|name, _| held.contains_key(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);
    const T0: Timestamp = Timestamp::UNIX_EPOCH;

    fn said(days: i64, again: u64) -> Said {
        let window = Window::new(T0 + DAY * days as i32, T0 + DAY * (days as i32 + 2)).unwrap();
        Said::Window { window, again: Duration::from_secs(again), explained: None }
    }

    fn holding(names: &[&str]) -> (Wanted, BTreeMap<String, Span>) {
        let span = Span { begins: T0, ends: T0 + DAY * 90, window: None };
        let wanted = names.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
        (wanted, names.iter().map(|name| ((*name).to_owned(), span)).collect())
    }

    #[test]
    fn it_is_asked_of_each_certificate_a_few_at_a_time_and_again_when_it_wishes_within_bounds() {
        let (wanted, held) = holding(&["a", "b", "c", "d", "e", "f"]);
        let mut told = Suggestions::default();
        let nobody = BTreeSet::new();
        assert_eq!(told.due(&wanted, &held, &nobody, T0).0, ["a", "b", "c", "d"]);
        let asking = ["a", "b", "c"].map(str::to_owned).into();
        assert_eq!(told.due(&wanted, &held, &asking, T0).0, ["d"]);
        let (only, held_a) = holding(&["a"]);
        for (again, waits) in [(0, SOONEST), (21_600, FAILED), (u64::MAX, LATEST)] {
            told.heard("a", T0, &said(30, again), T0);
            let waits = T0 + SignedDuration::try_from(waits).unwrap();
            assert_eq!(told.due(&only, &held_a, &nobody, T0), (vec![], Some(waits)), "{again}");
            assert_eq!(told.due(&only, &held_a, &nobody, waits).0, ["a"]);
        }
        assert_eq!(told.due(&Wanted::new(), &held, &nobody, T0).0, [""; 0], "nobody wants it any more");
        assert_eq!(told.due(&only, &held_a, &nobody, T0 + DAY * 90).0, [""; 0], "it has ended");
    }

    #[test]
    fn its_last_word_counts_until_the_certificate_is_another() {
        let (wanted, held) = holding(&["a"]);
        let (span, mut told) = (held["a"], Suggestions::default());
        assert!(told.heard("a", T0, &said(30, 3600), T0));
        assert!(!told.heard("a", T0, &said(30, 3600), T0), "the same");
        assert!(!told.heard("a", T0, &Said::Failed("down".into()), T0));
        assert_eq!(told.window("a", span), Window::new(T0 + DAY * 30, T0 + DAY * 32));
        let another = Span { begins: T0 + DAY, ..span };
        assert_eq!(told.window("a", another), None);
        assert_eq!(told.due(&wanted, &[("a".to_owned(), another)].into(), &BTreeSet::new(), T0).0, ["a"]);
        assert!(told.heard("a", T0, &Said::Nothing, T0));
        assert_eq!(told.window("a", span), None);
        told.prune(&BTreeMap::new());
        assert_eq!(told, Suggestions::default());
        assert_eq!(Window::new(T0, T0), None);
    }
}
