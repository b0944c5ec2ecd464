//! etcd: the one that is installed, or Debian's, unpacked into the run's directory and gone with it.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{clock, http, packages, process, sys};

const PACKAGE: &str = "etcd-server";

pub struct Etcd {
    child: Child,
    pub address: String,
    pub version: String,
}

impl Etcd {
    /// Starts one member that is all of its cluster, with its data in `dir`, and waits until it is healthy.
    pub fn start(program: Option<&Path>, dir: &Path) -> Result<Etcd> {
        let program = match program.map(PathBuf::from).or_else(|| process::find("etcd")) {
            Some(program) => program,
            None => unpack(dir)?,
        };
        let version = process::output(Command::new(&program).arg("--version"))?;
        let version = version.lines().next().unwrap_or_default().trim_start_matches("etcd Version: ").to_owned();
        let (clients, peers) = (free_address()?, free_address()?);
        let log = File::create(dir.join("etcd.log"))?;
        let mut command = Command::new(&program);
        command.args(["--name", "bench", "--log-level", "warn", "--data-dir"]).arg(dir.join("etcd"));
        let (near, peer) = (format!("http://{clients}"), format!("http://{peers}"));
        command.args(["--listen-client-urls", &near, "--advertise-client-urls", &near, "--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("bench={peer}")]);
        // The default of 2 GiB is beyond a run; it is named so that a larger run says what it met.
        command.args(["--quota-backend-bytes", "4294967296"]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        sys::end_with_parent(&mut command);
        let child = command.spawn().with_context(|| format!("running {}", process::line(&command)))?;
        let mut etcd = Etcd { child, address: clients, version };
        etcd.ready()?;
        Ok(etcd)
    }

    fn ready(&mut self) -> Result<()> {
        let address: SocketAddr = self.address.parse().context("etcd's address")?;
        clock::wait_unless_interrupted("etcd", Duration::from_secs(30), || {
            match self.child.try_wait() {
                Ok(None) => {}
                ended => return Ok(Err(anyhow::anyhow!("etcd ended: {ended:?}"))),
            }
            let answer = http::Request::get("/health").over_tcp(address).map_err(|e| format!("{e:#}"))?;
            if answer.text().contains("true") { Ok(Ok(())) } else { Err(answer.text()) }
        })?
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub fn stop(mut self) -> Result<()> {
        self.end();
        Ok(())
    }

    fn end(&mut self) {
        // Its data goes with the run's directory: there is nothing to wait for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.end();
    }
}

fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// Debian's, without installing anything.
fn unpack(dir: &Path) -> Result<PathBuf> {
    let into = dir.join(PACKAGE);
    packages::unpack(&[PACKAGE], &into).context("there is no etcd on PATH; --etcd PATH names one")?;
    Ok(into.join("usr/bin/etcd"))
}
