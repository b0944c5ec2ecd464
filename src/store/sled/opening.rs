//! Opening a store: what the engine's files hold, and what the log says after it, checked against each other.
//!
//! ```text
//! engine's files ─▶ records up to some revision, and perhaps some later ones
//! log            ─▶ every change after it ─▶ laid over them ─▶ must add up to what the newest group says
//! ```
//!
//! A store of format 1 has no log: its files are checked as they were then, and written anew.

use std::path::Path;
use std::sync::Arc;

use super::SledOptions;
use super::at_open;
use super::behind::{Behind, Dirty, take_in};
use super::codec::{Digest, Head, Records};
use super::engine::{Engine, EngineError, io_error};
use super::home::{Current, FORMAT, Home};
use super::rewrite::copy;
use super::wal::{self, Found, Wal};
use crate::store::{Record, Result, StoreError};

pub(super) struct Opened {
    pub home: Arc<Home>,
    pub generation: u64,
    pub engine: Engine,
    /// What the engine's files lead to.
    pub written: Head,
    pub wal: Wal,
    pub behind: Arc<Behind>,
    /// What the log leads to.
    pub head: Head,
    pub records: Records,
}

/// Files, and what is in them.
struct Files {
    generation: u64,
    engine: Engine,
    written: Head,
    records: Records,
    dirty: Dirty,
    log: Found,
}

pub(super) fn open(dir: &Path, options: &SledOptions) -> Result<Opened> {
    let (home, current) = Home::take(dir)?;
    let files = match current {
        Some(Current { format: FORMAT, ready: true, generation }) => existing(&home, generation, options)?,
        Some(Current { ready: true, generation, .. }) => migrate(&home, generation, options)?,
        // None, or one whose making was cut off before its first acknowledgement.
        _ => create(&home, options).map_err(at_open)?,
    };
    let Files { generation, engine, written, records, dirty, log } = files;
    home.remove_others(generation).map_err(|e| StoreError::Failed(format!("removing left-over files: {e}")))?;
    let head = log.head.unwrap_or(written);
    let behind = Behind::new(dirty, head, written.revision, log.sealed, log.spares, options.bounds());
    let wal = Wal::new(home.wal_dir(), log.active, options.bounds().segment, behind.clone());
    Ok(Opened { home: Arc::new(home), generation, engine, written, wal, behind, head, records })
}

fn existing(home: &Home, generation: u64, options: &SledOptions) -> Result<Files> {
    let dir = home.data_dir(generation);
    let engine = Engine::open_existing(&dir).map_err(at_open)?;
    let (written, mut records) = engine.load().map_err(at_open)?;
    let mut dirty = Dirty::new();
    let log = wal::open(&home.wal_dir(), written.revision, options.bounds().segment, |group| {
        for change in group.changes.into_iter().filter(|c| c.revision > written.revision) {
            let before: Option<&Record> = records.get(&change.key);
            // The files may be ahead of this change: then a later one of the log is what they have.
            let behind = before.is_none_or(|r| r.modified < change.revision);
            take_in(&mut dirty, std::iter::once((&change.key, change.now.as_ref(), before)));
            match change.now {
                Some(record) if behind => drop(records.insert(change.key, record)),
                None if behind => drop(records.remove(&change.key)),
                _ => {}
            }
        }
    })?;
    let head = log.head.unwrap_or(written);
    let damaged = |why: String| Err(StoreError::Damaged(format!("{why}; restore a backup")));
    if head.revision < written.revision {
        return damaged(format!(
            "the log leads to revision {}, {}, but {} has revision {}: the end of the log is damaged",
            head.revision.0,
            log.end,
            dir.join("db").display(),
            written.revision.0,
        ));
    }
    if let Some(acked) = home.acked().filter(|acked| *acked > head.revision) {
        let (leads, acked) = (head.revision.0, acked.0);
        let db = dir.join("db");
        return damaged(match log.head {
            Some(_) => format!("the log leads to revision {leads}, {}, but {acked} was acknowledged", log.end),
            None => format!(
                "{} leads to revision {leads}, but {acked} was acknowledged, and the log has nothing {}",
                db.display(),
                log.end
            ),
        });
    }
    let found = Digest::of(records.values());
    if found != head.digest {
        return damaged(format!(
            "{} and the log do not add up to what revision {} was: {} records instead of {}, or others",
            dir.join("db").display(),
            head.revision.0,
            found.count,
            head.digest.count,
        ));
    }
    Ok(Files { generation, engine, written, records, dirty, log })
}

/// Makes an empty store. CURRENT says `new` until it is complete, so that a crash on the way leaves no riddle.
fn create(home: &Home, options: &SledOptions) -> std::result::Result<Files, EngineError> {
    let io = |doing: &'static str| move |e: std::io::Error| io_error(doing, &e);
    home.set_current(Current { format: FORMAT, generation: 1, ready: false }).map_err(io("writing CURRENT"))?;
    home.remove_others(0).map_err(io("removing left-over files"))?;
    fresh(home, 1, Head::default(), Records::new(), options)
}

/// Reads a store of format 1 as that did, and writes it into fresh files. The old ones count until those are complete.
fn migrate(home: &Home, generation: u64, options: &SledOptions) -> Result<Files> {
    let dir = home.data_dir(generation);
    let engine = Engine::open_existing(&dir).map_err(at_open)?;
    let (revision, records) = engine.load_format1().map_err(at_open)?;
    drop(engine);
    if let Some(acked) = home.acked().filter(|acked| *acked > revision) {
        return Err(StoreError::Damaged(format!(
            "{} leads to revision {}, but {} was acknowledged: its log is damaged; restore a backup",
            dir.join("db").display(),
            revision.0,
            acked.0,
        )));
    }
    home.remove_others(generation).map_err(|e| StoreError::Failed(format!("removing left-over files: {e}")))?;
    let head = Head { revision, digest: Digest::of(records.values()) };
    let files = fresh(home, generation + 1, head, records, options).map_err(at_open)?;
    tracing::info!(revision = revision.0, "the store was of format 1, and is of format {FORMAT} now");
    Ok(files)
}

/// Writes records into a data directory of this generation, with an empty log, and makes them count.
fn fresh(
    home: &Home,
    generation: u64,
    head: Head,
    records: Records,
    options: &SledOptions,
) -> std::result::Result<Files, EngineError> {
    let io = |doing: &'static str| move |e: std::io::Error| io_error(doing, &e);
    let log = wal::create(&home.wal_dir(), options.bounds().segment).map_err(io("making the log"))?;
    let engine = Engine::open(&home.data_dir(generation))?;
    let page = |after: Option<&str>, most: usize| -> Vec<Record> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        records.range::<str, _>((from, std::ops::Bound::Unbounded)).take(most).map(|(_, r)| r.clone()).collect()
    };
    copy(&engine, head, page, || false)?;
    home.set_current(Current::ready(generation)).map_err(io("writing CURRENT"))?;
    Ok(Files { generation, engine, written: head, records, dirty: Dirty::new(), log })
}
