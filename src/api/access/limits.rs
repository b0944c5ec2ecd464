//! What one client may take: requests at a time, streams at a time, bytes of watches under way, and wrong credentials over
//! time.
//!
//! A client is the user whose credentials a request comes with, so that one of them cannot use up what all share.
//! Wrong credentials have no user; they are counted by the address that they come from. Good credentials are never
//! refused for what others did from the same address: nobody can lock out their neighbours.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::super::error::ApiError;

/// Requests of one user that may be under way at a time, streams not counted.
pub const REQUESTS: usize = 200;
/// Watches, followed logs, and sessions in containers that one user may have open at a time.
pub const STREAMS: usize = 500;
/// Bytes that the watches of one user may have under way: encoded, and not yet sent.
pub const ROOM: usize = 32 << 20;
/// Wrong credentials in a row from one address before it is told to wait.
const FAILURES: u32 = 20;
/// How long until one more is forgiven.
const FORGIVE_EVERY: Duration = Duration::from_secs(3);
/// Addresses remembered at a time; the longest unheard goes first.
const MOST_ADDRESSES: usize = 4096;

/// What one request is to its client's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Answered and over.
    Request,
    /// Goes on after its head is answered.
    Stream,
}

#[derive(Default)]
pub struct Limits {
    clients: Mutex<HashMap<String, Taken>>,
    failures: Mutex<HashMap<Source, Failures>>,
}

#[derive(Debug)]
struct Taken {
    requests: usize,
    streams: usize,
    room: Arc<Semaphore>,
}

impl Default for Taken {
    fn default() -> Taken {
        Taken { requests: 0, streams: 0, room: Arc::new(Semaphore::new(ROOM)) }
    }
}

impl Taken {
    fn of(&mut self, what: Use) -> (&mut usize, usize) {
        match what {
            Use::Request => (&mut self.requests, REQUESTS),
            Use::Stream => (&mut self.streams, STREAMS),
        }
    }
}

/// An IPv4 address, or the network of 64 bits that one customer has at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Source {
        match address.to_canonical() {
            IpAddr::V4(v4) => Source::V4(v4.octets()),
            IpAddr::V6(v6) => Source::V6(v6.octets()[..8].try_into().expect("eight of sixteen")),
        }
    }
}

/// A bucket that leaks one failure after the other.
#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    /// When the count was brought up to date, on the monotonic clock.
    at: Duration,
}

/// One use of a client's account, given back when dropped.
pub struct Permit {
    limits: Arc<Limits>,
    client: String,
    what: Use,
    room: Arc<Semaphore>,
}

impl Permit {
    /// The room for the client's bytes under way: [`ROOM`] permits, shared by all that it has open.
    pub fn room(&self) -> Arc<Semaphore> {
        self.room.clone()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut clients = lock(&self.limits.clients);
        if let Some(taken) = clients.get_mut(&self.client) {
            *taken.of(self.what).0 -= 1;
            if taken.requests + taken.streams == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

impl Limits {
    /// Takes one use of a client's account.
    ///
    /// # Errors
    /// 429 when the client has all that it may have.
    pub fn take(self: &Arc<Limits>, client: &str, what: Use) -> Result<Permit, ApiError> {
        let mut clients = lock(&self.clients);
        let taken = clients.entry(client.to_owned()).or_default();
        let (count, most) = taken.of(what);
        if *count >= most {
            let message = match what {
                Use::Request => format!("{client} has {most} requests under way, which is all that one user may have"),
                Use::Stream => format!("{client} has {most} streams open, which is all that one user may have"),
            };
            return Err(ApiError::too_many(message, Duration::from_secs(1)));
        }
        *count += 1;
        let room = taken.room.clone();
        drop(clients);
        Ok(Permit { limits: self.clone(), client: client.to_owned(), what, room })
    }

    /// Counts wrong credentials from an address. `now`: on the monotonic clock.
    ///
    /// # Errors
    /// 429 when there were too many; then the caller answers that instead of 401.
    pub fn failed(&self, address: IpAddr, now: Duration) -> Result<(), ApiError> {
        let source = Source::from(address);
        let mut all = lock(&self.failures);
        if all.len() >= MOST_ADDRESSES && !all.contains_key(&source) {
            all.retain(|_, f| f.left(now) > 0);
            if all.len() >= MOST_ADDRESSES {
                let oldest = all.iter().min_by_key(|(_, f)| f.at).map(|(source, _)| *source);
                oldest.map(|source| all.remove(&source));
            }
        }
        let failures = all.entry(source).or_insert(Failures { count: 0, at: now });
        let left = failures.left(now);
        if left >= FAILURES {
            let message = "too many requests with wrong credentials came from this address";
            return Err(ApiError::too_many(message, FORGIVE_EVERY));
        }
        // What has leaked by a part stays leaked by it.
        let forgiven = failures.count - left;
        let at = if left == 0 { now } else { failures.at + FORGIVE_EVERY * forgiven };
        *failures = Failures { count: left + 1, at };
        Ok(())
    }
}

impl Failures {
    fn left(&self, now: Duration) -> u32 {
        let forgiven = now.saturating_sub(self.at).as_millis() / FORGIVE_EVERY.as_millis();
        self.count.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_client_cannot_take_what_another_needs() {
        let limits = Arc::new(Limits::default());
        let mut held: Vec<Permit> = (0..STREAMS).map(|_| limits.take("a", Use::Stream).unwrap()).collect();
        assert!(limits.take("a", Use::Stream).is_err());
        let others = [limits.take("a", Use::Request).unwrap(), limits.take("b", Use::Stream).unwrap()];
        held.pop();
        drop(limits.take("a", Use::Stream).unwrap());
        drop((held, others));
        assert!(lock(&limits.clients).is_empty(), "a client without anything is forgotten");
    }

    #[test]
    fn wrong_credentials_are_forgiven_one_after_the_other() {
        let limits = Limits::default();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let try_at = |a: &str, now| limits.failed(address(a), now).is_ok();
        for _ in 0..FAILURES {
            assert!(try_at("10.0.0.1", SECOND));
        }
        assert!(!try_at("10.0.0.1", SECOND) && !try_at("::ffff:10.0.0.1", 3 * SECOND));
        assert!(try_at("10.0.0.2", SECOND), "another address");
        assert!(try_at("10.0.0.1", 4 * SECOND), "one is forgiven");
        assert!(!try_at("10.0.0.1", 6 * SECOND));
        assert!(try_at("10.0.0.1", 7 * SECOND));
        for i in 0..FAILURES {
            assert!(try_at(&format!("fd00::1:{i:x}"), SECOND));
        }
        assert!(!try_at("fd00::2", SECOND), "addresses of one network are one source");
    }

    #[test]
    fn the_memory_of_addresses_is_bounded() {
        let limits = Limits::default();
        for i in 0..u32::try_from(MOST_ADDRESSES).unwrap() + 100 {
            limits.failed(IpAddr::from(i.to_be_bytes()), SECOND + Duration::from_nanos(i.into())).unwrap();
        }
        assert_eq!(lock(&limits.failures).len(), MOST_ADDRESSES);
    }
}
