//! What was found out of whether an app is busy, before it is put to sleep: readings of its CPU, and what it said itself.
//! Pure but for the counters; the time is an argument, always monotonic. In memory only: a control plane that begins asks anew.
//!
//! Invariant: what is known counts for the one run that it was found out of.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::docker::engine::ContainerStats;
use crate::docker::usage::rate;
use crate::model::{Instance, Key, Resource};

/// Between two readings at least, unless the instance sleeps sooner.
const SHORTEST: Duration = Duration::from_secs(10);
/// A reading that is older says more of before than of now.
const LONGEST: Duration = Duration::from_secs(120);
/// One who is busy is asked again after so long, or after its time without use if that is shorter.
const AGAIN: Duration = Duration::from_secs(60);
/// One that cannot be asked is tried again after so long.
const RETRY: Duration = Duration::from_secs(30);
/// One of whom nothing can be found out stays awake for so long. Then it is put to sleep as if it were idle.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// How long an answer holds that it is idle, or for as long as it takes to rest again after a use, if that is shorter: what
/// was found out before a use says nothing of the time after it.
const HOLDS: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    Cpu,
    Http,
}

impl Question {
    pub fn as_str(self) -> &'static str {
        match self {
            Question::Cpu => "cpu",
            Question::Http => "http",
        }
    }

    /// The field that asks.
    pub fn field(self) -> &'static str {
        match self {
            Question::Cpu => "busyCpu",
            Question::Http => "busyCheck",
        }
    }
}

/// What came of one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Busy(String),
    Idle(String),
    /// There is a first reading; the second is due after so long.
    Pending(Duration),
    Unknown(String),
}

/// What all questions together say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Busy,
    Idle,
    Pending,
    /// `first`: and it was known before.
    Unknown {
        first: bool,
        why: String,
    },
    /// Nothing could be found out for [`PATIENCE`]: it counts as idle.
    GivenUp(String),
}

/// The last answer to one question, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    pub question: Question,
    pub busy: bool,
    pub at: Timestamp,
    pub message: String,
}

/// What holds for a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BusySeen {
    pub answer: Answer,
    /// How long until it is asked again.
    pub again: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// Nobody has asked, or there is no answer yet: nothing is put to sleep on a guess.
    #[default]
    Unknown,
    /// It was asked in vain.
    Silent,
    Idle,
    Busy,
}

#[derive(Debug, Default)]
struct Known {
    run: String,
    /// The last reading, and when it came.
    reading: Option<(ContainerStats, Duration)>,
    /// What holds, and until when.
    holds: Option<(Answer, Duration)>,
    /// Since when nothing can be found out, and when that was tried last.
    silent: Option<(Duration, Duration)>,
    signs: BTreeMap<Question, Sign>,
}

type Questions = Family<[(&'static str, &'static str); 2], Counter>;

#[derive(Debug)]
pub struct Busy {
    known: Mutex<BTreeMap<Key, Known>>,
    asked: Questions,
}

impl Default for Busy {
    fn default() -> Busy {
        let asked = Questions::default();
        for question in [Question::Cpu, Question::Http] {
            for result in ["busy", "idle", "unknown"] {
                drop(asked.get_or_create(&[("check", question.as_str()), ("result", result)]));
            }
        }
        Busy { known: Mutex::default(), asked }
    }
}

