//! Stores of earlier formats open, and lose nothing.

use std::collections::BTreeMap;
use std::path::Path;

use portreeve::store::{ListRequest, Op, Revision, SharedStore, SledOptions, SledStore, StoreError};

use super::{delete, put, write};

/// Written by the last version that wrote format 1, with [`transactions`] one after the other: `CURRENT`, `ACKED`, `LOCK`
/// and `data-1`.
const FORMAT_1: &[u8] = include_bytes!("format-1.tar.gz");

/// Puts of sizes up to several chunks, some of which grow, shrink, or go.
fn transactions() -> Vec<Vec<Op>> {
    let size = |n: usize| [0, 17, 900, 5_000, 33_000, 70_000][n % 6];
    let ops = |n: usize| {
        let mut ops = vec![put(&format!("k/{:02}", n % 23), vec![n as u8; size(n)])];
        if n.is_multiple_of(4) {
            ops.push(put(&format!("other/{n:02}"), format!("{n}")));
        }
        if n % 5 == 4 {
            ops.push(delete(&format!("k/{:02}", (n + 7) % 23)));
        }
        ops
    };
    (0..60).map(ops).collect()
}

/// What is there afterwards: values, and the revision that wrote each.
fn content() -> BTreeMap<String, (Vec<u8>, u64)> {
    let mut content = BTreeMap::new();
    for (n, ops) in transactions().into_iter().enumerate() {
        for op in ops {
            match op {
                Op::Put { key, value } => drop(content.insert(key, (value.to_vec(), n as u64 + 1))),
                Op::Delete { key } => drop(content.remove(&key)),
            }
        }
    }
    content
}

fn unpacked() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    tar::Archive::new(flate2::read::GzDecoder::new(FORMAT_1)).unpack(dir.path()).unwrap();
    // Git keeps no empty directories, nor does the archive.
    std::fs::create_dir_all(dir.path().join("data-1/blobs")).unwrap();
    dir
}

fn current(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("CURRENT")).unwrap()
}

async fn holds(store: &SharedStore) {
    let found = store.list(ListRequest::default()).await.unwrap().records;
    let found: BTreeMap<_, _> =
        found.into_iter().map(|r| (r.key.to_string(), (r.value.to_vec(), r.modified.0))).collect();
    assert!(found == content(), "it is not what was written: {:?}", found.keys());
}

#[tokio::test]
async fn a_store_of_format_1_becomes_one_of_format_2_and_loses_nothing() {
    let dir = unpacked();
    assert_eq!(current(dir.path()), "portreeve store\nformat 1\ndata 1\nstate ready\n");
    // As a migration leaves it that was cut off.
    std::fs::create_dir_all(dir.path().join("wal")).unwrap();
    std::fs::write(dir.path().join("wal/0000000001.log"), "torn").unwrap();
    std::fs::create_dir_all(dir.path().join("data-2")).unwrap();
    std::fs::write(dir.path().join("data-2/db"), "torn").unwrap();
    for round in 0..3 {
        let store = SledStore::open(dir.path(), SledOptions::default()).await.unwrap();
        let shared: SharedStore = store.clone();
        assert_eq!(shared.revision(), Revision(60 + round * 2));
        holds(&shared).await;
        assert_eq!(current(dir.path()), "portreeve store\nformat 2\ndata 2\nstate ready\n");
        assert!(!dir.path().join("data-1").exists(), "the old files stay");
        write(&shared, vec![put("new", "x")]).await;
        write(&shared, vec![delete("new")]).await;
        store.close().await;
    }
}

#[tokio::test]
async fn a_damaged_store_of_format_1_is_refused_and_stays() {
    let dir = unpacked();
    let db = dir.path().join("data-1/db");
    let mut bytes = std::fs::read(&db).unwrap();
    // In the middle of the last value that was written.
    let run = [59u8; 64];
    let at = bytes.windows(64).rposition(|w| w == run).expect("the value is there");
    bytes[at] ^= 1;
    std::fs::write(&db, &bytes).unwrap();
    let error = SledStore::open(dir.path(), SledOptions::default()).await.err().expect("it was opened");
    assert!(matches!(&error, StoreError::Damaged(why) if why.contains("data-1")), "{error}");
    assert!(current(dir.path()).contains("format 1") && db.is_file());
}
