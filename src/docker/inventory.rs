//! What was last listed on each host: hints, from which keys are woken and strays are found. Never a base for an
//! effect by itself: whoever acts looks at the daemon again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

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

/// One listing per host, the newest.
#[derive(Debug, Default)]
pub struct Inventory {
    hosts: Mutex<BTreeMap<String, HostInventory>>,
}

impl Inventory {
    /// Takes in a new listing; returns the instances whose part of it changed.
    pub fn replace(&self, host: &str, new: HostInventory) -> Vec<Key> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let old = hosts.insert(host.to_owned(), new).unwrap_or_default();
        let new = &hosts[host];
        changed(&old, new).into_iter().collect()
    }

    /// Every instance that the host's last listing shows something of.
    pub fn keys(&self, host: &str) -> Vec<Key> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(host).map_or_else(Vec::new, |inventory| parts(inventory).into_keys().collect())
    }

    pub fn forget(&self, host: &str) {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    /// All that was last seen, on any host, under an instance's name.
    pub fn sightings(&self, key: &Key) -> Vec<Sighting> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = vec![];
        for (host, inventory) in hosts.iter() {
            let containers = inventory.containers.iter().map(|c| (&c.labels, &c.id, SightingKind::Container));
            let networks = inventory.networks.iter().map(|n| (&n.labels, &n.name, SightingKind::Network));
            for (labels, id, kind) in containers.chain(networks) {
                if labels::speak_of(labels, key) {
                    let uid = labels.get(labels::UID).cloned().unwrap_or_default();
                    found.push(Sighting { host: host.clone(), uid, id: id.clone(), kind });
                }
            }
        }
        found
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
}
