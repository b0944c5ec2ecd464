//! The host's status: is the daemon there, what is it, what may instances use of it, and what do they reserve.
//!
//! Where the daemon's pulse beats, nobody asks it, but once an hour. What is reserved is looked at every few seconds, so
//! however many instances come and go meanwhile, it is one write in that time, and none while nothing changes.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::super::Context;
use super::super::recorder::EventType;
use super::pulse::Pulse;
use super::{certificates, record};
use crate::docker::engine::{Engine, EngineError, EngineErrorKind, EngineInfo};
use crate::docker::timeouts;
use crate::model::{
    CREDENTIALS_INVALID, Capacity, Condition, ConditionStatus, DAEMON_CHANGED, DAEMON_SHARED, DockerHost,
    DockerHostStatus, Key, LOGIN_REFUSED, Quantity, Resource, Time, UNREACHABLE, condition, set_condition,
};
use crate::store::{StoreError, typed};

/// Between two looks at what the record says; at a host without a pulse also between two questions. `info` is a real
/// operation: a daemon whose containerd hangs still answers pings.
const EVERY: Duration = Duration::from_secs(4);
/// Questions to a host whose pulse beats, for what changes without a restart of its daemon.
const SELDOM: Duration = Duration::from_secs(60 * 60);
/// How late an answer is before a ping goes after it; where the daemon has fallen silent it goes along with the question.
const LATE: Duration = Duration::from_secs(1);
/// How long neither the question nor the ping may be answered until nobody is taken to be there, when the last answer came
/// within half of it. Whoever is slow, or far away, or of whom nothing is known has the time of any call; so has one that
/// answers the ping: a runtime hangs, or is busy.
const ANSWER: Duration = Duration::from_secs(4);
/// Failures in a row that make a host not ready: one can be a daemon's restart. Silence counts as all: of one that had
/// fallen silent before it was asked, or that answers no ping either.
const FAILURES: u32 = 2;
/// Rounds of [`EVERY`] after which a record is looked at whole, though neither it nor its reservations have changed: it
/// also depends on other hosts, and on the date.
const WHOLE: u32 = 15;
/// Memory of a host that instances do not get unless `spec.capacity` says so.
const RESERVED: i64 = 512 << 20;

/// What was last heard of a daemon that is well.
struct Known {
    info: Result<EngineInfo, EngineError>,
    at: Duration,
    /// Of the pulse, then.
    ends: u64,
}

impl Known {
    /// Whether this is the daemon whose pulse beats.
    fn lives(&self, pulse: &Pulse, now: Duration) -> bool {
        pulse.beats(now) && pulse.ends() == self.ends
    }
}

