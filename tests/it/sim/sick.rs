//! Hosts that are away, hang, or have another idea of the time.

use portreeve::docker::engine::ContainerSpec;

use super::*;
use crate::support::sim_engine::Hung;
use crate::support::sim_engine::image::SimImage;

fn ready_reason(instance: &Instance) -> Option<&str> {
    instance.status.conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.reason.as_str())
}

#[test]
fn a_sleeper_whose_host_is_away_sleeps_on_unless_someone_asks_for_it() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 12).await;
        world.start();
        for name in ["asked", "unasked"] {
            world.apply(name, sleeper()).await;
        }
        let asleep = async |w: &World, name: &str| w.phase(name).await == Some(Phase::Asleep);
        world.until("they sleep", 15 * MINUTE, async |w| asleep(w, "asked").await && asleep(w, "unasked").await).await;
        let host = world.fleet.host("h1").clone();
        host.go_away(60 * MINUTE);
        let told = async |w: &World, name: &str| {
            let instance = w.get(name).await.unwrap();
            instance.status.phase == Phase::Asleep && ready_reason(&instance) == Some("HostUnreachable")
        };
        world.until("it is told", MINUTE, async |w| told(w, "asked").await && told(w, "unasked").await).await;
        world.request("asked");
        tokio::time::sleep(MINUTE).await;
        assert!(told(&world, "asked").await, "asked for, it is neither lost nor awake");
        host.come_back();
        world.until("it wakes", MINUTE, async |w| w.phase("asked").await == Some(Phase::Running)).await;
        let rests = async |w: &World| ready_reason(&w.get("unasked").await.unwrap()) == Some("Asleep");
        world.until("the other is known to sleep", MINUTE, rests).await;
        assert_eq!(world.fleet.host("h1").runs("pr.default.unasked"), 1, "it slept on");
        world.crash().await;
    });
}

#[test]
fn a_host_whose_watcher_panicked_is_watched_again() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 13).await;
        world.fleet.host("h1").panic_once();
        world.start();
        world.apply("alice", spec("app:1")).await;
        converged(&world, MINUTE).await;
        assert_eq!(world.panics(), 1);
    });
}

/// What a daemon's clock says is compared with nothing of ours.
#[test]
fn a_daemon_whose_clock_is_off_backs_off_and_starts_as_any_other() {
    for minutes in [-10, 0, 10] {
        in_virtual_time(|| async {
            let mut world = World::new(&["h1"], 14).await;
            let host = world.fleet.host("h1").clone();
            host.set_clock_off(jiff::SignedDuration::from_mins(minutes));
            host.add_image("slow:1", SimImage::server().boots_in(Duration::from_secs(30)));
            host.add_image("never:1", SimImage::server().boots_in(600 * MINUTE));
            world.start();
            world.apply("crashes", spec("crashing:1")).await;
            for (name, image) in [("slow", "slow:1"), ("never", "never:1")] {
                let mut probed = spec(image);
                probed["probes"] = json!({"startup": {"tcp": {"port": "web"}}});
                world.apply(name, probed).await;
            }
            let failed = async |w: &World, name: &str| w.phase(name).await == Some(Phase::Failed);
            for _ in 0..50 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert!(!failed(&world, "slow").await && !failed(&world, "never").await, "{minutes}: too early");
            }
            assert_eq!(world.phase("slow").await, Some(Phase::Running), "{minutes}");
            world.until("it is told", MINUTE / 2, async |w| failed(w, "never").await).await;
            tokio::time::sleep(10 * MINUTE).await;
            // At once, and after 10, 20, 40, 80, 160 and 300 s.
            let runs = host.runs("pr.default.crashes");
            assert!((7..=8).contains(&runs), "{runs} runs with a clock that is {minutes} min ahead");
            world.crash().await;
        });
    }
}

