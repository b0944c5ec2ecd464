//! What every store promises, run over each backend.

mod migration;
mod model;
mod sled;
mod typed;

use std::time::Duration;

use portreeve::model::MAX_OBJECT_BYTES;
use portreeve::store::{
    Change, HistoryLimits, ListRequest, MemoryStore, Op, Precondition, Revision, SharedStore, SledOptions, SledStore,
    StoreError, Txn, Watch,
};

/// A way to get an empty store.
pub enum Backend {
    Memory,
    Sled(tempfile::TempDir),
}

impl Backend {
    fn sled() -> Backend {
        Backend::Sled(tempfile::tempdir().unwrap())
    }

    pub async fn store(&self, history: HistoryLimits) -> SharedStore {
        match self {
            Backend::Memory => MemoryStore::with_history(history),
            Backend::Sled(dir) => {
                SledStore::open(dir.path(), SledOptions { history, ..Default::default() }).await.unwrap()
            }
        }
    }
}

macro_rules! on_every_backend {
    ($($name:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Backend::Memory).await;
            })*
        }
        mod on_disk {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Backend::sled()).await;
            })*
        }
    };
}

on_every_backend! {
    revisions_rise_by_one_for_each_effective_transaction
    a_record_tells_when_it_was_created_and_modified
    preconditions_decide_and_a_conflict_carries_the_current_record
    of_many_writers_on_one_version_exactly_one_wins
    a_transaction_happens_whole_or_not_at_all
    a_transaction_that_changes_nothing_makes_no_revision_and_no_event
    what_cannot_be_stored_is_refused_and_changes_nothing
    lists_are_in_byte_order_by_prefix
    pages_show_one_revision_while_writes_go_on
    a_list_shows_any_revision_still_kept
    revisions_compacted_or_to_come_are_refused
    a_watch_gives_every_change_once_and_in_order_under_concurrent_writers
    a_watch_resumes_from_any_revision_still_kept
    a_watch_sees_only_its_prefix
    a_change_wakes_only_watchers_of_its_prefix
    a_slow_watcher_is_told_that_history_is_gone_and_blocks_nobody
    a_watcher_of_a_quiet_prefix_outlives_the_history_of_others
    values_of_every_size_read_back
}

pub fn put(key: &str, value: impl Into<bytes::Bytes>) -> Op {
    Op::Put { key: key.into(), value: value.into() }
}

pub fn delete(key: &str) -> Op {
    Op::Delete { key: key.into() }
}

pub async fn write(store: &SharedStore, then: Vec<Op>) -> Revision {
    store.txn(Txn { when: vec![], then }).await.unwrap()
}

async fn keys(store: &SharedStore, request: ListRequest) -> Vec<String> {
    store.list(request).await.unwrap().records.iter().map(|r| r.key.to_string()).collect()
}

fn under(prefix: &str) -> ListRequest {
    ListRequest { prefix: prefix.into(), ..Default::default() }
}

async fn next(watch: &mut Box<dyn Watch>) -> Result<Change, StoreError> {
    tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("a change within 20 s")
}

async fn is_quiet(watch: &mut Box<dyn Watch>) -> bool {
    // Changes are there when the write is answered, so a watch that has none at once has none.
    futures::poll!(std::pin::pin!(watch.next())).is_pending()
}

fn tiny() -> HistoryLimits {
    HistoryLimits { changes: 4, bytes: 1 << 20 }
}

async fn revisions_rise_by_one_for_each_effective_transaction(backend: Backend) {
    let store = backend.store(HistoryLimits::default()).await;
    assert_eq!(store.revision(), Revision(0));
    for n in 1..=20 {
        assert_eq!(write(&store, vec![put("a/x", format!("{n}")), put(&format!("a/{n}"), "v")]).await, Revision(n));
        assert_eq!(store.revision(), Revision(n));
    }
    let burst =
        futures::future::join_all((0..50).map(|n| write(&store, vec![put("a/y", format!("{n}"))].clone()))).await;
    let mut revisions: Vec<_> = burst.iter().map(|r| r.0).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (21..=70).collect::<Vec<_>>());
}

