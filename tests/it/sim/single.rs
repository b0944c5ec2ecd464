//! One instance at a time: asleep and awake, through restarts of the control plane, crashes and losses.

use super::*;

#[test]
fn an_idle_instance_sleeps_and_a_request_wakes_it_in_the_same_container() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 5).await;
        world.start();
        world.apply("alice", sleeper()).await;
        converged(&world, MINUTE).await;
        assert_eq!(world.phase("alice").await, Some(Phase::Running));
        let running = world.get("alice").await.unwrap();

        let open = world.connect("alice");
        tokio::time::sleep(60 * MINUTE).await;
        assert_eq!(world.phase("alice").await, Some(Phase::Running), "an open connection keeps it awake");
        drop(open);
        let closed = world.clock.monotonic();
        world.until("it sleeps", 15 * MINUTE, async |w: &World| w.phase("alice").await == Some(Phase::Asleep)).await;
        assert!(world.clock.monotonic() - closed >= 10 * MINUTE, "it slept too early");
        world.assert_quiet(60 * MINUTE).await;

        world.crash().await;
        world.start();
        world.cache().ready().await;
        tokio::time::sleep(30 * MINUTE).await;
        assert_eq!(world.phase("alice").await, Some(Phase::Asleep), "a restart of the control plane wakes nobody");

        world.request("alice");
        world.until("it wakes", MINUTE, async |w: &World| w.phase("alice").await == Some(Phase::Running)).await;
        let woken = world.get("alice").await.unwrap();
        assert_eq!(woken.status.container_id, running.status.container_id);
        assert_eq!(woken.status.ports, running.status.ports);
        assert_eq!(woken.status.restarts, 0, "waking is no crash");
        world.crash().await;
    });
}

#[test]
fn one_that_is_sent_to_sleep_sleeps_at_once_and_its_next_run_is_not_meant() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 9).await;
        world.start();
        world.apply("alice", sleeper()).await;
        converged(&world, MINUTE).await;
        let send = async |world: &World| {
            let run = world.get("alice").await.unwrap().run().expect("a run");
            world.change("alice", |i| drop(i.metadata.annotations.insert(SLEEP_ANNOTATION.into(), run.clone()))).await;
        };
        let asleep = async |w: &World| w.phase("alice").await == Some(Phase::Asleep);
        send(&world).await;
        world.until("it sleeps", MINUTE, asleep).await;
        let told = world.get("alice").await.unwrap();
        let ready = portreeve::model::condition(&told.status.conditions, "Ready").unwrap();
        assert_eq!(ready.message, "put to sleep; wakes on the next request");
        world.assert_quiet(30 * MINUTE).await;

        world.request("alice");
        world.until("it wakes", MINUTE, async |w: &World| w.phase("alice").await == Some(Phase::Running)).await;
        tokio::time::sleep(9 * MINUTE).await;
        assert_eq!(world.phase("alice").await, Some(Phase::Running), "the mark is of the run before");

        // In use: it falls asleep when what is open is closed. Whoever is told so may die at once.
        let open = world.connect("alice");
        send(&world).await;
        tokio::time::sleep(20 * MINUTE).await;
        assert_eq!(world.phase("alice").await, Some(Phase::Running), "an open connection keeps it awake");
        drop(open);
        world.until("it sleeps", MINUTE, asleep).await;
        world.request("alice");
        world.until("it wakes", MINUTE, async |w: &World| w.phase("alice").await == Some(Phase::Running)).await;
        world.crash().await;
        send(&world).await;
        world.start();
        world.until("it sleeps", MINUTE, asleep).await;
        world.crash().await;
    });
}

#[test]
fn a_restarted_control_plane_gives_everyone_a_time_of_grace() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 6).await;
        world.start();
        world.apply("alice", sleeper()).await;
        converged(&world, MINUTE).await;
        tokio::time::sleep(9 * MINUTE).await;
        world.crash().await;
        world.start();
        tokio::time::sleep(9 * MINUTE).await;
        assert_eq!(world.phase("alice").await, Some(Phase::Running), "what was used before the restart is not known");
        world.until("it sleeps", 5 * MINUTE, async |w: &World| w.phase("alice").await == Some(Phase::Asleep)).await;
        world.crash().await;
    });
}