/// Hours off, and set right or wrong while containers run; also for a control plane that begins in between.
#[test]
fn a_clock_that_is_hours_off_and_jumps_starts_stops_and_puts_to_sleep_nobody() {
    for hours in [-2, 2] {
        in_virtual_time(|| async {
            let off = jiff::SignedDuration::from_hours(hours);
            let mut world = World::new(&["h1", "h2"], 19).await;
            world.fleet.host("h1").set_clock_off(off);
            world.start();
            let hosts = ["h1", "h2"];
            for host in hosts {
                for (name, mut made) in [("runs", spec("app:1")), ("dozes", sleeper())] {
                    made["placement"] = json!({"node": host});
                    world.apply(&format!("{name}-{host}"), made).await;
                }
            }
            converged(&world, MINUTE).await;
            let runs = |world: &World| {
                let of = |host: &str, name: &str| world.fleet.host(host).runs(&format!("pr.default.{name}-{host}"));
                hosts.map(|host| (of(host, "runs"), of(host, "dozes")))
            };
            let dozes = async |w: &World, phase: Phase| {
                w.phase("dozes-h1").await == Some(phase) && w.phase("dozes-h2").await == Some(phase)
            };
            // Right, wrong by the double, right again, wrong the other way.
            let jumps = [jiff::SignedDuration::ZERO, off + off, jiff::SignedDuration::ZERO, -off];
            for (jump, times) in jumps.into_iter().zip(1..) {
                hosts.iter().for_each(|host| world.request(&format!("dozes-{host}")));
                world.until("they wake", MINUTE, async |w| dozes(w, Phase::Running).await).await;
                assert_eq!(runs(&world), [(1, times); 2], "{hours} h, {jump:#}");
                tokio::time::sleep(MINUTE).await;
                world.fleet.host("h1").set_clock_off(jump);
                if times == 2 {
                    world.crash().await;
                    world.start();
                    hosts.iter().for_each(|host| world.request(&format!("dozes-{host}")));
                }
                tokio::time::sleep(8 * MINUTE).await;
                assert!(dozes(&world, Phase::Running).await, "{hours} h, {jump:#}: asleep too early");
                world.until("they sleep", 3 * MINUTE, async |w| dozes(w, Phase::Asleep).await).await;
                assert_eq!(runs(&world), [(1, times); 2], "{hours} h, {jump:#}");
            }
            let instances = world.instances().await;
            let told = instances.iter().find(|i| i.status.crashes > 0 || i.status.restarts > 0);
            assert_eq!(told.map(|i| &i.status), None, "ends that were meant are no crashes");
            converged(&world, MINUTE).await;
            world.assert_quiet(10 * MINUTE).await;
            world.crash().await;
        });
    }
}

/// An end that bears an earlier time than the one before is an end all the same.
#[test]
fn a_clock_that_is_set_back_hides_no_crash() {
    for hours in [-2, 2] {
        in_virtual_time(|| async {
            let mut world = World::new(&["h1"], 20).await;
            let host = world.fleet.host("h1").clone();
            world.start();
            world.apply("crashes", spec("crashing:1")).await;
            let runs = async |_: &World| host.runs("pr.default.crashes") == 3;
            world.until("it has crashed twice", MINUTE, runs).await;
            host.set_clock_off(jiff::SignedDuration::from_hours(hours));
            tokio::time::sleep(10 * MINUTE).await;
            // The third ends now; then after 20, 40, 80, 160 and 300 s.
            let runs = host.runs("pr.default.crashes");
            // A run that a clock set forward makes hours long counts as a recovery: once, it begins anew with 10 s.
            assert!((7..=9).contains(&runs), "{runs} runs with a clock that jumped by {hours} h");
            let told = world.get("crashes").await.unwrap().status;
            // The last end is told before it is started again.
            let ends = i64::try_from(runs).unwrap();
            assert!((ends - 1..=ends).contains(&told.restarts), "{runs} runs: {told:#?}");
            world.crash().await;
        });
    }
}

#[test]
fn a_pull_outlasts_writes_to_its_record_and_many_waiters_tell_of_it_seldom() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 15).await;
        let large = SimImage::server().remote(MINUTE).talks();
        world.fleet.host("h1").add_image("large:1", large);
        world.start();
        for n in 0..80 {
            let mut small = spec("large:1");
            small["resources"] = json!({"memory": "64Mi", "cpu": "100m"});
            world.apply(&format!("i{n}"), small).await;
        }
        tokio::time::sleep(Duration::from_secs(15)).await;
        let before = world.store.revision();
        for n in 0..30 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            world.change("i0", |i| drop(i.metadata.labels.insert("touched".into(), n.to_string()))).await;
        }
        let writes = world.store.revision().0 - before.0;
        assert!((60..=360).contains(&writes), "{writes} writes in 30 s; ten a second at most, and 30 of ours");
        world
            .until("all run", 3 * MINUTE, async |w| {
                w.instances().await.iter().all(|i| i.status.phase == Phase::Running)
            })
            .await;
        let events: Vec<portreeve::model::Event> =
            portreeve::store::typed::list(&*world.store, None).await.unwrap().items;
        let pulling = events.iter().filter(|e| e.involved_object.name == "i0" && e.reason == "Pulling");
        assert_eq!(pulling.map(|e| e.count).collect::<Vec<_>>(), [1], "a touch of the record gave the pull up");
        world.crash().await;
    });
}

/// A stray on a host where every look at it hangs; the instance is elsewhere, on a host that is well.
#[test]
fn a_stray_on_a_host_that_hangs_delays_no_wake() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1", "h2"], 16).await;
        world.start();
        let mut on_h1 = sleeper();
        on_h1["placement"] = json!({"node": "h1"});
        on_h1["volumes"] = json!([]);
        world.apply("alice", on_h1).await;
        converged(&world, MINUTE).await;
        tokio::time::sleep(10 * MINUTE).await;
        world.until("it sleeps", MINUTE, async |w| w.phase("alice").await == Some(Phase::Asleep)).await;
        let alice = world.get("alice").await.unwrap();
        let labels = labels::owner_labels("sim", &alice.key(), &alice.metadata.uid);
        for _ in 0..1000 {
            world.fleet.host("h2").arm("inspect container", Fault::Hang);
        }
        let stray =
            ContainerSpec { name: "pr.default.alice".into(), image: "app:1".into(), labels, ..Default::default() };
        world.fleet.host("h2").create_by_hand(stray);
        assert_eq!(world.fleet.host("h2").snapshot().containers.len(), 1);
        // Listings show it, and each look at it hangs.
        tokio::time::sleep(2 * MINUTE + MINUTE / 20).await;
        world.request("alice");
        let runs = async |w: &World| w.phase("alice").await == Some(Phase::Running);
        world.until("it wakes", Duration::from_secs(2), runs).await;
        world.fleet.host("h2").disarm();
        let swept = async |w: &World| w.fleet.host("h2").snapshot().containers.is_empty();
        world.until("the stray is gone", 3 * MINUTE, swept).await;
        world.crash().await;
    });
}

