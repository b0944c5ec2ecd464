//! The page that browsers see while an app wakes, and the stream that it follows. That a real browser makes of it what it
//! should is for the tests with real daemons.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use portreeve::model::{Phase, Power};
use portreeve::proxy::Limits;
use sha2::{Digest, Sha256};

use super::world::*;

const PROGRESS: &str = "/.well-known/portreeve/progress";
const HTML: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

fn as_browser(mut request: Request<Body>, mode: &str) -> Request<Body> {
    request.headers_mut().insert("accept", HTML.parse().unwrap());
    if !mode.is_empty() {
        request.headers_mut().insert("sec-fetch-mode", mode.parse().unwrap());
    }
    request
}

fn look(host: &str, path: &str) -> Request<Body> {
    as_browser(request("GET", host, path, ""), "navigate")
}

/// That pages come at once.
async fn impatient() -> World {
    World::with(Limits { page_after: Duration::from_millis(20), ..Default::default() }).await
}

#[tokio::test]
async fn a_browser_that_looks_at_a_sleeper_wakes_it_and_gets_a_page() {
    let (world, app) = (impatient().await, App::hello("alice").await);
    world.put(&asleep("alice", app.address)).await;
    for old in [false, true] {
        let looks = if old { as_browser(request("GET", "alice.test", "/x", ""), "") } else { look("alice.test", "/x") };
        let reply = world.connect().await.send(looks).await;
        assert_eq!(
            (reply.status, &reply.headers["retry-after"]),
            (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
        );
        assert_eq!(
            (&reply.headers["cache-control"], &reply.headers["content-type"]),
            (&"no-store".parse().unwrap(), &"text/html; charset=utf-8".parse().unwrap())
        );
        let html = reply.text();
        assert!(html.starts_with("<!doctype html>") && html.contains("This app is starting"), "{html}");
        assert!(!html.contains("alice"), "it names nobody: {html}");
        // Nothing but its own script and style may take effect, and they do.
        let policy = reply.headers["content-security-policy"].to_str().unwrap();
        for (element, directive) in [("script", "script-src"), ("style", "style-src")] {
            let (_, rest) = html.split_once(&format!("<{element}>")).unwrap();
            let (inner, _) = rest.split_once(&format!("</{element}>")).unwrap();
            let hash = STANDARD.encode(Sha256::digest(inner.as_bytes()));
            assert!(policy.contains(&format!("{directive} 'sha256-{hash}';")), "{element}: {policy}");
        }
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
    }
    assert!(world.waker.calls("alice") >= 1);
    world.until_closed("alice").await;
}

#[tokio::test]
async fn a_wake_that_is_soon_over_shows_no_page() {
    let limits = Limits { page_after: PATIENCE, ..Default::default() };
    let (world, app) = (World::with(limits).await, App::hello("alice").await);
    world.put(&asleep("alice", app.address)).await;
    world.waker.plan(awake("alice", app.address), Duration::from_millis(50));
    let reply = world.connect().await.send(look("alice.test", "/x")).await;
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, "alice GET /x"));
}

#[tokio::test]
async fn who_could_not_read_the_page_is_held() {
    let (world, app) = (impatient().await, App::hello("alice").await);
    world.put(&asleep("alice", app.address)).await;
    let mut upgrade = look("alice.test", "/upgrade");
    for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket")] {
        upgrade.headers_mut().insert(name, value.parse().unwrap());
    }
    let requests = [
        request("GET", "alice.test", "/program", ""),
        as_browser(request("POST", "alice.test", "/form", "a=b"), "navigate"),
        as_browser(request("GET", "alice.test", "/script", ""), "cors"),
        as_browser(request("GET", "alice.test", "/picture", ""), "no-cors"),
        upgrade,
    ];
    let count = requests.len();
    let mut held = vec![];
    for request in requests {
        let mut visitor = world.connect().await;
        held.push(tokio::spawn(async move { visitor.send(request).await }));
    }
    until("all are held", || world.open("alice") == count).await;
    // Longer than it takes until a page is shown.
    let page = world.connect().await.send(look("alice.test", "/")).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(held.iter().all(|request| !request.is_finished()));
    world.put(&awake("alice", app.address)).await;
    for request in held {
        assert_eq!(soon("an answer", request).await.unwrap().status, StatusCode::OK);
    }
}