async fn a_record_tells_when_it_was_created_and_modified(backend: Backend) {
    let store = backend.store(HistoryLimits::default()).await;
    write(&store, vec![put("k", "1")]).await;
    write(&store, vec![put("k", "2")]).await;
    let record = store.get("k").await.unwrap().unwrap();
    assert_eq!((record.created, record.modified, &*record.value), (Revision(1), Revision(2), &b"2"[..]));
    write(&store, vec![delete("k")]).await;
    assert_eq!(store.get("k").await.unwrap(), None);
    write(&store, vec![put("k", "4")]).await;
    assert_eq!(store.get("k").await.unwrap().unwrap().created, Revision(4));
}

async fn preconditions_decide_and_a_conflict_carries_the_current_record(backend: Backend) {
    let store = backend.store(HistoryLimits::default()).await;
    let absent = || Precondition::Absent { key: "k".into() };
    let unchanged = |n| Precondition::Unchanged { key: "k".into(), modified: Revision(n) };
    let attempt = |when| store.txn(Txn { when: vec![when], then: vec![put("k", "v")] });

    assert_eq!(attempt(unchanged(0)).await, Err(StoreError::Conflict { key: "k".into(), current: None }));
    assert_eq!(attempt(absent()).await, Ok(Revision(1)));
    let current = store.get("k").await.unwrap().map(Box::new);
    let conflict = Err(StoreError::Conflict { key: "k".into(), current });
    assert_eq!(attempt(absent()).await, conflict);
    assert_eq!(attempt(unchanged(9)).await, conflict);
    assert_eq!(attempt(unchanged(1)).await, Ok(Revision(2)));
    assert_eq!(store.revision(), Revision(2));

    // A condition on a key that the transaction does not write counts as well.
    let guarded = Txn { when: vec![unchanged(1)], then: vec![put("other", "v")] };
    assert!(matches!(store.txn(guarded).await, Err(StoreError::Conflict { .. })));
    assert_eq!(store.get("other").await.unwrap(), None);
}

async fn of_many_writers_on_one_version_exactly_one_wins(backend: Backend) {
    let store = backend.store(HistoryLimits::default()).await;
    let mut version = write(&store, vec![put("k", "0")]).await;
    for round in 0..10 {
        let attempts = (0..16).map(|n| {
            let when = vec![Precondition::Unchanged { key: "k".into(), modified: version }];
            store.txn(Txn { when, then: vec![put("k", format!("{round}-{n}")), put(&format!("mark/{n}"), "x")] })
        });
        let results = futures::future::join_all(attempts).await;
        let won: Vec<_> = results.iter().filter_map(|r| r.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "{results:?}");
        assert_eq!(store.get("k").await.unwrap().unwrap().modified, *won[0]);
        version = *won[0];
    }
}

async fn a_transaction_happens_whole_or_not_at_all(backend: Backend) {
    let store = backend.store(HistoryLimits::default()).await;
    let mut watch = store.watch("", Revision(0)).await.unwrap();
    write(&store, vec![put("a", "1"), put("b", "1"), put("c", "1")]).await;
    let failing = Txn {
        when: vec![Precondition::Absent { key: "zzz".into() }, Precondition::Absent { key: "c".into() }],
        then: vec![put("a", "2"), delete("b"), put("zzz", "2")],
    };
    assert!(matches!(store.txn(failing).await, Err(StoreError::Conflict { key, .. }) if key == "c"));
    assert_eq!(keys(&store, under("")).await, ["a", "b", "c"]);
    for _ in 0..3 {
        assert_eq!(next(&mut watch).await.unwrap().revision, Revision(1));
    }
    assert!(is_quiet(&mut watch).await);
}

async fn a_transaction_that_changes_nothing_makes_no_revision_and_no_event(backend: Backend) {
    let store = backend.store(HistoryLimits::default()).await;
    let at = write(&store, vec![put("a", "1")]).await;
    let mut watch = store.watch("", at).await.unwrap();
    assert_eq!(write(&store, vec![]).await, at);
    assert_eq!(write(&store, vec![delete("b"), delete("c")]).await, at);
    assert!(is_quiet(&mut watch).await);
    // Of a mixed one, only what changes is told.
    write(&store, vec![delete("b"), put("d", "1")]).await;
    assert_eq!(&*next(&mut watch).await.unwrap().key, "d");
    assert!(is_quiet(&mut watch).await);
}

