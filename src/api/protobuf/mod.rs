//! Kubernetes' protobuf bodies, turned into the JSON that they stand for.
//!
//! kubectl 1.32 and newer, and typed clients in Go, send built-in kinds this way and do not try JSON after a 415. Only the
//! messages and fields that such clients send to us are known (`messages`); others are skipped, as protobuf wants it.

mod messages;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use messages::{Field, Shape, TYPE_META};

/// What begins every body.
const MAGIC: &[u8] = b"k8s\0";
/// How deep messages nest at most in what we know.
const MOST_DEPTH: usize = 8;

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
    let named = |name: &str| types.get(name).and_then(Value::as_str).unwrap_or_default();
    let fields = messages::of(named("apiVersion"), named("kind"))
        .ok_or_else(|| ProtobufError::UnknownKind(named("kind").to_owned()))?;
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
            (Shape::Count, Wire::Number(0)) => continue,
            (Shape::Integer | Shape::Count, Wire::Number(n)) => Value::from(n.cast_signed()),
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
        body_of("v1", kind, raw)
    }

    fn body_of(version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let types = [bytes(1, version.as_bytes()), bytes(2, kind.as_bytes())].concat();
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

    #[test]
    fn events_of_their_own_group_have_other_numbers() {
        let raw = [bytes(4, b"example.com/c"), bytes(8, &bytes(1, b"Instance")), bytes(10, b"text"), vec![15 << 3, 2]]
            .concat();
        assert_eq!(
            decode(&body_of("events.k8s.io/v1", "Event", &raw)).unwrap(),
            json!({
                "apiVersion": "events.k8s.io/v1", "kind": "Event", "reportingController": "example.com/c",
                "regarding": {"kind": "Instance"}, "note": "text", "deprecatedCount": 2,
            })
        );
    }

    #[test]
    fn a_node_is_read_as_far_as_it_can_be_written() {
        let taint = [bytes(1, b"k"), bytes(2, b""), bytes(3, b"NoSchedule")].concat();
        let spec = [bytes(3, b"docker://h1"), vec![4 << 3, 1], bytes(5, &taint)].concat();
        let raw = [bytes(1, &bytes(1, b"h1")), bytes(2, &spec), bytes(3, b"status")].concat();
        assert_eq!(
            decode(&body("Node", &raw)).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": "h1"},
                "spec": {"providerID": "docker://h1", "unschedulable": true, "taints": [{"key": "k", "effect": "NoSchedule"}]},
            })
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(kind in "Namespace|Event|Node|Secret|ConfigMap|DeleteOptions", raw: Vec<u8>, whole: Vec<u8>) {
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
