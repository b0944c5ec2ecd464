//! How it stands with the certificate of a name, for whoever asks: a copy of what the loop knows, taken at each look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;

use super::plan::{Ledger, MOST, MOST_NEW, Span, WINDOW, Wanted};

/// What is told; shared by the loop and whoever asks it.
#[derive(Debug, Default)]
pub struct Standing(RwLock<Arc<Seen>>);

/// What one look saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub wanted: Wanted,
    pub held: BTreeMap<String, Span>,
    pub ledger: Ledger,
    pub under_way: BTreeSet<String>,
}

/// A name is without the certificate that it is to have, or may soon be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// In one word, CamelCase.
    pub reason: &'static str,
    pub message: String,
    /// When it is tried again; `None`: now, or when others are done.
    pub next: Option<Timestamp>,
}

impl Standing {
    pub fn set(&self, seen: Seen) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(seen);
    }

    /// Nothing for a name that has its certificate, or is to have none of ours. `name`: in lower case.
    pub fn problem(&self, name: &str, now: Timestamp) -> Option<Problem> {
        let seen = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        seen.problem(name, now)
    }
}

impl Seen {
    /// Pure.
    fn problem(&self, name: &str, now: Timestamp) -> Option<Problem> {
        self.wanted.get(name)?;
        let tried = self.ledger.tried(name);
        let failed = tried.map(|tried| tried.why.as_str()).filter(|why| !why.is_empty());
        let again = tried.and_then(|tried| tried.again(now));
        if let Some(span) = self.held.get(name).filter(|span| now < span.ends) {
            let message = format!("it is not renewed: {}; the one that it has is shown until {}", failed?, span.ends);
            return Some(Problem { reason: "CertificateRefused", message, next: again });
        }
        let paused = self.ledger.paused(name, now);
        let room = self.ledger.room_for_new(now);
        let none = "it has no certificate yet";
        let (reason, message, next) = if self.under_way.contains(name) {
            let last = failed.map_or_else(String::new, |why| format!("; the last attempt failed: {why}"));
            ("CertificateAwaited", format!("{none}: one is being ordered now{last}"), None)
        } else if let Some(why) = failed {
            ("CertificateRefused", format!("{none}: {why}"), [again, paused, room].into_iter().flatten().max())
        } else if paused.is_some() {
            let message = format!("{none}: the ACME server was asked too often for names of its domain");
            ("CertificateHeldBack", message, [again, paused, room].into_iter().flatten().max())
        } else if room.is_some() {
            let hours = WINDOW.as_hours();
            let message =
                format!("{none}: within {hours} hours at most {MOST} are ordered, {MOST_NEW} of them for new names");
            ("CertificateHeldBack", message, room.max(again))
        } else {
            let message = format!("{none}: one is ordered as soon as it has its turn");
            ("CertificateAwaited", message, again)
        };
        Some(Problem { reason, message, next })
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::super::plan::Refusal;
    use super::*;

    fn told(seen: &Seen, minutes: i64) -> Option<(&'static str, String, Option<i64>)> {
        let begun = Timestamp::UNIX_EPOCH;
        let problem = seen.problem("a.example.com", begun + SignedDuration::from_mins(minutes))?;
        let next = problem.next.map(|at| at.duration_since(begun).as_mins());
        Some((problem.reason, problem.message, next))
    }

    fn wanting() -> Seen {
        let wanted = ["a.example.com", "b.example.com"].map(|name| (name.to_owned(), "default".to_owned()));
        Seen { wanted: wanted.into(), ..Seen::default() }
    }

    #[test]
    fn it_is_told_whether_it_is_awaited_refused_or_held_back_and_when_it_is_tried_again() {
        let (begun, mut seen) = (Timestamp::UNIX_EPOCH, wanting());
        let none = "it has no certificate yet: ";
        let turn = ("CertificateAwaited", format!("{none}one is ordered as soon as it has its turn"), None);
        assert_eq!(told(&seen, 0), Some(turn));
        seen.ledger.begin("a.example.com", "default", true, begun);
        seen.under_way.insert("a.example.com".into());
        assert_eq!(told(&seen, 0), Some(("CertificateAwaited", format!("{none}one is being ordered now"), None)));

        seen.under_way.clear();
        let wait = Some(std::time::Duration::from_secs(3600));
        let refusal = Refusal { why: "too many".into(), limited: true, wait };
        seen.ledger.fail("b.example.com", &refusal, begun);
        let (reason, message, next) = told(&seen, 0).unwrap();
        assert!(reason == "CertificateHeldBack" && message.contains("asked too often"), "{message}");
        assert_eq!(next, Some(60), "as long as the domain rests");
        let refusal = Refusal { why: "no A records".into(), limited: false, wait };
        seen.ledger.fail("a.example.com", &refusal, begun);
        assert_eq!(told(&seen, 1), Some(("CertificateRefused", format!("{none}no A records"), Some(60))));

        let ends = begun + SignedDuration::from_hours(48);
        seen.held.insert("a.example.com".into(), Span { begins: begun, ends, window: None });
        let (reason, message, next) = told(&seen, 1).unwrap();
        assert!(message.starts_with("it is not renewed: no A records; the one that it has is shown until 1970-01-03"));
        assert_eq!((reason, next), ("CertificateRefused", Some(60)));
        assert_eq!(told(&seen, 49 * 60).unwrap().1, format!("{none}no A records"), "it has ended");
        seen.ledger.succeed("a.example.com");
        assert_eq!(told(&seen, 1), None);
        assert_eq!(seen.problem("c.example.com", begun), None, "not ours to order");
    }

    #[test]
    fn when_too_many_were_ordered_lately_that_is_told_and_not_taken_for_a_refusal() {
        let (begun, mut seen) = (Timestamp::UNIX_EPOCH, wanting());
        for i in 0..MOST_NEW {
            seen.ledger.begin(&format!("{i}.example.org"), "other", true, begun);
        }
        let (reason, message, next) = told(&seen, 1).unwrap();
        assert!(reason == "CertificateHeldBack" && message.contains("at most 240 are ordered"), "{message}");
        assert_eq!(next, Some(180));
        assert_eq!(told(&seen, 181).unwrap().0, "CertificateAwaited");
    }
}
