//! What keeps an instance awake besides requests, with real daemons and apps: work, what the app says, sessions, a schedule.

use std::time::Duration;

use portreeve::clock::SystemClock;
use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, PATIENCE, instance_with, serves, within};

/// One that sleeps soon, with this in `spec.idle`.
fn sleeper(plane: &mut ControlPlane, name: &str, idle: &Value) {
    let mut manifest = instance_with(name, &json!({"idle": {"after": "3s"}}));
    for (field, value) in idle.as_object().expect("fields") {
        manifest["spec"]["idle"][field] = value.clone();
    }
    plane.apply(&manifest);
    plane.until(name, "it has started", |o| !o["status"]["containerID"].is_null());
}

/// The server is of this machine.
fn wall() -> jiff::Timestamp {
    SystemClock::new().now()
}

fn asleep(object: &Value) -> bool {
    object["status"]["phase"] == "Asleep"
}

fn explained(plane: &ControlPlane, name: &str) -> Value {
    serde_json::from_str(&plane.run(&["why", name, "-o", "json"])).expect("JSON")
}

/// Waits until it is awake for this reason.
fn until_because(plane: &ControlPlane, name: &str, because: &str) -> Value {
    let told = within(PATIENCE, || {
        let told = explained(plane, name);
        let so = told["because"].as_str().is_some_and(|text| text.contains(because));
        if so { Ok(told) } else { Err(format!("{told:#}")) }
    });
    told.unwrap_or_else(|why| plane.fail(name, &why))
}

#[test]
fn an_app_that_works_stays_awake_and_sleeps_when_it_is_done() {
    let mut plane = ControlPlane::start(33_500);
    let name = "worker";
    sleeper(&mut plane, name, &json!({"busyCpu": "5%"}));
    assert_eq!(plane.request("POST", name, "/burn?is=1", "").expect("an answer").status, 200);
    let told = until_because(&plane, name, "it is busy (busyCpu): ");
    assert!(told["because"].as_str().is_some_and(|text| text.contains("% of one core over ")), "{told:#}");
    plane.comes_to_stay(name, Duration::from_secs(12), serves);
    let container = plane.get(name)["status"]["containerID"].clone();
    assert_eq!(plane.request("POST", name, "/burn?is=0", "").expect("an answer").status, 200);
    plane.until(name, "it sleeps", asleep);
    assert_eq!(plane.get(name)["status"]["containerID"], container);
    let told = plane.events(name).iter().any(|e| e["reason"] == "BusyUnknown");
    assert!(!told, "a real daemon tells what its containers use");
}

#[test]
fn an_app_that_says_that_it_is_busy_stays_awake_until_it_says_that_it_is_not() {
    let mut plane = ControlPlane::start(33_520);
    let name = "talker";
    sleeper(&mut plane, name, &json!({"busyCheck": {"http": {"port": "http", "path": "/busy"}}}));
    assert_eq!(plane.request("POST", name, "/busy?is=1", "").expect("an answer").status, 200);
    until_because(&plane, name, "it is busy (busyCheck): http: GET /busy: 200");
    plane.comes_to_stay(name, Duration::from_secs(8), serves);
    assert_eq!(plane.request("POST", name, "/busy?is=0", "").expect("an answer").status, 200);
    plane.until(name, "it sleeps", asleep);
}

#[test]
fn nobody_falls_asleep_under_an_open_session() {
    let mut plane = ControlPlane::start(33_540);
    let name = "entered";
    sleeper(&mut plane, name, &json!({}));
    plane.until(name, "it sleeps", asleep);
    let plane = &plane;
    std::thread::scope(|scope| {
        // It wakes for it, too.
        let session = scope.spawn(|| plane.cli(&["exec", name, "--", "/app", "sleep", "30000"], ""));
        let told = until_because(plane, name, "an exec session is open");
        let signals = told["signals"].as_array().cloned().unwrap_or_default();
        assert!(signals.iter().any(|s| s["source"] == "exec" && s["message"] == "1 open now"), "{told:#}");
        plane.comes_to_stay(name, Duration::from_secs(8), serves);
        session.join().expect("it ran").unwrap_or_else(|why| plane.fail(name, &why));
    });
    plane.until(name, "it sleeps", asleep);
}

#[test]
fn a_schedule_wakes_it_at_its_time_and_nobody_has_to_ask() {
    let mut plane = ControlPlane::start(33_560);
    let name = "punctual";
    sleeper(&mut plane, name, &json!({}));
    plane.until(name, "it sleeps", asleep);
    // This minute may be over before the manifest is there, the one after the next is not.
    let now = wall();
    let minute = now.as_second().div_euclid(60) + 2;
    let begin = jiff::Timestamp::from_second(minute * 60).expect("soon");
    let at = begin.to_zoned(jiff::tz::TimeZone::UTC);
    let cron = format!("{} {} * * *", at.minute(), at.hour());
    let schedule = json!([{"keep": "Awake", "cron": cron, "for": "1m", "timeZone": "Etc/UTC"}]);
    let container = plane.get(name)["status"]["containerID"].clone();
    sleeper(&mut plane, name, &json!({"schedule": schedule}));
    let told = explained(&plane, name);
    assert_eq!(told["next"]["at"], json!(begin.to_string()), "{told:#}");
    assert!(told["next"]["message"].as_str().is_some_and(|m| m.contains("spec.idle.schedule[0] wakes it")), "{told:#}");

    plane.until(name, "it is awake", |o| o["status"]["phase"] == "Running");
    assert!(wall() >= begin, "not before its time");
    let told = until_because(&plane, name, "spec.idle.schedule[0] (until ");
    assert_eq!(told["next"]["at"], json!((begin + jiff::SignedDuration::from_mins(1)).to_string()), "{told:#}");
    plane.until(name, "it sleeps again", asleep);
    assert!(wall() >= begin + jiff::SignedDuration::from_mins(1), "not before its end");
    assert_eq!(plane.get(name)["status"]["containerID"], container, "no change of idle makes a container anew");
}
