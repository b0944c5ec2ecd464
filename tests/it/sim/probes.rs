//! Probes in deterministic simulation: who is asked, what comes of the answers, and how often.

use std::time::Duration;

use portreeve::docker::labels;
use portreeve::model::{Instance, Phase, Resource, condition, is_true};
use serde_json::{Value, json};

use super::{MINUTE, converged, in_virtual_time, sleeper, spec};
use crate::support::sim_engine::hands::SeenContainer;
use crate::support::sim_engine::health::Condition;
use crate::support::world::World;

const NAME: &str = "pr.default.alice";
const SECOND: Duration = Duration::from_secs(1);

/// Ready by what it says itself, alive at both of its ports.
pub fn probes() -> Value {
    json!({
        "readiness": {"http": {"port": "web", "path": "/ready"}, "period": "10s", "failures": 3},
        "liveness": {"checks": [{"tcp": {"port": "web"}}, {"http": {"port": "api"}}], "period": "10s", "failures": 3},
    })
}

/// What of a container that runs does not fit what its probes should have brought about.
pub fn disagreement(instance: &Instance, seen: &Option<Condition>) -> Option<String> {
    let seen = seen.as_ref().filter(|_| instance.status.phase == Phase::Running)?;
    let probes = &instance.spec.probes;
    let ready = is_true(&instance.status.conditions, "Ready");
    let wanted = probes.readiness.is_none() || !seen.unready;
    if probes.liveness.is_some() && !seen.hung.is_empty() {
        return Some(format!("{} is dead at {:?}", instance.key(), seen.hung));
    }
    (ready != wanted).then(|| format!("{} is ready: {ready}, and should be: {wanted}", instance.key()))
}

/// Lets everyone turn unready who would be noticed, and ready again; how many they are.
pub async fn turn_unready_and_back(world: &World) -> usize {
    let all = world.instances().await;
    let probed = all.iter().filter(|i| i.spec.probes.readiness.is_some() && i.status.phase == Phase::Running);
    let probed: Vec<_> = probed.map(|i| (labels::object_name(&i.key()), i.status.node.clone())).collect();
    for unready in [true, false] {
        for (name, node) in &probed {
            world.fleet.host(node).set_unready(name, unready);
        }
        converged(world, 5 * MINUTE).await;
    }
    probed.len()
}

/// Lets everyone hang at a port who would be noticed: each is started anew, once.
pub async fn hang(world: &World) {
    let all = world.instances().await;
    let probed = all.iter().filter(|i| i.spec.probes.liveness.is_some() && i.status.phase == Phase::Running);
    let probed: Vec<_> = probed.map(|i| (labels::object_name(&i.key()), i.status.node.clone())).collect();
    let runs = || probed.iter().map(|(name, node)| world.fleet.host(node).runs(name)).collect::<Vec<_>>();
    let before = runs();
    probed.iter().for_each(|(name, node)| world.fleet.host(node).hang_at(name, 81));
    converged(world, 10 * MINUTE).await;
    assert_eq!(runs(), before.iter().map(|n| n + 1).collect::<Vec<_>>(), "{probed:?}");
}

fn probed(image: &str) -> Value {
    let mut spec = spec(image);
    spec["probes"] = probes();
    spec
}

fn ready(instance: &Instance) -> (String, String) {
    let told = condition(&instance.status.conditions, "Ready").expect("it is told");
    (told.reason.clone(), told.message.clone())
}

fn is_because(instance: &Instance, reason: &str) -> bool {
    condition(&instance.status.conditions, "Ready").is_some_and(|c| c.reason == reason)
}

async fn until_because(world: &World, reason: &str, limit: Duration) {
    world.until(reason, limit, async |w: &World| w.get("alice").await.is_some_and(|i| is_because(&i, reason))).await;
}

async fn is_routed(world: &World) -> bool {
    let instance = world.get("alice").await.expect("it is there");
    instance.status.phase == Phase::Running && is_true(&instance.status.conditions, "Ready")
}

pub async fn events(world: &World, reason: &str) -> usize {
    let all = portreeve::store::typed::list::<portreeve::model::Event>(&*world.store, None).await.unwrap().items;
    all.iter().filter(|e| e.reason == reason).map(|e| e.count as usize).sum()
}

