//! Crowds before one daemon: who waits for a turn goes on as it was, is told no failure, and keeps no other host waiting.

use super::*;

fn small(image: &str) -> Value {
    let mut spec = sleeper();
    spec["image"] = json!(image);
    spec["resources"] = json!({"memory": "64Mi"});
    spec
}

async fn phases(world: &World) -> BTreeMap<String, Phase> {
    world.instances().await.into_iter().map(|i| (i.metadata.name.clone(), i.status.phase)).collect()
}

fn count(phases: &BTreeMap<String, Phase>, phase: Phase) -> usize {
    phases.values().filter(|p| **p == phase).count()
}

async fn all_are(world: &World, phase: Phase) -> bool {
    phases(world).await.values().all(|p| *p == phase)
}

#[test]
fn of_a_crowd_that_falls_asleep_only_those_rest_whose_stop_is_under_way() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 21).await;
        world.start();
        for n in 0..40 {
            world.apply(&format!("i{n}"), small("stubborn:1")).await;
        }
        world.until("they run", 5 * MINUTE, async |w| all_are(w, Phase::Running).await).await;
        for n in 0..40 {
            world.request(&format!("i{n}"));
        }
        // All at once, and each takes its whole grace.
        tokio::time::sleep(10 * MINUTE - Duration::from_secs(10)).await;
        let begins = async |w: &World| count(&phases(w).await, Phase::Stopping) > 0;
        world.until("the first are being stopped", 11 * MINUTE, begins).await;
        let waits = phases(&world).await.into_iter().find(|(_, p)| *p == Phase::Running).expect("most wait").0;
        world.request(&waits);
        let end = world.clock.monotonic() + 3 * MINUTE;
        while world.clock.monotonic() < end {
            let now = phases(&world).await;
            assert!(count(&now, Phase::Stopping) <= 16, "visitors are held for stops that are not made: {now:#?}");
            assert_eq!(now[&waits], Phase::Running, "used while it waited for its turn");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(count(&phases(&world).await, Phase::Asleep), 39);
        world.crash().await;
    });
}

#[test]
fn who_waits_for_room_longer_than_its_time_without_use_is_up_when_there_is_room() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 25).await;
        world.start();
        let mut big = spec("app:1");
        big["resources"] = json!({"memory": "7Gi"});
        world.apply("first", big.clone()).await;
        world.until("it runs", MINUTE, async |w| w.phase("first").await == Some(Phase::Running)).await;
        big["power"] = json!("Auto");
        big["idle"] = json!({"after": "2s"});
        world.apply("second", big).await;
        let end = world.clock.monotonic() + 5 * MINUTE;
        while world.clock.monotonic() < end {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(world.phase("second").await, Some(Phase::Pending), "it waits, and was never up");
        }
        world.delete("first").await;
        world.until("it is up", MINUTE, async |w| w.phase("second").await == Some(Phase::Running)).await;
        world.until("it sleeps", MINUTE, async |w| w.phase("second").await == Some(Phase::Asleep)).await;
        world.crash().await;
    });
}

#[test]
fn after_a_restart_a_crowd_falls_asleep_bit_by_bit() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 22).await;
        world.start();
        for n in 0..40 {
            world.apply(&format!("i{n}"), small("app:1")).await;
        }
        world.until("they run", 5 * MINUTE, async |w| all_are(w, Phase::Running).await).await;
        world.crash().await;
        world.start();
        tokio::time::sleep(10 * MINUTE - Duration::from_secs(5)).await;
        assert!(all_are(&world, Phase::Running).await, "nobody loses its time of grace");
        let (mut asleep, mut most) = (0, 0);
        for _ in 0..17 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            let now = count(&phases(&world).await, Phase::Asleep);
            most = most.max(now - asleep);
            asleep = now;
        }
        assert_eq!(asleep, 40, "a quarter of the time without use later all sleep");
        assert!(most <= 10, "{most} fell asleep within ten seconds");
        world.crash().await;
    });
}

