//! Subnets: that each instance has one of its own, that one which the daemon refuses is given up for another, and that
//! networks which are older than subnets of ours stay as they are.

use std::collections::BTreeMap;
use std::time::Duration;

use portreeve::docker::engine::{EngineWrite, NetworkSpec};
use portreeve::docker::labels;
use portreeve::model::{DockerHost, Egress, Event, Instance, Key, Kind, Phase, Power, condition};
use portreeve::store::{StoreError, typed};
use serde_json::json;

use super::{MINUTE, converged, in_virtual_time, spec};
use crate::support::world::{CLUSTER, World};

const ALICE: &str = "pr.default.alice";

async fn alice(world: &World) -> Instance {
    world.get("alice").await.unwrap()
}

/// The network's subnet on the first host.
fn network(world: &World, name: &str) -> Option<String> {
    world.fleet.host("h1").snapshot().networks.get(name).cloned()
}

async fn change_host(world: &World, change: impl Fn(&mut DockerHost)) {
    loop {
        let key = Key::new(Kind::DockerHost, "", "h1");
        let mut host: DockerHost = typed::get(&*world.store, &key).await.unwrap().unwrap();
        change(&mut host);
        match typed::update(&*world.store, &host).await {
            Ok(_) => return,
            Err(StoreError::Conflict { .. }) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

/// Gives the first host another pool.
async fn pool(world: &World, pool: &str, instances: i64) {
    change_host(world, |host| {
        host.spec.subnet_pool = pool.into();
        host.spec.capacity.instances = Some(instances);
        assert_eq!(*portreeve::model::validate_docker_host(host), []);
    })
    .await;
}

#[test]
fn a_hundred_instances_on_one_host_have_a_hundred_subnets() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 21).await;
        world.start();
        for n in 0..100 {
            let spec = json!({"image": "app:1", "power": "Running", "resources": {"memory": "16Mi", "cpu": "10m"}});
            world.apply(&format!("i{n}"), spec).await;
        }
        converged(&world, 10 * MINUTE).await;
        let networks = world.fleet.host("h1").snapshot().networks;
        assert_eq!(networks.len(), 100, "the daemon by itself ends at about thirty");
        assert!(networks.values().all(|subnet| subnet.starts_with("10.213.")), "{networks:?}");
        world.delete("i0").await;
        converged(&world, MINUTE).await;
        assert_eq!(network(&world, "pr.default.i0"), None);
        world.assert_quiet(5 * MINUTE).await;
        world.crash().await;
    });
}

#[test]
fn a_subnet_that_the_daemon_refuses_is_given_up_for_another() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 22).await;
        // Of sixteen subnets strangers have twelve: more than are remembered as refused.
        pool(&world, "10.1.0.0/24", 16).await;
        world.fleet.host("h1").create_network_by_hand("stranger-1", "10.1.0.0/25");
        world.fleet.host("h1").create_network_by_hand("stranger-2", "10.1.0.128/26");
        world.start();
        for n in 0..4 {
            world.apply(&format!("i{n}"), json!({"image": "app:1", "power": "Running"})).await;
        }
        converged(&world, 5 * MINUTE).await;
        for i in world.instances().await {
            assert!(i.status.refused_subnets.is_empty(), "forgotten when it runs");
        }
        let events: Vec<Event> = typed::list(&*world.store, None).await.unwrap().items;
        let told = events.iter().find(|e| e.reason == "SubnetTaken").expect("it is told");
        assert!(told.message.contains("Pool overlaps with other one on this address space"), "{}", told.message);
        world.assert_quiet(5 * MINUTE).await;

        // There is no fifth: it is told, in the daemon's words and ours, until a stranger goes.
        world.apply("alice", json!({"image": "app:1", "power": "Running"})).await;
        let reason = async |w: &World, kind: &str| {
            let alice = alice(w).await;
            condition(&alice.status.conditions, kind).map(|c| c.message.clone()).unwrap_or_default()
        };
        world
            .until("it is told", 5 * MINUTE, async |w: &World| {
                reason(w, "Ready").await.contains("Pool overlaps")
                    && reason(w, "UpToDate").await.contains("1 without a free subnet")
            })
            .await;
        world.fleet.host("h1").remove_network_by_hand("stranger-2");
        converged(&world, 10 * MINUTE).await;
        world.assert_quiet(5 * MINUTE).await;
        world.crash().await;
    });
}

