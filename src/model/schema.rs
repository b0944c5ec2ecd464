//! The JSON Schema of every kind, generated from the Rust types, and the check of a value against it.
//!
//! One source for validation, OpenAPI, `kubectl explain` and the docs. The schema is OpenAPI 3.0 and *structural*:
//! everything is inlined, and every node has one type or is a quantity. [`check`] promises that a value without
//! errors, once [`prune`]d, decodes into the kind's Rust type; rules between fields are `validate`'s. Every list has a
//! most, and the items of one that is longer are not looked at.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::secret::base64_bytes;
use super::{
    AccessToken, ConfigMap, CpuShare, DockerHost, Event, FieldError, FieldErrors, FieldReason, HostContainerList,
    Instance, InstanceExplanation, Kind, MOST_ERRORS, Namespace, Quantity, Secret, Span,
};

static INSTANCE: LazyLock<Value> = LazyLock::new(generate::<Instance>);
static DOCKER_HOST: LazyLock<Value> = LazyLock::new(generate::<DockerHost>);
static NAMESPACE: LazyLock<Value> = LazyLock::new(generate::<Namespace>);
static EVENT: LazyLock<Value> = LazyLock::new(generate::<Event>);
static ACCESS_TOKEN: LazyLock<Value> = LazyLock::new(generate::<AccessToken>);
static SECRET: LazyLock<Value> = LazyLock::new(generate::<Secret>);
static CONFIG_MAP: LazyLock<Value> = LazyLock::new(generate::<ConfigMap>);

static HOST_CONTAINERS: LazyLock<Value> = LazyLock::new(generate::<HostContainerList>);

/// The structural schema of what a host tells of its containers.
pub fn host_containers() -> &'static Value {
    &HOST_CONTAINERS
}

static EXPLANATION: LazyLock<Value> = LazyLock::new(generate::<InstanceExplanation>);

/// The structural schema of what is told of an Instance's reasons.
pub fn explanation() -> &'static Value {
    &EXPLANATION
}

/// The structural schema of a kind.
pub fn schema(kind: Kind) -> &'static Value {
    match kind {
        Kind::Instance => &INSTANCE,
        Kind::DockerHost => &DOCKER_HOST,
        Kind::Namespace => &NAMESPACE,
        Kind::Event => &EVENT,
        Kind::AccessToken => &ACCESS_TOKEN,
        Kind::Secret => &SECRET,
        Kind::ConfigMap => &CONFIG_MAP,
    }
}

/// What [`check`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Wrong types, missing fields, values out of range.
    pub errors: FieldErrors,
    /// Paths of fields that the kind does not have, the first [`MOST_ERRORS`]: `spec.ports[0].foo`.
    pub unknown: Vec<String>,
}

/// Most items of a list that names no other most.
const MOST_ITEMS: u64 = 1024;

/// Checks a value against a kind's schema and reports everything at once.
pub fn check(kind: Kind, value: &Value) -> Checked {
    check_by(schema(kind), value)
}

/// As [`check`], by a structural schema of what is not stored.
pub fn check_by(schema: &Value, value: &Value) -> Checked {
    let mut found = Checked::default();
    walk(schema, value, "", &mut found);
    found
}

/// Removes the fields that the kind does not have.
pub fn prune(kind: Kind, value: &mut Value) {
    prune_by(schema(kind), value);
}

/// As [`prune`], by a structural schema of what is not stored.
pub fn prune_by(schema: &Value, value: &mut Value) {
    prune_node(schema, value);
}

fn generate<T: schemars::JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|s| s.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    normalise(&mut schema);
    schema
}
/// What begins the list of the meanings of values in a description, as in Kubernetes.
pub const MEANINGS: &str = "Possible enum values:";

/// The values of an enum of which some are documented one by one, the others together; and a line for each with its meaning.
fn documented(variants: &[Value]) -> Option<(Vec<Value>, String)> {
    let (mut values, mut lines) = (vec![], String::new());
    for variant in variants {
        let meaning = variant.get("description").and_then(Value::as_str).unwrap_or_default();
        let meaning = meaning.split_whitespace().collect::<Vec<_>>().join(" ");
        for value in variant.get("enum")?.as_array()?.iter().filter(|value| !value.is_null()) {
            lines.push_str(&format!(" - `{value}`{}{meaning}\n", if meaning.is_empty() { "" } else { ": " }));
            values.push(value.clone());
        }
    }
    Some((values, lines))
}