impl Busy {
    fn known(&self) -> MutexGuard<'_, BTreeMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, instance: &Instance, change: impl FnOnce(&mut Known) -> T) -> T {
        let run = instance.run().unwrap_or_default();
        let mut all = self.known();
        let known = all.entry(instance.key()).or_default();
        if known.run != run {
            *known = Known { run, ..Known::default() };
        }
        change(known)
    }

    /// What holds of the run that the status names.
    pub fn seen(&self, instance: &Instance, now: Duration) -> BusySeen {
        let run = instance.run().unwrap_or_default();
        let all = self.known();
        let known = all.get(&instance.key()).filter(|known| known.run == run);
        let holds = known.and_then(|known| known.holds).filter(|(_, until)| *until > now);
        holds.map_or(BusySeen::default(), |(answer, until)| BusySeen { answer, again: until - now })
    }

    /// The last answers of that run.
    pub fn signs(&self, instance: &Instance) -> Vec<Sign> {
        let run = instance.run().unwrap_or_default();
        let all = self.known();
        let known = all.get(&instance.key()).filter(|known| known.run == run);
        known.map(|known| known.signs.values().cloned().collect()).unwrap_or_default()
    }

    /// From now on it stands still: what was read before says nothing of how it works after that, and what could not be found
    /// out is tried for as long again. What people are told of it stays.
    pub fn stood_still(&self, instance: &Instance) {
        self.with(instance, |known| (known.reading, known.holds, known.silent) = (None, None, None));
    }

    pub fn forget(&self, key: &Key) {
        self.known().remove(key);
    }

    /// Whether there is a reading to compare with when it counts, which is a minute from now at most.
    pub fn is_primed(&self, instance: &Instance, now: Duration) -> bool {
        self.with(instance, |known| known.reading.is_some_and(|(_, at)| now.saturating_sub(at) <= LONGEST / 2))
    }

    /// How long until a reading says something beside the last one; zero where there is none.
    pub fn too_soon(&self, instance: &Instance, now: Duration) -> Duration {
        let age = self.with(instance, |known| known.reading.map(|(_, at)| now.saturating_sub(at)));
        age.map_or(Duration::ZERO, |age| gap(instance).saturating_sub(age))
    }

    /// Takes a reading in. `None`: it is the first one.
    pub fn take(&self, instance: &Instance, new: ContainerStats, now: Duration) -> Option<(Duration, u64)> {
        self.with(instance, |known| {
            let last = known.reading.replace((new, now)).filter(|(_, at)| now.saturating_sub(*at) <= LONGEST);
            last.and_then(|(old, _)| rate(&old, &new))
        })
    }

    /// Settles what was found out, until it is asked again.
    pub fn settle(&self, instance: &Instance, found: &[(Question, Found)], now: Duration, wall: Timestamp) -> Said {
        for (question, found) in found {
            let result = match found {
                Found::Busy(_) => "busy",
                Found::Idle(_) => "idle",
                Found::Unknown(_) => "unknown",
                Found::Pending(_) => continue,
            };
            self.asked.get_or_create(&[("check", question.as_str()), ("result", result)]).inc();
        }
        let rests_again = instance.spec.freeze_after().unwrap_or_else(|| instance.spec.idle_after());
        let holds = HOLDS.min(rests_again);
        self.with(instance, |known| {
            for (question, found) in found {
                let (busy, message) = match found {
                    Found::Busy(message) => (true, message),
                    Found::Idle(message) | Found::Unknown(message) => (false, message),
                    Found::Pending(_) => continue,
                };
                let sign = Sign { question: *question, busy, at: wall, message: message.clone() };
                known.signs.insert(*question, sign);
            }
            let (said, answer, lasts) = match combine(found) {
                Said::Unknown { why, .. } => {
                    // What was tried long ago was of another rest, which something put off.
                    let before = known.silent.filter(|(_, last)| now.saturating_sub(*last) <= 4 * RETRY);
                    let since = before.map_or(now, |(since, _)| since);
                    known.silent = Some((since, now));
                    match now.saturating_sub(since) >= PATIENCE {
                        true => (Said::GivenUp(why), Answer::Idle, holds),
                        false => (Said::Unknown { first: before.is_none(), why }, Answer::Silent, RETRY),
                    }
                }
                Said::Pending => (Said::Pending, Answer::Unknown, pause(found)),
                Said::Busy => (Said::Busy, Answer::Busy, AGAIN.min(instance.spec.idle_after())),
                said => (said, Answer::Idle, holds),
            };
            if matches!(said, Said::Busy | Said::Idle) {
                known.silent = None;
            }
            known.holds = Some((answer, now + lasts));
            said
        })
    }

    pub fn register(&self, registry: &mut Registry) {
        let help = "Questions whether an app is busy, before it is put to sleep";
        registry.register("busy_checks", help, self.asked.clone());
    }
}

/// Between two readings at least.
fn gap(instance: &Instance) -> Duration {
    SHORTEST.min(instance.spec.idle_after())
}

/// One who is busy by any measure is; one who is idle by all of them is; else it is not known, or not yet.
fn combine(found: &[(Question, Found)]) -> Said {
    let unknown = found.iter().find_map(|(question, found)| match found {
        Found::Unknown(why) => Some(format!("{}: {why}", question.field())),
        Found::Busy(_) | Found::Idle(_) | Found::Pending(_) => None,
    });
    if found.iter().any(|(_, found)| matches!(found, Found::Busy(_))) {
        Said::Busy
    } else if let Some(why) = unknown {
        Said::Unknown { first: true, why }
    } else if found.iter().any(|(_, found)| matches!(found, Found::Pending(_))) {
        Said::Pending
    } else {
        Said::Idle
    }
}

/// Until what is pending is there.
fn pause(found: &[(Question, Found)]) -> Duration {
    let pending = found.iter().filter_map(|(_, found)| match found {
        Found::Pending(again) => Some(*again),
        Found::Busy(_) | Found::Idle(_) | Found::Unknown(_) => None,
    });
    pending.max().unwrap_or_default().max(Duration::from_millis(100))
}

#[cfg(test)]
#[path = "busy/tests.rs"]
mod tests;
