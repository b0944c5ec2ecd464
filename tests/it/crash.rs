//! Acknowledged writes outlive the process: a child storms a store on disk and is killed at random moments.
//!
//! The child is this test binary run again ([`child`] does nothing unless told to). It prints every acknowledged
//! transaction; the parent kills it, opens the store itself, and holds what it finds against what was printed.

mod broken;
pub mod full;
pub mod mounts;
mod power;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portreeve::store::{ListRequest, Op, Precondition, Revision, SharedStore, SledOptions, SledStore, Store as _, Txn};

const CHILD: &str = "PORTREEVE_CRASH_CHILD";
const CLIENTS: u64 = 4;
/// The numbered keys that a client goes round.
const RING: u64 = 7;

/// Small bounds, so that the storm also runs through checkpoints, the reuse of the log's segments, and the rewriting of
/// the files.
fn options() -> SledOptions {
    SledOptions {
        compact_min_bytes: 20 << 20,
        compact_factor: 2,
        reserve_bytes: 8 << 20,
        checkpoint_bytes: 1 << 20,
        segment_bytes: 256 << 10,
        ..Default::default()
    }
}

/// The number of the log's newest segment, how many files it has, and the data directory that counts.
fn progress(dir: &Path) -> (u64, usize, String) {
    let names = std::fs::read_dir(dir.join("wal")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> = names.collect();
    let newest = names.iter().filter_map(|n| n.strip_suffix(".log")?.parse().ok()).max().unwrap_or(0);
    let current = std::fs::read_to_string(dir.join("CURRENT")).unwrap();
    (newest, names.len(), current.replace('\n', " "))
}

/// The value of transaction `seq`: its number, and a filling that depends on it, of sizes up to several chunks.
fn value(client: u64, seq: u64) -> Vec<u8> {
    let size = match seq % 16 {
        0 => 70_000,
        1..4 => 4_000,
        n => n * 40,
    };
    let mut value = format!("{seq}\n").into_bytes();
    value.extend((0..size).map(|n| (n * 31 + seq * 7 + client) as u8));
    value
}

fn key(client: u64, name: impl std::fmt::Display) -> String {
    format!("c/{client}/{name}")
}

/// Transaction `seq` of a client: several keys that must always be seen together, one that comes and goes.
fn transaction(client: u64, seq: u64, at: Option<Revision>) -> Txn {
    let put = |name: String| Op::Put { key: key(client, name), value: value(client, seq).into() };
    let comes = key(client, "comes-and-goes");
    let second = if seq.is_multiple_of(2) {
        Op::Put { key: comes, value: value(client, seq).into() }
    } else {
        Op::Delete { key: comes }
    };
    let head = key(client, "a-head");
    let when = match at {
        Some(modified) => Precondition::Unchanged { key: head, modified },
        None => Precondition::Absent { key: head },
    };
    Txn {
        when: vec![when],
        then: vec![put("a-head".into()), second, put(format!("ring/{}", seq % RING)), put("z-tail".into())],
    }
}

/// What a client's keys hold after transaction `seq` (0: none yet).
fn expected(client: u64, seq: u64) -> BTreeMap<String, Vec<u8>> {
    let mut keys = BTreeMap::new();
    for n in seq.saturating_sub(RING - 1).max(1)..=seq {
        keys.insert(key(client, format!("ring/{}", n % RING)), value(client, n));
    }
    if seq > 0 {
        keys.insert(key(client, "a-head"), value(client, seq));
        keys.insert(key(client, "z-tail"), value(client, seq));
        if seq.is_multiple_of(2) {
            keys.insert(key(client, "comes-and-goes"), value(client, seq));
        }
    }
    keys
}

/// Runs only as the child of another test here.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    runtime.block_on(async {
        let store: SharedStore = SledStore::open(Path::new(&dir), options()).await.unwrap();
        let clients = (0..CLIENTS).map(|client| tokio::spawn(storm(store.clone(), client)));
        for ended in futures::future::join_all(clients.collect::<Vec<_>>()).await {
            ended.unwrap();
        }
    });
}

/// Writes without end, each transaction on top of the one before.
async fn storm(store: SharedStore, client: u64) {
    let head = store.get(&key(client, "a-head")).await.unwrap();
    let mut seq = head.as_ref().map_or(0, |r| sequence(&r.value));
    let mut at = head.map(|r| r.modified);
    loop {
        seq += 1;
        let revision = store.txn(transaction(client, seq, at)).await.unwrap();
        at = Some(revision);
        // One write call with its newline: what the parent reads is whole lines. Fails, and so ends, with the parent.
        let line = format!("ACK {client} {seq} {}\n", revision.0);
        std::io::stdout().lock().write_all(line.as_bytes()).expect("the parent reads");
    }
}

