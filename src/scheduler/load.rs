//! What each host carries, derived from the statuses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Allocation, DockerHost, Instance, Phase, Quantity, SubnetSet};

/// One host and what is bound to it.
#[derive(Clone, Debug)]
pub struct HostLoad {
    pub host: Arc<DockerHost>,
    /// Bytes reserved by instances that are not asleep or stopped.
    pub memory: i64,
    pub cpu_milli: i64,
    /// All bound instances: a sleeper keeps its ports and data here.
    pub instances: i64,
    /// Every bound host port, of sleepers too.
    pub ports: BTreeSet<u16>,
    /// Every bound subnet, of sleepers too.
    pub subnets: SubnetSet,
}

impl HostLoad {
    fn of(host: Arc<DockerHost>) -> HostLoad {
        HostLoad { host, memory: 0, cpu_milli: 0, instances: 0, ports: BTreeSet::new(), subnets: SubnetSet::default() }
    }
}

/// A snapshot of all hosts, by name.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    pub hosts: BTreeMap<String, HostLoad>,
}

impl Fleet {
    pub fn new<'a>(
        hosts: impl IntoIterator<Item = Arc<DockerHost>>,
        instances: impl IntoIterator<Item = &'a Instance>,
    ) -> Fleet {
        let loads = hosts.into_iter().map(|host| (host.metadata.name.clone(), HostLoad::of(host)));
        let mut fleet = Fleet { hosts: loads.collect() };
        for instance in instances {
            let Some(load) = fleet.hosts.get_mut(&instance.status.node) else { continue };
            load.instances += 1;
            load.ports.extend(instance.status.ports.iter().map(|p| p.host_port));
            load.subnets.extend(instance.status.subnet.parse());
            let (memory, cpu_milli) = reserved(instance);
            load.memory = load.memory.saturating_add(memory);
            load.cpu_milli = load.cpu_milli.saturating_add(cpu_milli);
        }
        fleet
    }
}

/// What the instances bound to one host reserve of it, as its status tells it and placement counts it.
pub fn allocated(bound: &[Arc<Instance>]) -> Allocation {
    let add = |(memory, cpu_milli): (i64, i64), instance: &Arc<Instance>| {
        let (more_memory, more_cpu) = reserved(instance);
        (memory.saturating_add(more_memory), cpu_milli.saturating_add(more_cpu))
    };
    let (memory, cpu_milli) = bound.iter().fold((0, 0), add);
    Allocation {
        memory: Quantity::from_bytes(memory),
        cpu: Quantity::from_milli(cpu_milli),
        instances: i64::try_from(bound.len()).unwrap_or(i64::MAX),
    }
}

/// Bytes and thousandths of a CPU. Limits stored before there was a most of them may be absurd: who sums them up
/// must not come to little for it.
fn reserved(instance: &Instance) -> (i64, i64) {
    if reserves(instance) { (instance.spec.memory_bytes(), instance.spec.cpu_milli()) } else { (0, 0) }
}

/// Whether an instance holds memory and CPU of its host. One that is asleep or stopped does not.
fn reserves(instance: &Instance) -> bool {
    match instance.status.phase {
        Phase::Asleep | Phase::Stopped => false,
        Phase::Pending
        | Phase::Pulling
        | Phase::Starting
        | Phase::Running
        | Phase::Stopping
        | Phase::Upgrading
        | Phase::Moving
        | Phase::Failed
        | Phase::Lost => true,
    }
}
