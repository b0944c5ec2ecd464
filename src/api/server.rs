//! HTTPS: accepts connections, does TLS, knows who a client certificate speaks for, and stops without breaking answers.
//!
//! Everything a stranger can do is bounded: connections (`connections`), handshake time, header time, time without
//! credentials, streams of one connection.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::ApiState;
use super::access::authenticate::identity;
use super::access::{PeerAddress, PeerIdentity, Session};
use super::connections::{Connection, Strangers};
use super::cut::{Cut, LEISURE, Streams, unchanged};
use super::delivery::{self, AtLeisure, PIECE};
use super::handler::{Shared, router};
use super::tls_stream::PoliteTls;
use crate::stall::Stall;

/// Most connections at a time; more wait in the listener's backlog.
const MOST_CONNECTIONS: usize = 2048;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of a request may take over HTTP/1.1, the wait for the next one on a kept connection included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long someone may take to show good credentials.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection is kept on which nothing is asked or answered; up to twice that.
const IDLE_TIMEOUT: Duration = Duration::from_secs(150);
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
    let strangers = Arc::new(Strangers::default());
    let tasks = TaskTracker::new();
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        if room.available_permits() == 0 {
            strangers.make_room();
        }
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
        let guest = strangers.admit(address.ip());
        let (acceptor, app, shutdown) = (acceptor.clone(), app.clone(), shutdown.clone());
        tasks.spawn(async move {
            let _permit = permit;
            let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(&acceptor, Stall::new(stream, LEISURE)));
            let handshaken = tokio::select! {
                () = shutdown.cancelled() => return,
                () = guest.0.evicted() => return tracing::debug!("a TLS handshake made room for another"),
                done = handshake => done,
            };
            let (stream, peer) = match handshaken {
                Ok(Ok(handshaken)) => handshaken,
                Ok(Err(e)) => return tracing::debug!(error = %e, "a TLS handshake failed"),
                Err(_) => return tracing::debug!("a TLS handshake took too long"),
            };
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            if let Some(peer) = &peer {
                // One too many is told so when it asks.
                guest.0.greet(&peer.user.name);
            }
            let cut = Cut::new(patience);
            let service = {
                let (connection, cut) = (guest.0.clone(), cut.clone());
                service_fn(move |mut request: http::Request<Incoming>| {
                    let extensions = request.extensions_mut();
                    extensions.insert(PeerAddress(address.ip()));
                    extensions.insert(connection.clone());
                    extensions.insert(cut.clone());
                    if let Some(peer) = &peer {
                        extensions.insert(peer.clone());
                    }
                    answer(app.clone(), connection.clone(), h2, request.map(Body::new))
                })
            };
            let builder = connection_builder(h2, Streams { patience });
            let connection =
                builder.serve_connection_with_upgrades(TokioIo::new(PoliteTls(stream)), service).into_owned();
            let mut connection = pin!(connection);
            let mut leave = pin!(async {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = guest.0.left() => {}
                    () = idle(&guest.0) => {}
                }
            });
            let mut leaving = false;
            let mut overdue = pin!(stays_a_stranger(&guest.0));
            loop {
                tokio::select! {
                    ended = connection.as_mut() => {
                        if let Err(e) = ended {
                            tracing::debug!(error = %e, "an API connection ended badly");
                        }
                        break;
                    }
                    () = cut.done() => break tracing::debug!("an API connection that did not take its answer was cut off"),
                    () = guest.0.evicted() => break tracing::debug!("a stranger's API connection made room for another"),
                    () = &mut overdue => break tracing::debug!("an API connection without credentials was dropped"),
                    () = &mut leave, if !leaving => {
                        leaving = true;
                        connection.as_mut().graceful_shutdown();
                    }
                }
            }
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!("some API requests were cut off after {GRACE:?}");
    }
    Ok(())
}

/// One answer. Where nobody has shown good credentials, it is the connection's last: who guesses starts from the handshake.
async fn answer(
    app: Router,
    connection: Arc<Connection>,
    h2: bool,
    request: Request,
) -> Result<Response, std::convert::Infallible> {
    let (at_work, cut) = (connection.at_work(), Cut::of(&request));
    connection.asked();
    let mut response = app.oneshot(request).await?;
    if !connection.is_known() || response.status() == StatusCode::UNAUTHORIZED {
        if !h2 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        connection.leave();
    }
    let extensions = response.extensions_mut();
    let (session, at_leisure) = (extensions.remove::<Session>(), extensions.remove::<AtLeisure>().is_some());
    let cut = if at_leisure { cut.with_patience(LEISURE) } else { cut };
    Ok(response.map(|body| delivery::deliver(body, cut, at_work, session)))
}

/// Until a connection has had nothing to do for a while. HTTP/1 has its own time for that, the head's.
async fn idle(connection: &Connection) {
    unchanged(IDLE_TIMEOUT, || connection.idle_since()).await;
}

async fn stays_a_stranger(connection: &Connection) {
    tokio::time::sleep(STRANGER_TIMEOUT).await;
    if connection.is_known() {
        std::future::pending().await
    }
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
        // What a stream that has ended may leave behind for a reader that takes nothing.
        .max_send_buf_size(2 * PIECE)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// The encrypted stream, and who the client's certificate speaks for, if it showed one. rustls has verified it.
async fn handshake(
    acceptor: &TlsAcceptor,
    stream: Stall<TcpStream>,
) -> std::io::Result<(tokio_rustls::server::TlsStream<Stall<TcpStream>>, Option<PeerIdentity>)> {
    stream.inner.set_nodelay(true)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_nothing_goes_on_and_nothing_new_was_asked() {
        let guest = Arc::new(Strangers::default()).admit([10, 0, 0, 1].into());
        let connection = &guest.0;
        let within = |time: Duration| tokio::time::timeout(time, idle(connection));
        let watch = connection.at_work();
        within(Duration::from_secs(24 * 3600)).await.expect_err("a watch goes on");
        drop(watch);
        let asks = async {
            loop {
                tokio::time::sleep(IDLE_TIMEOUT / 2).await;
                connection.asked();
            }
        };
        tokio::select! {
            () = idle(connection) => panic!("it is asked now and then"),
            () = asks => {}
            () = tokio::time::sleep(100 * IDLE_TIMEOUT) => {}
        }
        within(2 * IDLE_TIMEOUT + Duration::from_secs(1)).await.expect("idle");
    }
}