#[test]
fn one_that_is_not_ready_is_not_routed_to_and_not_restarted() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 21).await;
        world.start();
        world.apply("alice", probed("app:1")).await;
        converged(&world, MINUTE).await;
        until_because(&world, "Running", MINUTE).await;
        assert!(is_routed(&world).await);
        let engine = world.fleet.host("h1").clone();
        let (runs, before) = (engine.runs(NAME), world.get("alice").await.unwrap());

        engine.set_unready(NAME, true);
        let began = world.clock.monotonic();
        until_because(&world, "ReadinessFailed", MINUTE).await;
        assert!(world.clock.monotonic() - began >= 20 * SECOND, "one failure is not three in a row");
        let told = world.get("alice").await.unwrap();
        assert_eq!(told.status.phase, Phase::Running);
        assert_eq!(
            ready(&told).1,
            "the readiness probe failed 3 times in a row: web: GET /ready: 503 Service Unavailable"
        );
        assert!(!is_routed(&world).await);
        world.assert_quiet(6 * MINUTE).await;
        assert_eq!((engine.runs(NAME), events(&world, "Unhealthy").await), (runs, 1));

        world.crash().await;
        world.start();
        world.cache().ready().await;
        tokio::time::sleep(2 * SECOND).await;
        assert!(!is_routed(&world).await, "a control plane that begins knows no better");
        engine.set_unready(NAME, false);
        until_because(&world, "Running", MINUTE).await;
        let after = world.get("alice").await.unwrap();
        assert_eq!(after.status.container_id, before.status.container_id);
        assert_eq!((engine.runs(NAME), after.status.restarts), (runs, 0));
        world.assert_quiet(6 * MINUTE).await;
        world.crash().await;
    });
}

#[test]
fn what_has_started_is_routed_to_when_it_is_ready_and_not_before() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 22).await;
        world.start();
        let mut spec = probed("app:1");
        spec["probes"]["startup"] = json!({"tcp": {"port": "web"}});
        world.apply("alice", spec).await;
        world.until("it has a container", MINUTE, async |w: &World| w.fleet.host("h1").condition(NAME).is_some()).await;
        let engine = world.fleet.host("h1").clone();
        engine.set_unready(NAME, true);
        until_because(&world, "ReadinessPending", MINUTE).await;
        assert_eq!(world.phase("alice").await, Some(Phase::Running));
        assert!(!is_routed(&world).await);
        engine.set_unready(NAME, false);
        let began = world.clock.monotonic();
        until_because(&world, "Running", MINUTE).await;
        assert!(world.clock.monotonic() - began < 5 * SECOND, "whoever waits does not wait for a whole period");
        world.crash().await;
    });
}

#[test]
fn a_dead_port_beside_a_live_one_is_found_and_the_same_container_started_anew() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 23).await;
        world.start();
        world.apply("alice", probed("app:1")).await;
        converged(&world, MINUTE).await;
        // Long enough that it counts as recovered.
        tokio::time::sleep(20 * MINUTE).await;
        let engine = world.fleet.host("h1").clone();
        let (runs, before) = (engine.runs(NAME), world.get("alice").await.unwrap());
        engine.hang_at(NAME, 81);
        until_because(&world, "LivenessFailed", MINUTE).await;
        let told = ready(&world.get("alice").await.unwrap()).1;
        assert_eq!(told, "the liveness probe failed 3 times in a row: api: no answer within 1s");
        assert!(!is_routed(&world).await);
        until_because(&world, "Running", MINUTE).await;
        let after = world.get("alice").await.unwrap();
        assert_eq!((engine.runs(NAME), after.status.restarts), (runs + 1, 1));
        assert_eq!(after.status.container_id, before.status.container_id);
        let exit = after.status.last_exit.clone().expect("it is told");
        assert!(exit.unhealthy && !exit.oom_killed);
        tokio::time::sleep(5 * SECOND).await;
        let told = [events(&world, "Unhealthy").await, events(&world, "Killing").await, events(&world, "Exited").await];
        assert_eq!(told, [1, 1, 0]);
        world.assert_quiet(6 * MINUTE).await;
        world.crash().await;
    });
}

