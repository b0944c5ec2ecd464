//! The log in memory: what every backend serves reads from, and where the order of writes is decided.
//!
//! Holds the current records, a bounded ring of the latest changes (for watches and for lists at a revision) and the
//! [`Topics`] that wake watchers. A backend drafts a group of transactions, makes it durable in its own way, and then
//! commits the draft here; nothing is visible before that.
//!
//! ```text
//! txn ─admit─▶ Draft ─(backend: durable)─▶ commit ─▶ records, ring ─▶ watchers
//! ```
//!
//! Invariants: one drafting writer at a time (the backend's duty); the changes of a transaction enter and leave the
//! ring together; the ring holds every change after `floor`; no lock is held for longer than one chunk of a list.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;

use super::topics::{Subscription, Topics};
use super::{Change, ListRequest, Listing, Op, Precondition, Record, Result, Revision, StoreError, Txn, Watch};
use crate::model::MAX_OBJECT_BYTES;

/// Longest key in bytes.
pub(super) const MAX_KEY_BYTES: usize = 1024;
/// Most bytes of values that one transaction may put.
pub(super) const MAX_TXN_BYTES: usize = 4 << 20;
/// Most records that a list copies before it lets a waiting writer in.
const LIST_CHUNK: usize = 2048;
/// Most records that are counted before that.
const COUNT_CHUNK: usize = 8192;

/// How much history is kept. The oldest goes first when either bound is passed.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    pub changes: usize,
    /// Bytes of keys and of values, new and old.
    pub bytes: usize,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        HistoryLimits { changes: 16_384, bytes: 32 << 20 }
    }
}

pub(super) struct Log {
    state: RwLock<State>,
    topics: Topics,
    limits: HistoryLimits,
}

struct State {
    revision: Revision,
    records: BTreeMap<Arc<str>, Record>,
    ring: VecDeque<Arc<Change>>,
    /// The sequence number of the ring's first change; every change ever committed here has the next one.
    first: u64,
    ring_bytes: usize,
    /// Every change after this revision is in the ring.
    floor: Revision,
}

/// Transactions admitted but not yet visible.
pub(super) struct Draft {
    pub revision: Revision,
    /// In commit order.
    pub changes: Vec<Change>,
    overlay: HashMap<Arc<str>, Option<Record>>,
}

/// What a listing has collected.
struct Page {
    records: Vec<Record>,
    bytes: usize,
    most_records: usize,
    most_bytes: usize,
}

impl Page {
    fn of(request: &ListRequest) -> Page {
        let (most_records, most_bytes) = (request.limit.unwrap_or(usize::MAX), request.bytes.unwrap_or(usize::MAX));
        Page { records: vec![], bytes: 0, most_records, most_bytes }
    }

    fn is_full(&self) -> bool {
        let enough = !self.records.is_empty() && self.bytes >= self.most_bytes;
        enough || self.records.len() >= self.most_records
    }
}

impl Log {
    /// A log that goes on from `records` at `revision`; its history begins there.
    pub fn new(records: BTreeMap<Arc<str>, Record>, revision: Revision, limits: HistoryLimits) -> Arc<Log> {
        let state = State { revision, records, ring: VecDeque::new(), first: 0, ring_bytes: 0, floor: revision };
        Arc::new(Log { state: RwLock::new(state), topics: Topics::default(), limits })
    }

