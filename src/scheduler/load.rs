//! What each host carries, derived from the statuses of the instances bound to it, and kept as they change.
//!
//! [`Fleet::set_host`] and [`Fleet::set_instance`] tell what a record is now; each takes time with the logarithm of the
//! fleet. Invariant: whatever was told in whatever order, the fleet equals one made anew from the last that was told of
//! each record (held by a property test).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::model::{Allocation, DockerHost, Instance, Key, Quantity, Resource, Subnet, SubnetPool, SubnetSet};

use super::order::Order;

/// What is bound to one host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Bytes that instances hold, which those that are asleep or stopped do not. A sum of limits that may be absurd must stay exact, so
    /// that what is taken off again leaves what was there.
    pub memory: i128,
    pub cpu_milli: i128,
    /// All bound instances: a sleeper keeps its ports and data here.
    pub instances: i64,
    ports: BTreeMap<u16, u32>,
    gpus: BTreeMap<Box<str>, u32>,
    subnets: SubnetSet,
    /// How often a subnet is bound that is bound more than once, by a mistake of somebody's.
    shared: BTreeMap<Subnet, u32>,
}

impl Load {
    /// Whether an instance has this port, be it asleep.
    pub fn has_port(&self, port: u16) -> bool {
        self.ports.contains_key(&port)
    }

    /// How many ports of the range are bound.
    pub fn ports_within(&self, first: u16, last: u16) -> usize {
        self.ports.range(first..=last).count()
    }

    /// How many ports are bound, in whatever range.
    pub fn ports_len(&self) -> usize {
        self.ports.len()
    }

    /// Whether a bound subnet, be it a sleeper's, has an address in common with this one.
    pub fn overlaps(&self, subnet: Subnet) -> bool {
        self.subnets.overlaps(subnet)
    }

    pub fn take_port(&mut self, port: u16) {
        *self.ports.entry(port).or_default() += 1;
    }

    pub fn give_port(&mut self, port: u16) {
        if let Some(times) = self.ports.get_mut(&port) {
            *times -= 1;
            if *times == 0 {
                self.ports.remove(&port);
            }
        }
    }

    fn take_gpu(&mut self, gpu: &str) {
        *self.gpus.entry(gpu.into()).or_default() += 1;
    }

    pub fn give_gpu(&mut self, gpu: &str) {
        if let Some(times) = self.gpus.get_mut(gpu) {
            *times -= 1;
            if *times == 0 {
                self.gpus.remove(gpu);
            }
        }
    }

    pub fn take_subnet(&mut self, subnet: Subnet) {
        if !self.subnets.insert(subnet) {
            *self.shared.entry(subnet).or_insert(1) += 1;
        }
    }

    pub fn give_subnet(&mut self, subnet: Subnet) {
        match self.shared.get_mut(&subnet) {
            Some(times) => {
                *times -= 1;
                if *times == 1 {
                    self.shared.remove(&subnet);
                }
            }
            None => self.subnets.remove(subnet),
        }
    }

    pub fn forget_subnets(&mut self) {
        self.subnets.clear();
        self.shared.clear();
    }

    fn add(&mut self, share: &Share) {
        self.instances += 1;
        self.memory += i128::from(share.memory);
        self.cpu_milli += i128::from(share.cpu_milli);
        share.ports.iter().for_each(|port| self.take_port(*port));
        share.gpus.iter().for_each(|gpu| self.take_gpu(gpu));
        share.subnet.into_iter().for_each(|subnet| self.take_subnet(subnet));
    }

    fn remove(&mut self, share: &Share) {
        self.instances -= 1;
        self.memory -= i128::from(share.memory);
        self.cpu_milli -= i128::from(share.cpu_milli);
        share.ports.iter().for_each(|port| self.give_port(*port));
        share.gpus.iter().for_each(|gpu| self.give_gpu(gpu));
        share.subnet.into_iter().for_each(|subnet| self.give_subnet(subnet));
    }

