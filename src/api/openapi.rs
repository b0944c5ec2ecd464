//! OpenAPI v3, made from the models' schemas: kubectl needs it for every write and for `explain`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Map, Value, json};

use super::discovery::{cached, fingerprint};
use super::registry::{self, Resource, What};
use super::reply::Reply;
use crate::model::{Kind, schema};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// The documents by the path they are served at: `apis/portreeve.dev/v1`.
static DOCUMENTS: LazyLock<BTreeMap<String, String>> = LazyLock::new(|| {
    let documents = registry::groups().into_iter().map(|(g, v)| (path(g, v), make(g, v).to_string()));
    documents.collect()
});

fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// `/openapi/v3`: where the documents are, each with its hash, so that clients may keep them.
pub fn index() -> Response {
    let paths: Map<String, Value> = DOCUMENTS
        .iter()
        .map(|(path, text)| {
            let url = format!("/openapi/v3/{path}?hash={}", fingerprint(text));
            (path.clone(), json!({"serverRelativeURL": url}))
        })
        .collect();
    Reply::ok(json!({"paths": paths})).into_response()
}

pub fn document(group: &str, version: &str, headers: &HeaderMap) -> Response {
    let text = DOCUMENTS.get(&path(group, version)).cloned().unwrap_or_default();
    cached(headers, text, "application/json")
}

/// `/openapi/v2`: an empty document. kubectl 1.27 and 1.28 fetch it before they write, and look nothing up in it.
pub fn v2() -> Response {
    // swagger "2.0", info {title "Portreeve", version "v1"}, no paths, no definitions, as gnostic's protobuf
    const EMPTY: &[u8] = b"\x0a\x032.0\x12\x0f\x0a\x09Portreeve\x12\x02v1\x42\x00\x4a\x00";
    let mut response = Response::new(Body::from(EMPTY));
    let media_type = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// `dev.portreeve.v1.Instance`
fn schema_name(resource: &Resource) -> String {
    match resource.group {
        "" => format!("io.k8s.api.core.{}.{}", resource.version, resource.kind),
        group => {
            let reversed: Vec<&str> = group.rsplit('.').collect();
            format!("{}.{}.{}", reversed.join("."), resource.version, resource.kind)
        }
    }
}

fn kind_marks(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

fn make(group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for resource in registry::all().iter().filter(|r| r.group == group && r.version == version) {
        let name = schema_name(resource);
        if let What::Stored(kind) = resource.what {
            let mut object = schema::schema(kind).clone();
            let meta = object["properties"]["metadata"].take();
            schemas.insert(META.into(), meta);
            object["properties"]["metadata"] =
                json!({"description": "Standard object metadata.", "allOf": [reference(META)]});
            object["x-kubernetes-group-version-kind"] = json!([kind_marks(resource)]);
            schemas.insert(name.clone(), object);
            schemas.insert(format!("{name}List"), list_schema(resource, kind, &name));
        } else {
            let description = "Served for tools; see the documentation of Kubernetes for its fields.";
            let free = json!({
                "type": "object", "description": description, "x-kubernetes-preserve-unknown-fields": true,
                "x-kubernetes-group-version-kind": [kind_marks(resource)],
            });
            schemas.insert(name.clone(), free);
        }
        add_paths(resource, &name, &mut paths);
    }
    schemas.insert(
        LIST_META.into(),
        json!({
            "type": "object", "description": "Metadata of a list.",
            "properties": {
                "continue": {"type": "string", "description": "Where the next page begins, if there is one."},
                "remainingItemCount": {"type": "integer", "format": "int64", "description": "How many objects follow."},
                "resourceVersion": {"type": "string", "description": "The version that the list shows."},
            },
        }),
    );
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Portreeve", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn list_schema(resource: &Resource, kind: Kind, item: &str) -> Value {
    json!({
        "type": "object", "description": format!("A list of {kind} objects."), "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The versioned schema of this list."},
            "kind": {"type": "string", "description": "The kind of this list."},
            "metadata": {"description": "Metadata of the list.", "allOf": [reference(LIST_META)]},
            "items": {"type": "array", "description": "The objects.", "items": reference(item)},
        },
        "x-kubernetes-group-version-kind":
            [{"group": resource.group, "version": resource.version, "kind": format!("{kind}List")}],
    })
}

fn add_paths(resource: &Resource, name: &str, paths: &mut Map<String, Value>) {
    let base = format!("/{}", path(resource.group, resource.version));
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", resource.plural);
    let object = format!("{collection}/{{name}}");
    let mut operations = |path: &str, verbs: &[(&str, &str, &str)], named: bool| {
        let mut entry = Map::new();
        for (verb, method, action) in verbs {
            if resource.verbs.contains(verb) {
                entry.insert((*method).into(), operation(resource, name, method, action));
            }
        }
        if !entry.is_empty() {
            entry.insert("parameters".into(), path_parameters(resource, named));
            paths.insert(path.to_owned(), entry.into());
        }
    };
    let on_collection =
        [("list", "get", "list"), ("create", "post", "post"), ("deletecollection", "delete", "deletecollection")];
    operations(&collection, &on_collection, false);
    let on_object =
        [("get", "get", "get"), ("update", "put", "put"), ("patch", "patch", "patch"), ("delete", "delete", "delete")];
    operations(&object, &on_object, true);
}

fn path_parameters(resource: &Resource, named: bool) -> Value {
    let parameter = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
    let mut parameters = vec![];
    if resource.namespaced {
        parameters.push(parameter("namespace"));
    }
    if named {
        parameters.push(parameter("name"));
    }
    parameters.into()
}

fn operation(resource: &Resource, name: &str, method: &str, action: &str) -> Value {
    let query = |name: &str, description: &str| json!({"name": name, "in": "query", "description": description, "schema": {"type": "string"}});
    let mut operation = json!({
        "operationId": format!("{action}{}{}", resource.version, resource.kind),
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind_marks(resource),
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": reference(name)}}}},
    });
    if matches!(method, "post" | "put" | "patch") {
        operation["parameters"] = json!([
            query("dryRun", "All: do everything, store nothing."),
            query("fieldManager", "Who writes."),
            query("fieldValidation", "What unknown and duplicate fields do: Ignore, Warn or Strict."),
        ]);
        let content = if method == "patch" {
            json!({
                "application/json-patch+json": {"schema": {"type": "array", "items": {"type": "object"}}},
                "application/merge-patch+json": {"schema": {"type": "object"}},
            })
        } else {
            json!({"application/json": {"schema": reference(name)}})
        };
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    operation
}
