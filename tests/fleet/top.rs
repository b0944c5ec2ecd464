//! Live use and reservations on a real daemon: held against its own numbers, by the command line and by kubectl.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, PATIENCE, instance_with, within};

const MIB: i64 = 1 << 20;

/// The last cells of the line that begins with this name: thousandths of a core, and MiB.
fn line(table: &str, name: &str) -> Option<(i64, i64)> {
    let cells: Vec<&str> =
        table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).find(|c| c.first() == Some(&name))?;
    let number = |suffix: &str| cells.iter().find_map(|c| c.strip_suffix(suffix)?.parse::<i64>().ok());
    Some((number("m")?, number("Mi")?))
}

/// The working set as the daemon's own numbers have it, in MiB.
fn raw_memory(plane: &ControlPlane, name: &str) -> i64 {
    let id = plane.daemon.container(name)["Id"].as_str().expect("an id").to_owned();
    let stats = plane.daemon.get(&format!("/containers/{id}/stats?stream=false&one-shot=true"));
    let memory = &stats["memory_stats"];
    let inactive = &memory["stats"];
    let inactive = inactive["total_inactive_file"].as_i64().or(inactive["inactive_file"].as_i64()).unwrap_or(0);
    (memory["usage"].as_i64().expect("a usage") - inactive) / MIB
}

/// What an instance of the plane's reserves and how many there are, as the host's record has it.
fn allocated(plane: &ControlPlane) -> Value {
    let host = plane.run(&["get", "dh", "local", "-o", "json"]);
    let host: Value = serde_json::from_str(&host).expect("JSON");
    host["status"]["allocated"].clone()
}

#[test]
fn top_tells_what_a_real_container_uses() {
    let mut plane = ControlPlane::start(31_640);
    let resources = |memory: &str| json!({"memory": memory, "cpu": "400m"});
    let env = |name: &str, value: &str| json!([{"name": name, "value": value}]);
    plane.apply(&instance_with("burner", &json!({"env": env("BURN", "1"), "resources": resources("64Mi")})));
    plane.apply(&instance_with("holder", &json!({"env": env("ALLOC", "40"), "resources": resources("96Mi")})));
    plane.apply(&instance_with("napper", &json!({"idle": {"after": "2s"}, "resources": resources("64Mi")})));
    plane.until_serves("burner");
    plane.until_serves("holder");
    plane.until("napper", "it sleeps", |o| o["status"]["phase"] == "Asleep");

    // a rate is known a while after the start, and what a machine that is busy gives to a busy thread varies
    let used = || {
        let table = plane.run(&["top", "instances"]);
        let both = line(&table, "burner").zip(line(&table, "holder"));
        match both {
            Some(((burnt, _), (idle, held))) if (100..=480).contains(&burnt) && idle < burnt / 2 => {
                Ok((table, burnt, held))
            }
            _ => Err(table),
        }
    };
    let (table, burnt, held) =
        within(PATIENCE, used).unwrap_or_else(|e| panic!("a busy thread that may have 400m, and an idle app: {e}"));
    assert!((40..=96).contains(&held), "it holds 40 MiB: {table}");
    let raw = raw_memory(&plane, "holder");
    assert!((held - raw).abs() <= 4, "{held} MiB, and the daemon says {raw} MiB");
    assert!(line(&table, "napper").is_none(), "it sleeps: {table}");
    let refused = plane.cli(&["top", "instances", "napper"], "").expect_err("it sleeps");
    assert!(refused.contains("it is asleep and uses nothing"), "{refused}");

    let hosts = plane.run(&["top", "hosts"]);
    let (cores, memory) = line(&hosts, "local").unwrap_or_else(|| panic!("no local in {hosts}"));
    assert!(cores >= burnt / 2 && memory >= held, "the sum of both: {hosts}{table}");
    let reserved = || match allocated(&plane) {
        a if a == json!({"memory": "160Mi", "cpu": "800m", "instances": 3}) => Ok(()),
        a => Err(a.to_string()),
    };
    within(PATIENCE, reserved).unwrap_or_else(|e| panic!("two awake and one asleep: {e}"));
    let wide = plane.run(&["get", "dh", "-o", "wide"]);
    assert!(wide.contains("160Mi/") && wide.contains("800m/"), "{wide}");

    if let Some(table) = kubectl(&plane, &["top", "pod", "--sort-by=cpu", "--no-headers"]) {
        assert!(table.starts_with("burner "), "{table}");
        let nodes = kubectl(&plane, &["top", "node"]).expect("kubectl was there");
        assert!(line(&nodes, "local").is_some_and(|(cores, memory)| cores > 50 && memory >= 40), "{nodes}");
    }

    plane.run(&["delete", "inst", "burner", "holder", "napper"]);
    let nothing = || match allocated(&plane) {
        a if a == json!({"memory": "0", "cpu": "0", "instances": 0}) => Ok(()),
        a => Err(a.to_string()),
    };
    within(PATIENCE, nothing).unwrap_or_else(|e| panic!("nothing is left: {e}"));
}

/// `None` where there is no kubectl, having said so.
fn kubectl(plane: &ControlPlane, args: &[&str]) -> Option<String> {
    let found = Command::new("kubectl").args(["version", "--client"]).stdout(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no kubectl on PATH");
        return None;
    }
    let mut command = Command::new("kubectl");
    command.args(args).env("KUBECONFIG", plane.kubeconfig()).env("HOME", plane.directory()).stdin(Stdio::null());
    let output = command.output().expect("kubectl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "kubectl {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    Some(text)
}
