//! The mode JWT: a signed token whose subject is the instance's owner (RFC 7519, RFC 8725).
//!
//! How a signature is checked is said by the issuer's key, never by the token; keys of a shared secret are not taken. What a
//! token says of where to find its key (`jku`, `jwk`, `x5u`, `x5c`) is not read.

use http::HeaderValue;
use jiff::Timestamp;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::credentials::shown;
use super::jwks::{Away, KeySets};
use super::obstacles::{Obstacle, shown_url};
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
        let Some(kid) = key_name(token) else { continue };
        let keys = match sets.at(&settings.jwks_url, kid.as_deref()).await {
            Ok(keys) => keys,
            Err(Away) => {
                denied = worse(denied, Denied::Unavailable(no_keys(settings, sets)));
                continue;
            }
        };
        match verify(token, kid.as_deref(), &keys, settings, now) {
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

/// The subject of a token that is signed by one of the keys, for us, and valid now.
fn verify(token: &[u8], kid: Option<&str>, keys: &Keys, settings: &JwtAuth, now: Timestamp) -> Option<String> {
    let claims = keys.named(kid).find_map(|key| key.verify(token))?;
    let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
    let for_us = settings.audience.is_empty()
        || match claims.get("aud") {
            Some(Value::String(one)) => *one == settings.audience,
            Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(&settings.audience)),
            Some(_) | None => false,
        };
    let valid = text("iss") == Some(&settings.issuer) && for_us && is_current(&claims, now);
    valid.then(|| text(settings.subject_claim()).map(str::to_owned)).flatten()
}

/// RFC 7519 §4.1.4 and §4.1.5. One without an end is not valid: nobody could take it back.
fn is_current(claims: &Map<String, Value>, now: Timestamp) -> bool {
    let (now, leeway) = (now.as_second() as f64, LEEWAY as f64);
    let begun = match claims.get("nbf") {
        None => true,
        Some(nbf) => nbf.as_f64().is_some_and(|nbf| nbf <= now + leeway),
    };
    begun && claims.get("exp").and_then(Value::as_f64).is_some_and(|exp| now < exp + leeway)
}

/// An issuer's keys, as far as signatures can be checked with them.
#[derive(Debug)]
pub struct Keys(Vec<PublicKey>);

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
        (!keys.is_empty()).then_some(Keys(keys))
    }

    /// Whether a token may be signed by one of these.
    pub fn has(&self, kid: Option<&str>) -> bool {
        self.named(kid).next().is_some()
    }

    /// The keys of this name. A token that names none can only mean the only one.
    fn named(&self, kid: Option<&str>) -> impl Iterator<Item = &PublicKey> {
        let only = self.0.len() == 1;
        self.0.iter().filter(move |key| kid.map_or(only, |kid| key.name.as_deref() == Some(kid)))
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
    fn verify(&self, token: &[u8]) -> Option<Map<String, Value>> {
        let mut rules = Validation::new(self.algorithm);
        rules.validate_exp = false;
        rules.validate_aud = false;
        rules.required_spec_claims.clear();
        decode(token, &self.key, &rules).ok().map(|data| data.claims)
    }
}
