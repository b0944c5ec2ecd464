//! What must hold of the fleet whatever happens to it: kept up is as reckoned anew, and found is as searched for.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::filter::refuse;
use super::{Fleet, HostLoad, place};
use crate::model::{BoundPort, DockerHost, Instance, Key, Quantity, TaintEffect, untolerated};

#[derive(Clone, Debug)]
enum Step {
    /// Memory and CPU that it has, and what else there is about it.
    Host(usize, Option<(i64, i64, u8)>),
    Instance(usize, Option<Placed>),
}

#[derive(Clone, Debug)]
struct Placed {
    node: usize,
    asleep: bool,
    memory: i64,
    cpu: i64,
    ports: Vec<u16>,
    gpus: u8,
    subnet: u8,
    /// Of its image and its label.
    kind: u8,
}

fn placed() -> impl Strategy<Value = Placed> {
    let size = prop_oneof![8 => 1i64..4, 1 => Just(i64::MAX)];
    (
        0usize..6,
        any::<bool>(),
        size,
        1i64..4,
        proptest::collection::vec(30_000u16..30_006, 0..3),
        0u8..4,
        0u8..6,
        any::<u8>(),
    )
        .prop_map(|(node, asleep, memory, cpu, ports, gpus, subnet, kind)| Placed {
            node,
            asleep,
            memory,
            cpu,
            ports,
            gpus,
            subnet,
            kind,
        })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0usize..5, proptest::option::weighted(0.8, (1i64..3, 1i64..3, any::<u8>()))).prop_map(|(n, h)| Step::Host(n, h)),
        4 => (0usize..10, proptest::option::weighted(0.8, placed())).prop_map(|(n, i)| Step::Instance(n, i)),
    ]
}

fn host(number: usize, (memory, cpu, what): (i64, i64, u8)) -> Arc<DockerHost> {
    let effect = if what % 8 == 0 { "NoSchedule" } else { "PreferNoSchedule" };
    let taints = if what % 4 == 0 { json!([{"key": "k", "effect": effect}]) } else { json!([]) };
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": format!("h{number}")},
            "spec": {"endpoint": "unix:///x", "portRange": "30000-30005", "unschedulable": what % 16 == 1, "taints": taints},
            "status": {
                "gpus": ["0", "1"],
                "capacity": {"memory": format!("{}Gi", memory * 4), "cpu": cpu.to_string(), "instances": 6},
                "conditions": [{"type": "Ready", "status": if what % 16 == 2 { "False" } else { "True" }, "reason": "R",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        }))
        .unwrap(),
    )
}

fn instance(number: usize, placed: &Placed) -> Instance {
    let mut instance: Instance = serde_json::from_value(json!({
        "metadata": {"name": format!("i{number}"), "namespace": "default", "uid": format!("u{number}"),
                     "labels": {"app": format!("a{}", placed.kind % 2)}},
        "spec": {"image": format!("app:{}", placed.kind % 3), "placement": {"spreadBy": if placed.kind.is_multiple_of(5) { "app" } else { "" }}},
    }))
    .unwrap();
    let resources = &mut instance.spec.resources;
    resources.memory = Some(Quantity::from_bytes(placed.memory.saturating_mul(1 << 29)));
    resources.cpu = Some(Quantity::from_milli(placed.cpu * 100));
    instance.spec.gpus = u32::from(placed.gpus % 2);
    let status = &mut instance.status;
    // One that is taken twice is a mistake of somebody's, and must be counted all the same.
    status.gpus = (0..2).filter(|n| placed.gpus >> n & 1 == 1).map(|n| n.to_string()).collect();
    // One number is no host at all.
    status.node = if placed.node == 5 { String::new() } else { format!("h{}", placed.node) };
    status.allocated_resources = (!placed.asleep).then(|| instance.spec.asks());
    if !placed.kind.is_multiple_of(7) {
        status.image.reference = instance.spec.image.clone();
    }
    status.subnet = format!("10.213.0.{}/28", placed.subnet * 16);
    status.ports = placed.ports.iter().map(|p| BoundPort { name: "p".into(), host_port: *p }).collect();
    instance
}

/// The host that has the least score, by looking at each.
fn searched(instance: &Instance, fleet: &Fleet) -> Option<String> {
    let score = |on: &HostLoad| {
        let share = |used: i128, all: i128| used as f64 / all as f64;
        let (memory, cpu) = (on.host.memory_limit().unwrap(), on.host.cpu_limit().unwrap());
        let shares = (
            share(on.load.memory + i128::from(instance.spec.memory_bytes()), memory),
            share(on.load.cpu_milli + i128::from(instance.spec.cpu_milli()), cpu),
        );
        let disliked = untolerated(&on.host.spec.taints, &[], &[TaintEffect::PreferNoSchedule]).is_some();
        (disliked, shares.0.max(shares.1))
    };
    let name = |on: &HostLoad| on.host.metadata.name.clone();
    let mut fits: Vec<_> = fleet.hosts().filter(|on| refuse(instance, on).is_ok()).collect();
    let disliked = fits.iter().map(|on| score(on).0).min()?;
    fits.retain(|on| score(on).0 == disliked);
    if let Some(alike) = fleet.alike(instance) {
        let fewest = fits.iter().map(|on| alike(&name(on))).min()?;
        fits.retain(|on| alike(&name(on)) == fewest);
    }
    // Of equals the first, which is that by name.
    let least = |hosts: Vec<&HostLoad>| {
        hosts.into_iter().map(|on| (score(on).1, name(on))).reduce(|a, b| if b.0 < a.0 { b } else { a })
    };
    let first = least(fits.clone())?;
    let has = |on: &str| fleet.has_image(on, &instance.spec.image);
    fits.retain(|on| score(on).1 <= first.0 && has(&name(on)));
    let there = least(fits).filter(|_| !has(&first.1));
    Some(there.unwrap_or(first).1)
}

proptest! {
    #[test]
    fn a_fleet_that_is_kept_up_equals_one_reckoned_anew(steps in proptest::collection::vec(step(), 0..60), asks in placed()) {
        let (mut hosts, mut instances) = (BTreeMap::new(), BTreeMap::new());
        let mut kept = Fleet::default();
        for step in steps {
            match step {
                Step::Host(n, now) => {
                    let now = now.map(|now| host(n, now));
                    kept.set_host(&format!("h{n}"), now.clone());
                    match now {
 Some(now) => hosts.insert(n, now),
 None => hosts.remove(&n),
 };
                }
                Step::Instance(n, now) => {
                    let now = now.map(|now| instance(n, &now));
                    kept.set_instance(&Key::instance("default", format!("i{n}")), now.as_ref());
                    match now {
 Some(now) => instances.insert(n, now),
 None => instances.remove(&n),
 };
                }
            }
        }
        let anew = Fleet::new(hosts.into_values(), instances.values());
        prop_assert_eq!(&kept, &anew);
        let mut asks = instance(99, &asks);
        asks.status = Default::default();
        let found = place(&asks, &kept).ok().map(|placement| placement.node);
        prop_assert_eq!(found, searched(&asks, &anew));
    }
}
