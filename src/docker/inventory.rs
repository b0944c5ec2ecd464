//! What was last listed on each host: hints, from which keys are woken and strays are found. Never a base for an
//! effect by itself: whoever acts looks at the daemon again.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::engine::{ContainerSummary, NetworkInfo, RunState};
use super::labels;
use crate::model::Key;

/// Everything of ours on one host, as of one listing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostInventory {
    pub containers: Vec<ContainerSummary>,
    pub networks: Vec<NetworkInfo>,
}

/// Something on a host that an instance's key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub host: String,
    pub uid: String,
    /// Container id, or network name.
    pub id: String,
    pub kind: SightingKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SightingKind {
    Container,
    Network,
}

/// One listing per host, the newest; and all of them by instance, as every reconcile asks. Of a listing only what is asked
/// for is kept: of a large fleet it is a large part of all memory.
#[derive(Debug, Default)]
pub struct Inventory {
    state: Mutex<State>,
}

/// Invariant: `by_key` has just the hosts whose part of `hosts` has the key, in the order of their names.
#[derive(Debug, Default)]
struct State {
    hosts: BTreeMap<Arc<str>, Parts>,
    by_key: HashMap<Key, Vec<Arc<str>>>,
}

type Parts = BTreeMap<Key, Part>;

/// What a listing shows of one instance, in the order of ids.
#[derive(Debug, Default, PartialEq)]
struct Part {
    containers: Box<[Seen]>,
    networks: Box<[Seen]>,
}

#[derive(Debug, PartialEq)]
struct Seen {
    id: Box<str>,
    /// `None`: the name that it should have.
    name: Option<Box<str>>,
    uid: Box<str>,
    state: RunState,
}

impl State {
    fn put(&mut self, host: &str, new: Parts) -> Vec<Key> {
        let (host, old) = self.hosts.remove_entry(host).unwrap_or_else(|| (host.into(), Parts::new()));
        for key in old.keys().filter(|key| !new.contains_key(key)) {
            if let Entry::Occupied(mut hosts) = self.by_key.entry(key.clone()) {
                hosts.get_mut().retain(|other| *other != host);
                if hosts.get().is_empty() {
                    hosts.remove();
                }
            }
        }
        for key in new.keys().filter(|key| !old.contains_key(key)) {
            let hosts = self.by_key.entry(key.clone()).or_default();
            let at = hosts.partition_point(|other| *other < host);
            hosts.insert(at, host.clone());
        }
        let gone = old.keys().filter(|key| !new.contains_key(key));
        let mut changed: Vec<Key> =
            gone.chain(new.keys().filter(|key| old.get(key) != new.get(key))).cloned().collect();
        changed.sort();
        if !new.is_empty() {
            self.hosts.insert(host, new);
        }
        changed
    }
}

impl Inventory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a new listing; returns the instances whose part of it changed.
    pub fn replace(&self, host: &str, new: HostInventory) -> Vec<Key> {
        let new = parts(&new);
        self.state().put(host, new)
    }

    /// Every instance that the host's last listing shows something of.
    pub fn keys(&self, host: &str) -> Vec<Key> {
        self.state().hosts.get(host).map_or_else(Vec::new, |parts| parts.keys().cloned().collect())
    }

    /// A container of ours that ran there when it was last listed: the next behind `last`, in the order of their ids.
    pub fn running(&self, host: &str, last: &str) -> Option<String> {
        let state = self.state();
        let parts = state.hosts.get(host)?;
        let running = || parts.values().flat_map(|part| &part.containers).filter(|c| c.state == RunState::Running);
        let ids = || running().map(|c| &*c.id);
        ids().filter(|id| *id > last).min().or_else(|| ids().min()).map(str::to_owned)
    }

    /// Whether an instance's containers that ran or were paused there when it was last listed are just these, all in this
    /// state.
    pub fn is_just(&self, host: &str, key: &Key, wanted: RunState, ids: &[&str]) -> bool {
        let all = self.state();
        let part = all.hosts.get(host).and_then(|parts| parts.get(key));
        let containers = part.into_iter().flat_map(|part| &part.containers);
        let alive = containers.filter(|c| matches!(c.state, RunState::Running | RunState::Paused));
        alive.map(|c| (c.state, &*c.id)).eq(ids.iter().map(|id| (wanted, *id)))
    }

    /// Whether none of an instance's containers ran or was paused there when it was last listed.
    pub fn rests(&self, host: &str, key: &Key) -> bool {
        self.is_just(host, key, RunState::Paused, &[])
    }

    pub fn forget(&self, host: &str) {
        self.state().put(host, Parts::new());
    }

    /// All that was last seen, on any host, under an instance's name.
    pub fn sightings(&self, key: &Key) -> Vec<Sighting> {
        let state = self.state();
        let mut all = vec![];
        for host in state.by_key.get(key).into_iter().flatten() {
            let Some(part) = state.hosts.get(host).and_then(|parts| parts.get(key)) else { continue };
            let sighting = |seen: &Seen, id: String, kind| Sighting {
                host: (**host).to_owned(),
                uid: (*seen.uid).to_owned(),
                id,
                kind,
            };
            let containers = part.containers.iter();
            all.extend(containers.map(|c| sighting(c, (*c.id).to_owned(), SightingKind::Container)));
            all.extend(part.networks.iter().map(|n| {
                let name = n.name.as_deref().map_or_else(|| labels::object_name(key), str::to_owned);
                sighting(n, name, SightingKind::Network)
            }));
        }
        all
    }
}

