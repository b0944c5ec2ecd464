//! Requests over HTTP/2 that would be two, or other ones, when written down for an app in HTTP/1.1.

use portreeve::proxy::{Front, Limits};

use super::front::{Authority, secured};
use super::h2::*;
use super::recorder::Recorder;
use super::world::*;

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: alice.test\r\n\r\n";

struct Bench {
    world: World,
    authority: Authority,
    app: Recorder,
}

impl Bench {
    async fn new() -> Bench {
        let ((world, authority), app) = (secured(Front::default(), Limits::default()).await, Recorder::new().await);
        world.put(&awake("alice", app.address)).await;
        Bench { world, authority, app }
    }

    async fn sends(
        &self,
        what: &str,
        fields: &[(&str, &str)],
        body: Option<&str>,
        trailers: &[(&str, &str)],
    ) -> Outcome {
        let mut raw = Raw::begin(&self.world, &self.authority, &[]).await;
        let ends = |last: bool| if last { END_STREAM } else { 0 };
        let mut bytes = frame(HEADERS, END_HEADERS | ends(body.is_none()), 1, &block(fields));
        if let Some(body) = body {
            bytes.extend(frame(DATA, ends(trailers.is_empty()), 1, body.as_bytes()));
        }
        if !trailers.is_empty() {
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(trailers)));
        }
        // Who is refused may be hung up on before all was written.
        let _ = raw.write(&bytes).await;
        raw.outcome(what, 1).await
    }

    /// No app sees any of it, and the next visitor is answered its own question.
    async fn refuses(&self, fields: &[(&str, &str)], body: Option<&str>) {
        self.refuses_with(fields, body, &[]).await;
    }

    async fn refuses_with(&self, fields: &[(&str, &str)], body: Option<&str>, trailers: &[(&str, &str)]) {
        let what = format!("{fields:?} {body:?} {trailers:?}");
        let outcome = self.sends(&what, fields, body, trailers).await;
        assert!(
            matches!(outcome, Outcome::Answered(400 | 404 | 501) | Outcome::Ended(PROTOCOL_ERROR) | Outcome::Cut),
            "{what}: {outcome:?}"
        );
        self.sees(&what, &[]).await;
    }

    async fn passes(&self, fields: &[(&str, &str)], body: Option<&str>, target: (&str, &str)) {
        let what = format!("{fields:?} {body:?}");
        assert_eq!(self.sends(&what, fields, body, &[]).await, Outcome::Answered(200), "{what}");
        self.sees(&what, &[(target.0, target.1, body.unwrap_or_default())]).await;
    }

    async fn sees(&self, what: &str, requests: &[(&str, &str, &str)]) {
        assert_eq!(self.world.get("alice.test", "/canary").await.text(), "GET /canary", "{what}");
        let seen = self.app.take();
        let got: Vec<_> =
            seen.iter().map(|s| (&*s.method, &*s.target, std::str::from_utf8(&s.body).unwrap())).collect();
        let expected: Vec<_> = requests.iter().copied().chain([("GET", "/canary", "")]).collect();
        assert_eq!(got, expected, "{what}");
        assert!(seen.iter().all(|s| s.header("host") == ["alice.test"]), "{what}");
    }
}

/// A plain request with some of its own fields replaced.
fn with<'a>(fields: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut all = get(&[]);
    for (name, value) in fields {
        match all.iter_mut().find(|(n, _)| n == name) {
            Some(field) => field.1 = value,
            None => all.push((name, value)),
        }
    }
    all
}

fn post<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    with(&[&[(":method", "POST")], more].concat())
}

#[tokio::test]
async fn a_length_must_be_that_of_the_frames() {
    let bench = Bench::new().await;
    let long = format!("hello{SMUGGLED}");
    for (length, body) in
        [("5", Some(&*long)), ("0", Some(SMUGGLED)), ("60", Some("hello")), ("5", None), ("4", Some("hello"))]
    {
        bench.refuses(&post(&[("content-length", length)]), body).await;
        bench.refuses(&with(&[("content-length", length)]), body).await;
    }
    for length in ["", "+5", "-5", "5,5", "5, 5", "0x5", "5 ", " 5", "5\r\n", "٥", "18446744073709551621"] {
        bench.refuses(&post(&[("content-length", length)]), Some("hello")).await;
    }
    for two in [["5", "0"], ["0", "5"], ["5", "5"], ["5", "60"]] {
        let mut fields = post(&[]);
        fields.extend(two.map(|length| ("content-length", length)));
        bench.refuses(&fields, Some("hello")).await;
    }
    for method in ["POST", "GET", "DELETE", "FOO"] {
        bench.passes(&with(&[(":method", method), ("content-length", "5")]), Some("hello"), (method, "/")).await;
        bench.passes(&with(&[(":method", method)]), Some(&long), (method, "/")).await;
    }
}

