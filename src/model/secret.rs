//! Secret and ConfigMap: core kinds, served as Kubernetes serves them; their rules; and texts that must not be shown.
//!
//! A [`Secret`] exists only while a request is answered or a container is filled; the store holds it sealed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::meta::{is_default, is_resource};
use super::{FieldError, FieldErrors, Kind, ObjectMeta};

/// The type of a Secret that names none.
pub const OPAQUE: &str = "Opaque";
/// The type of a Secret that holds logins to registries, and the key that it must have.
pub const DOCKER_CONFIG: (&str, &str) = ("kubernetes.io/dockerconfigjson", ".dockerconfigjson");

/// What types demand besides: of the keys of an entry one must be there.
const NEEDED: [(&str, &[&str]); 6] = [
    (DOCKER_CONFIG.0, &[DOCKER_CONFIG.1]),
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/tls", &["tls.crt"]),
    ("kubernetes.io/tls", &["tls.key"]),
    ("kubernetes.io/basic-auth", &["username", "password"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
];

/// A text that must not be shown: wiped when dropped, and hidden from `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    pub fn new(text: String) -> SecretText {
        SecretText(text)
    }

    /// The text itself. What takes it must not show it either.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for SecretText {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl JsonSchema for SecretText {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SecretText".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string"})
    }
}

/// Bytes that must not be shown, base64 in JSON: wiped when dropped, and hidden from `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// The bytes themselves. What takes them must not show them either.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes, hidden)", self.0.len())
    }
}

impl Serialize for SecretBytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&Zeroizing::new(STANDARD.encode(&*self.0)))
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<SecretBytes, D::Error> {
        let text = SecretText(String::deserialize(d)?);
        // The library's own words would repeat a byte of the value.
        let bytes = base64_bytes(text.expose()).ok_or_else(|| D::Error::custom("not base64"))?;
        Ok(SecretBytes(bytes))
    }
}

/// The bytes of a base64 text, in which, as in Go, line breaks do not count.
pub(super) fn base64_bytes(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = if text.contains(['\n', '\r']) {
        STANDARD.decode(&*Zeroizing::new(text.replace(['\n', '\r'], "")))
    } else {
        STANDARD.decode(text)
    };
    bytes.ok().map(Zeroizing::new)
}

impl JsonSchema for SecretBytes {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SecretBytes".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "byte"})
    }
}

/// Values that are to be kept from view: sealed in the store, given to containers by reference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Secret {
    /// The versioned schema of this object.
    #[serde(default)]
    pub api_version: String,
    /// The kind of this object.
    #[serde(default)]
    pub kind: String,
    /// Standard object metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The values, each in base64. A key has letters, digits, '-', '_' and '.', at most 253 of them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub data: BTreeMap<String, SecretBytes>,
    /// Values as text, only for writing: they are put into data, over what is there of the same key.
    #[serde(default, skip_serializing_if = "is_default")]
    pub string_data: BTreeMap<String, SecretText>,
    /// What the values are for; some types must have certain keys. Cannot be changed. Default: Opaque.
    #[serde(default, rename = "type", skip_serializing_if = "is_default")]
    #[schemars(length(max = 253))]
    pub type_: String,
    /// Whether the values can no longer be changed. Cannot be taken back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub immutable: bool,
}

/// Values that anyone who reads the object may see: settings, files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMap {
    /// The versioned schema of this object.
    #[serde(default)]
    pub api_version: String,
    /// The kind of this object.
    #[serde(default)]
    pub kind: String,
    /// Standard object metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The values. A key has letters, digits, '-', '_' and '.', at most 253 of them, and is not in binaryData, too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub data: BTreeMap<String, String>,
    /// Values that are no text, each in base64.
    #[serde(default, skip_serializing_if = "is_default")]
    pub binary_data: BTreeMap<String, SecretBytes>,
    /// Whether the values can no longer be changed. Cannot be taken back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub immutable: bool,
}

is_resource!(Secret, Kind::Secret);

is_resource!(ConfigMap, Kind::ConfigMap);

/// What can be known of a stored Secret without opening it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SealedSecret {
    pub metadata: ObjectMeta,
    #[serde(rename = "type")]
    pub type_: String,
    /// The keys of its data.
    pub keys: BTreeSet<String>,
}

is_resource!(SealedSecret, Kind::Secret);

