//! Objects through the eyes of their kind's schema: which parts are fields of their own, which are items of lists, and
//! which are one leaf.
//!
//! | schema | seen as |
//! |---|---|
//! | object with properties or `additionalProperties` | its fields |
//! | list with `x-kubernetes-list-type: map` | items by the fields of `x-kubernetes-list-map-keys` |
//! | list with `x-kubernetes-list-type: set` | its values |
//! | everything else, and what has `x-kubernetes-map-type: atomic` | one leaf |
//!
//! A value that does not fit its schema is a leaf as well: admission tells what is wrong with it. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::fieldset::{Element, FieldSet};
use crate::model::{FieldError, FieldErrors};

/// A node of a schema.
#[derive(Clone, Copy)]
pub struct Schema<'a>(Option<&'a Value>);

/// A value as its schema has it.
pub enum Seen<'a, 'v> {
    Fields(&'v Map<String, Value>),
    /// Items by their key or value. Of the same element there may be several in what is stored.
    Items {
        items: &'v [Value],
        elements: Vec<Element>,
        keys: Vec<&'a str>,
    },
    Leaf,
}

impl<'a> Schema<'a> {
    pub fn new(schema: &'a Value) -> Schema<'a> {
        Schema(Some(schema))
    }

    fn get(self, name: &str) -> Option<&'a Value> {
        self.0?.get(name)
    }

    pub fn field(self, name: &str) -> Schema<'a> {
        Schema(self.get("properties").and_then(|p| p.get(name)).or_else(|| self.get("additionalProperties")))
    }

    pub fn item(self) -> Schema<'a> {
        Schema(self.get("items"))
    }

    /// Whether a field is named by the schema, rather than a key of a map.
    fn names(self, field: &str) -> bool {
        self.get("properties").is_some_and(|p| p.get(field).is_some())
    }

    fn is_granular(self) -> bool {
        let atomic = self.get("x-kubernetes-map-type").is_some_and(|t| t == "atomic");
        let fields = self.get("properties").is_some() || self.get("additionalProperties").is_some_and(Value::is_object);
        fields && !atomic
    }

    /// The key fields of a list of items; empty for a list of values; `None` for an atomic list.
    fn list(self) -> Option<Vec<&'a str>> {
        match self.get("x-kubernetes-list-type")?.as_str()? {
            "set" => Some(vec![]),
            "map" => {
                let keys = self.get("x-kubernetes-list-map-keys")?.as_array()?;
                Some(keys.iter().filter_map(Value::as_str).collect())
            }
            _ => None,
        }
    }

    pub fn see<'v>(self, value: &'v Value) -> Seen<'a, 'v> {
        match value {
            Value::Object(fields) if self.is_granular() => Seen::Fields(fields),
            Value::Array(items) => {
                let Some(keys) = self.list() else { return Seen::Leaf };
                match items.iter().map(|item| element(item, &keys)).collect() {
                    Some(elements) => Seen::Items { items, elements, keys },
                    None => Seen::Leaf,
                }
            }
            _ => Seen::Leaf,
        }
    }
}

/// What names an item in its list: its key fields, or itself when there are none. `None` when it has not all of them.
fn element(item: &Value, keys: &[&str]) -> Option<Element> {
    if keys.is_empty() {
        let scalar = !item.is_object() && !item.is_array();
        return scalar.then(|| Element::Value(item.to_string()));
    }
    let fields: Option<Map<String, Value>> = keys.iter().map(|k| Some(((*k).into(), item.get(k)?.clone()))).collect();
    fields.map(|f| Element::Key(Value::Object(f).to_string()))
}

/// The items of a list by their element.
fn grouped(items: &[Value], elements: Vec<Element>) -> BTreeMap<Element, Vec<&Value>> {
    let mut groups = BTreeMap::<Element, Vec<&Value>>::new();
    for (element, item) in elements.into_iter().zip(items) {
        groups.entry(element).or_default().push(item);
    }
    groups
}

