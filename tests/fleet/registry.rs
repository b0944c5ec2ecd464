//! Images from a real registry: pulled where they are not, waited for where they are missing, and never at the cost of
//! what serves. Images are pushed from h2 and pulled by h1, which has none of their own layers.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, PATIENCE, condition, instance_with, now, serves, within};
use crate::daemon::{self, Daemon, second};
use crate::engine::variable;
use crate::relay::Relay;

fn file() -> PathBuf {
    variable("PORTREEVE_TEST_FLEET").into()
}

fn address() -> String {
    variable("PORTREEVE_TEST_REGISTRY")
}

/// When a daemon asked the registry for a tag that is not there, by the registry's own clock.
fn asked(repository: &str, tag: &str) -> Vec<Timestamp> {
    let log = fs::read(file().with_file_name("registry.log")).expect("the registry's log");
    let uri = format!(" http.request.uri=/v2/{repository}/manifests/{tag} ");
    let log = String::from_utf8_lossy(&log);
    let refused = log.lines().filter(|l| l.contains(&uri) && l.contains(" http.request.method=GET "));
    let time = |l: &str| l.strip_prefix("time=\"")?.split('"').next()?.parse().ok();
    refused.map(|l| time(l).unwrap_or_else(|| panic!("no time: {l}"))).collect()
}

/// Pushes a local image of h2 and takes its new name away there; tells the name.
fn publish(image: &str, repository: &str, tag: &str) -> String {
    let h2 = second(&[]);
    publish_from(&h2.daemon, image, repository, tag)
}

fn publish_from(daemon: &Daemon, image: &str, repository: &str, tag: &str) -> String {
    let name = format!("{}/{repository}", address());
    daemon.call("POST", &format!("/images/{image}/tag?repo={name}&tag={tag}"), None);
    daemon.push(&name, tag);
    let reference = format!("{name}:{tag}");
    daemon.untag(&reference);
    reference
}

/// The app's image and one more layer of so many MiB that no compression makes smaller.
fn publish_large(mebibytes: usize, repository: &str) {
    let h2 = second(&[]);
    let made = h2.daemon.call("POST", "/containers/create", Some(&json!({"Image": variable("PORTREEVE_TEST_IMAGE")})));
    let id = made["Id"].as_str().expect("an id").to_owned();
    h2.daemon.copy_in(&id, "noise", &noise(mebibytes << 20));
    h2.daemon.call("POST", &format!("/commit?container={id}&repo=local/{repository}&tag=1"), Some(&json!({})));
    h2.daemon.call("DELETE", &format!("/containers/{id}?v=1"), None);
    publish_from(&h2.daemon, &format!("local/{repository}:1"), repository, "1");
    h2.daemon.untag(&format!("local/{repository}:1"));
}

/// The same each time, and like no other.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Another name of the registry, behind a wire of so many bytes per second. Where the wire ends, so does that registry,
/// for whoever knows it by this name.
fn slow(rate: usize) -> Relay {
    let fleet: Value = serde_json::from_slice(&fs::read(file()).expect("the fleet's file")).expect("JSON");
    let here: Ipv4Addr = fleet["gateway"].as_str().expect("an address").parse().expect("an address");
    let registry: SocketAddr = address().parse().expect("an address");
    Relay::start((here, 0).into(), registry, rate)
}

/// Removes these from h1 when it goes. To be made before the control plane, whose containers use them.
struct Pulled(Vec<String>);

impl Drop for Pulled {
    fn drop(&mut self) {
        for reference in &self.0 {
            daemon::first().untag(reference);
        }
    }
}

fn pulled(references: &[&str]) -> Pulled {
    Pulled(references.iter().map(|&r| r.to_owned()).collect())
}

fn with_image(name: &str, image: &str, policy: &str) -> Value {
    let volumes = json!([{"name": "data", "mountPath": "/data"}]);
    instance_with(name, &json!({"image": image, "imagePullPolicy": policy, "volumes": volumes, "power": "Running"}))
}

fn message(object: &Value, kind: &str) -> String {
    condition(object, kind)["message"].as_str().unwrap_or_default().to_owned()
}

/// Successive values, each once.
fn steps(seen: &[Value], of: impl Fn(&Value) -> &Value) -> Vec<String> {
    let mut steps: Vec<String> = seen.iter().map(|o| of(o).as_str().unwrap_or_default().to_owned()).collect();
    steps.dedup();
    steps
}

