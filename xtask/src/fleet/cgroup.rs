//! The fleet's containers in a control group of their own, in every hierarchy that this machine has.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use super::state::{Fleet, Host};
use crate::clock;

fn group(name: &str) -> String {
    format!("portreeve-fleet-{name}")
}

/// Where a host's containers go: `/portreeve-fleet-NAME/h1`.
pub fn parent(fleet: &Fleet, host: &Host) -> String {
    format!("/{}/{}", group(&fleet.name), host.name)
}

/// All containers together would weigh as much as one process: gives them more. Where that cannot be set, tests are
/// only slower.
pub fn raise_weight(fleet: &Fleet) {
    for root in roots() {
        let dir = root.join(group(&fleet.name));
        let v2 = root.join("cgroup.controllers").exists();
        if !v2 && !root.join("cpu.shares").exists() {
            continue;
        }
        let _ = fs::create_dir(&dir);
        let _ = if v2 { fs::write(dir.join("cpu.weight"), "1000") } else { fs::write(dir.join("cpu.shares"), "10240") };
    }
}

/// Lets everything of a fleet go on that is frozen: a frozen process hears no kill, and keeps its namespace from ending.
pub fn thaw(name: &str) {
    roots().iter().for_each(|root| thaw_dir(&root.join(group(name))));
}

fn thaw_dir(dir: &Path) {
    for (file, state) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        if dir.join(file).exists() {
            // One that has ended meanwhile is what was wanted.
            let _ = fs::write(dir.join(file), state);
        }
    }
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).for_each(|e| thaw_dir(&e.path()));
}

/// Removes a fleet's groups once their processes are gone.
pub fn remove(name: &str) -> Result<()> {
    for root in roots() {
        remove_dir(&root.join(group(name)))?;
    }
    Ok(())
}

/// One host's groups: after a power cut nothing of them is left on a real machine.
pub fn remove_host(fleet: &Fleet, host: &Host) -> Result<()> {
    for root in roots() {
        remove_dir(&root.join(group(&fleet.name)).join(&host.name))?;
    }
    Ok(())
}

/// Groups of this fleet that exist.
pub fn existing(name: &str) -> Vec<PathBuf> {
    roots().into_iter().map(|r| r.join(group(name))).filter(|p| p.exists()).collect()
}

fn roots() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut roots: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .filter(|(_, tail)| tail.starts_with("cgroup ") || tail.starts_with("cgroup2 "))
        .filter_map(|(head, _)| head.split(' ').nth(4).map(PathBuf::from))
        .collect();
    roots.sort();
    roots.dedup();
    roots
}

/// Groups are removed from the leaves up; their files go along.
fn remove_dir(dir: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_dir(&entry.path())?;
        }
    }
    clock::wait(&format!("removing {}", dir.display()), Duration::from_secs(10), || match fs::remove_dir(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e.to_string()),
    })
}
