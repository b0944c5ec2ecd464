//! HTTP/1.1 by hand, one connection for each request: what arrives is shown as it came. For the daemons' sockets and
//! for the proxy.

use std::io::{self, Read, Write};

/// Bounds what a test reads into memory.
const MOST: u64 = 16 << 20;

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value in a body of lines `name: value`.
    pub fn field(&self, name: &str) -> String {
        let text = self.text();
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_default().to_owned()
    }
}

/// Sends one request and reads to the end of the connection, or of an answer that says how long it is: not every server
/// closes when it is asked to.
pub fn exchange(
    stream: &mut (impl Read + Write),
    method: &str,
    path: &str,
    host: &str,
    json: bool,
    body: &[u8],
) -> io::Result<Answer> {
    let kind = if json { "content-type: application/json\r\n" } else { "" };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{kind}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    let end = loop {
        match stream.read(&mut piece) {
            Ok(0) => break io::ErrorKind::UnexpectedEof.into(),
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
            // an answer may come whole although the connection breaks behind it
            Err(e) => break e,
        }
        let whole = parse(&bytes).filter(|answer| !answer.header("content-length").is_empty());
        if let Some(answer) = whole {
            return Ok(answer);
        }
        if bytes.len() as u64 > MOST {
            break io::ErrorKind::FileTooLarge.into();
        }
    };
    parse(&bytes).ok_or(end)
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
    let mut answer = Answer { status, headers, body: Vec::new() };
    let rest = &bytes[end + 4..];
    answer.body = if answer.header("transfer-encoding") == "chunked" {
        dechunk(rest)?
    } else {
        match answer.header("content-length").parse() {
            Ok(length) => rest.get(..length)?.to_vec(),
            Err(_) => rest.to_vec(),
        }
    };
    Some(answer)
}

fn dechunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 4 + size..)?;
    }
}
