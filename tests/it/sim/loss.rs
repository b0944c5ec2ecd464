//! Hosts that are lost, and instances that are made anew elsewhere or wait: at most one copy that is ours, and none of
//! what is left behind stays when the host is back.

use std::sync::Arc;
use std::time::Duration;

use portreeve::controllers::instance::HOST_LOST;
use portreeve::model::{Event, Instance, OUT_OF_SERVICE, OnHostLoss, Phase, Power, Taint, TaintEffect, condition};
use portreeve::store::typed;
use serde_json::{Value, json};

use super::moving::change_host;
use super::{MINUTE, begun, converged, disagreement, in_virtual_time};
use crate::support::sim_engine::fault::CrashPoint;
use crate::support::world::World;

/// May be made anew elsewhere, after a minute.
fn mobile() -> Value {
    json!({
        "image": "app:1", "ports": [{"name": "web", "containerPort": 80}], "power": "Running",
        "placement": {"onHostLoss": "Recreate"},
    })
}

fn waiting() -> Value {
    let mut spec = mobile();
    spec["placement"] = json!({"onHostLoss": "Wait"});
    spec
}

async fn named(world: &World, name: &str) -> Instance {
    world.get(name).await.unwrap()
}

/// The reason of the condition HostLost.
fn told(instance: &Instance) -> Option<String> {
    condition(&instance.status.conditions, HOST_LOST).map(|c| c.reason.clone())
}

/// How many containers of this instance run on one host.
fn running_on(world: &World, host: &str, name: &str) -> usize {
    let snapshot = world.fleet.host(host).snapshot();
    snapshot.containers.iter().filter(|c| c.running && c.name == format!("pr.default.{name}")).count()
}

/// The host has nothing of ours.
fn is_clean(world: &World, host: &str) -> bool {
    let snapshot = world.fleet.host(host).snapshot();
    snapshot.containers.is_empty() && !snapshot.networks.keys().any(|n| n.starts_with("pr."))
}

async fn runs_elsewhere(world: &World, name: &str, than: &str) -> bool {
    let i = named(world, name).await;
    i.status.node != than && i.status.phase == Phase::Running
}

async fn events(world: &World, reason: &str) -> Vec<Event> {
    let events = typed::list::<Event>(&*world.store, None).await.unwrap().items;
    events.into_iter().filter(|e| e.reason == reason).collect()
}

#[test]
fn what_may_be_made_anew_is_after_a_minute_and_what_is_left_behind_goes() {
    in_virtual_time(|| async {
        let mut world = begun(&["h1", "h2"], 31, &[("alice", mobile())]).await;
        let before = named(&world, "alice").await;
        let old = before.status.node.clone();
        let host = world.fleet.host(&old).clone();
        host.go_away(60 * MINUTE);
        let lost_at = world.clock.monotonic();
        world
            .until("it is told", MINUTE / 3, async |w| told(&named(w, "alice").await).as_deref() == Some("Waiting"))
            .await;
        assert_eq!(world.phase("alice").await, Some(Phase::Lost));
        world.until("it runs elsewhere", 2 * MINUTE, async |w| runs_elsewhere(w, "alice", &old).await).await;
        let took = world.clock.monotonic() - lost_at;
        assert!((MINUTE..MINUTE + MINUTE / 3).contains(&took), "{took:?}");
        let after = named(&world, "alice").await;
        assert_eq!(told(&after).as_deref(), Some("Recreated"));
        assert_ne!(after.status.container_id, before.status.container_id);
        assert_eq!(running_on(&world, &old, "alice"), 1, "what cannot be reached cannot be stopped");
        assert_eq!(events(&world, "Recreated").await.len(), 1);
        tokio::time::sleep(10 * MINUTE).await;
        assert_eq!(named(&world, "alice").await.status.container_id, after.status.container_id, "made anew twice");

        host.come_back();
        let back_at = world.clock.monotonic();
        let clean = async |w: &World| {
            assert_eq!(
                named(w, "alice").await.status.container_id,
                after.status.container_id,
                "the old one was taken back"
            );
            is_clean(w, &old)
        };
        world.until("what was left behind is gone", MINUTE, clean).await;
        let took = world.clock.monotonic() - back_at;
        assert!(took < MINUTE / 4, "its host is checked every 4 s, and a stop takes at most 10: {took:?}");
        converged(&world, MINUTE).await;
        assert_eq!(named(&world, "alice").await.status.ports, after.status.ports);
        world.assert_quiet(10 * MINUTE).await;
        // Nothing of it is reserved there any more.
        let mut next = mobile();
        next["ports"][0]["hostPort"] = json!(before.status.ports[0].host_port);
        next["placement"] = json!({"node": old});
        world.apply("next", next).await;
        converged(&world, MINUTE).await;
        world.crash().await;
    });
}

