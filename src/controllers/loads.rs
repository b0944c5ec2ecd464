//! What every host carries, as the cache has it: kept up with what changes, never reckoned anew, never stored.
//!
//! cache ──changed keys──▶ [`Loads::fleet`], when somebody asks ──▶ placement, and what hosts tell that is reserved
//!
//! Invariant: whoever asks sees at least what the cache showed when they asked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cache::{Cache, Subscription};
use crate::model::{Key, Kind};
use crate::scheduler::Fleet;

pub struct Loads {
    cache: Arc<Cache>,
    state: Mutex<State>,
}

struct State {
    changes: Subscription,
    fleet: Fleet,
}

/// The fleet, while held. Not to be held across an await.
pub struct FleetNow<'a>(MutexGuard<'a, State>);

impl std::ops::Deref for FleetNow<'_> {
    type Target = Fleet;

    fn deref(&self) -> &Fleet {
        &self.0.fleet
    }
}

impl Loads {
    pub fn new(cache: Arc<Cache>) -> Loads {
        let state = State { changes: cache.subscribe(), fleet: Fleet::default() };
        Loads { cache, state: Mutex::new(state) }
    }

    /// Takes time with the number of records that have changed since somebody last asked.
    pub fn fleet(&self) -> FleetNow<'_> {
        // A panic in between leaves a key out, whose next change puts it right.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(key) = state.changes.try_next() {
            self.take_in(&mut state.fleet, &key);
        }
        FleetNow(state)
    }

    fn take_in(&self, fleet: &mut Fleet, key: &Key) {
        match key.kind {
            Kind::Instance => fleet.set_instance(key, self.cache.instance(key).as_deref()),
            Kind::DockerHost => fleet.set_host(&key.name, self.cache.host(&key.name)),
            Kind::Namespace | Kind::Event | Kind::AccessToken | Kind::Secret | Kind::ConfigMap => {}
        }
    }
}
