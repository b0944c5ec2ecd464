//! One HTTP/1.1 request, read from a connection. Heads are limited to 64 KiB, bodies to 16 MiB.

use std::io::{self, Read, Write};
use std::net::TcpStream;

const MAX_HEAD: usize = 64 << 10;
const MAX_BODY: usize = 16 << 20;
const MAX_HEADERS: usize = 100;

/// A connection with what was read from it ahead of need.
pub struct Reader {
    pub stream: TcpStream,
    ahead: Vec<u8>,
}

pub struct Request {
    pub method: String,
    /// Path without the query.
    pub path: String,
    query: String,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub keep_alive: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// Whether a header's comma-separated list names this token.
    pub fn lists(&self, header: &str, token: &str) -> bool {
        self.headers
            .iter()
            .filter(|(name, _)| name == header)
            .flat_map(|(_, value)| value.split(','))
            .any(|v| v.trim().eq_ignore_ascii_case(token))
    }
}

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Reader {
    pub fn new(stream: TcpStream) -> Reader {
        Reader { stream, ahead: Vec::new() }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 << 10];
        let n = self.stream.read(&mut buffer)?;
        self.ahead.extend_from_slice(&buffer[..n]);
        Ok(n)
    }

    /// Exactly `n` bytes.
    pub fn take(&mut self, n: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < n {
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.ahead.drain(..n).collect())
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.ahead.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.ahead[..end]).into_owned();
                self.ahead.drain(..end + 2);
                return Ok(line);
            }
            if self.ahead.len() > 1024 {
                return Err(bad("the line is too long"));
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next request; `None` when the client has closed between two requests.
    pub fn request(&mut self) -> io::Result<Option<Request>> {
        let Some(mut request) = self.head()? else { return Ok(None) };
        if request.lists("expect", "100-continue") {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if request.lists("transfer-encoding", "chunked") {
            request.body = self.chunks()?;
        } else if let Some(length) = request.header("content-length") {
            let length = length.parse().map_err(|_| bad("content-length is not a number"))?;
            if length > MAX_BODY {
                return Err(bad("the body is too long"));
            }
            request.body = self.take(length)?;
        }
        Ok(Some(request))
    }

    fn head(&mut self) -> io::Result<Option<Request>> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut parsed = httparse::Request::new(&mut headers);
            match parsed.parse(&self.ahead).map_err(|e| bad(e.to_string()))? {
                httparse::Status::Complete(length) => {
                    let target = parsed.path.unwrap_or("/");
                    let (path, query) = target.split_once('?').unwrap_or((target, ""));
                    let mut request = Request {
                        method: parsed.method.unwrap_or_default().to_owned(),
                        path: path.to_owned(),
                        query: query.to_owned(),
                        headers: parsed
                            .headers
                            .iter()
                            .map(|h| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).into_owned()))
                            .collect(),
                        body: Vec::new(),
                        keep_alive: false,
                    };
                    request.keep_alive = match parsed.version {
                        Some(1) => !request.lists("connection", "close"),
                        _ => request.lists("connection", "keep-alive"),
                    };
                    self.ahead.drain(..length);
                    return Ok(Some(request));
                }
                httparse::Status::Partial if self.ahead.len() > MAX_HEAD => return Err(bad("the head is too long")),
                httparse::Status::Partial => {}
            }
            let started = !self.ahead.is_empty();
            if self.fill()? == 0 {
                return if started { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
            }
        }
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| bad("a chunk's size is not a number"))?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(body);
            }
            if size > MAX_BODY - body.len() {
                return Err(bad("the body is too long"));
            }
            body.extend(self.take(size)?);
            self.take(2)?;
        }
    }
}
