//! Dependents of what is deleted, with the real collector, in virtual time: whoever names nobody that is left goes, in the
//! order that was asked for, and nobody else; whenever the collector dies on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use portreeve::cache::Cache;
use portreeve::clock::VirtualClock;
use portreeve::controllers::garbage;
use portreeve::controllers::recorder::Recorder;
use portreeve::model::Kind;
use portreeve::store::removal::{Cascade, removal};
use portreeve::store::{ListRequest, MemoryStore, Op, SharedStore, Txn};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::sim::in_virtual_time;
use crate::support::faulty_store::{Fault, FaultyStore};
use crate::support::sim_engine::fault::Rng;

const NOW: &str = "2026-01-01T00:00:00Z";
/// In virtual time: long after everything is done.
const LATER: Duration = Duration::from_secs(600);

struct World {
    store: SharedStore,
    collector: CancellationToken,
}

impl World {
    fn new() -> World {
        World { store: MemoryStore::new(), collector: CancellationToken::new() }
    }

    /// Starts a collector, over the store or something before it.
    fn start(&mut self, store: SharedStore) {
        let (clock, cache) = (VirtualClock::new(), Cache::new("localhost"));
        let shutdown = CancellationToken::new();
        let recorder = Arc::new(Recorder::new(store.clone(), clock.clone()).0);
        tokio::spawn(cache.clone().run(store.clone(), shutdown.clone()));
        tokio::spawn(garbage::run(store, cache, clock, recorder, shutdown.clone()));
        std::mem::replace(&mut self.collector, shutdown).cancel();
    }

    async fn put(&self, key: &str, value: &Value) {
        let op = Op::Put { key: key.into(), value: value.to_string().into() };
        self.store.txn(Txn { when: vec![], then: vec![op] }).await.unwrap();
    }

    /// A ConfigMap with owners of its kind.
    async fn make(&self, name: &str, owners: &[&str]) {
        self.make_as("configmaps/default", name, &owners.iter().map(|o| named(o)).collect::<Vec<_>>(), &[]).await;
    }

    async fn make_as(&self, place: &str, name: &str, owners: &[Value], finalizers: &[&str]) {
        let namespace = place.split_once('/').map(|(_, namespace)| namespace);
        let metadata = json!({
            "name": name, "namespace": namespace, "uid": format!("uid-{name}"), "ownerReferences": owners,
            "finalizers": finalizers,
        });
        self.put(&format!("{place}/{name}"), &json!({"metadata": metadata})).await;
    }

    async fn get(&self, key: &str) -> Option<Value> {
        self.store.get(key).await.unwrap().map(|record| serde_json::from_slice(&record.value).unwrap())
    }

    /// As the API deletes.
    async fn delete(&self, key: &str, cascade: Cascade) {
        let record = self.store.get(key).await.unwrap().expect("it is there");
        let op = removal(&record, NOW, Some(cascade)).unwrap().op;
        self.store.txn(Txn { when: vec![], then: op.into_iter().collect() }).await.unwrap();
    }

    /// What there is, and whom it names.
    async fn all(&self) -> BTreeMap<String, BTreeSet<String>> {
        let records = self.store.list(ListRequest::default()).await.unwrap().records;
        let named = |record: &portreeve::store::Record| {
            let object: Value = serde_json::from_slice(&record.value).unwrap();
            let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array).cloned();
            owners.into_iter().flatten().map(|o| o["name"].as_str().unwrap().to_owned()).collect()
        };
        let name = |key: &str| key.rsplit('/').next().unwrap().to_owned();
        records.iter().map(|record| (name(&record.key), named(record))).collect()
    }

    async fn names(&self) -> Vec<String> {
        tokio::time::sleep(LATER).await;
        self.all().await.into_keys().collect()
    }
}

/// A reference to a ConfigMap that blocks it.
fn named(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": format!("uid-{name}"), "blockOwnerDeletion": true})
}

#[test]
fn what_names_only_who_is_gone_goes_and_all_that_it_has() {
    in_virtual_time(|| async {
        let mut world = World::new();
        world.start(world.store.clone());
        world.make("a", &[]).await;
        world.make("b", &["a"]).await;
        world.make("c", &["b"]).await;
        world.make("shared", &["a", "other"]).await;
        world.make("other", &[]).await;
        world.make("bystander", &[]).await;
        assert_eq!(world.names().await, ["a", "b", "bystander", "c", "other", "shared"]);
        world.delete("configmaps/default/a", Cascade::Background).await;
        assert_eq!(world.names().await, ["bystander", "other", "shared"]);
        assert_eq!(world.all().await["shared"], ["other".to_owned()].into(), "who is gone is forgotten");
    });
}

#[test]
fn an_owner_that_nothing_can_be_known_of_counts_as_there() {
    in_virtual_time(|| async {
        let mut world = World::new();
        world.start(world.store.clone());
        let owner = |api: &str, kind: &str, name: &str, uid: &str| json!({"apiVersion": api, "kind": kind, "name": name, "uid": uid});
        let place = "secrets/default";
        world.make("a", &[]).await;
        world.make_as(place, "foreign", &[owner("apps/v1", "Deployment", "web", "1")], &[]).await;
        world.make_as(place, "pods", &[owner("v1", "Pod", "a", "1")], &[]).await;
        world.make_as(place, "another-version", &[owner("portreeve.dev/v2", "Instance", "a", "1")], &[]).await;
        world.make_as(place, "mine", &[owner("v1", "ConfigMap", "a", "uid-a")], &[]).await;
        world.make_as(place, "of-its-predecessor", &[owner("v1", "ConfigMap", "a", "uid-z")], &[]).await;
        world.make_as("secrets/elsewhere", "abroad", &[owner("v1", "ConfigMap", "a", "uid-a")], &[]).await;
        // Nobody's host goes because of a reference.
        world.make_as("dockerhosts", "h1", &[owner("v1", "Namespace", "none", "1")], &[]).await;
        world.make_as("dockerhosts", "h2", &[owner("v1", "ConfigMap", "a", "1")], &[]).await;
        world.make_as(place, "on-host", &[owner("portreeve.dev/v1", "DockerHost", "h1", "uid-h1")], &[]).await;
        let left = ["a", "another-version", "foreign", "h1", "h2", "mine", "on-host", "pods"];
        assert_eq!(world.names().await, left, "an owner in another namespace is none");
    });
}

