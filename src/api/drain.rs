//! What a request's body holds when the answer is known before it was read.
//!
//! HTTP/1.1 can only go on with a connection whose last body was read (RFC 9112 §9.3). A refusal that leaves it unread
//! makes the server close, often while the client sends its next request: kubectl and others then show a broken
//! connection in place of the error. So the rest is read and dropped, within bounds; what is beyond them is told to close.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};

/// Most bytes read for nothing.
const MOST: usize = 1 << 20;
const TIME: Duration = Duration::from_secs(1);

/// The request's body, of which the handler has one hand and we the other.
#[derive(Clone)]
struct Shared(Arc<Mutex<Body>>);

impl Shared {
    fn with<T>(&self, look: impl FnOnce(&mut Body) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl hyper::body::Body for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.with(|body| Pin::new(body).poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}

/// Middleware: reads what the handler left of the body.
pub async fn unread(request: Request, next: Next) -> Response {
    if hyper::body::Body::is_end_stream(request.body()) {
        return next.run(request).await;
    }
    let waits_to_be_asked = request.headers().contains_key(header::EXPECT);
    let (head, body) = request.into_parts();
    let mut shared = Shared(Arc::new(Mutex::new(body)));
    let mut response = next.run(Request::from_parts(head, Body::new(shared.clone()))).await;
    if hyper::body::Body::is_end_stream(&shared) || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return response;
    }
    // Reading would ask for a body that nobody wants.
    let read = !waits_to_be_asked && tokio::time::timeout(TIME, rest(&mut shared)).await.unwrap_or(false);
    if !read {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether the end was reached.
async fn rest(body: &mut Shared) -> bool {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > MOST {
            return false;
        }
    }
    true
}
