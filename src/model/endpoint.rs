//! Where a daemon listens and where its host ports are: the one reader of `spec.endpoint` and `spec.address`.
//!
//! Called by validation, by the scheduler (where ports are published) and by the docker room (whom to call). Pure.

use core::net::{IpAddr, Ipv6Addr};

use super::validate::quoted;
use super::{DockerHostSpec, FieldError, FieldErrors, HostSsh, HostTls, is_subdomain};

/// `spec.endpoint`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DaemonEndpoint<'a> {
    /// An absolute path.
    Unix(&'a str),
    /// An IP address without brackets, or a host name; a port that is not 0.
    Tcp { host: &'a str, port: u16 },
    /// A daemon that is reached by the `docker` command on a machine to which one may log in. Without a user or a port,
    /// ssh's own settings decide.
    Ssh { user: Option<&'a str>, host: &'a str, port: Option<u16> },
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
        if let Some(rest) = endpoint.strip_prefix("ssh://") {
            let why = "must be ssh://HOST, ssh://USER@HOST or either with :PORT: an IP address (IPv6 in brackets) or a host \
                       name, and nothing after it; a user has letters, digits, '_', '-' and '.', and begins with a letter or '_'";
            return ssh(rest).ok_or(why);
        }
        let Some(rest) = endpoint.strip_prefix("tcp://") else {
            return Err("must begin with unix://, tcp:// or ssh://");
        };
        tcp(rest)
            .ok_or("must be tcp://HOST:PORT: an IP address (IPv6 in brackets) or a host name, and a port from 1 on")
    }
}

fn tcp(text: &str) -> Option<DaemonEndpoint<'_>> {
    let (host, port) = text.rsplit_once(':')?;
    Some(DaemonEndpoint::Tcp { host: bare_host(host)?, port: port_number(port)? })
}

/// What passes is given to a program as its arguments: none of it can be an option, a path or a second word.
fn ssh(text: &str) -> Option<DaemonEndpoint<'_>> {
    let (user, rest) = match text.split_once('@') {
        Some((user, rest)) => (Some(user).filter(|user| is_user(user)).map(Some)?, rest),
        None => (None, text),
    };
    // The colons of an IPv6 address are in brackets.
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !rest.ends_with(']') => (host, Some(port_number(port)?)),
        _ => (rest, None),
    };
    Some(DaemonEndpoint::Ssh { user, host: bare_host(host)?, port })
}

/// A number for people may begin with a sign; one of an endpoint may not.
fn port_number(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>().ok())?.filter(|p| *p > 0)
}

/// A host name or an address, without brackets.
fn bare_host(text: &str) -> Option<&str> {
    match text.strip_prefix('[') {
        Some(bracketed) => bracketed.strip_suffix(']').filter(|inner| inner.parse::<Ipv6Addr>().is_ok()),
        None => Some(text).filter(|text| is_host_name(text)),
    }
}

fn is_user(text: &str) -> bool {
    let first = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    let other = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    text.len() <= 32 && text.bytes().next().is_some_and(first) && text.bytes().all(other)
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
            Ok(DaemonEndpoint::Tcp { host, .. } | DaemonEndpoint::Ssh { host, .. }) => host.to_owned(),
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
    let endpoint = match DaemonEndpoint::parse(&spec.endpoint) {
        Ok(endpoint) => Some(endpoint),
        Err(why) => {
            errors.push(invalid(why));
            None
        }
    };
    match (&endpoint, &spec.tls) {
        (Some(DaemonEndpoint::Unix(_)), Some(_)) => {
            errors.push(FieldError::forbidden("spec.tls", "a unix endpoint has no TLS"));
        }
        (Some(DaemonEndpoint::Ssh { .. }), Some(_)) => {
            errors.push(FieldError::forbidden("spec.tls", "an ssh endpoint is guarded by ssh and has no TLS"));
        }
        (Some(DaemonEndpoint::Tcp { .. }), tls) => validate_tls(tls.as_ref(), errors),
        (_, None) | (None, Some(_)) => {}
    }
    match (&endpoint, &spec.ssh) {
        (Some(DaemonEndpoint::Unix(_) | DaemonEndpoint::Tcp { .. }), Some(_)) => {
            errors.push(FieldError::forbidden("spec.ssh", "only for an endpoint that begins with ssh://"));
        }
        (Some(DaemonEndpoint::Ssh { .. }), Some(ssh)) => validate_ssh(ssh, errors),
        (_, None) | (None, Some(_)) => {}
    }
    if let Some(DaemonEndpoint::Tcp { host, .. } | DaemonEndpoint::Ssh { host, .. }) = endpoint
        && spec.address.is_empty()
        && host.parse::<IpAddr>().is_err()
    {
        let why = "the IP address on which host ports are published, as the endpoint names a host";
        errors.push(FieldError::required("spec.address", why));
    }
    if !spec.address.is_empty() && spec.address.parse::<IpAddr>().is_err() {
        errors.push(FieldError::invalid(
            "spec.address",
            quoted(&spec.address),
            "must be an IP address, without brackets",
        ));
    }
}

