//! Credentials for a daemon's mutual TLS: only the given CA is trusted, nothing of the operating system's.
//!
//! The files are read anew for every connection, and what was made of them is kept until they change: a renewed
//! certificate is used from the next connection on, without a restart, and sessions resume as long as nothing changes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use tokio::io::AsyncReadExt;

use crate::pki::{end_and_names, issuer};

/// No certificate chain and no key is larger.
const MAX_FILE: u64 = 1 << 20;
/// Certificate and key, as Docker's tools name them, then as others do; and those before, while hosts take their new
/// certificates one after another.
const PAIRS: [(&str, &str); 3] =
    [("cert.pem", "key.pem"), ("client-cert.pem", "client-key.pem"), ("previous-cert.pem", "previous-key.pem")];

#[derive(PartialEq, Eq)]
struct Files {
    ca: Vec<u8>,
    /// Certificate and key, the newest first; at least one.
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A directory of credentials, and when the certificates end that were shown by their means.
pub struct TlsDirectory {
    path: PathBuf,
    last: Mutex<Option<Read>>,
    /// When the certificate ends that the daemon showed last.
    server_ends: Mutex<Option<Timestamp>>,
}

/// What was made of the files.
struct Read {
    files: Files,
    config: Arc<ClientConfig>,
    /// When the newest client certificate ends.
    client_ends: Option<Timestamp>,
}

impl TlsDirectory {
    pub fn new(path: &str) -> TlsDirectory {
        TlsDirectory { path: path.into(), last: Mutex::default(), server_ends: Mutex::default() }
    }

    /// The configuration for the next connection. Errors name the file.
    pub async fn config(&self) -> io::Result<Arc<ClientConfig>> {
        let files = self.read().await?;
        let mut last = self.last.lock().expect("no panic while held");
        if let Some(read) = last.as_ref().filter(|read| read.files == files) {
            return Ok(read.config.clone());
        }
        let (config, client_ends) = configure(&files, &self.path)?;
        let config = Arc::new(config);
        *last = Some(Read { files, config: config.clone(), client_ends });
        Ok(config)
    }

    /// Takes note of the certificate that the daemon has shown.
    pub fn shown(&self, server: &CertificateDer<'_>) {
        *self.server_ends.lock().expect("no panic while held") = end_and_names(server).map(|(end, _)| end);
    }

    /// When the first certificate ends by which the daemon is reached now: its own, as shown last, or the newest of those
    /// shown to it, as of the last configuration.
    pub fn end(&self) -> Option<Timestamp> {
        let server = *self.server_ends.lock().expect("no panic while held");
        let client = self.last.lock().expect("no panic while held").as_ref().and_then(|read| read.client_ends);
        [server, client].into_iter().flatten().min()
    }

    async fn read(&self) -> io::Result<Files> {
        let ca = read_file(&self.path.join("ca.pem")).await?;
        let (mut pairs, mut missing) = (vec![], None);
        for (cert, key) in PAIRS {
            let [cert, key] = [cert, key].map(|name| self.path.join(name));
            match (read_file(&cert).await, read_file(&key).await) {
                (Ok(cert), Ok(key)) => pairs.push((cert, key)),
                // Half a pair is none, unless there is nothing else.
                (Err(e), _) | (_, Err(e)) if e.kind() == io::ErrorKind::NotFound => {
                    missing.get_or_insert(e);
                }
                (Err(e), _) | (_, Err(e)) => return Err(e),
            }
        }
        if !pairs.is_empty() {
            return Ok(Files { ca, pairs });
        }
        let why = missing.map(|e: io::Error| e.to_string()).unwrap_or_default();
        let text = format!("{}: neither cert.pem nor client-cert.pem with its key: {why}", self.path.display());
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

/// The configuration, and when the newest client certificate ends.
fn configure(files: &Files, directory: &Path) -> io::Result<(ClientConfig, Option<Timestamp>)> {
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
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let read = |(cert, key): &(Vec<u8>, Vec<u8>)| -> io::Result<Arc<CertifiedKey>> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(cert)
            .collect::<Result<_, _>>()
            .map_err(|e| bad("client certificate", &e))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| bad("client key", &e))?;
        CertifiedKey::from_der(chain, key, &provider).map(Arc::new).map_err(|e| bad("client certificate and key", &e))
    };
    // Halves of two pairs are what a crash in the middle of a renewal leaves: then the pair before is whole.
    let (good, mut faults): (Vec<_>, Vec<_>) = files.pairs.iter().map(read).partition(Result::is_ok);
    let pairs: Vec<Arc<CertifiedKey>> = good.into_iter().flatten().collect();
    if pairs.is_empty() {
        return Err(faults.swap_remove(0).expect_err("those that are no errors are in the other list"));
    }
    let ends = pairs[0].cert.first().and_then(|leaf| end_and_names(leaf)).map(|(end, _)| end);
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("TLS", &e))?
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(Asked { pairs }));
    Ok((config, ends))
}

