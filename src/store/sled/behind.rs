//! What the engine's files lack of what is in the log, and the log's files: between the store's writer and the thread
//! that writes the engine behind it.
//!
//! ```text
//! writer ──note, seal──▶ Behind ──next──▶ checkpoint thread ──written──▶ segments become spares ──▶ writer
//! ```
//!
//! Invariant: a segment goes only once the engine's files durably have everything in it.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::codec::{Head, chunks};
use crate::store::{Change, Record, Result, Revision, StoreError};

/// How long to wait before trying again what the disk had no room for.
const AGAIN: Duration = Duration::from_secs(1);

/// A segment that is full.
pub(super) struct Sealed {
    pub path: PathBuf,
    pub bytes: u64,
    /// The newest revision in it; `None` when it has none.
    pub last: Option<Revision>,
}

/// A file that can become a segment.
pub(super) struct Spare {
    pub number: u64,
    pub path: PathBuf,
}

/// What the engine is to hold under a key.
pub(super) struct Stale {
    pub now: Option<Record>,
    /// Most chunks that it may hold there now.
    pub had: usize,
}

pub(super) type Dirty = HashMap<Arc<str>, Stale>;

pub(super) type Waiter = oneshot::Sender<Result<()>>;

/// The bounds of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes of groups after which the engine is written.
    pub checkpoint: u64,
    /// How long they may wait for it otherwise.
    pub after: Duration,
    pub segment: u64,
}

impl Bounds {
    /// Bytes of full segments with which the writer waits for the engine.
    fn most(&self) -> u64 {
        4 * self.checkpoint + 2 * self.segment
    }

    /// Spares worth keeping: what fills up between two checkpoints.
    fn spares(&self) -> usize {
        (self.checkpoint / self.segment) as usize + 1
    }
}

/// What the checkpoint thread is to do.
pub(super) enum Work {
    End,
    MakeSpare,
    Checkpoint,
}

pub(super) struct Behind {
    state: Mutex<State>,
    /// For the checkpoint thread.
    work: Condvar,
    /// For the writer, when the log is full.
    progress: Condvar,
    bounds: Bounds,
}

struct State {
    dirty: Dirty,
    /// Where the log leads, and with it `dirty`.
    head: Head,
    /// Bytes of groups since `dirty` was taken.
    bytes: u64,
    /// Where the engine's files durably lead to.
    written: Revision,
    sealed: VecDeque<Sealed>,
    spares: VecDeque<Spare>,
    /// Of the next spare to be made.
    number: u64,
    trouble: Trouble,
    ending: bool,
    waiters: Vec<Waiter>,
}

/// What keeps the checkpoint thread from its work.
enum Trouble {
    None,
    /// A taken part of the changes is not in the engine's files yet for want of space, or a spare could not be made.
    Full(String),
    /// Fail-stop.
    Failed(String),
}

