//! The arguments of `portreeve serve`. Only read here: the wiring is [`crate::serve`]'s.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::front::FrontArgs;
use crate::model::{DockerHost, DockerHostSpec, validate_docker_host};

/// Run the control plane: API, controllers and proxy.
///
/// The first start makes a certificate authority, a serving certificate and an admin credential in the data directory,
/// and writes <DATA_DIR>/admin.kubeconfig for this command line and kubectl. SIGTERM and SIGINT drain and stop;
/// SIGHUP reads the certificates again and opens the audit log anew.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  # this machine's Docker, state in the default directory
  portreeve serve

  # instances at https://NAME.example.com behind a TLS-terminating proxy, which tells apps who their visitors are
  portreeve serve --domain example.com --proxy-listen 10.0.0.1:7080 --proxy-url 'https://{host}' --trusted-proxy 10.0.0.2

  # instances at https://NAME.example.com by ourselves, with certificates that certbot keeps
  portreeve serve --domain example.com --proxy-listen 0.0.0.0:80 --proxy-tls-listen 0.0.0.0:443 --proxy-certs /etc/letsencrypt/live --https-redirect

  # the same with certificates from Let's Encrypt, one for each host name
  portreeve serve --domain example.com --proxy-listen 0.0.0.0:80 --proxy-tls-listen 0.0.0.0:443 --acme --acme-agree-tos --https-redirect

  # a certificate of one's own for the API, and a record of who did what
  portreeve serve --api-listen 0.0.0.0:7443 --tls-cert api.pem --tls-key api.key --audit-log /var/log/portreeve.audit

  # no local Docker: hosts are added with `portreeve apply -f dockerhost.yaml`
  portreeve serve --docker none")]
pub struct ServeArgs {
    /// Where state, keys and certificates are kept
    #[arg(long, env = "PORTREEVE_DATA_DIR", value_name = "DIR", default_value_os_t = default_data_dir())]
    pub data_dir: PathBuf,

    /// The file with the keys that seal Secrets; never inside the data directory. Made at the first start, unless there
    /// are sealed records already [default: DATA_DIR.seal.key, beside the data directory]
    #[arg(long, env = "PORTREEVE_SEAL_KEY", value_name = "FILE")]
    pub seal_key: Option<PathBuf>,

    /// Where the Kubernetes-style API listens (HTTPS)
    #[arg(long, env = "PORTREEVE_API_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7443")]
    pub api_listen: SocketAddr,

    /// Where the proxy for users' traffic listens (HTTP)
    #[arg(long, env = "PORTREEVE_PROXY_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7080")]
    pub proxy_listen: SocketAddr,

    #[command(flatten)]
    pub front: FrontArgs,

    /// The domain under which instances get their host names: NAME.DOMAIN
    #[arg(long, env = "PORTREEVE_DOMAIN", default_value = "localhost", value_parser = parse_domain)]
    pub domain: String,

    /// The address to show for an instance, where {host} stands for its host name [default: http://{host}:PORT, or https with --proxy-tls-listen]
    #[arg(long, env = "PORTREEVE_PROXY_URL", value_name = "URL", value_parser = parse_proxy_url)]
    pub proxy_url: Option<String>,

    /// This machine's Docker daemon, registered as DockerHost `local`; `none` for no local host
    #[arg(long, env = "PORTREEVE_DOCKER", value_name = "unix:///PATH|none", default_value = "unix:///var/run/docker.sock", value_parser = parse_docker)]
    pub docker: String,

    /// Where the local daemon publishes ports and the proxy reaches them
    #[arg(long, env = "PORTREEVE_DOCKER_ADDRESS", value_name = "IP", default_value = "127.0.0.1")]
    pub docker_address: std::net::IpAddr,

    /// Host ports for instances on the local daemon, inclusive
    #[arg(long, env = "PORTREEVE_PORT_RANGE", value_name = "FIRST-LAST", default_value = "30000-39999", value_parser = parse_port_range)]
    pub port_range: String,

    /// The API's certificate chain, PEM, instead of one that is made; read again on SIGHUP and when it changes
    #[arg(long, env = "PORTREEVE_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The key of --tls-cert, PEM
    #[arg(long, env = "PORTREEVE_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// What clients shall trust, for the kubeconfig [default: the last certificate of --tls-cert]
    #[arg(long, env = "PORTREEVE_TLS_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_ca: Option<PathBuf>,

    /// A file for one JSON line per write and per way into a container; opened anew on SIGHUP
    #[arg(long, env = "PORTREEVE_AUDIT_LOG", value_name = "FILE")]
    pub audit_log: Option<PathBuf>,

    /// Where objects are kept; `memory` forgets everything at exit
    #[arg(long, env = "PORTREEVE_STORE", value_enum, default_value_t = StoreKind::Sled)]
    pub store: StoreKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// On disk, in the data directory
    Sled,
    /// In memory, for trials and tests
    Memory,
}

impl ServeArgs {
    /// The endpoint of the local daemon; `None` when there shall be no local host.
    pub fn local_docker(&self) -> Option<&str> {
        (self.docker != "none").then_some(self.docker.as_str())
    }

    /// The address to show for an instance, in which `{host}` stands for its host name.
    pub fn url_template(&self) -> String {
        let (scheme, port, usual) = match self.front.proxy_tls_listen {
            Some(address) => ("https", address.port(), 443),
            None => ("http", self.proxy_listen.port(), 80),
        };
        match &self.proxy_url {
            Some(template) => template.clone(),
            None if port == usual => format!("{scheme}://{{host}}"),
            None => format!("{scheme}://{{host}}:{port}"),
        }
    }