/// The fields that one who applies `value` claims: every leaf, each item of a list and each key of a map itself, and
/// what is empty.
pub fn claimed(schema: Schema<'_>, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    match schema.see(value) {
        Seen::Leaf => set.member = true,
        Seen::Fields(fields) => {
            for (name, inner) in fields {
                let mut below = claimed(schema.field(name), inner);
                below.member |= is_empty(inner) || !schema.names(name);
                set.put(Element::field(name), below);
            }
        }
        Seen::Items { items, elements, .. } => {
            for (element, group) in grouped(items, elements) {
                let mut below = match group[..] {
                    [one] => claimed(schema.item(), one),
                    _ => FieldSet::default(),
                };
                below.member = true;
                set.put(element, below);
            }
        }
    }
    set
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Null => true,
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Every node of a value, those with others below them too.
fn nodes(schema: Schema<'_>, value: &Value) -> FieldSet {
    let mut set = FieldSet::leaf();
    match schema.see(value) {
        Seen::Leaf => {}
        Seen::Fields(fields) => {
            for (name, inner) in fields {
                set.put(Element::field(name), nodes(schema.field(name), inner));
            }
        }
        Seen::Items { items, elements, .. } => {
            for (element, group) in grouped(items, elements) {
                set.put(element, nodes_of_group(schema.item(), &group));
            }
        }
    }
    set
}

fn nodes_of_group(schema: Schema<'_>, group: &[&Value]) -> FieldSet {
    match group {
        [one] => nodes(schema, one),
        _ => FieldSet::leaf(),
    }
}

/// What a write did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Fields that were not there, or had another value.
    pub written: FieldSet,
    pub removed: FieldSet,
}

pub fn compare(schema: Schema<'_>, old: &Value, new: &Value) -> Change {
    let mut change = Change::default();
    let mut put = |element: Element, inner: Change| {
        change.written.put(element.clone(), inner.written);
        change.removed.put(element, inner.removed);
    };
    let added = |nodes: FieldSet| Change { written: nodes, removed: FieldSet::default() };
    let removed = |nodes: FieldSet| Change { written: FieldSet::default(), removed: nodes };
    match (schema.see(old), schema.see(new)) {
        (Seen::Fields(old), Seen::Fields(new)) => {
            for (name, value) in old {
                let inner = match new.get(name) {
                    Some(now) => compare(schema.field(name), value, now),
                    None => removed(nodes(schema.field(name), value)),
                };
                put(Element::field(name), inner);
            }
            for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
                put(Element::field(name), added(nodes(schema.field(name), value)));
            }
        }
        (Seen::Items { items: old, elements: olds, .. }, Seen::Items { items: new, elements: news, .. }) => {
            let (old, new) = (grouped(old, olds), grouped(new, news));
            for (element, group) in &old {
                let inner = match (&group[..], new.get(element).map(|g| &g[..])) {
                    (group, None) => removed(nodes_of_group(schema.item(), group)),
                    ([one], Some([now])) => compare(schema.item(), one, now),
                    (group, Some(now)) if group == now => Change::default(),
                    (_, Some(_)) => added(FieldSet::leaf()),
                };
                put(element.clone(), inner);
            }
            for (element, group) in new.iter().filter(|(element, _)| !old.contains_key(element)) {
                put(element.clone(), added(nodes_of_group(schema.item(), group)));
            }
        }
        _ if old == new => {}
        _ => change.written.member = true,
    }
    change
}

/// What is wrong with the lists of an object to be applied: items that nothing tells apart.
pub fn list_problems(schema: Schema<'_>, value: &Value, path: &str, problems: &mut FieldErrors) {
    match value {
        Value::Object(fields) if schema.is_granular() => {
            for (name, inner) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                list_problems(schema.field(name), inner, &path, problems);
            }
        }
        Value::Array(items) => {
            let Some(keys) = schema.list() else { return };
            let mut seen = std::collections::BTreeSet::new();
            for (i, item) in items.iter().enumerate() {
                let at = format!("{path}[{i}]");
                match element(item, &keys) {
                    Some(element) => {
                        if let Some(twin) = seen.get(&element) {
                            problems.add(|| match twin {
                                Element::Key(text) | Element::Value(text) => FieldError::duplicate(&at, text),
                                Element::Field(_) | Element::Index(_) => FieldError::duplicate(&at, twin),
                            });
                        }
                        seen.insert(element);
                    }
                    // An item that is no object is told of by the schema.
                    None if item.is_object() => {
                        let missing = keys.iter().filter(|k| item.get(k).is_none());
                        problems.extend(missing.map(|k| FieldError::required(format!("{at}.{k}"), "")));
                    }
                    None => {}
                }
                list_problems(schema.item(), item, &at, problems);
            }
        }
        _ => {}
    }
}