impl Behind {
    pub fn new(
        dirty: Dirty,
        head: Head,
        written: Revision,
        sealed: Vec<Sealed>,
        spares: Vec<Spare>,
        bounds: Bounds,
    ) -> Arc<Behind> {
        let number = spares.iter().map(|s| s.number + 1).max().unwrap_or(1);
        let bytes = sealed.iter().map(|s| s.bytes).sum();
        let state = State {
            dirty,
            head,
            bytes,
            written,
            sealed: sealed.into(),
            spares: spares.into(),
            number,
            trouble: Trouble::None,
            ending: false,
            waiters: vec![],
        };
        Arc::new(Behind { state: Mutex::new(state), work: Condvar::new(), progress: Condvar::new(), bounds })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // For the writer.

    /// Takes note of a group that is in the log.
    pub fn note(&self, changes: &[Change], head: Head, bytes: u64) {
        let mut state = self.lock();
        take_in(&mut state.dirty, changes.iter().map(|c| (&c.key, c.now.as_ref(), c.before.as_ref())));
        state.head = head;
        let due = state.bytes >= self.bounds.checkpoint;
        state.bytes += bytes;
        if !due && state.bytes >= self.bounds.checkpoint {
            self.work.notify_one();
        }
    }

    pub fn take_spare(&self) -> Option<Spare> {
        let spare = self.lock().spares.pop_front();
        self.work.notify_one();
        spare
    }

    /// A number that no spare has.
    pub fn number(&self) -> u64 {
        let mut state = self.lock();
        state.number += 1;
        state.number - 1
    }

    pub fn seal(&self, segment: Sealed) {
        self.lock().sealed.push_back(segment);
    }

    /// Returns once the log may grow.
    ///
    /// # Errors
    /// `Failed` when the engine failed for good; `NoSpace` when the log is full and the engine cannot be written.
    pub fn admit(&self) -> Result<()> {
        let mut state = self.lock();
        let mut asked = false;
        loop {
            if let Trouble::Failed(why) = &state.trouble {
                return Err(StoreError::Failed(why.clone()));
            }
            if state.sealed.iter().map(|s| s.bytes).sum::<u64>() <= self.bounds.most() {
                return Ok(());
            }
            match &state.trouble {
                Trouble::Full(why) if asked => return Err(StoreError::NoSpace(why.clone())),
                // There may be room by now.
                Trouble::Full(_) => state.trouble = Trouble::None,
                _ => {}
            }
            asked = true;
            self.work.notify_one();
            state = self.progress.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has the engine written as far as the log leads now, and `waiter` told.
    pub fn want_checkpoint(&self, waiter: Waiter) {
        let mut state = self.lock();
        match &state.trouble {
            Trouble::Failed(why) => drop(waiter.send(Err(StoreError::Failed(why.clone())))),
            // Dropped when the store is closed already.
            _ if state.ending => {}
            _ => state.waiters.push(waiter),
        }
        self.work.notify_one();
    }

    /// Has the checkpoint thread end.
    pub fn end(&self) {
        let mut state = self.lock();
        state.ending = true;
        state.waiters.clear();
        self.work.notify_one();
    }

    // For the checkpoint thread.

    /// Waits for something to do. `pending`: a part that was taken is not written yet.
    pub fn next(&self, pending: bool) -> Work {
        let mut state = self.lock();
        loop {
            if state.ending {
                return Work::End;
            }
            let wait = match &state.trouble {
                // It gives spares back.
                Trouble::None if pending || self.is_due(&state) => return Work::Checkpoint,
                Trouble::None if state.spares.is_empty() => return Work::MakeSpare,
                Trouble::None => self.bounds.after,
                Trouble::Full(_) => AGAIN,
                Trouble::Failed(_) => Duration::MAX,
            };
            let (woken, timeout) = self.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if timeout.timed_out() {
                match state.trouble {
                    Trouble::Full(_) => state.trouble = Trouble::None,
                    Trouble::None if !state.dirty.is_empty() => return Work::Checkpoint,
                    _ => {}
                }
            }
        }
    }

    fn is_due(&self, state: &State) -> bool {
        state.bytes >= self.bounds.checkpoint || !state.waiters.is_empty()
    }

    pub fn lacks_spares(&self) -> bool {
        self.lock().spares.is_empty()
    }

    pub fn is_ending(&self) -> bool {
        self.lock().ending
    }

    /// What the engine lacks, where it leads, and who waits for it.
    pub fn take(&self) -> (Dirty, Head, Vec<Waiter>) {
        let mut state = self.lock();
        state.bytes = 0;
        (std::mem::take(&mut state.dirty), state.head, std::mem::take(&mut state.waiters))
    }

    /// The engine's files durably lead to `revision`. Returns the segments that are not needed any more, and how many of them
    /// are worth keeping as spares.
    pub fn written(&self, revision: Revision) -> (Vec<Sealed>, usize) {
        let mut state = self.lock();
        state.written = revision;
        let mut free = vec![];
        while let Some(segment) = state.sealed.pop_front_if(|s| s.last.is_none_or(|last| last <= revision)) {
            free.push(segment);
        }
        (free, self.bounds.spares().saturating_sub(state.spares.len()))
    }

    pub fn add_spare(&self, spare: Spare) {
        self.lock().spares.push_back(spare);
    }

    /// Lets a waiting writer look again.
    pub fn progressed(&self) {
        self.progress.notify_one();
    }

    /// Something did not happen for want of space; it will be tried again.
    pub fn is_full(&self, why: String) {
        let mut state = self.lock();
        if let Trouble::None = state.trouble {
            tracing::warn!(reason = %why, "the store's files cannot be written; trying again");
            state.trouble = Trouble::Full(why);
        }
        self.progress.notify_one();
    }

    /// No writes any more.
    pub fn fail(&self, why: &str) {
        tracing::error!(error = %why, "the store failed: it takes no writes until it is opened again");
        let mut state = self.lock();
        state.trouble = Trouble::Failed(format!("{why}; it takes no writes until it is opened again"));
        for waiter in state.waiters.drain(..) {
            let _ = waiter.send(Err(StoreError::Failed(why.to_owned())));
        }
        self.progress.notify_one();
    }
}

/// Lays changes, each with what was before, over what the engine lacks.
pub(super) fn take_in<'a>(
    dirty: &mut Dirty,
    changes: impl Iterator<Item = (&'a Arc<str>, Option<&'a Record>, Option<&'a Record>)>,
) {
    for (key, now, before) in changes {
        let had = before.map_or(0, chunks);
        match dirty.get_mut(key) {
            Some(stale) => *stale = Stale { now: now.cloned(), had: stale.had.max(had) },
            None => drop(dirty.insert(key.clone(), Stale { now: now.cloned(), had })),
        }
    }
}
