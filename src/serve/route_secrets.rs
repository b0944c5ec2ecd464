//! The Secrets that routes name, for the proxy: its [`Secrets`] over the store that opens what is sealed.
//!
//! A Secret is opened once for each time that it is written, not for each request. Whether it was written since is asked of the
//! store each time: so a change counts from the next request on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::host_secrets::{decoded, refusal};
use crate::model::{Key, Kind, Secret};
use crate::proxy::{Looked, Secrets};
use crate::store::{Revision, SharedStore, unopened};

/// Most Secrets that are kept open.
const MOST: usize = 1024;

pub struct RouteSecrets {
    /// That opens what is sealed.
    store: SharedStore,
    /// The same as it is sealed.
    beneath: SharedStore,
    /// By its key in the store, with the revision that wrote it, which no other value of it ever has.
    opened: Mutex<HashMap<String, (Revision, Arc<Secret>)>>,
}

impl RouteSecrets {
    /// Over a store that opens what is sealed.
    pub fn new(store: SharedStore) -> RouteSecrets {
        RouteSecrets { beneath: unopened(&store), store, opened: Mutex::default() }
    }

    async fn secret(&self, key: &str) -> Result<Option<Arc<Secret>>, String> {
        let Some(now) = self.beneath.get(key).await.map_err(refusal)? else {
            self.opened().remove(key);
            return Ok(None);
        };
        let known = self.opened().get(key).filter(|(written, _)| *written == now.modified).map(|(_, s)| s.clone());
        if known.is_some() {
            return Ok(known);
        }
        // It may have been written once more.
        let Some(record) = self.store.get(key).await.map_err(refusal)? else { return Ok(None) };
        let secret: Arc<Secret> = Arc::new(decoded(&record)?);
        let mut opened = self.opened();
        if opened.len() >= MOST {
            opened.clear();
        }
        opened.insert(key.to_owned(), (record.modified, secret.clone()));
        Ok(Some(secret))
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<String, (Revision, Arc<Secret>)>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Secrets for RouteSecrets {
    async fn value(&self, namespace: &str, name: &str, key: &str) -> Result<Looked, String> {
        let found = self.secret(&Key::new(Kind::Secret, namespace, name).to_string()).await?;
        let Some(secret) = found else { return Ok(Looked::NoSecret) };
        Ok(secret.data.get(key).cloned().map_or(Looked::NoKey, Looked::Value))
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
    async fn a_secret_is_opened_once_for_each_time_that_it_is_written() {
        let secrets = secrets();
        let (store, key) = (&secrets.store, "secrets/a/door");
        let opened = async || secrets.secret(key).await.unwrap();
        put(store, key, r#"{"data": {"token": "YQ=="}}"#).await;
        let first = opened().await.unwrap();
        put(store, "secrets/a/other", "{}").await;
        assert!(Arc::ptr_eq(&first, &opened().await.unwrap()), "nobody wrote it since");
        put(store, key, r#"{"data": {"token": "Yg=="}}"#).await;
        assert_eq!(opened().await.unwrap().data["token"].expose(), b"b", "from the next time on");
        put(store, key, r#"{"data": {"token": "!"}}"#).await;
        assert!(secrets.secret(key).await.is_err(), "what cannot be read is not what it was before");
        write(store, Op::Delete { key: key.into() }).await;
        assert_eq!((opened().await, secrets.opened().len()), (None, 0), "what is gone is forgotten");
        for number in 0..=MOST {
            put(store, &format!("secrets/a/{number}"), "{}").await;
            secrets.secret(&format!("secrets/a/{number}")).await.unwrap();
            assert!(secrets.opened().len() <= MOST);
        }
    }
}