#[test]
fn what_waits_is_adopted_as_it_is_and_a_host_that_flaps_moves_nothing() {
    in_virtual_time(|| async {
        let mut world = begun(&["h1", "h2"], 32, &[("alice", mobile()), ("waits", waiting())]).await;
        let before = [named(&world, "alice").await, named(&world, "waits").await];
        for _ in 0..20 {
            for (_, engine) in world.fleet.all() {
                engine.go_away(Duration::from_secs(15));
                tokio::time::sleep(Duration::from_secs(25)).await;
            }
        }
        converged(&world, MINUTE).await;
        for i in &before {
            let now = named(&world, &i.metadata.name).await;
            assert_eq!(
                (now.status.node, now.status.container_id),
                (i.status.node.clone(), i.status.container_id.clone())
            );
            assert_eq!(told(&named(&world, &i.metadata.name).await), None, "its host answers");
        }
        let waits = &before[1];
        let host = world.fleet.host(&waits.status.node).clone();
        host.go_away(600 * MINUTE);
        tokio::time::sleep(20 * MINUTE).await;
        let lost = named(&world, "waits").await;
        assert_eq!((lost.status.phase, &lost.status.node, told(&lost)), (Phase::Lost, &waits.status.node, None));
        host.come_back();
        converged(&world, MINUTE).await;
        let found = named(&world, "waits").await;
        assert_eq!(found.status.container_id, waits.status.container_id);
        assert_eq!(host.runs("pr.default.waits"), 1, "it was started again");
        world.assert_quiet(10 * MINUTE).await;
        world.crash().await;
    });
}

#[test]
fn a_change_of_mind_while_the_host_is_lost_counts_at_once() {
    in_virtual_time(|| async {
        let mut world = begun(&["h1", "h2"], 33, &[("alice", waiting())]).await;
        let old = named(&world, "alice").await.status.node;
        world.fleet.host(&old).go_away(600 * MINUTE);
        tokio::time::sleep(10 * MINUTE).await;
        world.change("alice", |i| i.spec.placement.on_host_loss = OnHostLoss::Recreate).await;
        let limit = Duration::from_secs(10);
        world.until("it runs elsewhere", limit, async |w| runs_elsewhere(w, "alice", &old).await).await;
        world.fleet.host(&old).come_back();
        converged(&world, MINUTE).await;
        world.assert_quiet(10 * MINUTE).await;
        world.crash().await;
    });
}

#[test]
fn when_all_or_most_hosts_are_lost_nothing_moves_and_the_reason_is_told() {
    for lost in [2, 3] {
        in_virtual_time(|| async {
            let mut world = World::new(&["h1", "h2", "h3"], 34).await;
            world.start();
            for n in 0..6 {
                world.apply(&format!("i{n}"), mobile()).await;
            }
            converged(&world, MINUTE).await;
            let mut before = world.instances().await;
            let away = ["h1", "h2", "h3"][..lost].to_vec();
            before.retain(|i| away.contains(&i.status.node.as_str()));
            assert!(before.len() >= lost);
            away.iter().for_each(|host| world.fleet.host(host).go_away(600 * MINUTE));
            tokio::time::sleep(30 * MINUTE).await;
            for i in &before {
                let now = named(&world, &i.metadata.name).await;
                assert_eq!((&now.status.node, now.status.phase), (&i.status.node, Phase::Lost));
                assert_eq!(told(&now).as_deref(), Some("MostHostsLost"));
            }
            world.assert_quiet(10 * MINUTE).await;
            away.iter().for_each(|host| world.fleet.host(host).come_back());
            converged(&world, MINUTE).await;
            for i in &before {
                assert_eq!(named(&world, &i.metadata.name).await.status.container_id, i.status.container_id);
            }
            world.assert_quiet(10 * MINUTE).await;
            world.crash().await;
        });
    }
}

#[test]
fn where_no_other_host_fits_it_waits_and_says_so_until_one_does() {
    in_virtual_time(|| async {
        let mut world = begun(&["h1", "h2"], 35, &[("alice", mobile())]).await;
        let old = named(&world, "alice").await.status.node;
        let other = if old == "h1" { "h2" } else { "h1" };
        change_host(&world, other, |h| h.spec.unschedulable = true).await;
        world.fleet.host(&old).go_away(600 * MINUTE);
        tokio::time::sleep(10 * MINUTE).await;
        let alice = named(&world, "alice").await;
        let lost = condition(&alice.status.conditions, HOST_LOST).unwrap();
        assert_eq!((alice.status.phase, lost.reason.as_str()), (Phase::Lost, "Unschedulable"));
        assert!(lost.message.ends_with("0/1 hosts fit: 1 unschedulable"), "{}", lost.message);
        let events = events(&world, HOST_LOST).await;
        assert!(events.iter().any(|e| e.message == lost.message), "{events:#?}");
        world.assert_quiet(10 * MINUTE).await;
        change_host(&world, other, |h| h.spec.unschedulable = false).await;
        world.until("it runs elsewhere", MINUTE / 2, async |w| runs_elsewhere(w, "alice", &old).await).await;
        world.crash().await;
    });
}

