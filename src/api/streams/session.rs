//! A session with a command or with the container's own output, whatever carries it.
//!
//! ```text
//! Input ──▶ standard input, window sizes        output ──▶ Output ──▶ at the end, a Status
//! ```
//!
//! Both directions run at once. While the instance wakes, what the client says is kept, up to a bound.

use std::collections::VecDeque;
use std::pin::{Pin, pin};

use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Interval, MissedTickBehavior};

use super::{BEAT, Gone};
use crate::api::attach::{Attach, AttachError, AttachOptions, ExecControl, ExecIo, ExecOptions, OutputStream};
use crate::model::Key;

/// Kept of what a client says before the command has begun.
const MOST_EARLY: usize = 256 << 10;

/// What the session is with.
#[derive(Clone, Debug)]
pub enum Subject {
    Exec(ExecOptions),
    Attach(AttachOptions),
}

impl Subject {
    async fn begin(&self, attach: &dyn Attach, key: &Key) -> Result<ExecIo, AttachError> {
        match self {
            Subject::Exec(options) => attach.exec(key, options.clone()).await,
            Subject::Attach(options) => attach.attach(key, options.clone()).await,
        }
    }
}

/// What a client says.
#[derive(Debug)]
pub enum Said {
    Stdin(Bytes),
    StdinEnd,
    Resize(Size),
}

/// A window's size, as clients write it.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Size {
    #[serde(rename = "Width")]
    pub width: u16,
    #[serde(rename = "Height")]
    pub height: u16,
}

/// The client's side of a transport.
pub trait Input: Send {
    /// `None`: the client is gone. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Option<Said>> + Send;
}

/// Our side of a transport.
pub trait Output: Send {
    /// Waits while the client reads more slowly.
    fn send(&mut self, stream: OutputStream, bytes: Bytes) -> impl Future<Output = Result<(), Gone>> + Send;
    /// Tells the client that we are there; called every [`BEAT`], unless something is being sent.
    fn beat(&mut self) -> impl Future<Output = Result<(), Gone>> + Send;
    /// The last word.
    fn end(&mut self, status: &Value) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// Begins, and carries bytes until the command has ended and the client was told, or the client is gone.
///
/// What cannot be begun is told as a Status, too: kubectl takes an HTTP error for a server without WebSocket.
pub async fn run(
    attach: &dyn Attach,
    key: &Key,
    subject: &Subject,
    input: &mut impl Input,
    output: &mut impl Output,
) -> Result<(), Gone> {
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut early = VecDeque::new();
    let begun = {
        let mut begin = pin!(subject.begin(attach, key));
        let mut kept = 0;
        loop {
            tokio::select! {
                begun = &mut begin => break begun,
                said = input.next(), if kept < MOST_EARLY => {
                    let said = said.ok_or(Gone)?;
                    // The least that keeping one costs.
                    kept += 64 + if let Said::Stdin(bytes) = &said { bytes.len() } else { 0 };
                    early.push_back(said);
                }
                _ = beats.tick() => output.beat().await?,
            }
        }
    };
    let status = match begun {
        Ok(ExecIo { input: stdin, output: from, control }) => tokio::select! {
            status = carry_output(output, from, control.as_ref(), &mut beats) => status?,
            () = carry_input(input, early, stdin, control.as_ref()) => return Err(Gone),
        },
        Err(e) => failure("BadRequest", &e.to_string(), None),
    };
    output.end(&status).await
}

type From = futures::stream::BoxStream<'static, Result<(OutputStream, Bytes), AttachError>>;

/// Output to the client, beats in between; at the end, how the command ended.
async fn carry_output(
    to: &mut impl Output,
    mut from: From,
    control: &dyn ExecControl,
    beats: &mut Interval,
) -> Result<Value, Gone> {
    loop {
        let item = tokio::select! {
            item = from.next() => item,
            _ = beats.tick() => {
                to.beat().await?;
                continue;
            }
        };
        match item {
            Some(Ok((stream, bytes))) => to.send(stream, bytes).await?,
            Some(Err(e)) => return Ok(failure("InternalError", &e.to_string(), None)),
            None => break,
        }
    }
    Ok(match control.exit_code().await {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => {
            let message = format!("command terminated with non-zero exit code: exit status {code}");
            failure("NonZeroExitCode", &message, Some(code))
        }
        Err(e) => failure("InternalError", &e.to_string(), None),
    })
}

fn failure(reason: &str, message: &str, code: Option<i64>) -> Value {
    let mut status = json!({"metadata": {}, "status": "Failure", "reason": reason, "message": message});
    if let Some(code) = code {
        status["details"] = json!({"causes": [{"reason": "ExitCode", "message": code.to_string()}]});
    }
    status
}

/// Input and window sizes from the client; returns when the client is gone.
async fn carry_input(
    from: &mut impl Input,
    mut early: VecDeque<Said>,
    stdin: Pin<Box<dyn AsyncWrite + Send>>,
    control: &dyn ExecControl,
) {
    // `None` once the client or the command has ended it: a command may well read no more than it wants.
    let mut stdin = Some(stdin);
    loop {
        let said = match early.pop_front() {
            Some(said) => said,
            None => match from.next().await {
                Some(said) => said,
                None => return,
            },
        };
        match said {
            Said::Stdin(data) => {
                if let Some(open) = stdin.as_mut()
                    && (open.write_all(&data).await.is_err() || open.flush().await.is_err())
                {
                    stdin = None;
                }
            }
            Said::StdinEnd => {
                if let Some(mut open) = stdin.take() {
                    drop(open.shutdown().await);
                }
            }
            // A size that cannot be set is no reason to end the session.
            Said::Resize(Size { width, height }) => drop(control.resize(width, height).await),
        }
    }
}
