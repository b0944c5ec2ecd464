//! Filter, then the least loaded host, then free ports.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::model::{Instance, Subnet, TaintEffect, untolerated};

use super::filter::refuse;
use super::{Fleet, HostLoad, Refusal, order};

/// Where an instance goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub node: String,
    /// Where the host ports are published and reached.
    pub address: String,
    pub ports: Vec<PlacedPort>,
    /// The devices, as the host's status names them.
    pub gpus: Vec<String>,
    /// Of its network.
    pub subnet: Subnet,
    /// For the Scheduled condition.
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedPort {
    pub name: String,
    pub host_port: u16,
}

/// No host can take the instance; `Display` tells why, in the manner of kube-scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaced {
    pub hosts: usize,
    pub refusals: BTreeMap<Refusal, usize>,
}

impl Unplaced {
    /// Whether it waits for a host to be ready rather than for room, as in the first moments of a fleet: of those that it could
    /// be on, none is.
    pub fn awaits_hosts(&self) -> bool {
        let misfit = |why: &Refusal| match why {
            Refusal::NotTheNamedNode | Refusal::SelectorMismatch | Refusal::Unschedulable | Refusal::Tainted(_) => true,
            Refusal::NotReady(_) | Refusal::RuntimeMissing(_) | Refusal::HostPortTaken(_) | Refusal::NoFreePort => {
                false
            }
            Refusal::NoFreeSubnet | Refusal::TooManyInstances | Refusal::NotEnoughMemory => false,
            Refusal::NotEnoughCpu | Refusal::NotEnoughGpus => false,
        };
        let mut fits = self.refusals.keys().filter(|why| !misfit(why)).peekable();
        let nobody = self.refusals.is_empty();
        nobody || fits.peek().is_some() && fits.all(|why| matches!(why, Refusal::NotReady(_)))
    }
}