/// Loses alice's host, with a crash of the control plane after so many writes, or so long after the loss; returns how
/// many writes there were until what was left behind is gone.
async fn lose_with_crash(crash_after: Option<u64>, at: Duration) -> u64 {
    let mut world = begun(&["h1", "h2"], 36, &[("alice", mobile())]).await;
    let old = named(&world, "alice").await.status.node;
    let host = world.fleet.host(&old).clone();
    let writes = world.fleet.writes();
    let point = crash_after.map(CrashPoint::after_writes);
    let set = |world: &World, point: Option<&Arc<CrashPoint>>| {
        world.fleet.all().for_each(|(_, engine)| engine.set_crash_point(point.cloned()));
    };
    set(&world, point.as_ref());
    host.go_away(600 * MINUTE);
    if point.is_none() {
        tokio::time::sleep(at).await;
        world.crash().await;
        world.start();
    }
    let (mut died, mut back) = (point.is_none(), false);
    let end = world.clock.monotonic() + 10 * MINUTE;
    loop {
        if !died && point.as_ref().is_some_and(|p| p.is_reached()) {
            world.crash().await;
            set(&world, None);
            world.start();
            died = true;
        }
        let alice = named(&world, "alice").await;
        if !back && runs_elsewhere(&world, "alice", &old).await {
            host.come_back();
            back = true;
        }
        if back && is_clean(&world, &old) && disagreement(&world).await.is_none() {
            break;
        }
        assert!(world.clock.monotonic() < end, "{:#?} {:#?}", alice.status, world.snapshots());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    set(&world, None);
    if !died {
        // Its point was the last write.
        world.crash().await;
        world.start();
    }
    converged(&world, MINUTE).await;
    let writes = (world.fleet.writes() - writes) as u64;
    assert_eq!(told(&named(&world, "alice").await).as_deref(), Some("Recreated"));
    world.assert_quiet(10 * MINUTE).await;
    world.crash().await;
    writes
}

#[test]
fn a_crash_at_any_point_of_a_loss_leads_to_one_container_elsewhere() {
    let mut writes = 0;
    in_virtual_time(|| async { writes = lose_with_crash(None, Duration::ZERO).await });
    assert!(writes >= 6, "a network, a container, a start; a stop and two removals: not {writes}");
    for crash_after in 0..=writes {
        eprintln!("a crash after {crash_after} of {writes} writes");
        in_virtual_time(|| async {
            lose_with_crash(Some(crash_after), Duration::ZERO).await;
        });
    }
    for seconds in (0..80).step_by(4) {
        in_virtual_time(|| async {
            lose_with_crash(None, Duration::from_secs(seconds)).await;
        });
    }
}

/// What a record says of the time before is no reason to move anything: who has just begun looks for itself.
#[test]
fn a_control_plane_that_begins_while_a_host_is_lost_looks_for_a_minute_first() {
    in_virtual_time(|| async {
        let mut world = begun(&["h1", "h2"], 37, &[("alice", mobile())]).await;
        let before = named(&world, "alice").await;
        let host = world.fleet.host(&before.status.node).clone();
        host.go_away(600 * MINUTE);
        tokio::time::sleep(MINUTE / 2).await;
        world.crash().await;
        tokio::time::sleep(60 * MINUTE).await;
        world.start();
        tokio::time::sleep(MINUTE - Duration::from_secs(1)).await;
        assert_eq!(named(&world, "alice").await.status.node, before.status.node);
        host.come_back();
        converged(&world, MINUTE).await;
        assert_eq!(named(&world, "alice").await.status.container_id, before.status.container_id);
        world.crash().await;
    });
}

#[test]
fn one_that_sleeps_stays_until_it_is_asked_for() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1", "h2"], 38).await;
        world.start();
        let mut sleeper = mobile();
        sleeper["power"] = json!("Auto");
        sleeper["idle"] = json!({"after": "10m"});
        world.apply("alice", sleeper).await;
        converged(&world, MINUTE).await;
        world.until("it sleeps", 15 * MINUTE, async |w| w.phase("alice").await == Some(Phase::Asleep)).await;
        let old = named(&world, "alice").await.status.node;
        let host = world.fleet.host(&old).clone();
        host.go_away(600 * MINUTE);
        tokio::time::sleep(30 * MINUTE).await;
        let alice = named(&world, "alice").await;
        assert_eq!((&alice.status.node, alice.status.phase, told(&alice)), (&old, Phase::Asleep, None));
        world.request("alice");
        let limit = Duration::from_secs(10);
        world.until("it wakes elsewhere", limit, async |w| runs_elsewhere(w, "alice", &old).await).await;
        host.come_back();
        world.until("what was left behind is gone", MINUTE, async |w| is_clean(w, &old)).await;
        converged(&world, MINUTE).await;
        world.crash().await;
    });
}