    // A panic while a lock is held would be a bug of this file; every update keeps the state whole, so go on.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn revision(&self) -> Revision {
        self.read().revision
    }

    pub fn get(&self, key: &str) -> Option<Record> {
        self.read().records.get(key).cloned()
    }

    /// Begins a group of transactions on top of what is committed.
    pub fn draft(&self) -> Draft {
        Draft { revision: self.revision(), changes: vec![], overlay: HashMap::new() }
    }

    /// Checks a transaction against the committed state and the draft, and adds it. The answer holds only once the
    /// draft is committed; on `Err` the draft is as before.
    pub fn admit(&self, draft: &mut Draft, txn: Txn) -> Result<Revision> {
        check_shape(&txn)?;
        let state = self.read();
        let current = |draft: &Draft, key: &str| match draft.overlay.get(key) {
            Some(drafted) => drafted.clone(),
            None => state.records.get(key).cloned(),
        };
        for condition in &txn.when {
            let (key, wanted) = match condition {
                Precondition::Absent { key } => (key, None),
                Precondition::Unchanged { key, modified } => (key, Some(*modified)),
            };
            let found = current(draft, key);
            if found.as_ref().map(|r| r.modified) != wanted {
                return Err(StoreError::Conflict { key: key.clone(), current: found.map(Box::new) });
            }
        }
        let revision = Revision(draft.revision.0 + 1);
        let before = draft.changes.len();
        for op in txn.then {
            let (key, value) = match op {
                Op::Put { key, value } => (key, Some(value)),
                Op::Delete { key } => (key, None),
            };
            let old = current(draft, &key);
            let key: Arc<str> = old.as_ref().map_or_else(|| key.as_str().into(), |r| r.key.clone());
            let new = value.map(|value| Record {
                key: key.clone(),
                value,
                created: old.as_ref().map_or(revision, |r| r.created),
                modified: revision,
            });
            if old.is_none() && new.is_none() {
                continue;
            }
            draft.overlay.insert(key.clone(), new.clone());
            draft.changes.push(Change { revision, key, now: new, before: old });
        }
        if draft.changes.len() > before {
            draft.revision = revision;
        }
        Ok(draft.revision)
    }

    /// Makes a draft visible: records, ring and revision in one step, then wakes the watchers that it concerns.
    pub fn commit(&self, draft: Draft) {
        // Old values are freed after the lock: dropping many could otherwise hold up readers.
        let mut forgotten = vec![];
        let mut state = self.write();
        let mut wakes = self.topics.lock();
        for change in draft.changes {
            match &change.now {
                Some(record) => state.records.insert(change.key.clone(), record.clone()),
                None => state.records.remove(&change.key),
            };
            wakes.changed(&change.key, state.first + state.ring.len() as u64);
            state.ring_bytes += cost(&change);
            state.ring.push_back(Arc::new(change));
        }
        state.revision = draft.revision;
        while state.ring.len() > self.limits.changes || state.ring_bytes > self.limits.bytes {
            let oldest = state.ring[0].revision;
            state.forget(oldest, |change, seq| wakes.forgotten(&change.key, seq), &mut forgotten);
        }
        // Before anyone can see the new revision: who sees it must find its events, or a bookmark could pass them.
        wakes.send();
        drop(state);
    }

    pub fn compact(&self, revision: Revision) -> Result<()> {
        let mut forgotten = vec![];
        let mut state = self.write();
        if revision > state.revision {
            return Err(StoreError::Future { asked: revision.0, newest: state.revision.0 });
        }
        let wakes = self.topics.lock();
        state.forget(revision, |change, seq| wakes.forgotten(&change.key, seq), &mut forgotten);
        Ok(())
    }

    /// Lists in chunks; between two of them, writers and the other tasks of the thread get a turn.
    pub async fn list(&self, request: &ListRequest) -> Result<Listing> {
        let mut chunk = LIST_CHUNK;
        'again: loop {
            let (mut at, mut page) = (request.at, Page::of(request));
            loop {
                let (shown, more) = match self.list_chunk(request, at, chunk, &mut page) {
                    // History was outrun between two chunks: take everything in one hold.
                    Err(StoreError::Compacted { .. }) if request.at.is_none() && at.is_some() => {
                        chunk = usize::MAX;
                        continue 'again;
                    }
                    result => result?,
                };
                if more && !page.is_full() {
                    at = Some(shown);
                    tokio::task::yield_now().await;
                    continue;
                }
                let records = page.records;
                let remaining = match (request.count, more) {
                    (false, _) => None,
                    (true, false) => Some(0),
                    (true, true) => {
                        let last = records.last().map(|r| &*r.key).or(request.after.as_deref());
                        self.count(&request.prefix, shown, last.unwrap_or_default().into()).await
                    }
                };
                return Ok(Listing { records, revision: shown, more, remaining });
            }
        }
    }

    /// Adds up to `most` records to a page; tells the revision that they are of, and whether more follow.
    fn list_chunk(
        &self,
        request: &ListRequest,
        at: Option<Revision>,
        most: usize,
        page: &mut Page,
    ) -> Result<(Revision, bool)> {
        let state = self.read();
        let at = at.unwrap_or(state.revision);
        state.check_kept(at)?;
        let after = page.records.last().map(|r| r.key.clone());
        let after = after.as_deref().or(request.after.as_deref());
        let undone = state.undone(&request.prefix, at);
        let mut rest = state.range(&request.prefix, after, &undone);
        for _ in 0..most {
            if page.is_full() {
                break;
            }
            let Some(record) = rest.next() else { return Ok((at, false)) };
            page.bytes += record.value.len();
            page.records.push(record.clone());
        }
        Ok((at, rest.next().is_some()))
    }

    /// How many records with `prefix` there were after a key at a revision, while that is kept.
    async fn count(&self, prefix: &str, at: Revision, mut after: Arc<str>) -> Option<usize> {
        let mut counted = 0;
        loop {
            let (some, last) = {
                let state = self.read();
                state.check_kept(at).ok()?;
                let undone = state.undone(prefix, at);
                let rest = state.range(prefix, Some(&after), &undone).take(COUNT_CHUNK);
                let (some, last) = rest.fold((0, None), |(n, _), record| (n + 1, Some(&record.key)));
                (some, last.cloned())
            };
            counted += some;
            match last {
                Some(last) if some == COUNT_CHUNK => after = last,
                _ => return Some(counted),
            }
            tokio::task::yield_now().await;
        }
    }

    pub fn watch(self: &Arc<Log>, prefix: &str, from: Revision) -> Result<Box<dyn Watch>> {
        let state = self.read();
        state.check_kept(from)?;
        let position = state.first + state.ring.partition_point(|c| c.revision <= from) as u64;
        // Subscribed under the lock that commits take: no change can fall between the position and the subscription.
        let subscription = self.topics.subscribe(prefix, state.first + state.ring.len() as u64);
        drop(state);
        Ok(Box::new(LogWatch { log: self.clone(), prefix: prefix.into(), subscription, position, seen: from }))
    }

    /// Bytes of all current keys and values. Walks everything: for rare use.
    pub fn live_bytes(&self) -> usize {
        self.read().records.values().map(|r| r.key.len() + r.value.len()).sum()
    }

    /// Up to `limit` current records after `after`, in key order, of all prefixes.
    pub fn page(&self, after: Option<&str>, limit: usize) -> Vec<Record> {
        let state = self.read();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        state.records.range::<str, _>((start, Bound::Unbounded)).take(limit).map(|(_, r)| r.clone()).collect()
    }
}

