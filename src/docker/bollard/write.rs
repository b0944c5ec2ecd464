//! Acting on a real daemon. "Already so" is success here, whatever status the daemon says it with.

use std::collections::BTreeMap;
use std::time::Duration;

use ::bollard::errors::Error;
use ::bollard::exec::CreateExecOptions;
use ::bollard::models::{ContainerUpdateBody, NetworkConnectRequest, VolumeCreateRequest};
use ::bollard::query_parameters as query;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use http::Method;

use super::create::{self, nano_cpus, never_restart};
use super::read::is_ambiguous;
use super::{BollardEngine, accepted, broken};
use crate::docker::engine::*;
use crate::docker::login::Login;
use crate::docker::turns::{Turn, Weight};
use crate::docker::{reference, streams, timeouts};

/// How often a removal that is under way is looked at.
const REMOVAL_LOOK: Duration = Duration::from_millis(100);

const STOP: &str = "stop container";
const PAUSE: &str = "pause container";
const UNPAUSE: &str = "unpause container";

/// Success for answers of this status whose words contain `text`.
fn already<T: Default>(result: Result<T, Error>, status: u16, text: &str) -> Result<T, Error> {
    match result {
        Err(Error::DockerResponseServerError { status_code, message })
            if status_code == status && message.contains(text) =>
        {
            Ok(T::default())
        }
        other => other,
    }
}

fn refused(op: &'static str, object: &str, kind: EngineErrorKind, message: String) -> EngineError {
    EngineError { op, object: object.to_owned(), kind, message }
}

