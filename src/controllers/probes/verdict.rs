//! What a row of attempts says: the verdict of a probe. Pure, without time.
//!
//! ```text
//! Pending ──successes in a row──▶ Passing ◀──successes in a row── Failing
//!    └───────failures in a row──────┴──────failures in a row──────▶┘
//! ```
//!
//! An attempt of which nothing is known counts for neither row and ends neither.

use crate::model::Probe;

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    Passed,
    /// What was seen: short, without anything that the app said.
    Failed(String),
    /// The app was not asked, or nobody knows what it answered: its host was not reached.
    Unknown(String),
}

/// What a probe has found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Neither yet.
    #[default]
    Pending,
    Passing,
    /// After so many failures in a row, the last of them for this cause.
    Failing {
        times: u32,
        cause: String,
    },
}

/// Most characters of a cause.
const MOST_CAUSE: usize = 200;

/// The row of attempts that a verdict comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    verdict: Verdict,
    failed: u32,
    passed: u32,
}

impl Tally {
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// Counts one more attempt; whether the verdict is another now. Of a probe that goes on failing the cause stays the
    /// first one told: what changes with each attempt would be written with each.
    pub fn note(&mut self, probe: &Probe, attempt: &Attempt) -> bool {
        match attempt {
            Attempt::Unknown(_) => return false,
            Attempt::Passed => (self.passed, self.failed) = (self.passed.saturating_add(1), 0),
            Attempt::Failed(_) => (self.passed, self.failed) = (0, self.failed.saturating_add(1)),
        }
        let next = match attempt {
            Attempt::Passed if self.passed >= probe.successes() => Verdict::Passing,
            Attempt::Failed(cause) if self.failed >= probe.failures() => {
                Verdict::Failing { times: self.failed, cause: bounded(cause) }
            }
            _ => return false,
        };
        if std::mem::discriminant(&next) == std::mem::discriminant(&self.verdict) {
            return false;
        }
        self.verdict = next;
        true
    }
}

fn bounded(cause: &str) -> String {
    let mut cause: String = cause.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if let Some((end, _)) = cause.char_indices().nth(MOST_CAUSE) {
        cause.truncate(end);
        cause.push('…');
    }
    cause
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn probe(failures: u32, successes: u32) -> Probe {
        Probe { failures: Some(failures), successes: Some(successes), ..Probe::default() }
    }

    fn attempt(kind: u8) -> Attempt {
        match kind {
            0 => Attempt::Passed,
            1 => Attempt::Failed("no".into()),
            _ => Attempt::Unknown("away".into()),
        }
    }

    #[test]
    fn a_verdict_needs_its_row_and_another_attempt_ends_it() {
        let (probe, mut tally) = (probe(3, 2), Tally::default());
        let mut note = |attempts: &str| {
            let kinds = attempts.bytes().map(|b| attempt(b"pf?".iter().position(|k| *k == b).unwrap() as u8));
            let changes: Vec<bool> = kinds.map(|a| tally.note(&probe, &a)).collect();
            (changes, tally.verdict().clone())
        };
        let failing = || Verdict::Failing { times: 3, cause: "no".into() };
        assert_eq!(note("pfpff"), (vec![false; 5], Verdict::Pending));
        assert_eq!(note("f"), (vec![true], failing()));
        assert_eq!(note("ffff"), (vec![false; 4], failing()), "what it goes on doing is told once");
        assert_eq!(note("p?f"), (vec![false; 3], failing()));
        assert_eq!(note("p?p"), (vec![false, false, true], Verdict::Passing), "what is not known ends no row");
        assert_eq!(note("ff?pff"), (vec![false; 6], Verdict::Passing));
    }

    #[test]
    fn a_cause_is_one_line_and_short() {
        let mut tally = Tally::default();
        tally.note(&probe(1, 1), &Attempt::Failed(format!("a\nb{}", "ä".repeat(500))));
        let Verdict::Failing { cause, .. } = tally.verdict() else { panic!("{tally:?}") };
        assert!(cause.starts_with("a bä") && cause.chars().count() == MOST_CAUSE + 1, "{cause}");
    }

    proptest! {
        /// The verdict is that of the last row that was long enough, whatever stands between.
        #[test]
        fn a_verdict_is_of_the_last_row_that_was_long_enough(
            kinds in prop::collection::vec(0u8..3, 0..60), failures in 1u32..5, successes in 1u32..5,
        ) {
            let (probe, mut tally) = (probe(failures, successes), Tally::default());
            let mut changes = 0;
            for kind in &kinds {
                changes += u32::from(tally.note(&probe, &attempt(*kind)));
            }
            let known: Vec<u8> = kinds.iter().copied().filter(|k| *k < 2).collect();
            let mut last = None;
            let mut flips = 0;
            for end in 1..=known.len() {
                let kind = known[end - 1];
                let need = if kind == 0 { successes } else { failures } as usize;
                if end >= need && known[end - need..end].iter().all(|k| *k == kind) && last != Some(kind) {
                    (last, flips) = (Some(kind), flips + 1);
                }
            }
            let found = match tally.verdict() {
                Verdict::Pending => None,
                Verdict::Passing => Some(0),
                Verdict::Failing { times, .. } => {
                    prop_assert_eq!(*times, failures);
                    Some(1)
                }
            };
            prop_assert_eq!((found, changes), (last, flips));
        }
    }
}
