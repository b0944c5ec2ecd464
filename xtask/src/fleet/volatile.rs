//! A file system that waits for no disk: what is synced on it has reached this machine's memory, and is lost should the
//! machine lose power, as it may be. A dozen tests at once have daemons and servers sync all the time, and on a machine
//! whose disk is slow, or somebody else's too, a container's start then takes longer than anybody waits.
//!
//! Not tmpfs: what a container writes there counts as its memory for good, and those with little are killed for it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::{process, sys};

/// The file is sparse: only what is written is taken of the disk.
const SIZE: &str = "40G";

/// Mounts one on this directory. Its image has no name: it goes with the mount, also should we be killed.
pub fn mount(dir: &Path) -> Result<()> {
    let image = dir.with_extension("image");
    let made = make(&image, dir);
    // never there for longer than it is needed; what could not be made may not have one
    let _ = fs::remove_file(&image);
    made.with_context(|| format!("a file system on {}", dir.display()))
}

fn make(image: &Path, dir: &Path) -> Result<()> {
    let (image, dir) = (image.display(), dir.display());
    process::tool(&format!("truncate --size {SIZE} {image}"))?;
    process::tool(&format!("mkfs.ext4 -q -F -m 0 -O ^has_journal -E lazy_itable_init=1,root_owner=0:0 {image}"))?;
    process::tool(&format!("mount -o loop,barrier=0,noatime {image} {dir}")).map(drop)
}

/// Nothing is mounted on most directories, and that is fine.
pub fn unmount(dir: &Path) {
    if let Some(target) = dir.to_str() {
        let _ = sys::unmount(target);
    }
}
