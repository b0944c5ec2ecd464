//! Endpoints that lead to another daemon than before: nothing is made there, and above all nothing is taken away.

use std::time::Duration;

use portreeve::model::{Condition, DAEMON_CHANGED, DAEMON_SHARED, DockerHost, Key, Phase, condition};
use portreeve::store::typed;
use serde_json::json;

use super::moving::change_host;
use super::{MINUTE, converged, in_virtual_time};
use crate::support::world::World;

async fn ready(world: &World, host: &str) -> Option<Condition> {
    let host: DockerHost = typed::get(&*world.store, &Key::host(host)).await.unwrap().unwrap();
    condition(&host.status.conditions, "Ready").cloned()
}

async fn told(world: &World, host: &str, reason: &str) {
    world
        .until(&format!("{host} is {reason}"), MINUTE, async |w: &World| {
            ready(w, host).await.is_some_and(|c| c.reason == reason)
        })
        .await;
}

/// Four instances, two on each host.
async fn two_hosts() -> World {
    let mut world = World::new(&["h1", "h2"], 33).await;
    world.start();
    for name in ["a", "b", "c", "d"] {
        let ports = json!([{"name": "web", "containerPort": 80}]);
        world.apply(name, json!({"image": "app:1", "ports": ports, "power": "Running"})).await;
    }
    converged(&world, MINUTE).await;
    for host in ["h1", "h2"] {
        assert_eq!(world.fleet.host(host).snapshot().containers.len(), 2);
    }
    world
}

#[test]
fn daemons_that_change_places_lose_nothing() {
    in_virtual_time(|| async {
        let world = two_hosts().await;
        let (before, writes) = (world.snapshots(), world.fleet.writes());
        world.fleet.lead("h1", "h2");
        world.fleet.lead("h2", "h1");
        for host in ["h1", "h2"] {
            told(&world, host, DAEMON_CHANGED).await;
            let message = ready(&world, host).await.unwrap().message;
            assert!(message.contains("spec.daemonID"), "{message}");
        }
        // One is to be deleted: its host cannot be reached, so its record stays.
        world.delete("a").await;
        tokio::time::sleep(5 * MINUTE).await;
        assert!(world.get("a").await.is_some());
        assert_eq!(world.phase("b").await, Some(Phase::Lost));
        assert_eq!((world.snapshots(), world.fleet.writes()), (before, writes));

        world.fleet.lead("h1", "h1");
        world.fleet.lead("h2", "h2");
        converged(&world, 2 * MINUTE).await;
        assert!(world.get("a").await.is_none());
        world.assert_quiet(5 * MINUTE).await;
    });
}

#[test]
fn a_second_record_of_one_daemon_is_not_used() {
    in_virtual_time(|| async {
        let world = two_hosts().await;
        let (before, writes) = (world.snapshots(), world.fleet.writes());
        let mut twin: DockerHost = typed::get(&*world.store, &Key::host("h2")).await.unwrap().unwrap();
        twin.metadata.name = "h3".into();
        twin.metadata.uid = "host-h3".into();
        twin.metadata.resource_version = String::new();
        twin.status = Default::default();
        world.fleet.lead("h3", "h2");
        typed::create(&*world.store, &twin).await.unwrap();
        told(&world, "h3", DAEMON_SHARED).await;
        assert!(ready(&world, "h3").await.unwrap().message.contains("h2"));
        tokio::time::sleep(5 * MINUTE).await;
        assert_eq!((world.snapshots(), world.fleet.writes()), (before, writes));
        assert_eq!(ready(&world, "h2").await.unwrap().reason, "Connected");
        world.assert_quiet(5 * MINUTE).await;
    });
}

#[test]
fn a_daemon_made_anew_is_used_once_it_is_accepted() {
    in_virtual_time(|| async {
        let world = two_hosts().await;
        world.fleet.host("h1").crash_daemon(Duration::from_secs(1));
        world.fleet.host("h1").lose_disk();
        world.fleet.host("h1").set_daemon_id("made anew");
        let writes = world.fleet.writes();
        told(&world, "h1", DAEMON_CHANGED).await;
        tokio::time::sleep(5 * MINUTE).await;
        assert_eq!(world.fleet.writes(), writes);
        change_host(&world, "h1", |host| host.spec.daemon_id = "made anew".into()).await;
        converged(&world, 2 * MINUTE).await;
        assert_eq!(world.fleet.host("h1").snapshot().containers.len(), 2);
        assert_eq!(ready(&world, "h1").await.unwrap().reason, "Connected");
        world.assert_quiet(5 * MINUTE).await;
    });
}
