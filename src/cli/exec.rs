//! `portreeve exec`: a command in an instance's container, over the WebSocket protocol of Kubernetes
//! (`v5.channel.k8s.io`): binary frames, whose first byte names the channel.
//!
//! ```text
//! stdin ──▶ send queue ──▶ socket ──▶ stdout, stderr, the command's end
//! SIGWINCH ─┘
//! ```

use std::io::{IsTerminal, Write};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use clap::Args;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::error::{Error, Exit, Result};
use super::output::print_bytes;
use super::session::Session;
use super::terminal::{RawTerminal, size};
use super::url::{self, with_query};

pub const PROTOCOL: &str = "v5.channel.k8s.io";
pub const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
pub const CLOSE: u8 = 255;

/// How often the server is asked whether it is still there, and for how long it may fail to answer.
const PING_EVERY: Duration = Duration::from_secs(10);
const GIVE_UP_AFTER_PINGS: u32 = 6;

/// Run a command in an instance's container.
///
/// Ends with the command's own exit code.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve exec alice -- ls -l /home/app
  portreeve exec -it alice -- sh
  portreeve exec -i alice -- tar xf - -C /home/app < files.tar")]
pub struct ExecArgs {
    /// The instance
    pub name: String,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

pub async fn run(args: &ExecArgs, session: &Session) -> Result<Exit> {
    let tty = args.tty && std::io::stdin().is_terminal();
    if args.tty && !tty {
        eprintln!("Unable to use a TTY - input is not a terminal");
    }
    converse(session, &path(args, tty, &session.namespace), args.stdin, tty).await
}

/// A session on the WebSocket of this path, until its other end is over.
pub async fn converse(session: &Session, path: &str, stdin: bool, tty: bool) -> Result<Exit> {
    let socket = session.client.websocket(path, PROTOCOL).await?;
    // only once the server has agreed: a refusal is then read on a terminal in order
    let raw = if tty { Some(RawTerminal::enter()?) } else { None };
    let (mut sink, mut source) = socket.split();
    let (queue, mut to_send) = mpsc::channel::<Message>(16);

    let sender = tokio::spawn(async move {
        while let Some(message) = to_send.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
    });
    let input = stdin.then(|| tokio::spawn(forward_stdin(queue.clone())));
    let sizes = tty.then(|| tokio::spawn(forward_sizes(queue.clone())));

    let mut own = Own;
    let outcome = tokio::select! {
        outcome = receive(&mut source, &queue, &mut own) => outcome,
        signal = ended_by_signal() => Ok(Exit::Command(128 + signal)),
    };
    for task in [input, sizes].into_iter().flatten() {
        task.abort();
    }
    drop(queue);
    sender.abort();
    drop(raw);
    outcome
}

/// The path of a session with a command.
pub fn path(args: &ExecArgs, tty: bool, namespace: &str) -> String {
    let path = format!("{}/exec", url::pod(namespace, &args.name));
    let mut query: Vec<(&str, &str)> = args.command.iter().map(|word| ("command", word.as_str())).collect();
    query.push(("stdout", "true"));
    if args.stdin {
        query.push(("stdin", "true"));
    }
    // a terminal has one output
    query.push(if tty { ("tty", "true") } else { ("stderr", "true") });
    with_query(&path, &query)
}

/// What goes over the socket: a channel and its bytes.
pub fn frame(channel: u8, data: &[u8]) -> Message {
    let mut frame = BytesMut::with_capacity(data.len() + 1);
    frame.put_u8(channel);
    frame.put_slice(data);
    Message::Binary(frame.freeze())
}

async fn forward_stdin(queue: mpsc::Sender<Message>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let message = match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => frame(CLOSE, &[STDIN]),
            Ok(n) => frame(STDIN, &buffer[..n]),
        };
        let end = matches!(&message, Message::Binary(b) if b[0] == CLOSE);
        if queue.send(message).await.is_err() || end {
            return;
        }
    }
}

