//! A very small HTTP/1.1 client: one request per connection, over TCP or a unix socket, answers up to 64 MiB.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

const MAX_ANSWER: u64 = 64 << 20;

pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}

/// One request with the whole body at hand.
pub struct Request<'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub host: &'a str,
    pub content_type: &'a str,
    pub body: &'a [u8],
    /// For the connection, and for every silence after it.
    pub timeout: Duration,
}

impl<'a> Request<'a> {
    pub fn get(target: &'a str) -> Request<'a> {
        Request {
            method: "GET",
            target,
            host: "localhost",
            content_type: "",
            body: b"",
            timeout: Duration::from_secs(30),
        }
    }

    pub fn over_tcp(&self, address: SocketAddr) -> Result<Answer> {
        let stream =
            TcpStream::connect_timeout(&address, self.timeout).with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        self.exchange(stream).with_context(|| format!("{} http://{address}{}", self.method, self.target))
    }

    pub fn over_unix(&self, socket: &Path) -> Result<Answer> {
        let stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        self.exchange(stream).with_context(|| format!("{} {} at {}", self.method, self.target, socket.display()))
    }

    fn exchange(&self, mut stream: impl Read + Write) -> Result<Answer> {
        let mut head =
            format!("{} {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.method, self.target, self.host);
        if !self.content_type.is_empty() {
            head.push_str(&format!("content-type: {}\r\n", self.content_type));
        }
        if self.method != "GET" {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(self.body)?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
        parse(&answer)
    }
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").context("the answer has no complete head")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let body = &bytes[end + 4..];
    let status =
        head.split_whitespace().nth(1).and_then(|s| s.parse().ok()).context("the answer has no status line")?;
    if (100..200).contains(&status) {
        return parse(body);
    }
    let header = |name: &str| {
        head.lines().skip(1).filter_map(|l| l.split_once(':')).find(|(n, _)| *n == name).map(|(_, v)| v.trim())
    };
    let body = if header("transfer-encoding") == Some("chunked") {
        unchunk(body)?
    } else if let Some(length) = header("content-length").and_then(|l| l.parse::<usize>().ok()) {
        body.get(..length).context("the answer was cut short")?.to_vec()
    } else {
        body.to_vec()
    };
    Ok(Answer { status, body })
}

fn unchunk(mut bytes: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n").context("the answer was cut short")?;
        let size = String::from_utf8_lossy(&bytes[..end]);
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
            .context("a chunk's size is not a number")?;
        if size == 0 {
            return Ok(body);
        }
        let from = end + 2;
        let Some(chunk) = size.checked_add(from).and_then(|to| bytes.get(from..to)) else {
            bail!("the answer was cut short");
        };
        body.extend_from_slice(chunk);
        bytes = bytes.get(from + size + 2..).context("the answer was cut short")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_in_every_framing() {
        let text = |bytes: &[u8]| parse(bytes).map(|a| (a.status, a.text()));
        assert_eq!(text(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokay").unwrap(), (200, "ok".into()));
        assert_eq!(text(b"HTTP/1.1 404 No\r\n\r\nto the end").unwrap(), (404, "to the end".into()));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x\r\nd\r\n0\r\n\r\n";
        assert_eq!(text(chunked).unwrap(), (200, "abcd".into()));
        let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx";
        assert_eq!(text(interim).unwrap(), (200, "x".into()));
    }

    #[test]
    fn an_answer_that_was_cut_short_is_an_error() {
        for cut in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab",
            b"HTTP/1.1 200",
            b"",
        ] {
            assert!(parse(cut).is_err());
        }
    }
}
