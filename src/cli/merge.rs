//! Client-side apply: what to change in the live object so that it says what the manifest says, and no longer what only
//! the manifest before said. Compatible with `kubectl apply`: the same annotation, written in the same way.

use serde_json::{Map, Value};

/// Where apply keeps the manifest that it applied last.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The manifest with itself in its [`LAST_APPLIED`] annotation, as it is sent.
pub fn annotated(manifest: &Value) -> Value {
    let mut bare = manifest.clone();
    // `annotations: {}` is there even when empty: kubectl writes it so, and texts are compared as wholes
    object_at(object_at(&mut bare, "metadata"), "annotations");
    if let Some(annotations) = bare["metadata"]["annotations"].as_object_mut() {
        annotations.remove(LAST_APPLIED);
    }
    let text = as_go_writes(&bare);
    bare["metadata"]["annotations"][LAST_APPLIED] = Value::String(text);
    bare
}

/// The member `key` of an object, made an object if it is none.
fn object_at<'a>(value: &'a mut Value, key: &str) -> &'a mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let member = &mut value[key];
    if !member.is_object() {
        *member = Value::Object(Map::new());
    }
    member
}

/// Compact JSON with sorted keys, HTML's characters escaped, and a line end: what Go's encoder gives.
fn as_go_writes(value: &Value) -> String {
    let mut text = String::new();
    for c in value.to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text.push_str(&format!("\\u{:04x}", c as u32)),
            c => text.push(c),
        }
    }
    text.push('\n');
    text
}

/// The manifest that was applied last, as the live object tells it; `None` if it was never applied or is unreadable.
pub fn last_applied(live: &Value) -> Option<Value> {
    serde_json::from_str(live["metadata"]["annotations"][LAST_APPLIED].as_str()?).ok()
}

/// The merge patch (RFC 7386) that brings `live` to `wanted`, taking away what only `before` had; `{}` if nothing is to
/// be done. Fields that neither names stay as they are.
pub fn three_way(before: Option<&Value>, wanted: &Value, live: &Value) -> Value {
    let empty = Map::new();
    let wanted = wanted.as_object().unwrap_or(&empty);
    let live = live.as_object().unwrap_or(&empty);
    Value::Object(objects(before.and_then(Value::as_object), wanted, live))
}

fn objects(
    before: Option<&Map<String, Value>>,
    wanted: &Map<String, Value>,
    live: &Map<String, Value>,
) -> Map<String, Value> {
    let mut patch = Map::new();
    for (key, want) in wanted {
        match (want, live.get(key)) {
            // an explicit null asks for absence
            (Value::Null, Some(Value::Null) | None) => {}
            (Value::Null, Some(_)) => drop(patch.insert(key.clone(), Value::Null)),
            (Value::Object(want), Some(Value::Object(have))) => {
                let inner = objects(before.and_then(|b| b.get(key)).and_then(Value::as_object), want, have);
                if !inner.is_empty() {
                    patch.insert(key.clone(), Value::Object(inner));
                }
            }
            (want, Some(have)) if want == have => {}
            (want, _) => drop(patch.insert(key.clone(), want.clone())),
        }
    }
    for key in before.into_iter().flat_map(Map::keys) {
        if !wanted.contains_key(key) && live.contains_key(key) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn only_what_the_last_manifest_had_is_taken_away() {
        let before = json!({"spec": {"image": "a:1", "user": "me", "env": [{"name": "A"}]}});
        let wanted = json!({"spec": {"image": "a:2", "env": [{"name": "A"}]}});
        let live =
            json!({"spec": {"image": "a:1", "user": "me", "env": [{"name": "A"}], "power": "Stopped"}, "status": {}});
        assert_eq!(three_way(Some(&before), &wanted, &live), json!({"spec": {"image": "a:2", "user": null}}));
        assert_eq!(three_way(None, &wanted, &live), json!({"spec": {"image": "a:2"}}));
    }

    #[test]
    fn what_is_gone_already_is_not_taken_away_again() {
        let before = json!({"spec": {"user": "me"}, "gone": {"deep": 1}});
        assert_eq!(three_way(Some(&before), &json!({"spec": {}}), &json!({"spec": {}})), json!({}));
    }

    #[test]
    fn a_null_in_the_manifest_asks_for_absence() {
        let wanted = json!({"spec": {"user": null, "owner": null}});
        assert_eq!(three_way(None, &wanted, &json!({"spec": {"user": "me"}})), json!({"spec": {"user": null}}));
    }

    #[test]
    fn the_annotation_is_what_kubectl_writes() {
        let manifest =
            json!({"kind": "Instance", "apiVersion": "v1", "metadata": {"name": "x"}, "spec": {"args": ["<&>"]}});
        let sent = annotated(&manifest);
        assert_eq!(
            sent["metadata"]["annotations"][LAST_APPLIED],
            "{\"apiVersion\":\"v1\",\"kind\":\"Instance\",\"metadata\":{\"annotations\":{},\"name\":\"x\"},\
             \"spec\":{\"args\":[\"\\u003c\\u0026\\u003e\"]}}\n"
        );
        assert_eq!(last_applied(&sent).unwrap()["spec"], manifest["spec"]);
        // a manifest that was exported with its annotation does not nest it
        assert_eq!(annotated(&sent), sent);
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![(0..3i32).prop_map(|n| json!(n)), Just(json!([1]))];
        let object = leaf.prop_recursive(3, 16, 3, |inner| {
            prop::collection::btree_map("[abc]", inner, 0..3).prop_map(|m| Value::Object(m.into_iter().collect()))
        });
        prop::collection::btree_map("[abc]", object, 0..3).prop_map(|m| Value::Object(m.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn applying_twice_changes_nothing_the_second_time(before in tree(), wanted in tree(), live in tree()) {
            let mut after = live;
            let patch = three_way(Some(&before), &wanted, &after);
            json_patch::merge(&mut after, &patch);
            prop_assert_eq!(three_way(Some(&wanted), &wanted, &after), json!({}));
            prop_assert_eq!(three_way(None, &wanted, &after), json!({}), "all that is wanted is there");
        }

        #[test]
        fn nothing_that_only_the_last_manifest_had_is_left(before in tree(), wanted in tree()) {
            let mut after = before.clone();
            json_patch::merge(&mut after, &three_way(Some(&before), &wanted, &before));
            prop_assert_eq!(after, wanted);
        }
    }
}
