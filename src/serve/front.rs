//! Where visitors come in, by the flags.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::sockets::Sockets;
use crate::cli::front::{AcmeChallenge, FrontArgs, ProxyHeader};
use crate::proxy::{CertificateFiles, Certificates, Challenges, Entrance, Front, ToldBy, Trusted};

pub fn of(args: &FrontArgs) -> Front {
    let redirect = args.proxy_tls_listen.filter(|_| args.https_redirect).map(|address| address.port());
    Front {
        trusted: Trusted::new(args.trusted_proxy.clone()),
        told_by: match args.trusted_proxy_header {
            ProxyHeader::XForwarded => ToldBy::XForwarded,
            ProxyHeader::Forwarded => ToldBy::Forwarded,
        },
        proxy_protocol: args.proxy_protocol,
        redirect,
        paths: args.proxy_paths,
    }
}

/// What stands at the entrances.
pub struct Entrances {
    /// The plain one, and the one with TLS where there is to be one.
    pub open: Vec<Entrance>,
    /// The operator's certificates.
    pub files: Option<CertificateFiles>,
    /// What those with TLS are shown, and by whom an ACME server is answered.
    pub shown: Arc<Certificates>,
    pub challenges: Arc<Challenges>,
}

pub async fn entrances(args: &FrontArgs, plain: TcpListener, sockets: &mut Sockets) -> anyhow::Result<Entrances> {
    let challenges = Arc::<Challenges>::default();
    let by_tls = args.acme.acme && args.acme.acme_challenge == AcmeChallenge::TlsAlpn01;
    let shown = Certificates::answering(by_tls.then(|| challenges.clone()));
    let mut entrances = Entrances { open: vec![Entrance::from(plain)], files: None, shown, challenges };
    let Some(address) = args.proxy_tls_listen else { return Ok(entrances) };
    if let Some(directory) = &args.proxy_certs {
        let files = CertificateFiles::open(directory, entrances.shown.clone())
            .context("the proxy's certificates; --proxy-certs names others")?;
        entrances.files = Some(files);
    }
    let listener = sockets.listen("proxy-tls", address).await?;
    entrances.open.push(Entrance { listener, certificates: Some(entrances.shown.clone()) });
    Ok(entrances)
}
