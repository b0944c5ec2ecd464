//! Requests for instances that are not up.

use std::time::Duration;

use http::StatusCode;
use portreeve::model::{IgnoredRequest, Phase, Power, UNREACHABLE};
use portreeve::proxy::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::world::*;

#[tokio::test]
async fn a_request_to_a_sleeper_is_held_until_it_is_ready() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    world.put(&asleep("alice", app.address)).await;
    world.waker.plan(awake("alice", app.address), Duration::from_millis(100));
    let reply = world.get("alice.test", "/x?y=1").await;
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, "alice GET /x?y=1"));
    assert_eq!(world.waker.calls("alice"), 1);
    world.until_closed("alice").await;
    assert!(world.activity.idle(&key("alice")).is_some_and(|idle| idle < PATIENCE));
}

#[tokio::test]
async fn every_phase_on_the_way_up_is_waited_through() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    world.put(&asleep("alice", app.address)).await;
    let mut visitor = world.connect().await;
    let request = tokio::spawn(async move { visitor.send(request("POST", "alice.test", "/", "body")).await });
    until("the request is held", || world.open("alice") == 1).await;
    for phase in [Phase::Stopping, Phase::Stopped, Phase::Pending, Phase::Pulling, Phase::Starting, Phase::Upgrading] {
        world.put(&with_phase(instance("alice", app.address), phase)).await;
        assert!(!request.is_finished(), "{phase:?}");
    }
    world.put(&awake("alice", app.address)).await;
    assert_eq!(soon("the answer", request).await.unwrap().text(), "alice POST /");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_to_a_sleeper_wake_it_once_and_are_all_answered() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    world.put(&asleep("alice", app.address)).await;
    let mut visitors = vec![];
    for _ in 0..1000 {
        visitors.push(world.connect().await);
    }
    let requests: Vec<_> = visitors
        .into_iter()
        .map(|mut visitor| {
            tokio::spawn(async move { visitor.send(request("GET", "alice.test", "/", "")).await.status })
        })
        .collect();
    until("all are held", || world.open("alice") == 1000).await;
    let calls = world.waker.calls("alice");
    assert!(calls <= 20, "one call to begin with and one a second while waiting, not {calls}");
    world.put(&awake("alice", app.address)).await;
    for request in requests {
        assert_eq!(soon("an answer", request).await.unwrap(), StatusCode::OK);
    }
    world.until_closed("alice").await;
    let accepted = app.accepted();
    assert!(accepted < 1000, "the first to be answered hand their connections on; {accepted} were opened");
}

#[tokio::test]
async fn waiting_is_bounded_in_time_and_says_when_to_come_back() {
    let limits = Limits { hold: Duration::from_millis(50), ..Default::default() };
    let (world, app) = (World::with(limits).await, App::hello("alice").await);
    world.put(&asleep("alice", app.address)).await;
    let reply = world.get("alice.test", "/").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.headers.contains_key("retry-after"));
    world.until_closed("alice").await;
}

