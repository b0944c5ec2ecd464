//! The bytes of the engine's files: records in chunks, and the head, which tells what they must add up to.
//!
//! ```text
//! c                head     crc ‖ revision ‖ count ‖ sum
//! r ‖ key ‖ 0 ‖ 0  record   crc ‖ created ‖ modified ‖ length ‖ first chunk
//! r ‖ key ‖ 0 ‖ n  record   chunk n
//! ```
//!
//! The head says that everything up to its revision is in; of what came later some may be in as well, and the log
//! ([`super::wal`]) has all of it. Integers are big-endian; a crc covers the key and all that follows it. Values are
//! cut into chunks because a leaf of large values would leave the engine's log for files that it never syncs.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::store::{Change, Record, Revision};

/// A leaf holds up to about 20 entries and must stay below 2 MiB (a quarter of a segment).
const CHUNK: usize = 32 << 10;

/// Puts and removals, in order; of two for one key the later wins.
pub(super) type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

pub(super) type Records = BTreeMap<Arc<str>, Record>;

/// What a state adds up to: equal states have equal digests, and a record that is lost, stale or too many shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest {
    pub count: u64,
    /// Of the records' checksums.
    pub sum: u64,
}

impl Digest {
    pub fn of<'a>(records: impl Iterator<Item = &'a Record>) -> Digest {
        records.fold(Digest::default(), |digest, record| digest.with(record))
    }

    fn with(self, record: &Record) -> Digest {
        Digest { count: self.count.wrapping_add(1), sum: self.sum.wrapping_add(u64::from(crc_of(record))) }
    }

    fn without(self, record: &Record) -> Digest {
        Digest { count: self.count.wrapping_sub(1), sum: self.sum.wrapping_sub(u64::from(crc_of(record))) }
    }

    /// After these changes.
    pub fn after(self, changes: &[Change]) -> Digest {
        changes.iter().fold(self, |digest, change| {
            let less = change.before.as_ref().map_or(digest, |before| digest.without(before));
            change.now.as_ref().map_or(less, |now| less.with(now))
        })
    }
}

/// Where a state stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub revision: Revision,
    pub digest: Digest,
}

impl Head {
    /// The entry of this head.
    pub fn put(&self, batch: &mut Batch) {
        let mut body = vec![];
        for n in [self.revision.0, self.digest.count, self.digest.sum] {
            body.put_u64(n);
        }
        batch.push((b"c".to_vec(), Some(sealed(b"c", &body))));
    }
}

/// The entries of one record.
pub(super) fn put_record(record: &Record, batch: &mut Batch) {
    let mut first = Vec::with_capacity(24 + record.value.len().min(CHUNK));
    first.put_u32(crc_of(record));
    first.put_u64(record.created.0);
    first.put_u64(record.modified.0);
    first.put_u32(record.value.len() as u32);
    first.put_slice(&record.value[..record.value.len().min(CHUNK)]);
    batch.push((chunk_key(&record.key, 0), Some(first)));
    for (n, chunk) in record.value.chunks(CHUNK).enumerate().skip(1) {
        batch.push((chunk_key(&record.key, n), Some(chunk.to_vec())));
    }
}

/// Makes a key hold `now`, where it may have had up to `had` chunks.
pub(super) fn put_state(key: &str, now: Option<&Record>, had: usize, batch: &mut Batch) {
    if let Some(record) = now {
        put_record(record, batch);
    }
    for n in now.map_or(0, chunks)..had {
        batch.push((chunk_key(key, n), None));
    }
}

pub(super) fn chunks(record: &Record) -> usize {
    record.value.len().div_ceil(CHUNK).max(1)
}

fn chunk_key(key: &str, n: usize) -> Vec<u8> {
    [b"r", key.as_bytes(), &[0, n as u8]].concat()
}

pub(super) fn crc_of(record: &Record) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(record.key.as_bytes());
    crc.update(&record.created.0.to_be_bytes());
    crc.update(&record.modified.0.to_be_bytes());
    crc.update(&record.value);
    crc.finalize()
}

fn sealed(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(body);
    [&crc.finalize().to_be_bytes(), body].concat()
}

pub(super) fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let body = value.get(4..)?;
    (sealed(key, body) == value).then_some(body)
}

/// Takes the entries of the engine in key order and gives its content, or what is wrong with it.
#[derive(Default)]
pub(super) struct Reader {
    assembly: Assembly,
    head: Option<Head>,
}

impl Reader {
    pub fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match key.first() {
            Some(b'r') => self.assembly.entry(key, value),
            Some(b'c') => {
                let mut body = unseal(key, value).filter(|b| b.len() == 24).ok_or("the head fails its checksum")?;
                let revision = Revision(body.get_u64());
                self.head = Some(Head { revision, digest: Digest { count: body.get_u64(), sum: body.get_u64() } });
                Ok(())
            }
            _ => Err(format!("an entry of unknown kind: {:?}", String::from_utf8_lossy(key))),
        }
    }

    pub fn finish(self) -> Result<(Head, Records), String> {
        let records = self.assembly.finish()?;
        Ok((self.head.ok_or("the head is missing")?, records))
    }
}

/// Puts records together from their chunks, which come in order.
#[derive(Default)]
pub(super) struct Assembly {
    records: Records,
    partial: Option<Partial>,
}

struct Partial {
    crc: u32,
    record: Record,
    value: BytesMut,
    length: usize,
    next: usize,
}

impl Assembly {
    pub fn entry(&mut self, key: &[u8], mut value: &[u8]) -> Result<(), String> {
        let [b'r', name @ .., 0, n] = key else { return Err("a record without a name".into()) };
        let name = std::str::from_utf8(name).map_err(|_| "a record whose name is no text")?;
        if *n == 0 {
            self.finish_record()?;
            if value.len() < 24 {
                return Err(format!("{name}: the record is cut short"));
            }
            let (crc, created, modified) = (value.get_u32(), value.get_u64(), value.get_u64());
            let length = value.get_u32() as usize;
            let record = Record {
                key: name.into(),
                value: Bytes::new(),
                created: Revision(created),
                modified: Revision(modified),
            };
            self.partial = Some(Partial { crc, record, value: value.into(), length, next: 1 });
            return Ok(());
        }
        match &mut self.partial {
            Some(partial) if *partial.record.key == *name && partial.next == usize::from(*n) => {
                partial.value.put_slice(value);
                partial.next += 1;
                Ok(())
            }
            _ => Err(format!("{name}: chunk {n} of the record has none before it")),
        }
    }

    fn finish_record(&mut self) -> Result<(), String> {
        let Some(partial) = self.partial.take() else { return Ok(()) };
        let record = Record { value: partial.value.freeze(), ..partial.record };
        if record.value.len() != partial.length || crc_of(&record) != partial.crc {
            return Err(format!("{}: the record fails its checksum", record.key));
        }
        self.records.insert(record.key.clone(), record);
        Ok(())
    }

    pub fn finish(mut self) -> Result<Records, String> {
        self.finish_record()?;
        Ok(self.records)
    }
}
