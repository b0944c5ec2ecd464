//! One file of the write-ahead log: a header and records, one for each group of transactions.
//!
//! ```text
//! block 0   header   magic ‖ sequence ‖ salt ‖ crc                                               (4 KiB, rest zero)
//! then      record   crc ‖ length ‖ salt ‖ first ‖ last ‖ count ‖ sum ‖ changes                  (padded to 8 bytes)
//!           change   revision ‖ key length ‖ 0, key                                              a deletion
//!           change   revision ‖ key length ‖ 1, created ‖ value length, key, value               a put
//! ```
//!
//! A segment has all its blocks from the beginning, so that syncing a record writes no metadata of the file system. It
//! is written in whole blocks: none has to be read for that. A file that served before keeps its old bytes; the salt,
//! drawn anew each time, tells them from records. `count` and `sum` are the digest of the state after the group.
//!
//! A record is synced before the next is written. So a broken one with a whole one behind it is damage; a broken one at
//! the end is a write that was cut off, and never acknowledged.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};

use super::codec::{Digest, Head};
use crate::store::{Change, Record, Revision};

const MAGIC: &[u8; 8] = b"ptrvwal1";
pub(super) const BLOCK: usize = 4096;
/// Of a record, before its changes.
const PREFIX: usize = 48;
const ALIGN: usize = 8;

/// A segment that is appended to.
pub(super) struct Segment {
    file: File,
    pub path: PathBuf,
    pub sequence: u64,
    salt: u64,
    size: u64,
    /// Where `tail` is written: a multiple of the block size.
    start: u64,
    /// What is in the last block already, or, at first, the header.
    tail: Vec<u8>,
    /// The newest revision in it.
    pub last: Option<Revision>,
}

/// A group as it was read.
pub(super) struct Group {
    pub first: Revision,
    /// The state after it.
    pub head: Head,
    pub changes: Vec<Logged>,
}

pub(super) struct Logged {
    pub revision: Revision,
    pub key: Arc<str>,
    pub now: Option<Record>,
}

/// A segment as it was read.
pub(super) struct Scanned {
    /// `None` when it was made ready, but never begun.
    pub salt: Option<u64>,
    /// Where the next record belongs.
    pub end: usize,
    pub bytes: Vec<u8>,
}

pub(super) enum AppendError {
    /// Nothing that could be taken for a record was written.
    Full(io::Error),
    /// What is on disk is unknown.
    Failed(&'static str, io::Error),
}

/// How many bytes a record of these changes takes.
pub(super) fn length(changes: &[Change]) -> usize {
    let each = |c: &Change| 11 + c.key.len() + c.now.as_ref().map_or(0, |r| 12 + r.value.len());
    (PREFIX + changes.iter().map(each).sum::<usize>()).next_multiple_of(ALIGN)
}

fn encode(changes: &[Change], head: Head, salt: u64, into: &mut Vec<u8>) {
    let at = into.len();
    into.resize(at + 8, 0);
    let first = changes.first().map_or(head.revision, |c| c.revision);
    for n in [salt, first.0, head.revision.0, head.digest.count, head.digest.sum] {
        into.put_u64(n);
    }
    for change in changes {
        into.put_u64(change.revision.0);
        into.put_u16(change.key.len() as u16);
        into.put_u8(u8::from(change.now.is_some()));
        if let Some(record) = &change.now {
            into.put_u64(record.created.0);
            into.put_u32(record.value.len() as u32);
        }
        into.put_slice(change.key.as_bytes());
        if let Some(record) = &change.now {
            into.put_slice(&record.value);
        }
    }
    let length = ((into.len() - at - PREFIX) as u32).to_be_bytes();
    into[at + 4..at + 8].copy_from_slice(&length);
    let crc = crc32fast::hash(&into[at + 4..]).to_be_bytes();
    into[at..at + 4].copy_from_slice(&crc);
    into.resize((into.len() - at).next_multiple_of(ALIGN) + at, 0);
}

impl Segment {
    /// Begins in a file that is ready: all blocks there, and a header that says nothing.
    pub fn begin(file: File, path: PathBuf, sequence: u64) -> io::Result<Segment> {
        let mut salt = [0; 8];
        getrandom::fill(&mut salt).map_err(io::Error::other)?;
        let salt = u64::from_be_bytes(salt);
        let size = file.metadata()?.len();
        let mut tail = header(sequence, salt);
        tail.resize(BLOCK, 0);
        Ok(Segment { file, path, sequence, salt, size, start: 0, tail, last: None })
    }

