//! Bringing a fleet up. What a fleet of the same name left is removed first; what fails takes everything along.

use std::fs;

use anyhow::{Context, Result, bail};

use super::state::Fleet;
use super::{certs, cgroup, down, host, lock, network, registry, switch, volatile};
use crate::docker::Docker;
use crate::image::{self, FLAVOURS};
use crate::sys::ProcessRef;
use crate::{build, packages, sys};

/// As many as addresses and bridges are set aside for.
const MOST: usize = 100;

/// What is wanted.
pub struct Plan {
    pub name: String,
    /// One for each host: the size of its own disk, if it has one.
    pub disks: Vec<Option<String>>,
    /// Whether to build the test images and load them everywhere.
    pub images: bool,
    /// Whether to run a registry for images, too.
    pub registry: bool,
    /// Whether its daemons wait for no disk.
    pub volatile: bool,
    /// The fleet ends with this process, however that ends.
    pub owner: Option<ProcessRef>,
}

impl Plan {
    /// `disks`: `SIZE` for all hosts, or `HOST=SIZE`.
    pub fn new(name: &str, count: &str, disks: &[String]) -> Result<Plan> {
        let count: usize = count
            .parse()
            .ok()
            .filter(|n| (1..=MOST).contains(n))
            .with_context(|| format!("how many hosts? A number from 1 to {MOST}, not {count}"))?;
        let disks_of = vec![None; count];
        let mut plan =
            Plan { name: name.into(), disks: disks_of, images: true, registry: false, volatile: false, owner: None };
        for disk in disks {
            let (host, size) = disk.split_once('=').map_or((None, disk.as_str()), |(h, s)| (Some(h), s));
            let digits = size.trim_end_matches(['M', 'G']);
            if digits.is_empty() || size.len() > digits.len() + 1 || !digits.chars().all(|c| c.is_ascii_digit()) {
                bail!("--disk {disk}: the size is a number with M or G behind it");
            }
            match host {
                None => plan.disks.fill(Some(size.into())),
                Some(host) => {
                    let number = host.trim_start_matches('h').parse::<usize>().ok().filter(|n| (1..=count).contains(n));
                    let number = number.with_context(|| format!("--disk {disk}: there is no such host"))?;
                    plan.disks[number - 1] = Some(size.into());
                }
            }
        }
        Ok(plan)
    }
}

pub fn up(plan: &Plan) -> Result<Fleet> {
    if !sys::is_root() {
        bail!("a fleet needs root: it makes namespaces and mounts");
    }
    packages::ensure_daemon()?;
    if plan.registry {
        packages::ensure_registry()?;
    }
    let archives = if plan.images {
        let program = build::app()?;
        FLAVOURS.iter().map(|flavour| image::archive(&program, flavour)).collect::<Result<Vec<_>>>()?
    } else {
        Vec::new()
    };
    down::clean_orphans()?;
    let lock = lock::fleet(&plan.name)?;
    if let Some(owner) = Fleet::load(&plan.name).ok().and_then(|f| f.owner).filter(ProcessRef::alive) {
        bail!("fleet {} belongs to process {}, which still runs", plan.name, owner.pid);
    }
    down::clean(&plan.name).context("removing what an earlier run left")?;
    let result = create(plan, &archives);
    if result.is_err() {
        if let Err(error) = down::clean(&plan.name) {
            eprintln!("error: cleaning up: {error:#}");
        }
        lock.remove();
    }
    result
}

fn create(plan: &Plan, archives: &[Vec<u8>]) -> Result<Fleet> {
    let mut fleet = {
        let _lock = lock::subnets()?;
        let subnet = network::choose()?;
        let mut fleet = Fleet::new(&plan.name, &subnet, &plan.disks, plan.owner.clone());
        fleet.registry = plan.registry.then(|| registry::address(&subnet));
        fs::create_dir_all(&fleet.dir).with_context(|| format!("making {}", fleet.dir.display()))?;
        if plan.volatile {
            volatile::mount(&fleet.dir)?;
        }
        fleet.save()?;
        fleet
    };
    certs::make(&fleet)?;
    cgroup::raise_weight(&fleet);
    switch::start(&fleet)?;
    if fleet.registry.is_some() {
        registry::start(&fleet)?;
    }
    let children = fleet.hosts.iter().map(|h| host::begin(&fleet, h)).collect::<Result<Vec<_>>>()?;
    for (host, child) in fleet.hosts.iter().zip(children) {
        host::finish(host, child)?;
        for archive in archives {
            Docker::at(&host.socket).load(archive).with_context(|| format!("host {}", host.name))?;
        }
    }
    fleet.refresh();
    fleet.save()?;
    Ok(fleet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_for_all_hosts_or_for_one() {
        let disks = |list: &[&str]| {
            let list: Vec<String> = list.iter().map(|s| (*s).to_owned()).collect();
            Plan::new("t", "2", &list).map(|p| p.disks)
        };
        assert_eq!(disks(&["512M"]).unwrap(), [Some("512M".to_owned()), Some("512M".to_owned())]);
        assert_eq!(disks(&["h2=1G"]).unwrap(), [None, Some("1G".to_owned())]);
        for bad in ["h3=1G", "x", "1T", "1GG", "=", "h1=", "h0=1G"] {
            assert!(disks(&[bad]).is_err(), "{bad}");
        }
        assert!(Plan::new("t", "0", &[]).is_err() && Plan::new("t", "101", &[]).is_err());
    }
}
