//! The cache over the memory store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::{Cache, Subscription};
use crate::model::{BoundPort, DockerHost, Instance, Key, Port, Route, Time};
use crate::store::{HistoryLimits, ListRequest, MemoryStore, Op, Revision, SharedStore, Txn, typed};

fn instance(namespace: &str, name: &str) -> Instance {
    let mut instance = Instance::default();
    instance.metadata.namespace = namespace.into();
    instance.metadata.name = name.into();
    instance.metadata.uid = format!("uid-{name}");
    instance.spec.image = "app:1".into();
    instance.spec.ports = vec![Port { name: "web".into(), container_port: 80, host_port: None }];
    instance
}

fn created_at(mut instance: Instance, second: i64) -> Instance {
    instance.metadata.creation_timestamp = Some(Time::from(jiff::Timestamp::from_second(second).unwrap()));
    instance
}

async fn put(store: &SharedStore, key: impl ToString, value: impl Into<bytes::Bytes>) -> Revision {
    let op = Op::Put { key: key.to_string(), value: value.into() };
    store.txn(Txn { when: vec![], then: vec![op] }).await.unwrap()
}

async fn put_instance(store: &SharedStore, instance: &Instance) -> Revision {
    put(store, crate::model::Resource::key(instance), typed::encode(instance)).await
}

async fn delete(store: &SharedStore, key: &Key) -> Revision {
    store.txn(Txn { when: vec![], then: vec![Op::Delete { key: key.to_string() }] }).await.unwrap()
}

fn start(store: &SharedStore) -> Arc<Cache> {
    let cache = Cache::new("Example.com");
    tokio::spawn(cache.clone().run(store.clone(), CancellationToken::new()));
    cache
}

async fn next(subscription: &mut Subscription) -> Key {
    tokio::time::timeout(Duration::from_secs(60), subscription.next()).await.expect("a changed key")
}

#[tokio::test(start_paused = true)]
async fn readers_see_what_was_written_once_they_waited_for_it() {
    let store = MemoryStore::new();
    put_instance(&store, &instance("default", "alice")).await;
    let cache = start(&store);
    assert!(!cache.is_ready());
    cache.ready().await;
    let alice = Key::instance("default", "alice");
    assert_eq!(cache.instance(&alice).unwrap().metadata.resource_version, "1");

    let mut bound = instance("default", "alice");
    bound.status.node = "n1".into();
    cache.wait_for(put_instance(&store, &bound).await).await;
    assert_eq!(cache.on_node("n1").len(), 1);
    assert_eq!(cache.revision(), store.revision());

    // A write that is no object of ours still moves the revision.
    cache.wait_for(put(&store, "meta/lease", "x").await).await;
    cache.wait_for(delete(&store, &alice).await).await;
    assert!(cache.instance(&alice).is_none() && cache.on_node("n1").is_empty() && !cache.has_record(&alice));
}

fn claim(namespace: &str, name: &str, second: i64) -> Instance {
    let mut i = created_at(instance(namespace, name), second);
    i.spec.routes = vec![Route { host: "Shop.{domain}".into(), paths: vec![], ..Default::default() }];
    i
}

#[tokio::test(start_paused = true)]
async fn a_host_name_goes_to_the_oldest_then_to_the_least_uid_and_never_by_namespace() {
    let store = MemoryStore::new();
    let cache = start(&store);
    for (namespace, name, second) in
        [("z", "old", 1), ("default", "b", 9), ("default", "a", 9), ("default", "younger", 5)]
    {
        put_instance(&store, &claim(namespace, name, second)).await;
    }
    // Of the same second, and by its key the last.
    let mut least = claim("z", "z", 9);
    least.metadata.uid = "uid-0".into();
    put_instance(&store, &least).await;
    let mut order = vec![];
    cache.wait_for(store.revision()).await;
    while let Some(owner) = cache.route("SHOP.example.com") {
        order.push(owner.metadata.name.clone());
        cache.wait_for(delete(&store, &crate::model::Resource::key(&*owner)).await).await;
    }
    assert_eq!(order, ["old", "younger", "z", "a", "b"]);
    assert!(cache.route("other.example.com").is_none());
}

