//! What every engine does, told once: run over the simulated daemon and over real ones, so that what simulations
//! prove holds for Docker too.
//!
//! Everything made here carries the label [`CLUSTER`], and is removed before and after.

#[path = "engine_conformance/pauses.rs"]
mod pauses;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use portreeve::docker::adoption::translate;
use portreeve::docker::engine::*;
use portreeve::docker::labels;
use portreeve::model::{Key, Subnet};
use tokio::io::AsyncWriteExt;

const CLUSTER: (&str, &str) = (labels::CLUSTER, "conformance");
const NETWORK: &str = "pr.conformance.net";
const VOLUME: &str = "pr.conformance.data";

/// A daemon and what may be used on it.
pub struct Subject<'a> {
    pub engine: &'a dyn Engine,
    /// A local image that holds the test app.
    pub image: &'a str,
    /// Path of the test app inside the image: serves without arguments, and knows `echo`, `env`, `cat`, `exit`.
    pub app: &'a str,
    /// Where host ports are published.
    pub host_ip: &'a str,
    /// Free there.
    pub host_port: u16,
    /// A directory of the daemon's machine that does not exist, and may.
    pub bind: &'a str,
    /// A directory that the daemon cannot make.
    pub bad_bind: &'a str,
}

/// All of it, in turn.
pub async fn holds(subject: &Subject<'_>) {
    clear(subject).await;
    info_tells_who_answers(subject).await;
    networks_come_and_go_twice(subject).await;
    volumes_come_and_go_twice(subject).await;
    subnets_are_given_and_kept_apart(subject).await;
    subject.engine.create_network(&network(NETWORK, None)).await.expect("network for the rest");
    a_container_reads_back_as_created(subject).await;
    a_container_gets_what_it_was_given(subject).await;
    a_container_is_described_as_it_was_made(subject).await;
    lifecycle_calls_are_idempotent(subject).await;
    pauses::hold(subject).await;
    taken_names_and_missing_images_are_told_apart(subject).await;
    a_taken_port_leaves_the_container_created(subject).await;
    limits_change_in_place(subject).await;
    names_change_in_place(subject).await;
    a_bind_that_cannot_be_made_fails_the_start(subject).await;
    a_lost_network_can_be_given_again(subject).await;
    events_tell_of_a_life_in_order(subject).await;
    events_tell_of_networks_and_volumes_that_go(subject).await;
    commands_run_inside_and_tell_their_exit_code(subject).await;
    logs_come_back_and_follow(subject).await;
    what_runs_tells_what_it_uses(subject).await;
    clear(subject).await;
}

fn network(name: &str, subnet: Option<Subnet>) -> NetworkSpec {
    NetworkSpec { name: name.to_owned(), labels: owned(&[]), subnet, closed: false }
}

