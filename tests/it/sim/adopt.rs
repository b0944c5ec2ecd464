//! Containers that somebody else made and that are taken over as they are: what runs goes on running, through crashes and
//! faults there is one of each, strangers are left alone, and data outlives its container.

use std::time::Duration;

use portreeve::docker::adoption::{fill_limits, translate};
use portreeve::docker::engine::{ContainerInfo, ContainerSpec, EngineRead, Limits, Mount, PortMap, RunState};
use portreeve::model::{Instance, Phase, Power, RELEASE_ANNOTATION, RESTART_ANNOTATION, SLEEP_ANNOTATION, condition};
use serde_json::{Value, json};

use super::{FAULTS, MINUTE, converged, in_virtual_time};
use crate::support::sim_engine::SimEngine;
use crate::support::sim_engine::fault::{CrashPoint, FaultRates, Rng};
use crate::support::sim_engine::image::SimImage;
use crate::support::world::World;

/// A volume that was given no name.
const ANONYMOUS: &str = "0af90af90af90af90af90af90af90af90af90af90af90af90af90af90af90af9";

/// A stranger's container as `docker run --restart always -p PORT:80 -v NAME_data:/data` makes it; its id.
fn stranger(engine: &SimEngine, name: &str, port: u16) -> String {
    let volume = format!("{name}_data");
    engine.restore_volume_by_hand(&volume, [].into());
    let id = engine.create_by_hand(ContainerSpec {
        name: name.into(),
        image: "app:1".into(),
        env: vec!["A=1".into()],
        ports: vec![PortMap { container_port: 80, host_ip: "0.0.0.0".into(), host_port: port }],
        mounts: vec![Mount::Volume { name: volume, target: "/data".into(), read_only: false }],
        network: "bridge".into(),
        ..ContainerSpec::default()
    });
    engine.update_by_hand(name, Limits::default(), "always");
    id
}

/// What `portreeve adopt` makes of a container.
async fn spec_of(engine: &SimEngine, id: &str) -> Value {
    let described = engine.describe(id).await.unwrap().expect("it is there");
    let mut found = translate(&described, "10.0.0.1");
    fill_limits(&mut found.spec, Limits { memory: 16 << 30, cpu_milli: 4000, pids: 4_194_304 });
    let mut spec = serde_json::to_value(found.spec).unwrap();
    spec["power"] = json!("Running");
    spec["adopt"] = json!({"node": "h1", "containerID": id});
    spec
}

/// One host with `web`, which is adopted as `alice`, and `neighbour`, which nobody asked for.
async fn two_strangers(seed: u64) -> (World, String, ContainerInfo) {
    let mut world = World::new(&["h1"], seed).await;
    let engine = world.fleet.host("h1").clone();
    let (web, neighbour) = (stranger(&engine, "web", 8080), stranger(&engine, "neighbour", 8081));
    let spec = spec_of(&engine, &web).await;
    let neighbour = engine.seen(&neighbour).unwrap();
    world.start();
    world
        .until("the host is ready", MINUTE, async |w: &World| {
            w.cache().host("h1").is_some_and(|h| portreeve::model::is_true(&h.status.conditions, "Ready"))
        })
        .await;
    world.apply("alice", spec).await;
    (world, web, neighbour)
}

async fn alice(world: &World) -> Instance {
    world.get("alice").await.expect("alice")
}

async fn reason(world: &World, name: &str) -> String {
    let found = world.get(name).await.unwrap();
    condition(&found.status.conditions, "Ready").map(|c| c.reason.clone()).unwrap_or_default()
}

fn writes(world: &World) -> Vec<&'static str> {
    world.fleet.host("h1").ops().into_iter().map(|op| op.op).collect()
}

