//! Heads made so that two readers take them apart differently, and pieces of all kinds put together at random.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::recorder::{Recorder, Seen};
use super::smuggling::Fate::{Passed, PassedThenRefused, Refused};
use super::smuggling::{Answers, BAD, Bench, SMUGGLED, asks};
use super::world::*;

#[tokio::test]
async fn lines_and_names_in_doubt_are_refused_or_made_plain() {
    let bench = Bench::new().await;
    for lines in [
        "X: a\x00b",
        "X: a\x01b",
        "X: a\x7fb",
        "X: a\rb",
        "X: a\r",
        "X\x00: a",
        "X Y: a",
        "X\t: a",
        "X : a",
        " X: a",
        "X",
        ": a",
        "X\r\n: a",
        "X: a\r\n b",
        "X: a\r\n\tb",
        "X(Y): a",
        "X@: a",
        "\u{e9}: a",
        "X: \r\n\r\r\n",
    ] {
        bench.holds(&asks("GET", &[lines], ""), &Refused(BAD)).await;
        bench.holds(&asks("GET", &[lines], SMUGGLED), &Refused(BAD)).await;
    }
    let one: &[_] = &[("GET", "/", "")];
    // A bare LF ends a line (RFC 9112 §2.2); the app gets CRLF.
    bench.holds("GET / HTTP/1.1\nHost: alice.test\n\n", &Passed(one)).await;
    bench.holds("GET / HTTP/1.1\r\nX: a\nHost: alice.test\r\n\r\n", &Passed(one)).await;
    // Empty lines before a request.
    bench.holds("\r\n\r\nGET / HTTP/1.1\r\nHost: alice.test\r\n\r\n", &Passed(one)).await;
    bench.holds(&asks("GET", &["X:", "Y:a", "Z: \t b \t", "X: \u{e9}"], ""), &Passed(one)).await;
    // Two requests in one packet are two, each on its own.
    let two: &[_] = &[("GET", "/", ""), ("GET", "/smuggled", "")];
    bench.holds(&asks("GET", &[], SMUGGLED), &Passed(two)).await;
    bench.holds(&asks("GET", &[], "garbage\r\n\r\n"), &PassedThenRefused(one)).await;
}

#[tokio::test]
async fn request_lines_in_doubt_are_refused() {
    let bench = Bench::new().await;
    for line in [
        "GET /",
        "GET / ",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1 x",
        "GET / HTTP/2.0",
        "GET / HTTP/1.2",
        "GET / HTTP/0.9",
        "GET / HTTP/11",
        "GET / http/1.1",
        "GET / HTTP/1.1\rX",
        "GET /a b HTTP/1.1",
        "GET /\x00 HTTP/1.1",
        "GET /\x0b HTTP/1.1",
        "GET /\r HTTP/1.1",
        "G\x00ET / HTTP/1.1",
        "GET\r / HTTP/1.1",
        " GET / HTTP/1.1",
        "/ HTTP/1.1",
        "G(ET / HTTP/1.1",
        "GET \\ HTTP/1.1",
        "GET \\\\alice.test\\ HTTP/1.1",
        "GET ? HTTP/1.1",
        "GET # HTTP/1.1",
        "PRI * HTTP/2.0",
        "GET http:/// HTTP/1.1",
        "GET http:// HTTP/1.1",
        "GET http:alice.test HTTP/1.1",
        "GET //alice.test:x@/ HTTP/9.9",
    ] {
        bench.holds(&format!("{line}\r\nHost: alice.test\r\n\r\n"), &Refused(&[400, 404, 414, 501, 505])).await;
    }
    // What another server would take for one request of HTTP/0.9 and a second one.
    bench.holds(&format!("GET /\r\n{SMUGGLED}"), &Refused(&[400, 505])).await;
    for (target, seen) in
        [("/a\\b", &[("GET", "/a\\b", "")] as &[_]), ("/a#b", &[("GET", "/a", "")]), ("//x/", &[("GET", "//x/", "")])]
    {
        bench.holds(&format!("GET {target} HTTP/1.1\r\nHost: alice.test\r\n\r\n"), &Passed(seen)).await;
    }
    bench.holds("OPTIONS * HTTP/1.1\r\nHost: alice.test\r\n\r\n", &Passed(&[("OPTIONS", "*", "")])).await;
}