/// Makes a generated schema structural: no `nullable`, no `default` (defaults are not written back), no unions but the
/// quantity's, enumerations as plain string enums.
fn normalise(node: &mut Value) {
    let Some(object) = node.as_object_mut() else { return };
    // `writeOnly` is what schemars makes of a field that our types pass by when they read; clients do get it.
    for name in ["$schema", "nullable", "title", "writeOnly"] {
        object.remove(name);
    }
    // Option<T> of an inlined union: {anyOf: [T, null]}
    if let Some(Value::Array(options)) = object.get("anyOf")
        && options.len() == 2
        && options[1].get("nullable").is_some()
    {
        let Some(Value::Array(mut options)) = object.remove("anyOf") else { unreachable!("just seen") };
        if let Value::Object(inner) = options.swap_remove(0) {
            for (name, value) in inner {
                object.entry(name).or_insert(value);
            }
        }
    }
    // an enum whose variants are documented one by one
    if let Some(Value::Array(variants)) = object.get("oneOf")
        && let Some((values, meanings)) = documented(variants)
    {
        object.remove("oneOf");
        object.insert("type".into(), "string".into());
        object.insert("enum".into(), values.into());
        let text = object.get("description").and_then(Value::as_str).unwrap_or_default();
        let text = format!("{text}\n\n{MEANINGS}\n{meanings}");
        object.insert("description".into(), text.trim().into());
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|v| !v.is_null());
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        // `#[serde(default)]` only spares the types an Option; a text that may not be empty must be given.
        let needed: Vec<Value> = properties
            .iter()
            .filter(|(_, p)| p.get("default").is_some_and(|d| d == "") && p.get("minLength").is_some_and(|n| n != 0))
            .map(|(name, _)| name.as_str().into())
            .collect();
        for property in properties.values_mut() {
            normalise(property);
        }
        if !needed.is_empty() {
            let required = object.entry("required").or_insert_with(|| Value::Array(vec![]));
            required.as_array_mut().expect("schemars writes an array").extend(needed);
        }
    }
    object.remove("default");
    // Undeclared is atomic, to Kubernetes as to us: said aloud, so that clients need not know.
    if object.get("type").is_some_and(|t| t == "array") {
        object.entry("x-kubernetes-list-type").or_insert_with(|| "atomic".into());
        object.entry("maxItems").or_insert_with(|| MOST_ITEMS.into());
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(name) {
            normalise(inner);
        }
    }
}

fn walk(schema: &Value, value: &Value, path: &str, found: &mut Checked) {
    if schema.get("format").is_some_and(|f| f == "quantity") {
        return check_quantity(value, path, found);
    }
    let Some(expected) = schema.get("type").and_then(Value::as_str) else { return };
    let actual = type_name(value);
    let fits = expected == actual || (expected == "number" && actual == "integer");
    if !fits {
        return found.errors.add(|| wrong_type(path, expected, actual));
    }
    match value {
        Value::Object(fields) => check_object(schema, fields, path, found),
        Value::Array(items) => check_array(schema, items, path, found),
        Value::String(text) => check_text(schema, text, path, found),
        Value::Number(number) => check_number(schema, number, path, found),
        Value::Null | Value::Bool(_) => {}
    }
}

fn wrong_type(path: &str, expected: &str, actual: &str) -> FieldError {
    let message = format!("Invalid value: {actual:?}: {path} in body must be of type {expected}: {actual:?}");
    FieldError { reason: FieldReason::TypeInvalid, field: path.into(), message }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// `spec` and `image` give `spec.image`.
fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn check_object(schema: &Value, fields: &Map<String, Value>, path: &str, found: &mut Checked) {
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            found.errors.add(|| FieldError::required(join(path, name), ""));
        }
    }
    let additional = schema.get("additionalProperties");
    for (name, value) in fields {
        match (schema.get("properties").and_then(|p| p.get(name)), additional) {
            (Some(property), _) => walk(property, value, &join(path, name), found),
            (None, Some(inner)) => walk(inner, value, &join(path, name), found),
            (None, None) if found.unknown.len() < MOST_ERRORS => found.unknown.push(join(path, name)),
            (None, None) => {}
        }
    }
}

fn check_array(schema: &Value, items: &[Value], path: &str, found: &mut Checked) {
    if let Some(most) = schema.get("maxItems").and_then(Value::as_u64).filter(|m| items.len() as u64 > *m) {
        return found.errors.add(|| FieldError::too_many(path, items.len(), most));
    }
    if let Some(least) = schema.get("minItems").and_then(Value::as_u64).filter(|m| (items.len() as u64) < *m) {
        let why = format!("{path} in body should have at least {least} items");
        found.errors.push(FieldError::invalid(path, items.len(), &why));
    }
    if let Some(inner) = schema.get("items") {
        for (i, item) in items.iter().enumerate() {
            walk(inner, item, &format!("{path}[{i}]"), found);
        }
    }
}

