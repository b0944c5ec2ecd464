//! The map of `src/lib.rs`, enforced: which room may use which. Reads every `crate::` and `super::` path of the source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Room, and what it may use besides itself. `clock` is the injected time; `serve` may use everything.
const MAY_USE: [(&str, &[&str]); 15] = [
    ("model", &[]),
    ("clock", &[]),
    ("telemetry", &[]),
    ("stall", &[]),
    ("pki", &[]),
    ("runtime", &["clock"]),
    ("scheduler", &["model"]),
    ("store", &["model", "clock"]),
    ("cache", &["store", "model"]),
    ("docker", &["model", "pki", "clock"]),
    ("controllers", &["model", "scheduler", "store", "cache", "runtime", "docker", "pki", "clock"]),
    ("proxy", &["model", "cache", "pki", "clock", "stall"]),
    ("acme", &["model", "cache", "runtime", "pki", "proxy", "clock"]),
    ("api", &["model", "store", "cache", "pki", "clock", "stall"]),
    ("cli", &["model", "pki", "clock"]),
];

/// What a pure place must not even name.
const IMPURE: [&str; 6] = ["tokio", "bollard", "axum", "sled", "hyper", "std::fs"];
/// Of `std::net`, addresses are data; these are not.
const SOCKETS: [&str; 5] = ["TcpStream", "TcpListener", "UdpSocket", "ToSocketAddrs", "std::net::*"];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// (room, file, code without comments and without its unit tests)
fn rooms() -> Vec<(String, String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![];
    sources(&src, &mut files);
    files
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
            let room = name.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("\n#[cfg(test)]").next().unwrap();
            let lines = code.lines().filter(|l| !l.trim_start().starts_with("//"));
            (room, name, lines.collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

/// The rooms that a text names by `crate::ROOM` or `crate::{ROOM, …}`.
fn used(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for part in code.split("crate::").skip(1) {
        let names = if let Some(list) = part.strip_prefix('{') { list.split('}').next().unwrap() } else { part };
        let take = if part.starts_with('{') { usize::MAX } else { 1 };
        for name in names.split(',').take(take) {
            let word: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.insert(word);
        }
    }
    found
}

#[test]
fn no_room_uses_what_it_must_not() {
    let allowed: BTreeMap<_, _> = MAY_USE.into_iter().collect();
    let all: BTreeSet<&str> = allowed.keys().copied().chain(["serve"]).collect();
    let mut wrong = vec![];
    let mut checked = 0;
    for (room, file, code) in rooms() {
        if matches!(room.as_str(), "lib" | "main" | "serve") {
            continue;
        }
        let may = allowed.get(room.as_str()).unwrap_or_else(|| panic!("{file} is in no room of the map"));
        for name in used(&code) {
            checked += 1;
            if name != room && all.contains(name.as_str()) && !may.contains(&name.as_str()) {
                wrong.push(format!("{file} uses {name}"));
            }
        }
    }
    assert!(checked > 100, "only {checked} paths were found: the check reads nothing");
    assert!(wrong.is_empty(), "forbidden arrows:\n{}", wrong.join("\n"));
}

#[test]
fn the_store_knows_the_model_only_where_it_is_typed() {
    for (room, file, code) in rooms() {
        if room == "store" && !file.ends_with("typed.rs") {
            let names: Vec<_> =
                code.lines().filter(|l| l.contains("crate::model") && !l.contains("MAX_OBJECT_BYTES")).collect();
            assert!(names.is_empty(), "{file}: {names:?}");
        }
    }
}

#[test]
fn what_decides_names_nothing_that_acts() {
    let pure = |room: &str, file: &str| {
        room == "scheduler"
            || (room == "model")
            || file.ends_with("/plan.rs")
            || file.ends_with("controllers/instance/adoption.rs")
            || file.ends_with("docker/adoption.rs")
            || file.ends_with("controllers/instance/loss.rs")
            || file.ends_with("controllers/instance/running.rs")
            || file.ends_with("controllers/instance/desired.rs")
            || file.ends_with("controllers/instance/report.rs")
            || file.ends_with("controllers/instance/wakefulness.rs")
    };
    let mut seen = 0;
    for (room, file, code) in rooms() {
        if !pure(&room, &file) {
            continue;
        }
        seen += 1;
        for name in IMPURE {
            assert!(!code.contains(&format!("{name}::")), "{file} names {name}");
        }
        for name in SOCKETS.into_iter().chain(["crate::store", "crate::clock", "::now()", "async "]) {
            assert!(!code.contains(name), "{file} names {name}");
        }
    }
    assert!(seen > 10, "only {seen} pure files were found");
}

#[test]
fn controllers_meet_only_in_the_store() {
    let controllers = ["instance", "host"];
    for (room, file, code) in rooms() {
        let Some(own) = file.strip_prefix("controllers/").and_then(|f| f.split_once('/')).map(|(c, _)| c.to_owned())
        else {
            continue;
        };
        assert_eq!(room, "controllers");
        for other in controllers.iter().filter(|c| **c != own) {
            let paths = [format!("super::super::{other}::"), format!("controllers::{other}")];
            assert!(!paths.iter().any(|p| code.contains(p.as_str())), "{file} uses the controller {other}");
        }
    }
}
