//! Opens TLS connections to the one server of a kubeconfig, trusting only its authorities.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection as Pooled};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::{Error, Result};
use super::kubeconfig::Connection;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{}", plain(.0))]
    Tcp(io::Error),
    #[error("TLS: {0}")]
    Tls(io::Error),
    #[error("no answer within {}s", CONNECT_TIMEOUT.as_secs())]
    TimedOut,
}

/// Without the "(os error 111)" that means nothing to a reader.
fn plain(e: &io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// Connects to one server; cheap to clone.
#[derive(Clone)]
pub struct Connector {
    /// `host:port` to dial.
    address: Arc<str>,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Connector {
    pub fn new(connection: &Connection) -> Result<Connector> {
        let bad = |why: String| Error::failed(format!("the server {}: {why}", connection.server));
        let uri: Uri = connection.server.parse().map_err(|e| bad(format!("{e}")))?;
        let host = uri.host().ok_or_else(|| bad("no host name".into()))?;
        let address = format!("{host}:{}", uri.port_u16().unwrap_or(443));
        let bare = host.trim_matches(['[', ']']);
        let name = connection.server_name.as_deref().unwrap_or(bare).to_owned();
        let name = ServerName::try_from(name).map_err(|e| bad(e.to_string()))?;

        let mut roots = RootCertStore::empty();
        for authority in &connection.authorities {
            roots.add(authority.clone()).map_err(|e| bad(format!("certificate-authority: {e}")))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| bad(e.to_string()))?
            .with_root_certificates(roots);
        let mut config = match &connection.identity {
            Some(id) => config
                .with_client_auth_cert(id.chain.clone(), id.key.clone_key())
                .map_err(|e| bad(format!("client-certificate and client-key: {e}")))?,
            None => config.with_no_client_auth(),
        };
        // exec upgrades to WebSocket, which HTTP/2 here does not offer
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Connector { address: address.into(), name, tls: TlsConnector::from(Arc::new(config)) })
    }

    pub async fn connect(&self) -> std::result::Result<TlsStream<TcpStream>, ConnectError> {
        let connecting = async {
            let tcp = TcpStream::connect(&*self.address).await.map_err(ConnectError::Tcp)?;
            tcp.set_nodelay(true).map_err(ConnectError::Tcp)?;
            self.tls.connect(self.name.clone(), tcp).await.map_err(ConnectError::Tls)
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or(Err(ConnectError::TimedOut))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = PooledStream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<PooledStream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    /// Every request of a client goes to its one server, so the URI is not looked at.
    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { Ok(PooledStream(TokioIo::new(connector.connect().await?))) })
    }
}

/// A TLS stream as hyper-util's pool wants it.
pub struct PooledStream(TokioIo<TlsStream<TcpStream>>);

impl Pooled for PooledStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for PooledStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for PooledStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
