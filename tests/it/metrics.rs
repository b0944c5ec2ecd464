//! Live use and reservations, with the real controllers and the real meter over simulated daemons, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use portreeve::api::{LiveUse, NoUse, Use};
use portreeve::model::{Allocation, ConditionStatus, DockerHost, Key, Phase, Power, Resource, condition, is_true};
use portreeve::serve::DockerLiveUse;
use portreeve::store::typed;
use serde_json::json;

use crate::sim::{in_virtual_time, spec};
use crate::support::sim_engine::Pace;
use crate::support::sim_engine::fault::Fault;
use crate::support::world::World;

const S: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

fn key(name: &str) -> Key {
    Key::instance("default", name)
}

fn live(world: &World) -> DockerLiveUse {
    DockerLiveUse::new(world.cache().clone(), Arc::new(world.fleet.clone()), world.clock.clone())
}

async fn use_of(live: &dyn LiveUse, name: &str) -> Result<Use, NoUse> {
    live.instances(&[key(name)]).await.remove(&key(name)).expect("an answer about each")
}

/// Asked on all hosts together.
fn asked(world: &World) -> u64 {
    world.fleet.all().map(|(_, engine)| engine.stats_asked()).sum()
}

/// A control plane with these instances, running, each on the host that is named beside it.
async fn running(hosts: &[&str], instances: &[(&str, &str)]) -> World {
    let mut world = World::new(hosts, 3).await;
    world.start();
    for (name, host) in instances {
        let mut spec = spec("app:1");
        spec["placement"] = json!({"node": host});
        world.apply(name, spec).await;
    }
    world
        .until("all run", 5 * MINUTE, async |w| w.instances().await.iter().all(|i| i.status.phase == Phase::Running))
        .await;
    world
}

#[test]
fn what_runs_is_measured_when_somebody_asks_and_at_no_other_time() {
    in_virtual_time(|| async {
        let world = running(&["a"], &[("x", "a")]).await;
        let engine = world.fleet.host("a");
        engine.set_use("pr.default.x", 250, 40 * MIB);
        world.assert_quiet(10 * MINUTE).await;
        assert_eq!(asked(&world), 0, "nobody looked");

        let live = live(&world);
        let first = use_of(&live, "x").await.expect("it runs");
        assert_eq!((first.nanocores, first.memory), (250_000_000, 40 * MIB));
        assert!(S / 2 < first.window && first.window < 2 * S, "{first:?}");
        assert_eq!(first.at, world.clock.now());
        assert_eq!(asked(&world), 2, "a rate needs two readings");

        engine.set_use("pr.default.x", 1500, 80 * MIB);
        tokio::time::sleep(9 * S).await;
        assert_eq!(use_of(&live, "x").await, Ok(first), "with its own time, while it is good");
        assert_eq!(asked(&world), 2);
        tokio::time::sleep(2 * S).await;
        let next = use_of(&live, "x").await.expect("it runs");
        assert_eq!(asked(&world), 3, "one more reading, over a longer window");
        assert_eq!((next.nanocores / 1_000_000, next.memory), (1500, 80 * MIB));
        assert!(10 * S < next.window && next.window < 12 * S, "{next:?}");

        tokio::time::sleep(2 * MINUTE).await;
        assert_eq!(asked(&world), 3, "nobody looks any more");
        use_of(&live, "x").await.expect("it runs");
        assert_eq!(asked(&world), 5, "what it was two minutes ago is not what it is now");
    });
}

#[test]
fn all_who_ask_at_once_share_one_measuring() {
    in_virtual_time(|| async {
        let names: Vec<String> = (0..30).map(|n| format!("x{n}")).collect();
        let placed: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "a")).collect();
        let world = running(&["a"], &placed).await;
        for (n, name) in names.iter().enumerate() {
            world.fleet.host("a").set_use(&format!("pr.default.{name}"), 10 + n as u64, MIB);
        }
        let live = live(&world);
        let keys: Vec<Key> = names.iter().map(|n| key(n)).collect();
        let hosts = ["a".to_owned()];
        let begin = world.clock.monotonic();
        let onlookers = (0..25).map(|_| async { tokio::join!(live.instances(&keys), live.hosts(&hosts)) });
        let told = futures::future::join_all(onlookers).await;
        assert!(world.clock.monotonic() - begin < 2 * S, "nobody waits for another's second");
        assert_eq!(asked(&world), 60, "two readings of each container for all of them");
        let all: u64 = (0..30).map(|n| (10 + n) * 1_000_000).sum();
        for (instances, hosts) in told {
            assert_eq!(instances.len(), 30);
            assert!(instances.values().all(Result::is_ok));
            assert_eq!((hosts["a"].nanocores, hosts["a"].memory), (all, 30 * MIB), "the sum of its instances");
        }
    });
}

