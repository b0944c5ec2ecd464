//! Requests that reach an app, and what arrives on both sides.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt as _;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use portreeve::clock::SystemClock;
use portreeve::proxy::{Activity, Front, Limits, Trusted};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::world::*;

/// Answers with the request's headers, one a line.
async fn show_headers(request: Request<Incoming>) -> Response<Body> {
    let mut lines: Vec<_> = request.headers().iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
    lines.sort();
    Response::new(full(format!("{}\n{}", request.uri(), lines.join("\n"))))
}

#[tokio::test]
async fn hosts_and_paths_lead_to_their_ports() {
    let (world, web, api) = (World::new().await, App::hello("web").await, App::hello("api").await);
    let mut alice = with_paths(awake("alice", web.address), &[("/", "web"), ("/api", "api")]);
    alice.status.ports[1].host_port = api.address.port();
    world.put(&alice).await;
    let bob = App::hello("bob").await;
    world.put(&awake("bob", bob.address)).await;
    for (host, path, answer) in [
        ("alice.test", "/", "web GET /"),
        ("ALICE.test:8080", "/apiary", "web GET /apiary"),
        ("alice.test.", "/api/x?q", "api GET /api/x?q"),
        ("bob.test", "/api", "bob GET /api"),
    ] {
        assert_eq!(world.get(host, path).await.text(), answer);
    }
    assert_eq!(world.waker.calls("alice"), 0, "nobody wakes who is awake");
}

#[tokio::test]
async fn unknown_hosts_get_a_page_that_tells_nothing() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    world.put(&with_paths(awake("alice", app.address), &[("/only", "web")])).await;
    let unknown = world.get("nobody.test", "/").await;
    let no_path = world.get("alice.test", "/").await;
    for reply in [&unknown, &no_path] {
        assert_eq!(reply.status, StatusCode::NOT_FOUND);
        assert!(!reply.text().contains("alice") && !reply.text().contains("test"));
    }
    assert_eq!(unknown.body, no_path.body);
    assert_eq!(world.get("alice.test", "/only").await.status, StatusCode::OK);
}

