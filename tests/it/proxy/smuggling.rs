//! Requests made so that two readers take them apart differently: sent as raw bytes, to an app that takes none in doubt.
//!
//! The ways are those of the published research (CL.TE, TE.CL, TE.TE, CL.0 and their spellings). Each is either refused, and
//! its connection closed, or reaches the app as exactly one request with the body that was meant. Afterwards another
//! visitor asks: it gets the answer to its own request, and the app has seen that and nothing more.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::recorder::Recorder;
use super::world::*;

/// What becomes of the bytes of one connection.
#[derive(Debug)]
pub enum Fate {
    /// This status, or one of these, then the end; the app gets nothing.
    Refused(&'static [u16]),
    /// These requests, with these bodies, each answered.
    Passed(&'static [(&'static str, &'static str, &'static str)]),
    /// These requests and then one that is refused.
    PassedThenRefused(&'static [(&'static str, &'static str, &'static str)]),
}
use Fate::{Passed, PassedThenRefused, Refused};

pub const BAD: &[u16] = &[400];

pub struct Bench {
    pub world: World,
    pub app: Recorder,
}

impl Bench {
    pub async fn new() -> Bench {
        let (world, app) = (World::new().await, Recorder::new().await);
        world.put(&awake("alice", app.address)).await;
        Bench { world, app }
    }

    pub async fn holds(&self, bytes: &str, fate: &Fate) {
        let what = format!("{bytes:?}");
        let mut stream = TcpStream::connect(self.world.address).await.unwrap();
        // Who is refused may be hung up on before all was written.
        let _ = stream.write_all(bytes.as_bytes()).await;
        let (passed, refused): (&[_], _) = match fate {
            Refused(statuses) => (&[], Some(*statuses)),
            Passed(requests) => (requests, None),
            PassedThenRefused(requests) => (requests, Some(BAD)),
        };
        let mut answers = Answers::new(stream);
        for (method, target, _) in passed {
            let (status, body) = soon(&what, answers.next()).await.unwrap_or_else(|| panic!("{what}: no answer"));
            let expected = if *method == "HEAD" { String::new() } else { format!("{method} {target}") };
            assert_eq!((status, body), (200, expected), "{what}");
        }
        if let Some(statuses) = refused {
            let (status, _) = soon(&what, answers.next()).await.unwrap_or_else(|| panic!("{what}: no answer"));
            assert!(statuses.contains(&status), "{what} was answered {status}, not {statuses:?}");
            // A host that is not there is no doubt about where a request ends.
            assert!(status == 404 || soon(&what, answers.next()).await.is_none(), "{what}: its connection goes on");
        }
        self.nothing_more(&what, passed).await;
    }

    /// The next visitor is answered its own question, and the app has seen these requests, and that.
    async fn nothing_more(&self, what: &str, passed: &[(&str, &str, &str)]) {
        let canary = self.world.get("alice.test", "/canary").await;
        assert_eq!(canary.text(), "GET /canary", "{what}: an answer went to another visitor");
        let seen = self.app.take();
        let got: Vec<_> =
            seen.iter().map(|s| (&*s.method, &*s.target, std::str::from_utf8(&s.body).unwrap())).collect();
        let expected: Vec<_> = passed.iter().copied().chain([("GET", "/canary", "")]).collect();
        assert_eq!(got, expected, "{what}");
        assert!(seen.iter().all(|s| s.header("transfer-encoding").len() + s.header("content-length").len() <= 1));
    }
}

/// Reads answers one by one, by the lengths that they tell.
pub struct Answers {
    stream: TcpStream,
    bytes: Vec<u8>,
    /// That of the last one. All of it is there.
    head: String,
}

impl Answers {
    pub fn new(stream: TcpStream) -> Answers {
        Answers { stream, bytes: vec![], head: String::new() }
    }

