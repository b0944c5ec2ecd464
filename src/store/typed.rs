//! Typed objects over the store: decoding, encoding, and the compare-and-swap writes of the controllers.
//!
//! The stored JSON holds no `metadata.resourceVersion`; it is filled in from the revision on the way out and taken
//! off on the way in. Status and finalizers are spliced into the stored bytes, so that everything else stays exactly
//! as the user wrote it, known to this program or not.

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::splice::{member, with_member};
use super::{ListRequest, Op, Precondition, Record, Result, Revision, Store, StoreError, Txn};
use crate::model::{Key, ObjectMeta, OwnerReference, Resource};

/// Objects of one kind, as of one revision.
#[derive(Clone, Debug)]
pub struct TypedListing<T> {
    pub items: Vec<T>,
    pub revision: Revision,
}

/// Reads one object.
///
/// # Errors
/// `Failed` when what is stored is not a `T`, besides the store's own.
pub async fn get<T: Resource>(store: &dyn Store, key: &Key) -> Result<Option<T>> {
    store.get(&key.to_string()).await?.map(|record| decode(&record)).transpose()
}

/// Lists the objects of a kind, of one namespace or of all. One that cannot be decoded is logged and left out.
pub async fn list<T: Resource>(store: &dyn Store, namespace: Option<&str>) -> Result<TypedListing<T>> {
    let request = ListRequest { prefix: T::KIND.prefix(namespace), ..Default::default() };
    let listing = store.list(request).await?;
    let decoded = listing.records.iter().filter_map(|record| match decode(record) {
        Ok(item) => Some(item),
        Err(e) => {
            tracing::error!(key = %record.key, error = %e, "a stored object cannot be read; it is left out of the list");
            None
        }
    });
    Ok(TypedListing { items: decoded.collect(), revision: listing.revision })
}

/// The object of a record, with its resourceVersion.
pub fn decode<T: Resource>(record: &Record) -> Result<T> {
    let mut object: T = serde_json::from_slice(&record.value)
        .map_err(|e| StoreError::Failed(format!("{}: what is stored is not of kind {}: {e}", record.key, T::KIND)))?;
    object.meta_mut().resource_version = record.modified.0.to_string();
    Ok(object)
}

/// The metadata of what a record holds, of whatever kind.
///
/// # Errors
/// `Failed` when it has none that can be read.
pub fn metadata(record: &Record) -> Result<ObjectMeta> {
    #[derive(Deserialize)]
    struct Bare {
        #[serde(default)]
        metadata: ObjectMeta,
    }
    serde_json::from_slice::<Bare>(&record.value).map(|bare| bare.metadata).map_err(|e| unreadable(record, e))
}

/// The bytes to store for an object.
pub fn encode<T: Resource>(object: &T) -> Bytes {
    let mut object = object.clone();
    object.meta_mut().resource_version.clear();
    // The model's types have only string keys and no failing serialisers.
    serde_json::to_vec(&object).expect("model types serialise").into()
}

/// The revision that an object was read at, from its resourceVersion; `None` when it is unset or no number.
pub fn revision_of<T: Resource>(object: &T) -> Option<Revision> {
    object.meta().resource_version.parse().ok().map(Revision)
}

/// Stores a new object and returns it with its resourceVersion.
///
/// # Errors
/// `Conflict` when there already is one of its key.
pub async fn create<T: Resource>(store: &dyn Store, object: &T) -> Result<T> {
    let key = object.key().to_string();
    let txn = Txn {
        when: vec![Precondition::Absent { key: key.clone() }],
        then: vec![Op::Put { key, value: encode(object) }],
    };
    Ok(at_revision(object, store.txn(txn).await?))
}

/// Replaces a whole object that is still at its resourceVersion. When the stored bytes are equal already, nothing is
/// written. Only for objects that no user writes: fields unknown to `T` would be lost.
///
/// # Errors
/// `Conflict` when the object has changed since, is gone, or has no resourceVersion.
pub async fn update<T: Resource>(store: &dyn Store, object: &T) -> Result<T> {
    let key = object.key().to_string();
    let record = expect_at(store, &key, revision_of(object)).await?;
    let revision = write(store, &record, encode(object)).await?;
    Ok(at_revision(object, revision))
}

