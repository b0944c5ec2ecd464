//! Visitors of a reverse proxy, and the app behind it: one measure for each run of this program (`cargo xtask bench proxy`).
//!
//! ```text
//! visitors (this) ─► the proxy that is measured ─► upstream (this program once more)
//!                                └── keys ◄─────── issuer (and once more), which signs the visitors' tokens
//! ```
//!
//! HTTP/1.1 is done by hand, so that what a visitor costs is taken from what it measures only once for all proxies.

pub mod issuer;
mod sockets;
pub mod upstream;
mod visitor;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};

use crate::clock::{Latency, micros, now};
use crate::process;
use visitor::{Asked, Door};

/// Not counted, before a measure.
const WARM: Duration = Duration::from_millis(300);
/// Hosts between that of one visitor and that of the next.
const APART: usize = 31;

/// What xtask says, as one JSON argument.
#[derive(Debug, Deserialize)]
pub struct Job {
    /// Where the proxy listens.
    address: SocketAddr,
    host: String,
    /// Those that requests are for, one after the other by each visitor; none: `host` alone.
    #[serde(default)]
    hosts: Vec<String>,
    /// What each request shows.
    bearer: Option<String>,
    /// TLS, and the certificate to trust.
    ca: Option<PathBuf>,
    /// The proxy's first process; its children count as well.
    pid: u32,
    what: What,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum What {
    /// As fast as it answers.
    Closed {
        path: String,
        /// `None`: as many as are announced.
        bytes: Option<usize>,
        #[serde(default = "ok")]
        status: u16,
        connections: usize,
        seconds: u64,
    },
    /// So many a second, whether it answers or not: a delay is from when the request was to be made.
    Paced { path: String, bytes: usize, connections: usize, seconds: u64, rate: u32 },
    /// Messages to and fro over WebSockets.
    Echo { connections: usize, bytes: usize, seconds: u64 },
    /// WebSockets over which nothing is said.
    Idle { connections: usize },
}

fn ok() -> u16 {
    200
}

/// One measure.
#[derive(Debug, Serialize)]
struct Told {
    per_second: f64,
    /// Microseconds.
    delay: Latency,
    /// Microseconds of the proxy, user and kernel, for each.
    cpu_us: f64,
}

pub async fn run(job: &str) -> Result<Value> {
    let job: Job = serde_json::from_str(job).context("reading the job")?;
    let door = Arc::new(Door::new(job.address, &job.host, job.ca.as_deref())?);
    let hosts = if job.hosts.is_empty() { vec![job.host] } else { job.hosts };
    let asked = |path: &str, status, bytes| Arc::new(Asked::new(&hosts, path, job.bearer.as_deref(), status, bytes));
    match job.what {
        What::Closed { path, bytes, status, connections, seconds } => {
            closed(door, job.pid, asked(&path, status, bytes), connections, Duration::from_secs(seconds)).await
        }
        What::Paced { path, bytes, connections, seconds, rate } => {
            let pace = Pace { rate, lasts: Duration::from_secs(seconds) };
            paced(door, job.pid, asked(&path, ok(), Some(bytes)), connections, pace).await
        }
        What::Echo { connections, bytes, seconds } => {
            let mut sockets = sockets::open(&door, connections).await?;
            sockets::echo(&mut sockets, bytes, WARM).await?;
            let (begin, before) = (now(), process::tree_cpu(job.pid)?);
            let delays = sockets::echo(&mut sockets, bytes, Duration::from_secs(seconds)).await?;
            told(delays, begin, process::tree_cpu(job.pid)? - before)
        }
        What::Idle { connections } => {
            let before = process::tree_kib(job.pid)?;
            let sockets = sockets::open(&door, connections).await?;
            // What was needed to open them is given back by and by.
            tokio::time::sleep(Duration::from_secs(3)).await;
            let after = process::tree_kib(job.pid)?;
            let each = (after as f64 - before as f64) * 1024.0 / connections as f64;
            drop(sockets);
            Ok(json!({"before_kib": before, "after_kib": after, "bytes_each": each}))
        }
    }
}

fn told(delays: Vec<u32>, begin: Instant, cpu: u64) -> Result<Value> {
    let count = delays.len();
    if count == 0 {
        bail!("nothing was answered");
    }
    let per_second = count as f64 / now().duration_since(begin).as_secs_f64();
    Ok(serde_json::to_value(Told { per_second, delay: Latency::of(delays), cpu_us: cpu as f64 / count as f64 })?)
}

async fn closed(door: Arc<Door>, pid: u32, asked: Arc<Asked>, connections: usize, lasts: Duration) -> Result<Value> {
    let (counts, over, ready) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = vec![];
    for number in 0..connections {
        // Far from each other, so that they do not ask for the same in step.
        let mut visitor = door.visit(&asked, number * APART).await?;
        let (counts, over, ready) = (counts.clone(), over.clone(), ready.clone());
        tasks.push(tokio::spawn(async move {
            let mut delays = vec![];
            ready.fetch_add(1, Ordering::Relaxed);
            while !over.load(Ordering::Relaxed) {
                let begin = now();
                visitor.exchange().await?;
                if counts.load(Ordering::Relaxed) {
                    delays.push(micros(begin));
                }
            }
            anyhow::Ok(delays)
        }));
    }
    tokio::time::sleep(WARM).await;
    let (begin, before) = (now(), process::tree_cpu(pid)?);
    counts.store(true, Ordering::Relaxed);
    tokio::time::sleep(lasts).await;
    counts.store(false, Ordering::Relaxed);
    let (end, cpu) = (now(), process::tree_cpu(pid)? - before);
    over.store(true, Ordering::Relaxed);
    let mut delays = vec![];
    for task in tasks {
        delays.extend(task.await??);
    }
    let mut value = told(delays, begin, cpu)?;
    // Not until the last task was gathered.
    let count = value["delay"]["count"].as_f64().unwrap_or_default();
    value["per_second"] = (count / end.duration_since(begin).as_secs_f64()).into();
    Ok(value)
}

struct Pace {
    rate: u32,
    lasts: Duration,
}

async fn paced(door: Arc<Door>, pid: u32, asked: Arc<Asked>, connections: usize, pace: Pace) -> Result<Value> {
    let (plan, due) = mpsc::unbounded_channel::<Instant>();
    let due = Arc::new(Mutex::new(due));
    let mut tasks = vec![];
    for number in 0..connections {
        let mut visitor = door.visit(&asked, number * APART).await?;
        visitor.exchange().await?;
        let due = due.clone();
        tasks.push(tokio::spawn(async move {
            let mut delays = vec![];
            loop {
                let Some(planned) = due.lock().await.recv().await else { return anyhow::Ok(delays) };
                visitor.exchange().await?;
                delays.push(micros(planned));
            }
        }));
    }
    let (begin, before) = (now(), process::tree_cpu(pid)?);
    // A thread of its own: the runtime's timers are a millisecond coarse, which is more than an answer takes.
    let pacing = std::thread::spawn(move || {
        let count = (pace.lasts.as_secs_f64() * f64::from(pace.rate)) as u32;
        for number in 0..count {
            let planned = begin + Duration::from_secs_f64(f64::from(number) / f64::from(pace.rate));
            std::thread::sleep(planned.saturating_duration_since(now()));
            if plan.send(planned).is_err() {
                return;
            }
        }
    });
    let mut delays = vec![];
    for task in tasks {
        delays.extend(task.await??);
    }
    let cpu = process::tree_cpu(pid)? - before;
    pacing.join().ok().context("the pace maker panicked")?;
    told(delays, begin, cpu)
}