#[tokio::test]
async fn waiting_requests_are_bounded_in_number() {
    let limits = Limits { held_per_instance: 2, held_in_all: 3, ..Default::default() };
    let (world, app) = (World::with(limits).await, App::hello("app").await);
    for name in ["alice", "bob"] {
        world.put(&asleep(name, app.address)).await;
    }
    let mut held = vec![];
    for host in ["alice.test", "alice.test", "bob.test"] {
        let mut visitor = world.connect().await;
        held.push(tokio::spawn(async move { visitor.send(request("GET", host, "/", "")).await.status }));
    }
    until("three are held", || world.open("alice") == 2 && world.open("bob") == 1).await;
    for host in ["alice.test", "bob.test"] {
        let reply = world.get(host, "/").await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{host}");
        assert!(reply.headers.contains_key("retry-after"));
    }
    for name in ["alice", "bob"] {
        world.put(&awake(name, app.address)).await;
    }
    for request in held {
        assert_eq!(soon("an answer", request).await.unwrap(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_visitor_who_leaves_does_not_cancel_the_wake() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    world.put(&asleep("alice", app.address)).await;
    let mut visitor = world.connect().await;
    let request = tokio::spawn(async move { visitor.send(request("GET", "alice.test", "/", "")).await });
    until("the request is held", || world.open("alice") == 1).await;
    request.abort();
    world.until_closed("alice").await;
    assert_eq!(world.waker.calls("alice"), 1);
    let idle = world.activity.idle(&key("alice")).expect("it was used");
    assert!(idle < PATIENCE, "fresh activity is what the controllers go by, not {idle:?}");
}

#[tokio::test]
async fn what_cannot_become_ready_is_refused_at_once() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    let mut stopped = awake("stopped", app.address);
    stopped.spec.power = Power::Stopped;
    let mut deleted = awake("deleted", app.address);
    deleted.metadata.deletion_timestamp = Some(jiff::Timestamp::UNIX_EPOCH.into());
    let failed = with_phase(instance("failed", app.address), Phase::Failed);
    let lost = with_phase(instance("lost", app.address), Phase::Lost);
    // It sleeps on, and its host is away: holding its visitors would hold them in vain.
    let mut beyond = asleep("beyond", app.address);
    beyond.status.conditions[0].reason = "HostUnreachable".into();
    // It waits for a host by itself, as it is Pending: that is its demand.
    let mut unplaced = with_phase(instance("unplaced", app.address), Phase::Pending);
    unplaced.status.conditions[0].reason = "Unschedulable".into();
    // The controller decides when to try a broken one again; it has to know that someone wants it.
    for (inst, status, wanted) in [
        (stopped, 503, false),
        (failed, 503, true),
        (lost, 503, true),
        (beyond, 503, true),
        (unplaced, 503, false),
        (deleted, 404, false),
    ] {
        world.put(&inst).await;
        let name = &inst.metadata.name;
        for _ in 0..2 {
            let reply = world.get(&format!("{name}.test"), "/").await;
            assert_eq!(reply.status, status, "{name}");
            assert_eq!(reply.headers.contains_key("retry-after"), status == 503, "{name}");
        }
        assert_eq!(world.waker.calls(name), usize::from(wanted), "{name}: at most one call a second");
        assert_eq!(world.activity.idle(&key(name)).is_some(), wanted, "{name}");
        assert_eq!(world.open(name), 0, "{name}");
    }
    assert_eq!(app.accepted(), 0);
}

#[tokio::test]
async fn a_poller_neither_wakes_an_app_nor_keeps_it_awake() {
    let (world, mut app) = (World::new().await, App::hello("alice").await);
    let ignore = vec![IgnoredRequest { user_agent: "UptimeRobot".into(), ..Default::default() }];
    let mut sleeper = asleep("alice", app.address);
    sleeper.spec.idle.ignore = ignore.clone();
    world.put(&sleeper).await;
    let poll = async || {
        let mut poll = request("GET", "alice.test", "/", "");
        poll.headers_mut().insert("user-agent", "UptimeRobot/2.0".parse().unwrap());
        world.connect().await.send(poll).await
    };
    let reply = poll().await;
    assert_eq!(
        (reply.status, &reply.headers["retry-after"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"60".parse().unwrap())
    );
    let mut up = awake("alice", app.address);
    up.spec.idle.ignore = ignore;
    world.put(&up).await;
    assert_eq!(poll().await.text(), "alice GET /");
    // Nor by what a page of its would follow.
    let mut follow = request("GET", "alice.test", "/.well-known/portreeve/progress?path=/", "");
    follow.headers_mut().insert("user-agent", "UptimeRobot/2.0".parse().unwrap());
    assert_eq!(world.connect().await.send(follow).await.status, StatusCode::SERVICE_UNAVAILABLE);
    // Not even by trying again.
    app.kill().await;
    assert_eq!(poll().await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((world.waker.calls("alice"), world.activity.idle(&key("alice"))), (0, None));
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_takes_nobody_from_the_app_that_goes_on() {
    let (world, mut app) = (World::new().await, App::hello("alice").await);
    let mut lost = with_phase(instance("alice", app.address), Phase::Lost);
    lost.status.conditions[0].reason = "HostUnreachable".into();
    lost.status.started_at = Some(jiff::Timestamp::UNIX_EPOCH.into());
    lost.status.node = "h1".into();
    world.put(&lost).await;
    // Only of a host that is just silent: another daemon may answer for another machine.
    for reason in ["DaemonChanged", "CredentialsInvalid"] {
        world.put_host("h1", reason).await;
        assert_eq!(world.get("alice.test", "/").await.status, StatusCode::SERVICE_UNAVAILABLE, "{reason}");
    }
    world.put_host("h1", UNREACHABLE).await;
    // Nor where its port is another's by now, on a host with the same address.
    let mut other = asleep("other", app.address);
    other.status.node = "h2".into();
    world.put(&other).await;
    assert_eq!(world.get("alice.test", "/").await.status, StatusCode::SERVICE_UNAVAILABLE, "it might be the other's");
    other.status.ports.clear();
    world.put(&other).await;
    assert_eq!(app.accepted(), 0);
    for method in ["GET", "POST"] {
        let reply = world.connect().await.send(request(method, "alice.test", "/a", "")).await;
        assert_eq!((reply.status, reply.text()), (StatusCode::OK, &*format!("alice {method} /a")));
    }
    assert!(world.waker.calls("alice") >= 1, "the controller is told that it is wanted");
    // When it is really gone, that is said at once.
    app.kill().await;
    for method in ["GET", "POST"] {
        let reply = world.connect().await.send(request(method, "alice.test", "/a", "")).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(reply.headers.contains_key("retry-after"));
    }
    world.until_closed("alice").await;
}

#[tokio::test]
async fn a_kept_connection_into_the_void_is_not_used_for_what_is_on_a_lost_host() {
    let world = World::new().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Answers once, keeps the connection, and is never heard of again; nor does anybody listen.
    let app = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        drop(listener);
        let mut seen = vec![0; 4096];
        assert!(stream.read(&mut seen).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        stream
    });
    let mut alice = awake("alice", address);
    alice.status.started_at = Some(jiff::Timestamp::UNIX_EPOCH.into());
    alice.status.node = "h1".into();
    world.put_host("h1", UNREACHABLE).await;
    world.put(&alice).await;
    assert_eq!(world.get("alice.test", "/").await.text(), "ok");
    let _kept = app.await.unwrap();
    alice.status.conditions[0].reason = "HostUnreachable".into();
    world.put(&with_phase(alice, Phase::Lost)).await;
    assert_eq!(world.get("alice.test", "/").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_held_request_is_told_when_waiting_becomes_vain() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    let mut stopped = asleep("alice", app.address);
    stopped.spec.power = Power::Stopped;
    let mut other = awake("alice", app.address);
    other.metadata.uid = "of another tenant".into();
    for (change, status) in [
        (stopped, StatusCode::SERVICE_UNAVAILABLE),
        (with_phase(instance("alice", app.address), Phase::Failed), StatusCode::SERVICE_UNAVAILABLE),
        (other, StatusCode::NOT_FOUND),
    ] {
        world.put(&asleep("alice", app.address)).await;
        let mut visitor = world.connect().await;
        let request = tokio::spawn(async move { visitor.send(request("GET", "alice.test", "/", "")).await.status });
        until("the request is held", || world.open("alice") == 1).await;
        world.put(&change).await;
        assert_eq!(soon("the refusal", request).await.unwrap(), status);
    }
    assert_eq!(app.accepted(), 0);
}

#[tokio::test]
async fn the_body_of_a_held_request_is_not_asked_for_before_the_wake() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    world.put(&asleep("alice", app.address)).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: alice.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    until("the request is held", || world.open("alice") == 1).await;
    let asked = tokio::time::timeout(Duration::from_millis(50), stream.readable()).await;
    assert!(asked.is_err(), "the visitor was told to go on while its app sleeps");
    world.put(&awake("alice", app.address)).await;
    let mut go_on = [0; 25];
    soon("the word to go on", stream.read_exact(&mut go_on)).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.unwrap();
    let mut answer = [0; 12];
    soon("the answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}