#[test]
fn an_app_that_never_lives_is_restarted_with_the_back_off_of_a_crash() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 24).await;
        world.start();
        let mut spec = probed("hung:1");
        spec["probes"]["startup"] = json!({"tcp": {"port": "web"}});
        world.apply("alice", spec).await;
        until_because(&world, "CrashLoopBackOff", 10 * MINUTE).await;
        let told = ready(&world.get("alice").await.unwrap()).1;
        assert!(
            told.starts_with("stopped because its liveness probe failed, 2 times in a row; next start at"),
            "{told}"
        );
        tokio::time::sleep(2 * 60 * MINUTE).await;
        let starts = world.fleet.host("h1").starts(NAME);
        let gaps: Vec<u64> = starts.windows(2).map(|w| (w[1] - w[0]).as_secs()).collect();
        // Three attempts, and the back-off: at once, 10 s, 20 s, … 5 min.
        let least = [20, 30, 40, 60, 100, 180];
        for (n, gap) in gaps.iter().enumerate() {
            let least = least.get(n).copied().unwrap_or(320);
            assert!(*gap >= least, "start {n} came after {gap} s, not {least}: {gaps:?}");
        }
        assert!(gaps.len() >= 15, "it is tried again and again: {gaps:?}");
        world.change("alice", |i| i.spec.probes.liveness = None).await;
        until_because(&world, "Running", MINUTE).await;
        converged(&world, MINUTE).await;
        world.crash().await;
    });
}

#[test]
fn probes_keep_nobody_awake_and_ask_nobody_who_sleeps() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 25).await;
        world.start();
        let mut spec = sleeper();
        spec["probes"] = probes();
        world.apply("alice", spec).await;
        converged(&world, MINUTE).await;
        let began = world.clock.monotonic();
        let asleep = async |w: &World| w.phase("alice").await == Some(Phase::Asleep);
        world.until("it sleeps", 12 * MINUTE, asleep).await;
        assert!(world.clock.monotonic() - began >= 9 * MINUTE, "it slept too early");
        let asked = world.probes();
        assert!(asked > 100, "{asked} attempts in ten minutes");
        world.assert_quiet(30 * MINUTE).await;
        assert_eq!(world.probes(), asked, "a sleeper was asked");
        world.crash().await;
    });
}

#[test]
fn while_a_host_is_away_nobody_is_asked_and_nothing_counts() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 26).await;
        world.start();
        world.apply("alice", probed("app:1")).await;
        converged(&world, MINUTE).await;
        let engine = world.fleet.host("h1").clone();
        let runs = engine.runs(NAME);
        engine.go_away(10 * MINUTE);
        world.until("it is lost", MINUTE, async |w: &World| w.phase("alice").await == Some(Phase::Lost)).await;
        let asked = world.probes();
        // Two failures before, two after: never three in a row.
        tokio::time::sleep(5 * MINUTE).await;
        assert_eq!(world.probes(), asked);
        engine.come_back();
        until_because(&world, "Running", MINUTE).await;
        converged(&world, MINUTE).await;
        assert_eq!(engine.runs(NAME), runs);
        world.crash().await;
    });
}

#[test]
fn a_command_is_run_and_one_that_hangs_is_run_once() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 27).await;
        world.start();
        let exec = |command: &str| json!({"exec": {"command": [command]}, "period": "10s", "failures": 3});
        let mut spec = spec("commands:1");
        spec["probes"] = json!({"startup": {"exec": {"command": ["is-up"]}}, "readiness": exec("is-up")});
        world.apply("alice", spec).await;
        until_because(&world, "Running", MINUTE).await;
        let before: Vec<SeenContainer> = world.fleet.host("h1").snapshot().containers;
        let set = async |command: &str| {
            let readiness = serde_json::from_value(exec(command)).unwrap();
            world.change("alice", |i| i.spec.probes.readiness = Some(Clone::clone(&readiness))).await;
        };
        set("is-down").await;
        until_because(&world, "ReadinessFailed", MINUTE).await;
        let told = ready(&world.get("alice").await.unwrap()).1;
        assert_eq!(told, "the readiness probe failed 3 times in a row: exec: the command ended with 3");
        set("is-up").await;
        until_because(&world, "Running", 5 * SECOND).await;

        let execs = || world.fleet.host("h1").execs("never");
        set("never").await;
        until_because(&world, "ReadinessFailed", MINUTE).await;
        let told = ready(&world.get("alice").await.unwrap()).1;
        assert!(told.ends_with("exec: the command of an attempt before has not ended yet"), "{told}");
        tokio::time::sleep(30 * MINUTE).await;
        assert_eq!(execs(), 1, "each attempt left another command behind");
        set("no-such-command").await;
        tokio::time::sleep(MINUTE).await;
        assert!(!is_routed(&world).await);
        set("is-up").await;
        until_because(&world, "Running", 5 * SECOND).await;
        assert_eq!(world.fleet.host("h1").snapshot().containers, before, "a probe that changes is no other container");
        world.crash().await;
    });
}
