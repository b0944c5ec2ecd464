//! Requests that meet an app on its way down, or one that is not where it is said to be.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use portreeve::clock::{Clock, SharedClock, SystemClock};
use portreeve::model::Phase;
use portreeve::proxy::{Activity, Limits};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::world::*;

/// An address where nobody listens.
async fn nowhere() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_request_that_arrives_while_a_stop_is_in_flight_is_served_after_the_wake() {
    for method in ["GET", "POST"] {
        let (world, app) = (World::new().await, App::hello("alice").await);
        // Docker has stopped it; the cache does not know yet.
        world.put(&awake("alice", nowhere().await)).await;
        let mut visitor = world.connect().await;
        let answer = tokio::spawn(async move { visitor.send(request(method, "alice.test", "/", "body")).await });
        until("the request waits", || world.waker.calls("alice") > 0).await;
        world.put(&with_phase(instance("alice", app.address), Phase::Stopping)).await;
        world.put(&asleep("alice", app.address)).await;
        assert!(!answer.is_finished());
        world.put(&awake("alice", app.address)).await;
        assert_eq!(soon("the answer", answer).await.unwrap().text(), format!("alice {method} /"));
        world.until_closed("alice").await;
    }
}

/// A clock that lets something happen when it is next read.
struct Interrupting {
    clock: SharedClock,
    then: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Clock for Interrupting {
    fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }
    fn monotonic(&self) -> Duration {
        let then = self.then.lock().unwrap().take();
        if let Some(then) = then {
            then();
        }
        self.clock.monotonic()
    }
}

/// The stop's word becomes public just when the request is counted: one that had read the instance before that would go
/// to an app whose stop has been decided on without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_request_is_counted_before_it_is_read_whether_its_instance_may_be_used() {
    let clock = Arc::new(Interrupting { clock: SystemClock::new(), then: Mutex::default() });
    let world = Arc::new(World::with_activity(Limits::default(), Activity::new(clock.clone())).await);
    let app = App::hello("alice").await;
    world.put(&awake("alice", app.address)).await;
    let mut visitor = world.connect().await;
    let (told, runtime) = (world.clone(), tokio::runtime::Handle::current());
    let stopping = with_phase(instance("alice", app.address), Phase::Stopping);
    *clock.then.lock().unwrap() =
        Some(Box::new(move || tokio::task::block_in_place(|| runtime.block_on(told.put(&stopping)))));
    let answer = tokio::spawn(async move { visitor.send(request("GET", "alice.test", "/", "")).await });
    until("the request is held", || world.waker.calls("alice") > 0).await;
    assert_eq!(app.accepted(), 0, "it went to an app that is being stopped");
    world.put(&awake("alice", app.address)).await;
    assert_eq!(soon("the answer", answer).await.unwrap().text(), "alice GET /");
}

#[tokio::test]
async fn an_app_that_listens_a_moment_after_it_is_ready_is_waited_for() {
    let world = World::new().await;
    let address = nowhere().await;
    world.put(&awake("alice", address)).await;
    let mut visitor = world.connect().await;
    let answer = tokio::spawn(async move { visitor.send(request("POST", "alice.test", "/", "body")).await });
    until("the request waits", || world.waker.calls("alice") > 0).await;
    let app = App::on(TcpListener::bind(address).await.unwrap(), async |request: http::Request<_>| {
        let body = http_body_util::BodyExt::collect(request.into_body()).await;
        let body: http_body_util::Collected<bytes::Bytes> = body.unwrap_or_else(|e: hyper::Error| panic!("{e}"));
        http::Response::new(full(body.to_bytes()))
    });
    assert_eq!(soon("the answer", answer).await.unwrap().text(), "body", "the body is still there to be sent");
    assert_eq!(app.accepted(), 1);
}

#[tokio::test]
async fn a_pull_that_took_longer_than_all_else_may_leaves_the_app_its_moment() {
    let hold = Duration::from_secs(3);
    let world = World::with(Limits { hold, ..Default::default() }).await;
    let address = nowhere().await;
    world.put(&with_phase(instance("alice", address), Phase::Pulling)).await;
    let mut visitor = world.connect().await;
    let answer = tokio::spawn(async move { visitor.send(request("GET", "alice.test", "/", "")).await });
    until("the request is held", || world.open("alice") == 1).await;
    // Longer than a request is held for anything else; and a moment until it listens.
    tokio::time::sleep(hold + Duration::from_millis(500)).await;
    world.put(&awake("alice", address)).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let _app = App::on(TcpListener::bind(address).await.unwrap(), async |_| http::Response::new(full("up")));
    assert_eq!(soon("the answer", answer).await.unwrap().text(), "up");
}

