//! A host that is cut off the network: what may is made anew on another host while its copy runs on over there, and that
//! copy goes when the host is back. And one whose daemon hangs, which its kernel does not tell.

use std::time::Duration;

use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, PATIENCE, condition, instance_with, now, within};
use crate::daemon::second;

/// `hostLossAfter`, in seconds.
const AFTER: u64 = 10;

fn mobile(name: &str) -> Value {
    let placement = json!({"onHostLoss": "Recreate", "hostLossAfter": format!("{AFTER}s")});
    instance_with(name, &json!({"power": "Running", "placement": placement}))
}

#[test]
fn what_may_is_made_anew_elsewhere_and_its_copy_goes_when_the_lost_host_is_back() {
    let second = second(&["widowed", "heir"]);
    let mut plane = ControlPlane::start(31_900);
    let name = "widowed";
    plane.apply(&second.record_over_tls("31900-31919"));
    plane.run(&["cordon", "local"]);
    plane.apply(&mobile(name));
    let before = plane.until_serves(name);
    assert_eq!(before["status"]["node"], "h2");
    plane.page(name, "/");
    let copy = second.daemon.container(name)["Id"].clone();
    plane.run(&["uncordon", "local"]);

    second.fault("partition");
    let cut = now();
    let unready = within(PATIENCE, || {
        let host: Value = serde_json::from_str(&plane.run(&["get", "dh", "h2", "-o", "json"])).expect("JSON");
        let ready = condition(&host, "Ready");
        if ready["status"] == "False" { Ok((now() - cut, ready["message"].to_string())) } else { Err(host.to_string()) }
    });
    let (unready, why) = unready.unwrap_or_else(|why| plane.fail(name, &why));
    eprintln!("h2: not ready after {unready:.1?}: {why}");
    plane.until(name, "its loss is told", |o| condition(o, "HostLost")["reason"] == "Waiting");
    let told = now() - cut;
    let served = within(PATIENCE, || match plane.request("GET", name, "/", "") {
        Ok(answer) if answer.status == 200 && plane.get(name)["status"]["node"] == "local" => Ok(now() - cut),
        Ok(answer) => Err(format!("{}: {}", answer.status, answer.text())),
        Err(e) => Err(e.to_string()),
    });
    let served = served.unwrap_or_else(|why| plane.fail(name, &why));
    eprintln!("{name}: lost after {told:.1?}, served elsewhere after {served:.1?}, of which {AFTER} s are waited for");
    assert!(served > Duration::from_secs(AFTER), "{served:?}");
    let after = plane.until_serves(name);
    let ours = plane.daemon.container(name)["Id"].clone();
    assert_eq!(
        (&after["status"]["containerID"], &condition(&after, "HostLost")["reason"]),
        (&ours, &json!("Recreated"))
    );
    let events = plane.events(name);
    assert!(events.iter().any(|e| e["reason"] == "Recreated"), "{events:#?}");
    // its owner sees it over there, where we do not get to
    let still = second.daemon.container(name);
    assert_eq!((&still["Id"], &still["State"]["Running"]), (&copy, &json!(true)));

    second.fault("heal");
    let healed = now();
    let gone = within(PATIENCE, || {
        let (containers, networks) = (second.daemon.containers(name), second.daemon.networks(name));
        if containers.is_empty() && networks.is_empty() {
            Ok(())
        } else {
            Err(format!("{containers:#?} {networks:#?}"))
        }
    });
    gone.unwrap_or_else(|why| plane.fail(name, &why));
    eprintln!("{name}: what was left behind was gone {:.1?} after the host was back", now() - healed);
    plane.page(name, "/");
    assert_eq!(plane.get(name)["status"]["containerID"], ours);
    assert_eq!(plane.daemon.container(name)["Id"], ours);

    // its port over there is another's to have
    let port = before["status"]["ports"][0]["hostPort"].clone();
    let ports = json!([{"name": "http", "containerPort": 8080, "hostPort": port}]);
    plane.apply(&instance_with("heir", &json!({"placement": {"node": "h2"}, "ports": ports})));
    assert_eq!(plane.until_serves("heir")["status"]["ports"][0]["hostPort"], port);
    plane.page("heir", "/");
    plane.run(&["delete", "inst", name, "heir"]);
}

