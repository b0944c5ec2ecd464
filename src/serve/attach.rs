//! Reaching into containers: the API's [`Attach`] over the daemons, and over the hosts' network for connections.
//!
//! ```text
//! exec, attach, connect ──▶ in use (Activity), woken (queue) ──▶ up? (cache) ──▶ daemon, or address and host port
//! ```
//!
//! Invariant: whatever is in use is counted before it is looked whether the instance is up, and until it is dropped, so
//! that it cannot fall asleep in between.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::net::TcpStream;

use super::{QueueWaker, previous};
use crate::api::attach::{
    Attach, AttachError, AttachOptions, Connection, ExecControl, ExecIo, ExecOptions, LogOptions, OutputStream,
};
use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::docker::Engines;
use crate::docker::engine::{self, Engine, EngineError, EngineErrorKind};
use crate::model::{Instance, Key, Phase, Power, condition};
use crate::proxy::{Activity, OpenGuard, Session, Waker};

/// How long an instance may take to wake.
const WAKE_WITHIN: Duration = Duration::from_secs(120);
/// How often the wish is repeated, which the controller may have missed, and a starting container tried again.
const AGAIN: Duration = Duration::from_secs(1);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long an app that has just woken may refuse connections.
const SETTLE: Duration = Duration::from_secs(5);

/// Finds an instance's container by its status, and its daemon by its node.
pub struct DockerAttach {
    pub cache: Arc<Cache>,
    pub engines: Arc<dyn Engines>,
    pub activity: Arc<Activity>,
    pub waker: Arc<QueueWaker>,
    pub clock: SharedClock,
}

/// Whether a container can be reached into.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Up,
    /// Its container runs, or is about to; its app does not answer yet.
    Starting,
    /// Wake it, and wait.
    Down,
    /// Waiting would not help.
    Refused(String),
}

fn state(instance: &Instance) -> State {
    if instance.metadata.deletion_timestamp.is_some() {
        return State::Refused("it is being deleted".into());
    }
    let said = || condition(&instance.status.conditions, "Ready").map(|c| c.message.clone()).unwrap_or_default();
    match instance.status.phase {
        Phase::Running => State::Up,
        _ if instance.spec.power == Power::Stopped => State::Refused("it is stopped; start it first".into()),
        Phase::Starting => State::Starting,
        Phase::Pending
        | Phase::Pulling
        | Phase::Frozen
        | Phase::Asleep
        | Phase::Stopping
        | Phase::Stopped
        | Phase::Upgrading
        | Phase::Moving => State::Down,
        Phase::Failed => State::Refused(format!("it has failed: {}", said())),
        Phase::Lost => State::Refused(format!("its host cannot be reached: {}", said())),
    }
}

/// An instance in use.
struct InUse {
    instance: Arc<Instance>,
    state: State,
    guard: OpenGuard,
    /// It had to be waited for.
    waited: bool,
}

impl DockerAttach {
    fn engine_of(&self, key: &Key, instance: &Instance) -> Result<(Arc<dyn Engine>, String), AttachError> {
        let none = || AttachError::NoContainer(key.clone());
        let id = Some(&instance.status.container_id).filter(|id| !id.is_empty()).ok_or_else(none)?;
        let host = self.cache.host(&instance.status.node).ok_or_else(none)?;
        let engine = self.engines.engine(&host).map_err(|e| told("reach", key, e))?;
        Ok((engine, id.clone()))
    }

