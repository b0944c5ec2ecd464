//! How requests, connections and the proxy itself end: nothing stays open, nothing broken looks whole.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::SinkExt as _;
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt as _;
use portreeve::proxy::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::world::*;

type Sender = futures::channel::mpsc::Sender<std::io::Result<Frame<bytes::Bytes>>>;

/// An app whose one response is written by the test. `length` is what it promises.
async fn scripted(length: Option<&'static str>) -> (App, Sender) {
    let (sender, body) = streamed();
    let body = Arc::new(Mutex::new(Some(body)));
    let app = App::new(move |_| {
        let mut response = Response::new(body.lock().unwrap().take().expect("one request only"));
        if let Some(length) = length {
            response.headers_mut().insert("content-length", HeaderValue::from_static(length));
        }
        async move { response }
    })
    .await;
    (app, sender)
}

#[tokio::test]
async fn a_visitor_who_leaves_during_a_response_closes_the_apps_connection() {
    let world = World::new().await;
    let (app, mut sender) = scripted(None).await;
    world.put(&awake("alice", app.address)).await;
    let mut visitor = world.connect().await;
    let mut response = visitor.start(request("GET", "alice.test", "/", "")).await.unwrap();
    sender.send(Ok(Frame::data("first".into()))).await.unwrap();
    soon("the first event", response.body_mut().frame()).await.unwrap().unwrap();
    assert_eq!((world.open("alice"), app.open()), (1, 1));
    // The app has nothing more to say: only the visitor's leaving can end this.
    drop((response, visitor));
    world.until_closed("alice").await;
    until("the app's connection is closed", || app.open() == 0).await;
}

#[tokio::test]
async fn a_visitor_who_leaves_before_the_response_cancels_the_request() {
    let world = World::new().await;
    let app = App::new(|_| std::future::pending()).await;
    world.put(&awake("alice", app.address)).await;
    let mut visitor = world.connect().await;
    let request = tokio::spawn(async move { visitor.send(request("GET", "alice.test", "/", "")).await });
    until("the app has it", || app.open() == 1).await;
    request.abort();
    world.until_closed("alice").await;
    until("the app's connection is closed", || app.open() == 0).await;
}

#[tokio::test]
async fn a_visitor_who_leaves_during_an_upload_breaks_it_off() {
    let world = World::new().await;
    let (seen, mut ended) = tokio::sync::mpsc::channel(1);
    let app = App::new(move |request: http::Request<hyper::body::Incoming>| {
        let seen = seen.clone();
        async move {
            let broken = request.into_body().collect().await.is_err();
            seen.send(broken).await.unwrap();
            Response::new(full(""))
        }
    })
    .await;
    world.put(&awake("alice", app.address)).await;
    let (mut sender, body) = streamed();
    let mut upload = request("POST", "alice.test", "/", "");
    *upload.body_mut() = body;
    let mut visitor = world.connect().await;
    let request = tokio::spawn(async move { visitor.send(upload).await });
    sender.send(Ok(Frame::data("half".into()))).await.unwrap();
    until("the app has it", || app.open() == 1).await;
    request.abort();
    assert!(soon("the app's word", ended.recv()).await.unwrap(), "half an upload must not look like a whole one");
    world.until_closed("alice").await;
}

#[tokio::test]
async fn a_response_that_breaks_off_arrives_broken() {
    for length in [None, Some("1000")] {
        let world = World::new().await;
        let (app, mut sender) = scripted(length).await;
        world.put(&awake("alice", app.address)).await;
        let mut visitor = world.connect().await;
        let response = visitor.start(request("GET", "alice.test", "/", "")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        sender.send(Ok(Frame::data("half".into()))).await.unwrap();
        let mut body = response.into_body();
        soon("the first half", body.frame()).await.unwrap().unwrap();
        sender.send(Err(std::io::Error::other("the app died"))).await.unwrap();
        let rest = soon("the end", body.collect()).await;
        assert!(rest.is_err(), "{length:?}: a broken body ended cleanly");
        world.until_closed("alice").await;
    }
}

#[tokio::test]
async fn a_page_of_ours_follows_an_app_that_does_not_speak_http() {
    let world = World::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.put(&awake("alice", listener.local_addr().unwrap())).await;
    let app = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-nonsense\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut vec![]).await;
    });
    let mut post = request("POST", "alice.test", "/", "x");
    post.headers_mut().insert("accept", HeaderValue::from_static("text/html"));
    let reply = world.connect().await.send(post).await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    assert!(reply.text().starts_with("<!doctype html>"));
    soon("the app's end", app).await.unwrap();
    world.until_closed("alice").await;
}

