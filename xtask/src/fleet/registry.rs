//! An image registry on the fleet's switch: Debian's docker-registry, which every host reaches without TLS.
//!
//! ```text
//! runner ─► __registry (this file: waits until it is entered, then becomes…) ─► docker-registry serve
//! ```
//!
//! It lives in the switch's network namespace, where no firewall of this machine is in the way. The recorded process
//! is the registry itself, so that whoever ends it knows that nothing writes into the fleet's directory any more.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::state::{self, Fleet};
use super::switch;
use crate::args::Args;
use crate::http::Request;
use crate::sys::{self, ProcessRef};
use crate::{clock, process};

pub const VERB: &str = "__registry";

const PID_FILE: &str = "registry.pid";

/// Below the hosts' addresses, beside this machine's.
pub fn address(subnet: &str) -> String {
    format!("{subnet}.2:5000")
}

/// What a daemon need not ask a certificate of: all of the fleet's network, so that a test can put a relay before
/// the registry.
pub fn insecure(fleet: &Fleet) -> String {
    format!("{}.0/24", fleet.subnet)
}

/// The registry's process, if it runs.
pub fn running(dir: &Path) -> Option<ProcessRef> {
    state::recorded(&dir.join(PID_FILE)).filter(ProcessRef::alive)
}

/// Starts the registry with the images that it had, and waits until it answers.
pub fn start(fleet: &Fleet) -> Result<()> {
    let address = needed(fleet)?;
    if running(&fleet.dir).is_some() {
        bail!("the registry of fleet {} runs already", fleet.name);
    }
    let switch = fleet.switch().filter(ProcessRef::alive).context("the switch does not run")?;
    let ip = address.rsplit_once(':').map_or(address, |(ip, _)| ip);
    switch::inside(&switch, &format!("ip address replace {ip}/24 dev bridge"))?;
    fs::write(config(&fleet.dir), config_text(&fleet.dir, address))?;
    let log: File = OpenOptions::new().create(true).append(true).open(log(&fleet.dir))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(VERB).arg(&fleet.dir).env("PORTREEVE_FLEET", &fleet.dir).current_dir("/");
    command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().context("starting the registry")?;
    let entered = ProcessRef::of(child.id().cast_signed())
        .context("it ended at once")
        .and_then(|process| state::record(&fleet.dir.join(PID_FILE), &process));
    if let Err(error) = entered {
        child.kill()?;
        child.wait()?;
        return Err(error.context("starting the registry"));
    }
    // it waits for this byte: should we die before, it reads the end of the pipe and ends, too
    child.stdin.take().context("no pipe to the registry")?.write_all(b"g")?;
    let socket: SocketAddr = address.parse()?;
    clock::wait_unless_interrupted("the registry", Duration::from_secs(30), || {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("{status}{}", log_tail(&fleet.dir)));
        }
        let request = Request { host: address, timeout: Duration::from_secs(2), ..Request::get("/v2/") };
        match request.over_tcp(socket) {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(format!("it answers {}: {}", answer.status, answer.text())),
            Err(error) => Err(format!("{error:#}{}", log_tail(&fleet.dir))),
        }
    })
}

/// Ends the registry; its images stay.
pub fn stop(fleet: &Fleet) -> Result<()> {
    needed(fleet)?;
    running(&fleet.dir).with_context(|| format!("the registry of fleet {} does not run", fleet.name))?;
    end(&fleet.dir)
}

/// Ends the registry if it runs, and returns when it has.
pub fn end(dir: &Path) -> Result<()> {
    state::recorded(&dir.join(PID_FILE)).map_or(Ok(()), |registry| registry.kill())
}

fn needed(fleet: &Fleet) -> Result<&str> {
    fleet.registry.as_deref().with_context(|| {
        format!("fleet {} has no registry: cargo xtask fleet up N --registry --name {}", fleet.name, fleet.name)
    })
}

fn config(dir: &Path) -> PathBuf {
    dir.join("registry.yml")
}

fn log(dir: &Path) -> PathBuf {
    dir.join("registry.log")
}

/// JSON is YAML, and needs no care with quotes.
fn config_text(dir: &Path, address: &str) -> String {
    serde_json::json!({
        "version": 0.1,
        // each request is a line in the log, in the form of a web server's
        "log": {"level": "warn", "accesslog": {"disabled": false}},
        "storage": {
            "filesystem": {"rootdirectory": dir.join("registry")},
            "delete": {"enabled": true},
            "maintenance": {"uploadpurging": {"enabled": false}},
        },
        "http": {"addr": address},
    })
    .to_string()
}

fn log_tail(dir: &Path) -> String {
    let text = fs::read(log(dir)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].iter().map(|line| format!("\n  registry.log: {line}")).collect()
}

/// The registry's process: waits until it is entered in the fleet's directory, then becomes docker-registry. With an
/// owner, the switch ends it.
pub fn run(mut args: Args) -> Result<ExitCode> {
    let dir = PathBuf::from(args.needed("DIR")?);
    args.finish()?;
    if std::io::stdin().read(&mut [0]).context("waiting to be entered")? == 0 {
        bail!("the starter died");
    }
    sys::new_session();
    // looked at only now: a switch that has ended was too early to find us
    let switch = Fleet::read(&dir)?.switch().filter(ProcessRef::alive).context("the switch does not run")?;
    let mut command = process::command("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", switch.pid));
    command.args(["docker-registry", "serve"]).arg(config(&dir)).stdin(Stdio::null());
    let error = command.exec();
    bail!("running docker-registry: {error}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_settings_are_its_own() {
        let text = config_text(Path::new("/fleet/t"), &address("10.87.3"));
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["http"]["addr"], "10.87.3.2:5000");
        assert_eq!(config["storage"]["filesystem"]["rootdirectory"], "/fleet/t/registry");
    }

    #[test]
    fn a_fleet_without_a_registry_says_how_to_get_one() {
        let fleet = Fleet::new("t", "10.87.0", &[None], None);
        for error in [start(&fleet).unwrap_err(), stop(&fleet).unwrap_err()] {
            assert!(error.to_string().contains("--registry"), "{error}");
        }
    }
}
