//! Daemons that do not freeze, or do not answer.

use portreeve::controllers::instance::FREEZABLE;

use super::*;

#[test]
fn a_daemon_that_cannot_freeze_is_told_of_and_asked_now_and_then() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 47).await;
        world.fleet.host("h1").set_freezer(false);
        world.start();
        let mut spec = freezer();
        spec["idle"] = json!({"after": "2h", "freezeAfter": "1m"});
        for name in ["alice", "bob", "carol"] {
            world.apply(name, spec.clone()).await;
        }
        let refused = async |w: &World| {
            let all = w.instances().await;
            all.iter().all(|i| condition(&i.status.conditions, FREEZABLE).is_some_and(|c| c.reason == "PauseRefused"))
        };
        world.until("each tells", 40 * MINUTE, refused).await;
        let tries = || world.fleet.host("h1").ops().iter().filter(|op| op.op == "pause container").count();
        let before = tries();
        assert!(before <= 6, "{before} tries");
        tokio::time::sleep(60 * MINUTE).await;
        let more = tries() - before;
        assert!((1..=12).contains(&more), "asked every ten minutes, by one or two at once: {more}");
        for i in world.instances().await {
            assert!(is_ready(&i), "it runs on");
            let told = condition(&i.status.conditions, FREEZABLE).expect("told");
            assert!(told.message.contains("freezer not supported"), "{told:?}");
        }
        assert!(probes::events(&world, "PauseRefused").await >= 1);
        // A kernel that can: found out with the next try, and then nothing is told any more.
        world.fleet.host("h1").set_freezer(true);
        for name in ["alice", "bob", "carol"] {
            until_phase(&world, name, Phase::Frozen, 25 * MINUTE).await;
        }
        let told =
            async |w: &World| w.instances().await.iter().any(|i| condition(&i.status.conditions, FREEZABLE).is_some());
        world.until("nothing is told", MINUTE, async |w: &World| !told(w).await).await;
        world.crash().await;
    });
}

#[test]
fn a_refusal_for_one_lets_nobody_go_on_who_is_frozen() {
    in_virtual_time(|| async {
        let mut spec = freezer();
        spec["idle"] = json!({"after": "2h", "freezeAfter": "1m"});
        let mut world = frozen(48, spec.clone()).await;
        world.fleet.host("h1").set_freezer(false);
        world.apply("bob", spec).await;
        let refused = async |w: &World| probes::events(w, "PauseRefused").await > 0;
        world.until("bob is refused", 10 * MINUTE, refused).await;
        let label = |i: &mut Instance| drop(i.metadata.labels.insert("looked".into(), "at".into()));
        world.change("alice", label).await;
        tokio::time::sleep(5 * MINUTE).await;
        assert_eq!((world.phase("alice").await, is_paused(&world)), (Some(Phase::Frozen), true));
        assert!(is_ready(&world.get("bob").await.unwrap()), "it runs on");
        world.crash().await;
    });
}

#[test]
fn a_visitor_does_not_wait_for_a_pause_that_the_daemon_does_not_answer() {
    in_virtual_time(|| async {
        let mut world = frozen(49, freezer()).await;
        drop(visit(&world, "alice").await);
        world.fleet.host("h1").arm("pause container", Fault::Hang);
        until_phase(&world, "alice", Phase::Frozen, 2 * MINUTE).await;
        let (held, guard) = visit(&world, "alice").await;
        assert!(held < 2 * SECOND, "held for {held:?}");
        drop(guard);
        until_phase(&world, "alice", Phase::Frozen, 2 * MINUTE).await;
        world.until("it is paused after all", MINUTE, async |w: &World| is_paused(w)).await;
        world.crash().await;
    });
}