async fn what_cannot_be_stored_is_refused_and_changes_nothing(backend: Backend) {
    let store = backend.store(HistoryLimits::default()).await;
    let attempt = |then| store.txn(Txn { when: vec![], then });
    let large = vec![b'x'; MAX_OBJECT_BYTES + 1];
    let error = attempt(vec![put("a", "1"), put("b", large)]).await.unwrap_err();
    let expected = StoreError::TooLarge { key: "b".into(), size: MAX_OBJECT_BYTES + 1, limit: MAX_OBJECT_BYTES };
    assert_eq!(error, expected);
    let huge = (0..17).map(|n| put(&format!("{n}"), vec![b'x'; MAX_OBJECT_BYTES])).collect();
    assert!(matches!(attempt(huge).await, Err(StoreError::TooLarge { .. })), "17 objects of the largest size");
    assert!(matches!(attempt(vec![put(&"k".repeat(2000), "v")]).await, Err(StoreError::TooLarge { .. })));
    for bad in ["", "a\0b"] {
        assert!(matches!(attempt(vec![put(bad, "v")]).await, Err(StoreError::Failed(_))), "{bad:?} was taken");
    }
    let twice = attempt(vec![put("a", "1"), delete("a")]).await.unwrap_err();
    assert!(twice.to_string().contains("a: written twice"), "{twice}");
    assert_eq!((store.revision(), keys(&store, under("")).await), (Revision(0), vec![]));
    write(&store, vec![put("a", "1")]).await;
}

async fn lists_are_in_byte_order_by_prefix(backend: Backend) {
    let store = backend.store(HistoryLimits::default()).await;
    for key in ["b/2", "a/1", "b/10", "b", "b/ä", "c/1", "b/1", "b-1"] {
        write(&store, vec![put(key, key.to_owned())]).await;
    }
    assert_eq!(keys(&store, under("b/")).await, ["b/1", "b/10", "b/2", "b/ä"]);
    assert_eq!(keys(&store, under("")).await, ["a/1", "b", "b-1", "b/1", "b/10", "b/2", "b/ä", "c/1"]);
    assert_eq!(keys(&store, under("nothing/")).await, [""; 0]);
    let after = |after: &str| ListRequest { after: Some(after.into()), ..under("b/") };
    assert_eq!(keys(&store, after("b/10")).await, ["b/2", "b/ä"]);
    assert_eq!(keys(&store, after("b/11")).await, ["b/2", "b/ä"]);
    assert_eq!(keys(&store, after("a")).await.len(), 4);
    assert_eq!(keys(&store, after("c")).await, [""; 0]);
}

async fn pages_show_one_revision_while_writes_go_on(backend: Backend) {
    let store = backend.store(HistoryLimits::default()).await;
    let all: Vec<String> = (0..25).map(|n| format!("k/{n:02}")).collect();
    write(&store, all.iter().map(|k| put(k, "old")).chain([put("other", "x")]).collect()).await;
    let mut seen = vec![];
    let mut request = ListRequest { limit: Some(10), count: true, ..under("k/") };
    loop {
        let page = store.list(request.clone()).await.unwrap();
        assert_eq!(page.revision, Revision(1));
        seen.extend(page.records.iter().map(|r| (r.key.to_string(), r.value.clone())));
        assert_eq!((page.remaining, page.more), (Some(25 - seen.len()), seen.len() < 25));
        if !page.more {
            break;
        }
        // Changes ahead of and behind the reader, of every sort.
        write(&store, vec![put("k/24", "new"), delete("k/23"), put("k/000", "new"), put("k/99", "new")]).await;
        write(&store, vec![put("k/23", "again"), delete("k/00")]).await;
        request = ListRequest { after: seen.last().map(|s| s.0.clone()), at: Some(page.revision), ..request };
    }
    assert_eq!(seen, all.into_iter().map(|k| (k, "old".into())).collect::<Vec<_>>());
}

