//! Where a daemon listens, read from a DockerHost.

use std::path::PathBuf;

use crate::model::{DaemonEndpoint, DockerHostSpec};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Unix(PathBuf),
    /// Always with mutual TLS: whoever reaches a daemon without owns its machine.
    Tcp {
        /// Without brackets.
        host: String,
        port: u16,
        tls_directory: String,
    },
}

impl Endpoint {
    /// The error says what is wrong with which field.
    pub fn of(spec: &DockerHostSpec) -> Result<Endpoint, String> {
        let (host, port) = match DaemonEndpoint::parse(&spec.endpoint) {
            Ok(DaemonEndpoint::Unix(path)) => return Ok(Endpoint::Unix(path.into())),
            Ok(DaemonEndpoint::Tcp { host, port }) => (host.to_owned(), port),
            Err(why) => return Err(format!("endpoint {:?}: {why}", spec.endpoint)),
        };
        let Some(tls) = spec.tls.as_ref().filter(|tls| !tls.directory.is_empty()) else {
            return Err(format!("endpoint {:?}: a tcp endpoint needs tls.directory", spec.endpoint));
        };
        Ok(Endpoint::Tcp { host, port, tls_directory: tls.directory.clone() })
    }

    /// For the Host header.
    pub fn authority(&self) -> String {
        match self {
            Endpoint::Unix(_) => "docker".to_owned(),
            Endpoint::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Endpoint::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HostTls;

    fn endpoint(text: &str, tls: bool) -> Result<Endpoint, String> {
        let tls = tls.then(|| HostTls { directory: "/certs".into() });
        Endpoint::of(&DockerHostSpec { endpoint: text.into(), tls, ..Default::default() })
    }

    #[test]
    fn endpoints_are_sockets_or_addresses_with_tls() {
        assert_eq!(endpoint("unix:///run/docker.sock", false), Ok(Endpoint::Unix("/run/docker.sock".into())));
        for (text, authority) in [("tcp://10.0.0.3:2376", "10.0.0.3:2376"), ("tcp://[fd00::3]:2376", "[fd00::3]:2376")]
        {
            assert_eq!(endpoint(text, true).unwrap().authority(), authority);
            assert!(endpoint(text, false).unwrap_err().contains("tls.directory"));
        }
        for bad in ["", "unix://run", "tcp://", "tcp://a", "tcp://:1", "tcp://a:0", "tcp://a:70000", "http://a:1"] {
            assert!(endpoint(bad, true).is_err(), "{bad}");
        }
    }
}
