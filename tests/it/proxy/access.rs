//! Who is let through a route: the order of things, the mode Token, limits, and what a visitor cannot forge.

use std::time::Duration;

use futures::SinkExt as _;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use portreeve::model::{Instance, Phase, Power, Route};
use serde_json::{Value, json};

use super::world::*;

const PROGRESS: &str = "/.well-known/portreeve/progress?path=%2F";
const DOOR: &str = "default/door/token";

pub fn with_auth(mut inst: Instance, auth: Value) -> Instance {
    let auth = serde_json::from_value(auth).unwrap();
    inst.spec.routes = vec![Route { auth, ..Route::default() }];
    inst
}

pub fn with(mut request: Request<Body>, fields: &[(&'static str, &str)]) -> Request<Body> {
    for (name, value) in fields {
        request.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
    }
    request
}

pub fn get(host: &str, fields: &[(&'static str, &str)]) -> Request<Body> {
    with(request("GET", host, "/x?y=1", ""), fields)
}

/// An app that answers with the headers that it got, a line each.
pub async fn mirror() -> App {
    App::new(|request: Request<Incoming>| async move {
        let line = |(name, value): (&http::HeaderName, &HeaderValue)| {
            format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()))
        };
        Response::new(full(request.headers().iter().map(line).collect::<String>()))
    })
    .await
}

fn token_auth() -> Value {
    json!({"mode": "Token", "token": {"secretKeyRef": {"name": "door", "key": "token"}, "cookie": "door"}})
}

const NAVIGATION: [(&str, &str); 2] = [("accept", "text/html"), ("sec-fetch-mode", "navigate")];

#[tokio::test]
async fn whoever_has_the_token_is_let_in_and_the_app_never_sees_it() {
    let (world, app) = (World::new().await, mirror().await);
    world.beyond.set_secret(DOOR, Ok("open-sesame\n"));
    world.put(&with_auth(awake("alice", app.address), token_auth())).await;
    let mut visitor = world.connect().await;
    for shown in [
        &[("authorization", "Bearer open-sesame")][..],
        &[("authorization", "bearer open-sesame"), ("cookie", "a=b; theme=dark")],
        &[("cookie", "a=b; door=open-sesame; theme=dark")],
        &[("cookie", "door=old"), ("cookie", "door=open-sesame; a=b; theme=dark")],
        &[("authorization", "Basic dTpw"), ("cookie", "door=open-sesame")],
        &[("authorization", "Bearer the-apps-own"), ("cookie", "door=open-sesame")],
    ] {
        let reply = visitor.send(get("alice.test", shown)).await;
        assert_eq!(reply.status, StatusCode::OK, "{shown:?}");
        let seen = reply.text();
        assert!(!seen.contains("sesame") && !seen.contains("door"), "{seen}");
        let asked = |text: &str| shown.iter().any(|(_, value)| value.contains(text));
        for kept in ["theme=dark", "a=b", "Basic dTpw", "Bearer the-apps-own"] {
            assert_eq!(seen.contains(kept), asked(kept), "{kept}: {seen}");
        }
    }
    for shown in [
        &[][..],
        &[("authorization", "Bearer open-sesam")],
        &[("authorization", "Bearer open-sesame2")],
        &[("authorization", "Bearer ")],
        &[("authorization", "Basic open-sesame")],
        &[("authorization", "open-sesame")],
        &[("cookie", "Door=open-sesame")],
        &[("cookie", "door=")],
        &[("x-token", "open-sesame")],
    ] {
        let reply = visitor.send(get("alice.test", shown)).await;
        assert_eq!(
            (reply.status, reply.headers["www-authenticate"].to_str().unwrap()),
            (StatusCode::UNAUTHORIZED, "Bearer"),
            "{shown:?}"
        );
        assert_eq!(reply.text(), "Please sign in. This address is not open to everybody.\n");
    }
}

#[tokio::test]
async fn a_secret_counts_as_it_is_now_and_without_one_nobody_is_let_in() {
    let (world, app) = (World::new().await, mirror().await);
    world.put(&with_auth(awake("alice", app.address), token_auth())).await;
    let status = async |token: &str| {
        let fields = [("authorization", format!("Bearer {token}"))];
        world.connect().await.send(get("alice.test", &[(fields[0].0, &fields[0].1)])).await.status.as_u16()
    };
    assert_eq!(status("one").await, 401, "there is no Secret");
    world.beyond.set_secret(DOOR, Ok("one"));
    assert_eq!((status("one").await, status("two").await), (200, 401));
    world.beyond.set_secret(DOOR, Ok("two"));
    assert_eq!((status("one").await, status("two").await), (401, 200));
    for empty in ["", "\n"] {
        world.beyond.set_secret(DOOR, Ok(empty));
        assert_eq!(status("").await, 401);
    }
    world.beyond.set_secret(DOOR, Err("sealed by a key that is gone"));
    assert_eq!(status("two").await, 503);
    world.beyond.remove_secret(DOOR);
    assert_eq!(status("two").await, 401);
    // A record that no admission has seen.
    world.put(&with_auth(awake("alice", app.address), json!({"mode": "Token"}))).await;
    assert_eq!(status("two").await, 401);
}

#[tokio::test]
async fn who_is_not_let_in_wakes_nothing_counts_for_nothing_and_learns_nothing() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    world.beyond.set_secret(DOOR, Ok("t"));
    let mut stopped = asleep("stopped", app.address);
    stopped.spec.power = Power::Stopped;
    let mut gone = awake("gone", app.address);
    gone.metadata.deletion_timestamp = Some(jiff::Timestamp::UNIX_EPOCH.into());
    let mut odd_paths = with_paths(awake("paths", app.address), &[("/only", "web")]);
    odd_paths.spec.routes[0].auth = serde_json::from_value(token_auth()).unwrap();
    let mut all: Vec<Instance> = [
        asleep("asleep", app.address),
        awake("awake", app.address),
        with_phase(asleep("failed", app.address), Phase::Failed),
        with_phase(asleep("lost", app.address), Phase::Lost),
        with_phase(asleep("pending", app.address), Phase::Pending),
        stopped,
        gone,
    ]
    .map(|inst| with_auth(inst, token_auth()))
    .into();
    all.push(odd_paths);
    let mut told = vec![];
    for inst in &all {
        world.put(inst).await;
        let name = &inst.metadata.name;
        let host = format!("{name}.test");
        let mut visitor = world.connect().await;
        for wrong in [&[][..], &[("authorization", "Bearer wrong")]] {
            for path in ["/", "/x", PROGRESS] {
                for method in ["GET", "POST", "OPTIONS"] {
                    if (method, path) != ("GET", PROGRESS) && path == PROGRESS {
                        continue;
                    }
                    for look in [&[][..], &NAVIGATION] {
                        let reply = visitor.send(with(with(request(method, &host, path, ""), wrong), look)).await;
                        let head: Vec<_> = reply.headers.iter().filter(|(n, _)| *n != "date").collect();
                        told.push((look.len(), reply.status, format!("{head:?}"), reply.body.clone()));
                    }
                }
            }
        }
        let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
        let refused = world.connect().await.send(get(&host, &upgrade)).await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED, "{name}");
        assert_eq!(world.waker.calls(name), 0, "{name}");
        assert_eq!(world.activity.idle(&key(name)), None, "{name}: it was never used");
    }
    told.sort_by_key(|(look, ..)| *look);
    told.dedup();
    assert_eq!(told.len(), 2, "one answer for programs, and one for browsers: {told:?}");
    assert!(told.iter().all(|(_, status, ..)| *status == StatusCode::UNAUTHORIZED));
    assert_eq!(app.accepted(), 0);
    // Nobody is told more about what is not there.
    assert_eq!(world.get("nobody.test", "/").await.status, StatusCode::NOT_FOUND);

    // And who is let in wakes it, follows its progress, and finds out how it is.
    let good = [("authorization", "Bearer t")];
    world.waker.plan(with_auth(awake("asleep", app.address), token_auth()), Duration::from_millis(20));
    let reply = world.connect().await.send(get("asleep.test", &good)).await;
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, "alice GET /x?y=1"));
    let reply = world.connect().await.send(with(request("GET", "awake.test", PROGRESS, ""), &good)).await;
    assert_eq!(reply.text(), "event: ready\ndata: \n\n");
    for (host, status) in [("stopped.test", 503), ("gone.test", 404), ("paths.test", 404), ("failed.test", 503)] {
        let reply = world.connect().await.send(get(host, &good)).await;
        assert_eq!(reply.status.as_u16(), status, "{host}");
    }
    assert_eq!(world.waker.calls("failed"), 1, "demand counts, of those who may");
}

