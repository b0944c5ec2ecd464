//! Objects as JSON values: reading and writing their metadata, and moving them to and from the store.
//!
//! The stored bytes hold no resourceVersion: it is the record's revision, put in on the way out.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::apply::Managers;
use super::error::ApiError;
use crate::model::{Key, Kind, MAX_OBJECT_BYTES, Time};
pub use crate::model::{is_label_key, is_label_value, is_subdomain};
use crate::store::{Record, Revision};

pub fn meta(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.as_object()
}

/// The metadata to write to; made if it is missing or no object.
pub fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    let slot = &mut object["metadata"];
    if !slot.is_object() {
        *slot = json!({});
    }
    slot.as_object_mut().expect("just made")
}

/// A text of the metadata; empty when absent.
pub fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    meta(object).and_then(|m| m.get(name)).and_then(Value::as_str).unwrap_or_default()
}

pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = meta(object).and_then(|m| m.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether something must still happen before an object that is being deleted goes.
pub fn is_held(kind: Kind, object: &Value) -> bool {
    let held = |list: Option<&Value>| list.and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    !finalizers(object).is_empty() || (kind == Kind::Namespace && held(object.pointer("/spec/finalizers")))
}

pub fn is_deleting(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

pub fn set_version(object: &mut Value, revision: Revision) {
    meta_mut(object).insert("resourceVersion".into(), revision.0.to_string().into());
}

/// The stored object as clients see it. `kind` and `apiVersion` are always there.
pub fn decode(kind: Kind, record: &Record) -> Result<Value, ApiError> {
    decode_at(kind, record, record.modified)
}

/// As [`decode`], but with another version: a deleted object carries that of its deletion.
pub fn decode_at(kind: Kind, record: &Record, revision: Revision) -> Result<Value, ApiError> {
    let mut object: Value = serde_json::from_slice(&record.value)
        .map_err(|e| ApiError::internal(format!("{}: the stored object cannot be read: {e}", record.key)))?;
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.info().name.into();
    set_version(&mut object, revision);
    Ok(object)
}

/// Checks that an object is small enough to be stored, by the length that it has now: what is not is refused before work
/// is spent on it.
///
/// # Errors
/// 413.
pub fn fits(object: &Value) -> Result<(), ApiError> {
    let mut length = Length(0);
    serde_json::to_writer(&mut length, object)
        .map_err(|e| ApiError::internal(format!("an object cannot be written: {e}")))?;
    // Clients send it; it is not stored.
    let version = text(object, "resourceVersion");
    let unstored = if version.is_empty() { 0 } else { r#","resourceVersion":"""#.len() + version.len() };
    small_enough(length.0.saturating_sub(unstored))
}

fn small_enough(bytes: usize) -> Result<(), ApiError> {
    if bytes > MAX_OBJECT_BYTES {
        let message = format!("the object has {bytes} bytes; at most {MAX_OBJECT_BYTES} are stored");
        return Err(ApiError::too_large(message));
    }
    Ok(())
}

/// Counts what is written to it.
struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The bytes to store. Errs when they are too many.
pub fn encode(object: &Value) -> Result<Bytes, ApiError> {
    let mut stored = object.clone();
    meta_mut(&mut stored).remove("resourceVersion");
    let bytes =
        serde_json::to_vec(&stored).map_err(|e| ApiError::internal(format!("an object cannot be written: {e}")))?;
    small_enough(bytes.len())?;
    Ok(bytes.into())
}

/// Takes `managedFields` out of an object.
pub fn take_managers(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

/// Writes `managedFields`; none leaves none.
pub fn put_managers(object: &mut Value, managers: &Managers) {
    if managers.is_empty() {
        take_managers(object);
    } else {
        meta_mut(object).insert("managedFields".into(), managers.print());
    }
}

/// Whether two objects say the same, whatever their resourceVersion.
pub fn same(a: &Value, b: &Value) -> bool {
    let strip = |v: &Value| {
        let mut v = v.clone();
        meta_mut(&mut v).remove("resourceVersion");
        v
    };
    strip(a) == strip(b)
}

/// Whether two objects want the same: everything but metadata and status.
pub fn same_desire(a: &Value, b: &Value) -> bool {
    let desire = |v: &Value| {
        let mut fields = v.as_object().cloned().unwrap_or_default();
        for name in ["metadata", "status", "apiVersion", "kind"] {
            fields.remove(name);
        }
        fields
    };
    desire(a) == desire(b)
}

pub fn key_of(kind: Kind, object: &Value) -> Key {
    Key::new(kind, text(object, "namespace"), text(object, "name"))
}

/// A time as metadata carries it.
pub fn time(now: Timestamp) -> Value {
    Time::from(now).to_string().into()
}

/// Removes nulls from objects: to Kubernetes' types they mean "not set".
pub fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, v| !v.is_null());
            fields.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}
