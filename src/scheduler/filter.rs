//! The filters: why a host cannot take an instance.

use std::collections::BTreeSet;

use crate::model::{Instance, Subnet, TaintEffect, condition, is_true, untolerated};

use super::HostLoad;
use super::place::choose_subnet;

/// Why one host was refused. `Display` is short, so that equal refusals can be counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    NotTheNamedNode,
    SelectorMismatch,
    Unschedulable,
    /// A taint, as kubectl writes it.
    Tainted(String),
    NotReady(String),
    RuntimeMissing(String),
    HostPortTaken(u16),
    NoFreePort,
    NoFreeSubnet,
    TooManyInstances,
    NotEnoughMemory,
    NotEnoughCpu,
    NotEnoughGpus,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::NotTheNamedNode => f.write_str("is not the node of spec.placement.node"),
            Refusal::SelectorMismatch => f.write_str("did not match spec.placement.nodeSelector"),
            Refusal::Unschedulable => f.write_str("unschedulable"),
            Refusal::Tainted(taint) => write!(f, "had the taint {taint} that the instance does not tolerate"),
            Refusal::NotReady(why) => write!(f, "not ready ({why})"),
            Refusal::RuntimeMissing(runtime) => write!(f, "without the runtime {runtime}"),
            Refusal::HostPortTaken(port) => write!(f, "with host port {port} taken"),
            Refusal::NoFreePort => f.write_str("without a free host port"),
            Refusal::NoFreeSubnet => f.write_str("without a free subnet"),
            Refusal::TooManyInstances => f.write_str("with too many instances"),
            Refusal::NotEnoughMemory => f.write_str("without enough memory"),
            Refusal::NotEnoughCpu => f.write_str("without enough CPU"),
            Refusal::NotEnoughGpus => f.write_str("without enough free GPUs"),
        }
    }
}

/// The subnet that the instance would have on this host, or the first reason why it cannot take the instance.
pub fn refuse(instance: &Instance, on: &HostLoad) -> Result<Subnet, Refusal> {
    let (spec, host) = (&instance.spec, &on.host);
    let placement = &spec.placement;
    if !placement.node.is_empty() && placement.node != host.metadata.name {
        return Err(Refusal::NotTheNamedNode);
    }
    if placement.node_selector.iter().any(|(k, v)| host.metadata.labels.get(k) != Some(v)) {
        return Err(Refusal::SelectorMismatch);
    }
    if host.metadata.deletion_timestamp.is_some() || host.spec.unschedulable {
        return Err(Refusal::Unschedulable);
    }
    let keeps_away = [TaintEffect::NoSchedule, TaintEffect::NoExecute];
    if let Some(taint) = untolerated(&host.spec.taints, &placement.tolerations, &keeps_away) {
        return Err(Refusal::Tainted(taint.to_string()));
    }
    if !is_true(&host.status.conditions, "Ready") {
        let why = condition(&host.status.conditions, "Ready").map_or("not seen yet", |c| &c.reason);
        return Err(Refusal::NotReady(why.to_owned()));
    }
    if !spec.runtime.is_empty() && !host.status.runtimes.contains(&spec.runtime) {
        return Err(Refusal::RuntimeMissing(spec.runtime.clone()));
    }
    let load = &on.load;
    let fixed = || spec.ports.iter().filter_map(|p| p.host_port);
    if let Some(port) = fixed().find(|port| load.has_port(*port)) {
        return Err(Refusal::HostPortTaken(port));
    }
    let wanted = spec.ports.iter().filter(|p| p.host_port.is_none()).count();
    let (first, last) = on.port_range;
    let size = usize::from(last - first) + 1;
    // To count those within the range takes time, and is seldom needed.
    if size < load.ports_len() + spec.ports.len() {
        let asked: BTreeSet<u16> = fixed().filter(|port| (first..=last).contains(port)).collect();
        if size < load.ports_within(first, last) + asked.len() + wanted {
            return Err(Refusal::NoFreePort);
        }
    }
    let capacity = &host.status.capacity;
    if load.instances >= capacity.most_instances() {
        return Err(Refusal::TooManyInstances);
    }
    if host.memory_limit().is_some_and(|most| load.memory + i128::from(spec.memory_bytes()) > most) {
        return Err(Refusal::NotEnoughMemory);
    }
    if host.cpu_limit().is_some_and(|most| load.cpu_milli + i128::from(spec.cpu_milli()) > most) {
        return Err(Refusal::NotEnoughCpu);
    }
    if spec.gpus > 0 && on.free_gpus().count() < spec.gpus as usize {
        return Err(Refusal::NotEnoughGpus);
    }
    choose_subnet(instance, on).ok_or(Refusal::NoFreeSubnet)
}
