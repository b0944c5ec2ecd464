//! The API's credentials on disk: made at the first start, reused at every later one.
//!
//! ```text
//! DATA/admin.kubeconfig   0600   what kubectl and our own CLI use
//! DATA/pki/               0700   ca.pem ca.key serving.pem serving.key admin.pem admin.key admin.token
//! ```
//!
//! Every file is written beside its place and moved there, so that a crash leaves the old one or the new one. Only the
//! hash of the token is kept in memory.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::json;

use super::authenticate::{Authenticator, User};
use super::authorize::ADMINS;
use super::pki::{self, Pair};
use super::tokens;

#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("{operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("making {what}")]
    Certificate {
        what: &'static str,
        #[source]
        source: rcgen::Error,
    },
    #[error("using the certificates in {}: {why}", path.display())]
    Unusable { path: PathBuf, why: String },
}

/// The server's side of TLS and authentication, and where the administrator's side lies.
pub struct Credentials {
    pub server_config: Arc<rustls::ServerConfig>,
    pub auth: Authenticator,
    pub kubeconfig_path: PathBuf,
}

impl Credentials {
    /// Loads the credentials of a data directory, making what is missing or nearly expired. `listen`: where the API
    /// listens, with its real port. `now`: the wall clock. Blocks on the disk for a moment.
    pub fn load_or_create(data_dir: &Path, listen: SocketAddr, now: Timestamp) -> Result<Credentials, CredentialError> {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        make_directory(data_dir)?;
        let pki_dir = data_dir.join("pki");
        make_directory(&pki_dir)?;
        let certificate = |what| move |source| CredentialError::Certificate { what, source };

        let ca = match load_pair(&pki_dir, "ca")? {
            Some(ca) => ca,
            None => store_pair(&pki_dir, "ca", pki::make_ca(now).map_err(certificate("the CA"))?)?,
        };
        let names = server_names(listen.ip());
        let serving = match load_pair(&pki_dir, "serving")? {
            Some(pair) if pki::is_good(&pair.certificate, &ca.certificate, Some(&names), now) => pair,
            _ => {
                let pair = pki::make_serving(&ca, &names, now).map_err(certificate("the serving certificate"))?;
                store_pair(&pki_dir, "serving", pair)?
            }
        };
        let admin = match load_pair(&pki_dir, "admin")? {
            Some(pair) if pki::is_good(&pair.certificate, &ca.certificate, None, now) => pair,
            _ => {
                let pair = pki::make_admin(&ca, now).map_err(certificate("the administrator's certificate"))?;
                store_pair(&pki_dir, "admin", pair)?
            }
        };
        let token_path = pki_dir.join("admin.token");
        let token = match read(&token_path)?.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()) {
            Some(token) => token,
            None => {
                let token = new_token()?;
                write_private(&token_path, token.as_bytes())?;
                token
            }
        };
        let kubeconfig_path = data_dir.join("admin.kubeconfig");
        let kubeconfig = kubeconfig(&ca, &admin, &token, listen);
        if read(&kubeconfig_path)?.as_deref() != Some(&kubeconfig) {
            write_private(&kubeconfig_path, kubeconfig.as_bytes())?;
        }
        let server_config =
            server_config(&ca, &serving).map_err(|why| CredentialError::Unusable { path: pki_dir.clone(), why })?;
        let auth = Authenticator::with_tokens([(token.as_str(), User::new("admin", [ADMINS.to_owned()]))]);
        Ok(Credentials { server_config: Arc::new(server_config), auth, kubeconfig_path })
    }
}

/// The names that the serving certificate is for.
fn server_names(listen: IpAddr) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    if !listen.is_unspecified() {
        names.push(listen.to_string());
    }
    // Where there is no /proc, the certificate does without this name.
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_ascii_lowercase();
    let usable = !host.is_empty()
        && host.split('.').all(|l| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
    if usable {
        names.push(host);
    }
    names.sort();
    names.dedup();
    names
}

