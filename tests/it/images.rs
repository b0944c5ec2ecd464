//! Images that are missing, late or moved, and volumes that go, in simulation: what is told, how often it is tried, and
//! how soon what comes is taken up.

use std::time::Duration;

use portreeve::model::{Condition, ConditionStatus, Instance, Phase, Power, condition};
use portreeve::store::Revision;
use serde_json::{Value, json};

use crate::support::sim_engine::SimEngine;
use crate::support::sim_engine::fault::{Fault, FaultRates};
use crate::support::sim_engine::image::SimImage;
use crate::support::world::World;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// From an event to its effect: no recheck and no back-off is as short.
const SOON: Duration = Duration::from_secs(3);

fn spec(image: &str, policy: &str) -> Value {
    json!({
        "image": image,
        "imagePullPolicy": policy,
        "ports": [{"name": "web", "containerPort": 80}],
        "volumes": [{"name": "home", "mountPath": "/home/app"}],
        "power": "Running",
    })
}

fn told(instance: &Instance, type_: &str) -> Condition {
    condition(&instance.status.conditions, type_).cloned().unwrap_or_else(|| panic!("no {type_}: {instance:#?}"))
}

async fn until_ready_says(world: &World, limit: Duration, reason: &str) {
    let says = async |w: &World| {
        w.get("alice")
            .await
            .is_some_and(|i| condition(&i.status.conditions, "Ready").is_some_and(|c| c.reason == reason))
    };
    world.until(reason, limit, says).await;
}

async fn until_phase(world: &World, limit: Duration, phase: Phase) {
    world.until(&format!("{phase:?}"), limit, async |w: &World| w.phase("alice").await == Some(phase)).await;
}

/// Every state that an instance was in after a revision, in order.
async fn history(world: &World, name: &str, after: Revision) -> Vec<Instance> {
    let key = portreeve::model::Key::instance("default", name).to_string();
    let mut watch = world.store.watch(&key, after).await.unwrap();
    let mut seen = vec![];
    while let Ok(Ok(change)) = tokio::time::timeout(Duration::from_millis(1), watch.next()).await {
        seen.extend(change.now.map(|record| serde_json::from_slice(&record.value).unwrap()));
    }
    seen
}

/// The reasons of one condition, in the order in which they came.
fn reasons(history: &[Instance], type_: &str) -> Vec<String> {
    let mut reasons: Vec<String> =
        history.iter().filter_map(|i| condition(&i.status.conditions, type_)).map(|c| c.reason.clone()).collect();
    reasons.dedup();
    reasons
}

/// When pulls were tried.
fn pulls(engine: &SimEngine) -> Vec<Duration> {
    engine.ops().iter().filter(|op| op.op == "pull image").map(|op| op.at).collect()
}

