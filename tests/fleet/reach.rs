//! Reaching into real containers from our own command line: copies both ways, and the log of the run before.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, PATIENCE, condition, instance, instance_with, within};
use crate::daemon::second;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode() & 0o777
}

#[test]
fn files_and_directories_are_copied_in_and_out_and_survive_a_restart() {
    let mut plane = ControlPlane::start(31_440);
    let name = "copied";
    let volumes = json!([{"name": "data", "mountPath": "/data", "reclaim": "Delete"}]);
    plane.apply(&instance_with(name, &json!({"idle": {"after": "2s"}, "volumes": volumes})));
    plane.until(name, "it sleeps", |o| o["status"]["phase"] == "Asleep");

    let here = plane.directory().join("site");
    fs::create_dir_all(here.join("deep")).expect("directories");
    let big: Vec<u8> = (0..50_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for (path, content, mode) in [("deep/big", big.as_slice(), 0o600), ("run", b"#!/bin/sh\n", 0o750)] {
        fs::write(here.join(path), content).expect("written");
        fs::set_permissions(here.join(path), fs::Permissions::from_mode(mode)).expect("changed");
    }
    // more than its memory limit, into one that has to wake first
    plane.run(&["cp", &here.display().to_string(), &format!("{name}:/data")]);
    // the container is made anew, with its data
    plane.run(&["restart", name]);
    let back = plane.directory().join("back");
    plane.run(&["cp", &format!("default/{name}:/data/site"), &back.display().to_string()]);
    assert!(fs::read(back.join("deep/big")).expect("the copy") == big);
    assert_eq!((mode(&back.join("deep/big")), mode(&back.join("run"))), (0o600, 0o750));

    let nothing = plane.cli(&["cp", &format!("{name}:/data/none"), "/tmp"], "").expect_err("there is no such file");
    assert!(nothing.contains("tar in default/copied ended with exit code 2: "), "{nothing}");
    // how a daemon tells of a program that is not there, by which `cp` knows that an image has no tar
    let nothing = plane.cli(&["exec", name, "--", "no-such-program"], "").expect_err("there is no such program");
    assert!(["126", "127"].iter().any(|code| nothing.contains(&format!("exit status: {code}"))), "{nothing}");
}

/// The times and lines of a log.
fn lines(text: &str) -> Vec<(Timestamp, String)> {
    let split = |line: &str| {
        let (time, text) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
        (time.parse().unwrap_or_else(|e| panic!("{line}: {e}")), text.to_owned())
    };
    text.lines().map(split).collect()
}

fn runs(text: &str) -> usize {
    text.lines().filter(|l| l.contains("starting version")).count()
}

fn state(plane: &ControlPlane, name: &str) -> Value {
    plane.daemon.container(name)["State"].clone()
}

#[test]
fn the_log_of_the_run_before_holds_its_lines_and_none_of_the_present_run() {
    let mut plane = ControlPlane::start(31_460);
    let name = "relapsing";
    let env = json!([{"name": "EXIT_AFTER_MS", "value": "4000"}, {"name": "EXIT_CODE", "value": "3"}]);
    plane.apply(&instance_with(name, &json!({"power": "Running", "env": env})));

    // look while it runs, in the second run and in a later one: the daemon is asked before and after, so that what was
    // read is known to be of that run
    for at_least in [1, 2] {
        let seen = within(PATIENCE, || {
            let object = plane.get(name);
            if object["status"]["restarts"].as_i64().unwrap_or(0) < at_least {
                return Err(format!("{:#}", object["status"]));
            }
            let before = state(&plane, name);
            let previous = plane.cli(&["logs", "-p", "--timestamps", name], "")?;
            let all = plane.cli(&["logs", "--timestamps", name], "")?;
            let last = plane.cli(&["logs", "-p", "--tail", "1", name], "")?;
            let after = state(&plane, name);
            if before["Running"] != true || before["StartedAt"] != after["StartedAt"] || after["Running"] != true {
                return Err(format!("{before:#} {after:#}"));
            }
            Ok((after, previous, all, last))
        });
        let (state, previous, all, last) = seen.unwrap_or_else(|why| plane.fail(name, &why));
        assert_eq!(runs(&previous), 1, "the lines of one run: {previous}\n{state:#}");
        let time = |field: &str| state[field].as_str().and_then(|t| t.parse::<Timestamp>().ok()).expect("a time");
        let (finished, started) = (time("FinishedAt"), time("StartedAt"));
        let (previous, all) = (lines(&previous), lines(&all));
        let end = previous.last().expect("a line").0;
        assert!(end < started, "{previous:?} {state:#}");
        // what is not of the run before is of an earlier or of the present one, and nothing is lost between
        let present: Vec<_> = all.iter().filter(|(at, _)| *at > end).collect();
        assert_eq!(present.iter().filter(|(_, l)| l.contains("starting version")).count(), 1, "{all:?} {state:#}");
        assert!(present.iter().all(|(at, _)| *at > finished), "{all:?} {state:#}");
        let lag = present[0].0.duration_since(started);
        eprintln!("{name}: finished {finished}, its last line {end}; started {started}, first line {lag:#} later");
        assert_eq!(last.lines().count(), 1, "{last}");
        assert!(previous.iter().any(|(_, line)| *line == last.trim_end()), "{last}");
    }
    // while it waits to be started again, the run that crashed is the previous one
    let waiting = within(PATIENCE, || {
        let object = plane.get(name);
        let before = state(&plane, name);
        let previous = plane.cli(&["logs", "-p", name], "")?;
        let after = state(&plane, name);
        let still =
            before["Running"] == false && before["StartedAt"] == after["StartedAt"] && after["Running"] == false;
        if still { Ok(previous) } else { Err(format!("{:#}", object["status"])) }
    });
    let waiting = waiting.unwrap_or_else(|why| plane.fail(name, &why));
    assert_eq!(runs(&waiting), 1, "{waiting}");

    // one that was made anew has had no run before
    plane.apply(&instance_with(name, &json!({"power": "Running"})));
    plane.until_serves(name);
    let none = plane.cli(&["logs", "-p", name], "").expect_err("another container");
    assert!(none.contains("previous terminated container \"main\" in pod \"relapsing\" not found"), "{none}");
}

#[test]
fn a_run_that_ended_at_once_is_told_from_those_before_it() {
    let mut plane = ControlPlane::start(31_680);
    let name = "shortlived";
    plane.apply(&instance_with(name, &json!({"power": "Running", "image": "portreeve/app:broken"})));
    plane.until(name, "it has crashed twice", |o| o["status"]["crashes"].as_i64().unwrap_or(0) > 1);
    let previous = within(PATIENCE, || {
        let before = state(&plane, name);
        let previous = plane.cli(&["logs", "-p", name], "")?;
        if before == state(&plane, name) { Ok(previous) } else { Err(format!("{before:#}")) }
    });
    let previous = previous.unwrap_or_else(|why| plane.fail(name, &why));
    let all = plane.run(&["logs", name]);
    assert!(runs(&previous) == 1 && runs(&all) > 1, "{previous}\nof\n{all}\n{:#}", state(&plane, name));
}

#[test]
fn a_sleeper_that_was_woken_shows_what_it_wrote_before_it_slept() {
    let mut plane = ControlPlane::start(31_480);
    let name = "rested";
    plane.apply(&instance_with(name, &json!({"idle": {"after": "2s"}})));
    plane.until(name, "it sleeps", |o| o["status"]["phase"] == "Asleep");
    assert_eq!(runs(&plane.run(&["logs", "-p", name])), 1, "it sleeps: its last run is over");
    plane.run(&["wake", name]);
    let previous = plane.run(&["logs", "--previous", "--timestamps", name]);
    assert_eq!(runs(&previous), 1, "{previous}");
    let started = state(&plane, name)["StartedAt"].as_str().and_then(|t| t.parse::<Timestamp>().ok()).expect("a time");
    assert!(lines(&previous).iter().all(|(at, _)| *at < started), "{previous}");
    assert!(
        lines(&previous)
            .last()
            .is_some_and(|(at, _)| started.duration_since(*at) > Duration::from_secs(1).try_into().expect("short"))
    );
}

#[test]
fn a_drained_host_is_left_and_what_is_bound_to_it_is_named() {
    let h2 = second(&["drained", "bound"]);
    let mut plane = ControlPlane::start(31_700);
    plane.apply(&h2.record("31720-31739"));
    let ready = within(PATIENCE, || {
        let host: Value = serde_json::from_str(&plane.cli(&["get", "dh", "h2", "-o", "json"], "")?)
            .map_err(|e| format!("no host: {e}"))?;
        if condition(&host, "Ready")["status"] == "True" { Ok(()) } else { Err(format!("{host:#}")) }
    });
    ready.unwrap_or_else(|why| panic!("{why}"));
    plane.run(&["cordon", "h2"]);
    let mut free = instance("drained");
    free["metadata"]["labels"] = json!({"free": "yes"});
    plane.apply(&free);
    plane.apply(&instance_with("bound", &json!({"volumes": [{"name": "data", "mountPath": "/data"}]})));
    for name in ["drained", "bound"] {
        assert_eq!(plane.until_serves(name)["status"]["node"], "local");
    }

    // there is nowhere to go
    let why = plane.cli(&["host", "drain", "local", "--timeout", "10s"], "").expect_err("nobody can leave");
    assert!(
        why.contains("exit status: 124") && why.contains("default/drained: instance default/drained cannot"),
        "{why}"
    );
    plane.run(&["uncordon", "h2"]);
    let why = plane.cli(&["drain", "local", "--dry-run=server"], "").expect_err("one cannot leave");
    assert!(why.contains("instance default/bound: ") && !why.contains("default/drained"), "{why}");
    let said = plane.run(&["drain", "local", "-l", "free=yes", "--timeout", "240s"]);
    assert!(said.starts_with("dockerhost.portreeve.dev/local already cordoned\n"), "{said}");
    assert!(
        said.ends_with("instance.portreeve.dev/drained evicted\ndockerhost.portreeve.dev/local drained\n"),
        "{said}"
    );

    let object = plane.until_serves("drained");
    assert_eq!(object["status"]["node"], "h2");
    assert_eq!(h2.daemon.container("drained")["Id"], object["status"]["containerID"]);
    assert_eq!(plane.daemon.containers("drained").len(), 0, "nothing of it is left behind");
    assert_eq!(plane.page("drained", "/").field("version"), "1");
    assert_eq!(plane.until_serves("bound")["status"]["node"], "local", "it runs on where its data is");
    plane.run(&["uncordon", "local"]);
    plane.run(&["delete", "inst", "drained", "bound"]);
}
