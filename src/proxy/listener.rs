//! Accepting visitors, and letting them go.
//!
//! On shutdown: no new connection, no new request on an old one; what runs may finish within `limits.drain`, held
//! requests are told at once; then everything still open is cut.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::hold::Holds;
use super::service::{Peer, Service};
use super::upstream::Upstreams;
use super::{Limits, ProxyState};

/// Pause after an accept that failed for want of something, such as file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Serves HTTP/1.1 until `shutdown`, then drains. Returns when no connection is left.
pub async fn serve(listener: TcpListener, state: Arc<ProxyState>, shutdown: CancellationToken) {
    let limits = state.limits.clone();
    let kill = CancellationToken::new();
    let tasks = TaskTracker::new();
    let service = Arc::new(Service {
        holds: Arc::new(Holds::new(
            state.waker.clone(),
            state.clock.clone(),
            limits.clone(),
            shutdown.clone(),
            state.stats.clone(),
        )),
        upstreams: Upstreams::new(state.clock.clone(), limits.clone()),
        tunnels: tasks.clone(),
        kill: kill.clone(),
        state,
    });

    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    let sweeping = async {
        loop {
            sweep.tick().await;
            service.upstreams.sweep();
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = accept(&listener, &service, &limits, &tasks, &shutdown) => {}
        () = sweeping => {}
    }
    drop(listener);

    tasks.close();
    if tokio::time::timeout(limits.drain, tasks.wait()).await.is_err() {
        tracing::info!(open = tasks.len(), "closing the connections that are still open");
        kill.cancel();
        tasks.wait().await;
    }
}

async fn accept(
    listener: &TcpListener,
    service: &Arc<Service>,
    limits: &Limits,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    loop {
        // First a place, then the visitor: who finds none waits in the kernel's queue.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The visitor gave up before it was accepted.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => continue,
            Err(e) => {
                tracing::warn!(error = %e, "cannot accept connections");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let peer = Peer { address: SocketAddr::ip(&address), place: Arc::new(place) };
        tasks.spawn(connection(stream, peer, service.clone(), limits.clone(), shutdown.clone()));
    }
}

async fn connection(stream: TcpStream, peer: Peer, service: Arc<Service>, limits: Limits, shutdown: CancellationToken) {
    tune(&stream);
    let kill = service.kill.clone();
    let answer = service_fn(|request| {
        let (service, peer) = (service.clone(), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(service.respond(request, peer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.buffer)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = kill.cancelled() => return,
            }
        }
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "a visitor's connection ended");
    }
}

/// Small packets at once, and vanished peers found out: a dead WebSocket must not keep its app awake for ever.
pub fn tune(stream: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(4);
    // A socket that is already gone refuses both; its next read tells.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}
