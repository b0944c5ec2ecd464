//! Port-forward over plain WebSocket channels, as client libraries speak it: one connection per named port, on channel
//! 2i its data, on 2i+1 its errors, each begun by the port as two bytes.
//!
//! `v4.channel.k8s.io` cannot tell the end of one direction: when all connections are over, the socket is closed.
//! `v5.channel.k8s.io` can (255, then the channel), both ways.

use std::sync::Arc;

use axum::extract::ws::WebSocket;
use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, timeout};

use super::feed::{Feed, Reader, feed};
use super::pipe::{self, End, Sink};
use super::websocket::{self, CLOSE, Receiver, Sender};
use super::{BEAT, STALL};
use super::{Gone, V5};
use crate::api::attach::Attach;
use crate::api::error::ApiError;
use crate::api::query::Query;
use crate::model::Key;

/// Ports of one session.
const MOST_PORTS: usize = 16;
/// Frames that wait to be sent.
const FRAMES: usize = 32;

/// The ports that a client asks for.
pub fn wanted(query: &Query) -> Result<Vec<u16>, ApiError> {
    let mut ports = Vec::new();
    for text in query.all("ports").flat_map(|v| v.split(',')).filter(|v| !v.is_empty()) {
        match text.trim().parse::<u16>() {
            Ok(port) if port > 0 => ports.push(port),
            _ => return Err(ApiError::bad_request(format!("ports: {text:?} is not a port"))),
        }
    }
    match ports.len() {
        0 => Err(ApiError::bad_request("ports: name at least one port")),
        1..=MOST_PORTS => Ok(ports),
        _ => Err(ApiError::bad_request(format!("ports: at most {MOST_PORTS} may be forwarded at a time"))),
    }
}

/// Forwards until every connection is over, or the client is gone.
pub async fn run(socket: WebSocket, attach: Arc<dyn Attach>, key: Key, ports: Vec<u16>, protocol: &str) {
    let (mut sender, mut receiver) = websocket::split(socket);
    let (frames, to_send) = mpsc::channel(FRAMES);
    let mut feeds = Vec::new();
    let mut connections = JoinSet::new();
    for (index, port) in ports.into_iter().enumerate() {
        let (feed, reader) = feed(None);
        feeds.push(Some(feed));
        let channel = u8::try_from(2 * index).unwrap_or(u8::MAX);
        let to = Channel { channel, frames: frames.clone(), ends: protocol == V5 };
        connections.spawn(one(port, reader, to, attach.clone(), key.clone()));
    }
    drop(frames);
    let told = tokio::select! {
        told = speak(&mut sender, to_send) => told,
        () = listen(&mut receiver, feeds, protocol == V5) => {
            drop(connections);
            return sender.agree().await;
        }
    };
    if told.is_ok() && sender.close().await.is_ok() {
        receiver.drain().await;
    }
}

/// Where a connection's bytes and errors go.
struct Channel {
    /// Of its data; its errors go to the next.
    channel: u8,
    frames: mpsc::Sender<(u8, Bytes)>,
    /// Whether the client knows the end of a channel.
    ends: bool,
}

impl Channel {
    async fn frame(&self, channel: u8, bytes: &[u8]) -> Result<(), Gone> {
        self.frames.send((channel, Bytes::copy_from_slice(bytes))).await.map_err(|_| Gone)
    }
}

impl Sink for Channel {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        self.frame(self.channel, bytes).await
    }
    async fn finish(&mut self) {
        if self.ends {
            let _ = self.frame(CLOSE, &[self.channel]).await;
        }
    }
}

async fn one(port: u16, mut from: Reader, mut to: Channel, attach: Arc<dyn Attach>, key: Key) {
    for channel in [to.channel, to.channel + 1] {
        if to.frame(channel, &port.to_le_bytes()).await.is_err() {
            return;
        }
    }
    let why = match attach.connect(&key, port).await {
        Ok(app) => match pipe::run(app, &mut from, &mut to).await {
            End::Done => return,
            End::Broken => format!("the connection to port {port} of {key} broke off"),
        },
        Err(e) => e.to_string(),
    };
    let _ = to.frame(to.channel + 1, why.as_bytes()).await;
    to.finish().await;
}

/// Sends frames until all connections are over.
async fn speak(sender: &mut Sender, mut frames: mpsc::Receiver<(u8, Bytes)>) -> Result<(), Gone> {
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            frame = frames.recv() => match frame {
                Some((channel, bytes)) => sender.frame(channel, &bytes).await?,
                None => return Ok(()),
            },
            _ = beats.tick() => sender.heartbeat().await?,
        }
    }
}

/// Hands out what comes until the client is gone. A connection that takes nothing holds the others up, for a while.
async fn listen(receiver: &mut Receiver, mut feeds: Vec<Option<Feed>>, ends: bool) {
    while let Some(mut bytes) = receiver.binary().await {
        let Some(channel) = bytes.first().copied() else { continue };
        let data = bytes.split_off(1);
        let slot = |channel: u8| channel.is_multiple_of(2).then_some(usize::from(channel / 2));
        if channel == CLOSE && ends {
            if let Some(feed) =
                data.first().and_then(|c| slot(*c)).and_then(|i| feeds.get_mut(i)).and_then(Option::take)
            {
                feed.end();
            }
            continue;
        }
        let Some(place) = slot(channel).and_then(|i| feeds.get_mut(i)) else { continue };
        let Some(feed) = place.as_ref() else { continue };
        let fed = timeout(STALL, feed.pieces.send(data)).map(|sent| matches!(sent, Ok(Ok(()))));
        if !fed.await {
            *place = None;
        }
    }
}
