//! The end of a Namespace with the real controllers, in virtual time: whenever the control plane dies on the way,
//! everything in it goes, nothing is left over, and nothing else is touched.

use std::time::Duration;

use portreeve::clock::VirtualClock;
use portreeve::controllers::recorder::{EventType, Recorder};
use portreeve::model::{FINALIZER, Instance, Key, Kind, NAMESPACE_FINALIZER, Namespace, Phase, namespace_use_mark};
use portreeve::store::{ListRequest, MemoryStore, Op, SharedStore, Txn, typed};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::sim::{in_virtual_time, spec};
use crate::support::faulty_store::{Fault, FaultyStore};
use crate::support::sim_engine::fault::CrashPoint;
use crate::support::world::World;

const MINUTE: Duration = Duration::from_secs(60);

/// Where the control plane dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    Never,
    /// Right after this many more writes to the store.
    Store(u64),
    /// Right after so many writes to the daemon.
    Docker(u64),
}

fn namespace(name: &str) -> Namespace {
    serde_json::from_value(json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "generation": 1},
        "spec": {"finalizers": [NAMESPACE_FINALIZER]}, "status": {"phase": "Active"},
    }))
    .unwrap()
}

async fn put(store: &SharedStore, key: &str, value: Value) {
    let op = Op::Put { key: key.into(), value: value.to_string().into() };
    store.txn(Txn { when: vec![], then: vec![op] }).await.unwrap();
}

/// Everything stored of a namespace.
async fn stored(store: &SharedStore, namespace: &str) -> Vec<String> {
    let mut found = vec![];
    for kind in Kind::all().filter(|k| k.info().namespaced) {
        let request = ListRequest { prefix: kind.prefix(Some(namespace)), ..Default::default() };
        found.extend(store.list(request).await.unwrap().records.iter().map(|r| r.key.to_string()));
    }
    for key in [Key::new(Kind::Namespace, "", namespace).to_string(), namespace_use_mark(namespace)] {
        found.extend(store.get(&key).await.unwrap().map(|r| r.key.to_string()));
    }
    found
}

/// What the daemons have of a namespace.
fn docker(world: &World, namespace: &str) -> Vec<String> {
    let prefix = format!("pr.{namespace}.");
    let snapshots = world.snapshots().into_iter().map(|(_, s)| s);
    let names = snapshots.flat_map(|s| {
        s.containers.into_iter().map(|c| c.name).chain(s.networks.into_keys()).chain(s.volumes).collect::<Vec<_>>()
    });
    names.filter(|name| name.starts_with(&prefix)).collect()
}

async fn running(world: &World) -> usize {
    world.instances().await.iter().filter(|i| i.status.phase == Phase::Running).count()
}

