//! OpenAPI v3, made from the models' schemas and the table of resources: kubectl needs it for every write and for
//! `explain`; client generators, editors and fuzzers take its word for what the API takes and answers.

mod kinds;
mod metrics;
mod paths;
mod schemas;
mod views;
mod words;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Map, Value, json};

use super::discovery::{Document, cached};
use super::error::ApiError;
use super::negotiate;
use super::registry;
use super::reply::Reply;

pub use kinds::schema_of;

/// The documents by the path they are served at: `apis/portreeve.dev/v1`.
static DOCUMENTS: LazyLock<BTreeMap<String, Document>> = LazyLock::new(|| {
    let documents = registry::groups().into_iter().map(|(g, v)| (path(g, v), Document::new(make(g, v).to_string())));
    documents.collect()
});

fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// `/openapi/v3`: where the documents are, each with its hash, so that clients may keep them.
pub fn index() -> Response {
    let paths: Map<String, Value> = DOCUMENTS
        .iter()
        .map(|(path, document)| {
            let url = format!("/openapi/v3/{path}?hash={}", document.fingerprint);
            (path.clone(), json!({"serverRelativeURL": url}))
        })
        .collect();
    Reply::ok(json!({"paths": paths})).into_response()
}

pub fn document(group: &str, version: &str, headers: &HeaderMap) -> Response {
    match DOCUMENTS.get(&path(group, version)) {
        Some(document) => cached(headers, document, "application/json"),
        None => ApiError::no_such_path().into_response(),
    }
}

/// `/openapi/v2`: an empty document, in gnostic's protobuf for who asks for it, else in JSON. kubectl 1.27 and 1.28 fetch
/// it before they write, and look nothing up in it.
pub fn v2(headers: &HeaderMap) -> Response {
    // The same as below.
    const EMPTY: &[u8] = b"\x0a\x032.0\x12\x0f\x0a\x09Portreeve\x12\x02v1\x42\x00\x4a\x00";
    const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    let by_form = (header::VARY, HeaderValue::from_static("Accept"));
    if !negotiate::names(headers, &[PROTOBUF, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"]) {
        let info = json!({"title": "Portreeve", "version": "v1"});
        let document = json!({"swagger": "2.0", "info": info, "paths": {}, "definitions": {}});
        return ([by_form], Reply::ok(document).into_response()).into_response();
    }
    let media_type = (header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    ([by_form, media_type], Body::from(EMPTY)).into_response()
}

fn make(group: &str, version: &str) -> Value {
    let resources = registry::all().iter().filter(|r| r.group == group && r.version == version);
    let mut paths = Map::new();
    let mut schemas = schemas::common();
    for resource in resources {
        schemas::add(resource, &mut schemas);
        paths::add(resource, &format!("/{}", path(group, version)), &mut paths);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Portreeve", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"BearerToken": []}],
    })
}

#[cfg(test)]
mod tests;
