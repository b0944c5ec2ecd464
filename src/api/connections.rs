//! The connections of those who have not said who they are, so that they never keep others out.
//!
//! Whoever connects is a stranger until a certificate or a request shows good credentials. Strangers have a share of the
//! connections, and each address (an IPv6 network of 64 bits) a share of that. When a share is full, the newest comes in and
//! the stranger of that share that has waited longest goes: one who has credentials shows them at once, one who has none
//! cannot keep out the next by staying.
//!
//! Called by the server, for each connection; the handler says when someone is known, sessions when they are at work.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::access::limits::Source;

/// Strangers' connections at a time.
pub const MOST_STRANGERS: usize = 1024;
/// Those of one address.
const MOST_OF_SOURCE: usize = 512;

/// All strangers of a server.
#[derive(Default)]
pub struct Strangers(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// The number of the next one: a lower one has waited longer.
    next: u64,
    /// Their connections' ends.
    all: BTreeMap<u64, (Source, CancellationToken)>,
    of_source: HashMap<Source, BTreeSet<u64>>,
}

impl Waiting {
    fn remove(&mut self, number: u64) -> Option<CancellationToken> {
        let (source, end) = self.all.remove(&number)?;
        if let Some(numbers) = self.of_source.get_mut(&source) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.of_source.remove(&source);
            }
        }
        Some(end)
    }

    fn evict(&mut self, number: Option<u64>) {
        if let Some(end) = number.and_then(|number| self.remove(number)) {
            end.cancel();
        }
    }
}

impl Strangers {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets someone in, in the place of another stranger if there is no other.
    pub fn admit(self: &Arc<Strangers>, address: IpAddr) -> Guest {
        let (source, end) = (Source::from(address), CancellationToken::new());
        let mut waiting = self.lock();
        if waiting.of_source.get(&source).is_some_and(|numbers| numbers.len() >= MOST_OF_SOURCE) {
            let oldest = waiting.of_source.get(&source).and_then(|numbers| numbers.first().copied());
            waiting.evict(oldest);
        }
        if waiting.all.len() >= MOST_STRANGERS {
            let oldest = waiting.all.keys().next().copied();
            waiting.evict(oldest);
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.all.insert(number, (source, end.clone()));
        waiting.of_source.entry(source).or_default().insert(number);
        drop(waiting);
        let connection = Connection {
            number,
            strangers: self.clone(),
            end,
            known: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            leave: CancellationToken::new(),
        };
        Guest(Arc::new(connection))
    }

    /// Ends the connection of the stranger who has waited longest, because the server has no room for another.
    pub fn make_room(&self) {
        let mut waiting = self.lock();
        let oldest = waiting.all.keys().next().copied();
        waiting.evict(oldest);
    }

    fn forget(&self, number: u64) {
        self.lock().remove(number);
    }
}

/// A connection's own hold on its place, given up when dropped.
pub struct Guest(pub Arc<Connection>);

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.strangers.forget(self.0.number);
    }
}

/// What is known of one connection. Set by the server on each of its requests.
pub struct Connection {
    number: u64,
    strangers: Arc<Strangers>,
    end: CancellationToken,
    known: AtomicBool,
    requests: AtomicU64,
    busy: AtomicUsize,
    leave: CancellationToken,
}

impl Connection {
    /// Someone has shown good credentials: the place is theirs.
    pub fn greet(&self) {
        if !self.known.swap(true, Ordering::Relaxed) {
            self.strangers.forget(self.number);
        }
    }

    pub fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Until a stranger has to make room for another.
    pub async fn evicted(&self) {
        self.end.cancelled().await;
    }

    /// No further request is taken; answers under way are finished.
    pub fn leave(&self) {
        self.leave.cancel();
    }

    pub async fn left(&self) {
        self.leave.cancelled().await;
    }

    pub fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests there were, if none is being worked on or answered.
    pub fn idle_since(&self) -> Option<u64> {
        (self.busy.load(Ordering::Acquire) == 0).then(|| self.requests.load(Ordering::Relaxed))
    }

    /// Held by each request as long as it goes on.
    pub fn at_work(self: &Arc<Connection>) -> AtWork {
        self.busy.fetch_add(1, Ordering::AcqRel);
        AtWork(self.clone())
    }
}

pub struct AtWork(Arc<Connection>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evicted(guest: &Guest) -> bool {
        guest.0.end.is_cancelled()
    }

    #[test]
    fn the_longest_waiting_stranger_of_an_address_makes_room_for_the_next() {
        let strangers = Arc::new(Strangers::default());
        let [flood, other]: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let neighbour = strangers.admit(other);
        let known = strangers.admit(flood);
        known.0.greet();
        let guests: Vec<Guest> = (0..3000).map(|_| strangers.admit(flood)).collect();
        let gone = guests.iter().filter(|g| evicted(g)).count();
        assert_eq!(gone, 3000 - MOST_OF_SOURCE);
        assert!(evicted(&guests[0]) && !evicted(&guests[2999]), "the oldest go");
        assert!(!evicted(&neighbour) && !evicted(&known), "neither another address nor someone known");
        strangers.make_room();
        assert!(evicted(&neighbour), "when nothing else helps, whoever has waited longest");
        drop(guests);
        assert!(strangers.lock().all.is_empty() && strangers.lock().of_source.is_empty());
    }

    #[test]
    fn strangers_of_many_addresses_have_one_share() {
        let strangers = Arc::new(Strangers::default());
        let guests: Vec<Guest> = (0..3000_u32).map(|i| strangers.admit(IpAddr::from(i.to_be_bytes()))).collect();
        assert_eq!(guests.iter().filter(|g| !evicted(g)).count(), MOST_STRANGERS);
        assert!(!evicted(&guests[2999]));
    }
}
