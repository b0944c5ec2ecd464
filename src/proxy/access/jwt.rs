//! The mode JWT: a signed token whose subject is the instance's owner (RFC 7519, RFC 8725).
//!
//! How a signature is checked is said by the issuer's key, never by the token; keys of a shared secret are not taken. What a
//! token says of where to find its key (`jku`, `jwk`, `x5u`, `x5c`) is not read. That a signature is good is remembered
//! ([`super::verified`]); whom and when a token lets in is looked at for each request.

use std::sync::Arc;

use http::HeaderValue;
use jiff::Timestamp;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;

use super::credentials::shown;
use super::jwks::{Away, KeySets};
use super::obstacles::{Obstacle, shown_url};
use super::verified::{Claims, Print, Verified};
use super::{Asked, Denied, Granted};
use crate::model::JwtAuth;

/// Seconds by which an issuer's clock and ours may differ.
pub const LEEWAY: i64 = 30;
/// Most keys of a set that are kept.
const MOST_KEYS: usize = 64;

/// Lets the owner in, by any of the tokens that are shown.
pub async fn check(asked: &Asked<'_>, settings: &JwtAuth, sets: &KeySets, now: Timestamp) -> Result<Granted, Denied> {
    let owner = &asked.instance.spec.owner;
    let mut denied = Denied::Unknown;
    for token in shown(&asked.head.headers, &settings.cookie) {
        let claims = match signed(token, &settings.jwks_url, sets, now).await {
            Ok(claims) => claims,
            Err(Away) => {
                denied = worse(denied, Denied::Unavailable(no_keys(settings, sets)));
                continue;
            }
        };
        match claims.and_then(|claims| subject(&claims, settings, now)) {
            // Of an instance without an owner nobody is.
            Some(subject) if !owner.is_empty() && subject == *owner => {
                let user = HeaderValue::from_bytes(owner.as_bytes()).ok();
                return Ok(Granted { user, ..Granted::default() });
            }
            Some(_) if owner.is_empty() => denied = worse(denied, Denied::Ownerless(no_owner())),
            Some(_) => denied = worse(denied, Denied::Other),
            None => {}
        }
    }
    Err(denied)
}

/// What keeps everybody out whose tokens are good.
pub fn no_owner() -> Obstacle {
    let why = "the instance has no owner, whose tokens would be taken".to_owned();
    Obstacle { reason: "OwnerMissing", field: "spec.owner", why }
}

fn no_keys(settings: &JwtAuth, sets: &KeySets) -> Obstacle {
    let url = &settings.jwks_url;
    let why = sets.failing(url).map_or_else(|| "no answer".to_owned(), |failing| failing.why);
    keys_away(url, &why)
}

/// The keys at this URL cannot be had.
pub fn keys_away(url: &str, why: &str) -> Obstacle {
    let why = format!("the keys at {} cannot be fetched: {why}", shown_url(url));
    Obstacle { reason: "KeysUnavailable", field: "jwt.jwksURL", why }
}

/// The claims of a token that a key of this set has signed.
async fn signed(token: &[u8], url: &str, sets: &KeySets, now: Timestamp) -> Result<Option<Arc<Claims>>, Away> {
    let print = Print::of(token);
    if let Some(claims) = sets.fresh(url).and_then(|keys| keys.remembered(print, now)) {
        return Ok(Some(claims));
    }
    let Some(kid) = key_name(token) else { return Ok(None) };
    let keys = sets.at(url, kid.as_deref()).await?;
    Ok(keys.verify(token, print, kid.as_deref(), now))
}

/// Of two reasons the one that tells more: somebody who is known is not sent to sign in again.
fn worse(one: Denied, other: Denied) -> Denied {
    let rank = |denied: &Denied| match denied {
        Denied::Unknown | Denied::Closed(_) => 0,
        Denied::Unavailable(_) => 1,
        Denied::Other | Denied::Ownerless(_) | Denied::Answer(_) => 2,
    };
    if rank(&other) > rank(&one) { other } else { one }
}

/// The name of the key that a token says it is signed with, if it has one; `None` for what is no token that may be checked.
fn key_name(token: &[u8]) -> Option<Option<String>> {
    let header = decode_header(token).ok()?;
    // RFC 7515 §4.1.11: what must be understood, and is not.
    (header.crit.is_none() && is_asymmetric(header.alg)).then_some(header.kid)
}

fn is_asymmetric(algorithm: Algorithm) -> bool {
    match algorithm {
        Algorithm::ES256
        | Algorithm::ES384
        | Algorithm::RS256
        | Algorithm::RS384
        | Algorithm::RS512
        | Algorithm::PS256
        | Algorithm::PS384
        | Algorithm::PS512
        | Algorithm::EdDSA => true,
        // HS256, HS384, HS512, and what the library may learn.
        _ => false,
    }
}

