//! Durable creates: so many clients, each with one connection and one request under way at a time.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::clock::{Latency, micros, now};
use crate::peer::{Client, Peer, SIZE};
use crate::process;

/// Bytes that the bare disk's part goes round in.
const AREA: usize = 4 << 20;

/// Names that no one has used.
static NEXT: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Run {
    pub per_second: f64,
    /// Microseconds.
    pub latency: Latency,
    /// Of the server, per operation; none for the bare disk.
    pub cpu_us: f64,
}

/// When a client is to stop.
#[derive(Clone)]
pub enum Until {
    Told(Arc<AtomicBool>),
    /// After so many by all together.
    Left(Arc<AtomicU64>),
}

impl Until {
    fn more(&self) -> bool {
        match self {
            Until::Told(stop) => !stop.load(Ordering::Relaxed),
            Until::Left(left) => left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok(),
        }
    }
}

async fn client(mut client: Client, space: String, until: Until) -> Result<Vec<u32>> {
    let mut latencies = vec![];
    while until.more() {
        let name = format!("o-{:08}", NEXT.fetch_add(1, Ordering::Relaxed));
        let start = now();
        client.create(&space, &name).await?;
        latencies.push(micros(start));
    }
    Ok(latencies)
}

/// Creates from so many clients for so long.
pub async fn run(peer: &Peer, space: &str, clients: usize, lasts: Duration) -> Result<Run> {
    let stop = Arc::new(AtomicBool::new(false));
    let timer = tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::time::sleep(lasts).await;
            stop.store(true, Ordering::Relaxed);
        }
    });
    let run = until(peer, space, clients, Until::Told(stop)).await;
    timer.abort();
    run
}

pub async fn until(peer: &Peer, space: &str, clients: usize, until: Until) -> Result<Run> {
    let mut open = vec![];
    for _ in 0..clients {
        open.push(peer.connect().await?);
    }
    let (start, before) = (now(), process::cpu(peer.pid())?);
    let tasks: Vec<_> = open.into_iter().map(|c| tokio::spawn(client(c, space.to_owned(), until.clone()))).collect();
    let mut latencies = vec![];
    for task in tasks {
        latencies.extend(task.await.context("a client panicked")??);
    }
    let (took, cpu) = (now().duration_since(start), process::cpu(peer.pid())? - before);
    let count = latencies.len();
    Ok(Run {
        per_second: count as f64 / took.as_secs_f64(),
        latency: Latency::of(latencies),
        cpu_us: cpu as f64 / count.max(1) as f64,
    })
}

/// What the disk alone takes: an object's bytes written over what is in a file already, and `fdatasync`, one after the other.
/// Nothing that makes the file longer: then the file system writes its journal as well, which takes many times as long.
pub fn disk(dir: &Path, lasts: Duration) -> Result<Run> {
    let path = dir.join("fdatasync");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    file.write_all_at(&vec![0; AREA], 0)?;
    file.sync_all()?;
    let bytes = [b'x'; SIZE];
    let (begin, mut latencies) = (now(), vec![]);
    while now().duration_since(begin) < lasts {
        let start = now();
        file.write_all_at(&bytes, (latencies.len() * SIZE % AREA) as u64)?;
        file.sync_data()?;
        latencies.push(micros(start));
    }
    let took = now().duration_since(begin);
    std::fs::remove_file(&path)?;
    let per_second = latencies.len() as f64 / took.as_secs_f64();
    Ok(Run { per_second, latency: Latency::of(latencies), cpu_us: 0.0 })
}
