//! Access tokens: how a secret is made, told once and found again, and how long what it opened stays open.
//!
//! ```text
//! create ──▶ issue (secret ▶ status.hash) ──▶ store            the secret goes into that one answer, nowhere else
//! request ──▶ find (secret ▶ name ▶ record ▶ hash, end) ──▶ User, Lease
//! stream ──▶ Lease::ended (the record changes, goes, or its time is over)
//! ```
//!
//! A secret names its record, so each request reads the record itself: what is revoked is revoked with the
//! acknowledgement of its deletion, and there is no index to be late.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::super::error::ApiError;
use super::super::object;
use super::authenticate::User;
use super::authorize::role_group;
use super::last_use::LastUses;
use crate::clock::SharedClock;
use crate::model::{AccessToken, Key, Kind, Span, validate_name};
use crate::store::{Record, SharedStore, Store, StoreError, typed};

/// What begins every token, so that scanners of leaked secrets can know it.
pub const PREFIX: &str = "prt_";
/// Longer than any token of ours: what is longer is not looked at.
const MOST_BYTES: usize = 256;
/// How often a stream looks at the wall clock: it may jump.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The pause before a failed look at the record is tried again.
const RETRY: Duration = Duration::from_secs(1);

pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// 256 random bits, as text.
pub fn random() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Gives a new AccessToken its secret: its hash goes into the object, and the secret back to the caller, to be told in
/// the answer by [`tell`] once the object is stored.
pub fn issue(object: &mut Value) -> Result<String, ApiError> {
    let random = random().map_err(|e| ApiError::internal(format!("no random bytes for the token: {e}")))?;
    let secret = format!("{PREFIX}{}.{random}", object::text(object, "name"));
    status(object)["hash"] = hex(&hash(&secret)).into();
    Ok(secret)
}

/// Puts the secret into the answer. What is stored is another copy.
pub fn tell(answer: &mut Value, secret: &str) {
    status(answer)["token"] = secret.into();
}

pub(super) fn status(object: &mut Value) -> &mut Value {
    let status = &mut object["status"];
    if !status.is_object() {
        *status = json!({});
    }
    status
}

/// Makes `status.expires` follow the lifetime.
pub fn set_expiry(object: &mut Value) {
    let span = |text: &str| text.parse::<Span>().ok();
    let lifetime = object.pointer("/spec/lifetime").and_then(Value::as_str).and_then(span);
    let created = object::text(object, "creationTimestamp").parse::<Timestamp>().ok();
    let length = lifetime.and_then(|l| SignedDuration::try_from(l.duration()).ok());
    // A lifetime beyond the end of time is refused by validation.
    let end = created.zip(length).and_then(|(created, length)| created.checked_add(length).ok());
    match end {
        Some(end) => status(object)["expires"] = object::time(end),
        None => {
            if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
                status.remove("expires");
            }
        }
    }
}

/// What of a record decides who its bearer is. When it changes, what the token has opened is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    uid: String,
    user: User,
    hash: String,
    expires: Option<Timestamp>,
}

impl Standing {
    fn of(token: &AccessToken) -> Standing {
        let spec = &token.spec;
        let groups: Vec<String> = if spec.namespaces.is_empty() {
            vec![role_group(spec.role, None)]
        } else {
            spec.namespaces.iter().map(|n| role_group(spec.role, Some(n))).collect()
        };
        Standing {
            uid: token.metadata.uid.clone(),
            user: User::new(token.user(), groups),
            hash: token.status.hash.clone(),
            expires: token.status.expires.map(|t| t.timestamp()),
        }
    }

    /// Of the stored record; `None` when there is none, it is on its way out, or cannot be read.
    async fn read(store: &dyn Store, key: &Key) -> Result<Option<Standing>, StoreError> {
        Ok(good_record(store, key).await?.map(|(_, token)| Standing::of(&token)))
    }

    fn good_at(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|end| now < end)
    }
}