async fn world() -> World {
    let mut world = World::new(&["h1"], 21).await;
    world.fleet.host("h1").add_image("late:1", SimImage::server().remote(SECOND).unpullable());
    world.start();
    world
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_loaded_is_taken_up_at_once_where_it_is_never_pulled() {
    for lost in [false, true] {
        let mut world = world().await;
        world.apply("alice", spec("late:1", "Never")).await;
        until_ready_says(&world, SOON, "ImageMissing").await;
        let alice = world.get("alice").await.unwrap();
        assert!(told(&alice, "Ready").message.contains("late:1"), "{alice:#?}");
        world.assert_quiet(10 * MINUTE).await;
        let engine = world.fleet.host("h1");
        if lost {
            engine.set_fault_rates(FaultRates { lost_events: 100, ..FaultRates::default() });
        }
        engine.load_image_by_hand("late:1", SimImage::server());
        // without the event it is found by its own look every 30 s
        until_phase(&world, if lost { 35 * SECOND } else { SOON }, Phase::Running).await;
        assert!(pulls(engine).is_empty(), "somebody pulled");
        world.crash().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_fails_is_tried_less_and_less_often_whatever_images_come() {
    for policy in ["IfNotPresent", "Always"] {
        let mut world = world().await;
        let engine = world.fleet.host("h1");
        if policy == "Always" {
            // an older one is there, which is no reason to try
            engine.load_image_by_hand("late:1", SimImage::server().unpullable());
        }
        world.apply("alice", spec("late:1", policy)).await;
        until_ready_says(&world, 5 * SECOND, "ImagePullFailed").await;
        let alice = world.get("alice").await.unwrap();
        assert_eq!(alice.status.phase, Phase::Failed);
        assert!(told(&alice, "Ready").message.contains("late:1 not found"), "{alice:#?}");
        for n in 0..600 {
            engine.load_image_by_hand(&format!("other:{n}"), SimImage::server());
            tokio::time::sleep(SECOND).await;
        }
        let tries = pulls(engine);
        assert!((12..=22).contains(&tries.len()), "ten minutes: {tries:?}");
        let waits: Vec<Duration> = tries.windows(2).map(|w| w[1] - w[0]).collect();
        // doubling, each 20 % early or late, up to a minute; the pull itself takes a second
        for (earlier, later) in waits.iter().zip(&waits[1..]).take(6) {
            assert!(later > earlier, "{waits:?}");
        }
        assert!(waits.last().is_some_and(|w| *w >= 48 * SECOND), "{waits:?}");
        let waiting = told(&world.get("alice").await.unwrap(), "Ready");
        assert_eq!((waiting.status, waiting.reason.as_str()), (ConditionStatus::False, "ImagePullFailed"));

        engine.add_image("late:1", SimImage::server().remote(SECOND));
        until_phase(&world, 75 * SECOND, Phase::Running).await;
        world.crash().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_that_comes_by_hand_ends_the_wait_for_a_pull() {
    let mut world = world().await;
    world.apply("alice", spec("late:1", "IfNotPresent")).await;
    tokio::time::sleep(10 * MINUTE).await;
    let engine = world.fleet.host("h1");
    // right after a try, so that the next one is most of a minute away
    let tries = pulls(engine).len();
    world.until("a try", 2 * MINUTE, async |w: &World| pulls(w.fleet.host("h1")).len() > tries).await;
    tokio::time::sleep(2 * SECOND).await;
    engine.tag_image_by_hand("app:1", "late:1");
    until_phase(&world, SOON, Phase::Running).await;
    assert_eq!(pulls(engine).len(), tries + 1);
    world.crash().await;
}

/// The daemon has pulled it and cannot use it: its own pulls are no news that would make it try again.
#[tokio::test(start_paused = true)]
async fn a_pull_that_works_before_a_create_that_does_not_is_no_news() {
    let mut world = world().await;
    let engine = world.fleet.host("h1");
    engine.add_image("late:1", SimImage::server().remote(SECOND));
    for _ in 0..200 {
        engine.arm("create container", Fault::ServerError);
    }
    world.apply("alice", spec("late:1", "Always")).await;
    tokio::time::sleep(10 * MINUTE).await;
    let tries = pulls(engine);
    assert!((10..=22).contains(&tries.len()), "ten minutes: {tries:?}");
    world.crash().await;
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_to_a_missing_image_leaves_the_old_one_serving_and_says_one_thing() {
    let mut world = world().await;
    world.apply("alice", spec("app:1", "IfNotPresent")).await;
    until_phase(&world, MINUTE, Phase::Running).await;
    let before = world.get("alice").await.unwrap();
    let revision = world.store.revision();
    world.change("alice", |i| i.spec.image = "late:1".into()).await;
    tokio::time::sleep(10 * MINUTE).await;
    let history_of_failing = history(&world, "alice", revision).await;
    assert_eq!(reasons(&history_of_failing, "UpToDate"), ["UpToDate", "Replacing", "ImagePullFailed"]);
    assert_eq!(reasons(&history_of_failing, "Ready"), ["Running"]);
    assert!(history_of_failing.len() < 6, "a write with each try: {}", history_of_failing.len());
    let now = world.get("alice").await.unwrap();
    assert!(told(&now, "UpToDate").message.contains("late:1"));
    assert_eq!(now.status.container_id, before.status.container_id);
    assert_eq!(now.status.observed_generation, before.status.observed_generation, "what is ready is the old spec");

    let revision = world.store.revision();
    world.fleet.host("h1").load_image_by_hand("late:1", SimImage::server());
    world
        .until("it is upgraded", SOON, async |w: &World| {
            let alice = w.get("alice").await.unwrap();
            alice.status.phase == Phase::Running && alice.status.image.reference == "late:1"
        })
        .await;
    let after = history(&world, "alice", revision).await;
    assert_eq!(reasons(&after, "UpToDate"), ["Replacing", "UpToDate"]);
    let alice = world.get("alice").await.unwrap();
    assert_eq!(
        (alice.status.ports, alice.status.observed_generation),
        (before.status.ports, alice.metadata.generation)
    );
    world.crash().await;
}

/// A registry that says nothing is no host that says nothing.
#[tokio::test(start_paused = true)]
async fn a_pull_without_an_answer_takes_nothing_down() {
    let mut world = world().await;
    world.apply("alice", spec("app:1", "IfNotPresent")).await;
    until_phase(&world, MINUTE, Phase::Running).await;
    let revision = world.store.revision();
    world.fleet.host("h1").arm("pull image", Fault::Hang);
    world.change("alice", |i| i.spec.image = "app:3".into()).await;
    world
        .until("the silence is told", 3 * MINUTE, async |w: &World| {
            told(&w.get("alice").await.unwrap(), "UpToDate").reason == "ImagePullFailed"
        })
        .await;
    assert_eq!(reasons(&history(&world, "alice", revision).await, "Ready"), ["Running"]);
    world
        .until("it is upgraded", MINUTE, async |w: &World| {
            let alice = w.get("alice").await.unwrap();
            alice.status.phase == Phase::Running && alice.status.image.reference == "app:3"
        })
        .await;
    world.crash().await;
}

#[tokio::test(start_paused = true)]
async fn limits_that_the_daemon_refuses_are_told_until_it_takes_them() {
    let mut world = world().await;
    world.apply("alice", spec("app:1", "IfNotPresent")).await;
    until_phase(&world, MINUTE, Phase::Running).await;
    let before = world.get("alice").await.unwrap();
    let revision = world.store.revision();
    for _ in 0..8 {
        world.fleet.host("h1").arm("update container", Fault::ServerError);
    }
    world.change("alice", |i| i.spec.resources.memory = Some("512Mi".parse().unwrap())).await;
    tokio::time::sleep(30 * SECOND).await;
    let failing = history(&world, "alice", revision).await;
    assert_eq!(reasons(&failing, "UpToDate"), ["UpToDate", "Updating", "UpdateFailed"]);
    assert!(failing.iter().all(|i| i.status.observed_generation == before.status.observed_generation));
    tokio::time::sleep(5 * MINUTE).await;
    let all = history(&world, "alice", revision).await;
    assert_eq!(reasons(&all, "UpToDate"), ["UpToDate", "Updating", "UpdateFailed", "UpToDate"]);
    assert_eq!(reasons(&all, "Ready"), ["Running"]);
    let alice = world.get("alice").await.unwrap();
    assert_eq!(alice.status.observed_generation, alice.metadata.generation);
    world.crash().await;
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_a_sleepers_volume_is_told_at_once_and_its_return_too() {
    let mut world = world().await;
    let mut sleeper = spec("app:1", "IfNotPresent");
    sleeper["power"] = json!("Auto");
    sleeper["idle"] = json!({"after": "10m"});
    world.apply("alice", sleeper).await;
    until_phase(&world, MINUTE, Phase::Running).await;
    until_phase(&world, 15 * MINUTE, Phase::Asleep).await;
    world.assert_quiet(10 * MINUTE).await;
    let engine = world.fleet.host("h1");
    // a volume is in use as long as its container is there, running or not
    engine.remove_by_hand("pr.default.alice");
    tokio::time::sleep(SOON).await;
    assert_eq!(told(&world.get("alice").await.unwrap(), "Ready").reason, "Asleep");
    engine.remove_volume_by_hand("pr.default.alice.home");
    until_ready_says(&world, SOON, "VolumeLost").await;
    let lost = world.get("alice").await.unwrap();
    assert_eq!(lost.status.phase, Phase::Asleep, "it rests on");
    assert!(told(&lost, "Ready").message.contains("pr.default.alice.home"));
    world.assert_quiet(10 * MINUTE).await;

    world.request("alice");
    until_phase(&world, SOON, Phase::Failed).await;
    assert_eq!(told(&world.get("alice").await.unwrap(), "Ready").reason, "VolumeLost");
    assert!(engine.snapshot().volumes.is_empty(), "no empty one in its place");

    let labels = portreeve::docker::labels::owner_labels(
        crate::support::world::CLUSTER,
        &portreeve::model::Key::instance("default", "alice"),
        &lost.metadata.uid,
    );
    engine.restore_volume_by_hand("pr.default.alice.home", labels);
    until_phase(&world, SOON, Phase::Running).await;
    world.crash().await;
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_a_stopped_ones_volume_is_told() {
    let mut world = world().await;
    world.apply("alice", spec("app:1", "IfNotPresent")).await;
    until_phase(&world, MINUTE, Phase::Running).await;
    world.change("alice", |i| i.spec.power = Power::Stopped).await;
    until_phase(&world, MINUTE, Phase::Stopped).await;
    let engine = world.fleet.host("h1");
    engine.remove_by_hand("pr.default.alice");
    engine.remove_volume_by_hand("pr.default.alice.home");
    until_ready_says(&world, SOON, "VolumeLost").await;
    assert_eq!(world.phase("alice").await, Some(Phase::Stopped));
    world.crash().await;
}
