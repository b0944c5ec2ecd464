//! The ways to rest and the ways to be kept from it, together: who is busy is not frozen, a schedule lets a frozen one go on and
//! stops it, and a message over a connection that was kept ends a pause, whenever it comes.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use portreeve::model::{Instance, Phase, SLEEP_ANNOTATION, Wanted, condition};
use portreeve::proxy::OpenGuard;
use serde_json::{Value, json};

use super::wakefulness::{sleep_until, stays, until_phase};
use super::{MINUTE, in_virtual_time, sleeper};
use crate::support::sim_engine::Pace;
use crate::support::sim_engine::fault::Rng;
use crate::support::world::World;

const NAME: &str = "pr.default.alice";
const SECOND: Duration = Duration::from_secs(1);

async fn with_idle(idle: Value) -> World {
    let mut world = World::new(&["h1"], 71).await;
    world.start();
    let mut spec = sleeper();
    spec["idle"] = idle;
    world.apply("alice", spec).await;
    until_phase(&world, Phase::Running, MINUTE).await;
    world
}

fn is_paused(world: &World) -> bool {
    world.fleet.host("h1").is_paused(NAME)
}

/// Bytes over a connection that is kept, as the tunnel takes note of them.
async fn message(world: &World, tunnel: &OpenGuard) {
    if tunnel.touch_if_due() && world.phase("alice").await != Some(Phase::Running) {
        world.wake("alice");
    }
}

async fn ready_message(world: &World) -> String {
    let told: Instance = world.get("alice").await.unwrap();
    condition(&told.status.conditions, "Ready").expect("told").message.clone()
}

/// How often anything is looked at in this time.
async fn looks(world: &World, time: Duration) -> u64 {
    let before = world.reconciles();
    tokio::time::sleep(time).await;
    world.reconciles() - before
}

/// Time until one that is asleep after so many seconds is at rest, if it is not known for ten minutes whether it is busy, and
/// no stretch of three hours' schedule keeps it awake.
fn quiet_in(world: &World, after: u64) -> Duration {
    let (now, period) = (world.clock.now().as_second() as u64, 3 * 3600);
    let least = now + after + 900;
    let into = (least + period - 85 * 60) % period;
    Duration::from_secs(least + period - into - now)
}

#[test]
fn who_is_busy_is_not_frozen_and_is_measured_in_time() {
    in_virtual_time(|| async {
        let world = with_idle(json!({"after": "3h", "freezeAfter": "5m", "busyCpu": "10%"})).await;
        let engine = world.fleet.host("h1").clone();
        world.request("alice");
        stays(&world, Phase::Running, 5 * MINUTE - 2 * SECOND).await;
        until_phase(&world, Phase::Frozen, 5 * SECOND).await;
        assert_eq!(engine.stats_asked(), 2, "the first one before it was due, so that nothing had to be waited for");
        world.assert_quiet(10 * MINUTE).await;
        assert_eq!(engine.stats_asked(), 2, "what stands still is not measured");

        world.request("alice");
        until_phase(&world, Phase::Running, MINUTE).await;
        engine.set_use(NAME, 370, 1 << 20);
        stays(&world, Phase::Running, 4 * 60 * MINUTE).await;
        let told = world.why("alice").await;
        assert!(told.because.starts_with("it is busy (busyCpu): 37.0% of one core"), "{}", told.because);
        // Busy for longer than it would have stayed frozen.
        engine.set_use(NAME, 10, 1 << 20);
        until_phase(&world, Phase::Asleep, 3 * MINUTE).await;
    });
}

