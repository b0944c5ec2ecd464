//! A host's own small disk: a file system in a file, so that it can be full without anybody else's being.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::state::{Fleet, Host};
use crate::{process, sys};

/// For a host whose directory lies where Docker's storage cannot: sparse, so it takes only what is used.
const AMPLE: &str = "20G";
const FILLER: &str = "filler";

fn image(host: &Host) -> PathBuf {
    host.dir.join("disk.img")
}

/// Makes the disk, unless it is there: a host that was off comes back with its data.
pub fn make(host: &Host) -> Result<()> {
    let image = image(host);
    if image.exists() {
        return Ok(());
    }
    let size = match &host.disk {
        Some(size) => size.as_str(),
        None if sys::on_overlay(&host.dir)? => AMPLE,
        None => return Ok(()),
    };
    let new = host.dir.join("disk.new");
    process::tool(&format!("truncate --size {size} {}", new.display())).context("making a disk")?;
    process::tool(&format!("mkfs.ext4 -q -F -m 0 {}", new.display())).context("making a disk")?;
    Ok(fs::rename(new, image)?)
}

/// In the host's own mount namespace; the loop device goes with the mount.
pub fn mount(host: &Host) -> Result<()> {
    let image = image(host);
    if !image.exists() {
        return Ok(());
    }
    let data = host.dir.join("data");
    process::tool(&format!("mount -o loop {} {}", image.display(), data.display())).map(drop)
}

/// Takes every free block, without writing any: a file of smaller and smaller pieces.
pub fn fill(fleet: &Fleet, host: &Host) -> Result<()> {
    let file = File::create(filler(fleet, host)?)?;
    let mut length = 0;
    for piece in [256 << 20, 16 << 20, 1 << 20, 64 << 10, 4 << 10] {
        loop {
            match sys::allocate(&file, length, piece) {
                Ok(()) => length += piece,
                Err(e) if e.kind() == std::io::ErrorKind::StorageFull => break,
                Err(e) => return Err(e).context("filling the disk"),
            }
        }
    }
    file.sync_all().context("filling the disk")
}

pub fn free(fleet: &Fleet, host: &Host) -> Result<()> {
    match fs::remove_file(filler(fleet, host)?) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context("freeing the disk"),
        _ => Ok(()),
    }
}

/// The disk as the host sees it, reached through its first process.
fn filler(fleet: &Fleet, host: &Host) -> Result<PathBuf> {
    if host.disk.is_none() {
        bail!(
            "{} shares this machine's disk: cargo xtask fleet up N --disk {}=512M --name {}",
            host.name,
            host.name,
            fleet.name
        );
    }
    let Some(init) = host.init() else { bail!("{} is off", host.name) };
    let data = host.dir.join("data");
    let inside = data.strip_prefix("/").unwrap_or(&data);
    Ok(Path::new(&format!("/proc/{}/root", init.pid)).join(inside).join(FILLER))
}