fn validate_tls(tls: Option<&HostTls>, errors: &mut FieldErrors) {
    let given = |t: &&HostTls| t.insecure_plaintext || !t.directory.is_empty() || !t.secret.is_empty();
    let Some(HostTls { directory, secret, insecure_plaintext }) = tls.filter(given) else {
        let why = "a tcp endpoint needs mutual TLS: one of tls.directory and tls.secret";
        return errors.push(FieldError::required("spec.tls", why));
    };
    if *insecure_plaintext && !(directory.is_empty() && secret.is_empty()) {
        let why = "there is no TLS to have credentials for, or there is no plaintext";
        errors.push(FieldError::forbidden("spec.tls.insecurePlaintext", why));
    }
    match (directory.is_empty(), secret.is_empty()) {
        (false, false) => {
            errors.push(FieldError::forbidden("spec.tls.secret", "only one of directory and secret may be set"));
        }
        (false, true) if !directory.starts_with('/') => {
            errors.push(FieldError::invalid("spec.tls.directory", quoted(directory), "must be an absolute path"));
        }
        (true, false) => validate_secret_name("spec.tls.secret", secret, errors),
        (false, true) | (true, true) => {}
    }
}

fn validate_ssh(ssh: &HostSsh, errors: &mut FieldErrors) {
    let HostSsh { secret, identity_file, known_hosts } = ssh;
    let files = [("spec.ssh.identityFile", identity_file), ("spec.ssh.knownHosts", known_hosts)];
    let given = files.into_iter().filter(|(_, path)| !path.is_empty());
    if !secret.is_empty() {
        validate_secret_name("spec.ssh.secret", secret, errors);
        for (field, _) in given {
            errors.push(FieldError::forbidden(field, "a Secret holds the key and the known hosts, too"));
        }
        return;
    }
    for (field, path) in given {
        // ssh splits such an option at blanks and fills in what '%', '$' and '~' stand for.
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-' | b'+' | b'@' | b':');
        if !path.starts_with('/') || !path.bytes().all(plain) {
            let why = "must be an absolute path of letters, digits and / . _ - + @ :";
            errors.push(FieldError::invalid(field, quoted(path), why));
        }
    }
}

