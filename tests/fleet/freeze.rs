//! The first stage of sleep: frozen by a real daemon, and going on, as a browser sees it.

use std::time::Duration;

use jiff::Timestamp;
use portreeve::clock::SystemClock;
use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, PATIENCE, condition, instance_with, within};
use crate::sleep::WebSocket;

/// An instance that is frozen two seconds after its last use.
fn freezer(plane: &mut ControlPlane, name: &str, after: &str) -> String {
    freezer_after(plane, name, "2s", after)
}

fn freezer_after(plane: &mut ControlPlane, name: &str, freeze: &str, after: &str) -> String {
    let volumes = json!([{"name": "data", "mountPath": "/data"}]);
    plane.apply(&instance_with(name, &json!({"idle": {"after": after, "freezeAfter": freeze}, "volumes": volumes})));
    let page = plane.page(name, "/");
    assert_eq!(page.field("boots"), "1");
    page.field("pid")
}

fn freezes(plane: &ControlPlane, name: &str) -> Value {
    plane.until(name, "it is frozen", |o| o["status"]["phase"] == "Frozen");
    until_state(plane, name, "paused")
}

/// The word comes before the deed.
fn until_state(plane: &ControlPlane, name: &str, state: &str) -> Value {
    let seen = within(PATIENCE, || {
        let container = plane.daemon.container(name);
        if container["State"]["Status"] == state { Ok(container) } else { Err(format!("{:#}", container["State"])) }
    });
    seen.unwrap_or_else(|why| plane.fail(name, &why))
}

/// How often the daemon told of this since then.
fn told(plane: &ControlPlane, container: &Value, action: &str, since: Timestamp) -> usize {
    let id = container["Id"].as_str().expect("an id");
    let (since, until) = (since.as_second(), SystemClock::new().now().as_second() + 1);
    let filters = format!("%7B%22container%22:%5B%22{id}%22%5D,%22event%22:%5B%22{action}%22%5D%7D");
    let path = format!("/events?since={since}&until={until}&filters={filters}");
    let events = plane.daemon.ask("GET", &path, None).expect("an answer");
    assert_eq!(events.status, 200, "{}", events.text());
    events.text().lines().filter(|line| line.contains("\"Action\"")).count()
}

