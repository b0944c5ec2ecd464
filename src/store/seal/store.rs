//! A store that seals what is written under a prefix and opens what is read of it; all else passes through.
//!
//! Given to those who answer authorised requests or fill containers. Everyone else (cache, most controllers) has the
//! store behind it, and so cannot show what is sealed.

use std::sync::Arc;

use async_trait::async_trait;

use super::super::{
    Change, ListRequest, Listing, Op, Record, Result, Revision, SharedStore, Store, StoreError, Txn, Watch,
};
use super::{Keyring, record};

/// Records of a list that are opened at a stretch.
const OPEN_CHUNK: usize = 64;

pub struct SealingStore {
    inner: SharedStore,
    sealer: Sealer,
}

#[derive(Clone)]
struct Sealer {
    ring: Arc<Keyring>,
    prefix: Arc<str>,
}

impl Sealer {
    fn seals(&self, key: &str) -> bool {
        key.starts_with(&*self.prefix)
    }

    fn opened(&self, mut record: Record) -> Result<Record> {
        if self.seals(&record.key) {
            let plain = record::open(&self.ring, &record.value);
            let plain = plain.map_err(|e| StoreError::Sealed { key: record.key.to_string(), why: e.to_string() })?;
            record.value = plain.into();
        }
        Ok(record)
    }
}

impl SealingStore {
    /// `prefix`: of the keys whose values are sealed, such as `secrets/`.
    pub fn over(inner: SharedStore, ring: Arc<Keyring>, prefix: &str) -> SharedStore {
        Arc::new(SealingStore { inner, sealer: Sealer { ring, prefix: prefix.into() } })
    }

    /// Whether a store has sealed records, and whether this ring opens every one: to be asked before serving.
    ///
    /// # Errors
    /// `Sealed` for the first record of a key that the ring does not have, or that is no sealed record.
    pub async fn check(store: &dyn Store, ring: Option<&Keyring>, prefix: &str) -> Result<usize> {
        let listing = store.list(ListRequest { prefix: prefix.to_owned(), ..ListRequest::default() }).await?;
        for found in &listing.records {
            let id = record::key_id(&found.value);
            let why = match id {
                Ok(id) if ring.is_some_and(|ring| !ring.knows(&id)) => super::OpenError::UnknownKey(id).to_string(),
                Ok(_) => continue,
                Err(e) => e.to_string(),
            };
            return Err(StoreError::Sealed { key: found.key.to_string(), why });
        }
        Ok(listing.records.len())
    }
}

#[async_trait]
impl Store for SealingStore {
    async fn get(&self, key: &str) -> Result<Option<Record>> {
        self.inner.get(key).await?.map(|record| self.sealer.opened(record)).transpose()
    }

    async fn list(&self, request: ListRequest) -> Result<Listing> {
        let mut listing = self.inner.list(request).await?;
        for (i, record) in listing.records.iter_mut().enumerate() {
            if !self.sealer.seals(&record.key) {
                continue;
            }
            // Opening takes some ten microseconds; other tasks of the thread get a turn.
            if i % OPEN_CHUNK == OPEN_CHUNK - 1 {
                tokio::task::yield_now().await;
            }
            *record = self.sealer.opened(record.clone())?;
        }
        Ok(listing)
    }

    async fn txn(&self, mut txn: Txn) -> Result<Revision> {
        for op in &mut txn.then {
            if let Op::Put { key, value } = op
                && self.sealer.seals(key)
            {
                let sealed = record::seal(&self.sealer.ring, value);
                let refused = |why: &str| StoreError::Sealed { key: key.clone(), why: format!("not written: {why}") };
                *value = sealed.map_err(refused)?.into();
            }
        }
        self.inner.txn(txn).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>> {
        let inner = self.inner.watch(prefix, from).await?;
        Ok(Box::new(OpeningWatch { inner, sealer: self.sealer.clone() }))
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.inner.compact(revision).await
    }

    fn revision(&self) -> Revision {
        self.inner.revision()
    }

    fn beneath(&self) -> Option<SharedStore> {
        Some(self.inner.clone())
    }
}

struct OpeningWatch {
    inner: Box<dyn Watch>,
    sealer: Sealer,
}

#[async_trait]
impl Watch for OpeningWatch {
    async fn next(&mut self) -> Result<Change> {
        let mut change = self.inner.next().await?;
        change.now = change.now.map(|r| self.sealer.opened(r)).transpose()?;
        change.before = change.before.map(|r| self.sealer.opened(r)).transpose()?;
        Ok(change)
    }
}
