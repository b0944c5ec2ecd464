//! A client of Portreeve's API: HTTP/1.1 with keep-alive over TLS, with a bearer token, by hand.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Largest head of an answer.
const MOST_HEAD: usize = 16 << 10;

#[derive(Clone)]
pub struct Portreeve {
    address: String,
    tls: Arc<rustls::ClientConfig>,
    /// The administrator's, and then of viewers: one client may only have so many watches open.
    tokens: Vec<String>,
    pub pid: u32,
}

impl Portreeve {
    pub fn new(kubeconfig: &Path, pid: u32) -> Result<Portreeve> {
        let config: Value = serde_json::from_slice(&fs::read(kubeconfig)?).context("reading the kubeconfig")?;
        let at = |pointer: &str| config.pointer(pointer).and_then(Value::as_str).context("an incomplete kubeconfig");
        let ca = STANDARD.decode(at("/clusters/0/cluster/certificate-authority-data")?)?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&ca).context("the certificate authority")?)?;
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let address = at("/clusters/0/cluster/server")?.trim_start_matches("https://").to_owned();
        Ok(Portreeve { address, tls: Arc::new(tls), tokens: vec![at("/users/0/user/token")?.to_owned()], pid })
    }

    /// Makes a namespace, and tokens for so many watches.
    pub async fn prepare(&mut self, namespaces: &[&str], watches: usize) -> Result<()> {
        let mut admin = self.connect().await?;
        for name in namespaces {
            let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).to_string();
            admin.call("POST", "/api/v1/namespaces", body.as_bytes()).await?;
        }
        for number in 0..watches.div_ceil(400) {
            let body = json!({
                "apiVersion": "portreeve.dev/v1", "kind": "AccessToken", "metadata": {"name": format!("viewer-{number}")},
                "spec": {"role": "viewer"},
            });
            let made = admin.call("POST", "/apis/portreeve.dev/v1/accesstokens", body.to_string().as_bytes()).await?;
            let made: Value = serde_json::from_slice(&made)?;
            let token = made.pointer("/status/token").and_then(Value::as_str).context("no token")?;
            self.tokens.push(token.to_owned());
        }
        Ok(())
    }

    pub async fn connect(&self) -> Result<Http> {
        self.connect_as(0, None).await
    }

    /// `receive`: the size of the socket's receive buffer.
    async fn connect_as(&self, token: usize, receive: Option<u32>) -> Result<Http> {
        let socket = TcpSocket::new_v4()?;
        if let Some(size) = receive {
            socket.set_recv_buffer_size(size)?;
        }
        let stream = socket.connect(self.address.parse().context("the server's address")?).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        let head = format!("host: {}\r\nauthorization: Bearer {}\r\n", self.address, self.tokens[token]);
        Ok(Http { stream, buffer: Vec::with_capacity(16 << 10), head })
    }

    /// Watch number `number` of the ConfigMaps of a namespace, from now on.
    pub async fn watch(&self, number: usize, namespace: &str, receive: Option<u32>) -> Result<Http> {
        let mut http = self.connect_as(1 + number / 400, receive).await?;
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        let list: Value = serde_json::from_slice(&http.call("GET", &format!("{path}?limit=1"), b"").await?)?;
        let version = list.pointer("/metadata/resourceVersion").and_then(Value::as_str).context("no version")?;
        http.send("GET", &format!("{path}?watch=1&resourceVersion={version}"), b"").await?;
        let (status, _) = http.read_head().await?;
        if status != 200 {
            bail!("a watch: {status}");
        }
        Ok(http)
    }
}

/// One connection.
pub struct Http {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
    head: String,
}

impl Http {
    async fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Result<()> {
        let head = &self.head;
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\n{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request).await?;
        Ok(self.stream.flush().await?)
    }

    /// The status and the length of the body, if it is told.
    async fn read_head(&mut self) -> Result<(u16, Option<usize>)> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
                self.buffer.drain(..end + 4);
                let status = head.get(9..12).and_then(|s| s.parse().ok()).context("no status line")?;
                let length = head.lines().find_map(|l| l.strip_prefix("content-length:"));
                return Ok((status, length.map(|l| l.trim().parse()).transpose()?));
            }
            if self.buffer.len() > MOST_HEAD {
                bail!("an answer's head is too long");
            }
            self.read_some().await?;
        }
    }

    async fn read_some(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the server hung up");
        }
        Ok(())
    }

    /// The body of an answer that is good.
    pub async fn call(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        self.send(method, path, body).await?;
        let (status, length) = self.read_head().await?;
        let length = length.context("an answer without a length")?;
        while self.buffer.len() < length {
            self.read_some().await?;
        }
        let rest = self.buffer.split_off(length);
        let body = std::mem::replace(&mut self.buffer, rest);
        if !(200..300).contains(&status) {
            bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(body)
    }

    /// What comes next of a stream, with its framing.
    pub async fn next(&mut self) -> Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.read_some().await?;
        }
        Ok(std::mem::replace(&mut self.buffer, Vec::with_capacity(4 << 10)))
    }
}
