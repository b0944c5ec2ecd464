//! The network of an instance: what it should be, and whether the one that is there is it. Pure.
//!
//! ```text
//! status.subnet (bound with node and ports) ──▶ network_spec ──▶ Docker network
//! ```
//!
//! A network that is older than subnets of ours has a subnet of the daemon's choosing, and keeps it: none is bound for
//! it until it has to be made anew.

use std::collections::BTreeMap;

use crate::docker::engine::{NetworkInfo, NetworkSpec};
use crate::docker::labels;
use crate::model::{Egress, Instance, Resource, Subnet};

use super::action::Action;

/// What there is under the name of an instance's network.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum NetworkSeen {
    #[default]
    Absent,
    Foreign,
    Ours {
        /// As the daemon writes them.
        subnets: Vec<String>,
        /// Made for an instance without egress.
        closed: bool,
    },
}

impl NetworkSeen {
    pub fn of(cluster: &str, instance: &Instance, found: Option<NetworkInfo>) -> NetworkSeen {
        match found {
            None => NetworkSeen::Absent,
            Some(network) if is_of(cluster, instance, &network.labels) => {
                NetworkSeen::Ours { subnets: network.subnets, closed: network.closed }
            }
            Some(_) => NetworkSeen::Foreign,
        }
    }

    pub fn is_ours(&self) -> bool {
        matches!(self, NetworkSeen::Ours { .. })
    }

    /// Whether the instance's container can be attached to it as it is.
    pub fn is_right(&self, instance: &Instance) -> bool {
        let bound = &instance.status.subnet;
        match self {
            NetworkSeen::Ours { subnets, closed } => {
                // Of one that the daemon chose for, any will do, but not those of several networks of one name.
                let of_old = || bound.is_empty() && subnets.iter().filter_map(|s| Subnet::read(s)).count() <= 1;
                *closed == is_closed(instance) && (subnets == std::slice::from_ref(bound) || of_old())
            }
            NetworkSeen::Absent | NetworkSeen::Foreign => false,
        }
    }

    /// Whether a subnet is to be chosen before a network can be made.
    pub fn needs_subnet(&self, instance: &Instance) -> bool {
        let status = &instance.status;
        !self.is_right(instance) && (status.subnet.is_empty() || status.refused_subnets.contains(&status.subnet))
    }

    /// The steps to the right one. Nothing may be attached to one that is not.
    pub fn steps(&self, instance: &Instance) -> Vec<Action> {
        let name = labels::object_name(&instance.key());
        match self {
            _ if self.is_right(instance) => vec![],
            NetworkSeen::Ours { .. } => {
                vec![Action::RemoveNetwork { name: name.clone() }, Action::CreateNetwork { name }]
            }
            NetworkSeen::Absent | NetworkSeen::Foreign => vec![Action::CreateNetwork { name }],
        }
    }
}

fn is_closed(instance: &Instance) -> bool {
    instance.spec.network.egress == Egress::None
}

/// Networks and volumes belong to the instance's name: a retained volume is found again by the next of that name.
pub fn is_of(cluster: &str, instance: &Instance, labels: &BTreeMap<String, String>) -> bool {
    labels.get(labels::CLUSTER).is_some_and(|c| c == cluster) && labels::instance_key(labels) == Some(instance.key())
}

/// The network of an instance that is bound to a node.
pub fn network_spec(cluster: &str, instance: &Instance) -> NetworkSpec {
    let key = instance.key();
    NetworkSpec {
        name: labels::object_name(&key),
        labels: labels::owner_labels(cluster, &key, &instance.metadata.uid),
        subnet: instance.status.subnet.parse().ok(),
        closed: is_closed(instance),
    }
}
