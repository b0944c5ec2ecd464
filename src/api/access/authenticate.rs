//! Who asks: a client certificate or a bearer token, and whom they impersonate.
//!
//! Only hashes of tokens are kept. A request without good credentials learns nothing but 401.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use subtle::ConstantTimeEq;

use super::super::error::{ApiError, Subject};
use super::audit::Deed;
use super::authorize::{Attributes, is_admin};
use super::last_use::LastUses;
use super::tokens::{self, Lease};
use crate::clock::SharedClock;
use crate::store::SharedStore;

/// The group of everyone who has shown good credentials.
const AUTHENTICATED: &str = "system:authenticated";
/// Groups that one certificate or one impersonation may name.
const MOST_GROUPS: usize = 128;
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
/// Characters of a name that the audit tells of one who may not be impersonated.
const MOST_TOLD: usize = 253;

/// Someone who has shown good credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
    /// What else an impersonation says of them. It is told to who asks who they are, and decides nothing.
    pub uid: String,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> User {
        let mut groups: Vec<String> = groups.into_iter().collect();
        if !groups.iter().any(|g| g == AUTHENTICATED) {
            groups.push(AUTHENTICATED.into());
        }
        User { name: name.into(), groups, uid: String::new(), extra: BTreeMap::new() }
    }
}

/// The subject of a client certificate that our CA has signed: set by the server on each request of its connection.
#[derive(Clone, Debug)]
pub struct PeerIdentity {
    pub user: User,
    /// The certificate's end. TLS looks at it once; a connection may be kept beyond it.
    pub until: Timestamp,
}

/// Where a request's connection comes from: set by the server, too.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub IpAddr);

/// The identity that a request acts as, and whose credentials it came with.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who the request acts as: what it may is theirs.
    pub user: User,
    /// Who impersonates them.
    pub impersonator: Option<User>,
    /// How long the credentials are good for.
    pub lease: Lease,
}

impl Caller {
    /// Who a request acts as: the bearer of its credentials, or the one they impersonate, if they may. A refusal is told to
    /// the audit, as the verb `impersonate` on the `users` that was asked for: it is an attempt at someone's rights,
    /// whatever the request was for.
    ///
    /// # Errors
    /// 403 for an impersonation that is not theirs, 400 for one that is not whole.
    pub fn of((user, lease): (User, Lease), headers: &HeaderMap, deed: &Deed) -> Result<Caller, ApiError> {
        match impersonated(&user, headers) {
            Ok(Some(other)) => Ok(Caller { user: other, impersonator: Some(user), lease }),
            Ok(None) => Ok(Caller { user, impersonator: None, lease }),
            Err(error) => {
                let name = headers.get("impersonate-user").map(|v| String::from_utf8_lossy(v.as_bytes()));
                let name: String = name.unwrap_or_default().chars().take(MOST_TOLD).collect();
                let wanted =
                    Attributes { verb: "impersonate", group: "", resource: "users", namespace: "", name: &name };
                deed.begins(&Caller { user, impersonator: None, lease }, &wanted, false);
                Err(error)
            }
        }
    }

    /// Whose credentials the request came with.
    pub fn bearer(&self) -> &User {
        self.impersonator.as_ref().unwrap_or(&self.user)
    }
}

/// Knows the credentials that are not in the store, and finds those that are. Cheap to clone.
#[derive(Clone, Default)]
pub struct Authenticator {
    tokens: Arc<Vec<([u8; 32], User)>>,
    uses: LastUses,
}

