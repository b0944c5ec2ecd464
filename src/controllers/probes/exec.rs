//! An attempt by a command inside the container.
//!
//! Docker has no way to end a command that was begun so. One that takes too long goes on in its container when nobody
//! waits for it any more; no other is begun before it has ended, so that there is one of them and not one more with each
//! attempt. Nothing that a command says is kept: it may be a secret.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::{sleep, timeout};

use super::health::{Asked, Health};
use super::verdict::Attempt;
use crate::docker::engine::{Engine, EngineError, EngineErrorKind, ExecOptions};
use crate::docker::timeouts;

/// Between two questions whether a command has ended whose output has.
const LOOK: Duration = Duration::from_millis(20);

/// Runs `command`, which may take `limit`, in the container.
pub async fn attempt(
    engine: &dyn Engine,
    health: &Health,
    asked: Asked<'_>,
    container_id: &str,
    command: &[String],
    limit: Duration,
) -> Attempt {
    if let Some(before) = health.hung(&asked, command) {
        match engine.exec_exit_code(&before).await {
            Ok(None) => return Attempt::Failed("the command of an attempt before has not ended yet".into()),
            Ok(Some(_)) => {}
            // With the run of the container its commands have ended.
            Err(e) if matches!(e.kind, EngineErrorKind::NotFound | EngineErrorKind::Conflict) => {}
            Err(e) => return refused(&e),
        }
        health.ended(&asked);
    }
    let options = ExecOptions { command: command.to_vec(), stdout: true, stderr: true, ..ExecOptions::default() };
    // A daemon that hangs says nothing of the app.
    let Ok(begun) = timeout(timeouts::QUICK, engine.exec(container_id, options)).await else {
        return Attempt::Unknown("the daemon did not begin the command".into());
    };
    let mut session = match begun {
        Ok(session) => session,
        Err(e) => return refused(&e),
    };
    let ends = async {
        while let Some(piece) = session.output.next().await {
            piece?;
        }
        loop {
            if let Some(code) = engine.exec_exit_code(&session.exec_id).await? {
                return Ok::<i64, EngineError>(code);
            }
            sleep(LOOK).await;
        }
    };
    match timeout(limit, ends).await {
        Ok(Ok(0)) => Attempt::Passed,
        Ok(Ok(code)) => Attempt::Failed(format!("the command ended with {code}")),
        Ok(Err(e)) => refused(&e),
        Err(_) => {
            health.hangs(&asked, command, session.exec_id);
            Attempt::Failed(format!("the command did not end within {limit:?}"))
        }
    }
}

/// A command that cannot be run is the app's failure; a container that does not run, or a daemon that is not well, is not.
fn refused(e: &EngineError) -> Attempt {
    if e.kind == EngineErrorKind::Invalid || e.message.contains("OCI runtime exec failed") {
        return Attempt::Failed("the command could not be run".into());
    }
    Attempt::Unknown(e.to_string())
}
