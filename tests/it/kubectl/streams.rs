//! exec, attach and port-forward with kubectl: up to 1.29 they speak SPDY for exec, up to 1.30 for
//! port-forward, later ones WebSocket, with SPDY to fall back on.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use futures::future::join_all;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::MANIFEST;
use super::harness::players;
use crate::api::{Scripted, uses};
use crate::support::api_server::{ApiServer, PATIENCE, instance, running};
use crate::support::without;

/// One kubectl, and what to set for it.
#[derive(Clone, Debug)]
struct Kubectl {
    program: PathBuf,
    /// Whether it must not use WebSockets.
    spdy: bool,
}

struct World {
    server: ApiServer,
    home: tempfile::TempDir,
    open: Arc<AtomicU32>,
}

impl World {
    async fn new() -> World {
        let scripted = Scripted::default();
        let open = scripted.open.clone();
        let server = ApiServer::start_with(Arc::new(scripted)).await;
        let mut alice: serde_json::Value = serde_yaml::from_str(MANIFEST).expect("a manifest");
        alice["metadata"]["labels"] = serde_json::json!({"run": "alice"});
        server.client.post(crate::support::client::INSTANCES, &alice).await.expect(201);
        server.put_status("alice", running()).await;
        server.client.post(crate::support::client::INSTANCES, &instance("fresh")).await.expect(201);
        server.put_status("fresh", running()).await;
        World { server, home: tempfile::tempdir().expect("a directory"), open }
    }

    fn command(&self, kubectl: &Kubectl, args: &[&str]) -> Command {
        let mut command = Command::new(&kubectl.program);
        command.args(args);
        self.prepare(&mut command, kubectl);
        command
    }

