//! Replaces one member of a JSON object and leaves every other byte as it was.
//!
//! Status writers must not lose fields that they do not know, nor reorder or reprint what a user wrote (a parse and
//! a reprint would also round very large numbers). Used by [`super::typed`] on stored objects, which are valid JSON, and by
//! the API to show them without reading them whole.

use std::ops::Range;

/// The text is not what it must be: where, and what was expected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at}: expected {expected}")]
pub struct BadJson {
    at: usize,
    expected: &'static str,
}

/// A member of an object: the bytes from its key to the end of its value, and those of its value.
struct Member<'a> {
    /// As it is written, with its quotes.
    name: &'a [u8],
    whole: Range<usize>,
    value: Range<usize>,
}

impl Member<'_> {
    fn is(&self, name: &str) -> bool {
        match self.name {
            [b'"', plain @ .., b'"'] if !plain.contains(&b'\\') => plain == name.as_bytes(),
            escaped => serde_json::from_slice::<String>(escaped).is_ok_and(|escaped| escaped == name),
        }
    }
}

/// The value of member `name` of the object that `json` holds, if it has one.
pub(super) fn member<'a>(json: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, BadJson> {
    let mut found = None;
    each(json, |member| {
        if member.is(name) {
            found = Some(member.value);
        }
    })?;
    Ok(found.map(|value| &json[value]))
}

/// The value at a path of member names; `None` also when something on the way is no object.
///
/// # Errors
/// When `json` itself is no object.
pub fn at<'a>(json: &'a [u8], path: &[&str]) -> Result<Option<&'a [u8]>, BadJson> {
    let Some((last, way)) = path.split_last() else { return Ok(Some(json)) };
    let mut node = json;
    for name in way {
        match member(node, name)? {
            Some(value) if value.first() == Some(&b'{') => node = value,
            _ => return Ok(None),
        }
    }
    member(node, last)
}

/// `json` with member `name` set to `value` (itself JSON), or removed. A new member comes last.
pub(super) fn with_member(json: &[u8], name: &str, value: Option<&[u8]>) -> Result<Vec<u8>, BadJson> {
    let mut members = vec![];
    let close = each(json, |member| members.push(member))?;
    let at = members.iter().rposition(|m| m.is(name));
    let (cut, insert) = match (at, value) {
        (Some(i), Some(value)) => (members[i].value.clone(), value.to_vec()),
        (Some(i), None) => {
            // With the comma after it, or, for the last one, the comma before it.
            let cut = match (members.get(i + 1), i.checked_sub(1).map(|p| &members[p])) {
                (Some(next), _) => members[i].whole.start..next.whole.start,
                (None, Some(previous)) => previous.whole.end..members[i].whole.end,
                (None, None) => members[i].whole.clone(),
            };
            (cut, vec![])
        }
        (None, Some(value)) => {
            let mut insert = if members.is_empty() { vec![] } else { b",".to_vec() };
            insert.extend(serde_json::Value::from(name).to_string().into_bytes());
            insert.push(b':');
            insert.extend(value);
            let end = members.last().map_or(close, |m| m.whole.end);
            (end..end, insert)
        }
        (None, None) => return Ok(json.to_vec()),
    };
    Ok([&json[..cut.start], &insert, &json[cut.end..]].concat())
}

/// Where a stored object takes its version, so that it can be shown without reading it whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Right after the brace that opens the metadata.
    pub at: usize,
    /// Whether the metadata has members, which a comma is to part from what is put in.
    pub followed: bool,
}

/// The slot of an object that says of itself what it should, and holds no version yet; `None` when it has to be made
/// so first.
///
/// # Errors
/// When it is no object.
pub fn version_slot(json: &[u8], api_version: &str, kind: &str) -> Result<Option<Slot>, BadJson> {
    let (mut said, mut slot) = (0, None);
    let is = |value: &[u8], text: &str| matches!(value, [b'"', inner @ .., b'"'] if inner == text.as_bytes());
    let mut broken = None;
    each(json, |member| {
        let value = &json[member.value.clone()];
        if member.is("apiVersion") {
            said += usize::from(is(value, api_version));
        } else if member.is("kind") {
            said += usize::from(is(value, kind));
        } else if member.is("metadata") && value.first() == Some(&b'{') {
            let (mut members, mut versioned) = (0, false);
            if let Err(e) = each(value, |m| {
                members += 1;
                versioned |= m.is("resourceVersion");
            }) {
                broken = Some(e);
            }
            slot = (!versioned).then_some(Slot { at: member.value.start + 1, followed: members > 0 });
        }
    })?;
    match broken {
        Some(e) => Err(e),
        None => Ok(slot.filter(|_| said == 2)),
    }
}

/// Goes through the members of an object in order; returns where its closing brace is.
fn each<'a>(json: &'a [u8], mut found: impl FnMut(Member<'a>)) -> Result<usize, BadJson> {
    let mut scan = Scan { json, at: 0 };
    scan.space();
    scan.take(b'{', "an object")?;
    scan.space();
    if scan.peek() == Some(b'}') {
        return Ok(scan.at);
    }
    loop {
        scan.space();
        let start = scan.at;
        scan.string()?;
        let name = &json[start..scan.at];
        scan.space();
        scan.take(b':', "':'")?;
        scan.space();
        let value = scan.at;
        scan.value()?;
        found(Member { name, whole: start..scan.at, value: value..scan.at });
        scan.space();
        match scan.peek() {
            Some(b',') => scan.at += 1,
            Some(b'}') => return Ok(scan.at),
            _ => return Err(BadJson { at: scan.at, expected: "',' or '}'" }),
        }
    }
}

