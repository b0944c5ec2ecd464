//! Credentials for a daemon's mutual TLS: only the given CA is trusted, nothing of the operating system's.
//!
//! They are read anew for every connection, from a directory or from a Secret, and what was made of them is kept until
//! they change: a renewed certificate is used from the next connection on, without a restart, and sessions resume as
//! long as nothing changes. What cannot be used is [`BadCredentials`].

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
use zeroize::Zeroizing;

use super::credentials::{BadCredentials, Opened, SecretSource};
use super::endpoint::TlsFrom;
use crate::model::SYSTEM_NAMESPACE;
use crate::pki::{end_and_names, issuer};

/// No certificate chain and no key is larger.
const MAX_FILE: u64 = 1 << 20;
/// Whom to trust, as Docker's tools name it, then as Kubernetes does.
const AUTHORITIES: [&str; 2] = ["ca.pem", "ca.crt"];
/// Certificate and key, as Docker's tools name them, then as others do; and those before, while hosts take their new
/// certificates one after another.
const PAIRS: [(&str, &str); 4] = [
    ("cert.pem", "key.pem"),
    ("client-cert.pem", "client-key.pem"),
    ("tls.crt", "tls.key"),
    ("previous-cert.pem", "previous-key.pem"),
];

/// Wiped when dropped: it may hold a key.
type Pem = Zeroizing<Vec<u8>>;

#[derive(PartialEq, Eq)]
struct Files {
    /// The name, and what is in it.
    ca: (&'static str, Pem),
    /// Certificate and key, the newest first; at least one.
    pairs: Vec<(Pem, Pem)>,
}

/// A place of credentials, and when the certificates end that were shown by their means.
pub struct TlsCredentials {
    from: TlsFrom,
    secrets: Arc<dyn SecretSource>,
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

/// What is there now.
enum Place {
    Directory(PathBuf),
    Secret(Box<Opened>),
}

impl Place {
    /// `None`: there is no such file or key.
    async fn get(&self, name: &str) -> Result<Option<Pem>, BadCredentials> {
        match self {
            Place::Directory(path) => read_file(&path.join(name)).await,
            Place::Secret(secret) => Ok(secret.get(name).map(|value| Zeroizing::new(value.to_vec()))),
        }
    }

    fn lacks(&self, what: &str) -> BadCredentials {
        match self {
            Place::Directory(path) => BadCredentials(format!("{}: there is no {what}", path.display())),
            Place::Secret(secret) => secret.bad(&format!("has no key {what}")),
        }
    }
}

impl TlsCredentials {
    pub fn new(from: TlsFrom, secrets: Arc<dyn SecretSource>) -> TlsCredentials {
        TlsCredentials { from, secrets, last: Mutex::default(), server_ends: Mutex::default() }
    }

    /// The configuration for the next connection. Errors name the file or key, and hold nothing of it.
    pub async fn config(&self) -> Result<Arc<ClientConfig>, BadCredentials> {
        let files = self.read().await?;
        let mut last = self.last.lock().expect("no panic while held");
        if let Some(read) = last.as_ref().filter(|read| read.files == files) {
            return Ok(read.config.clone());
        }
        let (config, client_ends) =
            configure(&files).map_err(|why| BadCredentials(format!("{}: {why}", self.shown_as())))?;
        let config = Arc::new(config);
        *last = Some(Read { files, config: config.clone(), client_ends });
        Ok(config)
    }

