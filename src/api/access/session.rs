//! One request's standing: whose it is, what it takes of its client's account, and how long it may go on.
//!
//! Held by the answer's body and by sessions in containers, so that what goes on after the head of an answer is
//! counted, and ends when its credentials do.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body as _, Frame, SizeHint};

use super::audit::Deed;
use super::limits::Permit;
use super::tokens::Lease;
use crate::clock::SharedClock;
use crate::store::SharedStore;

/// Cheap to clone; the permit is given back with the last one.
#[derive(Clone)]
pub struct Session {
    /// What the audit will tell of this request.
    pub deed: Arc<Deed>,
    lease: Lease,
    store: SharedStore,
    clock: SharedClock,
    _permit: Arc<Permit>,
}

impl Session {
    pub fn new(deed: Arc<Deed>, lease: Lease, permit: Permit, store: SharedStore, clock: SharedClock) -> Session {
        Session { deed, lease, store, clock, _permit: Arc::new(permit) }
    }

    /// Until the credentials are no longer good: revoked, changed or over. Within seconds, and cancel safe.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.lease.clone().ended(self.store.clone(), self.clock.clone())
    }

    /// The answer's body, bound to this session. One of unknown length, which may go on for hours, ends with it.
    pub fn bind(self, body: Body) -> Body {
        let ended: Option<BoxFuture<'static, ()>> =
            (body.size_hint().exact().is_none() && !self.lease.is_forever()).then(|| Box::pin(self.ended()) as _);
        Body::new(Bound { body, ended, _session: self })
    }
}

struct Bound {
    body: Body,
    ended: Option<BoxFuture<'static, ()>>,
    _session: Session,
}

impl http_body::Body for Bound {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.ended.as_mut().is_some_and(|ended| ended.as_mut().poll(context).is_ready()) {
            (self.ended, self.body) = (None, Body::empty());
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