/// The events of a stream, as `name: data`.
struct Events {
    body: Incoming,
    text: String,
    // The connection lives as long.
    _visitor: Visitor,
}

impl Events {
    async fn of(world: &World, host: &str, query: &str) -> Events {
        let mut visitor = world.connect().await;
        let response = visitor.start(request("GET", host, &format!("{PROGRESS}{query}"), "")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { body: response.into_body(), text: String::new(), _visitor: visitor }
    }

    /// The next one; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let told = event.replace("event: ", "").replace("\ndata: ", ": ");
                self.text = rest.to_owned();
                return Some(told);
            }
            let frame = soon("an event", self.body.frame()).await?.unwrap();
            self.text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
        }
    }
}

#[tokio::test]
async fn the_stream_tells_every_stage_until_the_app_is_up() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    world.put(&asleep("alice", app.address)).await;
    let mut events = Events::of(&world, "alice.test", "?path=%2Fdeep%2F").await;
    assert_eq!(events.next().await.unwrap(), "stage: Waking up");
    assert!(world.open("alice") == 1 && world.waker.calls("alice") >= 1, "who waits by a page wants it");
    for (phase, told) in [
        (Phase::Pending, "stage: Finding a place for it"),
        (Phase::Pulling, "stage: Fetching it"),
        (Phase::Starting, "stage: Starting"),
    ] {
        world.put(&with_phase(instance("alice", app.address), phase)).await;
        assert_eq!(events.next().await.unwrap(), told);
    }
    world.put(&awake("alice", app.address)).await;
    assert_eq!(events.next().await.unwrap(), "ready: ");
    assert_eq!(events.next().await, None);
    world.until_closed("alice").await;
    // Who asks late is told at once.
    let mut late = Events::of(&world, "alice.test", "").await;
    assert_eq!(late.next().await.unwrap(), "ready: ");
}

#[tokio::test]
async fn the_stream_ends_when_waiting_is_vain_and_when_nobody_reads_it() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    for (name, then) in [("failed", Phase::Failed), ("lost", Phase::Lost)] {
        world.put(&asleep(name, app.address)).await;
        let mut events = Events::of(&world, &format!("{name}.test"), "").await;
        assert_eq!(events.next().await.unwrap(), "stage: Waking up");
        world.put(&with_phase(instance(name, app.address), then)).await;
        assert_eq!(events.next().await.unwrap(), "stop: ");
        assert_eq!(events.next().await, None);
    }
    world.put(&asleep("alice", app.address)).await;
    let mut events = Events::of(&world, "alice.test", "").await;
    assert_eq!(events.next().await.unwrap(), "stage: Waking up");
    drop(events);
    world.until_closed("alice").await;

    let mut events = Events::of(&world, "alice.test", "").await;
    assert_eq!(events.next().await.unwrap(), "stage: Waking up");
    world.shutdown.cancel();
    assert_eq!(events.next().await, None, "this server goes down, and the browser asks the next one");
}

#[tokio::test]
async fn the_stream_is_refused_as_a_request_is() {
    let limits = Limits { held_per_instance: 1, ..Default::default() };
    let (world, app) = (World::with(limits).await, App::hello("alice").await);
    world.put(&asleep("alice", app.address)).await;
    let mut stopped = awake("stopped", app.address);
    stopped.spec.power = Power::Stopped;
    world.put(&stopped).await;
    world.put(&with_paths(asleep("partial", app.address), &[("/app", "web")])).await;
    let _first = Events::of(&world, "alice.test", "").await;
    let nobody = world.get("nobody.test", "/").await;
    for (host, query, status) in [
        ("nobody.test", "", 404),
        ("partial.test", "?path=/other", 404),
        ("stopped.test", "", 503),
        ("alice.test", "", 503),
    ] {
        let reply = world.get(host, &format!("{PROGRESS}{query}")).await;
        assert_eq!(reply.status, status, "{host}{query}");
        assert!(status != 404 || reply.body == nobody.body, "{host}: {}", reply.text());
    }
    drop(Events::of(&world, "partial.test", "?path=%2Fapp%2Fx").await);
    let post = world.connect().await.send(request("POST", "alice.test", PROGRESS, "")).await;
    assert_eq!(post.status, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(app.accepted(), 0, "no app has this path");
}
