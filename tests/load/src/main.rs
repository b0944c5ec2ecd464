//! The load generator of `cargo xtask bench api`, `bench fleet` and `bench proxy`, which start the servers and it, and print what it tells.
//!
//! ```text
//! creates ─┐            ┌─► portreeve  HTTP/1.1, TLS, a token
//! lists   ─┼─► peer ────┤
//! watches ─┘            └─► etcd       gRPC, plain
//!    └────► limit       a process of our own that only writes bytes
//! proxy   ────► any reverse proxy ────► upstream, a process of our own
//! ```
//!
//! Every measure is taken in turns, A B A B, so that what the machine does meanwhile meets both.

mod clock;
mod creates;
mod etcd;
mod limit;
mod lists;
mod peer;
mod portreeve;
mod process;
mod proxy;
mod watches;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use creates::Until;
use etcd::Etcd;
use peer::Peer;
use portreeve::Portreeve;
use watches::Fanout;

/// Creates, lists, watches: the spaces that they happen in.
const CREATED: &str = "bench-creates";
const LISTED: &str = "bench-lists";
const WATCHED: &str = "bench-watches";
/// About what an event of ours takes with its framing.
const EVENT: usize = 1024;

/// What xtask says, as one JSON argument.
#[derive(Debug, Deserialize)]
struct Job {
    kubeconfig: PathBuf,
    portreeve_pid: u32,
    /// Of what is measured beside etcd.
    #[serde(default)]
    etcd: String,
    #[serde(default)]
    etcd_pid: u32,
    /// On the disk of both.
    dir: PathBuf,
    what: What,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum What {
    Creates {
        clients: Vec<usize>,
        cycles: usize,
        seconds: u64,
    },
    Lists {
        objects: u64,
        cycles: usize,
        seconds: u64,
    },
    Watches {
        watchers: usize,
        cycles: usize,
    },
    /// So many creates by so many clients, of one of the two: what happens meanwhile is counted by others.
    Count {
        peer: String,
        clients: usize,
        creates: u64,
    },
    /// One POST to the path for each line of the file in `dir`, by so many clients.
    Post {
        path: String,
        file: String,
        clients: usize,
    },
    /// What is there.
    Get {
        path: String,
    },
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "proxy", job] => {
            println!("{}", runtime()?.block_on(proxy::run(job))?);
            Ok(())
        }
        [_, "upstream", address, ports] => {
            runtime()?.block_on(proxy::upstream::serve(address.parse()?, ports.parse()?))
        }
        [_, "issuer", claims] => runtime()?.block_on(proxy::issuer::serve(claims)),
        [_, "limit", watchers] => limit::serve(watchers.parse()?, EVENT),
        [_, job] => {
            let job: Job = serde_json::from_str(job).context("reading the job")?;
            println!("{}", runtime()?.block_on(run(job))?);
            Ok(())
        }
        _ => bail!("this is run by `cargo xtask bench`"),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

async fn run(job: Job) -> Result<Value> {
    let mut ours = Portreeve::new(&job.kubeconfig, job.portreeve_pid)?;
    let theirs = Peer::Etcd(Etcd { address: job.etcd, pid: job.etcd_pid });
    match job.what {
        What::Creates { clients, cycles, seconds } => {
            ours.prepare(&[CREATED], 0).await?;
            let (ours, lasts, mut rounds) = (Peer::Portreeve(ours), Duration::from_secs(seconds), vec![]);
            for cycle in 0..cycles {
                for &clients in &clients {
                    let dir = job.dir.clone();
                    let disk =
                        tokio::task::spawn_blocking(move || creates::disk(&dir, Duration::from_secs(1))).await??;
                    let a = creates::run(&ours, CREATED, clients, lasts).await?;
                    let b = creates::run(&theirs, CREATED, clients, lasts).await?;
                    rounds.push(json!({"cycle": cycle, "clients": clients, "disk": disk, "portreeve": a, "etcd": b}));
                    eprint!(".");
                }
            }
            Ok(json!(rounds))
        }
        What::Lists { objects, cycles, seconds } => {
            ours.prepare(&[LISTED, "bench-beside"], 0).await?;
            let ours = Peer::Portreeve(ours);
            for peer in [&ours, &theirs] {
                creates::until(peer, LISTED, 64, Until::Left(Arc::new(AtomicU64::new(objects)))).await?;
            }
            let (lasts, mut rounds) = (Duration::from_secs(seconds), vec![]);
            for cycle in 0..cycles {
                let a = lists::run(&ours, LISTED, "bench-beside", lasts).await?;
                let b = lists::run(&theirs, LISTED, "bench-beside", lasts).await?;
                rounds.push(json!({"cycle": cycle, "portreeve": a, "etcd": b}));
                eprint!(".");
            }
            Ok(json!(rounds))
        }
        What::Watches { watchers, cycles } => {
            ours.prepare(&[WATCHED], watchers + 400).await?;
            let ours = Peer::Portreeve(ours);
            let limit = Limit::start(watchers)?;
            let mut bare = Fanout::limit(&limit.address, limit.child.id(), watchers).await?;
            let mut a = Fanout::open(&ours, WATCHED, watchers).await?;
            let mut b = Fanout::open(&theirs, WATCHED, watchers).await?;
            let mut rounds = vec![];
            for cycle in 0..cycles {
                let (bare, a, b) = (bare.run().await?, a.run().await?, b.run().await?);
                rounds.push(json!({"cycle": cycle, "limit": bare, "portreeve": a, "etcd": b}));
                eprint!(".");
            }
            // The same with one that reads nothing. What it has not read has filled its sockets long before the end.
            let stalls = (
                watches::stalled(&ours, watchers, WATCHED).await?,
                watches::stalled(&theirs, watchers, WATCHED).await?,
            );
            let mut stalled = vec![];
            for cycle in 0..cycles {
                let (a, b) = (a.run().await?, b.run().await?);
                stalled.push(json!({"cycle": cycle, "portreeve": a, "etcd": b}));
                eprint!(".");
            }
            drop(stalls);
            Ok(json!({
                "rounds": rounds, "stalled": stalled,
                "kibPerWatcher": {"portreeve": a.kib_per_watcher, "etcd": b.kib_per_watcher},
            }))
        }
        What::Count { peer, clients, creates } => {
            let space = format!("bench-count-{clients}");
            let peer = if peer == "etcd" {
                theirs
            } else {
                ours.prepare(&[&space], 0).await?;
                Peer::Portreeve(ours)
            };
            let left = Until::Left(Arc::new(AtomicU64::new(creates)));
            let run = creates::until(&peer, &space, clients, left).await?;
            Ok(json!(run))
        }
        What::Post { path, file, clients } => {
            let text = std::fs::read_to_string(job.dir.join(file)).context("reading the objects")?;
            let bodies = Arc::new(text.lines().map(str::to_owned).collect::<Vec<_>>());
            let (next, start) = (Arc::new(AtomicU64::new(0)), clock::now());
            let mut posting = vec![];
            for _ in 0..clients {
                let (mut http, path) = (ours.connect().await?, path.clone());
                let (bodies, next) = (bodies.clone(), next.clone());
                posting.push(tokio::spawn(async move {
                    while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                        http.call("POST", &path, body.as_bytes()).await?;
                    }
                    anyhow::Ok(())
                }));
            }
            for task in posting {
                task.await.context("a client panicked")??;
            }
            Ok(json!({"posted": bodies.len(), "seconds": clock::now().duration_since(start).as_secs_f64()}))
        }
        What::Get { path } => {
            let body = ours.connect().await?.call("GET", &path, b"").await?;
            Ok(json!({"bytes": body.len(), "text": String::from_utf8_lossy(&body)}))
        }
    }
}

/// The process that only writes.
struct Limit {
    child: Child,
    address: String,
}

impl Limit {
    fn start(watchers: usize) -> Result<Limit> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["limit", &watchers.to_string()]).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut address = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut address)?;
        Ok(Limit { child, address: address.trim().to_owned() })
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
