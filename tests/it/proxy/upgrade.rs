//! WebSockets and other switched protocols.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use portreeve::model::{Instance, Phase, WebSocketUse};
use portreeve::proxy::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use super::world::*;

/// A WebSocket server that echoes until its visitor closes, or until it is told to `bye`. It has something to say of its own
/// when a ping asks it to.
async fn echo() -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut socket = accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    if message == Message::text("bye") {
                        return;
                    }
                    if message == Message::Ping(SAY.into()) && socket.send(Message::text("by itself")).await.is_err() {
                        return;
                    }
                    if message.is_text() && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, task)
}

const SAY: &[u8] = b"say";

/// The app says something, and its visitor does not.
async fn is_told(socket: &mut WebSocketStream<TcpStream>) {
    socket.send(Message::Ping(SAY.into())).await.unwrap();
    while !soon("the app's words", socket.next()).await.unwrap().unwrap().is_text() {}
}

async fn websocket(world: &World, host: &str) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(world.address).await.unwrap();
    let request = Request::get(format!("ws://{host}/socket"))
        .header("host", host)
        .header("connection", "keep-alive, Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", generate_key())
        .body(())
        .unwrap();
    soon("the handshake", client_async(request, stream)).await.unwrap().0
}

async fn echoes(socket: &mut WebSocketStream<TcpStream>, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
    assert_eq!(soon("the echo", socket.next()).await.unwrap().unwrap(), Message::text(text));
}

/// The same instance, with WebSockets that are a use for being open.
fn used_while_open(mut inst: Instance) -> Instance {
    inst.spec.idle.web_sockets = WebSocketUse::Open;
    inst
}

#[tokio::test]
async fn a_websocket_to_a_sleeper_opens_after_the_wake_and_may_keep_it_awake_by_being_open() {
    let world = World::new().await;
    let (app, _task) = echo().await;
    world.put(&used_while_open(asleep("alice", app))).await;
    world.waker.plan(used_while_open(awake("alice", app)), Duration::from_millis(50));
    let mut socket = websocket(&world, "alice.test").await;
    for text in ["hello", &"long".repeat(100_000), ""] {
        echoes(&mut socket, text).await;
    }
    assert_eq!((world.open("alice"), world.activity.idle(&key("alice"))), (1, Some(Duration::ZERO)));
    socket.close(None).await.unwrap();
    while soon("the close", socket.next()).await.is_some() {}
    drop(socket);
    world.until_closed("alice").await;
    assert_eq!(world.waker.calls("alice"), 1);
}

#[tokio::test]
async fn the_messages_of_a_websocket_are_use_and_its_pings_are_not() {
    let world = World::new().await;
    let (app, _task) = echo().await;
    world.put(&awake("alice", app)).await;
    let mut socket = websocket(&world, "alice.test").await;
    echoes(&mut socket, "hello").await;
    let idle = || world.activity.idle(&key("alice"));
    assert!(world.open("alice") == 0 && idle().is_some());

    world.activity.rest(&key("alice"));
    for _ in 0..3 {
        socket.send(Message::Ping(vec![0; 100].into())).await.unwrap();
        assert!(soon("the pong", socket.next()).await.unwrap().unwrap().is_pong());
    }
    assert_eq!(idle(), None);
    echoes(&mut socket, "still here").await;
    assert!(idle().is_some());
    assert_eq!(world.waker.calls("alice"), 0, "it is awake");

    // At rest with its connections kept.
    world.activity.rest(&key("alice"));
    world.put(&with_phase(awake("alice", app), Phase::Stopping)).await;
    echoes(&mut socket, "wake up").await;
    assert!(idle().is_some());
    assert_eq!(world.waker.calls("alice"), 1);

    // What it says as it ends is no wish to start it again; what it says while it runs is use.
    world.activity.rest(&key("alice"));
    is_told(&mut socket).await;
    assert_eq!((idle(), world.waker.calls("alice")), (None, 1));
    world.put(&awake("alice", app)).await;
    is_told(&mut socket).await;
    assert!(idle().is_some());

    world.activity.rest(&key("alice"));
    socket.close(None).await.unwrap();
    while soon("the close", socket.next()).await.is_some() {}
    drop(socket);
    until("it has ended", || world.stats.upgraded_now() == 0).await;
    assert_eq!(idle(), None, "who leaves wants nothing more");
}

#[tokio::test]
async fn a_websocket_ends_on_both_sides_whichever_leaves() {
    let world = World::new().await;
    let (app, _task) = echo().await;
    world.put(&used_while_open(awake("alice", app))).await;

    let mut left_by_visitor = websocket(&world, "alice.test").await;
    echoes(&mut left_by_visitor, "x").await;
    drop(left_by_visitor);
    world.until_closed("alice").await;

    let mut left_by_app = websocket(&world, "alice.test").await;
    left_by_app.send(Message::text("bye")).await.unwrap();
    assert!(!matches!(soon("the end", left_by_app.next()).await, Some(Ok(_))));
    drop(left_by_app);
    world.until_closed("alice").await;
}

