//! One visitor's connection, from its first byte: whose it is, TLS, and the version of HTTP.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Limits;
use super::body::ResponseBody;
use super::certificates::Certificates;
use super::challenges::ACME_TLS;
use super::front::{Peer, Place, Uses};
use super::gather::Gather;
use super::linger::{Linger, Unread};
use super::pages::Page;
use super::proxy_protocol::{self, Passed};
use super::service::Service;
use super::stalled::Streams;
use super::stats::Rejected;
use crate::stall::Stall;

/// How long a connection that has not asked for anything yet may still do so when the server stops: its visitor has found us
/// here, and would take an end without an answer for a failure.
const FIRST_REQUEST: Duration = Duration::from_secs(2);

/// How an entrance's connections speak TLS.
#[derive(Clone)]
pub struct Tls {
    pub acceptor: TlsAcceptor,
    pub certificates: Arc<Certificates>,
}

/// What a connection is served with.
#[derive(Clone)]
pub struct Host {
    pub service: Arc<Service>,
    pub limits: Limits,
    pub tls: Option<Tls>,
    /// The requests that all connections of HTTP/2 may have under way together.
    pub streams: Arc<Semaphore>,
    pub shutdown: CancellationToken,
}

impl Host {
    /// Serves a connection until it ends, or the server does.
    pub async fn serve(self, mut stream: TcpStream, from: SocketAddr, place: OwnedSemaphorePermit) {
        super::listener::tune(&stream);
        let begin = tokio::time::timeout(self.limits.handshake, self.passed(&mut stream, from));
        let passed = match self.unless_stopped(begin).await {
            Some(Ok(Ok(passed))) => passed,
            Some(Ok(Err(error))) => return self.refuse(Rejected::ProxyProtocol, &error, from),
            Some(Err(_)) => return self.refuse(Rejected::ProxyProtocol, &"no PROXY header in time", from),
            None => return,
        };
        let speaks = passed.source.is_some() || !self.service.state.front.proxy_protocol;
        let address = passed.source.unwrap_or(from.ip());
        let mut peer = Peer { address, secure: passed.secure, speaks, shown: None };
        let stream = Stall::new(stream, self.limits.stalled);
        let Some(tls) = self.tls.clone() else { return self.http1(stream, peer, place).await };
        let handshake = tokio::time::timeout(self.limits.handshake, tls.acceptor.accept(stream));
        let stream = match self.unless_stopped(handshake).await {
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => return self.refuse(Rejected::Tls, &error, from),
            Some(Err(_)) => return self.refuse(Rejected::Tls, &"the handshake took too long", from),
            None => return,
        };
        let session = stream.get_ref().1;
        let asked = session.server_name().map(str::to_owned);
        if session.alpn_protocol() == Some(ACME_TLS) {
            // It has seen what it came for, and nothing else may be spoken (RFC 8737 §3).
            return tracing::debug!(%from, asked, "an ACME server looked at a certificate");
        }
        let http2 = session.alpn_protocol() == Some(b"h2");
        (peer.secure, peer.shown) = (true, Some((tls.certificates, asked)));
        if http2 { self.http2(stream, peer, place).await } else { self.http1(stream, peer, place).await }
    }

