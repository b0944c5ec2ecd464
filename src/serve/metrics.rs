//! Live use: the API's [`LiveUse`] over the daemons, as far as the cache says that something runs there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use jiff::Timestamp;

use crate::api::{LiveUse, NoUse, Use};
use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::docker::Engines;
use crate::docker::usage::{Meter, Reading, Run, Used};
use crate::model::{DockerHost, Instance, Key, Phase, Resource, is_true};

/// Measures what runs, all hosts at once, each within the meter's patience. A host that is known not to answer is not
/// asked.
pub struct DockerLiveUse {
    cache: Arc<Cache>,
    meter: Meter,
    clock: SharedClock,
}

/// What can be said of an instance before anyone is asked.
#[derive(Debug, PartialEq, Eq)]
enum Before {
    Ask(Run),
    NotRunning,
    Unknown,
}

fn before(instance: &Instance) -> Before {
    let status = &instance.status;
    match status.phase {
        Phase::Lost => Before::Unknown,
        Phase::Pending | Phase::Pulling | Phase::Asleep | Phase::Stopped | Phase::Failed => Before::NotRunning,
        _ if status.container_id.is_empty() => Before::NotRunning,
        Phase::Starting | Phase::Running | Phase::Frozen | Phase::Stopping | Phase::Upgrading | Phase::Moving => {
            Before::Ask(Run {
                container: status.container_id.clone(),
                started_at: status.started_at.map(|t| t.timestamp()),
            })
        }
    }
}

fn told(used: Used) -> Use {
    let Used { at, window, nanocores, memory } = used;
    Use { at, window, nanocores, memory }
}

/// What several use together. Its window spans all of theirs. `None` when of one it is not known: too little would be
/// told.
fn sum(readings: &[Reading], now: Timestamp) -> Option<Use> {
    let mut used = vec![];
    for reading in readings {
        match reading {
            Reading::Used(one) => used.push(one),
            Reading::NotRunning => {}
            Reading::Unknown => return None,
        }
    }
    let end = used.iter().map(|u| u.at).max().unwrap_or(now);
    let begin = used.iter().map(|u| u.at - u.window).min().unwrap_or(now);
    Some(Use {
        at: end,
        window: Duration::try_from(end.duration_since(begin)).unwrap_or_default(),
        nanocores: used.iter().map(|u| u.nanocores).fold(0, u64::saturating_add),
        memory: used.iter().map(|u| u.memory).fold(0, u64::saturating_add),
    })
}

impl DockerLiveUse {
    pub fn new(cache: Arc<Cache>, engines: Arc<dyn Engines>, clock: SharedClock) -> DockerLiveUse {
        let meter = Meter::new(engines, clock.clone());
        DockerLiveUse { cache, meter, clock }
    }

    /// A host that answered when it was last checked.
    fn answering(&self, name: &str) -> Option<Arc<DockerHost>> {
        self.cache.host(name).filter(|host| is_true(&host.status.conditions, "Ready"))
    }

    /// What these instances, all of one host, use.
    async fn on_host(&self, name: &str, instances: &[Arc<Instance>]) -> Vec<Reading> {
        let host = self.answering(name);
        let before: Vec<Before> = instances.iter().map(|i| before(i)).collect();
        let mut runs = vec![];
        for one in &before {
            if let Before::Ask(run) = one {
                runs.push(run.clone());
            }
        }
        let readings = match host {
            Some(host) if !runs.is_empty() => self.meter.read(&host, &runs).await,
            Some(_) | None => vec![],
        };
        let mut readings = readings.into_iter();
        before
            .iter()
            .map(|one| match one {
                Before::Ask(_) => readings.next().unwrap_or(Reading::Unknown),
                Before::NotRunning => Reading::NotRunning,
                Before::Unknown => Reading::Unknown,
            })
            .collect()
    }
}

#[async_trait]
impl LiveUse for DockerLiveUse {
    async fn instances(&self, keys: &[Key]) -> BTreeMap<Key, Result<Use, NoUse>> {
        let mut by_host: BTreeMap<String, Vec<Arc<Instance>>> = BTreeMap::new();
        for instance in keys.iter().filter_map(|key| self.cache.instance(key)) {
            by_host.entry(instance.status.node.clone()).or_default().push(instance);
        }
        let hosts = join_all(by_host.iter().map(|(host, instances)| self.on_host(host, instances))).await;
        let all = by_host.values().zip(hosts).flat_map(|(instances, readings)| instances.iter().zip(readings));
        all.map(|(instance, reading)| {
            let used = match reading {
                Reading::Used(used) => Ok(told(used)),
                Reading::NotRunning => Err(NoUse::NotRunning),
                Reading::Unknown => Err(NoUse::Unknown),
            };
            (instance.key(), used)
        })
        .collect()
    }

    async fn hosts(&self, names: &[String]) -> BTreeMap<String, Use> {
        let each = names.iter().map(async |name| {
            // Else one with nothing on it would be told to use nothing, though nobody knows.
            self.answering(name)?;
            let readings = self.on_host(name, &self.cache.on_node(name)).await;
            Some((name.clone(), sum(&readings, self.clock.now())?))
        });
        join_all(each).await.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(at: i64, window: u64, nanocores: u64, memory: u64) -> Reading {
        let at = Timestamp::from_second(at).unwrap();
        Reading::Used(Used { at, window: Duration::from_secs(window), nanocores, memory })
    }

    #[test]
    fn a_sum_spans_all_that_it_is_made_of_and_is_never_too_little() {
        let now = Timestamp::from_second(1000).unwrap();
        let some = [used(100, 1, 5, 7), Reading::NotRunning, used(95, 15, 6, 8)];
        let both = Use {
            at: Timestamp::from_second(100).unwrap(),
            window: Duration::from_secs(20),
            nanocores: 11,
            memory: 15,
        };
        assert_eq!(sum(&some, now), Some(both));
        assert_eq!(sum(&[used(100, 1, 5, 7), Reading::Unknown], now), None);
        let nothing = Use { at: now, window: Duration::ZERO, nanocores: 0, memory: 0 };
        assert_eq!(sum(&[Reading::NotRunning], now), Some(nothing));
    }
}
