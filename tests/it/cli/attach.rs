//! `logs` and `exec`, through the real API to a stand-in for containers.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use portreeve::api::attach::{AttachOptions, Connection, ExecControl, ExecIo, ExecOptions, LogOptions, OutputStream};
use portreeve::api::{Attach, AttachError};
use portreeve::model::Key;
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::objects::{against, fails, said};
use super::*;
use crate::support::api_server::{ApiServer, PATIENCE, instance, running};

/// Runs commands of its own: `echo WORDS`, `cat`, `exit N`, `flood`, and `screen`, which tells the terminal's size and ends
/// with the first key.
#[derive(Default)]
struct Container {
    asked: Mutex<Vec<LogOptions>>,
    size: Arc<watch::Sender<(u16, u16)>>,
}

#[async_trait::async_trait]
impl Attach for Container {
    async fn logs(
        &self,
        _: &Key,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, AttachError>>, AttachError> {
        self.asked.lock().expect("not poisoned").push(options);
        let lines = (1..=1000).map(|n| Ok(Bytes::from(format!("line {n}\n"))));
        Ok(stream::iter(lines).boxed())
    }

    async fn exec(&self, _: &Key, options: ExecOptions) -> Result<ExecIo, AttachError> {
        let words: Vec<&str> = options.command.iter().map(String::as_str).collect();
        let (input, mut theirs) = tokio::io::duplex(1024);
        let (output, code): (BoxStream<'static, _>, i64) = match words.as_slice() {
            ["echo", rest @ ..] => (once(OutputStream::Stdout, rest.join(" ")), 0),
            ["exit", code] => (once(OutputStream::Stderr, "leaving".into()), code.parse().expect("a number")),
            ["flood"] => {
                let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
                let chunks = stream::repeat(chunk).take(64).map(|c| Ok((OutputStream::Stdout, c)));
                (chunks.boxed(), 0)
            }
            ["cat"] => {
                let text = stream::once(async move {
                    let mut text = vec![];
                    theirs.read_to_end(&mut text).await.expect("readable");
                    Ok((OutputStream::Stdout, Bytes::from(text)))
                });
                (text.boxed(), 0)
            }
            ["screen"] => {
                let mut size = self.size.subscribe();
                let told = stream::once(async move {
                    let (width, height) = *size.wait_for(|s| *s != (0, 0)).await.expect("a size");
                    Ok((OutputStream::Stdout, Bytes::from(format!("{width}x{height};"))))
                });
                let key = stream::once(async move {
                    let key = theirs.read_u8().await.expect("a key");
                    Ok((OutputStream::Stdout, Bytes::from(format!("{key};"))))
                });
                (told.chain(key).boxed(), 5)
            }
            other => panic!("no command {other:?}"),
        };
        Ok(ExecIo { input: Box::pin(input), output, control: Box::new(Control { code, size: self.size.clone() }) })
    }

    async fn attach(&self, _: &Key, options: AttachOptions) -> Result<ExecIo, AttachError> {
        assert!(options.stdout && options.stderr);
        let output = once(OutputStream::Stdout, "said\n".into()).chain(once(OutputStream::Stderr, "moaned\n".into()));
        let control = Box::new(Control { code: 0, size: self.size.clone() });
        Ok(ExecIo { input: Box::pin(tokio::io::sink()), output: output.boxed(), control })
    }

    /// Port 8080 answers everything it heard, once it has heard the end.
    async fn connect(&self, key: &Key, port: u16) -> Result<Connection, AttachError> {
        if port != 8080 {
            let ports = vec![("web".to_owned(), 8080)];
            return Err(AttachError::NoPort { key: key.clone(), port, ports });
        }
        let (near, mut app) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let mut heard = vec![];
            app.read_to_end(&mut heard).await.expect("readable");
            app.write_all(&heard).await.expect("writable");
        });
        Ok(Connection { io: Box::new(near), in_use: Box::new(()) })
    }
}

fn once(which: OutputStream, text: String) -> BoxStream<'static, Result<(OutputStream, Bytes), AttachError>> {
    stream::iter([Ok((which, Bytes::from(text)))]).boxed()
}

struct Control {
    code: i64,
    size: Arc<watch::Sender<(u16, u16)>>,
}

#[async_trait::async_trait]
impl ExecControl for Control {
    async fn resize(&self, width: u16, height: u16) -> Result<(), AttachError> {
        self.size.send_replace((width, height));
        Ok(())
    }
    async fn exit_code(&self) -> Result<i64, AttachError> {
        Ok(self.code)
    }
}

async fn server() -> (ApiServer, Arc<Container>) {
    let container = Arc::new(Container::default());
    let server = ApiServer::start_with(container.clone()).await;
    let output = against(&server, &["apply", "-f", "-"], &instance("alice").to_string()).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    server.put_status("alice", running()).await;
    (server, container)
}

#[tokio::test]
async fn logs_arrive_whole_and_flags_reach_the_container() {
    let (server, container) = server().await;
    let text = said(&server, &["logs", "alice", "--tail", "7", "--timestamps", "-f", "--since", "1m"]).await;
    assert_eq!(text.lines().count(), 1000);
    assert!(text.ends_with("line 1000\n"));
    let asked = container.asked.lock().expect("not poisoned").remove(0);
    assert!(asked.follow && asked.timestamps && asked.since.is_some() && asked.tail == Some(7), "{asked:?}");
    let (code, errors) = fails(&server, &["logs", "nobody"], "").await;
    assert_eq!((code, errors.as_str()), (1, "Error from server (NotFound): pods \"nobody\" not found\n"));
}

