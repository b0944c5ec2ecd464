//! A real ACME server: Pebble, the small one of Let's Encrypt, with the little DNS server that comes with it, for which all
//! names are this machine. It refuses some good nonces and takes some authorizations for granted, as it does by itself.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use portreeve::clock::SystemClock;
use portreeve::pki::{self, Pair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::api_server::PATIENCE;

/// A name that it refuses at once.
pub const BLOCKED: &str = "blocked.example.com";

/// Where it is to be: known to its clients before it runs.
pub struct Place {
    dir: TempDir,
    /// Of its own HTTPS.
    ca: Pair,
    port: u16,
    management: u16,
    dns: u16,
}

pub struct Pebble {
    place: Place,
    children: Vec<Child>,
    said: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

/// One below those that the kernel gives to connections: until Pebble listens there, any other test's might have it.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let from = u16::try_from(std::process::id() % 8_000).expect("small");
    std::iter::repeat_with(|| 20_000 + (from + NEXT.fetch_add(1, Ordering::Relaxed)) % 8_000)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port")
}

impl Place {
    pub fn new() -> Place {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = pki::make_ca("ACME server's authority", SystemClock::new().now()).expect("a CA");
        std::fs::write(dir.path().join("ca.pem"), &ca.certificate).expect("written");
        Place { dir, ca, port: free_port(), management: free_port(), dns: free_port() }
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// What its clients are to trust when they ask it.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// It looks at these ports of whoever orders. `more`: of its configuration.
    pub async fn start(self, http: u16, tls: u16, more: Value) -> Pebble {
        let at = |name: &str| self.dir.path().join(name);
        let names = ["127.0.0.1".to_owned()];
        let pair = pki::make_server(&self.ca, "acme", &names, SystemClock::new().now()).expect("a certificate");
        std::fs::write(at("pem"), pair.certificate).expect("written");
        std::fs::write(at("key"), pair.key).expect("written");
        let mut pebble = json!({
            "listenAddress": format!("127.0.0.1:{}", self.port),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": at("pem"),
            "privateKey": at("key"),
            "httpPort": http,
            "tlsPort": tls,
            "domainBlocklist": [BLOCKED],
        });
        for (name, value) in more.as_object().expect("fields") {
            pebble[name] = value.clone();
        }
        std::fs::write(at("config"), json!({ "pebble": pebble }).to_string()).expect("written");
        let dns = format!("127.0.0.1:{}", self.dns);
        let management = format!("127.0.0.1:{}", free_port());
        let mut names = Command::new("pebble-challtestsrv");
        names.args(["-dns01", &dns, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-management", &management]);
        names.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        let mut acme = Command::new("pebble");
        acme.arg("-config").arg(at("config")).args(["-dnsserver", &dns, "-strict"]).env("PEBBLE_VA_NOSLEEP", "1");
        let mut pebble = Pebble { place: self, children: vec![], said: Arc::default(), readers: vec![] };
        pebble.spawn(names);
        pebble.spawn(acme);
        let up = async {
            while pebble.management("/roots/0").await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, up).await.unwrap_or_else(|_| panic!("no Pebble: {}", pebble.said()));
        pebble
    }
}

impl Pebble {
    fn spawn(&mut self, mut command: Command) {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
        let (out, said) = (child.stdout.take().expect("a pipe"), self.said.clone());
        self.children.push(child);
        self.readers.push(std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                said.lock().expect("no panic while held").push(line);
            }
        }));
    }

    pub fn said(&self) -> String {
        self.said.lock().expect("no panic while held").join("\n")
    }

    /// How many orders were made.
    pub fn orders(&self) -> usize {
        self.said().lines().filter(|line| line.contains("POST /order-plz")).count()
    }

    /// Of the certificates that it issues.
    pub async fn root(&self) -> CertificateDer<'static> {
        let text = self.management("/roots/0").await.expect("an answer");
        let (_, pem) = text.split_once("\r\n\r\n").expect("a body");
        CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
    }

    async fn management(&self, path: &str) -> std::io::Result<String> {
        let root = CertificateDer::from_pem_slice(self.place.ca.certificate.as_bytes()).expect("a certificate");
        let mut stream = tls(&root, ([127, 0, 0, 1], self.place.management).into(), "127.0.0.1").await?;
        get(&mut stream, "127.0.0.1", path).await
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

/// A connection with TLS to a server that this authority vouches for under this name.
pub async fn tls(
    root: &CertificateDer<'_>,
    to: std::net::SocketAddr,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone().into_owned()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("TLS").with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(to).await?).await
}

/// The whole answer.
pub async fn get(stream: &mut TlsStream<TcpStream>, host: &str, path: &str) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = vec![];
    // Not everybody says that it ends.
    let _ = stream.read_to_end(&mut answer).await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Whether it is installed.
pub fn is_there() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |program: &str| std::env::split_paths(&path).any(|dir: PathBuf| Path::new(&dir).join(program).exists());
    has("pebble") && has("pebble-challtestsrv")
}