/// The subject of a token with these claims, if it is for us, and valid now.
fn subject(claims: &Claims, settings: &JwtAuth, now: Timestamp) -> Option<String> {
    let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
    let for_us = settings.audience.is_empty()
        || match claims.get("aud") {
            Some(Value::String(one)) => *one == settings.audience,
            Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(&settings.audience)),
            Some(_) | None => false,
        };
    let valid = text("iss") == Some(&settings.issuer) && for_us && is_current(claims, now);
    valid.then(|| text(settings.subject_claim()).map(str::to_owned)).flatten()
}

/// RFC 7519 §4.1.4 and §4.1.5. One without an end is not valid: nobody could take it back.
fn is_current(claims: &Claims, now: Timestamp) -> bool {
    let (now, leeway) = (now.as_second() as f64, LEEWAY as f64);
    let begun = match claims.get("nbf") {
        None => true,
        Some(nbf) => nbf.as_f64().is_some_and(|nbf| nbf <= now + leeway),
    };
    begun && claims.get("exp").and_then(Value::as_f64).is_some_and(|exp| now < exp + leeway)
}

/// An issuer's keys, as far as signatures can be checked with them.
#[derive(Debug)]
pub struct Keys {
    keys: Vec<PublicKey>,
    verified: Verified,
}

struct PublicKey {
    name: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?}", self.algorithm, self.name)
    }
}

impl Keys {
    /// A set (RFC 7517 §5). Keys of kinds that are not known, or not for signatures, are passed over; `None` when none is left.
    pub fn parse(bytes: &[u8]) -> Option<Keys> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let Set { keys } = serde_json::from_slice(bytes).ok()?;
        let read = keys.into_iter().filter_map(|key| PublicKey::of(&serde_json::from_value(key).ok()?));
        let keys: Vec<PublicKey> = read.take(MOST_KEYS).collect();
        (!keys.is_empty()).then(|| Keys { keys, verified: Verified::default() })
    }

    /// Whether a token may be signed by one of these.
    pub fn has(&self, kid: Option<&str>) -> bool {
        self.named(kid).next().is_some()
    }

    /// What a token claims whose signature was checked before, while it lasts.
    fn remembered(&self, print: Print, now: Timestamp) -> Option<Arc<Claims>> {
        self.verified.get(print, |claims| is_current(claims, now))
    }

    /// What a token claims that one of the keys of this name has signed. It is remembered if it counts now.
    fn verify(&self, token: &[u8], print: Print, kid: Option<&str>, now: Timestamp) -> Option<Arc<Claims>> {
        if let Some(claims) = self.remembered(print, now) {
            return Some(claims);
        }
        let claims = Arc::new(self.named(kid).find_map(|key| key.verify(token))?);
        if is_current(&claims, now) {
            self.verified.put(print, claims.clone(), token.len());
        }
        Some(claims)
    }

    /// The keys of this name. A token that names none can only mean the only one.
    fn named(&self, kid: Option<&str>) -> impl Iterator<Item = &PublicKey> {
        let only = self.keys.len() == 1;
        self.keys.iter().filter(move |key| kid.map_or(only, |kid| key.name.as_deref() == Some(kid)))
    }
}

