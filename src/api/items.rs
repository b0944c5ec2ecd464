//! Lists and events made of the stored bytes: each object as it lies in the store, with its resourceVersion put in.
//!
//! To read an object into a tree and to write it again costs twenty times what it costs to find the place of the version.
//! So it is done only for the rare object that was not written by this API. What an answer consists of is found before its
//! head goes out, so that what cannot be shown is an error; the bytes are put together piece by piece, as the client
//! takes them. What is not shown as it is stored (rows, metadata, views) is a text, too, as soon as it is made: no list of any
//! length is ever a tree.
//!
//! ```text
//! list ──Item for each record──▶ body ──64 KiB at a time──▶ connection
//! ```

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use serde_json::Value;

use super::error::ApiError;
use super::object;
use super::selector::Selector;
use crate::model::Kind;
use crate::store::splice::{Slot, version_slot};
use crate::store::{Record, Revision};

/// Bytes given to the connection at a time, but for an object that is larger.
const PIECE: usize = 64 << 10;

/// One object of a list.
pub struct Item {
    stored: Bytes,
    /// Where the version goes in; `None` when it is in.
    slot: Option<(Slot, Revision)>,
}

impl Item {
    /// The object of a record, of a kind that says itself `api_version`, at a revision: a deleted object carries that of
    /// its deletion.
    pub fn of(kind: Kind, api_version: &str, record: &Record, revision: Revision) -> Result<Item, ApiError> {
        // What is no JSON object is told by reading it.
        if let Ok(Some(slot)) = version_slot(&record.value, api_version, kind.info().name) {
            return Ok(Item { stored: record.value.clone(), slot: Some((slot, revision)) });
        }
        Ok(Item { stored: object::decode_at(kind, record, revision)?.to_string().into(), slot: None })
    }

    /// Something that is no stored object: a row of a Table, an object of a view. Its text takes a tenth of what its tree does.
    pub fn made(value: &Value) -> Item {
        Item { stored: value.to_string().into(), slot: None }
    }

    /// Bytes of it.
    pub fn len(&self) -> usize {
        let version = self.slot.map_or(0, |(slot, revision)| {
            let digits = revision.0.checked_ilog10().unwrap_or(0) as usize + 1;
            OPEN.len() + digits + 1 + usize::from(slot.followed)
        });
        self.stored.len() + version
    }

    /// Adds it to a text.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Some((slot, revision)) = self.slot else {
            out.extend_from_slice(&self.stored);
            return;
        };
        let (head, tail) = self.stored.split_at(slot.at);
        out.extend_from_slice(head);
        out.extend_from_slice(OPEN);
        out.extend_from_slice(revision.0.to_string().as_bytes());
        out.extend_from_slice(if slot.followed { b"\"," } else { b"\"" });
        out.extend_from_slice(tail);
    }
}

/// Whether a selector shows the object of a record.
pub fn shows(selector: &Selector, kind: Kind, record: &Record) -> Result<bool, ApiError> {
    if selector.is_empty() {
        return Ok(true);
    }
    match selector.matches_stored(&record.value) {
        Some(shown) => Ok(shown),
        None => Ok(selector.matches(&object::decode(kind, record)?)),
    }
}

const OPEN: &[u8] = br#""resourceVersion":""#;
const TAIL: &[u8] = b"]}";

/// A list: the members of `head`, and the items in a member of that name behind them. Its length is known beforehand.
pub fn body(head: &Value, member: &str, items: Vec<Item>) -> Body {
    let mut head = head.to_string();
    // Up to where the items begin: they come before the brace that closes it.
    head.pop();
    let head = format!("{head},\"{member}\":[");
    let commas = items.len().saturating_sub(1);
    let left = head.len() + items.iter().map(Item::len).sum::<usize>() + commas + TAIL.len();
    Body::new(Pieces { head: Some(head), items: items.into_iter(), left: left as u64 })
}

struct Pieces {
    /// `None` once it was given out.
    head: Option<String>,
    items: std::vec::IntoIter<Item>,
    /// Bytes that are still to come.
    left: u64,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut piece = Vec::with_capacity(self.left.min(PIECE as u64 + 4096) as usize);
        let mut first = false;
        if let Some(head) = self.head.take() {
            piece.extend_from_slice(head.as_bytes());
            first = true;
        }
        while piece.len() < PIECE {
            let Some(item) = self.items.next() else {
                piece.extend_from_slice(TAIL);
                break;
            };
            if !std::mem::take(&mut first) {
                piece.push(b',');
            }
            item.write(&mut piece);
        }
        self.left = self.left.saturating_sub(piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use hyper::body::Body as _;
    use serde_json::json;

    fn record(n: u64, value: impl Into<Bytes>) -> Record {
        let revision = Revision(n);
        Record {
            key: format!("configmaps/default/{n}").into(),
            value: value.into(),
            created: revision,
            modified: revision,
        }
    }

    #[tokio::test]
    async fn what_is_put_together_is_what_would_be_read_and_written() {
        let mut records = vec![
            record(7, r#"{"kind":"ConfigMap","metadata":{"name":"a"},"apiVersion":"v1"}"#),
            record(
                10,
                r#"{ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { } , "data": {"metadata": "{\"a"} }"#,
            ),
            record(99, r#"{"metadata":{"name":"bare"}}"#),
            record(100, r#"{"apiVersion":"v2","kind":"ConfigMap","metadata":{"name":"other"}}"#),
            record(101, r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"resourceVersion":"5","name":"kept"}}"#),
            record(102, r#"{"apiVersion":"v1","kind":"ConfigMap"}"#),
        ];
        let large = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "l"}, "data": {"x": "y".repeat(PIECE)}});
        records.extend((200..205).map(|n| record(n, large.to_string())));
        for count in 0..=records.len() {
            let shown = &records[..count];
            let items = shown.iter().map(|r| Item::of(Kind::ConfigMap, "v1", r, r.modified).unwrap()).collect();
            let body = body(&json!({"kind": "ConfigMapList"}), "items", items);
            let told = body.size_hint().exact().unwrap();
            let text = body.collect().await.unwrap().to_bytes();
            assert_eq!(told, text.len() as u64);
            let expected: Vec<Value> = shown.iter().map(|r| object::decode(Kind::ConfigMap, r).unwrap()).collect();
            assert_eq!(serde_json::from_slice::<Value>(&text).unwrap()["items"], Value::from(expected));
        }
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        for bad in ["[1]", "", r#"{"metadata":"#] {
            assert!(Item::of(Kind::ConfigMap, "v1", &record(1, bad), Revision(1)).is_err(), "{bad:?} was taken");
        }
    }
}
