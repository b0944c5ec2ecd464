//! Credentials for a daemon's mutual TLS: only the given CA is trusted, nothing of the operating system's.
//!
//! The files are read anew for every connection, and what was made of them is kept until they change: a renewed
//! certificate is used from the next connection on, without a restart, and sessions resume as long as nothing changes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt;

/// No certificate chain and no key is larger.
const MAX_FILE: u64 = 1 << 20;
/// Certificate and key, as Docker's tools name them, then as others do.
const PAIRS: [(&str, &str); 2] = [("cert.pem", "key.pem"), ("client-cert.pem", "client-key.pem")];

#[derive(PartialEq, Eq)]
struct Files {
    ca: Vec<u8>,
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// A directory of credentials.
pub struct TlsDirectory {
    path: PathBuf,
    last: Mutex<Option<(Files, Arc<ClientConfig>)>>,
}

impl TlsDirectory {
    pub fn new(path: &str) -> TlsDirectory {
        TlsDirectory { path: path.into(), last: Mutex::new(None) }
    }

    /// The configuration for the next connection. Errors name the file.
    pub async fn config(&self) -> io::Result<Arc<ClientConfig>> {
        let files = self.read().await?;
        let mut last = self.last.lock().expect("no panic while held");
        if let Some((_, config)) = last.as_ref().filter(|(old, _)| *old == files) {
            return Ok(config.clone());
        }
        let config = Arc::new(configure(&files, &self.path)?);
        *last = Some((files, config.clone()));
        Ok(config)
    }

    async fn read(&self) -> io::Result<Files> {
        let ca = read_file(&self.path.join("ca.pem")).await?;
        for (cert, key) in PAIRS {
            match read_file(&self.path.join(cert)).await {
                Ok(cert) => return Ok(Files { ca, cert, key: read_file(&self.path.join(key)).await? }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        let text = format!("{}: neither cert.pem nor client-cert.pem", self.path.display());
        Err(io::Error::new(io::ErrorKind::NotFound, text))
    }
}

async fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let mut all = Vec::new();
    let file = tokio::fs::File::open(path).await.map_err(named)?;
    file.take(MAX_FILE + 1).read_to_end(&mut all).await.map_err(named)?;
    if all.len() as u64 > MAX_FILE {
        return Err(named(io::Error::other("larger than 1 MiB")));
    }
    Ok(all)
}

fn configure(files: &Files, directory: &Path) -> io::Result<ClientConfig> {
    let bad = |what: &str, e: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}: {e}", directory.display()))
    };
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(&files.ca) {
        roots.add(cert.map_err(|e| bad("ca.pem", &e))?).map_err(|e| bad("ca.pem", &e))?;
    }
    if roots.is_empty() {
        return Err(bad("ca.pem", &"holds no certificate"));
    }
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&files.cert)
        .collect::<Result<_, _>>()
        .map_err(|e| bad("client certificate", &e))?;
    let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|e| bad("client key", &e))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("TLS", &e))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|e| bad("client certificate and key", &e))
}
