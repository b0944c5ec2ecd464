//! Where a daemon listens and where its host ports are: the one reader of `spec.endpoint` and `spec.address`.
//!
//! Called by validation, by the scheduler (where ports are published) and by the docker room (whom to call). Pure.

use core::net::{IpAddr, Ipv6Addr};

use super::validate::quoted;
use super::{DockerHostSpec, FieldError, FieldErrors, is_subdomain};

/// `spec.endpoint`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DaemonEndpoint<'a> {
    /// An absolute path.
    Unix(&'a str),
    /// An IP address without brackets, or a host name; a port that is not 0.
    Tcp { host: &'a str, port: u16 },
}

impl DaemonEndpoint<'_> {
    /// The error says what was expected.
    pub fn parse(endpoint: &str) -> Result<DaemonEndpoint<'_>, &'static str> {
        if let Some(path) = endpoint.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(DaemonEndpoint::Unix(path))
            } else {
                Err("must be unix:// and an absolute path")
            };
        }
        let Some(rest) = endpoint.strip_prefix("tcp://") else { return Err("must begin with unix:// or tcp://") };
        tcp(rest)
            .ok_or("must be tcp://HOST:PORT: an IP address (IPv6 in brackets) or a host name, and a port from 1 on")
    }
}

fn tcp(text: &str) -> Option<DaemonEndpoint<'_>> {
    let (host, port) = text.rsplit_once(':')?;
    // A number for people may begin with a sign; one of an endpoint may not.
    let port = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse::<u16>().ok())?.filter(|p| *p > 0)?;
    let host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.strip_suffix(']').filter(|inner| inner.parse::<Ipv6Addr>().is_ok())?,
        None if is_host_name(host) => host,
        None => return None,
    };
    Some(DaemonEndpoint::Tcp { host, port })
}

/// Also takes an IPv4 address, whose form is one of a name.
fn is_host_name(text: &str) -> bool {
    is_subdomain(&text.to_ascii_lowercase())
}

impl DockerHostSpec {
    /// Where host ports are published and reached. An IP address for whatever validation has passed.
    pub fn reach_address(&self) -> String {
        if !self.address.is_empty() {
            return self.address.clone();
        }
        match DaemonEndpoint::parse(&self.endpoint) {
            Ok(DaemonEndpoint::Tcp { host, .. }) => host.to_owned(),
            Ok(DaemonEndpoint::Unix(_)) => "127.0.0.1".to_owned(),
            // Empty is what no container is published on.
            Err(_) => String::new(),
        }
    }
}

/// Checks how the daemon is reached, and that its host ports are published on one address: a daemon takes a host name
/// for no address at all, and publishes on every interface.
pub(super) fn validate_endpoint(spec: &DockerHostSpec, errors: &mut FieldErrors) {
    let invalid = |why| FieldError::invalid("spec.endpoint", quoted(&spec.endpoint), why);
    match DaemonEndpoint::parse(&spec.endpoint) {
        Err(why) => errors.push(invalid(why)),
        Ok(DaemonEndpoint::Unix(_)) if spec.tls.is_some() => {
            errors.push(FieldError::forbidden("spec.tls", "a unix endpoint has no TLS"));
        }
        Ok(DaemonEndpoint::Unix(_)) => {}
        Ok(DaemonEndpoint::Tcp { host, .. }) => {
            if spec.tls.as_ref().is_none_or(|t| !t.directory.starts_with('/')) {
                let why = "a tcp endpoint needs mutual TLS: an absolute path";
                errors.push(FieldError::required("spec.tls.directory", why));
            }
            if spec.address.is_empty() && host.parse::<IpAddr>().is_err() {
                let why = "the IP address on which host ports are published, as the endpoint names a host";
                errors.push(FieldError::required("spec.address", why));
            }
        }
    }
    if !spec.address.is_empty() && spec.address.parse::<IpAddr>().is_err() {
        errors.push(FieldError::invalid(
            "spec.address",
            quoted(&spec.address),
            "must be an IP address, without brackets",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DockerHost, HostTls, validate_docker_host};

    fn host(endpoint: &str, address: &str) -> DockerHost {
        let tls = endpoint.starts_with("tcp://").then(|| HostTls { directory: "/certs".into() });
        let spec = DockerHostSpec { endpoint: endpoint.into(), address: address.into(), tls, ..Default::default() };
        DockerHost { spec, ..Default::default() }
    }

    #[test]
    fn an_endpoint_is_a_socket_or_a_host_with_a_port() {
        let tcp = |host, port| Ok(DaemonEndpoint::Tcp { host, port });
        for (text, read) in [
            ("unix:///run/docker.sock", Ok(DaemonEndpoint::Unix("/run/docker.sock"))),
            ("tcp://10.0.0.3:2376", tcp("10.0.0.3", 2376)),
            ("tcp://[fd00::3]:2376", tcp("fd00::3", 2376)),
            ("tcp://Worker-1.example.com:1", tcp("Worker-1.example.com", 1)),
        ] {
            assert_eq!(DaemonEndpoint::parse(text), read);
        }
        for bad in [
            "",
            "unix://run",
            "tcp://",
            "tcp://a",
            "tcp://:1",
            "tcp://a:0",
            "tcp://a:70000",
            "tcp://a:+1",
            "http://a:1",
            "tcp://fd00::3:2376",
            "tcp://[a]:1",
            "tcp://[fd00::3:1",
            "tcp://a b:1",
            "tcp://a/b:1",
            "tcp://u@a:1",
        ] {
            assert!(DaemonEndpoint::parse(bad).is_err(), "{bad}");
            assert_eq!(validate_docker_host(&host(bad, "10.0.0.1"))[0].field, "spec.endpoint", "{bad}");
        }
    }

    #[test]
    fn host_ports_are_published_on_an_ip_address() {
        for (endpoint, address, reached) in [
            ("unix:///var/run/docker.sock", "", "127.0.0.1"),
            ("unix:///var/run/docker.sock", "10.0.0.9", "10.0.0.9"),
            ("tcp://10.0.0.3:2376", "", "10.0.0.3"),
            ("tcp://[fd00::3]:2376", "", "fd00::3"),
            ("tcp://worker-1.example.com:2376", "10.0.0.4", "10.0.0.4"),
        ] {
            let host = host(endpoint, address);
            assert_eq!((validate_docker_host(&host), host.spec.reach_address().as_str()), (vec![], reached));
        }
        for (endpoint, address) in [
            ("tcp://worker-1.example.com:2376", ""),
            ("tcp://10.0.0.3:2376", "worker-1.example.com"),
            ("unix:///var/run/docker.sock", "localhost"),
            ("tcp://10.0.0.3:2376", "[fd00::3]"),
        ] {
            let errors = validate_docker_host(&host(endpoint, address));
            assert_eq!(
                errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(),
                ["spec.address"],
                "{endpoint} {address}"
            );
        }
    }
}
