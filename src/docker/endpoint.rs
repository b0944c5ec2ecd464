//! Where a daemon listens, read from a DockerHost.

use std::path::PathBuf;

use crate::model::{DaemonEndpoint, DockerHostSpec};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Unix(PathBuf),
    /// With mutual TLS, unless somebody has said that there is none: whoever reaches such a daemon owns its machine.
    Tcp {
        /// Without brackets.
        host: String,
        port: u16,
        tls: Option<TlsFrom>,
    },
    Ssh(SshTo),
}

/// Where the credentials of mutual TLS are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsFrom {
    /// Of this machine.
    Directory(String),
    /// By its name.
    Secret(String),
}

/// Where to log in, and with what. All of it has passed [`DaemonEndpoint::parse`]: it is given to a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshTo {
    pub user: Option<String>,
    /// Without brackets.
    pub host: String,
    pub port: Option<u16>,
    pub login: SshLogin,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SshLogin {
    /// As the settings of this process's user say, but for what is named here.
    Files { identity: Option<String>, known_hosts: Option<String> },
    /// A Secret by its name, and nothing else.
    Secret(String),
}

impl Endpoint {
    /// The error says what is wrong with which field.
    pub fn of(spec: &DockerHostSpec) -> Result<Endpoint, String> {
        match DaemonEndpoint::parse(&spec.endpoint) {
            Ok(DaemonEndpoint::Unix(path)) => Ok(Endpoint::Unix(path.into())),
            Ok(DaemonEndpoint::Tcp { host, port }) => {
                let tls = match spec.tls.as_ref() {
                    Some(tls) if !tls.secret.is_empty() => Some(TlsFrom::Secret(tls.secret.clone())),
                    Some(tls) if !tls.directory.is_empty() => Some(TlsFrom::Directory(tls.directory.clone())),
                    Some(tls) if tls.is_plaintext() => None,
                    _ => {
                        let why = "a tcp endpoint needs tls.directory or tls.secret";
                        return Err(format!("endpoint {:?}: {why}", spec.endpoint));
                    }
                };
                Ok(Endpoint::Tcp { host: host.to_owned(), port, tls })
            }
            Ok(DaemonEndpoint::Ssh { user, host, port }) => {
                let ssh = spec.ssh.clone().unwrap_or_default();
                let given = |path: String| Some(path).filter(|path| !path.is_empty());
                let login = if ssh.secret.is_empty() {
                    SshLogin::Files { identity: given(ssh.identity_file), known_hosts: given(ssh.known_hosts) }
                } else {
                    SshLogin::Secret(ssh.secret)
                };
                Ok(Endpoint::Ssh(SshTo { user: user.map(str::to_owned), host: host.to_owned(), port, login }))
            }
            Err(why) => Err(format!("endpoint {:?}: {why}", spec.endpoint)),
        }
    }

    /// For the Host header.
    pub fn authority(&self) -> String {
        match self {
            Endpoint::Unix(_) | Endpoint::Ssh(_) => "docker".to_owned(),
            Endpoint::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Endpoint::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HostSsh, HostTls};

    fn endpoint(text: &str, tls: bool) -> Result<Endpoint, String> {
        let tls = tls.then(|| HostTls { directory: "/certs".into(), ..Default::default() });
        Endpoint::of(&DockerHostSpec { endpoint: text.into(), tls, ..Default::default() })
    }

    #[test]
    fn endpoints_are_sockets_or_addresses_with_tls() {
        assert_eq!(endpoint("unix:///run/docker.sock", false), Ok(Endpoint::Unix("/run/docker.sock".into())));
        for (text, authority) in [("tcp://10.0.0.3:2376", "10.0.0.3:2376"), ("tcp://[fd00::3]:2376", "[fd00::3]:2376")]
        {
            assert_eq!(endpoint(text, true).unwrap().authority(), authority);
            assert!(endpoint(text, false).unwrap_err().contains("tls.directory or tls.secret"));
        }
        for bad in ["", "unix://run", "tcp://", "tcp://a", "tcp://:1", "tcp://a:0", "tcp://a:70000", "http://a:1"] {
            assert!(endpoint(bad, true).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_or_files_open_the_way() {
        let spec = |tls: &str, ssh: &str, endpoint: &str| DockerHostSpec {
            endpoint: endpoint.into(),
            tls: Some(HostTls { secret: tls.into(), ..Default::default() }),
            ssh: Some(HostSsh { secret: ssh.into(), known_hosts: "/known".into(), ..Default::default() }),
            ..Default::default()
        };
        let made = Endpoint::of(&spec("w1", "", "tcp://10.0.0.3:2376"));
        assert!(matches!(made, Ok(Endpoint::Tcp { tls: Some(TlsFrom::Secret(name)), .. }) if name == "w1"));
        let both = HostTls { secret: "w1".into(), insecure_plaintext: true, ..Default::default() };
        let both = DockerHostSpec { endpoint: "tcp://10.0.0.3:2376".into(), tls: Some(both), ..Default::default() };
        assert!(matches!(Endpoint::of(&both), Ok(Endpoint::Tcp { tls: Some(_), .. })), "in doubt with TLS");
        let login = |ssh: &str| match Endpoint::of(&spec("", ssh, "ssh://root@10.0.0.3:222")) {
            Ok(Endpoint::Ssh(to)) => {
                assert_eq!((to.user.as_deref(), to.host.as_str(), to.port), (Some("root"), "10.0.0.3", Some(222)));
                to.login
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(login(""), SshLogin::Files { identity: None, known_hosts: Some("/known".into()) });
        assert_eq!(login("w1-ssh"), SshLogin::Secret("w1-ssh".into()));
    }
}