#[tokio::test]
async fn a_visitor_who_never_closes_does_not_keep_an_app_that_has() {
    let world = World::with(Limits { linger: Duration::from_millis(50), ..Default::default() }).await;
    let (app, _task) = echo().await;
    world.put(&used_while_open(awake("alice", app))).await;
    let mut socket = websocket(&world, "alice.test").await;
    socket.send(Message::text("bye")).await.unwrap();
    // The visitor's side stays open.
    world.until_closed("alice").await;
    drop(socket);
}

/// Answers an upgrade by `status`, then echoes one line over whatever protocol was asked for.
async fn switching(status: StatusCode) -> App {
    App::new(move |mut request: Request<Incoming>| async move {
        let mut response = Response::new(full(""));
        *response.status_mut() = status;
        if let Some(protocol) = request.headers().get("upgrade") {
            response.headers_mut().insert("x-asked", protocol.clone());
        }
        if status == StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
            response.headers_mut().insert("upgrade", HeaderValue::from_static("line/1"));
            tokio::spawn(async move {
                if let Ok(upgraded) = hyper::upgrade::on(&mut request).await {
                    let mut io = TokioIo::new(upgraded);
                    let mut line = [0; 5];
                    io.read_exact(&mut line).await.unwrap();
                    io.write_all(&line).await.unwrap();
                    io.shutdown().await.unwrap();
                }
            });
        }
        response
    })
    .await
}

#[tokio::test]
async fn any_protocol_can_be_switched_to_and_nothing_sent_early_is_lost() {
    let (world, app) = (World::new().await, switching(StatusCode::SWITCHING_PROTOCOLS).await);
    world.put(&awake("alice", app.address)).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    // The first line follows the head in the same packet.
    let head = "GET / HTTP/1.1\r\nHost: alice.test\r\nConnection: upgrade\r\nUpgrade: line/1\r\n\r\nhello";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    soon("the answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    assert!(answer.contains("\r\nupgrade: line/1\r\n") && answer.contains("\r\nconnection: upgrade\r\n"), "{answer}");
    world.until_closed("alice").await;
}

#[tokio::test]
async fn an_app_may_decline_to_switch() {
    let (world, app) = (World::new().await, switching(StatusCode::NOT_FOUND).await);
    world.put(&awake("alice", app.address)).await;
    let mut ask = request("GET", "alice.test", "/", "");
    ask.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
    ask.headers_mut().insert("upgrade", HeaderValue::from_static("line/1"));
    let reply = world.connect().await.send(ask).await;
    assert_eq!((reply.status, &reply.headers["x-asked"]), (StatusCode::NOT_FOUND, &HeaderValue::from_static("line/1")));
    world.until_closed("alice").await;
}

#[tokio::test]
async fn nobody_switches_who_was_not_asked_and_never_to_http2() {
    let (world, app) = (World::new().await, switching(StatusCode::SWITCHING_PROTOCOLS).await);
    world.put(&awake("alice", app.address)).await;
    for upgrade in [None, Some("h2c")] {
        let mut ask = request("GET", "alice.test", "/", "");
        if let Some(protocol) = upgrade {
            ask.headers_mut().insert("connection", HeaderValue::from_static("upgrade, http2-settings"));
            ask.headers_mut().insert("http2-settings", HeaderValue::from_static("AAMAAABkAAQAAP__"));
            ask.headers_mut().insert("upgrade", HeaderValue::from_static(protocol));
        }
        let reply = world.connect().await.send(ask).await;
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{upgrade:?}");
    }
    world.until_closed("alice").await;
}

#[tokio::test]
async fn http_1_0_has_no_upgrade() {
    let (world, app) = (World::new().await, switching(StatusCode::NOT_FOUND).await);
    world.put(&awake("alice", app.address)).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = "GET / HTTP/1.0\r\nHost: alice.test\r\nConnection: upgrade\r\nUpgrade: line/1\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("the answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 404 ") && !answer.contains("x-asked"), "{answer}");
}

#[tokio::test]
async fn tunnels_are_cut_when_the_time_to_shut_down_is_over() {
    let mut world = World::with(Limits { drain: Duration::from_millis(50), ..Default::default() }).await;
    let (app, _task) = echo().await;
    world.put(&used_while_open(awake("alice", app))).await;
    let mut socket = websocket(&world, "alice.test").await;
    echoes(&mut socket, "x").await;
    world.shutdown.cancel();
    soon("the proxy's end", world.proxy.take().unwrap()).await.unwrap();
    assert!(!matches!(soon("the cut", socket.next()).await, Some(Ok(_))));
    world.until_closed("alice").await;
}
