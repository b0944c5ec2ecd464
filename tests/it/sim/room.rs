//! Room on a host that is full when somebody wakes, starts or asks for more: who falls asleep for whom, who waits, and that
//! a host is never promised out, whatever comes at once.

use portreeve::model::Condition;
use portreeve::store::typed;

use super::*;

/// Of the 8 GiB that the host has for instances: two find room beside one another, three do not.
fn third(power: &str) -> Value {
    let mut spec = spec("app:1");
    spec["power"] = json!(power);
    spec["idle"] = json!({"after": "30m"});
    spec["resources"] = json!({"memory": "3Gi", "cpu": "1"});
    spec
}

async fn ready(world: &World, name: &str) -> Option<Condition> {
    let status = world.get(name).await?.status;
    condition(&status.conditions, "Ready").cloned()
}

async fn is_because(world: &World, name: &str, reason: &str) -> bool {
    ready(world, name).await.is_some_and(|c| c.reason == reason)
}

/// Puts it to sleep as `portreeve sleep` does.
async fn send_to_sleep(world: &World, name: &str) {
    world.change(name, |i| drop(i.metadata.annotations.insert(SLEEP_ANNOTATION.into(), i.run().unwrap()))).await;
    until_phase(world, name, Phase::Asleep, MINUTE).await;
}

/// A host with a sleeper and two that are awake, which take all its room.
async fn full_house(power: &str) -> (World, Witness) {
    let mut world = World::new(&["h1"], 31).await;
    let witness = Witness::of(&world.store).await;
    world.start();
    world.apply("sleeper", third("Auto")).await;
    until_phase(&world, "sleeper", Phase::Running, MINUTE).await;
    tokio::time::sleep(MINUTE).await;
    send_to_sleep(&world, "sleeper").await;
    for name in ["early", "late"] {
        world.apply(name, third(power)).await;
        until_phase(&world, name, Phase::Running, MINUTE).await;
        tokio::time::sleep(MINUTE).await;
    }
    (world, witness)
}

#[test]
fn who_wakes_on_a_full_host_is_given_the_place_of_the_one_idle_for_longest() {
    in_virtual_time(|| async {
        let (mut world, witness) = full_house("Auto").await;
        tokio::time::sleep(MINUTE).await;
        world.request("late");
        tokio::time::sleep(2 * MINUTE).await;
        world.request("sleeper");
        until_phase(&world, "sleeper", Phase::Running, MINUTE).await;
        assert_eq!(world.phase("late").await, Some(Phase::Running), "it was used later");
        let slept = ready(&world, "early").await.expect("told");
        assert_eq!((world.phase("early").await, slept.reason.as_str()), (Some(Phase::Asleep), "Asleep"));
        assert!(slept.message.contains("made room"), "{slept:?}");
        // It sleeps on, and says on why.
        world.assert_quiet(5 * MINUTE).await;
        assert_eq!(ready(&world, "early").await, Some(slept));
        assert_eq!(world.phase("early").await, Some(Phase::Asleep));

        // Its own next visitor finds it, in the place of another.
        world.request("early");
        until_phase(&world, "early", Phase::Running, MINUTE).await;
        assert_eq!(world.phase("late").await, Some(Phase::Asleep));
        let seen = witness.end(&world.store).await;
        assert_eq!(seen.memory, 6 << 30);
        world.crash().await;
    });
}

#[test]
fn who_is_busy_or_kept_awake_by_its_schedule_makes_no_room_and_another_does() {
    in_virtual_time(|| async {
        for idle in [
            json!({"after": "30m", "busyCpu": "10%"}),
            json!({"after": "30m", "schedule": [{"keep": "Awake", "cron": "@daily", "for": "25h"}]}),
        ] {
            let (mut world, witness) = full_house("Auto").await;
            world.change("early", |i| i.spec.idle = serde_json::from_value(idle.clone()).unwrap()).await;
            world.fleet.host("h1").set_use("pr.default.early", 370, 1 << 20);
            tokio::time::sleep(2 * MINUTE).await;
            world.request("sleeper");
            until_phase(&world, "sleeper", Phase::Running, 2 * MINUTE).await;
            assert_eq!(world.phase("early").await, Some(Phase::Running), "idle for longer, but {idle}");
            assert_eq!(world.phase("late").await, Some(Phase::Asleep));
            witness.end(&world.store).await;
            world.crash().await;
        }
    });
}

