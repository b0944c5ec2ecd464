//! What the cache shows: the decoded objects and the indexes over them.
//!
//! Pure: [`super::feed`] applies records to it, readers look things up. The indexes are kept in step by taking an
//! object's old entries out and putting its new ones in.

use std::borrow::{Borrow, Cow};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use crate::model::{ConfigMap, DockerHost, Instance, Key, Kind, ObjectMeta, Resource, SealedSecret, Time};
use crate::store::removal::{FOREGROUND_FINALIZER, ORPHAN_FINALIZER};
use crate::store::{Record, Revision, typed};

pub(super) struct View {
    domain: String,
    /// Every object in the store by the revision that last wrote it, of every kind, readable or not.
    known: HashMap<Key, Revision>,
    /// In order. One of many is found sooner in `by_key`.
    instances: BTreeMap<Key, Arc<Instance>>,
    /// The same: each request looks its instance up, and a tree of many is searched through one cold name after another.
    by_key: HashMap<Key, Arc<Instance>>,
    hosts: BTreeMap<String, Arc<DockerHost>>,
    /// The names of the values of Secrets and ConfigMaps: what is needed to know whether a reference leads somewhere.
    sources: HashMap<Key, Arc<BTreeSet<String>>>,
    by_node: HashMap<String, BTreeSet<Key>>,
    /// Who names a Secret or ConfigMap, whether it is there or not.
    by_source: HashMap<Key, BTreeSet<Key>>,
    by_route: HashMap<String, BTreeSet<Claim>>,
    /// Of objects that have any.
    bonds: HashMap<Key, Bond>,
    /// Who names an object as their owner, whether it is there or not.
    by_owner: HashMap<Key, BTreeSet<Key>>,
}

/// What ties an object to others.
#[derive(Default, PartialEq, Eq)]
struct Bond {
    /// Those that it names; their uids are not looked at.
    owners: BTreeSet<Key>,
    /// Whether it is being deleted and waits for what is done about its dependents.
    waits: bool,
}

/// An instance's claim on a host name; the least of them has it. Nothing that its owner could choose: whoever was there
/// first keeps what others come to claim later.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    /// One without a time, which the API never stores, loses to all others.
    created: (bool, Option<Time>),
    uid: String,
    key: Key,
}

/// The claims of one instance: on which hosts.
type Claims = (Claim, BTreeSet<String>);

/// A record as the view takes it in. Reading is most of the work, so it is done before the view is held.
pub(super) struct Read {
    modified: Revision,
    /// `None` of a kind that nobody reads from the cache (its keys are told to subscribers), and of what cannot be read.
    object: Option<Object>,
    /// `None` when it cannot be read.
    bond: Option<Bond>,
}

enum Object {
    Instance(Arc<Instance>),
    Host(Arc<DockerHost>),
    Names(Arc<BTreeSet<String>>),
}

impl Read {
    /// What cannot be read is logged.
    pub fn of(key: &Key, record: &Record) -> Read {
        let names = |meta: &ObjectMeta, names: BTreeSet<String>| (Object::Names(Arc::new(names)), Bond::of(key, meta));
        let read = match key.kind {
            Kind::Instance => read(key, record).map(|instance: Instance| {
                let bond = Bond::of(key, &instance.metadata);
                (Object::Instance(Arc::new(instance)), bond)
            }),
            Kind::DockerHost => read(key, record).map(|host: DockerHost| {
                let bond = Bond::of(key, &host.metadata);
                (Object::Host(Arc::new(host)), bond)
            }),
            Kind::Secret => read::<SealedSecret>(key, record).map(|secret| names(&secret.metadata, secret.keys)),
            Kind::ConfigMap => read::<ConfigMap>(key, record)
                .map(|map| names(&map.metadata, map.data.into_keys().chain(map.binary_data.into_keys()).collect())),
            // Events are many, and nobody's to keep: none is collected but by its age.
            Kind::Event => return Read { modified: record.modified, object: None, bond: Some(Bond::default()) },
            Kind::Namespace | Kind::AccessToken => {
                let bond = typed::metadata(record).ok().map(|meta| Bond::of(key, &meta));
                return Read { modified: record.modified, object: None, bond };
            }
        };
        let (object, bond) = read.unzip();
        Read { modified: record.modified, object, bond }
    }
}

impl Bond {
    fn of(key: &Key, meta: &ObjectMeta) -> Bond {
        let owners = meta.owner_references.iter().filter_map(|owner| owner.key(key)).collect();
        Bond { owners, waits: meta.is_held_by(FOREGROUND_FINALIZER) || meta.is_held_by(ORPHAN_FINALIZER) }
    }
}

impl View {
    pub fn new(domain: &str) -> View {
        View {
            domain: domain.to_owned(),
            known: HashMap::new(),
            instances: BTreeMap::new(),
            by_key: HashMap::new(),
            hosts: BTreeMap::new(),
            sources: HashMap::new(),
            by_node: HashMap::new(),
            by_source: HashMap::new(),
            by_route: HashMap::new(),
            bonds: HashMap::new(),
            by_owner: HashMap::new(),
        }
    }