async fn forward_sizes(queue: mpsc::Sender<Message>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Some((width, height)) = size() {
            let resize = json!({"Width": width, "Height": height}).to_string();
            if queue.send(frame(RESIZE, resize.as_bytes())).await.is_err() {
                return;
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// The number of a signal that asks this process to end. The terminal must be put back first, so they are caught.
/// In raw mode Ctrl-C is a key for the command and comes here only from outside.
pub async fn ended_by_signal() -> u8 {
    let wait = async |kind: SignalKind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::hangup()) => 1,
        () = wait(SignalKind::interrupt()) => 2,
        () = wait(SignalKind::terminate()) => 15,
    }
}

/// Where a command's output goes. Waiting here makes the command wait.
pub trait Outlet {
    async fn stdout(&mut self, data: Bytes) -> Result<()>;
    async fn stderr(&mut self, data: Bytes) -> Result<()>;
}

/// This process's own output.
struct Own;

impl Outlet for Own {
    async fn stdout(&mut self, data: Bytes) -> Result<()> {
        print_bytes(&data)
    }

    async fn stderr(&mut self, data: Bytes) -> Result<()> {
        Ok(std::io::stderr().write_all(&data)?)
    }
}

/// Passes on what comes until the command has ended.
pub async fn receive<S>(source: &mut S, queue: &mpsc::Sender<Message>, out: &mut impl Outlet) -> Result<Exit>
where
    S: StreamExt<Item = tokio_tungstenite::tungstenite::Result<Message>> + Unpin,
{
    let mut end: Option<Result<Exit>> = None;
    let mut pings = tokio::time::interval(PING_EVERY);
    pings.reset();
    let mut unanswered = 0;
    let broken = |why: String| Error::failed(format!("the connection broke before the command ended: {why}"));
    loop {
        let message = tokio::select! {
            message = source.next() => message,
            _ = pings.tick() => {
                if unanswered >= GIVE_UP_AFTER_PINGS {
                    return end.unwrap_or_else(|| Err(broken("no answer from the server".into())));
                }
                unanswered += 1;
                // a full queue means that data is under way, which asks as well
                let _ = queue.try_send(Message::Ping(Bytes::new()));
                continue;
            }
        };
        unanswered = 0;
        match message {
            Some(Ok(Message::Binary(data))) => match data.first() {
                Some(&STDOUT) => out.stdout(data.slice(1..)).await?,
                Some(&STDERR) => out.stderr(data.slice(1..)).await?,
                Some(&ERROR) if end.is_none() => end = Some(ended(&data[1..])),
                _ => {}
            },
            Some(Ok(Message::Close(_))) | None => return end.unwrap_or_else(|| Err(broken("closed".into()))),
            Some(Ok(_)) => {}
            Some(Err(e)) => return end.unwrap_or_else(|| Err(broken(e.to_string()))),
        }
    }
}

/// What the Status on the error channel says about the command's end.
fn ended(data: &[u8]) -> Result<Exit> {
    let unreadable =
        || Error::failed(format!("the server told the command's end as {:?}", String::from_utf8_lossy(data)));
    let status: Value = serde_json::from_slice(data).map_err(|_| unreadable())?;
    if status["status"] == "Success" {
        return Ok(Exit::Done);
    }
    let causes = status["details"]["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let code = causes.iter().find(|c| c["reason"] == "ExitCode").and_then(|c| c["message"].as_str());
    match code.and_then(|c| c.parse::<i64>().ok()) {
        // an exit code has eight bits; what does not fit must not look like success
        Some(code) => Ok(Exit::Command(u8::try_from(code).ok().filter(|c| *c != 0).unwrap_or(1))),
        None => {
            Err(Error::failed(status["message"].as_str().map_or_else(|| "the command failed".into(), String::from)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn args() -> ExecArgs {
        ExecArgs { name: "a".into(), stdin: true, tty: false, command: vec!["sh".into(), "-c".into(), "a & b".into()] }
    }

    #[test]
    fn each_word_of_the_command_is_one_parameter() {
        assert_eq!(
            path(&args(), false, "ns"),
            "/api/v1/namespaces/ns/pods/a/exec?command=sh&command=-c&command=a%20%26%20b&stdout=true&stdin=true&stderr=true"
        );
        assert!(path(&args(), true, "ns").ends_with("stdin=true&tty=true"));
    }

    #[test]
    fn the_commands_exit_code_is_passed_through() {
        let failure = |code: &str| {
            let causes = json!([{"reason": "ExitCode", "message": code}]);
            json!({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}}).to_string()
        };
        assert_eq!(ended(failure("7").as_bytes()).unwrap(), Exit::Command(7));
        assert_eq!(ended(failure("256").as_bytes()).unwrap(), Exit::Command(1), "never taken for success");
        assert_eq!(ended(br#"{"status":"Success"}"#).unwrap(), Exit::Done);
        assert_eq!(ended(br#"{"status":"Failure","message":"no sh"}"#).unwrap_err().to_string(), "no sh");
        assert!(ended(b"?").is_err());
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_never_taken_for_success() {
        let (queue, _rest) = mpsc::channel(1);
        let mut cut = stream::iter([Ok(frame(STDERR, b""))]);
        assert!(receive(&mut cut, &queue, &mut Own).await.unwrap_err().to_string().contains("broke before"));
        let mut ended = stream::iter([Ok(frame(ERROR, br#"{"status":"Success"}"#)), Ok(Message::Close(None))]);
        assert_eq!(receive(&mut ended, &queue, &mut Own).await.unwrap(), Exit::Done);
    }
}
