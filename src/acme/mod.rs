//! Certificates from an ACME server (RFC 8555), for the host names that lead to instances and that no certificate of the
//! operator's is for.
//!
//! ```text
//! cache.routes() ─┐
//! certificates ───┼─▶ plan ──names──▶ Authority ──order──▶ ACME server ──looks──▶ proxy (challenges)
//! ledger, time ───┤                      └──certificate──▶ disk ──▶ proxy (certificates)
//! suggestions ────┘ (RFC 9773)
//!                    └──▶ Standing: what is told of a name
//! ```
//!
//! Crash-only: what is planned is a function of what is on the disk, and an attempt is written down before it is made. Names
//! come from routes alone: what a stranger asks for by SNI or `Host` orders nothing.

mod account;
mod http;
mod keep;
mod order;
mod plan;
mod renewal;
mod standing;
mod stats;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

pub use account::{Binding, Settings};
pub use keep::Directory;
pub use order::{Client, Kind};
pub use plan::Refusal;
pub use renewal::{Said, Window};
pub use standing::Standing;
pub use stats::Stats;

use crate::cache::Cache;
use crate::clock::SharedClock;
use crate::model::Instance;
use crate::pki::files::FileError;
use crate::proxy::Certificates;
use keep::Held;
use plan::{Ledger, Span, Wanted};
use renewal::Suggestions;
use standing::Seen;

/// Between two looks: what changes meanwhile is taken together.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A look without any change: the operator's certificates may be others.
const LOOK_ANYWAY: Duration = Duration::from_secs(60);
/// One order, with all that the ACME server looks at.
const ORDER_WITHIN: Duration = Duration::from_secs(5 * 60);

/// Who gives certificates.
#[async_trait]
pub trait Authority: Send + Sync + 'static {
    /// A certificate for this name: its key and its chain in one text, PEM. `replaces`: the one that it has.
    async fn certificate(&self, name: &str, replaces: Option<&CertificateDer<'_>>) -> Result<String, Refusal>;
    /// When a certificate of this authority is to be renewed.
    async fn renewal(&self, certificate: &CertificateDer<'_>) -> Said;
}

/// Who is told what became of an instance's certificate.
pub trait Witness: Send + Sync + 'static {
    fn issued(&self, instance: &Instance, message: String);
    fn refused(&self, instance: &Instance, message: String);
}

/// Orders, keeps and shows.
pub struct Acme {
    pub cache: Arc<Cache>,
    pub authority: Arc<dyn Authority>,
    pub witness: Arc<dyn Witness>,
    pub shown: Arc<Certificates>,
    pub clock: SharedClock,
    pub stats: Stats,
    /// Told how it stands with each name.
    pub standing: Arc<Standing>,
    /// A name that is wanted besides those of routes.
    pub also: Option<String>,
    pub held: Kept,
}

/// What is on the disk, and shown.
pub struct Kept {
    directory: Directory,
    ledger: Ledger,
    held: BTreeMap<String, Held>,
    suggestions: Suggestions,
}

impl Kept {
    /// Reads what was kept for this ACME server. Blocks on the disk.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(data_dir: &Path, server: &str, now: Timestamp) -> Result<Kept, FileError> {
        let directory = Directory::open(data_dir, server)?;
        let held = directory.certificates(now).into_iter().map(|held| (held.name.clone(), held)).collect();
        Ok(Kept { ledger: directory.ledger(), directory, held, suggestions: Suggestions::default() })
    }

    pub fn directory(&self) -> Directory {
        self.directory.clone()
    }

    /// Shows all that have not ended.
    pub fn show(&mut self, shown: &Certificates, now: Timestamp) {
        self.held.retain(|_, held| now < held.span.ends);
        shown.replace_ordered(self.held.values().map(|held| held.certificate.clone()).collect());
    }
}

type Done = (String, Result<String, Refusal>);

