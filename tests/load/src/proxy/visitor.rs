//! One connection to a proxy, plain or with TLS, over which the same requests are made again and again.

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

    /// For these requests, beginning with number `first`.
    pub async fn visit(&self, asked: &Arc<Asked>, first: usize) -> Result<Visitor> {
        let next = first % asked.requests.len();
        Ok(Visitor { stream: self.enter().await?, buffer: vec![0; 256 << 10], asked: asked.clone(), next })
    }
}

/// What is asked for, and how it is answered.
pub struct Asked {
    /// Of each host one.
    requests: Vec<Vec<u8>>,
    status: u16,
    /// `None`: as many as are announced.
    bytes: Option<usize>,
}

impl Asked {
    /// `hosts`: at least one. `bearer`: a token that goes with each request.
    pub fn new(hosts: &[String], path: &str, bearer: Option<&str>, status: u16, bytes: Option<usize>) -> Asked {
        let bearer = bearer.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let of = |host: &String| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n{bearer}\r\n");
        Asked { requests: hosts.iter().map(|host| of(host).into_bytes()).collect(), status, bytes }
    }

    /// The length of the body of an answer with this head.
    fn body_of(&self, head: &str) -> Result<usize> {
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
        match length.filter(|length| status == Some(self.status) && self.bytes.is_none_or(|bytes| bytes == *length)) {
            Some(length) => Ok(length),
            None => bail!("not the answer that was asked for: {head}"),
        }
    }
}

pub struct Visitor {
    stream: Box<dyn Duplex>,
    buffer: Vec<u8>,
    asked: Arc<Asked>,
    next: usize,
}

impl Visitor {
    /// One request and its answer.
    pub async fn exchange(&mut self) -> Result<()> {
        self.stream.write_all(&self.asked.requests[self.next]).await?;
        self.next = (self.next + 1) % self.asked.requests.len();
        self.stream.flush().await?;
        let (head, have) = head(&mut self.stream, &mut self.buffer).await?;
        let text = std::str::from_utf8(&self.buffer[..head]).context("a head that is no text")?;
        let body = self.asked.body_of(text)?;
        let mut left = (head + body).checked_sub(have).context("more than was announced")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_answer_counts() {
        let asked = |status, bytes| Asked::new(&["a.test".into()], "/", None, status, bytes);
        let seven = asked(200, Some(7));
        assert_eq!(seven.body_of("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n").unwrap(), 7);
        assert!(seven.body_of("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n").is_err());
        assert!(seven.body_of("HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(seven.body_of("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 7\r\n\r\n").is_err());
        let nowhere = asked(404, None);
        assert_eq!(nowhere.body_of("HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n").unwrap(), 9);
        assert!(nowhere.body_of("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n").is_err());
    }

    #[test]
    fn each_host_is_asked_with_the_token() {
        let asked = Asked::new(&["a.test".into(), "b.test".into()], "/1k", Some("secret"), 200, None);
        let texts: Vec<_> = asked.requests.iter().map(|request| String::from_utf8(request.clone()).unwrap()).collect();
        assert!(texts[0].starts_with("GET /1k HTTP/1.1\r\nHost: a.test\r\n") && texts[1].contains("Host: b.test\r\n"));
        assert!(texts.iter().all(|text| text.ends_with("\r\nAuthorization: Bearer secret\r\n\r\n")), "{texts:?}");
    }
}
