//! Properties of the pure plan: whatever is seen, following the plans leads to a world in which there is nothing to
//! do, and planning there twice changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use portreeve::controllers::instance::{
    Action, ActivitySeen, NetworkSeen, NodeSeen, Observed, Presence, Site, Want, container_spec, network_spec, plan,
    want,
};
use portreeve::controllers::probes::{Attempt, HealthSeen};
use portreeve::docker::engine::{ContainerInfo, ContainerSpec, Limits, RunState};
use portreeve::docker::labels;
use portreeve::model::{
    AllocatedResources, BoundPort, FINALIZER, Instance, Key, Kind, Phase, Power, Quantity, Reclaim, Resource, Span,
    Subnet,
};
use portreeve::scheduler::{PlacedPort, Placement};
use proptest::prelude::*;
use serde_json::json;

const NOW: i64 = 1_767_225_600;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn site() -> Site {
    Site { cluster: "c".into(), domain: "example.com".into(), url: "https://{host}".into() }
}

/// A small world that does what actions say, at once and without failing.
pub struct Model {
    pub desired: Instance,
    pub seen: Observed,
    /// The record is gone.
    pub gone: bool,
    ids: u32,
}

impl Model {
    pub fn new(desired: Instance) -> Model {
        let seen = Observed {
            node: if desired.status.node.is_empty() {
                NodeSeen::Unbound(Some(Ok(placement(&desired))))
            } else {
                NodeSeen::Reachable
            },
            containers: vec![],
            address_changed: false,
            node_ready: true,
            name_taken_by: None,
            strays: vec![],
            network: NetworkSeen::Absent,
            volumes: BTreeMap::new(),
            image_present: Some(false),
            values: desired.spec.sources().map(|source| whole(&desired, source)).collect(),
            activity: ActivitySeen { idle: Some(Duration::ZERO), open: 0, ..ActivitySeen::default() },
            startup: None,
            health: HealthSeen::default(),
            leave: None,
            loss: None,
            freeze_refusal: None,
            taken: vec![],
        };
        Model { desired, seen, gone: false, ids: 0 }
    }

    fn look(&mut self) {
        let name = labels::object_name(&self.desired.key());
        for volume in self.desired.spec.volumes.iter().filter(|v| v.host_path.is_empty()) {
            self.seen.volumes.entry(format!("{name}.{}", volume.name)).or_default();
        }
        let running = self.seen.containers.iter().any(|c| c.state == RunState::Running);
        self.seen.startup = running.then_some(Attempt::Passed);
    }

    /// One reconcile: how many actions there were.
    pub fn step(&mut self) -> usize {
        self.look();
        let plan = plan(&site(), &self.desired, &self.seen, now());
        self.desired.status = plan.status;
        let count = plan.actions.len();
        for action in plan.actions {
            self.act(action);
        }
        count
    }

