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
    /// As it is told in the host's status.
    pub fn allocation(&self) -> Allocation {
        Allocation {
            memory: Quantity::from_bytes(self.memory),
            cpu: Quantity::from_milli(self.cpu_milli),
            instances: self.instances,
        }
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
        let mut fleet = Fleet {
            hosts: hosts
                .into_iter()
                .map(|host| {
                    let load = HostLoad {
                        memory: 0,
                        cpu_milli: 0,
                        instances: 0,
                        ports: BTreeSet::new(),
                        subnets: SubnetSet::default(),
                        host: host.clone(),
                    };
                    (host.metadata.name.clone(), load)
                })
                .collect(),
        };
        for instance in instances {
            let Some(load) = fleet.hosts.get_mut(&instance.status.node) else { continue };
            load.instances += 1;
            load.ports.extend(instance.status.ports.iter().map(|p| p.host_port));
            load.subnets.extend(instance.status.subnet.parse());
            if reserves(instance) {
                // Limits stored before there was a most of them may be absurd; the sum must not come out small for it.
                load.memory = load.memory.saturating_add(instance.spec.memory_bytes());
                load.cpu_milli = load.cpu_milli.saturating_add(instance.spec.cpu_milli());
            }
        }
        fleet
    }
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
