//! Instances that take values from Secrets and ConfigMaps, in simulation: they wait for what is missing, come up when it
//! is made, keep what they were made with, and show nothing of it.

use std::time::Duration;

use portreeve::model::{Condition, ConditionStatus, Key, Kind, Phase, RESTART_ANNOTATION, condition};
use portreeve::store::{ListRequest, Op, Txn};
use serde_json::{Value, json};

use crate::support::world::World;

const MINUTE: Duration = Duration::from_secs(60);
/// From a change to its effect: no recheck and no back-off is as short.
const SOON: Duration = Duration::from_secs(3);
const CONTAINER: &str = "pr.default.alice";
/// The value, and in base64.
const VALUE: (&str, &str) = ("hunter2-and-more", "aHVudGVyMi1hbmQtbW9yZQ==");

fn spec(env: Value) -> Value {
    json!({"image": "app:1", "ports": [{"name": "web", "containerPort": 80}], "power": "Running", "env": env})
}

fn password(optional: bool) -> Value {
    json!({"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password", "optional": optional}}})
}

/// Writes a Secret or ConfigMap as the API does.
async fn put(world: &World, kind: Kind, name: &str, fields: &Value) {
    let mut object = json!({"apiVersion": "v1", "kind": kind.to_string(), "metadata": {"name": name, "namespace": "default", "uid": name}});
    for (field, value) in fields.as_object().unwrap() {
        object[field] = value.clone();
    }
    let op = Op::Put { key: Key::new(kind, "default", name).to_string(), value: object.to_string().into() };
    world.opened.txn(Txn { when: vec![], then: vec![op] }).await.unwrap();
}

async fn put_password(world: &World, encoded: &str) {
    put(world, Kind::Secret, "db", &json!({"data": {"password": encoded}})).await;
}

async fn remove(world: &World, kind: Kind, name: &str) {
    let op = Op::Delete { key: Key::new(kind, "default", name).to_string() };
    world.opened.txn(Txn { when: vec![], then: vec![op] }).await.unwrap();
}

async fn told(world: &World, type_: &str) -> Condition {
    let alice = world.get("alice").await.unwrap();
    condition(&alice.status.conditions, type_).cloned().unwrap_or_else(|| panic!("no {type_}: {alice:#?}"))
}

async fn until_told(world: &World, limit: Duration, type_: &str, reason: &str, words: &str) {
    let so = async |w: &World| {
        let alice = w.get("alice").await.unwrap();
        condition(&alice.status.conditions, type_).is_some_and(|c| c.reason == reason && c.message.contains(words))
    };
    world.until(&format!("{type_} {reason}: {words}"), limit, so).await;
}

async fn until_runs(world: &World, limit: Duration) {
    world.until("it runs", limit, async |w: &World| w.phase("alice").await == Some(Phase::Running)).await;
}

fn environment(world: &World) -> Vec<String> {
    world.fleet.host("h1").environment(CONTAINER)
}

async fn world() -> World {
    let mut world = World::new(&["h1"], 33).await;
    world.start();
    world
}

