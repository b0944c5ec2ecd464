//! What a visitor shows: bearer tokens and cookies, found, and taken away again. Pure.

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderValue};

/// Most texts of one request that are tried: each may cost a signature.
const MOST_TRIED: usize = 5;

/// All that may be the credential: bearer tokens first, then cookies of this name (empty: none are looked at). A browser sends
/// several of one name when they were set for several domains or paths, so each counts.
pub fn shown<'a>(headers: &'a HeaderMap, cookie: &'a str) -> Vec<&'a [u8]> {
    let bearers = headers.get_all(AUTHORIZATION).iter().filter_map(bearer);
    let cookies = headers.get_all(COOKIE).iter().flat_map(pairs).filter(|(name, _)| is_named(name, cookie));
    bearers.chain(cookies.map(|(_, value)| value)).filter(|text| !text.is_empty()).take(MOST_TRIED).collect()
}

/// RFC 6750 §2.1; the scheme's name is in any case (RFC 9110 §11.1).
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// RFC 6265 §5.4, read as leniently as servers do.
fn pairs(value: &HeaderValue) -> impl Iterator<Item = (&[u8], &[u8])> {
    value.as_bytes().split(|b| *b == b';').map(|pair| {
        let equals = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
        (pair[..equals].trim_ascii(), pair.get(equals + 1..).unwrap_or_default().trim_ascii())
    })
}

fn is_named(name: &[u8], cookie: &str) -> bool {
    !cookie.is_empty() && name == cookie.as_bytes()
}

/// What the app does not get of a visitor's credentials.
#[derive(Debug, Default)]
pub struct Hidden {
    /// The bearer tokens to take away, by their place among the `Authorization` fields.
    pub bearers: Vec<usize>,
    /// The name of the cookies to take away; empty: none.
    pub cookie: String,
}

impl Hidden {
    /// The bearer tokens for which `is_ours`, and all cookies of this name.
    pub fn of(headers: &HeaderMap, cookie: &str, is_ours: impl Fn(&[u8]) -> bool) -> Hidden {
        let fields = headers.get_all(AUTHORIZATION).iter().enumerate();
        let bearers = fields.filter(|(_, value)| bearer(value).is_some_and(&is_ours)).map(|(i, _)| i).collect();
        Hidden { bearers, cookie: cookie.to_owned() }
    }

    pub fn hide(&self, headers: &mut HeaderMap) {
        if !self.bearers.is_empty() {
            let kept = headers.get_all(AUTHORIZATION).iter().enumerate();
            let kept = kept.filter(|(i, _)| !self.bearers.contains(i)).map(|(_, value)| value.clone()).collect();
            replace(headers, AUTHORIZATION, kept);
        }
        if !self.cookie.is_empty() && headers.contains_key(COOKIE) {
            let kept = headers.get_all(COOKIE).iter().filter_map(|value| without(value, &self.cookie)).collect();
            replace(headers, COOKIE, kept);
        }
    }
}

fn replace(headers: &mut HeaderMap, name: http::HeaderName, values: Vec<HeaderValue>) {
    headers.remove(&name);
    for value in values {
        headers.append(&name, value);
    }
}

/// The field without the cookies of this name, byte for byte otherwise; `None` when nothing is left.
fn without(value: &HeaderValue, cookie: &str) -> Option<HeaderValue> {
    if !pairs(value).any(|(name, _)| is_named(name, cookie)) {
        return Some(value.clone());
    }
    let whole = value.as_bytes().split(|b| *b == b';').zip(pairs(value));
    let kept: Vec<&[u8]> = whole.filter(|(_, (name, _))| !is_named(name, cookie)).map(|(text, _)| text).collect();
    let kept = kept.join(&b';');
    let kept = kept.trim_ascii();
    // Parts of a valid value, joined by a sign that it had.
    (!kept.is_empty()).then(|| HeaderValue::from_bytes(kept).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(fields: &[(http::HeaderName, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn texts(headers: &HeaderMap, cookie: &str) -> Vec<String> {
        shown(headers, cookie).into_iter().map(|b| String::from_utf8(b.to_vec()).unwrap()).collect()
    }

    #[test]
    fn bearers_and_cookies_of_the_name_are_shown_and_nothing_else() {
        let headers = map(&[
            (AUTHORIZATION, "bEaReR  one "),
            (AUTHORIZATION, "Basic Zm9v"),
            (AUTHORIZATION, "Bearer"),
            (COOKIE, "a=b; door=two;door= three ; xdoor=no; door; DOOR=no"),
            (COOKIE, "door=a=b"),
        ]);
        assert_eq!(texts(&headers, "door"), ["one", "two", "three", "a=b"]);
        assert_eq!(texts(&headers, ""), ["one"]);
        let many = map(&[(COOKIE, &"door=x;".repeat(50))]);
        assert_eq!(texts(&many, "door").len(), MOST_TRIED);
    }

    #[test]
    fn only_the_credential_is_hidden() {
        let mut headers = map(&[
            (AUTHORIZATION, "Basic Zm9v"),
            (AUTHORIZATION, "Bearer mine"),
            (AUTHORIZATION, "Bearer the-apps"),
            (COOKIE, "a=b; door=x; c=d"),
            (COOKIE, "door=y"),
            (COOKIE, "e=f"),
        ]);
        Hidden::of(&headers, "door", |token| token == b"mine").hide(&mut headers);
        let left = |name| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(left(AUTHORIZATION), ["Basic Zm9v", "Bearer the-apps"]);
        assert_eq!(left(COOKIE), ["a=b; c=d", "e=f"]);
    }

    proptest! {
        /// Whatever else stands in the fields: what is hidden cannot be found any more, and all else can.
        #[test]
        fn nothing_hidden_is_shown(fields in prop::collection::vec("[ab=; \"]{0,20}", 0..4)) {
            let mut headers = HeaderMap::new();
            for field in &fields {
                headers.append(COOKIE, HeaderValue::from_str(field).unwrap());
            }
            let others = |headers: &HeaderMap| {
                let all = headers.get_all(COOKIE).iter().flat_map(pairs).filter(|(name, _)| *name != b"a");
                all.filter(|(name, value)| !name.is_empty() || !value.is_empty())
                    .map(|(name, value)| (name.to_vec(), value.to_vec())).collect::<Vec<_>>()
            };
            let before = others(&headers);
            Hidden { bearers: vec![], cookie: "a".into() }.hide(&mut headers);
            prop_assert!(!headers.get_all(COOKIE).iter().flat_map(pairs).any(|(name, _)| name == b"a"));
            prop_assert_eq!(others(&headers), before);
        }
    }
}
