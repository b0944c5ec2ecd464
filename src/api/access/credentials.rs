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
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use serde_json::json;

use super::authenticate::{Authenticator, User};
use super::authorize::ADMINS;
use super::serving::{Live, OwnCertificate, Serving};
use super::tokens;
use crate::pki::files::{CA, FileError, PairNames, file, load_pair, make_directory, read, store_pair, write_private};
use crate::pki::{self, Pair};

const SERVING: PairNames = ["serving.pem", "serving.key"];
const ADMIN: PairNames = ["admin.pem", "admin.key"];

#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error(transparent)]
    File(#[from] FileError),
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
    /// What replaces the shown certificate while the server runs.
    pub serving: Arc<Serving>,
    pub auth: Authenticator,
    pub kubeconfig_path: PathBuf,
}

impl Credentials {
    /// Loads the credentials of a data directory, making what is missing or nearly expired. `listen`: where the API
    /// listens, with its real port. `own`: a serving certificate instead of ours. `now`: the wall clock. Blocks on the
    /// disk for a moment.
    pub fn load_or_create(
        data_dir: &Path,
        listen: SocketAddr,
        own: Option<OwnCertificate>,
        now: Timestamp,
    ) -> Result<Credentials, CredentialError> {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let source = Source { data_dir: data_dir.to_owned(), listen, own };
        let prepared = source.prepare(now, None)?;
        if prepared.ends <= now {
            tracing::warn!(ended = %prepared.ends, "the API's certificate has ended; clients will not trust it");
        }
        let live = Live::new(prepared.serving);
        let server_config = server_config(&prepared.ca, live.clone())
            .map_err(|why| CredentialError::Unusable { path: source.pki_dir(), why })?;
        let auth = Authenticator::with_tokens([(prepared.token.as_str(), User::new("admin", [ADMINS.to_owned()]))]);
        Ok(Credentials {
            server_config: Arc::new(server_config),
            kubeconfig_path: source.kubeconfig_path(),
            serving: Serving::new(source, prepared.ca, live),
            auth,
        })
    }
}

/// Where the credentials come from.
pub struct Source {
    data_dir: PathBuf,
    listen: SocketAddr,
    own: Option<OwnCertificate>,
}

/// Credentials that are whole.
pub struct Prepared {
    /// The CA's certificate, PEM.
    pub ca: String,
    pub serving: CertifiedKey,
    /// When the serving certificate ends.
    pub ends: Timestamp,
    token: String,
}

impl Source {
    fn pki_dir(&self) -> PathBuf {
        self.data_dir.join("pki")
    }

    fn kubeconfig_path(&self) -> PathBuf {
        self.data_dir.join("admin.kubeconfig")
    }

    /// The files of the serving certificate and its key.
    pub fn serving_files(&self) -> [PathBuf; 2] {
        match &self.own {
            Some(own) => [own.certificate.clone(), own.key.clone()],
            None => SERVING.map(|name| self.pki_dir().join(name)),
        }
    }