#[test]
fn a_restarted_control_plane_takes_up_the_time_without_use_where_it_was() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 6).await;
        world.start();
        for name in ["alice", "bob"] {
            world.apply(name, sleeper()).await;
        }
        converged(&world, MINUTE).await;
        tokio::time::sleep(4 * MINUTE).await;
        let early = world.activity().snapshot();
        tokio::time::sleep(4 * MINUTE).await;
        let known = world.activity().snapshot();
        world.crash().await;
        // Nobody could use anything meanwhile.
        tokio::time::sleep(60 * MINUTE).await;
        world.start();
        world.activity().remember(known);
        tokio::time::sleep(MINUTE / 2).await;
        assert_eq!(world.phase("alice").await, Some(Phase::Running), "its time is not over");
        let asleep = async |w: &World| w.phase("alice").await == Some(Phase::Asleep);
        world.until("it sleeps", 2 * MINUTE, asleep).await;
        // What was written before it fell asleep wakes nobody.
        world.crash().await;
        world.start();
        world.activity().remember(early);
        tokio::time::sleep(MINUTE).await;
        assert_eq!(world.phase("alice").await, Some(Phase::Asleep));
        world.crash().await;
    });
}

#[test]
fn a_request_that_arrives_while_the_stop_is_in_flight_is_served_by_a_new_start() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 8).await;
        world.start();
        let mut slow_to_stop = sleeper();
        slow_to_stop["image"] = json!("stubborn:1");
        world.apply("alice", slow_to_stop).await;
        converged(&world, MINUTE).await;
        world
            .until("it is being stopped", 15 * MINUTE, async |w: &World| {
                w.phase("alice").await == Some(Phase::Stopping)
            })
            .await;
        world.request("alice");
        world.until("it runs", MINUTE, async |w: &World| w.phase("alice").await == Some(Phase::Running)).await;
        world.crash().await;
    });
}

#[test]
fn a_crash_loop_backs_off_and_says_so() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 9).await;
        world.start();
        world.apply("alice", spec("crashing:1")).await;
        let reason = |i: &Instance| i.status.conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.reason.clone());
        world
            .until("it says so", 5 * MINUTE, async |w: &World| {
                w.get("alice").await.is_some_and(|i| reason(&i).as_deref() == Some("CrashLoopBackOff"))
            })
            .await;
        let told = world.get("alice").await.unwrap();
        let exit = told.status.last_exit.expect("the exit is recorded");
        assert_eq!((exit.exit_code, exit.oom_killed), (7, false));
        let runs = world.fleet.host("h1").runs("pr.default.alice");
        tokio::time::sleep(60 * MINUTE).await;
        let more = world.fleet.host("h1").runs("pr.default.alice") - runs;
        assert!((8..=20).contains(&more), "five minutes between starts make about twelve an hour, not {more}");
        world.change("alice", |i| i.spec.image = "app:1".into()).await;
        converged(&world, MINUTE).await;
        world.crash().await;
    });
}

/// The moment between a daemon's return and the host's next check is where nobody would notice that it left again.
#[test]
fn a_daemon_that_leaves_again_before_its_host_is_ready_is_noticed() {
    for back_for in [300, 700, 1_500, 2_500, 3_500, 4_500, 6_000, 9_000] {
        in_virtual_time(|| async {
            let mut world = World::new(&["h1"], 11).await;
            world.start();
            world.apply("alice", spec("app:1")).await;
            converged(&world, MINUTE).await;
            let host = world.fleet.host("h1").clone();
            host.go_away(60 * MINUTE);
            let lost = async |w: &World| w.phase("alice").await == Some(Phase::Lost);
            world.until("it is lost", MINUTE, lost).await;
            host.come_back();
            world.until("it is found", MINUTE, async |w: &World| w.phase("alice").await == Some(Phase::Running)).await;
            tokio::time::sleep(Duration::from_millis(back_for)).await;
            host.go_away(60 * MINUTE);
            world.until("it is lost again", MINUTE / 3, lost).await;
            host.come_back();
            converged(&world, MINUTE).await;
            world.assert_quiet(10 * MINUTE).await;
            world.crash().await;
        });
    }
}

#[test]
fn a_lost_volume_is_told_and_never_replaced_by_an_empty_one() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 10).await;
        world.start();
        world.apply("alice", spec("app:1")).await;
        converged(&world, MINUTE).await;
        world.fleet.host("h1").lose_disk();
        world
            .until("the loss is told", 10 * MINUTE, async |w: &World| {
                let i = w.get("alice").await.unwrap();
                i.status.phase == Phase::Failed && i.status.conditions.iter().any(|c| c.reason == "VolumeLost")
            })
            .await;
        tokio::time::sleep(10 * MINUTE).await;
        assert!(world.fleet.host("h1").snapshot().volumes.is_empty());
        world.crash().await;
    });
}
