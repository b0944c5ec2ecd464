//! Logs and exec: through the Pod view, over a scripted container.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use futures::{SinkExt, TryStreamExt};
use http::{Method, Request, header};
use http_body_util::BodyExt;
use portreeve::api::attach::{AttachOptions, Connection, ExecControl, ExecIo, ExecOptions, LogOptions, OutputStream};
use portreeve::api::{Attach, AttachError};
use portreeve::model::Key;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::io::ReaderStream;

use crate::support::api_server::{ApiServer, PATIENCE, instance, running};
use crate::support::client::{Client, INSTANCES};

const POD: &str = "/api/v1/namespaces/default/pods/a";

/// Bytes of the log of `flood`: more than all buffers between a server and its client hold.
const FLOOD: usize = 32 << 20;

/// A container that knows these commands: `cat`, `exit CODE`, `flood` (four megabytes), `size` and `key` (which end with
/// their input and with its first byte, and whose exit code is the window's width).
#[derive(Default)]
pub struct Scripted {
    /// How many sessions and connections are open.
    pub open: Arc<AtomicU32>,
}

/// What the run has written, and when.
const LINES: [(&str, &str); 2] = [("one\n", "2026-01-01T00:00:01Z"), ("two\n", "2026-01-01T00:00:02Z")];

struct Script {
    /// `None`: the window's width, once it is known.
    code: Option<i64>,
    width: watch::Sender<u16>,
    _use: Use,
}

#[async_trait::async_trait]
impl ExecControl for Script {
    async fn resize(&self, width: u16, _: u16) -> Result<(), AttachError> {
        self.width.send_replace(width);
        Ok(())
    }
    async fn exit_code(&self) -> Result<i64, AttachError> {
        match self.code {
            Some(code) => Ok(code),
            None => Ok((*self.width.subscribe().wait_for(|w| *w > 0).await.expect("not dropped")).into()),
        }
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
        if options.previous {
            // `fresh` runs for the first time
            let none = || AttachError::NoPreviousRun(key.clone());
            let lines = if key.name == "fresh" { Err(none()) } else { Ok(["begun\n", "crashed\n"]) }?;
            let skipped = lines.len().saturating_sub(options.tail.map_or(usize::MAX, |t| t as usize));
            return Ok(stream::iter(lines.into_iter().skip(skipped).map(|l| Ok(Bytes::from(l)))).boxed());
        }
        if key.name == "flood" {
            let chunk = Bytes::from(vec![b'x'; 64 << 10]);
            return Ok(stream::repeat(chunk).take(FLOOD / (64 << 10)).map(Ok).boxed());
        }
        let told = |(line, at): (&str, &str)| {
            let later = options.since.is_none_or(|since| at.parse::<jiff::Timestamp>().expect("a time") >= since);
            let line = if options.timestamps { format!("{at} {line}") } else { line.to_owned() };
            later.then(|| Bytes::from(line))
        };
        let lines: Vec<Bytes> = LINES.into_iter().filter_map(told).collect();
        let skipped = lines.len().saturating_sub(options.tail.map_or(usize::MAX, |t| t as usize));
        let lines = stream::iter(lines.into_iter().skip(skipped).map(Ok));
        Ok(if options.follow { lines.chain(stream::pending()).boxed() } else { lines.boxed() })
    }

    async fn exec(&self, key: &Key, options: ExecOptions) -> Result<ExecIo, AttachError> {
        let words: Vec<&str> = options.command.iter().map(String::as_str).collect();
        let (input, output, code): (std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>, _, Option<i64>) =
            match words[..] {
                ["cat"] | ["size"] | ["key"] => {
                    let (output, input) = tokio::io::simplex(64);
                    let bytes = ReaderStream::new(output).map_err(|e| AttachError::Failed {
                        operation: "reading",
                        key: Key::instance("default", "a"),
                        why: e.to_string(),
                    });
                    let bytes = bytes.map_ok(|b| (OutputStream::Stdout, b));
                    let bytes = if words[0] == "key" { bytes.take(1).boxed() } else { bytes.boxed() };
                    (Box::pin(input), bytes, (words[0] == "cat").then_some(0))
                }
                ["flood"] => {
                    let chunk = Bytes::from(vec![b'x'; 64 << 10]);
                    let chunks = stream::repeat(chunk).take(64).map(|c| Ok((OutputStream::Stdout, c)));
                    (Box::pin(tokio::io::sink()), chunks.boxed(), Some(0))
                }
                ["exit", code] => {
                    let error = Ok((OutputStream::Stderr, Bytes::from("bad\n")));
                    (Box::pin(tokio::io::sink()), stream::iter([error]).boxed(), Some(code.parse().unwrap()))
                }
                _ => return Err(AttachError::NotRunning(key.clone())),
            };
        Ok(ExecIo {
            input,
            output,
            control: Box::new(Script { code, width: watch::Sender::new(0), _use: Use::of(&self.open) }),
        })
    }

