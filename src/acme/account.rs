//! The account at the ACME server: made when the first certificate is ordered, and kept.

use std::fmt;

use instant_acme::{Account, ExternalAccountKey, NewAccount};
use zeroize::Zeroizing;

use super::http::Http;
use super::keep::{Directory, KeptAccount};
use super::on_disk;
use super::order::Kind;

/// What the operator said.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The URL of the ACME server's directory (RFC 8555 §7.1.1).
    pub server: String,
    /// URLs of whoever is to hear of trouble, such as `mailto:ops@example.com`.
    pub contact: Vec<String>,
    pub binding: Option<Binding>,
    pub kind: Kind,
}

/// What ties the account to one that the operator has with the server's owner (RFC 8555 §7.3.4).
#[derive(Clone)]
pub struct Binding {
    pub id: String,
    pub key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Binding").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The account that was kept, else a new one. The terms of service are agreed to, as the operator had to say. A crash before
/// a new one is kept leaves one at the server that nobody uses.
pub async fn open(settings: &Settings, directory: &Directory, http: &Http) -> Result<Account, String> {
    let kept = {
        let directory = directory.clone();
        tokio::task::spawn_blocking(move || directory.account()).await.map_err(|e| e.to_string())?
    };
    let builder = Account::builder_with_http(Box::new(http.clone()));
    let Some(mut kept) = kept else { return make(settings, directory, http).await };
    let credentials =
        serde_json::from_value(kept.credentials.clone()).map_err(|e| format!("the account's file: {e}"))?;
    let account = builder.from_credentials(credentials).await.map_err(|e| said(&e))?;
    if kept.contact != settings.contact {
        let contact: Vec<&str> = settings.contact.iter().map(String::as_str).collect();
        account.update_contacts(&contact).await.map_err(|e| said(&e))?;
        kept.contact.clone_from(&settings.contact);
        keep(directory, kept).await?;
    }
    Ok(account)
}

async fn make(settings: &Settings, directory: &Directory, http: &Http) -> Result<Account, String> {
    let contact: Vec<&str> = settings.contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let binding = settings.binding.as_ref().map(|b| ExternalAccountKey::new(b.id.clone(), &b.key));
    let builder = Account::builder_with_http(Box::new(http.clone()));
    let made = builder.create(&new, settings.server.clone(), binding.as_ref()).await;
    let (account, credentials) = made.map_err(|e| format!("no account: {}", said(&e)))?;
    let credentials = serde_json::to_value(&credentials).map_err(|e| e.to_string())?;
    keep(directory, KeptAccount { contact: settings.contact.clone(), credentials }).await?;
    tracing::info!(account = account.id(), "an account was made at the ACME server");
    Ok(account)
}

async fn keep(directory: &Directory, account: KeptAccount) -> Result<(), String> {
    let directory = directory.clone();
    on_disk(move || directory.put_account(&account)).await
}

/// An error with its causes: the library's own words say only that it could not connect.
pub fn said(error: &instant_acme::Error) -> String {
    let mut text = match error {
        instant_acme::Error::Api(problem) => match (&problem.detail, problem.subproblems.is_empty()) {
            (Some(detail), true) => detail.clone(),
            _ => problem.to_string(),
        },
        other => other.to_string(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
