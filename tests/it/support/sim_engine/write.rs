//! Acting on a simulated daemon.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use portreeve::docker::engine::*;
use portreeve::docker::login::Login;
use portreeve::docker::turns::{Turn, Weight};
use portreeve::docker::{reference, timeouts};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::sleep;

use super::fault::Fault;
use super::image::SimCommand;
use super::world::{SimContainer, refuse};
use super::{Pulled, SimEngine, timed_out};

/// Volumes that a stranger's container got without a name of their own: theirs is an id.
fn anonymous_volumes(c: &SimContainer) -> Vec<String> {
    let mounts = c.spec.mounts.iter().filter(|_| c.spec.labels.is_empty());
    let named = mounts.filter_map(|mount| match mount {
        Mount::Volume { name, .. } => Some(name.clone()),
        Mount::Bind { .. } => None,
    });
    named.filter(|name| reference::is_full_id(name)).collect()
}

#[async_trait]
impl EngineWrite for SimEngine {
    async fn pull_with(
        &self,
        image: &str,
        login: Option<&Login>,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> EngineResult<()> {
        const OP: &str = "pull image";
        let reference = reference::image(image);
        let fail = |(kind, message)| EngineError { op: OP, object: image.to_owned(), kind, message };
        let wanted = self.world().images.get(&reference).and_then(|image| image.password.clone());
        if wanted.is_some_and(|wanted| login.is_none_or(|given| given.password.expose() != wanted)) {
            return Err(fail((EngineErrorKind::ImageMissing, format!("pull access denied for {reference}"))));
        }
        let running = self.inner.pulls.lock().expect("no panic while held").get(&reference).cloned();
        let mut outcome = match running {
            Some(outcome) => outcome,
            None => {
                let fault = self.set_out(OP, image, true).await?;
                match fault {
                    Some(Fault::ServerError) => return Err(super::server_error(OP, image)),
                    Some(Fault::ServerErrorButDone | Fault::AnswerLost | Fault::Late(_)) => {
                        self.begin_pull(reference.clone());
                    }
                    Some(Fault::Refused | Fault::Away(_) | Fault::Hang) | None => {}
                }
                if fault.is_some() {
                    sleep(timeouts::PULL_IDLE).await;
                    return Err(timed_out(OP, image, timeouts::PULL_IDLE));
                }
                self.begin_pull(reference)
            }
        };
        progress("Pulling from registry".to_owned());
        if self.world().images.get(&reference::image(image)).is_some_and(|i| i.talks) {
            let mut said = 0;
            while tokio::time::timeout(Duration::from_secs(1), outcome.wait_for(Option::is_some)).await.is_err() {
                said += 1;
                progress(format!("{said} MiB fetched"));
            }
        }
        // The pull's task always sends before it goes, unless the test's runtime ends first.
        let result = match outcome.wait_for(Option::is_some).await {
            Ok(done) => done.clone().expect("waited for"),
            Err(_) => Err((EngineErrorKind::Unreachable, "the connection was closed".to_owned())),
        };
        result.map_err(fail)
    }

    async fn create_container(&self, spec: &ContainerSpec) -> EngineResult<String> {
        reference::check_name("create container", &spec.name)?;
        for port in &spec.ports {
            reference::check_host_ip("create container", &spec.name, &port.host_ip)?;
        }
        let (owned, pace) = (spec.clone(), self.pace());
        self.write("create container", &spec.name, pace.create, timeouts::HEAVY, |world| world.create(owned)).await
    }

    async fn start_container(&self, id: &str) -> EngineResult<()> {
        reference::check("start container", id)?;
        let (owned, pace) = (id.to_owned(), self.pace());
        self.write("start container", id, pace.start, timeouts::HEAVY, move |world| world.start(&owned)).await
    }

    async fn pause_container(&self, id: &str) -> EngineResult<()> {
        reference::check("pause container", id)?;
        let (owned, pace) = (id.to_owned(), self.pace());
        self.write("pause container", id, pace.write, timeouts::QUICK, move |world| world.pause(&owned, true)).await
    }

    async fn unpause_container(&self, id: &str) -> EngineResult<()> {
        reference::check("unpause container", id)?;
        let (owned, pace) = (id.to_owned(), self.pace());
        self.write("unpause container", id, pace.write, timeouts::QUICK, move |world| world.pause(&owned, false)).await
    }

    async fn stop_turn(&self, id: &str) -> EngineResult<Turn> {
        self.inner.turns.take("stop container", id, Weight::Stop).await
    }

    async fn stop_in_turn(&self, turn: Turn, id: &str, grace: Duration) -> EngineResult<()> {
        reference::check("stop container", id)?;
        let (takes, code) = self.world().ending(id, grace);
        let owned = id.to_owned();
        let cost = self.pace().write + takes;
        let limit = timeouts::stop(grace);
        let done = self.write_in_turn("stop container", id, cost, limit, move |world| world.stop(&owned, code)).await;
        drop(turn);
        done
    }

    async fn remove_container(&self, id: &str) -> EngineResult<()> {
        reference::check("remove container", id)?;
        let (owned, pace) = (id.to_owned(), self.pace());
        self.write("remove container", id, pace.create, timeouts::HEAVY, move |world| {
            let anonymous = world.find(&owned).map(anonymous_volumes).unwrap_or_default();
            world.remove(&owned);
            for name in anonymous {
                // One that another uses stays.
                let _ = world.remove_volume(&name);
            }
            Ok(())
        })
        .await
    }

    async fn remove_keeping_volumes(&self, id: &str) -> EngineResult<()> {
        reference::check("remove container", id)?;
        let (owned, pace) = (id.to_owned(), self.pace());
        self.write("remove container", id, pace.create, timeouts::HEAVY, move |world| {
            world.remove(&owned);
            Ok(())
        })
        .await
    }

    async fn rename_container(&self, id: &str, name: &str) -> EngineResult<()> {
        reference::check("rename container", id)?;
        reference::check_name("rename container", name)?;
        let (owned, name, pace) = (id.to_owned(), name.to_owned(), self.pace());
        self.write("rename container", id, pace.write, timeouts::QUICK, move |world| world.rename(&owned, &name)).await
    }

    async fn update_container(&self, id: &str, limits: Limits) -> EngineResult<()> {
        reference::check("update container", id)?;
        let (owned, pace) = (id.to_owned(), self.pace());
        self.write("update container", id, pace.write, timeouts::QUICK, move |world| world.update(&owned, limits, "no"))
            .await
    }

    async fn create_network(&self, network: &NetworkSpec) -> EngineResult<()> {
        reference::check_name("create network", &network.name)?;
        let (owned, pace) = (network.clone(), self.pace());
        self.write("create network", &network.name, pace.create, timeouts::HEAVY, move |world| {
            world.create_network(owned)
        })
        .await
    }

    async fn remove_network(&self, name: &str) -> EngineResult<()> {
        reference::check_name("remove network", name)?;
        let (owned, pace) = (name.to_owned(), self.pace());
        self.write("remove network", name, pace.write, timeouts::HEAVY, move |world| world.remove_network(&owned)).await
    }

    async fn connect_network(&self, network: &str, container_id: &str) -> EngineResult<()> {
        reference::check_name("connect network", network)?;
        reference::check("connect network", container_id)?;
        let (owned, id, pace) = (network.to_owned(), container_id.to_owned(), self.pace());
        self.write("connect network", network, pace.write, timeouts::QUICK, move |world| world.connect(&owned, &id))
            .await
    }

    async fn create_volume(&self, name: &str, labels: &BTreeMap<String, String>) -> EngineResult<()> {
        reference::check_name("create volume", name)?;
        let (owned, labels, pace) = (name.to_owned(), labels.clone(), self.pace());
        self.write("create volume", name, pace.write, timeouts::QUICK, move |world| world.create_volume(&owned, labels))
            .await
    }

    async fn remove_volume(&self, name: &str) -> EngineResult<()> {
        reference::check_name("remove volume", name)?;
        let (owned, pace) = (name.to_owned(), self.pace());
        self.write("remove volume", name, pace.write, timeouts::QUICK, move |world| world.remove_volume(&owned)).await
    }

    async fn exec(&self, container_id: &str, options: ExecOptions) -> EngineResult<ExecSession> {
        reference::check("exec", container_id)?;
        self.set_out("exec", container_id, false).await?;
        let told = |refusal| super::told("exec", container_id, refusal);
        let (exec_id, command, spec) = {
            let mut world = self.world();
            let exec_id = world.exec(container_id, options).map_err(told)?;
            let (command, spec, _) = world.run_exec(&exec_id).map_err(told)?;
            (exec_id, command, spec)
        };
        let (input, mut given) = tokio::io::duplex(64 << 10);
        let engine = self.clone();
        let id = exec_id.clone();
        let output = stream::once(async move {
            let (out, code) = match command {
                SimCommand::Echoes => {
                    let mut all = Vec::new();
                    // The other half is ours: it cannot fail, only end.
                    let _ = given.read_to_end(&mut all).await;
                    (Bytes::from(all), 0)
                }
                SimCommand::Sleeps(time) => {
                    sleep(time).await;
                    (Bytes::new(), 0)
                }
                SimCommand::Says { .. } | SimCommand::ShowsEnvironment => command.outcome(&spec),
            };
            engine.world().exec_ended(&id, code);
            Ok((OutputStream::Stdout, out))
        });
        Ok(ExecSession { exec_id, input: Box::pin(input), output: output.boxed() })
    }

    async fn exec_resize(&self, exec_id: &str, _width: u16, _height: u16) -> EngineResult<()> {
        self.read("exec resize", exec_id, |world| match world.execs.get(exec_id) {
            Some(exec) if exec.options.tty => Ok(()),
            Some(_) => refuse(EngineErrorKind::Invalid, "the command has no terminal"),
            None => refuse(EngineErrorKind::NotFound, format!("No such exec instance: {exec_id}")),
        })
        .await
    }

    async fn exec_exit_code(&self, exec_id: &str) -> EngineResult<Option<i64>> {
        self.read("exec exit code", exec_id, |world| match world.execs.get(exec_id) {
            Some(exec) if world.containers.contains_key(&exec.container) => Ok(exec.exit_code),
            _ => refuse(EngineErrorKind::NotFound, format!("No such exec instance: {exec_id}")),
        })
        .await
    }
}

impl SimEngine {
    fn pace(&self) -> super::Pace {
        self.way().pace
    }