    pub fn instance(&self, key: &Key) -> Option<Arc<Instance>> {
        self.by_key.get(key).cloned()
    }

    pub fn instances(&self) -> Vec<Arc<Instance>> {
        self.instances.values().cloned().collect()
    }

    pub fn on_node(&self, node: &str) -> Vec<Arc<Instance>> {
        let keys = self.by_node.get(node).into_iter().flatten();
        keys.filter_map(|key| self.instance(key)).collect()
    }

    pub fn users_of(&self, source: &Key) -> Vec<Arc<Instance>> {
        let keys = self.by_source.get(source).into_iter().flatten();
        keys.filter_map(|key| self.instance(key)).collect()
    }

    pub fn host(&self, name: &str) -> Option<Arc<DockerHost>> {
        self.hosts.get(name).cloned()
    }

    pub fn hosts(&self) -> Vec<Arc<DockerHost>> {
        self.hosts.values().cloned().collect()
    }

    pub fn route(&self, host_name: &str) -> Option<Arc<Instance>> {
        let lower = if host_name.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(host_name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host_name)
        };
        let claim = self.by_route.get(&*lower)?.first()?;
        self.instance(&claim.key)
    }

    pub fn routes(&self) -> BTreeMap<String, Arc<Instance>> {
        let first =
            |(host, claims): (&String, &BTreeSet<Claim>)| Some((host.clone(), self.instance(&claims.first()?.key)?));
        self.by_route.iter().filter_map(first).collect()
    }

    /// The hosts that an instance claims and another one has, in the order of its routes, each with that one. Of an instance
    /// that is newer than the view, too.
    pub fn taken(&self, instance: &Instance) -> Vec<(String, Arc<Instance>)> {
        let own = Claim::of(instance, &instance.key());
        let mut taken: Vec<(String, Arc<Instance>)> = vec![];
        for host in instance.resolved_routes(&self.domain).into_iter().map(|route| route.host) {
            let first = self.by_route.get(&host).and_then(BTreeSet::first);
            let before = first.filter(|first| first.key != own.key && **first < own);
            if let Some(holder) = before.and_then(|first| self.instance(&first.key))
                && taken.iter().all(|(other, _)| *other != host)
            {
                taken.push((host, holder));
            }
        }
        taken
    }

    pub fn value_names(&self, source: &Key) -> Option<Arc<BTreeSet<String>>> {
        self.sources.get(source).cloned()
    }

    pub fn owners(&self, key: &Key) -> BTreeSet<Key> {
        self.bonds.get(key).map(|bond| bond.owners.clone()).unwrap_or_default()
    }

    pub fn dependents(&self, owner: &Key) -> BTreeSet<Key> {
        self.by_owner.get(owner).cloned().unwrap_or_default()
    }

    pub fn waits_for_dependents(&self, key: &Key) -> bool {
        self.bonds.get(key).is_some_and(|bond| bond.waits)
    }

    pub fn has_record(&self, key: &Key) -> bool {
        self.known.contains_key(key)
    }

    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.known.keys().cloned()
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Takes in what the store now has at `key`; `None`: nothing. An object that could not be read keeps its last readable
    /// version: to drop it would look like its deletion.
    ///
    /// Returns the instances that did not change and are concerned all the same, as a host name that they claim has passed
    /// to another.
    pub fn apply(&mut self, key: &Key, now: Option<Read>) -> BTreeSet<Key> {
        let Some(Read { modified, object, bond }) = now else {
            self.known.remove(key);
            self.set_bond(key, Bond::default());
            match key.kind {
                Kind::Instance => return self.set_instance(key, None),
                Kind::DockerHost => drop(self.hosts.remove(&key.name)),
                Kind::Secret | Kind::ConfigMap => drop(self.sources.remove(key)),
                Kind::Namespace | Kind::Event | Kind::AccessToken => {}
            }
            return BTreeSet::new();
        };
        self.known.insert(key.clone(), modified);
        if let Some(bond) = bond {
            self.set_bond(key, bond);
        }
        match object {
            Some(Object::Instance(instance)) => return self.set_instance(key, Some(instance)),
            Some(Object::Host(host)) => drop(self.hosts.insert(key.name.clone(), host)),
            Some(Object::Names(names)) => drop(self.sources.insert(key.clone(), names)),
            None => {}
        }
        BTreeSet::new()
    }

    fn set_bond(&mut self, key: &Key, now: Bond) {
        for owner in self.bonds.remove(key).map(|old| old.owners).unwrap_or_default() {
            remove(&mut self.by_owner, &owner, key);
        }
        for owner in &now.owners {
            self.by_owner.entry(owner.clone()).or_default().insert(key.clone());
        }
        if now != Bond::default() {
            self.bonds.insert(key.clone(), now);
        }
    }

    /// The keys whose objects differ between the two views, and those who claim a host name that has passed to another.
    pub fn difference(&self, newer: &View) -> Vec<Key> {
        let changed = newer.known.iter().filter(|(key, revision)| self.known.get(key) != Some(revision));
        let gone = self.known.keys().filter(|key| !newer.known.contains_key(key));
        let passed = newer.by_route.iter().filter(|(host, _)| self.holder(host) != newer.holder(host));
        let concerned = passed.flat_map(|(_, claims)| claims.iter().map(|claim| &claim.key));
        changed.map(|(key, _)| key).chain(gone).chain(concerned).cloned().collect()
    }

    /// Who has a host name, given in lower case.
    fn holder(&self, host: &str) -> Option<&Key> {
        Some(&self.by_route.get(host)?.first()?.key)
    }

    /// Brings over from an older view the last readable versions of objects that this one has but cannot read.
    pub fn inherit(&mut self, older: &View) {
        let missing = |key: &&Key| key.kind == Kind::Instance && !self.by_key.contains_key(key);
        let lost: Vec<Key> = self.known.keys().filter(missing).cloned().collect();
        for key in lost {
            self.set_instance(&key, older.instance(&key));
        }
        for key in self.known.keys().filter(|key| key.kind == Kind::DockerHost) {
            if let Some(host) = older.host(&key.name) {
                self.hosts.entry(key.name.clone()).or_insert(host);
            }
        }
        for key in self.known.keys().filter(|key| matches!(key.kind, Kind::Secret | Kind::ConfigMap)) {
            if let Some(names) = older.value_names(key) {
                self.sources.entry(key.clone()).or_insert(names);
            }
        }
    }

    /// Returns whom it concerns, as [`View::apply`].
    fn set_instance(&mut self, key: &Key, now: Option<Arc<Instance>>) -> BTreeSet<Key> {
        self.instances.remove(key);
        let old = self.by_key.remove(key);
        if let Some(old) = &old {
            remove(&mut self.by_node, &old.status.node, key);
            for source in sources(old) {
                remove(&mut self.by_source, &source, key);
            }
        }
        let claims = |i: Option<&Arc<Instance>>| i.map(|i| (Claim::of(i, key), claimed_hosts(i, &self.domain)));
        let (before, after) = (claims(old.as_ref()), claims(now.as_ref()));
        // Most writes are of a status, and claim nothing else than before.
        let concerned = if before == after { BTreeSet::new() } else { self.set_claims(key, before, after) };
        let Some(now) = now else { return concerned };
        // Under the empty name: those that wait for a host.
        self.by_node.entry(now.status.node.clone()).or_default().insert(key.clone());
        for source in sources(&now) {
            self.by_source.entry(source).or_default().insert(key.clone());
        }
        self.instances.insert(key.clone(), now.clone());
        self.by_key.insert(key.clone(), now);
        concerned
    }

    fn set_claims(&mut self, key: &Key, before: Option<Claims>, after: Option<Claims>) -> BTreeSet<Key> {
        let mut concerned = BTreeSet::new();
        let hosts: BTreeSet<String> = before.iter().chain(&after).flat_map(|(_, hosts)| hosts).cloned().collect();
        for host in hosts {
            let holder = self.holder(&host).cloned();
            if let Some((claim, _)) = before.as_ref().filter(|(_, hosts)| hosts.contains(&host)) {
                remove(&mut self.by_route, &host, claim);
            }
            if let Some((claim, _)) = after.as_ref().filter(|(_, hosts)| hosts.contains(&host)) {
                self.by_route.entry(host.clone()).or_default().insert(claim.clone());
            }
            if self.holder(&host) != holder.as_ref() {
                concerned.extend(self.by_route.get(&host).into_iter().flatten().map(|claim| claim.key.clone()));
            }
        }
        concerned.remove(key);
        concerned
    }
}

