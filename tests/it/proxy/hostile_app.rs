//! Apps that answer so that two readers take the answer apart differently: a visitor gets an answer that is whole and in no
//! doubt, or 502, or sees it break off; and nobody gets what was left over from somebody else's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::world::*;

/// Answers the first request with these bytes, whatever it is; every other one, on any connection, with `fresh`.
struct Hostile {
    address: SocketAddr,
    /// Connections that the proxy has closed after they had been answered.
    closed: Arc<AtomicUsize>,
    /// What came on the first connection after the head.
    after_head: Arc<std::sync::Mutex<Vec<u8>>>,
}

/// What happens after the answer.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Stays,
    Closes,
}

impl Hostile {
    async fn new(answer: impl Into<Vec<u8>>, then: Then) -> Hostile {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hostile =
            Hostile { address: listener.local_addr().unwrap(), closed: Arc::default(), after_head: Arc::default() };
        let (closed, after_head, mut first) = (hostile.closed.clone(), hostile.after_head.clone(), Some(answer.into()));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = first.take().map(|answer| (answer, then, after_head.clone()));
                let closed = closed.clone();
                tokio::spawn(async move {
                    answer_all(stream, script).await;
                    closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        hostile
    }
}

/// What is answered, what happens then, and where it is told what still came.
type Script = (Vec<u8>, Then, Arc<std::sync::Mutex<Vec<u8>>>);

async fn answer_all(mut stream: TcpStream, script: Option<Script>) {
    let mut bytes = vec![];
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let Some((answer, then, after_head)) = &script else {
            bytes.clear();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfresh").await;
            continue;
        };
        let mut rest = bytes.split_off(end + 4);
        // Hung up on in the middle of it.
        let _ = stream.write_all(answer).await;
        if *then == Then::Closes {
            return;
        }
        while let Ok(1..) = stream.read_buf(&mut rest).await {}
        after_head.lock().unwrap().extend(rest);
        return;
    }
}

/// All that a visitor gets of one request, to the end of its connection.
async fn ask(world: &World, method: &str) -> String {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let request = format!("{method} / HTTP/1.1\r\nHost: alice.test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![];
    // Broken off by a reset is broken off.
    let _ = soon("the end", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).to_ascii_lowercase()
}

async fn answered(method: &str, answer: &[u8], then: Then) -> String {
    let (world, app) = (World::new().await, Hostile::new(answer, then).await);
    world.put(&awake("alice", app.address)).await;
    let got = ask(&world, method).await;
    let next = ask(&world, "GET").await;
    assert!(next.ends_with("\r\n\r\nfresh"), "after {:?} the next one got {next}", String::from_utf8_lossy(answer));
    assert!(!got.contains("poison") && !got.contains("fresh"), "{got}");
    got
}

const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";

#[tokio::test]
async fn an_answer_in_doubt_is_a_bad_gateway_at_once() {
    for head in [
        "200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        "200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
        "200 OK\r\nContent-Length: 5\r\nContent-Length: 6",
        "200 OK\r\nContent-Length: 5\r\nContent-Length: 5",
        "200 OK\r\nContent-Length: 5, 5",
        "200 OK\r\nContent-Length: +5",
        "200 OK\r\nContent-Length: -5",
        "200 OK\r\nContent-Length: 0x5",
        "200 OK\r\nContent-Length: 99999999999999999999",
        "200 OK\r\nContent-Length:",
        "200 OK\r\nContent-Length : 5",
        "200 OK\r\nTransfer-Encoding: gzip, chunked",
        "200 OK\r\nTransfer-Encoding: gzip",
        "200 OK\r\nTransfer-Encoding: identity",
        "200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "200 OK\r\nTransfer-Encoding: xchunked",
        "200 OK\r\nTransfer-Encoding:\x0bchunked",
        "200 OK\r\nX: a\rb\r\nContent-Length: 5",
        "200 OK\r\nX: a\x00b\r\nContent-Length: 5",
        "200 OK\r\nX: a\r\n folded\r\nContent-Length: 5",
        "200 OK\r\nX Y: a\r\nContent-Length: 5",
        "200 OK\r\nX\r\nContent-Length: 5",
        "2000 OK\r\nContent-Length: 5",
        "20 OK\r\nContent-Length: 5",
        "099 OK\r\nContent-Length: 5",
        "-200 OK\r\nContent-Length: 5",
        "200 O\x00K\r\nContent-Length: 5",
        "101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x",
    ] {
        let answer = format!("HTTP/1.1 {head}\r\n\r\n0\r\n\r\n{POISON}");
        let got = answered("GET", answer.as_bytes(), Then::Stays).await;
        assert!(got.starts_with("http/1.1 502 "), "{head:?} gave {got}");
    }
    let large = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 5\r\n\r\nhello", "x".repeat(1 << 20));
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 5\r\n\r\nhello", "X: y\r\n".repeat(5000));
    for garbage in [
        "\x00\x01\x02\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "<html>\r\n\r\n",
        &large,
        &many,
    ] {
        let got = answered("GET", garbage.as_bytes(), Then::Stays).await;
        assert!(got.starts_with("http/1.1 502 "), "{:?} gave {got}", &garbage[..garbage.len().min(20)]);
    }
}

#[tokio::test]
async fn what_follows_an_answer_is_nobodys() {
    for (method, head, body) in [
        ("GET", "200 OK\r\nContent-Length: 2\r\n\r\nok", "ok"),
        ("GET", "200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        ("GET", "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "ok"),
        ("GET", "204 No Content\r\n\r\n", ""),
        ("GET", "204 No Content\r\nContent-Length: 119\r\n\r\n", ""),
        ("GET", "304 Not Modified\r\nContent-Length: 119\r\n\r\n", ""),
        ("HEAD", "200 OK\r\nContent-Length: 119\r\n\r\n", ""),
        ("HEAD", "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ""),
    ] {
        let got = answered(method, format!("HTTP/1.1 {head}{POISON}").as_bytes(), Then::Stays).await;
        let (head_of, body_of) = got.split_once("\r\n\r\n").unwrap();
        assert!(head_of.starts_with(&format!("http/1.1 {}", &head[..3])), "{head:?} gave {got}");
        let plain = if head_of.contains("transfer-encoding: chunked") && method == "GET" {
            "2\r\nok\r\n0\r\n\r\n"
        } else {
            body
        };
        assert_eq!(body_of, plain, "{head:?}");
        assert!(!head_of.starts_with("http/1.1 204") || !head_of.contains("content-length"), "{head_of}");
    }
}

#[tokio::test]
async fn what_an_app_says_unasked_ends_its_connection() {
    let (world, app) =
        (World::new().await, Hostile::new("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Then::Stays).await);
    world.put(&awake("alice", app.address)).await;
    assert!(ask(&world, "GET").await.ends_with("ok"));
    assert_eq!(app.closed.load(Ordering::SeqCst), 0, "the connection is kept");

    let (listener, world) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), World::new().await);
    world.put(&awake("alice", listener.local_addr().unwrap())).await;
    let asking = tokio::spawn(async move { (ask(&world, "GET").await, world) });
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = vec![0; 4096];
    assert!(stream.read(&mut bytes).await.unwrap() > 0);
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    let (got, world) = asking.await.unwrap();
    assert!(got.ends_with("ok"), "{got}");
    // Later, while nobody asks.
    stream.write_all(POISON.as_bytes()).await.unwrap();
    assert!(!matches!(soon("the end", stream.read(&mut bytes)).await, Ok(1..)), "something was asked over it");
    let asking = tokio::spawn(async move { ask(&world, "GET").await });
    let (mut stream, _) = soon("a new connection", listener.accept()).await.unwrap();
    assert!(stream.read(&mut bytes).await.unwrap() > 0);
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfresh").await.unwrap();
    assert!(asking.await.unwrap().ends_with("fresh"));
}

#[tokio::test]
async fn an_answer_before_the_end_of_its_request_leaves_nothing_for_the_next() {
    let (world, app) = (World::new().await, Hostile::new(POISON.replace("poison", "200 OK"), Then::Stays).await);
    world.put(&awake("alice", app.address)).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: alice.test\r\nContent-Length: 60\r\n\r\nhalf";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 1024];
    let n = soon("an early answer", stream.read(&mut answer)).await.unwrap();
    assert!(answer[..n].starts_with(b"HTTP/1.1 200"));
    // Its connection is not for anybody else: the app would take what comes for the rest of the body.
    assert!(ask(&world, "GET").await.ends_with("fresh"));
    // The rest, and what might be taken for a request.
    let _ = stream
        .write_all(&[b"x".repeat(56), b"GET /smuggled HTTP/1.1\r\nHost: alice.test\r\n\r\n".to_vec()].concat())
        .await;
    assert!(ask(&world, "GET").await.ends_with("fresh"));
    drop(stream);
    until("the early app is let go", || app.closed.load(Ordering::SeqCst) > 0).await;
    let after = app.after_head.lock().unwrap().clone();
    assert!(
        after.len() <= 60 && !String::from_utf8_lossy(&after).contains("GET"),
        "{:?}",
        String::from_utf8_lossy(&after)
    );
}

#[tokio::test]
async fn chunks_that_cannot_be_read_break_the_answer_off() {
    for chunks in [
        "2\r\nokX\r\n0\r\n\r\n",
        "2\r\nok\r\nX\r\n\r\n",
        "0x2\r\nok\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nok",
        "2\nok\r\n0\r\n\r\n",
        "-2\r\nok\r\n",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{POISON}");
        let got = answered("GET", answer.as_bytes(), Then::Stays).await;
        assert!(!got.ends_with("0\r\n\r\n"), "{chunks:?} looks whole: {got}");
    }
    let got = answered("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", Then::Closes).await;
    assert!(got.contains("content-length: 10") && got.ends_with("half"), "{got}");
}

#[tokio::test]
async fn a_flood_of_interim_answers_is_passed_over_and_ends_with_its_visitor() {
    let flood = "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n".repeat(20_000);
    let world = World::new().await;
    let app = Hostile::new(format!("{flood}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Then::Stays).await;
    world.put(&awake("alice", app.address)).await;
    let got = ask(&world, "GET").await;
    assert!(got.starts_with("http/1.1 200 ") && got.ends_with("ok"), "{got}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World::new().await;
    world.put(&awake("alice", listener.local_addr().unwrap())).await;
    let endless = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        while stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_ok() {}
    });
    let mut visitor = TcpStream::connect(world.address).await.unwrap();
    visitor.write_all(b"GET / HTTP/1.1\r\nHost: alice.test\r\n\r\n").await.unwrap();
    until("the app is asked", || world.open("alice") == 1).await;
    drop(visitor);
    soon("the flood's end", endless).await.unwrap();
    world.until_closed("alice").await;
}