async fn a_list_shows_any_revision_still_kept(backend: Backend) {
    let store = backend.store(HistoryLimits::default()).await;
    let mut states = vec![vec![]];
    for n in 0..30u32 {
        let key = format!("k/{}", n * 7 % 5);
        let op = if n % 3 == 2 { delete(&key) } else { put(&key, n.to_string()) };
        let at = write(&store, vec![op, put("tick", n.to_string())]).await;
        assert_eq!(at, Revision(states.len() as u64));
        states.push(store.list(under("k/")).await.unwrap().records);
    }
    for (revision, state) in states.iter().enumerate() {
        let request = ListRequest { at: Some(Revision(revision as u64)), ..under("k/") };
        assert_eq!(store.list(request).await.unwrap().records, *state, "at {revision}");
    }
}

async fn revisions_compacted_or_to_come_are_refused(backend: Backend) {
    let store = backend.store(HistoryLimits::default()).await;
    for n in 0..10 {
        write(&store, vec![put("k", n.to_string())]).await;
    }
    let at = |n| store.list(ListRequest { at: Some(Revision(n)), ..under("") });
    let future = StoreError::Future { asked: 11, newest: 10 };
    assert_eq!(at(11).await.unwrap_err(), future);
    assert_eq!(store.watch("", Revision(11)).await.err(), Some(future.clone()));
    assert_eq!(store.compact(Revision(11)).await, Err(future));

    store.compact(Revision(5)).await.unwrap();
    let gone = StoreError::Compacted { asked: 4, oldest: 5 };
    assert_eq!(at(4).await.unwrap_err(), gone);
    assert_eq!(store.watch("", Revision(4)).await.err(), Some(gone));
    assert_eq!(&*at(5).await.unwrap().records[0].value, b"4");
    let mut watch = store.watch("", Revision(5)).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().revision, Revision(6));
    // Compacting again, or further back, changes nothing.
    store.compact(Revision(2)).await.unwrap();
    assert_eq!(at(5).await.unwrap().revision, Revision(5));
}

