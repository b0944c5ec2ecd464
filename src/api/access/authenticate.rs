//! Who asks: a client certificate or a bearer token, and whom they impersonate.
//!
//! Only hashes of tokens are kept. A request without good credentials learns nothing but 401.

use std::sync::Arc;

use http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::super::error::{ApiError, Subject};
use super::authorize::may_do_all;

/// The group of everyone who has shown good credentials.
const AUTHENTICATED: &str = "system:authenticated";

/// Someone who has shown good credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

impl User {
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> User {
        let mut groups: Vec<String> = groups.into_iter().collect();
        if !groups.iter().any(|g| g == AUTHENTICATED) {
            groups.push(AUTHENTICATED.into());
        }
        User { name: name.into(), groups }
    }
}

/// The subject of a client certificate that our CA has signed: set by the server on each request of its connection.
#[derive(Clone, Debug)]
pub struct PeerIdentity(pub User);

/// Knows the credentials. Cheap to clone.
#[derive(Clone, Default)]
pub struct Authenticator {
    tokens: Arc<Vec<([u8; 32], User)>>,
}

impl Authenticator {
    /// An authenticator that knows these tokens; it keeps their SHA-256 only.
    pub fn with_tokens<'a>(tokens: impl IntoIterator<Item = (&'a str, User)>) -> Authenticator {
        let tokens = tokens.into_iter().map(|(token, user)| (hash(token), user)).collect();
        Authenticator { tokens: Arc::new(tokens) }
    }

    /// The user behind a request: the certificate's, else the token's; then the one they impersonate, if they may.
    pub fn authenticate(&self, headers: &HeaderMap, peer: Option<&PeerIdentity>) -> Result<User, ApiError> {
        let user = match peer {
            Some(peer) => peer.0.clone(),
            None => self.by_token(headers).ok_or_else(ApiError::unauthorized)?,
        };
        impersonate(user, headers)
    }

    fn by_token(&self, headers: &HeaderMap) -> Option<User> {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let given = hash(token.trim());
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

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// `kubectl --as`: ignoring the header would run the command as its caller.
fn impersonate(user: User, headers: &HeaderMap) -> Result<User, ApiError> {
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(user);
    }
    let text = |value: &http::HeaderValue| value.to_str().map(str::to_owned).ok();
    let bad = || ApiError::bad_request("an Impersonate header is not readable text");
    let Some(name) = headers.get("impersonate-user") else {
        return Err(ApiError::bad_request("Impersonate headers need Impersonate-User"));
    };
    let name = text(name).ok_or_else(bad)?;
    let users = Subject { group: "", plural: "users", kind: "User", name: name.clone() };
    if !may_do_all(&user) {
        let why = format!(
            "User {:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            user.name
        );
        return Err(ApiError::forbidden(&users, &why));
    }
    let groups = headers.get_all("impersonate-group").iter().map(|g| text(g).ok_or_else(bad));
    Ok(User::new(name, groups.collect::<Result<Vec<_>, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::super::authorize::{ADMINS, Attributes, authorize};
    use super::*;
    use http::StatusCode;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (http::HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    fn known() -> Authenticator {
        Authenticator::with_tokens([("good", User::new("admin", [ADMINS.into()])), ("low", User::new("eve", []))])
    }

    #[test]
    fn only_a_known_token_gets_in() {
        let user = known().authenticate(&headers(&[("authorization", "Bearer good")]), None).unwrap();
        assert_eq!(user.name, "admin");
        for bad in ["Bearer", "Bearer ", "Bearer goo", "Basic good", "good"] {
            let error = known().authenticate(&headers(&[("authorization", bad)]), None).unwrap_err();
            assert_eq!(error.code(), StatusCode::UNAUTHORIZED, "{bad:?}");
        }
        assert!(known().authenticate(&HeaderMap::new(), None).is_err());
    }

    #[test]
    fn impersonation_needs_the_right_and_takes_rights_away() {
        let pairs = [("authorization", "Bearer good"), ("impersonate-user", "nobody")];
        let user = known().authenticate(&headers(&pairs), None).unwrap();
        assert_eq!(user.name, "nobody");
        let wanted =
            Attributes { verb: "delete", group: "portreeve.dev", resource: "instances", namespace: "ns", name: "x" };
        assert_eq!(
            authorize(&user, &wanted).unwrap_err().to_string(),
            "instances.portreeve.dev \"x\" is forbidden: User \"nobody\" cannot delete resource \"instances\" \
             in API group \"portreeve.dev\" in the namespace \"ns\""
        );
        let pairs = [("authorization", "Bearer low"), ("impersonate-user", "admin")];
        assert_eq!(known().authenticate(&headers(&pairs), None).unwrap_err().code(), StatusCode::FORBIDDEN);
    }
}
