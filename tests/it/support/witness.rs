//! Watches every commit, and holds each to what must never be: more promised of a host than it has, or one port, one
//! subnet or one GPU of a host to two. Reckoned by itself, by plain sums over all that is bound to a host.

use std::collections::{BTreeMap, BTreeSet};

use portreeve::model::{DockerHost, Instance, Kind, Resource};
use portreeve::store::{SharedStore, StoreError, Watch, typed};
use tokio::task::JoinHandle;

pub struct Witness(JoinHandle<Seen>);

/// What came to be at the same time at most, of any host.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub commits: u64,
    /// Bytes.
    pub memory: i64,
    pub instances: usize,
}

impl Witness {
    /// Of what is committed from now on.
    pub async fn of(store: &SharedStore) -> Witness {
        let mut watch = store.watch(&Kind::Instance.prefix(None), store.revision()).await.expect("a watch");
        let store = store.clone();
        Witness(tokio::spawn(async move {
            let mut seen = Seen::default();
            let mut bound: BTreeMap<String, BTreeMap<String, Instance>> = BTreeMap::new();
            let mut nodes: BTreeMap<String, String> = BTreeMap::new();
            loop {
                let change = match next(&mut *watch).await {
                    Some(change) => change,
                    None => return seen,
                };
                let key = change.key.to_string();
                if let Some(node) = nodes.remove(&key) {
                    bound.entry(node).or_default().remove(&key);
                }
                let Some(record) = change.now else { continue };
                let instance: Instance = typed::decode(&record).expect("an instance");
                if key == END {
                    return seen;
                }
                let node = instance.status.node.clone();
                if node.is_empty() {
                    continue;
                }
                nodes.insert(key.clone(), node.clone());
                let there = bound.entry(node.clone()).or_default();
                there.insert(key, instance);
                let host =
                    typed::get::<DockerHost>(&*store, &portreeve::model::Key::host(&node)).await.expect("a read");
                let (memory, count) = check(&host.expect("it has a record"), there);
                seen.commits += 1;
                seen.memory = seen.memory.max(memory);
                seen.instances = seen.instances.max(count);
            }
        }))
    }

    /// Up to now; panics when it has seen what must not be.
    pub async fn end(self, store: &SharedStore) -> Seen {
        let last: Instance = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "end", "namespace": "witness"}, "spec": {"image": "x", "power": "Stopped"},
        }))
        .expect("an instance");
        assert_eq!(last.key().to_string(), END);
        typed::create(&**store, &last).await.expect("a write");
        self.0.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
    }
}

/// Tells the witness that no more comes.
const END: &str = "instances/witness/end";

async fn next(watch: &mut dyn Watch) -> Option<portreeve::store::Change> {
    match watch.next().await {
        Ok(change) => Some(change),
        Err(StoreError::Compacted { .. }) => panic!("the witness fell behind"),
        Err(e) => panic!("{e}"),
    }
}

fn check(host: &DockerHost, there: &BTreeMap<String, Instance>) -> (i64, usize) {
    let name = &host.metadata.name;
    let held = there.values().filter_map(|i| i.status.allocated_resources.as_ref());
    let (memory, cpu) = held.fold((0, 0), |(memory, cpu), h| (memory + h.memory.value(), cpu + h.cpu.milli()));
    let most = (host.memory_limit().expect("known"), host.cpu_limit().expect("known"));
    assert!(i128::from(memory) <= most.0, "{name} has promised {memory} bytes of {}: {there:#?}", most.0);
    assert!(i128::from(cpu) <= most.1, "{name} has promised {cpu} thousandths of a core of {}: {there:#?}", most.1);
    assert!(there.len() as i64 <= host.status.capacity.most_instances(), "{name} has {} instances", there.len());
    let mut taken = BTreeSet::new();
    for (key, instance) in there {
        let status = &instance.status;
        let ports = status.ports.iter().map(|p| format!("port {}", p.host_port));
        let gpus = status.gpus.iter().map(|gpu| format!("GPU {gpu}"));
        let subnet = (!status.subnet.is_empty()).then(|| format!("subnet {}", status.subnet));
        for what in ports.chain(gpus).chain(subnet) {
            assert!(taken.insert(what.clone()), "{what} of {name} is bound twice, to {key} as well");
        }
    }
    (memory, there.len())
}