impl BollardEngine {
    /// `v`: with its anonymous volumes.
    async fn remove(&self, id: &str, v: bool) -> EngineResult<()> {
        const OP: &str = "remove container";
        reference::check(OP, id)?;
        let options = query::RemoveContainerOptions { v, force: true, link: false };
        let call = async {
            match self.docker.remove_container(id, Some(options)).await {
                Err(Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(()),
                // Somebody removes it already: it is done when it is gone. The gate bounds the wait.
                Err(Error::DockerResponseServerError { status_code: 409, message })
                    if message.contains("already in progress") => {}
                other => return other,
            }
            loop {
                match self.docker.inspect_container(id, None).await {
                    Err(Error::DockerResponseServerError { status_code: 404, .. }) => return Ok(()),
                    Err(e) => return Err(e),
                    Ok(_) => tokio::time::sleep(REMOVAL_LOOK).await,
                }
            }
        };
        self.heavy(OP, id, call).await
    }
}

impl BollardEngine {
    /// A pause or its end that was refused: daemons say that it was so already, or that it cannot be, with the same status
    /// (409 or 500, by version), so what they show of the container decides.
    async fn or_so_already(
        &self,
        done: EngineResult<()>,
        op: &'static str,
        id: &str,
        wanted: RunState,
    ) -> EngineResult<()> {
        use EngineErrorKind::{Conflict, Invalid, NotFound, Server};
        let Err(told) = done else { return Ok(()) };
        if !matches!(told.kind, Conflict | Invalid | Server) {
            return Err(told);
        }
        let kind = match self.container(id).await?.map(|seen| seen.state) {
            Some(state) if state == wanted => return Ok(()),
            Some(RunState::Running | RunState::Paused | RunState::Restarting) => Server,
            Some(_) => Conflict,
            None => NotFound,
        };
        Err(refused(op, id, kind, told.message))
    }
}

#[async_trait]
impl EngineWrite for BollardEngine {
    async fn pull_with(
        &self,
        image: &str,
        login: Option<&Login>,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> EngineResult<()> {
        self.shared_pull(image, login, progress).await
    }

    async fn create_container(&self, spec: &ContainerSpec) -> EngineResult<String> {
        reference::check_name(create::OP, &spec.name)?;
        reference::check_image(create::OP, &spec.image)?;
        let body = create::body(spec)?;
        for mount in &spec.mounts {
            if let Mount::Volume { name, .. } = mount
                && self.volume(name).await?.is_none()
            {
                let message = format!("get {name}: no such volume");
                return Err(refused(create::OP, &spec.name, EngineErrorKind::NotFound, message));
            }
        }
        let options = query::CreateContainerOptions { name: Some(spec.name.clone()), ..Default::default() };
        let call = self.docker.create_container(Some(options), body);
        Ok(self.heavy(create::OP, &spec.name, call).await?.id)
    }

    async fn start_container(&self, id: &str) -> EngineResult<()> {
        self.start(id, Weight::Heavy).await
    }

    async fn wake_container(&self, id: &str) -> EngineResult<()> {
        self.start(id, Weight::Wake).await
    }

    async fn pause_container(&self, id: &str) -> EngineResult<()> {
        reference::check(PAUSE, id)?;
        let call = self.docker.pause_container(id);
        let done = self.gate.call(PAUSE, id, Weight::Light, timeouts::QUICK, call).await;
        self.or_so_already(done, PAUSE, id, RunState::Paused).await
    }

    async fn unpause_container(&self, id: &str) -> EngineResult<()> {
        reference::check(UNPAUSE, id)?;
        let call = self.docker.unpause_container(id);
        let done = self.gate.call(UNPAUSE, id, Weight::Thaw, timeouts::QUICK, call).await;
        self.or_so_already(done, UNPAUSE, id, RunState::Running).await
    }

    async fn stop_turn(&self, id: &str) -> EngineResult<Turn> {
        reference::check(STOP, id)?;
        self.gate.turn(STOP, id, Weight::Stop).await
    }

    async fn stop_in_turn(&self, turn: Turn, id: &str, grace: Duration) -> EngineResult<()> {
        reference::check(STOP, id)?;
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = query::StopContainerOptions { t: Some(seconds), ..Default::default() };
        let call = self.docker.stop_container(id, Some(options));
        self.gate.call_in(turn, STOP, id, timeouts::stop(grace), call).await
    }

    async fn remove_container(&self, id: &str) -> EngineResult<()> {
        self.remove(id, true).await
    }

    async fn remove_keeping_volumes(&self, id: &str) -> EngineResult<()> {
        self.remove(id, false).await
    }

    async fn rename_container(&self, id: &str, name: &str) -> EngineResult<()> {
        const OP: &str = "rename container";
        reference::check(OP, id)?;
        reference::check_name(OP, name)?;
        let call = async {
            let options = query::RenameContainerOptions { name: name.to_owned() };
            already(self.docker.rename_container(id, options).await, 400, "same name as its current name")
        };
        match self.quick(OP, id, call).await {
            // Some daemons call the container's own name taken.
            Err(e) if e.kind == EngineErrorKind::Conflict => match self.container(id).await? {
                Some(seen) if seen.name == name => Ok(()),
                _ => Err(e),
            },
            other => other,
        }
    }

    async fn update_container(&self, id: &str, limits: Limits) -> EngineResult<()> {
        reference::check("update container", id)?;
        let update = ContainerUpdateBody {
            memory: Some(limits.memory),
            memory_swap: Some(limits.memory),
            nano_cpus: Some(nano_cpus(limits)),
            pids_limit: Some(limits.pids),
            restart_policy: Some(never_restart()),
            ..ContainerUpdateBody::default()
        };
        self.quick("update container", id, self.docker.update_container(id, update)).await
    }

    async fn create_network(&self, network: &NetworkSpec) -> EngineResult<()> {
        const OP: &str = "create network";
        let name = &network.name;
        reference::check_name(OP, name)?;
        let body = Bytes::from(create::network_body(network).to_string());
        let call = async {
            let response = self.transport.request(Method::POST, "/networks/create", body).await?;
            accepted(response).await.map(drop)
        };
        match self.heavy(OP, name, call).await {
            Err(e) if e.kind == EngineErrorKind::Conflict && e.message.contains("already exists") => Ok(()),
            other => other,
        }
    }

    async fn remove_network(&self, name: &str) -> EngineResult<()> {
        const OP: &str = "remove network";
        reference::check_name(OP, name)?;
        let call = async {
            match already(self.docker.remove_network(name).await, 404, "") {
                Err(e) if is_ambiguous(&e) => {
                    for copy in self.copies(name).await? {
                        let id = copy.id.unwrap_or_default();
                        already(self.docker.remove_network(&id).await, 404, "")?;
                    }
                    Ok(())
                }
                other => other,
            }
        };
        self.heavy(OP, name, call).await
    }

    async fn connect_network(&self, network: &str, container_id: &str) -> EngineResult<()> {
        const OP: &str = "connect network";
        reference::check_name(OP, network)?;
        reference::check(OP, container_id)?;
        let request = NetworkConnectRequest { container: container_id.to_owned(), endpoint_config: None };
        let call =
            async { already(self.docker.connect_network(network, request).await, 403, "already exists in network") };
        self.quick(OP, network, call).await
    }

    async fn create_volume(&self, name: &str, labels: &BTreeMap<String, String>) -> EngineResult<()> {
        const OP: &str = "create volume";
        reference::check_name(OP, name)?;
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            driver: Some("local".to_owned()),
            labels: Some(labels.clone().into_iter().collect()),
            ..VolumeCreateRequest::default()
        };
        self.quick(OP, name, self.docker.create_volume(request)).await.map(drop)
    }