    fn container(&mut self, id: &str) -> &mut ContainerInfo {
        self.seen.containers.iter_mut().find(|c| c.id == id).expect("actions name containers that were seen")
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Bind { network } => {
                let placed = placement(&self.desired);
                self.desired.status.node = placed.node;
                self.desired.status.address = placed.address;
                self.desired.status.ports =
                    placed.ports.into_iter().map(|p| BoundPort { name: p.name, host_port: p.host_port }).collect();
                if network {
                    self.desired.status.subnet = placed.subnet.to_string();
                }
                if self.seen.node != NodeSeen::Reachable {
                    self.desired.status.allocated_resources = Some(self.desired.spec.asks());
                }
                self.seen.node = NodeSeen::Reachable;
            }
            Action::Reserve { .. } => self.desired.status.allocated_resources = Some(self.desired.spec.asks()),
            Action::Leave => {
                assert!(self.seen.containers.is_empty(), "it left its container behind");
                assert!(!self.seen.network.is_ours(), "it left its network behind");
                self.desired.status = Default::default();
                self.seen.node = NodeSeen::Unbound(Some(Ok(placement(&self.desired))));
                self.seen.leave = None;
            }
            Action::Adopt(_) => unreachable!("nothing is to be adopted"),
            Action::LeaveLost => unreachable!("its node answers"),
            Action::Mark(status) => self.desired.status = *status,
            Action::Pull { .. } => self.seen.image_present = Some(true),
            Action::CreateVolume { name, .. } => drop(self.seen.volumes.insert(name, Presence::Ours)),
            Action::CreateNetwork { .. } => {
                assert!(!self.seen.network.is_ours(), "made where one is");
                let subnet = network_spec("c", &self.desired).subnet.expect("bound before");
                self.seen.network = NetworkSeen::Ours { subnets: vec![subnet.to_string()], closed: false };
            }
            Action::CreateContainer(spec) => {
                assert!(self.seen.containers.iter().all(|c| c.name != spec.name), "the name is taken");
                assert!(self.seen.network.is_right(&self.desired), "made before its network");
                assert_eq!(self.seen.image_present, Some(true), "made before its image");
                assert_eq!(
                    self.desired.status.allocated_resources,
                    Some(self.desired.spec.asks()),
                    "made before its room"
                );
                self.ids += 1;
                self.seen.containers.push(made(&spec, &format!("new{}", self.ids)));
            }
            Action::Start { id, .. } => {
                assert!(self.desired.status.allocated_resources.is_some(), "started without room");
                let c = self.container(&id);
                c.state = RunState::Running;
                c.started_at = Some(now());
            }
            Action::Pause { id } => {
                assert_eq!(self.desired.status.phase, Phase::Frozen, "paused before it is said");
                assert_eq!(self.container(&id).state, RunState::Running);
                self.container(&id).state = RunState::Paused;
            }
            Action::Unpause { id, .. } => {
                assert_eq!(self.container(&id).state, RunState::Paused);
                self.container(&id).state = RunState::Running;
            }
            Action::Rest => self.seen.activity.idle = self.seen.activity.idle.filter(|_| self.seen.activity.open > 0),
            Action::Stop { id, .. } => {
                let c = self.container(&id);
                c.state = RunState::Exited;
                c.finished_at = Some(now());
            }
            Action::RemoveContainer { id } | Action::RemoveStray { id } => {
                self.seen.containers.retain(|c| c.id != id);
                self.seen.strays.retain(|s| *s != id);
            }
            Action::Rename { id, name } => self.container(&id).name = name,
            Action::UpdateLimits { id, limits } => {
                let held = self.desired.status.allocated_resources.as_ref();
                assert!(
                    held.is_some_and(|held| held.memory.value() >= limits.memory),
                    "it takes what it does not hold"
                );
                let c = self.container(&id);
                c.limits = limits;
                c.restart_policy = "no".into();
                if c.state == RunState::Restarting {
                    c.state = RunState::Exited;
                }
            }
            Action::AwaitStartup { .. } | Action::CheckValues(_) => {}
            Action::RemoveNetwork { .. } => {
                assert!(self.seen.containers.is_empty(), "removed under its container");
                self.seen.network = NetworkSeen::Absent;
            }
            Action::RemoveVolume { name } => drop(self.seen.volumes.insert(name, Presence::Absent)),
            Action::DropFinalizer => self.gone = true,
        }
    }

    /// Follows the plans until there is nothing to do.
    pub fn settle(&mut self) {
        for _ in 0..12 {
            if self.step() == 0 || self.gone {
                return;
            }
        }
        panic!("no rest after twelve rounds: {:?}\n{:#?}", self.desired.status, self.seen);
    }
}

/// A Secret or ConfigMap with every value that is asked of it.
fn whole(desired: &Instance, (kind, name): (Kind, &str)) -> (Key, Arc<BTreeSet<String>>) {
    let asked = desired.spec.env.iter().filter_map(|var| var.value_from.as_ref()?.source());
    let keys = asked.filter(|(k, r)| (*k, r.name.as_str()) == (kind, name)).map(|(_, r)| r.key.clone());
    (Key::new(kind, &desired.metadata.namespace, name), Arc::new(keys.collect()))
}