/// The rule for keys of Secrets and ConfigMaps.
pub(super) fn key_rule(key: &str) -> Option<&'static str> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if key.is_empty() || key.len() > 253 || !key.bytes().all(allowed) {
        Some("a valid config key must consist of alphanumeric characters, '-', '_' or '.', at most 253 of them")
    } else if key == "." || key.starts_with("..") {
        Some("a valid config key must not be '.' or begin with '..'")
    } else {
        None
    }
}

fn key_problem(field: &str, key: &str) -> Option<FieldError> {
    key_rule(key).map(|why| FieldError::invalid(format!("{field}[{key}]"), format!("{key:?}"), why))
}

/// Checks a Secret's rules between fields. Empty means valid. Never repeats a value.
pub fn validate_secret(secret: &Secret) -> Vec<FieldError> {
    let mut errors: FieldErrors = secret.data.keys().filter_map(|key| key_problem("data", key)).collect();
    for (_, keys) in NEEDED.iter().filter(|(type_, _)| *type_ == secret.type_) {
        if !keys.iter().any(|key| secret.data.contains_key(*key)) {
            let field = keys.iter().map(|key| format!("data[{key}]")).collect::<Vec<_>>().join(" or ");
            errors.push(FieldError::required(field, ""));
        }
    }
    if secret.type_ == DOCKER_CONFIG.0
        && let Some(content) = secret.data.get(DOCKER_CONFIG.1)
        && serde_json::from_slice::<BTreeMap<String, serde::de::IgnoredAny>>(content.expose()).is_err()
    {
        let field = format!("data[{}]", DOCKER_CONFIG.1);
        errors.push(FieldError::invalid(field, "<secret contents redacted>", "must be a JSON object"));
    }
    errors.into()
}

/// Checks a ConfigMap's rules between fields. Empty means valid.
pub fn validate_config_map(map: &ConfigMap) -> Vec<FieldError> {
    let mut errors: FieldErrors = map.data.keys().filter_map(|key| key_problem("data", key)).collect();
    for key in map.binary_data.keys() {
        errors.extend(key_problem("binaryData", key));
        if map.data.contains_key(key) {
            let why = "duplicate of key present in data";
            errors.push(FieldError::invalid(format!("binaryData[{key}]"), format!("{key:?}"), why));
        }
    }
    errors.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn problems(secret: Value) -> Vec<String> {
        validate_secret(&serde_json::from_value(secret).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn types_demand_their_keys() {
        assert_eq!(problems(json!({"type": "Opaque"})), [""; 0]);
        assert_eq!(
            problems(json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}})),
            ["data[tls.key]: Required value"]
        );
        assert_eq!(
            problems(json!({"type": "kubernetes.io/basic-auth"})),
            ["data[username] or data[password]: Required value"]
        );
        assert_eq!(problems(json!({"type": "kubernetes.io/basic-auth", "data": {"password": "eA=="}})), [""; 0]);
        // "hunter2" in base64: told to be wrong, and not repeated
        let told = problems(json!({"type": DOCKER_CONFIG.0, "data": {DOCKER_CONFIG.1: "aHVudGVyMg=="}}));
        assert_eq!(told, ["data[.dockerconfigjson]: Invalid value: <secret contents redacted>: must be a JSON object"]);
        assert_eq!(problems(json!({"type": DOCKER_CONFIG.0, "data": {DOCKER_CONFIG.1: "e30="}})), [""; 0]);
    }

    #[test]
    fn keys_are_file_names() {
        for good in ["a", ".dockerconfigjson", "A_b-c.9", &"a".repeat(253)] {
            assert_eq!(key_problem("data", good), None, "{good}");
        }
        assert_eq!(base64_bytes("aHVu\r\ndGVyMg==\n").unwrap()[..], *b"hunter2");
        for bad in ["", ".", "..", "..a", "a/b", "a b", "ä", &"a".repeat(254)] {
            assert!(key_problem("data", bad).is_some(), "{bad}");
        }
        let map: ConfigMap = serde_json::from_value(json!({"data": {"a": "x"}, "binaryData": {"a": ""}})).unwrap();
        assert_eq!(validate_config_map(&map)[0].field, "binaryData[a]");
    }

    #[test]
    fn debug_shows_no_value() {
        let secret: Secret =
            serde_json::from_value(json!({"data": {"a": "aHVudGVyMg=="}, "stringData": {"b": "hunter2"}})).unwrap();
        let shown = format!("{secret:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
        let bad = serde_json::from_value::<Secret>(json!({"data": {"a": "hunter2!"}})).unwrap_err();
        assert!(!bad.to_string().contains("hunter2"), "{bad}");
    }
}
