//! Moves and renewals: a crash after every write, and never two containers of one instance at a time.

use std::time::Duration;

use portreeve::model::{DockerHost, EVICT_ANNOTATION, Instance, Key, Phase, RECREATE_ANNOTATION, Taint, TaintEffect};
use portreeve::store::{StoreError, typed};
use serde_json::{Value, json};

use super::{MINUTE, converged, in_virtual_time};
use crate::support::sim_engine::fault::CrashPoint;
use crate::support::world::World;

/// Without data of its own.
fn movable() -> Value {
    json!({"image": "app:1", "ports": [{"name": "web", "containerPort": 80}], "power": "Running"})
}

/// As the API's eviction does.
async fn evict(world: &World, name: &str) {
    world
        .change(name, |i| {
            let node = i.status.node.clone();
            i.metadata.annotations.insert(EVICT_ANNOTATION.into(), node);
        })
        .await;
}

pub async fn change_host(world: &World, name: &str, change: impl Fn(&mut DockerHost)) {
    loop {
        let mut host: DockerHost = typed::get(&*world.store, &Key::host(name)).await.unwrap().unwrap();
        change(&mut host);
        host.metadata.generation += 1;
        match typed::update(&*world.store, &host).await {
            Ok(_) => return,
            Err(StoreError::Conflict { .. }) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

async fn alice(world: &World) -> Instance {
    world.get("alice").await.unwrap()
}

/// How many containers of ours run, on all hosts.
fn running(world: &World) -> usize {
    world.snapshots().iter().flat_map(|(_, s)| &s.containers).filter(|c| c.running && !c.uid.is_empty()).count()
}

/// Until it runs elsewhere, looking at every moment that there are never two.
async fn moved(world: &World, from: &str) {
    let moved = async |w: &World| {
        assert!(running(w) <= 1, "it runs twice: {:#?}", w.snapshots());
        let i = alice(w).await;
        i.status.node != from && i.status.phase == Phase::Running
    };
    world.until("it runs elsewhere", 5 * MINUTE, moved).await;
}

/// Moves alice with a crash after so many writes of the old host; returns how many writes the move made there.
async fn move_with_crash(crash_after: Option<u64>) -> u64 {
    let mut world = World::new(&["h1", "h2"], 21).await;
    world.start();
    world.apply("alice", movable()).await;
    converged(&world, MINUTE).await;
    let before = alice(&world).await;
    let old = before.status.node.clone();
    let writes = world.fleet.writes();
    if let Some(after) = crash_after {
        let point = CrashPoint::after_writes(after);
        for (_, engine) in world.fleet.all() {
            engine.set_crash_point(Some(point.clone()));
        }
        evict(&world, "alice").await;
        drop(tokio::time::timeout(MINUTE, point.reached()).await);
        world.crash().await;
        for (_, engine) in world.fleet.all() {
            engine.set_crash_point(None);
        }
        world.start();
    } else {
        evict(&world, "alice").await;
    }
    moved(&world, &old).await;
    converged(&world, 5 * MINUTE).await;
    let writes = (world.fleet.writes() - writes) as u64;
    let after = alice(&world).await;
    assert!(!after.metadata.annotations.contains_key(EVICT_ANNOTATION), "the mark stays");
    assert_ne!(after.status.container_id, before.status.container_id);
    let left = world.fleet.host(&old).snapshot();
    assert!(left.containers.is_empty() && !left.networks.keys().any(|n| n.starts_with("pr.")), "{left:#?}");
    world.assert_quiet(10 * MINUTE).await;
    world.crash().await;
    writes
}

#[test]
fn a_crash_after_any_write_of_a_move_leads_to_one_container_elsewhere() {
    let mut writes = 0;
    in_virtual_time(|| async { writes = move_with_crash(None).await });
    assert!(writes >= 6, "stop, two removals, a network, a container, a start: not {writes}");
    for crash_after in 0..=writes {
        eprintln!("a crash after {crash_after} of {writes} writes");
        in_virtual_time(|| async {
            move_with_crash(Some(crash_after)).await;
        });
    }
}

#[test]
fn a_sleeper_leaves_its_host_without_waking_and_wakes_elsewhere() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1", "h2"], 22).await;
        world.start();
        let mut sleeper = movable();
        sleeper["power"] = json!("Auto");
        sleeper["idle"] = json!({"after": "10m"});
        world.apply("alice", sleeper).await;
        converged(&world, MINUTE).await;
        world.until("it sleeps", 15 * MINUTE, async |w: &World| w.phase("alice").await == Some(Phase::Asleep)).await;
        let old = alice(&world).await.status.node;
        change_host(&world, &old, |h| h.spec.unschedulable = true).await;
        evict(&world, "alice").await;
        let unbound = async |w: &World| alice(w).await.status.node.is_empty();
        world.until("it has left", 5 * MINUTE, unbound).await;
        let left = alice(&world).await;
        assert_eq!((left.status.phase, left.status.ports.len(), running(&world)), (Phase::Asleep, 0, 0));
        assert!(world.snapshots().iter().all(|(_, s)| s.containers.is_empty()));
        tokio::time::sleep(30 * MINUTE).await;
        assert_eq!(world.phase("alice").await, Some(Phase::Asleep), "nobody asked for it");
        world.request("alice");
        moved(&world, &old).await;
        world.crash().await;
    });
}

