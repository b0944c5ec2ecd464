//! Discovery: what is served, in the legacy form (one document per group version) and the aggregated one.
//!
//! Both are required: kubectl asks for the aggregated form, `auth can-i` and `drain` read the legacy one all the same.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error::ApiError;
use super::negotiate::{AGGREGATED_VERSIONS, DiscoveryForm, discovery_form};
use super::registry::{self, Resource};
use super::reply::Reply;

/// The Kubernetes minor version whose conventions we keep: with it kubectl 1.33 to 1.35 speak without a warning of skew.
const MINOR: &str = "34";

/// `v1.34.0+portreeve-0.1.0`: parses as a Kubernetes version.
pub fn git_version() -> String {
    format!("v1.{MINOR}.0+portreeve-{}", env!("CARGO_PKG_VERSION"))
}

pub fn version() -> Response {
    let body = json!({
        "major": "1", "minor": MINOR, "gitVersion": git_version(),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    });
    Reply::ok(body).into_response()
}

fn resources_of(group: &str, version: &str) -> Vec<&'static Resource> {
    registry::all().iter().filter(|r| r.group == group && r.version == version).collect()
}

/// `/api`
pub fn core_versions(headers: &HeaderMap) -> Response {
    match discovery_form(headers) {
        DiscoveryForm::Aggregated(version) => aggregated(headers, version, true),
        DiscoveryForm::Legacy => legacy(json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
        })),
    }
}

/// `/apis`
pub fn groups(headers: &HeaderMap) -> Response {
    match discovery_form(headers) {
        DiscoveryForm::Aggregated(version) => aggregated(headers, version, false),
        DiscoveryForm::Legacy => {
            let named = registry::versions().into_iter().filter(|(g, _)| !g.is_empty());
            let groups: Vec<Value> = named.map(|(g, versions)| group_object(g, &versions)).collect();
            legacy(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
    }
}

/// `versions`: the preferred one first.
fn group_object(group: &str, versions: &[&str]) -> Value {
    let object = |v: &&str| json!({"groupVersion": format!("{group}/{v}"), "version": v});
    let versions: Vec<Value> = versions.iter().map(object).collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

/// `/apis/GROUP`
pub fn group(group: &str) -> Response {
    let versions = registry::versions().into_iter().find(|(g, _)| *g == group).map(|(_, versions)| versions);
    let mut body = group_object(group, &versions.unwrap_or_default());
    body["kind"] = "APIGroup".into();
    body["apiVersion"] = "v1".into();
    legacy(body)
}

/// `/api/v1`, `/apis/GROUP/VERSION`
pub fn resources(group: &str, version: &str) -> Response {
    let mut rows = vec![];
    for resource in resources_of(group, version) {
        let mut row = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs,
        });
        if !resource.short_names.is_empty() {
            row["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            row["categories"] = json!(resource.categories);
        }
        rows.push(row);
        for sub in &resource.subresources {
            let (sub_group, sub_version, kind) = sub.speaks;
            let mut row = json!({
                "name": format!("{}/{}", resource.plural, sub.name), "singularName": "",
                "namespaced": resource.namespaced, "kind": kind, "verbs": sub.verbs,
            });
            if (sub_group, sub_version) != (group, version) {
                row["group"] = sub_group.into();
                row["version"] = sub_version.into();
            }
            rows.push(row);
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    legacy(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": rows,
    }))
}

fn legacy(body: Value) -> Response {
    let mut response = Reply::ok(body).into_response();
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// The aggregated documents, by whether they are of the core group, and their version.
static AGGREGATED: LazyLock<HashMap<(bool, &str), Document>> = LazyLock::new(|| {
    let all = [true, false].into_iter().flat_map(|core| AGGREGATED_VERSIONS.map(|version| (core, version)));
    all.map(|(core, version)| ((core, version), Document::new(make_aggregated(core, version).to_string()))).collect()
});

/// The core group, or all others, with their resources, in one document.
fn aggregated(headers: &HeaderMap, version: &'static str, core: bool) -> Response {
    let media_type = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    match AGGREGATED.get(&(core, version)) {
        Some(document) => cached(headers, document, &media_type),
        None => ApiError::not_acceptable(&media_type).into_response(),
    }
}

fn make_aggregated(core: bool, version: &str) -> Value {
    let items: Vec<Value> = registry::versions()
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let version = |version: &&str| {
                let resources: Vec<Value> = resources_of(group, version).into_iter().map(aggregated_resource).collect();
                json!({"version": version, "freshness": "Current", "resources": resources})
            };
            let versions: Vec<Value> = versions.iter().map(version).collect();
            let meta = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": meta, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind = |(group, version, kind): (&str, &str, &str)| json!({"group": group, "version": version, "kind": kind});
    let mut row = json!({
        "resource": resource.plural,
        "responseKind": kind((resource.group, resource.version, resource.kind)),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        row["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        row["categories"] = json!(resource.categories);
    }
    let subs: Vec<Value> = resource
        .subresources
        .iter()
        .map(|s| json!({"subresource": s.name, "responseKind": kind(s.speaks), "verbs": s.verbs}))
        .collect();
    if !subs.is_empty() {
        row["subresources"] = subs.into();
    }
    row
}

/// A document that never changes, with its fingerprint; made once.
pub struct Document {
    pub text: Bytes,
    /// SHA-256 in capital hexadecimal.
    pub fingerprint: String,
}

impl Document {
    pub fn new(text: String) -> Document {
        let fingerprint = Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02X}")).collect();
        Document { text: text.into(), fingerprint }
    }
}

/// A document with a strong ETag; 304 to a client that has it. The 304 carries no Content-Type: kubectl would take it
/// for that of its cached answer.
pub fn cached(headers: &HeaderMap, document: &Document, media_type: &str) -> Response {
    let tag = format!("\"{}\"", document.fingerprint);
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    let same =
        known.flat_map(|v| v.split(',')).any(|t| [tag.as_str(), "*"].contains(&t.trim().trim_start_matches("W/")));
    let mut response = if same {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let mut response = Response::new(Body::from(document.text.clone()));
        if let Ok(value) = HeaderValue::from_str(media_type) {
            response.headers_mut().insert(header::CONTENT_TYPE, value);
        }
        response
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(value) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, value);
    }
    response
}
