//! The thread that writes the engine behind the log: checkpoints, and the rewriting of its files when they are bloated.
//!
//! A checkpoint takes what changed since the last one, writes it in steps, each synced, and then says in the head how far
//! it leads. A crash on the way leaves files that hold some of it, and the log has all of it. The steps are small because
//! the engine uses its own files' space again: what it may overwrite must not be needed by what is not synced yet.
//!
//! Nothing here keeps a write from being acknowledged, unless the log is full.

use std::path::PathBuf;
use std::sync::Arc;

use super::SledOptions;
use super::behind::{Behind, Dirty, Stale, Waiter, Work};
use super::codec::{Batch, Digest, Head, put_state};
use super::engine::{Engine, EngineError};
use super::home::{Current, Home};
use super::rewrite::{Copied, copy};
use super::wal;
use crate::store::StoreError;
use crate::store::log::Log;

/// About how many bytes are synced at a time.
const STEP_BYTES: usize = 1 << 20;

pub(super) struct Checkpointer {
    log: Arc<Log>,
    options: SledOptions,
    behind: Arc<Behind>,
    /// The data directory that counts.
    generation: u64,
    /// The newest data directory that was begun. Never used twice: an abandoned one may still be being removed.
    newest: u64,
    /// What the files durably lead to.
    head: Head,
    /// `None` after a full disk, until there is space.
    engine: Option<Engine>,
    /// Taken, and not durable in the engine's files yet.
    pending: Option<Pending>,
    /// No rewriting below this size: what the last one reached, doubled.
    rewrite_above: u64,
    home: Arc<Home>,
}

struct Pending {
    dirty: Dirty,
    /// Where it leads.
    head: Head,
    waiters: Vec<Waiter>,
}

/// How a checkpoint ended that did not fail.
#[derive(PartialEq, Eq)]
enum Written {
    Durable,
    /// The store is being closed.
    Stopped,
}

impl Checkpointer {
    pub fn new(
        home: Arc<Home>,
        log: Arc<Log>,
        behind: Arc<Behind>,
        (generation, engine, head): (u64, Engine, Head),
        options: SledOptions,
    ) -> Checkpointer {
        Checkpointer {
            log,
            options,
            behind,
            generation,
            newest: generation,
            head,
            engine: Some(engine),
            pending: None,
            rewrite_above: 0,
            home,
        }
    }

    /// Works until the store is closed.
    pub fn run(&mut self) {
        self.free_segments();
        self.behind.progressed();
        loop {
            match self.behind.next(self.pending.is_some()) {
                Work::End => return,
                Work::MakeSpare => self.make_spare(),
                Work::Checkpoint => self.checkpoint(),
            }
        }
    }

    fn make_spare(&self) {
        match wal::make(&self.home.wal_dir(), self.behind.number(), self.options.bounds().segment) {
            Ok(spare) => self.behind.add_spare(spare),
            // The writer will want it, and be told if there is still no room.
            Err(e) => self.behind.is_full(format!("making a segment of the log ready: {e}")),
        }
    }

    fn checkpoint(&mut self) {
        let pending = self.pending.take().unwrap_or_else(|| {
            let (dirty, head, waiters) = self.behind.take();
            Pending { dirty, head, waiters }
        });
        let written = match pending.head == self.head {
            true => Ok(Written::Durable),
            false => self.write(&pending),
        };
        match written {
            Ok(Written::Durable) => {
                self.head = pending.head;
                self.free_segments();
                for waiter in pending.waiters {
                    let _ = waiter.send(Ok(()));
                }
                self.behind.progressed();
                self.rewrite_if_bloated();
            }
            // What is missing is in the log.
            Ok(Written::Stopped) => self.pending = Some(pending),
            Err(EngineError::NoSpace(text)) => {
                // A failed engine does no more I/O when it goes.
                drop_quietly(self.engine.take());
                self.pending = Some(pending);
                self.behind.is_full(text);
            }
            Err(EngineError::Damaged(text) | EngineError::Failed(text)) => {
                drop_quietly(self.engine.take());
                self.behind.fail(&text);
                for waiter in pending.waiters {
                    let _ = waiter.send(Err(StoreError::Failed(text.clone())));
                }
            }
        }
    }

    fn write(&mut self, pending: &Pending) -> std::result::Result<Written, EngineError> {
        let io = |e: std::io::Error| super::engine::io_error("asking for free space", &e);
        if self.engine.is_none() {
            self.engine = Some(self.reopen(pending)?);
        }
        let Some(engine) = &self.engine else { return Ok(Written::Stopped) };
        let mut keys: Vec<_> = pending.dirty.iter().collect();
        keys.sort_unstable_by_key(|(key, _)| *key);
        let mut keys = keys.into_iter().peekable();
        loop {
            if self.behind.is_ending() {
                return Ok(Written::Stopped);
            }
            if self.behind.lacks_spares() {
                self.make_spare();
            }
            // Rather wait than have the engine, which cannot go on after a failed write, meet the end of the disk.
            let (free, needed) = (self.home.free_bytes().map_err(io)?, self.options.reserve_bytes / 4);
            if free < needed {
                return Err(EngineError::NoSpace(format!("{free} bytes are free, {needed} must be")));
            }
            let (mut batch, mut bytes): (Batch, usize) = (vec![], 0);
            while bytes < STEP_BYTES
                && let Some((key, Stale { now, had })) = keys.next()
            {
                put_state(key, now.as_ref(), *had, &mut batch);
                bytes += 64 + key.len() + now.as_ref().map_or(0, |r| r.value.len());
            }
            let last = keys.peek().is_none();
            if last {
                pending.head.put(&mut batch);
            }
            engine.apply(batch)?;
            engine.sync()?;
            if last {
                return Ok(Written::Durable);
            }
        }
    }

