//! The docker room: the simulated daemon keeps the engine's contract, and its mishaps are what they claim to be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use portreeve::clock::{SharedClock, VirtualClock};
use portreeve::docker::engine::*;
use portreeve::docker::{Engines, labels};
use portreeve::model::DockerHost;

use crate::support::sim_engine::fault::{CrashPoint, Fault, FaultRates};
use crate::support::sim_engine::fleet::SimFleet;
use crate::support::sim_engine::hands::Snapshot;
use crate::support::sim_engine::image::{SimCommand, SimImage};
use crate::support::sim_engine::{Pace, SimEngine};
use crate::support::{engine_conformance, simulated};

const APP: &str = "portreeve/app:1";
const NAME: &str = "pr.default.alice";
const GRACE: Duration = Duration::from_secs(10);

fn says(stdout: &str, code: i64) -> SimCommand {
    SimCommand::Says { stdout: stdout.into(), code }
}

/// An image that answers as the test app does.
pub fn app() -> SimImage {
    SimImage::server()
        .runs(&["/app", "echo", "hello"], says("hello\n", 0))
        .runs(&["/app", "echo", "one line"], says("one line\n", 0))
        .runs(&["/app", "exit", "3"], says("", 3))
        .runs(&["/app", "env"], SimCommand::ShowsEnvironment)
        .runs(&["/app", "cat"], SimCommand::Echoes)
}

fn daemon() -> (SharedClock, SimEngine) {
    let clock = VirtualClock::new();
    let engine = SimEngine::new("local", clock.clone(), 7);
    engine.add_image(APP, app());
    (clock, engine)
}

fn spec(name: &str, port: u16) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        image: APP.into(),
        labels: [(labels::UID.to_owned(), "uid-1".to_owned())].into(),
        ports: vec![PortMap { container_port: 80, host_ip: "10.0.0.1".into(), host_port: port }],
        network: "bridge".into(),
        ..ContainerSpec::default()
    }
}

async fn started(engine: &SimEngine) -> String {
    let id = engine.create_container(&spec(NAME, 30000)).await.unwrap();
    engine.start_container(&id).await.unwrap();
    id
}

async fn look(engine: &SimEngine) -> ContainerInfo {
    engine.container(NAME).await.unwrap().unwrap()
}

/// With a subnet of the daemon's choosing.
fn network(name: &str) -> NetworkSpec {
    NetworkSpec { name: name.to_owned(), ..NetworkSpec::default() }
}

#[tokio::test(start_paused = true)]
async fn the_simulated_daemon_conforms() {
    let (_, engine) = daemon();
    engine.forbid_bind("/proc");
    engine_conformance::holds(&simulated(&engine, APP)).await;
    assert_eq!(engine.snapshot(), Snapshot::default());
}

