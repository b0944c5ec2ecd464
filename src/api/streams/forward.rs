//! `pods/portforward`: connections to an instance's ports, over SPDY, over SPDY inside a WebSocket, or over plain
//! WebSocket channels ([`super::ports`]).
//!
//! Over SPDY the client opens two streams per connection, `error` and `data`, with the same `requestid`. A text on
//! `error` fails the connection; its end without one says that the connection is over.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::extract::ws::{Message, WebSocket};
use axum::response::Response;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::pipe::{self, End, Sink};
use super::spdy::connection::{Patience, Stream, Writer, connection};
use super::spdy::frame::Reset;
use super::{Gone, V4, V5, ports, upgrade};
use crate::api::attach::Attach;
use crate::api::error::ApiError;
use crate::api::handler::Call;
use crate::api::views::{self, View};
use crate::model::Key;

const SPDY_PROTOCOL: &str = "portforward.k8s.io";
const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// Preferred first. Kubernetes forwards no ports over v5: libraries that offer it for all their sessions (kube-rs does) do not
/// know here what it tells.
const WEBSOCKET_PROTOCOLS: [&str; 3] = [TUNNEL_PROTOCOL, V4, V5];
/// How long a connection may take nothing before it is reset, so that it does not hold up the others.
const PATIENCE: Duration = Duration::from_secs(60);
/// A stream that waits for its partner is looked at this often, and reset when it is seen the third time.
const SWEEP: Duration = Duration::from_secs(10);

pub async fn answer(call: Call, name: String, request: Request) -> Result<Response, ApiError> {
    let namespace = call.place.namespace.clone().unwrap_or_default();
    views::fetch(&call.state, View::Pods, Some(&namespace), &name).await?;
    let key = Key::instance(namespace, name);
    let attach = call.state.attach.clone();
    if upgrade::wants_spdy(request.headers()) {
        return upgrade::spdy(&call, request, &[SPDY_PROTOCOL], async move |io| run(io, attach, key).await);
    }
    let wanted = ports::wanted(&call.query);
    if !upgrade::offers(request.headers(), TUNNEL_PROTOCOL) {
        wanted.as_ref().map_err(Clone::clone)?;
    }
    upgrade::websocket(&call, request, &WEBSOCKET_PROTOCOLS, async move |socket, chosen| match (chosen, wanted) {
        (TUNNEL_PROTOCOL, _) => run(tunnel(socket), attach, key).await,
        (_, Ok(wanted)) => ports::run(socket, attach, key, wanted, chosen).await,
        (_, Err(_)) => {}
    })
    .await
}

/// The bytes inside a WebSocket's binary messages, whose borders mean nothing.
fn tunnel(socket: WebSocket) -> impl AsyncRead + AsyncWrite + Unpin + Send {
    let (sink, stream) = socket.split();
    let bytes = stream.filter_map(|message| {
        std::future::ready(match message {
            Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
            Ok(Message::Text(_)) => Some(Err(io::Error::new(io::ErrorKind::InvalidData, "text in a tunnel of bytes"))),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_)) => None,
            Err(e) => Some(Err(io::Error::other(e))),
        })
    });
    let sink = sink
        .with(|bytes: Bytes| std::future::ready(Ok::<_, axum::Error>(Message::Binary(bytes))))
        .sink_map_err(io::Error::other);
    tokio::io::join(StreamReader::new(bytes), SinkWriter::new(CopyToBytes::new(sink)))
}

/// Forwards until the client closes.
async fn run<IO>(io: IO, attach: Arc<dyn Attach>, key: Key)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (driver, accept) = connection(io, Patience::Limited(PATIENCE));
    tokio::select! {
        ended = driver.run() => if let Err(e) = ended {
            tracing::debug!(%key, error = &e as &dyn std::error::Error, "a client's connection ended badly");
        },
        () = forward(accept, attach, &key) => {}
    }
}

/// One of the two streams of a connection, waiting for the other.
struct Half {
    stream: Stream,
    is_data: bool,
    seen: u8,
}

async fn forward(mut accept: mpsc::Receiver<Stream>, attach: Arc<dyn Attach>, key: &Key) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut sweep = tokio::time::interval(SWEEP);
    // Ends with this function, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let mut stream = tokio::select! {
            stream = accept.recv() => match stream {
                Some(stream) => stream,
                None => return,
            },
            Some(_) = connections.join_next() => continue,
            _ = sweep.tick() => {
                for half in halves.values_mut() {
                    half.seen += 1;
                    if half.seen > 2 {
                        half.stream.writer.reset(Reset::Cancel).await;
                    }
                }
                halves.retain(|_, half| half.seen <= 2);
                continue;
            }
        };
        let kind = match stream.headers.get("streamtype") {
            Some("data") => Some(true),
            Some("error") => Some(false),
            _ => None,
        };
        let (Some(is_data), Some(id)) = (kind, stream.headers.get("requestid").map(str::to_owned)) else {
            stream.writer.reset(Reset::Protocol).await;
            continue;
        };
        match halves.remove(&id) {
            Some(other) if other.is_data != is_data => {
                let (data, error) = if is_data { (stream, other.stream) } else { (other.stream, stream) };
                connections.spawn(one(data, error, attach.clone(), key.clone()));
            }
            Some(mut other) => {
                other.stream.writer.reset(Reset::Protocol).await;
                stream.writer.reset(Reset::Protocol).await;
            }
            None => drop(halves.insert(id, Half { stream, is_data, seen: 0 })),
        }
    }
}

impl Sink for Writer {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        Writer::send(self, bytes).await
    }
    async fn finish(&mut self) {
        Writer::finish(self).await;
    }
}

/// One connection, from its two streams to its end.
async fn one(mut data: Stream, mut error: Stream, attach: Arc<dyn Attach>, key: Key) {
    let port = data.headers.get("port").unwrap_or_default();
    let connected = match port.parse::<u16>() {
        Ok(port) if port > 0 => attach.connect(&key, port).await.map_err(|e| e.to_string()),
        _ => Err(format!("{port:?} is not a port")),
    };
    match connected {
        Ok(app) => match pipe::run(app, &mut data.reader, &mut data.writer).await {
            End::Done => {}
            End::Broken => data.writer.reset(Reset::Cancel).await,
        },
        Err(why) => {
            // Gone with the client, or told.
            let _ = error.writer.send(why.as_bytes()).await;
            data.writer.finish().await;
        }
    }
    error.writer.finish().await;
}