fn sequence(value: &[u8]) -> u64 {
    let line = value.split(|b| *b == b'\n').next().unwrap_or_default();
    std::str::from_utf8(line).ok().and_then(|n| n.parse().ok()).expect("a value begins with its number")
}

/// The newest acknowledgement of each client: its transaction and the revision.
type Acks = BTreeMap<u64, (u64, Revision)>;

/// A running child. Killed when dropped.
struct Storm {
    process: std::process::Child,
    acks: Arc<Mutex<Acks>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Storm {
    /// Starts the child on `dir` and waits for its first acknowledgement.
    fn start(dir: &Path) -> Storm {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let acks: Arc<Mutex<Acks>> = Arc::default();
        let (first, started) = std::sync::mpsc::channel();
        let (lines, into) = (BufReader::new(process.stdout.take().unwrap()), acks.clone());
        let reader = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let fields: Vec<u64> = line
                    .strip_prefix("ACK ")
                    .map_or(vec![], |rest| rest.split(' ').map(|n| n.parse().expect("a number")).collect());
                if let [client, seq, revision] = fields[..] {
                    into.lock().unwrap().insert(client, (seq, Revision(revision)));
                    let _ = first.send(());
                }
            }
        });
        let mut storm = Storm { process, acks, reader: Some(reader) };
        if started.recv_timeout(Duration::from_secs(60)).is_err() {
            let _ = storm.process.kill();
            let mut why = String::new();
            std::io::Read::read_to_string(&mut storm.process.stderr.take().unwrap(), &mut why).unwrap();
            panic!("the child acknowledged nothing within 60 s: {why}");
        }
        storm
    }

    fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.process)
    }

    /// What has been acknowledged up to now.
    fn acks(&self) -> Acks {
        self.acks.lock().unwrap().clone()
    }

    /// SIGKILL; returns all that was acknowledged.
    fn kill(mut self) -> Acks {
        self.process.kill().unwrap();
        let status = self.process.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "the child ended by itself");
        self.reader.take().unwrap().join().unwrap();
        self.acks()
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Opens the store and holds it against the acknowledgements: everything in `durable` is there, nothing is torn, and
/// nothing is there that the child could not have written. Returns the revision.
fn check(dir: &Path, durable: &Acks, last: &Acks, floor: Revision) -> Revision {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let store = SledStore::open(dir, options()).await.expect("the store opens after a crash");
        let revision = store.revision();
        assert!(revision >= floor, "revisions fell from {} to {}", floor.0, revision.0);
        let mut whole = BTreeMap::new();
        for client in 0..CLIENTS {
            let head = store.get(&key(client, "a-head")).await.unwrap();
            let seq = head.as_ref().map_or(0, |r| sequence(&r.value));
            if let Some((acked, at)) = durable.get(&client) {
                assert!(seq >= *acked, "client {client}: {acked} was acknowledged, {seq} is there");
                assert!(revision >= *at);
            }
            if let (Some((acked, at)), Some(head)) = (last.get(&client), &head) {
                assert!(seq <= acked + 1, "client {client}: {seq} is there, {acked} was the last acknowledged");
                assert!(seq != *acked || head.modified == *at, "client {client}: {seq} moved to another revision");
            }
            whole.extend(expected(client, seq));
        }
        let found = store.list(ListRequest::default()).await.unwrap().records;
        for record in &found {
            assert!(whole.get(&*record.key).is_some_and(|v| *v == record.value), "{} is torn or stray", record.key);
            assert!(record.modified <= revision);
        }
        assert_eq!(found.len(), whole.len(), "parts of a transaction are missing");
        store.close().await;
        revision
    })
}

fn random(below: u64) -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    u64::from_le_bytes(bytes) % below
}

#[test]
fn acknowledged_writes_survive_fifty_kills() {
    let dir = tempfile::tempdir().unwrap();
    let mut floor = Revision(0);
    for _ in 0..50 {
        let storm = Storm::start(dir.path());
        // The random moment is the point of the test, not a wait for something.
        std::thread::sleep(Duration::from_millis(random(300)));
        let acks = storm.kill();
        floor = check(dir.path(), &acks, &acks, floor);
    }
    let (segments, files, current) = progress(dir.path());
    println!("fifty kills: {} transactions survived; segment {segments}, {files} files; {current}", floor.0);
    // Checkpoints happened all the while: otherwise every segment that there ever was would still be there.
    assert!(segments > 40 && files < 40, "the storm did not reach the reuse of segments");
}
