//! The Secrets that routes name, for the proxy: its [`Secrets`] over the store that opens what is sealed.

use async_trait::async_trait;

use super::host_secrets::read;
use crate::model::{Key, Kind};
use crate::proxy::{Looked, Secrets};
use crate::store::SharedStore;

/// Over a store that opens what is sealed.
pub struct RouteSecrets(pub SharedStore);

#[async_trait]
impl Secrets for RouteSecrets {
    async fn value(&self, namespace: &str, name: &str, key: &str) -> Result<Looked, String> {
        let found = read(&*self.0, &Key::new(Kind::Secret, namespace, name)).await?;
        let Some(mut secret) = found else { return Ok(Looked::NoSecret) };
        Ok(secret.data.remove(key).map_or(Looked::NoKey, Looked::Value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, Op, Txn};

    #[tokio::test]
    async fn a_value_is_found_in_its_namespace_by_its_key() {
        let store = MemoryStore::new();
        let value = r#"{"metadata": {"name": "door"}, "data": {"token": "aHVudGVyMg=="}}"#;
        let then = vec![Op::Put { key: "secrets/a/door".into(), value: value.to_owned().into() }];
        store.txn(Txn { when: vec![], then }).await.unwrap();
        let secrets = RouteSecrets(store);
        let found = async |namespace, name, key| secrets.value(namespace, name, key).await.unwrap();
        let Looked::Value(value) = found("a", "door", "token").await else { panic!("it is there") };
        assert_eq!(value.expose(), b"hunter2");
        for (namespace, name) in [("b", "door"), ("a", "other")] {
            assert!(matches!(found(namespace, name, "token").await, Looked::NoSecret), "{namespace}/{name}");
        }
        assert!(matches!(found("a", "door", "other").await, Looked::NoKey));
    }
}