    /// Counts as a use, wakes the instance if need be, and waits until `enough` of its state, or for
    /// [`WAKE_WITHIN`].
    async fn wake(
        &self,
        key: &Key,
        session: Session,
        enough: impl Fn(&Instance, &State) -> bool,
    ) -> Result<InUse, AttachError> {
        let mut seen = self.cache.observe(key);
        // One that does not exist must not be counted: nobody would ever forget it.
        if seen.borrow().is_none() {
            return Err(AttachError::NoContainer(key.clone()));
        }
        let guard = self.activity.open_session(key, session);
        let end = self.clock.monotonic() + WAKE_WITHIN;
        let mut waited = false;
        loop {
            let now = seen.borrow_and_update().clone();
            let Some(instance) = now else { return Err(AttachError::NoContainer(key.clone())) };
            let state = state(&instance);
            if let State::Refused(why) = state {
                return Err(AttachError::NotUp { key: key.clone(), why });
            }
            if enough(&instance, &state) {
                return Ok(InUse { instance, state, guard, waited });
            }
            waited = true;
            let left = end.saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                let phase = instance.status.phase;
                let why = format!("it is still {phase:?} after {} s", WAKE_WITHIN.as_secs());
                return Err(AttachError::NotUp { key: key.clone(), why });
            }
            self.waker.wake(key);
            tokio::select! {
                changed = seen.changed() => if changed.is_err() {
                    return Err(AttachError::NoContainer(key.clone()));
                },
                () = tokio::time::sleep(left.min(AGAIN)) => {}
            }
        }
    }

    /// A container that runs, or starts: one that its app does not get up in is just the one that people want to look
    /// into.
    async fn container(&self, key: &Key, session: Session) -> Result<(InUse, Arc<dyn Engine>, String), AttachError> {
        let up = self.wake(key, session, |_, state| matches!(state, State::Up | State::Starting)).await?;
        let (engine, id) = self.engine_of(key, &up.instance)?;
        Ok((up, engine, id))
    }

    /// Waits before another try, when that may help: a container is made and started a moment after its instance's
    /// status says that it starts.
    async fn again(
        &self,
        operation: &'static str,
        key: &Key,
        state: &State,
        error: EngineError,
        end: Duration,
    ) -> Result<(), AttachError> {
        let early = *state == State::Starting
            && matches!(error.kind, EngineErrorKind::Conflict | EngineErrorKind::NotFound)
            && self.clock.monotonic() < end;
        if !early {
            return Err(told(operation, key, error));
        }
        tokio::time::sleep(AGAIN).await;
        Ok(())
    }
}

fn told(operation: &'static str, key: &Key, error: EngineError) -> AttachError {
    match error.kind {
        EngineErrorKind::NotFound => AttachError::NoContainer(key.clone()),
        EngineErrorKind::Conflict => AttachError::NotRunning(key.clone()),
        EngineErrorKind::Unreachable
        | EngineErrorKind::WrongDaemon
        | EngineErrorKind::Credentials
        | EngineErrorKind::LoginRefused
        | EngineErrorKind::Timeout
        | EngineErrorKind::Busy => AttachError::Unreachable { key: key.clone(), why: error.message },
        _ => AttachError::Failed { operation, key: key.clone(), why: error.message },
    }
}

fn stream(of: engine::OutputStream) -> OutputStream {
    match of {
        engine::OutputStream::Stdout => OutputStream::Stdout,
        engine::OutputStream::Stderr => OutputStream::Stderr,
    }
}

type Output<T, E> = BoxStream<'static, Result<(T, Bytes), E>>;

fn output(
    operation: &'static str,
    key: &Key,
    of: Output<engine::OutputStream, EngineError>,
) -> Output<OutputStream, AttachError> {
    let key = key.clone();
    of.map(move |item| item.map(|(of, bytes)| (stream(of), bytes)).map_err(|e| told(operation, &key, e))).boxed()
}

/// What a container has written to both streams.
async fn written(
    engine: &dyn Engine,
    key: &Key,
    id: &str,
    options: engine::LogOptions,
) -> Result<BoxStream<'static, Result<Bytes, AttachError>>, AttachError> {
    let lines = engine.logs(id, options).await.map_err(|e| told("logs", key, e))?;
    let key = key.clone();
    Ok(lines.map(move |item| item.map(|(_, bytes)| bytes).map_err(|e| told("logs", &key, e))).boxed())
}