fn validate_secret_name(field: &str, name: &str, errors: &mut FieldErrors) {
    if !is_subdomain(name) {
        errors.push(FieldError::invalid(field, quoted(name), "must be the name of a Secret"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DockerHost, validate_docker_host};

    fn host(endpoint: &str, address: &str) -> DockerHost {
        let tls = endpoint.starts_with("tcp://").then(|| HostTls { directory: "/certs".into(), ..Default::default() });
        let spec = DockerHostSpec { endpoint: endpoint.into(), address: address.into(), tls, ..Default::default() };
        DockerHost { spec, ..Default::default() }
    }

    #[test]
    fn an_endpoint_is_a_socket_or_a_host_with_a_port() {
        let ssh = |user, host, port| Ok(DaemonEndpoint::Ssh { user, host, port });
        let tcp = |host, port| Ok(DaemonEndpoint::Tcp { host, port });
        for (text, read) in [
            ("unix:///run/docker.sock", Ok(DaemonEndpoint::Unix("/run/docker.sock"))),
            ("tcp://10.0.0.3:2376", tcp("10.0.0.3", 2376)),
            ("tcp://[fd00::3]:2376", tcp("fd00::3", 2376)),
            ("tcp://Worker-1.example.com:1", tcp("Worker-1.example.com", 1)),
            ("ssh://worker-1", ssh(None, "worker-1", None)),
            ("ssh://deploy@10.0.0.3", ssh(Some("deploy"), "10.0.0.3", None)),
            ("ssh://_a.b-c@10.0.0.3:2222", ssh(Some("_a.b-c"), "10.0.0.3", Some(2222))),
            ("ssh://root@[fd00::3]", ssh(Some("root"), "fd00::3", None)),
            ("ssh://[fd00::3]:22", ssh(None, "fd00::3", Some(22))),
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
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://-l@a",
            "ssh://@a",
            "ssh://a b@c",
            "ssh://u:p@a",
            "ssh://u@u@a",
            "ssh://u@-a",
            "ssh://u@a:0",
            "ssh://u@a:",
            "ssh://u@a/run/docker.sock",
            "ssh://u@a?x",
            "ssh://u%20@a",
            "ssh://fd00::3",
            "ssh://u@a\n",
            "ssh://u@$(x)",
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
            ("ssh://root@10.0.0.3", "", "10.0.0.3"),
            ("ssh://worker-1", "10.0.0.4", "10.0.0.4"),
        ] {
            let host = host(endpoint, address);
            assert_eq!((validate_docker_host(&host), host.spec.reach_address().as_str()), (vec![], reached));
        }
        for (endpoint, address) in [
            ("tcp://worker-1.example.com:2376", ""),
            ("ssh://root@worker-1", ""),
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

    #[test]
    fn credentials_come_from_one_place_and_are_of_the_endpoints_sort() {
        let told = |endpoint: &str, more: serde_json::Value| {
            let mut host = host(endpoint, "10.0.0.3");
            host.spec.tls = serde_json::from_value(more["tls"].clone()).expect("tls");
            host.spec.ssh = serde_json::from_value(more["ssh"].clone()).expect("ssh");
            validate_docker_host(&host).iter().map(|e| e.field.clone()).collect::<Vec<_>>()
        };
        use serde_json::json;
        let (unix, tcp, ssh) = ("unix:///run/docker.sock", "tcp://10.0.0.3:2376", "ssh://root@10.0.0.3");
        for (endpoint, more, fields) in [
            (tcp, json!({"tls": {"secret": "w1-tls"}}), vec![]),
            (tcp, json!({"tls": {"directory": "/certs"}}), vec![]),
            (ssh, json!({}), vec![]),
            (ssh, json!({"ssh": {}}), vec![]),
            (ssh, json!({"ssh": {"secret": "w1-ssh"}}), vec![]),
            (ssh, json!({"ssh": {"identityFile": "/etc/portreeve/id", "knownHosts": "/etc/portreeve/known"}}), vec![]),
            (tcp, json!({}), vec!["spec.tls"]),
            (tcp, json!({"tls": {}}), vec!["spec.tls"]),
            (tcp, json!({"tls": {"secret": "a", "directory": "/certs"}}), vec!["spec.tls.secret"]),
            (tcp, json!({"tls": {"directory": "certs"}}), vec!["spec.tls.directory"]),
            (tcp, json!({"tls": {"secret": "A b"}}), vec!["spec.tls.secret"]),
            (tcp, json!({"tls": {"secret": "a"}, "ssh": {}}), vec!["spec.ssh"]),
            (unix, json!({"tls": {"secret": "a"}, "ssh": {}}), vec!["spec.tls", "spec.ssh"]),
            (ssh, json!({"tls": {"secret": "a"}}), vec!["spec.tls"]),
            (ssh, json!({"ssh": {"secret": "a", "knownHosts": "/x"}}), vec!["spec.ssh.knownHosts"]),
            (ssh, json!({"ssh": {"secret": "../a"}}), vec!["spec.ssh.secret"]),
            (ssh, json!({"ssh": {"identityFile": "id"}}), vec!["spec.ssh.identityFile"]),
            (
                ssh,
                json!({"ssh": {"identityFile": "/a %h", "knownHosts": "/a b"}}),
                vec!["spec.ssh.identityFile", "spec.ssh.knownHosts"],
            ),
        ] {
            assert_eq!(told(endpoint, more.clone()), fields, "{endpoint} {more}");
        }
    }

    #[test]
    fn a_tcp_endpoint_is_without_tls_only_where_that_is_said() {
        let errors = |tls: HostTls| {
            let mut host = host("tcp://10.0.0.3:2375", "");
            host.spec.tls = Some(tls);
            validate_docker_host(&host).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(errors(HostTls { insecure_plaintext: true, ..HostTls::default() }), [""; 0]);
        assert!(errors(HostTls::default())[0].starts_with("spec.tls: Required value"));
        let both = HostTls { insecure_plaintext: true, directory: "/certs".into(), ..HostTls::default() };
        assert!(errors(both)[0].starts_with("spec.tls.insecurePlaintext: Forbidden"));
    }
}