#[test]
fn a_host_without_the_image_pulls_it_and_tells_how_far_it_is() {
    publish_large(20, "large");
    let wire = slow(4 << 20);
    let (name, image) = ("pulling", format!("{}/large:1", wire.address));
    let _images = pulled(&[&image]);
    let mut plane = ControlPlane::start(31_500);
    let here = plane.daemon.ask("GET", &format!("/images/{image}/json"), None).expect("an answer");
    assert_eq!(here.status, 404, "h1 has it already");

    let watch = plane.watch();
    plane.apply(&with_image(name, &image, "IfNotPresent"));
    plane.until_serves(name);
    assert_eq!(plane.page(name, "/").field("version"), "1");

    let seen = watch.seen(name);
    let phases = steps(&seen, |o| &o["status"]["phase"]);
    let order = ["Pulling", "Starting", "Running"].map(|p| phases.iter().position(|seen| seen == p));
    assert!(order.is_sorted() && order[0].is_some(), "{phases:?}");
    let far: Vec<f64> = seen
        .iter()
        .filter(|o| o["status"]["phase"] == "Pulling")
        .filter_map(|o| {
            let told = message(o, "Ready");
            assert!(told.contains(&image), "{told}");
            let (_, of) = told.split_once(" layers, ")?;
            let (fetched, size) = of.split_once(" MiB fetched")?.0.split_once(" of ")?;
            assert!((20.0..30.0).contains(&size.parse::<f64>().expect("a number")), "{told}");
            fetched.parse().ok()
        })
        .collect();
    assert!(far.len() > 1 && far.is_sorted() && far.last() > far.first(), "{far:?} of {seen:#?}");
    let events = plane.events(name);
    for (reason, begin) in [("Pulling", "pulling image"), ("Pulled", "pulled image")] {
        let told = events.iter().find(|e| e["reason"] == reason).unwrap_or_else(|| panic!("no {reason}: {events:#?}"));
        let text = told["message"].as_str().unwrap_or_default();
        assert!(text.starts_with(&format!("{begin} {image}")), "{text}");
    }
}

#[test]
fn a_tag_that_is_missing_is_asked_for_less_and_less_often_and_taken_when_it_is_there() {
    // of this run alone: a fleet that is kept remembers what was pushed
    let late = &format!("late-{}", std::process::id());
    let (name, image) = ("tagless", format!("{}/{late}:1", address()));
    let _images = pulled(&[&image]);
    let mut plane = ControlPlane::start(31_520);
    plane.apply(&with_image(name, &image, "IfNotPresent"));
    let told = plane.until_is(name, "Failed", "ImagePullFailed");
    assert!(told.contains(&image) && told.contains("manifest unknown"), "the registry's words: {told}");

    let tried = within(PATIENCE, || {
        let times = asked(late, "1");
        if times.len() >= 6 { Ok(times) } else { Err(format!("{times:?}")) }
    });
    let tried = tried.unwrap_or_else(|why| plane.fail(name, &why));
    // Half a second, doubled with each try, less a fifth by chance. Longer is for the machine to say.
    for (n, pair) in tried.windows(2).enumerate() {
        let (waited, least) = (pair[1].duration_since(pair[0]), SignedDuration::from_millis(400 << n));
        assert!(waited >= least, "try {n}: {waited} of at least {least}: {tried:?}");
    }
    plane.until_is(name, "Failed", "ImagePullFailed");

    publish("portreeve/app:1", late, "1");
    plane.until_serves(name);
    assert_eq!(plane.page(name, "/").field("version"), "1");
}

#[test]
fn an_upgrade_to_a_missing_tag_leaves_the_old_container_serving() {
    let [one, two] = ["1", "2"].map(|tag| publish(&format!("portreeve/app:{tag}"), "upgraded", tag));
    let missing = format!("{}/upgraded:3", address());
    let _images = pulled(&[&one, &two]);
    let (name, mut plane) = ("retagged", ControlPlane::start(31_540));
    plane.apply(&with_image(name, &one, "IfNotPresent"));
    let before = plane.until_serves(name);
    plane.append(name, "note", "kept");
    let watch = plane.watch().begun(name);
    plane.run(&["upgrade", name, "--image", &missing, "--wait=false"]);
    let object = plane.until(name, "told", |o| condition(o, "UpToDate")["reason"] == "ImagePullFailed");
    let told = message(&object, "UpToDate");
    assert!(told.contains(&missing) && told.contains("manifest unknown"), "{told}");

    // three more tries, in each of which it serves as before
    let (end, tries) = (now() + PATIENCE, asked("upgraded", "3").len());
    while asked("upgraded", "3").len() < tries + 3 && now() < end {
        assert_eq!(plane.page(name, "/").header("x-app-version"), "1");
        let object = plane.get(name);
        let ready = condition(&object, "Ready");
        // a daemon that many tests share may be out of reach for a while, which is told
        assert!(ready["status"] == "True" || ready["reason"] == "HostUnreachable", "{object:#}");
        assert_ne!(condition(&object, "UpToDate")["status"], "True", "{object:#}");
        assert!(!serves(&object), "Ready speaks of the old spec: {object:#}");
    }
    assert!(asked("upgraded", "3").len() >= tries + 3, "it is tried on");
    assert_eq!(plane.daemon.container(name)["Id"], before["status"]["containerID"]);

    plane.run(&["upgrade", name, "--image", &two]);
    let after = plane.until_serves(name);
    let page = plane.page(name, "/");
    assert_eq!((page.header("x-app-version"), page.field("boots").as_str()), ("2", "2"));
    assert_eq!(plane.page(name, "/data/note").text(), "kept");
    assert_eq!(after["status"]["ports"], before["status"]["ports"]);
    let mut seen = watch.seen(name);
    seen.retain(|o| condition(o, "UpToDate")["reason"] != "HostUnreachable");
    let reasons = steps(&seen, |o| &condition(o, "UpToDate")["reason"]);
    let expected = ["UpToDate", "Replacing", "ImagePullFailed", "Replacing", "UpToDate"];
    assert_eq!(reasons, expected, "no reason comes and goes");
}