/// Sends bytes as they are and returns all that comes back.
async fn raw(world: &World, bytes: &str) -> String {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = vec![];
    soon("the end of the answer", stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn ambiguous_requests_are_refused_before_any_app_sees_them() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    world.put(&awake("alice", app.address)).await;
    for (head, status) in [
        ("GET / HTTP/1.1\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: alice.test\r\nHost: alice.test\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: alice.test/x\r\n", "400"),
        ("GET http://alice.test/ HTTP/1.1\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: alice.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n", "400"),
        ("POST / HTTP/1.1\r\nHost: alice.test\r\nTransfer-Encoding: gzip, chunked\r\n", "501"),
        ("CONNECT alice.test:80 HTTP/1.1\r\nHost: alice.test\r\n", "501"),
    ] {
        let answer = raw(&world, &format!("{head}Connection: close\r\n\r\n0\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head:?} gave {answer:?}");
    }
    assert_eq!(app.accepted(), 0);
    let absolute = "GET http://alice.test/x HTTP/1.1\r\nHost: bob.test\r\nConnection: close\r\n\r\n";
    assert!(raw(&world, absolute).await.ends_with("alice GET /x"), "an absolute target names the host");
}

#[tokio::test]
async fn a_chunked_request_with_a_length_reaches_the_app_as_one_request() {
    let (world, app) = (World::new().await, App::new(show_headers).await);
    world.put(&awake("alice", app.address)).await;
    let both = "POST / HTTP/1.1\r\nHost: alice.test\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\
                Connection: close\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: alice.test\r\n\r\n";
    let answer = raw(&world, both).await;
    assert!(!answer.contains("smuggled") && !answer.contains("content-length: 60"), "{answer}");
}

#[tokio::test]
async fn the_app_sees_the_host_as_sent_and_our_word_about_the_visitor() {
    let (world, app) = (World::new().await, App::new(show_headers).await);
    world.put(&awake("alice", app.address)).await;
    let mut request = request("GET", "Alice.test:99", "/p?q", "");
    for (name, value) in [
        ("x-forwarded-for", "10.9.9.9"),
        ("x-real-ip", "10.9.9.9"),
        ("forwarded", "for=10.9.9.9"),
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "secret"),
        ("authorization", "for the app"),
        ("cookie", "a=1"),
    ] {
        request.headers_mut().append(name, HeaderValue::from_static(value));
    }
    let reply = world.connect().await.send(request).await;
    assert_eq!(
        reply.text().lines().collect::<Vec<_>>(),
        [
            "/p?q",
            "authorization: for the app",
            "cookie: a=1",
            "host: Alice.test:99",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: Alice.test:99",
            "x-forwarded-proto: http",
        ]
    );
}

#[tokio::test]
async fn of_a_proxy_that_is_trusted_the_app_learns_who_its_visitor_is() {
    let activity = Activity::new(SystemClock::new());
    let front = Front { trusted: Trusted::new(vec!["127.0.0.0/8".parse().unwrap()]), ..Front::default() };
    let (world, app) = (World::behind(front, Limits::default(), activity).await, App::new(show_headers).await);
    world.put(&awake("alice", app.address)).await;
    let mut request = request("GET", "alice.test", "/", "");
    for (name, value) in [
        ("x-forwarded-for", "10.6.6.6, 203.0.113.5"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "alice.example:8443"),
        ("x-forwarded-port", "8443"),
        ("x_forwarded_for", "10.6.6.6"),
        ("x-real-ip", "10.6.6.6"),
        ("forwarded", "for=10.6.6.6"),
        ("connection", "close, x-forwarded-proto"),
    ] {
        request.headers_mut().append(name, HeaderValue::from_static(value));
    }
    let reply = world.connect().await.send(request).await;
    assert_eq!(
        reply.text().lines().collect::<Vec<_>>(),
        [
            "/",
            "host: alice.test",
            "x-forwarded-for: 203.0.113.5, 127.0.0.1",
            "x-forwarded-host: alice.example:8443",
            "x-forwarded-port: 8443",
            "x-forwarded-proto: https",
        ]
    );
}

#[tokio::test]
async fn the_visitor_sees_the_apps_headers_but_none_of_its_connection() {
    let world = World::new().await;
    let app = App::new(async |_| {
        let mut response = Response::new(full("made"));
        *response.status_mut() = StatusCode::CREATED;
        for (name, value) in [
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
        ] {
            response.headers_mut().append(name, HeaderValue::from_static(value));
        }
        response
    })
    .await;
    world.put(&awake("alice", app.address)).await;
    let reply = world.get("alice.test", "/").await;
    assert_eq!(reply.status, StatusCode::CREATED);
    assert_eq!(reply.headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a", "b"]);
    for gone in ["connection", "x-hop", "keep-alive"] {
        assert!(!reply.headers.contains_key(gone), "{gone}");
    }
}

#[tokio::test]
async fn trailers_pass() {
    let world = World::new().await;
    let app = App::new(async |request: Request<Incoming>| {
        assert_eq!(request.headers()["te"], "trailers");
        let (mut sender, body) = streamed();
        tokio::spawn(async move {
            sender.send(Ok(Frame::data("data".into()))).await.unwrap();
            let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("9"))]);
            sender.send(Ok(Frame::trailers(trailers))).await.unwrap();
        });
        let mut response = Response::new(body);
        response.headers_mut().insert("trailer", HeaderValue::from_static("x-sum"));
        response
    })
    .await;
    world.put(&awake("alice", app.address)).await;
    let mut request = request("GET", "alice.test", "/", "");
    request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    let reply = world.connect().await.send(request).await;
    assert_eq!((reply.text(), &reply.trailers["x-sum"]), ("data", &HeaderValue::from_static("9")));
}

#[tokio::test]
async fn events_arrive_while_the_response_goes_on() {
    let world = World::new().await;
    let (sender, body) = streamed();
    let body = Arc::new(std::sync::Mutex::new(Some(body)));
    let app = App::new(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async move { Response::new(body) }
    })
    .await;
    world.put(&awake("alice", app.address)).await;
    let mut sender = sender;
    let mut visitor = world.connect().await;
    let response = visitor.start(request("GET", "alice.test", "/", "")).await.unwrap();
    let mut body = response.into_body();
    for event in ["one", "two", "three"] {
        sender.send(Ok(Frame::data(event.into()))).await.unwrap();
        let frame = soon("the event", body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
        assert_eq!(world.open("alice"), 1, "an unfinished response keeps its instance in use");
    }
    drop(sender);
    assert!(soon("the end", body.frame()).await.is_none());
    world.until_closed("alice").await;
}

