//! Disks that fail or hang in the middle of a sync: nothing is acknowledged that is not durable, reads go on, and what
//! had been acknowledged is there afterwards.

use std::path::PathBuf;
use std::time::Duration;

use portreeve::store::{ListRequest, Op, Revision, SharedStore, SledOptions, SledStore, Store as _, StoreError, Txn};

use super::mounts::{Bench, Mounted, run};

async fn put(store: &SharedStore, n: u64) -> Result<Revision, StoreError> {
    let op = Op::Put { key: format!("k/{n:05}"), value: vec![n as u8; 30_000].into() };
    store.txn(Txn { when: vec![], then: vec![op] }).await
}

async fn keys(store: &SharedStore) -> usize {
    store.list(ListRequest::default()).await.unwrap().records.len()
}

/// The image lies in a memory file system that is smaller than the image claims: writing to it fails at some point
/// with an I/O error, as on a broken disk, not with ENOSPC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_sync_nothing_is_written_and_nothing_acknowledged_is_lost() {
    let skip = |why: &str| println!("SKIPPED, nothing was tested: the failing disk needs {why}");
    let bench = match Bench::new("broken", 160 << 20) {
        Ok(bench) => bench,
        Err(why) => return skip(&why),
    };
    let memory = match Mounted::memory(&bench.path("memory"), "48m") {
        Ok(memory) => memory,
        Err(why) => return skip(&why),
    };
    let image = memory.0.join("image");
    std::fs::File::create(&image).unwrap().set_len(160 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]).unwrap();
    let mounted = Mounted::new(&image, &bench.path("disk")).unwrap();
    let dir = mounted.0.join("store");
    let on_disk = SledStore::open(&dir, SledOptions::default()).await.unwrap();
    let store: SharedStore = on_disk.clone();
    let mut acked = 0;
    let error = loop {
        match put(&store, acked).await {
            Ok(_) => acked += 1,
            Err(e) => break e,
        }
        assert!(acked < 5000, "the disk never failed");
    };
    assert!(matches!(error, StoreError::Failed(_)), "{error}");
    assert!(acked > 100, "it failed before it began: {error}");
    let again = put(&store, 99_999).await.unwrap_err();
    assert!(again.to_string().contains("takes no writes until it is opened again"), "{again}");
    assert_eq!((keys(&store).await as u64, store.revision()), (acked, Revision(acked)));
    on_disk.close().await;
    drop((store, on_disk));

    // The disk is repaired: the machine comes up again.
    drop(mounted);
    run("mount", &["-o", "remount,size=300m", memory.0.to_str().unwrap()]).unwrap();
    // Its exit status tells that it mended something.
    let _ = run("fsck.ext4", &["-f", "-y", image.to_str().unwrap()]);
    let mounted = Mounted::new(&image, &bench.path("disk")).unwrap();
    let on_disk = SledStore::open(&mounted.0.join("store"), SledOptions::default()).await.unwrap();
    let store: SharedStore = on_disk.clone();
    for n in 0..acked {
        let record = store.get(&format!("k/{n:05}")).await.unwrap();
        assert!(record.is_some_and(|r| r.modified == Revision(n + 1)), "{n} of {acked} was lost");
    }
    put(&store, 99_999).await.unwrap();
    on_disk.close().await;
}

/// Freezes a file system until dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(at: PathBuf) -> Frozen {
        run("fsfreeze", &["-f", at.to_str().unwrap()]).unwrap();
        Frozen(at)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = run("fsfreeze", &["-u", self.0.to_str().unwrap()]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_disk_hangs_writes_time_out_reads_go_on_and_then_all_is_well() {
    let bench = match Bench::new("hanging", 160 << 20) {
        Ok(bench) => bench,
        Err(why) => return println!("SKIPPED, nothing was tested: the hanging disk needs {why}"),
    };
    let mounted = Mounted::new(&bench.path("image"), &bench.path("disk")).unwrap();
    let options = SledOptions { write_timeout: Duration::from_millis(500), ..Default::default() };
    let on_disk = SledStore::open(&mounted.0.join("store"), options).await.unwrap();
    let store: SharedStore = on_disk.clone();
    put(&store, 0).await.unwrap();

    let frozen = Frozen::new(mounted.0.clone());
    let late = futures::future::join_all((1..=20).map(|n| put(&store, n))).await;
    for result in &late {
        let text = result.as_ref().unwrap_err().to_string();
        assert!(text.contains("not durable after 500ms"), "{text}");
    }
    assert_eq!((keys(&store).await, store.revision()), (1, Revision(1)), "what is not durable is visible");

    drop(frozen);
    // The first write after the thaw waits behind the late ones.
    let mut attempts = 0;
    while put(&store, 21).await.is_err() {
        attempts += 1;
        assert!(attempts < 20, "it never recovered");
    }
    assert_eq!(keys(&store).await, 22, "the late writes were in the queue and happened, in order");
    let before = store.list(ListRequest::default()).await.unwrap();
    on_disk.close().await;
    drop((store, on_disk));
    let again = SledStore::open(&mounted.0.join("store"), SledOptions::default()).await.unwrap();
    assert_eq!(again.list(ListRequest::default()).await.unwrap().records, before.records);
    again.close().await;
}
