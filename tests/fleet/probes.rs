//! Probes of real apps in real containers: what is dead is started anew, what is not ready is held, and commands are run.

use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, PATIENCE, condition, instance_with, is, serves};
use crate::http::exchange;

/// Both ports are served by one process; the second has no route.
fn two_ports(name: &str, probes: &Value) -> Value {
    let mut startup = json!({"startup": {"http": {"port": "http", "path": "/health"}, "timeout": "60s"}});
    startup.as_object_mut().expect("probes").extend(probes.as_object().expect("probes").clone());
    instance_with(
        name,
        &json!({
            "power": "Running",
            "ports": [{"name": "http", "containerPort": 8080}, {"name": "shell", "containerPort": 8081}],
            "env": [{"name": "PORTS", "value": "8080,8081"}],
            "volumes": [{"name": "data", "mountPath": "/data"}],
            "probes": startup,
        }),
    )
}

/// Asks the app itself, past the proxy.
fn directly(object: &Value, method: &str, path: &str) -> u16 {
    let status = &object["status"];
    let port = status["ports"][0]["hostPort"].as_u64().and_then(|p| u16::try_from(p).ok()).expect("a port");
    let address = status["address"].as_str().expect("an address");
    let mut stream = TcpStream::connect((address, port)).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    exchange(&mut stream, method, path, "app", false, b"").expect("an answer").status
}

fn reasons(plane: &ControlPlane, name: &str) -> Vec<String> {
    plane.events(name).iter().map(|e| e["reason"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_dead_port_behind_a_live_gateway_is_found_and_its_app_started_anew() {
    let mut plane = ControlPlane::start(32_240);
    let name = "half-dead";
    let checks = json!([{"http": {"port": "http"}}, {"http": {"port": "shell"}}]);
    plane.apply(&two_ports(name, &json!({"liveness": {"checks": checks, "period": "1s", "failures": 3}})));
    let before = plane.until_serves(name);
    assert_eq!(plane.page(name, "/").field("boots"), "1");

    let hung = plane.request("POST", name, "/hang?port=8081", "").expect("an answer");
    assert_eq!(hung.status, 200, "{}", hung.text());
    assert_eq!(plane.page(name, "/").field("boots"), "1", "the gateway lives");
    let after = plane.until(name, "started anew", |o| o["status"]["restarts"] == 1 && serves(o));
    assert_eq!(plane.page(name, "/").field("boots"), "2");
    assert_eq!(before["status"]["containerID"], after["status"]["containerID"], "the same container");
    assert_eq!(after["status"]["lastExit"]["unhealthy"], true, "{after:#}");
    let told = reasons(&plane, name);
    assert!(told.contains(&"Unhealthy".to_owned()) && told.contains(&"Killing".to_owned()), "{told:?}");
    plane.comes_to_stay(name, Duration::from_secs(6), |o| o["status"]["restarts"] == 1 && serves(o));
}

#[test]
fn one_that_is_not_ready_is_held_and_then_served() {
    let mut plane = ControlPlane::start(32_260);
    let name = "busy";
    let ready = json!({"http": {"port": "http", "path": "/ready"}, "period": "1s", "failures": 2});
    plane.apply(&two_ports(name, &json!({"readiness": ready})));
    let up = plane.until_serves(name);
    assert_eq!(directly(&up, "POST", "/ready?is=0"), 200);
    let message = plane.until_is(name, "Running", "ReadinessFailed");
    assert_eq!(message, "the readiness probe failed 2 times in a row: http: GET /ready: 503 Service Unavailable");

    let shared = &plane;
    let answer = std::thread::scope(|scope| {
        let visitor = scope.spawn(|| shared.request("GET", name, "/", ""));
        shared.comes_to_stay(name, Duration::from_secs(4), |o| is(o, "Running", "ReadinessFailed"));
        assert!(!visitor.is_finished(), "it is held");
        assert_eq!(directly(&up, "POST", "/ready?is=1"), 200);
        visitor.join().expect("a visitor").expect("an answer")
    });
    assert_eq!((answer.status, answer.field("boots").as_str()), (200, "1"), "{}", answer.text());
    let object = plane.until_serves(name);
    assert_eq!(object["status"].get("restarts").unwrap_or(&json!(0)), 0, "{object:#}");
    assert_eq!(object["status"]["containerID"], up["status"]["containerID"]);
}

#[test]
fn a_command_of_a_probe_runs_in_the_container_and_one_that_hangs_is_there_once() {
    let mut plane = ControlPlane::start(32_280);
    let name = "commanded";
    let probes = |command: &[&str]| {
        json!({"readiness": {"exec": {"command": command}, "period": "1s", "failures": 2},
               "startup": {"exec": {"command": ["/app", "echo", "up"]}, "timeout": "60s"}})
    };
    plane.apply(&two_ports(name, &probes(&["/app", "exit", "0"])));
    let up = plane.until_serves(name);
    plane.apply(&two_ports(name, &probes(&["/app", "exit", "3"])));
    let message = plane.until_is(name, "Running", "ReadinessFailed");
    assert!(message.ends_with("exec: the command ended with 3"), "{message}");
    plane.apply(&two_ports(name, &probes(&["/app", "exit", "0"])));
    plane.until_serves(name);

    plane.apply(&two_ports(name, &probes(&["/app", "sleep", "86400000"])));
    let message = plane.until_is(name, "Running", "ReadinessFailed");
    assert!(message.contains("did not end within") || message.contains("has not ended yet"), "{message}");
    plane.comes_to_stay(name, Duration::from_secs(5), |o| is(o, "Running", "ReadinessFailed"));
    let id = up["status"]["containerID"].as_str().expect("an id");
    let top = plane.daemon.ask("GET", &format!("/containers/{id}/top"), None).expect("an answer").text();
    assert_eq!(top.matches("86400000").count(), 1, "each attempt left another command behind: {top}");

    plane.apply(&two_ports(name, &probes(&["/no-such-program"])));
    plane.comes_to_stay(name, Duration::from_secs(5), |o| condition(o, "Ready")["status"] == "False");
    plane.apply(&two_ports(name, &probes(&["/app", "exit", "0"])));
    let object = plane.until_serves(name);
    assert_eq!(object["status"]["containerID"], up["status"]["containerID"], "{object:#}");
}
