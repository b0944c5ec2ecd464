//! The write-ahead log: what is acknowledged is in it, and stays until the engine's files have it as well.
//!
//! ```text
//! wal/0000000007.log    segments, numbered without a gap; the newest is written to
//! wal/spare-3.log       made ready to be the next one
//! wal/spare-3.tmp       being made ready; removed at open
//! ```
//!
//! The writer appends ([`Wal`]); the engine's thread makes spares, of what the engine has caught up with or anew, so
//! that the writer need not wait for that. Which those are is kept in [`super::behind`].

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::behind::{Behind, Sealed, Spare};
use super::codec::Head;
use super::home::sync_dir;
use super::segment::{self, AppendError, BLOCK, Group, Segment};
use crate::store::{Change, Result, Revision, StoreError};

pub(super) struct Wal {
    dir: PathBuf,
    active: Segment,
    segment_bytes: u64,
    behind: Arc<Behind>,
}

/// What the log was found to be.
pub(super) struct Found {
    pub active: Segment,
    pub sealed: Vec<Sealed>,
    pub spares: Vec<Spare>,
    /// Where its newest group leads.
    pub head: Option<Head>,
    /// Where that one ends, for whoever misses one behind it.
    pub end: String,
}

/// Makes a log that has nothing in it, in place of what may be there.
pub(super) fn create(dir: &Path, segment_bytes: u64) -> io::Result<Found> {
    super::home::remove_dir(dir)?;
    fs::create_dir(dir)?;
    dir.parent().map_or(Ok(()), sync_dir)?;
    let active = begin(dir, 1, make(dir, 0, segment_bytes)?)?;
    Ok(Found { active, sealed: vec![], spares: vec![], head: None, end: String::new() })
}

/// Reads a log and hands out its groups in order. `known` is the revision that the engine's files lead to.
///
/// # Errors
/// `Damaged`, with the file and the byte, when it is not whole; `Failed` when the system refuses.
pub(super) fn open(dir: &Path, known: Revision, segment_bytes: u64, mut each: impl FnMut(Group)) -> Result<Found> {
    let failed = |e: io::Error| super::at_open(super::engine::io_error("opening the log", &e));
    let (segments, spares) = files(dir, segment_bytes).map_err(failed)?;
    let damaged = |why: String| StoreError::Damaged(format!("{why}; restore a backup"));
    let Some(newest) = segments.last().map(|(n, _)| *n) else {
        return Err(damaged(format!("{} has no segments: the log is missing", dir.display())));
    };
    let (mut head, mut end) = (None::<Head>, String::new());
    let (mut sealed, mut active) = (vec![], None);
    for (expected, (sequence, path)) in (segments[0].0..).zip(segments) {
        if sequence != expected {
            return Err(damaged(format!("{} is missing", dir.join(segment_name(expected)).display())));
        }
        let mut last = None;
        let read = segment::read(&path, sequence, |group, at| {
            match head {
                None if group.first.0 > known.0 + 1 => {
                    let (first, known) = (group.first.0, known.0);
                    return Err(format!("it begins with revision {first}, but the files before it end with {known}"));
                }
                Some(before) if group.first.0 != before.revision.0 + 1 => {
                    let (first, before) = (group.first.0, before.revision.0);
                    return Err(format!("revision {first}, at byte {at}, does not follow {before}, which ends {end}"));
                }
                _ => {}
            }
            head = Some(group.head);
            last = Some(group.head.revision);
            each(group);
            Ok(())
        });
        let read = read.map_err(failed)?.map_err(|why| damaged(format!("{}: {why}", path.display())))?;
        end = format!("at byte {} of {}", read.end, path.display());
        if sequence < newest {
            sealed.push(Sealed { bytes: read.bytes.len() as u64, path, last });
        } else {
            let file = File::options().write(true).open(&path).map_err(failed)?;
            active = Some(Segment::resume(file, path, sequence, &read, last).map_err(failed)?);
        }
    }
    sync_dir(dir).map_err(failed)?;
    let active = active.ok_or_else(|| damaged(format!("{} has no segments", dir.display())))?;
    Ok(Found { active, sealed, spares, head, end })
}