#[test]
fn nobody_who_is_in_use_or_was_just_now_or_is_always_on_makes_room() {
    in_virtual_time(|| async {
        let (mut world, witness) = full_house("Auto").await;
        let (open, _late) = (world.connect("early"), world.connect("late"));
        tokio::time::sleep(5 * MINUTE).await;
        world.request("sleeper");
        world.until("it is told", MINUTE, async |w| is_because(w, "sleeper", "NoRoom").await).await;
        let told = ready(&world, "sleeper").await.expect("told");
        assert!(told.message.contains("h1") && told.message.contains("3Gi"), "{told:?}");
        assert_eq!(world.phase("sleeper").await, Some(Phase::Pending));
        let events: Vec<portreeve::model::Event> = typed::list(&*world.store, None).await.unwrap().items;
        assert!(events.iter().any(|e| e.reason == "NoRoom"), "{events:#?}");
        world.assert_quiet(5 * MINUTE).await;

        // One of them is left. For a minute that is still its user's place, and then another's who waits for it.
        drop(open);
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert_eq!(world.phase("early").await, Some(Phase::Running));
        until_phase(&world, "sleeper", Phase::Running, MINUTE).await;
        assert_eq!(world.phase("early").await, Some(Phase::Asleep));
        witness.end(&world.store).await;
        world.crash().await;

        let (mut world, witness) = full_house("Running").await;
        tokio::time::sleep(5 * MINUTE).await;
        world.request("sleeper");
        world.until("it is told", MINUTE, async |w| is_because(w, "sleeper", "NoRoom").await).await;
        // What is switched off gives its place back, and who waits is told at once.
        world.change("early", |i| i.spec.power = Power::Stopped).await;
        until_phase(&world, "early", Phase::Stopped, MINUTE).await;
        until_phase(&world, "sleeper", Phase::Running, Duration::from_secs(10)).await;
        witness.end(&world.store).await;
        world.crash().await;
    });
}

#[test]
fn who_is_visited_while_it_makes_room_comes_back_and_another_makes_it() {
    in_virtual_time(|| async {
        let (mut world, witness) = full_house("Auto").await;
        for name in ["early", "late"] {
            // Each takes its whole grace to stop.
            world.change(name, |i| i.spec.image = "stubborn:1".into()).await;
            tokio::time::sleep(MINUTE).await;
        }
        tokio::time::sleep(5 * MINUTE).await;
        world.request("sleeper");
        until_phase(&world, "early", Phase::Stopping, MINUTE).await;
        assert!(is_because(&world, "sleeper", "MakingRoom").await);
        world.request("early");
        until_phase(&world, "late", Phase::Stopping, MINUTE).await;
        until_phase(&world, "sleeper", Phase::Running, MINUTE).await;
        assert_eq!(
            (world.phase("early").await, world.phase("late").await),
            (Some(Phase::Running), Some(Phase::Asleep))
        );
        witness.end(&world.store).await;
        world.crash().await;
    });
}

#[test]
fn who_has_no_data_wakes_where_there_is_room() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1", "h2"], 32).await;
        let witness = Witness::of(&world.store).await;
        world.start();
        let placed = |name: &str, node: &str, volumes: Value| {
            let mut spec = third(if name == "free" { "Auto" } else { "Running" });
            spec["placement"] = if name == "free" { json!({}) } else { json!({"node": node}) };
            spec["volumes"] = volumes;
            spec
        };
        world.apply("free", placed("free", "", json!([]))).await;
        until_phase(&world, "free", Phase::Running, MINUTE).await;
        tokio::time::sleep(MINUTE).await;
        send_to_sleep(&world, "free").await;
        assert_eq!(world.get("free").await.unwrap().status.node, "h1");
        for name in ["one", "two"] {
            world.apply(name, placed(name, "h1", json!([]))).await;
            until_phase(&world, name, Phase::Running, MINUTE).await;
        }
        world.request("free");
        until_phase(&world, "free", Phase::Running, MINUTE).await;
        assert_eq!(world.get("free").await.unwrap().status.node, "h2");
        converged(&world, MINUTE).await;
        world.assert_quiet(5 * MINUTE).await;
        witness.end(&world.store).await;
        world.crash().await;
    });
}

