//! A store whose writes fail on demand, for tests of those who write to it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use portreeve::store::{
    ListRequest, Listing, Op, Record, Result, Revision, SharedStore, Store, StoreError, Txn, Watch,
};
use tokio_util::sync::CancellationToken;

/// How a write goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and nothing happens.
    Refused,
    /// The disk is full: it fails and nothing happens.
    NoSpace,
    /// It happens, but the caller gets an error.
    AnswerLost,
    /// It does not happen, and the caller never hears of it. What others write does happen.
    Hang,
    /// It happens, and the caller is dead before it hears of it: from then on no write is made or answered.
    Halt,
}

/// Passes everything on to another store; the writes named before with [`FaultyStore::plan`] go wrong.
pub struct FaultyStore {
    inner: SharedStore,
    plan: Mutex<VecDeque<(String, u64, Fault)>>,
    writes: Mutex<u64>,
    halted: CancellationToken,
}

impl FaultyStore {
    pub fn over(inner: SharedStore) -> Arc<FaultyStore> {
        Arc::new(FaultyStore {
            inner,
            plan: Mutex::default(),
            writes: Mutex::default(),
            halted: CancellationToken::default(),
        })
    }

    /// After `skip` more writes to keys with `prefix`, the next one goes wrong; once.
    pub fn plan(&self, prefix: &str, skip: u64, fault: Fault) {
        self.plan.lock().unwrap().push_back((prefix.to_owned(), skip, fault));
    }

    /// How many of what was planned have not gone wrong yet.
    pub fn planned(&self) -> usize {
        self.plan.lock().unwrap().len()
    }

    /// Waits for a [`Fault::Halt`].
    pub async fn halted(&self) {
        self.halted.cancelled().await;
    }

    /// How many transactions were asked for: what an idle system must not raise.
    pub fn writes(&self) -> u64 {
        *self.writes.lock().unwrap()
    }

    fn due(&self, txn: &Txn) -> Option<Fault> {
        let touches = |prefix: &str| {
            txn.then.iter().any(|op| {
                let (Op::Put { key, .. } | Op::Delete { key }) = op;
                key.starts_with(prefix)
            })
        };
        let mut plan = self.plan.lock().unwrap();
        let mut due = None;
        for (at, (prefix, skip, _)) in plan.iter_mut().enumerate() {
            if touches(prefix) {
                match skip.checked_sub(1) {
                    Some(left) => *skip = left,
                    None => due = due.or(Some(at)),
                }
            }
        }
        plan.remove(due?).map(|(_, _, fault)| fault)
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn get(&self, key: &str) -> Result<Option<Record>> {
        self.inner.get(key).await
    }

    async fn list(&self, request: ListRequest) -> Result<Listing> {
        self.inner.list(request).await
    }

    async fn txn(&self, txn: Txn) -> Result<Revision> {
        if self.halted.is_cancelled() {
            return std::future::pending().await;
        }
        *self.writes.lock().unwrap() += 1;
        match self.due(&txn) {
            None => self.inner.txn(txn).await,
            Some(Fault::Refused) => Err(StoreError::Failed("planned: nothing was written".into())),
            Some(Fault::NoSpace) => Err(StoreError::NoSpace("planned: nothing was written".into())),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Halt) => {
                self.inner.txn(txn).await?;
                self.halted.cancel();
                std::future::pending().await
            }
            Some(Fault::AnswerLost) => {
                self.inner.txn(txn).await?;
                Err(StoreError::Failed("planned: written, but the answer was lost".into()))
            }
        }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>> {
        self.inner.watch(prefix, from).await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.inner.compact(revision).await
    }

    fn revision(&self) -> Revision {
        self.inner.revision()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portreeve::store::MemoryStore;

    #[tokio::test]
    async fn planned_writes_go_wrong_once_and_in_their_way() {
        let store = FaultyStore::over(MemoryStore::new());
        store.plan("a/", 1, Fault::Refused);
        store.plan("b/", 0, Fault::AnswerLost);
        let put = |key: &str| {
            let op = Op::Put { key: key.into(), value: "v".into() };
            store.txn(Txn { when: vec![], then: vec![op] })
        };
        assert_eq!(put("a/1").await, Ok(Revision(1)));
        assert_eq!(put("c/1").await, Ok(Revision(2)));
        assert!(put("a/2").await.is_err() && store.get("a/2").await.unwrap().is_none());
        assert!(put("b/1").await.is_err() && store.get("b/1").await.unwrap().is_some());
        assert_eq!((put("a/2").await, put("b/2").await), (Ok(Revision(4)), Ok(Revision(5))));
        store.plan("d/", 0, Fault::NoSpace);
        assert!(matches!(put("d/1").await, Err(StoreError::NoSpace(_))));
        assert_eq!((store.revision(), store.writes()), (Revision(5), 7));
    }
}
