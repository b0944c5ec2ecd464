//! The unmodified kubectl, from applying the quickstart to deleting it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::control_plane::{ControlPlane, serves};

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
    let mut watch = kubectl(&["get", "inst", "-w", "--no-headers", "--request-timeout=90s"]);
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
    let deleted = run(&["delete", "-f", QUICKSTART, "--timeout=60s"]);
    assert!(deleted.contains("hello") && deleted.contains("sleepy"), "{deleted}");
    assert_eq!(run(&["get", "inst", "-o", "name"]), "");
    assert!(plane.daemon.containers("hello").is_empty() && plane.daemon.containers("sleepy").is_empty());
}
