//! The Secrets that DockerHosts name, for who calls the daemons: the docker room's [`SecretSource`] over the store that
//! opens what is sealed.

use async_trait::async_trait;

use crate::docker::SecretSource;
use crate::model::{Key, Kind, SYSTEM_NAMESPACE, Secret};
use crate::store::{Record, SharedStore, Store, StoreError};

/// Over a store that opens what is sealed.
pub struct HostSecrets(pub SharedStore);

#[async_trait]
impl SecretSource for HostSecrets {
    async fn secret(&self, name: &str) -> Result<Option<Secret>, String> {
        read(&*self.0, &Key::new(Kind::Secret, SYSTEM_NAMESPACE, name)).await
    }
}

/// A Secret as it is now. The error holds no value.
async fn read(store: &dyn Store, key: &Key) -> Result<Option<Secret>, String> {
    store.get(&key.to_string()).await.map_err(refusal)?.map(|record| decoded(&record)).transpose()
}

/// Why the store does not give it.
pub(super) fn refusal(error: StoreError) -> String {
    match error {
        StoreError::Sealed { why, .. } => why,
        e => format!("the store does not give it: {e}"),
    }
}

/// The Secret of an opened record. The error holds no value: the reader's own words could repeat a part of what it read.
pub(super) fn decoded(record: &Record) -> Result<Secret, String> {
    serde_json::from_slice(&record.value).map_err(|_| "what is stored of it cannot be read".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, Op, Txn};

    #[tokio::test]
    async fn only_what_is_in_the_systems_namespace_is_found_and_no_value_is_in_an_error() {
        let store = MemoryStore::new();
        let put = |key: &str, value: &str| Op::Put { key: key.into(), value: value.to_owned().into() };
        let then = vec![
            put("secrets/portreeve-system/w1", r#"{"metadata": {"name": "w1"}, "data": {"a": "aHVudGVyMg=="}}"#),
            put("secrets/portreeve-system/broken", r#"{"data": "hunter2"}"#),
            put("secrets/default/other", r#"{"metadata": {"name": "other"}}"#),
        ];
        store.txn(Txn { when: vec![], then }).await.unwrap();
        let secrets = HostSecrets(store);
        let found = secrets.secret("w1").await.unwrap().unwrap();
        assert_eq!(found.data["a"].expose(), b"hunter2");
        assert_eq!(secrets.secret("other").await, Ok(None));
        assert_eq!(secrets.secret("broken").await, Err("what is stored of it cannot be read".to_owned()));
    }
}
