//! Bringing one host to life: its namespaces, its cable, its first process.
//!
//! ```text
//! runner ─► __host (this file; ends when the host runs) ─► __init (pid 1 of the host)
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::state::{self, Fleet, Host};
use super::{disk, init, switch};
use crate::args::Args;
use crate::docker::Docker;
use crate::sys::{self, ProcessRef};
use crate::{clock, process};

pub const VERB: &str = "__host";

/// Starts a host; [`finish`] waits for it, so that several can start at once.
pub fn begin(fleet: &Fleet, host: &Host) -> Result<Child> {
    fs::create_dir_all(host.dir.join("data")).with_context(|| format!("making {}", host.dir.display()))?;
    disk::make(host)?;
    let log = File::create(host.dir.join("host.log"))?;
    Command::new("/proc/self/exe")
        .args([VERB, &host.name])
        .arg(&fleet.dir)
        .env("PORTREEVE_FLEET", &fleet.dir)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting host {}", host.name))
}

/// Waits until the host's daemon answers.
pub fn finish(host: &Host, mut child: Child) -> Result<()> {
    let status = child.wait()?;
    if !status.success() {
        bail!("host {} did not start: {status}{}", host.name, host.log_tail());
    }
    answers(host)
}

/// Waits until the daemon answers.
pub fn answers(host: &Host) -> Result<()> {
    let docker = Docker::at(&host.socket);
    clock::wait_unless_interrupted(&format!("the Docker daemon of {}", host.name), Duration::from_secs(60), || {
        docker.ping().map_err(|e| format!("{e:#}{}", host.log_tail()))
    })
}

/// In a process of its own, as namespaces belong to a process.
pub fn run(mut args: Args) -> Result<ExitCode> {
    let name = args.needed("HOST")?;
    let dir = PathBuf::from(args.needed("DIR")?);
    args.finish()?;
    sys::new_session();
    let fleet = Fleet::read(&dir)?;
    let host = fleet.host(&name)?;
    let switch = fleet.switch().filter(ProcessRef::alive).context("the switch does not run")?;
    let owner = match &fleet.owner {
        Some(owner) => Some(owner.watch().context("the owner is gone")?),
        None => None,
    };
    sys::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC)
        .context("making namespaces")?;
    let recursive_private = libc::MS_REC | libc::MS_PRIVATE;
    sys::mount("", "/", "", recursive_private, "").context("making the mounts private")?;
    connect(host, &switch)?;

    // the next child is the first process of the new process namespace
    sys::unshare(libc::CLONE_NEWPID).context("making a process namespace")?;
    let mut command = Command::new("/proc/self/exe");
    command.args([init::VERB, &name]).arg(&dir).stdin(Stdio::piped());
    if let Some(owner) = &owner {
        sys::inheritable(owner)?;
        command.arg(owner.as_raw_fd().to_string());
    }
    let mut child = command.spawn().context("starting the host's first process")?;
    let pid = child.id().cast_signed();
    let entered = ProcessRef::of(pid)
        .context("the host's first process ended at once")
        .and_then(|process| state::record(&host.dir.join("init.pid"), &process));
    match entered {
        // it waits for this byte: should we die before, it reads the end of the pipe and ends, too
        Ok(()) => child.stdin.take().context("no pipe to the first process")?.write_all(b"g")?,
        Err(error) => {
            child.kill()?;
            child.wait()?;
            return Err(error);
        }
    }
    // our end leaves an orphan on purpose
    Ok(ExitCode::SUCCESS)
}

/// Plugs the host's only network interface into the switch.
fn connect(host: &Host, switch: &ProcessRef) -> Result<()> {
    let port = switch::port(host);
    // after a power cut the old cable goes a little later than its host
    let _ = switch::inside(switch, &format!("ip link del {port}"));
    process::tool("ip link set lo up")?;
    process::tool(&format!("ip link add eth0 address {} type veth peer name {port} netns {}", host.mac, switch.pid))?;
    switch::inside(switch, &format!("ip link set dev {port} master bridge up"))?;
    process::tool(&format!("ip address add {}/24 dev eth0", host.address))?;
    process::tool("ip link set eth0 up")?;
    Ok(())
}