fn owned(more: &[(&str, &str)]) -> BTreeMap<String, String> {
    [CLUSTER].iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

impl Subject<'_> {
    fn spec(&self, name: &str, args: &[&str]) -> ContainerSpec {
        ContainerSpec {
            name: format!("pr.conformance.{name}"),
            image: self.image.to_owned(),
            labels: owned(&[(labels::NAME, name)]),
            entrypoint: vec![self.app.to_owned()],
            cmd: args.iter().map(|a| (*a).to_owned()).collect(),
            env: vec!["GREETING=good day".to_owned()],
            hostname: name.to_owned(),
            network: NETWORK.to_owned(),
            limits: Limits { memory: 64 << 20, cpu_milli: 500, pids: 64 },
            shm_bytes: 16 << 20,
            capabilities: vec!["NET_BIND_SERVICE".to_owned()],
            no_new_privileges: true,
            ..ContainerSpec::default()
        }
    }

    fn port(&self, host_port: u16) -> PortMap {
        PortMap { container_port: 8080, host_ip: self.host_ip.to_owned(), host_port }
    }

    async fn make(&self, spec: &ContainerSpec) -> String {
        self.engine.create_container(spec).await.unwrap_or_else(|e| panic!("{e}"))
    }

    async fn made_and_started(&self, spec: &ContainerSpec) -> String {
        let id = self.make(spec).await;
        self.engine.start_container(&id).await.unwrap_or_else(|e| panic!("{e}"));
        id
    }

    async fn look(&self, container: &str) -> ContainerInfo {
        let found = self.engine.container(container).await.unwrap_or_else(|e| panic!("{e}"));
        found.unwrap_or_else(|| panic!("{container} is gone"))
    }

    /// A daemon may take a moment after the output's end to know it.
    async fn exit_code(&self, exec_id: &str) -> i64 {
        for _ in 0..200 {
            if let Some(code) = self.engine.exec_exit_code(exec_id).await.unwrap_or_else(|e| panic!("{e}")) {
                return code;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("exec {exec_id} never ended");
    }

    async fn until(&self, container: &str, state: RunState) -> ContainerInfo {
        for _ in 0..200 {
            let seen = self.look(container).await;
            if seen.state == state {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{container} never came to {state:?}, last: {:?}", self.look(container).await);
    }
}

/// Removes all that this suite makes, also what an earlier run left.
pub async fn clear(s: &Subject<'_>) {
    for container in s.engine.list_containers(&[CLUSTER]).await.expect("list containers") {
        s.engine.remove_container(&container.id).await.expect("remove container");
    }
    for network in s.engine.list_networks(&[CLUSTER]).await.expect("list networks") {
        s.engine.remove_network(&network.name).await.expect("remove network");
    }
    s.engine.remove_volume(VOLUME).await.expect("remove volume");
    assert_eq!(s.engine.list_containers(&[CLUSTER]).await.expect("list containers"), []);
}

async fn info_tells_who_answers(s: &Subject<'_>) {
    let info = s.engine.info().await.expect("info");
    assert!(!info.daemon_id.is_empty() && !info.version.is_empty() && !info.kernel.is_empty(), "{info:?}");
    assert!(info.memory_bytes > 0 && info.cpus > 0 && info.runtimes.contains(&"runc".to_owned()), "{info:?}");
    assert_eq!(s.engine.ping().await, Ok(()));
    let (major, minor) = info.api_version.split_once('.').expect("a version with a dot");
    assert!((1, 41) <= (major.parse().expect("a number"), minor.parse().expect("a number")), "{info:?}");
    let image = s.engine.image(s.image).await.expect("inspect image").expect("the image is loaded");
    assert!(image.id.starts_with("sha256:"), "{image:?}");
    assert_eq!(s.engine.image("portreeve-no-such-image").await, Ok(None));
}

async fn networks_come_and_go_twice(s: &Subject<'_>) {
    assert_eq!(s.engine.network(NETWORK).await, Ok(None));
    s.engine.create_network(&network(NETWORK, None)).await.expect("create");
    s.engine.create_network(&network(NETWORK, None)).await.expect("create again");
    let seen = s.engine.network(NETWORK).await.expect("inspect").expect("made");
    assert_eq!((seen.name.as_str(), &seen.labels), (NETWORK, &owned(&[])));
    assert_eq!(s.engine.list_networks(&[CLUSTER]).await, Ok(vec![seen]), "one, although made twice");
    s.engine.remove_network(NETWORK).await.expect("remove");
    s.engine.remove_network(NETWORK).await.expect("remove again");
    assert_eq!(s.engine.network(NETWORK).await, Ok(None));
}

/// A subnet is given as asked for; whoever else's network has some of it, the daemon refuses it.
async fn subnets_are_given_and_kept_apart(s: &Subject<'_>) {
    const OTHER: &str = "pr.conformance.other";
    let ranges = ["10.214.7.16/28", "10.214.7.16/28", "10.214.7.0/24", "10.214.7.24/29", "10.214.7.32/28"];
    let [asked, same, wider, narrower, beside] = ranges.map(|text| text.parse::<Subnet>().expect("a subnet"));
    s.engine.create_network(&network(NETWORK, Some(asked))).await.expect("create");
    let seen = s.engine.network(NETWORK).await.expect("inspect").expect("made");
    assert_eq!((seen.subnets.as_slice(), seen.closed), (["10.214.7.16/28".to_owned()].as_slice(), false));
    assert!(s.engine.list_networks(&[]).await.expect("list").contains(&seen), "with everybody's");
    for subnet in [same, wider, narrower] {
        let error = s.engine.create_network(&network(OTHER, Some(subnet))).await.expect_err("it overlaps");
        assert_eq!(error.kind, EngineErrorKind::SubnetTaken, "{error}");
        assert_eq!(s.engine.network(OTHER).await, Ok(None));
    }
    s.engine.create_network(&network(OTHER, Some(beside))).await.expect("beside it");
    s.engine.create_network(&network(NETWORK, Some(wider))).await.expect("one of the name is there");
    assert_eq!(s.engine.network(NETWORK).await, Ok(Some(seen)), "and stays as it is");
    let id = s.made_and_started(&s.spec("subnet", &[])).await;
    s.engine.remove_container(&id).await.expect("remove");
    for name in [NETWORK, OTHER] {
        s.engine.remove_network(name).await.expect("remove");
    }
    let closed = NetworkSpec { closed: true, ..network(OTHER, Some(wider)) };
    s.engine.create_network(&closed).await.expect("what is removed is free");
    let seen = s.engine.network(OTHER).await.expect("inspect").expect("made");
    assert!(seen.closed && s.engine.list_networks(&[]).await.expect("list").contains(&seen), "{seen:?}");
    s.engine.remove_network(OTHER).await.expect("remove");
}

async fn volumes_come_and_go_twice(s: &Subject<'_>) {
    assert_eq!(s.engine.volume(VOLUME).await, Ok(None));
    s.engine.create_volume(VOLUME, &owned(&[])).await.expect("create");
    s.engine.create_volume(VOLUME, &owned(&[])).await.expect("create again");
    let seen = s.engine.volume(VOLUME).await.expect("inspect").expect("made");
    assert_eq!((seen.name.as_str(), &seen.labels), (VOLUME, &owned(&[])));
    s.engine.remove_volume(VOLUME).await.expect("remove");
    s.engine.remove_volume(VOLUME).await.expect("remove again");
    assert_eq!(s.engine.volume(VOLUME).await, Ok(None));
}

async fn a_container_reads_back_as_created(s: &Subject<'_>) {
    let spec = ContainerSpec { ports: vec![s.port(s.host_port)], ..s.spec("round", &[]) };
    let id = s.make(&spec).await;
    let image = s.engine.image(s.image).await.expect("inspect image").expect("the image is loaded");
    let mut seen = s.look(&spec.name).await;
    assert_eq!(seen, s.look(&id).await, "by name and by id");
    seen.labels.retain(|key, _| spec.labels.contains_key(key));
    let expected = ContainerInfo {
        id: id.clone(),
        name: spec.name.clone(),
        image_id: image.id,
        image: s.image.to_owned(),
        labels: spec.labels.clone(),
        state: RunState::Created,
        limits: spec.limits,
        restart_policy: "no".to_owned(),
        networks: vec![NETWORK.to_owned()],
        ports: spec.ports.clone(),
        ..ContainerInfo::default()
    };
    assert_eq!(seen, expected);
    let listed = s.engine.list_containers(&[CLUSTER, (labels::NAME, "round")]).await.expect("list");
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].id, &listed[0].name, listed[0].state), (&id, &spec.name, RunState::Created));
    assert_eq!(s.engine.list_containers(&[CLUSTER, (labels::NAME, "nobody")]).await, Ok(vec![]));

    s.engine.start_container(&id).await.expect("start");
    let seen = s.look(&id).await;
    assert_eq!((seen.state, seen.finished_at), (RunState::Running, None));
    assert!(seen.started_at.is_some());
    let error = s.engine.remove_network(NETWORK).await.expect_err("a network in use stays");
    assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
    s.engine.stop_container(&id, Duration::from_secs(5)).await.expect("stop");
    let seen = s.look(&id).await;
    assert_eq!((seen.state, seen.exit_code, seen.oom_killed), (RunState::Exited, 0, false));
    assert!(seen.finished_at > seen.started_at, "{seen:?}");
    s.engine.remove_container(&id).await.expect("remove");

    let bad = s.engine.container("cafe").await.expect_err("what could be an id prefix is never sent");
    assert_eq!(bad.kind, EngineErrorKind::Invalid);
}

async fn a_container_gets_what_it_was_given(s: &Subject<'_>) {
    s.engine.create_volume(VOLUME, &owned(&[])).await.expect("create volume");
    let volume = Mount::Volume { name: VOLUME.to_owned(), target: "/data".to_owned(), read_only: false };
    let bind = Mount::Bind { source: s.bind.to_owned(), target: "/bound".to_owned(), read_only: true };
    let spec = ContainerSpec { mounts: vec![volume, bind], ..s.spec("given", &["env"]) };
    let id = s.made_and_started(&spec).await;
    let seen = s.until(&id, RunState::Exited).await;
    assert_eq!((seen.exit_code, seen.error.as_str()), (0, ""));
    let said = everything(s, &id).await;
    assert!(said.contains("GREETING=good day\n") && said.contains("HOSTNAME=given\n"), "{said}");
    let error = s.engine.remove_volume(VOLUME).await.expect_err("a volume in use stays");
    assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
    s.engine.remove_container(&id).await.expect("remove");
    assert!(s.engine.volume(VOLUME).await.expect("inspect").is_some(), "a named volume outlives its container");
    s.engine.remove_volume(VOLUME).await.expect("remove volume");

    let error = s.engine.create_container(&spec).await.expect_err("a missing volume is not made silently");
    assert_eq!(error.kind, EngineErrorKind::NotFound, "{error}");
    assert_eq!(s.engine.volume(VOLUME).await, Ok(None));
    let small = ContainerSpec { limits: Limits { memory: 1 << 20, ..spec.limits }, ..s.spec("small", &[]) };
    let error = s.engine.create_container(&small).await.expect_err("too little memory");
    assert_eq!(error.kind, EngineErrorKind::Invalid, "{error}");
}

/// What is adopted is made anew from its description: it must say all that it was made from.
async fn a_container_is_described_as_it_was_made(subject: &Subject<'_>) {
    let engine = subject.engine;
    engine.create_volume(VOLUME, &owned(&[])).await.expect("a volume");
    let mut spec = subject.spec("described", &[]);
    spec.ports = vec![subject.port(subject.host_port)];
    spec.mounts = vec![Mount::Volume { name: VOLUME.to_owned(), target: "/data".to_owned(), read_only: true }];
    let id = subject.made_and_started(&spec).await;
    let described = engine.describe(&id).await.expect("described").expect("it is there");
    let found = translate(&described, subject.host_ip);
    assert_eq!(found.refusals, ["is a control plane's own"]);
    let found_spec = serde_json::to_value(&found.spec).expect("plain data");
    let expected = serde_json::json!({
        "image": subject.image, "command": [subject.app], "env": [{"name": "GREETING", "value": "good day"}],
        "ports": [{"name": "p8080", "containerPort": 8080, "hostPort": subject.host_port}],
        "volumes": [{"name": "v0", "mountPath": "/data", "volumeName": VOLUME, "readOnly": true}],
        "resources": {"memory": "67108864", "cpu": "500m", "pids": 64, "shm": "16777216"},
        "security": {"capDrop": ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"]},
    });
    let mut shown = found_spec;
    if shown.get("command").is_none() {
        // The image's own entrypoint is the same.
        shown["command"] = serde_json::json!([subject.app]);
    }
    assert_eq!(shown, expected);
    assert_eq!((found.restart_policy.as_str(), found.networks), ("no", vec![NETWORK.to_owned()]));
    assert!(engine.describe(&"0".repeat(64)).await.expect("an answer").is_none());
    assert_eq!(engine.describe("described").await.expect_err("no whole id").kind, EngineErrorKind::Invalid);
    for _ in 0..2 {
        engine.remove_keeping_volumes(&id).await.expect("removed, or gone");
    }
    assert!(engine.volume(VOLUME).await.expect("an answer").is_some());
    engine.remove_volume(VOLUME).await.expect("removed");
}

async fn lifecycle_calls_are_idempotent(s: &Subject<'_>) {
    let id = s.made_and_started(&s.spec("twice", &[])).await;
    let first = s.look(&id).await;
    s.engine.start_container(&id).await.expect("start again");
    assert_eq!(s.look(&id).await.started_at, first.started_at, "the second start did nothing");
    s.engine.stop_container(&id, Duration::from_secs(5)).await.expect("stop");
    s.engine.stop_container(&id, Duration::from_secs(5)).await.expect("stop again");
    s.engine.start_container(&id).await.expect("start once more");
    assert!(s.look(&id).await.started_at > first.started_at);
    let removals = (0..4).map(|_| s.engine.remove_container(&id));
    for removed in futures::future::join_all(removals).await {
        removed.expect("each of four removals at once");
    }
    s.engine.remove_container(&id).await.expect("remove what is gone");
    assert_eq!(s.engine.container(&id).await, Ok(None));
    for error in [
        s.engine.start_container(&id).await.expect_err("start what is gone"),
        s.engine.stop_container(&id, Duration::from_secs(1)).await.expect_err("stop what is gone"),
    ] {
        assert_eq!(error.kind, EngineErrorKind::NotFound, "{error}");
    }
}

async fn taken_names_and_missing_images_are_told_apart(s: &Subject<'_>) {
    let spec = s.spec("name", &[]);
    let id = s.make(&spec).await;
    let error = s.engine.create_container(&spec).await.expect_err("the name is taken");
    assert_eq!(error.kind, EngineErrorKind::Conflict);
    assert!(error.message.contains(&id), "tells who holds it: {error}");
    let nothing = ContainerSpec { image: "portreeve-no-such-image:1".to_owned(), ..s.spec("imageless", &[]) };
    let error = s.engine.create_container(&nothing).await.expect_err("no such image");
    assert_eq!(error.kind, EngineErrorKind::ImageMissing);
    assert!(error.message.to_lowercase().contains("no such image"), "{error}");
    assert_eq!(s.engine.container(&nothing.name).await, Ok(None));
    s.engine.remove_container(&id).await.expect("remove");
}

async fn a_taken_port_leaves_the_container_created(s: &Subject<'_>) {
    let first = ContainerSpec { ports: vec![s.port(s.host_port)], ..s.spec("first", &[]) };
    let second = ContainerSpec { ports: vec![s.port(s.host_port)], ..s.spec("second", &[]) };
    let first = s.made_and_started(&first).await;
    let second = s.make(&second).await;
    let error = s.engine.start_container(&second).await.expect_err("the port is taken");
    assert_eq!(error.kind, EngineErrorKind::PortTaken, "{error}");
    let seen = s.look(&second).await;
    assert_eq!((seen.state, seen.started_at), (RunState::Created, None));
    assert!(seen.error.contains("port is already allocated"), "{seen:?}");
    s.engine.stop_container(&first, Duration::from_secs(5)).await.expect("stop");
    s.engine.start_container(&second).await.expect("the port is free now");
    assert_eq!(s.look(&second).await.error, "");
    for id in [first, second] {
        s.engine.remove_container(&id).await.expect("remove");
    }
}

async fn limits_change_in_place(s: &Subject<'_>) {
    let id = s.made_and_started(&s.spec("limits", &[])).await;
    let before = s.look(&id).await;
    for limits in
        [Limits { memory: 128 << 20, cpu_milli: 750, pids: 128 }, Limits { memory: 32 << 20, cpu_milli: 250, pids: 32 }]
    {
        s.engine.update_container(&id, limits).await.unwrap_or_else(|e| panic!("{e}"));
        let seen = s.look(&id).await;
        assert_eq!((seen.limits, seen.restart_policy.as_str()), (limits, "no"));
        assert_eq!((seen.state, seen.started_at), (RunState::Running, before.started_at));
    }
    s.engine.remove_container(&id).await.expect("remove");
}

async fn names_change_in_place(s: &Subject<'_>) {
    let (one, two) = (s.spec("one", &[]), s.spec("two", &[]));
    let (first, second) = (s.make(&one).await, s.make(&two).await);
    let error = s.engine.rename_container(&first, &two.name).await.expect_err("the name is taken");
    assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
    s.engine.rename_container(&first, "pr.conformance.three").await.expect("rename");
    s.engine.rename_container(&first, "pr.conformance.three").await.expect("rename to the same");
    assert_eq!(s.look("pr.conformance.three").await.id, first);
    assert_eq!(s.engine.container(&one.name).await, Ok(None));
    for id in [first, second] {
        s.engine.remove_container(&id).await.expect("remove");
    }
}

async fn a_bind_that_cannot_be_made_fails_the_start(s: &Subject<'_>) {
    let bind = Mount::Bind { source: s.bad_bind.to_owned(), target: "/bound".to_owned(), read_only: false };
    let id = s.make(&ContainerSpec { mounts: vec![bind], ..s.spec("bind", &[]) }).await;
    let error = s.engine.start_container(&id).await.expect_err("no directory can be made there");
    assert_eq!(error.kind, EngineErrorKind::Invalid, "{error}");
    assert!(error.message.contains("error while creating mount source path"), "{error}");
    let seen = s.look(&id).await;
    assert_eq!((seen.state, seen.error.is_empty()), (RunState::Created, false));
    s.engine.remove_container(&id).await.expect("remove");
}

/// A network that is made anew has another id: a stopped container knows the old one until it is connected again.
async fn a_lost_network_can_be_given_again(s: &Subject<'_>) {
    let id = s.made_and_started(&s.spec("net", &[])).await;
    s.engine.connect_network(NETWORK, &id).await.expect("connect what is connected");
    s.engine.stop_container(&id, Duration::from_secs(5)).await.expect("stop");
    s.engine.remove_network(NETWORK).await.expect("nobody runs there");
    let error = s.engine.start_container(&id).await.expect_err("the network is gone");
    assert_eq!(error.kind, EngineErrorKind::Invalid, "{error}");
    s.engine.create_network(&network(NETWORK, None)).await.expect("create anew");
    let error = s.engine.start_container(&id).await.expect_err("it is another network");
    assert_eq!(error.kind, EngineErrorKind::Invalid, "{error}");
    s.engine.connect_network(NETWORK, &id).await.expect("connect");
    s.engine.start_container(&id).await.expect("start");
    assert_eq!(s.look(&id).await.networks, [NETWORK]);
    s.engine.remove_container(&id).await.expect("remove");
    let error = s.engine.connect_network(NETWORK, &id).await.expect_err("nobody to connect");
    assert_eq!(error.kind, EngineErrorKind::NotFound, "{error}");
}

async fn events_tell_of_a_life_in_order(s: &Subject<'_>) {
    let mut events = s.engine.events(CLUSTER, None).await.expect("events");
    let id = s.made_and_started(&s.spec("life", &["exit", "3"])).await;
    let seen = s.until(&id, RunState::Exited).await;
    assert_eq!(seen.exit_code, 3);
    s.engine.remove_container(&id).await.expect("remove");
    let mut actions = Vec::new();
    while actions.last().is_none_or(|last| last != "destroy") {
        let event = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
        let event = event.unwrap_or_else(|_| panic!("no destroy after {actions:?}")).expect("goes on").expect("event");
        // Those of containers without a label come too: they may be adopted, and others make some meanwhile.
        if event.object != "container" || !event.attributes.contains_key(CLUSTER.0) {
            continue;
        }
        assert_eq!((event.id.as_str(), event.attributes.get(CLUSTER.0)), (id.as_str(), Some(&CLUSTER.1.to_owned())));
        assert_eq!(event.instance(), None, "it carries the labels of no instance");
        if event.action == "die" {
            assert_eq!(event.attributes.get("exitCode").map(String::as_str), Some("3"));
        }
        actions.push(event.action);
    }
    actions.retain(|a| matches!(a.as_str(), "create" | "start" | "die" | "destroy"));
    assert_eq!(actions, ["create", "start", "die", "destroy"]);
}

/// Their name is all that they carry; it leads to the instance.
async fn events_tell_of_networks_and_volumes_that_go(s: &Subject<'_>) {
    let (name, volume) = ("pr.conformance.gone", "pr.conformance.gone.data");
    s.engine.remove_network(name).await.expect("clear");
    s.engine.remove_volume(volume).await.expect("clear");
    let mut events = s.engine.events(CLUSTER, None).await.expect("events");
    s.engine.create_network(&network(name, None)).await.expect("create");
    s.engine.remove_network(name).await.expect("remove");
    s.engine.create_volume(volume, &owned(&[])).await.expect("create");
    s.engine.remove_volume(volume).await.expect("remove");
    let mut gone = Vec::new();
    while gone.len() < 2 {
        let event = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
        let event = event.expect("an event of the end").expect("goes on").expect("event");
        if event.action == "destroy" && event.instance() == Some(Key::instance("conformance", "gone")) {
            gone.push(event.object);
        }
    }
    assert_eq!(gone, ["network", "volume"]);
}

async fn commands_run_inside_and_tell_their_exit_code(s: &Subject<'_>) {
    let id = s.made_and_started(&s.spec("exec", &[])).await;
    let says = |words: &[&str]| ExecOptions {
        command: std::iter::once(s.app).chain(words.iter().copied()).map(str::to_owned).collect(),
        stdout: true,
        stderr: true,
        ..ExecOptions::default()
    };
    for (words, output, code) in [(&["echo", "hello"][..], "hello\n", 0), (&["exit", "3"][..], "", 3)] {
        let session = s.engine.exec(&id, says(words)).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(run(session.output).await, output);
        assert_eq!(s.exit_code(&session.exec_id).await, code);
    }
    let echo = ExecOptions { stdin: true, ..says(&["cat"]) };
    let mut session = s.engine.exec(&id, echo).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(s.engine.exec_exit_code(&session.exec_id).await, Ok(None), "still running");
    session.input.write_all(b"there and back").await.expect("write");
    session.input.shutdown().await.expect("end of input");
    assert_eq!(run(session.output).await, "there and back");
    assert_eq!(s.exit_code(&session.exec_id).await, 0);

    s.engine.stop_container(&id, Duration::from_secs(5)).await.expect("stop");
    let error = s.engine.exec(&id, says(&["echo"])).await.expect_err("nothing runs in a stopped one");
    assert_eq!(error.kind, EngineErrorKind::Conflict, "{error}");
    s.engine.remove_container(&id).await.expect("remove");
    let error = s.engine.exec(&id, says(&["echo"])).await.expect_err("nothing runs in one that is gone");
    assert_eq!(error.kind, EngineErrorKind::NotFound, "{error}");
}

async fn logs_come_back_and_follow(s: &Subject<'_>) {
    let id = s.make(&s.spec("logs", &["echo", "one line"])).await;
    s.engine.start_container(&id).await.expect("start");
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let followed = s.engine.logs(&id, follow).await.expect("logs");
    assert_eq!(run(followed).await, "one line\n", "following ends with the container");
    s.until(&id, RunState::Exited).await;
    assert_eq!(everything(s, &id).await, "one line\n");
    let first = s.engine.container(&id).await.expect("inspect").expect("there");
    // apart, so that the two runs can be told by time
    tokio::time::sleep(Duration::from_secs(1)).await;
    s.engine.start_container(&id).await.expect("start");
    let second = s.engine.container(&id).await.expect("inspect").expect("there");
    let over = first.finished_at.expect("it has ended");
    assert!(second.started_at.is_some_and(|started| started > over), "{first:?} {second:?}");
    if second.state == RunState::Running {
        assert_eq!(second.finished_at, Some(over), "a run under way does not hide when the one before it ended");
    }
    s.until(&id, RunState::Exited).await;
    let between = over + Duration::from_millis(500);
    for (options, lines) in [
        (LogOptions { until: Some(between), ..LogOptions::default() }, 1),
        (LogOptions { since: Some(between), ..LogOptions::default() }, 1),
        (LogOptions { since: Some(between), until: Some(between), ..LogOptions::default() }, 0),
    ] {
        let part = run(s.engine.logs(&id, options).await.expect("logs")).await;
        assert_eq!(part, "one line\n".repeat(lines), "a part of a log by its times");
    }
    assert_eq!(everything(s, &id).await, "one line\none line\n", "logs outlive a run");
    let last = LogOptions { tail: Some(1), timestamps: true, ..LogOptions::default() };
    let line = run(s.engine.logs(&id, last).await.expect("logs")).await;
    let (at, text) = line.split_once(' ').expect("a time and a line");
    assert!(at.parse::<jiff::Timestamp>().is_ok() && text == "one line\n", "{line}");
    s.engine.remove_container(&id).await.expect("remove");
    let Err(error) = s.engine.logs(&id, LogOptions::default()).await else { panic!("logs of what is gone") };
    assert_eq!(error.kind, EngineErrorKind::NotFound, "{error}");
}

async fn what_runs_tells_what_it_uses(s: &Subject<'_>) {
    let spec = s.spec("use", &[]);
    let id = s.make(&spec).await;
    assert_eq!(s.engine.stats(&id).await, Ok(None), "it was never started");
    s.engine.start_container(&id).await.expect("start");
    let first = s.engine.stats(&id).await.expect("stats").expect("it runs");
    assert!(first.cpu_nanos > 0 && first.memory > 0, "{first:?}");
    assert!(first.memory <= u64::try_from(spec.limits.memory).expect("positive"), "{first:?}");
    assert!(s.look(&id).await.started_at.is_some_and(|t| t <= first.read_at), "{first:?}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let second = s.engine.stats(&spec.name).await.expect("stats").expect("it runs");
    let passed = second.read_at.duration_since(first.read_at).as_nanos();
    assert!(passed >= 200_000_000, "each is a reading of its own: {first:?} {second:?}");
    let used = i128::from(second.cpu_nanos) - i128::from(first.cpu_nanos);
    assert!((0..=passed * 64).contains(&used), "a counter that only grows: {first:?} {second:?}");
    let mut pulse = s.engine.pulse(&id).await.expect("a pulse");
    for _ in 0..2 {
        let beat = tokio::time::timeout(Duration::from_secs(5), pulse.next()).await;
        assert_eq!(beat.expect("in time"), Some(Ok(())));
    }
    s.engine.stop_container(&id, Duration::from_secs(5)).await.expect("stop");
    let end = async { while pulse.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(5), end).await.expect("it ends with the container");
    assert_eq!(s.engine.stats(&id).await, Ok(None), "it does not run");
    s.engine.remove_container(&id).await.expect("remove");
    assert_eq!(s.engine.stats(&id).await, Ok(None), "it is gone");
    let bad = s.engine.stats("cafe").await.expect_err("what could be an id prefix is never sent");
    assert_eq!(bad.kind, EngineErrorKind::Invalid);
}

async fn everything(s: &Subject<'_>, container: &str) -> String {
    run(s.engine.logs(container, LogOptions::default()).await.expect("logs")).await
}

/// All of an output, to its end.
async fn run(mut output: futures::stream::BoxStream<'static, EngineResult<(OutputStream, bytes::Bytes)>>) -> String {
    let mut all = Vec::new();
    let reading = async {
        while let Some(chunk) = output.next().await {
            all.extend_from_slice(&chunk.unwrap_or_else(|e| panic!("{e}")).1);
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reading).await.expect("the output ends");
    String::from_utf8(all).expect("text")
}
