//! The host's status: is the daemon there, what is it, what may instances use of it, and what do they reserve.
//!
//! What is reserved is looked at with each check, so however many instances come and go meanwhile, it is one write in
//! that time, and none while nothing changes.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::super::Context;
use super::super::recorder::EventType;
use super::{certificates, record};
use crate::docker::engine::{EngineError, EngineErrorKind, EngineInfo};
use crate::model::{
    Capacity, Condition, ConditionStatus, DAEMON_CHANGED, DAEMON_SHARED, DockerHost, DockerHostStatus, Key, Quantity,
    Resource, Time, UNREACHABLE, condition, set_condition,
};
use crate::scheduler::allocated;
use crate::store::{StoreError, typed};

/// Between two checks. `info` is a real operation: a daemon whose containerd hangs still answers pings.
const EVERY: Duration = Duration::from_secs(4);
/// Failures in a row that make a host not ready: one can be a daemon's restart.
const FAILURES: u32 = 2;
/// Memory of a host that instances do not get unless `spec.capacity` says so.
const RESERVED: i64 = 512 << 20;

pub async fn run(ctx: &Context, name: &str) {
    let mut failures = 0;
    // Of a host that is reached in another way now, nothing is known yet.
    ctx.absences.forget(name);
    loop {
        let Some(host) = record(ctx, name) else { return };
        let looked = match ctx.engines.engine(&host) {
            Ok(engine) => engine.info().await,
            Err(e) => Err(e),
        };
        ctx.absences.note(name, answered(&looked), ctx.clock.monotonic());
        failures = if looked.is_ok() { 0 } else { failures + 1 };
        let seen_before = condition(&host.status.conditions, "Ready").is_some();
        if (looked.is_ok() || failures >= FAILURES || !seen_before)
            && let Err(e) = report(ctx, &host, &looked).await
        {
            tracing::warn!(host = name, error = %e, "the host's status was not written");
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Whether someone is there, be it the wrong one or one who refuses.
fn answered(looked: &Result<EngineInfo, EngineError>) -> bool {
    !matches!(looked, Err(e) if matches!(e.kind, EngineErrorKind::Unreachable | EngineErrorKind::Timeout))
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
    status.allocated = Some(allocated(&ctx.cache.on_node(&host.metadata.name)));
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
            status.capacity = capacity(&host.spec.capacity, info);
            status.certificate_expires = info.certificates_end.map(Time::from);
            (ConditionStatus::True, "Connected", format!("Docker {} answers", info.version))
        }
        Err(e) if e.kind == EngineErrorKind::WrongDaemon => {
            let message = format!("{}; to accept it in place of the other, set spec.daemonID to its id", e.message);
            (ConditionStatus::False, DAEMON_CHANGED, message)
        }
        Err(e) => {
            // The first words stay: those of later tries differ, and each would be a write that wakes everyone.
            let told = condition(&status.conditions, "Ready").filter(|c| c.reason == UNREACHABLE);
            (ConditionStatus::False, UNREACHABLE, told.map_or_else(|| e.to_string(), |c| c.message.clone()))
        }
    };
    let ends = status.certificate_expires.map(|t| t.timestamp());
    match certificates::condition(host, ends, now) {
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

fn capacity(spec: &Capacity, info: &EngineInfo) -> Capacity {
    // Half of a very small machine rather than nothing.
    let memory = (info.memory_bytes - RESERVED).max(info.memory_bytes / 2);
    Capacity {
        memory: Some(spec.memory.clone().unwrap_or_else(|| Quantity::from_bytes(memory))),
        cpu: Some(spec.cpu.clone().unwrap_or_else(|| Quantity::from_milli(info.cpus * 1000))),
        instances: Some(spec.most_instances()),
    }
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
}
