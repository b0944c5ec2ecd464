//! The words that the schemas of kinds without a Rust type are written in.

use serde_json::{Map, Value, json};

pub fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

/// A text that is one of these.
pub fn choice(values: &[&str], description: &str) -> Value {
    json!({"type": "string", "enum": values, "description": description})
}

pub fn flag(description: &str) -> Value {
    json!({"type": "boolean", "description": description})
}

pub fn integer(description: &str) -> Value {
    json!({"type": "integer", "format": "int32", "description": description})
}

pub fn time(description: &str) -> Value {
    json!({"type": "string", "format": "date-time", "description": description})
}

pub fn quantity(description: &str) -> Value {
    json!({"type": "string", "format": "quantity", "description": description})
}

pub fn texts(description: &str) -> Value {
    json!({
        "type": "array", "description": description, "items": {"type": "string"}, "x-kubernetes-list-type": "atomic",
    })
}

/// A list of objects that replaces as a whole.
pub fn list(description: &str, item: Value) -> Value {
    json!({"type": "array", "description": description, "items": item, "x-kubernetes-list-type": "atomic"})
}

/// A list of objects that one of their fields names.
pub fn keyed(key: &str, description: &str, item: Value) -> Value {
    json!({
        "type": "array", "description": description, "items": item, "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": [key],
    })
}

pub fn object<const N: usize>(description: &str, fields: [(&str, Value); N]) -> Value {
    let properties: Map<String, Value> = fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    json!({"type": "object", "description": description, "properties": properties})
}