#[test]
fn what_no_other_host_can_take_stays_and_goes_on_running() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 23).await;
        world.start();
        world.apply("alice", movable()).await;
        converged(&world, MINUTE).await;
        let before = alice(&world).await;
        evict(&world, "alice").await;
        tokio::time::sleep(10 * MINUTE).await;
        let after = alice(&world).await;
        assert_eq!(after.status.container_id, before.status.container_id);
        assert_eq!((after.status.phase, running(&world)), (Phase::Running, 1));
        world.crash().await;
    });
}

#[test]
fn a_no_execute_taint_moves_only_what_can_move() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1", "h2"], 24).await;
        world.start();
        world.apply("alice", movable()).await;
        converged(&world, MINUTE).await;
        let old = alice(&world).await.status.node;
        let mut bound = movable();
        bound["volumes"] = json!([{"name": "home", "mountPath": "/home"}]);
        bound["placement"] = json!({"node": old});
        world.apply("keeper", bound).await;
        let mut tolerant = movable();
        tolerant["placement"] = json!({"node": old, "tolerations": [{"key": "broken", "operator": "Exists"}]});
        world.apply("tolerant", tolerant).await;
        converged(&world, MINUTE).await;
        let stay = ["keeper", "tolerant"];
        let containers = async |w: &World| {
            let mut ids = vec![];
            for name in stay {
                ids.push(w.get(name).await.unwrap().status.container_id);
            }
            ids
        };
        let before = containers(&world).await;
        let taint = Taint { key: "broken".into(), value: String::new(), effect: TaintEffect::NoExecute };
        change_host(&world, &old, |h| h.spec.taints = vec![taint.clone()]).await;
        let gone = async |w: &World| {
            let i = alice(w).await;
            i.status.node != old && i.status.phase == Phase::Running
        };
        world.until("it is driven out", 5 * MINUTE, gone).await;
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(containers(&world).await, before);
        world.crash().await;
    });
}

#[test]
fn a_container_is_made_anew_once_with_its_ports() {
    for asleep in [false, true] {
        in_virtual_time(|| async {
            let mut world = World::new(&["h1"], 25).await;
            world.start();
            let mut spec = movable();
            spec["power"] = json!("Auto");
            spec["idle"] = json!({"after": "10m"});
            world.apply("alice", spec).await;
            converged(&world, MINUTE).await;
            if asleep {
                let sleeps = async |w: &World| w.phase("alice").await == Some(Phase::Asleep);
                world.until("it sleeps", 15 * MINUTE, sleeps).await;
            }
            let before = alice(&world).await;
            let mark = format!("{} 2026-01-01T00:00:00Z", before.status.container_id);
            world
                .change("alice", |i| drop(i.metadata.annotations.insert(RECREATE_ANNOTATION.into(), mark.clone())))
                .await;
            let other = async |w: &World| alice(w).await.status.container_id != before.status.container_id;
            world.until("the container is another", MINUTE, other).await;
            if asleep {
                assert_eq!(running(&world), 0, "nobody woke it");
                assert_eq!(alice(&world).await.status.container_id, "");
                world.request("alice");
            }
            converged(&world, MINUTE).await;
            let after = alice(&world).await;
            assert_eq!((after.status.phase, &after.status.ports), (Phase::Running, &before.status.ports));
            tokio::time::sleep(5 * MINUTE).await;
            assert_eq!(alice(&world).await.status.container_id, after.status.container_id, "made anew twice");
            world.crash().await;
        });
    }
}
