//! The daemon's pulse: the readings of one container that runs there, of which a daemon sends one a second by itself,
//! each through its runtime. A daemon that hangs, or whose runtime hangs, falls silent, and nobody has to ask for it.
//!
//! inventory ──a container that runs──▶ [`run`] ──▶ [`Pulse`]: when it last beat ──▶ health
//!                                         └──nothing for [`SILENT`]──▶ suspicion ──▶ health
//!
//! Where nothing of ours runs there is no pulse, and health asks.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, watch};

use super::super::Context;
use super::record;
use crate::docker::engine::{EngineError, EngineErrorKind, EngineResult};

/// A daemon that has sent nothing for so long may hang. A busy one is late by a second or two.
const SILENT: Duration = Duration::from_secs(4);
/// Silences in a row after which another container is listened to: it may be this one alone that is stuck.
const STUCK: u32 = 5;
/// Between two tries to find a container that runs, the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// What there is of a pulse.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// Monotonic time of the last beat; `None`: there is no pulse to listen to.
    last: Option<Duration>,
    /// How often it was there and ended.
    ends: u64,
}

#[derive(Debug, Default)]
pub struct Pulse(watch::Sender<Heard>);

impl Pulse {
    /// Whether it beat not long ago.
    pub fn beats(&self, now: Duration) -> bool {
        self.0.borrow().last.is_some_and(|last| now.saturating_sub(last) < SILENT)
    }

    /// Whether it has not ended, and does not beat: what its follower tells, who may be a moment later.
    pub fn is_silent(&self, now: Duration) -> bool {
        self.0.borrow().last.is_some() && !self.beats(now)
    }

    /// Rises whenever a pulse has ended: the daemon may be another since.
    pub fn ends(&self) -> u64 {
        self.0.borrow().ends
    }

    /// Waits for the next beat.
    pub async fn beat(&self) {
        let mut heard = self.0.subscribe();
        // The sender lives as long as `self`.
        while heard.changed().await.is_ok() {
            if heard.borrow_and_update().last.is_some() {
                return;
            }
        }
        std::future::pending().await
    }

    fn beat_at(&self, now: Duration) {
        self.0.send_modify(|heard| heard.last = Some(now));
    }

    fn end(&self) {
        self.0.send_modify(|heard| *heard = Heard { last: None, ends: heard.ends + 1 });
    }
}

/// Follows one container after another. `silence`: told when the daemon falls silent.
pub async fn run(ctx: &Context, name: &str, pulse: &Pulse, silence: mpsc::Sender<EngineError>) {
    let (mut last, mut pause) = (String::new(), RETRY.0);
    loop {
        let Some(host) = record(ctx, name) else { return };
        if let Some(id) = ctx.inventory.running(name, &last) {
            let beats = match ctx.engines.engine(&host) {
                Ok(engine) => match engine.pulse(&id).await {
                    Ok(stream) => follow(ctx, name, pulse, stream, &silence).await,
                    Err(e) => {
                        tracing::debug!(host = name, error = %e, "no pulse");
                        0
                    }
                },
                Err(_) => 0,
            };
            pulse.end();
            if beats > 0 {
                // It has ended, or the way to it; and where no event told so, others may have been lost.
                ctx.relist.request(name);
            }
            // What the last listing shows as running may have ended since.
            pause = if beats > 0 { RETRY.0 } else { RETRY.1.min(pause * 2) };
            last = id;
        }
        tokio::time::sleep(pause).await;
    }
}

/// Listens until there is nothing more to hear; how often it beat.
async fn follow(
    ctx: &Context,
    name: &str,
    pulse: &Pulse,
    mut stream: BoxStream<'static, EngineResult<()>>,
    silence: &mpsc::Sender<EngineError>,
) -> u64 {
    let (mut beats, mut silences) = (0, 0);
    loop {
        match tokio::time::timeout(SILENT, stream.next()).await {
            Ok(Some(Ok(()))) => {
                (beats, silences) = (beats + 1, 0);
                pulse.beat_at(ctx.clock.monotonic());
            }
            Ok(Some(Err(e))) => {
                tracing::debug!(host = name, error = %e, "the pulse broke off");
                return beats;
            }
            Ok(None) => return beats,
            Err(_) => {
                let message = format!("no reading of a container that runs for {} s", SILENT.as_secs());
                let silent =
                    EngineError { op: "pulse", object: name.to_owned(), kind: EngineErrorKind::Timeout, message };
                // Refused when it has been told already.
                let _ = silence.try_send(silent);
                silences += 1;
                if silences >= STUCK {
                    return beats;
                }
            }
        }
    }
}