#[test]
fn what_was_found_out_before_a_use_says_nothing_after_it() {
    in_virtual_time(|| async {
        let check = json!({"http": {"port": "web", "path": "/busy"}});
        let world = with_idle(json!({"after": "3h", "freezeAfter": "5s", "busyCheck": check})).await;
        let engine = world.fleet.host("h1").clone();
        until_phase(&world, Phase::Frozen, MINUTE).await;
        tokio::time::sleep(SECOND).await;
        world.request("alice");
        until_phase(&world, Phase::Running, 5 * SECOND).await;
        engine.set_busy(NAME, true);
        stays(&world, Phase::Running, 10 * MINUTE).await;
        engine.set_busy(NAME, false);
        until_phase(&world, Phase::Frozen, 2 * MINUTE).await;
    });
}

#[test]
fn time_that_it_stood_still_is_not_counted_as_time_without_work() {
    in_virtual_time(|| async {
        let world = with_idle(json!({"after": "3h", "freezeAfter": "1m", "busyCpu": "10%"})).await;
        let engine = world.fleet.host("h1").clone();
        until_phase(&world, Phase::Frozen, 3 * MINUTE).await;
        tokio::time::sleep(SECOND).await;
        engine.set_use(NAME, 0, 1 << 20);
        tokio::time::sleep(40 * SECOND).await;
        world.request("alice");
        until_phase(&world, Phase::Running, 5 * SECOND).await;
        engine.set_use(NAME, 120, 1 << 20);
        stays(&world, Phase::Running, 20 * MINUTE).await;
        engine.set_use(NAME, 10, 1 << 20);
        until_phase(&world, Phase::Frozen, 3 * MINUTE).await;
    });
}

#[test]
fn one_that_cannot_be_asked_is_borne_with_anew_after_each_pause() {
    in_virtual_time(|| async {
        let world = with_idle(json!({"after": "3h", "freezeAfter": "1m", "busyCpu": "10%"})).await;
        world.fleet.host("h1").refuse_stats(true);
        for _ in 0..2 {
            stays(&world, Phase::Running, 10 * MINUTE).await;
            let told = world.why("alice").await;
            assert_eq!(told.because, "nobody has used it for 1m; it is being found out whether it is busy");
            until_phase(&world, Phase::Frozen, 3 * MINUTE).await;
            tokio::time::sleep(SECOND).await;
            world.request("alice");
            until_phase(&world, Phase::Running, 5 * SECOND).await;
        }
    });
}

#[test]
fn on_a_host_that_does_not_freeze_it_is_told_that_it_runs_on() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 72).await;
        world.fleet.host("h1").set_freezer(false);
        world.start();
        let mut spec = sleeper();
        spec["idle"] = json!({"after": "30m", "freezeAfter": "2m"});
        world.apply("alice", spec).await;
        until_phase(&world, Phase::Running, MINUTE).await;
        tokio::time::sleep(3 * MINUTE).await;
        let told = world.why("alice").await;
        assert_eq!((told.phase, told.wanted), (Phase::Running, Wanted::Awake), "{}", told.because);
        assert_eq!(told.next.message, "it falls asleep unless it is used");
    });
}

#[test]
fn a_schedule_lets_a_frozen_one_go_on_at_its_time_as_the_same_run() {
    for away in [false, true] {
        in_virtual_time(|| async {
            let schedule = json!([{"keep": "Awake", "cron": "0 1 * * *", "for": "1h"}]);
            let idle = json!({"after": "150m", "freezeAfter": "5m", "busyCpu": "10%", "schedule": schedule});
            let mut world = with_idle(idle).await;
            until_phase(&world, Phase::Frozen, 6 * MINUTE).await;
            let run = world.get("alice").await.unwrap().run();
            let told = world.why("alice").await.next;
            assert_eq!(told.at.map(|t| t.to_string()), Some("2026-01-01T01:00:00Z".into()), "{told:?}");
            assert!(told.message.contains("spec.idle.schedule[0] lets it go on"), "{told:?}");
            if away {
                world.crash().await;
                sleep_until(&world, "2026-01-01T01:30:00Z").await;
                world.start();
            } else {
                sleep_until(&world, "2026-01-01T00:59:59Z").await;
                assert_eq!(world.phase("alice").await, Some(Phase::Frozen));
            }
            until_phase(&world, Phase::Running, 10 * SECOND).await;
            assert!(!is_paused(&world));
            tokio::time::sleep(10 * SECOND).await;
            stays(&world, Phase::Running, 20 * MINUTE).await;
            sleep_until(&world, "2026-01-01T01:59:59Z").await;
            assert_eq!(world.phase("alice").await, Some(Phase::Running));
            // Nobody used it meanwhile: it rests at once, as soon as it is known that it is not busy.
            until_phase(&world, Phase::Frozen, 20 * SECOND).await;
            assert_eq!(world.get("alice").await.unwrap().run(), run);
            until_phase(&world, Phase::Asleep, 60 * MINUTE).await;
            world.crash().await;
        });
    }
}