/// Writes the status of an object that is still at its resourceVersion, and nothing else of it; returns it with its
/// new resourceVersion. When the stored status is equal already, nothing is written.
///
/// # Errors
/// `Conflict` when the object has changed since, is gone, or has no resourceVersion.
pub async fn update_status<T: Resource>(store: &dyn Store, object: &T) -> Result<T> {
    let key = object.key().to_string();
    let value = serde_json::to_value(object).expect("model types serialise");
    let status = value.get("status").cloned().unwrap_or(Value::Null);
    let record = expect_at(store, &key, revision_of(object)).await?;
    let revision = splice_status(store, &record, &status).await?;
    Ok(at_revision(object, revision))
}

/// Writes `status` into the object at `key` if it is still at `expected`; every other byte of it stays. Returns its
/// revision afterwards: `expected` when the status was equal already and nothing was written.
///
/// # Errors
/// `Conflict` when the object is at another revision or gone.
pub async fn replace_status(
    store: &dyn Store,
    key: &Key,
    expected: Revision,
    status: &impl Serialize,
) -> Result<Revision> {
    let status = serde_json::to_value(status)
        .map_err(|e| StoreError::Failed(format!("{key}: its new status cannot be written as JSON: {e}")))?;
    let record = expect_at(store, &key.to_string(), Some(expected)).await?;
    splice_status(store, &record, &status).await
}

/// As [`replace_status`], and takes one annotation off in the same write.
///
/// # Errors
/// `Conflict` when the object is at another revision or gone.
pub async fn replace_status_and_unmark(
    store: &dyn Store,
    key: &Key,
    expected: Revision,
    status: &impl Serialize,
    annotation: &str,
) -> Result<Revision> {
    let status = serde_json::to_vec(status)
        .map_err(|e| StoreError::Failed(format!("{key}: its new status cannot be written as JSON: {e}")))?;
    let record = expect_at(store, &key.to_string(), Some(expected)).await?;
    let bad = |e| unreadable(&record, e);
    let mut value = with_member(&record.value, "status", Some(&status)).map_err(bad)?;
    let metadata = member(&record.value, "metadata").map_err(bad)?.unwrap_or(b"{}");
    if let Some(annotations) = member(metadata, "annotations").map_err(bad)?.filter(|a| *a != b"null") {
        let annotations = with_member(annotations, annotation, None).map_err(bad)?;
        let metadata = with_member(metadata, "annotations", Some(&annotations)).map_err(bad)?;
        value = with_member(&value, "metadata", Some(&metadata)).map_err(bad)?;
    }
    write(store, &record, value.into()).await
}

/// Writes members of the object at `key` if it is still at `expected`; every other byte of it stays. Returns its
/// revision afterwards.
///
/// # Errors
/// `Conflict` when the object is at another revision or gone.
pub async fn replace_members(
    store: &dyn Store,
    key: &Key,
    expected: Revision,
    members: &[(&str, Value)],
) -> Result<Revision> {
    let record = expect_at(store, &key.to_string(), Some(expected)).await?;
    let mut value = record.value.to_vec();
    for (name, new) in members {
        let printed = new.to_string();
        value = with_member(&value, name, Some(printed.as_bytes())).map_err(|e| unreadable(&record, e))?;
    }
    write(store, &record, value.into()).await
}

