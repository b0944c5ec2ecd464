//! What each path answers. Pure but for the data directory, `/slow`, `/alloc`, `/dial`, `/ready`, `/hang`, `/busy`
//! and `/burn`.
//!
//! ```text
//! GET  /               hostname, version, boots, pid, port, one to a line
//! GET  /health         200 ok, or 503 with HEALTH=fail
//! GET  /ready          200 ok, or 503 after POST /ready?is=0, until POST /ready?is=1
//! GET  /busy           204, or 200 yes after POST /busy?is=1, until POST /busy?is=0
//! POST /burn?is=1      one thread is busy until POST /burn?is=0
//! POST /hang?port=N    from now on no request at that port is answered
//! GET  /data/FILE      the file; POST appends the body
//! GET  /env            the environment
//! GET  /headers        the request line and headers, as they arrived
//! POST /echo           the body
//! GET  /stream?count=N lines, one each 100 ms; without count until the client leaves
//! GET  /slow?ms=N      answers after N milliseconds
//! GET  /bytes?n=N      N bytes, at most 64 MiB
//! GET  /alloc?mib=N    takes and keeps memory
//! GET  /exit?code=N    answers, then exits
//! GET  /dial?to=IP:PORT whether a connection to there opens within two seconds: open, or why not
//! GET  /ws             WebSocket: sends back what it gets
//! ```

use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::connection::{Answer, Response};
use crate::request::Request;
use crate::{Settings, websocket};

/// Whether it says that it can serve.
static READY: AtomicBool = AtomicBool::new(true);
/// Whether it says that it is busy, and whether it is.
static BUSY: AtomicBool = AtomicBool::new(false);
static BURNS: AtomicBool = AtomicBool::new(false);
/// The port at which it hangs; 0: none.
static HUNG: AtomicU64 = AtomicU64::new(0);

pub fn answer(request: &Request, settings: &Settings, port: u16) -> Answer {
    let read = matches!(request.method.as_str(), "GET" | "HEAD");
    let write = request.method == "POST";
    let whole = |status: u16, text: &str| Answer::Whole(Response::text(status, text));
    while HUNG.load(Ordering::Relaxed) == u64::from(port) {
        thread::park();
    }
    match request.path.as_str() {
        "/" if read => Answer::Whole(Response::text(200, about(settings, port))),
        "/health" if read && settings.healthy => whole(200, "ok\n"),
        "/health" if read => whole(503, "failing, as HEALTH=fail asks\n"),
        "/ready" if read && READY.load(Ordering::Relaxed) => whole(200, "ok\n"),
        "/ready" if read => whole(503, "not ready, as it was asked to be\n"),
        "/ready" if write => set(request, |is| READY.store(is, Ordering::Relaxed)),
        "/busy" if read && BUSY.load(Ordering::Relaxed) => whole(200, "yes\n"),
        "/busy" if read => whole(204, ""),
        "/busy" if write => set(request, |is| BUSY.store(is, Ordering::Relaxed)),
        "/burn" if write => set(request, burn),
        "/hang" if write => match number(request, "port") {
            Ok(at) => {
                HUNG.store(at.unwrap_or_default(), Ordering::Relaxed);
                whole(200, "done\n")
            }
            Err(refusal) => refusal,
        },
        "/env" if read => Answer::Whole(Response::text(200, crate::environment())),
        "/headers" if read => Answer::Whole(Response::text(200, headers(request))),
        "/echo" if write => Answer::Whole(Response { status: 200, body: request.body.clone() }),
        "/stream" if read => match number(request, "count") {
            Ok(count) => Answer::Lines(count),
            Err(refusal) => refusal,
        },
        "/slow" if read => match number(request, "ms") {
            Ok(ms) => {
                thread::sleep(Duration::from_millis(ms.unwrap_or(1000)));
                whole(200, "done\n")
            }
            Err(refusal) => refusal,
        },
        "/bytes" if read => match number(request, "n") {
            Ok(n) => {
                Answer::Whole(Response { status: 200, body: vec![b'.'; n.unwrap_or(1024).min(64 << 20) as usize] })
            }
            Err(refusal) => refusal,
        },
        "/alloc" if read => match number(request, "mib") {
            Ok(mib) => {
                crate::hold_memory(mib.unwrap_or(1) as usize);
                whole(200, "done\n")
            }
            Err(refusal) => refusal,
        },
        "/exit" if read || write => match number(request, "code") {
            Ok(code) => Answer::Exit(Response::text(200, "bye\n"), code.unwrap_or(0) as i32),
            Err(refusal) => refusal,
        },
        "/dial" if read => match request.query("to").unwrap_or_default().parse::<SocketAddr>() {
            Ok(to) => match TcpStream::connect_timeout(&to, Duration::from_secs(2)) {
                Ok(_) => whole(200, "open\n"),
                Err(e) => Answer::Whole(Response::text(200, format!("{e}\n"))),
            },
            Err(e) => Answer::Whole(Response::text(400, format!("to: {e}\n"))),
        },
        "/ws" if read => websocket::answer(request),
        "/" | "/health" | "/ready" | "/busy" | "/burn" | "/hang" | "/env" | "/headers" | "/echo" | "/stream"
        | "/slow" | "/bytes" | "/alloc" | "/exit" | "/dial" | "/ws" => whole(405, "not with this method\n"),
        path => match path.strip_prefix("/data/") {
            Some(file) if read => file_answer(settings.data.read(file)),
            Some(file) if write => {
                file_answer(settings.data.append(file, &request.body).map(|()| b"appended\n".to_vec()))
            }
            Some(_) => whole(405, "not with this method\n"),
            None => Answer::Whole(Response::text(404, format!("no {path} on port {port}\n"))),
        },
    }
}

/// By `is`: 0 is no, all else yes.
fn set(request: &Request, to: impl FnOnce(bool)) -> Answer {
    match number(request, "is") {
        Ok(is) => {
            to(is != Some(0));
            Answer::Whole(Response::text(200, "done\n"))
        }
        Err(refusal) => refusal,
    }
}

fn burn(is: bool) {
    if is && !BURNS.swap(true, Ordering::Relaxed) {
        thread::spawn(|| {
            while BURNS.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
    } else {
        BURNS.store(is, Ordering::Relaxed);
    }
}

fn number(request: &Request, name: &str) -> Result<Option<u64>, Answer> {
    let Some(text) = request.query(name) else { return Ok(None) };
    let refusal = || Answer::Whole(Response::text(400, format!("{name} is not a number: {text:?}\n")));
    text.parse().map(Some).map_err(|_| refusal())
}

fn file_answer(result: io::Result<Vec<u8>>) -> Answer {
    Answer::Whole(match result {
        Ok(body) => Response { status: 200, body },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Response::text(404, "no such file\n"),
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => Response::text(400, format!("{e}\n")),
        Err(e) => Response::text(500, format!("{e}\n")),
    })
}

fn about(settings: &Settings, port: u16) -> String {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let boots = settings.boots.map_or("-".to_owned(), |n| n.to_string());
    format!(
        "hostname: {}\nversion: {}\nboots: {boots}\npid: {}\nport: {port}\n",
        hostname.trim(),
        settings.version,
        std::process::id()
    )
}

fn headers(request: &Request) -> String {
    let mut text = format!("{} {}\n", request.method, request.path);
    for (name, value) in &request.headers {
        let _ = writeln!(text, "{name}: {value}");
    }
    text
}
