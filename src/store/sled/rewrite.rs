//! Writing all records into fresh files, while writes go on.
//!
//! The copy is of no one moment: what changes behind its position is not in it, what changes ahead of it is. The log has
//! all that changed since `head`, and is laid over it at open as over any other files.

use super::codec::{Batch, Head, put_record};
use super::engine::{Engine, Result};
use crate::store::Record;

/// Most records, and about how many bytes, of one batch.
const STEP: usize = 256;
const STEP_BYTES: usize = 1 << 20;
/// Bytes after which they are synced.
const SYNC_BYTES: usize = 16 << 20;

/// Whether a copy was made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// It is durable.
    Whole,
    /// It was told to stop.
    Stopped,
}

/// Copies what `page` gives, from after a key up to so many records in key order. `head`: all up to it is in them.
pub(super) fn copy(
    fresh: &Engine,
    head: Head,
    page: impl Fn(Option<&str>, usize) -> Vec<Record>,
    stop: impl Fn() -> bool,
) -> Result<Copied> {
    let (mut position, mut unsynced) = (None, 0);
    loop {
        if stop() {
            return Ok(Copied::Stopped);
        }
        let records = page(position.as_deref(), STEP);
        let (mut batch, mut bytes): (Batch, usize) = (vec![], 0);
        for record in records {
            put_record(&record, &mut batch);
            bytes += record.value.len();
            position = Some(record.key);
            if bytes > STEP_BYTES {
                break;
            }
        }
        if batch.is_empty() {
            break;
        }
        fresh.apply(batch)?;
        unsynced += bytes;
        if unsynced > SYNC_BYTES {
            fresh.sync()?;
            unsynced = 0;
        }
    }
    fresh.sync()?;
    let mut batch = vec![];
    head.put(&mut batch);
    fresh.apply(batch)?;
    fresh.sync()?;
    Ok(Copied::Whole)
}
