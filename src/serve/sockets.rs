//! Listeners: those that a service manager keeps for us over restarts, else our own; and what the manager is told.
//!
//! A socket that is passed on is never closed between two servers: who connects meanwhile waits in the kernel's queue
//! and is served by the next one. The protocol is systemd's: `sd_listen_fds(3)`, `sd_notify(3)`.

use std::net::SocketAddr;
use std::os::fd::{FromRawFd as _, OwnedFd};

use anyhow::{Context as _, bail};
use sd_notify::NotifyState;
use tokio::net::TcpListener;

/// What was passed on and has not been asked for yet.
pub struct Sockets(Vec<(SocketAddr, std::net::TcpListener)>);

impl Sockets {
    /// Those of this process's start. To be called once.
    ///
    /// # Errors
    /// When one of them is no TCP socket that listens.
    pub fn passed_on() -> anyhow::Result<Sockets> {
        let mut sockets = vec![];
        for fd in sd_notify::listen_fds().context("the sockets of the service manager: LISTEN_FDS")? {
            // SAFETY: LISTEN_PID says that the service manager made these for this process; nobody else has closed them.
            let socket = std::net::TcpListener::from(unsafe { OwnedFd::from_raw_fd(fd) });
            let address = socket.local_addr().with_context(|| format!("socket {fd} of the service manager"))?;
            let listens = rustix::net::sockopt::socket_acceptconn(&socket);
            if !listens.with_context(|| format!("socket {fd} of the service manager"))? {
                bail!("socket {fd} of the service manager, at {address}, does not listen");
            }
            socket.set_nonblocking(true).context("a socket of the service manager")?;
            sockets.push((address, socket));
        }
        Ok(Sockets(sockets))
    }

    /// The socket at an address: one that was passed on, or a new one. `what` it is for; its flag is made of it.
    pub async fn listen(&mut self, what: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
        if let Some(at) = self.0.iter().position(|(passed, _)| *passed == address) {
            let (_, socket) = self.0.swap_remove(at);
            tracing::debug!(%address, what, "a socket was passed on");
            return TcpListener::from_std(socket).context("a socket of the service manager");
        }
        TcpListener::bind(address).await.with_context(|| {
            let flag = what.to_ascii_lowercase();
            format!("listen on {address} for the {what}; --{flag}-listen names another address")
        })
    }

    /// All have been asked for.
    ///
    /// # Errors
    /// When one has not: who connects to it would wait for ever.
    pub fn done(self) -> anyhow::Result<()> {
        match self.0.first() {
            Some((address, _)) => {
                bail!("the service manager passes on a socket at {address}, where nothing is to listen")
            }
            None => Ok(()),
        }
    }
}

/// The service manager, if there is one, takes the service for started.
pub fn tell_ready() {
    tell(NotifyState::Ready);
}

/// It is being stopped.
pub fn tell_stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