    fn allocated(&self) -> Allocation {
        let within = |sum: i128| sum.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        Allocation {
            memory: Quantity::from_bytes(within(self.memory)),
            cpu: Quantity::from_milli(within(self.cpu_milli)),
            instances: self.instances,
            gpus: self.gpus.len() as i64,
        }
    }
}

/// One host and what is bound to it.
#[derive(Clone, Debug, PartialEq)]
pub struct HostLoad {
    pub host: Arc<DockerHost>,
    pub load: Load,
    /// Of the host's spec, which are texts there.
    pub address: String,
    pub port_range: (u16, u16),
    pub pool: SubnetPool,
}

impl HostLoad {
    fn of(host: Arc<DockerHost>, load: Load) -> HostLoad {
        let spec = &host.spec;
        HostLoad { address: spec.reach_address(), port_range: spec.ports(), pool: spec.subnets(), host, load }
    }

    /// The host's GPUs that no instance has, be it asleep.
    pub fn free_gpus(&self) -> impl Iterator<Item = &String> {
        self.host.status.gpus.iter().filter(|gpu| !self.load.gpus.contains_key(gpu.as_str()))
    }
}

/// What one instance takes of the host that it is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    node: Arc<str>,
    memory: i64,
    cpu_milli: i64,
    ports: Box<[u16]>,
    gpus: Box<[Box<str>]>,
    subnet: Option<Subnet>,
    /// Of its container there; empty: it has none yet.
    image: Box<str>,
    group: Option<Box<str>>,
}

impl Share {
    /// `None` of one that is bound to none.
    fn of(instance: &Instance) -> Option<Share> {
        let status = &instance.status;
        if status.node.is_empty() {
            return None;
        }
        // One that is asleep or stopped holds none.
        let held = status.allocated_resources.as_ref();
        let (memory, cpu_milli) = held.map_or((0, 0), |held| (held.memory.value(), held.cpu.milli()));
        Some(Share {
            node: status.node.as_str().into(),
            memory,
            cpu_milli,
            ports: status.ports.iter().map(|p| p.host_port).collect(),
            gpus: status.gpus.iter().map(|gpu| gpu.as_str().into()).collect(),
            subnet: status.subnet.parse().ok(),
            image: status.image.reference.as_str().into(),
            group: group(instance),
        })
    }
}

/// A name for those among whom it is spread.
fn group(instance: &Instance) -> Option<Box<str>> {
    let meta = &instance.metadata;
    let (key, value) = instance.spec.placement.spread(&meta.labels)?;
    // None of them can have such a character.
    Some(format!("{}\n{key}\n{value}", meta.namespace).into())
}

/// How many instances of something there are on each host. Invariant: no count is zero.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counts(HashMap<Box<str>, BTreeMap<Arc<str>, u32>>);

impl Counts {
    fn add(&mut self, of: &str, node: &Arc<str>) {
        let hosts = match self.0.get_mut(of) {
            Some(hosts) => hosts,
            None => self.0.entry(of.into()).or_default(),
        };
        *hosts.entry(node.clone()).or_default() += 1;
    }

    fn remove(&mut self, of: &str, node: &Arc<str>) {
        let Some(hosts) = self.0.get_mut(of) else { return };
        if let Some(count) = hosts.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                hosts.remove(node);
            }
        }
        if hosts.is_empty() {
            self.0.remove(of);
        }
    }

    fn on(&self, of: &str, node: &str) -> u32 {
        self.0.get(of).and_then(|hosts| hosts.get(node)).copied().unwrap_or(0)
    }
}

/// All hosts, by name, with what they carry.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fleet {
    hosts: BTreeMap<Arc<str>, HostLoad>,
    pub(super) order: Order,
    /// What is bound to hosts that have no record.
    elsewhere: HashMap<Arc<str>, Load>,
    shares: HashMap<Key, Share>,
    images: Counts,
    groups: Counts,
}

