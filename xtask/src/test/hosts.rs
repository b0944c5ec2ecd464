//! Whether the fleet's faults are what they say: tests build on them.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::docker::Docker;
use crate::fleet::state::{Fleet, Host};
use crate::fleet::{disk, power, registry, switch};
use crate::image::{self, APP, Flavour};

/// Long enough for an answer from the next namespace.
const SOON: Duration = Duration::from_secs(1);

const FILLING: Flavour = Flavour { reference: "portreeve/filling:1", env: &[] };

/// Puts a host with a disk of its own through everything. No test uses the fleet meanwhile.
pub fn check(fleet: &Fleet, host: &Host) -> Result<()> {
    let docker = Docker::at(&host.socket);
    let answers = || docker.ping().is_ok();
    let reached = || -> Result<bool> {
        let address: SocketAddr = format!("{}:2376", host.address).parse()?;
        Ok(TcpStream::connect_timeout(&address, SOON).is_ok())
    };

    power::pause(fleet, host)?;
    ensure!(!answers(), "a paused daemon answers");
    power::resume(fleet, host)?;
    ensure!(answers(), "a resumed daemon does not answer");

    power::kill(fleet, host)?;
    ensure!(!answers() && host.dockerd().is_none(), "a killed daemon answers");
    ensure!(host.init().is_some(), "the host went with its daemon");
    power::start(fleet, host)?;
    let before = host.dockerd().context("no daemon after a start")?;
    power::restart(fleet, host)?;
    ensure!(!before.alive() && answers(), "a restarted daemon is the old one");

    switch::cut(fleet, host)?;
    ensure!(!reached()?, "a host off the network is reached");
    ensure!(answers(), "a partition stopped the daemon");
    switch::join(fleet, host)?;
    ensure!(reached()?, "a healed host is not reached");

    // of a size that no other free block hides
    let archive = image::archive(&vec![b'x'; 4 << 20], &FILLING)?;
    disk::fill(fleet, host)?;
    let refused = docker.load(&archive);
    ensure!(refused.is_err(), "a full disk takes an image");
    disk::free(fleet, host)?;
    docker.load(&archive).context("an emptied disk")?;
    docker.remove_image(FILLING.reference)?;

    power::off(fleet, host)?;
    ensure!(!answers() && !reached()?, "a host without power is there");
    ensure!(power::start(fleet, host).is_err(), "a daemon starts without power");
    power::on(fleet, host)?;
    ensure!(reached()?, "a host with power is not reached");
    ensure!(docker.has_image(APP.reference)?, "the disk did not survive a power cut");
    Ok(())
}

/// The registry keeps what was pushed over its own end, and every host pulls from it.
pub fn check_registry(fleet: &Fleet) -> Result<()> {
    let address = fleet.registry.as_deref().context("the fleet has no registry")?;
    let repository = format!("{address}/faults");
    let [pusher, puller] = [&fleet.hosts[0], &fleet.hosts[1]].map(|h| Docker::at(&h.socket));
    pusher.call("POST", &format!("/v1.41/images/{}/tag?repo={repository}&tag=1", APP.reference), None)?;
    pusher.push(&repository, "1")?;

    registry::stop(fleet)?;
    ensure!(registry::stop(fleet).is_err(), "a registry that is off is stopped");
    let refused = puller.pull(&repository, "1").err().map(|e| e.to_string()).unwrap_or_default();
    ensure!(refused.contains("connection refused"), "a pull from a registry that is off: {refused}");
    registry::start(fleet)?;
    ensure!(registry::start(fleet).is_err(), "a registry that runs is started");
    puller.pull(&repository, "1").context("a pull from a registry that is back")?;
    for docker in [pusher, puller] {
        docker.remove_image(&format!("{repository}:1"))?;
    }
    Ok(())
}
