//! An app that takes HTTP/1.1 by the letter and keeps what it was sent: what it cannot read without doubt is an offence.
//!
//! It shares no parser with the proxy. Whatever two readers could take apart differently (a bare CR or LF, a space before a
//! colon, a folded line, two lengths, a length beside chunks, any other spelling of either) it does not take at all.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }
}

#[derive(Clone)]
pub struct Recorder {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Result<Seen, String>>>>,
}

impl Recorder {
    /// Answers every request with its method and target.
    pub async fn new() -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let recorder = Recorder { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let seen = recorder.seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, seen.clone()));
            }
        });
        recorder
    }

    /// What came since the last look, and nothing else. Fails the test at an offence.
    pub fn take(&self) -> Vec<Seen> {
        let all = std::mem::take(&mut *self.seen.lock().unwrap());
        all.into_iter().map(|one| one.unwrap_or_else(|offence| panic!("the app was sent {offence}"))).collect()
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<Result<Seen, String>>>>) {
    let mut bytes = vec![];
    loop {
        match one(&mut bytes) {
            Some(Ok(request)) => {
                let body = format!("{} {}", request.method, request.target);
                let head_only = request.method == "HEAD";
                seen.lock().unwrap().push(Ok(request));
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let answer = if head_only { head } else { head + &body };
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Some(Err(what)) => {
                seen.lock().unwrap().push(Err(format!("{what}: {:?}", String::from_utf8_lossy(&bytes))));
                return;
            }
            // Half a message is none: the proxy breaks off what its visitor broke off.
            None => match stream.read_buf(&mut bytes).await {
                Ok(n) if n > 0 => {}
                _ => return,
            },
        }
    }
}

/// The first request in `bytes`, taken out of it. `None`: it is not all there.
fn one(bytes: &mut Vec<u8>) -> Option<Result<Seen, &'static str>> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = match parse(&bytes[..end]) {
        Ok(head) => head,
        Err(offence) => return Some(Err(offence)),
    };
    let rest = &bytes[end + 4..];
    let taken = match framing(&head) {
        Ok(Framing::Length(length)) => (rest.len() >= length).then(|| Ok((rest[..length].to_vec(), length))),
        Ok(Framing::Chunked) => chunks(rest),
        Err(offence) => Some(Err(offence)),
    };
    match taken? {
        Ok((body, length)) => {
            bytes.drain(..end + 4 + length);
            Some(Ok(Seen { body, ..head }))
        }
        Err(offence) => Some(Err(offence)),
    }
}

fn parse(head: &[u8]) -> Result<Seen, &'static str> {
    let text = std::str::from_utf8(head).map_err(|_| "a head that is not text")?;
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let [method, target, "HTTP/1.1"] = line.split(' ').collect::<Vec<_>>()[..] else { return Err("a request line") };
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if method.is_empty() || !method.chars().all(token) || !(target.starts_with('/') || target == "*") {
        return Err("a request line");
    }
    if target.contains(|c: char| c.is_control() || c == '#') {
        return Err("a target");
    }
    let mut headers = vec![];
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or("a field without a colon and a space")?;
        if name.is_empty() || !name.chars().all(token) {
            return Err("a field's name");
        }
        if value.contains(|c: char| c.is_control() && c != '\t') {
            return Err("a field's value");
        }
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let seen = Seen { method: method.into(), target: target.into(), headers, body: vec![] };
    if seen.header("host").len() == 1 { Ok(seen) } else { Err("not one host") }
}

enum Framing {
    Length(usize),
    Chunked,
}

fn framing(head: &Seen) -> Result<Framing, &'static str> {
    match (&head.header("content-length")[..], &head.header("transfer-encoding")[..]) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) if length.bytes().all(|b| b.is_ascii_digit()) => {
            length.parse().map(Framing::Length).map_err(|_| "a length")
        }
        ([], ["chunked"]) => Ok(Framing::Chunked),
        _ => Err("a length that is in doubt"),
    }
}

/// The body, and how many bytes it took.
fn chunks(mut rest: &[u8]) -> Option<Result<(Vec<u8>, usize), &'static str>> {
    let (all, mut body) = (rest.len(), vec![]);
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).unwrap_or("?");
        if size.is_empty() || !size.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Some(Err("a size of a chunk"));
        }
        let Ok(size) = usize::from_str_radix(size, 16) else { return Some(Err("a size of a chunk")) };
        rest = &rest[end + 2..];
        if size == 0 {
            break;
        }
        if rest.len() < size + 2 {
            return None;
        }
        body.extend_from_slice(&rest[..size]);
        if &rest[size..size + 2] != b"\r\n" {
            return Some(Err("an end of a chunk"));
        }
        rest = &rest[size + 2..];
    }
    // Trailers, up to an empty line.
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n")?;
        rest = &rest[end + 2..];
        if end == 0 {
            return Some(Ok((body, all - rest.len())));
        }
    }
}

#[test]
fn the_recorder_takes_what_is_plain_and_nothing_in_doubt() {
    let read = |text: &str| one(&mut text.as_bytes().to_vec());
    let plain = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(read(plain).unwrap().unwrap().body, b"hi");
    let chunked = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx: y\r\n\r\nmore";
    let mut bytes = chunked.as_bytes().to_vec();
    assert_eq!(one(&mut bytes).unwrap().unwrap().body, b"hi");
    assert_eq!(bytes, b"more");
    assert!(read(&chunked[..chunked.len() - 6]).is_none());
    for bad in [
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n b: c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nx: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\nhi",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0;x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    ] {
        assert!(read(bad).is_some_and(|r| r.is_err()), "{bad:?}");
    }
}