#[tokio::test]
async fn a_head_that_does_not_come_or_does_not_end_is_cut_off() {
    let limits = Limits { header_read: Duration::from_millis(100), header_bytes: 8 * 1024, ..Default::default() };
    let (world, app) = (World::with(limits).await, App::hello("alice").await);
    world.put(&awake("alice", app.address)).await;
    let mut slow = TcpStream::connect(world.address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: ali").await.unwrap();
    let mut answer = vec![];
    soon("the end of the slow one", slow.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1 2"));

    let mut large = TcpStream::connect(world.address).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nHost: alice.test\r\nx: {}\r\n\r\n", "y".repeat(9 * 1024));
    large.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    soon("the refusal", large.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
    assert_eq!(app.accepted(), 0);
}

#[tokio::test]
async fn visitors_beyond_the_limit_wait_their_turn() {
    let limits = Limits { connections: 1, ..Default::default() };
    let (world, app) = (World::with(limits).await, App::hello("alice").await);
    world.put(&awake("alice", app.address)).await;
    let mut first = world.connect().await;
    assert_eq!(first.send(request("GET", "alice.test", "/1", "")).await.status, StatusCode::OK);
    let mut second = world.connect().await;
    let waiting = tokio::spawn(async move { second.send(request("GET", "alice.test", "/2", "")).await });
    assert_eq!(first.send(request("GET", "alice.test", "/3", "")).await.text(), "alice GET /3");
    assert!(!waiting.is_finished());
    drop(first);
    assert_eq!(soon("the second visitor's turn", waiting).await.unwrap().text(), "alice GET /2");
}

#[tokio::test]
async fn shutdown_lets_requests_finish_and_takes_no_new_ones() {
    let mut world = World::new().await;
    let (app, mut sender) = scripted(None).await;
    world.put(&awake("alice", app.address)).await;
    world.put(&asleep("bob", app.address)).await;
    let mut visitor = world.connect().await;
    let response = visitor.start(request("GET", "alice.test", "/", "")).await.unwrap();
    let mut other = world.connect().await;
    let held = tokio::spawn(async move { other.send(request("GET", "bob.test", "/", "")).await });
    until("bob's request is held", || world.open("bob") == 1).await;

    world.shutdown.cancel();
    let told = soon("the word to the held request", held).await.unwrap();
    assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(told.headers.contains_key("retry-after"));
    sender.send(Ok(Frame::data("all of it".into()))).await.unwrap();
    drop(sender);
    let body = soon("the body", response.into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(body, "all of it");
    soon("the proxy's end", world.proxy.take().unwrap()).await.unwrap();
    assert!(TcpStream::connect(world.address).await.is_err());
}

#[tokio::test]
async fn shutdown_is_bounded() {
    let mut world = World::with(Limits { drain: Duration::from_millis(50), ..Default::default() }).await;
    let (app, _sender) = scripted(None).await;
    world.put(&awake("alice", app.address)).await;
    let mut visitor = world.connect().await;
    let response = visitor.start(request("GET", "alice.test", "/", "")).await.unwrap();
    world.shutdown.cancel();
    soon("the proxy's end", world.proxy.take().unwrap()).await.unwrap();
    assert!(soon("the cut", response.into_body().collect()).await.is_err());
    world.until_closed("alice").await;
}