    /// Reads what is there, and makes what is missing or nearly expired. `authority`: the CA's certificate, when there
    /// is one that it must still be; nothing is made by another.
    pub fn prepare(&self, now: Timestamp, authority: Option<&str>) -> Result<Prepared, CredentialError> {
        make_directory(&self.data_dir)?;
        let pki_dir = self.pki_dir();
        make_directory(&pki_dir)?;
        let certificate = |what| move |source| CredentialError::Certificate { what, source };

        let ca = load_pair(&pki_dir, CA)?;
        if ca.is_none() && CA.iter().all(|name| pki_dir.join(name).exists()) {
            let why = "ca.pem and ca.key do not belong together; put back the right ones, or remove both (every client then needs a new kubeconfig)";
            return Err(CredentialError::Unusable { path: pki_dir, why: why.into() });
        }
        let ca = match ca {
            Some(ca) if authority.is_none_or(|a| a == ca.certificate) => ca,
            other if other.is_some() || authority.is_some() => {
                let why = "the CA is not the one of the start; put it back, or restart to change it".into();
                return Err(CredentialError::Unusable { path: pki_dir.join("ca.pem"), why });
            }
            _ => store_pair(&pki_dir, CA, pki::make_ca("portreeve-ca", now).map_err(certificate("the CA"))?)?,
        };
        let (chain, key) = match &self.own {
            Some(own) => (read_own(&own.certificate)?, read_own(&own.key)?),
            None => {
                let pair = self.our_pair(&ca, now)?;
                (pair.certificate.into_bytes(), pair.key.into_bytes())
            }
        };
        let unusable = |why| CredentialError::Unusable { path: self.serving_files()[0].clone(), why };
        let serving = pki::certified(&chain, &key).map_err(unusable)?;
        let (ends, names) = pki::end_and_names(&serving.cert[0])
            .ok_or_else(|| unusable("the certificate cannot be read as X.509".into()))?;
        let admin = match load_pair(&pki_dir, ADMIN)? {
            Some(pair) if pki::is_good(&pair.certificate, &ca.certificate, None, now) => pair,
            _ => {
                let pair = pki::make_client(&ca, "admin", Some(ADMINS), now)
                    .map_err(certificate("the administrator's certificate"))?;
                store_pair(&pki_dir, ADMIN, pair)?
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
        let authority = match &self.own {
            None => ca.certificate.clone().into_bytes(),
            Some(OwnCertificate { authority: Some(path), .. }) => read_own(path)?,
            Some(_) => last_certificate(&chain),
        };
        let kubeconfig = self.kubeconfig(&authority, &names, &admin, &token);
        if read(&self.kubeconfig_path())?.as_deref() != Some(&kubeconfig) {
            write_private(&self.kubeconfig_path(), kubeconfig.as_bytes())?;
        }
        Ok(Prepared { ca: ca.certificate, serving, ends, token })
    }

    /// The serving pair of our own making.
    fn our_pair(&self, ca: &Pair, now: Timestamp) -> Result<Pair, CredentialError> {
        let names = server_names(self.listen.ip());
        match load_pair(&self.pki_dir(), SERVING)? {
            Some(pair) if pki::is_good(&pair.certificate, &ca.certificate, Some(&names), now) => Ok(pair),
            _ => {
                let pair = pki::make_server(ca, "portreeve", &names, now)
                    .map_err(|source| CredentialError::Certificate { what: "the serving certificate", source })?;
                Ok(store_pair(&self.pki_dir(), SERVING, pair)?)
            }
        }
    }

    /// A kubeconfig is YAML, and JSON is YAML. `authority`: what to trust, PEM; `names`: of the serving certificate.
    fn kubeconfig(&self, authority: &[u8], names: &[String], admin: &Pair, token: &str) -> String {
        let ip = match self.listen.ip() {
            ip if ip.is_unspecified() && ip.is_ipv6() => IpAddr::from(Ipv6Addr::LOCALHOST),
            ip if ip.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        let mut cluster = json!({
            "server": format!("https://{}", SocketAddr::new(ip, self.listen.port())),
            "certificate-authority-data": STANDARD.encode(authority),
        });
        // A certificate that is not for the address is for some name: to be asked for under that one.
        if !names.contains(&ip.to_string())
            && let Some(name) = names.iter().find(|n| n.parse::<IpAddr>().is_err())
        {
            cluster["tls-server-name"] = name.replacen('*', "portreeve", 1).into();
        }
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "portreeve", "cluster": cluster}],
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
}

/// The operator's file: its rights are the operator's business.
fn read_own(path: &Path) -> Result<Vec<u8>, CredentialError> {
    Ok(fs::read(path).map_err(file("reading", path))?)
}

/// The last certificate of a PEM chain: what the others were signed by, or a lone one itself.
fn last_certificate(chain: &[u8]) -> Vec<u8> {
    let begin = b"-----BEGIN CERTIFICATE-----";
    let at = chain.windows(begin.len()).rposition(|w| w == begin).unwrap_or(0);
    chain[at..].to_vec()
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
fn server_config(ca: &str, live: Arc<Live>) -> Result<rustls::ServerConfig, String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).map_err(|e| text(&e))?).map_err(|e| text(&e))?;
    let verifier =
        WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build().map_err(|e| text(&e))?;
    let mut config = rustls::ServerConfig::builder().with_client_cert_verifier(verifier).with_cert_resolver(live);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn new_token() -> Result<String, CredentialError> {
    let random = tokens::random().map_err(|e| FileError {
        operation: "reading random bytes for",
        path: "admin.token".into(),
        source: std::io::Error::other(e.to_string()),
    })?;
    Ok(format!("{}{random}", tokens::PREFIX))
}