/// A namespace with two instances and some values is deleted. Returns how much was written on the way to its end.
async fn story(death: Death) -> (u64, u64) {
    let mut world = World::new(&["h1"], 11).await;
    let plain = world.store.clone();
    let faulty = FaultyStore::over(plain.clone());
    typed::create(&*plain, &namespace("team")).await.unwrap();
    put(&plain, "secrets/team/s", json!({"metadata": {"name": "s", "namespace": "team"}})).await;
    put(&plain, "configmaps/team/c", json!({"metadata": {"name": "c", "namespace": "team"}})).await;
    put(&plain, "configmaps/other/c", json!({"metadata": {"name": "c", "namespace": "other"}})).await;
    put(&plain, &namespace_use_mark("team"), json!("x")).await;
    for name in ["alice", "bob"] {
        let instance: Instance = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "team", "uid": format!("uid-{name}"), "generation": 1,
                         "finalizers": [FINALIZER], "creationTimestamp": world.clock.now().to_string()},
            "spec": spec("app:1"),
        }))
        .unwrap();
        typed::create(&*plain, &instance).await.unwrap();
    }
    world.apply("bystander", spec("app:1")).await;
    world.store = faulty.clone();
    world.start();
    world.until("all run", 5 * MINUTE, async |w| running(w).await == 3).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(stored(&plain, "team").await.iter().any(|key| key.starts_with("events/team/")), "something is told");
    assert!(!docker(&world, "team").is_empty());

    let (writes, docker_writes) = (faulty.writes(), world.fleet.writes());
    let point = match death {
        Death::Store(after) => {
            faulty.plan("", after - 1, Fault::Halt);
            None
        }
        Death::Docker(after) => Some(CrashPoint::after_writes(after)),
        Death::Never => None,
    };
    world.fleet.host("h1").set_crash_point(point.clone());
    // As the API marks it.
    let mut team: Namespace = typed::get(&*plain, &Key::new(Kind::Namespace, "", "team")).await.unwrap().unwrap();
    team.metadata.deletion_timestamp = Some(world.clock.now().into());
    team.status.phase = "Terminating".into();
    typed::update(&*plain, &team).await.unwrap();
    match (death, &point) {
        (Death::Store(_), _) => tokio::time::timeout(5 * MINUTE, faulty.halted()).await.expect("so many store writes"),
        (_, Some(point)) => tokio::time::timeout(5 * MINUTE, point.reached()).await.expect("so many docker writes"),
        _ => {}
    }
    if !matches!(death, Death::Never) {
        world.crash().await;
        world.fleet.host("h1").set_crash_point(None);
        world.store = plain.clone();
        world.start();
    }
    world
        .until("nothing is left of the namespace", 10 * MINUTE, async |w| {
            stored(&w.store, "team").await.is_empty() && docker(w, "team").is_empty()
        })
        .await;
    let written = (faulty.writes() - writes, (world.fleet.writes() - docker_writes) as u64);
    tokio::time::sleep(Duration::from_secs(10)).await;
    world.assert_quiet(5 * MINUTE).await;
    assert_eq!(stored(&plain, "team").await, [""; 0], "nothing comes afterwards");
    assert_eq!(stored(&plain, "other").await, ["configmaps/other/c"], "others are left alone");
    assert_eq!(world.phase("bystander").await, Some(Phase::Running));
    world.crash().await;
    written
}

#[test]
fn a_crash_at_any_write_leaves_nothing_of_a_namespace_that_ends() {
    let mut writes = (0, 0);
    in_virtual_time(|| async { writes = story(Death::Never).await });
    eprintln!("{} writes to the store, {} to the daemon", writes.0, writes.1);
    // Contents, the tale of what is left, each instance's own end, and the Namespace.
    assert!(writes.0 >= 6 && writes.1 >= 6, "{writes:?}");
    for after in 1..=writes.0 {
        in_virtual_time(|| async { assert!(story(Death::Store(after)).await.1 > 0) });
    }
    for after in 0..=writes.1 {
        in_virtual_time(|| async { assert!(story(Death::Docker(after)).await.1 >= after) });
    }
}

/// A write that fails is tried again; one whose answer is lost is found done.
#[test]
fn failing_writes_do_not_keep_a_namespace() {
    for fault in [Fault::Refused, Fault::AnswerLost] {
        for prefix in ["namespaces/", "secrets/", "instances/"] {
            in_virtual_time(|| async {
                let mut world = World::new(&["h1"], 5).await;
                let plain = world.store.clone();
                let faulty = FaultyStore::over(plain.clone());
                let mut team = namespace("team");
                team.metadata.deletion_timestamp = Some(world.clock.now().into());
                typed::create(&*plain, &team).await.unwrap();
                put(&plain, "secrets/team/s", json!({"metadata": {"name": "s", "namespace": "team"}})).await;
                let held = json!({"metadata": {"name": "a", "namespace": "team", "uid": "u", "finalizers": [FINALIZER]},
                                  "spec": spec("app:1")});
                put(&plain, "instances/team/a", held).await;
                faulty.plan(prefix, 0, fault);
                world.store = faulty.clone();
                world.start();
                world.until("it is gone", 10 * MINUTE, async |w| stored(&w.store, "team").await.is_empty()).await;
                assert!(docker(&world, "team").is_empty());
                world.crash().await;
            });
        }
    }
}

