//! One order, from its beginning to its certificate (RFC 8555 §7.4), by the client library.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeHandle, ChallengeType, Error, HttpClient, Identifier,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use tokio::sync::Mutex;

use super::account::{self, Settings, said};
use super::http::Http;
use super::keep::Directory;
use super::plan::Refusal;
use super::{Authority, Said, Window, on_disk};
use crate::clock::SharedClock;
use crate::pki;
use crate::proxy::{Answer, Challenges, UnderWay};

/// Half a second, and then less often; an ACME server may say otherwise. One that takes longer is left, and tried again later.
const POLL: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).backoff(1.3).timeout(Duration::from_secs(120));

/// How the ACME server looks whether a name leads here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By HTTP at port 80 (RFC 8555 §8.3).
    Http01,
    /// By TLS at port 443 (RFC 8737).
    TlsAlpn01,
}

impl Kind {
    fn type_(self) -> ChallengeType {
        match self {
            Kind::Http01 => ChallengeType::Http01,
            Kind::TlsAlpn01 => ChallengeType::TlsAlpn01,
        }
    }
}

/// An ACME server, as its client.
pub struct Client {
    settings: Settings,
    directory: Directory,
    http: Http,
    challenges: Arc<Challenges>,
    clock: SharedClock,
    account: Mutex<Option<Account>>,
}

impl Client {
    /// Nothing is asked before the first order.
    pub fn new(
        settings: Settings,
        directory: Directory,
        http: Arc<dyn HttpClient>,
        challenges: Arc<Challenges>,
        clock: SharedClock,
    ) -> Client {
        Client { settings, directory, http: Http::new(http), challenges, clock, account: Mutex::default() }
    }

    /// One at a time: there is to be one account.
    async fn account(&self) -> Result<Account, String> {
        let mut opened = self.account.lock().await;
        if let Some(account) = &*opened {
            return Ok(account.clone());
        }
        let account = account::open(&self.settings, &self.directory, &self.http).await?;
        Ok(opened.insert(account).clone())
    }

    /// The ACME server does not know it any more. Who made another meanwhile keeps that.
    async fn forget(&self, account: &Account) -> Result<(), String> {
        let mut opened = self.account.lock().await;
        if opened.as_ref().is_some_and(|now| now.id() == account.id()) {
            tracing::warn!(
                account = account.id(),
                "the ACME server does not know the account any more; another is made"
            );
            *opened = None;
            let directory = self.directory.clone();
            on_disk(move || directory.forget_account()).await?;
        }
        Ok(())
    }

    /// A new order, which names the certificate that it replaces where the server takes that (RFC 9773 §5).
    async fn begin(account: &Account, name: &str, replaces: Option<&CertificateDer<'_>>) -> Result<Order, Error> {
        let identifiers = [Identifier::Dns(name.to_owned())];
        if let Some(replaced) = replaces.and_then(|leaf| CertificateIdentifier::try_from(leaf).ok()) {
            match account.new_order(&NewOrder::new(&identifiers).replaces(replaced)).await {
                Err(error) if takes_no_replacement(&error) => {
                    // It knows no such thing, or has had it replaced already: then it is an order like any other.
                    tracing::debug!(error = said(&error), "an order is made that names no certificate to replace");
                }
                made => return made,
            }
        }
        account.new_order(&NewOrder::new(&identifiers)).await
    }

