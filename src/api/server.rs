//! HTTPS: accepts connections, does TLS, knows who a client certificate speaks for, and stops without breaking answers.
//!
//! Everything a stranger can do is bounded: connections, handshake time, header time, streams of one connection.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::ApiState;
use super::access::authenticate::identity;
use super::access::{PeerAddress, PeerIdentity};
use super::cut::{Cut, Streams};
use super::handler::{Shared, router};
use super::tls_stream::PoliteTls;

/// Most connections at a time; more wait in the listener's backlog.
const MOST_CONNECTIONS: usize = 2048;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of a request may take over HTTP/1.1, the wait for the next one on a kept connection included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a new connection may wait before its first request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Most requests at a time over one HTTP/2 connection.
const MOST_STREAMS: u32 = 250;
/// How long answers may go on after the server was told to stop.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the API's listener failed")]
    Listener(#[source] std::io::Error),
}

/// Serves until `shutdown`; then watches end, answers finish, and it returns.
pub async fn serve(listener: TcpListener, state: ApiState, shutdown: CancellationToken) -> Result<(), ServeError> {
    listener.local_addr().map_err(ServeError::Listener)?;
    let acceptor = TlsAcceptor::from(state.tls.clone());
    let patience = state.patience;
    let app = router(Shared { state, shutdown: shutdown.clone() });
    let graceful = GracefulShutdown::new();
    let tasks = TaskTracker::new();
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let next = async {
            let permit = room.clone().acquire_owned().await.expect("the semaphore is never closed");
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            next = next => next,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of descriptors, or a client that was gone at once: neither ends the server. A pause, because the
                // first would spin.
                tracing::warn!(error = %e, "accepting an API connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, app, watcher, shutdown) = (acceptor.clone(), app.clone(), graceful.watcher(), shutdown.clone());
        tasks.spawn(async move {
            let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(&acceptor, stream));
            let handshaken = tokio::select! {
                () = shutdown.cancelled() => return,
                done = handshake => done,
            };
            let (stream, peer) = match handshaken {
                Ok(Ok(handshaken)) => handshaken,
                Ok(Err(e)) => return tracing::debug!(error = %e, "a TLS handshake failed"),
                Err(_) => return tracing::debug!("a TLS handshake took too long"),
            };
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let asked = Arc::new(AtomicBool::new(false));
            let cut = Cut::new(patience);
            let service = {
                let (asked, cut) = (asked.clone(), cut.clone());
                service_fn(move |mut request: http::Request<Incoming>| {
                    asked.store(true, Ordering::Relaxed);
                    request.extensions_mut().insert(PeerAddress(address.ip()));
                    request.extensions_mut().insert(cut.clone());
                    if let Some(peer) = &peer {
                        request.extensions_mut().insert(peer.clone());
                    }
                    app.clone().oneshot(request.map(Body::new))
                })
            };
            let builder = connection_builder(h2, Streams { patience });
            let connection =
                builder.serve_connection_with_upgrades(TokioIo::new(PoliteTls(stream)), service).into_owned();
            let mut connection = pin!(watcher.watch(connection));
            let silent = async {
                tokio::time::sleep(FIRST_REQUEST_TIMEOUT).await;
                if asked.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                ended = &mut connection => {
                    if let Err(e) = ended {
                        tracing::debug!(error = %e, "an API connection ended badly");
                    }
                }
                () = cut.done() => tracing::debug!("an API connection that did not take its answer was cut off"),
                () = silent => tracing::debug!("an API connection without a request was dropped"),
            }
            drop(permit);
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some API requests were cut off after {GRACE:?}");
    }
    Ok(())
}

/// The protocol is what TLS has agreed on: guessing it from the first bytes would wait for them without end.
fn connection_builder(h2: bool, streams: Streams) -> Builder<Streams> {
    let builder = Builder::new(streams);
    let mut builder = if h2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// The encrypted stream, and who the client's certificate speaks for, if it showed one. rustls has verified it.
async fn handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
) -> std::io::Result<(tokio_rustls::server::TlsStream<TcpStream>, Option<PeerIdentity>)> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = match certificate {
        Some(der) => Some(identity(der).ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::InvalidData, "the client certificate names no one")
        })?),
        None => None,
    };
    Ok((stream, peer))
}