#[test]
fn a_tag_that_moved_is_pulled_anew_by_who_always_pulls() {
    let moving = publish("portreeve/app:1", "moving", "1");
    let _images = pulled(&[&moving]);
    let mut plane = ControlPlane::start(31_560);
    for (name, policy) in [("loyal", "IfNotPresent"), ("fickle", "Always")] {
        plane.apply(&with_image(name, &moving, policy));
        plane.until_serves(name);
        assert_eq!(plane.page(name, "/").header("x-app-version"), "1");
    }
    let before = plane.get("fickle");
    publish("portreeve/app:2", "moving", "1");
    // with the image that is there, and then with the one that the registry has now
    for (name, version) in [("loyal", "1"), ("fickle", "2")] {
        plane.run(&["restart", name]);
        plane.until_serves(name);
        assert_eq!(plane.page(name, "/").header("x-app-version"), version, "{name}");
    }
    let after = plane.get("fickle");
    assert_ne!(after["status"]["image"]["id"], before["status"]["image"]["id"]);
    assert_eq!(after["status"]["image"]["reference"], json!(moving));
}

#[test]
fn an_image_that_is_never_pulled_is_taken_when_it_is_loaded() {
    // the registry has it, too, which is no help
    let image = publish("portreeve/app:2", "loaded", "1");
    let archive = {
        let h2 = second(&[]);
        let (repository, tag) = image.rsplit_once(':').expect("a tag");
        h2.daemon.call("POST", &format!("/images/portreeve/app:2/tag?repo={repository}&tag={tag}"), None);
        let archive = h2.daemon.save(&image);
        h2.daemon.untag(&image);
        archive
    };
    let _images = pulled(&[&image]);
    let (name, mut plane) = ("loaded", ControlPlane::start(31_580));
    plane.apply(&with_image(name, &image, "Never"));
    let told = plane.until_is(name, "Failed", "ImageMissing");
    assert!(told.contains(&image) && told.contains("Never"), "{told}");

    plane.daemon.load(&archive);
    let since = now();
    plane.until(name, "the image is noticed", |o| condition(o, "Ready")["reason"] != "ImageMissing");
    let took = now() - since;
    plane.until_serves(name);
    assert_eq!(plane.page(name, "/").header("x-app-version"), "2");
    // that an event told of it, rather than its own look of every 30 s, is for the simulation to say
    eprintln!("{name}: noticed {took:.1?} after it was loaded");
}

#[test]
fn a_registry_that_goes_away_is_told_and_waited_for() {
    publish_large(16, "broken-off");
    publish("portreeve/app:1", "refused", "1");
    let wire = slow(2 << 20);
    let (there, broken_off) = (wire.address, format!("{}/broken-off:1", wire.address));
    let refused = format!("{there}/refused:1");
    let _images = pulled(&[&refused, &broken_off]);
    let mut plane = ControlPlane::start(31_760);

    let name = "broken-off";
    plane.apply(&with_image(name, &broken_off, "IfNotPresent"));
    plane.until(name, "it is being pulled", |o| message(o, "Ready").contains("MiB fetched"));
    drop(wire);
    let told = plane.until(name, "told", |o| message(o, "Ready").contains("the registry broke off"));
    assert!(message(&told, "Ready").contains("Retrying in"), "the daemon's words: {told:#}");

    let name = "refused";
    plane.apply(&with_image(name, &refused, "IfNotPresent"));
    let told = plane.until_is(name, "Failed", "ImagePullFailed");
    assert!(told.contains(&refused) && told.contains("connection refused"), "the daemon's words: {told}");
    let _wire = Relay::start(there, address().parse().expect("an address"), 64 << 20);
    for name in ["refused", "broken-off"] {
        plane.until_serves(name);
        assert_eq!(plane.page(name, "/").field("version"), "1");
    }
}