/// The first subnet that is not refused; one that it has is kept.
fn subnet(desired: &Instance) -> Subnet {
    let status = &desired.status;
    let all = ["10.213.0.0/28", "10.213.0.16/28", "10.213.0.32/28"];
    let own = Some(status.subnet.as_str()).filter(|own| !own.is_empty());
    let free = |s: &&str| !status.refused_subnets.iter().any(|refused| refused == s);
    own.into_iter().chain(all).find(free).expect("one is left").parse().unwrap()
}

fn placement(desired: &Instance) -> Placement {
    let ports = desired.spec.ports.iter().enumerate();
    Placement {
        node: "n".into(),
        address: "10.0.0.1".into(),
        ports: ports
            .map(|(i, p)| PlacedPort { name: p.name.clone(), host_port: p.host_port.unwrap_or(30_000 + i as u16) })
            .collect(),
        gpus: vec![],
        subnet: subnet(desired),
        message: "the only one".into(),
    }
}

fn made(spec: &ContainerSpec, id: &str) -> ContainerInfo {
    ContainerInfo {
        id: id.into(),
        name: spec.name.clone(),
        image: spec.image.clone(),
        labels: spec.labels.clone(),
        limits: spec.limits,
        restart_policy: "no".into(),
        networks: vec![spec.network.clone()],
        ports: spec.ports.clone(),
        ..Default::default()
    }
}

fn instance(power: Power, bound: bool, deleting: bool, reclaim: Reclaim) -> Instance {
    let mut instance: Instance = serde_json::from_value(json!({
        "metadata": {"name": "alice", "namespace": "default", "uid": "u", "generation": 2, "finalizers": [FINALIZER]},
        "spec": {
            "image": "app:1",
            "ports": [{"name": "web", "containerPort": 80}, {"name": "api", "containerPort": 81}],
            "volumes": [{"name": "home", "mountPath": "/home"}],
        },
    }))
    .unwrap();
    instance.spec.power = power;
    instance.spec.volumes[0].reclaim = reclaim;
    instance.metadata.deletion_timestamp = deleting.then(|| now().into());
    if bound {
        let placed = placement(&instance);
        instance.status.node = placed.node;
        instance.status.address = placed.address;
        instance.status.ports =
            placed.ports.into_iter().map(|p| BoundPort { name: p.name, host_port: p.host_port }).collect();
    }
    instance
}

#[derive(Clone, Debug)]
struct Found {
    state: RunState,
    current_spec: bool,
    right_name: bool,
    right_limits: bool,
    right_policy: bool,
    attached: bool,
    failed_start: bool,
}

fn found() -> impl Strategy<Value = Found> {
    let states = prop::sample::select(vec![
        RunState::Created,
        RunState::Running,
        RunState::Paused,
        RunState::Restarting,
        RunState::Exited,
        RunState::Dead,
    ]);
    (states, any::<[bool; 6]>()).prop_map(|(state, b)| Found {
        state,
        current_spec: b[0],
        right_name: b[1],
        right_limits: b[2],
        right_policy: b[3],
        attached: b[4],
        failed_start: b[5],
    })
}

fn presence() -> impl Strategy<Value = Presence> {
    prop::sample::select(vec![Presence::Absent, Presence::Ours])
}

