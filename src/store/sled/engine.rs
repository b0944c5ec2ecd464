//! The one file that names the sled crate. What is asked of it, and why, is in `specs/store.md`; in short:
//!
//! - one tree, batches only, one writer; what must be durable takes [`Engine::sync`], which is sled's flush and then
//!   our own `fdatasync`, for its flush alone does not outlive a power cut;
//! - segments of 8 MiB and small entries, so that nothing is written to blob files, which sled never syncs;
//! - its background flusher stays on; its watches and its iterators are never used while writing;
//! - it may panic on damaged files: every call is guarded.
//!
//! Written behind the log, so that none of this is waited for. Called by [`super::opening`], and from then on by
//! [`super::checkpoint`], on its thread.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::codec::{Batch, Head, Reader, Records};
use super::format1;
use crate::store::Revision;

const SEGMENT_BYTES: usize = 8 << 20;
/// Pages that sled keeps in memory; all reads are served from our own.
const CACHE_BYTES: u64 = 32 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    #[error("{0}")]
    NoSpace(String),
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Failed(String),
}

pub(super) type Result<T> = std::result::Result<T, EngineError>;

pub(super) struct Engine {
    db: ::sled::Db,
    /// Our own handle on sled's log, for `fdatasync`.
    file: File,
    dir: PathBuf,
}

/// More than sled makes while a directory is listed.
const SNAPSHOTS_MEANWHILE: u32 = 8;

/// How long sled's lock is waited for, and how often it is asked for. The store's own lock is held by then, so that nobody else
/// has the files open: whoever still holds sled's is a process that was forked off the one before and has not become another
/// program yet, which on a busy machine takes a while.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_EVERY: Duration = Duration::from_millis(10);
/// How sled tells of it; it has no kind of its own.
const LOCKED: &str = "could not acquire lock";

impl Engine {
    /// Opens the files in `dir`, or makes them.
    pub fn open(dir: &Path) -> Result<Engine> {
        let open = || {
            let config = ::sled::Config::new().path(dir).segment_size(SEGMENT_BYTES).cache_capacity(CACHE_BYTES);
            config.open()
        };
        let is_locked = |e: &EngineError| matches!(e, EngineError::Failed(text) | EngineError::Damaged(text) if text.contains(LOCKED));
        let mut waited = Duration::ZERO;
        let opened = loop {
            match guarded("opening", open) {
                Err(e) if is_locked(&e) && waited < LOCK_PATIENCE => std::thread::sleep(LOCK_EVERY),
                opened => break opened,
            }
            waited += LOCK_EVERY;
        };
        let db = opened.map_err(|e| match e {
            // At open, whatever is neither a full disk nor the system's refusal speaks of the files.
            EngineError::Failed(text) | EngineError::Damaged(text) => {
                EngineError::Damaged(format!("{}: {text}", dir.join("db").display()))
            }
            full => full,
        })?;
        let file = File::options().write(true).open(dir.join("db")).map_err(|e| io_error("opening the log", &e))?;
        let engine = Engine { db, file, dir: dir.to_owned() };
        engine.sync_files()?;
        Ok(engine)
    }

    /// As [`Engine::open`], where there are files: the engine would make an empty store in their place.
    pub fn open_existing(dir: &Path) -> Result<Engine> {
        if !dir.join("db").is_file() || !dir.join("conf").is_file() {
            return Err(EngineError::Damaged(format!("{} lacks its files: restore a backup", dir.display())));
        }
        Engine::open(dir)
    }

    /// Reads everything and checks each record. Not while something is written.
    pub fn load(&self) -> Result<(Head, Records)> {
        let mut reader = Reader::default();
        self.each(|key, value| reader.entry(key, value))?;
        reader.finish().map_err(|why| self.damaged(&why))
    }

    /// The same of a store of format 1.
    pub fn load_format1(&self) -> Result<(Revision, Records)> {
        let mut reader = format1::Reader::default();
        self.each(|key, value| reader.entry(key, value))?;
        reader.finish().map_err(|why| self.damaged(&why))
    }

    fn each(&self, mut entry: impl FnMut(&[u8], &[u8]) -> std::result::Result<(), String>) -> Result<()> {
        let read = guarded("reading", || {
            for item in self.db.iter() {
                let (key, value) = item?;
                if let Err(why) = entry(&key, &value) {
                    return Ok(Err(why));
                }
            }
            Ok(Ok(()))
        });
        match read {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(self.damaged(&why)),
            Err(e) => Err(self.damaged(&e.to_string())),
        }
    }

    fn damaged(&self, why: &str) -> EngineError {
        EngineError::Damaged(format!("{}: {why}", self.dir.join("db").display()))
    }

    /// Writes a batch whole or not at all; durable only after [`Engine::sync`].
    pub fn apply(&self, entries: Batch) -> Result<()> {
        guarded("writing", || {
            let mut batch = ::sled::Batch::default();
            for (key, value) in entries {
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
            }
            self.db.apply_batch(batch)
        })
    }

    /// Makes all that was applied durable. After an error the engine must not be used any more: the kernel may have
    /// dropped the pages that it could not write.
    pub fn sync(&self) -> Result<()> {
        guarded("flushing", || self.db.flush())?;
        self.file.sync_data().map_err(|e| io_error("syncing the log", &e))
    }

    /// Makes the files themselves durable: their names and what sled wrote beside its log.
    fn sync_files(&self) -> Result<()> {
        let sync = |path: &Path| File::open(path).and_then(|f| f.sync_all());
        let all = || {
            for entry in std::fs::read_dir(&self.dir)? {
                sync(&entry?.path())?;
            }
            sync(&self.dir)
        };
        // sled writes a snapshot under another name, renames it and removes the one before, in its own time: whatever is
        // gone when its turn comes may be there under another name.
        let mut synced = all();
        for _ in 0..SNAPSHOTS_MEANWHILE {
            if !matches!(&synced, Err(e) if e.kind() == ErrorKind::NotFound) {
                break;
            }
            synced = all();
        }
        synced.map_err(|e| io_error("syncing files", &e))
    }

    /// Bytes that the log takes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |m| m.blocks() * 512)
    }
}

fn guarded<T>(doing: &str, call: impl FnOnce() -> ::sled::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(::sled::Error::Io(e))) => Err(io_error(doing, &e)),
        Ok(Err(e @ ::sled::Error::Corruption { .. })) => Err(EngineError::Damaged(format!("{doing}: {e}"))),
        Ok(Err(e)) => Err(EngineError::Failed(format!("{doing}: {e}"))),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(EngineError::Failed(format!("{doing}: panicked: {}", text.unwrap_or_default())))
        }
    }
}

pub(super) fn io_error(doing: &str, e: &std::io::Error) -> EngineError {
    let text = format!("{doing}: {e}");
    match e.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => EngineError::NoSpace(text),
        _ => EngineError::Failed(text),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{FlockOperation, flock};

    use super::*;

    #[test]
    fn a_fork_that_still_holds_the_engines_lock_is_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(Engine::open(dir.path()).expect("made"));
        // What a child has until its exec: another holder of the lock.
        let forked = File::options().write(true).open(dir.path().join("db")).expect("its log");
        flock(&forked, FlockOperation::LockExclusive).expect("locked");
        let exec = std::thread::spawn(move || {
            std::thread::sleep(20 * LOCK_EVERY);
            drop(forked);
        });
        Engine::open(dir.path()).expect("waited for");
        exec.join().expect("no panic");
    }
}