    /// `None` at the end. `100 Continue` is passed over.
    pub async fn next(&mut self) -> Option<(u16, String)> {
        loop {
            if let Some(end) = self.bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                self.head = String::from_utf8(self.bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
                let status = self.head["http/1.1 ".len()..][..3].parse().unwrap();
                let length =
                    self.head.split_once("content-length: ").map_or("0", |(_, l)| l.split("\r\n").next().unwrap());
                let all = end + 4 + length.parse::<usize>().unwrap();
                if self.bytes.len() >= all {
                    let body = String::from_utf8(self.bytes[end + 4..all].to_vec()).unwrap();
                    self.bytes.drain(..all);
                    if status == 100 {
                        continue;
                    }
                    return Some((status, body));
                }
            }
            match self.stream.read_buf(&mut self.bytes).await {
                Ok(n) if n > 0 => {}
                // A reset after the answer is an end as well: something had been written that nobody read.
                _ => return None,
            }
        }
    }
}

/// `METHOD / HTTP/1.1`, a host, these lines, and what follows the head.
pub fn asks(method: &str, lines: &[&str], rest: &str) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    format!("{method} / HTTP/1.1\r\nHost: alice.test\r\n{lines}\r\n{rest}")
}

fn post(lines: &[&str], rest: &str) -> String {
    asks("POST", lines, rest)
}

pub const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: alice.test\r\n\r\n";

#[tokio::test]
async fn a_length_beside_chunks_never_counts() {
    let bench = Bench::new().await;
    let one: &[_] = &[("POST", "/", "")];
    let hello: &[_] = &[("POST", "/", "hello")];
    for (bytes, fate) in [
        // CL.TE: the length reaches over the next request. TE.CL: it ends within the chunks.
        (post(&["Content-Length: 60", "Transfer-Encoding: chunked"], &format!("0\r\n\r\n{SMUGGLED}")), Passed(one)),
        (post(&["Transfer-Encoding: chunked", "Content-Length: 4"], "5\r\nhello\r\n0\r\n\r\n"), Passed(hello)),
        (post(&["Content-Length: 0", "Transfer-Encoding: chunked"], "5\r\nhello\r\n0\r\n\r\n"), Passed(hello)),
        (post(&["Content-Length: 5", "Content-Length: 7", "Transfer-Encoding: chunked"], "0\r\n\r\n"), Refused(BAD)),
        // The request after such a one is not read at all: its connection ends.
        (
            post(&["Content-Length: 4", "Transfer-Encoding: chunked"], &format!("5\r\nhello\r\n0\r\n\r\n{SMUGGLED}")),
            Passed(hello),
        ),
    ] {
        bench.holds(&bytes, &fate).await;
    }
}

#[tokio::test]
async fn a_coding_that_is_not_plainly_chunked_is_refused() {
    let bench = Bench::new().await;
    for coding in [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: cow",
        "Transfer-Encoding:",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding:\x0bchunked",
        "Transfer-Encoding: \x0cchunked",
        "Transfer-Encoding: chunked\x00",
        "\x0bTransfer-Encoding: chunked",
        " Transfer-Encoding: chunked",
        "Transfer-Encoding: chun\rked",
        "X: Y\rTransfer-Encoding: chunked",
        "Transfer-Encoding\r\n: chunked",
        "Transfer-Encoding:\r\n chunked",
        "Transfer-Encoding: chunked\r\n ,identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-encoding: cow",
        "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
    ] {
        for length in ["Content-Length: 5", "Content-Length: 0", "Accept: */*"] {
            for lines in [[coding, length], [length, coding]] {
                // As a folded line it is a continuation of the one before.
                bench.holds(&post(&lines, &format!("0\r\n\r\n{SMUGGLED}")), &Refused(&[400, 501])).await;
            }
        }
    }
    // Another field, and the same one by its name in any case, with spaces around what it says.
    let hi: &[_] = &[("POST", "/", "hi")];
    for coding in ["transfer-ENCODING: CHUNKED", "Transfer-Encoding:chunked", "Transfer-Encoding:\t  chunked \t"] {
        bench.holds(&post(&[coding], "2\r\nhi\r\n0\r\n\r\n"), &Passed(hi)).await;
    }
    bench.holds(&post(&["Transfer_Encoding: chunked", "Content-Length: 2"], "hi"), &Passed(hi)).await;
    bench.holds(&post(&["X-Transfer-Encoding: chunked", "Content-Length: 2"], "hi"), &Passed(hi)).await;
}