impl State {
    /// Whether the state at a revision can still be told.
    fn check_kept(&self, at: Revision) -> Result<()> {
        if at > self.revision {
            return Err(StoreError::Future { asked: at.0, newest: self.revision.0 });
        }
        if at < self.floor {
            return Err(StoreError::Compacted { asked: at.0, oldest: self.floor.0 });
        }
        Ok(())
    }

    /// Drops all changes up to `revision` from the ring.
    fn forget(&mut self, revision: Revision, mut each: impl FnMut(&Change, u64), out: &mut Vec<Arc<Change>>) {
        while let Some(change) = self.ring.pop_front_if(|c| c.revision <= revision) {
            each(&change, self.first);
            self.first += 1;
            self.ring_bytes -= cost(&change);
            out.push(change);
        }
        self.floor = self.floor.max(revision);
    }

    /// What the keys changed after `at` were at `at`.
    fn undone(&self, prefix: &str, at: Revision) -> BTreeMap<&str, Option<&Record>> {
        let newer = self.ring.iter().rev().take_while(|c| c.revision > at).filter(|c| c.key.starts_with(prefix));
        // From new to old: the last insert of a key is its oldest change after `at`.
        newer.map(|c| (&*c.key, c.before.as_ref())).collect()
    }

    /// The records with `prefix` after `after`, in key order, with `undone` laid over the current ones.
    fn range<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&str>,
        undone: &'a BTreeMap<&str, Option<&'a Record>>,
    ) -> impl Iterator<Item = &'a Record> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let bounds = (start, Bound::Unbounded);
        let mut now = self.records.range::<str, _>(bounds).map(|(k, r)| (&**k, r)).peekable();
        let mut then = undone.range::<str, _>(bounds).map(|(k, r)| (*k, *r)).peekable();
        std::iter::from_fn(move || {
            loop {
                match (now.peek(), then.peek()) {
                    (Some((n, _)), Some((t, _))) if t <= n => {
                        if t == n {
                            now.next();
                        }
                        let (key, record) = then.next()?;
                        if let Some(record) = record {
                            return Some((key, record));
                        }
                    }
                    (None, Some(_)) => {
                        if let (key, Some(record)) = then.next()? {
                            return Some((key, record));
                        }
                    }
                    _ => return now.next(),
                }
            }
        })
        .take_while(move |(key, _)| key.starts_with(prefix))
        .map(|(_, record)| record)
    }
}

