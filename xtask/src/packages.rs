//! Debian packages that a chore needs: installed when missing, saying what and why, without starting any service.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{build, process, sys};

/// A program, the package that has it, and what for.
pub struct Need {
    pub program: &'static str,
    pub package: &'static str,
    pub why: &'static str,
}

/// A Docker daemon and the tools to give it a network of its own.
const DAEMON: [Need; 8] = [
    Need { program: "dockerd", package: "docker.io", why: "a Docker daemon to run containers" },
    Need { program: "containerd", package: "containerd", why: "runs the containers under that daemon" },
    Need { program: "iptables", package: "iptables", why: "the daemon publishes ports with it" },
    Need { program: "ip", package: "iproute2", why: "gives the daemon a network of its own" },
    Need { program: "nsenter", package: "util-linux", why: "reaches into that network" },
    Need { program: "mount", package: "mount", why: "mounts the daemon's disk" },
    Need { program: "mkfs.ext4", package: "e2fsprogs", why: "makes the daemon's disk" },
    Need { program: "openssl", package: "openssl", why: "makes the certificates of the daemon's TCP port" },
];

const REGISTRY: Need =
    Need { program: "docker-registry", package: "docker-registry", why: "a registry to push test images to" };

/// A host that is logged into, and who logs in.
const SSH: [Need; 2] = [
    Need { program: "sshd", package: "openssh-server", why: "a host of the tests is reached by ssh" },
    Need { program: "ssh", package: "openssh-client", why: "reaches it" },
];

/// A small ACME server; a DNS server that says what a test wants comes with it.
const ACME: Need = Need { program: "pebble", package: "pebble", why: "orders of certificates are tested with it" };

/// A browser, and what lets a test have it by the hand.
const BROWSER: [Need; 2] = [
    Need { program: "chromium", package: "chromium", why: "the pages of the proxy are looked at with it" },
    Need { program: "chromedriver", package: "chromium-driver", why: "tells it where to look" },
];

/// For clients of others: they come from PyPI into a directory of the run's own.
const PYTHON: Need =
    Need { program: "python3", package: "python3-venv", why: "runs other people's clients of the API" };

/// Where the kernel has AppArmor, the daemon starts no container without its parser.
const APPARMOR: Need =
    Need { program: "apparmor_parser", package: "apparmor", why: "the daemon confines its containers with it" };

/// What a Docker daemon of our own needs on this machine.
pub fn ensure_daemon() -> Result<()> {
    let mut needs: Vec<&Need> = DAEMON.iter().collect();
    if fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.trim() == "Y") {
        needs.push(&APPARMOR);
    }
    ensure(&needs)
}

/// What a registry of our own needs.
pub fn ensure_registry() -> Result<()> {
    ensure(&[&REGISTRY])
}

/// What tests of the way by ssh need.
pub fn ensure_ssh() -> Result<()> {
    ensure(&SSH.each_ref())
}

/// What tests of certificates that are ordered need.
pub fn ensure_acme() -> Result<()> {
    ensure(&[&ACME])
}

/// What tests of the pages that people see need.
pub fn ensure_browser() -> Result<()> {
    ensure(&BROWSER.each_ref())
}

/// What the clients of others need.
pub fn ensure_python() -> Result<()> {
    ensure(&[&PYTHON])
}

/// A directory with a kubectl that is no older than the tests, and Helm; it is filled once.
pub fn ensure_kubectl() -> Result<PathBuf> {
    let directory = build::target_dir()?.join("kubectl");
    let mut command = process::command("bash");
    process::show(command.arg(build::root().join("tests/clients/kubectl.sh")).arg(&directory))?;
    Ok(directory)
}

/// Debian has Python's means to make a directory of packages in a package of its own.
fn is_there(need: &Need) -> bool {
    let has_module = || process::output(process::command("python3").args(["-c", "import ensurepip, venv"])).is_ok();
    process::find(need.program).is_some() && (need.package != PYTHON.package || has_module())
}

const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str = "#!/bin/sh\n# cargo xtask: no service is started by an installation\nexit 101\n";

/// Installs what is missing.
fn ensure(needs: &[&Need]) -> Result<()> {
    // a run that was killed half-way may have left its policy
    remove_policy();
    let missing: Vec<&Need> = needs.iter().copied().filter(|n| !is_there(n)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|n| n.package).collect();
    packages.dedup();
    let list = packages.join(" ");
    if !sys::is_root() || process::find("apt-get").is_none() {
        bail!("please install first: {list} (needed: {})", reasons(&missing));
    }
    for need in &missing {
        eprintln!("installing {}: {}", need.package, need.why);
    }
    let new = |program: &str| missing.iter().any(|n| n.program == program);
    let apt = |args: &[&str]| {
        let mut command = process::command("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-qq", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=120"])
            .args(args);
        process::output(&mut command)
    };
    apt(&["update"]).context("apt-get update")?;
    let policy = Policy::set()?;
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(&packages);
    apt(&args).with_context(|| format!("installing {list}"))?;
    drop(policy);
    let mut services = Vec::new();
    if new("dockerd") {
        services.extend(["docker.service", "docker.socket", "containerd.service"]);
    }
    if new(REGISTRY.program) {
        services.push("docker-registry.service");
    }
    if new("sshd") {
        services.push("ssh.service");
    }
    if !services.is_empty() && process::find("systemctl").is_some() {
        // the packages enable their services for the next boot; nobody asked for that
        let mut disable = process::command("systemctl");
        disable.args(["--quiet", "disable"]).args(&services);
        if let Err(error) = process::output(&mut disable) {
            eprintln!("note: could not keep the new services from starting at boot: {error:#}");
        }
    }
    match needs.iter().find(|n| !is_there(n)) {
        Some(need) => bail!("{} is still missing after installing {}", need.program, need.package),
        None => Ok(()),
    }
}

/// Fetches Debian's packages and takes out what is in them, without installing anything.
pub fn unpack(packages: &[&str], into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    let list = packages.join(" ");
    if process::find("apt-get").is_none() || process::find("dpkg-deb").is_none() {
        bail!("there is no apt-get to fetch Debian's {list}");
    }
    eprintln!("fetching Debian's {list} into {}", into.display());
    process::output(process::command("apt-get").arg("download").args(packages).current_dir(into))
        .with_context(|| format!("fetching {list}; `apt-get update` may help"))?;
    let is_package = |path: &PathBuf| path.extension().is_some_and(|e| e == "deb");
    for package in fs::read_dir(into)?.flatten().map(|e| e.path()).filter(is_package) {
        process::output(process::command("dpkg-deb").arg("-x").arg(&package).arg(into))?;
        fs::remove_file(package)?;
    }
    Ok(())
}

fn reasons(missing: &[&Need]) -> String {
    missing.iter().map(|n| format!("{} {}", n.program, n.why)).collect::<Vec<_>>().join("; ")
}

/// Keeps package scripts from starting services, as long as it lives.
struct Policy {
    ours: bool,
}

impl Policy {
    fn set() -> Result<Policy> {
        if Path::new(POLICY).exists() {
            // somebody's own, such as an image builder's: it decides
            return Ok(Policy { ours: false });
        }
        fs::write(POLICY, POLICY_TEXT).with_context(|| format!("writing {POLICY}"))?;
        let policy = Policy { ours: true };
        fs::set_permissions(POLICY, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(policy)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.ours {
            remove_policy();
        }
    }
}

fn remove_policy() {
    if fs::read_to_string(POLICY).is_ok_and(|text| text == POLICY_TEXT) {
        // it can only fail without the right to write there, and then it was not we who wrote it
        let _ = fs::remove_file(POLICY);
    }
}
