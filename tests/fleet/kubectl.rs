//! The unmodified kubectl, from applying the quickstart to deleting it, and inside a container.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::control_plane::{ControlPlane, PATIENCE, instance_with, serves};

const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart");

#[test]
fn kubectl_applies_watches_and_deletes_the_quickstart() {
    let found = Command::new("kubectl").args(["version", "--client"]).stdout(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no kubectl on PATH");
        return;
    }
    let mut plane = ControlPlane::start(31_400);
    for name in ["hello", "sleepy"] {
        plane.owns(name);
    }
    let (config, home) = (plane.kubeconfig(), plane.directory());
    let kubectl = |args: &[&str]| {
        let mut command = Command::new("kubectl");
        command.args(args).env("KUBECONFIG", &config).env("HOME", &home).stdin(Stdio::null());
        command
    };
    let run = |args: &[&str]| {
        let output = kubectl(args).output().expect("kubectl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "kubectl {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };

    // it begins with what is there, so nothing is missed
    let mut watch = kubectl(&["get", "inst", "-w", "--no-headers", "--request-timeout=240s"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let applied = run(&["apply", "-f", QUICKSTART]);
    assert!(applied.contains("instance.portreeve.dev/hello created"), "{applied}");
    let lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    let mut seen = Vec::new();
    for line in lines {
        seen.push(line.expect("a line"));
        if seen.last().is_some_and(|l| l.starts_with("hello ") && l.contains("Running")) {
            break;
        }
    }
    let _ = watch.kill();
    let _ = watch.wait();
    assert!(seen.last().is_some_and(|l| l.contains("Running")), "{seen:#?}");

    plane.until("hello", "it serves", serves);
    assert_eq!(plane.page("hello", "/").field("version"), "1");
    let deleted = run(&["delete", "-f", QUICKSTART, "--timeout=240s"]);
    assert!(deleted.contains("hello") && deleted.contains("sleepy"), "{deleted}");
    assert_eq!(run(&["get", "inst", "-o", "name"]), "");
    assert!(plane.daemon.containers("hello").is_empty() && plane.daemon.containers("sleepy").is_empty());
}

/// The kubectl on PATH, and of those of other versions beside what it is a link to the oldest: it speaks SPDY.
fn newest_and_oldest() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(plain) = std::env::split_paths(&path).map(|d| d.join("kubectl")).find(|p| p.is_file()) else {
        eprintln!("skipped: no kubectl on PATH");
        return vec![];
    };
    let linked = plain.canonicalize().unwrap_or_else(|_| plain.clone());
    let beside = linked.parent().and_then(|d| d.read_dir().ok()).into_iter().flatten().flatten().map(|e| e.path());
    let numbered = |p: &PathBuf| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("kubectl.1."));
    beside.filter(numbered).min().into_iter().chain([plain]).collect()
}

fn wait(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().expect("kubectl ends");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn kubectl_reaches_into_a_container_and_wakes_it() {
    let programs = newest_and_oldest();
    if programs.is_empty() {
        return;
    }
    let name = "reached";
    let mut plane = ControlPlane::start(31_420);
    let (config, home) = (plane.kubeconfig(), plane.directory());
    let volumes = json!([{"name": "data", "mountPath": "/data", "reclaim": "Delete"}]);
    plane.apply(&instance_with(name, &json!({"idle": {"after": "3s"}, "volumes": volumes})));
    plane.until_serves(name);
    for program in &programs {
        let kubectl = |args: &[&str]| -> Child {
            let mut command = Command::new(program);
            command.args(args).env("KUBECONFIG", &config).env("HOME", &home);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("kubectl runs")
        };
        reach(&plane, name, &home, program, &kubectl);
    }
}

fn reach(plane: &ControlPlane, name: &str, home: &Path, program: &Path, kubectl: &dyn Fn(&[&str]) -> Child) {
    let pod = format!("pod/{name}");
    let asleep = || plane.until(name, "it sleeps", |o| o["status"]["phase"] == "Asleep");

    // a forwarded connection wakes it, and keeps it awake
    asleep();
    let mut forward = kubectl(&["port-forward", &pod, ":8080", ":9"]);
    let mut lines = BufReader::new(forward.stdout.take().expect("a pipe")).lines();
    let line = lines.next().expect("a line").expect("text");
    let port: u16 =
        line.split([':', ' ']).find_map(|w| w.parse().ok()).unwrap_or_else(|| panic!("{program:?}: {line}"));
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
        stream
    };
    let answered = |mut stream: TcpStream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let first = answered(ask("/"));
    assert!(first.starts_with("HTTP/1.1 200"), "{program:?}: {first}");
    let several: Vec<TcpStream> = (0..6).map(|_| ask("/")).collect();
    for stream in several {
        let answer = answered(stream);
        assert!(answer.starts_with("HTTP/1.1 200"), "{program:?}: {answer}");
    }
    let mut held = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    // half a request: the connection is open, and nothing moves
    held.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").expect("sent");
    // twice as long as it runs by itself; it may have fallen asleep before this was opened
    plane.comes_to_stay(name, std::time::Duration::from_secs(6), |o| o["status"]["phase"] == "Running");
    held.shutdown(Shutdown::Both).expect("closed");
    forward.kill().expect("killed");
    let _ = forward.wait();

    // so do exec, with what the app's image has for commands, and cp
    asleep();
    assert_eq!(
        wait(kubectl(&["exec", name, "--", "/app", "echo", "a & b"])),
        (Some(0), "a & b\n".into()),
        "{program:?}"
    );
    let (code, text) = wait(kubectl(&["exec", name, "--", "/app", "exit", "7"]));
    assert_eq!(code, Some(7), "{program:?}: {text}");
    let mut cat = kubectl(&["exec", "-i", name, "--", "/app", "cat"]);
    let input: String = (0..50_000).map(|n| format!("{n}\n")).collect();
    let mut stdin = cat.stdin.take().expect("a pipe");
    let copy = input.clone();
    let writer = std::thread::spawn(move || stdin.write_all(copy.as_bytes()));
    let (code, text) = wait(cat);
    writer.join().expect("no panic").expect("written");
    assert!(code == Some(0) && text == input, "{program:?}: {code:?}, {} bytes", text.len());

    let (there, back) = (home.join("there"), home.join("back"));
    let content: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(&there, &content).expect("a file");
    let copied = wait(kubectl(&["cp", there.to_str().expect("text"), &format!("{name}:/data/copied")]));
    assert_eq!(copied.0, Some(0), "{program:?}: {}", copied.1);
    let copied = wait(kubectl(&["cp", &format!("{name}:/data/copied"), back.to_str().expect("text")]));
    assert_eq!(copied.0, Some(0), "{program:?}: {}", copied.1);
    assert!(std::fs::read(&back).expect("the copy") == content, "{program:?}");
    std::fs::remove_file(&back).expect("removed");

    // attach and logs -f tell what is written from now on: here the end of the container
    let (attach, logs) = (kubectl(&["attach", name]), kubectl(&["logs", "-f", name]));
    // as above; it may have begun to stop before kubectl had connected
    plane.comes_to_stay(name, std::time::Duration::from_secs(6), |o| o["status"]["phase"] == "Running");
    plane.run(&["stop", name]);
    let (code, text) = wait(logs);
    assert!(code == Some(0) && text.contains("listening on 0.0.0.0:8080"), "{program:?}: {code:?} {text}");
    let (code, text) = wait(attach);
    assert_eq!(code, Some(0), "{program:?}: {text}");
    plane.until(name, "it is stopped", |o| o["status"]["phase"] == "Stopped");
    let (code, text) = wait(kubectl(&["exec", name, "--", "/app", "echo"]));
    assert!(code == Some(1) && text.contains("completed pod"), "{program:?}: {code:?} {text}");
    plane.run(&["start", name]);
    plane.until_serves(name);
}
