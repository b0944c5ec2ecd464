//! exec and attach over WebSocket: `v5.channel.k8s.io` and `v4.channel.k8s.io`.
//!
//! Frames are binary, the first byte is the channel.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::time::timeout;

use super::session::{self, Input, Output, Said, Subject};
use super::{CLOSE_TIMEOUT, Gone, SILENCE, STALL, V4, V5};
use crate::api::attach::{Attach, OutputStream};
use crate::model::Key;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5 only: the payload is the channel that ended.
pub const CLOSE: u8 = 255;

/// How long nothing is said after the handshake: kubectl 1.30 to 1.32 give up when they hear of a channel before they have
/// set it up themselves, which they do in this time.
const BREATH: Duration = Duration::from_millis(50);

/// Preferred first.
pub const PROTOCOLS: [&str; 2] = [V5, V4];

/// Runs a session, and waits for the client to close.
pub async fn run(socket: WebSocket, attach: &dyn Attach, key: &Key, subject: &Subject) {
    let (mut sender, mut receiver) = split(socket);
    if session::run(attach, key, subject, &mut receiver, &mut sender).await.is_ok() {
        receiver.drain().await;
    } else {
        sender.agree().await;
    }
}

/// The two directions of a socket.
pub fn split(socket: WebSocket) -> (Sender, Receiver) {
    let (sink, stream) = socket.split();
    let sending = Arc::new(AtomicBool::new(false));
    let breath = Some(Box::pin(tokio::time::sleep(BREATH)));
    (Sender { sink, sending: sending.clone(), breath }, Receiver { stream, sending })
}

pub struct Sender {
    sink: SplitSink<WebSocket, Message>,
    sending: Arc<AtomicBool>,
    /// Until the first frame of a channel.
    breath: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Sender {
    pub async fn message(&mut self, message: Message) -> Result<(), Gone> {
        self.sending.store(true, Ordering::Relaxed);
        let sent = timeout(STALL, self.sink.send(message)).await;
        self.sending.store(false, Ordering::Relaxed);
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }

    pub async fn frame(&mut self, channel: u8, bytes: &[u8]) -> Result<(), Gone> {
        if let Some(breath) = &mut self.breath {
            breath.await;
            self.breath = None;
        }
        let mut buffer = BytesMut::with_capacity(bytes.len() + 1);
        buffer.put_u8(channel);
        buffer.put_slice(bytes);
        self.message(Message::Binary(buffer.freeze())).await
    }

    /// A ping, and a pong that nobody asked for: the client's own pings wait unread while its input is not taken, and a
    /// client that hears no pong for a minute gives up.
    pub async fn heartbeat(&mut self) -> Result<(), Gone> {
        self.message(Message::Ping(Bytes::new())).await?;
        self.message(Message::Pong(Bytes::new())).await
    }

    pub async fn close(&mut self) -> Result<(), Gone> {
        let frame = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        self.message(Message::Close(Some(frame))).await
    }

    /// Answers a client that closes.
    pub async fn agree(&mut self) {
        // One that is gone without a word needs no answer.
        let _ = timeout(CLOSE_TIMEOUT, self.sink.close()).await;
    }
}

impl Output for Sender {
    async fn send(&mut self, stream: OutputStream, bytes: Bytes) -> Result<(), Gone> {
        let channel = match stream {
            OutputStream::Stdout => STDOUT,
            OutputStream::Stderr => STDERR,
        };
        self.frame(channel, &bytes).await
    }

    async fn beat(&mut self) -> Result<(), Gone> {
        self.heartbeat().await
    }

    async fn end(&mut self, status: &Value) -> Result<(), Gone> {
        self.frame(ERROR, status.to_string().as_bytes()).await?;
        self.close().await
    }
}

pub struct Receiver {
    stream: SplitStream<WebSocket>,
    sending: Arc<AtomicBool>,
}

impl Receiver {
    /// The next binary message; `None`: the client is gone. Cancel safe.
    pub async fn binary(&mut self) -> Option<Bytes> {
        loop {
            match timeout(SILENCE, self.stream.next()).await {
                Ok(Some(Ok(Message::Binary(bytes)))) => return Some(bytes),
                Ok(Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_)))) => {}
                Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) => return None,
                // One that does not read its output does not answer pings either.
                Err(_) if self.sending.load(Ordering::Relaxed) => {}
                Err(_) => return None,
            }
        }
    }

    /// Waits until the client has closed. Closing a socket that holds unread bytes (a pong will do) resets it, and takes
    /// from the client the output that is still under way.
    pub async fn drain(&mut self) {
        let closed = async { while let Some(Ok(_)) = self.stream.next().await {} };
        drop(timeout(CLOSE_TIMEOUT, closed).await);
    }
}

impl Input for Receiver {
    async fn next(&mut self) -> Option<Said> {
        loop {
            let mut bytes = self.binary().await?;
            if bytes.is_empty() {
                continue;
            }
            let data = bytes.split_off(1);
            match (bytes[0], &data[..]) {
                (STDIN, _) => return Some(Said::Stdin(data)),
                (CLOSE, [STDIN]) => return Some(Said::StdinEnd),
                (RESIZE, text) => {
                    if let Ok(size) = serde_json::from_slice(text) {
                        return Some(Said::Resize(size));
                    }
                }
                _ => {}
            }
        }
    }
}