    /// Goes on at the end of what was read, and makes that durable: a killed process may have written without syncing.
    pub fn resume(
        file: File,
        path: PathBuf,
        sequence: u64,
        read: &Scanned,
        last: Option<Revision>,
    ) -> io::Result<Segment> {
        let Some(salt) = read.salt else { return Segment::begin(file, path, sequence) };
        file.sync_data()?;
        let start = read.end / BLOCK * BLOCK;
        let tail = read.bytes[start..read.end].to_vec();
        let size = read.bytes.len() as u64;
        Ok(Segment { file, path, sequence, salt, size, start: start as u64, tail, last })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the next record belongs.
    pub fn end(&self) -> u64 {
        self.start + self.tail.len() as u64
    }

    /// Whether a record of so many bytes still fits.
    pub fn has_room(&self, length: usize) -> bool {
        self.end() + length as u64 <= self.size
    }

    /// Writes one record and makes it durable.
    pub fn append(&mut self, changes: &[Change], head: Head) -> Result<(), AppendError> {
        let before = self.tail.len();
        encode(changes, head, self.salt, &mut self.tail);
        let end = self.tail.len();
        self.tail.resize(end.next_multiple_of(BLOCK), 0);
        let written = self.file.write_all_at(&self.tail, self.start);
        let written = written.map_err(|e| match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AppendError::Full(e),
            _ => AppendError::Failed("writing", e),
        });
        if let Err(e) = written.and_then(|()| self.file.sync_data().map_err(|e| AppendError::Failed("syncing", e))) {
            self.tail.truncate(before);
            return Err(e);
        }
        self.tail.truncate(end);
        let full = end / BLOCK * BLOCK;
        self.tail.drain(..full);
        self.start += full as u64;
        self.last = Some(head.revision);
        Ok(())
    }
}

fn header(sequence: u64, salt: u64) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.put_u64(sequence);
    header.put_u64(salt);
    header.put_u32(crc32fast::hash(&header));
    header
}

/// Reads a segment and hands out its groups, each with where it begins.
///
/// # Errors
/// What is wrong, with the byte where: a header that is none, a broken record before a whole one, or what `each` says.
pub(super) fn read(
    path: &Path,
    sequence: u64,
    mut each: impl FnMut(Group, usize) -> Result<(), String>,
) -> io::Result<Result<Scanned, String>> {
    let bytes = std::fs::read(path)?;
    if bytes.len() < BLOCK {
        return Ok(Err(format!("it has only {} bytes", bytes.len())));
    }
    if bytes[..BLOCK].iter().all(|b| *b == 0) {
        return Ok(Ok(Scanned { salt: None, end: BLOCK, bytes }));
    }
    let salt = (&bytes[16..24]).get_u64();
    if !bytes.starts_with(&header(sequence, salt)) {
        return Ok(Err("its header, at byte 0, fails its checksum or is another segment's".into()));
    }
    let mut end = BLOCK;
    while let Some((group, next)) = record(&bytes, end, salt) {
        let group = match group {
            Some(group) => each(group, end),
            None => Err(format!("the record at byte {end} is whole but not readable")),
        };
        if let Err(why) = group {
            return Ok(Err(why));
        }
        end = next;
    }
    if let Some(behind) = (end + ALIGN..bytes.len()).step_by(ALIGN).find(|at| record(&bytes, *at, salt).is_some()) {
        return Ok(Err(format!(
            "the record at byte {end} fails its checksum, and a whole one is behind it at {behind}"
        )));
    }
    Ok(Ok(Scanned { salt: Some(salt), end, bytes }))
}

/// The record that begins at a byte, and where the next one does; `None` when there is no whole one. Its content is
/// `None` when it says what no record says.
fn record(bytes: &[u8], at: usize, salt: u64) -> Option<(Option<Group>, usize)> {
    let mut prefix = bytes.get(at..at + PREFIX)?;
    if (&prefix[8..16]).get_u64() != salt {
        return None;
    }
    let (crc, length) = (prefix.get_u32(), prefix.get_u32() as usize);
    let whole = bytes.get(at + 4..(at + PREFIX).checked_add(length)?)?;
    if crc32fast::hash(whole) != crc {
        return None;
    }
    prefix.advance(8);
    let (first, revision) = (Revision(prefix.get_u64()), Revision(prefix.get_u64()));
    let digest = Digest { count: prefix.get_u64(), sum: prefix.get_u64() };
    let changes = changes(&whole[PREFIX - 4..]);
    let group = changes.map(|changes| Group { first, head: Head { revision, digest }, changes });
    Some((group, at + (PREFIX + length).next_multiple_of(ALIGN)))
}

fn changes(mut body: &[u8]) -> Option<Vec<Logged>> {
    let mut changes = vec![];
    while body.has_remaining() {
        let revision = Revision(body.try_get_u64().ok()?);
        let key = usize::from(body.try_get_u16().ok()?);
        let put = match body.try_get_u8().ok()? {
            0 => None,
            1 => Some((Revision(body.try_get_u64().ok()?), body.try_get_u32().ok()? as usize)),
            _ => return None,
        };
        let (name, rest) = body.split_at_checked(key)?;
        let key: Arc<str> = std::str::from_utf8(name).ok()?.into();
        body = rest;
        let now = match put {
            None => None,
            Some((created, length)) => {
                let (value, rest) = body.split_at_checked(length)?;
                body = rest;
                Some(Record { key: key.clone(), value: Bytes::copy_from_slice(value), created, modified: revision })
            }
        };
        changes.push(Logged { revision, key, now });
    }
    Some(changes)
}
