//! Tokens whose signature was found good, so that it is not checked for each request: that takes longer than all else of a
//! small one.
//!
//! What is remembered is that a key of a set signed these very bytes, and what they claim; nothing that follows from it. Issuer,
//! audience, subject and times are looked at for each request, as if the signature had just been checked: so an entry opens
//! nothing that its token would not. It belongs to one set of keys and goes with it.
//!
//! Invariant: the tokens that are remembered have [`MOST_BYTES`] at most, but for the last one of each generation.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

pub type Claims = Map<String, Value>;

/// Bytes of the tokens of both generations: some eight thousand of a usual length. What they claim takes about twice as much.
const MOST_BYTES: usize = 8 << 20;

/// Stands for a token: nobody can make another one of it, and it opens nothing by itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Print([u8; 32]);

impl Print {
    pub fn of(token: &[u8]) -> Print {
        Print(Sha256::digest(token).into())
    }
}

/// One for each set of keys.
#[derive(Default)]
pub struct Verified(Mutex<Generations>);

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Generations { young, old, .. } = &*self.lock();
        write!(f, "{} tokens", young.len() + old.len())
    }
}

/// When the young have half of the bytes they become the old ones, whose predecessors are forgotten. What is used stays young.
#[derive(Default)]
struct Generations {
    young: HashMap<Print, Entry>,
    old: HashMap<Print, Entry>,
    /// Of the tokens of the young.
    bytes: usize,
}

#[derive(Clone)]
struct Entry {
    claims: Arc<Claims>,
    /// Of the token.
    bytes: usize,
}

impl Verified {
    /// The claims of a token that is remembered, if they pass; else it is forgotten.
    pub fn get(&self, print: Print, passes: impl Fn(&Claims) -> bool) -> Option<Arc<Claims>> {
        let mut generations = self.lock();
        let young = generations.young.get(&print);
        let (entry, is_old) = match young {
            Some(entry) => (entry.clone(), false),
            None => (generations.old.remove(&print)?, true),
        };
        if !passes(&entry.claims) {
            generations.forget(print);
            return None;
        }
        let claims = entry.claims.clone();
        if is_old {
            generations.add(print, entry);
        }
        Some(claims)
    }

    /// Remembers a token of so many bytes whose signature was checked.
    pub fn put(&self, print: Print, claims: Arc<Claims>, bytes: usize) {
        let mut generations = self.lock();
        generations.forget(print);
        generations.add(print, Entry { claims, bytes });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generations> {
        // Every update keeps it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    /// One that is in neither generation.
    fn add(&mut self, print: Print, entry: Entry) {
        self.bytes += entry.bytes;
        self.young.insert(print, entry);
        if self.bytes >= MOST_BYTES / 2 {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
    }

    fn forget(&mut self, print: Print) {
        self.old.remove(&print);
        if let Some(entry) = self.young.remove(&print) {
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn claims(number: usize) -> Arc<Claims> {
        Arc::new(Map::from_iter([("sub".to_owned(), json!(number))]))
    }

    fn print(number: usize) -> Print {
        Print::of(number.to_string().as_bytes())
    }

    fn all(_: &Claims) -> bool {
        true
    }

    fn bytes(verified: &Verified) -> usize {
        let Generations { young, old, .. } = &*verified.lock();
        young.values().chain(old.values()).map(|entry| entry.bytes).sum()
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_makes_room() {
        let (verified, large) = (Verified::default(), MOST_BYTES / 64);
        verified.put(print(0), claims(0), large);
        verified.put(print(1), claims(1), large);
        for number in 2..1000 {
            verified.put(print(number), claims(number), large);
            assert_eq!(verified.get(print(0), all), Some(claims(0)), "{number}");
            assert!(bytes(&verified) <= MOST_BYTES + 2 * large, "{number}");
        }
        assert_eq!(verified.get(print(1), all), None);
        assert_eq!(verified.get(print(999), all), Some(claims(999)));
    }

    #[test]
    fn what_does_not_pass_is_forgotten_in_either_generation() {
        for others in [0, MOST_BYTES / 2] {
            let verified = Verified::default();
            verified.put(print(0), claims(0), 1);
            verified.put(print(1), claims(1), others);
            assert_eq!(verified.get(print(0), |claims| claims["sub"] != 0), None);
            assert_eq!(verified.get(print(0), all), None);
            assert_eq!(verified.get(print(1), all), Some(claims(1)));
        }
    }

    proptest! {
        #[test]
        fn the_bytes_are_counted_and_each_token_has_its_own_claims(
            steps in prop::collection::vec((0..6_usize, 1..MOST_BYTES / 3, any::<bool>(), any::<bool>()), 1..60),
        ) {
            let verified = Verified::default();
            for (number, bytes, puts, passes) in steps {
                if puts {
                    verified.put(print(number), claims(number), bytes);
                } else if let Some(found) = verified.get(print(number), |_| passes) {
                    prop_assert_eq!(found, claims(number));
                }
                let Generations { young, old, bytes } = &*verified.lock();
                prop_assert_eq!(*bytes, young.values().map(|entry| entry.bytes).sum::<usize>());
                prop_assert!(*bytes < MOST_BYTES / 2 && young.keys().all(|print| !old.contains_key(print)));
            }
        }
    }
}
