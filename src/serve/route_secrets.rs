//! The Secrets that routes name, for the proxy: its [`Secrets`] over the store that opens what is sealed.
//!
//! A value is opened once for each time that its Secret is written, not for each request. Whether it was written since is asked of
//! the store each time: so a change counts from the next request on. Only values that were asked for are kept open, and only
//! small ones, as credentials are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::host_secrets::{decoded, refusal};
use crate::model::{Key, Kind, SecretBytes};
use crate::proxy::{Looked, Secrets};
use crate::store::{Revision, SharedStore, unopened};

/// Most values that are kept open, and the bytes of each.
const MOST: usize = 1024;
const MOST_BYTES: usize = 4096;

/// The Secret's key in the store, and the value's name in it.
type Name = (String, String);
/// The revision that wrote it, which no other value of it ever has; `None`: there is none of this name.
type Opened = (Revision, Arc<Option<SecretBytes>>);

pub struct RouteSecrets {
    /// That opens what is sealed.
    store: SharedStore,
    /// The same as it is sealed.
    beneath: SharedStore,
    opened: Mutex<HashMap<Name, Opened>>,
}

impl RouteSecrets {
    /// Over a store that opens what is sealed.
    pub fn new(store: SharedStore) -> RouteSecrets {
        RouteSecrets { beneath: unopened(&store), store, opened: Mutex::default() }
    }

    /// `None`: there is no such Secret.
    async fn look(&self, key: &str, name: &str) -> Result<Option<Arc<Option<SecretBytes>>>, String> {
        let at = (key.to_owned(), name.to_owned());
        let Some(now) = self.beneath.get(key).await.map_err(refusal)? else {
            self.opened().remove(&at);
            return Ok(None);
        };
        let known = self.opened().get(&at).filter(|(written, _)| *written == now.modified).map(|(_, v)| v.clone());
        if known.is_some() {
            return Ok(known);
        }
        // It may have been written once more.
        let Some(record) = self.store.get(key).await.map_err(refusal)? else { return Ok(None) };
        let value = Arc::new(decoded(&record)?.data.remove(name));
        let mut opened = self.opened();
        opened.remove(&at);
        if value.as_ref().as_ref().is_none_or(|value| value.expose().len() <= MOST_BYTES) {
            if opened.len() >= MOST {
                opened.clear();
            }
            opened.insert(at, (record.modified, value.clone()));
        }
        Ok(Some(value))
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<Name, Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Secrets for RouteSecrets {
    async fn value(&self, namespace: &str, name: &str, key: &str) -> Result<Looked, String> {
        let found = self.look(&Key::new(Kind::Secret, namespace, name).to_string(), key).await?;
        let Some(value) = found else { return Ok(Looked::NoSecret) };
        Ok(value.as_ref().clone().map_or(Looked::NoKey, Looked::Value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Keyring, MemoryStore, Op, SealingStore, Txn};

    fn secrets() -> RouteSecrets {
        let ring = Arc::new(Keyring::ephemeral().unwrap());
        RouteSecrets::new(SealingStore::over(MemoryStore::new(), ring, "secrets/"))
    }

    async fn write(store: &SharedStore, op: Op) {
        store.txn(Txn { when: vec![], then: vec![op] }).await.unwrap();
    }

    async fn put(store: &SharedStore, key: &str, value: &str) {
        write(store, Op::Put { key: key.into(), value: value.to_owned().into() }).await;
    }

    #[tokio::test]
    async fn a_value_is_found_in_its_namespace_by_its_key() {
        let secrets = secrets();
        let value = r#"{"metadata": {"name": "door"}, "data": {"token": "aHVudGVyMg=="}}"#;
        put(&secrets.store, "secrets/a/door", value).await;
        let found = async |namespace, name, key| secrets.value(namespace, name, key).await.unwrap();
        for _ in 0..2 {
            let Looked::Value(value) = found("a", "door", "token").await else { panic!("it is there") };
            assert_eq!(value.expose(), b"hunter2");
            for (namespace, name) in [("b", "door"), ("a", "other")] {
                assert!(matches!(found(namespace, name, "token").await, Looked::NoSecret), "{namespace}/{name}");
            }
            assert!(matches!(found("a", "door", "other").await, Looked::NoKey));
        }
    }

    #[tokio::test]
    async fn a_value_is_opened_once_for_each_time_that_its_secret_is_written() {
        let secrets = secrets();
        let (store, key) = (&secrets.store, "secrets/a/door");
        let opened = async || secrets.look(key, "token").await.unwrap();
        put(store, key, r#"{"data": {"token": "YQ==", "other": "Yw=="}}"#).await;
        let first = opened().await.unwrap();
        put(store, "secrets/a/other", "{}").await;
        assert!(Arc::ptr_eq(&first, &opened().await.unwrap()), "nobody wrote it since");
        assert_eq!(secrets.opened().len(), 1, "what nobody asked for is not kept");
        put(store, key, r#"{"data": {"token": "Yg=="}}"#).await;
        let second = opened().await.unwrap();
        assert_eq!(second.as_ref().as_ref().map(SecretBytes::expose), Some(&b"b"[..]), "from the next time on");
        put(store, key, r#"{"data": {"token": "!"}}"#).await;
        assert!(secrets.look(key, "token").await.is_err(), "what cannot be read is not what it was before");
        write(store, Op::Delete { key: key.into() }).await;
        assert_eq!((opened().await, secrets.opened().len()), (None, 0), "what is gone is forgotten");
    }

    #[tokio::test]
    async fn what_is_kept_open_is_bounded() {
        let secrets = secrets();
        let store = &secrets.store;
        let large = "AAAA".repeat(MOST_BYTES / 3 + 1);
        put(store, "secrets/a/large", &format!(r#"{{"data": {{"token": "{large}"}}}}"#)).await;
        assert!(secrets.look("secrets/a/large", "token").await.unwrap().unwrap().is_some());
        assert_eq!(secrets.opened().len(), 0, "no credential is that long");
        put(store, "secrets/a/door", "{}").await;
        for number in 0..=MOST {
            secrets.look("secrets/a/door", &number.to_string()).await.unwrap();
            assert!((1..=MOST).contains(&secrets.opened().len()));
        }
    }
}
