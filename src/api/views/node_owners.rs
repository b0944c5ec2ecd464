//! Who owns which fields of a Node: the `managedFields` of its DockerHost as the Node shows them, and back; and the
//! annotation of client-side apply, of which each of the two has its own. Pure.
//!
//! ```text
//! DockerHost                                   Node
//! portreeve.dev/v1, subresource: node   ◀──▶   v1                             written to the Node
//! portreeve.dev/v1                       ──▶   v1, subresource: dockerhost    written to the DockerHost
//! ```
//!
//! One who applies both has an entry in each, or an apply of the Node would take away what the same manager
//! applied to the DockerHost, its endpoint above all. Only fields that a Node has are shown. Called by [`super::nodes`].

use serde_json::{Map, Value};

use super::super::apply::{HOST_OF_NODE, LAST_APPLIED, NODE_LAST_APPLIED, NODE_VERSION, NODE_VIEW};
use super::nodes::WRITABLE;
use crate::model::Kind;

/// The entries that a Node shows of its DockerHost's; `None` when there are none.
pub fn shown(entries: &Value) -> Option<Value> {
    let shown = entries.as_array()?.iter().filter_map(|entry| {
        let mut shown = entry.as_object()?.clone();
        shown.insert("fieldsV1".into(), fields(entry.get("fieldsV1")?, NODE_LAST_APPLIED, LAST_APPLIED)?);
        shown.insert("apiVersion".into(), NODE_VERSION.into());
        if is_nodes(entry, NODE_VIEW) {
            shown.remove("subresource");
        } else {
            shown.insert("subresource".into(), HOST_OF_NODE.into());
        }
        Some(shown)
    });
    let list: Vec<Value> = shown.map(Value::from).collect();
    (!list.is_empty()).then(|| list.into())
}

/// The entries that a DockerHost is to have when a Node is to have `wanted`: what was written to the DockerHost stays.
/// What is no list of entries is handed on, for others to say so.
pub fn stored(entries: Option<&Value>, wanted: &Value) -> Value {
    let Some(wanted) = wanted.as_array() else { return wanted.clone() };
    let own = entries.and_then(Value::as_array).into_iter().flatten().filter(|e| !is_nodes(e, NODE_VIEW)).cloned();
    let given = wanted.iter().filter(|e| is_nodes(e, "") && e.as_object().is_none_or(|e| !e.is_empty())).map(|entry| {
        let Some(given) = entry.as_object() else { return entry.clone() };
        let mut stored = given.clone();
        stored.insert("subresource".into(), NODE_VIEW.into());
        if entry.get("apiVersion").is_some_and(|v| v == NODE_VERSION) {
            stored.insert("apiVersion".into(), Kind::DockerHost.api_version().into());
        }
        if let Some(set) = entry.get("fieldsV1").filter(|set| set.is_object()) {
            let set = fields(set, LAST_APPLIED, NODE_LAST_APPLIED).unwrap_or_else(|| Map::new().into());
            stored.insert("fieldsV1".into(), set);
        }
        stored.into()
    });
    own.chain(given).collect()
}

fn is_nodes(entry: &Value, subresource: &str) -> bool {
    entry.get("subresource").and_then(Value::as_str).unwrap_or_default() == subresource
}

/// What of a field set is about fields that a Node has, with an annotation by its other name.
fn fields(set: &Value, from: &str, to: &str) -> Option<Value> {
    let mut found = Map::new();
    for (part, field) in WRITABLE {
        let (part, field) = (format!("f:{part}"), format!("f:{field}"));
        let Some(mut below) = set.get(&part).and_then(|p| p.get(&field)).cloned() else { continue };
        if field == "f:annotations"
            && let Some(below) = below.as_object_mut()
        {
            rename(below, &format!("f:{from}"), &format!("f:{to}"));
        }
        let part = found.entry(part).or_insert_with(|| Map::new().into());
        part[field] = below;
    }
    (!found.is_empty()).then(|| found.into())
}

/// The annotations that a Node shows of its DockerHost's.
pub fn annotations_shown(annotations: &mut Map<String, Value>) {
    rename(annotations, NODE_LAST_APPLIED, LAST_APPLIED);
}