fn cost(change: &Change) -> usize {
    let value = |r: &Option<Record>| r.as_ref().map_or(0, |r| r.value.len());
    // The constant stands for the change itself and its allocations.
    256 + change.key.len() + value(&change.now) + value(&change.before)
}

fn check_shape(txn: &Txn) -> Result<()> {
    let mut keys = HashSet::new();
    let mut total = 0;
    for op in &txn.then {
        let (key, size) = match op {
            Op::Put { key, value } => (key, value.len()),
            Op::Delete { key } => (key, 0),
        };
        if key.is_empty() || key.contains('\0') {
            return Err(StoreError::Failed(format!("{key:?} cannot be a key: it is empty or contains NUL")));
        }
        if key.len() > MAX_KEY_BYTES {
            return Err(StoreError::TooLarge { key: key.clone(), size: key.len(), limit: MAX_KEY_BYTES });
        }
        if size > MAX_OBJECT_BYTES {
            return Err(StoreError::TooLarge { key: key.clone(), size, limit: MAX_OBJECT_BYTES });
        }
        if !keys.insert(key) {
            return Err(StoreError::Failed(format!("{key}: written twice in one transaction")));
        }
        total += key.len() + size;
        if total > MAX_TXN_BYTES {
            return Err(StoreError::TooLarge { key: key.clone(), size: total, limit: MAX_TXN_BYTES });
        }
    }
    Ok(())
}

/// A watch reads the shared ring at its own position: it holds no changes itself, so a slow one costs nothing.
struct LogWatch {
    log: Arc<Log>,
    prefix: Arc<str>,
    subscription: Subscription,
    /// The sequence number of the next change to look at.
    position: u64,
    /// The last revision handed out.
    seen: Revision,
}

#[async_trait]
impl Watch for LogWatch {
    async fn next(&mut self) -> Result<Change> {
        loop {
            if self.position < self.subscription.head() {
                let state = self.log.read();
                // Only a forgotten change of this prefix is a loss; those of other prefixes may go unseen.
                if self.subscription.forgotten() > self.position {
                    return Err(StoreError::Compacted { asked: self.seen.0, oldest: state.floor.0 });
                }
                let from = self.position.max(state.first);
                let found = state.ring.range((from - state.first) as usize..).enumerate();
                if let Some((i, change)) = found.into_iter().find(|(_, c)| c.key.starts_with(&*self.prefix)) {
                    self.position = from + i as u64 + 1;
                    self.seen = change.revision;
                    return Ok(Change::clone(change));
                }
                self.position = state.first + state.ring.len() as u64;
            }
            self.subscription.changed().await;
        }
    }
}
