//! Answers to an ACME server that looks whether a name leads here (RFC 8555 §8): put there by who orders the certificate,
//! given by the proxy before anything else is looked at, and gone with the order.
//!
//! Nothing is answered for a name or token that is not under way: such a request is the app's, and such a handshake nobody's.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Method, Response};
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;

use super::body::ResponseBody;

/// RFC 8555 §8.3.
const HTTP_01: &str = "/.well-known/acme-challenge/";
/// The protocol of RFC 8737, as ALPN names it.
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// What is under way, by name in lower case.
#[derive(Default)]
pub struct Challenges(RwLock<HashMap<String, Answer>>);

/// What the ACME server is to find.
#[derive(Clone, Debug)]
pub enum Answer {
    /// HTTP-01: at the path of the token, this text.
    Http { token: String, authorization: String },
    /// TLS-ALPN-01: this certificate.
    Tls(Arc<CertifiedKey>),
}

/// As long as it lives, the answer is given.
#[must_use = "the answer goes with it"]
pub struct UnderWay {
    challenges: Arc<Challenges>,
    name: String,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.challenges.0.write().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

impl Challenges {
    /// Gives this answer for a name from now on. One order of a name is under way at a time.
    pub fn answer(self: &Arc<Challenges>, name: &str, answer: Answer) -> UnderWay {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), answer);
        UnderWay { challenges: self.clone(), name: name.to_owned() }
    }

    fn find(&self, name: &str) -> Option<Answer> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if known.is_empty() {
            return None;
        }
        known.get(&name.to_ascii_lowercase()).cloned()
    }

    /// The answer to a request for a token that is under way for this host.
    pub(super) fn http(&self, host: &str, head: &Parts) -> Option<Response<ResponseBody>> {
        let asked = head.uri.path().strip_prefix(HTTP_01)?;
        let Some(Answer::Http { token, authorization }) = self.find(host) else { return None };
        if asked != token || !matches!(head.method, Method::GET | Method::HEAD) {
            return None;
        }
        let mut response = Response::new(ResponseBody::Page(Some(Bytes::from(authorization))));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Some(response)
    }

    /// The certificate of a name that is under way.
    pub(super) fn tls(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        match self.find(name?)? {
            Answer::Tls(key) => Some(key),
            Answer::Http { .. } => None,
        }
    }
}

/// Whether a handshake is an ACME server's: it speaks nothing else (RFC 8737 §3).
pub fn is_challenge(hello: &ClientHello<'_>) -> bool {
    let mut asks = false;
    for protocol in hello.alpn().into_iter().flatten() {
        match protocol {
            ACME_TLS => asks = true,
            _ => return false,
        }
    }
    asks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_token_that_is_under_way_for_the_host_is_answered_and_only_so_long() {
        let challenges = Arc::<Challenges>::default();
        let answer = Answer::Http { token: "t".into(), authorization: "t.print".into() };
        let under_way = challenges.answer("alice.test", answer);
        let asked = |method: &str, host: &str, path: &str| {
            let request = http::Request::builder().method(method).uri(path).body(()).unwrap();
            challenges.http(host, &request.into_parts().0).is_some()
        };
        assert!(asked("GET", "alice.test", "/.well-known/acme-challenge/t"));
        assert!(asked("HEAD", "Alice.Test", "/.well-known/acme-challenge/t?x"));
        for (method, host, path) in [
            ("GET", "alice.test", "/.well-known/acme-challenge/"),
            ("GET", "alice.test", "/.well-known/acme-challenge/t/"),
            ("GET", "alice.test", "/.well-known/acme-challenge/u"),
            ("GET", "alice.test", "/t"),
            ("GET", "bob.test", "/.well-known/acme-challenge/t"),
            ("POST", "alice.test", "/.well-known/acme-challenge/t"),
        ] {
            assert!(!asked(method, host, path), "{method} {host}{path}");
        }
        assert!(challenges.tls(Some("alice.test")).is_none());
        drop(under_way);
        assert!(!asked("GET", "alice.test", "/.well-known/acme-challenge/t"));
    }
}