#[tokio::test]
async fn a_browser_is_sent_to_sign_in_and_all_else_is_told_to() {
    let (world, app) = (World::new().await, mirror().await);
    let mut auth = token_auth();
    auth["loginURL"] = "https://login.test/in?back={url}".into();
    world.put(&with_auth(asleep("alice", app.address), auth)).await;
    let reply = world.connect().await.send(get("alice.test", &NAVIGATION)).await;
    assert_eq!((reply.status, reply.headers["cache-control"].to_str().unwrap()), (StatusCode::FOUND, "no-store"));
    assert_eq!(reply.headers["location"], "https://login.test/in?back=http%3A%2F%2Falice%2Etest%2Fx%3Fy%3D1");
    for fields in [
        &[][..],
        &[("accept", "text/html"), ("sec-fetch-mode", "cors")],
        &[("accept", "application/json")],
        &[("accept", "text/html"), ("connection", "upgrade"), ("upgrade", "websocket")],
    ] {
        let reply = world.connect().await.send(get("alice.test", fields)).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{fields:?}");
    }
    let post = with(request("POST", "alice.test", "/x", "a=b"), &NAVIGATION);
    assert_eq!(world.connect().await.send(post).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(world.waker.calls("alice"), 0);
}

#[tokio::test]
async fn nobody_can_say_who_they_are_whatever_the_mode() {
    let (world, app) = (World::new().await, mirror().await);
    world.beyond.set_secret(DOOR, Ok("t"));
    world.put(&awake("open", app.address)).await;
    world.put(&with_auth(awake("token", app.address), token_auth())).await;
    let forged = [
        ("authorization", "Bearer t"),
        ("x-forwarded-user", "mallory"),
        ("X-FORWARDED-USER", "mallory"),
        ("x_forwarded_user", "mallory"),
        ("x-forwarded_user", "mallory"),
        ("x-forwarded-email", "mallory"),
        ("x_forwarded_groups", "mallory"),
        ("connection", "x-forwarded-user"),
    ];
    for host in ["open.test", "token.test"] {
        let forged = forged.map(|(name, value)| (http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value));
        let mut request = get(host, &[]);
        for (name, value) in forged {
            request.headers_mut().append(name, HeaderValue::from_static(value));
        }
        let reply = world.connect().await.send(request).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert!(!reply.text().contains("mallory"), "{host}: {}", reply.text());
    }
}

#[tokio::test]
async fn nor_in_trailers() {
    let world = World::new().await;
    let app = App::new(|request: Request<Incoming>| async move {
        let trailers = request.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
        Response::new(full(trailers.keys().map(|name| format!("{name};")).collect::<String>()))
    })
    .await;
    world.put(&awake("alice", app.address)).await;
    let (mut sender, body) = streamed();
    let sending = async move {
        let names = ["x-sum", "x-forwarded-user", "x_forwarded_user"].map(http::HeaderName::from_static);
        let trailers = names.into_iter().map(|name| (name, HeaderValue::from_static("mallory"))).collect();
        sender.send(Ok(Frame::data("data".into()))).await.unwrap();
        sender.send(Ok(Frame::trailers(trailers))).await.unwrap();
    };
    let mut request = request("POST", "alice.test", "/", "").map(|_| body);
    request.headers_mut().insert("trailer", HeaderValue::from_static("x-sum, x-forwarded-user, x_forwarded_user"));
    let mut visitor = world.connect().await;
    let (reply, ()) = tokio::join!(visitor.send(request), sending);
    assert_eq!(reply.text(), "x-sum;");
}

#[tokio::test]
async fn of_several_hosts_each_has_its_own_rule_and_a_change_counts_from_the_next_request() {
    let (world, app) = (World::new().await, mirror().await);
    world.beyond.set_secret(DOOR, Ok("t"));
    let mut inst = awake("alice", app.address);
    let route = |host: &str, auth: Value| Route {
        host: host.into(),
        auth: serde_json::from_value(auth).unwrap(),
        ..Route::default()
    };
    inst.spec.routes = vec![route("", token_auth()), route("public.{domain}", json!({}))];
    world.put(&inst).await;
    let mut visitor = world.connect().await;
    assert_eq!(visitor.send(get("alice.test", &[])).await.status, 401);
    assert_eq!(visitor.send(get("ALICE.test.:80", &[])).await.status, 401);
    assert_eq!(visitor.send(get("public.test", &[])).await.status, 200);
    // The target's host counts, not the field.
    let absolute = with(request("GET", "public.test", "http://alice.test/", ""), &[]);
    assert_eq!(visitor.send(absolute).await.status, 401);
    inst.spec.routes[1].auth = serde_json::from_value(token_auth()).unwrap();
    inst.spec.routes[0].auth = Default::default();
    world.put(&inst).await;
    assert_eq!(visitor.send(get("alice.test", &[])).await.status, 200);
    assert_eq!(visitor.send(get("public.test", &[])).await.status, 401);
}

#[tokio::test]
async fn a_route_lets_through_as_much_as_its_rate_says_and_strangers_use_none_of_it_up() {
    let (world, app) = (World::new().await, mirror().await);
    world.beyond.set_secret(DOOR, Ok("t"));
    let mut inst = with_auth(awake("alice", app.address), token_auth());
    inst.spec.routes[0].limits = serde_json::from_value(json!({"requestsPerSecond": 1})).unwrap();
    world.put(&inst).await;
    let mut visitor = world.connect().await;
    for _ in 0..20 {
        assert_eq!(visitor.send(get("alice.test", &[])).await.status, StatusCode::UNAUTHORIZED);
    }
    // A slow machine earns a request a second; sooner or later two come within one.
    let mut until = async |status: StatusCode, other: StatusCode| loop {
        let reply = visitor.send(get("alice.test", &[("authorization", "Bearer t")])).await;
        if reply.status == status {
            return reply;
        }
        assert_eq!(reply.status, other);
    };
    let (ok, many) = (StatusCode::OK, StatusCode::TOO_MANY_REQUESTS);
    soon("the first", until(ok, ok)).await;
    let reply = soon("one too many", until(many, ok)).await;
    assert_eq!(reply.headers["retry-after"], "1");
    soon("the next second", until(ok, many)).await;
}

#[tokio::test]
async fn open_requests_are_counted_until_their_last_byte_and_come_back() {
    let (world, app) = (World::new().await, App::hello("alice").await);
    let mut inst = asleep("alice", app.address);
    inst.spec.routes =
        vec![Route { limits: serde_json::from_value(json!({"connections": 2})).unwrap(), ..Route::default() }];
    world.put(&inst).await;
    let (mut one, mut two) = (world.connect().await, world.connect().await);
    let world = &world;
    let (a, b, ()) = tokio::join!(one.send(get("alice.test", &[])), two.send(get("alice.test", &[])), async {
        until("two are held", || world.open("alice") == 2).await;
        let reply = world.get("alice.test", "/").await;
        assert_eq!((reply.status, reply.headers.contains_key("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, true));
        let progress = world.get("alice.test", PROGRESS).await;
        assert_eq!(progress.status, StatusCode::SERVICE_UNAVAILABLE);
        world.put(&with_phase(inst.clone(), Phase::Running)).await;
    });
    assert_eq!((a.status, b.status), (StatusCode::OK, StatusCode::OK));
    world.until_closed("alice").await;
    assert_eq!(world.get("alice.test", "/").await.status, StatusCode::OK);
}
