//! The arguments of `portreeve serve` about how visitors reach the proxy.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

/// Let's Encrypt's.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

#[derive(Args, Clone, Debug)]
pub struct FrontArgs {
    /// Where the proxy listens for HTTPS, HTTP/2 included
    #[arg(long, env = "PORTREEVE_PROXY_TLS_LISTEN", value_name = "ADDRESS:PORT", requires = "certificates")]
    pub proxy_tls_listen: Option<SocketAddr>,

    /// The proxy's certificates: NAME.crt with NAME.key, or directories with fullchain.pem and privkey.pem (certbot's live);
    /// chosen by the names in them, read again on SIGHUP and when they change
    #[arg(
        long,
        env = "PORTREEVE_PROXY_CERTS",
        value_name = "DIR",
        requires = "proxy_tls_listen",
        group = "certificates"
    )]
    pub proxy_certs: Option<PathBuf>,

    #[command(flatten)]
    pub acme: AcmeArgs,

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
    #[arg(long, env = "PORTREEVE_TRUSTED_PROXY_HEADER", value_enum, default_value_t, requires = "trusted_proxy")]
    pub trusted_proxy_header: ProxyHeader,

    /// Every connection to the proxy begins with a PROXY header (version 1 or 2) of a trusted proxy; others are refused
    #[arg(long, env = "PORTREEVE_PROXY_PROTOCOL", requires = "trusted_proxy")]
    pub proxy_protocol: bool,
}

/// Certificates from an ACME server.
#[derive(Args, Clone, Debug)]
pub struct AcmeArgs {
    /// Order certificates by ACME (RFC 8555), as Let's Encrypt gives them, for the host names of instances that no certificate
    /// in --proxy-certs is for; kept in the data directory and renewed
    #[arg(long, env = "PORTREEVE_ACME", requires_all = ["proxy_tls_listen", "acme_agree_tos"], group = "certificates")]
    pub acme: bool,

    /// You agree to the terms of service of the ACME server's owner
    #[arg(long, env = "PORTREEVE_ACME_AGREE_TOS", requires = "acme")]
    pub acme_agree_tos: bool,

    /// The ACME server: its directory
    #[arg(long, env = "PORTREEVE_ACME_SERVER", value_name = "URL", requires = "acme", default_value = LETS_ENCRYPT, value_parser = parse_https)]
    pub acme_server: String,

    /// An e-mail address at which the ACME server's owner reaches you
    #[arg(long, env = "PORTREEVE_ACME_EMAIL", value_name = "ADDRESS", requires = "acme", value_parser = parse_email)]
    pub acme_email: Option<String>,

    /// How the ACME server looks whether a name leads here: http-01 at port 80 of the name, which is to lead to --proxy-listen;
    /// tls-alpn-01 at port 443, to --proxy-tls-listen
    #[arg(long, env = "PORTREEVE_ACME_CHALLENGE", value_enum, default_value_t)]
    pub acme_challenge: AcmeChallenge,

    /// What to trust instead of the system's authorities when the ACME server is asked, PEM: for one of your own
    #[arg(long, env = "PORTREEVE_ACME_CA", value_name = "FILE", requires = "acme")]
    pub acme_ca: Option<PathBuf>,

    /// The id of the key that binds the account to yours with the ACME server's owner (ZeroSSL and others want it)
    #[arg(long, env = "PORTREEVE_ACME_EAB_KEY_ID", value_name = "ID", requires_all = ["acme", "acme_eab_key_file"])]
    pub acme_eab_key_id: Option<String>,

    /// A file with that key, base64url as it was given to you
    #[arg(long, env = "PORTREEVE_ACME_EAB_KEY_FILE", value_name = "FILE", requires = "acme_eab_key_id")]
    pub acme_eab_key_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AcmeChallenge {
    /// By HTTP (RFC 8555, 8.3)
    #[default]
    #[value(name = "http-01")]
    Http01,
    /// By TLS (RFC 8737)
    #[value(name = "tls-alpn-01")]
    TlsAlpn01,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProxyHeader {
    /// X-Forwarded-For, -Proto, -Host and -Port
    #[default]
    XForwarded,
    /// Forwarded (RFC 7239)
    Forwarded,
}

fn parse_https(text: &str) -> Result<String, String> {
    let uri: Option<http::Uri> = text.parse().ok();
    let https = uri.is_some_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some_and(|h| !h.is_empty()));
    if https { Ok(text.to_owned()) } else { Err("must be an https URL".into()) }
}

fn parse_email(text: &str) -> Result<String, String> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ',' | '?' | '%' | ':');
    match text.split_once('@') {
        Some((user, host)) if !user.is_empty() && host.contains('.') && !text.contains(bad) => Ok(text.to_owned()),
        _ => Err("must be an e-mail address such as ops@example.com".into()),
    }
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
            (&["--trusted-proxy-header=forwarded"], "--trusted-proxy <"),
            (&["--proxy-protocol"], "--trusted-proxy"),
            (&["--proxy-tls-listen=0.0.0.0:443"], "--proxy-certs"),
            (&["--proxy-certs=/c"], "--proxy-tls-listen"),
            (&["--proxy-tls-listen=0.0.0.0:443"], "--acme"),
            (&["--acme", "--acme-agree-tos"], "--proxy-tls-listen"),
            (&["--acme", "--proxy-tls-listen=0.0.0.0:443"], "--acme-agree-tos"),
            (&["--acme-email=a@example.com"], "--acme"),
            (&["--acme-server=http://acme.example/dir"], "https URL"),
            (&["--acme-server=https://acme.example/dir"], "--acme"),
            (&["--acme-email=ops"], "ops@example.com"),
            (&["--acme-eab-key-id=1"], "--acme-eab-key-file"),
            (&["--acme-challenge=dns-01"], "possible values"),
            (&["--https-redirect"], "--proxy-tls-listen"),
        ] {
            let error = parse(args).expect_err(args[0]);
            assert!(error.contains(expected), "{args:?}: {error}");
        }
        let all = ["--proxy-tls-listen=0.0.0.0:443", "--proxy-certs=/c", "--https-redirect", "--proxy-protocol"];
        let front = parse(&[&all[..], &["--trusted-proxy=10.0.0.2,fd00::/8"]].concat()).unwrap();
        assert_eq!(front.trusted_proxy.len(), 2);
        assert_eq!(front.trusted_proxy_header, ProxyHeader::XForwarded);
        assert!(!front.acme.acme);
        let acme = parse(&[all[0], "--acme", "--acme-agree-tos"]).unwrap().acme;
        assert_eq!((acme.acme_server.as_str(), acme.acme_challenge), (LETS_ENCRYPT, AcmeChallenge::Http01));
    }
}
