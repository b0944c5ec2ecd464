//! Where visitors come in, by the flags.

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::sockets::Sockets;
use crate::cli::front::{FrontArgs, ProxyHeader};
use crate::proxy::{CertificateFiles, Entrance, Front, ToldBy, Trusted};

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

/// The plain entrance, and the one with TLS where there is to be one, with the files of its certificates.
pub async fn entrances(
    args: &FrontArgs,
    plain: TcpListener,
    sockets: &mut Sockets,
) -> anyhow::Result<(Vec<Entrance>, Option<CertificateFiles>)> {
    let mut entrances = vec![Entrance::from(plain)];
    let Some((address, directory)) = args.proxy_tls_listen.zip(args.proxy_certs.as_deref()) else {
        return Ok((entrances, None));
    };
    let files = CertificateFiles::open(directory).context("the proxy's certificates; --proxy-certs names others")?;
    let listener = sockets.listen("proxy-tls", address).await?;
    entrances.push(Entrance { listener, certificates: Some(files.shown()) });
    Ok((entrances, Some(files)))
}