#[async_trait]
impl Attach for DockerAttach {
    async fn logs(
        &self,
        key: &Key,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, AttachError>>, AttachError> {
        let instance = self.cache.instance(key).ok_or_else(|| AttachError::NoContainer(key.clone()))?;
        let (engine, id) = self.engine_of(key, &instance)?;
        let LogOptions { follow, tail, since, timestamps, previous } = options;
        if !previous {
            let options = engine::LogOptions { follow, tail, since, until: None, timestamps };
            return written(engine.as_ref(), key, &id, options).await;
        }
        let container = engine.container(&id).await.map_err(|e| told("look at", key, e))?;
        let container = container.ok_or_else(|| AttachError::NoContainer(key.clone()))?;
        let window = previous::window(&container, &instance.status);
        let window = window.ok_or_else(|| AttachError::NoPreviousRun(key.clone()))?;
        // No tail: the daemon would count the lines of the run under way.
        let options = engine::LogOptions {
            follow: false,
            tail: None,
            since: since.max(window.since),
            until: window.until,
            timestamps,
        };
        let output = written(engine.as_ref(), key, &id, options.clone()).await?;
        let Some(tail) = tail else { return Ok(output) };
        // Read twice rather than held: it may be all that a container's log has room for.
        let lines = previous::count_lines(output).await?;
        let output = written(engine.as_ref(), key, &id, options).await?;
        Ok(previous::skip_lines(output, lines.saturating_sub(tail)))
    }

    async fn exec(&self, key: &Key, options: ExecOptions) -> Result<ExecIo, AttachError> {
        let ExecOptions { command, stdin, stdout, stderr, tty } = options;
        let options = engine::ExecOptions { command, stdin, stdout, stderr, tty };
        let end = self.clock.monotonic() + WAKE_WITHIN;
        loop {
            let (up, engine, id) = self.container(key, Session::Exec).await?;
            match engine.exec(&id, options.clone()).await {
                Ok(session) => {
                    let control = Control { engine, exec_id: session.exec_id, key: key.clone(), _guard: up.guard };
                    let output = output("exec", key, session.output);
                    return Ok(ExecIo { input: session.input, output, control: Box::new(control) });
                }
                Err(e) => self.again("exec", key, &up.state, e, end).await?,
            }
        }
    }

    async fn attach(&self, key: &Key, options: AttachOptions) -> Result<ExecIo, AttachError> {
        let AttachOptions { stdout, stderr } = options;
        let options = engine::AttachOptions { stdout, stderr };
        let end = self.clock.monotonic() + WAKE_WITHIN;
        loop {
            let (up, engine, id) = self.container(key, Session::Attach).await?;
            match engine.attach(&id, options).await {
                Ok(from) => {
                    let output = output("attach", key, from);
                    let control = Box::new(Onlooker { _guard: up.guard });
                    return Ok(ExecIo { input: Box::pin(tokio::io::sink()), output, control });
                }
                Err(e) => self.again("attach", key, &up.state, e, end).await?,
            }
        }
    }

    async fn connect(&self, key: &Key, port: u16) -> Result<Connection, AttachError> {
        let instance = self.cache.instance(key).ok_or_else(|| AttachError::NoContainer(key.clone()))?;
        let declared = instance.spec.ports.iter().find(|p| p.container_port == port);
        let Some(name) = declared.map(|p| p.name.clone()) else {
            let ports = instance.spec.ports.iter().map(|p| (p.name.clone(), p.container_port)).collect();
            return Err(AttachError::NoPort { key: key.clone(), port, ports });
        };
        // A port that is newer than the container is bound a moment later.
        let reachable = |i: &Instance| i.status.host_port(&name).is_some() && !i.status.address.is_empty();
        let up = self.wake(key, Session::Forward, |instance, state| *state == State::Up && reachable(instance)).await?;
        let status = &up.instance.status;
        let to = (status.address.as_str(), status.host_port(&name).unwrap_or_default());
        let end = self.clock.monotonic() + if up.waited { SETTLE } else { Duration::ZERO };
        loop {
            let why = match tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(to)).await {
                Ok(Ok(io)) => {
                    // Only delays.
                    let _ = io.set_nodelay(true);
                    return Ok(Connection { io: Box::new(io), in_use: Box::new(up.guard) });
                }
                Ok(Err(e)) => e.to_string(),
                Err(_) => format!("no connection within {} s", CONNECT_WITHIN.as_secs()),
            };
            if self.clock.monotonic() >= end {
                let why = format!("port {port}, which is {}:{} on its host: {why}", to.0, to.1);
                return Err(AttachError::Failed { operation: "connect to", key: key.clone(), why });
            }
            tokio::time::sleep(AGAIN / 10).await;
        }
    }
}

/// Of a command: in use until dropped.
struct Control {
    engine: Arc<dyn Engine>,
    exec_id: String,
    key: Key,
    _guard: OpenGuard,
}

/// The daemon tells the exit code a moment after the output has ended.
const EXIT_CODE_TRIES: u32 = 100;

#[async_trait]
impl ExecControl for Control {
    async fn resize(&self, width: u16, height: u16) -> Result<(), AttachError> {
        self.engine.exec_resize(&self.exec_id, width, height).await.map_err(|e| told("resize", &self.key, e))
    }

    async fn exit_code(&self) -> Result<i64, AttachError> {
        for _ in 0..EXIT_CODE_TRIES {
            let code = self.engine.exec_exit_code(&self.exec_id).await.map_err(|e| told("exec", &self.key, e))?;
            if let Some(code) = code {
                return Ok(code);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let why = "its output has ended and it still runs".into();
        Err(AttachError::Failed { operation: "exec", key: self.key.clone(), why })
    }
}

/// Of a container's own output: in use until dropped.
struct Onlooker {
    _guard: OpenGuard,
}

#[async_trait]
impl ExecControl for Onlooker {
    /// There is no terminal.
    async fn resize(&self, _: u16, _: u16) -> Result<(), AttachError> {
        Ok(())
    }
    async fn exit_code(&self) -> Result<i64, AttachError> {
        Ok(0)
    }
}