#[test]
fn a_daemon_that_answers_once_a_second_is_measured_in_time() {
    in_virtual_time(|| async {
        let names: Vec<String> = (0..30).map(|n| format!("x{n}")).collect();
        let placed: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "a")).collect();
        let world = running(&["a"], &placed).await;
        world.fleet.host("a").set_pace(Pace { reading: S, ..Pace::default() });
        let live = live(&world);
        for _ in 0..3 {
            let begin = world.clock.monotonic();
            let told = live.hosts(&["a".to_owned()]).await;
            assert!(told.contains_key("a") && world.clock.monotonic() - begin < 3 * S, "{told:?}");
            tokio::time::sleep(73 * S + S / 3).await;
        }
        assert_eq!(asked(&world), 3 * 60);
    });
}

#[test]
fn who_rests_uses_nothing_and_is_not_asked_about() {
    in_virtual_time(|| async {
        let mut world = running(&["a"], &[("x", "a"), ("y", "a")]).await;
        world.fleet.host("a").set_use("pr.default.x", 100, 30 * MIB);
        world
            .change("y", |i| {
                i.spec.power = Power::Auto;
                i.spec.idle.after = Some("10s".parse().unwrap());
            })
            .await;
        world.until("y sleeps", MINUTE, async |w| w.phase("y").await == Some(Phase::Asleep)).await;
        let live = live(&world);
        assert_eq!(use_of(&live, "y").await, Err(NoUse::NotRunning));
        assert_eq!(asked(&world), 0);
        let used = live.hosts(&["a".to_owned(), "nobody".to_owned()]).await;
        assert_eq!((used.len(), used["a"].nanocores, used["a"].memory), (1, 100_000_000, 30 * MIB));
        assert_eq!(asked(&world), 2);

        // the record does not know yet that it has ended
        world.crash().await;
        world.start();
        world.cache().ready().await;
        let live = self::live(&world);
        world.fleet.host("a").kill_by_hand("pr.default.x");
        assert_eq!(use_of(&live, "x").await, Err(NoUse::NotRunning), "its daemon says so");
        assert!(live.instances(&[key("never")]).await.is_empty());
    });
}

#[test]
fn another_run_of_a_container_is_measured_by_itself() {
    in_virtual_time(|| async {
        let world = running(&["a"], &[("x", "a")]).await;
        let engine = world.fleet.host("a");
        let live = live(&world);
        engine.set_use("pr.default.x", 10, MIB);
        use_of(&live, "x").await.expect("it runs");
        let runs = engine.runs("pr.default.x");
        engine.kill_by_hand("pr.default.x");
        world
            .until("it runs again", MINUTE, async |w| {
                w.fleet.host("a").runs("pr.default.x") > runs && w.phase("x").await == Some(Phase::Running)
            })
            .await;
        // Its counter soon is where the former one's was.
        engine.set_use("pr.default.x", 500, MIB);
        let used = use_of(&live, "x").await.expect("it runs");
        assert_eq!(used.nanocores, 500_000_000, "{used:?}");
    });
}

#[test]
fn a_host_that_hangs_is_left_out_and_keeps_nobody_waiting() {
    in_virtual_time(|| async {
        let world = running(&["a", "b"], &[("x", "a"), ("y", "b"), ("z", "b")]).await;
        let live = live(&world);
        for _ in 0..8 {
            world.fleet.host("b").arm("stats", Fault::Hang);
        }
        let begin = world.clock.monotonic();
        let names = ["a".to_owned(), "b".to_owned()];
        let keys = [key("x"), key("y"), key("z")];
        let (hosts, instances) = tokio::join!(live.hosts(&names), live.instances(&keys));
        let took = world.clock.monotonic() - begin;
        assert!(2 * S < took && took < 5 * S, "{took:?}");
        assert_eq!(hosts.keys().collect::<Vec<_>>(), ["a"]);
        assert!(instances[&key("x")].is_ok());
        assert_eq!((instances[&key("y")], instances[&key("z")]), (Err(NoUse::Unknown), Err(NoUse::Unknown)));

        // one container of several: too little would be told of the host
        while world.fleet.host("b").armed() > 1 {
            let _ = use_of(&live, "y").await;
        }
        let (hosts, instances) = tokio::join!(live.hosts(&names), live.instances(&keys));
        assert_eq!(hosts.len(), 1);
        assert_eq!(instances.values().filter(|u| u.is_ok()).count(), 2, "{instances:?}");

        // once the host is known not to answer, it is not asked at all
        world.fleet.host("b").go_away(10 * MINUTE);
        world
            .until("b is not ready", MINUTE, async |w| {
                w.cache().host("b").is_some_and(|h| !is_true(&h.status.conditions, "Ready"))
            })
            .await;
        let before = asked(&world);
        let begin = world.clock.monotonic();
        assert!(live.hosts(&["b".to_owned()]).await.is_empty());
        assert_eq!(use_of(&live, "y").await, Err(NoUse::Unknown));
        assert_eq!((world.clock.monotonic(), asked(&world)), (begin, before));
    });
}

#[test]
fn who_gives_up_leaves_what_was_read_to_the_next() {
    in_virtual_time(|| async {
        let world = running(&["a"], &[("x", "a")]).await;
        let live = live(&world);
        let given_up = tokio::time::timeout(S / 2, use_of(&live, "x")).await;
        assert!(given_up.is_err());
        let begin = world.clock.monotonic();
        use_of(&live, "x").await.expect("it runs");
        assert!(world.clock.monotonic() - begin < S * 3 / 10, "half of a second had passed");
        assert_eq!(asked(&world), 2);
    });
}

