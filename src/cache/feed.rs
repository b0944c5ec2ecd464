//! The cache's one writer: lists the store, follows it, and lists again when it has to.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::Cache;
use super::view::{Read, View};
use crate::model::Key;
use crate::store::{Change, ListRequest, Result, Revision, SharedStore, Store, StoreError};

/// Changes taken in under one hold of the view; a transaction is never split.
const BATCH: usize = 512;
/// Objects decoded before other tasks get a turn.
const DECODE_CHUNK: usize = 256;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(5);

impl Cache {
    /// Feeds the cache from the store until `shutdown`. To be called once.
    ///
    /// A failing store is tried again for ever, with a growing pause; readers meanwhile see the last good state.
    pub async fn run(self: Arc<Self>, store: SharedStore, shutdown: CancellationToken) {
        let feed = async {
            let mut pause = RETRY_FIRST;
            loop {
                let ended = match self.relist(&*store).await {
                    Ok(revision) => {
                        pause = RETRY_FIRST;
                        self.follow(&*store, revision).await
                    }
                    Err(e) => e,
                };
                match ended {
                    StoreError::Compacted { .. } => {
                        tracing::info!(reason = %ended, "the cache fell behind the store's history; listing again");
                    }
                    _ => tracing::error!(error = %ended, retry_in = ?pause, "the cache cannot follow the store"),
                }
                // Also after Compacted: were the history too short for one list, this must not become a busy loop.
                tokio::time::sleep(pause).await;
                pause = RETRY_LAST.min(pause * 2);
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = feed => {}
        }
    }

    /// Replaces the whole view by what the store has now; tells of what differs.
    async fn relist(&self, store: &dyn Store) -> Result<Revision> {
        let listing = store.list(ListRequest::default()).await?;
        let mut fresh = View::new(self.domain());
        for (i, record) in listing.records.iter().enumerate() {
            if i % DECODE_CHUNK == DECODE_CHUNK - 1 {
                tokio::task::yield_now().await;
            }
            if let Ok(key) = record.key.parse::<Key>() {
                // Whom it concerns is found out below, for all of them.
                let _ = fresh.apply(&key, Some(Read::of(&key, record)));
            }
        }
        // This is the only writer: the view cannot change between here and the swap.
        let changed = {
            let old = self.view();
            fresh.inherit(&old);
            old.difference(&fresh)
        };
        let mut view = self.view_mut();
        let old = std::mem::replace(&mut *view, fresh);
        self.announce(&view, &changed);
        drop(view);
        // Only now: freeing a large view takes time that readers should not wait for.
        drop(old);
        self.revision.send_replace(Some(listing.revision));
        Ok(listing.revision)
    }

    /// Applies changes as they come; returns why there are no more.
    async fn follow(&self, store: &dyn Store, from: Revision) -> StoreError {
        let mut watch = match store.watch("", from).await {
            Ok(watch) => watch,
            Err(e) => return e,
        };
        let mut carried = None;
        loop {
            let first = match carried.take() {
                Some(change) => change,
                None => match watch.next().await {
                    Ok(change) => change,
                    Err(e) => return e,
                },
            };
            let mut batch = vec![first];
            let ended = loop {
                // Transactions become visible whole, so an empty queue is the end of one.
                match watch.next().now_or_never() {
                    None => break None,
                    Some(Err(e)) => break Some(e),
                    Some(Ok(next)) => {
                        let whole = batch.last().is_some_and(|last| last.revision != next.revision);
                        if whole && batch.len() >= BATCH {
                            carried = Some(next);
                            break None;
                        }
                        batch.push(next);
                    }
                }
            };
            if let Some(e) = ended {
                // The batch may end in the middle of a transaction; the list that follows has all of it.
                return e;
            }
            self.take_in(&batch);
        }
    }

    fn take_in(&self, batch: &[Change]) {
        let Some(newest) = batch.last().map(|c| c.revision) else { return };
        // Read first: readers wait only while what was read is put in its place. Other keys are private to some user of the
        // store; they only move the revision.
        let read = batch.iter().filter_map(|change| {
            let key = change.key.parse::<Key>().ok()?;
            let now = change.now.as_ref().map(|record| Read::of(&key, record));
            Some((key, now))
        });
        let read: Vec<_> = read.collect();
        let mut changed = Vec::with_capacity(read.len());
        let mut view = self.view_mut();
        for (key, now) in read {
            changed.extend(view.apply(&key, now));
            changed.push(key);
        }
        self.announce(&view, &changed);
        drop(view);
        self.revision.send_replace(Some(newest));
    }
}
