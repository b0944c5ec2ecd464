//! A scripted daemon on a unix socket or behind mutual TLS: it answers as the test says and remembers what it heard.

use std::fmt;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// How a request is answered.
#[derive(Clone, Debug)]
pub enum Answer {
    Whole(u16, String),
    /// 200, this much of a body, and the connection is gone.
    Cut(String),
    /// 200, this much of a body, and the rest once the value is true.
    Open(String, watch::Receiver<bool>),
    /// 200 with this body once the value is true.
    When(watch::Receiver<bool>, String),
    Never,
}

type Script = Arc<dyn Fn(&str, &str) -> Answer + Send + Sync>;

struct Shared {
    script: Mutex<Script>,
    newest: Mutex<String>,
    requests: watch::Sender<Vec<String>>,
    /// The logins to registries that came with requests, as they were written.
    logins: Mutex<Vec<String>>,
    connections: AtomicUsize,
    /// Every change closes the connections.
    hung_up: watch::Sender<()>,
}

pub struct Daemon {
    endpoint: String,
    shared: Arc<Shared>,
    /// Ends with the daemon.
    serving: tokio::task::JoinHandle<()>,
    _socket: Option<TempDir>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Daemon {
    fn shared(newest: &str, script: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) -> Arc<Shared> {
        Arc::new(Shared {
            script: Mutex::new(Arc::new(script)),
            newest: Mutex::new(newest.to_owned()),
            requests: watch::channel(Vec::new()).0,
            logins: Mutex::default(),
            connections: AtomicUsize::new(0),
            hung_up: watch::channel(()).0,
        })
    }

    /// On a unix socket; `newest`: its API version. The script gets method and path with query, but not `/_ping`.
    pub async fn speaking(newest: &str, script: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) -> Daemon {
        let directory = tempfile::tempdir().expect("a directory for the socket");
        let path = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&path).expect("bind");
        let shared = Daemon::shared(newest, script);
        let state = shared.clone();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, state.clone()));
            }
        });
        Daemon { endpoint: format!("unix://{}", path.display()), shared, serving, _socket: Some(directory) }
    }

    /// On 127.0.0.1, open to those whom these credentials' CA vouches for.
    pub async fn with_tls(
        credentials: &Credentials,
        script: impl Fn(&str, &str) -> Answer + Send + Sync + 'static,
    ) -> Daemon {
        let acceptor = credentials.acceptor();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let endpoint = format!("tcp://{}", listener.local_addr().expect("an address"));
        let shared = Daemon::shared("1.41", script);
        let state = shared.clone();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), state.clone());
                tokio::spawn(async move {
                    // A refused client shows on the client's side.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, state).await;
                    }
                });
            }
        });
        Daemon { endpoint, shared, serving, _socket: None }
    }

    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// `METHOD /path?query`, in order of arrival.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.borrow().clone()
    }

    pub fn logins(&self) -> Vec<String> {
        self.shared.logins.lock().expect("no panic while held").clone()
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Closes every connection, as a restart does.
    pub fn hangs_up(&self) {
        self.shared.hung_up.send_replace(());
    }

    pub fn now_speaks(&self, newest: &str) {
        *self.shared.newest.lock().expect("no panic while held") = newest.to_owned();
    }

    pub fn now_answers(&self, script: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) {
        *self.shared.script.lock().expect("no panic while held") = Arc::new(script);
    }

    /// Waits until the requests so far are as wanted.
    pub async fn until(&self, wanted: impl Fn(&[String]) -> bool) {
        let mut requests = self.shared.requests.subscribe();
        let waited = tokio::time::timeout(Duration::from_secs(20), requests.wait_for(|r| wanted(r))).await;
        if waited.is_err() {
            panic!("the requests never came to what was awaited: {:?}", self.requests());
        }
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, shared: Arc<Shared>) {
    shared.connections.fetch_add(1, Ordering::SeqCst);
    let mut hung_up = shared.hung_up.subscribe();
    let service = service_fn(move |request| answer(request, shared.clone()));
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A client that goes away is no failure of the daemon.
        _ = serving => {}
        _ = hung_up.changed() => {}
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> io::Result<Response<UnsyncBoxBody<Bytes, io::Error>>> {
    let method = request.method().as_str().to_owned();
    let path = request.uri().path_and_query().map_or("", |p| p.as_str()).to_owned();
    if let Some(login) = request.headers().get("x-registry-auth") {
        let login = String::from_utf8_lossy(login.as_bytes()).into_owned();
        shared.logins.lock().expect("no panic while held").push(login);
    }
    shared.requests.send_modify(|requests| requests.push(format!("{method} {path}")));
    if path == "/_ping" {
        let newest = shared.newest.lock().expect("no panic while held").clone();
        let response = Response::builder().header("Api-Version", newest).body(whole("OK".to_owned()));
        return response.map_err(io::Error::other);
    }
    let script = shared.script.lock().expect("no panic while held").clone();
    let (status, body) = match script(&method, &path) {
        Answer::Whole(status, body) => (status, whole(body)),
        Answer::When(mut go, body) => {
            // The test's end of it going away ends the wait as well.
            let _ = go.wait_for(|go| *go).await;
            (200, whole(body))
        }
        Answer::Cut(start) => {
            let start = stream::once(async move { Ok(Frame::data(Bytes::from(start))) });
            let end = stream::once(async {
                // Lets what came before leave first.
                tokio::task::yield_now().await;
                Err(io::Error::other("cut"))
            });
            (200, BodyExt::boxed_unsync(StreamBody::new(start.chain(end))))
        }
        Answer::Open(start, mut go) => {
            let start = stream::once(async move { Ok(Frame::data(Bytes::from(start))) });
            let end = stream::once(async move {
                let _ = go.wait_for(|go| *go).await;
                Ok(Frame::data(Bytes::new()))
            });
            (200, BodyExt::boxed_unsync(StreamBody::new(start.chain(end))))
        }
        Answer::Never => std::future::pending().await,
    };
    Response::builder().status(status).body(body).map_err(io::Error::other)
}

fn whole(body: String) -> UnsyncBoxBody<Bytes, io::Error> {
    Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync()
}

/// A CA, a daemon's certificate for 127.0.0.1, and a directory with a client's credentials.
pub struct Credentials {
    directory: TempDir,
    ca: String,
    server: (String, String),
}

impl Credentials {
    pub fn new() -> Credentials {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        let signed = |names: &[&str]| {
            let key = KeyPair::generate().expect("a key");
            let names: Vec<_> = names.iter().map(|n| (*n).to_owned()).collect();
            let params = CertificateParams::new(names).expect("parameters");
            (params.signed_by(&key, &ca).expect("a certificate").pem(), key.serialize_pem())
        };
        let (client, server) = (signed(&["client"]), signed(&["127.0.0.1"]));
        let made = Credentials { ca: ca.pem(), server, ..Credentials::empty() };
        for (name, text) in [("ca.pem", &made.ca), ("client-cert.pem", &client.0), ("client-key.pem", &client.1)] {
            fs::write(made.directory.path().join(name), text).expect("write");
        }
        made
    }

    /// A directory without files.
    pub fn empty() -> Credentials {
        let directory = tempfile::tempdir().expect("a directory");
        Credentials { directory, ca: String::new(), server: (String::new(), String::new()) }
    }

    pub fn path(&self) -> &str {
        self.directory.path().to_str().expect("a path of text")
    }

    /// Keeps the client's certificate, but trusts the other's CA.
    pub fn trust(&self, other: &Credentials) {
        fs::write(self.directory.path().join("ca.pem"), &other.ca).expect("write");
    }

    /// Puts the other's files in place of its own.
    pub fn replace_by(&self, other: &Credentials) {
        for name in ["ca.pem", "client-cert.pem", "client-key.pem"] {
            fs::copy(other.directory.path().join(name), self.directory.path().join(name)).expect("copy");
        }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).expect("a CA")).expect("a CA");
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let chain = vec![CertificateDer::from_pem_slice(self.server.0.as_bytes()).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(self.server.1.as_bytes()).expect("a key");
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(chain, key)
            .expect("a configuration");
        TlsAcceptor::from(Arc::new(config))
    }
}
