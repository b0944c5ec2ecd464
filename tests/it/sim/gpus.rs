//! GPUs: that each is one instance's alone, whatever is asked for when, and that a change brings its own devices.

use std::collections::BTreeSet;
use std::time::Duration;

use portreeve::model::{Phase, Power, condition};
use serde_json::{Value, json};

use super::{MINUTE, converged, in_virtual_time, spec};
use crate::support::world::World;

fn with_gpus(gpus: u32) -> Value {
    let mut spec = spec("app:1");
    spec["gpus"] = json!(gpus);
    spec
}

async fn world(gpus: &[&str]) -> World {
    let mut world = World::new(&["h1"], 11).await;
    world.fleet.host("h1").set_gpus(gpus);
    world.start();
    world
}

/// The devices of the instance's container, which are those that its status names.
async fn devices(world: &World, name: &str) -> Vec<String> {
    let status = world.get(name).await.expect("it is there").status;
    let gpus = world.fleet.host("h1").gpus_of(&status.container_id).expect("it has a container");
    assert_eq!(gpus, status.gpus, "{name}");
    gpus
}

async fn waits_for_a_gpu(world: &World, name: &str) -> bool {
    let status = world.get(name).await.expect("it is there").status;
    let why = condition(&status.conditions, "Scheduled").map(|c| c.message.as_str());
    status.phase == Phase::Pending && why == Some("0/1 hosts fit: 1 without enough free GPUs")
}

#[test]
fn one_that_finds_none_free_waits_and_gets_the_one_that_is_given_back() {
    in_virtual_time(|| async {
        let world = world(&["GPU-a", "GPU-b"]).await;
        for name in ["alice", "bob", "carol"] {
            world.apply(name, with_gpus(1)).await;
            let placed = async |w: &World| w.get(name).await.is_some_and(|i| !i.status.node.is_empty());
            if name != "carol" {
                world.until("it is placed", MINUTE, placed).await;
            }
        }
        world.until("the third waits", MINUTE, async |w| waits_for_a_gpu(w, "carol").await).await;
        let running = async |w: &World| {
            w.phase("alice").await == Some(Phase::Running) && w.phase("bob").await == Some(Phase::Running)
        };
        world.until("two run", MINUTE, running).await;
        let (alice, bob) = (devices(&world, "alice").await, devices(&world, "bob").await);
        assert_eq!(alice.iter().chain(&bob).collect::<BTreeSet<_>>().len(), 2, "{alice:?} {bob:?}");

        // One that rests keeps its device.
        world.change("alice", |i| i.spec.power = Power::Stopped).await;
        world.until("it rests", MINUTE, async |w| w.phase("alice").await == Some(Phase::Stopped)).await;
        tokio::time::sleep(5 * MINUTE).await;
        assert!(waits_for_a_gpu(&world, "carol").await);
        world.delete("alice").await;
        world.until("the third runs", 5 * MINUTE, async |w| w.phase("carol").await == Some(Phase::Running)).await;
        assert_eq!(devices(&world, "carol").await, alice);
        converged(&world, MINUTE).await;
    });
}

#[test]
fn another_count_is_another_container_with_the_same_ports_and_the_device_that_it_had() {
    in_virtual_time(|| async {
        let world = world(&["0", "1", "2"]).await;
        world.apply("alice", with_gpus(1)).await;
        converged(&world, MINUTE).await;
        let before = world.get("alice").await.unwrap().status;
        assert_eq!(devices(&world, "alice").await, ["0"]);
        world.change("alice", |i| i.spec.gpus = 3).await;
        converged(&world, 5 * MINUTE).await;
        let after = world.get("alice").await.unwrap().status;
        assert_eq!(devices(&world, "alice").await, ["0", "1", "2"]);
        assert_eq!((&after.ports, &after.volumes), (&before.ports, &before.volumes));
        assert_ne!(after.container_id, before.container_id);

        // More than there are: what runs goes on running, and says so.
        world.change("alice", |i| i.spec.gpus = 4).await;
        let told = async |w: &World| {
            let status = w.get("alice").await.unwrap().status;
            condition(&status.conditions, "UpToDate").is_some_and(|c| c.message.contains("without enough free GPUs"))
        };
        world.until("it is told", MINUTE, told).await;
        let kept = world.get("alice").await.unwrap().status;
        assert_eq!((kept.phase, &kept.container_id), (Phase::Running, &after.container_id));
        world.change("alice", |i| i.spec.gpus = 0).await;
        converged(&world, 5 * MINUTE).await;
        assert_eq!(devices(&world, "alice").await, [""; 0]);
        world.assert_quiet(Duration::from_secs(300)).await;
    });
}