fn check_text(schema: &Value, text: &str, path: &str, found: &mut Checked) {
    let chars = text.chars().count() as u64;
    let limit = |name: &str| schema.get(name).and_then(Value::as_u64);
    if let Some(most) = limit("maxLength").filter(|m| chars > *m) {
        let message = format!("Too long: may not be more than {most} characters");
        found.errors.push(FieldError { reason: FieldReason::TooLong, field: path.into(), message });
    }
    if let Some(least) = limit("minLength").filter(|m| chars < *m) {
        let why = format!("{path} in body should be at least {least} chars long");
        found.errors.push(FieldError::invalid(path, format!("{text:?}"), &why));
    }
    if let Some(Value::Array(allowed)) = schema.get("enum")
        && !allowed.iter().any(|a| a == text)
    {
        let names: Vec<_> = allowed.iter().map(ToString::to_string).collect();
        found.errors.add(|| FieldError::not_supported(path, format!("{text:?}"), &names.join(", ")));
    }
    let problem = match schema.get("format").and_then(Value::as_str) {
        // What should be base64 is often a secret in the wrong form: it is not repeated.
        Some("byte") if base64_bytes(text).is_none() => {
            let why = format!("{path} in body must be of type byte: illegal base64 data");
            found.errors.push(FieldError::invalid(path, "<contents redacted>", &why));
            None
        }
        Some("duration") => text.parse::<Span>().err().map(|e| e.to_string()),
        Some("cpu-share") => text.parse::<CpuShare>().err().map(|e| e.to_string()),
        Some("date-time") => text.parse::<jiff::Timestamp>().err().map(|_| "must be an RFC 3339 time".to_owned()),
        _ => None,
    };
    if let Some(why) = problem {
        found.errors.push(FieldError::invalid(path, format!("{text:?}"), &why));
    }
}

fn check_number(schema: &Value, number: &serde_json::Number, path: &str, found: &mut Checked) {
    let limit = |name: &str| schema.get(name).and_then(Value::as_i64);
    // Every integer of the model fits an i64; a greater one could not be decoded.
    let Some(n) = number.as_i64() else {
        if !number.is_f64() {
            found.errors.push(FieldError::invalid(path, number, "must be a 64-bit integer"));
        }
        return;
    };
    if let Some(least) = limit("minimum").filter(|m| n < *m) {
        let why = format!("{path} in body should be greater than or equal to {least}");
        found.errors.push(FieldError::invalid(path, n, &why));
    }
    if let Some(most) = limit("maximum").filter(|m| n > *m) {
        let why = format!("{path} in body should be less than or equal to {most}");
        found.errors.push(FieldError::invalid(path, n, &why));
    }
}

fn check_quantity(value: &Value, path: &str, found: &mut Checked) {
    if !matches!(value, Value::String(_) | Value::Number(_)) {
        found.errors.add(|| wrong_type(path, "string", type_name(value)));
    } else if let Err(e) = Quantity::deserialize(value) {
        // Read as it will be: a number has more than one spelling.
        found.errors.push(FieldError::invalid(path, value, &e.to_string()));
    }
}

