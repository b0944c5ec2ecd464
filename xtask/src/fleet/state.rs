//! A fleet's directory: what it consists of, and which processes are its own.
//!
//! ```text
//! /var/lib/portreeve-fleet/NAME/fleet.json    the plan, and the pids as last seen
//!                              /switch.pid    identity of the switch's process
//!                              /h1/init.pid   identity of the host's first process
//!                              /certs/        a client's certificate for all hosts
//!                              /h1/docker.sock, *.log, data/
//!                              /registry.pid  identity of the registry's process, if there is one
//!                              /registry.log, registry/   its requests, its images
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::sys::{self, ProcessRef};

/// Not below /run: every host has a /run of its own and could not share its socket from there.
pub const ROOT: &str = "/var/lib/portreeve-fleet";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fleet {
    pub name: String,
    pub dir: PathBuf,
    /// The first three numbers of the addresses.
    pub subnet: String,
    /// This machine's address in the fleet's network.
    pub gateway: String,
    /// ca.pem, cert.pem and key.pem for every host's TCP port.
    pub certs: PathBuf,
    /// Where images can be pushed to and pulled from without TLS, if anywhere: `10.88.0.2:5000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    /// The fleet goes when this process does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<ProcessRef>,
    pub hosts: Vec<Host>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    pub name: String,
    pub number: u8,
    pub address: String,
    /// The same for ever: neighbours remember it long after a host went and came back.
    pub mac: String,
    pub socket: PathBuf,
    /// The same socket as Docker writes it.
    pub endpoint: String,
    /// The daemon's other door, which the network reaches: mutual TLS.
    pub tcp: String,
    pub dir: PathBuf,
    /// Size of the host's own disk, as truncate(1) reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    #[serde(default)]
    pub pids: Pids,
}

/// As seen from this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pids {
    pub init: Option<i32>,
    pub containerd: Option<i32>,
    pub dockerd: Option<i32>,
}

pub fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 24 || name.starts_with('-') || !name.chars().all(plain) {
        bail!("a fleet's name is 1 to 24 lower-case letters, digits and hyphens, not {name:?}");
    }
    Ok(())
}

pub fn dir(name: &str) -> PathBuf {
    Path::new(ROOT).join(name)
}

/// A locally administered address, unique in the fleet and the same at every start.
pub fn mac(subnet: &str, number: u8) -> String {
    let parts: Vec<u8> = subnet.split('.').filter_map(|p| p.parse().ok()).collect();
    let (second, third) = (parts.get(1).copied().unwrap_or(0), parts.get(2).copied().unwrap_or(0));
    format!("02:50:52:{second:02x}:{third:02x}:{number:02x}")
}

impl Fleet {
    pub fn new(name: &str, subnet: &str, disks: &[Option<String>], owner: Option<ProcessRef>) -> Fleet {
        let dir = dir(name);
        let hosts = disks
            .iter()
            .zip(1_u8..)
            .map(|(disk, number)| {
                let name = format!("h{number}");
                let dir = dir.join(&name);
                let socket = dir.join("docker.sock");
                let address = format!("{subnet}.{}", 10 + u32::from(number));
                Host {
                    tcp: format!("tcp://{address}:2376"),
                    address,
                    mac: mac(subnet, number),
                    endpoint: format!("unix://{}", socket.display()),
                    pids: Pids::default(),
                    disk: disk.clone(),
                    name,
                    number,
                    socket,
                    dir,
                }
            })
            .collect();
        Fleet {
            name: name.into(),
            certs: dir.join("certs"),
            dir,
            subnet: subnet.into(),
            gateway: format!("{subnet}.1"),
            registry: None,
            owner,
            hosts,
        }
    }

    pub fn load(name: &str) -> Result<Fleet> {
        Fleet::read(&dir(name))
            .with_context(|| format!("there is no fleet {name}: cargo xtask fleet up N --name {name}"))
    }

    pub fn read(dir: &Path) -> Result<Fleet> {
        let path = dir.join("fleet.json");
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Replaces the file as a whole: a reader sees the old one or the new one.
    pub fn save(&self) -> Result<()> {
        let (new, path) = (self.dir.join("fleet.json.new"), self.path());
        fs::write(&new, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("writing {}", path.display()))
    }

    pub fn path(&self) -> PathBuf {
        self.dir.join("fleet.json")
    }

    /// By name (`h2`) or number (`2`).
    pub fn host(&self, name: &str) -> Result<&Host> {
        let found = self.hosts.iter().find(|h| h.name == name || h.number.to_string() == name);
        found.with_context(|| {
            let names: Vec<&str> = self.hosts.iter().map(|h| h.name.as_str()).collect();
            format!("fleet {} has no host {name}, only {}", self.name, names.join(", "))
        })
    }

    pub fn switch(&self) -> Option<ProcessRef> {
        recorded(&self.dir.join("switch.pid"))
    }

    /// Looks for the processes as they are now.
    pub fn refresh(&mut self) {
        for host in &mut self.hosts {
            host.pids = host.find_pids();
        }
    }
}

impl Host {
    /// The first process, if the host is on.
    pub fn init(&self) -> Option<ProcessRef> {
        recorded(&self.dir.join("init.pid")).filter(ProcessRef::alive)
    }

    pub fn find_pids(&self) -> Pids {
        let Some(init) = self.init() else { return Pids::default() };
        let mut pids = Pids { init: Some(init.pid), ..Pids::default() };
        for pid in sys::pids() {
            let Some(stat) = sys::stat(pid) else { continue };
            if stat.parent != init.pid || stat.zombie {
                continue;
            }
            match stat.name.as_str() {
                "dockerd" => pids.dockerd = Some(pid),
                "containerd" => pids.containerd = Some(pid),
                _ => {}
            }
        }
        pids
    }

    pub fn dockerd(&self) -> Option<ProcessRef> {
        self.find_pids().dockerd.and_then(ProcessRef::of)
    }

    /// The last lines of the daemon's log, for error messages.
    pub fn log_tail(&self) -> String {
        let mut tail = String::new();
        for log in ["host.log", "containerd.log", "dockerd.log"] {
            let text = fs::read(self.dir.join(log)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(8)..] {
                tail.push_str(&format!("\n  {} {log}: {line}", self.name));
            }
        }
        tail
    }
}

/// Enters a process in a file. Whoever starts one that outlives it does this first.
pub fn record(path: &Path, process: &ProcessRef) -> Result<()> {
    fs::write(path, serde_json::to_vec(process)?).with_context(|| format!("writing {}", path.display()))
}

pub fn recorded(path: &Path) -> Option<ProcessRef> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_survives_being_written_and_read() {
        let fleet = Fleet::new("t", "10.87.0", &[None, Some("1G".into())], Some(ProcessRef::this().unwrap()));
        let text = serde_json::to_vec(&fleet).unwrap();
        let back: Fleet = serde_json::from_slice(&text).unwrap();
        assert_eq!(format!("{back:?}"), format!("{fleet:?}"));
        assert_eq!(back.host("h2").unwrap().address, "10.87.0.12");
        assert_eq!(back.host("2").unwrap().mac, "02:50:52:57:00:02");
        assert_eq!(back.host("h1").unwrap().endpoint, "unix:///var/lib/portreeve-fleet/t/h1/docker.sock");
        assert!(back.host("h3").unwrap_err().to_string().contains("only h1, h2"));
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        for bad in ["", "..", "a/b", "-x", "UP", "a b", "aaaaaaaaaaaaaaaaaaaaaaaaa"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        check_name("test-1").unwrap();
    }
}