impl Claim {
    fn of(instance: &Instance, key: &Key) -> Claim {
        let created = instance.metadata.creation_timestamp;
        Claim { created: (created.is_none(), created), uid: instance.metadata.uid.clone(), key: key.clone() }
    }
}

fn sources(instance: &Instance) -> HashSet<Key> {
    let named = instance.spec.sources();
    named.map(|(kind, name)| Key::new(kind, &instance.metadata.namespace, name)).collect()
}

fn claimed_hosts(instance: &Instance, domain: &str) -> BTreeSet<String> {
    instance.resolved_routes(domain).into_iter().map(|route| route.host).collect()
}

fn remove<N: Eq + Hash + Borrow<Q>, Q: Eq + Hash + ?Sized, T: Ord>(
    index: &mut HashMap<N, BTreeSet<T>>,
    name: &Q,
    entry: &T,
) {
    if let Some(entries) = index.get_mut(name) {
        entries.remove(entry);
        if entries.is_empty() {
            index.remove(name);
        }
    }
}

fn read<T: Resource>(key: &Key, record: &Record) -> Option<T> {
    match typed::decode::<T>(record) {
        Ok(object) if object.key() == *key => Some(object),
        Ok(object) => {
            tracing::error!(%key, found = %object.key(), "a stored object is not the one its key names; ignored");
            None
        }
        Err(e) => {
            tracing::error!(%key, error = %e, "a stored object cannot be read; its last readable version stays");
            None
        }
    }
}
