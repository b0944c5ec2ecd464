//! Starting a container of the simulated daemon, and all that can stand in its way.

use std::collections::BTreeMap;
use std::time::Duration;

use portreeve::docker::engine::{EngineErrorKind, Mount, OutputStream, PortMap, RunState};
use portreeve::docker::reference;

use super::image::Exit;
use super::world::{Done, PlannedExit, SimContainer, Usage, World, refuse};

impl World {
    pub fn start(&mut self, container: &str) -> Done<()> {
        let c = self.find_mut(container)?;
        if c.state == RunState::Paused {
            return refuse(EngineErrorKind::Conflict, "cannot start a paused container, try unpause instead");
        }
        if c.alive() {
            return Ok(());
        }
        let c = c.clone();
        let started = self.check_start(&c);
        let image = self.images.get(&reference::image(&c.spec.image)).cloned().unwrap_or_default();
        let (wall, now) = (self.wall, self.now);
        let networks: BTreeMap<String, String> =
            self.networks.iter().map(|(name, network)| (name.clone(), network.id.clone())).collect();
        let kept = self.containers.get_mut(&c.id).expect("found above");
        if let Err(refusal) = started {
            kept.error = refusal.message.clone();
            kept.exit_code = 128;
            return Err(refusal);
        }
        for (name, id) in &mut kept.endpoints {
            *id = networks.get(name).cloned().unwrap_or_default();
        }
        kept.state = RunState::Running;
        kept.error.clear();
        kept.exit_code = 0;
        kept.oom_killed = false;
        kept.started_at = Some(wall);
        kept.runs += 1;
        kept.serves_from = now + image.boot;
        kept.usage = Usage::fresh(now);
        kept.condition.hung = image.hangs_at.iter().copied().collect();
        kept.logs.extend(image.log_lines.iter().map(|line| (wall, OutputStream::Stdout, line.clone())));
        let process: Vec<_> = c.spec.entrypoint.iter().chain(&c.spec.cmd).cloned().collect();
        let command = image.commands.get(&process).map(|command| command.outcome(&c.spec));
        let exits = match command {
            Some((output, code)) => {
                if !output.is_empty() {
                    kept.logs.push((wall, OutputStream::Stdout, output));
                }
                Some(Exit { after: Duration::from_millis(20), code, oom: false })
            }
            None => image.exits,
        };
        if let Some(exit) = exits {
            let planned =
                PlannedExit { id: c.id.clone(), run: kept.runs, after: exit.after, code: exit.code, oom: exit.oom };
            self.planned_exits.push(planned);
        }
        self.emit_container(&c.id, "start", &[]);
        Ok(())
    }

    fn check_start(&self, c: &SimContainer) -> Done<()> {
        self.need_space("failed to create task for container")?;
        if c.poisoned {
            return refuse(
                EngineErrorKind::Server,
                format!("failed to create task for container: id already in use: task {}: already exists", c.id),
            );
        }
        for mount in &c.spec.mounts {
            if let Mount::Bind { source, .. } = mount
                && self.forbidden_binds.iter().any(|root| source.starts_with(root))
            {
                return refuse(
                    EngineErrorKind::Invalid,
                    format!("error while creating mount source path '{source}': mkdir {source}: permission denied"),
                );
            }
        }
        if c.spec.gpus.iter().any(|gpu| !self.gpus.contains(gpu)) {
            let message = "could not select device driver \"\" with capabilities: [[gpu]]";
            return refuse(EngineErrorKind::Server, message);
        }
        for (name, id) in &c.endpoints {
            match self.networks.get(name) {
                Some(network) if id.is_empty() || *id == network.id => {}
                _ if is_builtin(name) => {}
                _ => {
                    let missing = if id.is_empty() { name } else { id };
                    return refuse(EngineErrorKind::Invalid, format!("network {missing} not found"));
                }
            }
        }
        for port in &c.spec.ports {
            let held = |other: &SimContainer| {
                other.id != c.id && other.alive() && other.spec.ports.iter().any(|p| clash(p, port))
            };
            let at = format!("{}:{}", port.host_ip, port.host_port);
            let endpoint = format!("driver failed programming external connectivity on endpoint {}", c.name);
            if self.containers.values().any(held) {
                let message = format!("{endpoint}: Bind for {at} failed: port is already allocated");
                return refuse(EngineErrorKind::PortTaken, message);
            }
            if self.taken_ports.contains(&port.host_port) {
                let message =
                    format!("{endpoint}: failed to bind port {at}/tcp: listen tcp {at}: bind: address already in use");
                return refuse(EngineErrorKind::PortTaken, message);
            }
        }
        Ok(())
    }
}

/// Networks that every daemon has.
fn is_builtin(name: &str) -> bool {
    matches!(name, "" | "bridge" | "host" | "none")
}

/// Whether two published ports cannot be up together.
fn clash(a: &PortMap, b: &PortMap) -> bool {
    let any = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
    a.host_port == b.host_port && a.host_port != 0 && (any(&a.host_ip) || any(&b.host_ip) || a.host_ip == b.host_ip)
}
