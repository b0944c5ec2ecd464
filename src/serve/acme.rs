//! The ACME client, by the flags: whom it asks and trusts, and who hears of it.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use super::fetch;
use super::front::Entrances;
use crate::acme::{self, Acme, Binding, Kept, Kind, Settings, Standing, Stats, Witness};
use crate::cache::Cache;
use crate::cli::front::{AcmeArgs, AcmeChallenge};
use crate::cli::serve::ServeArgs;
use crate::clock::SharedClock;
use crate::controllers::recorder::{EventType, Recorder};
use crate::model::{Instance, Resource as _};
use crate::proxy::Certificates;

/// For an answer, to its last byte.
const WITHIN: Duration = Duration::from_secs(30);
/// A chain of certificates is some kilobytes.
const MOST_BYTES: usize = 1 << 20;

/// What orders, once there is something to order for.
pub struct Prepared {
    kept: Kept,
    client: acme::Client,
    shown: Arc<Certificates>,
    clock: SharedClock,
    /// The domain itself, where instances are served at its paths.
    also: Option<String>,
}

/// What was ordered before is shown from now on. `None`: nothing is to be ordered. Blocks on the disk.
pub fn prepare(args: &ServeArgs, entrances: &Entrances, clock: &SharedClock) -> anyhow::Result<Option<Prepared>> {
    let flags = &args.front.acme;
    if !flags.acme {
        return Ok(None);
    }
    let mut kept = Kept::open(&args.data_dir, &flags.acme_server, clock.now())?;
    kept.show(&entrances.shown, clock.now());
    let roots = match &flags.acme_ca {
        Some(file) => roots_of(file).with_context(|| format!("--acme-ca {}", file.display()))?,
        None => fetch::system_roots(),
    };
    let http = Arc::new(AcmeHttp(fetch::client(roots)?));
    let client =
        acme::Client::new(settings(flags)?, kept.directory(), http, entrances.challenges.clone(), clock.clone());
    let also = args.front.proxy_paths.then(|| args.domain.clone());
    Ok(Some(Prepared { kept, client, shown: entrances.shown.clone(), clock: clock.clone(), also }))
}

impl Prepared {
    pub fn begin(self, cache: Arc<Cache>, recorder: Arc<Recorder>, stats: Stats, standing: Arc<Standing>) -> Acme {
        Acme {
            cache,
            authority: Arc::new(self.client),
            witness: Arc::new(Events(recorder)),
            shown: self.shown,
            clock: self.clock,
            stats,
            standing,
            also: self.also,
            held: self.kept,
        }
    }
}

/// Told as Events of the instances.
struct Events(Arc<Recorder>);

impl Witness for Events {
    fn issued(&self, instance: &Instance, message: String) {
        self.0.event(&instance.key(), &instance.metadata.uid, EventType::Normal, "CertificateIssued", message);
    }

    fn refused(&self, instance: &Instance, message: String) {
        self.0.event(&instance.key(), &instance.metadata.uid, EventType::Warning, "CertificateRefused", message);
    }
}

/// The authorities in a PEM file.
fn roots_of(file: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file)? {
        roots.add(certificate?)?;
    }
    if roots.is_empty() {
        bail!("it holds no certificate");
    }
    Ok(roots)
}

/// The client library's way to the ACME server: over TLS alone, within bounds.
struct AcmeHttp(Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>);

impl HttpClient for AcmeHttp {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        // Every URL but the first is the server's word.
        if request.uri().scheme_str() != Some("https") {
            let why = format!("{} is not https", request.uri());
            return Box::pin(async move { Err(Error::Other(why.into())) });
        }
        let client = self.0.clone();
        Box::pin(async move {
            let asking = async {
                let response = client.request(request).await.map_err(|e| Error::Other(Box::new(e)))?;
                let (head, body) = response.into_parts();
                let body = Limited::new(body, MOST_BYTES).collect().await.map_err(Error::Other)?;
                Ok(BytesResponse { parts: head, body: Box::new(body.to_bytes()) })
            };
            tokio::time::timeout(WITHIN, asking)
                .await
                .unwrap_or_else(|_| Err(Error::Other(format!("no answer within {WITHIN:?}").into())))
        })
    }
}

fn settings(flags: &AcmeArgs) -> anyhow::Result<Settings> {
    let binding = flags.acme_eab_key_id.as_ref().zip(flags.acme_eab_key_file.as_ref());
    let binding = binding.map(|(id, file)| {
        let text =
            std::fs::read_to_string(file).map(Zeroizing::new).with_context(|| format!("reading {}", file.display()))?;
        let Ok(key) = URL_SAFE_NO_PAD.decode(text.trim().trim_end_matches('=')) else {
            bail!("{}: must hold a key in base64url", file.display())
        };
        Ok(Binding { id: id.clone(), key: Zeroizing::new(key) })
    });
    Ok(Settings {
        server: flags.acme_server.clone(),
        contact: flags.acme_email.iter().map(|address| format!("mailto:{address}")).collect(),
        binding: binding.transpose()?,
        kind: match flags.acme_challenge {
            AcmeChallenge::Http01 => Kind::Http01,
            AcmeChallenge::TlsAlpn01 => Kind::TlsAlpn01,
        },
    })
}
