//! The switch: a bridge in a network namespace of its own, kept by a process that does nothing else.

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::registry;
use super::state::{self, Fleet, Host};
use crate::args::Args;
use crate::sys::{self, ProcessRef};
use crate::{clock, process};

pub const VERB: &str = "__switch";

/// Starts the switch and plugs this machine into it.
pub fn start(fleet: &Fleet) -> Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(VERB).arg(&fleet.dir).env("PORTREEVE_FLEET", &fleet.dir).current_dir("/");
    let log = std::fs::File::create(fleet.dir.join("switch.log"))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut child = command.spawn().context("starting the switch")?;
    let switch = clock::wait("the switch", Duration::from_secs(10), || {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("{status}: {}", log_of(fleet)));
        }
        let ready = fleet.dir.join("switch.ready").exists();
        fleet.switch().filter(|_| ready).ok_or_else(|| "not ready".into())
    })?;
    let link = link(fleet);
    // what a fleet of the same subnet may have left
    let _ = process::tool(&format!("ip link del {link}"));
    // an address given here is one that no network manager replaces
    let mac = state::mac(&fleet.subnet, 0xfe);
    process::tool(&format!("ip link add {link} address {mac} type veth peer name uplink netns {}", switch.pid))?;
    inside(&switch, "ip link set dev uplink master bridge up")?;
    process::tool(&format!("ip address add {}/24 dev {link}", fleet.gateway))?;
    process::tool(&format!("ip link set {link} up"))?;
    Ok(())
}

fn log_of(fleet: &Fleet) -> String {
    std::fs::read_to_string(fleet.dir.join("switch.log")).unwrap_or_default().trim().to_owned()
}

/// This machine's end of the cable, named by the subnet: `pf88-0`.
pub fn link(fleet: &Fleet) -> String {
    format!("pf{}", fleet.subnet.trim_start_matches("10.").replace('.', "-"))
}

/// The switch's end of a host's cable.
pub fn port(host: &Host) -> &str {
    &host.name
}

/// Runs a tool in the switch's network namespace.
pub fn inside(switch: &ProcessRef, words: &str) -> Result<String> {
    process::tool(&format!("nsenter --net=/proc/{}/ns/net {words}", switch.pid))
}

/// Takes a host off the network: it is silent, not gone.
pub fn cut(fleet: &Fleet, host: &Host) -> Result<()> {
    plug(fleet, host, false)
}

/// And back: returns once the host is reached, for the kernel takes up to a second to notice a cable.
pub fn join(fleet: &Fleet, host: &Host) -> Result<()> {
    plug(fleet, host, true)?;
    if host.init().is_none() {
        return Ok(());
    }
    let address: SocketAddr = host.tcp.trim_start_matches("tcp://").parse()?;
    clock::wait(&format!("reaching {}", host.name), Duration::from_secs(10), || {
        match TcpStream::connect_timeout(&address, Duration::from_millis(500)) {
            Ok(_) => Ok(()),
            // nobody listens, but it is the host that says so
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            Err(e) => Err(e.to_string()),
        }
    })
}

fn plug(fleet: &Fleet, host: &Host, connected: bool) -> Result<()> {
    let Some(switch) = fleet.switch().filter(ProcessRef::alive) else {
        bail!("the switch of fleet {} does not run", fleet.name);
    };
    let state = if connected { "up" } else { "down" };
    inside(&switch, &format!("ip link set {} {state}", port(host))).map(drop)
}

/// The switch's process: enters itself in the fleet's directory, makes the bridge, and stays.
pub fn run(mut args: Args) -> Result<ExitCode> {
    let dir = std::path::PathBuf::from(args.needed("DIR")?);
    args.finish()?;
    sys::new_session();
    state::record(&dir.join("switch.pid"), &ProcessRef::this()?)?;
    let owner = match Fleet::read(&dir)?.owner {
        Some(owner) => Some(owner.watch().context("the owner is gone")?),
        None => None,
    };
    sys::unshare(libc::CLONE_NEWNET).context("making a network namespace")?;
    process::tool("ip link set lo up")?;
    // no spanning tree: a port forwards as soon as it is up
    process::tool("ip link add bridge type bridge stp_state 0 forward_delay 0")?;
    process::tool("ip link set bridge up")?;
    std::fs::write(dir.join("switch.ready"), "")?;
    match owner {
        Some(owner) => {
            sys::poll(&[&owner])?;
            registry::end(&dir)?;
        }
        None => loop {
            std::thread::park();
        },
    }
    Ok(ExitCode::SUCCESS)
}
