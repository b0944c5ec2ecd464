//! Questions of the proxy to other servers, for issuers' keys and the word of authentication services: its [`Fetch`] over
//! HTTP/1.1, with TLS by the roots that the operating system trusts.
//!
//! Goes where administrators said and nowhere else: redirects are not followed, and no proxy of the environment is used.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};

use crate::model::is_askable;
use crate::proxy::Fetch;

const CONNECT: Duration = Duration::from_secs(3);
/// How long a connection is kept for the next question.
const IDLE: Duration = Duration::from_secs(15);
const IDLE_PER_HOST: usize = 16;

pub struct HttpFetch(Client<HttpsConnector<HttpConnector>, Empty<Bytes>>);

impl HttpFetch {
    /// With the roots of the operating system, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`. Without any, every https
    /// server is one that cannot be believed; that is logged.
    pub fn new() -> anyhow::Result<HttpFetch> {
        HttpFetch::trusting(system_roots())
    }

    fn trusting(roots: RootCertStore) -> anyhow::Result<HttpFetch> {
        // That http goes to loopback only is looked at with each question.
        Ok(HttpFetch(client(roots)?))
    }
}

/// The authorities that the operating system trusts. None at all is logged.
pub fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        tracing::warn!(errors = ?found.errors, "this machine trusts no certificate authority: nobody can be asked over https");
    }
    roots
}

/// A client with these roots; where it goes is its user's to look at.
pub fn client<B>(roots: RootCertStore) -> anyhow::Result<Client<HttpsConnector<HttpConnector>, B>>
where
    B: Body + Send,
    B::Data: Send,
{
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_nodelay(true);
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).pool_max_idle_per_host(IDLE_PER_HOST);
    Ok(builder.build(connector))
}

#[async_trait]
impl Fetch for HttpFetch {
    async fn fetch(&self, request: Request<()>, most: usize) -> Result<Response<Bytes>, String> {
        // Admission has looked; a record may have come another way.
        if !is_askable(&request.uri().to_string()) {
            return Err("it is neither https nor a loopback address".to_owned());
        }
        let request = request.map(|()| Empty::new());
        let response = self.0.request(request).await.map_err(chain)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, most).collect().await.map_err(|e| format!("its answer: {e}"))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }
}

/// The library's own words say only that it could not connect.
fn chain(error: hyper_util::client::legacy::Error) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::ServerConfig;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A server with a certificate of its own for 127.0.0.1, which answers so; and roots that trust it.
    async fn server(answer: String) -> (u16, RootCertStore) {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let (acceptor, listener) =
            (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut read = [0; 4096];
                let _ = stream.read(&mut read).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        (port, roots)
    }

    fn ask(url: &str) -> Request<()> {
        Request::get(url).body(()).unwrap()
    }

    #[tokio::test]
    async fn an_answer_comes_over_tls_that_is_believed_and_is_bounded() {
        let (port, roots) = server("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".into()).await;
        let url = format!("https://127.0.0.1:{port}/keys");
        let fetch = HttpFetch::trusting(roots).unwrap();
        let answer = fetch.fetch(ask(&url), 5).await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"hello"[..]));
        let why = fetch.fetch(ask(&url), 4).await.unwrap_err();
        assert!(why.contains("length limit exceeded"), "{why}");
        let stranger = HttpFetch::trusting(RootCertStore::empty()).unwrap();
        let why = stranger.fetch(ask(&url), 5).await.unwrap_err();
        assert!(why.contains("invalid peer certificate"), "{why}");
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_not_followed() {
        let there = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        let (port, roots) = server(there.into()).await;
        let answer = HttpFetch::trusting(roots).unwrap().fetch(ask(&format!("https://127.0.0.1:{port}/")), 5).await;
        assert_eq!(answer.unwrap().status(), 302);
    }

    #[tokio::test]
    async fn only_loopback_is_asked_without_tls() {
        let fetch = HttpFetch::trusting(RootCertStore::empty()).unwrap();
        for url in ["http://192.0.2.1/", "http://localhost/", "http://127.0.0.1.test/"] {
            let why = fetch.fetch(ask(url), 5).await.unwrap_err();
            assert_eq!(why, "it is neither https nor a loopback address", "{url}");
        }
    }
}