/// Finds where things end; it does not judge what is inside them.
struct Scan<'a> {
    json: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8, expected: &'static str) -> Result<(), BadJson> {
        if self.peek() != Some(byte) {
            return Err(BadJson { at: self.at, expected });
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<(), BadJson> {
        self.take(b'"', "a text")?;
        while let Some(rest) = self.json.get(self.at..)
            && let Some(stop) = rest.iter().position(|b| matches!(b, b'"' | b'\\'))
        {
            self.at += stop + 1;
            if rest[stop] == b'"' {
                return Ok(());
            }
            self.at += 1;
        }
        Err(BadJson { at: self.json.len(), expected: "the end of a text" })
    }

    /// To the next byte that is one of some.
    fn until(&mut self, stop: impl Fn(u8) -> bool) -> Option<u8> {
        let found = self.json.get(self.at..)?.iter().position(|b| stop(*b));
        self.at = found.map_or(self.json.len(), |i| self.at + i);
        self.peek()
    }

    fn value(&mut self) -> Result<(), BadJson> {
        let start = self.at;
        match self.peek() {
            Some(b'"') => return self.string(),
            Some(b'{' | b'[') => {}
            // A number or a word ends before one of these.
            _ => {
                return match self.until(|b| matches!(b, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')) {
                    Some(_) if self.at > start => Ok(()),
                    Some(_) => Err(BadJson { at: start, expected: "a value" }),
                    None => Err(BadJson { at: self.at, expected: "the end of a value" }),
                };
            }
        }
        let mut depth = 0usize;
        loop {
            match self.until(|b| matches!(b, b'"' | b'{' | b'[' | b'}' | b']')) {
                Some(b'"') => self.string()?,
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.at += 1;
                }
                Some(_) => {
                    depth -= 1;
                    self.at += 1;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                None => return Err(BadJson { at: self.at, expected: "the end of a value" }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    fn set(json: &str, name: &str, value: Option<&str>) -> String {
        String::from_utf8(with_member(json.as_bytes(), name, value.map(str::as_bytes)).unwrap()).unwrap()
    }

    #[test]
    fn other_bytes_stay_as_they_are() {
        let user = r#"{ "z": 1.0e0 , "status" : {"a":"}\"{"}, "big":123456789012345678901234567890 }"#;
        assert_eq!(
            set(user, "status", Some("[]")),
            r#"{ "z": 1.0e0 , "status" : [], "big":123456789012345678901234567890 }"#
        );
        assert_eq!(set(user, "status", None), r#"{ "z": 1.0e0 , "big":123456789012345678901234567890 }"#);
        assert_eq!(set(r#"{"a":1,"b":2}"#, "b", None), r#"{"a":1}"#);
        assert_eq!(set("{ }", "a", Some("1")), r#"{ "a":1}"#);
        assert_eq!(set(r#"{"a":1}"#, "b", Some("2")), r#"{"a":1,"b":2}"#);
        assert_eq!(set(r#"{"a":1}"#, "a", None), "{}");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for bad in ["", "[]", "{", r#"{"a"}"#, r#"{"a":}"#, r#"{"a":1"#, r#"{"a":"x}"#, r#"{a:1}"#] {
            assert!(with_member(bad.as_bytes(), "a", Some(b"1")).is_err(), "{bad:?} was taken");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
            r#"[\\"{}\[\],: ]{0,4}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-d\"]{0,2}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #[test]
        fn splicing_is_the_same_as_editing_the_value(
            object in proptest::collection::btree_map("[a-d\"]{0,2}", any_value(), 0..5),
            name in "[a-d\"]{0,2}",
            value in proptest::option::of(any_value()),
            pretty in any::<bool>(),
        ) {
            let object = Value::Object(object.into_iter().collect());
            let text = if pretty { serde_json::to_vec_pretty(&object) } else { serde_json::to_vec(&object) }.unwrap();
            let printed = value.as_ref().map(|v| serde_json::to_vec(v).unwrap());
            let spliced = with_member(&text, &name, printed.as_deref()).unwrap();
            let mut expected = object.clone();
            match value {
                Some(value) => expected[&name] = value,
                None => { expected.as_object_mut().unwrap().remove(&name); }
            }
            prop_assert_eq!(serde_json::from_slice::<Value>(&spliced).unwrap(), expected);
            let within = format!("{{\"w\": {} }}", String::from_utf8_lossy(&text));
            prop_assert_eq!(at(within.as_bytes(), &["w", &name]).unwrap(), member(&text, &name).unwrap());
            let read = member(&text, &name).unwrap().map(|v| serde_json::from_slice::<Value>(v).unwrap());
            prop_assert_eq!(read.as_ref(), object.get(&name));
        }
    }
}
