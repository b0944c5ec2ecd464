//! The store in memory, for simulation and tests: no disk, no threads, and the same order of events on every run.
//!
//! It promises what every store promises but durability: its content lives as long as the value does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::log::{HistoryLimits, Log};
use super::{ListRequest, Listing, Record, Result, Revision, SharedStore, Store, Txn, Watch};

pub struct MemoryStore {
    log: Arc<Log>,
    /// Held by the one that drafts and commits.
    writer: Mutex<()>,
}

impl MemoryStore {
    #[expect(clippy::new_ret_no_self, reason = "every user wants it shared and behind the trait")]
    pub fn new() -> SharedStore {
        Self::with_history(HistoryLimits::default())
    }

    /// An empty store that keeps no more history than this.
    pub fn with_history(limits: HistoryLimits) -> SharedStore {
        let log = Log::new(BTreeMap::new(), Revision(0), limits);
        Arc::new(MemoryStore { log, writer: Mutex::new(()) })
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Record>> {
        Ok(self.log.get(key))
    }

    async fn list(&self, request: ListRequest) -> Result<Listing> {
        self.log.list(&request).await
    }

    async fn txn(&self, txn: Txn) -> Result<Revision> {
        let _one = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut draft = self.log.draft();
        let revision = self.log.admit(&mut draft, txn)?;
        self.log.commit(draft);
        Ok(revision)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>> {
        self.log.watch(prefix, from)
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.log.compact(revision)
    }

    fn revision(&self) -> Revision {
        self.log.revision()
    }
}
