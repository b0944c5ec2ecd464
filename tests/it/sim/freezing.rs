//! Frozen and going on: who is frozen when, who waits for it, and that nothing that is used stays frozen.

#[path = "freezing/daemons.rs"]
mod daemons;

use portreeve::model::{EVICT_ANNOTATION, WAKE_ANNOTATION, is_true};

use super::*;
use crate::support::sim_engine::{Pace, SimEngine};

const NAME: &str = "pr.default.alice";
const SECOND: Duration = Duration::from_secs(1);

/// One that is frozen a minute after its last use, and falls asleep ten minutes after it.
fn freezer() -> Value {
    let mut spec = sleeper();
    spec["idle"]["freezeAfter"] = json!("1m");
    spec
}

/// The same in a hurry, for a life of minutes; it falls asleep after its end only.
pub fn freezes(spec: &mut Value) {
    spec["power"] = json!("Auto");
    spec["idle"] = json!({"after": "12h", "freezeAfter": "4s"});
}

/// Somebody else pauses a container, or lets it go on.
pub fn meddle(engine: &SimEngine, name: &str) {
    match engine.seen(name).map(|c| c.state) {
        Some(RunState::Running) => engine.pause_by_hand(name, true),
        Some(RunState::Paused) => engine.pause_by_hand(name, false),
        _ => {}
    }
}

/// A visitor who does not wait for long.
pub async fn come_by(world: &World, name: &str, patience: Duration) {
    if world.get(name).await.is_some() {
        drop(tokio::time::timeout(patience, visit(world, name)).await);
    }
}

async fn frozen(seed: u64, spec: Value) -> World {
    let mut world = World::new(&["h1"], seed).await;
    world.start();
    world.apply("alice", spec).await;
    until_phase(&world, "alice", Phase::Running, MINUTE).await;
    until_phase(&world, "alice", Phase::Frozen, 3 * MINUTE).await;
    tokio::time::sleep(SECOND).await;
    assert!(is_paused(&world));
    world
}

fn is_paused(world: &World) -> bool {
    world.fleet.host("h1").is_paused(NAME)
}

/// The calls that changed something since there were `before` of them.
fn calls(world: &World, before: usize) -> Vec<&'static str> {
    world.fleet.host("h1").ops()[before..].iter().map(|op| op.op).collect()
}

fn is_ready(instance: &Instance) -> bool {
    instance.status.phase == Phase::Running && is_true(&instance.status.conditions, "Ready")
}

/// A visitor, as the proxy has one: counted first, then led by the record, and held while that does not lead to the app.
/// Returns how long that took, with the guard.
async fn visit(world: &World, name: &str) -> (Duration, portreeve::proxy::OpenGuard) {
    let began = world.clock.monotonic();
    let guard = world.connect(name);
    let mut seen = world.cache().observe(&Key::instance("default", name));
    while !seen.borrow_and_update().as_ref().is_some_and(|i| is_ready(i)) {
        world.wake(name);
        let _ = tokio::time::timeout(SECOND, seen.changed()).await;
    }
    (world.clock.monotonic() - began, guard)
}

#[test]
fn one_that_is_frozen_goes_on_within_one_call_as_the_run_that_it_was() {
    in_virtual_time(|| async {
        let mut spec = freezer();
        spec["probes"] = probes::probes();
        spec["probes"]["startup"] = json!({"http": {"port": "web", "path": "/"}, "period": "10s"});
        let mut world = frozen(41, spec).await;
        let before = world.get("alice").await.unwrap();
        let told = condition(&before.status.conditions, "Ready").expect("told");
        assert_eq!(
            (told.reason.as_str(), told.message.as_str()),
            ("Frozen", "not used for 1m; goes on with the next request")
        );
        assert!(before.status.allocated_resources.is_some(), "its memory is taken");
        let (writes, probed) = (world.fleet.writes(), world.probes());
        world.assert_quiet(5 * MINUTE).await;
        assert_eq!(world.probes(), probed, "who stands still is not probed");

        let (held, guard) = visit(&world, "alice").await;
        assert_eq!(held, Pace::default().write, "one call, and nothing beside it");
        assert_eq!(calls(&world, writes), ["unpause container"]);
        tokio::time::sleep(30 * MINUTE).await;
        let after = world.get("alice").await.unwrap();
        assert!(is_ready(&after) && !is_paused(&world), "it is in use");
        assert_eq!(after.run(), before.run());
        assert_eq!((after.status.ports, after.status.restarts), (before.status.ports, 0));
        drop(guard);

        // Frozen a minute after its last use, asleep nine minutes later, and asleep it gives its memory back.
        let used = world.clock.monotonic();
        until_phase(&world, "alice", Phase::Frozen, 2 * MINUTE).await;
        assert!(world.clock.monotonic() - used >= MINUTE);
        let writes = world.fleet.writes();
        until_phase(&world, "alice", Phase::Asleep, 10 * MINUTE).await;
        let idle = world.clock.monotonic() - used;
        assert!((10 * MINUTE..11 * MINUTE).contains(&idle), "{idle:?}");
        assert_eq!(calls(&world, writes), ["pause container", "stop container"][1..]);
        let asleep = world.get("alice").await.unwrap();
        let end = world.fleet.host("h1").seen(&asleep.status.container_id).expect("the container stays");
        assert_eq!((end.state, end.exit_code), (RunState::Exited, 0), "it has heard the stop");
        assert_eq!((asleep.status.allocated_resources, asleep.status.restarts), (None, 0));
        world.assert_quiet(5 * MINUTE).await;
        world.request("alice");
        until_phase(&world, "alice", Phase::Running, MINUTE).await;
        assert_eq!(world.get("alice").await.unwrap().status.restarts, 0);
        world.crash().await;
    });
}

