//! Kubernetes' protobuf bodies, turned into the JSON that they stand for.
//!
//! kubectl 1.32 and newer send built-in kinds this way and do not try JSON after a 415. Only the messages and fields
//! that such clients send to us are known; others are skipped, as protobuf wants it.
//!
//! Source: `generated.proto` of k8s.io/api and k8s.io/apimachinery.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// What begins every body.
const MAGIC: &[u8] = b"k8s\0";
/// How deep messages nest at most in what we know.
const MOST_DEPTH: usize = 8;

/// How a field is written in JSON.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Integer,
    /// `{1 seconds}`
    Time,
    Message(&'static [Field]),
    /// `{1 seconds, 2 nanoseconds}`, told to the microsecond
    MicroTime,
    Flag,
    /// JSON as bytes: `{1 raw}`
    Json,
    /// Repeated `{1 key, 2 value}` of texts.
    TextMap,
    /// As that, of a text and bytes, which are base64 in JSON.
    BytesMap,
}

struct Field {
    number: u64,
    name: &'static str,
    shape: Shape,
    repeated: bool,
}

const fn one(number: u64, name: &'static str, shape: Shape) -> Field {
    Field { number, name, shape, repeated: false }
}

const fn many(number: u64, name: &'static str, shape: Shape) -> Field {
    Field { number, name, shape, repeated: true }
}

static OBJECT_META: [Field; 14] = [
    one(1, "name", Shape::Text),
    one(2, "generateName", Shape::Text),
    one(3, "namespace", Shape::Text),
    one(5, "uid", Shape::Text),
    one(6, "resourceVersion", Shape::Text),
    one(7, "generation", Shape::Integer),
    one(8, "creationTimestamp", Shape::Time),
    one(9, "deletionTimestamp", Shape::Time),
    one(10, "deletionGracePeriodSeconds", Shape::Integer),
    one(11, "labels", Shape::TextMap),
    one(12, "annotations", Shape::TextMap),
    many(13, "ownerReferences", Shape::Message(&OWNER)),
    many(14, "finalizers", Shape::Text),
    many(17, "managedFields", Shape::Message(&MANAGED)),
];
static OWNER: [Field; 6] = [
    one(1, "kind", Shape::Text),
    one(3, "name", Shape::Text),
    one(4, "uid", Shape::Text),
    one(5, "apiVersion", Shape::Text),
    one(6, "controller", Shape::Flag),
    one(7, "blockOwnerDeletion", Shape::Flag),
];
static MANAGED: [Field; 7] = [
    one(1, "manager", Shape::Text),
    one(2, "operation", Shape::Text),
    one(3, "apiVersion", Shape::Text),
    one(4, "time", Shape::Time),
    one(6, "fieldsType", Shape::Text),
    one(7, "fieldsV1", Shape::Json),
    one(8, "subresource", Shape::Text),
];
static SECRET: [Field; 5] = [
    one(1, "metadata", Shape::Message(&OBJECT_META)),
    one(2, "data", Shape::BytesMap),
    one(3, "type", Shape::Text),
    one(4, "stringData", Shape::TextMap),
    one(5, "immutable", Shape::Flag),
];
static CONFIG_MAP: [Field; 4] = [
    one(1, "metadata", Shape::Message(&OBJECT_META)),
    one(2, "data", Shape::TextMap),
    one(3, "binaryData", Shape::BytesMap),
    one(4, "immutable", Shape::Flag),
];
static NAMESPACE: [Field; 2] =
    [one(1, "metadata", Shape::Message(&OBJECT_META)), one(2, "spec", Shape::Message(&NAMESPACE_SPEC))];
