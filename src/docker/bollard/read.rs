//! Observing a real daemon.

use std::collections::HashMap;

use ::bollard::errors::Error;
use ::bollard::models::{Network, NetworkInspect};
use ::bollard::query_parameters as query;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::Method;
use jiff::Timestamp;
use serde::Deserialize;

use super::create::MASQUERADE;
use super::gpus;
use super::inspect::{self, sorted};
use super::{BollardEngine, Release, accepted, broken, data, escaped, stats};
use crate::docker::adoption::Description;
use crate::docker::engine::*;
use crate::docker::gate::timed_out;
use crate::docker::turns::Weight;
use crate::docker::{classify, reference, streams, timeouts};

/// What we want to hear of; health checks and commands would drown it. Of images only how they come: what goes leaves
/// those alone that run, and those that wait are none the better for it.
const ACTIONS: [&str; 17] = [
    "create",
    "start",
    "restart",
    "die",
    "stop",
    "kill",
    "oom",
    "pause",
    "unpause",
    "rename",
    "update",
    "destroy",
    "disconnect",
    "pull",
    "load",
    "import",
    "tag",
];

fn network(told: Network) -> NetworkInfo {
    let configs = told.ipam.and_then(|ipam| ipam.config).into_iter().flatten();
    NetworkInfo {
        id: told.id.unwrap_or_default(),
        name: told.name.unwrap_or_default(),
        labels: sorted(told.labels),
        subnets: configs.filter_map(|config| config.subnet).collect(),
        closed: told.options.and_then(|o| o.get(MASQUERADE).cloned()).is_some_and(|masquerade| masquerade == "false"),
    }
}

/// Listed and inspected ones are of two types: what we look at, of the one as of the other.
fn as_listed(told: NetworkInspect) -> Network {
    let NetworkInspect { id, name, labels, ipam, options, .. } = told;
    Network { id, name, labels, ipam, options, ..Default::default() }
}

/// Whether there are several networks of one name: older daemons make a second one while they are making the first.
pub fn is_ambiguous(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { message, .. } if message.contains("is ambiguous"))
}

/// Several networks of one name as if they were one, with all their subnets, and with the labels that all of them carry:
/// with a stranger's among them it is a stranger's.
fn together(copies: Vec<Network>) -> Option<NetworkInfo> {
    copies.into_iter().map(network).reduce(|mut all, copy| {
        all.labels.retain(|key, value| copy.labels.get(key) == Some(value));
        all.subnets.extend(copy.subnets);
        all
    })
}

impl BollardEngine {
    /// An answer as the daemon words it; `None` for a 404.
    async fn told(&self, op: &'static str, object: &str, path: &str) -> EngineResult<Option<serde_json::Value>> {
        let call = async {
            let response = accepted(self.transport.request(Method::GET, path, Bytes::new()).await?).await?;
            stats::whole(response.into_body()).await
        };
        let Some(body) = self.quick(op, object, async { found(call.await) }).await? else { return Ok(None) };
        serde_json::from_slice(&body).map(Some).map_err(|e| EngineError {
            op,
            object: object.to_owned(),
            kind: EngineErrorKind::Server,
            message: format!("no description: {e}"),
        })
    }

    /// What the daemon's program is. Asked once for each version that `info` tells.
    async fn release(&self, version: &str) -> Result<Release, Error> {
        let known = self.release.lock().expect("no panic while held").clone();
        if let Some(known) = known.filter(|known| !version.is_empty() && known.version == version) {
            return Ok(known);
        }
        let told = self.docker.version().await?;
        let release = Release {
            version: told.version.unwrap_or_default(),
            api_version: told.api_version.unwrap_or_default(),
            architecture: told.arch.unwrap_or_default(),
        };
        *self.release.lock().expect("no panic while held") = Some(release.clone());
        Ok(release)
    }

    /// All networks of this name.
    pub(super) async fn copies(&self, name: &str) -> Result<Vec<Network>, Error> {
        let filters = Some([("name".to_owned(), vec![name.to_owned()])].into());
        let mut listed = self.docker.list_networks(Some(query::ListNetworksOptions { filters })).await?;
        // The filter is for a part of the name.
        listed.retain(|told| told.name.as_deref() == Some(name));
        Ok(listed)
    }
}

/// `None` for a 404.
fn found<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

fn label_filter(labels: &[(&str, &str)]) -> HashMap<String, Vec<String>> {
    [("label".to_owned(), labels.iter().map(|(k, v)| format!("{k}={v}")).collect())].into()
}

/// An event on the wire.
#[derive(Deserialize)]
struct Told {
    #[serde(rename = "Type", default)]
    object: String,
    #[serde(rename = "Action", default)]
    action: String,
    #[serde(rename = "Actor", default)]
    actor: Actor,
}

#[derive(Default, Deserialize)]
struct Actor {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Attributes", default)]
    attributes: Option<std::collections::BTreeMap<String, String>>,
}

