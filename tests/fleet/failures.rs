//! What goes wrong is told in the daemon's own words, and heals by itself once its cause is gone: nobody needs to push.

use serde_json::json;

use crate::control_plane::{ControlPlane, condition, instance, instance_with};
use crate::daemon::{second, second_with_disk};

#[test]
fn an_image_that_is_not_there_is_waited_for() {
    let mut plane = ControlPlane::start(31_100);
    let name = "imageless";
    plane.apply(&instance_with(name, &json!({"image": "portreeve/late:1", "imagePullPolicy": "Never"})));
    let message = plane.until_is(name, "Failed", "ImageMissing");
    assert!(message.contains("portreeve/late:1"), "{message}");
    let here = crate::daemon::first();
    let _tag = here.tag("portreeve/app:1", "portreeve/late");
    plane.until_serves(name);
    plane.page(name, "/");
    plane.run(&["delete", "inst", name]);
}

#[test]
fn a_host_port_that_somebody_holds_is_waited_for() {
    let mut plane = ControlPlane::start(31_120);
    let (name, port) = ("portless", 31_135);
    let here = crate::daemon::first();
    let squatter = here.squatter("squatter", port);
    plane.apply(&instance_with(name, &json!({"ports": [{"name": "http", "containerPort": 8080, "hostPort": port}]})));
    let message = plane.until_is(name, "Failed", "PortTaken");
    assert!(message.contains(&port.to_string()) && message.contains("already"), "the daemon's words: {message}");
    drop(squatter);
    let object = plane.until_serves(name);
    assert_eq!(object["status"]["ports"][0]["hostPort"], port);
    plane.page(name, "/");
}

#[test]
fn a_mount_that_cannot_be_is_told_and_retried() {
    let mut plane = ControlPlane::start(31_140);
    let name = "mountless";
    let file = plane.directory().join("file");
    std::fs::write(&file, "in the way").expect("a file");
    let path = file.join("below");
    let volumes = json!([{"name": "data", "mountPath": "/data", "hostPath": path.display().to_string()}]);
    plane.apply(&instance_with(name, &json!({"volumes": volumes})));
    let message = plane.until_is(name, "Failed", "InvalidConfiguration");
    assert!(message.contains("not a directory"), "the daemon's words: {message}");
    std::fs::remove_file(&file).expect("out of the way");
    plane.until_serves(name);
    assert_eq!(plane.page(name, "/").field("boots"), "1");
    assert!(path.join("boots").exists(), "the data is where the spec says");
}

#[test]
fn an_app_that_ends_at_once_is_backed_off_until_its_image_changes() {
    let mut plane = ControlPlane::start(31_160);
    let name = "crashing";
    plane.apply(&instance_with(name, &json!({"image": "portreeve/app:broken"})));
    let message = plane.until_is(name, "Failed", "CrashLoopBackOff");
    assert!(message.contains("exit code 7"), "{message}");
    let object = plane.get(name);
    assert_eq!(object["status"]["lastExit"]["exitCode"], 7);
    assert!(object["status"]["crashes"].as_i64() > Some(1), "{object:#}");
    plane.run(&["upgrade", name, "--image", "portreeve/app:1"]);
    plane.until_serves(name);
    assert_eq!(plane.page(name, "/").header("x-app-version"), "1");
}

#[test]
fn a_daemon_that_goes_away_takes_only_its_word_along() {
    let second = second(&["lost"]);
    let mut plane = ControlPlane::start(31_180);
    let name = "lost";
    plane.apply(&second.record("31180-31199"));
    plane.apply(&instance_with(name, &json!({"power": "Running", "placement": {"node": "h2"}})));
    assert_eq!(plane.until_serves(name)["status"]["node"], "h2");
    plane.page(name, "/");

    for (fault, cure) in [("kill", "start"), ("pause", "resume")] {
        second.fault(fault);
        let lost = plane.until(name, "lost", |o| o["status"]["phase"] == "Lost");
        let ready = condition(&lost, "Ready");
        assert_eq!((&ready["status"], &ready["reason"]), (&json!("Unknown"), &json!("HostUnreachable")), "{fault}");
        second.fault(cure);
        plane.until_serves(name);
        plane.page(name, "/");
        second.daemon.container(name);
    }
    plane.run(&["delete", "inst", name]);
}

#[test]
fn a_full_disk_is_told_and_space_is_all_it_takes() {
    let second = second_with_disk(&["cramped"]);
    let mut plane = ControlPlane::start(31_200);
    let name = "cramped";
    plane.apply(&second.record("31200-31219"));
    let mut manifest = instance(name);
    manifest["spec"]["placement"] = json!({"node": "h2"});
    second.fault("disk-full");
    plane.apply(&manifest);
    let message = plane.until_is(name, "Failed", "NoSpace");
    assert!(message.contains("no space left on device"), "the daemon's words: {message}");
    second.fault("disk-free");
    plane.until_serves(name);
    plane.page(name, "/");
    plane.run(&["delete", "inst", name]);
}

#[test]
fn a_volume_that_is_removed_is_told_while_its_instance_rests() {
    let mut plane = ControlPlane::start(31_780);
    let name = "bereft";
    plane.apply(&instance_with(name, &json!({"volumes": [{"name": "data", "mountPath": "/data"}]})));
    plane.until_serves(name);
    plane.append(name, "note", "kept");
    plane.run(&["stop", name]);
    let container = plane.daemon.container(name)["Id"].as_str().expect("an id").to_owned();
    let volume = plane.daemon.volumes(name).pop().expect("a volume");
    let in_use = plane.daemon.ask("DELETE", &format!("/volumes/{volume}?force=1"), None).expect("an answer");
    assert_eq!(in_use.status, 409, "a volume is in use as long as its container is there: {}", in_use.text());
    plane.daemon.call("DELETE", &format!("/containers/{container}"), None);
    plane.daemon.call("DELETE", &format!("/volumes/{volume}"), None);
    // no look of its own comes: one at rest is looked at when something happens
    let told = plane.until_is(name, "Stopped", "VolumeLost");
    assert!(told.contains(&volume), "{told}");
    plane.run(&["start", name, "--wait=false"]);
    plane.until_is(name, "Failed", "VolumeLost");
    assert!(plane.daemon.volumes(name).is_empty(), "no empty one in its place");
    plane.run(&["delete", "inst", name]);
}
