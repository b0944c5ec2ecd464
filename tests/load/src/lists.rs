//! Lists of many objects: what a whole one and a first page take, and what creates feel of a list beside them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::clock::{Latency, micros, now};
use crate::creates;
use crate::peer::Peer;
use crate::process;

/// Objects of a first page.
const PAGE: u64 = 500;
const WHOLE_LISTS: usize = 4;
const PAGES: usize = 30;

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Lists {
    pub bytes: usize,
    /// Microseconds.
    pub latency: Latency,
    /// Of the server, per list.
    pub cpu_us: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Run {
    pub whole: Lists,
    pub page: Lists,
    /// Creates of one client with nothing beside them, and with one client that lists everything over and over.
    pub alone: Latency,
    pub beside: Latency,
    /// Lists that were made meanwhile.
    pub lists_beside: usize,
}

async fn lists(peer: &Peer, space: &str, limit: u64, count: usize) -> Result<Lists> {
    let mut client = peer.connect().await?;
    let (mut latencies, mut bytes) = (vec![], 0);
    let before = process::cpu(peer.pid())?;
    for _ in 0..count {
        let start = now();
        bytes = client.list(space, limit).await?;
        latencies.push(micros(start));
    }
    let cpu = process::cpu(peer.pid())? - before;
    Ok(Lists { bytes, latency: Latency::of(latencies), cpu_us: cpu as f64 / count as f64 })
}

pub async fn run(peer: &Peer, space: &str, other: &str, lasts: Duration) -> Result<Run> {
    let whole = lists(peer, space, 0, WHOLE_LISTS).await?;
    let page = lists(peer, space, PAGE, PAGES).await?;
    let alone = creates::run(peer, other, 1, lasts).await?.latency;
    let stop = Arc::new(AtomicBool::new(false));
    let lister = tokio::spawn({
        let (peer, space, stop) = (peer.clone(), space.to_owned(), stop.clone());
        async move {
            let mut client = peer.connect().await?;
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                client.list(&space, 0).await?;
                count += 1;
            }
            anyhow::Ok(count)
        }
    });
    let beside = creates::run(peer, other, 1, lasts).await?.latency;
    stop.store(true, Ordering::Relaxed);
    let lists_beside = lister.await.context("the lister panicked")??;
    Ok(Run { whole, page, alone, beside, lists_beside })
}