static NAMESPACE_SPEC: [Field; 1] = [many(1, "finalizers", Shape::Text)];
static EVENT: [Field; 15] = [
    one(1, "metadata", Shape::Message(&OBJECT_META)),
    one(2, "involvedObject", Shape::Message(&REFERENCE)),
    one(3, "reason", Shape::Text),
    one(4, "message", Shape::Text),
    one(5, "source", Shape::Message(&SOURCE)),
    one(6, "firstTimestamp", Shape::Time),
    one(7, "lastTimestamp", Shape::Time),
    one(8, "count", Shape::Integer),
    one(9, "type", Shape::Text),
    one(10, "eventTime", Shape::MicroTime),
    one(11, "series", Shape::Message(&SERIES)),
    one(12, "action", Shape::Text),
    one(13, "related", Shape::Message(&REFERENCE)),
    one(14, "reportingComponent", Shape::Text),
    one(15, "reportingInstance", Shape::Text),
];
static SERIES: [Field; 2] = [one(1, "count", Shape::Integer), one(2, "lastObservedTime", Shape::MicroTime)];
static REFERENCE: [Field; 7] = [
    one(1, "kind", Shape::Text),
    one(2, "namespace", Shape::Text),
    one(3, "name", Shape::Text),
    one(4, "uid", Shape::Text),
    one(5, "apiVersion", Shape::Text),
    one(6, "resourceVersion", Shape::Text),
    one(7, "fieldPath", Shape::Text),
];
static SOURCE: [Field; 2] = [one(1, "component", Shape::Text), one(2, "host", Shape::Text)];
static REVIEW: [Field; 1] = [one(1, "metadata", Shape::Message(&OBJECT_META))];
static ACCESS_REVIEW: [Field; 2] =
    [one(1, "metadata", Shape::Message(&OBJECT_META)), one(2, "spec", Shape::Message(&ACCESS_SPEC))];
static ACCESS_SPEC: [Field; 2] = [
    one(1, "resourceAttributes", Shape::Message(&RESOURCE_ATTRIBUTES)),
    one(2, "nonResourceAttributes", Shape::Message(&NON_RESOURCE_ATTRIBUTES)),
];
static RULES_REVIEW: [Field; 1] = [one(2, "spec", Shape::Message(&RULES_SPEC))];
static RULES_SPEC: [Field; 1] = [one(1, "namespace", Shape::Text)];
static RESOURCE_ATTRIBUTES: [Field; 7] = [
    one(1, "namespace", Shape::Text),
    one(2, "verb", Shape::Text),
    one(3, "group", Shape::Text),
    one(4, "version", Shape::Text),
    one(5, "resource", Shape::Text),
    one(6, "subresource", Shape::Text),
    one(7, "name", Shape::Text),
];
static NON_RESOURCE_ATTRIBUTES: [Field; 2] = [one(1, "path", Shape::Text), one(2, "verb", Shape::Text)];
static DELETE_OPTIONS: [Field; 4] = [
    one(1, "gracePeriodSeconds", Shape::Integer),
    one(2, "preconditions", Shape::Message(&PRECONDITIONS)),
    one(4, "propagationPolicy", Shape::Text),
    many(5, "dryRun", Shape::Text),
];
static EVICTION: [Field; 2] =
    [one(1, "metadata", Shape::Message(&OBJECT_META)), one(2, "deleteOptions", Shape::Message(&DELETE_OPTIONS))];
static PRECONDITIONS: [Field; 2] = [one(1, "uid", Shape::Text), one(2, "resourceVersion", Shape::Text)];
/// `{1 typeMeta {1 apiVersion, 2 kind}, 2 raw}`, but for `raw`, which is read by hand.
static TYPE_META: [Field; 2] = [one(1, "apiVersion", Shape::Text), one(2, "kind", Shape::Text)];

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    #[error("it does not begin with the magic number of Kubernetes' protobuf")]
    NoMagic,
    #[error("it is broken or cut off")]
    Broken,
    #[error("the kind {0:?} is not known as protobuf; send JSON")]
    UnknownKind(String),
}

use ProtobufError::Broken;

