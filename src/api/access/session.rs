//! One request's standing: whose it is, what it takes of its client's account, and how long it may go on.
//!
//! Held by the answer's body (`delivery`) and by sessions in containers, so that what goes on after the head of an answer
//! is counted, and ends when its credentials do, also when nobody reads it.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::audit::Deed;
use super::limits::Permit;
use super::tokens::Lease;
use crate::api::connections::AtWork;
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
    /// As long as it lasts, its connection is not idle.
    _at_work: Option<Arc<AtWork>>,
}

impl Session {
    pub fn new(
        deed: Arc<Deed>,
        lease: Lease,
        permit: Permit,
        (store, clock): (SharedStore, SharedClock),
        at_work: Option<Arc<AtWork>>,
    ) -> Session {
        Session { deed, lease, store, clock, permit: Arc::new(permit), _at_work: at_work }
    }

    /// For how many bytes that were made and not sent yet the client has room, in all that it has open.
    pub fn room(&self) -> Arc<Semaphore> {
        self.permit.room()
    }

    /// Until the credentials are no longer good: revoked, changed or over. Within seconds, and cancel safe.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.lease.clone().ended(self.store.clone(), self.clock.clone())
    }

    /// Whether the credentials cannot end.
    pub fn lease_is_forever(&self) -> bool {
        self.lease.is_forever()
    }
}