/// The stored record of a token; `None` when there is none, it is on its way out, or cannot be read.
async fn good_record(store: &dyn Store, key: &Key) -> Result<Option<(Record, AccessToken)>, StoreError> {
    let Some(record) = store.get(&key.to_string()).await? else { return Ok(None) };
    let token: Option<AccessToken> = typed::decode(&record)
        .inspect_err(|e| tracing::error!(%key, error = %e, "an access token cannot be read; it opens nothing"))
        .ok();
    Ok(token.filter(|t| t.metadata.deletion_timestamp.is_none()).map(|token| (record, token)))
}

/// The bearer of a token, and the lease on what they open with it. `None`: no such token, or no longer.
/// Its use is noted in `uses`.
pub async fn find(
    store: &SharedStore,
    clock: &SharedClock,
    uses: &LastUses,
    secret: &str,
) -> Result<Option<(User, Lease)>, StoreError> {
    let Some((name, _)) = secret.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')) else { return Ok(None) };
    if secret.len() > MOST_BYTES || validate_name("", name).is_some() {
        return Ok(None);
    }
    let key = Key::new(Kind::AccessToken, "", name);
    let Some((record, token)) = good_record(store.as_ref(), &key).await? else { return Ok(None) };
    let (standing, now) = (Standing::of(&token), clock.now());
    let same = bool::from(standing.hash.as_bytes().ct_eq(hex(&hash(secret)).as_bytes()));
    if !same || !standing.good_at(now) {
        return Ok(None);
    }
    uses.note(store, &key, record, &token, now);
    Ok(Some((standing.user.clone(), Lease::Token { key, standing: standing.into() })))
}

/// How long a credential is good for.
#[derive(Clone, Debug)]
pub enum Lease {
    /// As long as the server runs.
    Always,
    /// Until a certificate's end.
    Until(Timestamp),
    /// As long as the record of an access token says the same.
    Token { key: Key, standing: Box<Standing> },
}

impl Lease {
    /// Whether it never ends by itself.
    pub fn is_forever(&self) -> bool {
        matches!(self, Lease::Always)
    }

    /// Until the credential is no longer good, within seconds. Cancel safe.
    pub async fn ended(self, store: SharedStore, clock: SharedClock) {
        match self {
            Lease::Always => std::future::pending().await,
            Lease::Until(end) => passed(Some(end), &clock).await,
            Lease::Token { key, standing } => tokio::select! {
                () = passed(standing.expires, &clock) => {}
                () = revoked(&key, &standing, &store) => {}
            },
        }
    }
}

async fn passed(end: Option<Timestamp>, clock: &SharedClock) {
    let Some(end) = end else { return std::future::pending().await };
    loop {
        let left = Duration::try_from(end.duration_since(clock.now())).unwrap_or_default();
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_EVERY)).await;
    }
}

async fn revoked(key: &Key, standing: &Standing, store: &SharedStore) {
    let name = key.to_string();
    loop {
        // Watching begins before looking, so that no change comes in between unseen.
        let Ok(mut watch) = store.watch(&name, store.revision()).await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        loop {
            match Standing::read(store.as_ref(), key).await {
                Ok(now) if now.as_ref() != Some(standing) => return,
                Ok(_) => {}
                Err(_) => break,
            }
            // Another token's name may begin with this one's: looking once more does no harm.
            if watch.next().await.is_err() {
                break;
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expiry_follows_the_lifetime_both_ways() {
        let mut token = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"lifetime": "1d"}});
        set_expiry(&mut token);
        assert_eq!(token["status"]["expires"], "2026-01-02T00:00:00Z");
        token["spec"] = json!({});
        set_expiry(&mut token);
        assert_eq!(token["status"], json!({}));
    }

    #[test]
    fn a_secret_is_told_but_never_in_what_is_stored() {
        let mut stored = json!({"metadata": {"name": "ci"}});
        let secret = issue(&mut stored).unwrap();
        assert!(secret.starts_with("prt_ci.") && secret.len() == 7 + 43, "{secret}");
        assert!(!stored.to_string().contains(&secret));
        assert_eq!(stored["status"]["hash"], hex(&hash(&secret)));
        let mut answer = stored.clone();
        tell(&mut answer, &secret);
        assert_eq!(answer["status"]["token"], secret);
    }
}
