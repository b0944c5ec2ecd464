//! Faults and cures: of a host's daemon, and of the whole host.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::state::{Fleet, Host};
use super::{cgroup, host};
use crate::clock;
use crate::sys::{self, ProcessRef};

fn daemon(host: &Host) -> Result<ProcessRef> {
    host.dockerd().with_context(|| format!("the daemon of {} does not run", host.name))
}

/// The daemon dies; its containers go on.
pub fn kill(_: &Fleet, host: &Host) -> Result<()> {
    daemon(host)?.kill()
}

/// Starts the daemon (and containerd, should it be missing) and waits until it answers.
pub fn start(_: &Fleet, host: &Host) -> Result<()> {
    let init = host.init().with_context(|| format!("{} is off", host.name))?;
    // after a kill, its parent may not have noticed yet, and would start nothing
    clock::wait("the end of the old daemon", Duration::from_secs(10), || {
        let zombie = sys::pids().into_iter().filter_map(sys::stat).any(|s| s.parent == init.pid && s.zombie);
        if zombie { Err("it is still listed".into()) } else { Ok(()) }
    })?;
    init.signal(libc::SIGUSR1)?;
    host::answers(host)
}

/// As `systemctl restart docker`: its containers stop.
pub fn restart(fleet: &Fleet, host: &Host) -> Result<()> {
    let daemon = daemon(host)?;
    daemon.signal(libc::SIGTERM)?;
    daemon.gone(Duration::from_secs(60))?;
    start(fleet, host)
}

/// The daemon hangs.
pub fn pause(_: &Fleet, host: &Host) -> Result<()> {
    let daemon = daemon(host)?;
    daemon.signal(libc::SIGSTOP)?;
    clock::wait("the daemon's stop", Duration::from_secs(5), || match sys::stat(daemon.pid) {
        Some(stat) if !stat.stopped => Err("it still runs".into()),
        _ => Ok(()),
    })
}

pub fn resume(_: &Fleet, host: &Host) -> Result<()> {
    daemon(host)?.signal(libc::SIGCONT)?;
    host::answers(host)
}

/// A power cut: nothing is told, everything stops. The disk stays.
pub fn off(fleet: &Fleet, host: &Host) -> Result<()> {
    let init = host.init().with_context(|| format!("{} is off already", host.name))?;
    init.signal(libc::SIGKILL)?;
    cgroup::thaw(&fleet.name);
    init.kill()?;
    cgroup::remove_host(fleet, host)
}

pub fn on(fleet: &Fleet, host: &Host) -> Result<()> {
    if host.init().is_some() {
        bail!("{} is on already", host.name);
    }
    let child = host::begin(fleet, host)?;
    host::finish(host, child)
}