    async fn order(
        &self,
        account: &Account,
        name: &str,
        replaces: Option<&CertificateDer<'_>>,
    ) -> Result<String, Error> {
        let mut order = Client::begin(account, name, replaces).await?;
        // Until the order is ready.
        let answers = self.answer(&mut order, name).await?;
        if order.poll_ready(&POLL).await? != OrderStatus::Ready {
            return Err(Error::Other(refused_because(&mut order).await.into()));
        }
        drop(answers);
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&POLL).await?;
        Ok(key + &chain)
    }

    /// Puts the answers in their place and has them looked at. What the server knows already it does not look at again.
    async fn answer(&self, order: &mut Order, name: &str) -> Result<Vec<UnderWay>, Error> {
        let mut answers = vec![];
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                status => return Err(Error::Other(format!("the authorization of {name} is {status:?}").into())),
            }
            let kind = self.settings.kind;
            let mut challenge = authorization.challenge(kind.type_()).ok_or(Error::Unsupported(match kind {
                Kind::Http01 => "the challenge http-01",
                Kind::TlsAlpn01 => "the challenge tls-alpn-01",
            }))?;
            let answer = self.answer_to(&challenge, name).map_err(|why| Error::Other(why.into()))?;
            answers.push(self.challenges.answer(name, answer));
            challenge.set_ready().await?;
        }
        Ok(answers)
    }

    fn answer_to(&self, challenge: &ChallengeHandle<'_>, name: &str) -> Result<Answer, String> {
        let authorization = challenge.key_authorization();
        Ok(match self.settings.kind {
            Kind::Http01 => {
                Answer::Http { token: challenge.token.clone(), authorization: authorization.as_str().to_owned() }
            }
            Kind::TlsAlpn01 => {
                let digest = authorization.digest();
                Answer::Tls(pki::make_challenge(name, digest.as_ref(), self.clock.now())?.into())
            }
        })
    }
}

#[async_trait]
impl Authority for Client {
    async fn certificate(&self, name: &str, replaces: Option<&CertificateDer<'_>>) -> Result<String, Refusal> {
        let refusal = |why| Refusal { why, limited: false, wait: None };
        let account = self.account().await.map_err(refusal)?;
        let error = match self.order(&account, name, replaces).await {
            Ok(text) => return Ok(text),
            Err(error) => error,
        };
        if is(&error, "accountDoesNotExist") {
            self.forget(&account).await.map_err(refusal)?;
        }
        let limited = is(&error, "rateLimited");
        Err(Refusal { why: said(&error), limited, wait: limited.then(|| self.http.wait()).flatten() })
    }

    async fn renewal(&self, certificate: &CertificateDer<'_>) -> Said {
        // One without the id of its authority's key has no name of this kind.
        let Ok(id) = CertificateIdentifier::try_from(certificate) else { return Said::Nothing };
        let asked = match self.account().await {
            Ok(account) => account.renewal_info(&id).await,
            Err(why) => return Said::Failed(why),
        };
        match asked {
            Ok((info, again)) => {
                let at = |time: i64| Timestamp::from_second(time).ok();
                let window = &info.suggested_window;
                let times = at(window.start.unix_timestamp()).zip(at(window.end.unix_timestamp()));
                match times.and_then(|(start, end)| Window::new(start, end)) {
                    Some(window) => Said::Window { window, again, explained: info.explanation_url },
                    None => Said::Failed("the window that it suggests has no time in it".to_owned()),
                }
            }
            Err(Error::Unsupported(_)) => Said::Nothing,
            Err(error) => Said::Failed(said(&error)),
        }
    }
}

/// Whether an error is of this kind (RFC 8555 §6.7).
fn is(error: &Error, kind: &str) -> bool {
    let Error::Api(problem) = error else { return false };
    let type_ = problem.r#type.as_deref().and_then(|type_| type_.strip_prefix("urn:ietf:params:acme:error:"));
    type_ == Some(kind)
}

/// What the ACME server found when it looked: of the challenges that it judged.
/// Whether an order that names no certificate to replace may do better. After any other error, such as an answer that was lost,
/// the order may have been made: it is not made twice.
fn takes_no_replacement(error: &Error) -> bool {
    match error {
        Error::Api(_) => !is(error, "rateLimited") && !is(error, "accountDoesNotExist"),
        Error::Unsupported(_) => true,
        // The library's own, where the order that came back does not tell what it replaces.
        Error::Other(why) => why.to_string().starts_with("replaces field mismatch"),
        _ => false,
    }
}

async fn refused_because(order: &mut Order) -> String {
    let mut found = vec![];
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let errors = state.challenges.iter().filter_map(|challenge| challenge.error.clone());
        found.extend(errors.map(|problem| said(&Error::Api(problem))));
    }
    if found.is_empty() { "the ACME server refuses it without saying why".to_owned() } else { found.join("; ") }
}

#[cfg(test)]
#[path = "order/tests.rs"]
mod tests;