#[tokio::test]
async fn fields_of_a_connection_have_no_place() {
    let bench = Bench::new().await;
    for field in [
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("connection", "content-length"),
        ("connection", "close"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("upgrade", "h2c"),
        ("keep-alive", "x"),
        ("proxy-connection", "keep-alive"),
        ("te", "gzip"),
        ("te", "chunked"),
    ] {
        bench.refuses(&post(&[field]), Some(&format!("0\r\n\r\n{SMUGGLED}"))).await;
        bench.refuses(&with(&[field]), None).await;
    }
    // In trailers neither, nor what would be a request's own.
    for field in [("transfer-encoding", "chunked"), ("connection", "close"), ("x", "a\r\nb: c")] {
        bench.refuses_with(&post(&[]), Some("hello"), &[field]).await;
    }
    for field in [(":path", "/smuggled"), (":method", "GET"), ("content-length", "60"), ("host", "bob.test")] {
        let what = format!("{field:?} in a trailer");
        assert_eq!(bench.sends(&what, &post(&[]), Some("hello"), &[field]).await, Outcome::Answered(200), "{what}");
        bench.sees(&what, &[("POST", "/", "hello")]).await;
    }
}

#[tokio::test]
async fn no_field_can_hold_the_end_of_a_line() {
    let bench = Bench::new().await;
    let lines = "a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: alice.test\r\nX: ";
    for value in [lines, "a\nb: c", "a\rb", "\r\n", "\n", "a\x00b", "a\x01b", "a\x7fb"] {
        for name in ["x", "cookie", "user-agent", "content-type"] {
            bench.refuses(&with(&[(name, value)]), None).await;
        }
        for name in [":method", ":scheme", ":authority", ":path"] {
            bench.refuses(&with(&[(name, value)]), None).await;
        }
    }
    for name in [
        "x\r\ny",
        "x: a\r\ny",
        "x: y",
        "x y",
        "x ",
        " x",
        "x:",
        "x\ny",
        "x\x00",
        "X-Upper",
        "Transfer-Encoding",
        "transfer-encoding ",
        "content-length:",
        "",
        "x\u{e9}",
        "x(y)",
    ] {
        bench.refuses(&with(&[(name, "chunked")]), None).await;
    }
}

#[tokio::test]
async fn what_makes_the_request_line_is_there_once_and_plain() {
    let bench = Bench::new().await;
    for (name, values) in [
        (
            ":method",
            &["", "GET /smuggled HTTP/1.1", "GET ", " GET", "G ET", "GET\t", "GET /", "CONNECT", "G\"ET"] as &[&str],
        ),
        (":scheme", &["http://bob.test/?", "https ", "ht tp", "https:"]),
        (
            ":path",
            &[
                "",
                "smuggled",
                "http://bob.test/",
                "//bob.test:80@x/ HTTP/1.1",
                "/ HTTP/1.1",
                "/a b",
                "/\t",
                "*",
                "alice.test:80",
                "?x",
                "\\",
            ],
        ),
        (
            ":authority",
            &[
                "bob@alice.test",
                "alice.test/x",
                "alice.test x",
                "alice.test,bob.test",
                "alice.test:x",
                "alice.test#",
                "alice.test?",
                "[alice.test]",
                "https://alice.test",
            ],
        ),
    ] {
        for value in values {
            bench.refuses(&with(&[(name, value)]), None).await;
        }
        let mut twice = get(&[]);
        twice.insert(0, (name, "/smuggled"));
        bench.refuses(&twice, None).await;
        let mut late = with(&[("x", "y")]);
        let at = late.iter().position(|(n, _)| *n == name).unwrap();
        let field = late.remove(at);
        // Left out an authority may be, if there is a host.
        bench.refuses(&late, None).await;
        late.push(field);
        bench.refuses(&late, None).await;
    }
    bench.refuses(&with(&[(":status", "200")]), None).await;
    bench.refuses(&with(&[(":smuggled", "x")]), None).await;
    // Extended CONNECT was not offered.
    bench.refuses(&with(&[(":method", "CONNECT"), (":protocol", "websocket")]), None).await;
    bench.passes(&with(&[(":path", "//x/?y"), ("te", "trailers")]), None, ("GET", "//x/?y")).await;
    bench.passes(&with(&[(":path", "/a#b")]), None, ("GET", "/a")).await;
    bench.passes(&with(&[(":path", "*"), (":method", "OPTIONS")]), None, ("OPTIONS", "*")).await;
}

#[tokio::test]
async fn the_authority_is_the_host_and_the_app_gets_no_other() {
    let bench = Bench::new().await;
    let bob = Recorder::new().await;
    bench.world.put(&awake("bob", bob.address)).await;
    let plain = [(":method", "GET"), (":scheme", "https"), (":path", "/")];
    let named = |host| [&plain[..], &[("host", host)]].concat();
    bench.passes(&named("alice.test"), None, ("GET", "/")).await;
    for host in ["alice.test, bob.test", "bob.test@alice.test", "alice.test\r\nhost: bob.test", ""] {
        bench.refuses(&named(host), None).await;
    }
    bench.refuses(&[&named("alice.test")[..], &[("host", "bob.test")]].concat(), None).await;
    bench.refuses(&with(&[("host", "alice.test"), ("x", "y"), ("host ", "bob.test")]), None).await;
    // Where both are there and differ, one counts, and no app learns of the other.
    bench.passes(&with(&[("host", "bob.test")]), None, ("GET", "/")).await;
    assert!(bob.take().is_empty());
}