/// Ours, in these subnets; or none.
fn network() -> impl Strategy<Value = NetworkSeen> {
    let subnets = prop::sample::select(vec!["172.18.0.0/16", "10.213.0.0/28", "10.213.0.16/28"]);
    prop::option::of((subnets, any::<bool>())).prop_map(|network| match network {
        Some((subnet, closed)) => NetworkSeen::Ours { subnets: vec![subnet.into()], closed },
        None => NetworkSeen::Absent,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    #[test]
    fn whatever_is_seen_the_plans_lead_to_rest_and_planning_again_changes_nothing(
        power in prop::sample::select(vec![Power::Auto, Power::Running, Power::Stopped]),
        phase in prop::sample::select(vec![Phase::Pending, Phase::Starting, Phase::Running, Phase::Frozen, Phase::Asleep, Phase::Stopping, Phase::Failed, Phase::Lost, Phase::Upgrading]),
        deleting in any::<bool>(),
        idle in prop::option::of(0u64..7200),
        freeze in prop::option::of(1u64..1800),
        refuses in any::<bool>(),
        open in 0usize..2,
        containers in prop::collection::vec(found(), 0..3),
        network in network(),
        subnet in prop::sample::select(vec!["", "10.213.0.0/28", "10.213.0.16/28"]),
        refused in any::<bool>(),
        volume in presence(),
        image in any::<bool>(),
        stray in any::<bool>(),
        retain in any::<bool>(),
        held in prop::sample::select(vec![None, Some(64), Some(256), Some(512)]),
    ) {
        // A container of the current spec was made after its volume; one that is gone since is lost, told elsewhere.
        let volume = if containers.iter().any(|f| f.current_spec) { Presence::Ours } else { volume };
        let reclaim = if retain { Reclaim::Retain } else { Reclaim::Delete };
        let mut desired = instance(power, true, deleting, reclaim);
        desired.spec.idle.freeze_after = freeze.map(|seconds| Span::from(Duration::from_secs(seconds)));
        desired.status.phase = phase;
        desired.status.subnet = subnet.into();
        desired.status.allocated_resources = held.map(|mib| AllocatedResources {
            memory: Quantity::from_bytes(mib << 20),
            cpu: Quantity::from_milli(500),
        });
        desired.status.refused_subnets = if refused { vec!["10.213.0.0/28".into()] } else { vec![] };
        let spec = container_spec("c", &desired);
        let mut model = Model::new(desired);
        let older = subnet.is_empty() && matches!(network, NetworkSeen::Ours { closed: false, .. });
        model.seen.network = network.clone();
        model.seen.image_present = Some(image);
        model.seen.volumes.insert("pr.default.alice.home".into(), volume);
        model.seen.activity = ActivitySeen { idle: idle.map(Duration::from_secs), open, ..ActivitySeen::default() };
        model.seen.activity.cannot_freeze = refuses;
        model.seen.strays = if stray { vec!["stray".into()] } else { vec![] };
        for (i, f) in containers.iter().enumerate() {
            let mut c = made(&spec, &format!("old{i}"));
            c.state = f.state;
            // Only one can have the name.
            c.name = if f.right_name && i == 0 { spec.name.clone() } else { format!("renamed-{i}") };
            if !f.current_spec { c.labels.insert(labels::SPEC_HASH.into(), "other".into()); }
            if !f.right_limits { c.limits = Limits { memory: 1, cpu_milli: 1, pids: 1 }; }
            // Only a policy makes a daemon restart a container.
            if !f.right_policy || f.state == RunState::Restarting { c.restart_policy = "always".into(); }
            if !f.attached { c.networks.clear(); }
            if f.failed_start { c.error = "no".into(); }
            model.seen.containers.push(c);
        }
        model.settle();
        if deleting {
            prop_assert!(model.gone && model.seen.containers.is_empty() && model.seen.network == NetworkSeen::Absent);
            let kept = volume == Presence::Ours && retain;
            prop_assert_eq!(model.seen.volumes["pr.default.alice.home"] == Presence::Ours, kept);
            return Ok(());
        }
        prop_assert!(model.seen.containers.len() <= 1 && model.seen.strays.is_empty());
        let status = model.desired.status.clone();
        let awake = status.phase == Phase::Running;
        let frozen = status.phase == Phase::Frozen;
        prop_assert!(awake || frozen || matches!(status.phase, Phase::Asleep | Phase::Stopped), "{:?}", status.phase);
        prop_assert!(!frozen || freeze.is_some() && open == 0 && power == Power::Auto && !refuses);
        prop_assert_eq!(model.seen.containers.iter().any(|c| c.state == RunState::Running), awake);
        prop_assert_eq!(model.seen.containers.iter().any(|c| c.state == RunState::Paused), frozen);
        prop_assert_eq!(&status.allocated_resources, &(awake || frozen).then(|| model.desired.spec.asks()));
        prop_assert!(!awake || model.seen.network.is_right(&model.desired), "{:?} {:?}", model.seen.network, status);
        if older {
            prop_assert_eq!(&model.seen.network, &network, "what is older than subnets of ours stays");
            prop_assert_eq!(status.subnet.as_str(), "");
        }
        prop_assert_eq!(model.step(), 0);
        prop_assert_eq!(&model.desired.status, &status);
    }

    #[test]
    fn a_new_instance_is_bound_before_anything_is_made(power in prop::sample::select(vec![Power::Auto, Power::Running])) {
        let mut model = Model::new(instance(power, false, false, Reclaim::Retain));
        model.look();
        let first = plan(&site(), &model.desired, &model.seen, now());
        prop_assert_eq!(first.actions, vec![Action::Bind { network: true }]);
        model.settle();
        prop_assert_eq!(model.desired.status.phase, Phase::Running);
    }
}

/// dockerd may learn of the kernel's reason for an end only after the end itself.
#[test]
fn a_reason_for_an_end_that_comes_late_is_still_told() {
    let mut model = Model::new(instance(Power::Running, true, false, Reclaim::Retain));
    model.settle();
    let crash = |model: &mut Model, seconds: i64| {
        let app = &mut model.seen.containers[0];
        app.state = RunState::Exited;
        app.exit_code = 137;
        app.started_at = Some(now());
        app.finished_at = Some(Timestamp::from_second(NOW + seconds).unwrap());
    };
    crash(&mut model, 1);
    model.step();
    crash(&mut model, 2); // the second in a row waits
    model.step();
    let told = |model: &Model| model.desired.status.last_exit.clone().expect("an end");
    assert!(!told(&model).oom_killed);
    let crashes = model.desired.status.crashes;

    model.seen.containers[0].oom_killed = true;
    model.step();
    assert!(told(&model).oom_killed);
    assert_eq!(model.desired.status.crashes, crashes, "it is no other end");
    let ready = model.desired.status.conditions.iter().find(|c| c.type_ == "Ready").expect("Ready");
    assert!(ready.message.contains("memory limit"), "{}", ready.message);
}

/// One that is woken and dies at once does so in the second in which it fell asleep.
#[test]
fn an_end_in_the_second_of_another_is_one_of_its_own() {
    let mut model = Model::new(instance(Power::Running, true, false, Reclaim::Retain));
    model.settle();
    let at = |micros: i64| Timestamp::from_microsecond(NOW * 1_000_000 + micros).unwrap();
    model.desired.status.ended_at = Some(at(100).into());
    let end = |model: &mut Model, micros: i64| {
        let app = &mut model.seen.containers[0];
        (app.state, app.exit_code, app.finished_at) = (RunState::Exited, 1, Some(at(micros)));
        model.step();
    };
    end(&mut model, 100);
    assert_eq!(model.desired.status.restarts, 0, "it is the one that was asked for");
    model.settle();
    end(&mut model, 200);
    assert_eq!(model.desired.status.restarts, 1);
}

/// A start may take longer than the time without use: who asked for it sees it up, and has that time from then on.
#[test]
fn what_starts_is_not_put_to_sleep_before_it_was_up() {
    let mut model = Model::new(instance(Power::Auto, true, false, Reclaim::Retain));
    let after = model.desired.spec.idle_after();
    let unused = ActivitySeen { idle: Some(after * 3), open: 0, ..ActivitySeen::default() };
    for phase in [Phase::Pending, Phase::Pulling, Phase::Starting, Phase::Upgrading] {
        model.desired.status.phase = phase;
        assert_eq!(want(&model.desired, unused, now()), Want::Run, "{phase:?}");
    }
    model.desired.status.phase = Phase::Failed;
    assert_eq!(want(&model.desired, unused, now()), Want::Run, "it was never up, and asleep it would hide why");
    model.desired.status.started_at = Some(now().into());
    assert_eq!(want(&model.desired, unused, now()), Want::Sleep, "it does not come up again");
    model.desired.status.started_at = None;

    model.settle();
    assert_eq!(model.desired.status.phase, Phase::Running);
    assert_eq!(want(&model.desired, unused, now()), Want::Run, "it has just come up");
    // It has been unused for long, whenever it last came up: one that ends and starts again still falls asleep.
    assert_eq!(want(&model.desired, unused, now() + Duration::from_secs(60)), Want::Sleep);
    let used = ActivitySeen { idle: Some(Duration::ZERO), open: 0, ..ActivitySeen::default() };
    assert_eq!(want(&model.desired, used, now() + after), Want::Run);
}