impl std::fmt::Display for Unplaced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.hosts == 0 {
            return f.write_str("there is no DockerHost");
        }
        write!(f, "0/{} hosts fit: ", self.hosts)?;
        for (i, (refusal, count)) in self.refusals.iter().enumerate() {
            write!(f, "{}{count} {refusal}", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// Chooses a host and its ports. Deterministic: ties go to the first by name.
pub fn place(instance: &Instance, fleet: &Fleet) -> Result<Placement, Unplaced> {
    place_elsewhere(instance, fleet, "")
}

/// As [`place`], as if there were no host of this name.
pub fn place_elsewhere(instance: &Instance, fleet: &Fleet, but: &str) -> Result<Placement, Unplaced> {
    let hosts = fleet.hosts().len() - usize::from(fleet.host(but).is_some());
    let named = &instance.spec.placement.node;
    if !named.is_empty() {
        return match fleet.host(named).filter(|_| named != but) {
            Some(on) => place_at(instance, on, hosts),
            None => Err(refused(hosts, (hosts > 0).then_some((Refusal::NotTheNamedNode, hosts)))),
        };
    }
    match best(instance, fleet, but) {
        Some((on, why)) => {
            let subnet = choose_subnet(instance, on).ok_or_else(|| refused(hosts, [(Refusal::NoFreeSubnet, 1)]))?;
            Ok(placement(instance, on, subnet, &why, hosts))
        }
        None => {
            let others = fleet.hosts().filter(|on| on.host.metadata.name != but);
            Err(refused(hosts, others.filter_map(|on| Some((refuse(instance, on).err()?, 1)))))
        }
    }
}

/// On just this host, which need not be as the fleet has it: one of so many.
pub fn place_at(instance: &Instance, on: &HostLoad, hosts: usize) -> Result<Placement, Unplaced> {
    match refuse(instance, on) {
        Ok(subnet) => Ok(placement(instance, on, subnet, LEAST_LOADED, hosts)),
        Err(why) => {
            let others = hosts.saturating_sub(1);
            let others = (others > 0).then_some((Refusal::NotTheNamedNode, others));
            Err(refused(hosts, others.into_iter().chain([(why, 1)])))
        }
    }
}

fn refused(hosts: usize, why: impl IntoIterator<Item = (Refusal, usize)>) -> Unplaced {
    let mut refusals = BTreeMap::new();
    for (refusal, count) in why {
        *refusals.entry(refusal).or_insert(0) += count;
    }
    Unplaced { hosts, refusals }
}

/// Why a host was chosen.
const LEAST_LOADED: &str = "is the least loaded that fits";

/// Of those that do not refuse it the host with the fewest of those among whom it is spread; of those the least loaded one, and
/// of equals one that has the image. One that asks to be left alone only when there is no other.
fn best<'a>(instance: &Instance, fleet: &'a Fleet, but: &str) -> Option<(&'a HostLoad, Cow<'static, str>)> {
    let (memory, cpu) = (instance.spec.memory_bytes(), instance.spec.cpu_milli());
    let score = |on: &HostLoad| order::score(on, memory, cpu);
    let found = |disliked: bool| {
        let takes = |on: &HostLoad| {
            on.host.metadata.name != but && is_disliked(instance, on) == disliked && refuse(instance, on).is_ok()
        };
        let Some(alike) = fleet.alike(instance) else {
            let least = fleet.order.least(memory, cpu, |name| fleet.host(name).is_some_and(takes))?;
            return Some(match with_image(instance, fleet, fleet.host(least)?, score, takes) {
                (on, false) => (on, LEAST_LOADED.into()),
                (on, true) => (on, "has the image, and is as little loaded as any that fits".into()),
            });
        };
        // Few ask for it, and every host may be the one.
        let fit: Vec<_> = fleet.hosts().filter(|on| takes(on)).collect();
        let fewest = fit.iter().map(|on| alike(&on.host.metadata.name)).min()?;
        let has_fewest = |on: &HostLoad| alike(&on.host.metadata.name) == fewest;
        let fit = fit.into_iter().filter(|on| has_fewest(on));
        let on = fit.reduce(|least, on| if score(on) < score(least) { on } else { least })?;
        let (on, _) = with_image(instance, fleet, on, score, |on| has_fewest(on) && takes(on));
        let (key, value) = instance.spec.placement.spread(&instance.metadata.labels)?;
        Some((on, format!("has the fewest with {key}={value} of those that fit, {fewest}").into()))
    };
    found(false).or_else(|| found(true))
}

/// One that has the image in the place of the least loaded one, where that has not and they are equals; and whether it is.
fn with_image<'a>(
    instance: &Instance,
    fleet: &'a Fleet,
    least: &'a HostLoad,
    score: impl Fn(&HostLoad) -> f64,
    takes: impl Fn(&HostLoad) -> bool,
) -> (&'a HostLoad, bool) {
    let image = &instance.spec.image;
    if fleet.has_image(&least.host.metadata.name, image) {
        return (least, false);
    }
    let most = score(least);
    let mut there = fleet.with_image(image).filter_map(|name| fleet.host(name));
    // More than equality would fill few hosts with many small instances before the others get any.
    there.find(|on| score(on) <= most && takes(on)).map_or((least, false), |on| (on, true))
}

fn placement(instance: &Instance, on: &HostLoad, subnet: Subnet, why: &str, hosts: usize) -> Placement {
    let node = on.host.metadata.name.clone();
    let message = format!("{node} {why} (of {hosts} hosts)");
    let (address, ports, gpus) = (on.address.clone(), choose_ports(instance, on), choose_gpus(instance, on));
    Placement { node, address, ports, gpus, subnet, message }
}

/// Whether the host asks to be left alone while there is another.
fn is_disliked(instance: &Instance, on: &HostLoad) -> bool {
    let tolerations = &instance.spec.placement.tolerations;
    untolerated(&on.host.spec.taints, tolerations, &[TaintEffect::PreferNoSchedule]).is_some()
}

/// Where the search for something free begins: it depends on the uid, so that what was just given back is not at once
/// another tenant's.
fn beginning(instance: &Instance) -> u32 {
    instance.metadata.uid.bytes().fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()))
}