/// The memory limit of the container that runs, in MiB.
async fn limit(world: &World, name: &str) -> i64 {
    let id = world.get(name).await.unwrap().status.container_id;
    world.fleet.host("h1").seen(&id).expect("it has a container").limits.memory >> 20
}

#[test]
fn who_asks_for_more_than_there_is_goes_on_with_what_it_has() {
    in_virtual_time(|| async {
        let (mut world, witness) = full_house("Running").await;
        let more = |i: &mut Instance| i.spec.resources.memory = Some("6Gi".parse().unwrap());
        world.change("early", more).await;
        let told = async |w: &World| {
            let status = w.get("early").await.unwrap().status;
            condition(&status.conditions, "UpToDate").is_some_and(|c| c.reason == "NoRoom")
        };
        world.until("it is told", MINUTE, told).await;
        let before = world.get("early").await.unwrap().status;
        assert_eq!((before.phase, limit(&world, "early").await), (Phase::Running, 3 << 10));
        assert_eq!(before.allocated_resources.as_ref().unwrap().memory, "3Gi".parse().unwrap());
        world.assert_quiet(5 * MINUTE).await;
        // An app that ends meanwhile is started with what it holds.
        world.fleet.host("h1").kill_by_hand(&labels::object_name(&Key::instance("default", "early")));
        let again = async |w: &World| w.get("early").await.unwrap().status.restarts == 1;
        world.until("it ended", MINUTE, again).await;
        until_phase(&world, "early", Phase::Running, MINUTE).await;

        // Less is given back, and there it is.
        world.change("late", |i| i.spec.resources.memory = Some("1Gi".parse().unwrap())).await;
        world.until("it is given", 2 * MINUTE, async |w| limit(w, "early").await == 6 << 10).await;
        converged(&world, 2 * MINUTE).await;
        let after = world.get("early").await.unwrap().status;
        assert_eq!(after.container_id, before.container_id);
        assert_eq!(
            (limit(&world, "late").await, after.allocated_resources.unwrap().memory.value()),
            (1 << 10, 6 << 30)
        );
        world.assert_quiet(5 * MINUTE).await;
        witness.end(&world.store).await;
        world.crash().await;
    });
}

#[test]
fn sixty_at_the_doors_of_twelve_places_are_all_served_in_turn() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 33).await;
        let witness = Witness::of(&world.store).await;
        world.start();
        let names: Vec<String> = (0..60).map(|n| format!("i{n}")).collect();
        let mut small = third("Auto");
        small["resources"] = json!({"memory": "640Mi", "cpu": "500m"});
        small["volumes"] = json!([{"name": "home", "mountPath": "/home", "reclaim": "Delete"}]);
        small["idle"] = json!({"after": "2m"});
        for twelve in names.chunks(12) {
            for name in twelve {
                world.apply(name, small.clone()).await;
            }
            for name in twelve {
                until_phase(&world, name, Phase::Running, 2 * MINUTE).await;
            }
            for name in twelve {
                until_phase(&world, name, Phase::Asleep, 10 * MINUTE).await;
            }
        }
        for name in &names {
            world.request(name);
        }
        let mut served = BTreeSet::new();
        let end = world.clock.monotonic() + 30 * MINUTE;
        while served.len() < names.len() {
            let running = world.instances().await.into_iter().filter(|i| i.status.phase == Phase::Running);
            served.extend(running.map(|i| i.metadata.name));
            assert!(world.clock.monotonic() < end, "{} of 60 were served", served.len());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let seen = witness.end(&world.store).await;
        assert_eq!((seen.memory, seen.instances), ((12 * 640) << 20, 60), "all places were taken, and not one more");
        world.crash().await;
    });
}

