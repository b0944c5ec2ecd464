//! Sleeping when idle and waking on a request, as a browser sees it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, PATIENCE, condition, instance_with, serves, within};

/// An instance that sleeps two seconds after its last use, and keeps count of its starts.
fn sleeper(plane: &mut ControlPlane, name: &str) -> Value {
    let volumes = json!([{"name": "data", "mountPath": "/data"}]);
    plane.apply(&instance_with(name, &json!({"idle": {"after": "2s"}, "volumes": volumes})));
    let object = plane.until(name, "it has started", |o| !o["status"]["containerID"].is_null());
    // a request is held until it serves
    assert_eq!(plane.page(name, "/").field("boots"), "1");
    object
}

fn falls_asleep(plane: &ControlPlane, name: &str) -> Value {
    plane.until(name, "it sleeps", asleep);
    let container = plane.daemon.container(name);
    assert_eq!(container["State"]["Status"], "exited", "asleep means stopped");
    container
}

fn asleep(object: &Value) -> bool {
    object["status"]["phase"] == "Asleep"
}

#[test]
fn an_idle_instance_sleeps_and_the_next_request_wakes_it_with_its_data() {
    let mut plane = ControlPlane::start(31_300);
    let name = "sleeper";
    sleeper(&mut plane, name);
    plane.append(name, "note", "kept");
    let why = plane.run(&["why", name]);
    assert!(why.starts_with("sleeper is Running on local and is to be awake: "), "{why}");
    assert!(why.contains("it falls asleep unless it is used") && why.contains("proxy: "), "{why}");
    let before = falls_asleep(&plane, name);
    let why = plane.run(&["why", name]);
    assert!(
        why.contains("is Asleep on local and is to be asleep: ") && why.contains("the next request wakes it"),
        "{why}"
    );
    let why: Value = serde_json::from_str(&plane.run(&["why", name, "-o", "json"])).expect("JSON");
    assert_eq!((&why["kind"], &why["wanted"]), (&json!("InstanceExplanation"), &json!("Asleep")), "{why:#}");

    // one request, which finds nothing running and gets its answer all the same
    assert_eq!(plane.page(name, "/data/note").text(), "kept");
    assert_eq!(plane.page(name, "/").field("boots"), "2");
    let after = plane.daemon.container(name);
    assert_eq!(before["Id"], after["Id"], "the container is started again, not made again");
    assert_eq!(before["NetworkSettings"]["Networks"].as_object().map(|n| n.len()), Some(1));
    let object = plane.get(name);
    assert_eq!(object["status"].get("restarts").unwrap_or(&json!(0)), 0, "a sleep is no crash: {object:#}");

    // and again, across the end of the server
    falls_asleep(&plane, name);
    plane.kill9();
    plane.serve();
    assert!(asleep(&plane.get(name)), "a sleeper sleeps on");
    assert_eq!(plane.page(name, "/").field("boots"), "3");
}

#[test]
fn the_messages_of_a_websocket_keep_an_instance_awake_and_a_new_one_wakes_it() {
    let mut plane = ControlPlane::start(31_320);
    let name = "socketed";
    let volumes = json!([{"name": "data", "mountPath": "/data"}]);
    plane.apply(&instance_with(name, &json!({"idle": {"after": "10s"}, "volumes": volumes})));
    plane.until_serves(name);
    let mut socket = WebSocket::open(&plane, name);
    // For longer than it may be idle.
    for _ in 0..52 {
        assert_eq!(socket.echo(b"one"), b"one");
        thread::sleep(Duration::from_millis(250));
    }
    assert!(serves(&plane.get(name)), "it was used all the time");
    // Now the tab is left open.
    falls_asleep(&plane, name);
    drop(socket);

    let mut socket = WebSocket::open(&plane, name);
    assert_eq!(socket.echo(b"three"), b"three");
    assert_eq!(plane.page(name, "/").field("boots"), "2");
}

#[test]
fn a_websocket_that_counts_for_being_open_keeps_an_instance_awake_in_silence() {
    let mut plane = ControlPlane::start(32_320);
    let name = "socketed-open";
    plane.apply(&instance_with(name, &json!({"idle": {"after": "3s", "webSockets": "Open"}})));
    plane.until_serves(name);
    let mut socket = WebSocket::open(&plane, name);
    assert_eq!(socket.echo(b"one"), b"one");
    plane.comes_to_stay(name, Duration::from_secs(5), serves);
    assert_eq!(socket.echo(b"two"), b"two", "a silent connection is still the same");
    drop(socket);
    falls_asleep(&plane, name);
}

