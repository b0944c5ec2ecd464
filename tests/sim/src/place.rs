//! Placement by itself: how many decisions a second the scheduler makes, beside the search that it cannot be faster than.
//!
//! ```text
//! limit   a bare argmin over as many numbers as there are hosts: by a scan, and by a heap
//! place   scheduler::place on a fleet whose load is known, and the load kept up to date after it
//! whole   the load reckoned anew from all instances, and then place: what a start does once
//! ```
//!
//! Each cycle takes each in turn, so that what the machine does meanwhile meets all.

use std::collections::BinaryHeap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use portreeve::model::{BoundPort, DockerHost, Instance, Key, Phase};
use portreeve::scheduler::{Fleet, place};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::clock;

#[derive(Debug, Deserialize)]
pub struct Place {
    hosts: usize,
    /// How many are placed already; one series for each.
    instances: Vec<usize>,
    cycles: usize,
}

/// For how long each is measured in a cycle.
const LASTS: Duration = Duration::from_millis(400);

pub fn run(job: &Place) -> Result<Value> {
    let mut series = vec![];
    for &count in &job.instances {
        let hosts = hosts(job.hosts)?;
        let bound = bound(count, &hosts)?;
        let mut fleet = Fleet::new(hosts.iter().cloned(), bound.iter());
        let mut cycles = vec![];
        for _ in 0..job.cycles {
            let scan = scan(job.hosts);
            let heap = heap(job.hosts);
            let ours = decide(&mut fleet)?;
            let whole = whole(&hosts, &bound)?;
            cycles.push(json!({"scan": scan, "heap": heap, "place": ours, "whole": whole}));
            eprint!(".");
        }
        series.push(json!({"instances": count, "cycles": cycles}));
    }
    Ok(json!({"hosts": job.hosts, "series": series}))
}

fn hosts(count: usize) -> Result<Vec<Arc<DockerHost>>> {
    let host = |number: usize| {
        json!({
            "metadata": {"name": format!("host-{number:05}"), "labels": {"zone": format!("z{}", number % 3)}},
            "spec": {"endpoint": "unix:///x", "address": "10.0.0.1"},
            "status": {
                "capacity": {"memory": "256Gi", "cpu": "64", "instances": 4000}, "runtimes": ["runc"],
                "conditions": [{"type": "Ready", "status": "True", "reason": "Connected",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        })
    };
    (0..count).map(|n| Ok(Arc::new(serde_json::from_value(host(n))?))).collect()
}

fn instance(number: usize) -> Result<Instance> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": format!("user-{number:06}"), "namespace": "default", "uid": format!("{number:032x}")},
        "spec": {
            "image": "app:1", "ports": [{"name": "http", "containerPort": 8080}],
            "resources": {"memory": "256Mi", "cpu": "100m"},
        },
    }))?)
}

/// So many, spread evenly.
fn bound(count: usize, hosts: &[Arc<DockerHost>]) -> Result<Vec<Instance>> {
    (0..count)
        .map(|number| {
            let (host, turn) = (number % hosts.len(), number / hosts.len());
            let mut instance = instance(number)?;
            let status = &mut instance.status;
            status.node = hosts[host].metadata.name.clone();
            status.phase = Phase::Running;
            status.address = "10.0.0.1".into();
            status.subnet = format!("10.213.{}.{}/28", turn / 16, turn % 16 * 16);
            let port = 30_000 + u16::try_from(turn)?;
            status.ports = vec![BoundPort { name: "http".into(), host_port: port }];
            status.allocated_resources = Some(instance.spec.asks());
            Ok(instance)
        })
        .collect()
}

/// What each took, in nanoseconds, to a rate and percentiles.
fn told(mut nanos: Vec<u64>) -> Value {
    nanos.sort_unstable();
    let at = |share: f64| nanos[((nanos.len() as f64 * share) as usize).min(nanos.len() - 1)] as f64 / 1e3;
    let all: u64 = nanos.iter().sum();
    json!({"perSecond": nanos.len() as f64 * 1e9 / all as f64, "p50": at(0.5), "p99": at(0.99), "count": nanos.len()})
}

/// Calls it again and again; what each took.
fn timed(mut decide: impl FnMut(usize) -> Result<()>) -> Result<Vec<u64>> {
    let (begin, mut nanos) = (clock::now(), vec![]);
    while nanos.is_empty() || clock::now().duration_since(begin) < LASTS {
        let start = clock::now();
        decide(nanos.len())?;
        nanos.push(u64::try_from(clock::now().duration_since(start).as_nanos())?);
    }
    Ok(nanos)
}

/// The least of so many numbers, and one more on it.
fn scan(hosts: usize) -> Value {
    let mut loads = vec![0.0f64; hosts];
    let nanos = timed(|n| {
        let mut best = 0;
        for (at, load) in loads.iter().enumerate() {
            if *load < loads[best] {
                best = at;
            }
        }
        loads[best] += 1.0 + (n % 7) as f64;
        black_box(&loads);
        Ok(())
    });
    nanos.map(told).unwrap_or_default()
}

fn heap(hosts: usize) -> Value {
    let mut loads: BinaryHeap<(std::cmp::Reverse<u64>, usize)> =
        (0..hosts).map(|host| (std::cmp::Reverse(0), host)).collect();
    let nanos = timed(|n| {
        if let Some(mut least) = loads.peek_mut() {
            least.0.0 += 1 + (n % 7) as u64;
        }
        black_box(&loads);
        Ok(())
    });
    nanos.map(told).unwrap_or_default()
}

/// On the fleet as it is, each with its binding told to the fleet; what is placed is taken off again at the end, so that
/// every cycle finds it alike.
fn decide(fleet: &mut Fleet) -> Result<Value> {
    // Filled in in turn, as a commit fills in the record.
    let mut news = (0..256).map(|n| instance(9_000_000 + n)).collect::<Result<Vec<_>>>()?;
    let before = fleet.clone();
    let nanos = timed(|n| {
        let count = news.len();
        let new = &mut news[n % count];
        new.status = Default::default();
        let placed = place(new, fleet).map_err(|why| anyhow!("{why}"))?;
        let status = &mut new.status;
        (status.node, status.address, status.phase) = (placed.node, placed.address, Phase::Pending);
        let ports = placed.ports.into_iter();
        status.ports = ports.map(|p| BoundPort { name: p.name, host_port: p.host_port }).collect();
        status.subnet = placed.subnet.to_string();
        status.allocated_resources = Some(new.spec.asks());
        let key = Key::instance("default", format!("new-{n:06}"));
        fleet.set_instance(&key, Some(new));
        Ok(())
    })?;
    *fleet = before;
    Ok(told(nanos))
}

fn whole(hosts: &[Arc<DockerHost>], bound: &[Instance]) -> Result<Value> {
    let new = instance(9_000_000)?;
    let nanos = timed(|_| {
        let fleet = Fleet::new(hosts.iter().cloned(), bound.iter());
        black_box(place(&new, &fleet).map_err(|why| anyhow!("{why}"))?);
        Ok(())
    })?;
    Ok(told(nanos))
}
