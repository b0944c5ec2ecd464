//! `pods/exec` over WebSocket: `v5.channel.k8s.io` and `v4.channel.k8s.io`.
//!
//! Frames are binary, the first byte is the channel. Both directions run at once, each as fast as its reader; a client
//! that is gone or silent ends the session.

use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, Request};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::attach::{Attach, AttachError, ExecControl, ExecIo, ExecOptions, OutputStream};
use super::error::ApiError;
use super::handler::Call;
use super::logs::check_container;
use super::query::Query;
use super::views::pods;
use crate::model::Key;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5 only: the payload is the channel that ended.
const CLOSE: u8 = 255;

/// Preferred first.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Largest frame that a client may send.
const MOST_FRAME_BYTES: usize = 1 << 20;
const PING_EVERY: Duration = Duration::from_secs(30);
/// A client that says nothing for so long, not even a pong, is gone.
const SILENCE: Duration = Duration::from_secs(90);
/// How long a client may take to read the rest and close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take to accept a frame.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

fn options(query: &Query) -> Result<ExecOptions, ApiError> {
    let tty = query.flag("tty");
    let options = ExecOptions {
        command: query.all("command").map(str::to_owned).collect(),
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        // A terminal has one output.
        stderr: query.flag("stderr") && !tty,
        tty,
    };
    if options.command.is_empty() {
        return Err(ApiError::bad_request("you must specify a command"));
    }
    if !(options.stdin || options.stdout || options.stderr) {
        return Err(ApiError::bad_request("you must specify at least one of stdin, stdout and stderr"));
    }
    Ok(options)
}

pub async fn answer(call: Call, name: String, request: Request) -> Result<Response, ApiError> {
    let namespace = call.place.namespace.clone().unwrap_or_default();
    pods::fetch(&call.state, &namespace, &name).await?;
    check_container(&call.query, &name)?;
    let options = options(&call.query)?;
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|e| ApiError::bad_request(format!("exec is served over WebSocket: {}", e.body_text())))?;
    let offered: Vec<_> = upgrade.requested_protocols().filter_map(|p| p.to_str().ok()).collect();
    if !PROTOCOLS.iter().any(|p| offered.contains(p)) {
        let message = format!("none of the offered protocols {offered:?} is spoken; these are: {PROTOCOLS:?}");
        return Err(ApiError::bad_request(message));
    }
    let upgrade = upgrade.protocols(PROTOCOLS).max_frame_size(MOST_FRAME_BYTES).max_message_size(MOST_FRAME_BYTES);
    let key = Key::instance(namespace, name);
    let (attach, shutdown, session) = (call.state.attach.clone(), call.shutdown.clone(), call.session);
    Ok(upgrade.on_upgrade(async move |socket| {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = session.ended() => {}
            () = run(socket, attach.as_ref(), &key, options) => {}
        }
    }))
}

/// Starts the command and carries bytes until it has ended, or the client has.
///
/// A command that cannot be started is told on the error channel: kubectl takes an HTTP error for a server without
/// WebSocket, tries SPDY, and prints what that says.
async fn run(socket: WebSocket, attach: &dyn Attach, key: &Key, options: ExecOptions) {
    let (mut sink, mut stream) = socket.split();
    let status = match attach.exec(key, options).await {
        Ok(ExecIo { input, mut output, control }) => tokio::select! {
            status = carry_output(&mut sink, &mut output, control.as_ref()) => status,
            () = carry_input(&mut stream, input, control.as_ref()) => return,
        },
        Err(e) => Ok(failure("BadRequest", &e.to_string(), None)),
    };
    let Ok(status) = status else { return };
    let end = async {
        send(&mut sink, frame(ERROR, status.to_string().as_bytes())).await?;
        let frame = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        send(&mut sink, Message::Close(Some(frame))).await
    };
    // The client may be gone already, with all it wanted.
    if end.await.is_ok() {
        // Closing a socket that holds unread bytes (a pong will do) resets it, and takes from the client the output
        // that is still under way: so its close is waited for.
        let closed = async { while let Some(Ok(_)) = stream.next().await {} };
        drop(tokio::time::timeout(CLOSE_TIMEOUT, closed).await);
    }
}

/// The client is gone.
struct Gone;

async fn send(sink: &mut SplitSink<WebSocket, Message>, message: Message) -> Result<(), Gone> {
    match tokio::time::timeout(SEND_TIMEOUT, sink.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Gone),
    }
}

fn frame(channel: u8, bytes: &[u8]) -> Message {
    let mut buffer = BytesMut::with_capacity(bytes.len() + 1);
    buffer.put_u8(channel);
    buffer.put_slice(bytes);
    Message::Binary(buffer.freeze())
}

/// Output to the client, pings in between; at the end, how the command ended.
async fn carry_output(
    sink: &mut SplitSink<WebSocket, Message>,
    output: &mut futures::stream::BoxStream<'static, Result<(OutputStream, Bytes), AttachError>>,
    control: &dyn ExecControl,
) -> Result<Value, Gone> {
    let mut pings = tokio::time::interval(PING_EVERY);
    loop {
        let item = tokio::select! {
            item = output.next() => item,
            _ = pings.tick() => {
                send(sink, Message::Ping(Bytes::new())).await?;
                continue;
            }
        };
        match item {
            Some(Ok((stream, bytes))) => {
                let channel = match stream {
                    OutputStream::Stdout => STDOUT,
                    OutputStream::Stderr => STDERR,
                };
                send(sink, frame(channel, &bytes)).await?;
            }
            Some(Err(e)) => return Ok(failure("InternalError", &e.to_string(), None)),
            None => break,
        }
    }
    Ok(match control.exit_code().await {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => {
            let message = format!("command terminated with non-zero exit code: exit status {code}");
            failure("NonZeroExitCode", &message, Some(code))
        }
        Err(e) => failure("InternalError", &e.to_string(), None),
    })
}

fn failure(reason: &str, message: &str, code: Option<i64>) -> Value {
    let mut status = json!({"metadata": {}, "status": "Failure", "reason": reason, "message": message});
    if let Some(code) = code {
        status["details"] = json!({"causes": [{"reason": "ExitCode", "message": code.to_string()}]});
    }
    status
}

#[derive(Deserialize)]
struct Size {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

/// Input and window sizes from the client; returns when the client is gone.
async fn carry_input(
    stream: &mut SplitStream<WebSocket>,
    input: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
    control: &dyn ExecControl,
) {
    // `None` once the client or the command has ended it: a command may well read no more than it wants.
    let mut input = Some(input);
    loop {
        let Ok(Some(Ok(message))) = tokio::time::timeout(SILENCE, stream.next()).await else { return };
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return,
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) => continue,
        };
        match bytes.split_first() {
            Some((&STDIN, data)) => {
                if let Some(open) = input.as_mut()
                    && (open.write_all(data).await.is_err() || open.flush().await.is_err())
                {
                    input = None;
                }
            }
            Some((&RESIZE, data)) => {
                if let Ok(Size { width, height }) = serde_json::from_slice(data) {
                    // A size that cannot be set is no reason to end the session.
                    drop(control.resize(width, height).await);
                }
            }
            Some((&CLOSE, [STDIN])) => {
                if let Some(mut open) = input.take() {
                    drop(open.shutdown().await);
                }
            }
            _ => {}
        }
    }
}
