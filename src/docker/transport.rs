//! Our own way to a daemon, in place of the client library's: one keep-alive pool per daemon over a unix socket, mutual
//! TLS or ssh, and the API version in every path.
//!
//! The library would open a TLS connection per call, trust every root of the operating system, and never send the
//! version. The version is agreed on with `/_ping` before the first call and again after a 400, which is how a daemon
//! refuses a version that it no longer speaks.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ::bollard::errors::Error;
use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{Either, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use jiff::Timestamp;
use rustls::pki_types::ServerName;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::classify::causes;
use super::credentials::{SecretSource, Shut};
use super::endpoint::{Endpoint, SshTo};
use super::identity::{verified, wrong_daemon};
use super::tls::TlsCredentials;
use super::{ssh, timeouts};

/// The oldest minor version of API 1 that we speak: Docker 20.10.
pub const FLOOR: u16 = 41;
/// The newest that we know: a newer daemon is spoken to in this one.
pub const CEILING: u16 = 47;

/// Logins by ssh at once, per daemon: an sshd refuses some beyond ten.
const LOGINS: usize = 4;

/// Bodies as the client library makes them.
pub type Body = Either<Full<Bytes>, StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, io::Error>> + Send>>>>;

pub struct Transport {
    client: Client<Connector, Body>,
    way: Way,
    authority: String,
    /// Of a TLS endpoint.
    certificates: Option<Arc<TlsCredentials>>,
    /// Minor version agreed on; 0: not yet.
    minor: AtomicU16,
}

/// The header with the login to a registry.
const REGISTRY_AUTH: &str = "x-registry-auth";

/// A daemon reads base64 of the alphabet for URLs only; the client library writes the other one, which differs as soon as
/// a password has a `?` or `~` at the wrong place.
fn for_urls(base64: &HeaderValue) -> Result<HeaderValue, Error> {
    let other = |b: &u8| match b {
        b'+' => b'-',
        b'/' => b'_',
        b => *b,
    };
    let bytes: Vec<u8> = base64.as_bytes().iter().map(other).collect();
    let mut value = HeaderValue::from_bytes(&bytes).map_err(http::Error::from)?;
    value.set_sensitive(true);
    Ok(value)
}

impl Transport {
    /// `daemon`: the id of the only daemon to talk to; empty: whoever answers.
    pub fn new(endpoint: &Endpoint, daemon: &str, secrets: &Arc<dyn SecretSource>) -> Arc<Transport> {
        let way = Way::to(endpoint, secrets);
        let certificates = match &way {
            Way::Tls { credentials, .. } => Some(credentials.clone()),
            Way::Unix(_) | Way::Plain { .. } | Way::Ssh { .. } | Way::Unusable(_) => None,
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(8)
            .build(Connector { way: way.clone(), daemon: daemon.into() });
        Arc::new(Transport { client, way, authority: endpoint.authority(), certificates, minor: AtomicU16::new(0) })
    }

    /// When the first certificate ends by which the daemon is reached now: its own, or the newest of those shown to it.
    pub fn certificates_end(&self) -> Option<Timestamp> {
        self.certificates.as_ref()?.end()
    }

    /// What keeps the next connection from being made although those that are there may still do. Looked at now, so that
    /// what was taken away or renewed is known before it is needed.
    pub async fn credentials_fault(&self) -> Option<String> {
        self.certificates.as_ref()?.config().await.err().map(|bad| bad.0)
    }

    /// Whether anyone answers: on a connection of its own, as the calls on others may be stuck, and without asking who it is,
    /// which goes through the runtime. The caller limits it.
    pub async fn ping(&self) -> io::Result<()> {
        let _turn = self.way.turn().await?;
        let wire = self.way.clone().connect().await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(wire).await.map_err(io::Error::other)?;
        let ping = Request::get("/_ping").header(http::header::HOST, "docker").body(Empty::<Bytes>::new());
        let mut answer = pin!(sender.send_request(ping.map_err(io::Error::other)?));
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            ended = connection => {
                ended.map_err(io::Error::other)?;
                answer.await
            }
        };
        // Whatever it says.
        answer.map(drop).map_err(io::Error::other)
    }

    /// Sends a request for a path without version; the answer may have any status.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, Error> {
        let minor = self.version().await?;
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        parts.uri = self.uri(&format!("/v1.{minor}{path}"))?;
        if let Some(login) = parts.headers.remove(REGISTRY_AUTH) {
            parts.headers.insert(REGISTRY_AUTH, for_urls(&login)?);
        }
        let again = (parts.method == Method::GET).then(|| parts.clone());
        let response = match (self.client.request(Request::from_parts(parts, body)).await, again) {
            // A kept connection may be dead by now, as after a restart of the daemon: reads try a new one.
            (Err(e), Some(parts)) if !e.is_connect() => {
                self.client.request(Request::from_parts(parts, full(Bytes::new()))).await?
            }
            (result, _) => result?,
        };
        if response.status() == StatusCode::BAD_REQUEST {
            self.minor.store(0, Ordering::Relaxed);
        }
        Ok(response)
    }

    /// A request of our own. `body`: JSON, or empty.
    pub async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Error> {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(http::header::CONTENT_TYPE, "application/json").body(full(body))?;
        self.send(request).await
    }

    fn uri(&self, path: &str) -> Result<Uri, Error> {
        Ok(Uri::builder().scheme("http").authority(self.authority.as_str()).path_and_query(path).build()?)
    }

    async fn version(&self) -> Result<u16, Error> {
        let known = self.minor.load(Ordering::Relaxed);
        if known != 0 {
            return Ok(known);
        }
        let ping = Request::builder().uri(self.uri("/_ping")?).body(full(Bytes::new()))?;
        // Whatever befalls the ping, the call itself was not sent. A refused client certificate shows here.
        let pong = self.client.request(ping).await.map_err(|e| match (wrong_daemon(&e), Shut::behind(&e)) {
            (Some(wrong), _) => io::Error::other(wrong.clone()),
            (None, Some(shut)) => shut.into(),
            (None, None) => io::Error::new(io::ErrorKind::NotConnected, causes(&e)),
        })?;
        let told = pong.headers().get("api-version").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let minor = agree(told).map_err(|text| io::Error::new(io::ErrorKind::Unsupported, text))?;
        self.minor.store(minor, Ordering::Relaxed);
        Ok(minor)
    }
}