#[tokio::test]
async fn an_app_that_never_listens_is_given_up_in_time() {
    let limits = Limits { retry: Duration::from_millis(100), ..Default::default() };
    let world = World::with(limits).await;
    world.put(&awake("alice", nowhere().await)).await;
    assert_eq!(world.get("alice.test", "/").await.status, StatusCode::BAD_GATEWAY);
    world.until_closed("alice").await;
}

#[tokio::test]
async fn kept_connections_that_died_with_the_container_cost_no_request() {
    let (world, mut old, new) = (World::new().await, App::hello("old").await, App::hello("new").await);
    world.put(&awake("alice", old.address)).await;
    let mut visitor = world.connect().await;
    assert_eq!(visitor.send(request("GET", "alice.test", "/", "")).await.text(), "old GET /");
    old.kill().await;
    let answer = tokio::spawn(async move { visitor.send(request("POST", "alice.test", "/", "body")).await });
    until("the request waits", || world.waker.calls("alice") > 0).await;
    world.put(&awake("alice", new.address)).await;
    assert_eq!(soon("the answer", answer).await.unwrap().text(), "new POST /");
}

/// Accepts, reads something and closes, as a port forwarder does whose container is gone.
async fn slams_the_door() -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    (address, task)
}

#[tokio::test]
async fn a_get_that_broke_off_before_its_answer_is_sent_again_but_a_post_is_not() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    let (door, task) = slams_the_door().await;
    world.put(&awake("alice", door)).await;
    assert_eq!(
        world.connect().await.send(request("POST", "alice.test", "/", "body")).await.status,
        StatusCode::BAD_GATEWAY,
        "the app may have acted on it"
    );
    let mut visitor = world.connect().await;
    let answer = tokio::spawn(async move { visitor.send(request("GET", "alice.test", "/", "")).await });
    until("the request waits", || world.waker.calls("alice") > 0).await;
    world.put(&asleep("alice", app.address)).await;
    world.put(&awake("alice", app.address)).await;
    assert_eq!(soon("the answer", answer).await.unwrap().text(), "alice GET /");
    world.until_closed("alice").await;
    task.abort();
}

#[tokio::test]
async fn a_request_never_follows_a_name_to_another_tenant() {
    let (world, app) = (World::new().await, App::hello("successor").await);
    world.put(&awake("alice", nowhere().await)).await;
    let mut visitor = world.connect().await;
    let answer = tokio::spawn(async move { visitor.send(request("GET", "alice.test", "/", "")).await.status });
    until("the request waits", || world.waker.calls("alice") > 0).await;
    let mut successor = awake("alice", app.address);
    successor.metadata.uid = "another".into();
    world.put(&successor).await;
    assert_eq!(soon("the refusal", answer).await.unwrap(), StatusCode::NOT_FOUND);
    assert_eq!(app.accepted(), 0);
}

/// A port that answers no connection attempt: its queue is full and nobody accepts.
fn black_hole() -> (std::net::SocketAddr, Vec<socket2::Socket>) {
    let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let listener = new();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut sockets = vec![listener];
    for _ in 0..4 {
        let filler = new();
        filler.set_nonblocking(true).unwrap();
        let _ = filler.connect(&address);
        sockets.push(filler);
    }
    (address.as_socket().unwrap(), sockets)
}

#[tokio::test]
async fn a_black_hole_is_given_up_in_time() {
    let limits = Limits { connect: Duration::from_millis(50), retry: Duration::from_millis(100), ..Default::default() };
    let world = World::with(limits).await;
    let (address, _sockets) = black_hole();
    world.put(&awake("alice", address)).await;
    let reply = soon("the answer", world.get("alice.test", "/")).await;
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT);
    assert!(reply.headers.contains_key("retry-after"));
    world.until_closed("alice").await;
}

/// Answers the first request of the first connection and breaks off at its second; serves other connections well.
async fn forgetful() -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        for answers in [1, 100, 100] {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                for _ in 0..answers {
                    let Ok(1..) = stream.read(&mut [0; 1024]).await else { return };
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                }
                // Only once the next request is here: the proxy cannot know beforehand.
                let _ = stream.read(&mut [0; 1024]).await;
            });
        }
    });
    (address, task)
}

#[tokio::test]
async fn a_get_on_a_kept_connection_that_turns_out_closed_is_sent_on_a_new_one() {
    // No patience: this is not an app that refuses.
    let limits = Limits { retry: Duration::ZERO, ..Default::default() };
    let world = World::with(limits).await;
    let (address, task) = forgetful().await;
    world.put(&awake("alice", address)).await;
    let mut visitor = world.connect().await;
    for i in 0..3 {
        let reply = visitor.send(request("GET", "alice.test", "/", "")).await;
        assert_eq!(reply.status, StatusCode::OK, "request {i}");
        world.until_closed("alice").await;
    }
    task.abort();
}