/// More than one page, more than one transaction takes, and things that finalizers of others hold.
#[tokio::test(start_paused = true)]
async fn many_objects_go_and_what_is_held_is_told_and_waited_for() {
    let mut world = World::new(&["h1"], 5).await;
    let mut team = namespace("team");
    team.metadata.deletion_timestamp = Some(world.clock.now().into());
    typed::create(&*world.store, &team).await.unwrap();
    for n in 0..120 {
        let finalizers = if n % 6 == 0 { json!(["example.com/hold"]) } else { json!([]) };
        // Twenty that are held, of 250 KB each: five million bytes to mark.
        let data = if n % 6 == 0 { json!({"a": "x".repeat(250_000)}) } else { json!({}) };
        let meta = json!({"name": format!("c{n:03}"), "namespace": "team", "finalizers": finalizers});
        put(&world.store, &format!("configmaps/team/c{n:03}"), json!({"metadata": meta, "data": data})).await;
    }
    world.start();
    let key = Key::new(Kind::Namespace, "", "team");
    let told = async |w: &World| {
        let team = typed::get::<Namespace>(&*w.store, &key).await.unwrap().unwrap();
        team.status.conditions.into_iter().map(|c| (c.reason, c.message)).collect::<Vec<_>>()
    };
    world.until("it is told", MINUTE, async |w| !told(w).await.is_empty()).await;
    let reasons = told(&world).await;
    assert_eq!(
        reasons,
        [
            ("SomeResourcesRemain".into(), "Some resources are remaining: configmaps has 20 resource instances".into()),
            (
                "SomeFinalizersRemain".into(),
                "Some content in the namespace has finalizers remaining: example.com/hold in 20 resource instances"
                    .to_owned()
            ),
        ]
    );
    assert_eq!(stored(&world.store, "team").await.len(), 21);
    world.assert_quiet(5 * MINUTE).await;
    for n in (0..120).step_by(6) {
        let op = Op::Delete { key: format!("configmaps/team/c{n:03}") };
        world.store.txn(Txn { when: vec![], then: vec![op] }).await.unwrap();
    }
    // By the change, not by the next look.
    world.until("it is gone", Duration::from_secs(5), async |w| stored(&w.store, "team").await.is_empty()).await;
    world.crash().await;
}

/// The recorder writes where the namespace stays, and nowhere else.
#[tokio::test(start_paused = true)]
async fn no_event_comes_into_a_namespace_that_ends_or_is_gone() {
    let clock = VirtualClock::new();
    let store: SharedStore = MemoryStore::new();
    typed::create(&*store, &namespace("open")).await.unwrap();
    let mut ending = namespace("ending");
    ending.metadata.deletion_timestamp = Some(clock.now().into());
    typed::create(&*store, &ending).await.unwrap();
    let (recorder, task) = Recorder::new(store.clone(), clock.clone());
    for namespace in ["gone", "ending", "open"] {
        recorder.event(&Key::instance(namespace, "a"), "u", EventType::Normal, "Told", "of something");
    }
    drop(recorder);
    // It ends when nobody can tell anything any more.
    task.run(CancellationToken::new()).await;
    let events = store.list(ListRequest { prefix: Kind::Event.prefix(None), ..Default::default() }).await.unwrap();
    let keys: Vec<&str> = events.records.iter().map(|r| &*r.key).collect();
    assert!(matches!(keys[..], [key] if key.starts_with("events/open/a-")), "{keys:?}");
    assert!(store.get(&namespace_use_mark("open")).await.unwrap().is_some(), "a concurrent deletion sees it");
}
