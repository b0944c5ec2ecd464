//! Host ports: that nobody is led to one that the container does not publish, and that one which cannot be had is given
//! up for another.

use std::collections::BTreeSet;
use std::time::Duration;

use portreeve::docker::engine::ContainerSpec;
use portreeve::docker::labels;
use portreeve::model::{BoundPort, Key, Phase, Power, condition, is_true};
use serde_json::json;

use super::{MINUTE, converged, in_virtual_time, spec};
use crate::support::sim_engine::fault::Fault;
use crate::support::sim_engine::image::SimImage;
use crate::support::world::{CLUSTER, World};

async fn ports(world: &World) -> Vec<BoundPort> {
    world.get("alice").await.unwrap().status.ports
}

async fn reason(world: &World) -> String {
    let alice = world.get("alice").await.unwrap();
    condition(&alice.status.conditions, "Ready").map(|c| c.reason.clone()).unwrap_or_default()
}

/// Whoever is led to the instance now meets a container that publishes its ports.
async fn leads_to_what_serves(world: &World) {
    let alice = world.get("alice").await.unwrap();
    if alice.status.phase != Phase::Running || !is_true(&alice.status.conditions, "Ready") {
        return;
    }
    let bound: BTreeSet<u16> = alice.status.ports.iter().map(|p| p.host_port).collect();
    let snapshot = world.fleet.host("h1").snapshot();
    let container = snapshot.containers.iter().find(|c| c.uid == alice.metadata.uid).expect("it is ready");
    let published: BTreeSet<u16> = container.ports.iter().map(|p| p.host_port).collect();
    assert!(bound.is_subset(&published), "bound are {bound:?}, and the container publishes {published:?}");
}

#[test]
fn a_port_that_something_else_holds_is_given_up_for_another() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 5).await;
        world.start();
        world.apply("alice", spec("app:1")).await;
        converged(&world, MINUTE).await;
        let before = ports(&world).await;
        world.change("alice", |i| i.spec.power = Power::Stopped).await;
        converged(&world, MINUTE).await;
        world.fleet.host("h1").take_port(before[0].host_port);
        world.change("alice", |i| i.spec.power = Power::Running).await;
        converged(&world, 5 * MINUTE).await;
        let after = world.get("alice").await.unwrap().status;
        assert_eq!(after.phase, Phase::Running);
        assert_ne!(after.ports[0].host_port, before[0].host_port);
        assert_eq!(after.ports[1], before[1], "only the one that cannot be had");
        assert_eq!((after.refused_ports, after.volumes), (vec![], vec!["pr.default.alice.home".to_owned()]));
        world.assert_quiet(5 * MINUTE).await;
    });
}

#[test]
fn a_port_that_the_user_chose_is_waited_for() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 6).await;
        world.start();
        world.fleet.host("h1").take_port(8080);
        let ports = json!([{"name": "web", "containerPort": 80, "hostPort": 8080}]);
        world.apply("alice", json!({"image": "app:1", "ports": ports, "power": "Running"})).await;
        world.until("it is told", MINUTE, async |w: &World| reason(w).await == "PortTaken").await;
        tokio::time::sleep(10 * MINUTE).await;
        assert_eq!(world.get("alice").await.unwrap().status.refused_ports, Vec::<u16>::new());
        world.fleet.host("h1").free_port(8080);
        converged(&world, 10 * MINUTE).await;
        assert_eq!(world.phase("alice").await, Some(Phase::Running));
    });
}

#[test]
fn ports_that_change_are_led_to_only_when_the_new_container_has_them() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 7).await;
        world.start();
        let image = SimImage::server().remote(Duration::from_secs(40));
        world.fleet.host("h1").add_image("slow:1", image.clone());
        world.fleet.host("h1").add_image("never:1", image.unpullable());
        world.apply("alice", spec("app:1")).await;
        converged(&world, MINUTE).await;

        // With an image that cannot be had: what serves goes on serving, at its ports.
        let before = ports(&world).await;
        world
            .change("alice", |i| {
                i.spec.image = "never:1".into();
                i.spec.ports[0].host_port = Some(8080);
            })
            .await;
        for _ in 0..1200 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            leads_to_what_serves(&world).await;
            assert_eq!(world.phase("alice").await, Some(Phase::Running), "{}", reason(&world).await);
        }
        assert_eq!(ports(&world).await, before);

        world.change("alice", |i| i.spec.image = "slow:1".into()).await;
        let mut down = 0;
        while ports(&world).await == before || world.phase("alice").await != Some(Phase::Running) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            leads_to_what_serves(&world).await;
            down += u32::from(world.phase("alice").await != Some(Phase::Running));
        }
        assert!(down < 50, "down for {down} tenths of a second: the pull takes 40 s, and is made before");
        converged(&world, MINUTE).await;
        assert_eq!(ports(&world).await[0].host_port, 8080);

        // A rename gives the port to another container port, at the same host port or another.
        world.change("alice", |i| i.spec.ports[0].name = "http".into()).await;
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            leads_to_what_serves(&world).await;
        }
        converged(&world, MINUTE).await;
        world.assert_quiet(5 * MINUTE).await;
    });
}

#[test]
fn a_port_fixed_where_another_of_the_instance_is_moves_that_one() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 8).await;
        world.start();
        world.apply("alice", spec("app:1")).await;
        converged(&world, MINUTE).await;
        let taken = ports(&world).await[0].host_port;
        world.change("alice", |i| i.spec.ports[1].host_port = Some(taken)).await;
        converged(&world, MINUTE).await;
        let after = ports(&world).await;
        assert_eq!(after[1].host_port, taken);
        assert_ne!(after[0].host_port, taken);
        assert_eq!(world.phase("alice").await, Some(Phase::Running));
    });
}

#[test]
fn a_stray_that_cannot_be_removed_keeps_nobody_from_starting() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 9).await;
        world.start();
        world.apply("alice", spec("app:1")).await;
        converged(&world, MINUTE).await;
        world.change("alice", |i| i.spec.power = Power::Stopped).await;
        converged(&world, MINUTE).await;
        let engine = world.fleet.host("h1");
        for _ in 0..200 {
            engine.arm("remove container", Fault::ServerError);
        }
        let key = Key::instance("default", "alice");
        engine.create_by_hand(ContainerSpec {
            name: "pr.default.alice.left".into(),
            image: "app:1".into(),
            labels: labels::owner_labels(CLUSTER, &key, "an earlier one"),
            ..Default::default()
        });
        world.change("alice", |i| i.spec.power = Power::Running).await;
        world.until("it runs", MINUTE, async |w: &World| w.phase("alice").await == Some(Phase::Running)).await;
        for _ in 0..300 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(is_true(&world.get("alice").await.unwrap().status.conditions, "Ready"));
        }
        assert!(engine.armed() > 0, "the stray can still not be removed");
        assert_eq!(engine.snapshot().containers.len(), 2);
    });
}
