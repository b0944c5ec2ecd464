//! Watch fan-out: one writer, many watchers, each on a connection of its own.
//!
//! An event carries its number in a mark. Its delay is from before the write's request to the arrival at the watcher, and so
//! holds the durable write.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::clock::{Latency, now};
use crate::peer::{Client, Peer, Watch};
use crate::process;

/// Between two events of the paced part.
const PACE: Duration = Duration::from_millis(200);
const PACED: u64 = 15;
/// Events of the part in which they are written as fast as they are acknowledged.
const BURST: u64 = 40;
const PATIENCE: Duration = Duration::from_secs(60);
/// Most events of a run of this program.
const MOST: usize = 4096;
/// The socket buffer of a watcher that stalls: the system's least.
const SMALL: u32 = 4096;

/// How an event is found in a stream of bytes.
pub fn mark(number: u64) -> String {
    format!("@@{number:08}@@")
}

const MARK: usize = 12;

/// The numbers of the marks in `bytes`; what may be the beginning of one stays.
fn marks(bytes: &mut Vec<u8>, mut found: impl FnMut(u64)) {
    let mut at = 0;
    while let Some(next) = bytes[at..].windows(MARK).position(|w| w.starts_with(b"@@") && w.ends_with(b"@@")) {
        let digits = std::str::from_utf8(&bytes[at + next + 2..at + next + MARK - 2]);
        if let Some(number) = digits.ok().and_then(|d| d.parse().ok()) {
            found(number);
            at += next + MARK;
        } else {
            at += next + 1;
        }
    }
    let keep = bytes.len().max(MARK - 1) - (MARK - 1);
    bytes.drain(..keep.max(at));
}

/// What the watchers have seen.
struct Seen {
    /// When each event was sent.
    sent: Mutex<Vec<Instant>>,
    /// Of the first event of the part that is measured; earlier ones are late and not counted.
    from: AtomicU64,
    count: AtomicUsize,
    newest: Mutex<Option<Instant>>,
    delays: Mutex<Vec<u32>>,
    lost: AtomicUsize,
}

impl Seen {
    fn note(&self, numbers: &[u64]) {
        let at = now();
        let from = self.from.load(Ordering::Relaxed);
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut delays = self.delays.lock().unwrap_or_else(PoisonError::into_inner);
        for number in numbers.iter().filter(|n| **n >= from) {
            if let Some(sent) = usize::try_from(*number).ok().and_then(|n| sent.get(n)) {
                delays.push(u32::try_from(at.duration_since(*sent).as_micros()).unwrap_or(u32::MAX));
                self.count.fetch_add(1, Ordering::Relaxed);
            }
        }
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }
}

/// Who makes events.
enum Writer {
    Peer(Box<Client>),
    Limit(TcpStream),
}

