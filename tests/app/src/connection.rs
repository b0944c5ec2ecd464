//! Connections: one thread each, at most [`MAX_CONNECTIONS`]; HTTP/1.1 with keep-alive.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::request::Reader;
use crate::{Settings, routes, websocket};

const MAX_CONNECTIONS: usize = 1024;
/// How long a client may be silent.
const IDLE: Duration = Duration::from_secs(90);

/// How one request is answered.
pub enum Answer {
    Whole(Response),
    /// Numbered lines, one each 100 ms: so many, or until the client leaves.
    Lines(Option<u64>),
    WebSocket {
        accept: String,
    },
    /// A last answer, then the program exits with the code.
    Exit(Response, i32),
}

pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Response {
    pub fn text(status: u16, body: impl Into<String>) -> Response {
        Response { status, body: body.into().into_bytes() }
    }
}

/// Serves connections for ever.
pub fn accept(listener: &TcpListener, settings: &Arc<Settings>) {
    static OPEN: AtomicUsize = AtomicUsize::new(0);
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // out of descriptors: let others close theirs
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        if OPEN.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            OPEN.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let settings = settings.clone();
        let spawned = thread::Builder::new().spawn(move || {
            // an error here is the client's going away, or its bad request, which has had its answer
            let _ = serve(stream, &settings);
            OPEN.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            // the container's limit of processes: the client sees its connection closed
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn serve(stream: TcpStream, settings: &Settings) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    let port = stream.local_addr()?.port();
    let mut reader = Reader::new(stream);
    loop {
        let request = match reader.request() {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let response = Response::text(400, format!("{error}\n"));
                return send(&mut reader.stream, &response, settings, port, false, false);
            }
            Err(error) => return Err(error),
        };
        let head_only = request.method == "HEAD";
        match routes::answer(&request, settings, port) {
            Answer::Whole(response) => {
                send(&mut reader.stream, &response, settings, port, request.keep_alive, head_only)?;
                if !request.keep_alive {
                    return Ok(());
                }
            }
            Answer::Lines(count) => return send_lines(&mut reader.stream, count),
            Answer::WebSocket { accept } => {
                let head = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n"
                );
                reader.stream.write_all(head.as_bytes())?;
                // an open WebSocket may be silent for as long as it likes
                reader.stream.set_read_timeout(None)?;
                return websocket::echo(&mut reader);
            }
            Answer::Exit(response, code) => {
                send(&mut reader.stream, &response, settings, port, false, head_only)?;
                std::process::exit(code);
            }
        }
    }
}

fn send(
    stream: &mut TcpStream,
    response: &Response,
    settings: &Settings,
    port: u16,
    keep_alive: bool,
    head_only: bool,
) -> io::Result<()> {
    let reason = match response.status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        503 => "Service Unavailable",
        _ => "Status",
    };
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", response.status);
    let _ = write!(head, "content-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n", response.body.len());
    let _ = write!(head, "x-app-version: {}\r\nx-app-port: {port}\r\n", settings.version);
    let _ = write!(head, "connection: {}\r\n\r\n", if keep_alive { "keep-alive" } else { "close" });
    let mut bytes = head.into_bytes();
    if !head_only {
        bytes.extend_from_slice(&response.body);
    }
    stream.write_all(&bytes)
}

fn send_lines(stream: &mut TcpStream, count: Option<u64>) -> io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
    )?;
    for n in 1..=count.unwrap_or(u64::MAX) {
        if n > 1 {
            thread::sleep(Duration::from_millis(100));
        }
        let line = format!("line {n}\n");
        stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes())?;
    }
    stream.write_all(b"0\r\n\r\n")
}
