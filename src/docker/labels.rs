//! The labels on everything that we make in a daemon, and the names that go with them.
//!
//! Names are deterministic, so that a create whose answer was lost is found again; they begin with `p`, which is no
//! hexadecimal digit, so that no daemon can take one for an id prefix. What does not carry our cluster label is
//! never touched; what carries it is ours only if the uid matches, too.

use std::collections::BTreeMap;

use crate::model::Key;

pub const CLUSTER: &str = "portreeve.dev/cluster";
pub const NAMESPACE: &str = "portreeve.dev/namespace";
pub const NAME: &str = "portreeve.dev/name";
pub const UID: &str = "portreeve.dev/uid";
/// `app`; companions will have others.
pub const ROLE: &str = "portreeve.dev/role";
/// Hash of all that cannot change without a new container.
pub const SPEC_HASH: &str = "portreeve.dev/spec-hash";
/// The name of the instance's volume that a Docker volume holds.
pub const VOLUME: &str = "portreeve.dev/volume";

/// Container and network of an instance: `pr.default.alice`. A dot cannot be in a DNS label, so this is unambiguous.
pub fn object_name(key: &Key) -> String {
    format!("pr.{}.{}", key.namespace, key.name)
}

/// The labels that say whose an object is.
pub fn owner_labels(cluster: &str, key: &Key, uid: &str) -> BTreeMap<String, String> {
    [(CLUSTER, cluster), (NAMESPACE, &key.namespace), (NAME, &key.name), (UID, uid)]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
}

/// The instance that labels speak of, if they do.
pub fn instance_key(labels: &BTreeMap<String, String>) -> Option<Key> {
    Some(Key::instance(labels.get(NAMESPACE)?, labels.get(NAME)?))
}

/// The instance that a name made by [`object_name`], or a name of one of its volumes, speaks of.
pub fn key_of_name(name: &str) -> Option<Key> {
    let mut parts = name.split('.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("pr"), Some(namespace), Some(name)) if !namespace.is_empty() && !name.is_empty() => {
            Some(Key::instance(namespace, name))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Instance, Volume};

    #[test]
    fn names_lead_back_to_their_instance() {
        let key = Key::instance("team-a", "alice");
        assert_eq!(key_of_name(&object_name(&key)), Some(key.clone()));
        // Made in the model, which shows it to users, too: it must begin as the names made here.
        let mut instance = Instance::default();
        (instance.metadata.namespace, instance.metadata.name) = (key.namespace.clone(), key.name.clone());
        let volume = instance.volume_name(&Volume { name: "home".into(), ..Default::default() });
        assert_eq!(volume, format!("{}.home", object_name(&key)));
        assert_eq!(key_of_name(&volume), Some(key));
        for other in ["", "bridge", "pr", "pr.a", "pr..b", "x.a.b"] {
            assert_eq!(key_of_name(other), None, "{other}");
        }
    }
}
