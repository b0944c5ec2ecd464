//! From client-side to server-side apply, without conflicts with oneself. Pure.
//!
//! - `kubectl`: where it conflicts only about fields of the last client-side apply that nobody has changed since, it
//!   takes them. It migrates the entries itself afterwards (by a JSON patch of `managedFields`), and the annotation
//!   of the last client-side apply is kept true, so that going back works.
//! - `portreeve`: takes over the whole entry of its client-side apply at the first server-side one.

use serde_json::{Value, json};

use super::Conflict;
use super::fieldset::FieldSet;
use super::managers::{Managers, NODE_VIEW, Operation, Writer};
use super::typed::{Schema, claimed, compare};
use crate::api::admit::{MOST_ANNOTATION_BYTES, merge_string_data};
use crate::api::object;

/// Where client-side apply keeps what it applied last.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Where a DockerHost keeps what client-side apply applied last to its Node, which shows it as [`LAST_APPLIED`].
pub const NODE_LAST_APPLIED: &str = "portreeve.dev/node-last-applied-configuration";
/// The manager of `kubectl apply --server-side`.
const KUBECTL: &str = "kubectl";
/// The managers of `portreeve apply`, server-side and client-side.
const PORTREEVE: (&str, &str) = ("portreeve", "portreeve-apply");

/// Gives `portreeve apply --server-side` what `portreeve apply` owned.
pub fn adopt(managers: &mut Managers, writer: &Writer) {
    if writer.manager == PORTREEVE.0 && writer.subresource.is_empty() {
        let client_side = Writer { operation: Operation::Update, manager: PORTREEVE.1.to_owned(), ..writer.clone() };
        managers.hand_over(&client_side, writer);
    }
}

/// Removes from the conflicts those that the last client-side apply excuses.
pub fn excuse(schema: Schema<'_>, live: &Value, writer: &Writer, conflicts: Vec<Conflict>) -> Vec<Conflict> {
    if writer.manager != KUBECTL {
        return conflicts;
    }
    let excused = excused(schema, live, annotation(writer));
    let left = conflicts.into_iter().map(|c| Conflict { fields: c.fields.difference(&excused), ..c });
    left.filter(|c| !c.fields.is_empty()).collect()
}

/// The fields of the last client-side apply that are as it left them.
fn excused(schema: Schema<'_>, live: &Value, annotation: &str) -> FieldSet {
    let Some(mut last) = last_applied(live, annotation).and_then(|text| serde_json::from_str::<Value>(text).ok())
    else {
        return FieldSet::default();
    };
    object::strip_nulls(&mut last);
    if live.get("kind").is_some_and(|kind| kind == "Secret") {
        // It is stored as data.
        merge_string_data(&mut last);
    }
    let change = compare(schema, &last, live);
    claimed(schema, &last).difference(&change.written).difference(&change.removed)
}

/// Where client-side apply of the same object keeps what it applied last.
fn annotation(writer: &Writer) -> &'static str {
    if writer.subresource == NODE_VIEW { NODE_LAST_APPLIED } else { LAST_APPLIED }
}

fn last_applied<'a>(object: &'a Value, annotation: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(annotation)?.as_str().filter(|text| !text.is_empty())
}

/// Keeps the annotation of client-side apply true to what kubectl applies now, where there is one. One that would be
/// too long goes.
pub fn remember(live: &Value, config: &Value, writer: &Writer, object: &mut Value) {
    let (annotation, whole) = (annotation(writer), ["", NODE_VIEW].contains(&writer.subresource.as_str()));
    if writer.manager != KUBECTL || !whole || last_applied(live, annotation).is_none() {
        return;
    }
    let Some(annotations) = object.get_mut("metadata").and_then(|m| m.get_mut("annotations")?.as_object_mut()) else {
        return;
    };
    annotations.insert(annotation.into(), as_kubectl_writes(config, writer).into());
    let bytes: usize = annotations.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if bytes > MOST_ANNOTATION_BYTES {
        annotations.remove(annotation);
    }
}

/// The text that client-side apply of the same manifest would leave, so that one after the other finds nothing to do:
/// without the annotation itself, with `annotations` even if there are none, with HTML's characters escaped, and a line end.
fn as_kubectl_writes(config: &Value, writer: &Writer) -> String {
    let mut config = config.clone();
    if writer.subresource == NODE_VIEW {
        (config["apiVersion"], config["kind"]) = ("v1".into(), "Node".into());
    }
    let annotations = object::meta_mut(&mut config).entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.remove(annotation(writer));
    }
    let mut text = String::new();
    for c in config.to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('\n');
    text
}
