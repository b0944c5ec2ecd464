//! A set of fields of an object, as a tree: Kubernetes' `FieldsV1`.
//!
//! ```text
//! {"f:spec": {"f:image": {}, "f:ports": {"k:{\"name\":\"http\"}": {".": {}, "f:name": {}}}}}
//! ```
//!
//! A node may be in the set itself (`.`, or `{}` when nothing is below it), hold others below it, or both. Pure; used by
//! everything in this room. Invariant: no node below the root is empty, so equal sets are equal trees.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

/// Deepest node of a set that a client hands in; no object of ours is a quarter as deep.
const MOST_LEVELS: usize = 64;
/// Most nodes of a set that a client hands in: more than the largest object can have members worth tracking.
const MOST_NODES: usize = 20_000;

/// One step of a path. Keys and values are kept as JSON text with sorted members, so that equal ones are equal texts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A field of an object.
    Field(String),
    /// The position in a list; only read from what others wrote.
    Index(u64),
    /// The item of a keyed list: the object of its key fields.
    Key(String),
    /// A value of a set.
    Value(String),
}

impl Element {
    pub fn field(name: &str) -> Element {
        Element::Field(name.to_owned())
    }

    fn parse(text: &str) -> Option<Element> {
        let (kind, rest) = text.split_once(':')?;
        let json = || serde_json::from_str::<Value>(rest).ok();
        match kind {
            "f" => Some(Element::Field(rest.to_owned())),
            "i" => rest.parse().ok().map(Element::Index),
            "k" => match json()? {
                Value::Object(keys) if !keys.is_empty() => Some(Element::Key(Value::Object(keys).to_string())),
                _ => None,
            },
            "v" => json().map(|v| Element::Value(v.to_string())),
            _ => None,
        }
    }

    fn print(&self) -> String {
        match self {
            Element::Field(name) => format!("f:{name}"),
            Element::Index(i) => format!("i:{i}"),
            Element::Key(keys) => format!("k:{keys}"),
            Element::Value(value) => format!("v:{value}"),
        }
    }
}

/// As Kubernetes writes it in messages: `.image`, `[name="http"]`, `[="x"]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Field(name) => write!(f, ".{name}"),
            Element::Index(i) => write!(f, "[{i}]"),
            Element::Value(value) => write!(f, "[={value}]"),
            Element::Key(keys) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let pairs: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", pairs.join(","))
            }
        }
    }
}

/// Why a text is no field set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFieldSet {
    #[error("every node of a field set must be an object")]
    NotAnObject,
    #[error("a member of a field set must be '.', or begin with 'f:', 'k:', 'v:' or 'i:' and be well formed")]
    BadElement,
    #[error("a field set has at most {MOST_LEVELS} levels and {MOST_NODES} nodes")]
    TooLarge,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Whether the node itself is in the set.
    pub member: bool,
    below: BTreeMap<Element, FieldSet>,
}

impl FieldSet {
    /// The set of just this node.
    pub fn leaf() -> FieldSet {
        FieldSet { member: true, below: BTreeMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    pub fn below(&self, element: &Element) -> Option<&FieldSet> {
        self.below.get(element)
    }

    /// Puts a whole set below this node; an empty one leaves no trace. Replaces what was there.
    pub fn put(&mut self, element: Element, set: FieldSet) {
        if set.is_empty() {
            self.below.remove(&element);
        } else {
            self.below.insert(element, set);
        }
    }

    /// The set of one field of an object: `["metadata", "name"]`.
    pub fn insert_field(&mut self, path: &[&str]) {
        match path {
            [] => self.member = true,
            [name, rest @ ..] => self.below.entry(Element::field(name)).or_default().insert_field(rest),
        }
    }

    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut all = self.clone();
        all.member |= other.member;
        for (element, theirs) in &other.below {
            let both = all.below.get(element).map_or_else(|| theirs.clone(), |ours| ours.union(theirs));
            all.put(element.clone(), both);
        }
        all
    }

    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut common = FieldSet { member: self.member && other.member, below: BTreeMap::new() };
        for (element, ours) in &self.below {
            if let Some(theirs) = other.below.get(element) {
                common.put(element.clone(), ours.intersection(theirs));
            }
        }
        common
    }

    /// What is in this set and not in the other, node by node: taking a node away leaves what is below it.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let mut left = FieldSet { member: self.member && !other.member, below: BTreeMap::new() };
        for (element, ours) in &self.below {
            let rest = other.below.get(element).map_or_else(|| ours.clone(), |theirs| ours.difference(theirs));
            left.put(element.clone(), rest);
        }
        left
    }

    /// How many nodes are in the set.
    pub fn len(&self) -> usize {
        usize::from(self.member) + self.below.values().map(FieldSet::len).sum::<usize>()
    }

    /// The paths of the nodes in the set, in order, as messages name them; at most `most`.
    pub fn paths(&self, most: usize) -> Vec<String> {
        let mut found = vec![];
        self.collect(&mut String::new(), most, &mut found);
        found
    }

    fn collect(&self, path: &mut String, most: usize, found: &mut Vec<String>) {
        if self.member && found.len() < most {
            found.push(path.clone());
        }
        for (element, set) in &self.below {
            if found.len() >= most {
                return;
            }
            let length = path.len();
            path.push_str(&element.to_string());
            set.collect(path, most, found);
            path.truncate(length);
        }
    }

    /// Reads `fieldsV1`.
    ///
    /// # Errors
    /// When it is no such tree, or a larger one than any object needs.
    pub fn parse(value: &Value) -> Result<FieldSet, BadFieldSet> {
        let mut set = read(value, 0, &mut 0)?;
        // A '.' at the root would be the whole object, which is nobody's.
        set.member = false;
        Ok(set)
    }

    /// `fieldsV1`, with '.' first and the rest in the order of its texts.
    pub fn print(&self) -> Value {
        let mut fields = Map::new();
        if self.member && !self.below.is_empty() {
            fields.insert(".".into(), Value::Object(Map::new()));
        }
        fields.extend(self.below.iter().map(|(element, set)| (element.print(), set.print())));
        Value::Object(fields)
    }
}