/// The segments in order, and the spares, made ready again; what was left half made is removed.
#[expect(clippy::type_complexity, reason = "two lists of files, taken apart at once")]
fn files(dir: &Path, segment_bytes: u64) -> io::Result<(Vec<(u64, PathBuf)>, Vec<Spare>)> {
    let (mut segments, mut spares) = (vec![], vec![]);
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((segments, spares)),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if let Some(number) = name.strip_suffix(".log").and_then(|n| n.strip_prefix("spare-")?.parse().ok()) {
            if fs::metadata(&path)?.len() == segment_bytes {
                spares.push(ready(path, number)?);
            } else {
                fs::remove_file(&path)?;
            }
        } else if name.ends_with(".tmp") {
            fs::remove_file(&path)?;
        } else if let Some(sequence) = name.strip_suffix(".log").and_then(|n| n.parse().ok()) {
            segments.push((sequence, path));
        }
    }
    segments.sort();
    Ok((segments, spares))
}

fn segment_name(sequence: u64) -> String {
    format!("{sequence:010}.log")
}

/// Makes a spare with all its blocks.
pub(super) fn make(dir: &Path, number: u64, bytes: u64) -> io::Result<Spare> {
    let temporary = dir.join(format!("spare-{number}.tmp"));
    let result = (|| {
        let mut file = File::create(&temporary)?;
        let zeros = vec![0; 256 << 10];
        let mut left = bytes;
        while left > 0 {
            let part = left.min(zeros.len() as u64);
            file.write_all(&zeros[..part as usize])?;
            left -= part;
        }
        file.sync_all()?;
        let path = dir.join(format!("spare-{number}.log"));
        fs::rename(&temporary, &path)?;
        Ok(Spare { number, path })
    })();
    if result.is_err() {
        // What it took of a full disk is given back.
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Makes a spare of a segment that is not needed any more.
pub(super) fn recycle(dir: &Path, segment: &Path, number: u64) -> io::Result<Spare> {
    let path = dir.join(format!("spare-{number}.log"));
    fs::rename(segment, &path)?;
    // Before its header goes: a segment without one would be damage.
    sync_dir(dir)?;
    ready(path, number)
}

/// Takes the header away, so that it is never taken for that of the segment to come.
fn ready(path: PathBuf, number: u64) -> io::Result<Spare> {
    let mut file = File::options().write(true).open(&path)?;
    file.write_all(&[0; BLOCK])?;
    file.sync_data()?;
    Ok(Spare { number, path })
}

/// Makes a spare the segment of this number.
fn begin(dir: &Path, sequence: u64, spare: Spare) -> io::Result<Segment> {
    let path = dir.join(segment_name(sequence));
    fs::rename(&spare.path, &path)?;
    sync_dir(dir)?;
    Segment::begin(File::options().write(true).open(&path)?, path, sequence)
}

impl Wal {
    pub fn new(dir: PathBuf, active: Segment, segment_bytes: u64, behind: Arc<Behind>) -> Wal {
        Wal { dir, active, segment_bytes, behind }
    }

    /// Makes a group durable. Returns the bytes that it took.
    ///
    /// # Errors
    /// `NoSpace`: nothing happened. `Failed`: it is unknown what did, and the log must not be used any more.
    pub fn append(&mut self, changes: &[Change], head: Head) -> Result<u64> {
        let length = segment::length(changes);
        if !self.active.has_room(length) {
            self.rotate(length).map_err(|e| match super::engine::io_error("beginning a segment of the log", &e) {
                super::engine::EngineError::NoSpace(text) => StoreError::NoSpace(text),
                other => StoreError::Failed(other.to_string()),
            })?;
        }
        match self.active.append(changes, head) {
            Ok(()) => Ok(length as u64),
            Err(AppendError::Full(e)) => Err(StoreError::NoSpace(format!("writing the log: {e}"))),
            Err(AppendError::Failed(doing, e)) => Err(StoreError::Failed(format!("{doing} the log: {e}"))),
        }
    }

    fn rotate(&mut self, length: usize) -> io::Result<()> {
        // A group may be larger than a segment: then it has one of its own size.
        let needed = (BLOCK + length).next_multiple_of(BLOCK) as u64;
        let spare = if needed > self.segment_bytes { None } else { self.behind.take_spare() };
        let spare = match spare {
            Some(spare) => spare,
            None => make(&self.dir, self.behind.number(), needed.max(self.segment_bytes))?,
        };
        let next = begin(&self.dir, self.active.sequence + 1, spare)?;
        let full = std::mem::replace(&mut self.active, next);
        self.behind.seal(Sealed { bytes: full.size(), path: full.path, last: full.last });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
