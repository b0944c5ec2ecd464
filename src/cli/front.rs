//! The arguments of `portreeve serve` about how visitors reach the proxy.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

#[derive(Args, Clone, Debug)]
pub struct FrontArgs {
    /// Where the proxy listens for HTTPS, HTTP/2 included
    #[arg(long, env = "PORTREEVE_PROXY_TLS_LISTEN", value_name = "ADDRESS:PORT", requires = "proxy_certs")]
    pub proxy_tls_listen: Option<SocketAddr>,

    /// The proxy's certificates: NAME.crt with NAME.key, or directories with fullchain.pem and privkey.pem (certbot's live);
    /// chosen by the names in them, read again on SIGHUP and when they change
    #[arg(long, env = "PORTREEVE_PROXY_CERTS", value_name = "DIR", requires = "proxy_tls_listen")]
    pub proxy_certs: Option<PathBuf>,

    /// Send visitors who come by HTTP to HTTPS
    #[arg(long, env = "PORTREEVE_HTTPS_REDIRECT", requires = "proxy_tls_listen")]
    pub https_redirect: bool,

    /// Serve instances at DOMAIN/proxy/NAME/ too, where no wildcard of DNS can be had. All of them are then one origin to
    /// browsers: an app can read what another keeps there
    #[arg(long, env = "PORTREEVE_PROXY_PATHS")]
    pub proxy_paths: bool,

    /// Proxies before ours (Traefik, a tunnel) whose word on their visitors is believed: addresses or networks
    #[arg(long, env = "PORTREEVE_TRUSTED_PROXIES", value_name = "IP|CIDR", value_delimiter = ',', value_parser = parse_network)]
    pub trusted_proxy: Vec<IpNet>,

    /// The fields in which trusted proxies name their visitors; the others are not believed
    #[arg(long, env = "PORTREEVE_TRUSTED_PROXY_HEADER", value_enum, default_value_t)]
    pub trusted_proxy_header: ProxyHeader,

    /// Every connection to the proxy begins with a PROXY header (version 1 or 2) of a trusted proxy; others are refused
    #[arg(long, env = "PORTREEVE_PROXY_PROTOCOL", requires = "trusted_proxy")]
    pub proxy_protocol: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProxyHeader {
    /// X-Forwarded-For, -Proto, -Host and -Port
    #[default]
    XForwarded,
    /// Forwarded (RFC 7239)
    Forwarded,
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map(|network| network.trunc()).map_err(|_| "must be an address or a network such as 10.0.0.0/8".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        front: FrontArgs,
    }

    fn parse(args: &[&str]) -> Result<FrontArgs, String> {
        let args = std::iter::once("serve").chain(args.iter().copied());
        Alone::try_parse_from(args).map(|alone| alone.front).map_err(|e| e.to_string())
    }

    #[test]
    fn what_belongs_together_is_asked_for_together() {
        for (args, expected) in [
            (&["--trusted-proxy=10.0.0.0/33"][..], "such as 10.0.0.0/8"),
            (&["--trusted-proxy=traefik"], "such as 10.0.0.0/8"),
            (&["--trusted-proxy-header=via"], "possible values"),
            (&["--proxy-protocol"], "--trusted-proxy"),
            (&["--proxy-tls-listen=0.0.0.0:443"], "--proxy-certs"),
            (&["--proxy-certs=/c"], "--proxy-tls-listen"),
            (&["--https-redirect"], "--proxy-tls-listen"),
        ] {
            let error = parse(args).expect_err(args[0]);
            assert!(error.contains(expected), "{args:?}: {error}");
        }
        let all = ["--proxy-tls-listen=0.0.0.0:443", "--proxy-certs=/c", "--https-redirect", "--proxy-protocol"];
        let front = parse(&[&all[..], &["--trusted-proxy=10.0.0.2,fd00::/8"]].concat()).unwrap();
        assert_eq!(front.trusted_proxy.len(), 2);
        assert_eq!(front.trusted_proxy_header, ProxyHeader::XForwarded);
    }
}