const MIB: usize = 1 << 20;
const CHUNK: Bytes = Bytes::from_static(&[7; 64 * 1024]);

/// Waits until a counter has not moved for a while, and returns it.
async fn plateau(counter: &AtomicUsize) -> usize {
    let mut last = counter.load(Ordering::SeqCst);
    let mut quiet = 0;
    while quiet < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = counter.load(Ordering::SeqCst);
        quiet = if now == last && now > 0 { quiet + 1 } else { 0 };
        last = now;
    }
    last
}

/// A body of `total` bytes that counts what has been taken from it.
fn counted(total: usize, taken: Arc<AtomicUsize>) -> Body {
    let (mut sender, body) = streamed();
    tokio::spawn(async move {
        for _ in 0..total / CHUNK.len() {
            if sender.send(Ok(Frame::data(CHUNK))).await.is_err() {
                return;
            }
            taken.fetch_add(CHUNK.len(), Ordering::SeqCst);
        }
    });
    body
}

#[tokio::test]
async fn a_large_download_waits_for_its_reader_and_is_not_kept() {
    let world = World::new().await;
    let sent = Arc::new(AtomicUsize::new(0));
    let app = App::new({
        let sent = sent.clone();
        move |_| {
            let body = counted(64 * MIB, sent.clone());
            async move { Response::new(body) }
        }
    })
    .await;
    world.put(&awake("alice", app.address)).await;
    let mut visitor = world.connect().await;
    let response = visitor.start(request("GET", "alice.test", "/", "")).await.unwrap();
    let stuck = soon("the app to be slowed down", plateau(&sent)).await;
    assert!(stuck < 40 * MIB, "{stuck} bytes are on their way to nobody: sockets alone hold less");
    let got = soon("the rest", response.into_body().collect()).await.unwrap().to_bytes().len();
    assert_eq!(got, 64 * MIB);
}

#[tokio::test]
async fn a_large_upload_waits_for_its_reader_and_is_not_kept() {
    let world = World::new().await;
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let app = App::new({
        let go = go.clone();
        move |request: Request<Incoming>| {
            let go = go.clone();
            async move {
                let _go = go.acquire().await.unwrap();
                let length = request.into_body().collect().await.unwrap().to_bytes().len();
                Response::new(full(length.to_string()))
            }
        }
    })
    .await;
    world.put(&awake("alice", app.address)).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let mut upload = request("POST", "alice.test", "/", "");
    *upload.body_mut() = counted(64 * MIB, sent.clone());
    let mut visitor = world.connect().await;
    let reply = tokio::spawn(async move { visitor.send(upload).await });
    let stuck = soon("the visitor to be slowed down", plateau(&sent)).await;
    assert!(stuck < 40 * MIB, "{stuck} bytes are on their way to nobody: sockets alone hold less");
    go.add_permits(1);
    assert_eq!(soon("the answer", reply).await.unwrap().text(), (64 * MIB).to_string());
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    world.put(&awake("alice", app.address)).await;
    let mut visitor = world.connect().await;
    for i in 0..5 {
        let reply = visitor.send(request("GET", "alice.test", &format!("/{i}"), "")).await;
        assert_eq!(reply.text(), format!("alice GET /{i}"));
        world.until_closed("alice").await;
    }
    assert!(app.accepted() <= 2, "five requests in a row opened {} connections", app.accepted());
}

#[tokio::test]
async fn a_kept_connection_is_never_used_for_another_start_of_a_container() {
    let (world, app) = (World::new().await, App::hello("port 30001").await);
    let mut visitor = world.connect().await;
    let mut alice = awake("alice", app.address);
    let mut before = 0;
    for (container, started) in [("c1", 1), ("c1", 2), ("c2", 2)] {
        alice.status.container_id = container.into();
        alice.status.started_at = Some(jiff::Timestamp::from_second(started).unwrap().into());
        world.put(&alice).await;
        assert_eq!(visitor.send(request("GET", "alice.test", "/", "")).await.status, StatusCode::OK);
        assert_eq!(app.accepted(), before + 1, "{container} started at {started}");
        before += 1;
        until("the connection of the container before is closed", || app.open() == 1).await;
    }
    // The same address, given to another tenant.
    let bob = awake("bob", app.address);
    world.put(&bob).await;
    assert_eq!(visitor.send(request("GET", "bob.test", "/", "")).await.status, StatusCode::OK);
    assert_eq!(app.accepted(), before + 1);
}
