//! Sessions with a container that outlive their request: exec, attach, port-forward.
//!
//! ```text
//!                     ┌─ websocket (v5, v4 channels) ─┐
//! GET, POST ─ upgrade ┤                               ├─▶ session ──▶ Attach::exec, attach
//!                     ├─ spdy ── remote ──────────────┘
//!                     ├─ spdy, or spdy in a websocket ──▶ forward ─┐
//!                     └─ websocket (v5, v4 channels) ───▶ ports ───┴─▶ Attach::connect
//! ```
//!
//! Every session runs in one task that ends with the client, the server's shutdown, or its own work; what it holds
//! (buffers, streams, connections) is bounded, and each direction goes as fast as its slower end.

mod exec;
mod feed;
mod forward;
mod pipe;
mod ports;
mod remote;
mod session;
mod spdy;
mod upgrade;
mod websocket;

use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;

use super::error::ApiError;
use super::handler::Call;

/// How often a client hears from us, so that one that has gone is noticed although it has nothing to say.
const BEAT: Duration = Duration::from_secs(5);
/// A client that says nothing for so long, not even in answer to a beat, is gone. Long, because one that pauses its
/// output (`| less`) does not answer either.
const SILENCE: Duration = Duration::from_secs(600);
/// How long a client may take to accept what it is sent.
const STALL: Duration = Duration::from_secs(600);
/// How long a client may take to read the rest and close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);

/// The protocols of channels over a WebSocket and of exec over SPDY; the fifth has an end for each channel.
const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";

/// The client is gone.
#[derive(Debug)]
pub struct Gone;

/// The subresources that are served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Exec,
    Attach,
    PortForward,
}

impl Kind {
    pub fn of(subresource: &str) -> Option<Kind> {
        match subresource {
            "exec" => Some(Kind::Exec),
            "attach" => Some(Kind::Attach),
            "portforward" => Some(Kind::PortForward),
            _ => None,
        }
    }
}

/// Answers a GET or POST; the session begins with the answer.
pub async fn answer(kind: Kind, call: Call, name: String, request: Request) -> Result<Response, ApiError> {
    match kind {
        Kind::Exec | Kind::Attach => exec::answer(kind, call, name, request).await,
        Kind::PortForward => forward::answer(call, name, request).await,
    }
}