fn prune_node(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let properties = schema.get("properties");
            let additional = schema.get("additionalProperties");
            if additional.is_none() && properties.is_some() {
                fields.retain(|name, _| properties.is_some_and(|p| p.get(name).is_some()));
            }
            for (name, inner) in fields {
                if let Some(node) = properties.and_then(|p| p.get(name)).or(additional) {
                    prune_node(node, inner);
                }
            }
        }
        Value::Array(items) => {
            if let Some(node) = schema.get("items") {
                for item in items {
                    prune_node(node, item);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(spec: Value) -> Checked {
        check(
            Kind::Instance,
            &json!({"apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": {"name": "a"}, "spec": spec}),
        )
    }

    fn errors(spec: Value) -> Vec<String> {
        found(spec).errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_node_of_every_schema_is_structural() {
        fn visit(node: &Value, path: &str) {
            let object = node.as_object().unwrap_or_else(|| panic!("{path} is no object"));
            let quantity = object.get("format").is_some_and(|f| f == "quantity");
            assert!(quantity || object.contains_key("type"), "{path} has no type: {node}");
            for keyed in object.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten() {
                let needed = object["items"]["required"].as_array().is_some_and(|r| r.contains(keyed));
                assert!(needed, "{path}: an item may lack its key {keyed}");
            }
            for name in ["$ref", "allOf", "oneOf", "nullable", "default", "writeOnly"] {
                assert!(!object.contains_key(name), "{path} has {name}");
            }
            for (name, inner) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
                visit(inner, &join(path, name));
            }
            for name in ["items", "additionalProperties"] {
                if let Some(inner) = object.get(name).filter(|i| !i.is_boolean()) {
                    visit(inner, path);
                }
            }
            let list = object.get("type").is_some_and(|t| t == "array");
            assert!(!list || object.contains_key("maxItems"), "{path} has no most");
        }
        for kind in Kind::all() {
            visit(schema(kind), kind.info().name);
        }
    }

    #[test]
    fn of_an_enum_every_value_stays_and_its_meaning_stands_in_the_description() {
        let mut node = json!({"description": "What.", "oneOf": [
            {"type": "string", "enum": ["A", "B"]},
            {"type": "string", "enum": ["C"], "description": "The\nthird."},
            {"enum": [null], "nullable": true},
        ]});
        normalise(&mut node);
        let text = "What.\n\nPossible enum values:\n - `\"A\"`\n - `\"B\"`\n - `\"C\"`: The third.";
        assert_eq!(node, json!({"type": "string", "enum": ["A", "B", "C"], "description": text}));
    }

    #[test]
    fn wrong_types_and_ranges_are_told_in_the_words_of_kubernetes() {
        assert_eq!(
            errors(json!({"image": 7, "ports": [{"name": "web", "containerPort": 0}], "power": "Off"})),
            [
                "spec.image: Invalid value: \"integer\": spec.image in body must be of type string: \"integer\"",
                "spec.ports[0].containerPort: Invalid value: 0: spec.ports[0].containerPort in body should be greater than or equal to 1",
                "spec.power: Unsupported value: \"Off\": supported values: \"Auto\", \"Running\", \"Stopped\"",
            ]
        );
        assert_eq!(errors(json!({})), ["spec.image: Required value"]);
    }

    #[test]
    fn unknown_fields_are_named_by_their_path_and_pruned() {
        let spec = json!({"image": "a", "ports": [{"name": "a", "containerPort": 1, "foo": 2}], "bar": {"x": 1}});
        assert_eq!(found(spec.clone()).unknown, ["spec.bar", "spec.ports[0].foo"]);
        let mut object = json!({"spec": spec, "metadata": {"labels": {"any": "thing"}, "selfLink": "x"}});
        prune(Kind::Instance, &mut object);
        let expected = json!({"spec": {"image": "a", "ports": [{"name": "a", "containerPort": 1}]}, "metadata": {"labels": {"any": "thing"}}});
        assert_eq!(object, expected);
    }

    #[test]
    fn the_items_of_a_list_that_is_too_long_are_not_looked_at() {
        let meta = |field: &str, item: Value, n: usize| json!({"metadata": {"name": "a", field: vec![item; n]}, "spec": {"image": "a"}});
        let check = |object: &Value| check(Kind::Instance, object);
        for (field, most) in [("ownerReferences", 64), ("finalizers", 64), ("managedFields", 1024)] {
            let item = if field == "finalizers" { json!("a") } else { json!({}) };
            let fits = check(&meta(field, item.clone(), most));
            assert!(!fits.errors.iter().any(|e| e.reason == FieldReason::TooMany && !e.field.is_empty()), "{field}");
            let told: Vec<String> = check(&meta(field, item, 87_000)).errors.iter().map(ToString::to_string).collect();
            assert_eq!(told, [format!("metadata.{field}: Too many: 87000: must have at most {most} items")]);
        }
        let unknown: serde_json::Map<String, Value> = (0..40_000).map(|i| (format!("{i}"), json!(0))).collect();
        assert_eq!(check(&unknown.into()).unknown.len(), MOST_ERRORS);
    }

    #[test]
    fn quantities_and_durations_are_parsed() {
        let spec = json!({"image": "a", "resources": {"memory": "12Q", "cpu": 0.5}, "idle": {"after": "soon"}});
        let paths: Vec<_> = found(spec).errors.into_iter().map(|e| e.field).collect();
        assert_eq!(paths, ["spec.idle.after", "spec.resources.memory"]);
    }

    #[test]
    fn a_value_without_errors_decodes() {
        let spec = json!({
            "image": "a", "env": [{"name": "A", "value": "b"}], "ports": [{"name": "web", "containerPort": 65535}],
            "resources": {"memory": 268435456, "pids": 5}, "probes": {"startup": {"tcp": {"port": "web"}, "timeout": "1m"}},
        });
        let object = json!({"metadata": {"name": "a"}, "spec": spec});
        assert_eq!(check(Kind::Instance, &object), Checked::default());
        serde_json::from_value::<Instance>(object).unwrap();
    }

    #[test]
    fn integers_beyond_64_bits_are_refused_before_they_are_decoded() {
        let spec =
            json!({"image": "a", "resources": {"pids": u64::MAX}, "ports": [{"name": "a", "containerPort": 65536}]});
        assert_eq!(found(spec).errors.len(), 2);
    }
}
