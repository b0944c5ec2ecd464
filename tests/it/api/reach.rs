//! Logs and exec: through the Pod view, over a scripted container.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use futures::{SinkExt, TryStreamExt};
use http::{Method, Request, header};
use http_body_util::BodyExt;
use portreeve::api::attach::{ExecControl, ExecIo, ExecOptions, LogOptions, OutputStream};
use portreeve::api::{Attach, AttachError};
use portreeve::model::Key;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::io::ReaderStream;

use crate::support::api_server::{ApiServer, PATIENCE, instance, running};
use crate::support::client::{Client, INSTANCES};

const POD: &str = "/api/v1/namespaces/default/pods/a";

/// A container that knows three commands: `cat`, `exit CODE` and `size` (tells the window sizes it hears of).
pub struct Scripted;

struct Script {
    code: i64,
    size: Arc<AtomicU32>,
}

#[async_trait::async_trait]
impl ExecControl for Script {
    async fn resize(&self, width: u16, height: u16) -> Result<(), AttachError> {
        self.size.store(u32::from(width) << 16 | u32::from(height), Ordering::SeqCst);
        Ok(())
    }
    async fn exit_code(&self) -> Result<i64, AttachError> {
        let size = self.size.load(Ordering::SeqCst);
        Ok(if size > 0 { i64::from(size >> 16) } else { self.code })
    }
}

#[async_trait::async_trait]
impl Attach for Scripted {
    async fn logs(
        &self,
        key: &Key,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, AttachError>>, AttachError> {
        assert_eq!(key.namespace, "default");
        let lines = [Bytes::from("one\n"), Bytes::from("two\n")];
        let skipped = lines.len().saturating_sub(options.tail.map_or(usize::MAX, |t| t as usize));
        let lines = stream::iter(lines.into_iter().skip(skipped).map(Ok));
        Ok(if options.follow { lines.chain(stream::pending()).boxed() } else { lines.boxed() })
    }

    async fn exec(&self, key: &Key, options: ExecOptions) -> Result<ExecIo, AttachError> {
        let words: Vec<&str> = options.command.iter().map(String::as_str).collect();
        let size = Arc::new(AtomicU32::new(0));
        let (input, output, code): (std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>, _, i64) = match words[..] {
            ["cat"] | ["size"] => {
                let (output, input) = tokio::io::simplex(64);
                let bytes = ReaderStream::new(output).map_err(|e| AttachError::Failed {
                    operation: "reading",
                    key: Key::instance("default", "a"),
                    why: e.to_string(),
                });
                let bytes = bytes.map_ok(|b| (OutputStream::Stdout, b)).boxed();
                (Box::pin(input), bytes, 0)
            }
            ["exit", code] => {
                let error = Ok((OutputStream::Stderr, Bytes::from("bad\n")));
                (Box::pin(tokio::io::sink()), stream::iter([error]).boxed(), code.parse().unwrap())
            }
            _ => return Err(AttachError::NotRunning(key.clone())),
        };
        Ok(ExecIo { input, output, control: Box::new(Script { code, size }) })
    }
}

async fn server() -> ApiServer {
    let server = ApiServer::start_with(Arc::new(Scripted)).await;
    server.client.post(INSTANCES, &instance("a")).await.expect(201);
    server.client.get(POD).await.expect(404);
    server.put_status("a", running()).await;
    server
}

#[tokio::test]
async fn an_instance_with_a_container_is_seen_as_a_pod() {
    let server = server().await;
    let pod = server.client.get(POD).await.expect(200);
    assert_eq!(pod["spec"]["containers"][0]["name"], "main");
    assert_eq!((&pod["status"]["phase"], &pod["spec"]["nodeName"]), (&json!("Running"), &json!("local")));
    let instance = server.client.get(&format!("{INSTANCES}/a")).await.expect(200);
    assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], instance["metadata"]["uid"]);
    assert_ne!(pod["metadata"]["uid"], instance["metadata"]["uid"]);
    let mut again = running();
    again["containerID"] = "another".into();
    server.put_status("a", again).await;
    assert_ne!(server.client.get(POD).await.json()["metadata"]["uid"], pod["metadata"]["uid"], "another incarnation");
    let pods = "/api/v1/namespaces/default/pods";
    let mut watch = server.client.watch(&format!("{pods}?watch=1&fieldSelector=status.phase%3DRunning")).await;
    assert_eq!(watch.told().await, ("ADDED".into(), "a".into()));
    server.put_status("a", running()).await;
    assert_eq!(watch.told().await, ("DELETED".into(), "a".into()), "the incarnation is over");
    assert_eq!(watch.told().await, ("ADDED".into(), "a".into()));
    server.put_status("a", json!({"phase": "Stopped"})).await;
    assert_eq!(watch.told().await, ("DELETED".into(), "a".into()), "no container, no pod");
    assert_eq!(server.client.get(pods).await.expect(200)["kind"], "PodList");
    server.put_status("a", running()).await;
    let list = server.client.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dlocal").await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn logs_stream_and_end_with_the_server() {
    let mut server = server().await;
    assert_eq!(server.client.get(&format!("{POD}/log")).await.text(), "one\ntwo\n");
    assert_eq!(server.client.get(&format!("{POD}/log?container=main&tailLines=1")).await.text(), "two\n");
    assert_eq!(server.client.get(&format!("{POD}/log?limitBytes=5")).await.text(), "one\nt");
    server.client.get(&format!("{POD}/log?container=x")).await.expect(400);
    server.client.get(&format!("{POD}/log?tailLines=x")).await.expect(400);
    server.client.get("/api/v1/namespaces/default/pods/b/log").await.expect(404);
    let client = server.client.clone();
    let response = client.open(Method::GET, &format!("{POD}/log?follow=true"), &[], "").await;
    server.shutdown.cancel();
    let rest = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.expect("the log ended");
    assert_eq!(rest.expect("ended, not cut off").to_bytes(), "one\ntwo\n");
    tokio::time::timeout(PATIENCE, &mut server.serving).await.expect("the server stopped").unwrap();
}

