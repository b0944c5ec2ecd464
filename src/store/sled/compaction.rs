//! Rewriting the store into fresh files, a step at a time between groups, while writes and reads go on.
//!
//! Records are copied from memory in key order. What changes behind the copy's position is written to the fresh files
//! as well; what changes ahead of it is met on the way. No other thread takes part, so there is nothing to race with.

use std::path::Path;
use std::sync::Arc;

use super::codec::{Head, put_changes, put_record};
use super::engine::{Engine, Result};
use crate::store::Change;
use crate::store::log::Log;

/// Most records, and about how many bytes, that one step copies: what a write may have to wait for.
const STEP: usize = 256;
const STEP_BYTES: usize = 1 << 20;
/// Bytes after which a step syncs, so that the last one has little to do.
const SYNC_BYTES: usize = 16 << 20;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    More,
    /// The fresh files are durable and hold exactly what is committed.
    Complete,
}

pub(super) struct Compaction {
    fresh: Engine,
    /// The last key copied: everything up to it is in the fresh files.
    position: Option<Arc<str>>,
    unsynced: usize,
}

impl Compaction {
    pub fn begin(dir: &Path) -> Result<Compaction> {
        Ok(Compaction { fresh: Engine::open(dir)?, position: None, unsynced: 0 })
    }

    /// Copies some more. `head` is where the store stands; after `Complete`, swap before the next write.
    pub fn step(&mut self, log: &Log, head: Head) -> Result<Step> {
        let page = log.page(self.position.as_deref(), STEP);
        let Some(last) = page.last() else {
            let mut batch = vec![];
            Head { base: head.group, ..head }.put(&mut batch);
            self.fresh.apply(batch)?;
            self.fresh.sync()?;
            return Ok(Step::Complete);
        };
        let mut position = last.key.clone();
        let (mut batch, mut bytes) = (vec![], 0);
        for record in &page {
            put_record(record, &mut batch);
            bytes += record.value.len();
            if bytes > STEP_BYTES {
                position = record.key.clone();
                break;
            }
        }
        self.fresh.apply(batch)?;
        self.position = Some(position);
        self.unsynced += bytes;
        if self.unsynced > SYNC_BYTES {
            self.fresh.sync()?;
            self.unsynced = 0;
        }
        Ok(Step::More)
    }

    /// Takes in what a group changed. To be called for every group, before it is visible.
    pub fn mirror(&mut self, changes: &[Change]) -> Result<()> {
        let Some(position) = &self.position else { return Ok(()) };
        let behind: Vec<Change> = changes.iter().filter(|c| c.key <= *position).cloned().collect();
        if behind.is_empty() {
            return Ok(());
        }
        let mut batch = vec![];
        put_changes(&behind, &mut batch);
        self.fresh.apply(batch)
    }

    pub fn finish(self) -> Engine {
        self.fresh
    }
}