#[test]
fn a_schedule_for_rest_stops_a_frozen_one_and_freezes_nobody_later_than_it_stops_them() {
    in_virtual_time(|| async {
        let schedule = json!([{"keep": "Asleep", "cron": "30 0 * * *", "for": "5h"}]);
        let world = with_idle(json!({"after": "6h", "freezeAfter": "5m", "schedule": schedule})).await;
        until_phase(&world, Phase::Frozen, 6 * MINUTE).await;
        sleep_until(&world, "2026-01-01T00:29:59Z").await;
        assert_eq!(world.phase("alice").await, Some(Phase::Frozen));
        until_phase(&world, Phase::Asleep, 20 * SECOND).await;
        assert_eq!(ready_message(&world).await, "put to sleep by spec.idle.schedule; wakes on the next request");
        world.assert_quiet(20 * MINUTE).await;

        world.request("alice");
        until_phase(&world, Phase::Running, MINUTE).await;
        tokio::time::sleep(30 * SECOND).await;
        world.request("alice");
        let used = world.clock.now();
        let told = world.why("alice").await.next;
        assert_eq!(told.message, "it falls asleep unless it is used");
        let mut frozen = false;
        while world.phase("alice").await != Some(Phase::Asleep) {
            frozen |= world.phase("alice").await == Some(Phase::Frozen);
            assert!(world.clock.now().duration_since(used).as_secs() < 180, "it sleeps a minute after its last use");
            tokio::time::sleep(SECOND).await;
        }
        assert!(!frozen);
        let told = world.get("alice").await.unwrap().status.last_active.expect("told").timestamp();
        assert!(told.duration_since(used).abs().as_secs() <= 1, "used last at {used}, and it tells {told}");
        sleep_until(&world, "2026-01-01T05:29:00Z").await;
        world.assert_quiet(30 * MINUTE).await;
        assert_eq!(world.phase("alice").await, Some(Phase::Asleep), "what was used before is no reason to wake");
    });
}

