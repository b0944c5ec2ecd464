//! One request's standing: whose it is, what it takes of its client's account, and how long it may go on.
//!
//! Held by the answer's body and by sessions in containers, so that what goes on after the head of an answer is
//! counted, and ends when its credentials do, also when nobody reads it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::audit::Deed;
use super::limits::Permit;
use super::tokens::Lease;
use crate::api::connections::AtWork;
use crate::api::cut::Cut;
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
    permit: Arc<Permit>,
    /// Ends the answer from outside of it.
    pub cut: Cut,
    /// As long as it lasts, its connection is not idle.
    _at_work: Option<Arc<AtWork>>,
}

impl Session {
    pub fn new(
        deed: Arc<Deed>,
        lease: Lease,
        permit: Permit,
        (store, clock): (SharedStore, SharedClock),
        cut: Cut,
        at_work: Option<Arc<AtWork>>,
    ) -> Session {
        Session { deed, lease, store, clock, permit: Arc::new(permit), cut, _at_work: at_work }
    }

    /// For how many bytes that were made and not sent yet the client has room, in all that it has open.
    pub fn room(&self) -> Arc<Semaphore> {
        self.permit.room()
    }

    /// Until the credentials are no longer good: revoked, changed or over. Within seconds, and cancel safe.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.lease.clone().ended(self.store.clone(), self.clock.clone())
    }

    /// The answer's body, bound to this session. One of unknown length, which may go on for hours, ends with it.
    pub fn bind(self, body: Body) -> Body {
        let gone = CancellationToken::new();
        let bound = body.size_hint().exact().is_none() && !self.lease.is_forever();
        let over = bound.then(|| Box::pin(self.over(gone.clone())) as _);
        Body::new(Bound { body, over, _gone: gone.drop_guard(), _session: self })
    }

    /// Until the body is to end. A task watches over it, which ends the answer itself when the body is not read to its end.
    fn over(&self, gone: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let over = CancellationToken::new();
        let (told, ended, cut) = (over.clone(), self.ended(), self.cut.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = gone.cancelled() => return,
                () = ended => {}
            }
            told.cancel();
            cut.unless(&gone).await;
        });
        over.cancelled_owned()
    }
}

struct Bound {
    body: Body,
    over: Option<BoxFuture<'static, ()>>,
    _gone: DropGuard,
    _session: Session,
}

impl http_body::Body for Bound {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.over.as_mut().is_some_and(|over| over.as_mut().poll(context).is_ready()) {
            (self.over, self.body) = (None, Body::empty());
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
