//! The simulated daemon over HTTP: our real client finds in it what it finds in a real one, and what it says on the wire
//! is what a real one says.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use portreeve::clock::SystemClock;
use portreeve::docker::Pool;
use portreeve::docker::engine::*;
use portreeve::docker::labels;
use portreeve::model::DockerHost;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::UnixListener;

use crate::docker::app;
use crate::support::sim_engine::SimEngine;
use crate::support::{engine_conformance, simulated};

use crate::support::sim_engine::wire::Host;
use crate::support::sim_engine::wire::call::Call;
use crate::support::sim_engine::wire::fault::Mishap;
use crate::support::sim_engine::wire::hosts::{self, Hosts, Plan};
use crate::support::sim_engine::wire::pace::Pace;
use crate::support::wire_conformance;

const APP: &str = "portreeve/app:1";
const OURS: (&str, &str) = (labels::CLUSTER, "here");

/// One daemon on a socket, and our client of it.
struct Served {
    host: Arc<Host>,
    engine: Arc<dyn Engine>,
    socket: PathBuf,
    serving: tokio::task::JoinHandle<()>,
    _directory: TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Served {
    fn new(pace: Pace) -> Served {
        let directory = tempfile::tempdir().expect("a directory for the socket");
        let socket = directory.path().join("docker.sock");
        let sim = SimEngine::new("wired", SystemClock::new(), 11);
        sim.add_image(APP, app());
        sim.forbid_bind("/proc");
        let host = Host::new(sim, pace, false);
        let serving = tokio::spawn(host.clone().serve(UnixListener::bind(&socket).expect("bind")));
        let engine = client(&socket);
        Served { host, engine, socket, serving, _directory: directory }
    }

    fn count(&self, call: Call) -> u64 {
        self.host.counts().get(call.name()).copied().unwrap_or_default()
    }
}

fn client(socket: &Path) -> Arc<dyn Engine> {
    let mut host = DockerHost::default();
    host.metadata.name = "wired".to_owned();
    host.spec.endpoint = format!("unix://{}", socket.display());
    Pool::new(SystemClock::new()).engine(&host).unwrap_or_else(|e| panic!("{e}"))
}

fn spec(name: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        image: APP.into(),
        labels: [(OURS.0.to_owned(), OURS.1.to_owned())].into(),
        network: "bridge".into(),
        ..ContainerSpec::default()
    }
}

#[tokio::test]
async fn our_client_finds_in_it_what_it_finds_in_a_daemon() {
    let served = Served::new(Pace::None);
    engine_conformance::holds(&simulated(&*served.engine, APP)).await;
}

#[tokio::test]
async fn it_says_on_the_wire_what_a_daemon_says() {
    let served = Served::new(Pace::None);
    let subject = wire_conformance::Subject {
        socket: &served.socket,
        image: APP,
        app: "/app",
        host_ip: "10.0.0.1",
        host_port: 30000,
    };
    wire_conformance::holds(&subject).await;
}

#[tokio::test]
async fn mishaps_on_the_wire_are_told_as_what_they_are() {
    for (what, kind, made) in [
        (Mishap::Reset, EngineErrorKind::Timeout, false),
        (Mishap::Fail, EngineErrorKind::Server, false),
        (Mishap::FailDone, EngineErrorKind::Server, true),
    ] {
        let served = Served::new(Pace::None);
        served.host.faults.arm(what, Some(Call::CreateContainer), Some(1));
        let error = served.engine.create_container(&spec("pr.default.alice")).await.expect_err("a mishap");
        assert_eq!(error.kind, kind, "{what:?}: {error}");
        let there = served.engine.container("pr.default.alice").await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(there.is_some(), made, "{what:?}");
        let again = served.engine.create_container(&spec("pr.default.bob")).await;
        assert!(again.is_ok(), "{what:?} strikes once: {again:?}");
    }
}

#[tokio::test]
async fn a_half_dead_daemon_lists_and_starts_nothing() {
    let served = Served::new(Pace::None);
    let id = served.engine.create_container(&spec("pr.default.alice")).await.unwrap_or_else(|e| panic!("{e}"));
    served.host.faults.set_half_dead(true);
    assert_eq!(served.engine.list_containers(&[OURS]).await.expect("a list").len(), 1);
    assert_eq!(served.engine.ping().await, Ok(()));
    let start = tokio::time::timeout(Duration::from_millis(300), served.engine.start_container(&id)).await;
    assert!(start.is_err(), "no answer");
    assert_eq!(served.count(Call::Start), 1, "it has arrived");
    served.host.faults.arm(Mishap::Hang, Some(Call::Ping), None);
    let ping = tokio::time::timeout(Duration::from_millis(300), served.engine.ping()).await;
    assert!(ping.is_err(), "nor this, now");
    served.host.faults.heal();
    served.engine.start_container(&id).await.unwrap_or_else(|e| panic!("{e}"));
}

