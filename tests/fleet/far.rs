//! A daemon that is far away: every answer takes a third of a second longer than it does on the spot.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, PATIENCE, condition, instance_with, now, within};
use crate::daemon::second;
use crate::relay::Relay;

const LATE: Duration = Duration::from_millis(300);

/// How long the least answer takes: the daemon refuses what is not TLS in plain words.
fn answer_time(daemon: SocketAddr) -> Duration {
    let mut stream = TcpStream::connect(daemon).expect("the relay listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let begin = now();
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n").expect("sent");
    stream.read_exact(&mut [0]).expect("an answer");
    now() - begin
}

fn asleep(object: &Value) -> bool {
    object["status"]["phase"] == "Asleep"
}

#[test]
fn a_daemon_whose_answers_are_late_is_well_and_its_instances_sleep_and_wake() {
    let second = second(&["remote"]);
    let mut plane = ControlPlane::start(32_300);
    let listener = second.listen();
    let way = listener.local_addr().expect("an address");
    let _relay = Relay::late(listener, second.network_address(), LATE);
    assert!(answer_time(way) >= LATE, "the relay holds nothing up");
    let mut record = second.record_over_tls("32300-32319");
    record["spec"]["endpoint"] = json!(format!("tcp://{way}"));
    plane.apply(&record);

    let (near, remote) = ("close-by", "remote");
    plane.apply(&instance_with(near, &json!({"power": "Running", "placement": {"node": "local"}})));
    plane.apply(&instance_with(remote, &json!({"idle": {"after": "2s"}, "placement": {"node": "h2"}})));
    plane.until_serves(near);
    plane.until(remote, "it has started", |o| !o["status"]["containerID"].is_null());
    plane.page(remote, "/");
    for round in 0..3 {
        plane.until(remote, "it sleeps", asleep);
        assert_eq!(second.daemon.container(remote)["State"]["Status"], "exited");
        let begin = now();
        plane.page(remote, "/");
        eprintln!("{remote}: served {:.1?} after the request that woke it, round {round}", now() - begin);
        let begin = now();
        plane.page(near, "/");
        eprintln!("{near}: served in {:.1?} meanwhile", now() - begin);
    }
    // That nothing is held against it for being late: a machine on which all else runs meanwhile may hold up more than that.
    let well = within(PATIENCE, || {
        let host: Value = serde_json::from_str(&plane.run(&["get", "dh", "h2", "-o", "json"])).expect("JSON");
        if condition(&host, "Ready")["status"] == "True" { Ok(()) } else { Err(format!("{host:#}")) }
    });
    well.unwrap_or_else(|why| plane.fail(remote, &why));
    assert_eq!(plane.get(remote)["status"].get("restarts").unwrap_or(&json!(0)), 0);
    plane.run(&["delete", "inst", near, remote]);
}
