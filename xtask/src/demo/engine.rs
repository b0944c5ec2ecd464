//! Which Docker daemon the demo uses: the one that answers, else a private one.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::docker::Docker;
use crate::fleet::state::{Fleet, Host};
use crate::fleet::{down, state, up};
use crate::sys::{self, ProcessRef};

const USUAL: &str = "/var/run/docker.sock";

pub struct Engine {
    pub docker: Docker,
    /// Where the daemon publishes ports.
    pub address: String,
}

/// The daemon that answers, or none. An explicit DOCKER_HOST that does not answer is an error: it was meant.
pub fn running(address: Option<String>) -> Result<Option<Engine>> {
    let (socket, meant) = match std::env::var("DOCKER_HOST") {
        Ok(host) if !host.is_empty() => match host.strip_prefix("unix://") {
            Some(path) => (PathBuf::from(path), true),
            None => bail!("DOCKER_HOST={host}: the demo needs a unix:// socket; unset DOCKER_HOST to use {USUAL}"),
        },
        _ => (PathBuf::from(USUAL), false),
    };
    let docker = Docker::at(&socket);
    match docker.ping() {
        Ok(()) => {
            let address = address.unwrap_or_else(|| "127.0.0.1".into());
            Ok(Some(Engine { docker, address }))
        }
        Err(error) if meant => Err(error.context("the daemon of DOCKER_HOST does not answer")),
        Err(_) if sys::is_root() => Ok(None),
        Err(error) => bail!("{}", advice(&socket, &error)),
    }
}

/// For those who cannot start a daemon.
fn advice(socket: &Path, error: &anyhow::Error) -> String {
    let denied = error
        .chain()
        .filter_map(|e| e.downcast_ref::<std::io::Error>())
        .any(|e| e.kind() == std::io::ErrorKind::PermissionDenied);
    let socket = socket.display();
    if denied {
        format!("no permission for {socket}: join the group docker, or run `sudo -E cargo xtask demo`")
    } else {
        format!(
            "no Docker daemon answers at {socket}: start Docker (Debian: `sudo apt-get install docker.io`), \
             or run `sudo -E cargo xtask demo`, which starts a private one"
        )
    }
}

/// A daemon of our own, in a network namespace; it ends with this process. `name` is its fleet's.
pub fn private(name: &str) -> Result<Engine> {
    let fleet = private_fleet(name, 1)?;
    Ok(of(&fleet.hosts[0]))
}

/// So many of them.
pub fn private_fleet(name: &str, hosts: usize) -> Result<Fleet> {
    let mut plan = up::Plan::new(name, &hosts.to_string(), &[])?;
    plan.images = false;
    plan.owner = Some(ProcessRef::this()?);
    up::up(&plan)
}

/// A host of a fleet.
pub fn of(host: &Host) -> Engine {
    Engine { docker: Docker::at(&host.socket), address: host.address.clone() }
}

/// Removes the private daemon, if there is one.
pub fn remove_private(name: &str) -> Result<()> {
    if state::dir(name).exists() { down::down(name) } else { Ok(()) }
}
