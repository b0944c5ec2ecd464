//! The log by itself: torn and damaged at every byte.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::behind::{Bounds, Dirty};
use super::super::codec::Digest;
use super::*;
use crate::store::Record;

const SEGMENT: u64 = 16 << 10;

/// A log, and the state that it leads to.
struct Bench {
    _dir: Option<tempfile::TempDir>,
    path: PathBuf,
    wal: Wal,
    behind: Arc<Behind>,
    head: Head,
    records: BTreeMap<Arc<str>, Record>,
}

fn bench(dir: Option<tempfile::TempDir>, path: PathBuf, found: Found, records: BTreeMap<Arc<str>, Record>) -> Bench {
    let bounds = Bounds { checkpoint: 1 << 30, after: Duration::MAX, segment: SEGMENT };
    let head = found.head.unwrap_or_default();
    let behind = Behind::new(Dirty::new(), head, Revision(0), found.sealed, found.spares, bounds);
    let wal = Wal::new(path.clone(), found.active, SEGMENT, behind.clone());
    Bench { _dir: dir, path, wal, behind, head, records }
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wal");
        let found = create(&path, SEGMENT).unwrap();
        bench(Some(dir), path, found, BTreeMap::new())
    }

    /// Appends a group that writes these keys: so many bytes, or none when it is to go.
    fn write(&mut self, group: &[(u8, Option<usize>)]) {
        let mut changes = vec![];
        let mut revision = self.head.revision;
        for (key, size) in group {
            revision.0 += 1;
            let key: Arc<str> = format!("k/{key}").into();
            let before = self.records.get(&key).cloned();
            let now = size.map(|size| Record {
                key: key.clone(),
                value: Bytes::from(vec![revision.0 as u8; size]),
                created: before.as_ref().map_or(revision, |b| b.created),
                modified: revision,
            });
            match &now {
                Some(record) => drop(self.records.insert(key.clone(), record.clone())),
                None => drop(self.records.remove(&key)),
            }
            changes.push(Change { revision, key, now, before });
        }
        self.head = Head { revision, digest: self.head.digest.after(&changes) };
        self.wal.append(&changes, self.head).unwrap();
    }

    /// Where the next record belongs in the newest segment.
    fn end(&self) -> usize {
        self.wal.active.end() as usize
    }
}

/// What the log in a directory leads to, and whether its records add up to what they should.
fn read(path: &Path) -> Result<(Found, BTreeMap<Arc<str>, Record>)> {
    let mut records = BTreeMap::new();
    let found = open(path, Revision(0), SEGMENT, |group| {
        for change in group.changes {
            match change.now {
                Some(record) => drop(records.insert(change.key, record)),
                None => drop(records.remove(&change.key)),
            }
        }
    })?;
    assert_eq!(Digest::of(records.values()), found.head.unwrap_or_default().digest);
    Ok((found, records))
}

fn leads_to(path: &Path) -> Result<u64> {
    read(path).map(|(found, _)| found.head.unwrap_or_default().revision.0)
}

/// A second directory with the same log, but for its newest segment.
fn copy(from: &Path, newest: &[u8]) -> tempfile::TempDir {
    static COPIES: AtomicU64 = AtomicU64::new(0);
    let dir = tempfile::Builder::new().prefix(&format!("wal-{}", COPIES.fetch_add(1, Relaxed))).tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let segments = files(dir.path(), SEGMENT).unwrap().0;
    fs::write(&segments.last().unwrap().1, newest).unwrap();
    dir
}

/// A log whose newest segment has records in a file that served before; what that file held before the last of them, and
/// what it holds now; and where the last record begins and ends.
fn recycled() -> (Bench, Vec<u8>, Vec<u8>, std::ops::Range<usize>) {
    let mut bench = Bench::new();
    // Two segments full, of which the first is used again for the third.
    while bench.behind.written(Revision(0)).0.is_empty() && bench.wal.active.sequence < 2 {
        bench.write(&[(1, Some(700)), (2, Some(31))]);
    }
    let (free, _) = bench.behind.written(bench.head.revision);
    assert_eq!(free.len(), 1);
    bench.behind.add_spare(recycle(&bench.path, &free[0].path, 7).unwrap());
    while bench.wal.active.sequence < 3 {
        bench.write(&[(3, Some(900)), (1, None), (1, Some(5))]);
    }
    bench.write(&[(4, Some(100))]);
    let path = bench.wal.active.path.clone();
    let (start, before) = (bench.end(), fs::read(&path).unwrap());
    // Over more than a block.
    bench.write(&[(5, Some(5000)), (6, Some(1)), (2, None)]);
    let range = start..bench.end();
    let after = fs::read(&path).unwrap();
    (bench, before, after, range)
}