#[test]
fn what_is_frozen_serves_the_next_request_as_the_same_run() {
    let mut plane = ControlPlane::start(32_740);
    let name = "still";
    let pid = freezer(&mut plane, name, "10m");
    let before = freezes(&plane, name);
    let object = plane.get(name);
    assert_eq!(condition(&object, "Ready")["reason"], "Frozen", "{object:#}");
    assert!(!object["status"]["allocatedResources"].is_null(), "it holds its memory: {object:#}");
    let why = plane.run(&["why", name]);
    assert!(why.starts_with("still is Frozen on local and is to be frozen: "), "{why}");
    assert!(why.contains("it is stopped, and sleeps"), "{why}");
    assert!(plane.run(&["get", "inst", name]).contains("Frozen"));

    let page = plane.page(name, "/");
    assert_eq!((page.field("boots"), page.field("pid")), ("1".to_owned(), pid.clone()), "it goes on");
    let after = plane.daemon.container(name);
    for field in ["Status", "Pid", "StartedAt"] {
        let running = json!("running");
        let expected = if field == "Status" { &running } else { &before["State"][field] };
        assert_eq!(&after["State"][field], expected, "{field}");
    }

    // Across the end of the server, twice: frozen it stays frozen, and is served.
    freezes(&plane, name);
    plane.kill9();
    plane.serve();
    plane.comes_to_stay(name, Duration::from_secs(3), |o| o["status"]["phase"] == "Frozen");
    assert_eq!(plane.daemon.container(name)["State"]["Status"], "paused");
    assert_eq!(plane.page(name, "/").field("pid"), pid);

    // A command inside is a use as well.
    freezes(&plane, name);
    let said = plane.run(&["exec", name, "--", "/app", "echo", "here"]);
    assert!(said.contains("here"), "{said}");

    // A spec that changes does so at once; what is only limits changes in the same run.
    freezes(&plane, name);
    plane.apply(&instance_with(
        name,
        &json!({
            "idle": {"after": "10m", "freezeAfter": "2s"}, "resources": {"memory": "48Mi", "cpu": "500m"},
            "volumes": [{"name": "data", "mountPath": "/data"}],
        }),
    ));
    let limits = within(PATIENCE, || match plane.daemon.container(name)["HostConfig"]["Memory"].as_i64() {
        Some(bytes) if bytes == 48 << 20 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    limits.unwrap_or_else(|why| plane.fail(name, &why));
    freezes(&plane, name);
    assert_eq!(plane.page(name, "/").field("pid"), pid);
}

#[test]
fn a_crowd_with_requests_and_sockets_ends_a_pause_once() {
    let mut plane = ControlPlane::start(32_760);
    let name = "throng";
    // None of the crowd is so late that it was frozen again.
    freezer_after(&mut plane, name, "8s", "10m");
    let container = freezes(&plane, name);
    let begun = SystemClock::new().now();
    let crowd = &plane;
    std::thread::scope(|scope| {
        let pages: Vec<_> = (0..30).map(|_| scope.spawn(|| crowd.request("GET", name, "/", ""))).collect();
        let sockets: Vec<_> = (0..5).map(|_| scope.spawn(|| WebSocket::open(crowd, name).echo(b"here"))).collect();
        for page in pages {
            let page = page.join().expect("a visitor").unwrap_or_else(|e| panic!("{e}"));
            assert_eq!((page.status, page.field("boots").as_str()), (200, "1"), "{}", page.text());
        }
        for socket in sockets {
            assert_eq!(socket.join().expect("a visitor"), b"here");
        }
    });
    assert_eq!(told(&plane, &container, "unpause", begun), 1);
}

#[test]
fn a_silent_socket_outlasts_a_pause_and_its_next_message_ends_it() {
    let mut plane = ControlPlane::start(32_340);
    let name = "quiet-tab";
    freezer(&mut plane, name, "10m");
    let mut socket = WebSocket::open(&plane, name);
    assert_eq!(socket.echo(b"here"), b"here");
    for _ in 0..2 {
        freezes(&plane, name);
        assert_eq!(socket.echo(b"still here"), b"still here", "over the same connection");
    }
}

#[test]
fn what_was_frozen_hears_its_stop_and_what_others_pause_goes_on() {
    let mut plane = ControlPlane::start(32_780);
    let name = "deeper";
    let pid = freezer(&mut plane, name, "8s");
    freezes(&plane, name);
    plane.until(name, "it sleeps", |o| o["status"]["phase"] == "Asleep");
    let container = plane.daemon.container(name);
    assert_eq!(container["State"]["Status"], "exited");
    assert_eq!(container["State"]["ExitCode"], 0, "it has heard the signal: {:#}", container["State"]);
    assert_eq!(plane.page(name, "/").field("boots"), "2");

    // Sent to sleep from there, and deleted from there.
    freezes(&plane, name);
    plane.run(&["sleep", name]);
    assert_eq!(plane.daemon.container(name)["State"]["ExitCode"], 0);
    assert_eq!(plane.page(name, "/").field("boots"), "3");

    // Somebody else's pause of one that is always on.
    let on = "on";
    plane.apply(&instance_with(on, &json!({"power": "Running"})));
    plane.until_serves(on);
    let before = plane.daemon.container(on);
    plane.daemon.act(before["Id"].as_str().expect("an id"), "pause");
    let after = until_state(&plane, on, "running");
    for field in ["Pid", "StartedAt"] {
        assert_eq!(after["State"][field], before["State"][field], "{field}");
    }
    plane.until_serves(on);
    assert_eq!(plane.page(on, "/").status, 200);
    let repaired = within(PATIENCE, || {
        let events = plane.events(on);
        if events.iter().any(|e| e["reason"] == "Repaired") { Ok(()) } else { Err(format!("{events:#?}")) }
    });
    repaired.unwrap_or_else(|why| plane.fail(on, &why));
    assert_eq!(plane.get(on)["status"].get("restarts").unwrap_or(&json!(0)), 0);

    // One that dies while it is frozen is asleep, and that is no crash.
    let pid_now = freezes(&plane, name)["State"]["Pid"].clone();
    assert_ne!(pid_now, json!(pid));
    let container = plane.daemon.container(name);
    plane.daemon.act(container["Id"].as_str().expect("an id"), "kill");
    plane.until(name, "it sleeps", |o| o["status"]["phase"] == "Asleep");
    assert_eq!(plane.get(name)["status"].get("restarts").unwrap_or(&json!(0)), 0);
    assert_eq!(plane.page(name, "/").status, 200);
    freezes(&plane, name);
    plane.run(&["delete", "inst", name]);
    assert!(plane.daemon.containers(name).is_empty());
}