#[test]
fn a_message_over_a_kept_connection_ends_a_pause_whenever_it_comes() {
    for early in 0..50 {
        in_virtual_time(|| async {
            let world = with_idle(json!({"after": "1h", "freezeAfter": "1m"})).await;
            let mut tunnel = world.connect("alice");
            tunnel.count_by_touch();
            until_phase(&world, Phase::Frozen, 3 * MINUTE).await;
            let run = world.get("alice").await.unwrap().run();
            tokio::time::sleep(10 * SECOND).await;
            message(&world, &tunnel).await;
            until_phase(&world, Phase::Running, 5 * SECOND).await;
            // Calls that take their time, and messages before, between and after them; nobody repeats them.
            let pace = Pace { read: Duration::from_millis(300), write: 2 * SECOND, ..Pace::default() };
            world.fleet.host("h1").set_pace(pace);
            tokio::time::sleep(MINUTE - SECOND + Duration::from_millis(100) * early).await;
            let held = world.phase("alice").await != Some(Phase::Running);
            message(&world, &tunnel).await;
            let said = world.clock.monotonic();
            // What is said before it is frozen calls that off.
            let up = async |w: &World| w.phase("alice").await == Some(Phase::Running) && !is_paused(w);
            while world.clock.monotonic() - said < 58 * SECOND {
                assert!(world.clock.monotonic() - said < 6 * SECOND || up(&world).await, "{early}");
                assert!(held || !is_paused(&world), "{early}");
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            until_phase(&world, Phase::Frozen, MINUTE).await;
            assert_eq!(world.get("alice").await.unwrap().run(), run);
            until_phase(&world, Phase::Asleep, 61 * MINUTE).await;
        });
    }
}

#[test]
fn whatever_is_asked_for_together_ends_at_rest_and_is_looked_at_seldom() {
    let (frozen, without) = (AtomicUsize::new(0), AtomicU64::new(0));
    in_virtual_time(|| async {
        let world = with_idle(json!({"after": "10m"})).await;
        until_phase(&world, Phase::Asleep, 11 * MINUTE).await;
        without.store(looks(&world, 3 * 60 * MINUTE).await, Ordering::Relaxed);
    });
    let without = without.into_inner();
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let after = 20 + rng.below(3000);
        let mut idle = json!({"after": format!("{after}s")});
        let mut put = |key: &str, chance: u64, value: Value| {
            if rng.below(chance) > 0 {
                idle[key] = value;
            }
        };
        put("busyCpu", 3, json!("10%"));
        put("busyCheck", 3, json!({"http": {"port": "web", "path": "/busy"}, "timeout": "2s"}));
        put("freezeAfter", 4, json!(["2s", "9s", "15s", "19s"][seed as usize % 4]));
        put(
            "schedule",
            3,
            json!([
                {"keep": "Awake", "cron": "0 */3 * * *", "for": "20m"},
                {"keep": "Asleep", "cron": "10 */3 * * *", "for": "1h"},
            ]),
        );
        in_virtual_time(|| async {
            let mut world = with_idle(idle.clone()).await;
            let engine = world.fleet.host("h1").clone();
            engine.set_freezer(rng.below(5) > 0);
            // A working day: visits, messages, work, silence of the daemon, sleep by hand, restarts.
            for _ in 0..40 {
                tokio::time::sleep(Duration::from_millis(rng.below(400_000))).await;
                frozen.fetch_add(usize::from(world.phase("alice").await == Some(Phase::Frozen)), Ordering::Relaxed);
                match rng.below(8) {
                    0 | 1 => world.request("alice"),
                    2 => drop(world.connect("alice")),
                    3 => engine.set_use(NAME, 500 * rng.below(2), 1 << 20),
                    4 => engine.set_busy(NAME, rng.below(2) == 0),
                    5 => engine.refuse_stats(rng.below(2) == 0),
                    6 => {
                        world.crash().await;
                        world.start();
                    }
                    _ => {
                        let Some(run) = world.get("alice").await.unwrap().run() else { continue };
                        let sleep = |i: &mut Instance| {
                            i.metadata.annotations.insert(SLEEP_ANNOTATION.into(), run.clone());
                        };
                        world.change("alice", sleep).await;
                    }
                }
            }
            // Nobody comes any more, and it has nothing to do: at rest after its time, the patience and a stretch.
            engine.set_use(NAME, 0, 1 << 20);
            engine.set_busy(NAME, false);
            let what = format!("seed {seed}: {idle}");
            let left = quiet_in(&world, after);
            tokio::time::sleep(left).await;
            for _ in 0..2 {
                assert_eq!(world.phase("alice").await, Some(Phase::Asleep), "{what}");
                let more = looks(&world, 3 * 60 * MINUTE).await.saturating_sub(without);
                assert!(more <= 40, "{more} looks in three hours in which nobody came, {what}");
            }
            world.crash().await;
        });
    }
    let frozen = frozen.into_inner();
    assert!(frozen >= 50, "{frozen} of 1200 hands met one that was frozen: too few to show anything");
}