    fn prepare(&self, command: &mut Command, kubectl: &Kubectl) {
        command.env("HOME", self.home.path()).env("KUBECONFIG", &self.server.kubeconfig);
        if kubectl.spdy {
            command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false").env("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    }

    /// Its exit code, output and errors.
    async fn run(&self, mut command: Command, input: &[u8]) -> (Option<i32>, String, String) {
        let mut child = command.spawn().expect("the program runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        let write = async move {
            // It may end before it has read everything.
            let _ = stdin.write_all(input).await;
        };
        let both = async { tokio::join!(write, child.wait_with_output()).1 };
        let output = tokio::time::timeout(PATIENCE, both).await.expect("it ended in time").expect("output");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    async fn ran(&self, kubectl: &Kubectl, args: &[&str], input: &[u8]) -> (Option<i32>, String, String) {
        self.run(self.command(kubectl, args), input).await
    }

    /// `port-forward` of free local ports; the local ports in the order of the given ones.
    async fn forward(&self, kubectl: &Kubectl, ports: &[&str]) -> (Child, Vec<u16>) {
        let mut args = vec!["port-forward", "pod/alice"];
        args.extend(ports);
        let mut child = self.command(kubectl, &args).spawn().expect("kubectl");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut local = vec![];
        while local.len() < ports.len() {
            let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("output");
            let line = line.unwrap_or_else(|| panic!("{kubectl:?} ended"));
            if let Some(rest) = line.strip_prefix("Forwarding from 127.0.0.1:") {
                local.push(rest.split(' ').next().and_then(|p| p.parse().ok()).expect("a port"));
            }
        }
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        (child, local)
    }
}

/// What `test` does, with each kubectl whose turn it is, over WebSocket (where it can) and over SPDY.
async fn with_kubectls(test: impl AsyncFn(&World, &Kubectl)) {
    let found = players().await;
    if found.is_empty() {
        return without("kubectl");
    }
    let world = World::new().await;
    for (at, program) in found.iter().enumerate() {
        // The fall-back is the same code in all that have it: once is enough.
        for spdy in if at + 1 == found.len() { vec![false, true] } else { vec![false] } {
            let kubectl = Kubectl { program: program.clone(), spdy };
            eprintln!("{} spdy: {spdy}", program.display());
            test(&world, &kubectl).await;
            uses(&world.open, 0).await;
        }
    }
}

#[tokio::test]
async fn exec_carries_input_output_and_exit_codes() {
    with_kubectls(async |world, kubectl| {
        let input: String = (0..20_000).map(|n| format!("{n}\n")).collect();
        let (code, output, errors) = world.ran(kubectl, &["exec", "-i", "alice", "--", "cat"], input.as_bytes()).await;
        assert_eq!((code, output == input), (Some(0), true), "{kubectl:?}: {} bytes, {errors}", output.len());
        let (code, output, errors) = world.ran(kubectl, &["exec", "alice", "--", "exit", "7"], b"").await;
        assert_eq!((code, output.as_str()), (Some(7), ""), "{kubectl:?}: {errors}");
        assert!(errors.contains("bad\n"), "{kubectl:?}: {errors}");
        let (code, output, errors) = world.ran(kubectl, &["exec", "alice", "--", "flood"], b"").await;
        assert_eq!((code, output.len()), (Some(0), 4 << 20), "{kubectl:?}: {errors}");
        let (code, _, errors) = world.ran(kubectl, &["exec", "alice", "--", "refuse"], b"").await;
        assert!(code == Some(1) && errors.contains("not running"), "{kubectl:?}: {code:?} {errors}");
    })
    .await;
}

#[tokio::test]
async fn exec_ends_within_seconds_of_a_client_that_vanishes() {
    with_kubectls(async |world, kubectl| {
        let mut child = world.command(kubectl, &["exec", "-i", "alice", "--", "cat"]).spawn().expect("kubectl");
        uses(&world.open, 1).await;
        child.kill().await.expect("killed");
    })
    .await;
}

#[tokio::test]
async fn a_terminal_has_its_size() {
    let there = Command::new("script").arg("--version").stdout(Stdio::null()).status().await;
    if !there.is_ok_and(|s| s.success()) {
        return without("script(1), which gives kubectl a terminal");
    }
    with_kubectls(async |world, kubectl| {
        let line = format!("stty cols 81 rows 24; exec '{}' exec -it alice -- key", kubectl.program.display());
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-c", &line, "/dev/null"]);
        world.prepare(&mut command, kubectl);
        let (code, output, errors) = world.run(command, b"k").await;
        assert_eq!(code, Some(81), "{kubectl:?}: {output} {errors}");
        assert!(output.contains('k'), "{kubectl:?}: {output}");
    })
    .await;
}

#[tokio::test]
async fn attach_shows_output_and_says_that_there_is_no_input() {
    with_kubectls(async |world, kubectl| {
        let (code, output, errors) = world.ran(kubectl, &["attach", "alice"], b"").await;
        assert_eq!((code, output.as_str()), (Some(0), "out\n"), "{kubectl:?}: {errors}");
        assert!(errors.contains("err\n"), "{kubectl:?}: {errors}");
        let (code, _, errors) = world.ran(kubectl, &["attach", "-i", "alice"], b"").await;
        assert!(code == Some(1) && errors.contains("has no standard input"), "{kubectl:?}: {code:?} {errors}");
    })
    .await;
}

/// Everything that comes after `text` was sent and ended.
async fn asked(port: u16, text: &[u8]) -> Vec<u8> {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let (mut read, mut write) = stream.split();
        let mut answer = vec![];
        let send = async {
            write.write_all(text).await?;
            write.shutdown().await
        };
        tokio::try_join!(send, read.read_to_end(&mut answer))?;
        std::io::Result::Ok(answer)
    };
    tokio::time::timeout(PATIENCE, ask).await.expect("an answer in time").expect("an answer")
}

#[tokio::test]
async fn many_connections_share_a_port_forward() {
    with_kubectls(async |world, kubectl| {
        let (mut child, ports) = world.forward(kubectl, &[":8080", ":8081"]).await;
        let answers = join_all((0..8).map(async |n| {
            let text = format!("question {n} ").repeat(4000);
            (asked(ports[0], text.as_bytes()).await, format!("{}BYE", text.to_ascii_uppercase()))
        }));
        for (answer, expected) in answers.await {
            assert_eq!(answer.len(), expected.len(), "{kubectl:?}");
            assert!(answer == expected.as_bytes(), "{kubectl:?}");
        }
        assert_eq!(asked(ports[1], b"").await, b"hello", "{kubectl:?}");
        child.kill().await.expect("killed");
    })
    .await;
}

#[tokio::test]
async fn the_log_of_the_run_before_is_told_from_that_of_the_present_one() {
    with_kubectls(async |world, kubectl| {
        let logs = async |args: &[&str]| {
            let args = [&["logs"], args].concat();
            world.run(world.command(kubectl, &args), b"").await
        };
        let (code, out, err) = logs(&["alice", "--previous"]).await;
        assert_eq!((code, out.as_str()), (Some(0), "begun\ncrashed\n"), "{kubectl:?}: {err}");
        let (code, out, err) = logs(&["alice", "-p", "--tail=1", "-c", "main"]).await;
        assert_eq!((code, out.as_str()), (Some(0), "crashed\n"), "{kubectl:?}: {err}");
        assert_eq!(logs(&["alice"]).await.1, "one\ntwo\n", "{kubectl:?}");
        assert_eq!(logs(&["alice", "--since-time=2026-01-01T00:00:02Z"]).await.1, "two\n", "{kubectl:?}");
        assert_eq!(logs(&["alice", "--since=1s"]).await.1, "", "{kubectl:?}");
        let (code, out, err) = logs(&["-l", "run=alice", "--timestamps", "--prefix"]).await;
        let line = "[pod/alice/main] 2026-01-01T00:00:01Z one";
        assert!(code == Some(0) && out.contains(line) && !out.contains("fresh"), "{kubectl:?}: {out}{err}");
        let (code, out, err) = logs(&["fresh", "-p"]).await;
        assert_eq!((code, out.as_str()), (Some(1), ""), "{kubectl:?}: {err}");
        assert!(
            err.contains("previous terminated container \"main\" in pod \"fresh\" not found"),
            "{kubectl:?}: {err}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_port_that_is_not_declared_is_refused_with_those_that_are() {
    with_kubectls(async |world, kubectl| {
        let (mut child, ports) = world.forward(kubectl, &[":9"]).await;
        let mut errors = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        assert_eq!(asked(ports[0], b"").await, b"", "{kubectl:?}");
        let said = async {
            while let Some(line) = errors.next_line().await.expect("output") {
                if line.contains("has no port 9; it declares 8080 (web), 8081 (greeter)") {
                    return;
                }
            }
            panic!("{kubectl:?} said nothing of the port");
        };
        tokio::time::timeout(PATIENCE, said).await.expect("in time");
        child.kill().await.expect("killed");
    })
    .await;
}
