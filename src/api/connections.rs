//! The connections of those who have not said who they are, so that they never keep others out.
//!
//! Whoever connects is a stranger until a certificate or a request shows good credentials. Strangers have a share of the
//! connections, and each address (an IPv6 network of 64 bits) a share of that. When a share is full, the newest comes in and
//! the stranger of that share that has waited longest goes: one who has credentials shows them at once, one who has none
//! cannot keep out the next by staying.
//!
//! Who is known has a place of their own, but not all of them: the next connection of a user who has very many is told so
//! and closed.
//!
//! Called by the server, for each connection; the handler says when someone is known, sessions when they are at work.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio_util::sync::CancellationToken;

use super::access::limits::Source;

/// Strangers' connections at a time.
pub const MOST_STRANGERS: usize = 1024;
/// Those of one address.
const MOST_OF_SOURCE: usize = 512;
/// Connections of one user at a time: room for each of their streams over HTTP/1, where each takes one.
pub const MOST_OF_USER: usize = 512;

/// All strangers of a server, and how many connections each known user has.
#[derive(Default)]
pub struct Strangers(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// The number of the next one: a lower one has waited longer.
    next: u64,
    /// Their connections' ends.
    all: BTreeMap<u64, (Source, CancellationToken)>,
    of_source: HashMap<Source, BTreeSet<u64>>,
    of_user: HashMap<String, usize>,
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
            user: OnceLock::new(),
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

    /// Counts a connection as a user's, unless they have as many as they may.
    fn has_room_for(&self, user: &str) -> bool {
        let mut waiting = self.lock();
        let count = waiting.of_user.entry(user.to_owned()).or_default();
        let room = *count < MOST_OF_USER;
        *count += usize::from(room);
        room
    }

    fn farewell(&self, user: &str) {
        let mut waiting = self.lock();
        if let Some(count) = waiting.of_user.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                waiting.of_user.remove(user);
            }
        }
    }
}

/// A connection's own hold on its place, given up when dropped.
pub struct Guest(pub Arc<Connection>);

impl Drop for Guest {
    fn drop(&mut self) {
        let connection = &self.0;
        connection.strangers.forget(connection.number);
        if let Some(Some(user)) = connection.user.get() {
            connection.strangers.farewell(user);
        }
    }
}

/// What is known of one connection. Set by the server on each of its requests.
pub struct Connection {
    number: u64,
    strangers: Arc<Strangers>,
    end: CancellationToken,
    /// Whose it is: the first who has shown good credentials over it, or nobody's if they have too many.
    user: OnceLock<Option<String>>,
    requests: AtomicU64,
    busy: AtomicUsize,
    leave: CancellationToken,
}

impl Connection {
    /// A user has shown good credentials: the place is theirs, unless they have [`MOST_OF_USER`] already: `false`.
    pub fn greet(&self, user: &str) -> bool {
        let place = self.user.get_or_init(|| {
            let room = self.strangers.has_room_for(user);
            if room {
                self.strangers.forget(self.number);
            }
            room.then(|| user.to_owned())
        });
        place.is_some()
    }

    pub fn is_known(&self) -> bool {
        self.user.get().is_some_and(Option::is_some)
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
        assert!(known.0.greet("a"));
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

    #[test]
    fn a_user_has_their_share_and_no_more() {
        let strangers = Arc::new(Strangers::default());
        let mut guests: Vec<Guest> = (0..=MOST_OF_USER).map(|_| strangers.admit([10, 0, 0, 1].into())).collect();
        let greeted: Vec<bool> = guests.iter().map(|g| g.0.greet("a")).collect();
        assert_eq!(greeted.iter().filter(|known| **known).count(), MOST_OF_USER);
        let last = guests.pop().expect("one too many");
        assert!(!last.0.is_known() && !last.0.greet("a"), "once refused, always");
        assert!(strangers.admit([10, 0, 0, 1].into()).0.greet("b"), "another user's share is another");
        assert!(guests[0].0.greet("b"), "whose it is, it stays");
        guests.pop();
        assert!(strangers.admit([10, 0, 0, 1].into()).0.greet("a"), "one has gone");
        drop((guests, last));
        assert!(strangers.lock().of_user.is_empty() && strangers.lock().all.is_empty());
    }
}