#[test]
fn a_container_is_taken_over_as_it_runs_and_lives_like_any_other() {
    in_virtual_time(|| async {
        let (mut world, web, neighbour) = two_strangers(3).await;
        let engine = world.fleet.host("h1").clone();
        let found = engine.seen(&web).unwrap();
        converged(&world, MINUTE).await;

        let taken = engine.seen(&web).unwrap();
        assert_eq!((taken.started_at, taken.name.as_str()), (found.started_at, "web"), "it goes on as it was");
        assert_eq!((taken.restart_policy.as_str(), taken.limits.memory), ("no", 16 << 30));
        assert_eq!(writes(&world), ["update container"], "nothing else is done to it");
        let status = alice(&world).await.status;
        assert_eq!((status.container_id.as_str(), status.node.as_str()), (web.as_str(), "h1"));
        assert_eq!(status.ports[0].host_port, 8080);
        assert_eq!(status.adopted.as_ref().unwrap().restart_policy, "always");
        assert!(portreeve::model::is_true(&status.conditions, "UpToDate"), "{:#?}", status.conditions);
        world.assert_quiet(10 * MINUTE).await;

        // It sleeps and wakes, across the end of the control plane.
        world.change("alice", |i| i.spec.power = Power::Auto).await;
        let run = alice(&world).await.run().unwrap();
        world.change("alice", |i| drop(i.metadata.annotations.insert(SLEEP_ANNOTATION.into(), run.clone()))).await;
        let asleep = async |w: &World| w.phase("alice").await == Some(Phase::Asleep);
        world.until("it sleeps", MINUTE, asleep).await;
        assert_eq!(engine.seen(&web).unwrap().state, RunState::Exited);
        world.crash().await;
        world.start();
        world.cache().ready().await;
        world.assert_quiet(30 * MINUTE).await;
        world.request("alice");
        let running = async |w: &World| w.phase("alice").await == Some(Phase::Running);
        world.until("it wakes", MINUTE, running).await;
        assert_eq!(alice(&world).await.status.container_id, web, "in the same container");

        // Its end is noticed at once, though no label tells whose it is, and it is started again.
        world.change("alice", |i| i.spec.power = Power::Running).await;
        converged(&world, MINUTE).await;
        engine.kill_by_hand("web");
        world.until("it is told", MINUTE / 6, async |w: &World| alice(w).await.status.restarts == 1).await;
        converged(&world, MINUTE).await;
        assert_eq!(alice(&world).await.status.container_id, web);

        // Another image: another container, with the same port and data.
        world.change("alice", |i| i.spec.image = "app:2".into()).await;
        converged(&world, MINUTE).await;
        assert!(engine.seen(&web).is_none());
        let own = engine.seen("pr.default.alice").expect("one of ours");
        assert_eq!((own.image.as_str(), own.ports[0].host_port), ("app:2", 8080));
        assert_eq!(engine.volumes_of("pr.default.alice"), ["web_data"]);

        world.delete("alice").await;
        world.until("it is gone", MINUTE, async |w: &World| w.get("alice").await.is_none()).await;
        world.assert_quiet(10 * MINUTE).await;
        let left = engine.snapshot();
        assert_eq!(left.containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["neighbour"]);
        assert!(left.volumes.contains("web_data") && left.volumes.contains("neighbour_data"), "{left:#?}");
        assert_eq!(engine.seen(&neighbour.id).unwrap(), neighbour, "nobody touched the stranger");
        world.crash().await;
    });
}

/// Adopted, changed in place, stopped, started, and what then becomes of it.
const STORIES: [&[&str]; 3] = [
    &["adopt", "limits", "stop", "start", "upgrade", "delete"],
    &["adopt", "restart", "delete"],
    &["adopt", "release"],
];

async fn tell(world: &World, step: &str) {
    match step {
        // As [`two_strangers`] has it.
        "adopt" => {}
        "limits" => world.change("alice", |i| i.spec.resources.memory = Some("512Mi".parse().unwrap())).await,
        "stop" => world.change("alice", |i| i.spec.power = Power::Stopped).await,
        "start" => world.change("alice", |i| i.spec.power = Power::Running).await,
        "upgrade" => world.change("alice", |i| i.spec.image = "app:2".into()).await,
        "restart" => {
            world.change("alice", |i| drop(i.metadata.annotations.insert(RESTART_ANNOTATION.into(), "1".into()))).await;
        }
        "release" => {
            let id = alice(world).await.status.container_id;
            world.change("alice", |i| drop(i.metadata.annotations.insert(RELEASE_ANNOTATION.into(), id.clone()))).await;
            world.delete("alice").await;
        }
        "delete" => world.delete("alice").await,
        other => panic!("no such step: {other}"),
    }
}

/// Tells a story up to one step, in which the control plane dies after so many writes; how many the step makes, and how
/// the world ends.
async fn story_with_crash(story: &[&str], crash_after: Option<u64>) -> (u64, String) {
    let (mut world, web, neighbour) = two_strangers(7).await;
    let engine = world.fleet.host("h1").clone();
    let mut step_writes = 0;
    for (n, step) in story.iter().enumerate() {
        let before = world.fleet.writes();
        if n + 1 == story.len()
            && let Some(after) = crash_after
        {
            let point = CrashPoint::after_writes(after);
            engine.set_crash_point(Some(point.clone()));
            tell(&world, step).await;
            let _ = tokio::time::timeout(MINUTE, point.reached()).await;
            world.crash().await;
            engine.set_crash_point(None);
            world.start();
        } else {
            tell(&world, step).await;
        }
        converged(&world, 5 * MINUTE).await;
        step_writes = (world.fleet.writes() - before) as u64;
    }
    world.assert_quiet(10 * MINUTE).await;
    assert_eq!(engine.seen(&neighbour.id).unwrap(), neighbour, "nobody touched the stranger");
    let kept = engine.seen(&web).map(|c| (c.state, c.restart_policy));
    let end = format!("{:#?}\n{kept:?}", world.snapshots());
    world.crash().await;
    (step_writes, end)
}

