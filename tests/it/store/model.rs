//! Random operations against the simplest possible store: both backends must agree with it, and so with each other.

use std::collections::BTreeMap;

use portreeve::store::{
    HistoryLimits, ListRequest, Op, Precondition, Record, Revision, SharedStore, SledOptions, SledStore, StoreError,
    Txn,
};
use proptest::prelude::*;

use super::Backend;

/// Every state that ever was.
#[derive(Default)]
struct Model {
    states: Vec<BTreeMap<String, Record>>,
}

impl Model {
    fn newest(&self) -> BTreeMap<String, Record> {
        self.states.last().cloned().unwrap_or_default()
    }

    fn txn(&mut self, txn: &Txn) -> Result<Revision, StoreError> {
        let mut state = self.newest();
        for condition in &txn.when {
            let (key, wanted) = match condition {
                Precondition::Absent { key } => (key, None),
                Precondition::Unchanged { key, modified } => (key, Some(*modified)),
            };
            let current = state.get(key);
            if current.map(|r| r.modified) != wanted {
                return Err(StoreError::Conflict { key: key.clone(), current: current.cloned().map(Box::new) });
            }
        }
        let revision = Revision(self.states.len() as u64 + 1);
        let before = state.clone();
        for op in &txn.then {
            match op {
                Op::Put { key, value } => {
                    let created = state.get(key).map_or(revision, |r| r.created);
                    let record = Record { key: key.as_str().into(), value: value.clone(), created, modified: revision };
                    state.insert(key.clone(), record);
                }
                Op::Delete { key } => {
                    state.remove(key);
                }
            }
        }
        if state != before {
            self.states.push(state);
        }
        Ok(Revision(self.states.len() as u64))
    }

    fn list(&self, request: &ListRequest) -> (Vec<Record>, usize) {
        let at = request.at.map_or(self.states.len(), |r| r.0 as usize);
        let empty = BTreeMap::new();
        let state = if at == 0 { &empty } else { &self.states[at - 1] };
        let mut all: Vec<Record> = state
            .values()
            .filter(|r| r.key.starts_with(&request.prefix) && request.after.as_deref().is_none_or(|a| &*r.key > a))
            .cloned()
            .collect();
        let whole = all.len();
        all.truncate(request.limit.unwrap_or(usize::MAX));
        if let Some(most) = request.bytes {
            let sums = all.iter().scan(0, |sum, r| Some(std::mem::replace(sum, *sum + r.value.len())));
            // One in any case, and further ones while those before are within the bound.
            let fit = sums.enumerate().take_while(|(n, before)| *n == 0 || *before < most).count();
            all.truncate(fit);
        }
        let rest = whole - all.len();
        (all, rest)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write { when: Vec<(u8, Option<u8>)>, then: Vec<(u8, Option<usize>)> },
    List { prefix: u8, after: Option<u8>, limit: Option<usize>, bytes: Option<usize>, back: Option<u64> },
    Reopen,
}

fn key(n: u8) -> String {
    format!("{}/{}", ["a", "b", "ab"][usize::from(n % 3)], n / 3)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![8 => 0..40usize, 1 => 32_000..34_000usize, 1 => 60_000..70_000usize];
    let write = (
        proptest::collection::vec((0..9u8, proptest::option::of(0..3u8)), 0..2),
        proptest::collection::btree_map(0..9u8, proptest::option::weighted(0.7, size), 0..4),
    );
    let limit = proptest::option::of(0..6usize);
    let bytes = proptest::option::weighted(0.3, 0..70_000usize);
    let list = (0..4u8, proptest::option::of(0..9u8), limit, bytes, proptest::option::of(0..6u64));
    let step = prop_oneof![
        8 => write.prop_map(|(when, then)| Step::Write { when, then: then.into_iter().collect() }),
        4 => list.prop_map(|(prefix, after, limit, bytes, back)| Step::List { prefix, after, limit, bytes, back }),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

async fn agrees(backend: &Backend, steps: &[Step]) -> Result<(), TestCaseError> {
    let open_sled = async || match backend {
        Backend::Sled(dir) => Some(SledStore::open(dir.path(), SledOptions::default()).await.unwrap()),
        Backend::Memory => None,
    };
    let mut on_disk = open_sled().await;
    let mut store: SharedStore = match &on_disk {
        Some(store) => store.clone(),
        None => backend.store(HistoryLimits::default()).await,
    };
    let mut model = Model::default();
    // History begins anew at each open.
    let mut floor = 0;
    let mut changes = store.watch("", Revision(0)).await.unwrap();
    let mut followed = Revision(0);
    for (n, step) in steps.iter().enumerate() {
        match step {
            Step::Write { when, then } => {
                let newest = model.newest();
                let when = when.iter().map(|(k, stale)| match (newest.get(&key(*k)), stale) {
                    // Mostly conditions that hold.
                    (Some(r), None | Some(1..)) => Precondition::Unchanged { key: key(*k), modified: r.modified },
                    (None, None | Some(1..)) => Precondition::Absent { key: key(*k) },
                    (_, Some(0)) => Precondition::Unchanged { key: key(*k), modified: Revision(1) },
                });
                let then = then.iter().map(|(k, size)| match size {
                    Some(size) => Op::Put { key: key(*k), value: vec![n as u8; *size].into() },
                    None => Op::Delete { key: key(*k) },
                });
                let txn = Txn { when: when.collect(), then: then.collect() };
                prop_assert_eq!(store.txn(txn.clone()).await, model.txn(&txn));
                let end = store.revision();
                while followed < end {
                    let change = changes.next().await.unwrap();
                    let state = &model.states[change.revision.0 as usize - 1];
                    prop_assert_eq!(change.now.as_ref(), state.get(&*change.key));
                    followed = change.revision;
                }
            }
            Step::List { prefix, after, limit, bytes, back } => {
                let newest = model.states.len() as u64;
                let request = ListRequest {
                    prefix: ["", "a", "a/", "b/"][usize::from(*prefix)].into(),
                    after: after.map(key),
                    limit: *limit,
                    bytes: *bytes,
                    at: back.map(|b| Revision(newest.saturating_sub(b).max(floor))),
                    count: true,
                };
                let listing = store.list(request.clone()).await.unwrap();
                prop_assert_eq!(listing.more, listing.remaining != Some(0));
                let (records, remaining) = model.list(&request);
                prop_assert_eq!((listing.records, listing.remaining), (records, Some(remaining)), "{:?}", request);
            }
            Step::Reopen => {
                let Some(open) = on_disk.take() else { continue };
                open.close().await;
                drop((open, store));
                on_disk = open_sled().await;
                store = on_disk.clone().expect("a store on disk");
                floor = model.states.len() as u64;
                prop_assert_eq!(store.revision(), Revision(floor));
                changes = store.watch("", Revision(floor)).await.unwrap();
                let whole = ListRequest::default();
                prop_assert_eq!(store.list(whole.clone()).await.unwrap().records, model.list(&whole).0);
            }
        }
    }
    Ok(())
}

fn run(backend: &Backend, steps: &[Step]) -> Result<(), TestCaseError> {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(agrees(backend, steps))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]
    #[test]
    fn memory_agrees_with_the_model(steps in steps()) {
        run(&Backend::Memory, &steps)?;
    }
}

proptest! {
    // Every case opens a store on disk, some of them several times.
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]
    #[test]
    fn sled_agrees_with_the_model(steps in steps()) {
        run(&Backend::sled(), &steps)?;
    }
}
