//! GPUs on a real daemon: who has which, and who waits. The daemons of the fleet are told of two devices that are not there.

use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, condition, instance_with};

/// The device that the app was given, by the daemon's own word in its environment.
fn device(plane: &mut ControlPlane, name: &str) -> String {
    let object = plane.until_serves(name);
    let environment = plane.page(name, "/env").text();
    let seen = environment.lines().find_map(|line| line.strip_prefix("NVIDIA_VISIBLE_DEVICES="));
    let seen = seen.unwrap_or_else(|| panic!("{name} has no device: {environment}"));
    assert_eq!(object["status"]["gpus"], json!([seen]), "{name}");
    seen.to_owned()
}

#[test]
fn each_device_is_one_instances_alone_and_goes_to_the_next_when_it_is_given_back() {
    let mut plane = ControlPlane::start(32_080);
    let host: Value = serde_json::from_str(&plane.run(&["get", "dh", "local", "-o", "json"])).expect("JSON");
    assert_eq!(host["status"]["gpus"].as_array().map(Vec::len), Some(2), "{host}");
    assert_eq!(host["status"]["capacity"]["gpus"], 2, "{host}");
    let [one, two, three] = ["gpu-one", "gpu-two", "gpu-three"];
    for name in [one, two] {
        plane.apply(&instance_with(name, &json!({"gpus": 1})));
    }
    let (first, second) = (device(&mut plane, one), device(&mut plane, two));
    assert_ne!(first, second);
    plane.apply(&instance_with(three, &json!({"gpus": 1})));
    plane.until(three, "it waits", |o| {
        condition(o, "Scheduled")["message"] == "0/1 hosts fit: 1 without enough free GPUs"
    });
    plane.run(&["delete", "inst", one]);
    assert_eq!(device(&mut plane, three), first);
}
