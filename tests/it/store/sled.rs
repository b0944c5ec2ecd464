//! What only a store on disk promises: one process, known formats, damage found, the disk bounded, quick reopening.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portreeve::model::MAX_OBJECT_BYTES;
use portreeve::store::{
    ListRequest, Op, Precondition, Revision, SharedStore, SledOptions, SledStore, Store, StoreError, Txn,
};

use super::{delete, put, write};

async fn open(dir: &Path) -> Result<Arc<SledStore>, StoreError> {
    SledStore::open(dir, SledOptions::default()).await
}

/// A store with a hundred records, closed again.
async fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let shared: SharedStore = store.clone();
    for n in 0..100 {
        write(&shared, vec![put(&format!("k/{n:03}"), vec![b'a' + (n % 26) as u8; 1000])]).await;
    }
    store.close().await;
    dir
}

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = vec![];
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

fn disk_bytes(dir: &Path) -> u64 {
    let sizes = std::fs::read_dir(dir).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        // Files of an abandoned generation may go while they are counted.
        let meta = std::fs::symlink_metadata(&path).ok();
        meta.map_or(0, |m| if m.is_dir() { disk_bytes(&path) } else { m.blocks() * 512 })
    });
    sizes.sum()
}

#[tokio::test]
async fn content_and_revisions_survive_reopening() {
    let dir = filled().await;
    for round in 0..3 {
        let store = open(dir.path()).await.unwrap();
        assert_eq!(Store::revision(&*store), Revision(100 + round * 2));
        let shared: SharedStore = store.clone();
        let listing = shared.list(ListRequest { prefix: "k/".into(), ..Default::default() }).await.unwrap();
        assert_eq!(listing.records.len(), 100);
        assert_eq!(listing.records[7].modified, Revision(8));
        assert_eq!(listing.records[7].value, vec![b'h'; 1000]);
        // Histories from before the opening are gone, and say so.
        let old = shared.watch("", Revision(1)).await.err();
        assert!(matches!(old, Some(StoreError::Compacted { asked: 1, .. })), "{old:?}");
        write(&shared, vec![put("other", "x")]).await;
        write(&shared, vec![delete("other")]).await;
        store.close().await;
        let late = shared.txn(Txn { when: vec![], then: vec![put("late", "x")] }).await;
        assert!(matches!(late, Err(StoreError::Failed(_))), "{late:?}");
    }
}