/// The object in a protobuf body.
pub fn decode(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let bytes = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
    let (mut types, mut raw) = (Value::Null, &[][..]);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => types = message(&TYPE_META, bytes, 0)?,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let kind = types.get("kind").and_then(Value::as_str).unwrap_or_default();
    let fields: &[Field] = match kind {
        "Namespace" => &NAMESPACE,
        "Event" => &EVENT,
        "Secret" => &SECRET,
        "ConfigMap" => &CONFIG_MAP,
        "SelfSubjectReview" => &REVIEW,
        "SelfSubjectAccessReview" => &ACCESS_REVIEW,
        "SelfSubjectRulesReview" => &RULES_REVIEW,
        "DeleteOptions" => &DELETE_OPTIONS,
        "Eviction" => &EVICTION,
        other => return Err(ProtobufError::UnknownKind(other.to_owned())),
    };
    let mut object = message(fields, raw, 0)?;
    for name in ["apiVersion", "kind"] {
        object[name] = types.get(name).cloned().unwrap_or_default();
    }
    Ok(object)
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a fixed size; nothing that we know is.
    Other,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ProtobufError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Broken)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Broken)
    }

    fn field(&mut self) -> Result<Option<(u64, Wire<'a>)>, ProtobufError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => self.take(8).map(|_| Wire::Other)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Broken)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Wire::Other)?,
            _ => return Err(Broken),
        };
        Ok(Some((tag >> 3, wire)))
    }
}

fn text(bytes: &[u8]) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Broken)
}

fn message(fields: &[Field], bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    if depth > MOST_DEPTH {
        return Err(Broken);
    }
    let mut object = Map::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        let Some(field) = fields.iter().find(|f| f.number == number) else { continue };
        let value = match (field.shape, wire) {
            // Go writes every text, and an empty one means that it is not set.
            (Shape::Text, Wire::Bytes([])) => continue,
            (Shape::Text, Wire::Bytes(bytes)) => Value::from(text(bytes)?),
            (Shape::Integer, Wire::Number(n)) => Value::from(n.cast_signed()),
            (Shape::Time | Shape::MicroTime, Wire::Bytes(bytes)) => {
                match time(bytes, matches!(field.shape, Shape::MicroTime))? {
                    Some(time) => time.into(),
                    None => continue,
                }
            }
            (Shape::Flag, Wire::Number(n)) => Value::from(n != 0),
            (Shape::Json, Wire::Bytes(bytes)) => serde_json::from_slice(entry(bytes)?.0).map_err(|_| Broken)?,
            (Shape::Message(fields), Wire::Bytes(bytes)) => message(fields, bytes, depth + 1)?,
            (Shape::TextMap | Shape::BytesMap, Wire::Bytes(bytes)) => {
                let (key, value) = entry(bytes)?;
                let value = match field.shape {
                    Shape::BytesMap => STANDARD.encode(value),
                    _ => text(value)?,
                };
                let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                map[text(key)?] = value.into();
                continue;
            }
            _ => return Err(Broken),
        };
        if field.repeated {
            let list = object.entry(field.name).or_insert_with(|| Value::Array(vec![]));
            list.as_array_mut().ok_or(Broken)?.push(value);
        } else {
            object.insert(field.name.into(), value);
        }
    }
    Ok(Value::Object(object))
}

/// One entry of a map: key and value.
fn entry(bytes: &[u8]) -> Result<(&[u8], &[u8]), ProtobufError> {
    let (mut key, mut value) = (&[][..], &[][..]);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1, Wire::Bytes(bytes)) => key = bytes,
            (2, Wire::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    Ok((key, value))
}