    pub(super) fn begin_pull(&self, reference: String) -> watch::Receiver<Option<Pulled>> {
        let (done, outcome) = watch::channel(None);
        self.inner.pulls.lock().expect("no panic while held").insert(reference.clone(), outcome.clone());
        self.way().pulls += 1;
        let engine = self.clone();
        tokio::spawn(async move {
            let takes = engine.world().images.get(&reference).map_or(Duration::from_secs(1), |i| i.pull);
            sleep(takes).await;
            let result = if engine.is_away() {
                Err((EngineErrorKind::Unreachable, "the connection was closed".to_owned()))
            } else {
                engine.step(|world| match world.images.get_mut(&reference) {
                    _ if world.disk_full => Err((
                        EngineErrorKind::NoSpace,
                        "failed to register layer: write /layer: no space left on device".to_owned(),
                    )),
                    Some(image) if image.pullable => {
                        image.local = true;
                        world.emit_image(&reference, "pull");
                        Ok(())
                    }
                    _ => Err((
                        EngineErrorKind::ImageMissing,
                        format!("manifest for {reference} not found: manifest unknown"),
                    )),
                })
            };
            engine.inner.pulls.lock().expect("no panic while held").remove(&reference);
            engine.count_towards_crash().await;
            // Nobody waiting any more is no error.
            let _ = done.send(Some(result));
        });
        outcome
    }
}