/// The annotations that a DockerHost with `now` is to have when a Node is to have these.
pub fn annotations_stored(now: Option<&Value>, annotations: &mut Map<String, Value>) {
    rename(annotations, LAST_APPLIED, NODE_LAST_APPLIED);
    if let Some(own) = now.and_then(|now| now.get(LAST_APPLIED)) {
        annotations.insert(LAST_APPLIED.into(), own.clone());
    }
}

/// Moves a member, in the place of what is there.
fn rename(fields: &mut Map<String, Value>, from: &str, to: &str) {
    fields.remove(to);
    if let Some(value) = fields.remove(from) {
        fields.insert(to.into(), value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entries() -> Value {
        json!([
            {"manager": "kubectl", "operation": "Apply", "apiVersion": "portreeve.dev/v1", "fieldsType": "FieldsV1",
             "fieldsV1": {"f:spec": {"f:endpoint": {}, "f:taints": {}}}},
            {"manager": "kubectl", "operation": "Apply", "apiVersion": "portreeve.dev/v1", "fieldsType": "FieldsV1",
             "subresource": "node", "fieldsV1": {
                "f:metadata": {"f:labels": {"f:a": {}}, "f:annotations": {"f:portreeve.dev/node-last-applied-configuration": {}}},
                "f:spec": {"f:unschedulable": {}}}},
            {"manager": "m", "operation": "Update", "apiVersion": "portreeve.dev/v1", "fieldsType": "FieldsV1",
             "fieldsV1": {"f:spec": {"f:endpoint": {}}}},
        ])
    }

    #[test]
    fn a_node_shows_the_owners_of_what_it_has() {
        let shown = shown(&entries()).unwrap();
        assert_eq!(
            shown,
            json!([
                {"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
                 "subresource": "dockerhost", "fieldsV1": {"f:spec": {"f:taints": {}}}},
                {"manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {
                    "f:metadata": {"f:labels": {"f:a": {}}, "f:annotations": {"f:kubectl.kubernetes.io/last-applied-configuration": {}}},
                    "f:spec": {"f:unschedulable": {}}}},
            ])
        );
        assert_eq!(super::shown(&json!([entries()[2]])), None);
        assert_eq!(super::shown(&json!("odd")), None);
    }

    #[test]
    fn what_a_node_shows_and_gets_back_changes_nothing() {
        let back = stored(Some(&entries()), &shown(&entries()).unwrap());
        let mut expected = entries();
        let last = expected.as_array_mut().unwrap().remove(1);
        expected.as_array_mut().unwrap().push(last);
        assert_eq!(back, expected);
    }

    #[test]
    fn a_node_owns_nothing_but_its_own_fields() {
        let greedy = json!([{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                             "fieldsV1": {"f:spec": {"f:endpoint": {}, "f:taints": {}}, "f:status": {}}}]);
        let back = stored(Some(&entries()), &greedy);
        assert_eq!(back.as_array().unwrap().len(), 3);
        assert_eq!(back[2]["fieldsV1"], json!({"f:spec": {"f:taints": {}}}));
        for reset in [json!([]), json!([{}])] {
            assert_eq!(stored(Some(&entries()), &reset), json!([entries()[0], entries()[2]]));
        }
        assert_eq!(stored(None, &json!(7)), json!(7), "others say what is wrong with it");
        assert_eq!(stored(None, &json!([7])), json!([7]));
    }

    #[test]
    fn each_has_its_own_last_applied_configuration() {
        let own = json!({LAST_APPLIED: "host", "a": "b"});
        let mut annotations = own.as_object().unwrap().clone();
        annotations_shown(&mut annotations);
        assert_eq!(Value::from(annotations.clone()), json!({"a": "b"}));
        annotations.insert(LAST_APPLIED.into(), "node".into());
        annotations_stored(Some(&own), &mut annotations);
        let both = json!({"a": "b", LAST_APPLIED: "host", NODE_LAST_APPLIED: "node"});
        assert_eq!(Value::from(annotations.clone()), both);
        annotations_shown(&mut annotations);
        assert_eq!(Value::from(annotations), json!({"a": "b", LAST_APPLIED: "node"}));
    }
}