pub fn full(body: Bytes) -> Body {
    Either::Left(Full::new(body))
}

/// The minor version to speak with a daemon whose newest is `told`.
fn agree(told: &str) -> Result<u16, String> {
    let minor = told.strip_prefix("1.").and_then(|minor| minor.parse::<u16>().ok());
    match minor {
        Some(minor) if minor >= FLOOR => Ok(minor.min(CEILING)),
        Some(_) => Err(format!("the daemon speaks API {told}, at least 1.{FLOOR} (Docker 20.10) is needed")),
        None => Err(format!("no Docker daemon: it tells the API version {told:?}")),
    }
}

/// Opens connections to one daemon, whatever the request's address.
#[derive(Clone)]
struct Connector {
    way: Way,
    /// Empty: whoever answers.
    daemon: Arc<str>,
}

#[derive(Clone)]
enum Way {
    Unix(Arc<std::path::PathBuf>),
    Plain { tcp: HttpConnector, address: Uri },
    Tls { tcp: HttpConnector, address: Uri, name: ServerName<'static>, credentials: Arc<TlsCredentials> },
    Ssh { to: Arc<SshTo>, secrets: Arc<dyn SecretSource>, logins: Arc<Semaphore> },
    Unusable(String),
}

impl Way {
    fn to(endpoint: &Endpoint, secrets: &Arc<dyn SecretSource>) -> Way {
        match endpoint {
            Endpoint::Unix(path) => Way::Unix(Arc::new(path.clone())),
            Endpoint::Ssh(to) => {
                let logins = Arc::new(Semaphore::new(LOGINS));
                Way::Ssh { to: Arc::new(to.clone()), secrets: secrets.clone(), logins }
            }
            Endpoint::Tcp { host, tls, .. } => {
                let mut tcp = HttpConnector::new();
                tcp.set_connect_timeout(Some(timeouts::CONNECT));
                tcp.set_nodelay(true);
                // The stream of events is idle mostly, and so tells that its host is there: the kernel answers, however
                // busy the daemon is. Without a TCP_USER_TIMEOUT, which would end a session whose program does not
                // read its input for so long.
                tcp.set_keepalive(Some(timeouts::SILENCE));
                tcp.set_keepalive_interval(Some(Duration::from_secs(1)));
                tcp.set_keepalive_retries(Some(3));
                let authority = endpoint.authority();
                let address = Uri::builder().scheme("http").authority(authority.as_str()).path_and_query("/").build();
                match (address, ServerName::try_from(host.clone()), tls) {
                    (Ok(address), Ok(name), Some(tls)) => {
                        let credentials = Arc::new(TlsCredentials::new(tls.clone(), secrets.clone()));
                        Way::Tls { tcp, address, name, credentials }
                    }
                    (Ok(address), Ok(_), None) => Way::Plain { tcp, address },
                    _ => Way::Unusable(format!("{authority} is no address")),
                }
            }
        }
    }

