//! A disk that is really full: the log, or the engine in the middle of a checkpoint, meets ENOSPC, with the reserve that
//! keeps them from that switched off. Nothing acknowledged is lost, reads go on, and writes go on once there is space.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use portreeve::store::{ListRequest, Op, Revision, SharedStore, SledOptions, SledStore, Store as _, StoreError, Txn};

use super::mounts::{Bench, Mounted};
use crate::support::api_server::PATIENCE;

/// Takes all the space there is.
pub fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let mut size = 1 << 20;
    while size > 0 {
        match file.write_all(&vec![1; size]) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::StorageFull => size /= 2,
            Err(e) => panic!("filling the disk: {e}"),
        }
    }
}

async fn put(store: &SharedStore, n: u64) -> Result<Revision, StoreError> {
    let op = Op::Put { key: format!("k/{n:05}"), value: vec![n as u8; 30_000].into() };
    store.txn(Txn { when: vec![], then: vec![op] }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_and_heals_by_itself() {
    let small = SledOptions { checkpoint_bytes: 8 << 20, segment_bytes: 1 << 20, ..Default::default() };
    fills_and_heals("full", SledOptions { reserve_bytes: 0, ..small }).await;
}

/// The engine is written all the time, and is the first to meet the end of the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_under_a_checkpoint_loses_nothing_and_heals_by_itself() {
    let small = SledOptions { checkpoint_bytes: 64 << 10, segment_bytes: 256 << 10, ..Default::default() };
    fills_and_heals("full-engine", SledOptions { reserve_bytes: 0, ..small }).await;
}

async fn fills_and_heals(label: &str, options: SledOptions) {
    // A twentieth is the file system's own, and not free for what asks: the store must leave more than that to the filler.
    let bench = match Bench::new(label, 240 << 20) {
        Ok(bench) => bench,
        Err(why) => return println!("SKIPPED, nothing was tested: the full disk needs {why}"),
    };
    let mounted = Mounted::new(&bench.path("image"), &bench.path("disk")).unwrap();
    let (dir, filler) = (mounted.0.join("store"), mounted.0.join("filler"));
    let on_disk = SledStore::open(&dir, options.clone()).await.unwrap();
    let store: SharedStore = on_disk.clone();
    let mut acked = BTreeMap::new();
    let mut n = 0;
    for round in 0..3 {
        for _ in 0..100 {
            n += 1;
            acked.insert(n, put(&store, n).await.unwrap());
        }
        fill(&filler);
        let refused = loop {
            n += 1;
            match put(&store, n).await {
                Ok(revision) => drop(acked.insert(n, revision)),
                Err(e) => break e,
            }
        };
        assert!(matches!(refused, StoreError::NoSpace(_)), "round {round}: {refused}");
        let failed = n;
        n += 1;
        assert!(matches!(put(&store, n).await, Err(StoreError::NoSpace(_))), "round {round}: it is still full");
        assert_eq!(store.get("k/00001").await.unwrap().unwrap().modified, acked[&1]);
        assert_eq!(store.revision(), acked.values().copied().max().unwrap());

        std::fs::remove_file(&filler).unwrap();
        // A file system may give the blocks of what was removed back with its next commit only.
        let heals = async {
            loop {
                n += 1;
                match put(&store, n).await {
                    Err(StoreError::NoSpace(_)) => tokio::task::yield_now().await,
                    healed => return healed,
                }
            }
        };
        let healed = tokio::time::timeout(PATIENCE, heals).await.expect("there is space");
        assert!(healed.is_ok(), "round {round}: {healed:?}");
        acked.insert(n, healed.unwrap());
        assert_eq!(store.get(&format!("k/{failed:05}")).await.unwrap(), None, "a refused write happened");
        on_disk.checkpoint().await.unwrap();
    }
    let whole = |records: Vec<portreeve::store::Record>| -> BTreeMap<u64, Revision> {
        let number = |key: &str| key.trim_start_matches("k/").parse().unwrap();
        records.iter().map(|r| (number(&r.key), r.modified)).collect()
    };
    assert_eq!(whole(store.list(ListRequest::default()).await.unwrap().records), acked);
    on_disk.close().await;
    drop((store, on_disk));
    let again = SledStore::open(&dir, options).await.unwrap();
    assert_eq!(whole(again.list(ListRequest::default()).await.unwrap().records), acked);
    again.close().await;
}
