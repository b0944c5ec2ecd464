//! The form of a sealed record: `data` and the annotations are in the box, all else is readable, so that selectors,
//! owners and finalizers work without opening anything.
//!
//! ```text
//! {metadata: {…, annotations: A}, type, data: D}  ⇄  {metadata: {…}, type, keys: [of D], sealed: {key, box}}
//! ```
//!
//! Annotations are in it because clients keep whole objects there (`last-applied-configuration`). The names of the data
//! keys, namespace, name and uid are authenticated.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{Keyring, OpenError};

/// Whose a box is.
fn owner(object: &Value) -> Vec<u8> {
    let meta = |name: &str| object.pointer("/metadata").and_then(|m| m.get(name)).cloned().unwrap_or_default();
    let keys = object.get("keys").cloned().unwrap_or_default();
    json!(["portreeve.dev/sealed/1", meta("namespace"), meta("name"), meta("uid"), keys]).to_string().into_bytes()
}

/// The record to store for a plain object.
///
/// # Errors
/// When it is no JSON object, or still has parts that would be stored in the open.
pub fn seal(ring: &Keyring, plain: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut object: Value = serde_json::from_slice(plain).map_err(|_| "it is no JSON")?;
    let fields = object.as_object_mut().ok_or("it is no JSON object")?;
    if fields.contains_key("stringData") || fields.contains_key("sealed") || fields.contains_key("keys") {
        return Err("it has fields that are not stored");
    }
    let data = match fields.remove("data") {
        None => Map::new(),
        Some(Value::Object(data)) => data,
        Some(_) => return Err("its data is no object"),
    };
    let keys: Vec<&String> = data.keys().collect();
    fields.insert("keys".into(), json!(keys));
    let annotations = fields.get_mut("metadata").and_then(Value::as_object_mut).and_then(|m| m.remove("annotations"));
    let content = Zeroizing::new(json!({"data": data, "annotations": annotations}).to_string());
    let sealed = ring.seal(&owner(&object), content.as_bytes());
    object["sealed"] = json!({"key": ring.sealing_id(), "box": STANDARD.encode(sealed)});
    serde_json::to_vec(&object).map_err(|_| "it cannot be written as JSON")
}

/// The id of the key that a stored record is sealed with.
pub fn key_id(stored: &[u8]) -> Result<String, OpenError> {
    let object: Value = serde_json::from_slice(stored).map_err(|_| OpenError::Malformed("it is no JSON"))?;
    let id = object.pointer("/sealed/key").and_then(Value::as_str);
    id.map(str::to_owned).ok_or(OpenError::Malformed("it names no key"))
}

/// The plain object of a stored record.
pub fn open(ring: &Keyring, stored: &[u8]) -> Result<Vec<u8>, OpenError> {
    use OpenError::Malformed;
    let mut object: Value = serde_json::from_slice(stored).map_err(|_| Malformed("it is no JSON"))?;
    let of = owner(&object);
    let fields = object.as_object_mut().ok_or(Malformed("it is no JSON object"))?;
    let sealed = fields.remove("sealed").ok_or(Malformed("it has no sealed part"))?;
    fields.remove("keys");
    let text = |name: &str| sealed.get(name).and_then(Value::as_str);
    let id = text("key").ok_or(Malformed("it names no key"))?;
    let body = text("box").and_then(|b| STANDARD.decode(b).ok()).ok_or(Malformed("its box is no base64"))?;
    let content = ring.open(id, &of, &body)?;
    let mut content: Value = serde_json::from_slice(&content).map_err(|_| Malformed("its content is no JSON"))?;
    let data = content["data"].take();
    if data.as_object().is_some_and(|d| !d.is_empty()) {
        fields.insert("data".into(), data);
    }
    let annotations = content["annotations"].take();
    if !annotations.is_null()
        && let Some(meta) = fields.get_mut("metadata").and_then(Value::as_object_mut)
    {
        meta.insert("annotations".into(), annotations);
    }
    serde_json::to_vec(&object).map_err(|_| Malformed("it cannot be written as JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Value {
        json!({
            "metadata": {"namespace": "default", "name": "db", "uid": "u", "labels": {"a": "b"},
                         "annotations": {"last": "{\"stringData\": \"hunter2\"}"}},
            "type": "Opaque", "data": {"password": "aHVudGVyMg=="},
        })
    }

    fn sealed(ring: &Keyring) -> Value {
        serde_json::from_slice(&seal(ring, secret().to_string().as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn labels_and_key_names_are_readable_and_nothing_else_that_matters() {
        let ring = Keyring::ephemeral().unwrap();
        let stored = sealed(&ring);
        assert_eq!((&stored["keys"], &stored["metadata"]["labels"]["a"]), (&json!(["password"]), &json!("b")));
        let text = stored.to_string();
        assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg") && !text.contains("stringData"), "{text}");
        let opened: Value = serde_json::from_slice(&open(&ring, text.as_bytes()).unwrap()).unwrap();
        assert_eq!(opened, secret());
        assert_eq!(key_id(text.as_bytes()).unwrap(), ring.sealing_id());
    }

    #[test]
    fn a_box_fits_no_other_record() {
        let ring = Keyring::ephemeral().unwrap();
        for (pointer, value) in [
            ("/metadata/namespace", json!("other")),
            ("/metadata/name", json!("other")),
            ("/metadata/uid", json!("v")),
            ("/keys", json!(["token"])),
        ] {
            let mut moved = sealed(&ring);
            *moved.pointer_mut(pointer).unwrap() = value;
            let told = open(&ring, moved.to_string().as_bytes()).unwrap_err();
            assert_eq!(told, OpenError::Forged(ring.sealing_id().into()), "{pointer}");
        }
        let mut labelled = sealed(&ring);
        labelled["metadata"]["labels"]["a"] = "c".into();
        assert!(open(&ring, labelled.to_string().as_bytes()).is_ok(), "labels are free");
    }

    #[test]
    fn nothing_is_stored_in_the_open_by_mistake() {
        let ring = Keyring::ephemeral().unwrap();
        for plain in ["", "[]", r#"{"stringData": {"a": "b"}}"#, r#"{"data": "x"}"#, r#"{"sealed": {}}"#] {
            assert!(seal(&ring, plain.as_bytes()).is_err(), "{plain}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_stored_bytes_make_it_panic(noise: Vec<u8>, id in "[a-f0-9]{0,16}", body in ".{0,40}") {
            let ring = Keyring::ephemeral().unwrap();
            drop(open(&ring, &noise));
            let known = ring.sealing_id();
            for id in [id.as_str(), known] {
                assert!(open(&ring, json!({"sealed": {"key": id, "box": body}}).to_string().as_bytes()).is_err());
            }
        }
    }
}