/// The subnet that it has, if it can keep it, else a free one of the host's pool; `None` when there is none.
pub(super) fn choose_subnet(instance: &Instance, on: &HostLoad) -> Option<Subnet> {
    let (load, pool) = (&on.load, on.pool);
    let own: Option<Subnet> = instance.status.subnet.parse().ok().filter(|own| !load.overlaps(*own));
    let start = beginning(instance) % pool.count();
    own.or_else(|| (0..pool.count()).map(|n| pool.nth(start + n)).find(|subnet| !load.overlaps(*subnet)))
}

/// Those that it has first: what it keeps in them, a model perhaps, is where it was.
fn choose_gpus(instance: &Instance, on: &HostLoad) -> Vec<String> {
    let own = &instance.status.gpus;
    let had = on.free_gpus().filter(|gpu| own.contains(gpu));
    let others = on.free_gpus().filter(|gpu| !own.contains(gpu));
    had.chain(others).take(instance.spec.gpus as usize).cloned().collect()
}

/// Fixed ports as asked, others free ones.
fn choose_ports(instance: &Instance, on: &HostLoad) -> Vec<PlacedPort> {
    let (first, last) = on.port_range;
    let size = u32::from(last - first) + 1;
    let start = beginning(instance) % size;
    let fixed: Vec<u16> = instance.spec.ports.iter().filter_map(|p| p.host_port).collect();
    // None comes twice: the filter has counted enough free ports.
    let mut free = (0..size)
        .map(|offset| first + ((start + offset) % size) as u16)
        .filter(|port| !on.load.has_port(*port) && !fixed.contains(port));
    let ports = instance.spec.ports.iter();
    ports
        .filter_map(|port| {
            let host_port = port.host_port.or_else(|| free.next())?;
            Some(PlacedPort { name: port.name.clone(), host_port })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::model::{BoundPort, DockerHost, Phase};

    fn host(name: &str, memory: &str, range: &str) -> Arc<DockerHost> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"zone": name}},
                "spec": {"endpoint": "unix:///x", "portRange": range},
                "status": {
                    "capacity": {"memory": memory, "cpu": "4"},
                    "runtimes": ["runc"],
                    "conditions": [{"type": "Ready", "status": "True", "reason": "Ok", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                },
            }))
            .unwrap(),
        )
    }

    fn instance(name: &str, ports: usize) -> Instance {
        let ports: Vec<_> = (0..ports).map(|i| json!({"name": format!("p{i}"), "containerPort": 80 + i})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"image": "app", "ports": ports, "resources": {"memory": "256Mi"}},
        }))
        .unwrap()
    }

    fn bind(mut instance: Instance, placement: &Placement) -> Instance {
        instance.status.node = placement.node.clone();
        instance.status.phase = Phase::Running;
        instance.status.allocated_resources = Some(instance.spec.asks());
        instance.status.subnet = placement.subnet.to_string();
        instance.status.gpus = placement.gpus.clone();
        instance.status.ports =
            placement.ports.iter().map(|p| BoundPort { name: p.name.clone(), host_port: p.host_port }).collect();
        instance
    }

    #[test]
    fn every_refusal_is_counted_and_told() {
        let mut small = (*host("small", "100Mi", "")).clone();
        let mut cordoned = (*host("cordoned", "4Gi", "")).clone();
        cordoned.spec.unschedulable = true;
        let mut new = (*host("new", "4Gi", "")).clone();
        new.status.conditions.clear();
        let fleet = Fleet::new([Arc::new(small.clone()), Arc::new(cordoned), Arc::new(new)], []);
        let why = place(&instance("a", 1), &fleet).unwrap_err().to_string();
        assert_eq!(why, "0/3 hosts fit: 1 unschedulable, 1 not ready (not seen yet), 1 without enough memory");

        let waits =
            |hosts: Vec<Arc<DockerHost>>| place(&instance("a", 1), &Fleet::new(hosts, [])).unwrap_err().awaits_hosts();
        let mut unseen = small.clone();
        unseen.status.conditions.clear();
        assert!(waits(vec![]) && waits(vec![Arc::new(unseen.clone())]));
        assert!(!waits(vec![Arc::new(unseen.clone()), Arc::new(small.clone())]), "the other one is full");
        let mut closed = small.clone();
        closed.metadata.name = "closed".into();
        closed.spec.unschedulable = true;
        assert!(waits(vec![Arc::new(unseen.clone()), Arc::new(closed.clone())]) && !waits(vec![Arc::new(closed)]));
        let mut pinned = instance("a", 0);
        pinned.spec.placement.node = unseen.metadata.name.clone();
        let other = host("other", "4Gi", "30000-30009");
        let why = place(&pinned, &Fleet::new([Arc::new(unseen), other], [])).unwrap_err();
        assert!(why.awaits_hosts(), "{why}");

        small.metadata.name = "other".into();
        let mut pinned = instance("a", 0);
        pinned.spec.placement.node = "elsewhere".into();
        let why = place(&pinned, &Fleet::new([Arc::new(small)], [])).unwrap_err().to_string();
        assert_eq!(why, "0/1 hosts fit: 1 is not the node of spec.placement.node");
        assert_eq!(place(&pinned, &Fleet::default()).unwrap_err().to_string(), "there is no DockerHost");
    }

    #[test]
    fn each_filter_says_what_it_has_found() {
        let why = |spec: serde_json::Value, host_has: fn(&mut DockerHost)| {
            let mut only = (*host("a", "4Gi", "30000-30009")).clone();
            host_has(&mut only);
            let mut asks = instance("x", 1);
            asks.spec = serde_json::from_value(spec).unwrap();
            let mut holder = instance("holder", 1);
            holder.spec.ports[0].host_port = Some(30001);
            let placed = place(&holder, &Fleet::new([host("a", "4Gi", "30000-30009")], [])).unwrap();
            place(&asks, &Fleet::new([Arc::new(only)], [&bind(holder, &placed)])).unwrap_err().to_string()
        };
        let nothing: fn(&mut DockerHost) = |_| {};
        assert_eq!(
            why(json!({"image": "a", "runtime": "runsc"}), nothing),
            "0/1 hosts fit: 1 without the runtime runsc"
        );
        assert_eq!(
            why(json!({"image": "a", "ports": [{"name": "p", "containerPort": 1, "hostPort": 30001}]}), nothing),
            "0/1 hosts fit: 1 with host port 30001 taken"
        );
        assert_eq!(
            why(json!({"image": "a", "placement": {"nodeSelector": {"zone": "b"}}}), nothing),
            "0/1 hosts fit: 1 did not match spec.placement.nodeSelector"
        );
        let cores = json!({"image": "a", "resources": {"memory": "1Mi", "cpu": "16"}});
        assert_eq!(why(cores, nothing), "0/1 hosts fit: 1 without enough CPU", "four times its cores");
        let overcommit = |host: &mut DockerHost, memory: &str, cpu: &str| {
            host.spec.overcommit.memory = memory.parse().ok();
            host.spec.overcommit.cpu = cpu.parse().ok();
        };
        let mut generous = (*host("a", "4Gi", "30000-30009")).clone();
        overcommit(&mut generous, "1.5", "4.5");
        let fleet = Fleet::new([Arc::new(generous.clone())], []);
        let asks = |memory: &str, cpu: &str| {
            let mut asks = instance("x", 0);
            asks.spec =
                serde_json::from_value(json!({"image": "a", "resources": {"memory": memory, "cpu": cpu}})).unwrap();
            place(&asks, &fleet).map(drop).map_err(|why| why.to_string())
        };
        assert_eq!(asks("6Gi", "18"), Ok(()));
        assert_eq!(asks("6145Mi", "1"), Err("0/1 hosts fit: 1 without enough memory".into()));
        assert_eq!(asks("1Gi", "18001m"), Err("0/1 hosts fit: 1 without enough CPU".into()));
        assert_eq!(
            why(json!({"image": "a"}), |host| host.status.capacity.instances = Some(1)),
            "0/1 hosts fit: 1 with too many instances"
        );
    }

    #[test]
    fn taints_keep_away_what_does_not_tolerate_them() {
        let tainted = |name: &str, taint: serde_json::Value| {
            let mut host = (*host(name, "4Gi", "")).clone();
            host.spec.taints = vec![serde_json::from_value(taint).unwrap()];
            Arc::new(host)
        };
        let maintenance = json!({"key": "maintenance", "value": "yes", "effect": "NoSchedule"});
        let hosts = [tainted("a", maintenance.clone()), tainted("b", maintenance)];
        let mut inst = instance("x", 0);
        let why = place(&inst, &Fleet::new(hosts.clone(), [])).unwrap_err().to_string();
        assert_eq!(
            why,
            "0/2 hosts fit: 2 had the taint maintenance=yes:NoSchedule that the instance does not tolerate"
        );
        inst.spec.placement.tolerations =
            serde_json::from_value(json!([{"key": "maintenance", "value": "yes"}])).unwrap();
        assert_eq!(place(&inst, &Fleet::new(hosts, [])).unwrap().node, "a");

        let shy = tainted("a", json!({"key": "old", "effect": "PreferNoSchedule"}));
        let inst = instance("x", 0);
        assert_eq!(
            place(&inst, &Fleet::new([shy.clone(), host("b", "1Gi", "")], [])).unwrap().node,
            "b",
            "fuller, and yet"
        );
        assert_eq!(place(&inst, &Fleet::new([shy], [])).unwrap().node, "a", "there is no other");
    }

    #[test]
    fn fixed_ports_do_not_count_as_free_ones() {
        let only = host("a", "4Gi", "30000-30001");
        let mut inst = instance("a", 3);
        inst.spec.ports[0].host_port = Some(30000);
        let why = place(&inst, &Fleet::new([only], [])).unwrap_err().to_string();
        assert_eq!(why, "0/1 hosts fit: 1 without a free host port");
    }

    #[test]
    fn a_sleeper_frees_memory_but_keeps_its_ports() {
        let only = host("a", "256Mi", "30000-30001");
        let first = instance("first", 1);
        let placed = place(&first, &Fleet::new([only.clone()], [])).unwrap();
        let mut first = bind(first, &placed);
        let second = instance("second", 1);
        assert!(place(&second, &Fleet::new([only.clone()], [&first])).is_err(), "no memory");
        first.status.allocated_resources = None;
        let placed = place(&second, &Fleet::new([only.clone()], [&first])).unwrap();
        assert_ne!(placed.ports[0].host_port, first.status.ports[0].host_port);
    }

    #[test]
    fn of_equally_loaded_hosts_one_that_has_the_image_is_taken() {
        let hosts = || [host("a", "64Gi", ""), host("b", "64Gi", ""), host("c", "64Gi", "")];
        let mut there = instance("there", 0);
        there.spec.placement.node = "b".into();
        let placed = place(&there, &Fleet::new(hosts(), [])).unwrap();
        let mut there = bind(there, &placed);
        there.status.allocated_resources = None;
        let asks = instance("asks", 0);
        let place = |bound: &[Instance]| place(&asks, &Fleet::new(hosts(), bound)).unwrap();
        assert_eq!(place(&[there.clone()]).node, "a", "its container is not made, nor is the image fetched");
        there.status.image.reference = "app".into();
        let found = place(&[there.clone()]);
        assert_eq!(found.node, "b");
        assert_eq!(found.message, "b has the image, and is as little loaded as any that fits (of 3 hosts)");
        there.status.image.reference = "app:2".into();
        assert_eq!(place(&[there.clone()]).message, "a is the least loaded that fits (of 3 hosts)");
        there.status.image.reference = "app".into();
        there.status.allocated_resources = Some(there.spec.asks());
        assert_eq!(place(&[there]).node, "a", "b is fuller now");
    }

    #[test]
    fn those_that_are_spread_are_on_a_host_each_as_far_as_there_are_hosts() {
        let hosts = [host("a", "4Gi", ""), host("b", "8Gi", ""), host("c", "512Mi", "")];
        let spread = |name: &str, value: &str| {
            let mut instance = instance(name, 0);
            instance.metadata.labels = [("app".to_owned(), value.to_owned())].into();
            instance.spec.placement.spread_by = "app".into();
            instance
        };
        let mut bound: Vec<Instance> = vec![];
        let mut nodes = vec![];
        for name in ["one", "two", "three", "four", "five", "six"] {
            let placed = place(&spread(name, "web"), &Fleet::new(hosts.clone(), &bound)).unwrap();
            nodes.push(placed.node.clone());
            if name == "four" {
                assert_eq!(placed.message, "b has the fewest with app=web of those that fit, 1 (of 3 hosts)");
            }
            bound.push(bind(spread(name, "web"), &placed));
            bound.last_mut().unwrap().status.image.reference = "app".into();
        }
        assert_eq!(nodes, ["b", "a", "c", "b", "a", "c"]);
        let fleet = Fleet::new(hosts.clone(), &bound);
        assert!(place(&spread("other", "db"), &fleet).unwrap().message.ends_with("fit, 0 (of 3 hosts)"));
        let mut without = spread("without", "web");
        without.metadata.labels.clear();
        assert!(place(&without, &fleet).unwrap().message.contains("least loaded"), "it has no such label");
        let mut elsewhere = spread("elsewhere", "web");
        elsewhere.metadata.namespace = "team".into();
        assert!(place(&elsewhere, &fleet).unwrap().message.contains("fit, 0"), "of its own namespace");
    }

    #[test]
    fn a_gpu_is_one_instances_alone_also_while_it_sleeps() {
        let mut both = (*host("a", "4Gi", "")).clone();
        both.status.gpus = vec!["GPU-a".into(), "GPU-b".into()];
        let hosts = [Arc::new(both), host("b", "64Gi", "")];
        let asks = |name: &str, gpus| {
            let mut instance = instance(name, 0);
            instance.spec.gpus = gpus;
            instance
        };
        let place = |instance: &Instance, bound: &[Instance]| place(instance, &Fleet::new(hosts.clone(), bound));
        let one = place(&asks("one", 1), &[]).unwrap();
        assert_eq!((one.node.as_str(), &one.gpus[..]), ("a", &["GPU-a".to_owned()][..]), "b has room, and no GPU");
        let mut one = bind(asks("one", 1), &one);
        one.status.phase = Phase::Asleep;
        let why = place(&asks("two", 2), &[one.clone()]).unwrap_err().to_string();
        assert_eq!(why, "0/2 hosts fit: 2 without enough free GPUs");
        let two = bind(asks("two", 1), &place(&asks("two", 1), &[one.clone()]).unwrap());
        assert_eq!(two.status.gpus, ["GPU-b"]);
        assert!(place(&asks("three", 1), &[one.clone(), two.clone()]).is_err());
        assert_eq!(place(&asks("none", 0), &[one.clone(), two.clone()]).unwrap().node, "b");
        let fleet = Fleet::new(hosts.clone(), &[one.clone(), two.clone()]);
        assert_eq!((fleet.allocated("a").gpus, fleet.allocated("b").gpus), (2, 0));
        // One that is asked for more keeps what it has.
        let mut more = two.clone();
        more.spec.gpus = 2;
        assert_eq!(place(&more, &[]).unwrap().gpus, ["GPU-b", "GPU-a"]);
    }

    #[test]
    fn each_instance_gets_a_subnet_that_nothing_bound_overlaps() {
        let mut small = (*host("a", "4Gi", "")).clone();
        small.spec.subnet_pool = "10.1.0.0/26".into();
        small.spec.subnet_size = Some(28);
        let only = Arc::new(small.clone());
        let mut bound: Vec<Instance> = vec![];
        for name in ["one", "two", "three"] {
            let placed = place(&instance(name, 0), &Fleet::new([only.clone()], &bound)).unwrap();
            bound.push(bind(instance(name, 0), &placed));
        }
        // Who sleeps keeps it.
        bound[0].status.phase = Phase::Asleep;
        // A subnet of a pool that the host had before is no other size's.
        let mut wide = bound.clone();
        wide[2].status.subnet = "10.1.0.0/27".into();
        wide[1].status.subnet = "10.1.0.32/28".into();
        wide.remove(0);
        let placed = place(&instance("four", 0), &Fleet::new([only.clone()], &wide)).unwrap();
        assert_eq!(placed.subnet.to_string(), "10.1.0.48/28");

        let placed = place(&instance("four", 0), &Fleet::new([only.clone()], &bound)).unwrap();
        bound.push(bind(instance("four", 0), &placed));
        let mut all: Vec<_> = bound.iter().map(|b| b.status.subnet.as_str()).collect();
        all.sort();
        assert_eq!(all, ["10.1.0.0/28", "10.1.0.16/28", "10.1.0.32/28", "10.1.0.48/28"]);
        let why = place(&instance("five", 0), &Fleet::new([only.clone()], &bound)).unwrap_err().to_string();
        assert_eq!(why, "0/1 hosts fit: 1 without a free subnet");

        // One that it has is kept, also when the pool is another now.
        small.spec.subnet_pool = "10.9.0.0/26".into();
        let others = Fleet::new([Arc::new(small)], &bound[..3]);
        assert_eq!(place(&bound[3], &others).unwrap().subnet.to_string(), bound[3].status.subnet);
    }

    proptest! {
        #[test]
        fn no_limit_however_large_overflows_a_sum(
            bound in proptest::collection::vec((prop_oneof![0..=4i64 << 30, 0..=i64::MAX], any::<i64>()), 0..6),
            asks in (prop_oneof![0..=4i64 << 30, 0..=i64::MAX], any::<i64>()),
        ) {
            let sized = |name: String, (memory, cpu): (i64, i64)| {
                let mut inst = instance(&name, 0);
                inst.spec.resources.memory = Some(crate::model::Quantity::from_bytes(memory));
                inst.spec.resources.cpu = Some(crate::model::Quantity::from_milli(cpu));
                inst.status.node = "a".into();
                inst.status.allocated_resources = Some(inst.spec.asks());
                inst
            };
            let sum = |of: fn(&(i64, i64)) -> i64| bound.iter().chain([&asks]).map(|size| i128::from(of(size))).sum::<i128>();
            let fits = sum(|size| size.0) <= 4 << 30 && sum(|size| size.1) <= 4 * 4000;
            let bound: Vec<_> = bound.into_iter().enumerate().map(|(i, size)| sized(format!("i{i}"), size)).collect();
            let placed = place(&sized("new".into(), asks), &Fleet::new([host("a", "4Gi", "")], &bound));
            prop_assert_eq!(placed.is_ok(), fits);
        }

        #[test]
        fn no_port_is_bound_twice_no_host_is_over_its_memory_and_load_is_even(count in 1usize..60, ports in 0usize..4) {
            let hosts = [host("a", "4Gi", "30000-30099"), host("b", "4Gi", "30000-30099"), host("c", "4Gi", "30000-30099")];
            let mut bound: Vec<Instance> = vec![];
            for i in 0..count {
                let inst = instance(&format!("i{i}"), ports);
                match place(&inst, &Fleet::new(hosts.clone(), &bound)) {
                    Ok(p) => bound.push(bind(inst, &p)),
                    Err(_) => prop_assert!(bound.len() >= 3 * 16, "refused too early, at {}", bound.len()),
                }
            }
            let fleet = Fleet::new(hosts, &bound);
            for on in fleet.hosts() {
                let all: usize = bound.iter().filter(|b| b.status.node == on.host.metadata.name).map(|b| b.status.ports.len()).sum();
                prop_assert_eq!(all, on.load.ports_len(), "a port was bound twice");
                prop_assert!(on.load.memory <= 4 << 30);
            }
            let counts: Vec<_> = fleet.hosts().map(|on| on.load.instances).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "uneven: {:?}", counts);
        }
    }
}
