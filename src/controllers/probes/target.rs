//! What a probe of one Instance asks, and where: its checks, resolved against the host ports that the Instance is bound to.

use std::fmt;

use crate::model::{Check, Instance};

/// What to ask over the network, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetTarget {
    /// IP address or host name, without brackets.
    pub address: String,
    pub port: u16,
    /// GET this path; `None`: only connect.
    pub path: Option<String>,
}

/// What one check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeTarget {
    /// `name`: of the Instance's port, which people know it by.
    Net { name: String, at: NetTarget },
    /// A command inside the container.
    Exec { command: Vec<String> },
}

impl ProbeTarget {
    /// `None`: its port is newer than the container, and not bound yet.
    pub fn of(instance: &Instance, check: &Check) -> Option<ProbeTarget> {
        let net = |name: &String, path| {
            let at =
                NetTarget { address: instance.status.address.clone(), port: instance.status.host_port(name)?, path };
            Some(ProbeTarget::Net { name: name.clone(), at })
        };
        match check {
            Check { http: Some(http), .. } => {
                net(&http.port, Some(if http.path.is_empty() { "/".to_owned() } else { http.path.clone() }))
            }
            Check { tcp: Some(tcp), .. } => net(&tcp.port, None),
            Check { exec: Some(exec), .. } => Some(ProbeTarget::Exec { command: exec.command.clone() }),
            Check { http: None, tcp: None, exec: None } => None,
        }
    }

    /// The startup probe of a bound instance: its own, or a connection to its first port. `None` when it has no port:
    /// then running is all that can be known.
    pub fn startup(instance: &Instance) -> Option<ProbeTarget> {
        let own = instance.spec.probes.startup.as_ref().and_then(|probe| probe.check());
        match own {
            Some(check) => ProbeTarget::of(instance, check),
            None => {
                let port = instance.spec.ports.first()?.name.clone();
                ProbeTarget::of(instance, &Check { tcp: Some(crate::model::TcpProbe { port }), ..Check::default() })
            }
        }
    }

    /// How it is named where it failed.
    pub fn label(&self) -> &str {
        match self {
            ProbeTarget::Net { name, .. } => name,
            ProbeTarget::Exec { .. } => "exec",
        }
    }
}

impl fmt::Display for ProbeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProbeTarget::Net { at: NetTarget { address, port, path: Some(path) }, .. } => {
                write!(f, "GET {path} on {address}:{port}")
            }
            ProbeTarget::Net { at: NetTarget { address, port, path: None }, .. } => {
                write!(f, "a connection to {address}:{port}")
            }
            ProbeTarget::Exec { command } => {
                write!(f, "the command {}", command.first().map_or("", String::as_str))
            }
        }
    }
}