impl Authenticator {
    /// An authenticator that knows these tokens; it keeps their SHA-256 only.
    pub fn with_tokens<'a>(tokens: impl IntoIterator<Item = (&'a str, User)>) -> Authenticator {
        let tokens = tokens.into_iter().map(|(token, user)| (tokens::hash(token), user)).collect();
        Authenticator { tokens: Arc::new(tokens), uses: LastUses::default() }
    }

    /// Whose credentials a request comes with, and how long they are good for: the certificate's, else the token's.
    ///
    /// # Errors
    /// 401 without good credentials; the store's own.
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: Option<&PeerIdentity>,
        store: &SharedStore,
        clock: &SharedClock,
    ) -> Result<(User, Lease), ApiError> {
        match peer {
            Some(peer) if peer.until <= clock.now() => Err(ApiError::unauthorized()),
            Some(peer) => Ok((peer.user.clone(), Lease::Until(peer.until))),
            None => {
                let token = bearer_token(headers).ok_or_else(ApiError::unauthorized)?;
                match self.by_token(token) {
                    Some(user) => Ok((user, Lease::Always)),
                    None => tokens::find(store, clock, &self.uses, token).await?.ok_or_else(ApiError::unauthorized),
                }
            }
        }
    }

    fn by_token(&self, token: &str) -> Option<User> {
        let given = tokens::hash(token);
        // Every known token is compared, so that the time taken tells nothing about which one came close.
        let mut found = None;
        for (known, user) in self.tokens.iter() {
            if bool::from(known.ct_eq(&given)) {
                found = Some(user.clone());
            }
        }
        found
    }
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// `kubectl --as`: ignoring the headers would run the command as its caller. Who may do everything may act as anyone;
/// the rights of the one impersonated are those of the groups that are named, no others.
fn impersonated(user: &User, headers: &HeaderMap) -> Result<Option<User>, ApiError> {
    let named = || headers.keys().map(http::HeaderName::as_str).filter(|name| name.starts_with("impersonate-"));
    if named().next().is_none() {
        return Ok(None);
    }
    let text = |value: &HeaderValue| {
        let bad = || ApiError::bad_request("an Impersonate header is not readable text");
        value.to_str().map(str::to_owned).map_err(|_| bad())
    };
    let name = headers.get("impersonate-user").map(text).transpose()?;
    if !is_admin(user) {
        let users = Subject { group: "", plural: "users", kind: "User", name: name.unwrap_or_default() };
        let why = format!(
            "User {:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            user.name
        );
        return Err(ApiError::forbidden(&users, &why));
    }
    let extra = |name: &str| name.strip_prefix(EXTRA).filter(|key| !key.is_empty()).map(str::to_owned);
    let served = |name: &str| matches!(name, "impersonate-user" | "impersonate-group" | UID) || extra(name).is_some();
    if let Some(other) = named().find(|name| !served(name)) {
        let message = format!("{other} is not served; Impersonate-User, -Group, -Uid and -Extra-KEY are");
        return Err(ApiError::bad_request(message));
    }
    let Some(name) = name.filter(|n| !n.is_empty()) else {
        return Err(ApiError::bad_request("Impersonate headers need Impersonate-User"));
    };
    let all = |header: &str| headers.get_all(header).iter().map(text).collect::<Result<Vec<_>, _>>();
    let groups = all("impersonate-group")?;
    if groups.len() > MOST_GROUPS {
        return Err(ApiError::bad_request(format!("more than {MOST_GROUPS} groups are impersonated")));
    }
    let mut user = User::new(name, groups);
    user.uid = headers.get(UID).map(text).transpose()?.unwrap_or_default();
    for header in named() {
        if let Some(key) = extra(header) {
            // A key may have any characters, a header's name may not (RFC 9110).
            let key = percent_decode_str(&key).decode_utf8_lossy().into_owned();
            user.extra.entry(key).or_default().extend(all(header)?);
        }
    }
    Ok(Some(user))
}

/// Who a certificate speaks for: the common name is the user, each organization a group. rustls has verified it.
pub fn identity(der: &[u8]) -> Option<PeerIdentity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).take(MOST_GROUPS);
    let until = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
    (!name.is_empty()).then(|| PeerIdentity { user: User::new(name, groups), until })
}

