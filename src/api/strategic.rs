//! Strategic merge patches: as merge patches, but lists whose items have a key merge item by item.
//!
//! kubectl sends them for core kinds. Pure: a table says which lists merge how, [`merge`] does it. Directives are
//! obeyed where they are about content (`$patch`, `$deleteFromPrimitiveList/…`) and dropped where they are about order
//! (`$setElementOrder/…`, `$retainKeys`), which nothing here depends on.

use serde_json::{Map, Value};

/// How a list merges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListRule {
    /// Item by item, by this field.
    Keyed(&'static str),
    /// Values are added.
    Set,
    /// The patch's list takes the place of the old one.
    Replaced,
}

/// The lists of the core kinds that are served and that do not merely replace each other, by their place.
const RULES: [(&str, ListRule); 9] = [
    ("metadata.finalizers", ListRule::Set),
    ("metadata.ownerReferences", ListRule::Keyed("uid")),
    ("spec.containers", ListRule::Keyed("name")),
    ("spec.containers.env", ListRule::Keyed("name")),
    ("spec.containers.ports", ListRule::Keyed("containerPort")),
    ("spec.podCIDRs", ListRule::Set),
    ("status.addresses", ListRule::Keyed("type")),
    ("status.conditions", ListRule::Keyed("type")),
    ("status.volumesAttached", ListRule::Keyed("name")),
];

const PATCH: &str = "$patch";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const RETAIN_KEYS: &str = "$retainKeys";

/// What a `$patch` says of the object or list that it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

fn rule(path: &str) -> ListRule {
    RULES.iter().find(|(place, _)| *place == path).map_or(ListRule::Replaced, |(_, rule)| *rule)
}

fn directive(fields: &Map<String, Value>) -> Result<Directive, String> {
    match fields.get(PATCH) {
        None => Ok(Directive::Merge),
        Some(Value::String(text)) => match text.as_str() {
            "merge" => Ok(Directive::Merge),
            "replace" => Ok(Directive::Replace),
            "delete" => Ok(Directive::Delete),
            other => Err(format!("unknown patch type found: {other:?}")),
        },
        Some(other) => Err(format!("$patch must be a text, not {other}")),
    }
}

/// Applies a strategic merge patch. On an error `target` may be half changed; the text says what is wrong with the patch.
pub fn merge(target: &mut Value, patch: &Value) -> Result<(), String> {
    merge_at("", target, patch)
}

fn merge_at(path: &str, target: &mut Value, patch: &Value) -> Result<(), String> {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return Ok(());
    };
    match directive(fields)? {
        Directive::Delete => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Directive::Replace => *target = Value::Object(Map::new()),
        Directive::Merge if !target.is_object() => *target = Value::Object(Map::new()),
        Directive::Merge => {}
    }
    let Value::Object(object) = target else { return Ok(()) };
    // What is taken out of a list goes before what comes in, whatever the order of the members.
    for (name, values) in fields {
        if let Some(list) = name.strip_prefix(DELETE_FROM) {
            let values = values.as_array().ok_or_else(|| format!("{name} must be a list"))?;
            if let Some(Value::Array(items)) = object.get_mut(list) {
                affordable(name, values.len(), items.len())?;
                items.retain(|item| !values.contains(item));
                // As Kubernetes has it, a set without values is not there.
                if items.is_empty() {
                    object.remove(list);
                }
            }
        }
    }
    for (name, value) in fields {
        if name == PATCH || name == RETAIN_KEYS || name.starts_with(DELETE_FROM) || name.starts_with(ELEMENT_ORDER) {
            continue;
        }
        let place = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match value {
            Value::Null => drop(object.remove(name)),
            Value::Array(items) => {
                let old = match object.remove(name) {
                    Some(Value::Array(old)) => old,
                    _ => vec![],
                };
                object.insert(name.clone(), Value::Array(merge_list(&place, old, items)?));
            }
            _ => merge_at(&place, object.entry(name.clone()).or_insert(Value::Null), value)?,
        }
    }
    Ok(())
}

/// Comparisons of items that one list may cost: merging looks for each item of a patch among those that are there.
const MOST_COMPARISONS: usize = 4 << 20;

fn affordable(path: &str, values: usize, items: usize) -> Result<(), String> {
    match values.saturating_mul(items) {
        0..=MOST_COMPARISONS => Ok(()),
        _ => Err(format!("{path}: {values} items to merge are too many; send a merge patch, which replaces the list")),
    }
}