/// Writes `metadata.finalizers` of the object at `key` if it is still at `expected`; every other byte of it stays.
/// An object whose deletion was asked for and that is left without finalizers is deleted. Returns the revision
/// afterwards: `expected` when nothing was to be written.
///
/// # Errors
/// `Conflict` when the object is at another revision or gone.
pub async fn replace_finalizers(
    store: &dyn Store,
    key: &Key,
    expected: Revision,
    finalizers: &[String],
) -> Result<Revision> {
    let record = expect_at(store, &key.to_string(), Some(expected)).await?;
    let metadata = member(&record.value, "metadata").map_err(|e| unreadable(&record, e))?.unwrap_or(b"{}");
    let stored = |name| -> Result<Option<Value>> {
        let text = member(metadata, name).map_err(|e| unreadable(&record, e))?;
        text.map(|text| serde_json::from_slice(text).map_err(|e| unreadable(&record, e))).transpose()
    };
    let deleting = stored("deletionTimestamp")?.is_some_and(|t| !t.is_null());
    if deleting && finalizers.is_empty() {
        let key = record.key.to_string();
        let when = vec![Precondition::Unchanged { key: key.clone(), modified: expected }];
        return store.txn(Txn { when, then: vec![Op::Delete { key }] }).await;
    }
    let wanted = Value::from(finalizers);
    if stored("finalizers")?.unwrap_or_else(|| Value::Array(vec![])) == wanted {
        return Ok(expected);
    }
    let wanted = (!finalizers.is_empty()).then(|| wanted.to_string().into_bytes());
    let metadata = with_member(metadata, "finalizers", wanted.as_deref()).map_err(|e| unreadable(&record, e))?;
    let value = with_member(&record.value, "metadata", Some(&metadata)).map_err(|e| unreadable(&record, e))?;
    write(store, &record, value.into()).await
}

/// Writes `metadata.ownerReferences` of what a record holds, if it is still that; every other byte of it stays.
///
/// # Errors
/// `Conflict` when the object has changed since or is gone.
pub async fn replace_owners(store: &dyn Store, record: &Record, owners: &[OwnerReference]) -> Result<Revision> {
    let bad = |e| unreadable(record, e);
    let metadata = member(&record.value, "metadata").map_err(bad)?.unwrap_or(b"{}");
    let wanted = (!owners.is_empty()).then(|| serde_json::to_vec(owners).expect("a struct of texts and flags"));
    let metadata = with_member(metadata, "ownerReferences", wanted.as_deref()).map_err(bad)?;
    let value = with_member(&record.value, "metadata", Some(&metadata)).map_err(bad)?;
    write(store, record, value.into()).await
}

async fn splice_status(store: &dyn Store, record: &Record, status: &Value) -> Result<Revision> {
    let stored = member(&record.value, "status").map_err(|e| unreadable(record, e))?;
    // Compared as values: the API may have printed the same status with its members in another order.
    if stored.is_some_and(|s| serde_json::from_slice::<Value>(s).is_ok_and(|s| s == *status)) {
        return Ok(record.modified);
    }
    let printed = status.to_string();
    let value = with_member(&record.value, "status", Some(printed.as_bytes())).map_err(|e| unreadable(record, e))?;
    write(store, record, value.into()).await
}

/// The current record of `key`, which must be at `expected`.
async fn expect_at(store: &dyn Store, key: &str, expected: Option<Revision>) -> Result<Record> {
    match store.get(key).await? {
        Some(record) if Some(record.modified) == expected => Ok(record),
        current => Err(StoreError::Conflict { key: key.to_owned(), current: current.map(Box::new) }),
    }
}

/// Puts `value` in the place of `record`, unless it is the same already.
async fn write(store: &dyn Store, record: &Record, value: Bytes) -> Result<Revision> {
    if value == record.value {
        return Ok(record.modified);
    }
    let key = record.key.to_string();
    let when = vec![Precondition::Unchanged { key: key.clone(), modified: record.modified }];
    // A splice of valid JSON is valid; were it not, one bad write would make the object unreadable for everyone.
    if let Err(e) = serde_json::from_slice::<IgnoredAny>(&value) {
        return Err(unreadable(record, e));
    }
    store.txn(Txn { when, then: vec![Op::Put { key, value }] }).await
}

fn at_revision<T: Resource>(object: &T, revision: Revision) -> T {
    let mut object = object.clone();
    object.meta_mut().resource_version = revision.0.to_string();
    object
}

pub(super) fn unreadable(record: &Record, why: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(format!("{}: what is stored is not a JSON object: {why}", record.key))
}