#[test]
fn a_crash_at_any_write_of_a_wake_on_a_full_host_ends_the_same() {
    let mut writes = 0;
    for crash_after in 0.. {
        in_virtual_time(|| async {
            let (mut world, witness) = full_house("Auto").await;
            tokio::time::sleep(5 * MINUTE).await;
            let before = world.fleet.writes();
            let point = CrashPoint::after_writes(crash_after);
            world.fleet.host("h1").set_crash_point(Some(point.clone()));
            world.request("sleeper");
            let died = tokio::time::timeout(MINUTE, point.reached()).await.is_ok();
            world.crash().await;
            world.fleet.host("h1").set_crash_point(None);
            world.start();
            if world.phase("sleeper").await == Some(Phase::Asleep) {
                // The wish of a visitor is not stored; they come again.
                world.request("sleeper");
            }
            // A control plane that has just begun knows of nobody how long they were not used.
            until_phase(&world, "sleeper", Phase::Running, 12 * MINUTE).await;
            let asleep = [world.phase("early").await, world.phase("late").await];
            assert!(asleep.contains(&Some(Phase::Asleep)), "{asleep:?}, after {crash_after} writes");
            converged(&world, 5 * MINUTE).await;
            witness.end(&world.store).await;
            writes = if died { u64::MAX } else { (world.fleet.writes() - before) as u64 };
            world.crash().await;
        });
        if writes != u64::MAX {
            return;
        }
    }
}

/// Fifty users at once, twenty instances each: all of them are placed, but for those that there is no room for, and those
/// take what is given back.
#[test]
fn a_thousand_by_fifty_creators_are_never_more_than_there_is_room_for() {
    in_virtual_time(|| async {
        let hosts = ["h1", "h2", "h3", "h4", "h5", "h6", "h7", "h8", "h9", "h10"];
        let mut world = World::new(&hosts, 34).await;
        let witness = Witness::of(&world.store).await;
        world.start();
        let world = &world;
        let creators = (0..50).map(|creator| async move {
            for n in 0..20 {
                let mut rng = Rng::new(creator * 100 + n);
                let mut spec = third("Running");
                spec["volumes"] = json!([]);
                // In all a tenth more than the hosts have.
                let memory = 32 + 16 * rng.below(8) + 2;
                spec["resources"] = json!({"memory": format!("{memory}Mi"), "cpu": "100m"});
                if rng.percent(30) {
                    spec["ports"][0]["hostPort"] = json!(30_000 + rng.below(400));
                }
                world.apply(&format!("c{creator}-{n}"), spec).await;
                tokio::time::sleep(Duration::from_millis(rng.below(300))).await;
            }
        });
        futures::future::join_all(creators).await;
        let settled = async |w: &World| {
            let instances = w.instances().await;
            let waits = |i: &Instance| {
                condition(&i.status.conditions, "Scheduled").is_some_and(|c| c.reason == "Unschedulable")
            };
            instances.len() == 1000 && instances.iter().all(|i| i.status.phase == Phase::Running || waits(i))
        };
        world.until("all run that find room", 30 * MINUTE, settled).await;
        let waiting: Vec<String> =
            world.instances().await.into_iter().filter(|i| i.status.node.is_empty()).map(|i| i.metadata.name).collect();
        assert!((10..500).contains(&waiting.len()), "{} wait: too few or too many to show anything", waiting.len());
        for i in world.instances().await.iter().filter(|i| !i.status.node.is_empty()).take(300) {
            world.delete(&i.metadata.name).await;
        }
        let placed = async |w: &World| {
            w.instances().await.iter().filter(|i| i.status.node.is_empty()).count() * 2 < waiting.len()
        };
        world.until("who waited takes what was given back", 30 * MINUTE, placed).await;
        let seen = witness.end(&world.store).await;
        eprintln!("{seen:?}; {} waited", waiting.len());
        assert!(seen.memory > 7 << 30, "no host was full");
    });
}