    async fn remove_volume(&self, name: &str) -> EngineResult<()> {
        const OP: &str = "remove volume";
        reference::check_name(OP, name)?;
        let call =
            async { already(self.docker.remove_volume(name, None::<query::RemoveVolumeOptions>).await, 404, "") };
        self.quick(OP, name, call).await
    }

    async fn exec(&self, container_id: &str, options: ExecOptions) -> EngineResult<ExecSession> {
        const OP: &str = "exec";
        reference::check(OP, container_id)?;
        let tty = options.tty;
        let create = CreateExecOptions {
            attach_stdin: Some(options.stdin),
            attach_stdout: Some(options.stdout),
            attach_stderr: Some(options.stderr),
            tty: Some(tty),
            cmd: Some(options.command),
            ..CreateExecOptions::default()
        };
        let made = self.queued(OP, container_id, self.docker.create_exec(container_id, create)).await?;
        let path = format!("/exec/{}/start", made.id);
        let body = Bytes::from(format!("{{\"Detach\":false,\"Tty\":{tty}}}"));
        let (input, output) = self.hijack(OP, container_id, &path, body).await?;
        let object = container_id.to_owned();
        // A terminal's output is raw; the rest comes in frames.
        let output = if tty {
            output.map(|bytes| bytes.map(|bytes| (OutputStream::Stdout, bytes))).boxed()
        } else {
            streams::demultiplex(output)
        };
        let output = output.map(move |item| item.map_err(|e| broken(OP, &object, &e))).boxed();
        Ok(ExecSession { exec_id: made.id, input: Box::pin(input), output })
    }

    async fn exec_resize(&self, exec_id: &str, width: u16, height: u16) -> EngineResult<()> {
        const OP: &str = "exec resize";
        reference::check_id(OP, exec_id)?;
        let options = query::ResizeExecOptions { h: height.into(), w: width.into() };
        self.quick(OP, exec_id, self.docker.resize_exec(exec_id, options)).await
    }

    async fn exec_exit_code(&self, exec_id: &str) -> EngineResult<Option<i64>> {
        const OP: &str = "exec exit code";
        reference::check_id(OP, exec_id)?;
        let told = self.quick(OP, exec_id, self.docker.inspect_exec(exec_id)).await?;
        Ok(told.exit_code.filter(|_| told.running == Some(false)))
    }
}
