//! Logs and exec: the API's [`Attach`] over the daemons.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::api::attach::{Attach, AttachError, ExecControl, ExecIo, ExecOptions, LogOptions, OutputStream};
use crate::cache::Cache;
use crate::docker::Engines;
use crate::docker::engine::{self, Engine, EngineError, EngineErrorKind};
use crate::model::Key;

/// Finds an instance's container by its status, and its daemon by its node.
pub struct DockerAttach {
    pub cache: Arc<Cache>,
    pub engines: Arc<dyn Engines>,
}

impl DockerAttach {
    fn find(&self, key: &Key) -> Result<(Arc<dyn Engine>, String), AttachError> {
        let none = || AttachError::NoContainer(key.clone());
        let instance = self.cache.instance(key).filter(|i| !i.status.container_id.is_empty()).ok_or_else(none)?;
        let host = self.cache.host(&instance.status.node).ok_or_else(none)?;
        let engine = self.engines.engine(&host).map_err(|e| told("reach", key, e))?;
        Ok((engine, instance.status.container_id.clone()))
    }
}

fn told(operation: &'static str, key: &Key, error: EngineError) -> AttachError {
    match error.kind {
        EngineErrorKind::NotFound => AttachError::NoContainer(key.clone()),
        EngineErrorKind::Conflict => AttachError::NotRunning(key.clone()),
        EngineErrorKind::Unreachable | EngineErrorKind::Timeout => {
            AttachError::Unreachable { key: key.clone(), why: error.message }
        }
        _ => AttachError::Failed { operation, key: key.clone(), why: error.message },
    }
}

fn stream(of: engine::OutputStream) -> OutputStream {
    match of {
        engine::OutputStream::Stdout => OutputStream::Stdout,
        engine::OutputStream::Stderr => OutputStream::Stderr,
    }
}

#[async_trait]
impl Attach for DockerAttach {
    async fn logs(
        &self,
        key: &Key,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, AttachError>>, AttachError> {
        let (engine, id) = self.find(key)?;
        let LogOptions { follow, tail, since, timestamps } = options;
        let options = engine::LogOptions { follow, tail, since, timestamps };
        let lines = engine.logs(&id, options).await.map_err(|e| told("logs", key, e))?;
        let key = key.clone();
        Ok(lines.map(move |item| item.map(|(_, bytes)| bytes).map_err(|e| told("logs", &key, e))).boxed())
    }

    async fn exec(&self, key: &Key, options: ExecOptions) -> Result<ExecIo, AttachError> {
        let (engine, id) = self.find(key)?;
        let ExecOptions { command, stdin, stdout, stderr, tty } = options;
        let options = engine::ExecOptions { command, stdin, stdout, stderr, tty };
        let session = engine.exec(&id, options).await.map_err(|e| told("exec", key, e))?;
        let control = Control { engine, exec_id: session.exec_id, key: key.clone() };
        let key = key.clone();
        let output = session
            .output
            .map(move |item| item.map(|(of, bytes)| (stream(of), bytes)).map_err(|e| told("exec", &key, e)));
        Ok(ExecIo { input: session.input, output: output.boxed(), control: Box::new(control) })
    }
}

struct Control {
    engine: Arc<dyn Engine>,
    exec_id: String,
    key: Key,
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
