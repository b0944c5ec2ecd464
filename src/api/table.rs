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

/// The row of an object.
pub fn row(view: View, object: Value, version: &str, include: Include, facts: &Facts) -> Value {
    let cells = view.cells(&object, facts);
    json!({"cells": cells, "object": carried(object, version, include)})
}

fn carried(object: Value, version: &str, include: Include) -> Value {
    match include {
        Include::None => Value::Null,
        Include::Metadata => metadata_only(object, version),
        Include::Object => object,
    }
}

/// A Table without its rows.
pub fn head(view: View, version: &str, meta: Value) -> Value {
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": meta,
        "columnDefinitions": view.column_definitions(),
    })
}

/// The Table of one object, or of a bookmark.
pub fn table(view: View, body: Value, version: &str, include: Include, facts: &Facts) -> Value {
    let at = body.pointer("/metadata/resourceVersion").cloned();
    let mut table = head(view, version, json!({"resourceVersion": at}));
    let bookmark = body.get("metadata").is_some_and(|m| m.get("name").is_none());
    let row = if bookmark {
        let columns = view.column_definitions().as_array().map_or(0, Vec::len);
        json!({"cells": vec![""; columns], "object": carried(body, version, include)})
    } else {
        row(view, body, version, include, facts)
    };
    table["rows"] = json!([row]);
    table
}

/// An object without spec and status.
pub fn metadata_only(mut body: Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": body["metadata"].take(),
    })
}