pub struct Fanout {
    writer: Writer,
    pid: u32,
    space: String,
    watchers: usize,
    seen: Arc<Seen>,
    tasks: Vec<JoinHandle<()>>,
    pub kib_per_watcher: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Part {
    /// Deliveries to all watchers.
    pub per_second: f64,
    /// Microseconds.
    pub delay: Latency,
    /// Of the server, per event and watcher.
    pub cpu_us: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Run {
    pub paced: Part,
    pub burst: Part,
}

fn seen() -> Arc<Seen> {
    Arc::new(Seen {
        sent: Mutex::default(),
        from: AtomicU64::new(0),
        count: AtomicUsize::new(0),
        newest: Mutex::default(),
        delays: Mutex::default(),
        lost: AtomicUsize::new(0),
    })
}

impl Fanout {
    pub async fn open(peer: &Peer, space: &str, watchers: usize) -> Result<Fanout> {
        let mut writer = peer.connect().await?;
        writer.create(space, "hot").await?;
        let before = process::resident(peer.pid())?;
        let (seen, mut tasks) = (seen(), vec![]);
        for number in 0..watchers {
            let mut watch = peer.watch(number, space, None).await?;
            let seen = seen.clone();
            tasks.push(tokio::spawn(async move {
                let (mut bytes, mut numbers) = (vec![], vec![]);
                while watch.next(&mut bytes).await.is_ok() {
                    marks(&mut bytes, |number| numbers.push(number));
                    seen.note(&numbers);
                    numbers.clear();
                }
                seen.lost.fetch_add(1, Ordering::Relaxed);
            }));
        }
        let mut fanout = Fanout {
            writer: Writer::Peer(Box::new(writer)),
            pid: peer.pid(),
            space: space.to_owned(),
            watchers,
            seen,
            tasks,
            kib_per_watcher: 0.0,
        };
        // One event, so that every watcher has done once what it does.
        fanout.part(1, Duration::ZERO).await?;
        fanout.kib_per_watcher = (process::resident(fanout.pid)? as f64 - before as f64) / watchers as f64;
        Ok(fanout)
    }

    pub async fn limit(address: &str, pid: u32, watchers: usize) -> Result<Fanout> {
        let control = TcpStream::connect(address).await.context("the limit's control")?;
        control.set_nodelay(true)?;
        let (seen, mut tasks) = (seen(), vec![]);
        for _ in 0..watchers {
            let mut stream = TcpStream::connect(address).await?;
            let seen = seen.clone();
            tasks.push(tokio::spawn(async move {
                let (mut bytes, mut numbers) = (Vec::with_capacity(16 << 10), vec![]);
                while stream.read_buf(&mut bytes).await.is_ok_and(|n| n > 0) {
                    marks(&mut bytes, |number| numbers.push(number));
                    seen.note(&numbers);
                    numbers.clear();
                }
            }));
        }
        let writer = Writer::Limit(control);
        Ok(Fanout { writer, pid, space: String::new(), watchers, seen, tasks, kib_per_watcher: 0.0 })
    }

    async fn write(&mut self) -> Result<()> {
        let number = {
            let mut sent = self.seen.sent.lock().unwrap_or_else(PoisonError::into_inner);
            if sent.len() == MOST {
                bail!("more than {MOST} events");
            }
            sent.push(now());
            sent.len() as u64 - 1
        };
        match &mut self.writer {
            Writer::Peer(client) => client.replace(&self.space, "hot", &mark(number)).await,
            Writer::Limit(control) => Ok(control.write_all(&number.to_le_bytes()).await?),
        }
    }

    async fn part(&mut self, events: u64, pace: Duration) -> Result<Part> {
        let first = self.seen.sent.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.seen.from.store(first as u64, Ordering::Relaxed);
        self.seen.count.store(0, Ordering::Relaxed);
        self.seen.delays.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let (start, before) = (now(), process::cpu(self.pid)?);
        for event in 0..events {
            let due = start + pace * event as u32;
            tokio::time::sleep_until(due.into()).await;
            self.write().await?;
        }
        let wanted = events as usize * self.watchers;
        let all = async {
            while self.seen.count.load(Ordering::Relaxed) < wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            let (seen, lost) = (self.seen.count.load(Ordering::Relaxed), self.seen.lost.load(Ordering::Relaxed));
            bail!("{seen} of {wanted} deliveries came, and {lost} watchers were hung up on");
        }
        let end = self.seen.newest.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(start);
        let cpu = process::cpu(self.pid)? - before;
        let delays = std::mem::take(&mut *self.seen.delays.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Part {
            per_second: wanted as f64 / end.duration_since(start).as_secs_f64(),
            delay: Latency::of(delays),
            cpu_us: cpu as f64 / wanted as f64,
        })
    }

    pub async fn run(&mut self) -> Result<Run> {
        Ok(Run { paced: self.part(PACED, PACE).await?, burst: self.part(BURST, Duration::ZERO).await? })
    }
}

impl Drop for Fanout {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A watcher that reads nothing: its connection is kept, and what comes for it piles up.
pub async fn stalled(peer: &Peer, number: usize, space: &str) -> Result<Watch> {
    peer.watch(number, space, Some(SMALL)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_across_the_borders_of_reads() {
        let mut all = vec![];
        let text = format!("x{}yy{}@@notanum@@{}", mark(1), mark(22), mark(333));
        for size in [1, 5, 13, 100] {
            let (mut bytes, mut found) = (vec![], vec![]);
            for piece in text.as_bytes().chunks(size) {
                bytes.extend_from_slice(piece);
                marks(&mut bytes, |n| found.push(n));
            }
            all.push(found);
        }
        assert_eq!(all, vec![vec![1, 22, 333]; 4]);
    }
}
