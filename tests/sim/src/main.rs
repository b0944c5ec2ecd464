//! What the benchmarks at scale stand on, as a process of its own: `cargo xtask bench fleet` and `bench place` start it.
//!
//! ```text
//! engines   simulated Docker daemons on sockets in a directory, until standard input ends
//! poll      the baseline: lists every one of them every few seconds, and does nothing else
//! place     the scheduler by itself, beside a bare search
//! ```
//!
//! The daemons are those of the tests (`tests/it/support/sim_engine`), where they are held against real ones.

mod clock;
mod place;
mod poll;
#[path = "../../load/src/process.rs"]
mod process;
#[path = "../../it/support/sim_engine/mod.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod sim_engine;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use portreeve::clock::SystemClock;
use serde::Deserialize;
use tokio::io::AsyncReadExt;

use sim_engine::image::SimImage;
use sim_engine::wire::hosts::{Hosts, Plan};

/// What xtask says, as one JSON argument.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Job {
    Engines(Engines),
    Poll(poll::Poll),
    Place(place::Place),
}

#[derive(Debug, Deserialize)]
struct Engines {
    /// Where the sockets go; it is there and empty.
    dir: PathBuf,
    hosts: usize,
    /// The one image that each has.
    image: String,
    /// Times as recorded, else all at once.
    recorded: bool,
    /// Real listeners at published ports, from this address on.
    apps: Option<Ipv4Addr>,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, job] = args.as_slice() else { bail!("this is run by `cargo xtask bench`") };
    let job: Job = serde_json::from_str(job).context("reading the job")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match job {
        Job::Engines(job) => runtime.block_on(engines(job)),
        Job::Poll(job) => {
            println!("{}", runtime.block_on(poll::run(&job))?);
            Ok(())
        }
        Job::Place(job) => {
            println!("{}", place::run(&job)?);
            Ok(())
        }
    }
}

async fn engines(job: Engines) -> Result<()> {
    let plan = Plan {
        count: job.hosts,
        images: vec![(job.image, SimImage::server())],
        recorded: job.recorded,
        apps: job.apps.is_some(),
        base: job.apps.unwrap_or(Ipv4Addr::LOCALHOST),
        seed: 1,
    };
    let hosts = Hosts::up(&job.dir, &SystemClock::new(), &plan).await?;
    println!("{} daemons in {}", hosts.places.len(), job.dir.display());
    // Whoever started it holds the other end.
    let mut byte = [0];
    while tokio::io::stdin().read(&mut byte).await.unwrap_or_default() > 0 {}
    Ok(())
}
