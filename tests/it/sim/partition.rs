//! Ways to a host that come and go: nothing is made anew, started twice or stopped for it, and the other host is as quick
//! as ever.

use std::time::Duration;

use portreeve::model::Phase;
use serde_json::{Value, json};

use super::{MINUTE, converged, in_virtual_time, sleeper};
use crate::support::world::World;

const S: Duration = Duration::from_secs(1);

/// On one host; what runs may be made anew elsewhere.
fn on(host: &str, power: &str) -> Value {
    let mut spec = sleeper();
    spec["volumes"] = json!([]);
    spec["power"] = json!(power);
    spec["placement"] = json!({"nodeSelector": {"name": host}, "onHostLoss": "Recreate"});
    spec
}

/// On each of two hosts one that runs and one that sleeps.
async fn two_hosts(seed: u64) -> World {
    let mut world = World::new(&["h1", "h2"], seed).await;
    for host in ["h1", "h2"] {
        super::moving::change_host(&world, host, |h| drop(h.metadata.labels.insert("name".into(), host.into()))).await;
    }
    world.start();
    for host in ["h1", "h2"] {
        world.apply(&format!("runs-{host}"), on(host, "Running")).await;
        world.apply(&format!("sleeps-{host}"), on(host, "Auto")).await;
    }
    converged(&world, MINUTE).await;
    let asleep = async |w: &World| {
        w.phase("sleeps-h1").await == Some(Phase::Asleep) && w.phase("sleeps-h2").await == Some(Phase::Asleep)
    };
    world.until("they sleep", 12 * MINUTE, asleep).await;
    // What runs may go to any host from now on.
    for host in ["h1", "h2"] {
        world.change(&format!("runs-{host}"), |i| i.spec.placement.node_selector.clear()).await;
    }
    converged(&world, MINUTE).await;
    world
}

/// Each container ran so often, on the host where it was made.
fn assert_runs(world: &World, wanted: [(&str, &str, u64); 4]) {
    for (host, name, runs) in wanted {
        assert_eq!(world.fleet.host(host).runs(&format!("pr.default.{name}")), runs, "{name} on {host}");
    }
    let snapshots = world.snapshots();
    assert!(snapshots.iter().all(|(_, s)| s.containers.len() == 2), "{snapshots:#?}");
}

/// The one that sleeps on the host that is well wakes at once.
async fn wakes_on_h2(world: &World) {
    world.request("sleeps-h2");
    let runs = async |w: &World| w.phase("sleeps-h2").await == Some(Phase::Running);
    world.until("it wakes", 2 * S, runs).await;
}

#[test]
fn a_host_that_is_cut_off_every_three_seconds_moves_nothing_and_slows_nobody() {
    in_virtual_time(|| async {
        let mut world = two_hosts(71).await;
        let (h1, revision) = (world.fleet.host("h1").clone(), world.store.revision());
        for round in 0..100 {
            h1.go_away(3 * S);
            h1.break_event_streams();
            if round == 50 {
                wakes_on_h2(&world).await;
            }
            tokio::time::sleep(6 * S).await;
        }
        let writes = world.store.revision().0 - revision.0;
        assert!(writes <= 1000, "{writes} writes of the store for a hundred cuts");
        converged(&world, MINUTE).await;
        assert_runs(
            &world,
            [("h1", "runs-h1", 1), ("h1", "sleeps-h1", 1), ("h2", "runs-h2", 1), ("h2", "sleeps-h2", 2)],
        );
        world.request("sleeps-h1");
        let runs = async |w: &World| w.phase("sleeps-h1").await == Some(Phase::Running);
        world.until("it wakes", 10 * S, runs).await;
        world.crash().await;
    });
}

#[test]
fn a_host_whose_stream_of_events_is_cut_every_second_is_well_and_seldom_asked() {
    in_virtual_time(|| async {
        let mut world = two_hosts(72).await;
        let (h1, revision) = (world.fleet.host("h1").clone(), world.store.revision());
        let reads = h1.reads();
        for round in 0..600 {
            h1.break_event_streams();
            if round == 300 {
                wakes_on_h2(&world).await;
                h1.kill_by_hand("pr.default.runs-h1");
            }
            tokio::time::sleep(S).await;
        }
        let (reads, writes) = (h1.reads() - reads, world.store.revision().0 - revision.0);
        assert!(reads <= 2000 && writes <= 30, "{reads} calls and {writes} writes of the store for 600 cuts");
        converged(&world, MINUTE).await;
        assert_runs(
            &world,
            [("h1", "runs-h1", 2), ("h1", "sleeps-h1", 1), ("h2", "runs-h2", 1), ("h2", "sleeps-h2", 2)],
        );
        world.crash().await;
    });
}
