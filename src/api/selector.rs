//! Label and field selectors, parsed and matched as Kubernetes does.

use serde_json::Value;

use super::error::ApiError;
use super::object;
use crate::model::Kind;
use crate::store::splice;

/// Most requirements of one selector.
const MOST: usize = 256;
/// Most values of one `in (…)` or `notin (…)`.
const MOST_VALUES: usize = 4096;

/// One requirement on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    /// The values are sorted.
    In(String, Vec<String>),
    /// The values are sorted. Also true without the label.
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// Which objects a list or a watch shows. The default shows all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<Requirement>,
    /// Field path, value, and whether it must be equal.
    fields: Vec<(String, String, bool)>,
}

impl Selector {
    /// Parses both kinds of selector; `known` are the field paths that may be selected by.
    pub fn parse(labels: Option<&str>, fields: Option<&str>, known: &[&str]) -> Result<Selector, ApiError> {
        Ok(Selector {
            labels: labels.map(parse_labels).transpose()?.unwrap_or_default(),
            fields: fields.map(|f| parse_fields(f, known)).transpose()?.unwrap_or_default(),
        })
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The name, when only one object can match: `metadata.name=x`.
    pub fn only_name(&self) -> Option<&str> {
        self.required("metadata.name")
    }

    /// The value that a field must have, if there is one.
    pub fn required(&self, path: &str) -> Option<&str> {
        self.fields.iter().find(|(p, _, equal)| p == path && *equal).map(|(_, value, _)| value.as_str())
    }

    /// Puts another value in the place of the one that a field must have.
    pub fn require(&mut self, path: &str, value: &str) {
        for field in self.fields.iter_mut().filter(|(p, _, equal)| p == path && *equal) {
            field.1 = value.to_owned();
        }
    }

    /// As [`Selector::matches`], of an object as it is stored; only what the selector asks for is read. `None` when that
    /// cannot be: the whole is to be read, which tells why.
    pub fn matches_stored(&self, object: &[u8]) -> Option<bool> {
        let labels = (!self.labels.is_empty()).then_some("metadata.labels");
        let fields = self.fields.iter().flat_map(|(path, ..)| places(path));
        let mut read = Value::Null;
        for path in labels.into_iter().chain(fields) {
            let names: Vec<&str> = path.split('.').collect();
            let Some(value) = splice::at(object, &names).ok()? else { continue };
            *names.iter().fold(&mut read, |node, name| &mut node[*name]) = serde_json::from_slice(value).ok()?;
        }
        Some(self.matches(&read))
    }

    pub fn matches(&self, object: &Value) -> bool {
        let labels = object::meta(object).and_then(|m| m.get("labels"));
        let label = |name: &str| labels.and_then(|l| l.get(name)).and_then(Value::as_str);
        let has = |values: &[String], v: &str| values.binary_search_by(|x| (**x).cmp(v)).is_ok();
        let labels_match = self.labels.iter().all(|requirement| match requirement {
            Requirement::In(name, values) => label(name).is_some_and(|v| has(values, v)),
            Requirement::NotIn(name, values) => label(name).is_none_or(|v| !has(values, v)),
            Requirement::Exists(name) => label(name).is_some(),
            Requirement::Absent(name) => label(name).is_none(),
        });
        labels_match && self.fields.iter().all(|(path, value, equal)| (field(object, path) == *value) == *equal)
    }
}

/// Where the text of a field is: at the first of these that is not empty.
fn places(path: &str) -> impl Iterator<Item = &str> {
    // Who saw an Event is told in either way, and asked for by one name.
    let (first, other) = match path {
        "source" => ("source.component", Some("reportingComponent")),
        other => (other, None),
    };
    std::iter::once(first).chain(other)
}

/// The text of a field. An absent one is empty, but a flag is not set: as in Kubernetes.
fn field(object: &Value, path: &str) -> String {
    let at = |path: &str| match path.split('.').try_fold(object, |node, name| node.get(name)) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let found = places(path).map(at).find(|text| !text.is_empty()).unwrap_or_default();
    if found.is_empty() && path == "spec.unschedulable" { false.to_string() } else { found }
}

/// The field paths that objects of a kind may be selected by.
pub fn selectable(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Instance => &["metadata.name", "metadata.namespace", "status.node", "status.phase"],
        Kind::DockerHost | Kind::AccessToken | Kind::ConfigMap => &["metadata.name", "metadata.namespace"],
        Kind::Secret => &["metadata.name", "metadata.namespace", "type"],
        Kind::Namespace => &["metadata.name", "metadata.namespace", "status.phase"],
        Kind::Event => &[
            "metadata.name",
            "metadata.namespace",
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
    }
}

fn parse_fields(text: &str, known: &[&str]) -> Result<Vec<(String, String, bool)>, ApiError> {
    let parse = |term: &str| {
        let (path, value, equal) = if let Some((p, v)) = term.split_once("!=") {
            (p, v, false)
        } else if let Some((p, v)) = term.split_once("==").or_else(|| term.split_once('=')) {
            (p, v, true)
        } else {
            return Err(ApiError::bad_request(format!("invalid selector: {term:?}; can't understand {term:?}")));
        };
        if !known.contains(&path.trim()) {
            return Err(ApiError::bad_request(format!("field label not supported: {path}")));
        }
        Ok((path.trim().to_owned(), value.trim().to_owned(), equal))
    };
    let terms: Vec<_> = text.split(',').filter(|t| !t.trim().is_empty()).collect();
    if terms.len() > MOST {
        return Err(ApiError::bad_request(format!("a selector has at most {MOST} terms")));
    }
    terms.into_iter().map(parse).collect()
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, ApiError> {
    let bad = |why: &str| ApiError::bad_request(format!("unable to parse requirement: {text:?}: {why}"));
    let mut found = vec![];
    let mut rest = text.trim();
    while !rest.is_empty() {
        if found.len() >= MOST {
            return Err(bad("too many terms"));
        }
        let (requirement, next) = parse_requirement(rest).map_err(|why| bad(&why))?;
        found.push(requirement);
        rest = next.trim_start();
        match rest.strip_prefix(',') {
            Some(next) => rest = next.trim_start(),
            None if rest.is_empty() => {}
            None => return Err(bad(&format!("found {rest:?}, expected: ',' or the end"))),
        }
    }
    Ok(found)
}

/// One requirement at the beginning of the text, and what follows it.
fn parse_requirement(text: &str) -> Result<(Requirement, &str), String> {
    let (absent, text) = match text.strip_prefix('!') {
        Some(rest) => (true, rest.trim_start()),
        None => (false, text),
    };
    let (key, rest) = word(text);
    if !object::is_label_key(key) {
        return Err(format!("{key:?} is not a label key"));
    }
    let key = key.to_owned();
    let rest = rest.trim_start();
    if absent {
        return Ok((Requirement::Absent(key), rest));
    }
    for (operator, equal) in [("==", true), ("!=", false), ("=", true)] {
        if let Some(after) = rest.strip_prefix(operator) {
            let (value, rest) = word(after.trim_start());
            if !object::is_label_value(value) {
                return Err(format!("{value:?} is not a label value"));
            }
            let values = vec![value.to_owned()];
            let requirement = if equal { Requirement::In(key, values) } else { Requirement::NotIn(key, values) };
            return Ok((requirement, rest));
        }
    }
    let (operator, after) = word(rest);
    match operator {
        "" => Ok((Requirement::Exists(key), rest)),
        "in" | "notin" => {
            let inner = after.trim_start().strip_prefix('(').ok_or("expected: '('")?;
            let (list, rest) = inner.split_once(')').ok_or("expected: ')'")?;
            let mut values: Vec<String> = list.split(',').take(MOST_VALUES + 1).map(|v| v.trim().to_owned()).collect();
            if values.len() > MOST_VALUES {
                return Err(format!("more than the {MOST_VALUES} values allowed in one set"));
            }
            if let Some(bad) = values.iter().find(|v| !object::is_label_value(v)) {
                return Err(format!("{bad:?} is not a label value"));
            }
            values.sort_unstable();
            values.dedup();
            Ok((if operator == "in" { Requirement::In(key, values) } else { Requirement::NotIn(key, values) }, rest))
        }
        other => Err(format!("found {other:?}, expected: in, notin, =, ==, !=")),
    }
}

/// The leading run of characters that may stand in a key or a value.
fn word(text: &str) -> (&str, &str) {
    let end =
        text.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn alice() -> Value {
        json!({"metadata": {"name": "alice", "labels": {"tier": "free", "example.com/x": ""}}, "type": "Normal"})
    }

    #[test]
    fn label_selectors_match_as_kubernetes_matches() {
        for (text, expected) in [
            ("tier=free", true),
            ("tier==free,example.com/x", true),
            ("tier!=free", false),
            ("other!=x", true),
            ("tier in (free, paid)", true),
            ("tier notin (free)", false),
            ("other notin (free)", true),
            ("!tier", false),
            ("!other", true),
            ("other", false),
            ("example.com/x=", true),
        ] {
            let selector = Selector::parse(Some(text), None, &[]).unwrap();
            assert_eq!(selector.matches(&alice()), expected, "{text}");
            assert_eq!(
                selector.matches_stored(alice().to_string().as_bytes()),
                Some(expected),
                "{text}, as it is stored"
            );
        }
        for bad in ["=", "a=b=c", "a in b", "a in (b", "a b", "-a", "a=b c", "a,,b"] {
            assert!(Selector::parse(Some(bad), None, &[]).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_large_set_is_looked_up_and_a_huge_one_refused() {
        let set = |n: usize| format!("tier in ({})", (0..n).map(|i| format!("v{i}")).collect::<Vec<_>>().join(","));
        let object = |value: &str| json!({"metadata": {"labels": {"tier": value}}});
        let selector = Selector::parse(Some(&set(MOST_VALUES)), None, &[]).unwrap();
        assert!((0..MOST_VALUES).all(|i| selector.matches(&object(&format!("v{i}")))));
        assert!(!selector.matches(&object("v")) && !selector.matches(&object("w")));
        let refused = Selector::parse(Some(&set(MOST_VALUES + 1)), None, &[]).unwrap_err().to_string();
        assert!(
            refused.ends_with("more than the 4096 values allowed in one set"),
            "{}",
            &refused[refused.len() - 80..]
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(labels in "[a-z!=,() inotß/.-]{0,20}", fields in "[a-z.=!,ß]{0,20}") {
            drop(Selector::parse(Some(&labels), Some(&fields), selectable(Kind::Event)));
        }
    }

    #[test]
    fn field_selectors_know_only_the_kinds_fields() {
        let known = selectable(Kind::Event);
        let parse = |text| Selector::parse(None, Some(text), known);
        assert!(parse("type=Normal,metadata.name!=bob").unwrap().matches(&alice()));
        assert!(!parse("type!=Normal").unwrap().matches(&alice()));
        for (text, stored, expected) in [
            ("type=Normal,metadata.name=alice", alice().to_string().as_str(), Some(true)),
            ("type=Normal", r#"{"type":"Nor\u006dal"}"#, Some(true)),
            ("involvedObject.kind=x", r#"{"involvedObject":null}"#, Some(false)),
            ("involvedObject.kind!=x", r#"{"involvedObject":[]}"#, Some(true)),
            ("type!=x", "[1]", None),
            ("type!=x", r#"{"type":nothing}"#, None),
        ] {
            assert_eq!(parse(text).unwrap().matches_stored(stored.as_bytes()), expected, "{text} of {stored}");
        }
        for (event, expected) in [
            (json!({"source": {"component": "kubelet"}, "reportingComponent": "other"}), [true, false]),
            (json!({"source": {}, "reportingComponent": "kubelet"}), [true, true]),
            (json!({"source": {"component": "other"}, "reportingComponent": "kubelet"}), [false, true]),
            (json!({}), [false, false]),
        ] {
            for (text, expected) in ["source=kubelet", "reportingComponent=kubelet"].into_iter().zip(expected) {
                assert_eq!(parse(text).unwrap().matches(&event), expected, "{text} of {event}");
                assert_eq!(parse(text).unwrap().matches_stored(event.to_string().as_bytes()), Some(expected), "{text}");
            }
        }
        assert_eq!(parse("metadata.name=x").unwrap().only_name(), Some("x"));
        let schedulable = Selector::parse(None, Some("spec.unschedulable=false"), &["spec.unschedulable"]).unwrap();
        for (node, expected) in [(json!({}), true), (json!({"spec": {"unschedulable": true}}), false)] {
            assert_eq!(schedulable.matches(&node), expected, "{node}");
        }
        assert_eq!(parse("spec.x=1").unwrap_err().to_string(), "field label not supported: spec.x");
    }
}
