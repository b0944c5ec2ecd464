//! Observing a simulated daemon.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use jiff::Timestamp;
use portreeve::docker::adoption::Description;
use portreeve::docker::engine::*;
use portreeve::docker::reference;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::world::SimContainer;
use super::{SimEngine, unreachable};

/// Between two readings of a container.
const BEAT: Duration = Duration::from_secs(2);

fn carries(labels: &std::collections::BTreeMap<String, String>, wanted: &[(String, String)]) -> bool {
    wanted.iter().all(|(k, v)| labels.get(k) == Some(v))
}

fn owned(labels: &[(&str, &str)]) -> Vec<(String, String)> {
    labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub fn described(c: &SimContainer) -> ContainerInfo {
    ContainerInfo {
        id: c.id.clone(),
        name: c.name.clone(),
        image_id: c.image_id.clone(),
        image: c.spec.image.clone(),
        labels: c.spec.labels.clone(),
        state: c.state,
        exit_code: c.exit_code,
        oom_killed: c.oom_killed,
        error: c.error.clone(),
        started_at: c.started_at,
        finished_at: c.finished_at,
        limits: c.limits,
        restart_policy: c.restart_policy.clone(),
        networks: c.endpoints.keys().cloned().collect(),
        ports: {
            let mut ports = c.spec.ports.clone();
            ports.sort();
            ports
        },
    }
}

#[async_trait]
impl EngineRead for SimEngine {
    async fn info(&self) -> EngineResult<EngineInfo> {
        let (gpus, certificates_end) = {
            let world = self.world();
            (world.gpus.clone(), world.certificates_end)
        };
        let info = EngineInfo {
            credentials_fault: None,
            daemon_id: self.daemon_id(),
            version: "20.10.24".into(),
            api_version: "1.41".into(),
            os: "Simulated Linux".into(),
            kernel: "6.0".into(),
            architecture: "amd64".into(),
            storage_driver: "overlay2".into(),
            runtimes: vec!["runc".into()],
            gpus,
            memory_bytes: 8 << 30,
            cpus: 4,
            certificates_end,
        };
        self.read("info", &self.inner.name, |_| Ok(info)).await
    }

    async fn ping(&self) -> EngineResult<()> {
        self.read("ping", &self.inner.name, |_| Ok(())).await
    }

    async fn list_containers(&self, labels: &[(&str, &str)]) -> EngineResult<Vec<ContainerSummary>> {
        let wanted = owned(labels);
        self.read("list containers", &self.inner.name, |world| {
            let ours = world.containers.values().filter(|c| carries(&c.spec.labels, &wanted));
            Ok(ours
                .map(|c| ContainerSummary {
                    id: c.id.clone(),
                    name: c.name.clone(),
                    labels: c.spec.labels.clone(),
                    state: c.state,
                })
                .collect())
        })
        .await
    }

    async fn container(&self, container: &str) -> EngineResult<Option<ContainerInfo>> {
        reference::check("inspect container", container)?;
        self.read("inspect container", container, |world| Ok(world.find(container).map(described))).await
    }

    async fn describe(&self, id: &str) -> EngineResult<Option<Description>> {
        reference::check_id("describe container", id)?;
        self.read("describe container", id, |world| Ok(world.find(id).map(super::describe::told))).await
    }

    async fn stats(&self, container: &str) -> EngineResult<Option<ContainerStats>> {
        reference::check("stats", container)?;
        let period = {
            let mut way = self.way();
            way.stats += 1;
            if way.stats_fail {
                let (op, object, message) = ("stats", container.to_owned(), "no control group".to_owned());
                return Err(EngineError { op, object, kind: EngineErrorKind::Server, message });
            }
            way.pace.reading
        };
        if !period.is_zero() {
            let into = self.inner.clock.monotonic().as_micros() % period.as_micros();
            tokio::time::sleep(period - Duration::from_micros(into as u64)).await;
        }
        self.read("stats", container, |world| {
            let (wall, now) = (world.wall, world.now);
            let running = world.find(container).filter(|c| c.alive());
            Ok(running.map(|c| ContainerStats {
                read_at: wall,
                cpu_nanos: c.usage.cpu_at(now),
                memory: c.usage.memory,
            }))
        })
        .await
    }

    async fn pulse(&self, container: &str) -> EngineResult<BoxStream<'static, EngineResult<()>>> {
        reference::check("pulse", container)?;
        let (id, broken) = self
            .read("pulse", container, |world| {
                let id = world.find(container).map(|c| c.id.clone()).unwrap_or_default();
                Ok((id, world.live.subscribe()))
            })
            .await?;
        let beats = stream::unfold((self.clone(), broken), move |(engine, mut broken)| {
            let id = id.clone();
            async move {
                loop {
                    // Half as often as a real one.
                    tokio::time::sleep(BEAT).await;
                    loop {
                        match broken.try_recv() {
                            Ok(_) | Err(TryRecvError::Lagged(_)) => {}
                            Err(TryRecvError::Empty) => break,
                            Err(TryRecvError::Closed) => return None,
                        }
                    }
                    if engine.way().hung.is_none() && !engine.is_away() {
                        break;
                    }
                }
                let runs = engine.world().containers.get(&id).is_some_and(|c| c.alive());
                runs.then_some((Ok(()), (engine, broken)))
            }
        });
        Ok(beats.boxed())
    }

    async fn image(&self, image: &str) -> EngineResult<Option<ImageInfo>> {
        self.read("inspect image", image, |world| {
            Ok(world
                .images
                .get(&reference::image(image))
                .filter(|i| i.local)
                .map(|i| ImageInfo { id: i.id.clone(), repo_digests: Vec::new() }))
        })
        .await
    }

    async fn network(&self, name: &str) -> EngineResult<Option<NetworkInfo>> {
        reference::check_name("inspect network", name)?;
        self.read("inspect network", name, |world| {
            Ok(world.networks.get(name).map(|n| NetworkInfo {
                id: n.id.clone(),
                name: name.to_owned(),
                labels: n.labels.clone(),
                subnets: vec![n.subnet.to_string()],
                closed: n.closed,
            }))
        })
        .await
    }

    async fn list_networks(&self, labels: &[(&str, &str)]) -> EngineResult<Vec<NetworkInfo>> {
        let wanted = owned(labels);
        self.read("list networks", &self.inner.name, |world| {
            let ours = world.networks.iter().filter(|(_, n)| carries(&n.labels, &wanted));
            Ok(ours
                .map(|(name, n)| NetworkInfo {
                    id: n.id.clone(),
                    name: name.clone(),
                    labels: n.labels.clone(),
                    subnets: vec![n.subnet.to_string()],
                    closed: n.closed,
                })
                .collect())
        })
        .await
    }

    async fn volume(&self, name: &str) -> EngineResult<Option<VolumeInfo>> {
        self.read("inspect volume", name, |world| {
            Ok(world.volumes.get(name).map(|labels| VolumeInfo { name: name.to_owned(), labels: labels.clone() }))
        })
        .await
    }

    async fn events(
        &self,
        label: (&str, &str),
        since: Option<Timestamp>,
    ) -> EngineResult<BoxStream<'static, EngineResult<EngineEvent>>> {
        let label = (label.0.to_owned(), label.1.to_owned());
        let (past, live) = self
            .read("events", &self.inner.name, |world| {
                let past: Vec<_> = match since {
                    Some(since) => {
                        world.history.iter().filter(|(at, _)| *at >= since).map(|(_, e)| e.clone()).collect()
                    }
                    None => Vec::new(),
                };
                Ok((past, world.live.subscribe()))
            })
            .await?;
        let live = stream::unfold(Some(live), |live| async move {
            let mut live = live?;
            loop {
                match live.recv().await {
                    Ok(event) => return Some((Ok(event), Some(live))),
                    // As a real daemon: what did not fit is gone, and nobody says so.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Some((Err(unreachable("events", "stream")), None)),
                }
            }
        });
        let all = stream::iter(past.into_iter().map(Ok)).chain(live);
        Ok(all
            .filter(move |event| {
                let wanted = event.as_ref().map_or(true, |e| e.concerns((&label.0, &label.1)));
                std::future::ready(wanted)
            })
            .boxed())
    }

    async fn logs(
        &self,
        container: &str,
        options: LogOptions,
    ) -> EngineResult<BoxStream<'static, EngineResult<(OutputStream, Bytes)>>> {
        reference::check("logs", container)?;
        let (id, from) = self
            .read("logs", container, |world| {
                let c = world.find_mut(container)?;
                let tail = options.tail.map_or(c.logs.len(), |n| usize::try_from(n).unwrap_or(usize::MAX));
                Ok((c.id.clone(), c.logs.len().saturating_sub(tail)))
            })
            .await?;
        let (engine, follow) = (self.clone(), options.follow);
        let lines = stream::unfold(from, move |at| {
            let (engine, id) = (engine.clone(), id.clone());
            async move {
                loop {
                    let stirred = engine.inner.stirred.notified();
                    let seen = {
                        let world = engine.world();
                        world.containers.get(&id).map(|c| (c.logs.get(at).cloned(), c.alive()))
                    };
                    match seen {
                        Some((Some(line), _)) => return Some((line, at + 1)),
                        Some((None, true)) if follow => stirred.await,
                        _ => return None,
                    }
                }
            }
        });
        Ok(lines
            .filter(move |(at, ..)| std::future::ready(options.since.is_none_or(|since| *at >= since)))
            .take_while(move |(at, ..)| std::future::ready(options.until.is_none_or(|until| *at <= until)))
            .map(move |(at, stream, line)| {
                let line =
                    if options.timestamps { Bytes::from([format!("{at} ").as_bytes(), &line].concat()) } else { line };
                Ok((stream, line))
            })
            .boxed())
    }

    async fn attach(
        &self,
        container: &str,
        options: AttachOptions,
    ) -> EngineResult<BoxStream<'static, EngineResult<(OutputStream, Bytes)>>> {
        let from_now = LogOptions { follow: true, tail: Some(0), ..LogOptions::default() };
        let output = self.logs(container, from_now).await?;
        let wanted = move |stream| match stream {
            OutputStream::Stdout => options.stdout,
            OutputStream::Stderr => options.stderr,
        };
        Ok(output
            .filter(move |item| std::future::ready(item.as_ref().map_or(true, |(stream, _)| wanted(*stream))))
            .boxed())
    }
}

impl SimEngine {
    /// Whether an app answers at this address now: what a prober finds out.
    pub fn is_serving(&self, host_ip: &str, host_port: u16) -> bool {
        self.serving(host_ip, host_port).is_some()
    }

    /// The name of the container that answers at this address now.
    pub fn serving(&self, host_ip: &str, host_port: u16) -> Option<String> {
        let world = self.world();
        let now: Duration = world.now;
        let at = |p: &PortMap| p.host_port == host_port && (p.host_ip == "0.0.0.0") | (p.host_ip == host_ip);
        let serving = world
            .containers
            .values()
            .find(|c| c.state == RunState::Running && c.serves_from <= now && c.spec.ports.iter().any(at));
        serving.map(|c| c.name.clone())
    }
}
