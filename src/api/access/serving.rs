//! The certificate that the API shows, replaced while it serves: connections stay, new ones get the new one.
//!
//! Looked at again on SIGHUP, when its files change, and each hour, so that one of our own making is renewed before it
//! ends. What is broken or over leaves the old one in its place and says so: once in the log, and at each SIGHUP.

use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::credentials::{CredentialError, Source};
use crate::clock::SharedClock;
use crate::pki::files::{Stamp, stamp};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How many looks pass before everything is checked though no file has changed: an hour.
const LOOKS_PER_CHECK: u32 = 720;

/// A certificate of the operator's own, PEM: the chain with the leaf first, and its key.
#[derive(Clone, Debug)]
pub struct OwnCertificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// What clients shall trust. `None`: the last certificate of the chain.
    pub authority: Option<PathBuf>,
}

/// What rustls asks for the certificate of each handshake.
#[derive(Debug)]
pub struct Live(RwLock<Arc<CertifiedKey>>);

impl Live {
    pub fn new(key: CertifiedKey) -> Arc<Live> {
        Arc::new(Live(RwLock::new(Arc::new(key))))
    }

    fn current(&self) -> Arc<CertifiedKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Live {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// The served certificate, and where it comes from.
pub struct Serving {
    source: Source,
    /// The CA that clients' certificates are checked against; changing it needs a restart.
    authority: String,
    live: Arc<Live>,
}

impl Serving {
    pub fn new(source: Source, authority: String, live: Arc<Live>) -> Arc<Serving> {
        Arc::new(Serving { source, authority, live })
    }

    /// Reads everything again and shows what is new. True when it is another certificate. Blocks on the disk.
    ///
    /// # Errors
    /// When what is there cannot be used; then the old one stays.
    pub fn reload(&self, now: Timestamp) -> Result<bool, CredentialError> {
        let fresh = self.source.prepare(now, Some(&self.authority))?;
        if fresh.ends <= now {
            let path = self.source.serving_files()[0].clone();
            return Err(CredentialError::Unusable {
                path,
                why: format!("the certificate has ended at {}", fresh.ends),
            });
        }
        let changed = self.live.current().cert != fresh.serving.cert;
        // A new key for the same certificate cannot be; a renewed certificate may keep its key.
        if changed {
            *self.live.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh.serving);
        }
        Ok(changed)
    }

    /// Reloads when asked to, when the files change, and each hour; until `shutdown`.
    pub async fn follow(self: Arc<Serving>, asked: Arc<Notify>, clock: SharedClock, shutdown: CancellationToken) {
        let (mut seen, mut looks, mut failure) = (self.stamps(), 0, None);
        loop {
            let asked = tokio::select! {
                () = shutdown.cancelled() => return,
                () = asked.notified() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            looks += 1;
            let stamps = self.stamps();
            // Two files are not replaced in one step: what did not fit together is looked at until it does.
            if !asked && failure.is_none() && stamps == seen && looks < LOOKS_PER_CHECK {
                continue;
            }
            (seen, looks) = (stamps, 0);
            let (this, now) = (self.clone(), clock.now());
            let result = tokio::task::spawn_blocking(move || this.reload(now)).await;
            let result = result.unwrap_or_else(|e| {
                let path = self.source.serving_files()[0].clone();
                Err(CredentialError::Unusable { path, why: format!("reading it panicked: {e}") })
            });
            match result {
                Ok(changed) => {
                    if changed || asked {
                        tracing::info!(changed, "the API's certificate was read again");
                    }
                    failure = None;
                }
                Err(e) => {
                    let text = Some(e.source().map_or_else(|| e.to_string(), |cause| format!("{e}: {cause}")));
                    if asked || failure != text {
                        tracing::error!(
                            error = text.as_deref(),
                            "the API's new certificate cannot be used; the old one is kept"
                        );
                    }
                    failure = text;
                }
            }
        }
    }

    fn stamps(&self) -> Vec<Stamp> {
        self.source.serving_files().iter().map(|path| stamp(path)).collect()
    }
}