#[test]
fn who_is_asked_for_on_a_full_host_is_given_the_place_of_the_one_idle_for_longest() {
    let mut plane = ControlPlane::start(32_120);
    let mut host: Value = serde_json::from_str(&plane.run(&["get", "dh", "local", "-o", "json"])).expect("JSON");
    host["spec"]["capacity"] = json!({"memory": "80Mi"});
    host["metadata"] = json!({"name": "local"});
    plane.apply(&host);
    let names = ["packed-0", "packed-1", "packed-2"];
    let volumes = json!([{"name": "data", "mountPath": "/data"}]);
    for name in names {
        plane.apply(&instance_with(name, &json!({"idle": {"after": "10m"}, "volumes": volumes})));
        plane.until_serves(name);
        if name == names[0] {
            plane.run(&["sleep", name]);
            plane.until(name, "it sleeps", asleep);
        }
    }
    for name in &names[1..] {
        plane.page(name, "/");
    }
    let answer = plane.request("GET", names[0], "/", "").expect("an answer");
    assert_eq!((answer.status, answer.header("retry-after")), (503, "30"), "{}", answer.text());
    let told = plane.get(names[0]);
    assert_eq!(condition(&told, "Ready")["reason"], "NoRoom", "both were used just now: {told:#}");

    // a minute later they were not
    let served = within(PATIENCE, || match plane.request("GET", names[0], "/", "") {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{:?}", other.map(|a| a.text()))),
    });
    served.unwrap_or_else(|why| plane.fail(names[0], &why));
    plane.until_serves(names[0]);
    let first = falls_asleep(&plane, names[1]);
    assert_eq!(first["State"]["Running"], false);
    assert!(serves(&plane.get(names[2])), "it was used later");
    let told = plane.get(names[1]);
    let why = condition(&told, "Ready")["message"].to_string();
    assert!(why.contains("made room"), "{why}");
    let host = plane.run(&["get", "dh", "local", "-o", "wide"]);
    assert!(host.contains("64Mi/80Mi"), "{host}");
}

#[test]
fn what_its_owner_stopped_stays_off_until_it_is_started() {
    let mut plane = ControlPlane::start(31_340);
    let name = "stopped";
    sleeper(&mut plane, name);
    plane.run(&["stop", name]);
    let off = |o: &Value| o["status"]["phase"] == "Stopped";
    plane.until(name, "it is off", off);

    let answer = plane.request("GET", name, "/", "").expect("an answer");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().starts_with("Switched off"), "it is not held: {}", answer.text());
    plane.comes_to_stay(name, Duration::from_secs(2), off);
    assert_eq!(plane.daemon.container(name)["State"]["Status"], "exited");

    plane.run(&["start", name]);
    assert_eq!(plane.page(name, "/").field("boots"), "2");
}

#[test]
fn a_crowd_at_a_sleepers_door_wakes_it_once() {
    let mut plane = ControlPlane::start(31_360);
    let name = "thronged";
    sleeper(&mut plane, name);
    falls_asleep(&plane, name);
    let plane = &plane;
    let answers: Vec<_> = std::thread::scope(|scope| {
        let crowd: Vec<_> = (0..50).map(|_| scope.spawn(|| plane.request("GET", name, "/", ""))).collect();
        crowd.into_iter().map(|visitor| visitor.join().expect("a visitor")).collect()
    });
    for answer in answers {
        let answer = answer.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((answer.status, answer.field("boots").as_str()), (200, "2"), "{}", answer.text());
    }
}

/// A WebSocket through the proxy, by hand.
pub struct WebSocket(TcpStream);

impl WebSocket {
    /// The key and its answer are the RFC's own example.
    pub fn open(plane: &ControlPlane, name: &str) -> WebSocket {
        let mut stream = plane.connect().expect("a connection");
        let host = ControlPlane::host(name);
        let hello = format!(
            "GET /ws HTTP/1.1\r\nhost: {host}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(hello.as_bytes()).expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap_or_else(|e| panic!("{e} within {PATIENCE:?}: {head:?}"));
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        WebSocket(stream)
    }

    /// Sends a short text, and returns what comes back.
    pub fn echo(&mut self, text: &[u8]) -> Vec<u8> {
        let length = u8::try_from(text.len()).expect("short");
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let mut frame = vec![0x81, 0x80 | length];
        frame.extend(mask);
        frame.extend(text.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        self.0.write_all(&frame).expect("sent");
        let mut head = [0; 2];
        self.0.read_exact(&mut head).expect("a frame");
        assert_eq!(head, [0x81, length], "one text, unmasked");
        let mut back = vec![0; text.len()];
        self.0.read_exact(&mut back).expect("the text");
        back
    }
}