#[test]
fn a_daemon_that_hangs_at_starts_is_no_failure_of_those_who_wait_and_delays_no_other_host() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1", "h2"], 23).await;
        world.start();
        for n in 0..30 {
            let mut spec = small("app:1");
            spec["placement"] = json!({"node": if n == 0 { "h2" } else { "h1" }});
            world.apply(&format!("i{n}"), spec).await;
        }
        world.until("they run", 5 * MINUTE, async |w| all_are(w, Phase::Running).await).await;
        tokio::time::sleep(11 * MINUTE).await;
        world.until("they sleep", MINUTE, async |w| all_are(w, Phase::Asleep).await).await;
        for _ in 0..4 {
            world.fleet.host("h1").arm("start container", Fault::Hang);
        }
        (1..30).for_each(|n| world.request(&format!("i{n}")));
        tokio::time::sleep(Duration::from_secs(5)).await;
        world.request("i0");
        let elsewhere = async |w: &World| w.phase("i0").await == Some(Phase::Running);
        world.until("the other host's starts", Duration::from_secs(2), elsewhere).await;

        let told = async |w: &World| {
            let all = w.instances().await.into_iter();
            all.map(|i| (i.metadata.name, i.metadata.resource_version)).collect::<Vec<_>>()
        };
        let before = told(&world).await;
        tokio::time::sleep(Duration::from_secs(45)).await;
        assert!(
            world.instances().await.iter().all(|i| i.status.restarts == 0),
            "an end that was asked for is no crash"
        );
        let now = phases(&world).await;
        assert_eq!(count(&now, Phase::Starting), 29, "who waits for a turn has not failed: {now:#?}");
        assert_eq!(told(&world).await, before, "and nothing is told again and again");
        world.until("all run", 3 * MINUTE, async |w| all_are(w, Phase::Running).await).await;
        world.crash().await;
    });
}

#[test]
fn those_that_rest_without_a_host_are_not_looked_at_for_a_place() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 24).await;
        world.start();
        for n in 0..50 {
            let mut stopped = small("app:1");
            stopped["power"] = json!("Stopped");
            world.apply(&format!("i{n}"), stopped).await;
        }
        world.apply("gone", spec("app:1")).await;
        world.until("it runs", MINUTE, async |w| w.phase("gone").await == Some(Phase::Running)).await;
        tokio::time::sleep(MINUTE).await;
        let before = world.reconciles();
        // Its memory and ports are free: who waits for a host is looked at.
        world.delete("gone").await;
        world.until("it is gone", MINUTE, async |w| w.get("gone").await.is_none()).await;
        tokio::time::sleep(MINUTE).await;
        let looks = world.reconciles() - before;
        assert!(looks < 25, "{looks} looks for one that went");
        world.crash().await;
    });
}

/// The time for which the proxy holds a request.
const HELD: Duration = MINUTE;

#[test]
fn two_hundred_on_one_host_that_are_woken_at_once_are_all_up_while_their_visitors_are_held() {
    in_virtual_time(|| async {
        const MANY: usize = 200;
        let mut world = World::new(&["h1"], 34).await;
        world.start();
        let mut tiny = small("app:1");
        tiny["resources"] = json!({"memory": "16Mi", "cpu": "10m"});
        tiny["idle"] = json!({"after": "10s"});
        for n in 0..MANY {
            world.apply(&format!("i{n}"), tiny.clone()).await;
        }
        world.until("they sleep", 20 * MINUTE, async |w| all_are(w, Phase::Asleep).await).await;
        let woken = world.clock.monotonic();
        let mut up_after = vec![];
        while up_after.len() < MANY {
            let so_far = world.clock.monotonic() - woken;
            assert!(so_far < HELD, "{} of {MANY} are up after {so_far:?}", up_after.len());
            // As long as its visitor is held, the wish is repeated once a second.
            let now = phases(&world).await;
            now.keys().for_each(|name| world.request(name));
            up_after.resize(count(&now, Phase::Running).max(up_after.len()), so_far);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        eprintln!(
            "of {MANY} woken at once half were up after {:?}, all after {:?}",
            up_after[MANY / 2],
            up_after[MANY - 1]
        );
        world.crash().await;
    });
}