    async fn unless_stopped<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = what => Some(done),
            () = self.stopped_on(std::future::pending()) => None,
        }
    }

    /// Until the server stops, and what a new connection is waited for has come, or has not in a while.
    async fn stopped_on(&self, first: impl Future<Output = ()>) {
        self.shutdown.cancelled().await;
        // Late is late.
        let _ = tokio::time::timeout(FIRST_REQUEST, first).await;
    }

    fn refuse(&self, why: Rejected, error: &dyn std::fmt::Display, from: SocketAddr) {
        self.service.state.stats.rejected(why);
        tracing::debug!(%from, %error, "a visitor's connection was refused");
    }

    /// Whose connection it is, where a proxy before this one says so.
    async fn passed(&self, stream: &mut TcpStream, from: SocketAddr) -> io::Result<Passed> {
        let front = &self.service.state.front;
        if !front.proxy_protocol {
            return Ok(Passed { source: None, secure: false });
        }
        if !front.trusted.has(from.ip()) {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "only trusted proxies may connect"));
        }
        proxy_protocol::read(stream).await
    }

    async fn http1<S>(self, stream: S, peer: Peer, place: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let unread = Arc::<Unread>::default();
        let place = Place { connection: Arc::new(place), stream: None, unread: Some(unread.clone()) };
        let (peer, place) = (Arc::new(peer), Arc::new(place));
        let stream = Linger::new(stream, unread, self.limits.linger);
        let asked = CancellationToken::new();
        let answer = {
            let (service, asked) = (self.service.clone(), asked.clone());
            service_fn(move |request| {
                asked.cancel();
                let (service, peer, place) = (service.clone(), peer.clone(), place.clone());
                async move { Ok::<_, Infallible>(service.respond(request, &peer, place).await) }
            })
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_read)
            .max_header_size(self.limits.header_bytes)
            .max_buf_size(self.limits.buffer)
            .serve_connection(TokioIo::new(stream), answer)
            .with_upgrades();
        // Idleness is the head's time.
        let stopped = self.stopped_on(asked.cancelled());
        self.run(connection, |c| c.graceful_shutdown(), std::future::pending, stopped).await;
    }

    async fn http2<S>(self, stream: S, peer: Peer, place: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (peer, place, uses) = (Arc::new(peer), Arc::new(place), Arc::<Uses>::default());
        let answer = {
            let (service, streams, uses) = (self.service.clone(), self.streams.clone(), uses.clone());
            service_fn(move |request: Request<Incoming>| {
                let (service, peer, place) = (service.clone(), peer.clone(), place.clone());
                let stream = streams.clone().try_acquire_owned().map(|permit| (permit, uses.begin()));
                async move {
                    let Ok(stream) = stream else { return Ok::<_, Infallible>(busy()) };
                    let place = Arc::new(Place { connection: place, stream: Some(stream), unread: None });
                    Ok(service.respond(request, &peer, place).await)
                }
            })
        };
        let Limits { buffer, header_bytes, header_read, streams_per_connection, .. } = self.limits;
        let window = u32::try_from(buffer).unwrap_or(u32::MAX >> 1);
        let connection = http2::Builder::new(Streams { patience: self.limits.stalled })
            .timer(TokioTimer::new())
            .max_concurrent_streams(streams_per_connection)
            .max_header_list_size(u32::try_from(header_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(window)
            .initial_connection_window_size(window.saturating_mul(4).min(u32::MAX >> 1))
            .max_send_buf_size(buffer / 4)
            // Also ends a connection in the middle of a head that does not come to its end: nothing else may be sent then.
            .keep_alive_interval(header_read)
            .keep_alive_timeout(self.limits.handshake)
            .serve_connection(TokioIo::new(Gather::new(stream)), answer);
        let idle = || uses.idle(header_read);
        self.run(connection, |c| c.graceful_shutdown(), idle, self.shutdown.cancelled()).await;
    }

    /// Drives a connection to its end, which it is asked for by `leave` when it is idle or the server stops.
    async fn run<C, I>(
        &self,
        connection: C,
        leave: impl Fn(Pin<&mut C>),
        idle: impl Fn() -> I,
        stopped: impl Future<Output = ()>,
    ) where
        C: Future<Output = hyper::Result<()>>,
        I: Future<Output = ()>,
    {
        let (mut connection, mut stopped) = (pin!(connection), pin!(stopped));
        let left_idle = tokio::select! {
            ended = connection.as_mut() => return note(ended),
            () = &mut stopped => false,
            () = idle() => true,
        };
        leave(connection.as_mut());
        tokio::select! {
            ended = connection.as_mut() => note(ended),
            () = self.service.kill.cancelled() => {}
            // Whoever was asked to leave, has nothing under way, and does not go.
            () = idle(), if left_idle => {}
        }
    }
}

fn note(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a visitor's connection ended");
    }
}

fn busy() -> Response<ResponseBody> {
    Page::Busy.response(None).map(|bytes| ResponseBody::Page(Some(bytes)))
}
