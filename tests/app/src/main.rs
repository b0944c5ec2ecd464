//! The program inside the test image: a small HTTP server whose misbehaviour is set by environment variables.
//!
//! It stands in for "one user's app" in `cargo xtask demo` and in the tests with real daemons. The image holds
//! nothing else, no shell either, so a few subcommands take the place of one for `exec`:
//!
//! ```text
//! portreeve-app                 serve (see below)
//! portreeve-app echo TEXT...    print TEXT
//! portreeve-app cat             copy standard input to standard output
//! portreeve-app env             print the environment, sorted
//! portreeve-app exit N          exit with code N
//! portreeve-app sleep MS        exit with 0 after MS milliseconds
//! portreeve-app ask ADDR PATH   GET the path from the server there and print the whole answer
//! tar, test                     what `kubectl cp` runs: the image has these names, too
//! ```
//!
//! | variable | what |
//! |---|---|
//! | `PORT`, `PORTS` | the port (8080), or several with commas between |
//! | `DATA_DIR` | where `/data/<file>` lives (`/data`) |
//! | `APP_VERSION` | what `/` reports |
//! | `START_DELAY_MS` | wait so long before listening |
//! | `EXIT_AFTER_MS`, `EXIT_CODE` | exit so long after the start, with this code (1) |
//! | `HEALTH` | `fail`: `/health` answers 503 |
//! | `BURN` | `1`: one thread is busy for good |
//! | `ALLOC` | take and keep so many MiB before listening |

mod connection;
mod data;
mod request;
mod routes;
mod tar;
mod websocket;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// What the environment asks for.
pub struct Settings {
    pub ports: Vec<u16>,
    pub version: String,
    pub healthy: bool,
    pub data: data::DataDir,
    /// How often the program has started on this data directory, this time included; `None` without a writable one.
    pub boots: Option<u64>,
    start_delay: Duration,
    exit_after: Option<Duration>,
    exit_code: i32,
    alloc_mib: usize,
    burn: bool,
}

fn main() -> ExitCode {
    stop_on_signals();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let called = std::env::args().next().unwrap_or_default();
    let done = match (called.rsplit('/').next().unwrap_or_default(), words.as_slice()) {
        ("test", ["-d", path]) => tar::is_directory(path),
        ("tar", ["cf", "-", path]) => tar::create(path),
        ("tar", [.., "-xmf", "-"]) => tar::extract("."),
        ("tar", [.., "-xmf", "-", "-C", directory]) => tar::extract(directory),
        (_, words) => command(words),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portreeve-app: {error}");
            ExitCode::from(2)
        }
    }
}

fn command(words: &[&str]) -> Result<(), String> {
    match words {
        [] => settings().and_then(serve),
        ["echo", text @ ..] => print(&format!("{}\n", text.join(" "))),
        ["cat"] => copy_input(),
        ["env"] => print(&environment()),
        ["exit", code] => number(code, "the exit code").map(|code| std::process::exit(code)),
        ["ask", address, path] => ask(address, path),
        ["sleep", ms] => number(ms, "the time").map(|ms| thread::sleep(Duration::from_millis(ms))),
        other => Err(format!("unknown command: {}", other.join(" "))),
    }
}

/// Exits promptly on SIGTERM and SIGINT. PID 1 ignores every signal that it has no handler for.
fn stop_on_signals() {
    extern "C" fn stop(_: libc::c_int) {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(0) }
    }
    let handler = stop as extern "C" fn(libc::c_int) as libc::sighandler_t;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler calls nothing but _exit.
        unsafe { libc::signal(signal, handler) };
    }
}

fn number<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| format!("{what} is not a number in range: {text:?}"))
}

fn print(text: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| format!("writing to standard output: {e}"))
}

/// Not `io::copy`: what arrives must leave at once, so that a test can hold a dialogue.
fn copy_input() -> Result<(), String> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut buffer = [0; 16 * 1024];
    loop {
        let n = match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(format!("reading standard input: {e}")),
        };
        output
            .write_all(&buffer[..n])
            .and_then(|()| output.flush())
            .map_err(|e| format!("writing to standard output: {e}"))?;
    }
}

/// The container's own view of a server: what it can reach, and what the server says to it.
fn ask(address: &str, path: &str) -> Result<(), String> {
    let mut server = TcpStream::connect(address).map_err(|e| format!("connecting to {address}: {e}"))?;
    let mut answer = String::new();
    write!(server, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")
        .and_then(|()| server.read_to_string(&mut answer))
        .map_err(|e| format!("GET {path} from {address}: {e}"))?;
    print(&answer)
}

/// `NAME=value` lines, sorted.
pub fn environment() -> String {
    let mut lines: Vec<String> = std::env::vars_os()
        .map(|(name, value)| format!("{}={}\n", name.to_string_lossy(), value.to_string_lossy()))
        .collect();
    lines.sort();
    lines.concat()
}

fn settings() -> Result<Settings, String> {
    let text = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let millis = |name: &str| -> Result<Option<Duration>, String> {
        text(name).map(|v| number(&v, name).map(Duration::from_millis)).transpose()
    };
    let ports = text("PORTS").or_else(|| text("PORT")).unwrap_or_else(|| "8080".into());
    let ports = ports.split(',').map(|p| number(p, "the port")).collect::<Result<Vec<u16>, _>>()?;
    let data = data::DataDir::new(text("DATA_DIR").unwrap_or_else(|| "/data".into()));
    Ok(Settings {
        ports,
        version: text("APP_VERSION").unwrap_or_else(|| "0".into()),
        healthy: text("HEALTH").as_deref() != Some("fail"),
        boots: data.count_boot(),
        data,
        start_delay: millis("START_DELAY_MS")?.unwrap_or_default(),
        exit_after: millis("EXIT_AFTER_MS")?,
        exit_code: text("EXIT_CODE").map_or(Ok(1), |v| number(&v, "EXIT_CODE"))?,
        burn: text("BURN").as_deref() == Some("1"),
        alloc_mib: text("ALLOC").map_or(Ok(0), |v| number(&v, "ALLOC"))?,
    })
}

fn serve(settings: Settings) -> Result<(), String> {
    print(&format!("starting version {} as pid {}\n", settings.version, std::process::id()))?;
    let code = settings.exit_code;
    match settings.exit_after {
        Some(Duration::ZERO) => std::process::exit(code),
        Some(after) => drop(thread::spawn(move || {
            thread::sleep(after);
            std::process::exit(code);
        })),
        None => {}
    }
    hold_memory(settings.alloc_mib);
    if settings.burn {
        thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    thread::sleep(settings.start_delay);

    let settings = Arc::new(settings);
    let mut acceptors = Vec::new();
    for &port in &settings.ports {
        let listener =
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(|e| format!("listening on port {port}: {e}"))?;
        print(&format!("listening on 0.0.0.0:{port}\n"))?;
        let settings = settings.clone();
        acceptors.push(thread::spawn(move || connection::accept(&listener, &settings)));
    }
    for acceptor in acceptors {
        acceptor.join().map_err(|_| "an acceptor panicked".to_owned())?;
    }
    Ok(())
}

/// Takes memory for good, page by page, so that it counts against the container's limit.
pub fn hold_memory(mib: usize) {
    for _ in 0..mib {
        let mut block = vec![0_u8; 1 << 20];
        for page in block.chunks_mut(4096) {
            page[0] = 1;
        }
        std::mem::forget(std::hint::black_box(block));
    }
}