/// Neither the store (objects, statuses, events) nor what a daemon shows of its objects has the value.
async fn assert_shown_nowhere(world: &World) {
    let records = world.store.list(ListRequest::default()).await.unwrap().records;
    assert!(records.iter().any(|r| r.key.starts_with("events/")), "events are told");
    let mut shown = format!("{:?}", world.snapshots());
    for record in records {
        shown.push_str(&String::from_utf8_lossy(&record.value));
    }
    for (host, engine) in world.fleet.all() {
        shown.push_str(&format!("{host} {:?}", engine.ops()));
    }
    for value in [VALUE.0, VALUE.1] {
        assert!(!shown.contains(value), "{value} is in {shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_waits_for_a_secret_and_comes_up_when_it_is_made() {
    let mut world = world().await;
    world.apply("alice", spec(json!([password(false)]))).await;
    until_told(&world, SOON, "Ready", "SecretMissing", "no Secret default/db with the key password").await;
    assert_eq!(world.phase("alice").await, Some(Phase::Failed));
    world.assert_quiet(10 * MINUTE).await;
    put(&world, Kind::Secret, "db", &json!({"data": {"user": "Ym9i"}})).await;
    until_told(&world, SOON, "Ready", "SecretMissing", "Secret default/db has no key password").await;
    // of the same name, and somewhere else or something else
    put(&world, Kind::ConfigMap, "db", &json!({"data": {"password": "no secret"}})).await;
    world.assert_quiet(10 * MINUTE).await;
    assert!(world.snapshots()[0].1.containers.is_empty(), "{:?}", world.snapshots());

    put_password(&world, VALUE.1).await;
    until_runs(&world, SOON).await;
    assert_eq!(environment(&world), [format!("PASSWORD={}", VALUE.0)]);
    world.assert_quiet(10 * MINUTE).await;
    assert_shown_nowhere(&world).await;
    world.crash().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_optional_is_done_without() {
    let mut world = world().await;
    let mut wanted = spec(json!([{"name": "A", "value": "1"}, password(true)]));
    wanted["envFrom"] = json!([{"secretRef": {"name": "gone", "optional": true}}, {"configMapRef": {"name": "all"}}]);
    world.apply("alice", wanted).await;
    until_told(&world, SOON, "Ready", "ConfigMapMissing", "no ConfigMap default/all").await;
    put(&world, Kind::ConfigMap, "all", &json!({"data": {"A": "no", "B": "2", "1st": "odd"}})).await;
    until_runs(&world, SOON).await;
    assert_eq!(environment(&world), ["A=1", "B=2"]);
    let has_event = async |w: &World| {
        let events = w.store.list(ListRequest { prefix: "events/".into(), ..ListRequest::default() }).await.unwrap();
        events.records.iter().any(|r| String::from_utf8_lossy(&r.value).contains("1st of ConfigMap default/all"))
    };
    world.until("what was left out is told", SOON, has_event).await;
    world.crash().await;
}

#[tokio::test(start_paused = true)]
async fn what_runs_keeps_the_values_that_it_was_made_with_until_it_is_made_anew() {
    let mut world = world().await;
    put_password(&world, "b25l").await;
    world.apply("alice", spec(json!([password(false)]))).await;
    until_runs(&world, MINUTE).await;
    let first = world.get("alice").await.unwrap().status.container_id;
    let is_first = async |w: &World| {
        let status = w.get("alice").await.unwrap().status;
        assert_eq!((status.container_id, status.phase), (first.clone(), Phase::Running));
        assert_eq!(condition(&status.conditions, "Ready").map(|c| c.status), Some(ConditionStatus::True));
    };
    put_password(&world, VALUE.1).await;
    world.assert_quiet(10 * MINUTE).await;
    is_first(&world).await;

    remove(&world, Kind::Secret, "db").await;
    world.assert_quiet(10 * MINUTE).await;
    is_first(&world).await;
    // a new container would need what is not there: the old one serves on
    let restart = |i: &mut portreeve::model::Instance| {
        i.metadata.annotations.insert(RESTART_ANNOTATION.into(), "1".into());
    };
    world.change("alice", restart).await;
    until_told(&world, SOON, "UpToDate", "SecretMissing", "Secret default/db").await;
    world.assert_quiet(10 * MINUTE).await;
    is_first(&world).await;
    assert_eq!(environment(&world), ["PASSWORD=one"]);

    put_password(&world, VALUE.1).await;
    world
        .until("it has the new value", SOON, async |w: &World| environment(w) == [format!("PASSWORD={}", VALUE.0)])
        .await;
    until_runs(&world, MINUTE).await;
    assert_eq!(told(&world, "UpToDate").await.status, ConditionStatus::True);
    assert_shown_nowhere(&world).await;
    world.crash().await;
}

#[tokio::test(start_paused = true)]
async fn a_value_that_no_variable_can_have_costs_nobody_the_container_that_serves() {
    let mut world = world().await;
    world.apply("alice", spec(json!([]))).await;
    until_runs(&world, MINUTE).await;
    let first = world.get("alice").await.unwrap().status.container_id;
    // one byte that is no text
    put_password(&world, "/w==").await;
    let reference = serde_json::from_value::<portreeve::model::EnvVar>(password(false)).unwrap();
    world.change("alice", |i| i.spec.env = vec![reference.clone()]).await;
    until_told(&world, SOON, "UpToDate", "InvalidConfiguration", "Secret default/db: the value at key password").await;
    tokio::time::sleep(10 * MINUTE).await;
    let alice = world.get("alice").await.unwrap();
    assert_eq!((alice.status.container_id, alice.status.phase), (first, Phase::Running));
    assert_eq!(told(&world, "Ready").await.status, ConditionStatus::True);

    // not in the middle of a back-off
    put_password(&world, VALUE.1).await;
    world.until("it is replaced", SOON, async |w: &World| environment(w) == [format!("PASSWORD={}", VALUE.0)]).await;
    until_runs(&world, MINUTE).await;
    world.crash().await;
}

#[tokio::test(start_paused = true)]
async fn a_private_image_is_pulled_with_the_login_of_its_secret() {
    use crate::support::sim_engine::image::SimImage;
    let mut world = world().await;
    let image = "registry.example/private:1";
    world.fleet.host("h1").add_image(image, SimImage::server().remote(Duration::from_secs(1)).private(VALUE.0));
    let mut wanted = spec(json!([]));
    wanted["image"] = image.into();
    wanted["imagePullSecret"] = "login".into();
    world.apply("alice", wanted).await;
    until_told(&world, SOON, "Ready", "SecretMissing", "no Secret default/login, which spec.imagePullSecret names")
        .await;
    world.assert_quiet(10 * MINUTE).await;
    put(&world, Kind::Secret, "login", &json!({"data": {"password": "b25l"}})).await;
    until_told(&world, SOON, "Ready", "SecretMissing", "has no key .dockerconfigjson").await;

    let config = async |registry: &str, password: &str| {
        use base64::Engine as _;
        let config = json!({"auths": {registry: {"username": "bob", "password": password}}}).to_string();
        let encoded = base64::engine::general_purpose::STANDARD.encode(config);
        put(&world, Kind::Secret, "login", &json!({"data": {".dockerconfigjson": encoded}})).await;
    };
    config("other.example", VALUE.0).await;
    until_told(&world, SOON, "Ready", "ImagePullFailed", "Secret default/login: it has no login for registry.example")
        .await;
    assert_eq!(world.fleet.host("h1").pulls(), 0);
    config("registry.example", "wrong").await;
    until_told(&world, SOON, "Ready", "ImagePullFailed", "pull access denied").await;
    tokio::time::sleep(10 * MINUTE).await;
    config("registry.example", VALUE.0).await;
    until_runs(&world, 2 * SOON).await;
    assert_eq!(world.fleet.host("h1").pulls(), 1);
    assert_shown_nowhere(&world).await;

    // the image is there: who has it needs no login
    remove(&world, Kind::Secret, "login").await;
    world.assert_quiet(10 * MINUTE).await;
    world.crash().await;
}
