//! The store's one writer: opens it, makes groups of transactions durable, and keeps the disk in bounds.
//!
//! Runs on a thread of its own. In a group, each transaction is decided against those before it; all are written in
//! one batch and one sync. While a group syncs, the next one gathers in the queue: load makes groups larger.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use super::SledOptions;
use super::codec::{Batch, Content, Head, group_batch};
use super::compaction::{Compaction, Step};
use super::engine::{Engine, EngineError};
use super::home::{Current, Home};
use crate::store::log::{Draft, Log};
use crate::store::{Op, Result, Revision, StoreError, Txn};

/// Most transactions, and about how many bytes, in one group.
const GROUP: usize = 256;
const GROUP_BYTES: usize = 4 << 20;
/// Groups between two looks at the size on disk.
const MEASURE_EVERY: u64 = 64;

pub(super) struct Request {
    pub txn: Txn,
    pub answer: oneshot::Sender<Result<Revision>>,
}

pub(super) struct Writer {
    log: Arc<Log>,
    options: SledOptions,
    /// The data directory that counts.
    generation: u64,
    /// The newest data directory that was begun. Never used twice: an abandoned one may still be being removed.
    newest: u64,
    head: Head,
    state: State,
    compaction: Option<Compaction>,
    /// No compaction below this size: what the last one reached, doubled.
    compact_above: u64,
    /// Last, so that the lock outlives the engines.
    home: Home,
}

/// What the writer can do.
enum State {
    Open(Engine),
    /// The disk was full in the middle of a group, whose draft this is: open anew once there is space.
    Full(Box<Draft>),
    /// Fail-stop.
    Failed(String),
}

impl Writer {
    pub fn open(dir: &Path, options: SledOptions) -> Result<Writer> {
        let (home, current) = Home::take(dir)?;
        let (generation, engine, content) = match current {
            Some(current) if current.ready => {
                let engine = open_existing(&home.data_dir(current.generation))?;
                let content = engine.load().map_err(at_open)?;
                if let Some(acked) = home.acked()
                    && acked > content.head.revision
                {
                    return Err(StoreError::Damaged(format!(
                        "{} leads to revision {}, but {} was acknowledged: its log is damaged; restore a backup",
                        home.data_dir(current.generation).join("db").display(),
                        content.head.revision.0,
                        acked.0,
                    )));
                }
                (current.generation, engine, content)
            }
            // None, or one whose making was cut off before its first acknowledgement.
            _ => create(&home).map_err(at_open)?,
        };
        home.remove_others(generation).map_err(|e| StoreError::Failed(format!("removing left-over files: {e}")))?;
        let log = Log::new(content.records, content.head.revision, options.history);
        Ok(Writer {
            log,
            options,
            generation,
            newest: generation,
            head: content.head,
            state: State::Open(engine),
            compaction: None,
            compact_above: 0,
            home,
        })
    }

    pub fn log(&self) -> Arc<Log> {
        self.log.clone()
    }