fn merge_list(path: &str, mut old: Vec<Value>, items: &[Value]) -> Result<Vec<Value>, String> {
    let rule = rule(path);
    if rule != ListRule::Replaced {
        affordable(path, items.len(), old.len() + items.len())?;
    }
    let key = match rule {
        ListRule::Replaced => return Ok(items.to_vec()),
        ListRule::Set => {
            for item in items {
                if !old.contains(item) {
                    old.push(item.clone());
                }
            }
            return Ok(old);
        }
        ListRule::Keyed(key) => key,
    };
    let mut incoming = vec![];
    for item in items {
        let fields = item.as_object().ok_or_else(|| format!("{path}: an item is not an object"))?;
        match (directive(fields)?, fields.get(key)) {
            // An item that is a directive and nothing else speaks of the whole list.
            (Directive::Replace, None) if fields.len() == 1 => old.clear(),
            (Directive::Delete, Some(name)) => old.retain(|o| o.get(key) != Some(name)),
            (Directive::Merge | Directive::Replace, Some(name)) => incoming.push((name, item)),
            (_, None) => return Err(format!("{path}: an item does not contain its merge key {key:?}")),
        }
    }
    for (name, item) in incoming {
        let slot = match old.iter().position(|o| o.get(key) == Some(name)) {
            Some(place) => &mut old[place],
            None => {
                old.push(Value::Null);
                old.last_mut().expect("just pushed")
            }
        };
        merge_at(path, slot, item)?;
    }
    Ok(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_that_would_cost_seconds_are_refused() {
        let many: Vec<String> = (0..3000).map(|i| i.to_string()).collect();
        for patch in [
            json!({"metadata": {"finalizers": many}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": many}}),
        ] {
            let mut target = json!({"metadata": {"finalizers": vec!["x"; 3000]}});
            assert!(merge(&mut target, &patch).unwrap_err().contains("too many"));
        }
    }

    fn merged(mut target: Value, patch: Value) -> Value {
        merge(&mut target, &patch).unwrap();
        target
    }

    #[test]
    fn objects_merge_and_null_removes() {
        let target = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"unschedulable": true}});
        let patch = json!({"metadata": {"labels": {"b": null, "c": "3"}}, "spec": {"unschedulable": null}});
        assert_eq!(merged(target, patch), json!({"metadata": {"labels": {"a": "1", "c": "3"}}, "spec": {}}));
    }

    #[test]
    fn keyed_lists_merge_item_by_item() {
        let target =
            json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Ok"}, {"type": "Old"}]}});
        let patch = json!({"status": {
            "$setElementOrder/conditions": [{"type": "Ready"}],
            "conditions": [
                {"type": "New", "status": "True"},
                {"type": "Ready", "status": "False"},
                {"type": "Old", "$patch": "delete"},
            ],
        }});
        let expected = json!({"status": {"conditions": [
            {"type": "Ready", "status": "False", "reason": "Ok"}, {"type": "New", "status": "True"},
        ]}});
        assert_eq!(merged(target.clone(), patch.clone()), expected);
        assert_eq!(merged(expected.clone(), patch), expected, "a patch applied twice is a patch applied once");
        let whole = json!({"status": {"conditions": [{"$patch": "replace"}, {"type": "Only"}]}});
        assert_eq!(merged(target, whole), json!({"status": {"conditions": [{"type": "Only"}]}}));
    }

    #[test]
    fn other_lists_are_replaced_whole() {
        let taint = |key: &str| json!({"key": key, "effect": "NoSchedule"});
        let target = json!({"spec": {"taints": [taint("a"), taint("b")]}});
        let patch = json!({"spec": {"$setElementOrder/taints": [{"key": "c"}], "taints": [taint("c")]}});
        assert_eq!(merged(target, patch), json!({"spec": {"taints": [taint("c")]}}));
    }

    #[test]
    fn sets_grow_and_shrink_by_value() {
        let target = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"finalizers": ["b", "c"], "$deleteFromPrimitiveList/finalizers": ["a"]}});
        assert_eq!(merged(target, patch), json!({"metadata": {"finalizers": ["b", "c"]}}));
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b", "a"]}});
        assert_eq!(merged(json!({"metadata": {"finalizers": ["a", "b"]}}), patch), json!({"metadata": {}}));
    }

    #[test]
    fn directives_replace_and_delete_objects_and_are_never_stored() {
        let target = json!({"metadata": {"labels": {"a": "1"}, "annotations": {"x": "y"}}});
        let patch = json!({"metadata": {
            "labels": {"$patch": "replace", "b": "2"}, "annotations": {"$patch": "delete"}, "$retainKeys": ["labels"],
        }});
        assert_eq!(merged(target, patch), json!({"metadata": {"labels": {"b": "2"}, "annotations": {}}}));
        let new = merged(json!({}), json!({"spec": {"a": {"$patch": "merge", "b": {"c": null}}}}));
        assert_eq!(new, json!({"spec": {"a": {"b": {}}}}));
    }

    #[test]
    fn what_cannot_be_understood_is_refused() {
        for bad in [
            json!({"metadata": {"$patch": "rename"}}),
            json!({"metadata": {"$patch": 1}}),
            json!({"status": {"conditions": [{"status": "True"}]}}),
            json!({"status": {"conditions": ["Ready"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}),
        ] {
            assert!(merge(&mut json!({}), &bad).is_err(), "{bad} was taken");
        }
    }

    fn anything() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![Just(Value::Null), Just(json!(1)), Just(json!("replace")), Just(json!("x"))];
        leaf.prop_recursive(5, 40, 4, |inner| {
            let name = prop_oneof![
                Just("metadata"),
                Just("finalizers"),
                Just("status"),
                Just("conditions"),
                Just("type"),
                Just(PATCH),
                Just("$deleteFromPrimitiveList/finalizers"),
            ];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                proptest::collection::vec((name, inner), 0..4).prop_map(|m| m
                    .into_iter()
                    .map(|(k, v)| (k.to_owned(), v))
                    .collect::<Map<_, _>>()
                    .into()),
            ]
        })
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(mut target in anything(), patch in anything()) {
            drop(merge(&mut target, &patch));
        }

        #[test]
        fn a_patch_applied_twice_is_a_patch_applied_once(mut target in anything(), patch in anything()) {
            if merge(&mut target, &patch).is_ok() {
                let once = target.clone();
                proptest::prop_assert!(merge(&mut target, &patch).is_ok());
                proptest::prop_assert_eq!(target, once);
            }
        }
    }
}
