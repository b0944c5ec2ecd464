//! The embedded store: everything in memory for reading, every write on disk before it is acknowledged.
//!
//! Threads of its own do all that blocks. The writer takes transactions in groups, makes each group durable with one
//! record in a write-ahead log and one sync, and only then shows and answers it. Another writes the engine's files
//! behind it, so that the log need not grow. Reads, lists and watches never touch the disk.
//!
//! ```text
//! txn ──bounded queue──▶ writer thread: admit ▶ append and sync ▶ commit to the log in memory ▶ answer
//!                                                  └──what changed──▶ checkpoint thread: the engine's files
//! get, list, watch ────▶ the log in memory
//! ```
//!
//! Invariants: acknowledged means durable; what is visible is durable; after a failed sync nothing is written any
//! more. The engine is sled, pinned and fenced in by `engine.rs`; `specs/store.md` tells the rules and their reasons.
//! Nothing here follows tokio's paused clock: simulations take the memory store.

mod behind;
mod checkpoint;
mod codec;
mod engine;
mod format1;
mod home;
mod opening;
mod rewrite;
mod segment;
mod wal;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::log::{HistoryLimits, Log};
use super::{ListRequest, Listing, Record, Result, Revision, Store, StoreError, Txn, Watch};
use behind::{Behind, Bounds};
use engine::EngineError;
use writer::{Request, Writer};

#[derive(Clone, Debug)]
pub struct SledOptions {
    pub history: HistoryLimits,
    /// Writes are refused with `NoSpace` when fewer bytes than this are free, so that the engine, which cannot go on
    /// after a failed write, does not meet the end of the disk.
    pub reserve_bytes: u64,
    /// The files are rewritten when they take more than this many bytes, and more than `compact_factor` times the
    /// bytes of the live records.
    pub compact_min_bytes: u64,
    pub compact_factor: u64,
    /// The engine's files are written when the log has this many bytes that they lack, or after so long when it has any.
    pub checkpoint_bytes: u64,
    pub checkpoint_after: Duration,
    /// Bytes of one file of the log; a multiple of 4096.
    pub segment_bytes: u64,
    /// How long a write may take before it is answered with an error; it may be written all the same.
    pub write_timeout: Duration,
}

impl Default for SledOptions {
    fn default() -> Self {
        SledOptions {
            history: HistoryLimits::default(),
            reserve_bytes: 64 << 20,
            compact_min_bytes: 128 << 20,
            compact_factor: 6,
            checkpoint_bytes: 32 << 20,
            checkpoint_after: Duration::from_secs(300),
            segment_bytes: 8 << 20,
            write_timeout: Duration::from_secs(15),
        }
    }
}

impl SledOptions {
    fn bounds(&self) -> Bounds {
        let segment = self.segment_bytes.next_multiple_of(segment::BLOCK as u64).max(4 * segment::BLOCK as u64);
        Bounds { checkpoint: self.checkpoint_bytes, after: self.checkpoint_after, segment }
    }
}

pub struct SledStore {
    log: Arc<Log>,
    behind: Arc<Behind>,
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    ended: CancellationToken,
    write_timeout: Duration,
}

impl SledStore {
    /// Opens the store in `dir`, making it if there is none.
    ///
    /// # Errors
    /// `Damaged` when the files are not whole or of another format, `Failed` when another process has it open or the
    /// system refuses, `NoSpace` when there is no room even to open it. None of them changes what is stored.
    pub async fn open(dir: &Path, options: SledOptions) -> Result<Arc<SledStore>> {
        let (requests, queue) = mpsc::channel(1024);
        let (opened, opening) = oneshot::channel();
        let ended = CancellationToken::new();
        let (dir, write_timeout, guard) = (dir.to_owned(), options.write_timeout, ended.clone().drop_guard());
        let thread = std::thread::Builder::new().name("store-writer".into());
        let run = move || {
            // Dropped last: whoever waits for the end may open the store again.
            let _ended = guard;
            match Writer::open(&dir, options) {
                Ok(mut writer) => {
                    if opened.send(Ok((writer.log(), writer.behind()))).is_ok() {
                        writer.run(queue);
                    }
                }
                Err(e) => drop(opened.send(Err(e))),
            }
        };
        thread.spawn(run).map_err(|e| StoreError::Failed(format!("starting the store's thread: {e}")))?;
        let (log, behind) =
            opening.await.map_err(|_| StoreError::Damaged("the store's thread panicked while opening".into()))??;
        Ok(Arc::new(SledStore { log, behind, requests: Mutex::new(Some(requests)), ended, write_timeout }))
    }

    /// Takes no more writes, and returns when those taken are done and the files are closed. Reads go on. Not needed
    /// for durability.
    pub async fn close(&self) {
        drop(self.requests.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.ended.cancelled().await;
    }

    /// Returns once the engine's files have all that is acknowledged now, so that the log is not needed for it. Not needed
    /// for durability.
    ///
    /// # Errors
    /// `Failed` when they cannot be written, or the store is being closed.
    pub async fn checkpoint(&self) -> Result<()> {
        let (waiter, written) = oneshot::channel();
        self.behind.want_checkpoint(waiter);
        written.await.unwrap_or_else(|_| Err(StoreError::Failed("it is closed".into())))
    }
}

fn at_open(e: EngineError) -> StoreError {
    match e {
        EngineError::NoSpace(text) => StoreError::NoSpace(text),
        EngineError::Damaged(text) => StoreError::Damaged(text),
        EngineError::Failed(text) => StoreError::Failed(text),
    }
}

#[async_trait]
impl Store for SledStore {
    async fn get(&self, key: &str) -> Result<Option<Record>> {
        Ok(self.log.get(key))
    }

    async fn list(&self, request: ListRequest) -> Result<Listing> {
        self.log.list(&request).await
    }

    async fn txn(&self, txn: Txn) -> Result<Revision> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let requests = requests.ok_or_else(|| StoreError::Failed("it is closed".into()))?;
        let (answer, answered) = oneshot::channel();
        let exchange = async {
            let stopped = || StoreError::Failed("its writer has stopped".into());
            requests.send(Request { txn, answer }).await.map_err(|_| stopped())?;
            answered.await.map_err(|_| stopped())?
        };
        match tokio::time::timeout(self.write_timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Failed(format!(
                "not durable after {:?}: the disk hangs, and the write may or may not happen",
                self.write_timeout
            ))),
        }
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