    /// Serves requests until there can be no more.
    pub fn run(&mut self, mut queue: mpsc::Receiver<Request>) {
        loop {
            // With a compaction under way there is always something to do.
            let first = match self.compaction {
                Some(_) => match queue.try_recv() {
                    Ok(request) => Some(request),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return,
                },
                None => match queue.blocking_recv() {
                    Some(request) => Some(request),
                    None => return,
                },
            };
            if let Some(first) = first {
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
            self.compact();
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
        if let State::Failed(why) = &self.state {
            return Err(StoreError::Failed(format!("{why}; it takes no writes until it is opened again")));
        }
        let free = self.home.free_bytes().map_err(|e| StoreError::Failed(format!("asking for free space: {e}")))?;
        let needed = self.options.reserve_bytes + 2 * bytes;
        if free < needed {
            if let Some(compaction) = self.compaction.take() {
                self.abandon(compaction, "the disk is nearly full");
            }
            return Err(StoreError::NoSpace(format!("{free} bytes are free, {needed} must be")));
        }
        if let State::Full(_) = self.state {
            self.heal()?;
        }
        Ok(())
    }

    fn commit(&mut self, draft: Draft) -> Result<()> {
        let State::Open(engine) = &self.state else {
            return Err(StoreError::Failed("it is not open".into()));
        };
        let head = Head { revision: draft.revision, group: self.head.group + 1, base: self.head.base };
        let batch: Batch = group_batch(&draft.changes, head);
        if let Err(e) = engine.apply(batch).and_then(|()| engine.sync()) {
            return Err(self.stop(e, draft));
        }
        if let Err(e) = self.home.note_acked(draft.revision) {
            // Only a check would be missed at the next open.
            tracing::warn!(error = %e, "the store's ACKED note cannot be written");
        }
        self.head = head;
        if let Some(compaction) = &mut self.compaction
            && let Err(e) = compaction.mirror(&draft.changes)
            && let Some(compaction) = self.compaction.take()
        {
            self.log.commit(draft);
            self.abandon(compaction, &e.to_string());
            return Ok(());
        }
        self.log.commit(draft);
        Ok(())
    }

    /// What to do after a write failed.
    fn stop(&mut self, error: EngineError, draft: Draft) -> StoreError {
        if let Some(compaction) = self.compaction.take() {
            self.abandon(compaction, "the store itself failed");
        }
        let (state, error) = match error {
            EngineError::NoSpace(text) => (State::Full(Box::new(draft)), StoreError::NoSpace(text)),
            EngineError::Damaged(text) | EngineError::Failed(text) => {
                tracing::error!(error = %text, "the store failed: it takes no writes until it is opened again");
                (State::Failed(text.clone()), StoreError::Failed(text))
            }
        };
        // A failed engine does no more I/O when it goes.
        drop_quietly(std::mem::replace(&mut self.state, state));
        error
    }

    /// Opens the files again after the disk was full. They must hold what is acknowledged, or that and the group that
    /// the full disk cut off.
    fn heal(&mut self) -> Result<()> {
        let reopened = open_existing(&self.home.data_dir(self.generation))
            .and_then(|engine| Ok((engine.load().map_err(at_open)?, engine)));
        let (content, engine) = match reopened {
            Ok(reopened) => reopened,
            Err(e @ StoreError::NoSpace(_)) => return Err(e),
            Err(e) => {
                self.state = State::Failed(format!("it could not be opened again after the disk was full: {e}"));
                return Err(e);
            }
        };
        let State::Full(draft) = std::mem::replace(&mut self.state, State::Open(engine)) else { return Ok(()) };
        if content.head.revision == draft.revision && content.head.group == self.head.group + 1 {
            self.log.commit(*draft);
        }
        if !self.log.is(&content.records, content.head.revision) {
            let why = "after the disk was full, the files hold something else than what was acknowledged".to_owned();
            self.state = State::Failed(why.clone());
            return Err(StoreError::Failed(why));
        }
        self.head = content.head;
        tracing::info!(revision = content.head.revision.0, "there is space again: the store takes writes");
        Ok(())
    }

    /// Begins or continues the rewriting of the files, a step at a time.
    fn compact(&mut self) {
        let State::Open(engine) = &self.state else { return };
        let Some(compaction) = &mut self.compaction else {
            if self.head.group.is_multiple_of(MEASURE_EVERY) && self.is_bloated(engine.disk_bytes()) {
                self.begin_compaction();
            }
            return;
        };
        match compaction.step(&self.log, self.head) {
            Ok(Step::More) => {}
            Ok(Step::Complete) => {
                if let Some(compaction) = self.compaction.take() {
                    self.swap(compaction);
                }
            }
            Err(e) => {
                if let Some(compaction) = self.compaction.take() {
                    self.abandon(compaction, &e.to_string());
                }
            }
        }
    }

    fn is_bloated(&self, disk: u64) -> bool {
        if disk <= self.options.compact_min_bytes.max(self.compact_above) {
            return false;
        }
        let live = self.log.live_bytes() as u64;
        let room = self.home.free_bytes().is_ok_and(|free| free > self.options.reserve_bytes + 3 * live + (64 << 20));
        disk > live * self.options.compact_factor && room
    }

    fn begin_compaction(&mut self) {
        self.newest += 1;
        match Compaction::begin(&self.home.data_dir(self.newest)) {
            Ok(compaction) => self.compaction = Some(compaction),
            Err(e) => self.give_up(&e.to_string()),
        }
    }

    /// Puts the fresh files in the place of the old ones. Between CURRENT's replacement and its sync either may be
    /// the one that counts after a crash; both hold all that is acknowledged, as long as nothing is written between.
    fn swap(&mut self, compaction: Compaction) {
        let generation = self.newest;
        if let Err(e) = self.home.set_current(Current { generation, ready: true }) {
            let why = format!("replacing CURRENT: {e}");
            tracing::error!(error = %why, "the store failed: it takes no writes until it is opened again");
            drop_quietly(std::mem::replace(&mut self.state, State::Failed(why)));
            drop_quietly(compaction);
            return;
        }
        self.head.base = self.head.group;
        let fresh = compaction.finish();
        self.compact_above = 2 * fresh.disk_bytes();
        let old = std::mem::replace(&mut self.state, State::Open(fresh));
        discard(old, self.home.data_dir(self.generation));
        tracing::info!(from = self.generation, to = generation, "the store's files were rewritten");
        self.generation = generation;
    }

    fn abandon(&mut self, compaction: Compaction, why: &str) {
        discard(compaction, self.home.data_dir(self.newest));
        self.give_up(why);
    }

    /// Not again before the files have grown by half.
    fn give_up(&mut self, why: &str) {
        let State::Open(engine) = &self.state else { return };
        self.compact_above = engine.disk_bytes() / 2 * 3;
        tracing::warn!(reason = %why, "the store's files could not be rewritten; trying again when they have grown");
    }
}

/// Closes an engine and removes its files, on a thread: closing may take a while and nothing waits for it. Should the
/// process end first, the next open removes them.
fn discard(engine: impl Send + 'static, dir: PathBuf) {
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
fn drop_quietly(engine: impl Send) {
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(engine)));
}

fn open_existing(dir: &Path) -> Result<Engine> {
    // The engine would make an empty store in its place.
    if !dir.join("db").is_file() || !dir.join("conf").is_file() {
        return Err(StoreError::Damaged(format!("{} lacks its files: restore a backup", dir.display())));
    }
    Engine::open(dir).map_err(at_open)
}

/// Makes an empty store. CURRENT says `new` until it is complete, so that a crash on the way leaves no riddle.
fn create(home: &Home) -> std::result::Result<(u64, Engine, Content), EngineError> {
    let io = |doing: &'static str| move |e: std::io::Error| super::engine::io_error(doing, &e);
    let generation = 1;
    home.set_current(Current { generation, ready: false }).map_err(io("writing CURRENT"))?;
    home.remove_others(0).map_err(io("removing left-over files"))?;
    let dir = home.data_dir(generation);
    let engine = Engine::open(&dir)?;
    let head = Head::default();
    let mut batch = vec![];
    head.put(&mut batch);
    engine.apply(batch)?;
    engine.sync()?;
    home.set_current(Current { generation, ready: true }).map_err(io("writing CURRENT"))?;
    Ok((generation, engine, Content::default()))
}

fn at_open(e: EngineError) -> StoreError {
    match e {
        EngineError::NoSpace(text) => StoreError::NoSpace(text),
        EngineError::Damaged(text) => StoreError::Damaged(text),
        EngineError::Failed(text) => StoreError::Failed(text),
    }
}

fn size(txn: &Txn) -> usize {
    let op = |op: &Op| match op {
        Op::Put { key, value } => key.len() + value.len(),
        Op::Delete { key } => key.len(),
    };
    64 + txn.then.iter().map(op).sum::<usize>()
}
