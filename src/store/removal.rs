//! What a deletion makes of a stored object, whatever its kind: it goes at once when no finalizer holds it, else it is
//! marked and left to those who hold it. Pure; used by the API's DELETE and by the controllers that empty Namespaces and
//! collect dependents.
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

/// Holds an owner that is deleted in the foreground until the dependents that block it are gone; a Kubernetes name.
pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";
/// Holds an owner that is deleted without its dependents until none of them names it any more; a Kubernetes name.
pub const ORPHAN_FINALIZER: &str = "orphan";

/// What becomes of the objects that name a deleted one as their owner; `propagationPolicy` of the Kubernetes API. It is
/// noted as a finalizer, which the collector takes off when it has done its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cascade {
    /// They are deleted after it.
    Background,
    /// They are deleted first; those that say so keep it from going.
    Foreground,
    /// They stay, and name it no more.
    Orphan,
}

impl Cascade {
    fn finalizer(self) -> Option<&'static str> {
        match self {
            Cascade::Background => None,
            Cascade::Foreground => Some(FOREGROUND_FINALIZER),
            Cascade::Orphan => Some(ORPHAN_FINALIZER),
        }
    }
}

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

/// The next step of deleting what a record holds; `now` as metadata carries a time. `cascade`: what was asked for; `None`
/// leaves it at what is noted in the object.
///
/// # Errors
/// `Failed` when it is no JSON object with readable metadata.
pub fn removal(record: &Record, now: &str, cascade: Option<Cascade>) -> Result<Removal> {
    let (text, meta) = metadata(record)?;
    let key = record.key.to_string();
    let finalizers = holding(&meta.finalizers, cascade);
    if finalizers.is_empty() {
        return Ok(Removal { op: Some(Op::Delete { key }), finalizers });
    }
    let changes = finalizers != meta.finalizers;
    if meta.deletion_timestamp.is_some() && !changes {
        return Ok(Removal { op: None, finalizers });
    }
    let mut value = record.value.clone();
    if changes {
        let list = Value::from(finalizers.clone()).to_string();
        let text = with_member(text, "finalizers", Some(list.as_bytes())).map_err(|e| unreadable(record, e))?;
        value = with_member(&value, "metadata", Some(&text)).map_err(|e| unreadable(record, e))?.into();
    }
    if meta.deletion_timestamp.is_none() {
        value = marked(&Record { value, ..record.clone() }, now)?;
    }
    Ok(Removal { op: Some(Op::Put { key, value }), finalizers })
}

/// The finalizers, with the one that notes what was asked for in place of one that notes something else.
fn holding(finalizers: &[String], cascade: Option<Cascade>) -> Vec<String> {
    let Some(cascade) = cascade else { return finalizers.to_vec() };
    let noted = cascade.finalizer();
    let others = [FOREGROUND_FINALIZER, ORPHAN_FINALIZER].into_iter().filter(|f| Some(*f) != noted);
    let others: Vec<&str> = others.collect();
    let mut left: Vec<String> = finalizers.iter().filter(|f| !others.contains(&f.as_str())).cloned().collect();
    if let Some(noted) = noted.filter(|noted| !left.iter().any(|f| f == noted)) {
        left.push(noted.to_owned());
    }
    left
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

    fn asked(text: &'static str, cascade: Option<Cascade>) -> Result<Removal> {
        let record = Record { key: "k".into(), value: text.into(), created: Revision(1), modified: Revision(1) };
        removal(&record, "2026-01-02T03:04:05Z", cascade)
    }

    fn of(text: &'static str) -> Result<Removal> {
        asked(text, None)
    }

    #[test]
    fn what_is_to_become_of_dependents_is_noted_once_and_replaces_what_was_noted() {
        let finalizers = |text, cascade| asked(text, Some(cascade)).unwrap().finalizers;
        let bare = r#"{"metadata":{"name":"a"}}"#;
        assert_eq!(asked(bare, Some(Cascade::Background)).unwrap().op, Some(Op::Delete { key: "k".into() }));
        assert_eq!(finalizers(bare, Cascade::Foreground), ["foregroundDeletion"]);
        assert_eq!(finalizers(bare, Cascade::Orphan), ["orphan"]);
        let value = concat!(
            r#"{"metadata":{"name":"a","finalizers":["orphan"],"deletionTimestamp":"2026-01-02T03:04:05Z","#,
            r#""deletionGracePeriodSeconds":0,"generation":1}}"#
        );
        let marked =
            Removal { op: Some(Op::Put { key: "k".into(), value: value.into() }), finalizers: vec!["orphan".into()] };
        assert_eq!(asked(bare, Some(Cascade::Orphan)), Ok(marked.clone()));
        assert_eq!(asked(value, Some(Cascade::Orphan)), Ok(Removal { op: None, ..marked }));

        // Another word afterwards: it is marked as it was, and noted anew.
        let changed = asked(value, Some(Cascade::Foreground)).unwrap();
        let foreground = value.replace("orphan", "foregroundDeletion");
        assert_eq!(changed.op, Some(Op::Put { key: "k".into(), value: foreground.into() }));
        assert_eq!(asked(value, Some(Cascade::Background)).unwrap().op, Some(Op::Delete { key: "k".into() }));
        let held = r#"{"metadata":{"finalizers":["f","orphan"],"deletionTimestamp":"2026-01-02T03:04:05Z"}}"#;
        assert_eq!(finalizers(held, Cascade::Background), ["f"]);
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
