//! The mode ForwardAuth: a service says who is let in, as for Traefik's middleware of this name.
//!
//! It is asked anew for every request. Nothing of its answer counts but the status and what its route names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, COOKIE, HOST, HeaderName,
    LOCATION, ORIGIN, SET_COOKIE, USER_AGENT, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::sync::Semaphore;

use super::super::forwarded::{FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PORT, FORWARDED_PROTO};
use super::super::headers::{addresses, join_cookies};
use super::obstacles::{Obstacle, shown_url};
use super::{Asked, Denied, Fetch, Granted};
use crate::model::ForwardAuth;

/// For an answer, to its last byte, the wait for a place included.
pub const WITHIN: Duration = Duration::from_secs(5);
/// Questions to one service at a time; more wait.
const AT_ONCE: usize = 64;
/// Bytes of an answer.
const MOST_BYTES: usize = 256 * 1024;

const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// What the service gets of the visitor's own: who it is, and what it could be shown.
const SHOWN: [HeaderName; 9] = [
    COOKIE,
    AUTHORIZATION,
    ACCEPT,
    ACCEPT_LANGUAGE,
    USER_AGENT,
    ORIGIN,
    HeaderName::from_static("x-requested-with"),
    HeaderName::from_static("sec-fetch-mode"),
    HeaderName::from_static("sec-fetch-site"),
];

/// What a visitor who is not let in gets of the answer.
const ANSWERED: [HeaderName; 5] = [LOCATION, SET_COOKIE, WWW_AUTHENTICATE, CONTENT_TYPE, CONTENT_ENCODING];

pub struct Services {
    fetch: Arc<dyn Fetch>,
    /// By URL, so that a slow one keeps nobody from another.
    places: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Services {
    pub fn new(fetch: Arc<dyn Fetch>) -> Services {
        Services { fetch, places: Mutex::default() }
    }

    pub async fn check(&self, asked: &Asked<'_>, settings: &ForwardAuth) -> Result<Granted, Denied> {
        let answer = tokio::time::timeout(WITHIN, self.ask(asked, &settings.url)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", WITHIN.as_secs())));
        let answer = answer.map_err(|why| {
            tracing::debug!(url = %settings.url, %why, "the service that says who is let in does not answer");
            away(&settings.url, &why)
        })?;
        if answer.status().is_success() {
            let names = settings.response_headers.iter();
            let spoken_for = names.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect();
            let said = answer.into_parts().0.headers;
            return Ok(Granted { spoken_for, said, ..Granted::default() });
        }
        if answer.status().is_informational() {
            return Err(away(&settings.url, &format!("it answered {}", answer.status())));
        }
        Err(Denied::Answer(Box::new(to_visitor(answer))))
    }

    async fn ask(&self, asked: &Asked<'_>, url: &str) -> Result<Response<Bytes>, String> {
        let places = self.places(url);
        let _place = places.acquire().await.map_err(|e| e.to_string())?;
        let mut request = Request::get(url).body(()).map_err(|e| e.to_string())?;
        describe(asked, request.headers_mut());
        self.fetch.fetch(request, MOST_BYTES).await
    }

    fn places(&self, url: &str) -> Arc<Semaphore> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = places.get(url) {
            return found.clone();
        }
        // One that nobody asks now has nothing to remember.
        places.retain(|_, found| Arc::strong_count(found) > 1);
        places.entry(url.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))).clone()
    }
}

/// The reason of what keeps out by the absence of the service.
pub const AWAY: &str = "ServiceUnavailable";

fn away(url: &str, why: &str) -> Denied {
    let why = format!("the service at {} gives no answer that can be used: {why}", shown_url(url));
    Denied::Unavailable(Obstacle { reason: AWAY, field: "forwardAuth.url", why })
}

/// The request, as its service sees it. What the visitor claims in these fields is not among it.
fn describe(asked: &Asked<'_>, headers: &mut HeaderMap) {
    let Asked { head, visitor, host, .. } = asked;
    for name in &SHOWN {
        for value in head.headers.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    join_cookies(headers);
    let mut tell = |name: HeaderName, value: Result<HeaderValue, http::header::InvalidHeaderValue>| {
        // Methods, paths and host names are visible ASCII, or the request would not have come this far.
        if let Ok(value) = value {
            headers.insert(name, value);
        }
    };
    // The host by which the instance was found, in one form, whatever other hosts are named: what the service decides about is
    // what the visitor gets. The port is for links back.
    let sent = head.uri.authority().map(|authority| authority.as_str());
    let sent = sent.or_else(|| head.headers.get(HOST)?.to_str().ok()).unwrap_or_default();
    let port = sent.rsplit_once(':').map(|(_, port)| port).filter(|port| port.parse::<u16>().is_ok());
    let name = host.to_ascii_lowercase();
    tell(FORWARDED_HOST, HeaderValue::try_from(port.map_or(name.clone(), |port| format!("{name}:{port}"))));
    tell(FORWARDED_METHOD, HeaderValue::from_str(head.method.as_str()));
    tell(FORWARDED_URI, HeaderValue::from_str(head.uri.path_and_query().map_or("/", |path| path.as_str())));
    tell(FORWARDED_PROTO, Ok(HeaderValue::from_static(if visitor.secure { "https" } else { "http" })));
    tell(FORWARDED_FOR, Ok(addresses(&visitor.hops)));
    if let Some(port) = &visitor.port {
        tell(FORWARDED_PORT, Ok(port.clone()));
    }
}

fn to_visitor(answer: Response<Bytes>) -> Response<Bytes> {
    let (told, body) = answer.into_parts();
    let mut response = Response::new(body);
    *response.status_mut() = told.status;
    for name in &ANSWERED {
        for value in told.headers.get_all(name) {
            response.headers_mut().append(name, value.clone());
        }
    }
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
