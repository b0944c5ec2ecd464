//! The real engine: the Docker API by bollard, over our own transport and behind the gate.
//!
//! Bollard gives the typed calls. Streams (events, logs, exec) and the one call whose type it lacks are made on the
//! transport directly, because there the head of the answer must be seen before the first item.

mod create;
mod gpus;
mod inspect;
mod progress;
mod pull;
mod read;
mod stats;
mod write;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::bollard::errors::Error;
use ::bollard::{BollardRequest, ClientVersion, Docker};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use http::{Method, Response, StatusCode};
use http_body_util::{BodyDataStream, BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::io::{ReadHalf, WriteHalf};
use tokio_util::io::ReaderStream;

use super::classify::causes;
use super::credentials::SecretSource;
use super::endpoint::Endpoint;
use super::engine::{EngineError, EngineErrorKind, EngineResult};
use super::gate::Gate;
use super::transport::{FLOOR, Transport, full};
use super::turns::Weight;
use super::{reference, timeouts};
use crate::clock::SharedClock;

/// No refusal of a daemon is longer.
const MAX_REFUSAL: usize = 64 << 10;

/// One real daemon. Connects when first called.
pub struct BollardEngine {
    host: String,
    docker: Docker,
    transport: Arc<Transport>,
    gate: Gate,
    pulls: pull::Pulls,
    /// As last told.
    release: Mutex<Option<Release>>,
}

/// The program of a daemon.
#[derive(Clone, Debug)]
struct Release {
    version: String,
    api_version: String,
    /// As Go names it.
    architecture: String,
}

impl BollardEngine {
    /// `host`: the name of the DockerHost, for errors. `daemon`: the only id to talk to; empty: whoever answers.
    pub fn new(
        host: &str,
        endpoint: &Endpoint,
        daemon: &str,
        secrets: &Arc<dyn SecretSource>,
        clock: SharedClock,
    ) -> EngineResult<BollardEngine> {
        let transport = Transport::new(endpoint, daemon, secrets);
        let wire = transport.clone();
        let send = move |request: BollardRequest| {
            let wire = wire.clone();
            async move { wire.send(request).await }
        };
        let version = ClientVersion { major_version: 1, minor_version: usize::from(FLOOR) };
        // The gate times every call; the library's own limit, to the head of the answer only, must not come first.
        let limit = Duration::from_secs(3600).as_secs();
        let docker = Docker::connect_with_custom_transport(send, Some("http://docker"), limit, &version);
        let docker = docker.map_err(|e| EngineError {
            op: "connect",
            object: host.to_owned(),
            kind: EngineErrorKind::Invalid,
            message: e.to_string(),
        })?;
        Ok(BollardEngine {
            host: host.to_owned(),
            docker,
            transport,
            gate: Gate::new(clock),
            pulls: pull::Pulls::default(),
            release: Mutex::default(),
        })
    }

    /// A call that a healthy daemon answers at once.
    async fn quick<T>(
        &self,
        op: &'static str,
        object: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> EngineResult<T> {
        self.gate.call(op, object, Weight::Light, timeouts::QUICK, call).await
    }

    /// Work that is little by itself, but for which the daemon waits until a container's start or stop has reached its
    /// disk.
    async fn queued<T>(
        &self,
        op: &'static str,
        object: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> EngineResult<T> {
        self.gate.call(op, object, Weight::Light, timeouts::HEAVY, call).await
    }

    /// A call that is work for the daemon.
    async fn heavy<T>(
        &self,
        op: &'static str,
        object: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> EngineResult<T> {
        self.gate.call(op, object, Weight::Heavy, timeouts::HEAVY, call).await
    }

    async fn start(&self, id: &str, weight: Weight) -> EngineResult<()> {
        const OP: &str = "start container";
        reference::check(OP, id)?;
        self.gate.call(OP, id, weight, timeouts::HEAVY, self.docker.start_container(id, None)).await
    }

    /// A request past the library, answered with its head; a refusal is an error.
    async fn open(
        &self,
        op: &'static str,
        object: &str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> EngineResult<Response<Incoming>> {
        self.quick(op, object, async {
            let response = self.transport.request(method, path, body).await?;
            accepted(response).await
        })
        .await
    }

    /// A call whose answer is a connection of its own: what goes to the daemon, and what comes from it.
    async fn hijack(
        &self,
        op: &'static str,
        object: &str,
        path: &str,
        body: Bytes,
    ) -> EngineResult<(WriteHalf<Hijacked>, ReaderStream<ReadHalf<Hijacked>>)> {
        let call = async {
            let request = http::Request::builder()
                .method(Method::POST)
                .uri(path)
                .header(http::header::CONTENT_TYPE, "application/json")
                .header(http::header::CONNECTION, "Upgrade")
                .header(http::header::UPGRADE, "tcp")
                .body(full(body))?;
            let response = accepted(self.transport.send(request).await?).await?;
            Ok(hyper::upgrade::on(response).await?)
        };
        let (output, input) = tokio::io::split(TokioIo::new(self.queued(op, object, call).await?));
        Ok((input, ReaderStream::new(output)))
    }
}

type Hijacked = TokioIo<hyper::upgrade::Upgraded>;

async fn accepted(response: Response<Incoming>) -> Result<Response<Incoming>, Error> {
    let status = response.status();
    if status.is_success() || status == StatusCode::NOT_MODIFIED || status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let body = Limited::new(response.into_body(), MAX_REFUSAL).collect().await;
    let body = body.map_err(|e| io::Error::other(e.to_string()))?.to_bytes();
    let told = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let message = told.as_ref().and_then(|v| v.get("message")).and_then(|m| m.as_str());
    let message = message.map_or_else(|| String::from_utf8_lossy(&body).into_owned(), str::to_owned);
    Err(Error::DockerResponseServerError { status_code: status.as_u16(), message })
}

fn data(response: Response<Incoming>) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    BodyDataStream::new(response.into_body()).map_err(io::Error::other)
}

/// All but the unreserved characters of RFC 3986.
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// For one value in a query.
fn escaped(text: &str) -> String {
    utf8_percent_encode(text, &RESERVED).to_string()
}

/// A stream that broke off: the connection is gone, and what came before stands. `Timeout`: not because anyone ended it,
/// but because nobody answers there.
fn broken(op: &'static str, object: &str, error: &io::Error) -> EngineError {
    let message = format!("the stream broke off: {}", causes(error));
    let kind = if fell_silent(error) { EngineErrorKind::Timeout } else { EngineErrorKind::Unreachable };
    EngineError { op, object: object.to_owned(), kind, message }
}

fn fell_silent(error: &io::Error) -> bool {
    let told = |at: &(dyn std::error::Error + 'static)| {
        let io = at.downcast_ref::<io::Error>();
        // The second is what a router between the two answers with.
        io.is_some_and(|e| matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable))
    };
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = at {
        if told(cause) {
            return true;
        }
        // An error's source skips what it was made of.
        at = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref).map(|e| e as _).or_else(|| cause.source());
    }
    false
}