    fn shown_as(&self) -> String {
        match &self.from {
            TlsFrom::Directory(path) => path.clone(),
            TlsFrom::Secret(name) => format!("Secret {SYSTEM_NAMESPACE}/{name}"),
        }
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

    async fn read(&self) -> Result<Files, BadCredentials> {
        let place = match &self.from {
            TlsFrom::Directory(path) => Place::Directory(path.into()),
            TlsFrom::Secret(name) => Place::Secret(Box::new(Opened::from(&self.secrets, name).await?)),
        };
        let mut ca = None;
        for name in AUTHORITIES {
            if ca.is_none() {
                ca = place.get(name).await?.map(|content| (name, content));
            }
        }
        let Some(ca) = ca else { return Err(place.lacks("ca.pem")) };
        let (mut pairs, mut half) = (vec![], None);
        for (cert, key) in PAIRS {
            match (place.get(cert).await?, place.get(key).await?) {
                (Some(cert), Some(key)) => pairs.push((cert, key)),
                // Half a pair is none, unless there is nothing else.
                (Some(_), None) => drop(half.get_or_insert((cert, key))),
                (None, Some(_)) => drop(half.get_or_insert((key, cert))),
                (None, None) => {}
            }
        }
        match half {
            _ if !pairs.is_empty() => Ok(Files { ca, pairs }),
            Some((there, missing)) => Err(place.lacks(&format!("{missing}, which belongs to {there}"))),
            None => Err(place.lacks("cert.pem and none of client-cert.pem and tls.crt")),
        }
    }
}

async fn read_file(path: &Path) -> Result<Option<Pem>, BadCredentials> {
    let named = |why: &dyn std::fmt::Display| BadCredentials(format!("{}: {why}", path.display()));
    let file = match tokio::fs::File::open(path).await {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(named(&e)),
    };
    let mut all = Zeroizing::default();
    file.take(MAX_FILE + 1).read_to_end(&mut all).await.map_err(|e| named(&e))?;
    if all.len() as u64 > MAX_FILE {
        return Err(named(&"larger than 1 MiB"));
    }
    Ok(Some(all))
}

/// The configuration, and when the newest client certificate ends.
fn configure(files: &Files) -> Result<(ClientConfig, Option<Timestamp>), String> {
    fn bad<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String {
        move |e| format!("{what}: {e}")
    }
    let (name, ca) = &files.ca;
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca) {
        // The reader's own words would repeat a line of what it read.
        let cert = cert.map_err(|_| format!("{name}: is no PEM"))?;
        roots.add(cert).map_err(bad(name))?;
    }
    if roots.is_empty() {
        return Err(format!("{name}: holds no certificate"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let read = |(cert, key): &(Pem, Pem)| -> Result<Arc<CertifiedKey>, String> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(cert)
            .collect::<Result<_, _>>()
            .map_err(|_| "client certificate: is no PEM".to_owned())?;
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|_| "client key: holds no private key in PEM".to_owned())?;
        CertifiedKey::from_der(chain, key, &provider).map(Arc::new).map_err(bad("client certificate and key"))
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
        .map_err(bad("TLS"))?
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
    use crate::docker::credentials::NoSecrets;
    use crate::model::Secret;
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
    async fn shown(credentials: &TlsCredentials, daemon: &TlsAcceptor) -> io::Result<CertificateDer<'static>> {
        let config = credentials.config().await?;
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
        let from = TlsFrom::Directory(root.path().to_str().expect("UTF-8").to_owned());
        let directory = TlsCredentials::new(from, Arc::new(NoSecrets));
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

    /// One Secret, which may be replaced.
    #[derive(Default)]
    struct One(Mutex<Option<Secret>>);

    impl One {
        fn put(&self, values: &[(&str, &str)]) {
            let data: serde_json::Map<_, _> = values
                .iter()
                .map(|(key, text)| {
                    let bytes = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
                    ((*key).to_owned(), bytes.into())
                })
                .collect();
            let secret = serde_json::from_value(serde_json::json!({ "data": data })).expect("a Secret");
            *self.0.lock().expect("whole") = Some(secret);
        }
    }

    #[async_trait::async_trait]
    impl SecretSource for One {
        async fn secret(&self, name: &str) -> Result<Option<Secret>, String> {
            if name == "sealed" {
                return Err("it does not open".to_owned());
            }
            Ok(self.0.lock().expect("whole").clone())
        }
    }

    #[tokio::test]
    async fn a_secret_is_read_like_a_directory_and_what_is_wrong_with_it_is_told_without_its_values() {
        let ca = make_ca("ca", now()).expect("a CA");
        let [one, two] = [(); 2].map(|()| make_client(&ca, "portreeve", None, now()).expect("a certificate"));
        let source = Arc::new(One::default());
        let credentials = TlsCredentials::new(TlsFrom::Secret("w1".into()), source.clone());
        let refused = async || credentials.config().await.expect_err("of no use").0;
        assert_eq!(refused().await, "there is no Secret portreeve-system/w1");
        let sealed = TlsCredentials::new(TlsFrom::Secret("sealed".into()), source.clone());
        assert_eq!(sealed.config().await.expect_err("sealed").0, "Secret portreeve-system/sealed: it does not open");

        let (root, cert, key) = (ca.certificate.as_str(), one.certificate.as_str(), one.key.as_str());
        let one_line = key.replace('\n', "");
        for (values, told) in [
            (vec![("cert.pem", cert), ("key.pem", key)], "has no key ca.pem"),
            (vec![("ca.pem", root)], "has no key cert.pem and none of client-cert.pem and tls.crt"),
            (vec![("ca.pem", root), ("tls.crt", cert)], "has no key tls.key, which belongs to tls.crt"),
            (vec![("ca.pem", root), ("key.pem", key)], "has no key cert.pem, which belongs to key.pem"),
            (vec![("ca.pem", "x"), ("cert.pem", cert), ("key.pem", key)], ": ca.pem: holds no certificate"),
            (
                vec![("ca.pem", root), ("cert.pem", cert), ("key.pem", "hunter2")],
                ": client key: holds no private key in PEM",
            ),
            (
                vec![("ca.pem", root), ("cert.pem", cert), ("key.pem", &one_line)],
                ": client key: holds no private key in PEM",
            ),
            (vec![("ca.pem", &one_line), ("cert.pem", cert), ("key.pem", key)], ": ca.pem: is no PEM"),
            (
                vec![("ca.pem", root), ("cert.pem", &two.certificate), ("key.pem", key)],
                ": client certificate and key: ",
            ),
        ] {
            source.put(&values);
            let why = refused().await;
            let rest = why.strip_prefix("Secret portreeve-system/w1").unwrap_or_else(|| panic!("{why}"));
            assert!(rest.trim_start().starts_with(told), "{why}");
            assert!(!why.contains("hunter2") && !why.contains(&key[40..60]), "{why}");
        }

        source.put(&[("ca.crt", root), ("tls.crt", cert), ("tls.key", key)]);
        let daemon = daemon(&ca);
        assert_eq!(shown(&credentials, &daemon).await.expect("taken"), der(cert));
        let kept = credentials.config().await.expect("good");
        assert!(Arc::ptr_eq(&kept, &credentials.config().await.expect("good")), "nothing has changed");
        source.put(&[("ca.pem", root), ("client-cert.pem", &two.certificate), ("client-key.pem", &two.key)]);
        assert_eq!(shown(&credentials, &daemon).await.expect("taken"), der(&two.certificate));
    }
}