#[test]
fn who_comes_while_it_is_being_frozen_is_held_and_served_whenever_that_is() {
    for early in 0..60 {
        in_virtual_time(|| async {
            let mut world = frozen(42, freezer()).await;
            // Calls that take their time, and somebody who comes before, between and after them.
            world.fleet.host("h1").set_pace(Pace { write: 2 * SECOND, ..Pace::default() });
            drop(visit(&world, "alice").await);
            tokio::time::sleep(MINUTE - SECOND + Duration::from_millis(100) * early).await;
            let (held, guard) = visit(&world, "alice").await;
            assert!(held <= 5 * SECOND, "{held:?}");
            for _ in 0..100 {
                assert!(!is_paused(&world), "who is led to it finds it going on: {early}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            drop(guard);
            until_phase(&world, "alice", Phase::Frozen, 2 * MINUTE).await;
            world.crash().await;
        });
    }
}

#[test]
fn nobody_is_ever_led_to_one_that_is_frozen() {
    let frozen = AtomicUsize::new(0);
    for seed in 0..20 {
        in_virtual_time(|| async {
            let mut spec = freezer();
            spec["idle"] = json!({"after": "20s", "freezeAfter": "2s"});
            let mut world = World::new(&["h1"], seed).await;
            let mut rng = Rng::new(seed);
            world.start();
            world.apply("alice", spec).await;
            until_phase(&world, "alice", Phase::Running, MINUTE).await;
            for _ in 0..60 {
                tokio::time::sleep(Duration::from_millis(rng.below(6_000))).await;
                frozen.fetch_add(usize::from(is_paused(&world)), Ordering::Relaxed);
                let (_, guard) = visit(&world, "alice").await;
                for _ in 0..rng.below(40) {
                    assert!(!is_paused(&world), "seed {seed}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                drop(guard);
            }
            world.crash().await;
        });
    }
    let frozen = frozen.into_inner();
    assert!(frozen >= 100, "{frozen} of 1200 visitors came to one that was frozen: too few to show anything");
}

#[test]
fn a_crowd_at_the_door_of_one_that_is_frozen_ends_its_pause_once() {
    in_virtual_time(|| async {
        let mut world = frozen(43, freezer()).await;
        let writes = world.fleet.writes();
        let crowd = futures::future::join_all((0..100).map(|_| visit(&world, "alice"))).await;
        assert!(crowd.iter().all(|(held, _)| *held == Pace::default().write), "{crowd:?}");
        drop(crowd);
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(calls(&world, writes), ["unpause container"]);
        world.crash().await;
    });
}

#[test]
fn what_somebody_else_freezes_goes_on_and_what_they_let_go_on_is_frozen_again() {
    in_virtual_time(|| async {
        let mut world = begun(&["h1"], 44, &[("alice", spec("app:1"))]).await;
        let before = world.get("alice").await.unwrap();
        let engine = world.fleet.host("h1").clone();
        engine.pause_by_hand(NAME, true);
        world.until("it goes on", MINUTE, async |w: &World| !is_paused(w)).await;
        converged(&world, MINUTE).await;
        let after = world.get("alice").await.unwrap();
        assert_eq!((after.run(), after.status.restarts), (before.run(), 0), "the same run");
        assert!(is_ready(&after));
        assert_eq!(probes::events(&world, "Repaired").await, 1);
        world.assert_quiet(10 * MINUTE).await;
        world.crash().await;

        let mut world = frozen(45, freezer()).await;
        let engine = world.fleet.host("h1").clone();
        let writes = world.fleet.writes();
        engine.pause_by_hand(NAME, false);
        world.until("it is frozen again", MINUTE, async |w: &World| is_paused(w)).await;
        assert_eq!(calls(&world, writes), ["pause container"]);
        assert_eq!(world.phase("alice").await, Some(Phase::Frozen));
        world.assert_quiet(5 * MINUTE).await;
        world.crash().await;
    });
}

#[test]
fn one_that_ends_while_it_is_frozen_is_asleep_and_that_is_no_crash() {
    for hand in ["kill", "remove", "crash", "restart"] {
        in_virtual_time(|| async {
            let mut world = frozen(46, freezer()).await;
            let engine = world.fleet.host("h1").clone();
            match hand {
                "kill" => engine.kill_by_hand(NAME),
                "remove" => engine.remove_by_hand(NAME),
                "crash" => engine.crash_daemon(5 * SECOND),
                _ => {
                    // Another run, of which nobody knows whether it is ready: it is waited for, and frozen when it is.
                    engine.stop_by_hand(NAME);
                    engine.start_by_hand(NAME);
                    until_phase(&world, "alice", Phase::Running, MINUTE).await;
                    until_phase(&world, "alice", Phase::Frozen, 2 * MINUTE).await;
                    world.crash().await;
                    return;
                }
            }
            let writes = world.fleet.writes();
            until_phase(&world, "alice", Phase::Asleep, MINUTE).await;
            let told = world.get("alice").await.unwrap();
            let ready = condition(&told.status.conditions, "Ready").expect("told");
            assert!(ready.message.contains("ended while it was frozen"), "{ready:?}");
            world.assert_quiet(20 * MINUTE).await;
            assert_eq!(calls(&world, writes), [""; 0], "{hand}");
            let after = world.get("alice").await.unwrap();
            assert_eq!((after.status.restarts, after.status.crashes, after.status.last_exit), (0, 0, None), "{hand}");
            drop(visit(&world, "alice").await);
            assert_eq!(world.get("alice").await.unwrap().status.restarts, 0, "{hand}");
            world.crash().await;
        });
    }
}

#[test]
fn every_wish_is_brought_about_from_there() {
    let memory = |world: &World| world.fleet.host("h1").snapshot().containers.first().map(|c| c.limits.0 >> 20);
    type Wish = (&'static str, fn(&mut Instance));
    let wishes: [Wish; 9] = [
        ("image", |i| i.spec.image = "app:2".into()),
        ("limits", |i| i.spec.resources.memory = Some("300Mi".parse().unwrap())),
        ("idle", |i| i.spec.idle.freeze_after = Some("30m".parse().unwrap())),
        ("never", |i| i.spec.idle.freeze_after = None),
        ("running", |i| i.spec.power = Power::Running),
        ("stopped", |i| i.spec.power = Power::Stopped),
        ("sleep", |i| drop(i.metadata.annotations.insert(SLEEP_ANNOTATION.into(), i.run().unwrap()))),
        ("wake", |i| drop(i.metadata.annotations.insert(WAKE_ANNOTATION.into(), "2100-01-01T00:00:00Z".into()))),
        ("delete", |_| {}),
    ];
    for (wish, change) in wishes {
        in_virtual_time(|| async {
            let mut spec = freezer();
            spec["idle"]["after"] = json!("2h");
            let mut world = frozen(48, spec).await;
            let (before, writes) = (world.get("alice").await.unwrap(), world.fleet.writes());
            match wish {
                "delete" => world.delete("alice").await,
                "wake" => {
                    let now = world.clock.now().to_string();
                    world
                        .change("alice", |i| drop(i.metadata.annotations.insert(WAKE_ANNOTATION.into(), now.clone())))
                        .await;
                }
                _ => world.change("alice", change).await,
            }
            let phase = match wish {
                "image" | "limits" => Some(Phase::Frozen),
                "idle" | "never" | "running" | "wake" => Some(Phase::Running),
                "stopped" => Some(Phase::Stopped),
                "sleep" => Some(Phase::Asleep),
                _ => None,
            };
            let there = async |w: &World| match w.get("alice").await {
                Some(i) => Some(i.status.phase) == phase && i.status.observed_generation == i.metadata.generation,
                None => phase.is_none(),
            };
            world.until(wish, 3 * MINUTE, there).await;
            let done = calls(&world, writes);
            let expected: &[&str] = match wish {
                "image" => &[
                    "unpause container",
                    "stop container",
                    "remove container",
                    "create container",
                    "start container",
                    "pause container",
                ],
                "limits" => &["unpause container", "update container", "pause container"],
                "idle" | "never" | "running" | "wake" => &["unpause container"],
                "stopped" | "sleep" => &["stop container"],
                _ => &["stop container", "remove container", "remove network", "remove volume"],
            };
            assert_eq!(done, expected, "{wish}");
            if wish == "limits" {
                assert_eq!(memory(&world), Some(300));
            }
            if let Some(after) = world.get("alice").await {
                assert_eq!(after.status.restarts, 0, "{wish}");
                assert_eq!(after.status.container_id == before.status.container_id, wish != "image", "{wish}");
            }
            world.crash().await;
        });
    }
}

#[test]
fn a_restart_of_the_control_plane_wakes_nobody_and_forgets_nobody() {
    in_virtual_time(|| async {
        let mut world = frozen(49, freezer()).await;
        let writes = world.fleet.writes();
        for _ in 0..3 {
            world.crash().await;
            world.start();
            tokio::time::sleep(MINUTE).await;
            assert_eq!(world.phase("alice").await, Some(Phase::Frozen));
        }
        assert_eq!(calls(&world, writes), [""; 0]);
        // Ten minutes after its last use, whoever counted them.
        until_phase(&world, "alice", Phase::Asleep, 7 * MINUTE).await;
        assert_eq!(calls(&world, writes), ["stop container"]);

        // One that dies between the word and the deed.
        drop(visit(&world, "alice").await);
        let host = world.fleet.host("h1").clone();
        host.arm("pause container", Fault::Hang);
        until_phase(&world, "alice", Phase::Frozen, 2 * MINUTE).await;
        world.crash().await;
        assert!(!is_paused(&world));
        world.start();
        world.until("it is paused", MINUTE, async |w: &World| is_paused(w)).await;
        assert_eq!(world.phase("alice").await, Some(Phase::Frozen));
        world.crash().await;
    });
}

#[test]
fn whoever_needs_room_gets_that_of_the_frozen_first() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 50).await;
        let witness = Witness::of(&world.store).await;
        world.start();
        let third = |freeze: bool| {
            let mut spec = sleeper();
            spec["idle"] = json!({"after": "2h"});
            if freeze {
                spec["idle"]["freezeAfter"] = json!("1m");
            }
            spec["resources"] = json!({"memory": "3Gi", "cpu": "1"});
            spec
        };
        for (name, freeze) in [("awake", false), ("frozen", true)] {
            world.apply(name, third(freeze)).await;
            until_phase(&world, name, Phase::Running, MINUTE).await;
            tokio::time::sleep(2 * MINUTE).await;
        }
        until_phase(&world, "frozen", Phase::Frozen, 2 * MINUTE).await;
        world.apply("third", third(false)).await;
        // It is bound where there is no room yet only when it was there before: a host is made for it first.
        tokio::time::sleep(MINUTE).await;
        assert_ne!(world.phase("third").await, Some(Phase::Running), "what is frozen holds its memory");
        world.delete("third").await;
        tokio::time::sleep(MINUTE).await;

        let send = async |name: &str| {
            world
                .change(name, |i| drop(i.metadata.annotations.insert(SLEEP_ANNOTATION.into(), i.run().unwrap())))
                .await;
            until_phase(&world, name, Phase::Asleep, MINUTE).await;
        };
        send("awake").await;
        world.apply("third", third(false)).await;
        until_phase(&world, "third", Phase::Running, MINUTE).await;
        tokio::time::sleep(5 * MINUTE).await;
        drop(visit(&world, "frozen").await);
        until_phase(&world, "frozen", Phase::Frozen, 3 * MINUTE).await;
        // `third` has not been used for longer than `frozen`, and runs.
        world.request("awake");
        until_phase(&world, "awake", Phase::Running, MINUTE).await;
        assert_eq!(world.phase("third").await, Some(Phase::Running));
        assert_eq!(world.phase("frozen").await, Some(Phase::Asleep));
        witness.end(&world.store).await;
        world.crash().await;
    });
}

#[test]
fn one_that_is_driven_from_its_host_rests_until_somebody_comes() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1", "h2"], 54).await;
        world.start();
        let mut spec = freezer();
        spec["idle"]["after"] = json!("4h");
        spec["volumes"] = json!([]);
        world.apply("alice", spec).await;
        until_phase(&world, "alice", Phase::Running, MINUTE).await;
        until_phase(&world, "alice", Phase::Frozen, 3 * MINUTE).await;
        let node = world.get("alice").await.unwrap().status.node;
        let mark = format!("{node} 2026-01-01T00:00:00Z");
        world.change("alice", |i| drop(i.metadata.annotations.insert(EVICT_ANNOTATION.into(), mark.clone()))).await;
        until_phase(&world, "alice", Phase::Asleep, MINUTE).await;
        let ops: Vec<_> = world.fleet.host(&node).ops().into_iter().map(|op| op.op).collect();
        assert!(ops.ends_with(&["stop container", "remove container", "remove network"]), "{ops:?}");
        world.assert_quiet(10 * MINUTE).await;
        let rests = world.get("alice").await.unwrap().status;
        assert_eq!((rests.phase, rests.node.as_str()), (Phase::Asleep, ""));
        drop(visit(&world, "alice").await);
        assert_ne!(world.get("alice").await.unwrap().status.node, "", "it is placed anew");
        world.crash().await;
    });
}