#[test]
fn in_the_foreground_an_owner_outlives_those_that_block_it() {
    in_virtual_time(|| async {
        let mut world = World::new();
        world.start(world.store.clone());
        world.make("a", &[]).await;
        world.make_as("configmaps/default", "child", &[named("a")], &["example.com/slow"]).await;
        world.make("grandchild", &["child"]).await;
        let mut loose = named("a");
        loose["blockOwnerDeletion"] = json!(false);
        world.make_as("configmaps/default", "loose", &[loose], &["example.com/slow"]).await;
        world.delete("configmaps/default/a", Cascade::Foreground).await;
        assert_eq!(world.names().await, ["a", "child", "loose"], "what a child has goes before it");
        let child = world.get("configmaps/default/child").await.unwrap();
        assert!(child["metadata"]["deletionTimestamp"].is_string(), "{child}");
        assert_eq!(child["metadata"]["finalizers"], json!(["example.com/slow"]), "its own dependents are gone");

        // As whoever holds it lets go of it.
        world.delete("configmaps/default/child", Cascade::Background).await;
        let key = "configmaps/default/child".to_owned();
        world.store.txn(Txn { when: vec![], then: vec![Op::Delete { key }] }).await.unwrap();
        assert_eq!(world.names().await, ["loose"], "who does not block is not waited for");
    });
}

#[test]
fn those_that_own_one_another_all_go() {
    in_virtual_time(|| async {
        let mut world = World::new();
        world.start(world.store.clone());
        for (name, owner) in [("a", "c"), ("b", "a"), ("c", "b")] {
            world.make(name, &[owner]).await;
        }
        world.delete("configmaps/default/a", Cascade::Foreground).await;
        assert!(world.names().await.is_empty());
    });
}

/// What is to be left: a fixed point, found by another way than the collector's.
#[derive(Default)]
struct Model(BTreeMap<String, BTreeSet<String>>);

impl Model {
    fn delete(&mut self, name: &str, cascade: Cascade) {
        self.0.remove(name);
        if cascade == Cascade::Orphan {
            self.0.values_mut().for_each(|owners| {
                owners.remove(name);
            });
        }
        loop {
            let left: BTreeSet<String> = self.0.keys().cloned().collect();
            let lost = self.0.iter().find(|(_, owners)| !owners.is_empty() && owners.is_disjoint(&left));
            let Some(lost) = lost.map(|(name, _)| name.clone()) else {
                self.0.values_mut().for_each(|owners| owners.retain(|o| left.contains(o)));
                return;
            };
            self.0.remove(&lost);
        }
    }
}

#[test]
fn whatever_is_deleted_and_whenever_the_collector_dies_what_is_left_is_the_same() {
    for seed in 0..200 {
        in_virtual_time(|| async move {
            let mut rng = Rng::new(seed);
            let mut world = World::new();
            let mut model = Model::default();
            for n in 0..2 + rng.below(12) {
                let owners: BTreeSet<String> = model.0.keys().filter(|_| rng.below(n) < 2).cloned().collect();
                let name = format!("n{n:02}");
                world.make(&name, &owners.iter().map(String::as_str).collect::<Vec<_>>()).await;
                model.0.insert(name, owners);
            }
            while !model.0.is_empty() {
                let faulty = FaultyStore::over(world.store.clone());
                let fault = [Fault::Refused, Fault::AnswerLost, Fault::Halt][rng.below(3) as usize];
                faulty.plan("", rng.below(4), fault);
                world.start(faulty);
                let name = &model.0.keys().nth(rng.below(model.0.len() as u64) as usize).unwrap().clone();
                let cascade = [Cascade::Background, Cascade::Foreground, Cascade::Orphan][rng.below(3) as usize];
                world.delete(&format!("configmaps/default/{name}"), cascade).await;
                model.delete(name, cascade);
                tokio::time::sleep(LATER).await;
                // After its death another one.
                world.start(world.store.clone());
                tokio::time::sleep(LATER).await;
                assert_eq!(world.all().await, model.0, "seed {seed}: {name} was deleted, {cascade:?}");
            }
        });
    }
}

#[test]
fn every_kind_that_is_in_a_namespace_is_collected_but_events() {
    in_virtual_time(|| async {
        let mut world = World::new();
        let places = Kind::all().filter(|kind| kind.info().namespaced).map(|kind| kind.prefix(Some("default")));
        let places: Vec<String> = places.map(|prefix| prefix.trim_end_matches('/').to_owned()).collect();
        for (n, place) in places.iter().enumerate() {
            world.make_as(place, &format!("{n}"), &[named("nobody")], &[]).await;
        }
        world.start(world.store.clone());
        tokio::time::sleep(LATER).await;
        let left = world.store.list(ListRequest::default()).await.unwrap().records;
        let left: Vec<_> = left.iter().map(|record| record.key.split('/').next().unwrap().to_owned()).collect();
        assert_eq!(left, ["events"]);
    });
}
