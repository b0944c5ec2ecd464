//! Real Docker daemons, each as if it ran on a machine of its own, for the demo and for tests.
//!
//! A host is a process namespace whose first process is [`init`]: killing that one is a power cut, and takes all
//! processes, mounts and the network with it. The hosts are plugged into a bridge in a namespace of its own
//! ([`switch`]), so that no firewall of this machine is in the way; this machine is plugged in, too.
//!
//! ```text
//! this machine 10.88.0.1 ──┐
//!                   [switch: bridge]── h1 10.88.0.11: init ─► containerd, dockerd ─► containers
//!  (registry 10.88.0.2:5000)└────────── h2 10.88.0.12: …
//! ```
//!
//! Everything is found again through files in the fleet's directory ([`state`]), which each long-lived process is
//! entered in before it does anything: whatever happens to the runner, a later `up` or `down` cleans up.

pub mod certs;
pub mod cgroup;
pub mod disk;
pub mod down;
mod gpus;
pub mod host;
pub mod init;
pub mod lock;
pub mod network;
pub mod power;
pub mod registry;
pub mod state;
pub mod status;
pub mod switch;
pub mod up;
pub mod volatile;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::args::Args;
use crate::process;
use state::Fleet;

type Act = fn(&Fleet, &state::Host) -> Result<()>;

/// What can be done to one host.
const ACTS: [(&str, Act); 11] = [
    ("kill", power::kill),
    ("start", power::start),
    ("restart", power::restart),
    ("pause", power::pause),
    ("resume", power::resume),
    ("poweroff", power::off),
    ("poweron", power::on),
    ("partition", switch::cut),
    ("heal", switch::join),
    ("disk-full", disk::fill),
    ("disk-free", disk::free),
];

/// `cargo xtask fleet …`
pub fn run(mut args: Args) -> Result<ExitCode> {
    let name = args.option("--name")?.unwrap_or_else(|| "default".into());
    state::check_name(&name)?;
    let Some(verb) = args.word() else { bail!("which of up, down, status, docker, kill, …? See cargo xtask help") };
    match verb.as_str() {
        "up" => {
            let disks = args.options("--disk")?;
            let bare = args.flag("--bare");
            let registry = args.flag("--registry");
            let volatile = args.flag("--volatile");
            let count = args.word().unwrap_or_else(|| "1".into());
            args.finish()?;
            let mut plan = up::Plan::new(&name, &count, &disks)?;
            plan.images = !bare;
            plan.registry = registry;
            plan.volatile = volatile;
            let fleet = up::up(&plan)?;
            status::print(&fleet);
        }
        "down" => {
            args.finish()?;
            down::down(&name)?;
        }
        "status" => {
            let format = args.option("-o")?;
            args.finish()?;
            let fleet = Fleet::load(&name)?;
            match format.as_deref() {
                None => status::print(&fleet),
                Some("json") => println!("{}", serde_json::to_string_pretty(&status::json(&fleet))?),
                Some(other) => bail!("-o {other}: only json"),
            }
        }
        "docker" => {
            let (host, rest) = (args.needed("HOST")?, args.rest());
            args.finish()?;
            let fleet = Fleet::load(&name)?;
            let host = fleet.host(&host)?;
            if process::find("docker").is_none() {
                bail!("there is no docker command here; the daemon's socket is {}", host.socket.display());
            }
            let mut command = process::command("docker");
            command.arg("--host").arg(&host.endpoint).args(rest);
            // replaces this process: signals, terminal and exit code are the docker command's own
            let error = std::os::unix::process::CommandExt::exec(&mut command);
            bail!("running docker: {error}");
        }
        "registry" => {
            let act = match args.needed("start or stop")?.as_str() {
                "start" => registry::start,
                "stop" => registry::stop,
                other => bail!("registry {other}: only start and stop"),
            };
            args.finish()?;
            Fleet::load(&name)?;
            let _lock = lock::fleet(&name)?;
            act(&Fleet::load(&name)?)?;
        }
        verb => {
            let Some((_, act)) = ACTS.iter().find(|(name, _)| *name == verb) else {
                bail!("unknown fleet verb: {verb}. See cargo xtask help");
            };
            let host = args.needed("HOST")?;
            args.finish()?;
            // before the lock, which would make a directory for it
            Fleet::load(&name)?;
            let _lock = lock::fleet(&name)?;
            let mut fleet = Fleet::load(&name)?;
            let host = fleet.host(&host)?.clone();
            act(&fleet, &host)?;
            fleet.refresh();
            fleet.save()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