fn read(value: &Value, level: usize, nodes: &mut usize) -> Result<FieldSet, BadFieldSet> {
    let fields = value.as_object().ok_or(BadFieldSet::NotAnObject)?;
    *nodes += 1;
    if level > MOST_LEVELS || *nodes > MOST_NODES {
        return Err(BadFieldSet::TooLarge);
    }
    let mut set = FieldSet { member: fields.is_empty() && level > 0, below: BTreeMap::new() };
    for (name, inner) in fields {
        if name == "." {
            set.member = true;
        } else {
            let element = Element::parse(name).ok_or(BadFieldSet::BadElement)?;
            let inner = read(inner, level + 1, nodes)?;
            // Two spellings of one key: {"a":1,"b":2} and {"b":2,"a":1}.
            let both = set.below.get(&element).map_or_else(|| inner.clone(), |first| first.union(&inner));
            set.put(element, both);
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn set(value: Value) -> FieldSet {
        FieldSet::parse(&value).unwrap()
    }

    #[test]
    fn a_set_is_printed_as_kubernetes_prints_it_and_reads_back() {
        let text = r#"{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:image":{},"f:ports":{"k:{\"name\":\"http\"}":{".":{},"f:name":{}}},"f:set":{"v:\"x\"":{}}}}"#;
        let parsed = set(serde_json::from_str(text).unwrap());
        assert_eq!(parsed.print().to_string(), text);
        assert_eq!(
            parsed.paths(100),
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.image",
                ".spec.ports[name=\"http\"]",
                ".spec.ports[name=\"http\"].name",
                ".spec.set[=\"x\"]",
            ]
        );
        assert_eq!(parsed.paths(2).len(), 2);
        assert_eq!(parsed.len(), 6);
        let spelled = set(json!({"f:a": {"k:{ \"b\": 2, \"a\": 1 }": {}}}));
        assert_eq!(spelled, set(json!({"f:a": {"k:{\"a\":1,\"b\":2}": {}}})));
        assert_eq!(spelled.paths(1), [".a[a=1,b=2]"]);
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for bad in [
            json!([]),
            json!(null),
            json!({"f:a": 1}),
            json!({"spec": {}}),
            json!({"x:a": {}}),
            json!({"k:{}": {}}),
            json!({"k:1": {}}),
            json!({"v:": {}}),
            json!({"i:a": {}}),
        ] {
            assert!(FieldSet::parse(&bad).is_err(), "{bad}");
        }
        let deep = (0..100).fold(json!({}), |inner, _| json!({"f:a": inner}));
        assert_eq!(FieldSet::parse(&deep), Err(BadFieldSet::TooLarge));
        let wide: Map<String, Value> = (0..MOST_NODES + 1).map(|i| (format!("f:{i}"), json!({}))).collect();
        assert_eq!(FieldSet::parse(&wide.into()), Err(BadFieldSet::TooLarge));
        assert!(set(json!({".": {}})).is_empty(), "the object itself is nobody's");
    }

    fn any_set() -> impl Strategy<Value = FieldSet> {
        let element = prop_oneof![
            "[ab]".prop_map(Element::Field),
            "[ab]".prop_map(|n| Element::Key(format!("{{\"name\":\"{n}\"}}"))),
            "[ab]".prop_map(|n| Element::Value(format!("\"{n}\""))),
        ];
        let tree = any::<bool>().prop_map(|member| FieldSet { member, below: BTreeMap::new() });
        let tree = tree.prop_recursive(3, 24, 4, move |inner| {
            (any::<bool>(), prop::collection::vec((element.clone(), inner), 0..4)).prop_map(|(member, below)| {
                let mut set = FieldSet { member, below: BTreeMap::new() };
                below.into_iter().for_each(|(element, inner)| set.put(element, inner));
                set
            })
        });
        tree.prop_map(|mut set| {
            set.member = false;
            set
        })
    }

    proptest! {
        #[test]
        fn sets_obey_the_laws_of_sets(a in any_set(), b in any_set()) {
            prop_assert_eq!(FieldSet::parse(&a.print()), Ok(a.clone()));
            prop_assert_eq!(a.union(&b), b.union(&a));
            prop_assert_eq!(a.intersection(&b), b.intersection(&a));
            prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
            prop_assert!(a.difference(&b).intersection(&b).is_empty());
            prop_assert_eq!(a.union(&b).len() + a.intersection(&b).len(), a.len() + b.len());
            prop_assert!(a.difference(&a).is_empty());
        }
    }
}
