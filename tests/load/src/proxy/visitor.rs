//! One connection to a proxy, plain or with TLS, over which the same request is made again and again.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Where a proxy is entered.
pub struct Door {
    pub address: SocketAddr,
    pub host: String,
    tls: Option<TlsConnector>,
}

impl Door {
    /// `ca`: the certificate to trust. What is spoken is fixed, so that all proxies do the same work.
    pub fn new(address: SocketAddr, host: &str, ca: Option<&Path>) -> Result<Door> {
        let tls = match ca {
            None => None,
            Some(ca) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(CertificateDer::from_pem_file(ca).context("reading the certificate")?)?;
                let mut provider = default_provider();
                provider.cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
                provider.kx_groups = vec![kx_group::X25519];
                let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider));
                let config = config.with_protocol_versions(&[&rustls::version::TLS13])?;
                let mut config = config.with_root_certificates(roots).with_no_client_auth();
                config.alpn_protocols = vec![b"http/1.1".to_vec()];
                Some(TlsConnector::from(Arc::new(config)))
            }
        };
        Ok(Door { address, host: host.to_owned(), tls })
    }

    pub async fn enter(&self) -> Result<Box<dyn Duplex>> {
        let stream = TcpStream::connect(self.address).await.context("connecting to the proxy")?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone())?;
                Ok(Box::new(tls.connect(name, stream).await.context("the handshake of TLS")?))
            }
        }
    }

    /// For requests of this path, whose answers have so many bytes.
    pub async fn visit(&self, path: &str, bytes: usize) -> Result<Visitor> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\n\r\n", self.host).into_bytes();
        Ok(Visitor { stream: self.enter().await?, buffer: vec![0; 256 << 10], request, bytes })
    }
}

pub struct Visitor {
    stream: Box<dyn Duplex>,
    buffer: Vec<u8>,
    request: Vec<u8>,
    bytes: usize,
}

impl Visitor {
    /// One request and its answer.
    pub async fn exchange(&mut self) -> Result<()> {
        self.stream.write_all(&self.request).await?;
        self.stream.flush().await?;
        let (head, have) = head(&mut self.stream, &mut self.buffer).await?;
        let text = std::str::from_utf8(&self.buffer[..head]).context("a head that is no text")?;
        check(text, self.bytes)?;
        let mut left = (head + self.bytes).checked_sub(have).context("more than was announced")?;
        while left > 0 {
            match self.stream.read(&mut self.buffer).await? {
                0 => bail!("the answer broke off"),
                n => left = left.checked_sub(n).context("more than was announced")?,
            }
        }
        Ok(())
    }
}

/// Reads until a head is there: its length with the empty line, and how much was read.
pub async fn head(stream: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> Result<(usize, usize)> {
    let mut have = 0;
    loop {
        match stream.read(&mut buffer[have..]).await? {
            0 => bail!("the proxy hung up"),
            n => have += n,
        }
        // A head is small; what follows one may be large.
        let window = &buffer[..have.min(4096)];
        if let Some(end) = window.windows(4).position(|w| w == b"\r\n\r\n") {
            return Ok((end + 4, have));
        }
    }
}

fn check(head: &str, bytes: usize) -> Result<()> {
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if !head.starts_with("HTTP/1.1 200") || length != Some(bytes) {
        bail!("not the answer that was asked for: {head}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_answer_counts() {
        assert!(check("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", 7).is_ok());
        assert!(check("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n", 7).is_err());
        assert!(check("HTTP/1.1 200 OK\r\n\r\n", 7).is_err());
        assert!(check("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 7\r\n\r\n", 7).is_err());
    }
}