pub type Socket = tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;

async fn exec(server: &ApiServer, query: &str, protocols: &str) -> Socket {
    exec_as(&server.client, query, protocols).await
}

/// A session in the container of the instance `a`.
pub async fn exec_as(client: &Client, query: &str, protocols: &str) -> Socket {
    let request = Request::builder()
        .method(Method::GET)
        .uri(format!("wss://{}{POD}/exec?{query}", client.address))
        .header(header::HOST, &client.address)
        .header(header::AUTHORIZATION, format!("Bearer {}", client.token.as_deref().unwrap()))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", tokio_tungstenite::tungstenite::handshake::client::generate_key())
        .header("sec-websocket-protocol", protocols)
        .body(())
        .unwrap();
    let stream = client.connect().await.unwrap();
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await.expect("an upgrade");
    assert_eq!(response.headers()["sec-websocket-protocol"], protocols.split(',').next().unwrap());
    socket
}

/// The next channel and payload.
async fn heard(socket: &mut Socket) -> Option<(u8, Vec<u8>)> {
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.expect("a frame in time")?;
        match message.expect("an unbroken connection") {
            Message::Binary(bytes) => return Some((bytes[0], bytes[1..].to_vec())),
            Message::Close(frame) => {
                assert_eq!(u16::from(frame.expect("a reason").code), 1000);
                return None;
            }
            _ => {}
        }
    }
}

async fn say(socket: &mut Socket, channel: u8, bytes: &[u8]) {
    let mut frame = vec![channel];
    frame.extend_from_slice(bytes);
    socket.send(Message::Binary(frame.into())).await.unwrap();
}

async fn status(socket: &mut Socket) -> Value {
    let (channel, bytes) = heard(socket).await.expect("a status");
    assert_eq!(channel, 3, "{}", String::from_utf8_lossy(&bytes));
    assert!(heard(socket).await.is_none(), "closed after the status");
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn exec_carries_input_and_output_and_ends_with_success() {
    let server = server().await;
    let mut socket = exec(&server, "command=cat&stdin=true&stdout=true", "v5.channel.k8s.io,v4.channel.k8s.io").await;
    say(&mut socket, 0, b"hello").await;
    assert_eq!(heard(&mut socket).await, Some((1, b"hello".to_vec())));
    say(&mut socket, 255, &[0]).await;
    assert_eq!(status(&mut socket).await["status"], "Success");
}

#[tokio::test]
async fn exec_tells_the_exit_code() {
    let server = server().await;
    let mut socket = exec(&server, "command=exit&command=7&stderr=true", "v4.channel.k8s.io").await;
    assert_eq!(heard(&mut socket).await, Some((2, b"bad\n".to_vec())));
    let status = status(&mut socket).await;
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "7"}));
}

#[tokio::test]
async fn exec_passes_window_sizes_on() {
    let server = server().await;
    let mut socket = exec(&server, "command=size&stdin=true&stdout=true&tty=true", "v5.channel.k8s.io").await;
    say(&mut socket, 4, br#"{"Width":80,"Height":24}"#).await;
    say(&mut socket, 4, b"nonsense").await;
    say(&mut socket, 255, &[0]).await;
    assert_eq!(status(&mut socket).await["details"]["causes"][0]["message"], "80");
}

#[tokio::test]
async fn exec_that_cannot_be_says_why() {
    let server = server().await;
    let upgrade = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "v5.channel.k8s.io"),
    ];
    let ask = async |query: &str, headers: &[(&str, &str)]| {
        server.client.send(Method::GET, &format!("{POD}/exec?{query}"), headers, "").await
    };
    let mut socket = exec(&server, "command=refuse&stdout=true", "v5.channel.k8s.io").await;
    assert_eq!(status(&mut socket).await["message"], "the container of instances/default/a is not running");
    ask("stdout=true", &upgrade).await.expect(400);
    ask("command=cat", &upgrade).await.expect(400);
    ask("command=cat&stdout=true&container=x", &upgrade).await.expect(400);
    ask("command=cat&stdout=true", &[]).await.expect(400);
    let mut old = upgrade;
    old[4].1 = "channel.k8s.io";
    ask("command=cat&stdout=true", &old).await.expect(400);
}