fn parts(inventory: &HostInventory) -> Parts {
    let mut lists: BTreeMap<Key, (Vec<Seen>, Vec<Seen>)> = BTreeMap::new();
    let seen = |key: &Key, id: &str, name: &str, labels: &BTreeMap<String, String>, state| Seen {
        id: id.into(),
        name: (name != labels::object_name(key)).then(|| name.into()),
        uid: labels.get(labels::UID).map_or("", String::as_str).into(),
        state,
    };
    for c in &inventory.containers {
        if let Some(key) = labels::instance_key(&c.labels) {
            let seen = seen(&key, &c.id, &c.name, &c.labels, c.state);
            lists.entry(key).or_default().0.push(seen);
        }
    }
    for n in &inventory.networks {
        if let Some(key) = labels::instance_key(&n.labels) {
            let seen = seen(&key, &n.id, &n.name, &n.labels, RunState::default());
            lists.entry(key).or_default().1.push(seen);
        }
    }
    let in_order = |mut all: Vec<Seen>| {
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all.into_boxed_slice()
    };
    let part = |(containers, networks)| Part { containers: in_order(containers), networks: in_order(networks) };
    lists.into_iter().map(|(key, lists)| (key, part(lists))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn container(name: &str, id: &str, state: RunState) -> ContainerSummary {
        let key = Key::instance("default", name);
        ContainerSummary {
            id: id.into(),
            name: labels::object_name(&key),
            labels: labels::owner_labels("c", &key, "u"),
            state,
        }
    }

    #[test]
    fn only_what_changed_is_told() {
        let inventory = Inventory::default();
        let a = container("a", "1", RunState::Running);
        let b = container("b", "2", RunState::Running);
        let listing = |containers: Vec<_>| HostInventory { containers, networks: vec![] };
        assert_eq!(inventory.replace("h", listing(vec![a.clone(), b.clone()])).len(), 2);
        assert_eq!(inventory.replace("h", listing(vec![b.clone(), a.clone()])), []);
        let died = container("b", "2", RunState::Exited);
        assert_eq!(inventory.replace("h", listing(vec![a.clone(), died])), [Key::instance("default", "b")]);
        assert_eq!(inventory.replace("h", listing(vec![a.clone()])), [Key::instance("default", "b")]);
        assert_eq!(inventory.sightings(&Key::instance("default", "a"))[0].id, "1");
        let listing = |containers: Vec<_>| HostInventory { containers, networks: vec![] };
        inventory.replace(
            "h",
            listing(vec![container("b", "2", RunState::Running), a.clone(), container("c", "0", RunState::Exited)]),
        );
        let after = |last: &str| inventory.running("h", last);
        assert_eq!(
            (after("").as_deref(), after("1").as_deref(), after("2").as_deref()),
            (Some("1"), Some("2"), Some("1"))
        );
        assert_eq!(inventory.running("other", ""), None);
        let runs =
            |name: &str, ids: &[&str]| inventory.is_just("h", &Key::instance("default", name), RunState::Running, ids);
        assert!(runs("a", &["1"]) && !runs("a", &[]) && !runs("a", &["2"]) && runs("c", &[]) && runs("nobody", &[]));
        inventory.forget("h");
        assert!(inventory.sightings(&Key::instance("default", "a")).is_empty());
    }

    proptest! {
        /// Whatever is listed and forgotten, and in what order: the index shows what a search of the listings would.
        #[test]
        fn the_index_shows_just_what_was_last_listed(
            steps in proptest::collection::vec((0usize..3, proptest::option::of(proptest::collection::vec(0usize..5, 0..6))), 0..12)
        ) {
            let inventory = Inventory::default();
            let mut listed: BTreeMap<String, Vec<(Key, String)>> = BTreeMap::new();
            for (step, (host, names)) in steps.into_iter().enumerate() {
                let host = format!("h{host}");
                let Some(names) = names else {
                    inventory.forget(&host);
                    listed.remove(&host);
                    continue;
                };
                let containers: Vec<_> = names
                    .iter()
                    .enumerate()
                    .map(|(i, n)| container(&format!("n{n}"), &format!("{host}-{step}-{i}"), RunState::Running))
                    .collect();
                let seen = containers.iter().map(|c| (labels::instance_key(&c.labels).unwrap(), c.id.clone())).collect();
                listed.insert(host.clone(), seen);
                inventory.replace(&host, HostInventory { containers, networks: vec![] });
            }
            for n in 0..5 {
                let key = Key::instance("default", format!("n{n}"));
                let found: Vec<_> = inventory.sightings(&key).into_iter().map(|s| (s.host, s.id)).collect();
                let all = listed.iter().flat_map(|(host, seen)| seen.iter().map(move |(of, id)| (of, host, id)));
                let mut expected: Vec<_> =
                    all.filter(|(of, ..)| **of == key).map(|(_, host, id)| (host.clone(), id.clone())).collect();
                expected.sort();
                prop_assert_eq!(found, expected);
            }
            let known: BTreeSet<&Key> = listed.values().flatten().map(|(key, _)| key).collect();
            prop_assert_eq!(inventory.state().by_key.len(), known.len(), "an instance that is gone is left in the index");
        }
    }
}