#[tokio::test]
async fn a_length_that_is_not_one_plain_number_is_refused() {
    let bench = Bench::new().await;
    for length in [
        "+5",
        "-5",
        "-0",
        "5,5",
        "5, 5",
        "5 5",
        "5,6",
        "0x5",
        "5a",
        "5.0",
        "5;",
        "\"5\"",
        "",
        ",",
        "5,",
        ",5",
        "1e1",
        "5\x0b",
        "\x0c5",
        "5\x00",
        "٥",
        "5_0",
        "18446744073709551616",
        "99999999999999999999999",
        "18446744073709551615",
        "5\r\n 5",
    ] {
        bench
            .holds(&post(&[&format!("Content-Length: {length}")], &format!("hello{SMUGGLED}")), &Refused(&[400, 431]))
            .await;
    }
    for two in [["Content-Length: 5", "Content-Length: 0"], ["Content-Length: 0", "content-length: 5"]] {
        bench.holds(&post(&two, &format!("hello{SMUGGLED}")), &Refused(BAD)).await;
    }
    for name in [
        "Content-Length ",
        "Content-Length\t",
        " Content-Length",
        "Content-Length\x0b",
        "Content Length",
        "Content-Length\x00",
        "",
    ] {
        bench.holds(&post(&[&format!("{name}: 5")], &format!("hello{SMUGGLED}")), &Refused(BAD)).await;
    }
    // The same number twice, and one with zeros before it, is one number; the app gets it once.
    let hello: &[_] = &[("POST", "/", "hello")];
    bench.holds(&post(&["Content-Length: 5", "Content-Length: 5"], "hello"), &Passed(hello)).await;
    bench.holds(&post(&["Content-Length: \t05 "], "hello"), &Passed(hello)).await;
    // CL.0: what has a length is a body, also where nobody expects one; what follows it is a request of its own.
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PUT", "TRACE", "FOO"] {
        let both: &[_] = match method {
            "GET" => &[("GET", "/", "GET /x"), ("GET", "/smuggled", "")],
            "HEAD" => &[("HEAD", "/", "GET /x"), ("GET", "/smuggled", "")],
            "DELETE" => &[("DELETE", "/", "GET /x"), ("GET", "/smuggled", "")],
            "OPTIONS" => &[("OPTIONS", "/", "GET /x"), ("GET", "/smuggled", "")],
            "PUT" => &[("PUT", "/", "GET /x"), ("GET", "/smuggled", "")],
            "TRACE" => &[("TRACE", "/", "GET /x"), ("GET", "/smuggled", "")],
            _ => &[("FOO", "/", "GET /x"), ("GET", "/smuggled", "")],
        };
        if method != "HEAD" {
            bench.holds(&asks(method, &["Content-Length: 6"], &format!("GET /x{SMUGGLED}")), &Passed(both)).await;
            let chunked = format!("6\r\nGET /x\r\n0\r\n\r\n{SMUGGLED}");
            bench.holds(&asks(method, &["Transfer-Encoding: chunked"], &chunked), &Passed(both)).await;
        }
    }
}

