//! A small HTTPS client for one server: a connection for each request, nothing hidden.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::api_server::PATIENCE;

/// The API path of instances in the default namespace.
pub const INSTANCES: &str = "/apis/portreeve.dev/v1/namespaces/default/instances";

#[derive(Clone)]
pub struct Client {
    pub address: String,
    pub token: Option<String>,
    ca: CertificateDer<'static>,
    identity: (Vec<u8>, Vec<u8>),
    /// Whether to show the client certificate.
    pub certificate: bool,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("no JSON: {e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The body, of an answer with this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self.json()
    }

    pub fn warnings(&self) -> Vec<&str> {
        self.headers.get_all(header::WARNING).iter().map(|w| w.to_str().expect("text")).collect()
    }
}

impl Client {
    /// The administrator, with the token only.
    pub fn from_kubeconfig(path: &Path) -> Client {
        let text = std::fs::read_to_string(path).expect("the kubeconfig");
        let config: Value = serde_json::from_str(&text).expect("JSON");
        let at = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).expect("a text").to_owned();
        let pem = |pointer: &str| STANDARD.decode(at(pointer)).expect("base64");
        let ca = pem("/clusters/0/cluster/certificate-authority-data");
        Client {
            address: at("/clusters/0/cluster/server").trim_start_matches("https://").to_owned(),
            token: Some(at("/users/0/user/token")),
            ca: CertificateDer::from_pem_slice(&ca).expect("a certificate"),
            identity: (pem("/users/0/user/client-certificate-data"), pem("/users/0/user/client-key-data")),
            certificate: false,
        }
    }

    /// A connection with TLS.
    pub async fn connect(&self) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        self.connect_with(&[]).await
    }

    /// A connection with TLS that offers these protocols.
    pub async fn connect_with(
        &self,
        protocols: &[&[u8]],
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.clone()).expect("a root");
        let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
        let mut config = if self.certificate {
            let chain = vec![CertificateDer::from_pem_slice(&self.identity.0).expect("a certificate")];
            let key = PrivateKeyDer::from_pem_slice(&self.identity.1).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("an identity")
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        let stream = TcpStream::connect(&self.address).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// A connection over HTTP/2, which lasts as long as its requests and their answers.
    pub async fn http2(&self) -> Http2 {
        let io = TokioIo::new(self.connect_with(&[b"h2"]).await.expect("a TLS connection"));
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
        tokio::spawn(connection);
        sender
    }

    /// A GET with the token, for a connection over HTTP/2.
    pub fn request_over_http2(&self, path: &str) -> Request<Full<Bytes>> {
        let token = self.token.as_deref().expect("a token");
        Request::get(format!("https://{}{path}", self.address))
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .body(Full::default())
            .expect("a request")
    }

    /// Sends one request and returns the answer with its body unread.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> http::Response<Incoming> {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.address);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        let sent = async {
            let stream = self.connect().await.expect("a TLS connection");
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
            tokio::spawn(connection);
            sender.send_request(request).await.expect("an answer")
        };
        tokio::time::timeout(PATIENCE, sent).await.expect("an answer in time")
    }

    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let (head, body) = self.open(method, path, headers, body).await.into_parts();
        let bytes = tokio::time::timeout(PATIENCE, body.collect()).await.expect("a body in time").expect("a body");
        Answer { status: head.status, headers: head.headers, bytes: bytes.to_bytes() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], body.to_string()).await
    }

    /// Without a Content-Type, as `kubectl scale` does.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, &[], body.to_string()).await
    }

    pub async fn merge(&self, path: &str, patch: &Value) -> Answer {
        self.send(Method::PATCH, path, &[("content-type", "application/merge-patch+json")], patch.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], "").await
    }

    /// Opens a watch.
    pub async fn watch(&self, path: &str) -> Lines {
        self.watch_as(path, &[]).await
    }

    pub async fn watch_as(&self, path: &str, headers: &[(&str, &str)]) -> Lines {
        let response = self.open(Method::GET, path, headers, "").await;
        assert_eq!(response.status(), 200, "{path}");
        Lines { body: response.into_body(), buffer: vec![] }
    }
}

/// The events of a watch.
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next event; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Value> {
        self.next_within(PATIENCE).await
    }

    pub async fn next_within(&mut self, patience: Duration) -> Option<Value> {
        let next = async {
            loop {
                if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = self.buffer.drain(..=end).collect();
                    return Some(serde_json::from_slice(&line).expect("a JSON line"));
                }
                let frame = self.body.frame().await?.expect("an unbroken stream");
                self.buffer.extend_from_slice(frame.data_ref().expect("data"));
            }
        };
        tokio::time::timeout(patience, next).await.expect("an event in time")
    }

    /// The type and the name of the next event's object.
    pub async fn told(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/type"), text("/object/metadata/name"))
    }
}

pub type Http2 = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

/// Reads what is left of a body: whether it ended in order.
pub async fn ends_well(mut body: Incoming) -> bool {
    let read = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the stream ends in time")
}
