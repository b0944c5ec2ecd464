//! The containers of a host that are nobody's: the API's [`HostContainers`] over the daemons.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};

use crate::api::{HostContainers, HostSilent};
use crate::cache::Cache;
use crate::docker::Engines;
use crate::docker::adoption::{Translation, fill_limits, translate};
use crate::docker::engine::{ContainerSummary, Engine, EngineResult, Limits};
use crate::docker::labels;
use crate::model::{HostContainer, Resource};

/// How long a listing may take in all.
const WITHIN: Duration = Duration::from_secs(25);
/// How many are described at once.
const AT_ONCE: usize = 8;
/// More than that are not described: a host with so many is no place to look at by hand.
const MOST: usize = 1000;
/// What a kernel allows at most.
const ALL_PIDS: i64 = 4_194_304;

pub struct DockerContainers {
    pub cache: Arc<Cache>,
    pub engines: Arc<dyn Engines>,
}

#[async_trait]
impl HostContainers for DockerContainers {
    async fn list(&self, name: &str) -> Result<Vec<HostContainer>, HostSilent> {
        let host = self.cache.host(name).ok_or_else(|| HostSilent::NoHost(name.to_owned()))?;
        let silent = |why: String| HostSilent::Unreachable { host: host.metadata.name.clone(), why };
        let engine = self.engines.engine(&host).map_err(|e| silent(e.to_string()))?;
        let address = host.spec.reach_address();
        let listed = tokio::time::timeout(WITHIN, described(&*engine, &address)).await;
        let found = listed.map_err(|_| silent(format!("no answer within {} s", WITHIN.as_secs())))?;
        let mut found = found.map_err(|e| silent(e.to_string()))?;
        let instances = self.cache.instances();
        for container in &mut found {
            if let Some(adopter) = instances.iter().find(|i| i.claims(&container.container_id)) {
                container.refusals.push(format!("is {}'s already", adopter.key()));
                container.spec = None;
            }
        }
        Ok(found)
    }
}

async fn described(engine: &dyn Engine, address: &str) -> EngineResult<Vec<HostContainer>> {
    let (info, mut listed) = futures::try_join!(engine.info(), engine.list_containers(&[]))?;
    listed.retain(|c| !c.labels.contains_key(labels::CLUSTER));
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    listed.truncate(MOST);
    let each = stream::iter(listed).map(async |summary| {
        let found = engine.describe(&summary.id).await?;
        Ok(found.map(|found| (summary, translate(&found, address))))
    });
    let all: Vec<Option<(ContainerSummary, Translation)>> = each.buffered(AT_ONCE).try_collect().await?;
    let all: Vec<_> = all.into_iter().flatten().collect();
    let whole = Limits { memory: info.memory_bytes, cpu_milli: info.cpus * 1000, pids: ALL_PIDS };
    Ok(told(all, whole))
}

/// As the API tells it.
fn told(all: Vec<(ContainerSummary, Translation)>, whole: Limits) -> Vec<HostContainer> {
    let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (summary, translation) in &all {
        for network in translation.networks.iter().filter(|n| !["bridge", "host", "none"].contains(&n.as_str())) {
            members.entry(network.clone()).or_default().push(summary.name.clone());
        }
    }
    let one = |(summary, mut found): (ContainerSummary, Translation)| {
        found.notes.extend(fill_limits(&mut found.spec, whole));
        let others = |network: &String| {
            let with: Vec<_> = members.get(network)?.iter().filter(|name| **name != summary.name).cloned().collect();
            (!with.is_empty()).then(|| format!("{network} (with {})", with.join(", ")))
        };
        HostContainer {
            shared_networks: found.networks.iter().filter_map(others).collect(),
            container_id: summary.id.clone(),
            name: summary.name.clone(),
            image: found.spec.image.clone(),
            labels: summary.labels.clone(),
            spec: found.refusals.is_empty().then_some(found.spec),
            refusals: found.refusals,
            notes: found.notes,
        }
    };
    all.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_that_others_are_in_are_told_with_them() {
        let container = |name: &str, networks: &[&str]| {
            let summary = ContainerSummary { id: name.into(), name: name.into(), ..ContainerSummary::default() };
            let networks = networks.iter().map(|n| (*n).to_owned()).collect();
            (summary, Translation { networks, ..Translation::default() })
        };
        let all = vec![
            container("db", &["shop", "bridge"]),
            container("lone", &["bridge", "own"]),
            container("web", &["shop"]),
        ];
        let shared: Vec<_> = told(all, Limits::default()).into_iter().map(|c| (c.name, c.shared_networks)).collect();
        assert_eq!(
            shared,
            [
                ("db".to_owned(), vec!["shop (with web)".to_owned()]),
                ("lone".to_owned(), vec![]),
                ("web".to_owned(), vec!["shop (with db)".to_owned()]),
            ]
        );
    }

    #[test]
    fn what_cannot_be_adopted_has_no_spec() {
        let refused = Translation { refusals: vec!["is privileged".into()], ..Translation::default() };
        let found = told(vec![(ContainerSummary::default(), refused)], Limits::default());
        assert_eq!((found[0].spec.is_none(), found[0].refusals.len()), (true, 1));
    }
}
