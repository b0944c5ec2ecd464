//! The store's directory: who may use it, and which files in it count.
//!
//! ```text
//! LOCK      held (flock) by the process that has the store open
//! CURRENT   names the format and the data directory that counts; replaced by rename, never edited
//! ACKED     the newest acknowledged revision, written after each sync and not itself synced
//! data-N    one engine's files; any that CURRENT does not name are left-overs of a crash and are removed
//! wal       the log: what is acknowledged and not in the engine's files yet
//! ```
//!
//! ACKED finds what the log cannot tell by itself: whether its newest record was cut off before it was acknowledged, or
//! damaged afterwards. It is never ahead of what is durable, so it can only be right or too low.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, statvfs};

use crate::store::{Result, Revision, StoreError};

/// The format that this program writes. Raise it when the codec or these files change.
pub(super) const FORMAT: u32 = 2;
/// The oldest that it reads.
const OLDEST: u32 = 1;
const MAGIC: &str = "portreeve store";

/// What CURRENT says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Current {
    pub format: u32,
    /// The N of the data directory.
    pub generation: u64,
    /// Whether it was made completely; if not, nothing was ever acknowledged from it.
    pub ready: bool,
}

impl Current {
    /// This program's format, and made completely.
    pub fn ready(generation: u64) -> Current {
        Current { format: FORMAT, generation, ready: true }
    }
}

pub(super) struct Home {
    root: PathBuf,
    acked: File,
    lock: File,
}

impl Drop for Home {
    /// Closing alone does not do it while a child process that another thread has forked, and that has not come to its exec
    /// yet, holds the same open file.
    fn drop(&mut self) {
        if let Err(e) = flock(&self.lock, FlockOperation::Unlock) {
            tracing::warn!(store = %self.root.display(), error = %e, "the store's lock ends only with this process");
        }
    }
}

impl Home {
    /// Takes the directory, making it if it is not there. A store of a newer format is left untouched.
    pub fn take(root: &Path) -> Result<(Home, Option<Current>)> {
        let failed = |doing: &str| {
            let doing = format!("{doing} {}", root.display());
            move |e: io::Error| StoreError::Failed(format!("{doing}: {e}"))
        };
        read_current(root)?;
        if !root.exists() {
            fs::create_dir_all(root).map_err(failed("making"))?;
            root.parent().map_or(Ok(()), sync_dir).map_err(failed("syncing the parent of"))?;
        }
        let open =
            |name: &str| File::options().read(true).write(true).create(true).truncate(false).open(root.join(name));
        let lock = open("LOCK").map_err(failed("opening LOCK in"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
            rustix::io::Errno::WOULDBLOCK => {
                let holder = fs::read_to_string(root.join("LOCK")).unwrap_or_default();
                StoreError::Failed(format!(
                    "{} is in use by another process (pid {}): only one may have the store open",
                    root.display(),
                    holder.trim(),
                ))
            }
            e => StoreError::Failed(format!("locking {}: {e}", root.join("LOCK").display())),
        })?;
        // Again, now that nobody else can change it.
        let current = read_current(root)?;
        if current.is_none()
            && let Some(stray) = data_dirs(root).map_err(failed("listing"))?.first()
        {
            return Err(StoreError::Damaged(format!(
                "{} is missing although there is {}: restore a backup, or move the directory away",
                root.join("CURRENT").display(),
                stray.1.display(),
            )));
        }
        lock.set_len(0).map_err(failed("writing LOCK in"))?;
        (&lock).write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(failed("writing LOCK in"))?;
        let acked = open("ACKED").map_err(failed("opening ACKED in"))?;
        sync_dir(root).map_err(failed("syncing"))?;
        Ok((Home { root: root.to_owned(), acked, lock }, current))
    }

    pub fn data_dir(&self, generation: u64) -> PathBuf {
        self.root.join(format!("data-{generation}"))
    }

    pub fn wal_dir(&self) -> PathBuf {
        self.root.join("wal")
    }

    /// Makes `current` the one that counts, atomically and durably. After an error it is unknown which one does.
    pub fn set_current(&self, current: Current) -> io::Result<()> {
        let state = if current.ready { "ready" } else { "new" };
        let text = format!("{MAGIC}\nformat {}\ndata {}\nstate {state}\n", current.format, current.generation);
        let temporary = self.root.join("CURRENT.new");
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, self.root.join("CURRENT"))?;
        sync_dir(&self.root)
    }

    /// Removes what a crash left: every data directory but this generation's.
    pub fn remove_others(&self, generation: u64) -> io::Result<()> {
        for (number, dir) in data_dirs(&self.root)? {
            if number != generation {
                remove_dir(&dir)?;
            }
        }
        Ok(())
    }

    /// Notes that `revision` is durable. To be called after the sync and before the answer.
    pub fn note_acked(&self, revision: Revision) -> io::Result<()> {
        let number = revision.0.to_be_bytes();
        let crc = crc32fast::hash(&number).to_be_bytes();
        self.acked.write_all_at(&[&number[..], &crc].concat(), 0)
    }

    /// The newest revision noted, if the note survived.
    pub fn acked(&self) -> Option<Revision> {
        let mut note = [0; 12];
        self.acked.read_exact_at(&mut note, 0).ok()?;
        let (number, crc) = note.split_first_chunk::<8>()?;
        (crc32fast::hash(number).to_be_bytes() == *crc).then(|| Revision(u64::from_be_bytes(*number)))
    }

    /// Bytes that are free for this process where the store is.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let fs = statvfs(&self.root)?;
        Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
    }
}

/// What CURRENT says; `None` when there is none.
fn read_current(root: &Path) -> Result<Option<Current>> {
    let path = root.join("CURRENT");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => String::new(),
        Err(e) => return Err(StoreError::Failed(format!("reading {}: {e}", path.display()))),
    };
    let damaged = || StoreError::Damaged(format!("{} is not readable: {text:?}", path.display()));
    let mut lines = text.lines();
    let mut field = |name: &str| lines.next()?.strip_prefix(name).map(str::to_owned);
    field(MAGIC).filter(String::is_empty).ok_or_else(damaged)?;
    let format: u32 = field("format ").and_then(|n| n.parse().ok()).ok_or_else(damaged)?;
    if !(OLDEST..=FORMAT).contains(&format) {
        return Err(StoreError::Damaged(format!(
            "{} is of format {format}, this program knows formats {OLDEST} to {FORMAT}; nothing was changed",
            root.display(),
        )));
    }
    let generation = field("data ").and_then(|n| n.parse().ok()).ok_or_else(damaged)?;
    let ready = match field("state ").as_deref() {
        Some("ready") => true,
        Some("new") => false,
        _ => return Err(damaged()),
    };
    Ok(Some(Current { format, generation, ready }))
}

fn data_dirs(root: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = vec![];
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|n| n.strip_prefix("data-")?.parse().ok());
        found.extend(number.map(|n| (n, entry.path())));
    }
    Ok(found)
}

pub(super) fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    // The parent of a relative path's first part is the empty path: the working directory.
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_given_up_is_free_although_a_fork_still_holds_its_files() {
        let root = tempfile::tempdir().expect("a directory");
        let (home, _) = Home::take(root.path()).expect("taken");
        // What a child has until its exec: the same open file.
        let forked = home.lock.try_clone().expect("another descriptor");
        assert!(Home::take(root.path()).is_err(), "it is in use");
        drop(home);
        Home::take(root.path()).expect("it is free");
        drop(forked);
    }
}
