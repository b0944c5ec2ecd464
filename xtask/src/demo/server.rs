//! The control plane of a demo or a benchmark: the real binary, and the real command line against it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::engine::Engine;
use super::place::Place;
use crate::sys::{self, ProcessRef};
use crate::{build, clock, process};

pub struct Server {
    child: Child,
    program: PathBuf,
    log: PathBuf,
    pub kubeconfig: PathBuf,
    pub api: SocketAddr,
    pub proxy: SocketAddr,
}

/// What we show of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub name: String,
    pub uid: String,
    pub phase: String,
    pub ready: bool,
    pub message: String,
}

/// Builds the binary and returns its path.
pub fn build(release: bool) -> Result<PathBuf> {
    let mut command = build::cargo();
    command.args(["build", "--bin", "portreeve"]).args(release.then_some("--release"));
    process::show(&mut command).context("building portreeve")?;
    Ok(build::target_dir()?.join(if release { "release" } else { "debug" }).join("portreeve"))
}

/// The usual port if it is free, else any. Somebody may take it before the server does; then the server says so.
fn listen_address(usual: u16) -> Result<SocketAddr> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|l| l.local_addr());
    bind(usual).or_else(|_| bind(0)).context("finding a free port")
}

impl Server {
    /// Without an engine it has no local host.
    pub fn start(program: &Path, place: &Place, engine: Option<&Engine>, domain: &str) -> Result<Server> {
        Server::start_with(program, place, engine, domain, &[])
    }

    /// With these arguments as well.
    pub fn start_with(
        program: &Path,
        place: &Place,
        engine: Option<&Engine>,
        domain: &str,
        more: &[String],
    ) -> Result<Server> {
        Server::start_at(program, (place.data(), place.log()), engine, domain, more)
    }

    /// With this data directory and log.
    pub fn start_at(
        program: &Path,
        (data, log): (PathBuf, PathBuf),
        engine: Option<&Engine>,
        domain: &str,
        more: &[String],
    ) -> Result<Server> {
        let (api, proxy) = (listen_address(7443)?, listen_address(7080)?);
        fs::create_dir_all(&data)?;
        let file = File::create(&log)?;
        let mut command = own(program);
        command.arg("serve").arg("--data-dir").arg(&data);
        command.args(["--api-listen", &api.to_string(), "--proxy-listen", &proxy.to_string()]);
        command.args(["--domain", domain]).args(more);
        match engine {
            Some(engine) => {
                command.args(["--docker-address", &engine.address]);
                command.arg("--docker").arg(format!("unix://{}", engine.docker.socket.display()));
            }
            None => {
                command.args(["--docker", "none"]);
            }
        }
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // its own group: Ctrl-C is ours to handle, and it is stopped in its turn
        command.process_group(0);
        sys::end_with_parent(&mut command);
        let child = command.spawn().with_context(|| format!("running {}", process::line(&command)))?;
        Ok(Server { child, program: program.into(), log, kubeconfig: data.join("admin.kubeconfig"), api, proxy })
    }

    pub fn identity(&self) -> Option<ProcessRef> {
        ProcessRef::of(self.child.id().cast_signed())
    }

    /// The last lines that it said, for error messages.
    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].iter().map(|l| format!("\n  portreeve: {l}")).collect()
    }

    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("portreeve serve ended: {status}{}", self.last_words()),
            None => Ok(()),
        }
    }

    /// Waits until it answers.
    pub fn ready(&mut self) -> Result<()> {
        clock::wait_unless_interrupted("the server", Duration::from_secs(30), || {
            if let Err(dead) = self.check_alive() {
                return Ok(Err(dead));
            }
            if !self.kubeconfig.exists() {
                return Err(format!("there is no {} yet", self.kubeconfig.display()));
            }
            self.instances().map(|_| Ok(())).map_err(|e| format!("{e:#}"))
        })
        .with_context(|| self.last_words())?
    }

    /// The command line, as a user would call it.
    pub fn cli(&self, words: &[&str]) -> Result<String> {
        let mut command = own(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(words).current_dir(build::root());
        process::output(&mut command)
    }

    pub fn instances(&self) -> Result<Vec<Seen>> {
        parse(&self.cli(&["get", "instances", "-o", "json"])?)
    }

    /// Asks it to end, and sees to it.
    pub fn stop(mut self) -> Result<()> {
        if let Some(identity) = self.identity() {
            let _ = identity.signal(libc::SIGTERM);
            let ended = clock::wait("", Duration::from_secs(20), || match self.child.try_wait() {
                Ok(None) => Err(String::new()),
                _ => Ok(()),
            });
            if ended.is_err() {
                self.child.kill()?;
                self.child.wait()?;
            }
        }
        Ok(())
    }
}

/// Runs our binary without the caller's settings for another server.
fn own(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PORTREEVE_") || name == "KUBECONFIG" {
            command.env_remove(name);
        }
    }
    command
}

fn parse(text: &str) -> Result<Vec<Seen>> {
    let list: Value = serde_json::from_str(text).context("reading the list of instances")?;
    let items = list["items"].as_array().context("the list of instances has no items")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut seen: Vec<Seen> = items
        .iter()
        .map(|item| {
            let conditions = item["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().find(|c| c["type"] == "Ready").cloned().unwrap_or_default();
            Seen {
                name: text(&item["metadata"]["name"]),
                uid: text(&item["metadata"]["uid"]),
                phase: text(&item["status"]["phase"]),
                ready: ready["status"] == "True",
                message: text(&ready["message"]),
            }
        })
        .collect();
    seen.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_whatever_the_status_says_already() {
        let text = r#"{"items": [
            {"metadata": {"name": "b", "uid": "2"}},
            {"metadata": {"name": "a", "uid": "1"}, "status": {"phase": "Running", "conditions": [
                {"type": "Scheduled", "status": "False"}, {"type": "Ready", "status": "True", "message": "up"}]}}]}"#;
        let seen = parse(text).unwrap();
        assert_eq!((seen[0].name.as_str(), seen[0].ready, seen[0].message.as_str()), ("a", true, "up"));
        assert_eq!((seen[1].uid.as_str(), seen[1].ready, seen[1].phase.as_str()), ("2", false, ""));
        assert!(parse("{}").is_err() && parse("no").is_err());
    }
}
