//! The client library's requests, over the client that it is given: named, and with an eye on how long the server asks to wait.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

/// RFC 8555 §6.1.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("portreeve/", env!("CARGO_PKG_VERSION"), " instant-acme"));

/// Seconds: more than anybody waits here.
const LONGEST: u64 = 30 * 24 * 60 * 60;

#[derive(Clone)]
pub struct Http {
    inner: Arc<dyn HttpClient>,
    /// Seconds, as the last refusal said it; 0: it did not.
    wait: Arc<AtomicU64>,
}

impl Http {
    pub fn new(inner: Arc<dyn HttpClient>) -> Http {
        Http { inner, wait: Arc::default() }
    }

    /// How long the server asked to wait when it was last asked too often. Taken away by this.
    pub fn wait(&self) -> Option<Duration> {
        Some(self.wait.swap(0, Ordering::Relaxed)).filter(|wait| *wait > 0).map(Duration::from_secs)
    }
}

/// The library adds what it is told to the time, and would end with what cannot be added.
fn bound(headers: &mut HeaderMap) {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
    if seconds.is_some_and(|seconds| seconds > LONGEST) {
        headers.insert(RETRY_AFTER, HeaderValue::from(LONGEST));
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        request.headers_mut().insert(USER_AGENT, AGENT);
        let (asking, wait) = (self.inner.request(request), self.wait.clone());
        Box::pin(async move {
            let mut response = asking.await?;
            bound(&mut response.parts.headers);
            // Where it is said of an order that is under way, it is a matter of seconds, and the library's.
            if response.parts.status == StatusCode::TOO_MANY_REQUESTS {
                let seconds =
                    response.parts.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                wait.store(seconds.unwrap_or_default(), Ordering::Relaxed);
            }
            Ok(response)
        })
    }
}