#[test]
fn one_whose_pause_cannot_be_ended_is_started_anew() {
    in_virtual_time(|| async {
        let mut world = frozen(51, freezer()).await;
        let engine = world.fleet.host("h1").clone();
        // At once, and once more when everything has been looked at.
        engine.arm("unpause container", Fault::ServerError);
        engine.arm("unpause container", Fault::ServerError);
        let writes = world.fleet.writes();
        let (held, _guard) = visit(&world, "alice").await;
        assert!(held < MINUTE, "{held:?}");
        let done = calls(&world, writes);
        assert_eq!(done, ["unpause container", "unpause container", "stop container", "start container"]);
        assert!(!is_paused(&world));
        world.crash().await;
    });
}

/// One life with both stages, step by step.
const LIFE: [&str; 7] = ["create", "freeze", "visit", "upgrade", "sleep", "wake", "delete"];

async fn live_on(world: &World, step: &str) {
    match step {
        "create" => world.apply("alice", freezer()).await,
        "upgrade" => world.change("alice", |i| i.spec.image = "app:2".into()).await,
        "visit" | "wake" => drop(tokio::time::timeout(3 * MINUTE, visit(world, "alice")).await),
        "sleep" => tokio::time::sleep(12 * MINUTE).await,
        "delete" => world.delete("alice").await,
        _ => {}
    }
}