async fn ready(world: &World, host: &str) -> bool {
    let hosts = portreeve::store::typed::list::<portreeve::model::DockerHost>(&*world.store, None).await.unwrap().items;
    let host = hosts.iter().find(|h| h.metadata.name == host).expect("a record");
    portreeve::model::is_true(&host.status.conditions, "Ready")
}

/// A world of one host, at another time of its checks in each round, of which something happens in each.
async fn rounds(runs: bool, mut round: impl AsyncFnMut(&World, u64)) {
    let mut world = World::new(&["h1"], 17).await;
    world.start();
    if runs {
        world.apply("alice", spec("app:1")).await;
        converged(&world, MINUTE).await;
        // It is listened to once it has been listed.
        tokio::time::sleep(2 * MINUTE).await;
    }
    for n in 0..20u64 {
        tokio::time::sleep(Duration::from_secs(30) + Duration::from_millis(n * 370)).await;
        assert!(ready(&world, "h1").await, "round {n}");
        round(&world, n).await;
        world.until("it is well", MINUTE / 2, async |w| ready(w, "h1").await).await;
    }
    if runs {
        converged(&world, MINUTE).await;
        assert_eq!(world.fleet.host("h1").runs("pr.default.alice"), 1, "what ran went on running");
    }
    world.crash().await;
}

/// Where only its runtime hangs, pings, listings and descriptions are answered all the while: what goes through the runtime
/// shows it, and has the time of any call.
#[test]
fn a_daemon_that_hangs_is_noticed_within_ten_seconds_and_a_runtime_later_whether_something_runs_there_or_not() {
    for (hung, runs, within) in
        [(Hung::All, true, 10), (Hung::All, false, 10), (Hung::Runtime, true, 14), (Hung::Runtime, false, 24)]
    {
        in_virtual_time(|| async {
            let within = Duration::from_secs(within) + Duration::from_millis(200);
            let noticed = async |world: &World, round| {
                let host = world.fleet.host("h1").clone();
                host.set_hung(Some(hung));
                let since = world.clock.monotonic();
                world.until("it is noticed", Duration::from_secs(30), async |w| !ready(w, "h1").await).await;
                let after = world.clock.monotonic() - since;
                assert!(after <= within, "round {round}, {hung:?}, runs: {runs}: {after:?}");
                host.set_hung(None);
            };
            rounds(runs, noticed).await;
        });
    }
}

/// As on a machine that is busy: readings come late or not at all for a while, and answers take their time.
#[test]
fn a_daemon_that_is_late_is_well() {
    for (hung, runs, stalls) in [
        (Hung::All, true, 4_000),
        (Hung::All, false, 4_000),
        (Hung::Runtime, true, 9_500),
        (Hung::Runtime, false, 9_500),
    ] {
        in_virtual_time(|| async {
            let stays = async |world: &World, round| {
                let host = world.fleet.host("h1").clone();
                host.set_hung(Some(hung));
                for step in 0..200 {
                    if step * 100 >= stalls {
                        host.set_hung(None);
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    assert!(ready(world, "h1").await, "round {round}, step {step}, {hung:?}, runs: {runs}");
                }
            };
            rounds(runs, stays).await;
        });
    }
}

/// What a host at rest is asked: little, and what changes there without a word is found all the same.
#[test]
fn a_host_at_rest_is_seldom_asked_and_what_no_event_tells_of_is_found() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 18).await;
        world.start();
        for name in ["a", "b", "c"] {
            world.apply(name, spec("app:1")).await;
        }
        converged(&world, MINUTE).await;
        let host = world.fleet.host("h1").clone();
        // Everybody was looked at once more since.
        tokio::time::sleep(40 * MINUTE).await;
        let before = host.reads();
        tokio::time::sleep(240 * MINUTE).await;
        let reads = host.reads() - before;
        assert!((16..=60).contains(&reads), "{reads} calls in four hours");

        let deaf = FaultRates { lost_events: 100, ..FaultRates::default() };
        host.set_fault_rates(deaf);
        host.stop_by_hand("pr.default.a");
        world.until("it is started again", 16 * MINUTE, async |_| host.runs("pr.default.a") == 2).await;
        host.update_by_hand("pr.default.b", Limits { memory: 64 << 20, cpu_milli: 1, pids: 1 }, "always");
        let updated = async |_: &World| host.ops().iter().filter(|op| op.op == "update container").count() == 1;
        world.until("its limits are set back", 4 * 60 * MINUTE, updated).await;
        world.crash().await;
    });
}
