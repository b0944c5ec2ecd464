//! Who answers at the published ports: for each container that runs, real listeners on this machine.
//!
//! A port is reserved before the start and listens once the app has booted, so that a connection before then is
//! refused; a port that is taken fails the start, as it does with a daemon.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portreeve::docker::engine::PortMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::AbortHandle;

use super::super::SimEngine;

/// No request of a probe or a test is longer.
const MOST: usize = 16 << 10;

/// The listeners of one daemon's containers.
pub struct Apps {
    running: Mutex<HashMap<String, Vec<AbortHandle>>>,
}

/// A port that something else holds.
pub struct Taken(pub u16);

impl Apps {
    pub fn new(engine: SimEngine) -> Arc<Apps> {
        let apps = Arc::new(Apps { running: Mutex::default() });
        let watched = Arc::downgrade(&apps);
        tokio::spawn(async move {
            loop {
                let mut events = engine.world().live.subscribe();
                loop {
                    let ended = match events.recv().await {
                        Ok(event) if event.action == "die" => Some(event.id),
                        Ok(_) => continue,
                        Err(RecvError::Lagged(_)) => None,
                        // The streams were broken: there is another channel by now.
                        Err(RecvError::Closed) => break,
                    };
                    let Some(apps) = watched.upgrade() else { return };
                    apps.close(&engine, ended.as_deref());
                }
            }
        });
        apps
    }

    /// Closes the listeners of one that ended, or of all that do not run.
    fn close(&self, engine: &SimEngine, ended: Option<&str>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let world = engine.world();
        running.retain(|id, listeners| {
            let keep = match ended {
                Some(ended) => id != ended || world.containers.get(id).is_some_and(|c| c.alive()),
                None => world.containers.get(id).is_some_and(|c| c.alive()),
            };
            if !keep {
                listeners.iter().for_each(AbortHandle::abort);
            }
            keep
        });
    }

    /// Takes the ports, without listening yet.
    pub fn reserve(ports: &[PortMap]) -> Result<Vec<TcpSocket>, Taken> {
        ports.iter().map(|port| bind(port).map_err(|_| Taken(port.host_port))).collect()
    }

    /// Lets a container's app answer with its name from now on, once it has booted.
    pub fn run(&self, id: &str, name: &str, sockets: Vec<TcpSocket>, boot: Duration) {
        let listeners = sockets.into_iter().map(|socket| {
            let name = name.to_owned();
            let serving = async move {
                tokio::time::sleep(boot).await;
                if let Ok(listener) = socket.listen(128) {
                    serve(listener, name.into()).await;
                }
            };
            tokio::spawn(serving).abort_handle()
        });
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), listeners.collect());
    }
}

impl Drop for Apps {
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner);
        running.values().flatten().for_each(AbortHandle::abort);
    }
}

fn bind(port: &PortMap) -> io::Result<TcpSocket> {
    let ip: IpAddr = port.host_ip.parse().map_err(io::Error::other)?;
    let socket = if ip.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of an earlier run that linger are nobody's.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(ip, port.host_port))?;
    Ok(socket)
}

async fn serve(listener: TcpListener, name: Arc<str>) {
    while let Ok((stream, _)) = listener.accept().await {
        let name = name.clone();
        tokio::spawn(async move {
            // A visitor who goes away is no failure.
            let _ = answer(stream, &name).await;
        });
    }
}

/// 200 and its name, to one request after the other.
async fn answer(mut stream: TcpStream, name: &str) -> io::Result<()> {
    let mut held = Vec::new();
    loop {
        while let Some(end) = held.windows(4).position(|w| w == b"\r\n\r\n") {
            held.drain(..end + 4);
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
            stream.write_all(answer.as_bytes()).await?;
        }
        if held.len() > MOST || stream.read_buf(&mut held).await? == 0 {
            return Ok(());
        }
    }
}
