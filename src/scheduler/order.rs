//! Hosts by how full they are, so that the least loaded is found without looking at all of them.
//!
//! Hosts of one capacity that carry the same are alike to every instance: they are one entry. What a host's score would
//! be with an instance on it is at least what it is now and the lesser of the two shares that the instance takes, so a
//! search that goes from the emptiest on may end where even that is more than the best that was found.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::HostLoad;

/// A number that is ordered, whatever it is.
#[derive(Clone, Copy, Debug)]
struct Number(f64);

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Number {}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Number) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Number) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// The larger of both shares, then both sums.
type Fullness = (Number, i128, i128);

/// Bytes and thousandths of a CPU, as shares are reckoned of them.
type Capacity = (i64, i64);

/// Invariant: every host of the fleet is in it once, under what it carries; no entry is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Order {
    by_capacity: BTreeMap<Capacity, BTreeMap<Fullness, BTreeSet<Arc<str>>>>,
}

fn capacity(host: &HostLoad) -> Capacity {
    let some = |all: Option<i128>| all.and_then(|all| i64::try_from(all).ok()).filter(|all| *all > 0).unwrap_or(1);
    (some(host.host.memory_limit()), some(host.host.cpu_limit()))
}

fn share((memory, cpu): (i128, i128), capacity: Capacity) -> f64 {
    (memory as f64 / capacity.0 as f64).max(cpu as f64 / capacity.1 as f64)
}

/// The larger of its shares with so much more on it: how full it would be of what it may promise.
pub fn score(host: &HostLoad, memory: i64, cpu_milli: i64) -> f64 {
    let load = &host.load;
    share((load.memory + i128::from(memory), load.cpu_milli + i128::from(cpu_milli)), capacity(host))
}

fn fullness(host: &HostLoad, capacity: Capacity) -> Fullness {
    let sums = (host.load.memory, host.load.cpu_milli);
    (Number(share(sums, capacity)), sums.0, sums.1)
}

impl Order {
    pub fn insert(&mut self, name: &Arc<str>, host: &HostLoad) {
        let capacity = capacity(host);
        let alike = self.by_capacity.entry(capacity).or_default();
        alike.entry(fullness(host, capacity)).or_default().insert(name.clone());
    }

    /// `host`: as it was inserted.
    pub fn remove(&mut self, name: &str, host: &HostLoad) {
        let capacity = capacity(host);
        let Some(class) = self.by_capacity.get_mut(&capacity) else { return };
        let fullness = fullness(host, capacity);
        if let Some(alike) = class.get_mut(&fullness) {
            alike.remove(name);
            if alike.is_empty() {
                class.remove(&fullness);
            }
        }
        if class.is_empty() {
            self.by_capacity.remove(&capacity);
        }
    }

    /// The host that has the smallest score with so much more on it, of those that are taken; ties go to the first by name.
    pub fn least(&self, memory: i64, cpu_milli: i64, takes: impl Fn(&str) -> bool) -> Option<&Arc<str>> {
        let (memory, cpu_milli) = (i128::from(memory), i128::from(cpu_milli));
        let mut best: Option<(f64, &Arc<str>)> = None;
        for (capacity, class) in &self.by_capacity {
            let adds = (memory as f64 / capacity.0 as f64).min(cpu_milli as f64 / capacity.1 as f64);
            for ((now, sum_memory, sum_cpu), alike) in class {
                // Sums of large numbers are not exact.
                let slack = 1e-9 * (1.0 + now.0.abs() + adds.abs());
                if best.is_some_and(|(least, _)| now.0 + adds - slack > least) {
                    break;
                }
                let score = share((sum_memory + memory, sum_cpu + cpu_milli), *capacity);
                let better = |name: &str| {
                    best.is_none_or(|(least, first)| score < least || (score == least && name < first.as_ref()))
                };
                let mut names = alike.iter().take_while(|name| better(name));
                if let Some(name) = names.find(|name| takes(name)) {
                    best = Some((score, name));
                }
            }
        }
        best.map(|(_, name)| name)
    }
}