#[test]
fn a_crash_after_any_write_of_any_step_leads_to_the_same_world() {
    for story in STORIES {
        for last in 1..=story.len() {
            let story = &story[..last];
            let mut reference = (0, String::new());
            in_virtual_time(|| async { reference = story_with_crash(story, None).await });
            for crash_after in 0..=reference.0 {
                in_virtual_time(|| async {
                    let (_, end) = story_with_crash(story, Some(crash_after)).await;
                    assert_eq!(end, reference.1, "{story:?}, crash after {crash_after} of {} writes", reference.0);
                });
            }
        }
    }
}

#[test]
fn any_fault_at_any_write_leads_to_the_same_world() {
    let ops = ["update container", "stop container", "start container", "remove container", "create container"];
    for fault in FAULTS {
        for op in ops {
            in_virtual_time(|| async {
                let (mut world, web, neighbour) = two_strangers(5).await;
                let engine = world.fleet.host("h1").clone();
                for step in STORIES[0] {
                    engine.arm(op, fault);
                    tell(&world, step).await;
                    converged(&world, 30 * MINUTE).await;
                    let own = engine.snapshot().containers.into_iter().filter(|c| !c.uid.is_empty()).count();
                    let all = own + usize::from(engine.seen(&web).is_some());
                    assert_eq!(all, usize::from(*step != "delete"), "{fault:?} at {op}, after {step}");
                }
                assert!(engine.armed() < STORIES[0].len(), "{op} is no call that the story makes");
                // What comes late is a stray, and goes.
                tokio::time::sleep(3 * MINUTE).await;
                world.assert_quiet(10 * MINUTE).await;
                let left = engine.snapshot();
                assert!(
                    left.volumes.contains("web_data") && left.containers.len() == 1,
                    "{fault:?} at {op}: {left:#?}"
                );
                assert_eq!(engine.seen(&neighbour.id).unwrap(), neighbour);
                world.crash().await;
            });
        }
    }
}

/// Lives full of faults, lost events, crashes and changes of mind.
#[test]
fn whatever_happens_there_is_one_container_and_the_stranger_is_left_alone() {
    for seed in 0..60 {
        in_virtual_time(|| async {
            let (mut world, web, neighbour) = two_strangers(seed).await;
            let engine = world.fleet.host("h1").clone();
            let mut rng = Rng::new(seed);
            engine.set_fault_rates(FaultRates { writes: 15, reads: 3, lost_events: 30 });
            let (mut deleted, mut changed) = (false, false);
            for _ in 0..12 {
                match rng.below(9) {
                    0 => world.change("alice", |i| i.spec.power = Power::Stopped).await,
                    1 | 2 => world.change("alice", |i| i.spec.power = Power::Running).await,
                    3 => world.change("alice", |i| i.spec.resources.memory = Some("300Mi".parse().unwrap())).await,
                    // One that does not run is not adopted.
                    4 if engine.seen("web").is_some_and(|c| c.restart_policy == "no") => engine.kill_by_hand("web"),
                    5 => engine.go_away(Duration::from_secs(5 + rng.below(60))),
                    6 if rng.percent(40) => {
                        changed = true;
                        world.change("alice", |i| i.spec.image = "app:2".into()).await;
                    }
                    7 if rng.percent(20) => {
                        deleted = true;
                        world.delete("alice").await;
                    }
                    _ => {
                        world.crash().await;
                        world.start();
                    }
                }
                tokio::time::sleep(Duration::from_millis(rng.below(9_000))).await;
            }
            engine.set_fault_rates(FaultRates::default());
            engine.come_back();
            converged(&world, 30 * MINUTE).await;
            tokio::time::sleep(7 * MINUTE).await;
            converged(&world, 30 * MINUTE).await;
            world.assert_quiet(6 * MINUTE).await;
            let own = engine.snapshot().containers.into_iter().filter(|c| !c.uid.is_empty()).count();
            let adopted = engine.seen(&web).is_some();
            if deleted && world.get("alice").await.is_none() {
                // Before the container was its own, deleting it left the container alone.
                assert_eq!(own, 0, "seed {seed}");
            } else {
                assert_eq!(own + usize::from(adopted), 1, "seed {seed}");
                assert!(!(changed && adopted && engine.seen(&web).unwrap().state == RunState::Running), "seed {seed}");
            }
            assert!(engine.snapshot().volumes.contains("web_data"), "seed {seed}");
            assert_eq!(engine.seen(&neighbour.id).unwrap(), neighbour, "seed {seed}");
            world.crash().await;
        });
    }
}