#[test]
fn a_full_pool_is_a_reason_of_the_scheduler() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 23).await;
        pool(&world, "10.1.0.0/27", 2).await;
        world.start();
        for name in ["a", "b"] {
            world.apply(name, json!({"image": "app:1", "power": "Running"})).await;
        }
        converged(&world, MINUTE).await;
        // The pool shrinks under those that have theirs.
        pool(&world, "10.1.0.0/28", 1).await;
        world.change("a", |i| i.spec.image = "app:2".into()).await;
        converged(&world, MINUTE).await;
        change_host(&world, |host| host.spec.capacity.instances = Some(9)).await;
        world.apply("alice", json!({"image": "app:1", "power": "Running"})).await;
        world
            .until("it is told", 2 * MINUTE, async |w: &World| {
                let alice = alice(w).await;
                condition(&alice.status.conditions, "Scheduled")
                    .is_some_and(|c| c.message == "0/1 hosts fit: 1 without a free subnet")
            })
            .await;
        for name in ["a", "b"] {
            world.delete(name).await;
        }
        converged(&world, 2 * MINUTE).await;
        assert_eq!(alice(&world).await.status.subnet, "10.1.0.0/28");
        world.crash().await;
    });
}

#[test]
fn a_network_in_another_subnet_is_made_anew() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 24).await;
        world.start();
        world.apply("alice", spec("app:1")).await;
        converged(&world, MINUTE).await;
        let before = alice(&world).await.status;
        world.fleet.host("h1").replace_network_by_hand(ALICE);
        assert_ne!(network(&world, ALICE), Some(before.subnet.clone()));
        tokio::time::sleep(MINUTE).await;
        converged(&world, MINUTE).await;
        let after = alice(&world).await.status;
        assert_eq!((network(&world, ALICE).as_ref(), &after.subnet), (Some(&before.subnet), &before.subnet));
        assert_eq!((&after.ports, &after.volumes), (&before.ports, &before.volumes));
        world.assert_quiet(5 * MINUTE).await;

        // So is one that lets out what is not to get out.
        world.change("alice", |i| i.spec.network.egress = Egress::None).await;
        converged(&world, MINUTE).await;
        let closed = alice(&world).await.status;
        assert!(world.fleet.host("h1").is_closed(ALICE) && closed.container_id != after.container_id);
        assert_eq!((closed.subnet, closed.ports), (before.subnet.clone(), before.ports.clone()));
        world.assert_quiet(5 * MINUTE).await;

        // While it rests nothing is done; the next start does it.
        world.change("alice", |i| i.spec.power = Power::Stopped).await;
        converged(&world, MINUTE).await;
        world.fleet.host("h1").replace_network_by_hand(ALICE);
        world.assert_quiet(5 * MINUTE).await;
        world.change("alice", |i| i.spec.power = Power::Running).await;
        converged(&world, 2 * MINUTE).await;

        // What is lost while a stranger takes its place is found elsewhere.
        world.fleet.host("h1").remove_network_by_hand(ALICE);
        world.fleet.host("h1").create_network_by_hand("stranger", &alice(&world).await.status.subnet);
        tokio::time::sleep(MINUTE).await;
        converged(&world, 2 * MINUTE).await;
        world.assert_quiet(5 * MINUTE).await;
        world.crash().await;
    });
}

/// As they were before there were subnets of ours.
async fn of_old(world: &World) {
    let labels = labels::owner_labels(CLUSTER, &Key::instance("default", "alice"), "uid-1");
    let network = NetworkSpec { name: ALICE.into(), labels, ..NetworkSpec::default() };
    world.fleet.host("h1").create_network(&network).await.unwrap();
    world
        .change("alice", |i| {
            i.status = serde_json::from_value(json!({
                "phase": "Pending", "node": "h1", "address": "10.0.0.1",
                "ports": [{"name": "web", "hostPort": 30001}, {"name": "api", "hostPort": 30002}],
            }))
            .unwrap();
        })
        .await;
}