#[async_trait]
impl EngineRead for BollardEngine {
    async fn info(&self) -> EngineResult<EngineInfo> {
        // One after the other, on one connection: that a second cannot be made must not be taken for the end of the first.
        let call = async {
            let info = self.docker.info().await?;
            let version = self.release(info.server_version.as_deref().unwrap_or_default()).await?;
            Ok((info, version))
        };
        let (info, version) = self.gate.call("info", &self.host, Weight::Health, timeouts::QUICK, call).await?;
        let credentials_fault = self.transport.credentials_fault().await;
        let gpus = gpus::told(&info);
        let mut runtimes: Vec<_> = info.runtimes.unwrap_or_default().into_keys().collect();
        runtimes.sort();
        Ok(EngineInfo {
            daemon_id: info.id.unwrap_or_default(),
            version: version.version,
            api_version: version.api_version,
            os: info.operating_system.unwrap_or_default(),
            kernel: info.kernel_version.unwrap_or_default(),
            architecture: version.architecture,
            storage_driver: info.driver.unwrap_or_default(),
            runtimes,
            gpus,
            memory_bytes: info.mem_total.unwrap_or_default(),
            cpus: info.ncpu.unwrap_or_default(),
            credentials_fault,
            certificates_end: self.transport.certificates_end(),
        })
    }

    async fn ping(&self) -> EngineResult<()> {
        const OP: &str = "ping";
        match tokio::time::timeout(timeouts::QUICK, self.transport.ping()).await {
            Ok(pong) => pong.map_err(|e| classify::error(OP, &self.host, &e.into())),
            Err(_) => Err(timed_out(OP, &self.host, timeouts::QUICK)),
        }
    }

    async fn list_containers(&self, labels: &[(&str, &str)]) -> EngineResult<Vec<ContainerSummary>> {
        let options =
            query::ListContainersOptions { all: true, filters: Some(label_filter(labels)), ..Default::default() };
        let call = self.docker.list_containers(Some(options));
        let listed = self.quick("list containers", &self.host, call).await?;
        Ok(listed.into_iter().map(inspect::summary).collect())
    }

    async fn container(&self, container: &str) -> EngineResult<Option<ContainerInfo>> {
        const OP: &str = "inspect container";
        reference::check(OP, container)?;
        let call = async { found(self.docker.inspect_container(container, None).await) };
        Ok(self.quick(OP, container, call).await?.map(inspect::container))
    }

    async fn describe(&self, id: &str) -> EngineResult<Option<Description>> {
        const OP: &str = "describe container";
        reference::check_id(OP, id)?;
        let Some(container) = self.told(OP, id, &format!("/containers/{id}/json")).await? else { return Ok(None) };
        let image = container["Image"].as_str().unwrap_or_default();
        let image = match image.strip_prefix("sha256:").filter(|hex| reference::is_full_id(hex)) {
            Some(_) => self.told(OP, id, &format!("/images/{image}/json")).await?,
            None => None,
        };
        Ok(Some(Description { container, image }))
    }

    async fn stats(&self, container: &str) -> EngineResult<Option<ContainerStats>> {
        const OP: &str = "stats";
        reference::check(OP, container)?;
        // Not the daemon's own two samples: see `docker::usage`.
        let path = format!("/containers/{container}/stats?stream=false&one-shot=true");
        let call = async {
            let response = accepted(self.transport.request(Method::GET, &path, Bytes::new()).await?).await?;
            stats::whole(response.into_body()).await
        };
        let call = async { found(call.await) };
        let told = self.gate.call(OP, container, Weight::Reading, timeouts::QUICK, call).await?;
        let Some(told) = told else { return Ok(None) };
        stats::parse(&told).map_err(|e| EngineError {
            op: OP,
            object: container.to_owned(),
            kind: EngineErrorKind::Server,
            message: format!("no stats: {e}"),
        })
    }

