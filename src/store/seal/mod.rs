//! Sealing: what is secret lies in the store only as ciphertext, under a key that is not kept beside it.
//!
//! ```text
//! api, apply ──plain──▶ SealingStore ──sealed──▶ any Store ──▶ files, history, cache
//!                            └── Keyring (key file outside the data directory)
//! ```
//!
//! AES-256-GCM-SIV with random nonces: should a nonce ever come twice, all that it tells is that two values are equal.
//! Whose record a value belongs to is authenticated with it, so a sealed value cannot be moved to another record.

mod file;
mod record;
mod store;

pub use file::KeyFileError;
pub use store::SealingStore;

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// The keys that open; the first one also seals. Its `Debug` tells their ids only.
pub struct Keyring {
    keys: Vec<SealKey>,
}

struct SealKey {
    id: String,
    key: LessSafeKey,
}

/// Why a sealed value does not open. Never tells anything of its content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("it is sealed with the key {0}, which is not in the seal key file")]
    UnknownKey(String),
    #[error("it does not open with the key {0}: it was changed, or belongs to another record")]
    Forged(String),
    #[error("it is no sealed record: {0}")]
    Malformed(&'static str),
}

impl Keyring {
    /// A ring of these keys; `None` when there is none.
    fn of(raw: &[Zeroizing<[u8; KEY_BYTES]>]) -> Option<Keyring> {
        let keys: Vec<SealKey> = raw.iter().map(|raw| SealKey::new(raw)).collect();
        (!keys.is_empty()).then_some(Keyring { keys })
    }

    /// A ring of one new random key, kept nowhere: for stores in memory.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn ephemeral() -> Result<Keyring, getrandom::Error> {
        Ok(Keyring { keys: vec![SealKey::new(&*random_key()?)] })
    }

    /// The id of the key that seals.
    pub fn sealing_id(&self) -> &str {
        &self.keys[0].id
    }

    pub fn knows(&self, id: &str) -> bool {
        self.keys.iter().any(|k| k.id == id)
    }

    /// The sealed bytes: nonce, ciphertext, tag. `of` says whose they are, and must be the same to open them.
    fn seal(&self, of: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).expect("the system gave randomness for the key, and has more");
        let mut body = Zeroizing::new(plain.to_vec());
        let tag = self.keys[0]
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(of), &mut body)
            .expect("a record is far shorter than the cipher's bound");
        [&nonce[..], &body[..], tag.as_ref()].concat()
    }

    fn open(&self, id: &str, of: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let key = self.keys.iter().find(|k| k.id == id).ok_or_else(|| OpenError::UnknownKey(id.to_owned()))?;
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(OpenError::Malformed("it is cut off"))?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Malformed("it is cut off"))?;
        let mut body = Zeroizing::new(body.to_vec());
        let forged = |_| OpenError::Forged(id.to_owned());
        let length = key.key.open_in_place(nonce, Aad::from(of), &mut body).map_err(forged)?.len();
        body.truncate(length);
        Ok(body)
    }
}

impl SealKey {
    fn new(raw: &[u8; KEY_BYTES]) -> SealKey {
        let digest = Sha256::new().chain_update(b"portreeve/seal-key-id\0").chain_update(raw).finalize();
        let id = digest[..8].iter().map(|b| format!("{b:02x}")).collect();
        let key = UnboundKey::new(&AES_256_GCM_SIV, raw).expect("the algorithm takes keys of this length");
        SealKey { id, key: LessSafeKey::new(key) }
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|k| &k.id)).finish()
    }
}

fn random_key() -> Result<Zeroizing<[u8; KEY_BYTES]>, getrandom::Error> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(&mut *key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_owner_and_for_nobody_else() {
        let ring = Keyring::ephemeral().unwrap();
        let id = ring.sealing_id().to_owned();
        let sealed = ring.seal(b"alice", b"hunter2");
        assert_eq!(*ring.open(&id, b"alice", &sealed).unwrap(), b"hunter2");
        assert_eq!(ring.open(&id, b"bob", &sealed), Err(OpenError::Forged(id.clone())));
        assert_ne!(ring.seal(b"alice", b"hunter2"), sealed, "two seals of one value look alike");
        for i in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[i] ^= 1;
            assert_eq!(ring.open(&id, b"alice", &changed), Err(OpenError::Forged(id.clone())), "byte {i}");
            assert!(ring.open(&id, b"alice", &sealed[..i]).is_err(), "cut at {i}");
        }
        let other = Keyring::ephemeral().unwrap();
        assert_eq!(other.open(&id, b"alice", &sealed), Err(OpenError::UnknownKey(id)));
    }

    #[test]
    fn debug_shows_no_key() {
        let raw = Zeroizing::new([7; KEY_BYTES]);
        let ring = Keyring::of(&[raw]).unwrap();
        assert_eq!(format!("{ring:?}"), format!("[{:?}]", ring.sealing_id()));
    }
}
