//! What the probes have found out of each run of a container: written by their task, read by the controllers' looks. In
//! memory only: after a restart of this program it is found out anew, and until then what the record tells stays.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::busy::Busy;
use super::verdict::{Attempt, Verdict};
use crate::model::{Instance, Key, Resource};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeKind::Startup => "startup",
            ProbeKind::Readiness => "readiness",
            ProbeKind::Liveness => "liveness",
        }
    }
}

/// Which check of which probe.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub key: &'a Key,
    pub kind: ProbeKind,
    pub check: usize,
}

/// What is known of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthSeen {
    pub readiness: Verdict,
    pub liveness: Verdict,
}

/// Attempts by probe and result.
type Attempts = Family<[(&'static str, &'static str); 2], Counter>;

/// A command, and what the daemon calls its run.
#[derive(Debug)]
struct Hung {
    command: Vec<String>,
    exec_id: String,
}

#[derive(Debug)]
pub struct Health {
    /// With the run that it is about.
    runs: Mutex<BTreeMap<Key, (String, HealthSeen)>>,
    /// Of each check the last one that had not ended when its time was over.
    hung: Mutex<BTreeMap<(Key, ProbeKind, usize), Hung>>,
    /// Monotonic time of the last attempt of a startup probe.
    startups: Mutex<BTreeMap<Key, Duration>>,
    attempts: Attempts,
    /// Whether it is busy, of those that are asked before they are put to sleep.
    pub busy: Busy,
}

impl Default for Health {
    fn default() -> Health {
        let attempts = Attempts::default();
        // What has not happened yet is told as 0: a rate over what is absent would be nothing.
        for kind in [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness] {
            for result in ["passed", "failed", "unknown"] {
                drop(attempts.get_or_create(&[("probe", kind.as_str()), ("result", result)]));
            }
        }
        Health {
            runs: Mutex::default(),
            hung: Mutex::default(),
            startups: Mutex::default(),
            attempts,
            busy: Busy::default(),
        }
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().expect("no panic while held")
}

impl Health {
    /// What is known of the run that the status of the instance names; of any other run nothing.
    pub fn seen(&self, instance: &Instance) -> HealthSeen {
        let Some(run) = instance.run() else { return HealthSeen::default() };
        let runs = locked(&self.runs);
        runs.get(&instance.key()).filter(|(of, _)| *of == run).map(|(_, seen)| seen.clone()).unwrap_or_default()
    }

    pub fn tell(&self, key: &Key, run: &str, seen: HealthSeen) {
        locked(&self.runs).insert(key.clone(), (run.to_owned(), seen));
    }

    /// Nobody looks after this run any more.
    pub fn forget_run(&self, key: &Key) {
        locked(&self.runs).remove(key);
    }

    /// The instance is gone.
    pub fn forget(&self, key: &Key) {
        self.forget_run(key);
        locked(&self.hung).retain(|(of, ..), _| of != key);
        locked(&self.startups).remove(key);
        self.busy.forget(key);
    }

    /// How long until the next attempt of the startup probe; of a start that has just been made it is due at once.
    pub fn startup_due(&self, key: &Key, period: Option<Duration>, now: Duration) -> Duration {
        let last = locked(&self.startups).get(key).copied();
        last.zip(period).map_or(Duration::ZERO, |(last, period)| (last + period).saturating_sub(now))
    }

    /// One is made now, or (`None`) none was made of this start yet.
    pub fn startup_tried(&self, key: &Key, at: Option<Duration>) {
        let mut startups = locked(&self.startups);
        match at {
            Some(at) => drop(startups.insert(key.clone(), at)),
            None => drop(startups.remove(key)),
        }
    }

    pub fn count(&self, kind: ProbeKind, attempt: &Attempt) {
        let result = match attempt {
            Attempt::Passed => "passed",
            Attempt::Failed(_) => "failed",
            Attempt::Unknown(_) => "unknown",
        };
        self.attempts.get_or_create(&[("probe", kind.as_str()), ("result", result)]).inc();
    }

    pub fn register(&self, registry: &mut Registry) {
        let help = "Attempts of probes: what of them passed, failed, or says nothing of the app";
        registry.register("probes", help, self.attempts.clone());
        self.busy.register(registry);
    }

    /// The same command of an earlier attempt, which may still run. Another is begun beside it: whoever mends a probe is not
    /// kept waiting by what it was.
    pub(super) fn hung(&self, asked: &Asked<'_>, command: &[String]) -> Option<String> {
        let hung = locked(&self.hung);
        hung.get(&place(asked)).filter(|hung| hung.command == command).map(|hung| hung.exec_id.clone())
    }

    pub(super) fn hangs(&self, asked: &Asked<'_>, command: &[String], exec_id: String) {
        locked(&self.hung).insert(place(asked), Hung { command: command.to_vec(), exec_id });
    }

    pub(super) fn ended(&self, asked: &Asked<'_>) {
        locked(&self.hung).remove(&place(asked));
    }
}

fn place(asked: &Asked<'_>) -> (Key, ProbeKind, usize) {
    (asked.key.clone(), asked.kind, asked.check)
}