#[test]
fn a_network_that_is_older_than_subnets_of_ours_stays_until_it_is_made_anew() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 25).await;
        world.apply("alice", spec("app:1")).await;
        of_old(&world).await;
        let old = network(&world, ALICE).unwrap();
        assert!(old.starts_with("172."), "{old}");
        world.start();
        let runs = async |w: &World| w.phase("alice").await == Some(Phase::Running);
        world.until("it runs", MINUTE, runs).await;
        let container = alice(&world).await.status.container_id;
        // Another container, other ports: it goes on with its network.
        world.change("alice", |i| i.spec.image = "app:2".into()).await;
        world.change("alice", |i| i.spec.ports[0].host_port = Some(8080)).await;
        world
            .until("it is replaced", MINUTE, async |w: &World| {
                let alice = alice(w).await;
                runs(w).await && alice.status.container_id != container && alice.status.host_port("web") == Some(8080)
            })
            .await;
        tokio::time::sleep(6 * MINUTE).await;
        assert_eq!((network(&world, ALICE), alice(&world).await.status.subnet), (Some(old), String::new()));
        world.assert_quiet(5 * MINUTE).await;

        world.fleet.host("h1").remove_network_by_hand(ALICE);
        tokio::time::sleep(MINUTE).await;
        converged(&world, MINUTE).await;
        assert!(network(&world, ALICE).is_some_and(|subnet| subnet.starts_with("10.213.")));
        world.crash().await;
    });
}

#[test]
fn who_moves_gets_a_subnet_of_the_new_host() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1", "h2"], 26).await;
        pool(&world, "10.1.0.0/24", 16).await;
        world.start();
        let placed = json!({"image": "app:1", "power": "Running", "placement": {"node": "h1"}});
        world.apply("alice", placed).await;
        converged(&world, MINUTE).await;
        assert!(alice(&world).await.status.subnet.starts_with("10.1.0."));
        world
            .change("alice", |i| {
                i.spec.placement.node = String::new();
                let mark = portreeve::model::EVICT_ANNOTATION.to_owned();
                i.metadata.annotations.insert(mark, "h1".into());
            })
            .await;
        world.until("it moves", MINUTE, async |w: &World| alice(w).await.status.node == "h2").await;
        converged(&world, MINUTE).await;
        assert!(alice(&world).await.status.subnet.starts_with("10.213."));
        assert_eq!(world.fleet.host("h1").snapshot().networks, BTreeMap::new());
        world.crash().await;
    });
}

/// Two control planes, each of which takes the other for a stranger: they start with the same choice.
#[test]
fn two_clusters_on_one_daemon_come_to_rest() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 27).await;
        pool(&world, "10.1.0.0/27", 2).await;
        world.start();
        world.apply("alice", spec("app:1")).await;
        let host = world.fleet.host("h1").clone();
        // The other one makes its own right when it sees that it is missing, as we do.
        let other = tokio::spawn(async move {
            let subnets = ["10.1.0.0/28", "10.1.0.16/28"];
            loop {
                tokio::time::sleep(Duration::from_millis(700)).await;
                let free = subnets.iter().find(|subnet| host.is_subnet_free(subnet));
                if let Some(free) = free.filter(|_| !host.snapshot().networks.contains_key("other.bob")) {
                    host.create_network_by_hand("other.bob", free);
                }
            }
        });
        converged(&world, 5 * MINUTE).await;
        // Both lose theirs, again and again, and take the other's place.
        for _ in 0..4 {
            for name in ["other.bob", ALICE] {
                world.fleet.host("h1").remove_network_by_hand(name);
                tokio::time::sleep(MINUTE).await;
            }
            world.fleet.host("h1").remove_network_by_hand(ALICE);
            world.fleet.host("h1").remove_network_by_hand("other.bob");
            tokio::time::sleep(MINUTE).await;
        }
        converged(&world, 5 * MINUTE).await;
        let networks = world.fleet.host("h1").snapshot().networks;
        assert_eq!(networks.len(), 2, "{networks:?}");
        converged(&world, MINUTE).await;
        world.assert_quiet(5 * MINUTE).await;
        other.abort();
        world.crash().await;
    });
}
