//! Taking a fleet down: also one that was never quite up, or whose runner was killed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::state::{self, Fleet};
use super::{cgroup, lock, registry, switch, volatile};
use crate::{clock, process, sys};

pub fn down(name: &str) -> Result<()> {
    if !sys::is_root() {
        bail!("a fleet needs root: it consists of namespaces and mounts");
    }
    let lock = lock::fleet(name)?;
    clean(name)?;
    lock.remove();
    Ok(())
}

/// Removes every fleet whose owner is gone: its processes went with the owner, its files did not.
pub fn clean_orphans() -> Result<()> {
    let Ok(entries) = fs::read_dir(state::ROOT) else { return Ok(()) };
    for entry in entries.flatten() {
        let Ok(fleet) = Fleet::read(&entry.path()) else { continue };
        if fleet.owner.is_some_and(|owner| !owner.alive()) {
            down(&fleet.name).with_context(|| format!("removing what fleet {} left", fleet.name))?;
        }
    }
    Ok(())
}

/// Removes everything of this name. The caller holds the fleet's lock.
pub fn clean(name: &str) -> Result<()> {
    let dir = state::dir(name);
    if dir.exists() {
        // a process that is not yet entered finds its directory gone, or its starter dead, and ends by itself
        for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?.flatten() {
            if let Some(init) = state::recorded(&entry.path().join("init.pid")) {
                // an error means that it is gone
                let _ = init.signal(libc::SIGKILL);
                cgroup::thaw(name);
                init.kill()?;
            }
        }
        if let Ok(fleet) = Fleet::read(&dir) {
            // takes the other end along; the namespace itself would take its time
            let _ = process::tool(&format!("ip link del {}", switch::link(&fleet)));
        }
        if let Some(switch) = state::recorded(&dir.join("switch.pid")) {
            switch.kill()?;
        }
        // the last one that writes here
        registry::end(&dir)?;
    }
    cgroup::remove(name)?;
    if dir.exists() {
        loops_gone(&dir)?;
        volatile::unmount(&dir);
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    Ok(())
}

/// Loop devices go with the last mount, a moment after its namespace.
fn loops_gone(dir: &Path) -> Result<()> {
    clock::wait("the end of the loop devices", Duration::from_secs(10), || match loops(dir) {
        devices if devices.is_empty() => Ok(()),
        devices => Err(devices.join(", ")),
    })
}

/// Loop devices over files in this directory.
pub fn loops(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let backed = |name: &str| fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).unwrap_or_default();
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    names.filter(|name| Path::new(backed(name).trim()).starts_with(dir)).collect()
}