#[test]
fn a_daemon_that_hangs_is_noticed_by_its_silence_and_what_runs_there_goes_on() {
    let second = second(&["frozen"]);
    let mut plane = ControlPlane::start(31_980);
    let name = "frozen";
    plane.apply(&second.record_over_tls("31980-31999"));
    plane.apply(&instance_with(name, &json!({"power": "Running", "placement": {"node": "h2"}})));
    plane.until_serves(name);
    let copy = second.daemon.container(name)["Id"].clone();
    let ready = |wanted: &str| {
        let host: Value = serde_json::from_str(&plane.run(&["get", "dh", "h2", "-o", "json"])).expect("JSON");
        if condition(&host, "Ready")["status"] == wanted { Ok(now()) } else { Err(host.to_string()) }
    };
    second.fault("pause");
    let hung = now();
    let noticed = within(PATIENCE, || ready("False")).unwrap_or_else(|why| plane.fail(name, &why)) - hung;
    // The app goes on, and so do its visitors: by a new connection each.
    plane.until(name, "lost", |o| o["status"]["phase"] == "Lost");
    for _ in 0..3 {
        plane.page(name, "/");
    }
    second.fault("resume");
    let resumed = now();
    eprintln!("h2: not ready {noticed:.1?} after its daemon hung");
    // How long that takes is for the simulation to bound.
    let back = within(PATIENCE, || ready("True")).unwrap_or_else(|why| plane.fail(name, &why)) - resumed;
    eprintln!("h2: ready {back:.1?} after it went on");
    plane.until_serves(name);
    assert_eq!(second.daemon.container(name)["Id"], copy);
    plane.run(&["delete", "inst", name]);
}

#[test]
fn a_host_that_is_gone_for_good_is_removed_and_what_was_on_it_is_given_up() {
    let second = second(&["given-up", "buried"]);
    let mut plane = ControlPlane::start(32_100);
    let (name, deleted) = ("given-up", "buried");
    plane.apply(&second.record_over_tls("32100-32119"));
    plane.run(&["cordon", "local"]);
    let data = json!([{"name": "data", "mountPath": "/data"}]);
    plane.apply(&instance_with(name, &json!({"power": "Running", "volumes": data})));
    plane.apply(&instance_with(deleted, &json!({"power": "Running"})));
    for name in [name, deleted] {
        assert_eq!(plane.until_serves(name)["status"]["node"], "h2");
    }
    plane.append(name, "note", "kept");
    plane.run(&["uncordon", "local"]);
    let refused = plane.cli(&["host", "remove", "h2", "--lost"], "").expect_err("it is there");
    assert!(refused.contains("it answers"), "{refused}");

    second.fault("poweroff");
    plane.until(name, "lost", |o| o["status"]["phase"] == "Lost");
    plane.run(&["delete", "inst", deleted, "--wait=false"]);
    plane.until(deleted, "it waits for its host", |o| condition(o, "Ready")["reason"] == "Terminating");
    plane.run(&["host", "remove", "h2", "--lost", "--timeout", "240s"]);
    assert!(plane.get(deleted).is_null());
    let after = plane.until_serves(name);
    assert_eq!(
        (&after["status"]["node"], &condition(&after, "HostLost")["reason"]),
        (&json!("local"), &json!("Recreated"))
    );
    let note = plane.request("GET", name, "/data/note", "").expect("an answer");
    assert_eq!(note.status, 404, "its data was over there: {}", note.text());
    assert!(plane.cli(&["get", "dh", "h2"], "").is_err(), "its record is gone");

    // it comes back after all, and is added anew: what it has of ours is nobody's, but for the data
    second.fault("poweron");
    plane.apply(&second.record_over_tls("32100-32119"));
    let gone = within(PATIENCE, || {
        let left = [name, deleted].map(|name| second.daemon.containers(name));
        if left.iter().all(Vec::is_empty) { Ok(()) } else { Err(format!("{left:#?}")) }
    });
    gone.unwrap_or_else(|why| plane.fail(name, &why));
    assert_eq!(second.daemon.volumes(name), [format!("pr.default.{name}.data")]);
    plane.page(name, "/");
    plane.run(&["delete", "inst", name]);
}