#[tokio::test]
async fn a_command_gets_its_words_its_input_and_its_exit_code() {
    let (server, _) = server().await;
    assert_eq!(said(&server, &["exec", "alice", "--", "echo", "a & b", "ü"]).await, "a & b ü");
    let input: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    let cat = against(&server, &["exec", "-i", "alice", "--", "cat"], &input).await;
    assert_eq!(stdout(&cat), input, "more than any buffer on the way holds");
    let left = against(&server, &["exec", "alice", "--", "exit", "7"], "").await;
    assert_eq!((left.status.code(), stderr(&left).as_str()), (Some(7), "leaving"));
    let flood = against(&server, &["exec", "alice", "--", "flood"], "").await;
    assert_eq!((flood.status.code(), flood.stdout.len()), (Some(0), 4 << 20), "{}", stderr(&flood));
    let (code, errors) = fails(&server, &["exec", "nobody", "--", "echo"], "").await;
    assert_eq!((code, errors.as_str()), (1, "Error from server (NotFound): pods \"nobody\" not found\n"));
}

/// Both ends of a new pseudo-terminal: the user's and the program's.
fn terminal() -> (std::fs::File, std::fs::File) {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let user = rustix::pty::openpt(flags).expect("a pseudo-terminal");
    rustix::pty::grantpt(&user).expect("granted");
    rustix::pty::unlockpt(&user).expect("unlocked");
    let name = rustix::pty::ptsname(&user, vec![]).expect("its name");
    let no_tty = i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).expect("flags");
    let path = name.to_str().expect("a path");
    let program = std::fs::OpenOptions::new().read(true).write(true).custom_flags(no_tty).open(path).expect("opened");
    (user.into(), program)
}

async fn shown(terminal: &mut tokio::fs::File, length: usize) -> String {
    let mut text = vec![0; length];
    tokio::time::timeout(PATIENCE, terminal.read_exact(&mut text)).await.expect("in time").expect("readable");
    String::from_utf8(text).expect("UTF-8")
}

#[tokio::test]
async fn a_terminal_is_raw_while_the_command_runs_and_as_before_afterwards() {
    let (server, _) = server().await;
    let (user, program) = terminal();
    let size = Winsize { ws_col: 100, ws_row: 30, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&program, size).expect("resized");
    let modes = || tcgetattr(&program).expect("modes").local_modes;
    let before = modes();
    assert!(before.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));

    let mut command = portreeve(server.dir.path(), &["exec", "-it", "alice", "--", "screen"]);
    command.env("PORTREEVE_KUBECONFIG", &server.kubeconfig);
    let end = || program.try_clone().expect("a copy");
    command.stdin(end()).stdout(end()).stderr(std::process::Stdio::piped());
    let child = command.spawn().expect("the binary runs");
    let mut user = tokio::fs::File::from_std(user);
    assert_eq!(shown(&mut user, 7).await, "100x30;");
    assert!(!modes().intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
    // Ctrl-C, and no line end: in raw mode it is a key like any other
    user.write_all(b"\x03").await.expect("typed");
    user.flush().await.expect("typed");
    assert_eq!(shown(&mut user, 2).await, "3;");
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("in time").expect("it ends");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(5), ""));
    assert_eq!(modes(), before);
}

#[tokio::test]
async fn a_terminal_is_asked_for_only_where_there_is_one() {
    let (server, _) = server().await;
    let output = against(&server, &["exec", "-it", "alice", "--", "echo", "hi"], "").await;
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "hi"));
    assert!(stderr(&output).contains("not a terminal"), "{}", stderr(&output));
}

#[tokio::test]
async fn attach_shows_what_the_container_writes() {
    let (server, _) = server().await;
    let output = against(&server, &["attach", "alice"], "").await;
    assert_eq!((output.status.code(), stdout(&output), stderr(&output)), (Some(0), "said\n".into(), "moaned\n".into()));
}

#[tokio::test]
async fn a_forwarded_port_carries_several_connections_each_with_its_own_end() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::TcpStream;

    let (server, _) = server().await;
    let mut command = portreeve(server.dir.path(), &["port-forward", "alice", ":8080", ":9"]);
    command.env("PORTREEVE_KUBECONFIG", &server.kubeconfig).kill_on_drop(true);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut port = async || {
        let line =
            tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("text").expect("a line");
        let address = line.strip_prefix("Forwarding from ").and_then(|l| l.split(' ').next());
        address.and_then(|a| a.parse::<std::net::SocketAddr>().ok()).unwrap_or_else(|| panic!("{line}"))
    };
    let (open, closed) = (port().await, port().await);
    let ask = async |to: std::net::SocketAddr, text: String| {
        let talk = async {
            let mut stream = TcpStream::connect(to).await.expect("connected");
            let (mut read, mut write) = stream.split();
            let send = async {
                write.write_all(text.as_bytes()).await.expect("sent");
                write.shutdown().await.expect("ended");
            };
            let mut answer = String::new();
            let (_, read) = tokio::join!(send, read.read_to_string(&mut answer));
            read.map(|_| answer).unwrap_or_default()
        };
        tokio::time::timeout(PATIENCE, talk).await.expect("in time")
    };
    // more than any buffer on the way holds, and answered only after the end
    let text = |n: usize| format!("{n} ").repeat(50_000);
    let answers = futures::future::join_all((0..4).map(|n| ask(open, text(n)))).await;
    assert!(answers.iter().enumerate().all(|(n, answer)| *answer == text(n)));
    assert_eq!(ask(closed, String::new()).await, "");
    let mut errors = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let said =
        tokio::time::timeout(PATIENCE, errors.next_line()).await.expect("in time").expect("text").expect("a line");
    assert!(said.ends_with("has no port 9; it declares 8080 (web)"), "{said}");
    child.kill().await.expect("killed");
}