    /// Opens the files again after the disk was full. With what is pending, they must be what the log leads to.
    fn reopen(&self, pending: &Pending) -> std::result::Result<Engine, EngineError> {
        let engine = Engine::open_existing(&self.home.data_dir(self.generation))?;
        let (_, mut records) = engine.load()?;
        for (key, stale) in &pending.dirty {
            match &stale.now {
                Some(record) => drop(records.insert(key.clone(), record.clone())),
                None => drop(records.remove(key)),
            }
        }
        if Digest::of(records.values()) != pending.head.digest {
            let why = "after the disk was full, the files hold something else than what was written to them";
            return Err(EngineError::Damaged(why.into()));
        }
        tracing::info!(revision = pending.head.revision.0, "there is space again: the store's files are written");
        Ok(engine)
    }

    /// Makes spares of the segments that the files have caught up with, or removes them.
    fn free_segments(&self) {
        let (free, wanted) = self.behind.written(self.head.revision);
        let mut wanted = wanted;
        for segment in free {
            let keep = wanted > 0 && segment.bytes == self.options.bounds().segment;
            let done = if keep {
                wanted -= 1;
                wal::recycle(&self.home.wal_dir(), &segment.path, self.behind.number())
                    .map(|spare| self.behind.add_spare(spare))
            } else {
                std::fs::remove_file(&segment.path)
            };
            if let Err(e) = done {
                // It takes space until the next open, and holds nothing that would be missed.
                tracing::warn!(segment = %segment.path.display(), error = %e, "a segment of the log cannot be reused");
            }
        }
    }

    fn rewrite_if_bloated(&mut self) {
        let Some(disk) = self.engine.as_ref().map(Engine::disk_bytes).filter(|disk| self.is_bloated(*disk)) else {
            return;
        };
        self.newest += 1;
        let dir = self.home.data_dir(self.newest);
        let copied = Engine::open(&dir).and_then(|fresh| {
            let copied = copy(
                &fresh,
                self.head,
                |after, most| self.log.page(after, most),
                || {
                    if self.behind.lacks_spares() {
                        self.make_spare();
                    }
                    self.behind.is_ending() || self.is_nearly_full()
                },
            );
            Ok((copied?, fresh))
        });
        match copied {
            Ok((Copied::Whole, fresh)) => self.swap(fresh),
            Ok((Copied::Stopped, fresh)) => {
                discard(Some(fresh), dir);
                self.rewrite_above = disk / 2 * 3;
            }
            Err(e) => {
                discard(None, dir);
                // Not again before the files have grown by half.
                self.rewrite_above = disk / 2 * 3;
                tracing::warn!(reason = %e, "the store's files could not be rewritten; trying again when they have grown");
            }
        }
    }

    fn is_bloated(&self, disk: u64) -> bool {
        if disk <= self.options.compact_min_bytes.max(self.rewrite_above) {
            return false;
        }
        let live = self.log.live_bytes() as u64;
        let room = self.home.free_bytes().is_ok_and(|free| free > self.options.reserve_bytes + 3 * live + (64 << 20));
        disk > live * self.options.compact_factor && room
    }

    fn is_nearly_full(&self) -> bool {
        self.home.free_bytes().is_ok_and(|free| free < self.options.reserve_bytes)
    }

    /// Puts the fresh files in the place of the old ones. Between CURRENT's replacement and its sync either may be the one
    /// that counts after a crash; both lead, with the log, to all that is acknowledged, as long as no segment goes between.
    fn swap(&mut self, fresh: Engine) {
        let generation = self.newest;
        if let Err(e) = self.home.set_current(Current::ready(generation)) {
            drop_quietly(self.engine.take());
            drop_quietly(fresh);
            return self.behind.fail(&format!("replacing CURRENT: {e}"));
        }
        self.rewrite_above = 2 * fresh.disk_bytes();
        let old = self.engine.replace(fresh);
        discard(old, self.home.data_dir(self.generation));
        tracing::info!(from = self.generation, to = generation, "the store's files were rewritten");
        self.generation = generation;
    }
}

/// Closes an engine and removes its files, on a thread: closing may take a while and nothing waits for it. Should the
/// process end first, the next open removes them.
fn discard(engine: Option<Engine>, dir: PathBuf) {
    let thread = std::thread::Builder::new().name("store-discard".into()).spawn(move || {
        drop_quietly(engine);
        if let Err(e) = super::home::remove_dir(&dir) {
            tracing::warn!(dir = %dir.display(), error = %e, "the store's old files could not be removed");
        }
    });
    if let Err(e) = thread {
        tracing::warn!(error = %e, "no thread to remove the store's old files; the next start removes them");
    }
}

/// Drops an engine, which may panic when its last sync fails.
pub(super) fn drop_quietly(engine: impl Send) {
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(engine)));
}
