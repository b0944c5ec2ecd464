//! SPDY/3.1, as much of it as Kubernetes clients speak: streams that the client opens, data both ways, half-close.
//!
//! ```text
//! bytes ──▶ frame::Decoder ──▶ connection ──▶ one bounded queue per stream ──▶ Reader
//! bytes ◀── frame::* ◀──────── one bounded queue of frames for all ◀────────── Writer
//! ```
//!
//! `kubectl exec` up to 1.29 and every `kubectl port-forward` need it. There is no flow control in these clients, so a
//! stream that nobody reads holds up its connection, within bounds.

pub mod block;
pub mod connection;
pub mod frame;

/// What ends a connection.
#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    #[error("the client broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("the connection broke")]
    Io(#[source] std::io::Error),
    #[error("the client was silent for too long")]
    Silent,
}
