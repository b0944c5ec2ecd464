//! Laying what someone applies over what is there, and taking away what they no longer apply. Pure; used by
//! [`super::apply`].

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::fieldset::{Element, FieldSet};
use super::typed::{Schema, Seen};

/// `live` with `config` laid over it: fields and items that only one has stay, leaves are `config`'s.
pub fn overlay(schema: Schema<'_>, live: &Value, config: &Value) -> Value {
    match (schema.see(live), schema.see(config)) {
        (Seen::Fields(live), Seen::Fields(config)) => {
            let mut merged = live.clone();
            for (name, value) in config {
                let value = live.get(name).map_or_else(|| value.clone(), |l| overlay(schema.field(name), l, value));
                merged.insert(name.clone(), value);
            }
            merged.into()
        }
        (Seen::Items { items: live, elements: lives, .. }, Seen::Items { items: config, elements: configs, .. }) => {
            let item = |pair: &(Option<usize>, Option<usize>)| match *pair {
                (Some(l), Some(c)) => overlay(schema.item(), &live[l], &config[c]),
                (None, Some(c)) => config[c].clone(),
                (Some(l), None) => live[l].clone(),
                (None, None) => Value::Null,
            };
            order(&lives, &configs).iter().map(item).collect()
        }
        _ => config.clone(),
    }
}

/// How two lists become one: the items of `config` in their order, those that only `live` has where they stood between
/// them. Each pair says where the item is in `live` and in `config`. Of an item that `live` has several times
/// and `config` has, only that of `config` stays.
fn order(live: &[Element], config: &[Element]) -> Vec<(Option<usize>, Option<usize>)> {
    let mut at = BTreeMap::<&Element, Option<usize>>::new();
    for (i, element) in live.iter().enumerate() {
        at.entry(element).and_modify(|i| *i = None).or_insert(Some(i));
    }
    let configured: BTreeSet<&Element> = config.iter().collect();
    let mut shared = config.iter().filter(|e| at.contains_key(e)).peekable();
    let mut taken = BTreeSet::new();
    let mut merged = Vec::with_capacity(live.len() + config.len());
    let (mut l, mut c) = (0, 0);
    while l < live.len() || c < config.len() {
        if let (Some(ours), Some(theirs)) = (live.get(l), config.get(c)) {
            if ours == theirs {
                merged.push((at[ours], Some(c)));
                taken.insert(ours);
                shared.next();
                (l, c) = (l + 1, c + 1);
                continue;
            }
            if configured.contains(ours) && shared.peek().is_some_and(|next| *next != ours) {
                // Shared, but `config` has another place for it.
                l += 1;
                continue;
            }
        }
        if let Some(ours) = live.get(l) {
            if !configured.contains(ours) {
                merged.push((Some(l), None));
                l += 1;
                continue;
            }
            if taken.contains(ours) {
                l += 1;
                continue;
            }
        }
        if let Some(theirs) = config.get(c) {
            merged.push((at.get(theirs).copied().flatten(), Some(c)));
            taken.insert(theirs);
            if shared.peek() == Some(&theirs) {
                shared.next();
            }
            c += 1;
        }
    }
    merged
}

/// `value` without the fields of `given_up` that are not in `kept`; `None` when nothing of it stays.
///
/// An item that is given up goes as a whole. A key field of an item that stays, stays. What is left empty goes too,
/// unless someone owns it.
pub fn prune(schema: Schema<'_>, value: Value, given_up: &FieldSet, kept: &FieldSet) -> Option<Value> {
    let nothing = FieldSet::default();
    let emptied = match schema.see(&value) {
        Seen::Leaf => return (given_up.is_empty() || !kept.is_empty()).then_some(value),
        Seen::Fields(fields) => {
            let fields = prune_fields(schema, fields, given_up, kept, &[]);
            (fields.is_empty(), Value::Object(fields))
        }
        Seen::Items { items, elements, keys } => {
            let mut left = vec![];
            for (item, element) in items.iter().zip(&elements) {
                let theirs = kept.below(element).unwrap_or(&nothing);
                match (given_up.below(element), item) {
                    (None, _) => left.push(item.clone()),
                    (Some(ours), _) if ours.member && !theirs.member => {}
                    (Some(ours), Value::Object(fields)) if !keys.is_empty() => {
                        left.push(prune_fields(schema.item(), fields, ours, theirs, &keys).into());
                    }
                    (Some(_), _) => left.push(item.clone()),
                }
            }
            (left.is_empty(), Value::Array(left))
        }
    };
    match emptied {
        (true, _) if !kept.member => None,
        (_, left) => Some(left),
    }
}

fn prune_fields(
    schema: Schema<'_>,
    fields: &Map<String, Value>,
    given_up: &FieldSet,
    kept: &FieldSet,
    keys: &[&str],
) -> Map<String, Value> {
    let nothing = FieldSet::default();
    let mut left = Map::new();
    for (name, value) in fields {
        let element = Element::field(name);
        let value = match given_up.below(&element) {
            Some(ours) if !keys.contains(&name.as_str()) => {
                prune(schema.field(name), value.clone(), ours, kept.below(&element).unwrap_or(&nothing))
            }
            _ => Some(value.clone()),
        };
        if let Some(value) = value {
            left.insert(name.clone(), value);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_merge_in_the_order_of_the_one_who_applies() {
        let merged = |live: &str, config: &str| {
            let elements = |text: &str| text.chars().map(|c| Element::Value(c.to_string())).collect::<Vec<_>>();
            let (live, config) = (elements(live), elements(config));
            let name = |(l, c): (Option<usize>, Option<usize>)| match c.map(|c| &config[c]).or(l.map(|l| &live[l])) {
                Some(Element::Value(text)) => text.clone(),
                other => panic!("{other:?}"),
            };
            order(&live, &config).into_iter().map(name).collect::<String>()
        };
        for (live, config, expected) in [
            ("", "abc", "abc"),
            ("abc", "", "abc"),
            ("abc", "abc", "abc"),
            // new items follow what stood before them
            ("ab", "abc", "abc"),
            ("ac", "abc", "abc"),
            ("xay", "ab", "xayb"),
            // the one who applies may reorder what is theirs
            ("abc", "cba", "cba"),
            ("axbyc", "cba", "xycba"),
            ("abc", "ca", "bca"),
            // repeats of an item that is applied become one
            ("aba", "a", "ab"),
            ("aa", "", "aa"),
        ] {
            assert_eq!(merged(live, config), expected, "{live} and {config}");
        }
    }
}
