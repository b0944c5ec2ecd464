//! The first process of a host: makes its mounts private, starts the daemons, reaps what ends, and ends with its owner.
//!
//! SIGUSR1 starts the daemons that do not run.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::state::{Fleet, Host, ROOT};
use super::{certs, cgroup, disk, gpus, registry};
use crate::args::Args;
use crate::{clock, process, sys};

pub const VERB: &str = "__init";

const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

pub fn run(mut args: Args) -> Result<ExitCode> {
    let name = args.needed("HOST")?;
    let dir = PathBuf::from(args.needed("DIR")?);
    let owner: Option<i32> = args.word().map(|fd| fd.parse()).transpose()?;
    args.finish()?;
    // SAFETY: our parent opened the descriptor for us, and nobody else here knows of it.
    let owner = owner.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    if let Some(owner) = &owner {
        sys::close_on_exec(owner)?;
    }
    if std::io::stdin().read(&mut [0]).context("waiting to be entered")? == 0 {
        bail!("the starter died");
    }
    sys::new_session();
    let fleet = Fleet::read(&dir)?;
    let host = fleet.host(&name)?;
    let mut signals = vec![libc::SIGCHLD, libc::SIGUSR1, libc::SIGTERM];
    let signal_fd = sys::signal_fd(&signals)?;
    signals.clear();
    mounts(host).context("preparing the mounts")?;
    sys::set_hostname(&format!("{}-{}", fleet.name, host.name)).context("setting the host's name")?;

    let mut daemons = Daemons { fleet: &fleet, host, containerd: None, dockerd: None };
    daemons.start()?;
    loop {
        let mut fds = vec![&signal_fd];
        fds.extend(&owner);
        let ready = sys::poll(&fds)?;
        if ready.get(1) == Some(&true) {
            // the end of the first process is the end of all others here
            return Ok(ExitCode::SUCCESS);
        }
        match sys::next_signal(&signal_fd)? {
            libc::SIGCHLD => daemons.reap(),
            libc::SIGUSR1 => {
                // a signal can stand for several ended children, and can come before theirs
                daemons.reap();
                if let Err(error) = daemons.start() {
                    eprintln!("starting the daemons: {error:#}");
                }
            }
            _ => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// What must not be shared with this machine.
fn mounts(host: &Host) -> Result<()> {
    // copies of other containers' mounts would keep those alive
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    for point in foreign(&text, &host.dir).into_iter().rev() {
        // already gone with the one it lay in
        let _ = sys::unmount(&point);
    }
    sys::mount("proc", "/proc", "proc", libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC, "").context("/proc")?;
    sys::mount("tmpfs", "/run", "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, "mode=755").context("/run")?;
    for dir in ["/run/containerd", "/run/docker", "/run/lock"] {
        fs::create_dir_all(dir)?;
    }
    // the daemon's own identity, which outlives a power cut, and no settings of this machine's daemon
    let identity = host.dir.join("etc-docker");
    for dir in [&identity, Path::new("/etc/docker")] {
        fs::create_dir_all(dir)?;
    }
    let source = identity.to_str().context("the fleet's directory has no UTF-8 name")?;
    sys::mount(source, "/etc/docker", "", libc::MS_BIND, "").context("/etc/docker")?;
    disk::mount(host)
}

/// Mount points that belong to other daemons, fleets and namespaces.
fn foreign(mountinfo: &str, keep: &Path) -> Vec<String> {
    let mut points = Vec::new();
    for line in mountinfo.lines() {
        let Some((head, tail)) = line.split_once(" - ") else { continue };
        let Some(point) = head.split(' ').nth(4) else { continue };
        let point = point.replace("\\040", " ");
        let elsewhere =
            ["/run/", "/var/lib/docker/", "/var/lib/containerd/", ROOT].iter().any(|p| point.starts_with(p));
        if (elsewhere || tail.starts_with("nsfs ")) && !keep.starts_with(&point) {
            points.push(point);
        }
    }
    points
}

struct Daemons<'a> {
    fleet: &'a Fleet,
    host: &'a Host,
    containerd: Option<Child>,
    dockerd: Option<Child>,
}

impl Daemons<'_> {
    fn start(&mut self) -> Result<()> {
        if self.containerd.is_none() {
            self.containerd = Some(self.start_containerd()?);
            clock::wait("containerd", Duration::from_secs(30), || {
                std::os::unix::net::UnixStream::connect(CONTAINERD_SOCKET).map(drop).map_err(|e| e.to_string())
            })?;
        }
        if self.dockerd.is_none() {
            self.dockerd = Some(self.start_dockerd()?);
        }
        Ok(())
    }

    fn start_containerd(&self) -> Result<Child> {
        let config = self.host.dir.join("containerd.toml");
        fs::write(&config, containerd_config(&self.host.dir))?;
        // a stale one would be mistaken for a live one
        let _ = fs::remove_file(CONTAINERD_SOCKET);
        let mut command = process::command("containerd");
        command.arg("--config").arg(config);
        self.spawn(command, "containerd.log")
    }

    fn start_dockerd(&self) -> Result<Child> {
        // its pid may be another's by now, and then the daemon would refuse to start
        let _ = fs::remove_file("/run/docker.pid");
        let mut command = process::command("dockerd");
        command
            .args(["-H", &self.host.endpoint, "-H", &self.host.tcp, "--tlsverify"])
            .arg("--tlscacert")
            .arg(self.fleet.certs.join("ca.pem"))
            .arg("--tlscert")
            .arg(certs::server_cert(self.host))
            .arg("--tlskey")
            .arg(certs::server_key(self.host))
            .arg("--data-root")
            .arg(self.host.dir.join("data/docker"))
            .args(["--exec-root", "/run/docker", "--pidfile", "/run/docker.pid"])
            .args(["--bip", &format!("10.89.{}.1/24", self.host.number)])
            .args(["--userland-proxy=false", "--ip6tables=false", "--storage-driver", "overlay2"])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .args(["--cgroup-parent", &cgroup::parent(self.fleet, self.host)])
            .args(["--containerd", CONTAINERD_SOCKET, "--shutdown-timeout", "3"]);
        gpus::played(self.host, &mut command)?;
        if self.fleet.registry.is_some() {
            command.args(["--insecure-registry", &registry::insecure(self.fleet)]);
        }
        self.spawn(command, "dockerd.log")
    }

    fn spawn(&self, mut command: Command, log: &str) -> Result<Child> {
        let path = self.host.dir.join(log);
        let log: File = OpenOptions::new().create(true).append(true).open(&path)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
        // asked for its stacks, as by a dockerd that waits too long for it, containerd writes them there
        let temporary = self.host.dir.join("tmp");
        fs::create_dir_all(&temporary)?;
        command.env("TMPDIR", temporary);
        command.spawn().with_context(|| format!("starting {}", process::line(&command)))
    }

    /// Every child that has ended: ours, and the orphans that the first process inherits.
    fn reap(&mut self) {
        for pid in sys::reap() {
            for daemon in [&mut self.containerd, &mut self.dockerd] {
                if daemon.as_ref().is_some_and(|d| d.id().cast_signed() == pid) {
                    *daemon = None;
                }
            }
        }
    }
}

/// Only what Docker uses: the other plugins cost time at every start, and make directories elsewhere.
fn containerd_config(dir: &Path) -> String {
    let data = dir.join("data/containerd");
    format!(
        "version = 2\nroot = {data:?}\nstate = \"/run/containerd\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\", \
         \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \
         \"io.containerd.snapshotter.v1.aufs\", \"io.containerd.snapshotter.v1.devmapper\"]\n\
         [grpc]\naddress = {CONTAINERD_SOCKET:?}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_of_others_are_detached() {
        let text = "\
1 0 8:1 / / rw - ext4 /dev/vda rw
2 1 0:3 / /run rw - tmpfs tmpfs rw
3 2 0:4 net:[1] /run/netns/x rw - nsfs nsfs rw
4 1 0:5 / /var/lib/docker/overlay2/a/merged rw - overlay overlay rw
5 1 0:6 / /var/lib/portreeve-fleet rw - ext4 /dev/vdb rw
6 1 0:7 / /var/lib/portreeve-fleet/other/h1/data rw - ext4 /dev/loop0 rw
7 1 0:8 / /home/a\\040b rw - ext4 /dev/vdc rw
";
        assert_eq!(
            foreign(text, Path::new("/var/lib/portreeve-fleet/mine/h1")),
            ["/run/netns/x", "/var/lib/docker/overlay2/a/merged", "/var/lib/portreeve-fleet/other/h1/data"]
        );
    }
}