#[tokio::test]
async fn a_second_opener_is_refused_in_clear_words() {
    let dir = filled().await;
    let first = open(dir.path()).await.unwrap();
    let error = open(dir.path()).await.err().expect("two had the store open").to_string();
    assert!(error.contains("in use by another process") && error.contains(&std::process::id().to_string()), "{error}");
    first.close().await;
    open(dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_newer_format_is_refused_and_nothing_is_touched() {
    let dir = filled().await;
    let current = dir.path().join("CURRENT");
    let text = std::fs::read_to_string(&current).unwrap();
    std::fs::write(&current, text.replace("format 2", "format 3")).unwrap();
    let before = files(dir.path());
    let error = open(dir.path()).await.err().expect("a newer format was opened");
    assert!(matches!(&error, StoreError::Damaged(why) if why.contains("format 3")), "{error}");
    assert_eq!(files(dir.path()), before);
}

#[tokio::test]
async fn a_missing_or_garbled_pointer_is_refused_and_nothing_is_removed() {
    let dir = filled().await;
    let current = dir.path().join("CURRENT");
    for content in [None, Some(""), Some("portreeve store\nformat 1\n"), Some("elephant")] {
        match content {
            None => std::fs::remove_file(&current).unwrap(),
            Some(text) => std::fs::write(&current, text).unwrap(),
        }
        let error = open(dir.path()).await.err().expect("it was opened");
        assert!(matches!(&error, StoreError::Damaged(why) if why.contains("CURRENT")), "{error}");
        assert!(dir.path().join("data-1/db").is_file());
    }
    std::fs::write(&current, "portreeve store\nformat 1\ndata 7\nstate ready\n").unwrap();
    let error = open(dir.path()).await.err().expect("it was opened");
    assert!(matches!(&error, StoreError::Damaged(why) if why.contains("data-7")), "{error}");
    assert!(dir.path().join("data-1/db").is_file());
}

/// A flipped byte either touches nothing that counts, or is found: no content is ever silently lost or changed.
#[tokio::test]
async fn a_flipped_byte_is_found_at_open() {
    let dir = filled().await;
    let store = open(dir.path()).await.unwrap();
    store.checkpoint().await.unwrap();
    store.close().await;
    let db = dir.path().join("data-1/db");
    let whole = std::fs::read(&db).unwrap();
    let copy = tempfile::tempdir().unwrap();
    let (mut refused, mut harmless) = (0, 0);
    // Where the values are: letters in long runs.
    let spots = (0..whole.len()).filter(|i| whole[*i].is_ascii_lowercase()).step_by(7919).take(24);
    for spot in spots.collect::<Vec<_>>() {
        let target = copy.path().join(format!("{spot}"));
        for (path, bytes) in files(dir.path()) {
            let to = target.join(path.strip_prefix(dir.path()).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(to, bytes).unwrap();
        }
        std::fs::create_dir_all(target.join("data-1/blobs")).unwrap();
        let mut bytes = whole.clone();
        bytes[spot] ^= 0x20;
        std::fs::write(target.join("data-1/db"), bytes).unwrap();
        match open(&target).await {
            Err(StoreError::Damaged(why)) => {
                assert!(why.contains("data-1"), "it does not name the file: {why}");
                refused += 1;
            }
            Err(other) => panic!("at byte {spot}: {other}"),
            Ok(store) => {
                let shared: SharedStore = store.clone();
                assert_eq!(shared.revision(), Revision(100), "at byte {spot}, writes were lost");
                let records = shared.list(ListRequest::default()).await.unwrap().records;
                for (n, record) in records.iter().enumerate() {
                    assert_eq!(record.value, vec![b'a' + (n % 26) as u8; 1000], "at byte {spot}");
                }
                assert_eq!(records.len(), 100);
                harmless += 1;
                store.close().await;
            }
        }
    }
    assert!(refused > 0, "none of {harmless} flipped bytes was found");
}

/// Damage to the write-ahead log: found wherever it is, also at its end, where it looks like a write that was cut off.
#[tokio::test]
async fn a_flipped_byte_of_the_log_is_found_at_open() {
    let dir = filled().await;
    let log = dir.path().join("wal/0000000001.log");
    let whole = std::fs::read(&log).unwrap();
    // The values of the first, of one in the middle, and of the newest.
    for n in [0u8, 49, 99] {
        let run = vec![b'a' + n % 26; 1000];
        let at = match n {
            99 => whole.windows(1000).rposition(|w| w == run),
            _ => whole.windows(1000).position(|w| w == run),
        };
        let mut bytes = whole.clone();
        bytes[at.unwrap() + 500] ^= 1;
        std::fs::write(&log, bytes).unwrap();
        let error = open(dir.path()).await.err().unwrap_or_else(|| panic!("damage to value {n} was not seen"));
        assert!(
            matches!(&error, StoreError::Damaged(why) if why.contains("at byte") && why.contains("0000000001.log")),
            "{error}"
        );
    }
    std::fs::write(&log, &whole).unwrap();
    let store = open(dir.path()).await.unwrap();
    assert_eq!(Store::revision(&*store), Revision(100));
    store.close().await;
    std::fs::remove_dir_all(dir.path().join("wal")).unwrap();
    let error = open(dir.path()).await.err().expect("it opened without its log");
    assert!(matches!(&error, StoreError::Damaged(why) if why.contains("the log is missing")), "{error}");
}

#[tokio::test]
async fn a_making_that_was_cut_off_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("CURRENT"), "portreeve store\nformat 1\ndata 1\nstate new\n").unwrap();
    std::fs::create_dir(dir.path().join("data-1")).unwrap();
    std::fs::write(dir.path().join("data-1/db"), "torn").unwrap();
    std::fs::create_dir(dir.path().join("data-9")).unwrap();
    let store: SharedStore = open(dir.path()).await.unwrap();
    assert_eq!(write(&store, vec![put("k", "v")]).await, Revision(1));
    assert!(!dir.path().join("data-9").exists(), "a left-over directory stays");
}

/// What the pinned engine must never do: write outside its log, where it does not sync.
#[tokio::test]
async fn large_values_stay_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let on_disk = open(dir.path()).await.unwrap();
    let store: SharedStore = on_disk.clone();
    for round in 0..4u8 {
        for n in 0..40 {
            write(&store, vec![put(&format!("k/{n:02}"), vec![round; MAX_OBJECT_BYTES])]).await;
        }
        on_disk.checkpoint().await.unwrap();
    }
    let blobs = std::fs::read_dir(dir.path().join("data-1/blobs")).unwrap().count();
    assert_eq!(blobs, 0, "values went to blob files");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_rewriting_keeps_the_disk_bounded_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = SledOptions {
        compact_min_bytes: 24 << 20,
        compact_factor: 2,
        checkpoint_bytes: 4 << 20,
        segment_bytes: 1 << 20,
        ..Default::default()
    };
    let store = SledStore::open(dir.path(), options).await.unwrap();
    let shared: SharedStore = store.clone();
    // 64 KiB in each transaction, over a few hundred keys, with some coming and going: 128 MiB in all.
    let mut peak = 0;
    for round in 0..2048u32 {
        let key = |n: u32| format!("k/{:03}", (round * 5 + n * 37) % 200);
        let mut ops: Vec<Op> = (0..8).map(|n| put(&key(n), vec![round as u8; 8 << 10])).collect();
        if round % 3 == 0 {
            ops[7] = delete(&key(7));
        }
        write(&shared, ops).await;
        if round % 32 == 0 {
            peak = peak.max(disk_bytes(dir.path()));
        }
    }
    store.checkpoint().await.unwrap();
    let generation = std::fs::read_to_string(dir.path().join("CURRENT")).unwrap();
    assert!(!generation.contains("data 1\n"), "it never compacted");
    // The old files at their bound, the fresh ones beside them, a segment or two that the engine is ahead, and the log
    // with its spares, which may fill up while the files are rewritten.
    let bound = (96 + 4 * 4 + 8) << 20;
    assert!(peak < bound, "{peak} bytes on disk, more than {bound}");
    println!("endless rewriting: at most {} MiB on disk for 128 MiB written; {generation}", peak >> 20);

    let before = shared.list(ListRequest::default()).await.unwrap();
    store.close().await;
    let again: SharedStore = open(dir.path()).await.unwrap();
    let after = again.list(ListRequest::default()).await.unwrap();
    assert_eq!((after.records, after.revision), (before.records, before.revision));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_objects_are_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let shared: SharedStore = store.clone();
    for page in 0..200u32 {
        let ops = (0..500).map(|n| put(&format!("instances/default/i{:06}", page * 500 + n), vec![b'v'; 512]));
        write(&shared, ops.collect()).await;
    }
    // Some of them in the files and some in the log, then all of them in the files.
    store.close().await;
    drop((store, shared));
    for round in ["first", "second"] {
        #[expect(clippy::disallowed_methods, reason = "a printed measurement")]
        let start = std::time::Instant::now();
        let store = open(dir.path()).await.unwrap();
        println!("reopening 100,000 objects of 512 B, {round} time: {:?}", start.elapsed());
        let shared: SharedStore = store.clone();
        assert_eq!(shared.revision(), Revision(200));
        let listing = shared.list(ListRequest { limit: Some(10), count: true, ..Default::default() }).await.unwrap();
        assert_eq!(listing.remaining, Some(99_990));
        let last = shared.get("instances/default/i099999").await.unwrap().unwrap();
        assert_eq!((last.modified, last.value.len()), (Revision(200), 512));
        store.checkpoint().await.unwrap();
        store.close().await;
    }
}

#[tokio::test]
async fn a_nearly_full_disk_refuses_writes_and_serves_reads() {
    let dir = tempfile::tempdir().unwrap();
    // As if the disk had not this much: nobody's has.
    let options = SledOptions { reserve_bytes: 1 << 60, ..Default::default() };
    let store = open(dir.path()).await.unwrap();
    let shared: SharedStore = store.clone();
    write(&shared, vec![put("k", "v")]).await;
    store.close().await;
    let store: SharedStore = SledStore::open(dir.path(), options).await.unwrap();
    let refused = store.txn(Txn { when: vec![], then: vec![put("k", "w")] }).await;
    assert!(matches!(refused, Err(StoreError::NoSpace(_))), "{refused:?}");
    assert_eq!(&*store.get("k").await.unwrap().unwrap().value, b"v");
    // A conflict is no better than the disk: the answer is the same for all.
    let when = vec![Precondition::Absent { key: "k".into() }];
    assert!(matches!(store.txn(Txn { when, then: vec![] }).await, Err(StoreError::NoSpace(_))));
}