impl Fleet {
    pub fn new<'a>(
        hosts: impl IntoIterator<Item = Arc<DockerHost>>,
        instances: impl IntoIterator<Item = &'a Instance>,
    ) -> Fleet {
        let mut fleet = Fleet::default();
        for host in hosts {
            fleet.set_host(&host.metadata.name.clone(), Some(host));
        }
        for instance in instances {
            fleet.set_instance(&instance.key(), Some(instance));
        }
        fleet
    }

    /// In the order of their names.
    pub fn hosts(&self) -> impl ExactSizeIterator<Item = &HostLoad> {
        self.hosts.values()
    }

    pub fn host(&self, name: &str) -> Option<&HostLoad> {
        self.hosts.get(name)
    }

    /// The hosts where the image is, as far as the containers of instances show.
    pub fn with_image(&self, image: &str) -> impl Iterator<Item = &str> {
        self.images.0.get(image).into_iter().flat_map(|hosts| hosts.keys().map(|name| &**name))
    }

    pub fn has_image(&self, node: &str, image: &str) -> bool {
        self.images.on(image, node) > 0
    }

    /// How many are on the host of those among whom the instance is spread; `None`: it is not.
    pub fn alike(&self, instance: &Instance) -> Option<impl Fn(&str) -> u32> {
        let group = group(instance)?;
        Some(move |node: &str| self.groups.on(&group, node))
    }

    /// What the host's record is now; `None`: there is none.
    pub fn set_host(&mut self, name: &str, now: Option<Arc<DockerHost>>) {
        let load = match self.hosts.remove(name) {
            Some(old) => {
                self.order.remove(name, &old);
                old.load
            }
            None => self.elsewhere.remove(name).unwrap_or_default(),
        };
        match now {
            Some(host) => {
                let name: Arc<str> = name.into();
                let new = HostLoad::of(host, load);
                self.order.insert(&name, &new);
                self.hosts.insert(name, new);
            }
            None if load.instances > 0 => drop(self.elsewhere.insert(name.into(), load)),
            None => {}
        }
    }

    /// What the instance's record is now; `None`: there is none.
    pub fn set_instance(&mut self, key: &Key, now: Option<&Instance>) {
        let now = now.and_then(Share::of);
        if self.shares.get(key) == now.as_ref() {
            return;
        }
        if let Some(old) = self.shares.remove(key) {
            self.change(&old.node, |load| load.remove(&old));
            self.images.remove(&old.image, &old.node);
            old.group.iter().for_each(|group| self.groups.remove(group, &old.node));
        }
        let Some(mut now) = now else { return };
        // One text for all that are on a host.
        if let Some((name, _)) = self.hosts.get_key_value(&now.node) {
            now.node = name.clone();
        }
        self.change(&now.node, |load| load.add(&now));
        if !now.image.is_empty() {
            self.images.add(&now.image, &now.node);
        }
        now.group.iter().for_each(|group| self.groups.add(group, &now.node));
        self.shares.insert(key.clone(), now);
    }

    fn change(&mut self, node: &Arc<str>, change: impl FnOnce(&mut Load)) {
        let Some((name, host)) =
            self.hosts.get_key_value(node).map(|(name, _)| name.clone()).zip(self.hosts.get_mut(node))
        else {
            let load = self.elsewhere.entry(node.clone()).or_default();
            change(load);
            if load.instances == 0 {
                self.elsewhere.remove(node);
            }
            return;
        };
        self.order.remove(&name, host);
        change(&mut host.load);
        self.order.insert(&name, host);
    }

    /// What the instances bound to one host reserve of it, as its status tells it and placement counts it.
    pub fn allocated(&self, node: &str) -> Allocation {
        let load = self.hosts.get(node).map(|host| &host.load).or_else(|| self.elsewhere.get(node));
        load.map_or_else(|| Load::default().allocated(), Load::allocated)
    }
}

/// The same by adding it up.
pub fn allocated(bound: &[Arc<Instance>]) -> Allocation {
    let mut load = Load::default();
    bound.iter().filter_map(|instance| Share::of(instance)).for_each(|share| load.add(&share));
    load.allocated()
}