/// TLS 1.2 and 1.3; a client certificate is optional, but a bad one ends the handshake.
fn server_config(ca: &Pair, serving: &Pair) -> Result<rustls::ServerConfig, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.certificate.as_bytes()).map_err(|e| text(&e))?)
        .map_err(|e| text(&e))?;
    let verifier =
        WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build().map_err(|e| text(&e))?;
    let chain = vec![CertificateDer::from_pem_slice(serving.certificate.as_bytes()).map_err(|e| text(&e))?];
    let key = PrivateKeyDer::from_pem_slice(serving.key.as_bytes()).map_err(|e| text(&e))?;
    let mut config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| text(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn new_token() -> Result<String, CredentialError> {
    let random = tokens::random().map_err(|e| CredentialError::File {
        operation: "reading random bytes for",
        path: "admin.token".into(),
        source: std::io::Error::other(e.to_string()),
    })?;
    Ok(format!("{}{random}", tokens::PREFIX))
}

/// A kubeconfig is YAML, and JSON is YAML.
fn kubeconfig(ca: &Pair, admin: &Pair, token: &str, listen: SocketAddr) -> String {
    let ip = match listen.ip() {
        ip if ip.is_unspecified() && ip.is_ipv6() => "[::1]".to_owned(),
        ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V6(ip) => format!("[{ip}]"),
        IpAddr::V4(ip) => ip.to_string(),
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "portreeve", "cluster": {
            "server": format!("https://{ip}:{}", listen.port()),
            "certificate-authority-data": STANDARD.encode(&ca.certificate),
        }}],
        "users": [{"name": "admin", "user": {
            "token": token,
            "client-certificate-data": STANDARD.encode(&admin.certificate),
            "client-key-data": STANDARD.encode(&admin.key),
        }}],
        "contexts": [{"name": "portreeve", "context": {"cluster": "portreeve", "user": "admin", "namespace": "default"}}],
        "current-context": "portreeve",
    });
    format!("{config:#}\n")
}

fn file<'a>(operation: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> CredentialError + use<'a> {
    move |source| CredentialError::File { operation, path: path.to_owned(), source }
}

/// Makes a directory that only we may enter. One that is there keeps its rights; it may be shared on purpose.
fn make_directory(path: &Path) -> Result<(), CredentialError> {
    match fs::DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(file("making directory", path)(e)),
        _ => Ok(()),
    }
}

/// The text of a file, or `None` when there is none. Takes away the rights of others.
fn read(path: &Path) -> Result<Option<String>, CredentialError> {
    match fs::read_to_string(path) {
        Ok(text) => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(file("protecting", path))?;
            Ok(Some(text))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(file("reading", path)(e)),
    }
}

/// Writes a file that only we may read, whole or not at all, and onto the disk.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), CredentialError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let beside = PathBuf::from(name);
    // Left over from a crash: with rights that we did not choose.
    fs::remove_file(&beside)
        .or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
        .map_err(file("removing", &beside))?;
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .map_err(file("making", &beside))?;
    out.write_all(bytes).and_then(|()| out.sync_all()).map_err(file("writing", &beside))?;
    fs::rename(&beside, path).map_err(file("moving into place", path))?;
    if let Some(directory) = path.parent() {
        fs::File::open(directory).and_then(|d| d.sync_all()).map_err(file("syncing", directory))?;
    }
    Ok(())
}

/// A pair that is whole. The key is written first, so a certificate without one is of no use and made anew.
fn load_pair(directory: &Path, name: &str) -> Result<Option<Pair>, CredentialError> {
    let certificate = read(&directory.join(format!("{name}.pem")))?;
    let key = read(&directory.join(format!("{name}.key")))?;
    let Some((certificate, key)) = certificate.zip(key) else { return Ok(None) };
    // A crash between the two files leaves halves of different pairs.
    let matches = rcgen::KeyPair::from_pem(&key).is_ok_and(|k| pki::is_for_key(&certificate, &k));
    if !matches && name == "ca" {
        let why = "ca.pem and ca.key do not belong together; put back the right ones, or remove both (every client then needs a new kubeconfig)";
        return Err(CredentialError::Unusable { path: directory.to_owned(), why: why.into() });
    }
    Ok(matches.then_some(Pair { certificate, key }))
}

fn store_pair(directory: &Path, name: &str, pair: Pair) -> Result<Pair, CredentialError> {
    write_private(&directory.join(format!("{name}.key")), pair.key.as_bytes())?;
    write_private(&directory.join(format!("{name}.pem")), pair.certificate.as_bytes())?;
    Ok(pair)
}