#[test]
fn a_tail_that_is_torn_at_any_byte_ends_the_log_and_it_goes_on_from_there() {
    let (bench, before, after, last) = recycled();
    let known = Revision(bench.head.revision.0);
    assert!(before[last.end..].iter().any(|b| *b != 0), "the file did not serve before");
    let open_at = |path: &Path| open(path, known, SEGMENT, |_| {});
    for cut in last.clone() {
        let mut torn = before.clone();
        torn[last.start..cut].copy_from_slice(&after[last.start..cut]);
        let whole = torn[last.clone()] == after[last.clone()];
        let dir = copy(&bench.path, &torn);
        let found = open_at(dir.path()).unwrap_or_else(|e| panic!("cut at byte {cut}: {e}"));
        let leads = found.head.unwrap().revision.0;
        // The bytes that pad a record say nothing.
        assert!(leads == known.0 - 3 || (leads == known.0 && (whole || cut + 8 > last.end)), "cut at {cut}: {leads}");
        if cut % 97 == 0 {
            let mut again = self::bench(None, dir.path().to_owned(), found, bench.records.clone());
            again.write(&[(9, Some(10))]);
            let found = open_at(dir.path()).unwrap();
            assert_eq!(found.head.unwrap().revision.0, leads + 1);
        }
    }
    // Blocks reach the disk in any order.
    let mut holes = after.clone();
    let first = last.start.next_multiple_of(BLOCK);
    holes[last.start..first].copy_from_slice(&before[last.start..first]);
    assert_eq!(open_at(copy(&bench.path, &holes).path()).unwrap().head.unwrap().revision.0, known.0 - 3);
}

#[test]
fn a_byte_that_is_flipped_before_a_whole_record_is_told_with_file_and_place() {
    let mut bench = Bench::new();
    let mut starts = vec![];
    for n in 0..5 {
        starts.push(bench.end());
        bench.write(&[(n, Some(60 + usize::from(n))), (9, Some(3))]);
    }
    let whole = fs::read(&bench.wal.active.path).unwrap();
    let (last, end) = (starts[4], bench.end());
    for at in (0..28).chain(BLOCK..end) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        let dir = copy(&bench.path, &bytes);
        match leads_to(dir.path()) {
            // A damaged tail cannot be told from a torn one here; ACKED can.
            Ok(leads) => {
                let pads = starts.iter().chain([&end]).any(|start| at < *start && at + 8 > *start);
                assert!((at >= last && leads == 8) || (pads && leads == 10), "byte {at} was taken for {leads}");
            }
            Err(StoreError::Damaged(why)) => {
                assert!(at < last && why.contains("0000000001.log"), "byte {at}: {why}");
                let record = starts.iter().rev().find(|start| at >= **start).unwrap_or(&0);
                assert!(why.contains(&format!("at byte {record}")), "byte {at}: {why}");
            }
            Err(e) => panic!("byte {at}: {e}"),
        }
    }
}

#[test]
fn damage_at_the_end_of_a_full_segment_and_a_missing_one_are_told() {
    let mut bench = Bench::new();
    let mut ends = vec![];
    while bench.wal.active.sequence < 4 {
        bench.write(&[(1, Some(1500))]);
        ends.push((bench.wal.active.sequence, bench.end()));
    }
    let (_, end) = ends.iter().rev().find(|(sequence, _)| *sequence == 2).copied().unwrap();
    let second = bench.path.join(segment_name(2));
    let whole = fs::read(&second).unwrap();
    let mut bytes = whole.clone();
    bytes[end - 100] ^= 1;
    fs::write(&second, &bytes).unwrap();
    let error = leads_to(&bench.path).unwrap_err().to_string();
    assert!(error.contains("0000000003.log: revision") && error.contains("0000000002.log"), "{error}");
    fs::remove_file(&second).unwrap();
    let error = leads_to(&bench.path).unwrap_err().to_string();
    assert!(error.contains("0000000002.log is missing"), "{error}");
    // The oldest are not missed once the files before the log lead far enough.
    fs::remove_file(bench.path.join(segment_name(1))).unwrap();
    let error = leads_to(&bench.path).unwrap_err().to_string();
    assert!(error.contains("0000000003.log: it begins with revision"), "{error}");
    let found = open(&bench.path, bench.head.revision, SEGMENT, |_| {}).unwrap();
    assert_eq!(found.head.unwrap(), bench.head);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]
    #[test]
    fn what_is_appended_is_read_whatever_its_sizes(
        groups in proptest::collection::vec(
            (
                proptest::collection::vec((0..6u8, proptest::option::weighted(0.8, 0..9_000usize)), 1..5),
                proptest::bool::weighted(0.2),
                proptest::bool::weighted(0.2),
            ),
            1..40,
        ),
    ) {
        let mut bench = Bench::new();
        for (group, reopen, spare) in groups {
            // Deletions of what is not there make no change.
            let mut there: std::collections::BTreeSet<u8> =
                bench.records.keys().map(|k| k[2..].parse().unwrap()).collect();
            let kept: Vec<_> = group
                .into_iter()
                .filter(|(key, size)| match size {
                    Some(_) => {
                        there.insert(*key);
                        true
                    }
                    None => there.remove(key),
                })
                .collect();
            if spare {
                bench.behind.add_spare(make(&bench.path, bench.behind.number(), SEGMENT).unwrap());
            }
            if !kept.is_empty() {
                bench.write(&kept);
            }
            if reopen {
                let (found, records) = read(&bench.path).unwrap();
                prop_assert_eq!(found.head.unwrap_or_default(), bench.head);
                prop_assert_eq!(&records, &bench.records);
                let Bench { _dir, path, .. } = bench;
                bench = self::bench(_dir, path, found, records);
            }
        }
        let (found, records) = read(&bench.path).unwrap();
        prop_assert_eq!(found.head.unwrap_or_default(), bench.head);
        prop_assert_eq!(records, bench.records);
    }
}
