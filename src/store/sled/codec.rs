//! The bytes of the store on disk: records in chunks, the head, and the journal that shows torn writes at open.
//!
//! ```text
//! h                head     crc ‖ group ‖ revision ‖ base
//! j ‖ slot         journal  crc ‖ group ‖ first ‖ last ‖ entries: what the group wrote, with checksums
//! r ‖ key ‖ 0 ‖ 0  record   crc ‖ created ‖ modified ‖ length ‖ first chunk
//! r ‖ key ‖ 0 ‖ n  record   chunk n
//! ```
//!
//! A group is the transactions made durable together, in one batch with the head and one journal slot; slots are
//! used in turn. Integers are big-endian; a crc covers the key and all that follows it. Values are cut into chunks
//! because a leaf of large values would leave the engine's log for files that it never syncs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::store::{Change, Record, Revision};

/// A leaf holds up to about 20 entries and must stay below 2 MiB (a quarter of a segment).
const CHUNK: usize = 32 << 10;
/// How many groups the journal remembers: more than could be lost unsynced, of which there is never more than one.
const SLOTS: u64 = 16;

/// Puts and removals, in order; of two for one key the later wins.
pub(super) type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Where a store stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub revision: Revision,
    /// Number of the newest group.
    pub group: u64,
    /// The group that these files began after: the journal has none up to it.
    pub base: u64,
}

/// What was read at open.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub head: Head,
    pub records: BTreeMap<Arc<str>, Record>,
}

impl Head {
    /// The entry of this head.
    pub fn put(&self, batch: &mut Batch) {
        let mut body = vec![];
        for n in [self.group, self.revision.0, self.base] {
            body.put_u64(n);
        }
        batch.push((b"h".to_vec(), Some(sealed(b"h", &body))));
    }
}

/// The batch of one group: its records, its journal slot and the new head.
pub(super) fn group_batch(changes: &[Change], head: Head) -> Batch {
    let mut batch = vec![];
    put_changes(changes, &mut batch);
    let mut last: HashMap<&str, &Change> = HashMap::new();
    for change in changes {
        last.insert(&change.key, change);
    }
    let mut body = vec![];
    body.put_u64(head.group);
    body.put_u64(changes.first().map_or(head.revision.0, |c| c.revision.0));
    body.put_u64(head.revision.0);
    for change in last.values() {
        body.put_u16(change.key.len() as u16);
        body.put_slice(change.key.as_bytes());
        match &change.now {
            Some(record) => {
                body.put_u8(1);
                body.put_u32(crc_of(record));
            }
            None => {
                body.put_u8(0);
                body.put_u32(0);
            }
        }
    }
    let key = [b'j', (head.group % SLOTS) as u8];
    batch.push((key.to_vec(), Some(sealed(&key, &body))));
    head.put(&mut batch);
    batch
}

/// The entries of these changes' records alone.
pub(super) fn put_changes(changes: &[Change], batch: &mut Batch) {
    for change in changes {
        let had = change.before.as_ref().map_or(0, chunks);
        let has = change.now.as_ref().map_or(0, chunks);
        if let Some(record) = &change.now {
            put_record(record, batch);
        }
        for n in has..had {
            batch.push((chunk_key(&change.key, n), None));
        }
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

fn chunks(record: &Record) -> usize {
    record.value.len().div_ceil(CHUNK).max(1)
}

fn chunk_key(key: &str, n: usize) -> Vec<u8> {
    [b"r", key.as_bytes(), &[0, n as u8]].concat()
}

fn crc_of(record: &Record) -> u32 {
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

fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let body = value.get(4..)?;
    (sealed(key, body) == value).then_some(body)
}

struct Slot {
    group: u64,
    first: u64,
    last: u64,
    /// The checksum of each key's record, `None` for a deleted one.
    wrote: Vec<(String, Option<u32>)>,
}

/// Takes the entries of a store in key order and gives its content, or what is wrong with it.
#[derive(Default)]
pub(super) struct Reader {
    content: Content,
    head: Option<Head>,
    slots: Vec<Slot>,
    partial: Option<Partial>,
}

struct Partial {
    crc: u32,
    record: Record,
    value: BytesMut,
    length: usize,
    next: usize,
}

impl Reader {
    pub fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match key.first() {
            Some(b'r') => return self.record(key, value),
            Some(b'h') => {
                let mut body = unseal(key, value).filter(|b| b.len() == 24).ok_or("the head fails its checksum")?;
                let (group, revision, base) = (body.get_u64(), Revision(body.get_u64()), body.get_u64());
                self.head = Some(Head { revision, group, base });
            }
            Some(b'j') => {
                let slot = unseal(key, value).and_then(read_slot);
                self.slots.push(slot.ok_or("the journal fails its checksum")?);
            }
            _ => return Err(format!("an entry of unknown kind: {:?}", String::from_utf8_lossy(key))),
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], mut value: &[u8]) -> Result<(), String> {
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
        self.content.records.insert(record.key.clone(), record);
        Ok(())
    }

    /// Checks that every group is there as a whole.
    pub fn finish(mut self) -> Result<Content, String> {
        self.finish_record()?;
        let head = self.head.ok_or("the head is missing")?;
        self.content.head = head;
        self.slots.sort_by_key(|slot| slot.group);
        let expected = (head.group.saturating_sub(SLOTS).max(head.base) + 1)..=head.group;
        if !self.slots.iter().map(|s| s.group).eq(expected.clone()) {
            return Err(format!("the journal does not have the groups {expected:?}"));
        }
        if self.slots.windows(2).any(|pair| pair[0].last + 1 != pair[1].first)
            || self.slots.last().is_some_and(|newest| newest.last != head.revision.0)
        {
            return Err(format!("the journal does not lead to revision {}", head.revision.0));
        }
        let mut wrote: HashMap<&str, Option<u32>> = HashMap::new();
        for (key, crc) in self.slots.iter().flat_map(|slot| &slot.wrote) {
            wrote.insert(key, *crc);
        }
        let records = &self.content.records;
        for (key, crc) in &wrote {
            if records.get(*key).map(crc_of) != *crc {
                return Err(format!("{key}: the record is not the one that the journal names"));
            }
        }
        let first = self.slots.first().map_or(head.revision.0 + 1, |slot| slot.first);
        if let Some(stray) = records.values().find(|r| r.modified.0 >= first && !wrote.contains_key(&*r.key)) {
            return Err(format!("{}: revision {} is not in the journal", stray.key, stray.modified.0));
        }
        Ok(self.content)
    }
}

fn read_slot(mut body: &[u8]) -> Option<Slot> {
    let (group, first, last) = (body.try_get_u64().ok()?, body.try_get_u64().ok()?, body.try_get_u64().ok()?);
    let mut wrote = vec![];
    while body.has_remaining() {
        let length = usize::from(body.try_get_u16().ok()?);
        let key = String::from_utf8(body.get(..length)?.to_vec()).ok()?;
        body.advance(length);
        let exists = body.try_get_u8().ok()? == 1;
        let crc = body.try_get_u32().ok()?;
        wrote.push((key, exists.then_some(crc)));
    }
    Some(Slot { group, first, last, wrote })
}