/// As with a daemon whose listener is slow, or gone for a while: what does not fit is gone, and nobody says so.
#[tokio::test]
async fn events_beyond_its_ring_are_lost_without_a_sign() {
    let served = Served::new(Pace::None);
    let began = jiff_now();
    for n in 0..150 {
        let id = served.engine.create_container(&spec(&format!("pr.default.n{n}"))).await.expect("create");
        served.engine.start_container(&id).await.expect("start");
    }
    let mut events = served.engine.events(OURS, Some(began)).await.expect("events");
    let last = served.engine.create_container(&spec("pr.default.last")).await.expect("create");
    let mut seen = 0;
    loop {
        let event = tokio::time::timeout(Duration::from_secs(20), events.next()).await.expect("in time");
        let event = event.expect("goes on").expect("an event");
        if event.id == last {
            break;
        }
        seen += 1;
    }
    assert_eq!(seen, 256, "of 300");
    served.host.faults.stall_events(true);
    served.engine.remove_container(&last).await.expect("remove");
    served.host.faults.stall_events(false);
    let next = served.engine.create_container(&spec("pr.default.next")).await.expect("create");
    let event = events.next().await.expect("goes on").expect("an event");
    assert_eq!((event.action.as_str(), event.id), ("create", next), "the removal was never told");
    served.host.hang_up();
    assert!(events.next().await.expect("an error").is_err(), "a restart ends the stream");
}

fn jiff_now() -> jiff::Timestamp {
    SystemClock::new().now()
}

#[tokio::test]
async fn pulls_tell_how_far_they_are_and_why_they_failed() {
    let served = Served::new(Pace::None);
    let sim = &served.host.engine;
    sim.add_image("app:2", app().remote(Duration::from_millis(1200)));
    sim.add_image("app:private", app().remote(Duration::ZERO).private("secret"));
    let told = std::sync::Mutex::new(Vec::new());
    let say = |text: String| told.lock().expect("no panic while held").push(text);
    served.engine.pull("app:2", &say).await.unwrap_or_else(|e| panic!("{e}"));
    assert!(served.engine.image("app:2").await.expect("inspect").is_some());
    assert!(told.lock().expect("no panic while held").iter().any(|text| text.contains("MiB")), "{told:?}");
    for missing in ["app:3", "app:private"] {
        let error = served.engine.pull(missing, &|_| {}).await.expect_err("nothing to be had");
        assert_eq!(error.kind, EngineErrorKind::ImageMissing, "{error}");
    }
    sim.add_image("app:4", app().remote(Duration::ZERO));
    sim.set_disk_full(true);
    let error = served.engine.pull("app:4", &|_| {}).await.expect_err("no space");
    assert_eq!(error.kind, EngineErrorKind::NoSpace, "told in the stream of a 200: {error}");
}

#[tokio::test]
async fn many_daemons_live_in_one_process_and_are_told_apart() {
    let directory = tempfile::tempdir().expect("a directory");
    let plan = Plan {
        count: 12,
        images: vec![(APP.to_owned(), app())],
        recorded: true,
        apps: false,
        base: Ipv4Addr::new(127, 0, 0, 1),
        seed: 3,
    };
    let clock = SystemClock::new();
    let fleet = Hosts::up(directory.path(), &clock, &plan).await.expect("up");
    let engines: Vec<_> = fleet.places.iter().map(|place| client(&place.socket)).collect();
    let ids = futures::future::join_all(engines.iter().map(|engine| engine.info())).await;
    let ids: std::collections::BTreeSet<_> = ids.into_iter().map(|info| info.expect("info").daemon_id).collect();
    assert_eq!(ids.len(), 12);
    assert_eq!(fleet.places[0].name, "h01");
    let wanted = |text: serde_json::Value| serde_json::from_value::<hosts::Order>(text).expect("an order");
    let fail = wanted(json!({"host": "h03", "fault": "fail", "call": "GET /info", "times": 1}));
    hosts::order(&fleet.places, &fail).expect("done");
    assert_eq!(engines[2].info().await.expect_err("on purpose").kind, EngineErrorKind::Server);
    assert!(engines[3].info().await.is_ok() && engines[2].info().await.is_ok());
    for bad in [json!({"host": "h99", "fault": "hang"}), json!({"fault": "hang", "call": "GET /nowhere"})] {
        hosts::order(&fleet.places, &wanted(bad)).expect_err("refused");
    }
    assert_eq!(hosts::counts(&fleet.places)[Call::Info.name()], 15);
}
