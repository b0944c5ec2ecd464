//! The store's one writer: makes groups of transactions durable in the log, shows and answers them.
//!
//! Runs on a thread of its own. In a group, each transaction is decided against those before it; all are written in
//! one record with one sync. While a group syncs, the next one gathers in the queue: load makes groups larger.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::SledOptions;
use super::behind::Behind;
use super::checkpoint::{Checkpointer, drop_quietly};
use super::codec::Head;
use super::home::Home;
use super::opening::{Opened, open};
use super::wal::Wal;
use crate::store::log::{Draft, Log};
use crate::store::{Op, Result, Revision, StoreError, Txn};

/// Most transactions, and about how many bytes, in one group.
const GROUP: usize = 256;
const GROUP_BYTES: usize = 4 << 20;

pub(super) struct Request {
    pub txn: Txn,
    pub answer: oneshot::Sender<Result<Revision>>,
}

pub(super) struct Writer {
    log: Arc<Log>,
    options: SledOptions,
    /// Where the log leads.
    head: Head,
    wal: Wal,
    behind: Arc<Behind>,
    checkpoints: Option<JoinHandle<()>>,
    /// Last, so that the lock outlives the files.
    home: Arc<Home>,
}

impl Writer {
    pub fn open(dir: &Path, options: SledOptions) -> Result<Writer> {
        let Opened { home, generation, engine, written, wal, behind, head, records } = open(dir, &options)?;
        let log = Log::new(records, head.revision, options.history);
        let files = (generation, engine, written);
        let mut checkpointer = Checkpointer::new(home.clone(), log.clone(), behind.clone(), files, options.clone());
        let thread = std::thread::Builder::new().name("store-checkpoint".into());
        let watched = behind.clone();
        let run = move || {
            let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| checkpointer.run()));
            if end.is_err() {
                watched.fail("the thread that writes the engine's files panicked");
            }
            drop_quietly(checkpointer);
        };
        let checkpoints =
            Some(thread.spawn(run).map_err(|e| StoreError::Failed(format!("starting the store's thread: {e}")))?);
        Ok(Writer { log, options, head, wal, behind, checkpoints, home })
    }

    pub fn log(&self) -> Arc<Log> {
        self.log.clone()
    }

    pub fn behind(&self) -> Arc<Behind> {
        self.behind.clone()
    }

    /// Serves requests until there can be no more.
    pub fn run(&mut self, mut queue: mpsc::Receiver<Request>) {
        while let Some(first) = queue.blocking_recv() {
            let mut bytes = size(&first.txn);
            let mut group = vec![first];
            while group.len() < GROUP
                && bytes < GROUP_BYTES
                && let Ok(request) = queue.try_recv()
            {
                bytes += size(&request.txn);
                group.push(request);
            }
            self.serve(group, bytes as u64);
        }
    }

    /// Decides, writes, shows and answers one group.
    fn serve(&mut self, group: Vec<Request>, bytes: u64) {
        let refused = self.make_ready(bytes).err();
        let mut draft = self.log.draft();
        let mut answers = vec![];
        for Request { txn, answer } in group {
            let result = match &refused {
                Some(e) => Err(e.clone()),
                None => self.log.admit(&mut draft, txn),
            };
            answers.push((answer, result));
        }
        if !draft.changes.is_empty()
            && let Err(e) = self.commit(draft)
        {
            // Also for those that a precondition refused: it may have been one of this group's own writes.
            answers.iter_mut().for_each(|(_, result)| *result = Err(e.clone()));
        }
        for (answer, result) in answers {
            // One that stopped waiting is no concern: its write is as durable as any.
            let _ = answer.send(result);
        }
    }

    /// Whether `bytes` more can be written.
    fn make_ready(&mut self, bytes: u64) -> Result<()> {
        self.behind.admit()?;
        let free = self.home.free_bytes().map_err(|e| StoreError::Failed(format!("asking for free space: {e}")))?;
        let needed = self.options.reserve_bytes + 2 * bytes;
        if free < needed {
            return Err(StoreError::NoSpace(format!("{free} bytes are free, {needed} must be")));
        }
        Ok(())
    }

    fn commit(&mut self, draft: Draft) -> Result<()> {
        let head = Head { revision: draft.revision, digest: self.head.digest.after(&draft.changes) };
        let bytes = match self.wal.append(&draft.changes, head) {
            Ok(bytes) => bytes,
            Err(e) => {
                if let StoreError::Failed(why) = &e {
                    self.behind.fail(why);
                }
                return Err(e);
            }
        };
        if let Err(e) = self.home.note_acked(draft.revision) {
            // Only a check would be missed at the next open.
            tracing::warn!(error = %e, "the store's ACKED note cannot be written");
        }
        self.head = head;
        self.behind.note(&draft.changes, head, bytes);
        self.log.commit(draft);
        Ok(())
    }
}

impl Drop for Writer {
    /// The lock goes only when the engine's files are closed as well.
    fn drop(&mut self) {
        self.behind.end();
        if let Some(checkpoints) = self.checkpoints.take() {
            let _ = checkpoints.join();
        }
    }
}

fn size(txn: &Txn) -> usize {
    let op = |op: &Op| match op {
        Op::Put { key, value } => key.len() + value.len(),
        Op::Delete { key } => key.len(),
    };
    64 + txn.then.iter().map(op).sum::<usize>()
}