/// A time in RFC 3339; none for the empty message, which is Go's zero time.
fn time(bytes: &[u8], micro: bool) -> Result<Option<String>, ProtobufError> {
    let (mut seconds, mut nanos) = (None, 0);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.field()? {
        match (number, wire) {
            (1, Wire::Number(n)) => seconds = Some(n.cast_signed()),
            (2, Wire::Number(n)) => nanos = i32::try_from(n.cast_signed()).map_err(|_| Broken)?,
            _ => {}
        }
    }
    let Some(seconds) = seconds else { return Ok(None) };
    let time = jiff::Timestamp::new(seconds, if micro { nanos / 1000 * 1000 } else { 0 }).map_err(|_| Broken)?;
    Ok(Some(if micro { format!("{time:.6}") } else { time.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A field of bytes, as protobuf writes it; short ones only.
    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend_from_slice(content);
        out
    }

    fn body(kind: &str, raw: &[u8]) -> Vec<u8> {
        let types = [bytes(1, b"v1"), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &types), bytes(2, raw), bytes(3, b""), bytes(4, b"")].concat()
    }

    #[test]
    fn a_namespace_is_read_as_the_json_that_it_stands_for() {
        let label = [bytes(1, b"a"), bytes(2, b"b")].concat();
        let meta = [bytes(1, b"team"), bytes(2, b""), bytes(8, b""), bytes(11, &label)].concat();
        let raw = [bytes(1, &meta), bytes(2, b""), bytes(3, b"\x0a\x00")].concat();
        assert_eq!(
            decode(&body("Namespace", &raw)).unwrap(),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "labels": {"a": "b"}}, "spec": {}})
        );
    }

    #[test]
    fn secrets_and_config_maps_are_read_whole() {
        let entry = |value: &[u8]| [bytes(1, b"k"), bytes(2, value)].concat();
        let owner = [bytes(1, b"Instance"), bytes(3, b"a"), vec![6 << 3, 1]].concat();
        let managed = [bytes(1, b"m"), bytes(7, &bytes(1, b"{\"f:data\":{}}"))].concat();
        let meta = [bytes(1, b"s"), bytes(13, &owner), vec![0x8a, 1], bytes(0, &managed)[1..].to_vec()].concat();
        let raw = [bytes(1, &meta), bytes(2, &entry(b"\xff")), bytes(3, b"Opaque"), vec![5 << 3, 1]].concat();
        let read = decode(&body("Secret", &raw)).unwrap();
        assert_eq!(
            read,
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true, "data": {"k": "/w=="},
                "metadata": {
                    "name": "s", "ownerReferences": [{"kind": "Instance", "name": "a", "controller": true}],
                    "managedFields": [{"manager": "m", "fieldsV1": {"f:data": {}}}],
                },
            })
        );
        let raw = [bytes(2, &entry(b"x")), bytes(3, &entry(b""))].concat();
        let read = decode(&body("ConfigMap", &raw)).unwrap();
        assert_eq!((&read["data"], &read["binaryData"]), (&json!({"k": "x"}), &json!({"k": ""})));
    }

    #[test]
    fn an_eviction_keeps_the_options_of_its_delete() {
        let options = [vec![1 << 3, 30], bytes(2, &bytes(1, b"u")), bytes(5, b"All")].concat();
        let raw = [bytes(1, &bytes(1, b"web")), bytes(2, &options)].concat();
        assert_eq!(
            decode(&body("Eviction", &raw)).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Eviction", "metadata": {"name": "web"},
                "deleteOptions": {"gracePeriodSeconds": 30, "preconditions": {"uid": "u"}, "dryRun": ["All"]},
            })
        );
    }

    #[test]
    fn events_keep_their_microseconds() {
        let time = [vec![1 << 3, 1], vec![2 << 3], vec![0xc0, 0x84, 0x3d]].concat();
        let raw = [bytes(10, &time), bytes(11, &[vec![1 << 3, 2], bytes(2, &time)].concat()), bytes(12, b"a")].concat();
        let read = decode(&body("Event", &raw)).unwrap();
        assert_eq!(read["eventTime"], "1970-01-01T00:00:01.001000Z");
        assert_eq!(read["series"], json!({"count": 2, "lastObservedTime": "1970-01-01T00:00:01.001000Z"}));
        assert_eq!(read["action"], "a");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(kind in "Namespace|Event|Secret|ConfigMap|DeleteOptions", raw: Vec<u8>, whole: Vec<u8>) {
            drop(decode(&[MAGIC, &whole].concat()));
            let raw: Vec<u8> = raw.into_iter().take(100).collect();
            drop(decode(&body(&kind, &raw)));
        }
    }

    #[test]
    fn broken_bodies_and_unknown_kinds_are_refused() {
        assert_eq!(decode(b"{}"), Err(ProtobufError::NoMagic));
        assert_eq!(decode(&body("Gadget", b"")), Err(ProtobufError::UnknownKind("Gadget".into())));
        let whole = body("Namespace", &bytes(1, &bytes(1, b"team")));
        for length in MAGIC.len() + 1..whole.len() {
            // A cut between two fields is a shorter message; every other is an error. None may panic.
            drop(decode(&whole[..length]));
        }
        assert_eq!(
            decode(&[MAGIC, &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]].concat()),
            Err(Broken)
        );
        assert_eq!(decode(&body("Namespace", b"\x0a\x7f")), Err(Broken));
    }
}
