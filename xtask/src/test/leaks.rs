//! What a run left behind: in the daemons, before they go, and on this machine, afterwards.
//!
//! Only what the run could have made counts; whatever else happens on the machine meanwhile is not ours.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::clock;
use crate::docker::{Docker, Object};
use crate::fleet::state::{self, Fleet};
use crate::fleet::{cgroup, down};
use crate::sys::{self, ProcessRef};

/// In the environment of every process that a run starts, down to the last grandchild.
pub const MARK: &str = "PORTREEVE_TEST_RUN";

/// What we label, whichever cluster it is of.
const LABEL: &str = "portreeve.dev/cluster";

pub struct Leaks {
    name: String,
    temp: PathBuf,
    /// The network interface that leads to the run's daemons.
    pub link: Option<String>,
}

impl Leaks {
    pub fn new(name: &str, temp: &Path) -> Leaks {
        Leaks { name: name.into(), temp: temp.into(), link: None }
    }

    /// Fails with a list of what is there.
    pub fn check(&self) -> Result<()> {
        let mut found = Vec::new();
        // a process that was told to end may need a moment
        let settled = clock::wait("", Duration::from_secs(5), || {
            let left = processes(&self.name);
            if left.is_empty() { Ok(()) } else { Err(String::new()) }
        });
        if settled.is_err() {
            for (process, line) in processes(&self.name) {
                found.push(format!("process {} ({line}), killed now", process.pid));
                process.kill()?;
            }
        }
        found.extend(self.files());
        found.extend(down::loops(&state::dir(&self.name)).into_iter().map(|d| format!("loop device {d}")));
        found.extend(cgroup::existing(&self.name).into_iter().map(|d| format!("control group {}", d.display())));
        found.extend(self.mounts()?.into_iter().map(|m| format!("mount {m}")));
        let link = self.link.iter().filter(|link| Path::new("/sys/class/net").join(link).exists());
        found.extend(link.map(|l| format!("network interface {l}")));
        if found.is_empty() { Ok(()) } else { bail!("left behind:\n  {}", found.join("\n  ")) }
    }

    /// After an interruption: the tests had no time to clean up, so that is done for them.
    pub fn clear(&self) -> Result<()> {
        for (process, _) in processes(&self.name) {
            process.kill()?;
        }
        discard(&self.temp)?;
        fs::create_dir_all(&self.temp)?;
        Ok(())
    }

    fn mounts(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string("/proc/self/mountinfo")?;
        let (fleet, temp) = (state::dir(&self.name).display().to_string(), self.temp.display().to_string());
        let ours = text.lines().filter(|line| line.contains(&fleet) || line.contains(&temp));
        Ok(ours.filter_map(|l| l.split(' ').nth(4)).map(str::to_owned).collect())
    }

    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        if let Ok(entries) = fs::read_dir(&self.temp) {
            found.extend(entries.flatten().map(|e| format!("temporary file {}", e.path().display())));
        }
        let fleet = state::dir(&self.name);
        if fleet.exists() {
            found.push(format!("directory {}", fleet.display()));
        }
        found
    }
}

/// Live processes of a run, with their command lines. They carry the run's mark in their environment, which nobody
/// has by chance.
fn processes(name: &str) -> Vec<(ProcessRef, String)> {
    let mark = format!("{MARK}={name}");
    let fleet = format!("PORTREEVE_FLEET={}", state::dir(name).display());
    let ours = |pid: i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&b| b == 0).any(|v| v == mark.as_bytes() || v == fleet.as_bytes())
    };
    let pids = sys::pids().into_iter().filter(|&pid| ours(pid));
    pids.filter_map(ProcessRef::of)
        .filter(ProcessRef::alive)
        .map(|process| {
            let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            (process, line.trim().to_owned())
        })
        .collect()
}

/// Removes a directory and what tests have mounted below it, innermost first. A loop device goes with its mount.
fn discard(dir: &Path) -> Result<()> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let below: Vec<&str> =
        text.lines().filter_map(|l| l.split(' ').nth(4)).filter(|at| Path::new(at).starts_with(dir)).collect();
    for at in below.iter().rev() {
        sys::unmount(at)?;
    }
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// Removes what runs left that were killed: their tests' processes and temporary files. Their fleets are
/// [`down::clean_orphans`]'s.
pub fn clean_orphans() -> Result<()> {
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        let file = entry.file_name();
        let name = file.to_str().and_then(|n| n.strip_prefix("portreeve-")).filter(|n| n.starts_with("test-"));
        let owner = state::recorded(&entry.path().join("owner"));
        let (Some(name), Some(owner)) = (name, owner) else { continue };
        let ours = entry.metadata().is_ok_and(|m| m.is_dir() && m.uid() == sys::user_id());
        if ours && !owner.alive() {
            for (process, _) in processes(name) {
                process.kill()?;
            }
            discard(&entry.path())?;
        }
    }
    Ok(())
}

/// What tests left in the daemons under our label.
pub fn in_daemons(fleet: &Fleet) -> Result<()> {
    let mut found = Vec::new();
    for host in &fleet.hosts {
        let docker = Docker::at(&host.socket);
        for object in [Object::Container, Object::Network, Object::Volume] {
            for id in docker.labelled(object, LABEL)? {
                found.push(format!("{} {object:?} {id}", host.name));
            }
        }
    }
    if found.is_empty() { Ok(()) } else { bail!("left behind:\n  {}", found.join("\n  ")) }
}