#[tokio::test]
async fn the_app_gets_the_one_host_that_led_to_it() {
    let bench = Bench::new().await;
    bench.world.put(&awake("bob", Recorder::new().await.address)).await;
    for hosts in [
        "",
        "Host: alice.test\r\nHost: alice.test\r\n",
        "Host: alice.test\r\nHost: bob.test\r\n",
        "Host: alice.test, bob.test\r\n",
        "Host: alice.test bob.test\r\n",
        "Host: bob@alice.test\r\n",
        "Host: alice.test@bob.test\r\n",
        "Host: alice.test:80@bob.test\r\n",
        "Host: alice.test/\r\n",
        "Host: alice.test?\r\n",
        "Host: alice.test#\r\n",
        "Host: alice.test\\\r\n",
        "Host: http://alice.test\r\n",
        "Host: alice.test:x\r\n",
        "Host: alice.test:-1\r\n",
        "Host: alice.test:999999\r\n",
        "Host: alice.test:80:80\r\n",
        "Host: .\r\n",
        "Host: \r\n",
        "Host : alice.test\r\n",
        " Host: alice.test\r\n",
        "Host: alice.test\x00\r\n",
        "Host: alice.test\x0b\r\n",
        "Host: alice.test%00\r\n",
        "Host: [alice.test]\r\n",
        "Host: [::1\r\n",
        "Host: \u{e9}.test\r\n",
    ] {
        let bytes = format!("GET / HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        bench.holds(&bytes, &Refused(BAD)).await;
    }
    for absolute in
        ["http://alice.test@bob.test/", "http://bob.test@alice.test/", "http://alice.test:80@bob.test/", "http://:80/"]
    {
        let bytes = format!("GET {absolute} HTTP/1.1\r\nHost: alice.test\r\nConnection: close\r\n\r\n");
        bench.holds(&bytes, &Refused(BAD)).await;
    }
    for (line, host) in [
        ("GET / HTTP/1.1\r\nHost:\talice.test \t", "alice.test"),
        ("GET / HTTP/1.1\r\nHost: alice.test:0", "alice.test:0"),
        ("GET / HTTP/1.1\r\nHost: alice.test:", "alice.test:"),
        ("GET http://alice.test/ HTTP/1.1\r\nHost: bob.test", "alice.test"),
        ("GET http://alice.test/ HTTP/1.1\r\nHost: ", "alice.test"),
        ("GET HTTPS://alice.test:81 HTTP/1.1\r\nHost: bob.test", "alice.test:81"),
        ("GET / HTTP/1.1\r\nHost: alice.test\r\nX-Forwarded-Host: bob.test\r\nX-Host: bob.test", "alice.test"),
    ] {
        let mut stream = TcpStream::connect(bench.world.address).await.unwrap();
        stream.write_all(format!("{line}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        assert_eq!(soon(line, Answers::new(stream).next()).await, Some((200, "GET /".into())), "{line}");
        let seen: Vec<Seen> = bench.app.take();
        assert_eq!(
            (seen.len(), seen[0].header("host"), seen[0].header("x-forwarded-host")),
            (1, vec![host], vec![host]),
            "{line}"
        );
    }
}

/// Pieces that have fooled somebody, and plain ones.
const PIECES: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /p HTTP/1.1\r\n",
    "POST /p HTTP/1.0\r\n",
    "GET http://alice.test/q HTTP/1.1\r\n",
    "Host: alice.test\r\n",
    "Host: alice.test\r\n",
    "Host: bob.test\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 44\r\n",
    "Content-Length : 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: x\r\n",
    "Transfer-Encoding\t: chunked\r\n",
    "Connection: keep-alive, content-length\r\n",
    "Connection: close\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: h2c\r\nConnection: upgrade\r\n",
    "X: y\r\n",
    " folded\r\n",
    "\r\n",
    "\r\n",
    "\r\n",
    "\n",
    "\r",
    "\x00",
    "hello",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "5\r\nhello\r\n0\r\n\r\n",
    "5;a\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n",
    "G",
];

#[test]
fn however_pieces_are_put_together_the_app_is_never_in_doubt_and_nobody_gets_anothers_answer() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let bench = runtime.block_on(Bench::new());
    let cases = std::env::var("SMUGGLING_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let pieces = proptest::collection::vec(proptest::sample::select(PIECES), 1..14);
    let strategy = (pieces, proptest::bool::weighted(0.7));
    let checked = TestRunner::new(config).run(&strategy, |(pieces, begun)| {
        let begin = if begun { "POST /p HTTP/1.1\r\nHost: alice.test\r\n" } else { "" };
        let bytes = format!("{begin}{}", pieces.concat());
        runtime.block_on(async {
            let mut stream = TcpStream::connect(bench.world.address).await.unwrap();
            let _ = stream.write_all(bytes.as_bytes()).await;
            // Long enough for most to be answered; what is not has been broken off, which must do no harm either.
            let mut answers = Answers::new(stream);
            while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(20), answers.next()).await {}
            drop(answers);
            let canary = bench.world.get("alice.test", "/canary").await;
            prop_assert_eq!(canary.text(), "GET /canary");
            // Of what is in doubt the recorder tells, and fails the test.
            let seen = bench.app.take();
            prop_assert!(seen.iter().any(|s| s.target == "/canary"));
            prop_assert!(seen.iter().all(|s| s.header("host") == ["alice.test"]));
            Ok(())
        })
    });
    checked.unwrap_or_else(|e| panic!("{e}"));
}