/// Until it is as each step leaves it when nobody comes.
async fn settled(world: &World, step: &str, limit: Duration) {
    let there = async |w: &World| match (step, w.get("alice").await) {
        ("delete", found) => found.is_none(),
        ("sleep", Some(i)) => i.status.phase == Phase::Asleep,
        (_, Some(i)) => {
            let paused = i.status.phase == Phase::Frozen && is_paused(w);
            (paused || i.status.phase == Phase::Asleep) && i.status.observed_generation == i.metadata.generation
        }
        (_, None) => false,
    };
    world.until(step, limit, there).await;
}

#[test]
fn a_crash_after_any_write_of_such_a_life_converges() {
    for (n, last) in LIFE.iter().enumerate() {
        for after in 0..9 {
            in_virtual_time(|| async {
                let mut world = World::new(&["h1"], 52).await;
                world.start();
                for step in &LIFE[..=n] {
                    if step == last {
                        let point = CrashPoint::after_writes(after);
                        world.fleet.host("h1").set_crash_point(Some(point.clone()));
                        let _ = tokio::time::timeout(20 * MINUTE, live_on(&world, step)).await;
                        let _ = tokio::time::timeout(3 * MINUTE, point.reached()).await;
                        world.crash().await;
                        world.fleet.host("h1").set_crash_point(None);
                        world.start();
                        world.cache().ready().await;
                    } else {
                        live_on(&world, step).await;
                    }
                    settled(&world, step, 30 * MINUTE).await;
                }
                if *last != "delete" {
                    let (held, _guard) = visit(&world, "alice").await;
                    assert!(held < MINUTE && !is_paused(&world), "{held:?}");
                    assert_eq!(world.get("alice").await.unwrap().status.restarts, 0, "{last} {after}");
                }
                world.crash().await;
            });
        }
    }
}

#[test]
fn any_fault_at_a_pause_or_its_end_converges() {
    for fault in FAULTS {
        for op in ["pause container", "unpause container", "stop container"] {
            in_virtual_time(|| async {
                let mut world = World::new(&["h1"], 53).await;
                world.start();
                for step in LIFE {
                    world.fleet.host("h1").arm(op, fault);
                    live_on(&world, step).await;
                    settled(&world, step, 60 * MINUTE).await;
                }
                assert!(world.fleet.host("h1").armed() < LIFE.len(), "{op} is no call of such a life");
                world.crash().await;
            });
        }
    }
}