#[tokio::test]
async fn chunks_that_two_readers_could_see_differently_break_the_request_off() {
    let bench = Bench::new().await;
    for chunks in [
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5g\r\nhello\r\n0\r\n\r\n",
        ";a\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: alice.test\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX\r\n\r\n",
        "5\r\nhello\r\n0\r\nx y: z\r\n\r\n",
        "5\r\nhello\r\n0\r\nx: a\rb\r\n\r\n",
    ] {
        let bytes = post(&["Transfer-Encoding: chunked"], &format!("{chunks}{SMUGGLED}"));
        let mut stream = TcpStream::connect(bench.world.address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = vec![];
        // It ends, and what was answered is not the app's.
        let _ = soon(chunks, stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{chunks:?} was answered {answer}");
        bench.nothing_more(chunks, &[]).await;
    }
    let hello: &[_] = &[("POST", "/", "hello")];
    for chunks in [
        "5;a=b\r\nhello\r\n0\r\n\r\n",
        "005\r\nhello\r\n000\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t;a=\"b\"\r\nhello\r\n0;x\r\n\r\n",
        "1\r\nh\r\n4\r\nello\r\n0\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\nHost: bob.test\r\n\r\n",
    ] {
        bench.holds(&post(&["Transfer-Encoding: chunked"], chunks), &Passed(hello)).await;
    }
}

#[tokio::test]
async fn fields_of_the_connection_take_nothing_away_that_frames_the_body() {
    let bench = Bench::new().await;
    let hello: &[_] = &[("POST", "/", "hello"), ("GET", "/smuggled", "")];
    for named in [
        "content-length",
        "Content-Length, host",
        "transfer-encoding",
        "keep-alive, content-length",
        "te, upgrade, content-length",
    ] {
        let connection = format!("Connection: {named}");
        bench.holds(&post(&[&connection, "Content-Length: 5"], &format!("hello{SMUGGLED}")), &Passed(hello)).await;
        let chunked = format!("5\r\nhello\r\n0\r\n\r\n{SMUGGLED}");
        bench.holds(&post(&[&connection, "Transfer-Encoding: chunked"], &chunked), &Passed(hello)).await;
    }
    let one: &[_] = &[("POST", "/", "hello")];
    bench
        .holds(
            &post(&["Connection: close, content-length", "Content-Length: 5"], &format!("hello{SMUGGLED}")),
            &Passed(one),
        )
        .await;
    // Whatever is expected, the body is the body.
    for expect in
        ["100-continue", "100-Continue", "100-continue, x", "y 100-continue", "200-ok", "", "100-continue\r\nExpect: x"]
    {
        let expect = format!("Expect: {expect}");
        bench.holds(&post(&[&expect, "Content-Length: 5"], &format!("hello{SMUGGLED}")), &Passed(hello)).await;
    }
    bench
        .holds(
            &asks("GET", &["Expect: 100-continue"], SMUGGLED),
            &Passed(&[("GET", "/", ""), ("GET", "/smuggled", "")]),
        )
        .await;
    // An app that does not switch leaves what follows a request of its own, with rules of its own.
    for upgrade in ["websocket", "h2c", "HTTP/2.0", "TLS/1.0"] {
        let lines = [
            "Connection: Upgrade, HTTP2-Settings",
            &format!("Upgrade: {upgrade}"),
            "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        ];
        bench.holds(&asks("GET", &lines, SMUGGLED), &Passed(&[("GET", "/", ""), ("GET", "/smuggled", "")])).await;
        let lines = [lines[0], lines[1], lines[2], "Content-Length: 5"];
        bench.holds(&post(&lines, &format!("hello{SMUGGLED}")), &Passed(hello)).await;
    }
}

#[tokio::test]
async fn older_versions_frame_by_length_or_not_at_all() {
    let bench = Bench::new().await;
    let old = |lines: &str, rest: &str| format!("POST / HTTP/1.0\r\nHost: alice.test\r\n{lines}\r\n{rest}");
    for lines in [
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: identity\r\n",
    ] {
        bench.holds(&old(lines, &format!("0\r\n\r\n{SMUGGLED}")), &Refused(&[400, 501])).await;
    }
    let one: &[_] = &[("POST", "/", "hello")];
    bench.holds(&old("Content-Length: 5\r\n", &format!("hello{SMUGGLED}")), &Passed(one)).await;
    bench.holds(&old("", &format!("hello{SMUGGLED}")), &Passed(&[("POST", "/", "")])).await;
}