    /// Waits until a connection may be made; it is held until the connection is there.
    async fn turn(&self) -> io::Result<Option<OwnedSemaphorePermit>> {
        let Way::Ssh { logins, .. } = self else { return Ok(None) };
        Ok(Some(logins.clone().acquire_owned().await.map_err(io::Error::other)?))
    }

    async fn connect(mut self) -> io::Result<Wire> {
        match &mut self {
            Way::Unix(path) => {
                let stream = UnixStream::connect(path.as_path())
                    .await
                    .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
                Ok(Wire(Box::new(TokioIo::new(stream))))
            }
            Way::Ssh { to, secrets, .. } => Ok(Wire(Box::new(TokioIo::new(ssh::connect(to, secrets).await?)))),
            Way::Plain { tcp, address } => {
                let stream = tower::Service::call(tcp, address.clone()).await.map_err(io::Error::other)?;
                Ok(Wire(Box::new(stream)))
            }
            Way::Tls { tcp, address, name, credentials } => {
                let config = credentials.config().await?;
                let stream = tower::Service::call(tcp, address.clone()).await.map_err(io::Error::other)?;
                let stream = TlsConnector::from(config).connect(name.clone(), stream.into_inner()).await?;
                // A resumed session remembers the certificate of the handshake before it.
                if let Some(leaf) = stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
                    credentials.shown(leaf);
                }
                Ok(Wire(Box::new(TokioIo::new(stream))))
            }
            Way::Unusable(why) => Err(io::Error::new(io::ErrorKind::InvalidInput, why.clone())),
        }
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Wire;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Wire>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Connector { way, daemon } = self.clone();
        Box::pin(async move {
            let late = |what: &str, limit: Duration| {
                io::Error::new(io::ErrorKind::TimedOut, format!("{what} within {} s", limit.as_secs()))
            };
            // Whether ssh gets through shows only when something is asked.
            let _turn = way.turn().await?;
            let ask = !daemon.is_empty() || matches!(way, Way::Ssh { .. });
            let wire = timeout(timeouts::CONNECT, way.connect()).await;
            let wire = wire.map_err(|_| late("no connection", timeouts::CONNECT))??;
            if !ask {
                return Ok(wire);
            }
            let known = timeout(timeouts::QUICK, verified(wire, &daemon)).await;
            known.map_err(|_| late("the daemon did not tell its id", timeouts::QUICK))?
        })
    }
}

trait Io: Read + Write + Send + Unpin {}
impl<T: Read + Write + Send + Unpin> Io for T {}

/// A connection of either sort.
struct Wire(Box<dyn Io>);

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_between_what_both_speak() {
        for (told, spoken) in [("1.41", 41), ("1.44", 44), ("1.99", CEILING)] {
            assert_eq!(agree(told), Ok(spoken));
        }
        for bad in ["1.40", "", "2.0", "1.x"] {
            assert!(agree(bad).is_err(), "{bad:?}");
        }
    }
}
