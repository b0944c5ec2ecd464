//! The baseline of a control plane at rest: list every daemon every few seconds, read the answer, and do nothing else.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::{clock, process};

#[derive(Debug, Deserialize)]
pub struct Poll {
    /// Of the daemons.
    sockets: Vec<PathBuf>,
    every_seconds: u64,
    seconds: u64,
}

type Sender = SendRequest<Empty<Bytes>>;

pub async fn run(job: &Poll) -> Result<Value> {
    let mut senders: Vec<Sender> = vec![];
    for socket in &job.sockets {
        let stream =
            UnixStream::connect(socket).await.with_context(|| format!("connecting to {}", socket.display()))?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        senders.push(sender);
    }
    let (begin, before) = (clock::now(), process::cpu(std::process::id())?);
    let mut turns = tokio::time::interval(Duration::from_secs(job.every_seconds));
    let (mut calls, mut containers) = (0u64, 0);
    let lasts = Duration::from_secs(job.seconds);
    loop {
        turns.tick().await;
        if clock::now().duration_since(begin) >= lasts {
            break;
        }
        containers = 0;
        for sender in &mut senders {
            containers += list(sender).await?;
            calls += 1;
        }
    }
    let minutes = clock::now().duration_since(begin).as_secs_f64() / 60.0;
    let cpu = process::cpu(std::process::id())? - before;
    Ok(json!({
        "callsPerMinute": calls as f64 / minutes, "cpuShare": cpu as f64 / 6e7 / minutes, "containers": containers,
        "residentKib": process::resident(std::process::id())?,
    }))
}

async fn list(sender: &mut Sender) -> Result<usize> {
    let request = Request::get("/v1.41/containers/json?all=1").header(header::HOST, "docker").body(Empty::new())?;
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    if !answer.status().is_success() {
        bail!("a list was answered {}", answer.status());
    }
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(serde_json::from_slice::<Vec<Value>>(&body)?.len())
}
