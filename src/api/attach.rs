//! The seam to running containers: logs, exec, attach and connections. `serve` implements it over Docker; the API knows no Docker.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::model::Key;

/// Why there is nothing to attach to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    #[error("{0} has no container")]
    NoContainer(Key),
    /// Exec needs a running container.
    #[error("the container of {0} is not running")]
    NotRunning(Key),
    /// The instance's host cannot be reached.
    #[error("the host of {key} cannot be reached: {why}")]
    Unreachable { key: Key, why: String },
    /// It cannot be woken, or did not wake in time.
    #[error("{key} is not up: {why}")]
    NotUp { key: Key, why: String },
    /// The container cannot be reached from outside but at the ports of its instance.
    #[error("{key} has no port {port}; {}", declared(.ports))]
    NoPort { key: Key, port: u16, ports: Vec<(String, u16)> },
    /// The container runs for the first time.
    #[error("{0} has no earlier run")]
    NoPreviousRun(Key),
    #[error("{operation} {key}: {why}")]
    Failed { operation: &'static str, key: Key, why: String },
}

fn declared(ports: &[(String, u16)]) -> String {
    if ports.is_empty() {
        return "it declares none".to_owned();
    }
    let ports: Vec<_> = ports.iter().map(|(name, port)| format!("{port} ({name})")).collect();
    format!("it declares {}", ports.join(", "))
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    /// Last lines only.
    pub tail: Option<u64>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    /// Of the run that ended last, instead of all that the container wrote; there is nothing to follow then.
    pub previous: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOptions {
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// What to see of the container's own output. It has neither standard input nor a terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttachOptions {
    pub stdout: bool,
    pub stderr: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// A running command, or the container's own. Dropping it lets go of the connection; it need not end the command.
pub struct ExecIo {
    /// Standard input; shutting it down is its end.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    /// Output until the command has closed both streams.
    pub output: BoxStream<'static, Result<(OutputStream, Bytes), AttachError>>,
    pub control: Box<dyn ExecControl>,
}

/// What else can be done with a running command.
#[async_trait]
pub trait ExecControl: Send + Sync {
    async fn resize(&self, width: u16, height: u16) -> Result<(), AttachError>;
    /// Waits until the command has ended; asked once the output has.
    async fn exit_code(&self) -> Result<i64, AttachError>;
}

/// Bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection, and what lasts as long as it does.
pub struct Connection {
    pub io: Box<dyn Duplex>,
    /// The use of the instance; dropped with the connection.
    pub in_use: Box<dyn Send>,
}

/// Reaches into the container of an instance.
///
/// All but logs are uses of the instance: they wake it, within bounds, and keep it awake for as long as they last.
#[async_trait]
pub trait Attach: Send + Sync + 'static {
    /// Log bytes of both streams, in order.
    async fn logs(
        &self,
        key: &Key,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, AttachError>>, AttachError>;
    async fn exec(&self, key: &Key, options: ExecOptions) -> Result<ExecIo, AttachError>;
    /// The container's output from now on; its exit code is 0, however it ends: that is not the client's doing.
    async fn attach(&self, key: &Key, options: AttachOptions) -> Result<ExecIo, AttachError>;
    /// A connection to a port of the container, which must be one that the instance declares.
    async fn connect(&self, key: &Key, port: u16) -> Result<Connection, AttachError>;
}