#[test]
fn of_two_that_want_one_container_one_gets_it() {
    in_virtual_time(|| async {
        let (mut world, web, _) = two_strangers(9).await;
        let spec = spec_of(world.fleet.host("h1"), &web).await;
        let mut other = spec.clone();
        other["ports"] = json!([]);
        world.apply("bob", other).await;
        let settled = async |w: &World| {
            let mut reasons = [reason(w, "alice").await, reason(w, "bob").await];
            reasons.sort();
            reasons == ["NotAdoptable", "Running"]
        };
        world.until("one has it and the other is told so", MINUTE, settled).await;
        let adopted: Vec<_> = world.instances().await.into_iter().filter(|i| i.status.adopted.is_some()).collect();
        assert_eq!(adopted.len(), 1);
        let loser = if adopted[0].metadata.name == "alice" { "bob" } else { "alice" };
        world.delete(loser).await;
        world.until("it is gone", MINUTE, async |w: &World| w.get(loser).await.is_none()).await;
        assert_eq!(world.fleet.host("h1").seen(&web).unwrap().state, RunState::Running, "it was never the loser's");
        world.crash().await;
    });
}

#[test]
fn what_cannot_be_adopted_is_left_as_it_is_and_so_is_what_was_let_go() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 11).await;
        let engine = world.fleet.host("h1").clone();
        let web = stranger(&engine, "web", 8080);
        let mut spec = spec_of(&engine, &web).await;
        engine.stop_by_hand("web");
        let before = engine.seen(&web).unwrap();
        world.start();
        world.apply("alice", spec.clone()).await;
        spec["adopt"]["containerID"] = json!("0".repeat(64));
        spec["ports"] = json!([]);
        world.apply("gone", spec).await;
        for name in ["alice", "gone"] {
            world.until("it is refused", MINUTE, async |w: &World| reason(w, name).await == "NotAdoptable").await;
        }
        tokio::time::sleep(30 * MINUTE).await;
        assert_eq!(
            (engine.seen(&web).unwrap(), writes(&world)),
            (before, vec![]),
            "nothing is made, nothing is touched"
        );
        // When it can be taken, it is.
        engine.start_by_hand("web");
        world.delete("gone").await;
        converged(&world, 2 * MINUTE).await;
        assert_eq!(alice(&world).await.status.container_id, web);
        tell(&world, "release").await;
        world.until("it is gone", MINUTE, async |w: &World| w.get("alice").await.is_none()).await;
        world.assert_quiet(10 * MINUTE).await;
        assert_eq!(engine.seen(&web).unwrap().state, RunState::Running);
        world.crash().await;
    });
}

#[test]
fn a_spec_that_says_more_than_is_there_is_an_upgrade_and_keeps_data_without_a_name() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 13).await;
        let engine = world.fleet.host("h1").clone();
        engine.add_image("other:1", SimImage::server());
        engine.restore_volume_by_hand(ANONYMOUS, [].into());
        let id = engine.create_by_hand(ContainerSpec {
            name: "db".into(),
            image: "app:1".into(),
            mounts: vec![Mount::Volume { name: ANONYMOUS.into(), target: "/data".into(), read_only: false }],
            network: "bridge".into(),
            ..ContainerSpec::default()
        });
        let mut spec = spec_of(&engine, &id).await;
        spec["image"] = json!("other:1");
        world.start();
        world.apply("alice", spec).await;
        converged(&world, MINUTE).await;
        assert!(engine.seen(&id).is_none(), "what it was told to be is another");
        assert_eq!(engine.volumes_of("pr.default.alice"), [ANONYMOUS]);
        assert!(engine.snapshot().volumes.contains(ANONYMOUS), "its data was not taken along");
        world.delete("alice").await;
        world.until("it is gone", MINUTE, async |w: &World| w.get("alice").await.is_none()).await;
        assert!(engine.snapshot().volumes.contains(ANONYMOUS));
        world.crash().await;
    });
}