    /// The kubeconfig of the administrator, which `serve` writes.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.data_dir.join(ADMIN_KUBECONFIG)
    }
}

/// The file name of the administrator's kubeconfig in the data directory.
pub const ADMIN_KUBECONFIG: &str = "admin.kubeconfig";

/// `/var/lib/portreeve` for root, else `~/.local/share/portreeve` (under $XDG_DATA_HOME if set).
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/portreeve");
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    match (absolute("XDG_DATA_HOME"), absolute("HOME")) {
        (Some(data), _) => data.join("portreeve"),
        (None, Some(home)) => home.join(".local/share/portreeve"),
        (None, None) => PathBuf::from("/var/lib/portreeve"),
    }
}

fn parse_domain(text: &str) -> Result<String, String> {
    let lower = text.trim_end_matches('.').to_ascii_lowercase();
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if lower.len() <= 189 && lower.split('.').all(label) {
        Ok(lower)
    } else {
        Err("must be a domain name such as example.com, at most 189 characters".into())
    }
}

fn parse_proxy_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match rest {
        Some(rest) if rest.contains("{host}") => Ok(text.to_owned()),
        Some(_) => Err("must contain {host}, for which the instance's host name is put".into()),
        None => Err("must begin with http:// or https://".into()),
    }
}

fn parse_docker(text: &str) -> Result<String, String> {
    if text == "none" {
        return Ok(text.to_owned());
    }
    if !text.starts_with("unix://") {
        return Err(
            "must be unix:///PATH or none; a remote daemon is added as a DockerHost with `portreeve apply`".into()
        );
    }
    by_the_model(DockerHostSpec { endpoint: text.into(), ..Default::default() }).map(|()| text.to_owned())
}

fn parse_port_range(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("must be FIRST-LAST, such as 30000-39999".into());
    }
    let spec = DockerHostSpec { endpoint: "unix:///x".into(), port_range: text.into(), ..Default::default() };
    by_the_model(spec).map(|()| text.to_owned())
}

/// The model's rule for a field is the rule for the flag that fills it.
fn by_the_model(spec: DockerHostSpec) -> Result<(), String> {
    let host = DockerHost { spec, ..Default::default() };
    validate_docker_host(&host).into_iter().next().map_or(Ok(()), |e| {
        // clap tells the value, as the model's words do.
        let words = e.message.strip_prefix("Invalid value: ").and_then(|rest| rest.split_once("\": "));
        Err(words.map_or(e.message.as_str(), |(_, words)| words).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{FromArgMatches, Parser};

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn parse(args: &[&str]) -> Result<ServeArgs, String> {
        let args = std::iter::once("serve").chain(args.iter().copied());
        let matches =
            <Alone as clap::CommandFactory>::command().try_get_matches_from(args).map_err(|e| e.to_string())?;
        Ok(Alone::from_arg_matches(&matches).unwrap().serve)
    }

    #[test]
    fn the_shown_address_follows_the_listener_unless_given() {
        assert_eq!(parse(&[]).unwrap().url_template(), "http://{host}:7080");
        assert_eq!(parse(&["--proxy-listen=[::]:80"]).unwrap().url_template(), "http://{host}");
        let tls = ["--proxy-certs=/c", "--proxy-tls-listen=[::]:443"];
        assert_eq!(parse(&tls).unwrap().url_template(), "https://{host}");
        assert_eq!(parse(&[tls[0], "--proxy-tls-listen=[::]:8443"]).unwrap().url_template(), "https://{host}:8443");
        assert_eq!(parse(&["--proxy-url=https://{host}/"]).unwrap().url_template(), "https://{host}/");
    }

    #[test]
    fn what_is_wrong_is_told_once() {
        let error = parse(&["--port-range=5-1"]).expect_err("the wrong way round");
        assert!(
            error.starts_with("error: invalid value '5-1' for '--port-range <FIRST-LAST>': must be FIRST-LAST"),
            "{error}"
        );
    }

    #[test]
    fn none_means_no_local_daemon() {
        assert_eq!(parse(&["--docker=none"]).unwrap().local_docker(), None);
        assert_eq!(parse(&[]).unwrap().local_docker(), Some("unix:///var/run/docker.sock"));
    }

    #[test]
    fn bad_values_are_refused_with_what_was_expected() {
        for (flag, expected) in [
            ("--domain=a..b", "domain name"),
            ("--domain=-a", "domain name"),
            ("--proxy-url=https://x", "{host}"),
            ("--proxy-url={host}", "http://"),
            ("--docker=tcp://1.2.3.4:2376", "DockerHost"),
            ("--docker=unix://relative", "absolute path"),
            ("--port-range=9-1", "FIRST-LAST"),
            ("--tls-cert=a.pem", "--tls-key"),
            ("--port-range=", "FIRST-LAST"),
            ("--api-listen=7443", "invalid socket address"),
            ("--store=etcd", "possible values"),
        ] {
            let error = parse(&[flag]).expect_err(flag);
            assert!(error.contains(expected), "{flag}: {error}");
        }
    }

    #[test]
    fn a_domain_is_kept_in_lower_case() {
        assert_eq!(parse(&["--domain=Example.COM."]).unwrap().domain, "example.com");
    }
}