/// Shows the newest certificate that is signed by whom the daemon says it trusts; the newest of all if it does not say.
#[derive(Debug)]
struct Asked {
    pairs: Vec<Arc<CertifiedKey>>,
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(schemes).is_some();
        let trusted = |pair: &&Arc<CertifiedKey>| {
            pair.cert.iter().filter_map(|c| issuer(c)).any(|name| authorities.contains(&name.as_slice()))
        };
        let mut pairs = self.pairs.iter().filter(usable);
        pairs.clone().find(trusted).or_else(|| pairs.next()).cloned()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::server::WebPkiClientVerifier;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::clock::SystemClock;
    use crate::pki::{Pair, make_ca, make_client, make_server};

    fn now() -> Timestamp {
        SystemClock::new().now()
    }

    fn der(pem: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
    }

    /// A daemon that takes the clients of one CA.
    fn daemon(ca: &Pair) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(der(&ca.certificate)).expect("a root");
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().expect("roots");
        let own = make_server(ca, "worker", &["10.0.0.3".to_owned()], now()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("a key");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![der(&own.certificate)], key)
            .expect("a pair");
        TlsAcceptor::from(Arc::new(config))
    }

    /// The certificate that the daemon was shown.
    async fn shown(directory: &TlsDirectory, daemon: &TlsAcceptor) -> io::Result<CertificateDer<'static>> {
        let config = directory.config().await?;
        let (near, far) = tokio::io::duplex(1 << 16);
        let name = rustls::pki_types::ServerName::try_from("10.0.0.3").expect("a name");
        let (ours, theirs) = tokio::join!(TlsConnector::from(config).connect(name, near), daemon.accept(far));
        ours?;
        Ok(theirs?.get_ref().1.peer_certificates().expect("a certificate")[0].clone().into_owned())
    }

    #[tokio::test]
    async fn hosts_of_the_old_and_of_the_new_authority_are_each_shown_what_they_take() {
        let root = tempfile::tempdir().expect("a directory");
        let put = |name: &str, text: &str| std::fs::write(root.path().join(name), text).expect("written");
        let [old, new] = ["old", "new"].map(|name| make_ca(name, now()).expect("a CA"));
        let [before, after] = [&old, &new].map(|ca| make_client(ca, "portreeve", None, now()).expect("a certificate"));
        let directory = TlsDirectory::new(root.path().to_str().expect("UTF-8"));
        put("ca.pem", &old.certificate);
        assert!(directory.config().await.is_err(), "there is no certificate");
        put("cert.pem", &before.certificate);
        put("key.pem", &before.key);
        assert_eq!(shown(&directory, &daemon(&old)).await.expect("taken"), der(&before.certificate));

        put("ca.pem", &format!("{}{}", new.certificate, old.certificate));
        for (name, text) in [
            ("previous-cert.pem", &before.certificate),
            ("previous-key.pem", &before.key),
            ("cert.pem", &after.certificate),
        ] {
            put(name, text);
        }
        // a crash before the new key was written
        assert_eq!(shown(&directory, &daemon(&old)).await.expect("taken"), der(&before.certificate));
        put("key.pem", &after.key);
        assert_eq!(shown(&directory, &daemon(&old)).await.expect("taken"), der(&before.certificate));
        assert_eq!(shown(&directory, &daemon(&new)).await.expect("taken"), der(&after.certificate));
        assert!(directory.end().is_some_and(|end| end > now()));
    }
}
