//! Objects as JSON values: reading and writing their metadata, and moving them to and from the store.
//!
//! The stored bytes hold no resourceVersion: it is the record's revision, put in on the way out.

use bytes::Bytes;
use jiff::Timestamp;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
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
    if !object.is_object() {
        return Err(ApiError::internal(format!("{}: the stored object cannot be read: it is no object", record.key)));
    }
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
    serde_json::to_writer(&mut length, &Stored(object)).map_err(unwritable)?;
    small_enough(length.0)
}

fn unwritable(e: serde_json::Error) -> ApiError {
    ApiError::internal(format!("an object cannot be written: {e}"))
}

/// An object as it is stored: without its resourceVersion.
struct Stored<'a>(&'a Value);

impl Serialize for Stored<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Meta<'a>(&'a Map<String, Value>);
        impl Serialize for Meta<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().filter(|(name, _)| *name != "resourceVersion"))
            }
        }
        let Some(fields) = self.0.as_object() else { return self.0.serialize(serializer) };
        let mut map = serializer.serialize_map(Some(fields.len()))?;
        for (name, value) in fields {
            match value {
                Value::Object(meta) if name == "metadata" => map.serialize_entry(name, &Meta(meta))?,
                _ => map.serialize_entry(name, value)?,
            }
        }
        map.end()
    }
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
    let bytes = serde_json::to_vec(&Stored(object)).map_err(unwritable)?;
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
    let (Some(fields_a), Some(fields_b)) = (a.as_object(), b.as_object()) else { return a == b };
    let nothing = Map::new();
    let (meta_a, meta_b) = (meta(a).unwrap_or(&nothing), meta(b).unwrap_or(&nothing));
    same_but(fields_a, fields_b, &["metadata"]) && same_but(meta_a, meta_b, &["resourceVersion"])
}

/// Whether two maps have the same members, but for those of some names.
fn same_but(a: &Map<String, Value>, b: &Map<String, Value>, names: &[&str]) -> bool {
    let count = |fields: &Map<String, Value>| fields.keys().filter(|name| !names.contains(&name.as_str())).count();
    let mut compared = a.iter().filter(|(name, _)| !names.contains(&name.as_str()));
    count(a) == count(b) && compared.all(|(name, value)| b.get(name) == Some(value))
}

/// Whether two objects want the same: everything but metadata and status.
pub fn same_desire(a: &Value, b: &Value) -> bool {
    let nothing = Map::new();
    let (a, b) = (a.as_object().unwrap_or(&nothing), b.as_object().unwrap_or(&nothing));
    same_but(a, b, &["metadata", "status", "apiVersion", "kind"])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_objects_are_the_same_whatever_their_version() {
        let object = |version: &str, label: &str, image: &str, phase: &str| {
            json!({"kind": "Instance", "metadata": {"name": "a", "resourceVersion": version, "labels": {"l": label}},
                   "spec": {"image": image}, "status": {"phase": phase}})
        };
        let one = object("1", "x", "i", "p");
        assert!(same(&one, &object("2", "x", "i", "p")) && same_desire(&one, &object("2", "y", "i", "q")));
        for other in [object("1", "y", "i", "p"), object("1", "x", "j", "p"), object("1", "x", "i", "q")] {
            assert!(!same(&one, &other) && !same(&other, &one));
        }
        assert!(!same_desire(&one, &object("1", "x", "j", "p")));
        let mut more = one.clone();
        more["spec"]["power"] = "Auto".into();
        more["extra"] = 1.into();
        assert!(!same(&one, &more) && !same(&more, &one) && !same_desire(&one, &more) && !same_desire(&more, &one));
    }

    #[test]
    fn the_version_is_neither_stored_nor_counted() {
        let mut object = json!({"metadata": {"name": "a", "resourceVersion": "7"}, "spec": {"image": ""}});
        let empty = json!({"metadata": {"name": "a"}, "spec": {"image": ""}}).to_string().len();
        object["spec"]["image"] = "x".repeat(MAX_OBJECT_BYTES - empty).into();
        let stored: Value = serde_json::from_slice(&encode(&object).unwrap()).unwrap();
        assert_eq!(stored["metadata"], json!({"name": "a"}));
        fits(&object).expect("just as large as may be");
        object["spec"]["image"] = "x".repeat(MAX_OBJECT_BYTES - empty + 1).into();
        assert_eq!(
            (fits(&object).unwrap_err().code(), encode(&object).unwrap_err().code().as_u16()),
            (http::StatusCode::PAYLOAD_TOO_LARGE, 413)
        );
    }
}