#[test]
fn one_that_is_deleted_while_its_host_is_lost_goes_when_the_host_is_back() {
    for recreated in [false, true] {
        in_virtual_time(|| async {
            let mut world = begun(&["h1", "h2"], 39, &[("alice", mobile())]).await;
            let old = named(&world, "alice").await.status.node;
            let host = world.fleet.host(&old).clone();
            host.go_away(600 * MINUTE);
            if recreated {
                world.until("it runs elsewhere", 2 * MINUTE, async |w| runs_elsewhere(w, "alice", &old).await).await;
            }
            world.delete("alice").await;
            tokio::time::sleep(30 * MINUTE).await;
            // What is bound to the lost host waits for it; what has left it does not.
            let left = world.get("alice").await.map(|i| (i.status.node, i.status.phase));
            assert_eq!(left, (!recreated).then(|| (old.clone(), Phase::Stopping)));
            host.come_back();
            let gone = async |w: &World| w.get("alice").await.is_none() && is_clean(w, "h1") && is_clean(w, "h2");
            world.until("all of it is gone", MINUTE, gone).await;
            world.assert_quiet(10 * MINUTE).await;
            world.crash().await;
        });
    }
}

/// `kubectl taint node NAME node.kubernetes.io/out-of-service=:NoExecute`, or its end.
async fn out_of_service(world: &World, name: &str, out: bool) {
    change_host(world, name, |host| {
        host.spec.taints.retain(|t| t.key != OUT_OF_SERVICE);
        let taint = Taint { key: OUT_OF_SERVICE.into(), value: String::new(), effect: TaintEffect::NoExecute };
        host.spec.taints.extend(out.then_some(taint));
    })
    .await;
}

fn with_data(power: &str) -> Value {
    let mut spec = waiting();
    spec["volumes"] = json!([{"name": "home", "mountPath": "/home"}]);
    spec["power"] = json!(power);
    spec
}

#[test]
fn an_operators_word_gives_up_all_that_is_on_a_lost_host() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1", "h2"], 41).await;
        world.start();
        change_host(&world, "h2", |host| host.spec.unschedulable = true).await;
        for (name, spec) in
            [("alice", with_data("Running")), ("bob", with_data("Running")), ("carol", with_data("Running"))]
        {
            world.apply(name, spec).await;
        }
        converged(&world, 2 * MINUTE).await;
        world.change("bob", |i| i.spec.power = Power::Stopped).await;
        converged(&world, MINUTE).await;
        change_host(&world, "h2", |host| host.spec.unschedulable = false).await;

        // While it answers, the word is a taint as any other: what has data there stays.
        out_of_service(&world, "h1", true).await;
        tokio::time::sleep(10 * MINUTE).await;
        for name in ["alice", "bob", "carol"] {
            assert_eq!(named(&world, name).await.status.node, "h1", "{name}");
        }
        out_of_service(&world, "h1", false).await;
        converged(&world, MINUTE).await;

        let host = world.fleet.host("h1").clone();
        host.go_away(600 * MINUTE);
        world.delete("carol").await;
        tokio::time::sleep(30 * MINUTE).await;
        for (name, phase) in [("alice", Phase::Lost), ("carol", Phase::Stopping)] {
            let i = named(&world, name).await;
            assert_eq!((i.status.node.as_str(), i.status.phase), ("h1", phase), "{name}");
        }
        out_of_service(&world, "h1", true).await;
        world.until("it runs elsewhere", MINUTE, async |w| runs_elsewhere(w, "alice", "h1").await).await;
        world.until("the deleted is gone", MINUTE, async |w| w.get("carol").await.is_none()).await;
        let unbound = async |w: &World| named(w, "bob").await.status.node.is_empty();
        world.until("what rests is bound nowhere", MINUTE, unbound).await;
        assert_eq!(named(&world, "bob").await.status.phase, Phase::Stopped);
        assert_eq!(told(&named(&world, "alice").await).as_deref(), Some("Recreated"));
        let recreated = events(&world, "Recreated").await;
        let told = &recreated[0].message;
        assert!(told.contains("h1 is out of service") && told.contains("volume \"home\""), "{told}");
        assert!(world.cache().on_node("h1").is_empty(), "its record may be deleted now");

        host.come_back();
        let clean = async |w: &World| w.fleet.host("h1").snapshot().containers.is_empty();
        world.until("what was left behind is gone", MINUTE, clean).await;
        assert_eq!(running_on(&world, "h2", "alice"), 1);
        world.crash().await;
    });
}