impl Acme {
    /// Looks, orders and renews until `stop`. Orders that are under way then end as in a crash.
    pub async fn run(mut self, stop: CancellationToken) {
        let ready = self.cache.clone();
        if stop.run_until_cancelled(ready.ready()).await.is_none() {
            return;
        }
        let (mut running, mut under_way) = (FuturesUnordered::new(), BTreeSet::new());
        let (mut asking, mut asked) = (FuturesUnordered::new(), BTreeSet::new());
        loop {
            let seen = self.cache.revision();
            let (begun, questions, wait) = self.look(&under_way, &asked).await;
            for name in begun {
                under_way.insert(name.clone());
                running.push(order(self.authority.clone(), self.leaf(&name), name));
            }
            for name in questions {
                if let Some((held, leaf)) = self.held.held.get(&name).zip(self.leaf(&name)) {
                    asking.push(ask(self.authority.clone(), leaf, name.clone(), held.span.begins));
                    asked.insert(name);
                }
            }
            let cache = self.cache.clone();
            let changed = async {
                tokio::time::sleep(LOOK_EVERY).await;
                cache.wait_beyond(seen).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                Some(done) = running.next(), if !running.is_empty() => {
                    under_way.remove(&done.0);
                    self.finish(done).await;
                }
                Some((name, begins, said)) = asking.next(), if !asking.is_empty() => {
                    asked.remove(&name);
                    self.hear(&name, begins, &said);
                }
                () = changed => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// The names that are to have a certificate of ours.
    fn wanted(&self, now: Timestamp) -> Wanted {
        let routes = self.cache.routes();
        let alive = routes.into_iter().filter(|(_, instance)| instance.metadata.deletion_timestamp.is_none());
        let named = alive.map(|(name, instance)| (name, instance.metadata.namespace.clone()));
        let also = self.also.iter().map(|name| (name.clone(), String::new()));
        named.chain(also).filter(|(name, _)| is_public(name) && !self.shown.has_own(name, now)).collect()
    }

    /// The certificate that a name has, as far as it is still good.
    fn leaf(&self, name: &str) -> Option<CertificateDer<'static>> {
        let held = self.held.held.get(name).filter(|held| self.clock.now() < held.span.ends)?;
        held.certificate.key.cert.first().cloned()
    }

    /// What the ACME server suggests for the certificate of a name that begins at `begins`.
    fn hear(&mut self, name: &str, begins: Timestamp, said: &Said) {
        let now = self.clock.now();
        let changed = self.held.suggestions.heard(name, begins, said, now);
        match said {
            Said::Window { window, explained, .. } if changed => {
                tracing::info!(name, ?window, explained, "the ACME server suggests when to renew a certificate");
            }
            Said::Failed(why) => {
                tracing::debug!(name, why, "the ACME server does not tell when to renew a certificate")
            }
            Said::Window { .. } | Said::Nothing => {}
        }
    }

    /// The names whose orders are to be made now, written down; those of whose certificates it is to be asked when to renew them;
    /// and how long there is nothing else to do.
    async fn look(
        &mut self,
        under_way: &BTreeSet<String>,
        asked: &BTreeSet<String>,
    ) -> (Vec<String>, Vec<String>, Duration) {
        let now = self.clock.now();
        let wanted = self.wanted(now);
        if self.held.held.values().any(|held| held.span.ends <= now) {
            self.held.show(&self.shown, now);
        }
        self.held.ledger.prune(&wanted, now);
        let suggestions = &self.held.suggestions;
        let with = |name: &str, span: Span| Span { window: suggestions.window(name, span), ..span };
        let spans: BTreeMap<String, Span> =
            self.held.held.iter().map(|(name, held)| (name.clone(), with(name, held.span))).collect();
        let (questions, again) = suggestions.due(&wanted, &spans, asked, now);
        self.held.suggestions.prune(&spans);
        let plan = plan::plan(&wanted, &spans, &self.held.ledger, under_way, now);
        for name in &plan.order {
            self.held.ledger.begin(name, &wanted[name], !spans.contains_key(name), now);
        }
        let mut begun = plan.order;
        if !begun.is_empty()
            && let Err(error) = self.write_ledger().await
        {
            // Without a memory the bounds would not hold over a restart.
            tracing::error!(error, "no certificate is ordered, as nothing can be written down");
            begun.clear();
        }
        let ends = wanted.keys().filter_map(|name| Some(spans.get(name)?.ends)).min();
        let failing = self.held.ledger.failing().filter(|name| wanted.contains_key(*name)).count();
        self.stats.names(wanted.len(), wanted.keys().filter(|name| spans.contains_key(*name)).count(), failing, ends);
        let under_way = under_way.iter().chain(&begun).cloned().collect();
        self.standing.set(Seen { wanted, held: spans, ledger: self.held.ledger.clone(), under_way });
        let next = [plan.look, again].into_iter().flatten().min();
        let wait = next.and_then(|at| Duration::try_from(at.duration_since(now)).ok()).unwrap_or(LOOK_ANYWAY);
        (begun, questions, wait.min(LOOK_ANYWAY))
    }

    async fn finish(&mut self, (name, outcome): Done) {
        let now = self.clock.now();
        let outcome = match outcome {
            Ok(text) => self.take(&name, &text, now).await,
            Err(refusal) => Err(refusal),
        };
        let instance = self.cache.route(&name);
        match outcome {
            Ok(ends) => {
                self.held.ledger.succeed(&name);
                self.stats.issued();
                tracing::info!(name, %ends, "a certificate was issued");
                if let Some(instance) = &instance {
                    self.witness
                        .issued(instance, format!("a certificate for {name} was issued; it is good until {ends}"));
                }
            }
            Err(refusal) => {
                self.held.ledger.fail(&name, &refusal, now);
                self.stats.refused(&refusal);
                let again = self.held.ledger.tried(&name).and_then(|tried| tried.again(now)).unwrap_or(now);
                let has = self.held.held.get(&name).filter(|held| now < held.span.ends);
                let until = has.map(|held| format!("the one that it has is shown until {}", held.span.ends));
                let until = until.unwrap_or_else(|| "it has none".to_owned());
                tracing::warn!(name, why = refusal.why, %again, until, "no certificate was issued");
                if let Some(instance) = &instance {
                    let message =
                        format!("no certificate for {name}: {}; {until}; it is tried again at {again}", refusal.why);
                    self.witness.refused(instance, message);
                }
            }
        }
        if let Err(error) = self.write_ledger().await {
            tracing::error!(error, "what became of an order cannot be written down");
        }
    }

    /// Keeps and shows what was issued; when it ends.
    async fn take(&mut self, name: &str, text: &str, now: Timestamp) -> Result<Timestamp, Refusal> {
        let refused = |why| Refusal { why, limited: false, wait: None };
        let held = self.held.directory.accept(name, text).map_err(refused)?;
        let ends = held.span.ends;
        if ends <= now {
            return Err(refused(format!(
                "the certificate has ended at {ends} already: is this machine's clock right?"
            )));
        }
        let (directory, name, text) = (self.held.directory.clone(), name.to_owned(), text.to_owned());
        let written = on_disk(move || directory.put_certificate(&name, &text)).await;
        if let Err(error) = written {
            // It is good until the restart; then another is ordered.
            tracing::error!(error, "a certificate cannot be kept");
        }
        self.held.held.insert(held.name.clone(), held);
        self.held.show(&self.shown, now);
        Ok(ends)
    }

    async fn write_ledger(&self) -> Result<(), String> {
        let (directory, ledger) = (self.held.directory.clone(), self.held.ledger.clone());
        on_disk(move || directory.put_ledger(&ledger)).await
    }
}

async fn order(authority: Arc<dyn Authority>, replaces: Option<CertificateDer<'static>>, name: String) -> Done {
    let span = tracing::info_span!("acme_order", name);
    let ordering = tokio::time::timeout(ORDER_WITHIN, authority.certificate(&name, replaces.as_ref())).instrument(span);
    let late = |_| Refusal { why: format!("it took longer than {ORDER_WITHIN:?}"), limited: false, wait: None };
    let outcome = ordering.await.map_err(late).and_then(|outcome| outcome);
    (name, outcome)
}

async fn ask(
    authority: Arc<dyn Authority>,
    leaf: CertificateDer<'static>,
    name: String,
    begins: Timestamp,
) -> (String, Timestamp, Said) {
    let said = tokio::time::timeout(ORDER_WITHIN, authority.renewal(&leaf)).await;
    (name, begins, said.unwrap_or_else(|_| Said::Failed(format!("it took longer than {ORDER_WITHIN:?}"))))
}

async fn on_disk(write: impl FnOnce() -> Result<(), FileError> + Send + 'static) -> Result<(), String> {
    match tokio::task::spawn_blocking(write).await {
        Ok(written) => written.map_err(|e| format!("{:#}", anyhow::Error::from(e))),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether an ACME server can be asked for a certificate for it: not for addresses, nor for this machine's own name.
fn is_public(name: &str) -> bool {
    name.parse::<IpAddr>().is_err() && name != "localhost" && !name.ends_with(".localhost")
}

#[cfg(test)]
mod tests;