/// `silences`: where `listing` and `pulse` tell that the daemon has fallen silent. That is a failure like those of our own,
/// known within five seconds of the last word; the check that confirms it is made at once.
pub async fn run(ctx: &Context, name: &str, pulse: &Pulse, mut silences: mpsc::Receiver<EngineError>) {
    let (mut failures, mut silence) = (0, None);
    let mut known: Option<Known> = None;
    let (mut said, mut rounds) = (None, 0);
    // Whether its last answer was.
    let mut quick = false;
    // Of a host that is reached in another way now, nothing is known yet.
    ctx.absences.forget(name);
    loop {
        let Some(host) = record(ctx, name) else { return };
        let now = ctx.clock.monotonic();
        let fresh = |known: &&Known| known.lives(pulse, now) && now.saturating_sub(known.at) < SELDOM;
        if silence.is_none()
            && let Some(known) = known.as_ref().filter(fresh)
        {
            ctx.absences.note(name, true, now);
            let state = (host.metadata.resource_version.clone(), ctx.loads.fleet().allocated(name));
            rounds += 1;
            if (said.as_ref() != Some(&state) || rounds % WHOLE == 0) && say(ctx, &host, &known.info).await {
                said = Some(state);
            }
        } else {
            let (ends, asked) = (pulse.ends(), now);
            let suspected = silence.is_some() || pulse.is_silent(now);
            let question =
                Question { ctx, name, pulse, known: known.as_ref(), suspected, silence: silence.take(), quick };
            let looked = match ctx.engines.engine(&host) {
                Ok(engine) => question.ask(&*engine).await,
                Err(e) => Err(question.failed(e)),
            };
            let now = ctx.clock.monotonic();
            ctx.absences.note(name, !looked.as_ref().is_err_and(|failed| absent(&failed.error)), now);
            said = None;
            let seen_before = condition(&host.status.conditions, "Ready").is_some();
            match looked {
                Ok(info) => {
                    failures = 0;
                    // What was told before the answer is answered.
                    while silences.try_recv().is_ok() {}
                    if let Some(info) = info {
                        let info = Ok(info);
                        say(ctx, &host, &info).await;
                        known = Some(Known { info, at: now, ends });
                        quick = now.saturating_sub(asked) < ANSWER / 2;
                    } else if let Some(known) = &mut known {
                        known.at = now;
                    }
                }
                Err(Failed { error: e, counts }) => {
                    failures += counts;
                    if failures >= FAILURES {
                        (known, quick) = (None, false);
                    }
                    let looked = Err(e.clone());
                    if failures >= FAILURES || !seen_before {
                        say(ctx, &host, &looked).await;
                    }
                    if failures == 1 && e.kind == EngineErrorKind::Timeout {
                        silence = Some(e);
                        continue;
                    }
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            Some(silent) = silences.recv(), if failures == 0 => silence = Some(silent),
        }
    }
}

/// That a daemon is asked how it is.
struct Question<'a> {
    ctx: &'a Context,
    name: &'a str,
    pulse: &'a Pulse,
    known: Option<&'a Known>,
    /// Whether it has fallen silent. Then a beat is as good an answer.
    suspected: bool,
    /// What was told of that, if anything was.
    silence: Option<EngineError>,
    /// Whether it answers at once when all is well.
    quick: bool,
}

struct Failed {
    error: EngineError,
    /// As so many failures in a row.
    counts: u32,
}

impl Question<'_> {
    fn failed(&self, error: EngineError) -> Failed {
        Failed { error, counts: if self.suspected { FAILURES } else { 1 } }
    }

    /// `None`: it is as it was known to be.
    async fn ask(&self, engine: &dyn Engine) -> Result<Option<EngineInfo>, Failed> {
        tokio::select! {
            looked = engine.info() => looked.map(Some).map_err(|e| self.failed(e)),
            () = self.beats(), if self.suspected => Ok(None),
            () = nobody(engine, self.suspected), if self.quick => {
                let beats = self.pulse.beats(self.ctx.clock.monotonic());
                let failed = self.failed(self.late("no answer, nor one to a ping,", ANSWER));
                Err(Failed { counts: if beats { failed.counts } else { FAILURES }, ..failed })
            }
            // Of a call that waits for its turn, too.
            () = tokio::time::sleep(timeouts::QUICK) => Err(self.failed(self.late("no answer", timeouts::QUICK))),
        }
    }

    /// Waits for a beat of the daemon that is known.
    async fn beats(&self) {
        loop {
            self.pulse.beat().await;
            if self.known.is_some_and(|known| known.lives(self.pulse, self.ctx.clock.monotonic())) {
                return;
            }
        }
    }

    fn late(&self, what: &str, limit: Duration) -> EngineError {
        let before = self.silence.as_ref().map(|silent| format!("{}, and ", silent.message)).unwrap_or_default();
        EngineError {
            op: "info",
            object: self.name.to_owned(),
            kind: EngineErrorKind::Timeout,
            message: format!("{before}{what} within {} s", limit.as_secs()),
        }
    }
}

