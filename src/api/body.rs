//! Request bodies: read within a limit and a time, and parsed from JSON, YAML or Kubernetes' protobuf,
//! with every duplicate key found.
//!
//! serde_json keeps the last of two equal keys silently, which strict validation must not; hence a visitor of our own.
//! Depth is bounded by the parsers (128 levels).

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::error::ApiError;
use super::protobuf;
use crate::model::MAX_OBJECT_BYTES;

/// Most bytes read of a body: an object of the greatest size still fits when it is written with much white space.
pub const MAX_BODY_BYTES: usize = 3 * MAX_OBJECT_BYTES;
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A parsed body.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    pub value: Value,
    /// Paths of keys that stood twice: `spec.image`.
    pub duplicates: Vec<String>,
}

/// Reads the whole body.
pub async fn read(body: Body) -> Result<Bytes, ApiError> {
    let collect = async {
        let mut body = body;
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| ApiError::bad_request(format!("the request body broke off: {e}")))?;
            if let Some(data) = frame.data_ref() {
                if bytes.len() + data.len() > MAX_BODY_BYTES {
                    let message = format!("the request body has more than the {MAX_BODY_BYTES} bytes allowed");
                    return Err(ApiError::too_large(message));
                }
                bytes.extend_from_slice(data);
            }
        }
        Ok(bytes.freeze())
    };
    match tokio::time::timeout(BODY_TIMEOUT, collect).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::timeout("the request body did not arrive in time")),
    }
}

/// The media type of the body without its parameters, in lower case; empty when the header is missing.
pub fn media_type(headers: &HeaderMap) -> String {
    let text = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Parses an object body by its media type. A missing type means JSON.
pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Parsed, ApiError> {
    match media_type {
        "" | "application/json" => parse_json(bytes),
        "application/yaml" | "text/yaml" | "application/x-yaml" => parse_yaml(bytes),
        PROTOBUF => {
            let value = protobuf::decode(bytes)
                .map_err(|e| ApiError::bad_request(format!("the request body cannot be read as protobuf: {e}")))?;
            Ok(Parsed { value, duplicates: vec![] })
        }
        _ => Err(ApiError::unsupported_media(&["application/json", "application/yaml", PROTOBUF])),
    }
}

/// Parses JSON, noting duplicate keys; the last one counts, as in Go.
pub fn parse_json(bytes: &[u8]) -> Result<Parsed, ApiError> {
    let mut duplicates = vec![];
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Node { place: &Place::Root, duplicates: &mut duplicates }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|e| ApiError::bad_request(format!("the request body is not valid JSON: {e}")))?;
    Ok(Parsed { value, duplicates })
}

/// Parses one YAML document. A duplicate key is an error there.
pub fn parse_yaml(bytes: &[u8]) -> Result<Parsed, ApiError> {
    let options = serde_yaml::options! { strict_booleans: true, ignore_binary_tag_for_string: true };
    let value: Value = serde_yaml::from_slice_with_options(bytes, options)
        .map_err(|e| ApiError::bad_request(format!("the request body is not valid YAML: {e}")))?;
    Ok(Parsed { value, duplicates: vec![] })
}

/// Where a node stands. Written out only for a duplicate: with a long key above many items, a path for each item would
/// cost their product.
enum Place<'a> {
    Root,
    Field(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Root => Ok(()),
            Place::Field(Place::Root, name) => f.write_str(name),
            Place::Field(parent, name) => write!(f, "{parent}.{name}"),
            Place::Item(parent, i) => write!(f, "{parent}[{i}]"),
        }
    }
}

/// Builds a [`Value`], writing down the path of each key that comes twice.
struct Node<'a> {
    place: &'a Place<'a>,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("a number is not finite"))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = vec![];
        loop {
            let place = Place::Item(self.place, items.len());
            let seed = Node { place: &place, duplicates: self.duplicates };
            let Some(item) = access.next_element_seed(seed)? else { break };
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        // More is no honest mistake; and the answer would repeat each of them.
        const MOST_DUPLICATES: usize = 32;
        let mut fields = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let place = Place::Field(self.place, &name);
            let value = access.next_value_seed(Node { place: &place, duplicates: self.duplicates })?;
            if fields.contains_key(&name) {
                if self.duplicates.len() >= MOST_DUPLICATES {
                    return Err(A::Error::custom("too many duplicate keys"));
                }
                self.duplicates.push(place.to_string());
            }
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn duplicate_keys_are_found_with_their_path_and_the_last_counts() {
        let parsed = parse_json(br#"{"spec": {"image": "a", "ports": [{"name": "x", "name": "y"}], "image": "b"}}"#);
        let parsed = parsed.unwrap();
        assert_eq!(parsed.duplicates, ["spec.ports[0].name", "spec.image"]);
        assert_eq!(parsed.value, json!({"spec": {"image": "b", "ports": [{"name": "y"}]}}));
    }

    #[test]
    fn broken_bodies_are_refused() {
        let deep = "[".repeat(100_000);
        for bad in ["", "{", "{} {}", "{\"a\": 1e999}", "\u{1}", &deep] {
            assert!(parse_json(bad.as_bytes()).is_err(), "{:.20} was taken", bad);
        }
        assert!(parse_json(b"{\"a\": \"\xff\"}").is_err(), "bad UTF-8 was taken");
        assert!(parse_yaml(deep.as_bytes()).is_err());
        assert!(parse_yaml(b"a: 1\na: 2\n").is_err(), "a duplicate key was taken");
    }

    #[test]
    fn yaml_keeps_text_as_text() {
        let parsed = parse("application/yaml", b"a: \"3\"\nb: no\nc: 3\nd: true\n").unwrap();
        assert_eq!(parsed.value, json!({"a": "3", "b": "no", "c": 3, "d": true}));
    }
}
