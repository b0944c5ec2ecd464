//! A client of etcd: gRPC over HTTP/2 without TLS, its messages written by hand.

use std::convert::Infallible;

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{self, StreamExt};
use http::{Request, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpSocket;

/// Flow control must not be what is measured.
const WINDOW: u32 = 64 << 20;

#[derive(Clone)]
pub struct Etcd {
    pub address: String,
    pub pid: u32,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// One connection.
pub struct Grpc {
    sender: SendRequest<Body>,
    address: String,
}

/// A field of bytes in a protobuf message.
fn field(message: &mut BytesMut, number: u8, bytes: &[u8]) {
    message.put_u8(number << 3 | 2);
    varint(message, bytes.len() as u64);
    message.put_slice(bytes);
}

fn varint(message: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        message.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    message.put_u8(value as u8);
}

/// A message in its frame.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

/// The end of the keys that begin with this.
fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

impl Etcd {
    pub async fn connect(&self, receive: Option<u32>) -> Result<Grpc> {
        let socket = TcpSocket::new_v4()?;
        if let Some(size) = receive {
            socket.set_recv_buffer_size(size)?;
        }
        let stream = socket.connect(self.address.parse().context("etcd's address")?).await?;
        stream.set_nodelay(true)?;
        let window = if receive.is_some() { 65_535 } else { WINDOW };
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .initial_connection_window_size(window)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(Grpc { sender, address: self.address.clone() })
    }
}

impl Grpc {
    async fn send(&mut self, method: &str, body: Body) -> Result<http::Response<Incoming>> {
        let request = Request::post(format!("http://{}/etcdserverpb.{method}", self.address))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(body)?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    async fn call(&mut self, method: &str, message: &[u8]) -> Result<Bytes> {
        let answer = self.send(method, Full::new(framed(message)).boxed_unsync()).await?;
        let told = answer.headers().get("grpc-status").cloned();
        let body = answer.into_body().collect().await?;
        let status = told.or_else(|| body.trailers().and_then(|t| t.get("grpc-status")).cloned());
        if status.as_ref().is_none_or(|s| s.as_bytes() != b"0") {
            bail!("etcd: {method}: status {status:?}");
        }
        Ok(body.to_bytes())
    }

    pub async fn put(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let mut message = BytesMut::new();
        field(&mut message, 1, key.as_bytes());
        field(&mut message, 2, value);
        self.call("KV/Put", &message).await.map(drop)
    }

    /// The bytes of the answer.
    pub async fn range(&mut self, prefix: &str, limit: u64) -> Result<usize> {
        let mut message = BytesMut::new();
        field(&mut message, 1, prefix.as_bytes());
        field(&mut message, 2, &after(prefix));
        if limit > 0 {
            message.put_u8(3 << 3);
            varint(&mut message, limit);
        }
        Ok(self.call("KV/Range", &message).await?.len())
    }

    /// What comes of a watch; the connection lives as long as this does.
    pub async fn watch(mut self, prefix: &str) -> Result<Watching> {
        let mut create = BytesMut::new();
        field(&mut create, 1, prefix.as_bytes());
        field(&mut create, 2, &after(prefix));
        let mut message = BytesMut::new();
        field(&mut message, 1, &create);
        let first = stream::once(std::future::ready(Ok(Frame::data(framed(&message)))));
        let body = StreamBody::new(first.chain(stream::pending())).boxed_unsync();
        let mut body = self.send("Watch/Watch", body).await?.into_body();
        // That it was made.
        body.frame().await.context("the watch ended")??;
        Ok(Watching { body, _connection: self })
    }
}

pub struct Watching {
    body: Incoming,
    _connection: Grpc,
}

impl Watching {
    pub async fn next(&mut self) -> Result<Bytes> {
        let frame = self.body.frame().await.context("the watch ended")??;
        Ok(frame.into_data().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_protobuf_in_a_frame() {
        let mut message = BytesMut::new();
        field(&mut message, 1, b"k");
        field(&mut message, 2, &[7; 300]);
        assert_eq!(message[..7], [0x0a, 1, b'k', 0x12, 0xac, 0x02, 7]);
        assert_eq!(framed(b"ab")[..], [0, 0, 0, 0, 2, b'a', b'b']);
        assert_eq!(after("a/"), b"a0");
    }
}
