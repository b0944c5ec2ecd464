//! What a deletion makes of a stored object, whatever its kind: it goes at once when no finalizer holds it, else it is
//! marked and left to those who hold it. Pure; used by the API's DELETE and by the controller that empties Namespaces.
//!
//! Only `metadata` is read and written; every other byte stays. So what is sealed need not be opened to be deleted.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::splice::{member, with_member};
use super::typed::unreadable;
use super::{Op, Record, Result};

/// What of the metadata says that an object is being deleted, or changes with it.
pub const MARKS: [&str; 3] = ["deletionTimestamp", "deletionGracePeriodSeconds", "generation"];

/// The next step of an object's deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// What is to be written; `None` when it is marked and waits for its finalizers.
    pub op: Option<Op>,
    /// Who holds it. Empty: it goes with `op`.
    pub finalizers: Vec<String>,
}

/// What of the metadata counts here.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    finalizers: Vec<String>,
    deletion_timestamp: Option<String>,
    generation: i64,
}

/// The next step of deleting what a record holds; `now` as metadata carries a time.
///
/// # Errors
/// `Failed` when it is no JSON object with readable metadata.
pub fn removal(record: &Record, now: &str) -> Result<Removal> {
    let (_, meta) = metadata(record)?;
    let key = record.key.to_string();
    if meta.finalizers.is_empty() {
        return Ok(Removal { op: Some(Op::Delete { key }), finalizers: vec![] });
    }
    if meta.deletion_timestamp.is_some() {
        return Ok(Removal { op: None, finalizers: meta.finalizers });
    }
    Ok(Removal { op: Some(Op::Put { key, value: marked(record, now)? }), finalizers: meta.finalizers })
}

/// What a record holds, marked as being deleted since `now`, whoever holds it.
///
/// # Errors
/// As [`removal`].
pub fn marked(record: &Record, now: &str) -> Result<Bytes> {
    let (text, meta) = metadata(record)?;
    let marks = [Value::from(now), 0.into(), (meta.generation + 1).into()];
    let mut text = text.to_vec();
    for (name, value) in MARKS.into_iter().zip(marks) {
        text = with_member(&text, name, Some(value.to_string().as_bytes())).map_err(|e| unreadable(record, e))?;
    }
    let value = with_member(&record.value, "metadata", Some(&text)).map_err(|e| unreadable(record, e))?;
    Ok(value.into())
}

fn metadata(record: &Record) -> Result<(&[u8], Meta)> {
    let text = member(&record.value, "metadata").map_err(|e| unreadable(record, e))?.unwrap_or(b"{}");
    let meta = serde_json::from_slice(text).map_err(|e| unreadable(record, e))?;
    Ok((text, meta))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Revision;

    fn of(text: &'static str) -> Result<Removal> {
        let record = Record { key: "k".into(), value: text.into(), created: Revision(1), modified: Revision(1) };
        removal(&record, "2026-01-02T03:04:05Z")
    }

    #[test]
    fn what_nobody_holds_goes_and_the_rest_is_marked_once() {
        let gone = Removal { op: Some(Op::Delete { key: "k".into() }), finalizers: vec![] };
        assert_eq!(of(r#"{"metadata":{"name":"a","finalizers":[]}}"#), Ok(gone.clone()));
        assert_eq!(of("{}"), Ok(gone));
        let marked = concat!(
            r#"{"z":1.00,"metadata":{"generation":8,"finalizers":["f"],"deletionTimestamp":"2026-01-02T03:04:05Z","#,
            r#""deletionGracePeriodSeconds":0},"a":2}"#
        );
        let op = Op::Put { key: "k".into(), value: marked.into() };
        let held = of(r#"{"z":1.00,"metadata":{"generation":7,"finalizers":["f"]},"a":2}"#);
        assert_eq!(held, Ok(Removal { op: Some(op), finalizers: vec!["f".into()] }));
        assert_eq!(of(marked), Ok(Removal { op: None, finalizers: vec!["f".into()] }));
        assert!(of("[]").is_err() && of(r#"{"metadata":7}"#).is_err());
    }
}