impl PublicKey {
    fn of(jwk: &Jwk) -> Option<PublicKey> {
        let common = &jwk.common;
        let signs = common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|of| of.contains(&KeyOperations::Verify));
        let by_kind = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => Algorithm::ES256,
            AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P384 => Algorithm::ES384,
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
            _ => return None,
        };
        let algorithm = match common.key_algorithm {
            Some(named) => Algorithm::try_from(named).ok()?,
            None => by_kind,
        };
        // One name may not make of a public key what it is not.
        let same_family = algorithm.family() == by_kind.family();
        let name = common.key_id.clone();
        let key = DecodingKey::from_jwk(jwk).ok()?;
        (signs && same_family && is_asymmetric(algorithm)).then_some(PublicKey { name, algorithm, key })
    }

    /// The claims of a token, if this key signed it by this key's algorithm. Times and names are the caller's to look at:
    /// the library would read the machine's clock.
    fn verify(&self, token: &[u8]) -> Option<Claims> {
        let mut rules = Validation::new(self.algorithm);
        rules.validate_exp = false;
        rules.validate_aud = false;
        rules.required_spec_claims.clear();
        decode(token, &self.key, &rules).ok().map(|data| data.claims)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use bytes::Bytes;
    use http::{Request, Response};
    use serde_json::json;
    use tokio::time::advance;

    use super::super::jwks::FRESH;
    use super::super::{Fetch, jwks};
    use super::*;
    use crate::clock::VirtualClock;

    const URL: &str = "https://issuer.test/jwks";

    fn b64(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn key() -> EcdsaKeyPair {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
    }

    fn set(key: &EcdsaKeyPair) -> String {
        let point = key.public_key().as_ref();
        let (x, y) = (b64(&point[1..33]), b64(&point[33..]));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "x": x, "y": y}]}).to_string()
    }

    fn token(key: &EcdsaKeyPair, change: Value) -> Vec<u8> {
        let mut claims = json!({"iss": "i", "aud": "apps", "sub": "alice", "email": "a@b", "exp": 1000});
        json_patch::merge(&mut claims, &change);
        let message = format!("{}.{}", b64(r#"{"alg": "ES256", "kid": "k"}"#), b64(claims.to_string()));
        let signature = key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", b64(signature)).into_bytes()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn settings(issuer: &str, audience: &str, claim: &str) -> JwtAuth {
        let (issuer, audience, subject_claim) = (issuer.into(), audience.into(), claim.into());
        JwtAuth { issuer, audience, subject_claim, jwks_url: URL.into(), cookie: String::new() }
    }

    fn verify(keys: &Keys, token: &[u8], now: i64) -> Option<Arc<Claims>> {
        keys.verify(token, Print::of(token), Some("k"), at(now))
    }

    #[test]
    fn a_signature_is_checked_once_and_what_it_is_good_for_each_time() {
        let key = key();
        let (keys, good) = (Keys::parse(set(&key).as_bytes()).unwrap(), token(&key, json!({})));
        let claims = verify(&keys, &good, 0).unwrap();
        assert!(Arc::ptr_eq(&claims, &verify(&keys, &good, 0).unwrap()), "it is remembered");
        assert!(Arc::ptr_eq(&claims, &keys.remembered(Print::of(&good), at(0)).unwrap()));
        for (issuer, audience, claim, who) in [
            ("i", "apps", "", Some("alice")),
            ("i", "", "email", Some("a@b")),
            ("i", "others", "", None),
            ("other", "apps", "", None),
            ("i", "apps", "name", None),
        ] {
            let found = subject(&claims, &settings(issuer, audience, claim), at(0));
            assert_eq!(found.as_deref(), who, "{issuer} {audience} {claim}");
        }
        let last = good.len() - 10;
        for i in [0, good.len() / 2, last] {
            let mut other = good.clone();
            other[i] = if other[i] == b'A' { b'B' } else { b'A' };
            assert_eq!(verify(&keys, &other, 0), None, "byte {i} is another");
        }
    }

    #[test]
    fn a_token_is_remembered_only_while_it_lasts() {
        let key = key();
        let (keys, good) = (Keys::parse(set(&key).as_bytes()).unwrap(), token(&key, json!({"nbf": 500})));
        let (print, settings) = (Print::of(&good), settings("i", "apps", ""));
        let is_let_in = |now| verify(&keys, &good, now).and_then(|claims| subject(&claims, &settings, at(now)));
        let remembered = |now| keys.remembered(print, at(now)).is_some();
        assert_eq!((is_let_in(500 - LEEWAY - 1), remembered(600)), (None, false), "not yet");
        assert_eq!((is_let_in(600), remembered(600)), (Some("alice".into()), true));
        assert!(remembered(1000 + LEEWAY - 1));
        assert!(!remembered(1000 + LEEWAY), "over");
        assert!(!remembered(600), "what was over is forgotten");
        assert_eq!((is_let_in(1000 + LEEWAY), remembered(600)), (None, false), "and not remembered again");
    }

    /// Its answer, until it is another.
    struct Issuer(Mutex<String>);

    #[async_trait]
    impl Fetch for Issuer {
        async fn fetch(&self, _: Request<()>, _: usize) -> Result<Response<Bytes>, String> {
            Ok(Response::new(self.0.lock().unwrap().clone().into()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_remembered_goes_with_the_keys_that_signed_it() {
        let (old, new) = (key(), key());
        let issuer = Arc::new(Issuer(Mutex::new(set(&old))));
        let sets = KeySets::new(issuer.clone(), VirtualClock::new());
        let (by_old, by_new) = (token(&old, json!({})), token(&new, json!({})));
        let opens = async |token: &[u8]| signed(token, URL, &sets, at(0)).await.unwrap().is_some();
        assert!(opens(&by_old).await && opens(&by_old).await && !opens(&by_new).await);
        // Of the same name: nothing else tells that it is another.
        *issuer.0.lock().unwrap() = set(&new);
        advance(FRESH).await;
        assert!(opens(&by_old).await, "meanwhile the old ones count");
        while sets.fresh(URL).is_none() {
            tokio::task::yield_now().await;
        }
        assert!(!opens(&by_old).await && opens(&by_new).await);
        advance(jwks::KEPT).await;
        assert!(sets.fresh(URL).is_none(), "too old to be taken unasked");
    }
}
