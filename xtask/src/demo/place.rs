//! The directory of a demo or a benchmark: one of each at a time per user, and what a later run must know to clean up
//! after a killed one.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::server::Seen;
use crate::sys::{self, ProcessRef};

/// Held for as long as the run lives.
pub struct Place {
    /// Of the chore; also of its private fleet.
    pub name: &'static str,
    pub dir: PathBuf,
    _lock: File,
}

/// Written before each thing that it speaks of is made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// A daemon of our own, which goes with everything in it.
    pub private: bool,
    /// The image was not in the daemon before.
    pub image_is_ours: bool,
    pub server: Option<ProcessRef>,
    /// Of the instances: labels on whatever was made for them.
    pub uids: Vec<String>,
}

impl Record {
    /// Adds the uids of instances; none is ever forgotten.
    pub fn note(&mut self, seen: &[Seen]) {
        self.uids.extend(seen.iter().map(|i| i.uid.clone()));
        self.uids.sort();
        self.uids.dedup();
    }
}

impl Place {
    /// Takes the place, or says whose it is.
    pub fn take(name: &'static str) -> Result<Place> {
        let user = sys::user_id();
        let dir = std::env::temp_dir().join(format!("portreeve-{name}-{user}"));
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(e).with_context(|| format!("making {}", dir.display()));
            }
            _ => {}
        }
        let meta = fs::symlink_metadata(&dir)?;
        if !meta.is_dir() || meta.uid() != user || meta.mode() & 0o077 != 0 {
            bail!("{} is not a private directory of ours; please remove it", dir.display());
        }
        let path = dir.join("lock");
        let lock = OpenOptions::new().create(true).append(true).open(&path)?;
        match lock.try_lock() {
            Ok(()) => Ok(Place { name, dir, _lock: lock }),
            Err(TryLockError::WouldBlock) => bail!("another {name} is running; stop it first (Ctrl-C in its terminal)"),
            Err(TryLockError::Error(e)) => Err(e).with_context(|| format!("locking {}", path.display())),
        }
    }

    /// What an earlier run left, if it did not clean up itself.
    pub fn record(&self) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.dir.join("record.json")).ok()?).ok()
    }

    pub fn write(&self, record: &Record) -> Result<()> {
        let (new, path) = (self.dir.join("record.json.new"), self.dir.join("record.json"));
        fs::write(&new, serde_json::to_vec_pretty(record)?)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// The server's data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("serve.log")
    }

    /// Removes all but the lock; the record last, so that an interrupted removal goes on in the next run.
    pub fn empty(&self) -> Result<()> {
        for entry in fs::read_dir(&self.dir)?.flatten() {
            let name = entry.file_name();
            if name == "lock" || name == "record.json" {
                continue;
            }
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("removing {}", path.display()))?;
        }
        match fs::remove_file(self.dir.join("record.json")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context("removing the record"),
            _ => Ok(()),
        }
    }

    /// Leaves nothing.
    pub fn leave(self) -> Result<()> {
        self.empty()?;
        fs::remove_dir_all(&self.dir).with_context(|| format!("removing {}", self.dir.display()))
    }
}
