//! Stores of format 1, which had no log of their own: read once, at the open that makes them format 2.
//!
//! ```text
//! h           head     crc ‖ group ‖ revision ‖ base
//! j ‖ slot    journal  crc ‖ group ‖ first ‖ last ‖ entries: what the group wrote, with checksums
//! r ‖ …       records  as they are today
//! ```
//!
//! Every group of transactions was one batch of the engine, with the head and one of 16 journal slots, used in turn:
//! they show a batch that is there in part.

use std::collections::HashMap;

use bytes::Buf as _;

use super::codec::{Assembly, Records, crc_of, unseal};
use crate::store::Revision;

const SLOTS: u64 = 16;

struct Head {
    revision: Revision,
    /// Number of the newest group.
    group: u64,
    /// The group that these files began after: the journal has none up to it.
    base: u64,
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
    assembly: Assembly,
    head: Option<Head>,
    slots: Vec<Slot>,
}

impl Reader {
    pub fn entry(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match key.first() {
            Some(b'r') => return self.assembly.entry(key, value),
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

    /// Checks that every group is there as a whole.
    pub fn finish(mut self) -> Result<(Revision, Records), String> {
        let records = self.assembly.finish()?;
        let head = self.head.ok_or("the head is missing")?;
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
        for (key, crc) in &wrote {
            if records.get(*key).map(crc_of) != *crc {
                return Err(format!("{key}: the record is not the one that the journal names"));
            }
        }
        let first = self.slots.first().map_or(head.revision.0 + 1, |slot| slot.first);
        if let Some(stray) = records.values().find(|r| r.modified.0 >= first && !wrote.contains_key(&*r.key)) {
            return Err(format!("{}: revision {} is not in the journal", stray.key, stray.modified.0));
        }
        Ok((head.revision, records))
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