#[tokio::test(start_paused = true)]
async fn who_loses_gets_or_waits_for_a_host_name_is_told_without_having_changed() {
    let store = MemoryStore::with_history(HistoryLimits { changes: 4, bytes: 1 << 20 });
    let cache = start(&store);
    for (name, second) in [("first", 1), ("second", 2), ("third", 3)] {
        put_instance(&store, &claim("a", name, second)).await;
    }
    cache.wait_for(store.revision()).await;
    let mut keys = cache.subscribe();
    while tokio::time::timeout(Duration::from_secs(1), keys.next()).await.is_ok() {}
    let told = async |keys: &mut Subscription| {
        cache.wait_for(store.revision()).await;
        let mut told = std::collections::BTreeSet::new();
        while let Ok(key) = tokio::time::timeout(Duration::from_secs(1), keys.next()).await {
            told.insert(key.name);
        }
        told.into_iter().collect::<Vec<_>>()
    };
    // A write that leaves the claims as they are is nobody else's business.
    let mut first = claim("a", "first", 1);
    first.status.node = "n1".into();
    put_instance(&store, &first).await;
    assert_eq!(told(&mut keys).await, ["first"]);
    // It gives the host up; then it wants it back.
    first.spec.routes[0].host = "elsewhere".into();
    put_instance(&store, &first).await;
    assert_eq!(told(&mut keys).await, ["first", "second", "third"]);
    put_instance(&store, &claim("a", "first", 1)).await;
    assert_eq!(told(&mut keys).await, ["first", "second", "third"]);
    // Who has it not can go without anybody's notice.
    delete(&store, &Key::instance("a", "third")).await;
    assert_eq!(told(&mut keys).await, ["third"]);
    // No await between these lets the cache run: it falls behind, and lists again.
    delete(&store, &Key::instance("a", "first")).await;
    for i in 0..20 {
        put_instance(&store, &instance("default", &format!("i{i}"))).await;
    }
    assert!(told(&mut keys).await.contains(&"second".to_owned()), "the new holder was not told after a new list");
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_object_stops_no_other_and_does_not_look_deleted() {
    let store = MemoryStore::new();
    put(&store, "instances/default/broken", r#"{"spec":{"ports":"none"}}"#).await;
    put_instance(&store, &instance("default", "alice")).await;
    let cache = start(&store);
    cache.ready().await;
    let (alice, broken) = (Key::instance("default", "alice"), Key::instance("default", "broken"));
    assert!(cache.instance(&alice).is_some());
    assert!(cache.instance(&broken).is_none() && cache.has_record(&broken));

    // One that could be read before keeps its last readable version.
    cache.wait_for(put(&store, &alice, "{").await).await;
    assert!(cache.instance(&alice).is_some() && cache.has_record(&alice));
    // An object under another's key is not taken for it.
    let eve = typed::encode(&instance("default", "eve"));
    cache.wait_for(put(&store, "instances/default/mallory", eve).await).await;
    assert!(cache.instance(&Key::instance("default", "mallory")).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_gets_every_key_and_repeats_are_merged() {
    let store = MemoryStore::new();
    put_instance(&store, &instance("default", "alice")).await;
    let cache = start(&store);
    cache.ready().await;
    let mut keys = cache.subscribe();
    assert_eq!(next(&mut keys).await.name, "alice");

    for i in 0..100 {
        put_instance(&store, &instance("default", if i % 2 == 0 { "alice" } else { "bob" })).await;
    }
    put(&store, "dockerhosts/h1", typed::encode(&DockerHost::default())).await;
    cache.wait_for(store.revision()).await;
    let got = [next(&mut keys).await, next(&mut keys).await, next(&mut keys).await].map(|k| k.name);
    assert_eq!(got, ["alice", "bob", "h1"]);
    let more = tokio::time::timeout(Duration::from_secs(60), keys.next()).await;
    assert!(more.is_err(), "an unchanged key came: {more:?}");
}

#[tokio::test(start_paused = true)]
async fn an_observer_follows_one_instance_through_deletion_and_rebirth() {
    let store = MemoryStore::new();
    let cache = start(&store);
    cache.ready().await;
    let key = Key::instance("default", "alice");
    let mut seen = cache.observe(&key);
    assert!(seen.borrow_and_update().is_none());
    put_instance(&store, &instance("default", "bob")).await;
    put_instance(&store, &instance("default", "alice")).await;
    seen.changed().await.unwrap();
    assert_eq!(seen.borrow_and_update().as_ref().unwrap().metadata.resource_version, "2");
    delete(&store, &key).await;
    seen.changed().await.unwrap();
    assert!(seen.borrow_and_update().is_none());

    drop(seen);
    cache.wait_for(put_instance(&store, &instance("default", "alice")).await).await;
    assert!(cache.observers.lock().unwrap().is_empty(), "an observer without a receiver was kept");
}

#[tokio::test(start_paused = true)]
async fn a_history_too_short_to_follow_is_made_up_by_listing_again() {
    let store = MemoryStore::with_history(HistoryLimits { changes: 4, bytes: 1 << 20 });
    let cache = start(&store);
    cache.ready().await;
    let mut keys = cache.subscribe();
    put_instance(&store, &instance("default", "gone")).await;
    cache.wait_for(store.revision()).await;
    assert_eq!(next(&mut keys).await.name, "gone");
    // No await between these lets the cache run: it falls behind.
    delete(&store, &Key::instance("default", "gone")).await;
    for i in 0..20 {
        put_instance(&store, &instance("default", &format!("i{i}"))).await;
    }
    cache.wait_for(store.revision()).await;
    assert_eq!(cache.instances().len(), 20);
    let mut told = vec![];
    for _ in 0..21 {
        told.push(next(&mut keys).await.name);
    }
    assert!(told.contains(&"gone".to_owned()), "the deletion was lost");
}

#[tokio::test(start_paused = true)]
async fn the_names_of_values_outlast_a_record_that_broke_and_a_new_list() {
    let store = MemoryStore::with_history(HistoryLimits { changes: 4, bytes: 1 << 20 });
    let settings = Key::new(crate::model::Kind::ConfigMap, "default", "settings");
    put(&store, &settings, r#"{"metadata":{"namespace":"default","name":"settings"},"data":{"mode":"x"}}"#).await;
    let cache = start(&store);
    cache.ready().await;
    put(&store, &settings, "[1]").await;
    // No await between these lets the cache run: it falls behind, and lists again.
    for i in 0..20 {
        put_instance(&store, &instance("default", &format!("i{i}"))).await;
    }
    cache.wait_for(store.revision()).await;
    assert!(
        cache.value_names(&settings).is_some_and(|names| names.contains("mode")),
        "{:?}",
        cache.value_names(&settings)
    );
    delete(&store, &settings).await;
    cache.wait_for(store.revision()).await;
    assert_eq!(cache.value_names(&settings), None);
}

#[derive(Clone, Debug)]
enum Step {
    Put { name: u8, node: u8, host: u8, created: i64 },
    Delete { name: u8 },
    Break { name: u8 },
    Settle,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..6u8, 0..3u8, 0..3u8, 0..3i64)
            .prop_map(|(name, node, host, created)| Step::Put { name, node, host, created }),
        2 => (0..6u8).prop_map(|name| Step::Delete { name }),
        1 => (0..6u8).prop_map(|name| Step::Break { name }),
        2 => Just(Step::Settle),
    ];
    proptest::collection::vec(step, 1..60)
}

fn key_of(name: u8) -> Key {
    Key::instance(if name.is_multiple_of(2) { "default" } else { "team" }, format!("i{name}"))
}

async fn cache_equals_store(steps: Vec<Step>) {
    let store = MemoryStore::with_history(HistoryLimits { changes: 8, bytes: 1 << 20 });
    let cache = start(&store);
    // What the cache should show: the last readable version of whatever has a record. A version that the cache never
    // came to see before it broke may also be missing, so let it see each one.
    let mut expected: BTreeMap<Key, Instance> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Put { name, node, host, created } => {
                let key = key_of(name);
                let mut i = created_at(instance(&key.namespace, &key.name), created);
                if node > 0 {
                    i.status.node = format!("n{node}");
                    i.status.ports = vec![BoundPort { name: "web".into(), host_port: 30000 + u16::from(name) }];
                }
                i.spec.routes =
                    vec![Route { host: format!("h{host}.{{domain}}"), paths: vec![], ..Default::default() }];
                let named = crate::model::SourceRef { name: format!("h{host}"), optional: false };
                i.spec.env_from = vec![crate::model::EnvFrom { secret_ref: Some(named), ..Default::default() }];
                let revision = put_instance(&store, &i).await;
                i.metadata.resource_version = revision.0.to_string();
                expected.insert(key, i);
            }
            Step::Delete { name } => {
                delete(&store, &key_of(name)).await;
                expected.remove(&key_of(name));
            }
            Step::Break { name } => {
                cache.wait_for(store.revision()).await;
                put(&store, key_of(name), "[1]").await;
            }
            Step::Settle => cache.wait_for(store.revision()).await,
        }
    }
    cache.wait_for(store.revision()).await;
    cache.ready().await;

    let shown: Vec<Instance> = cache.instances().iter().map(|i| (**i).clone()).collect();
    assert_eq!(shown, expected.values().cloned().collect::<Vec<_>>());
    for key in (0..6).map(key_of) {
        assert_eq!(cache.instance(&key).as_deref(), expected.get(&key), "{key}");
    }
    let listing = store.list(ListRequest::default()).await.unwrap();
    for record in &listing.records {
        assert!(cache.has_record(&record.key.parse().unwrap()), "{} has no record", record.key);
    }
    for node in ["n1", "n2"] {
        let scan: Vec<_> = expected.values().filter(|i| i.status.node == node).map(|i| &i.metadata.name).collect();
        let index = cache.on_node(node);
        assert_eq!(index.iter().map(|i| &i.metadata.name).collect::<Vec<_>>(), scan);
    }
    for host in ["h0", "h1", "h2"] {
        for namespace in ["default", "team"] {
            let source = Key::new(crate::model::Kind::Secret, namespace, host);
            let users = |i: &&Instance| i.metadata.namespace == namespace && i.spec.sources().any(|(_, n)| n == host);
            let scan: Vec<_> = expected.values().filter(users).map(|i| &i.metadata.name).collect();
            let index = cache.users_of(&source);
            assert_eq!(index.iter().map(|i| &i.metadata.name).collect::<Vec<_>>(), scan, "{source}");
        }
        let host = format!("{host}.example.com");
        let claims = expected.iter().filter(|(_, i)| i.resolved_routes("Example.com")[0].host == host);
        let best = claims
            .clone()
            .min_by_key(|(k, i)| (i.metadata.creation_timestamp, i.metadata.uid.clone(), (*k).clone()))
            .map(|(k, _)| k);
        for (key, claimant) in claims {
            let taken: Vec<String> = cache.taken(claimant).into_iter().map(|(host, _)| host).collect();
            let expected = if best == Some(key) { vec![] } else { vec![host.clone()] };
            assert_eq!(taken, expected, "{key}, while {best:?} has it");
        }
        assert_eq!(cache.route(&host).map(|i| i.metadata.name.clone()), best.map(|k| k.name.clone()), "{host}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn after_any_writes_the_cache_and_its_indexes_equal_the_store(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(cache_equals_store(steps));
    }
}
