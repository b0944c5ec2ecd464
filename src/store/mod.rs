//! The store: a revisioned key-value log in the shape of etcd, so that an embedded and a clustered backend map alike.
//!
//! Every committed transaction gets the next [`Revision`]. An acknowledged write is on disk. Keys are
//! [`crate::model::Key`] texts (`instances/default/alice`) or private to a user of the store (`meta/…`); values are
//! bytes that the store does not look into.
//!
//! ```text
//! api, controllers ──txn──▶ Store ──watch──▶ cache, api watches
//! ```

mod log;
mod memory;
pub mod removal;
pub mod seal;
mod sled;
pub mod splice;
mod topics;
pub mod typed;

pub use self::sled::{SledOptions, SledStore};
pub use log::HistoryLimits;
pub use memory::MemoryStore;
pub use seal::{Keyring, SealingStore};

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

/// Number of a committed transaction: starts at 1, rises by one, never falls, survives restarts and restores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// One stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub key: Arc<str>,
    pub value: Bytes,
    /// The revision that created the key (after its last deletion).
    pub created: Revision,
    /// The revision that last wrote it: the object's resourceVersion.
    pub modified: Revision,
}

/// What must hold at commit, for the whole transaction to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    Absent {
        key: String,
    },
    /// The key exists and was last written by this revision.
    Unchanged {
        key: String,
        modified: Revision,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Put {
        key: String,
        value: Bytes,
    },
    /// Deleting an absent key is no error and makes no change event.
    Delete {
        key: String,
    },
}

/// All or nothing. No key may be written twice in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub when: Vec<Precondition>,
    pub then: Vec<Op>,
}

/// What to list: keys with `prefix`, in byte order.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    pub prefix: String,
    /// Only keys after this one (the last key of the page before).
    pub after: Option<String>,
    /// Most records to return; `None`: all.
    pub limit: Option<usize>,
    /// Bytes of their values after which no further record is returned, but one is; `None`: however many.
    pub bytes: Option<usize>,
    /// The state as of this revision; `None`: the newest.
    pub at: Option<Revision>,
    /// Whether to count what follows the last record, which takes time with its number.
    pub count: bool,
}

#[derive(Clone, Debug)]
pub struct Listing {
    pub records: Vec<Record>,
    /// The revision that the listing shows.
    pub revision: Revision,
    /// Whether records with the prefix come after the last returned one.
    pub more: bool,
    /// How many do, if they were to be counted; `None` also when writes outran the counting.
    pub remaining: Option<usize>,
}

/// One change to one key. The changes of one transaction carry the same revision and come one after another.
#[derive(Clone, Debug)]
pub struct Change {
    pub revision: Revision,
    pub key: Arc<str>,
    /// The new record; `None` when deleted.
    pub now: Option<Record>,
    /// The record before; `None` when created.
    pub before: Option<Record>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A precondition did not hold; nothing was written.
    #[error("{key}: a precondition failed: {}", match current { Some(r) => format!("it is at revision {}", r.modified.0), None => "it does not exist".into() })]
    Conflict { key: String, current: Option<Box<Record>> },
    /// The history asked for is no longer kept.
    #[error("revision {asked} is compacted; the oldest kept is {oldest}")]
    Compacted { asked: u64, oldest: u64 },
    #[error("revision {asked} is in the future; the newest is {newest}")]
    Future { asked: u64, newest: u64 },
    #[error("{key}: {size} bytes are more than the {limit} allowed")]
    TooLarge { key: String, size: usize, limit: usize },
    /// The disk is full. Nothing was acknowledged; reads go on; heals by itself when there is space.
    #[error("no space left: {0}")]
    NoSpace(String),
    /// The backend failed; after a failed sync the store takes no more writes until it is opened again.
    #[error("the store failed: {0}")]
    Failed(String),
    /// A sealed record does not open, or one was not written because it could not be sealed.
    #[error("{key}: {why}")]
    Sealed { key: String, why: String },
    /// The store's files are damaged or of another version: refused at open.
    #[error("the store cannot be opened: {0}")]
    Damaged(String),
}

pub type Result<T> = std::result::Result<T, StoreError>;

/// A stream of changes. Dropping it ends the watch.
#[async_trait]
pub trait Watch: Send {
    /// The next change, in order, without gap or duplicate. `Err(Compacted)` when this reader fell so far behind that
    /// the history it needs is gone: list again. Cancel safe.
    async fn next(&mut self) -> Result<Change>;
}

/// The store.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    async fn get(&self, key: &str) -> Result<Option<Record>>;
    async fn list(&self, request: ListRequest) -> Result<Listing>;
    /// Commits, and returns once it is durable. A transaction whose preconditions hold but whose `then` changes
    /// nothing (no ops, or only deletes of absent keys) returns the current revision.
    async fn txn(&self, txn: Txn) -> Result<Revision>;
    /// Changes to keys with `prefix` after revision `from`.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Box<dyn Watch>>;
    /// Forgets history before `revision`: lists and watches from before it fail with `Compacted`.
    async fn compact(&self, revision: Revision) -> Result<()>;
    /// The newest committed revision.
    fn revision(&self) -> Revision;
    /// The store whose sealed records this one opens; `None` when it opens none.
    fn beneath(&self) -> Option<SharedStore> {
        None
    }
}

pub type SharedStore = Arc<dyn Store>;

/// A store with its sealed records as they are stored: for who must not fail on one that does not open.
pub fn unopened(store: &SharedStore) -> SharedStore {
    store.beneath().unwrap_or_else(|| store.clone())
}