/// Ends when nobody is there, which a ping shows: on a machine that is busy, and where a runtime hangs, it is answered.
async fn nobody(engine: &dyn Engine, suspected: bool) {
    if !suspected {
        tokio::time::sleep(LATE).await;
    }
    let answer = async {
        if engine.ping().await.is_err() {
            // Why not is for the question itself to tell, if it can.
            std::future::pending::<()>().await;
        }
    };
    if tokio::time::timeout(ANSWER, answer).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// Whether the record says it now.
async fn say(ctx: &Context, host: &DockerHost, looked: &Result<EngineInfo, EngineError>) -> bool {
    let told = report(ctx, host, looked).await;
    if let Err(e) = &told {
        tracing::warn!(host = %host.metadata.name, error = %e, "the host's status was not written");
    }
    told.is_ok()
}

/// Whether nobody is there, not even the wrong one or one who refuses. Who has not the means to ask knows nothing, and
/// takes nobody for gone.
fn absent(error: &EngineError) -> bool {
    matches!(error.kind, EngineErrorKind::Unreachable | EngineErrorKind::Timeout)
}

/// Writes what has changed. `seen`: the host as the cache has it; almost always that is all there is to read.
async fn report(ctx: &Context, seen: &DockerHost, looked: &Result<EngineInfo, EngineError>) -> Result<(), StoreError> {
    if whole_status(ctx, seen, looked) == seen.status {
        return Ok(());
    }
    let key = seen.key();
    let Some(host) = typed::get::<DockerHost>(&*ctx.store, &key).await? else { return Ok(()) };
    let status = whole_status(ctx, &host, looked);
    if status == host.status {
        return Ok(());
    }
    let revision = typed::revision_of(&host).unwrap_or_default();
    match typed::replace_status(&*ctx.store, &key, revision, &status).await {
        // Someone else wrote it: the next check does.
        Err(StoreError::Conflict { .. }) => return Ok(()),
        other => other?,
    };
    for type_ in ["Ready", certificates::TLS_VALID] {
        tell_change(ctx, &host, &status, type_);
    }
    Ok(())
}

/// An Event of a condition that is another than before, or another for another reason while it is not met.
fn tell_change(ctx: &Context, host: &DockerHost, status: &DockerHostStatus, type_: &str) {
    let Some(new) = condition(&status.conditions, type_) else { return };
    let good = new.status == ConditionStatus::True;
    let old = condition(&host.status.conditions, type_);
    let same = old.is_some_and(|old| old.status == new.status && (type_ == "Ready" || old.reason == new.reason));
    // That certificates are good is news only to who was told that they are not.
    if same || (type_ != "Ready" && good && old.is_none()) {
        return;
    }
    let kind = if good { EventType::Normal } else { EventType::Warning };
    tracing::info!(host = %host.metadata.name, reason = %new.reason, "{}", new.message);
    ctx.recorder.event(&Key::host(&host.metadata.name), &host.metadata.uid, kind, &new.reason, new.message.clone());
}

/// What the status should say of the daemon and of what the instances bound to the host reserve.
fn whole_status(ctx: &Context, host: &DockerHost, looked: &Result<EngineInfo, EngineError>) -> DockerHostStatus {
    let shared = match looked {
        Ok(info) => shared_with(&ctx.cache.hosts(), host, &info.daemon_id),
        Err(_) => None,
    };
    let mut status = status(host, looked, shared.as_deref(), ctx.clock.now());
    status.allocated = Some(ctx.loads.fleet().allocated(&host.metadata.name));
    status
}

/// The older host that leads to the same daemon: two hosts of one daemon would each take the other's containers for
/// strays.
fn shared_with(hosts: &[Arc<DockerHost>], host: &DockerHost, daemon_id: &str) -> Option<String> {
    let age = |h: &DockerHost| (h.metadata.creation_timestamp, h.metadata.name.clone());
    let older = hosts.iter().filter(|other| age(other) < age(host) && other.metadata.name != host.metadata.name);
    older.filter(|other| other.expected_daemon() == daemon_id).map(|other| other.metadata.name.clone()).next()
}

/// What the status should say of the daemon: pure. `shared`: an older host that leads to the same daemon.
fn status(
    host: &DockerHost,
    looked: &Result<EngineInfo, EngineError>,
    shared: Option<&str>,
    now: Timestamp,
) -> DockerHostStatus {
    let mut status = host.status.clone();
    status.observed_generation = host.metadata.generation;
    let (ready, reason, message) = match looked {
        Ok(_) if let Some(other) = shared => {
            let message = format!("DockerHost {other} leads to the same daemon; delete one of the two records");
            (ConditionStatus::False, DAEMON_SHARED, message)
        }
        Ok(info) => {
            status.version = info.version.clone();
            status.api_version = info.api_version.clone();
            status.daemon_id = info.daemon_id.clone();
            status.os = info.os.clone();
            status.kernel = info.kernel.clone();
            status.architecture = info.architecture.clone();
            status.storage_driver = info.storage_driver.clone();
            status.runtimes = info.runtimes.clone();
            status.runtimes.sort();
            status.gpus = gpus(&host.spec.capacity, info);
            status.capacity = capacity(&host.spec.capacity, info, status.gpus.len());
            status.certificate_expires = info.certificates_end.map(Time::from);
            (ConditionStatus::True, "Connected", format!("Docker {} answers", info.version))
        }
        Err(e) if e.kind == EngineErrorKind::WrongDaemon => {
            let message = format!("{}; to accept it in place of the other, set spec.daemonID to its id", e.message);
            (ConditionStatus::False, DAEMON_CHANGED, message)
        }
        // What is to be put right is told as it is now.
        Err(e) if e.kind == EngineErrorKind::Credentials => {
            (ConditionStatus::False, CREDENTIALS_INVALID, e.message.clone())
        }
        Err(e) if e.kind == EngineErrorKind::LoginRefused => (ConditionStatus::False, LOGIN_REFUSED, e.message.clone()),
        Err(e) => {
            // The first words stay: those of later tries differ, and each would be a write that wakes everyone.
            let told = condition(&status.conditions, "Ready").filter(|c| c.reason == UNREACHABLE);
            (ConditionStatus::False, UNREACHABLE, told.map_or_else(|| e.to_string(), |c| c.message.clone()))
        }
    };
    let ends = status.certificate_expires.map(|t| t.timestamp());
    let fault = match looked {
        Ok(info) => info.credentials_fault.as_deref(),
        Err(e) => Some(e.message.as_str()).filter(|_| e.kind == EngineErrorKind::Credentials),
    };
    match certificates::condition(host, ends, fault, now) {
        Some(valid) => set_condition(&mut status.conditions, valid),
        None => status.conditions.retain(|c| c.type_ != certificates::TLS_VALID),
    }
    set_condition(
        &mut status.conditions,
        Condition {
            type_: "Ready".into(),
            status: ready,
            reason: reason.into(),
            message,
            observed_generation: host.metadata.generation,
            last_transition_time: now.into(),
        },
    );
    status
}

fn capacity(spec: &Capacity, info: &EngineInfo, gpus: usize) -> Capacity {
    // Half of a very small machine rather than nothing.
    let memory = (info.memory_bytes - RESERVED).max(info.memory_bytes / 2);
    Capacity {
        memory: Some(spec.memory.clone().unwrap_or_else(|| Quantity::from_bytes(memory))),
        cpu: Some(spec.cpu.clone().unwrap_or_else(|| Quantity::from_milli(info.cpus * 1000))),
        instances: Some(spec.most_instances()),
        gpus: i64::try_from(gpus).ok().filter(|count| *count > 0),
    }
}

/// The devices that are there for instances: at most as many as the spec says, by the names that the daemon tells, or by
/// number where it tells none.
fn gpus(spec: &Capacity, info: &EngineInfo) -> Vec<String> {
    let Some(most) = spec.gpus else { return info.gpus.clone() };
    let most = usize::try_from(most).unwrap_or_default();
    if info.gpus.is_empty() {
        return (0..most).map(|n| n.to_string()).collect();
    }
    info.gpus.iter().take(most).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::is_true;

    #[test]
    fn the_daemons_words_and_sizes_become_the_status() {
        let mut host = DockerHost::default();
        host.spec.capacity.instances = Some(7);
        let info = EngineInfo { version: "20.10".into(), memory_bytes: 4 << 30, cpus: 2, ..Default::default() };
        let up = status(&host, &Ok(info), None, Timestamp::UNIX_EPOCH);
        assert!(is_true(&up.conditions, "Ready"));
        assert_eq!(up.capacity.memory.as_ref().unwrap().value(), (4 << 30) - RESERVED);
        assert_eq!((up.capacity.cpu.as_ref().unwrap().milli(), up.capacity.instances), (2000, Some(7)));
        let error = EngineError {
            op: "info",
            object: "h".into(),
            kind: EngineErrorKind::Unreachable,
            message: "refused".into(),
        };
        let down = status(&DockerHost { status: up, ..host }, &Err(error), None, Timestamp::UNIX_EPOCH);
        assert!(!is_true(&down.conditions, "Ready"));
        assert_eq!(down.conditions[0].message, "info h: refused");
        assert_eq!(down.version, "20.10", "what was known of it stays");
    }

    #[test]
    fn gpus_are_those_that_are_told_of_or_declared() {
        let told = |names: &[&str]| EngineInfo {
            gpus: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let declared = |gpus| Capacity { gpus, ..Default::default() };
        assert_eq!(gpus(&declared(None), &told(&[])), [""; 0]);
        assert_eq!(gpus(&declared(None), &told(&["GPU-a", "GPU-b"])), ["GPU-a", "GPU-b"]);
        assert_eq!(gpus(&declared(Some(1)), &told(&["GPU-a", "GPU-b"])), ["GPU-a"], "the other is somebody else's");
        assert_eq!(gpus(&declared(Some(3)), &told(&["GPU-a"])), ["GPU-a"], "there are no more");
        assert_eq!(gpus(&declared(Some(2)), &told(&[])), ["0", "1"]);
    }

    #[test]
    fn what_the_way_needs_is_told_as_it_is_now_and_is_no_absence() {
        let mut host: DockerHost = serde_json::from_value(serde_json::json!({
            "spec": {"endpoint": "tcp://10.0.0.3:2376", "tls": {"secret": "w1"}},
        }))
        .unwrap();
        let told = |host: &DockerHost, looked: &Result<EngineInfo, EngineError>, type_: &str| {
            let status = status(host, looked, None, Timestamp::UNIX_EPOCH);
            condition(&status.conditions, type_).map(|c| (c.status, c.reason.clone(), c.message.clone()))
        };
        let no = ConditionStatus::False;
        for (kind, reason) in
            [(EngineErrorKind::Credentials, CREDENTIALS_INVALID), (EngineErrorKind::LoginRefused, LOGIN_REFUSED)]
        {
            for message in ["there is no Secret x", "it has no key y"] {
                let error = EngineError { op: "info", object: "h".into(), kind, message: message.into() };
                assert!(!absent(&error));
                let looked = Err(error);
                assert_eq!(told(&host, &looked, "Ready"), Some((no, reason.to_owned(), message.to_owned())));
                host.status = status(&host, &looked, None, Timestamp::UNIX_EPOCH);
            }
        }
        // Connections that are there still do.
        let info = EngineInfo { credentials_fault: Some("it has no key y".into()), ..Default::default() };
        assert_eq!(told(&host, &Ok(info.clone()), "Ready").map(|t| t.0), Some(ConditionStatus::True));
        let invalid = Some((no, CREDENTIALS_INVALID.to_owned(), "it has no key y".to_owned()));
        assert_eq!(told(&host, &Ok(info), "TLSValid"), invalid);
    }
}
