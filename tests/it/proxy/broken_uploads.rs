//! A body that cannot be read is its visitor's fault: 400, an end of both connections, and no word against the app.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::world::*;

fn counted(world: &World, class: &str) -> String {
    let (mut registry, mut text) = (prometheus_client::registry::Registry::default(), String::new());
    world.stats.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let line = format!("responses_total{{code=\"{class}\"}} ");
    let found = text.lines().find_map(|l| l.split_once(&line));
    found.unwrap_or_else(|| panic!("no {line}: {text}")).1.to_owned()
}

/// Sends, and reads until the proxy ends the connection.
async fn ends(stream: &mut TcpStream, rest: &[u8]) -> String {
    let _ = stream.write_all(rest).await;
    let mut answer = vec![];
    let _ = soon("the end", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).to_ascii_lowercase()
}

/// An app that answers what it has read to its end, and tells how many requests it was given.
async fn reader() -> (App, Arc<AtomicUsize>) {
    let begun = Arc::new(AtomicUsize::new(0));
    let counts = begun.clone();
    let app = App::new(move |request: Request<Incoming>| {
        counts.fetch_add(1, Ordering::SeqCst);
        async move {
            let length = request.into_body().collect().await.map(|body| body.to_bytes().len());
            Response::new(full(format!("{length:?}")))
        }
    });
    (app.await, begun)
}

const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: alice.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";

#[tokio::test]
async fn a_chunk_that_cannot_be_read_is_answered_400_and_both_connections_end() {
    for broken in [&b"zz\r\nhello\r\n0\r\n\r\n"[..], b"5\r\nhelloXX", b"ffffffffffffffffff\r\n", b"0\r\nx y\r\n\r\n"] {
        let (world, (app, begun)) = (World::new().await, reader().await);
        world.put(&awake("alice", app.address)).await;
        let mut visitor = TcpStream::connect(world.address).await.unwrap();
        visitor.write_all(HEAD).await.unwrap();
        until("the app has its head", || begun.load(Ordering::SeqCst) == 1).await;
        let answer = ends(&mut visitor, broken).await;
        assert!(answer.starts_with("http/1.1 400 "), "{}: {answer}", broken.escape_ascii());
        assert!(answer.contains("connection: close"), "{answer}");
        world.until_closed("alice").await;
        until("the app's connection has ended", || app.open() == 0).await;
        assert_eq!(world.get("alice.test", "/").await.text(), "Ok(0)");
        assert_eq!(app.accepted(), 2, "the next visitor comes by another connection");
        assert_eq!((counted(&world, "4xx"), counted(&world, "5xx")), ("1".to_owned(), "0".to_owned()));
        assert_eq!(world.waker.calls("alice"), 0, "the app is not looked at for it");
    }
}

#[tokio::test]
async fn an_app_that_breaks_off_in_the_middle_of_a_body_is_still_the_one_to_blame() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.put(&awake("alice", listener.local_addr().unwrap())).await;
    let app = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = [0; 1024];
        let n = stream.read(&mut read).await.unwrap();
        assert!(n > 0);
    });
    let mut visitor = TcpStream::connect(world.address).await.unwrap();
    visitor.write_all(HEAD).await.unwrap();
    soon("the app", app).await.unwrap();
    let mut answer = [0; 12];
    soon("the answer", visitor.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 502");
}