async fn host(world: &World, name: &str) -> DockerHost {
    typed::get(&*world.store, &Key::host(name)).await.unwrap().expect("the host")
}

async fn allocated(world: &World, name: &str) -> Option<Allocation> {
    host(world, name).await.status.allocated
}

fn allocation(memory: &str, cpu: &str, instances: i64) -> Option<Allocation> {
    Some(Allocation { memory: memory.parse().unwrap(), cpu: cpu.parse().unwrap(), instances, gpus: 0 })
}

#[test]
fn what_is_reserved_of_a_host_follows_its_instances() {
    in_virtual_time(|| async {
        let mut world = World::new(&["a", "b"], 5).await;
        world.start();
        let until = async |world: &World, name: &'static str, wanted: Option<Allocation>| {
            let what = format!("{wanted:?} of {name}");
            let reached = async |w: &World| allocated(w, name).await == wanted;
            world.until(&what, MINUTE, reached).await;
        };
        until(&world, "a", allocation("0", "0", 0)).await;
        for (name, memory) in [("x", "256Mi"), ("y", "512Mi")] {
            let mut spec = spec("app:1");
            spec["placement"] = json!({"node": "a"});
            spec["resources"] = json!({"memory": memory, "cpu": "250m"});
            world.apply(name, spec).await;
        }
        until(&world, "a", allocation("768Mi", "500m", 2)).await;
        world
            .change("y", |i| {
                i.spec.power = Power::Auto;
                i.spec.idle.after = Some("10s".parse().unwrap());
            })
            .await;
        until(&world, "a", allocation("256Mi", "250m", 2)).await;
        assert_eq!(world.phase("y").await, Some(Phase::Asleep), "a sleeper keeps its place and frees the rest");
        world.assert_quiet(10 * MINUTE).await;
        world.delete("y").await;
        until(&world, "a", allocation("256Mi", "250m", 1)).await;

        world.fleet.host("a").go_away(5 * MINUTE);
        world.change("x", |i| i.spec.resources.memory = Some("1Gi".parse().unwrap())).await;
        // What it may use is what it was given, until it is given more.
        tokio::time::sleep(MINUTE).await;
        assert_eq!(allocated(&world, "a").await, allocation("256Mi", "250m", 1));
        tokio::time::sleep(4 * MINUTE).await;
        until(&world, "a", allocation("1Gi", "250m", 1)).await;
        world.crash().await;
        world.start();
        assert_eq!(allocated(&world, "b").await, allocation("0", "0", 0));
    });
}

#[test]
fn what_is_reserved_is_one_write_for_many_instances_and_sets_nobody_going() {
    in_virtual_time(|| async {
        let mut world = World::new(&["a"], 7).await;
        world.start();
        world.until("a is ready", MINUTE, async |w| allocated(w, "a").await.is_some()).await;
        // it fits nowhere, and waits
        let mut big = spec("app:1");
        big["resources"] = json!({"memory": "100Gi"});
        world.apply("big", big).await;
        let waits = async |w: &World| {
            let big = w.get("big").await.expect("it is there");
            condition(&big.status.conditions, "Scheduled").is_some_and(|c| c.status == ConditionStatus::False)
        };
        world.until("it waits", MINUTE, waits).await;

        let begin = world.store.revision();
        for n in 0..20 {
            world.apply(&format!("x{n}"), spec("app:1")).await;
        }
        let all = async |w: &World| {
            let running = w.instances().await.iter().filter(|i| i.status.phase == Phase::Running).count();
            running == 20 && allocated(w, "a").await.is_some_and(|a| a.instances == 20)
        };
        world.until("all run", 5 * MINUTE, all).await;
        let mut watch = world.store.watch("dockerhosts/", begin).await.unwrap();
        let mut writes = 0;
        while tokio::time::timeout(Duration::from_millis(1), watch.next()).await.is_ok() {
            writes += 1;
        }
        assert!((1..=4).contains(&writes), "{writes} writes of the host for twenty instances");

        // one write of what is reserved and of nothing else: the one that waits is not looked at for it
        world.assert_quiet(10 * S).await;
        let last = world.reconciles();
        world.until("it was looked at, as now and then", MINUTE, async |w| w.reconciles() > last).await;
        let key = Key::host("a");
        let (before, mut told) = (world.reconciles(), host(&world, "a").await);
        told.status.allocated = allocation("1Ki", "1m", 20);
        let revision = typed::revision_of(&told).unwrap();
        typed::replace_status(&*world.store, &key, revision, &told.status).await.unwrap();
        world
            .until("it is set right", 10 * S, async |w| {
                allocated(w, "a").await.is_some_and(|a| a != told.status.allocated.clone().unwrap())
            })
            .await;
        assert_eq!(world.reconciles(), before, "somebody was set going");
        let big = world.get("big").await.unwrap();
        assert_eq!((big.status.node.as_str(), big.key()), ("", Key::instance("default", "big")));
    });
}