async fn a_watch_gives_every_change_once_and_in_order_under_concurrent_writers(backend: Backend) {
    let store = backend.store(HistoryLimits::default()).await;
    let writers = (0..8).map(|w| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..50 {
                let ops = vec![put(&format!("w/{w}"), format!("{n}")), put(&format!("w/{w}/{}", n % 3), "x")];
                write(&store, ops).await;
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let mut early = store.watch("w/", Revision(0)).await.unwrap();
    // This one begins in the middle of the storm.
    tokio::task::yield_now().await;
    let middle = store.list(under("w/")).await.unwrap();
    let mut late = store.watch("w/", middle.revision).await.unwrap();

    let mut state: std::collections::BTreeMap<_, _> =
        middle.records.iter().map(|r| (r.key.to_string(), r.clone())).collect();
    let (mut last, mut told) = (0, 0);
    while told < 8 * 50 * 2 {
        let change = next(&mut early).await.unwrap();
        assert!(change.revision.0 == last || change.revision.0 == last + 1, "{} after {last}", change.revision.0);
        last = change.revision.0;
        told += 1;
        if change.revision > middle.revision {
            let same = next(&mut late).await.unwrap();
            assert_eq!((same.revision, &same.key), (change.revision, &change.key));
            assert_eq!(same.before, state.get(&*same.key).cloned());
            state.insert(same.key.to_string(), same.now.unwrap());
        }
    }
    futures::future::join_all(writers).await;
    assert!(is_quiet(&mut early).await && is_quiet(&mut late).await);
    assert_eq!(last, 400);
    assert_eq!(state.into_values().collect::<Vec<_>>(), store.list(under("w/")).await.unwrap().records);
}

async fn a_watch_resumes_from_any_revision_still_kept(backend: Backend) {
    let store = backend.store(HistoryLimits::default()).await;
    for n in 1..=20u64 {
        write(&store, vec![if n % 4 == 0 { delete("k") } else { put("k", n.to_string()) }]).await;
    }
    for from in 0..=20 {
        let mut watch = store.watch("", Revision(from)).await.unwrap();
        for n in from + 1..=20 {
            let change = next(&mut watch).await.unwrap();
            assert_eq!((change.revision, change.now.is_none()), (Revision(n), n % 4 == 0));
            assert_eq!(change.before.is_none(), n % 4 == 1);
        }
        assert!(is_quiet(&mut watch).await);
    }
}

async fn a_watch_sees_only_its_prefix(backend: Backend) {
    let store = backend.store(HistoryLimits::default()).await;
    let prefixes = ["", "a", "a/", "a/b", "a/b/", "ä"];
    let mut watches = vec![];
    for prefix in prefixes {
        watches.push((prefix, store.watch(prefix, Revision(0)).await.unwrap()));
    }
    let keys = ["a", "a/b", "a/b/c", "b/a", "ä", "äb"];
    for key in keys {
        write(&store, vec![put(key, "v")]).await;
    }
    for (prefix, mut watch) in watches {
        for key in keys.iter().filter(|k| k.starts_with(prefix)) {
            assert_eq!(&&*next(&mut watch).await.unwrap().key, key, "watch of {prefix:?}");
        }
        assert!(is_quiet(&mut watch).await, "watch of {prefix:?}");
    }
}

async fn a_change_wakes_only_watchers_of_its_prefix(backend: Backend) {
    #[derive(Default)]
    struct Wakes(std::sync::atomic::AtomicUsize);
    impl std::task::Wake for Wakes {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    }
    let store = backend.store(HistoryLimits::default()).await;
    let mut watch = store.watch("a/", Revision(0)).await.unwrap();
    let wakes = std::sync::Arc::new(Wakes::default());
    let waker = wakes.clone().into();
    let mut next = watch.next();
    assert!(next.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
    for n in 0..50 {
        write(&store, vec![put("ab/k", n.to_string()), put("a", "x"), put("b/k", "x")]).await;
    }
    assert_eq!(wakes.0.load(std::sync::atomic::Ordering::SeqCst), 0, "others' changes woke it");
    write(&store, vec![put("a/1", "x"), put("a/2", "x"), put("a/3", "x")]).await;
    assert_eq!(wakes.0.load(std::sync::atomic::Ordering::SeqCst), 1, "one transaction, one wake");
    assert_eq!(&*next.await.unwrap().key, "a/1");
}

async fn a_slow_watcher_is_told_that_history_is_gone_and_blocks_nobody(backend: Backend) {
    let store = backend.store(tiny()).await;
    let mut slow = store.watch("k", Revision(0)).await.unwrap();
    let mut half = store.watch("k", Revision(0)).await.unwrap();
    write(&store, vec![put("k", "0")]).await;
    assert_eq!(next(&mut half).await.unwrap().revision, Revision(1));
    for n in 1..2000 {
        write(&store, vec![put("k", n.to_string())]).await;
    }
    assert_eq!(next(&mut slow).await.unwrap_err(), StoreError::Compacted { asked: 0, oldest: 1996 });
    assert!(matches!(next(&mut slow).await, Err(StoreError::Compacted { .. })), "it recovered by itself");
    assert_eq!(next(&mut half).await.unwrap_err(), StoreError::Compacted { asked: 1, oldest: 1996 });
    let listing = store.list(under("k")).await.unwrap();
    let mut again = store.watch("k", listing.revision).await.unwrap();
    write(&store, vec![put("k", "last")]).await;
    assert_eq!(next(&mut again).await.unwrap().revision, Revision(2001));
}

async fn a_watcher_of_a_quiet_prefix_outlives_the_history_of_others(backend: Backend) {
    let store = backend.store(tiny()).await;
    let mut quiet = store.watch("quiet/", Revision(0)).await.unwrap();
    for n in 0..50 {
        write(&store, vec![put("loud/k", n.to_string())]).await;
    }
    assert!(is_quiet(&mut quiet).await);
    write(&store, vec![put("quiet/k", "1")]).await;
    for n in 0..3 {
        write(&store, vec![put("loud/k", n.to_string())]).await;
    }
    assert_eq!(next(&mut quiet).await.unwrap().revision, Revision(51));
    assert!(is_quiet(&mut quiet).await);
}

async fn values_of_every_size_read_back(backend: Backend) {
    let store = backend.store(HistoryLimits::default()).await;
    let chunk = 32 << 10;
    for size in [0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk, MAX_OBJECT_BYTES, chunk + 1, 0] {
        let value: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        write(&store, vec![put("k", value.clone())]).await;
        assert_eq!(store.get("k").await.unwrap().unwrap().value, value, "{size} bytes");
    }
}