    async fn pulse(&self, container: &str) -> EngineResult<BoxStream<'static, EngineResult<()>>> {
        const OP: &str = "pulse";
        reference::check(OP, container)?;
        let path = format!("/containers/{container}/stats?stream=true");
        let response = self.open(OP, container, Method::GET, &path, Bytes::new()).await?;
        let object = container.to_owned();
        let readings = streams::lines(data(response));
        let beats = readings.take_while(|line| {
            let runs = line.as_ref().map_or(true, |line| !stats::is_of_none(line));
            std::future::ready(runs)
        });
        Ok(beats.map(move |line| line.map(drop).map_err(|e| broken(OP, &object, &e))).boxed())
    }

    async fn image(&self, image: &str) -> EngineResult<Option<ImageInfo>> {
        const OP: &str = "inspect image";
        reference::check_image(OP, image)?;
        let call = async { found(self.docker.inspect_image(&reference::image(image)).await) };
        Ok(self.quick(OP, image, call).await?.map(|told| ImageInfo {
            id: told.id.unwrap_or_default(),
            repo_digests: told.repo_digests.unwrap_or_default(),
        }))
    }

    async fn network(&self, name: &str) -> EngineResult<Option<NetworkInfo>> {
        const OP: &str = "inspect network";
        reference::check_name(OP, name)?;
        let call = async {
            match found(self.docker.inspect_network(name, None).await) {
                Err(e) if is_ambiguous(&e) => Ok(together(self.copies(name).await?)),
                found => Ok(found?.map(as_listed).map(network)),
            }
        };
        self.quick(OP, name, call).await
    }

    async fn list_networks(&self, labels: &[(&str, &str)]) -> EngineResult<Vec<NetworkInfo>> {
        let options = query::ListNetworksOptions { filters: Some(label_filter(labels)) };
        let listed = self.quick("list networks", &self.host, self.docker.list_networks(Some(options))).await?;
        Ok(listed.into_iter().map(network).collect())
    }

    async fn volume(&self, name: &str) -> EngineResult<Option<VolumeInfo>> {
        const OP: &str = "inspect volume";
        reference::check_volume(OP, name)?;
        let call = async { found(self.docker.inspect_volume(name).await) };
        let told = self.quick(OP, name, call).await?;
        Ok(told.map(|told| VolumeInfo { name: told.name, labels: told.labels.into_iter().collect() }))
    }

    async fn events(
        &self,
        label: (&str, &str),
        since: Option<Timestamp>,
    ) -> EngineResult<BoxStream<'static, EngineResult<EngineEvent>>> {
        const OP: &str = "events";
        // Not by label: the daemon would keep back all events of networks and volumes, which carry none.
        let filters = serde_json::json!({"type": ["container", "network", "volume", "image"], "event": ACTIONS});
        let mut path = format!("/events?filters={}", escaped(&filters.to_string()));
        if let Some(since) = since {
            path.push_str(&format!("&since={}.{:09}", since.as_second(), since.subsec_nanosecond()));
        }
        let response = self.open(OP, &self.host, Method::GET, &path, Bytes::new()).await?;
        let host = self.host.clone();
        let events = streams::lines(data(response)).map(move |line| {
            let line = line.map_err(|e| broken(OP, &host, &e))?;
            let told: Told = serde_json::from_slice(&line).map_err(|e| EngineError {
                op: OP,
                object: host.clone(),
                kind: EngineErrorKind::Server,
                message: format!("no event: {e}"),
            })?;
            let attributes = told.actor.attributes.unwrap_or_default();
            Ok(EngineEvent { object: told.object, id: told.actor.id, action: told.action, attributes })
        });
        let label = (label.0.to_owned(), label.1.to_owned());
        let ours = events.filter(move |event| {
            let ours = event.as_ref().map_or(true, |e: &EngineEvent| e.concerns((&label.0, &label.1)));
            std::future::ready(ours)
        });
        Ok(ours.boxed())
    }

    async fn logs(
        &self,
        container: &str,
        options: LogOptions,
    ) -> EngineResult<BoxStream<'static, EngineResult<(OutputStream, Bytes)>>> {
        const OP: &str = "logs";
        reference::check(OP, container)?;
        let mut path = format!(
            "/containers/{container}/logs?stdout=1&stderr=1&follow={}&timestamps={}",
            u8::from(options.follow),
            u8::from(options.timestamps)
        );
        if let Some(tail) = options.tail {
            path.push_str(&format!("&tail={tail}"));
        }
        if let Some(since) = options.since {
            path.push_str(&format!("&since={}.{:09}", since.as_second(), since.subsec_nanosecond()));
        }
        if let Some(until) = options.until {
            path.push_str(&format!("&until={}.{:09}", until.as_second(), until.subsec_nanosecond()));
        }
        let response = self.open(OP, container, Method::GET, &path, Bytes::new()).await?;
        let object = container.to_owned();
        Ok(streams::demultiplex(data(response)).map(move |item| item.map_err(|e| broken(OP, &object, &e))).boxed())
    }

    async fn attach(
        &self,
        container: &str,
        options: AttachOptions,
    ) -> EngineResult<BoxStream<'static, EngineResult<(OutputStream, Bytes)>>> {
        const OP: &str = "attach";
        reference::check(OP, container)?;
        let AttachOptions { stdout, stderr } = options;
        let (stdout, stderr) = (u8::from(stdout), u8::from(stderr));
        let path = format!("/containers/{container}/attach?stream=1&logs=0&stdin=0&stdout={stdout}&stderr={stderr}");
        let (input, output) = self.hijack(OP, container, &path, Bytes::new()).await?;
        let object = container.to_owned();
        let output = streams::demultiplex(output).map(move |item| {
            // Half of the connection: the daemon takes its end for ours.
            let _held = &input;
            item.map_err(|e| broken(OP, &object, &e))
        });
        Ok(output.boxed())
    }
}
