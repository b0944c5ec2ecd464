//! What was last listed on each host: hints, from which keys are woken and strays are found. Never a base for an
//! effect by itself: whoever acts looks at the daemon again.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// One listing per host, the newest; and all of them by instance, as every reconcile asks.
#[derive(Debug, Default)]
pub struct Inventory {
    state: Mutex<State>,
}

/// Invariant: `by_key` has just the sightings of `hosts`, those of a key in the order of their hosts' names.
#[derive(Debug, Default)]
struct State {
    hosts: BTreeMap<String, HostInventory>,
    by_key: HashMap<Key, Vec<Sighting>>,
}

impl State {
    fn take_out(&mut self, host: &str) -> HostInventory {
        let old = self.hosts.remove(host).unwrap_or_default();
        for key in parts(&old).into_keys() {
            if let Entry::Occupied(mut seen) = self.by_key.entry(key) {
                seen.get_mut().retain(|sighting| sighting.host != host);
                if seen.get().is_empty() {
                    seen.remove();
                }
            }
        }
        old
    }

    fn put_in(&mut self, host: &str, new: HostInventory) {
        let containers = new.containers.iter().map(|c| (&c.labels, &c.id, SightingKind::Container));
        let networks = new.networks.iter().map(|n| (&n.labels, &n.name, SightingKind::Network));
        for (labels, id, kind) in containers.chain(networks) {
            let Some(key) = labels::instance_key(labels) else { continue };
            let uid = labels.get(labels::UID).cloned().unwrap_or_default();
            let seen = self.by_key.entry(key).or_default();
            let at = seen.partition_point(|other| other.host.as_str() <= host);
            seen.insert(at, Sighting { host: host.to_owned(), uid, id: id.clone(), kind });
        }
        self.hosts.insert(host.to_owned(), new);
    }
}

impl Inventory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a new listing; returns the instances whose part of it changed.
    pub fn replace(&self, host: &str, new: HostInventory) -> Vec<Key> {
        let mut state = self.state();
        let old = state.take_out(host);
        let changed = changed(&old, &new).into_iter().collect();
        state.put_in(host, new);
        changed
    }

    /// Every instance that the host's last listing shows something of.
    pub fn keys(&self, host: &str) -> Vec<Key> {
        self.state().hosts.get(host).map_or_else(Vec::new, |inventory| parts(inventory).into_keys().collect())
    }

    pub fn forget(&self, host: &str) {
        self.state().take_out(host);
    }

    /// All that was last seen, on any host, under an instance's name.
    pub fn sightings(&self, key: &Key) -> Vec<Sighting> {
        self.state().by_key.get(key).cloned().unwrap_or_default()
    }
}

type Part<'a> = (Vec<(&'a str, &'a str, RunState)>, Vec<&'a str>);

fn parts(inventory: &HostInventory) -> BTreeMap<Key, Part<'_>> {
    let mut parts: BTreeMap<Key, Part<'_>> = BTreeMap::new();
    for c in &inventory.containers {
        if let Some(key) = labels::instance_key(&c.labels) {
            parts.entry(key).or_default().0.push((&c.id, &c.name, c.state));
        }
    }
    for n in &inventory.networks {
        if let Some(key) = labels::instance_key(&n.labels) {
            parts.entry(key).or_default().1.push(&n.id);
        }
    }
    for (containers, networks) in parts.values_mut() {
        containers.sort_by_key(|(id, ..)| *id);
        networks.sort();
    }
    parts
}

fn changed(old: &HostInventory, new: &HostInventory) -> BTreeSet<Key> {
    let (old, new) = (parts(old), parts(new));
    old.keys().chain(new.keys()).filter(|key| old.get(*key) != new.get(*key)).cloned().collect()
}

#[cfg(test)]
mod tests {
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
        assert_eq!(inventory.replace("h", listing(vec![a])), [Key::instance("default", "b")]);
        assert_eq!(inventory.sightings(&Key::instance("default", "a"))[0].id, "1");
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
                let expected: Vec<_> =
                    all.filter(|(of, ..)| **of == key).map(|(_, host, id)| (host.clone(), id.clone())).collect();
                prop_assert_eq!(found, expected);
            }
            let known: BTreeSet<&Key> = listed.values().flatten().map(|(key, _)| key).collect();
            prop_assert_eq!(inventory.state().by_key.len(), known.len(), "an instance that is gone is left in the index");
        }
    }
}
