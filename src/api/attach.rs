//! The seam to running containers: logs and exec. `serve` implements it over Docker; the API knows no Docker.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;
use tokio::io::AsyncWrite;

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
    #[error("{operation} {key}: {why}")]
    Failed { operation: &'static str, key: Key, why: String },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    /// Last lines only.
    pub tail: Option<u64>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOptions {
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// A running command. Dropping it lets go of the connection; it need not end the command.
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

/// Reaches into the container of an instance.
#[async_trait]
pub trait Attach: Send + Sync + 'static {
    /// Log bytes of both streams, in order.
    async fn logs(
        &self,
        key: &Key,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, AttachError>>, AttachError>;
    async fn exec(&self, key: &Key, options: ExecOptions) -> Result<ExecIo, AttachError>;
}
