//! Accepting visitors, and letting them go.
//!
//! On shutdown: no new connection, no new request on an old one; what runs may finish within `limits.drain`, held
//! requests are told at once; then everything still open is cut.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ProxyState;
use super::certificates::Certificates;
use super::connection::{Host, Tls};
use super::front::Entrance;
use super::hold::Holds;
use super::service::Service;
use super::upstream::Upstreams;

/// Pause after an accept that failed for want of something, such as file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How often that is told of.
const TOLD_EVERY: Duration = Duration::from_secs(10);
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Serves until `shutdown`, then drains. Returns when no connection is left.
///
/// # Errors
/// When TLS cannot be set up.
pub async fn serve(
    entrances: Vec<Entrance>,
    state: Arc<ProxyState>,
    shutdown: CancellationToken,
) -> Result<(), rustls::Error> {
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
    let (places, streams) = (Semaphore::new(limits.connections), Semaphore::new(limits.streams_in_all));
    let (places, streams) = (Arc::new(places), Arc::new(streams));
    let host = |certificates: &Option<Arc<Certificates>>| -> Result<Host, rustls::Error> {
        let tls = |certificates: &Arc<Certificates>| {
            let acceptor = TlsAcceptor::from(Arc::new(certificates.server_config()?));
            Ok::<_, rustls::Error>(Tls { acceptor, certificates: certificates.clone() })
        };
        let tls = certificates.as_ref().map(tls).transpose()?;
        let (service, streams, limits) = (service.clone(), streams.clone(), limits.clone());
        Ok(Host { service, limits, tls, streams, shutdown: shutdown.clone() })
    };
    let entered = entrances.into_iter().map(|Entrance { listener, certificates }| Ok((listener, host(&certificates)?)));
    let entered = entered.collect::<Result<Vec<_>, rustls::Error>>()?;

    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    let sweeping = async {
        loop {
            sweep.tick().await;
            service.upstreams.sweep();
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = accept(entered, places, tasks.clone()) => {}
        () = sweeping => {}
    }

    tasks.close();
    if tokio::time::timeout(limits.drain, tasks.wait()).await.is_err() {
        tracing::info!(open = tasks.len(), "closing the connections that are still open");
        kill.cancel();
        tasks.wait().await;
    }
    Ok(())
}

/// Until it is dropped, and the listeners with it.
async fn accept(entered: Vec<(TcpListener, Host)>, places: Arc<Semaphore>, tasks: TaskTracker) {
    let mut told_until = Duration::ZERO;
    loop {
        // First a place, then the visitor: who finds none waits in the kernel's queue.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let anywhere = entered.iter().map(|(listener, _)| Box::pin(listener.accept()));
        let (accepted, at, _) = futures::future::select_all(anywhere).await;
        match accepted {
            Ok((stream, from)) => drop(tasks.spawn(entered[at].1.clone().serve(stream, from, place))),
            // The visitor gave up before it was accepted.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
            Err(e) => {
                let now = entered[at].1.service.state.clock.monotonic();
                if now >= told_until {
                    tracing::warn!(error = %e, "cannot accept connections");
                    told_until = now + TOLD_EVERY;
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
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