#[tokio::test(start_paused = true)]
async fn an_app_serves_once_it_has_booted_and_only_while_it_runs() {
    let (_, engine) = daemon();
    engine.add_image(APP, app().boots_in(Duration::from_secs(2)));
    let id = started(&engine).await;
    assert!(!engine.is_serving("10.0.0.1", 30000), "still booting");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(engine.serving("10.0.0.1", 30000).as_deref(), Some(NAME));
    assert!(!engine.is_serving("10.0.0.2", 30000) && !engine.is_serving("10.0.0.1", 30001));
    engine.pause_by_hand(NAME, true);
    assert!(!engine.is_serving("10.0.0.1", 30000));
    engine.pause_by_hand(NAME, false);
    engine.stop_container(&id, GRACE).await.unwrap();
    assert!(!engine.is_serving("10.0.0.1", 30000));
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_is_ignored_ends_by_a_kill_after_the_grace() {
    let (clock, engine) = daemon();
    engine.add_image(APP, app().ignores_stop());
    let id = started(&engine).await;
    let before = clock.monotonic();
    engine.stop_container(&id, GRACE).await.unwrap();
    assert!(clock.monotonic() - before >= GRACE);
    assert_eq!(look(&engine).await.exit_code, 137);
}

#[tokio::test(start_paused = true)]
async fn apps_exit_by_themselves_as_their_image_says() {
    let (_, engine) = daemon();
    engine.add_image(APP, app().exits(Duration::from_secs(1), 2).logs("ready"));
    let id = started(&engine).await;
    engine.stop_container(&id, GRACE).await.unwrap();
    engine.start_container(&id).await.unwrap();
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(look(&engine).await.state, RunState::Running, "the first run's exit does not end the second");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let seen = look(&engine).await;
    assert_eq!((seen.state, seen.exit_code, engine.runs(NAME)), (RunState::Exited, 2, 2));

    engine.add_image(APP, app().runs_out_of_memory(Duration::from_secs(1)));
    engine.start_container(&id).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(look(&engine).await.oom_killed);
}

#[tokio::test(start_paused = true)]
async fn every_fault_does_and_tells_what_it_says() {
    for (fault, told, done_at_once, done_later) in [
        (Fault::Refused, EngineErrorKind::Unreachable, false, false),
        (Fault::Away(Duration::from_secs(1)), EngineErrorKind::Unreachable, false, false),
        (Fault::ServerError, EngineErrorKind::Server, false, false),
        (Fault::ServerErrorButDone, EngineErrorKind::Server, true, true),
        (Fault::AnswerLost, EngineErrorKind::Timeout, true, true),
        (Fault::Late(Duration::from_secs(5)), EngineErrorKind::Timeout, false, true),
        (Fault::Hang, EngineErrorKind::Timeout, false, false),
    ] {
        let (_, engine) = daemon();
        engine.arm("create container", fault);
        let error = engine.create_container(&spec(NAME, 30000)).await.unwrap_err();
        assert_eq!(error.kind, told, "{fault:?}");
        assert_eq!(engine.snapshot().containers.len(), usize::from(done_at_once), "{fault:?}");
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(engine.snapshot().containers.len(), usize::from(done_later), "{fault:?}");
        let again = engine.create_container(&spec(NAME, 30000)).await;
        assert_eq!(again.is_ok(), !done_later, "{fault:?}: it strikes once");
        assert_eq!((engine.writes(), engine.ops()[0].op), (2, "create container"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_does_not_undo_its_call() {
    let (_, engine) = daemon();
    let call = tokio::spawn({
        let engine = engine.clone();
        async move { engine.create_container(&spec(NAME, 30000)).await }
    });
    tokio::time::sleep(Duration::from_millis(5)).await;
    call.abort();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(engine.snapshot().by_uid(), BTreeMap::from([("uid-1", 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_process_dies_right_after_its_nth_write_on_all_daemons() {
    let clock = VirtualClock::new();
    let fleet = SimFleet::new(&clock, &["a", "b"], 1);
    let point = CrashPoint::after_writes(3);
    for (_, engine) in fleet.all() {
        engine.set_crash_point(Some(point.clone()));
    }
    let process = tokio::spawn({
        let fleet = fleet.clone();
        async move {
            for n in 0.. {
                for host in ["a", "b"] {
                    let name = format!("pr.net.n{n}");
                    fleet.host(host).create_network(&network(&name)).await.unwrap();
                }
            }
        }
    });
    point.reached().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    process.abort();
    assert_eq!(fleet.writes(), 3, "a dead process does nothing more");
    assert_eq!((fleet.host("a").snapshot().networks.len(), fleet.host("b").snapshot().networks.len()), (2, 1));
    for (_, engine) in fleet.all() {
        engine.set_crash_point(None);
    }
    let next = fleet.engine(&host("b")).unwrap();
    next.create_network(&network("pr.net.next")).await.unwrap();
    assert!(fleet.engine(&host("c")).is_err());
    fleet.forget("b");
    assert!(CrashPoint::after_writes(0).is_reached());
    assert!(!fleet.host("a").fail_after_write(1).is_reached());
}

fn host(name: &str) -> DockerHost {
    let mut host = DockerHost::default();
    host.metadata.name = name.to_owned();
    host
}

#[tokio::test(start_paused = true)]
async fn callers_share_one_pull_and_hear_why_it_failed() {
    let (_, engine) = daemon();
    engine.add_image("app:2", app().remote(Duration::from_secs(5)));
    engine.add_image("app:gone", app().remote(Duration::from_secs(5)).unpullable());
    let pulls = (0..3).map(|_| engine.pull("app:2", &|_| {}));
    assert!(futures::future::join_all(pulls).await.iter().all(Result::is_ok));
    assert_eq!(engine.pulls(), 1);
    assert!(engine.image("app:2").await.unwrap().is_some());
    engine.remove_image_by_hand("app:2");
    assert_eq!(engine.image("app:2").await, Ok(None));
    let error = engine.pull("app:gone", &|_| {}).await.unwrap_err();
    assert_eq!(error.kind, EngineErrorKind::ImageMissing);
    engine.arm("pull image", Fault::AnswerLost);
    assert_eq!(engine.pull("app:2", &|_| {}).await.unwrap_err().kind, EngineErrorKind::Timeout);
    assert!(engine.image("app:2").await.unwrap().is_some(), "it went on");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_stops_making_and_starting_but_not_stopping_and_removing() {
    let (_, engine) = daemon();
    let id = started(&engine).await;
    engine.set_disk_full(true);
    let volume = engine.create_volume("pr.default.alice.home", &BTreeMap::new()).await;
    let other = engine.create_container(&spec("pr.default.bob", 30001)).await;
    engine.stop_container(&id, GRACE).await.unwrap();
    for error in [
        engine.start_container(&id).await.unwrap_err(),
        engine.pull(APP, &|_| {}).await.unwrap_err(),
        volume.unwrap_err(),
        other.unwrap_err(),
    ] {
        assert_eq!(error.kind, EngineErrorKind::NoSpace, "{error}");
    }
    engine.remove_container(&id).await.unwrap();
    engine.set_disk_full(false);
    started(&engine).await;
}

#[tokio::test(start_paused = true)]
async fn strangers_and_mishaps_stand_in_the_way_of_a_start() {
    let (_, engine) = daemon();
    let mut bound = spec(NAME, 30000);
    bound.mounts = vec![Mount::Bind { source: "/sealed/home".into(), target: "/home".into(), read_only: false }];
    engine.forbid_bind("/sealed");
    engine.take_port(30001);
    engine.create_by_hand(ContainerSpec { labels: BTreeMap::new(), ..spec("pr.stranger", 30002) });
    for (spec, kind) in [
        (bound, EngineErrorKind::Invalid),
        (spec("pr.default.bob", 30001), EngineErrorKind::PortTaken),
        (spec("pr.default.carol", 30002), EngineErrorKind::PortTaken),
    ] {
        let id = engine.create_container(&spec).await.unwrap();
        let error = engine.start_container(&id).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert_eq!(engine.container(&id).await.unwrap().unwrap().state, RunState::Created);
    }
    engine.free_port(30001);
    engine.start_container("pr.default.bob").await.unwrap();
    engine.poison("pr.default.bob");
    assert_eq!(engine.start_container("pr.default.bob").await.unwrap_err().kind, EngineErrorKind::Server);
    let taken = engine.create_container(&spec("pr.stranger", 30003)).await.unwrap_err();
    assert_eq!(taken.kind, EngineErrorKind::Conflict);
}

#[tokio::test(start_paused = true)]
async fn what_hands_do_shows_in_the_world_and_in_events() {
    let (_, engine) = daemon();
    let none = BTreeMap::new();
    engine.create_network(&network("pr.net")).await.unwrap();
    engine.create_volume("pr.vol", &none).await.unwrap();
    let mut events = engine.events((labels::UID, "uid-1"), None).await.unwrap();
    let mut apart = spec(NAME, 30000);
    apart.network = "pr.net".into();
    let id = engine.create_container(&apart).await.unwrap();
    engine.start_by_hand(NAME);
    engine.log(NAME, OutputStream::Stderr, "oops");
    engine.kill_by_hand(NAME);
    assert_eq!(look(&engine).await.exit_code, 137);
    engine.start_by_hand(NAME);
    engine.stop_by_hand(NAME);
    engine.start_by_hand(NAME);
    engine.update_by_hand(NAME, Limits { memory: 64 << 20, cpu_milli: 1, pids: 1 }, "always");
    assert_eq!(look(&engine).await.restart_policy, "always");
    engine.disconnect_by_hand("pr.net", NAME);
    assert!(look(&engine).await.networks.is_empty());
    engine.connect_network("pr.net", &id).await.unwrap();
    engine.remove_network_by_hand("pr.net");
    engine.remove_volume_by_hand("pr.vol");
    engine.rename_by_hand(NAME, "pr.elsewhere");
    let seen = engine.snapshot();
    assert_eq!((seen.containers[0].name.as_str(), seen.containers[0].running), ("pr.elsewhere", true));
    assert!(seen.containers[0].networks.is_empty() && seen.networks.is_empty() && seen.volumes.is_empty());
    assert_eq!(seen.containers[0].ports, apart.ports);
    engine.remove_by_hand("pr.elsewhere");
    let mut actions = Vec::new();
    while actions.last().is_none_or(|last| last != "destroy") {
        actions.push(events.next().await.unwrap().unwrap().action);
    }
    let expected =
        ["create", "start", "die", "start", "kill", "die", "stop", "start", "update", "rename", "die", "destroy"];
    assert_eq!(actions, expected);
}

#[tokio::test(start_paused = true)]
async fn events_get_lost_streams_break_and_daemons_come_back() {
    let (clock, engine) = daemon();
    let id = started(&engine).await;
    tokio::time::advance(Duration::from_millis(1)).await;
    let began = clock.now();
    engine.set_fault_rates(FaultRates { lost_events: 100, ..FaultRates::default() });
    engine.kill_by_hand(NAME);
    engine.set_fault_rates(FaultRates::default());
    let mut events = engine.events((labels::UID, "uid-1"), Some(began)).await.unwrap();
    engine.start_container(&id).await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().action, "start", "the end before it was lost");
    engine.crash_daemon(Duration::from_secs(5));
    assert!(events.next().await.unwrap().is_err(), "the stream breaks");
    assert!(events.next().await.is_none());
    assert_eq!(engine.info().await.unwrap_err().kind, EngineErrorKind::Unreachable);
    assert!(!engine.is_serving("10.0.0.1", 30000));
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(look(&engine).await.state, RunState::Exited);
    engine.start_container(&id).await.unwrap();
    engine.go_away(Duration::from_secs(500));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(engine.is_serving("10.0.0.1", 30000), "a daemon that cannot be reached keeps what runs");
    engine.come_back();
    look(&engine).await;
    engine.lose_disk();
    assert_eq!((engine.container(NAME).await, engine.image(APP).await), (Ok(None), Ok(None)));
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    async fn run(seed: u64) -> (Vec<Option<EngineErrorKind>>, u64) {
        let clock = VirtualClock::new();
        let engine = Arc::new(SimEngine::new("local", clock.clone(), seed));
        engine.add_image(APP, app());
        engine.set_pace(Pace { read: Duration::from_millis(1), ..Pace::default() });
        engine.set_fault_rates(FaultRates { writes: 40, reads: 40, lost_events: 10 });
        let mut told = Vec::new();
        for n in 0..50 {
            let made = engine.create_container(&spec(&format!("pr.default.i{n}"), 30000)).await;
            told.push(made.err().map(|e| e.kind));
            told.push(engine.info().await.err().map(|e| e.kind));
        }
        (told, engine.reads())
    }
    let first = run(3).await;
    assert_eq!(first, run(3).await);
    assert_ne!(first.0, run(4).await.0);
    assert!(first.0.iter().any(Option::is_none) && first.0.iter().any(Option::is_some));
}
