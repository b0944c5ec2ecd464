//! Whether the fleet's faults are what they say: tests build on them.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::docker::Docker;
use crate::fleet::state::{Fleet, Host};
use crate::fleet::{disk, power, switch};
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
