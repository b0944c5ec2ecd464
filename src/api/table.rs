//! Tables: what `kubectl get` prints, row by row; and objects cut down to their metadata.

use serde_json::{Value, json};

use super::columns::Facts;
use super::error::ApiError;
use super::query::{Query, bad_option};
use super::views::View;

/// What a row carries of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    pub fn of(query: &Query) -> Result<Include, ApiError> {
        match query.get("includeObject") {
            None | Some("Metadata") => Ok(Include::Metadata),
            Some("None") => Ok(Include::None),
            Some("Object") => Ok(Include::Object),
            Some(other) => {
                let message =
                    format!("Unsupported value: {other:?}: supported values: \"None\", \"Metadata\", \"Object\"");
                Err(bad_option("includeObject", message))
            }
        }
    }
}

/// The Table of an object or a list.
pub fn table(view: View, body: Value, version: &str, include: Include, facts: &Facts) -> Value {
    let mut body = body;
    let row = |object: Value| {
        let cells = view.cells(&object, facts);
        let object = match include {
            Include::None => Value::Null,
            Include::Metadata => metadata_only(object, version),
            Include::Object => object,
        };
        json!({"cells": cells, "object": object})
    };
    let (meta, rows): (Value, Vec<Value>) = match body.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => (body["metadata"].take(), items.into_iter().map(row).collect()),
        _ => {
            let version = body.pointer("/metadata/resourceVersion").cloned();
            let bookmark = body.get("metadata").is_some_and(|m| m.get("name").is_none());
            let rows = if bookmark {
                vec![
                    json!({"cells": vec![""; view.column_definitions().as_array().map_or(0, Vec::len)], "object": body}),
                ]
            } else {
                vec![row(body)]
            };
            (json!({"resourceVersion": version}), rows)
        }
    };
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": meta,
        "columnDefinitions": view.column_definitions(), "rows": rows,
    })
}

/// An object or a list without spec and status.
pub fn metadata_only(mut body: Value, version: &str) -> Value {
    let api_version = format!("meta.k8s.io/{version}");
    match body.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => {
            let items: Vec<Value> = items.into_iter().map(|item| metadata_only(item, version)).collect();
            json!({
                "kind": "PartialObjectMetadataList", "apiVersion": api_version,
                "metadata": body["metadata"].take(), "items": items,
            })
        }
        _ => json!({"kind": "PartialObjectMetadata", "apiVersion": api_version, "metadata": body["metadata"].take()}),
    }
}