    async fn attach(&self, _: &Key, options: AttachOptions) -> Result<ExecIo, AttachError> {
        let lines = [(OutputStream::Stdout, options.stdout, "out\n"), (OutputStream::Stderr, options.stderr, "err\n")];
        let output =
            lines.into_iter().filter(|(_, wanted, _)| *wanted).map(|(of, _, text)| Ok((of, Bytes::from(text))));
        let control = Box::new(Script { code: Some(0), width: watch::Sender::new(0), _use: Use::of(&self.open) });
        Ok(ExecIo { input: Box::pin(tokio::io::sink()), output: stream::iter(output).boxed(), control })
    }

    /// Port 8080 answers what it hears in capitals, port 8081 hangs up after a greeting; there are no others.
    async fn connect(&self, key: &Key, port: u16) -> Result<Connection, AttachError> {
        let (near, mut app) = tokio::io::duplex(64);
        match port {
            8080 => drop(tokio::spawn(async move {
                let mut buffer = [0; 64];
                while let Ok(n @ 1..) = app.read(&mut buffer).await {
                    buffer[..n].make_ascii_uppercase();
                    if app.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
                // The client's end is not the app's: it has something left to say.
                let _ = app.write_all(b"BYE").await;
            })),
            8081 => drop(tokio::spawn(async move { app.write_all(b"hello").await })),
            _ => {
                let ports = vec![("web".to_owned(), 8080), ("greeter".to_owned(), 8081)];
                return Err(AttachError::NoPort { key: key.clone(), port, ports });
            }
        }
        Ok(Connection { io: Box::new(near), in_use: Box::new(Use::of(&self.open)) })
    }
}

/// Counts while it is there.
struct Use(Arc<AtomicU32>);

impl Use {
    fn of(open: &Arc<AtomicU32>) -> Use {
        open.fetch_add(1, Ordering::SeqCst);
        Use(open.clone())
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits until so many sessions and connections are open.
pub async fn uses(open: &AtomicU32, wanted: u32) {
    let seen = async {
        while open.load(Ordering::SeqCst) != wanted {
            tokio::task::yield_now().await;
        }
    };
    let seen = tokio::time::timeout(PATIENCE, seen).await;
    assert!(seen.is_ok(), "{} are open, not {wanted}", open.load(Ordering::SeqCst));
}

async fn server() -> ApiServer {
    server_with(Scripted::default()).await
}

async fn server_with(scripted: Scripted) -> ApiServer {
    let server = ApiServer::start_with(Arc::new(scripted)).await;
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
    server.put_status("a", again.clone()).await;
    assert_ne!(server.client.get(POD).await.json()["metadata"]["uid"], pod["metadata"]["uid"], "another incarnation");
    again["startedAt"] = "2026-01-01T00:05:00Z".into();
    again["lastExit"] = json!({"exitCode": 137, "oomKilled": true, "startedAt": "2026-01-01T00:00:00Z",
                               "finishedAt": "2026-01-01T00:04:00Z"});
    server.put_status("a", again).await;
    let pod = server.client.get(POD).await.json();
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["reason"], &last["startedAt"]), (&json!("OOMKilled"), &json!("2026-01-01T00:00:00Z")), "{pod:#}");
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
    assert_eq!(server.client.get(&format!("{POD}/log?previous=true&tailLines=1")).await.text(), "crashed\n");
    server.client.post(INSTANCES, &instance("fresh")).await.expect(201);
    server.put_status("fresh", running()).await;
    let none = server.client.get("/api/v1/namespaces/default/pods/fresh/log?previous=true").await.expect(400);
    assert_eq!(none["message"], "previous terminated container \"main\" in pod \"fresh\" not found");
    server.client.get(&format!("{POD}/log?container=x")).await.expect(400);
    server.client.get(&format!("{POD}/log?tailLines=x")).await.expect(400);
    let since = async |what: &str| server.client.get(&format!("{POD}/log?{what}")).await;
    assert_eq!(since("sinceTime=2026-01-01T00:00:02Z").await.text(), "two\n");
    assert_eq!(since("sinceSeconds=1&timestamps=true").await.text(), "", "long ago");
    assert_eq!(
        since("sinceSeconds=9999999999&timestamps=true").await.text(),
        "2026-01-01T00:00:01Z one\n2026-01-01T00:00:02Z two\n"
    );
    since("sinceTime=yesterday").await.expect(400);
    let both = since("sinceTime=2026-01-01T00:00:02Z&sinceSeconds=1").await.expect(400);
    assert_eq!(both["message"], "at most one of sinceTime and sinceSeconds may be set");
    server.client.get("/api/v1/namespaces/default/pods/b/log").await.expect(404);
    let client = server.client.clone();
    let response = client.open(Method::GET, &format!("{POD}/log?follow=true"), &[], "").await;
    server.shutdown.cancel();
    let rest = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.expect("the log ended");
    assert_eq!(rest.expect("ended, not cut off").to_bytes(), "one\ntwo\n");
    tokio::time::timeout(PATIENCE, &mut server.serving).await.expect("the server stopped").unwrap();
}

#[tokio::test]
async fn a_log_waits_for_whoever_pages_through_it() {
    const STALL: Duration = Duration::from_millis(500);
    let server = ApiServer::start_patient_with(STALL, Arc::new(Scripted::default())).await;
    server.client.post(INSTANCES, &instance("flood")).await.expect(201);
    server.put_status("flood", running()).await;
    let log = "/api/v1/namespaces/default/pods/flood/log";
    let mut paged = server.client.open(Method::GET, log, &[], "").await.into_body();
    let mut read = paged.frame().await.expect("a page").expect("no error").into_data().expect("text").len();
    // What is tested is that nobody reads for so long.
    tokio::time::sleep(4 * STALL).await;
    while let Some(frame) = paged.frame().await {
        read += frame.expect("it goes on").into_data().expect("text").len();
    }
    assert_eq!(read, FLOOD);
}

pub type Socket = tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;

async fn exec(server: &ApiServer, query: &str, protocols: &str) -> Socket {
    open(server, &format!("exec?{query}"), protocols).await
}

async fn open(server: &ApiServer, what: &str, protocols: &str) -> Socket {
    open_as(&server.client, what, protocols).await
}

/// A session in the container of the instance `a`.
pub async fn exec_as(client: &Client, query: &str, protocols: &str) -> Socket {
    open_as(client, &format!("exec?{query}"), protocols).await
}

async fn open_as(client: &Client, what: &str, protocols: &str) -> Socket {
    let request = Request::builder()
        .method(Method::GET)
        .uri(format!("wss://{}{POD}/{what}", client.address))
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

#[tokio::test]
async fn attach_shows_the_containers_output_and_offers_no_input() {
    let server = server().await;
    let mut socket = open(&server, "attach?stdout=true&stderr=true", "v4.channel.k8s.io").await;
    assert_eq!(heard(&mut socket).await, Some((1, b"out\n".to_vec())));
    assert_eq!(heard(&mut socket).await, Some((2, b"err\n".to_vec())));
    assert_eq!(status(&mut socket).await["status"], "Success");
    for asked in ["stdin", "tty"] {
        let answer = server.client.get(&format!("{POD}/attach?stdout=true&{asked}=true")).await.expect(400);
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.starts_with("container main of pod a has no "), "{message}");
    }
}

#[tokio::test]
async fn ports_are_forwarded_over_channels() {
    let server = server().await;
    let mut socket = open(&server, "portforward?ports=8080,9&ports=8081", "v4.channel.k8s.io").await;
    let mut seen = std::collections::BTreeMap::<u8, Vec<u8>>::new();
    let mut hear = async |socket: &mut Socket, channel: u8, wanted: &[u8]| {
        while !seen.get(&channel).is_some_and(|bytes| bytes.ends_with(wanted)) {
            let (channel, bytes) = heard(socket).await.expect("more");
            seen.entry(channel).or_default().extend(bytes);
        }
        seen.get(&channel).cloned().unwrap_or_default()
    };
    say(&mut socket, 0, b"abc").await;
    say(&mut socket, 0, b"def").await;
    assert_eq!(hear(&mut socket, 0, b"DEF").await, [&8080_u16.to_le_bytes()[..], b"ABCDEF"].concat());
    assert_eq!(hear(&mut socket, 4, b"hello").await, [&8081_u16.to_le_bytes()[..], b"hello"].concat());
    let why = hear(&mut socket, 3, b"(greeter)").await;
    let expected = "instances/default/a has no port 9; it declares 8080 (web), 8081 (greeter)";
    assert_eq!(why, [&9_u16.to_le_bytes()[..], expected.as_bytes()].concat());
    for bad in ["", "ports=", "ports=x", "ports=0", "ports=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"] {
        server.client.get(&format!("{POD}/portforward?{bad}")).await.expect(400);
    }
}

#[tokio::test]
async fn one_direction_of_a_forwarded_port_can_end_and_everything_ends_with_the_client() {
    let scripted = Scripted::default();
    let open_uses = scripted.open.clone();
    let server = server_with(scripted).await;
    let mut socket = open(&server, "portforward?ports=8080", "v5.channel.k8s.io").await;
    heard(&mut socket).await;
    heard(&mut socket).await;
    say(&mut socket, 0, b"x").await;
    assert_eq!(heard(&mut socket).await, Some((0, b"X".to_vec())));
    say(&mut socket, 255, &[0]).await;
    assert_eq!(heard(&mut socket).await, Some((0, b"BYE".to_vec())));
    assert_eq!(heard(&mut socket).await, Some((255, vec![0])));
    assert_eq!(heard(&mut socket).await, None, "all connections are over");
    let mut socket = open(&server, "portforward?ports=8080,8080", "v4.channel.k8s.io").await;
    for _ in 0..4 {
        heard(&mut socket).await;
    }
    uses(&open_uses, 2).await;
    drop(socket);
    uses(&open_uses, 0).await;
}