#[cfg(test)]
mod tests {
    use super::super::audit::AuditLog;
    use super::super::authorize::{ADMINS, decide};
    use super::*;
    use crate::clock::SystemClock;
    use crate::store::MemoryStore;
    use http::StatusCode;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(http::HeaderName::from_static(name), value.parse().unwrap());
        }
        map
    }

    async fn ask(pairs: &[(&'static str, &str)], peer: Option<&PeerIdentity>) -> Result<Caller, ApiError> {
        let known = Authenticator::with_tokens([
            ("good", User::new("admin", [ADMINS.into()])),
            ("low", User::new("eve", ["portreeve:editor".into()])),
        ]);
        let store: SharedStore = MemoryStore::new();
        let headers = headers(pairs);
        let bearer = known.authenticate(&headers, peer, &store, &SystemClock::new()).await?;
        Caller::of(bearer, &headers, &Deed::new(AuditLog::default(), SystemClock::new(), None))
    }

    #[tokio::test]
    async fn only_a_known_token_gets_in() {
        assert_eq!(ask(&[("authorization", "Bearer good")], None).await.unwrap().user.name, "admin");
        for bad in ["Bearer", "Bearer ", "Bearer goo", "Basic good", "good", "Bearer prt_.", "Bearer prt_../x.y"] {
            let error = ask(&[("authorization", bad)], None).await.unwrap_err();
            assert_eq!(error.code(), StatusCode::UNAUTHORIZED, "{bad:?}");
        }
        assert!(ask(&[], None).await.is_err());
    }

    #[tokio::test]
    async fn a_certificate_wins_and_ends() {
        let now = SystemClock::new().now();
        let peer = |until| PeerIdentity { user: User::new("bob", []), until };
        let good = peer(now + jiff::SignedDuration::from_hours(1));
        assert_eq!(ask(&[("authorization", "Bearer good")], Some(&good)).await.unwrap().user.name, "bob");
        let over = ask(&[("authorization", "Bearer good")], Some(&peer(now))).await.unwrap_err();
        assert_eq!(over.code(), StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn impersonation_is_for_admins_and_gives_what_the_groups_give() {
        let admin = ("authorization", "Bearer good");
        let group = ("impersonate-group", "portreeve:viewer:a");
        let caller = ask(&[admin, ("impersonate-user", "nobody"), group], None).await.unwrap();
        assert_eq!((caller.user.name.as_str(), caller.bearer().name.as_str()), ("nobody", "admin"));
        let may = |verb, namespace| {
            let wanted = super::super::Attributes { verb, group: "", resource: "pods", namespace, name: "" };
            decide(&caller.user, &wanted).allowed
        };
        assert!(may("list", "a") && !may("list", "b") && !may("delete", "a"));
        let more = [("impersonate-uid", "7"), ("impersonate-extra-a%2fb", "x"), ("impersonate-extra-a%2fb", "y")];
        let told = ask(&[&[admin, ("impersonate-user", "x")], &more[..]].concat(), None).await.unwrap().user;
        assert_eq!((told.uid.as_str(), &told.extra["a/b"][..]), ("7", &["x".to_owned(), "y".to_owned()][..]));
        for (pairs, code) in [
            (vec![admin, group], 400),
            (vec![admin, ("impersonate-user", "x"), ("impersonate-other", "1")], 400),
            (vec![admin, ("impersonate-user", "x"), ("impersonate-extra-", "y")], 400),
            (vec![admin, ("impersonate-uid", "1")], 400),
            (vec![("authorization", "Bearer low"), ("impersonate-user", "admin")], 403),
            (vec![("authorization", "Bearer low"), ("impersonate-uid", "1")], 403),
            (vec![("authorization", "Bearer low"), group], 403),
        ] {
            assert_eq!(ask(&pairs, None).await.unwrap_err().code().as_u16(), code, "{pairs:?}");
        }
    }
}
