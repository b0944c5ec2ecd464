//! The mode ForwardAuth: what a service is asked, and what becomes of its answers.

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use portreeve::proxy::{Activity, Front, Limits, Trusted};
use serde_json::{Value, json};

use super::access::{get, mirror, with, with_auth};
use super::world::*;

const SERVICE: &str = "https://auth.test/check?x=1";

fn forward_auth() -> Value {
    json!({"mode": "ForwardAuth", "forwardAuth": {"url": SERVICE, "responseHeaders": ["X-Forwarded-User", "X-Roles", "Authorization"]}})
}

fn answer(status: u16, fields: &[(&str, &str)], body: &str) -> Response<Bytes> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(body.to_owned().into()).unwrap()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn the_service_sees_the_request_and_what_it_says_reaches_the_app() {
    let front = Front { trusted: Trusted::new(vec!["127.0.0.0/8".parse().unwrap()]), ..Front::default() };
    let activity = Activity::new(portreeve::clock::SystemClock::new());
    let world = World::behind(front, Limits::default(), activity).await;
    let app = mirror().await;
    world.put(&with_auth(awake("alice", app.address), forward_auth())).await;
    world.beyond.serve(SERVICE, |_| {
        let said = [("x-forwarded-user", "alice"), ("x-roles", "a"), ("x-roles", "b"), ("x-other", "not named")];
        Ok(answer(204, &said, ""))
    });
    let request = with(
        request("PUT", "alice.test:81", "/a%20b?c=d", "body"),
        &[
            ("cookie", "s=1"),
            ("cookie", "t=2"),
            ("authorization", "Bearer mine"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-uri", "/forged"),
            ("x-forwarded-method", "GET"),
            ("x-forwarded-user", "root"),
            ("x_roles", "root"),
            ("x-roles", "root"),
            ("x-private", "not for the service"),
        ],
    );
    let reply = world.connect().await.send(request).await;
    assert_eq!(reply.status, StatusCode::OK);
    let seen = reply.text();
    for line in ["x-forwarded-user: alice\n", "x-roles: a\n", "x-roles: b\n", "cookie: s=1; t=2\n", "x-private: "] {
        assert!(seen.contains(line), "{line}: {seen}");
    }
    // What the service speaks for is its word alone, also when it says nothing.
    assert!(!seen.contains("root") && !seen.contains("x-other") && !seen.contains("authorization"), "{seen}");
    let asked = world.beyond.asked();
    let (url, headers) = &asked[0];
    assert_eq!((asked.len(), url.as_str()), (1, SERVICE));
    for (name, value) in [
        ("x-forwarded-method", "PUT"),
        ("x-forwarded-uri", "/a%20b?c=d"),
        ("x-forwarded-host", "alice.test:81"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "203.0.113.9, 127.0.0.1"),
        ("cookie", "s=1; t=2"),
        ("authorization", "Bearer mine"),
    ] {
        assert_eq!(text(headers, name), value, "{name}");
    }
    for name in ["x-forwarded-user", "x-roles", "x-private", "content-length", "host"] {
        assert!(!headers.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn any_other_answer_is_the_visitors_and_wakes_nothing() {
    let (world, app) = (World::new().await, mirror().await);
    world.put(&with_auth(asleep("alice", app.address), forward_auth())).await;
    for (status, body) in [(302, ""), (401, "sign in"), (403, "no"), (404, ""), (500, "oops")] {
        world.beyond.serve(SERVICE, move |_| {
            let fields = [
                ("location", "https://auth.test/login"),
                ("set-cookie", "a=1"),
                ("set-cookie", "b=2"),
                ("www-authenticate", "Basic realm=\"x\""),
                ("content-type", "text/x"),
                ("x-inner", "secret"),
            ];
            Ok(answer(status, &fields, body))
        });
        let reply = world.connect().await.send(get("alice.test", &[])).await;
        assert_eq!((reply.status.as_u16(), reply.text()), (status, body));
        assert_eq!(reply.headers.get_all("set-cookie").iter().count(), 2);
        assert_eq!(text(&reply.headers, "location"), "https://auth.test/login");
        assert_eq!(text(&reply.headers, "www-authenticate"), "Basic realm=\"x\"");
        assert_eq!(text(&reply.headers, "content-type"), "text/x");
        assert_eq!(text(&reply.headers, "cache-control"), "no-store");
        assert!(!reply.headers.contains_key("x-inner"));
    }
    let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
    assert_eq!(world.connect().await.send(get("alice.test", &upgrade)).await.status, 500);
    assert_eq!((world.waker.calls("alice"), world.activity.idle(&key("alice"))), (0, None));
}

#[tokio::test]
async fn a_service_that_cannot_be_asked_lets_nobody_in() {
    let (world, app) = (World::new().await, mirror().await);
    world.put(&with_auth(asleep("alice", app.address), forward_auth())).await;
    let status = async || world.connect().await.send(get("alice.test", &[])).await.status.as_u16();
    assert_eq!(status().await, 503, "nobody answers");
    world.beyond.serve(SERVICE, |_| Ok(answer(200, &[], &"x".repeat(300_000))));
    assert_eq!(status().await, 503, "it says too much");
    world.beyond.serve(SERVICE, |_| Ok(answer(102, &[], "")));
    assert_eq!(status().await, 503, "no final answer");
    assert_eq!(world.waker.calls("alice"), 0);
}
