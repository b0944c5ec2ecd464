//! The components of a document: the kinds with their lists, and what the API's machinery speaks.

use serde_json::{Map, Value, json};

use super::super::registry::{Resource, Subresource, What};
use super::kinds;
use crate::model::{Kind, schema};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
pub const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
pub const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
pub const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";

pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// `dev.portreeve.v1.Instance`, `io.k8s.api.core.v1.Pod`
pub fn name_of(resource: &Resource) -> String {
    named(resource.group, resource.version, resource.kind)
}

/// The schema of what is read and written at a subresource.
pub fn name_at(sub: &Subresource) -> String {
    let (group, version, kind) = sub.speaks;
    named(group, version, kind)
}

fn named(group: &str, version: &str, kind: &str) -> String {
    match group {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        // Kubernetes' own groups go by the names that client generators know.
        "metrics.k8s.io" => format!("io.k8s.metrics.pkg.apis.metrics.{version}.{kind}"),
        "autoscaling" | "policy" => format!("io.k8s.api.{group}.{version}.{kind}"),
        "authentication.k8s.io" | "authorization.k8s.io" | "coordination.k8s.io" | "events.k8s.io" => {
            format!("io.k8s.api.{}.{version}.{kind}", group.trim_end_matches(".k8s.io"))
        }
        group => {
            let reversed: Vec<&str> = group.rsplit('.').collect();
            format!("{}.{version}.{kind}", reversed.join("."))
        }
    }
}

pub fn kind_marks(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// What every document needs.
pub fn common() -> Map<String, Value> {
    let mut schemas = Map::new();
    let mut meta = schema::schema(Kind::Namespace)["properties"]["metadata"].clone();
    mark_free(&mut meta);
    schemas.insert(META.into(), meta);
    schemas.insert(LIST_META.into(), list_meta());
    schemas.insert(STATUS.into(), status());
    schemas.insert(DELETE_OPTIONS.into(), delete_options());
    let description = "A patch, in the form that its Content-Type says.";
    schemas.insert(PATCH.into(), json!({"type": "object", "description": description}));
    schemas
}

/// The kind of a resource, its list, and the kinds of its subresources.
pub fn add(resource: &Resource, schemas: &mut Map<String, Value>) {
    let name = name_of(resource);
    let marks = kind_marks(resource.group, resource.version, resource.kind);
    if let What::Stored(kind) = resource.what {
        schemas.insert(name.clone(), published(schema::schema(kind), marks));
    } else {
        schemas.entry(name.clone()).or_insert_with(|| served(resource.group, resource.kind, marks));
    }
    if resource.verbs.contains(&"list") {
        schemas.insert(format!("{name}List"), list(resource, &name));
    }
    for sub in &resource.subresources {
        let (group, version, kind) = sub.speaks;
        let make =
            || if name_at(sub) == SCALE { scale() } else { served(group, kind, kind_marks(group, version, kind)) };
        schemas.entry(name_at(sub)).or_insert_with(make);
    }
}

/// A structural schema as a document shows it: with the metadata that all kinds share, if it has any.
fn published(schema: &Value, marks: Value) -> Value {
    let mut object = schema.clone();
    mark_free(&mut object);
    if object["properties"].get("metadata").is_some() {
        let metadata = json!({"description": "Standard object metadata.", "allOf": [reference(META)]});
        object["properties"]["metadata"] = metadata;
    }
    object["x-kubernetes-group-version-kind"] = json!([marks]);
    object
}

/// Says by its mark that an object may hold anything, as Kubernetes does: `kubectl explain --recursive` up to 1.30 fails
/// at an `additionalProperties` that is no schema.
fn mark_free(node: &mut Value) {
    match node {
        Value::Object(fields) => {
            if fields.get("additionalProperties") == Some(&Value::Bool(true)) {
                fields.remove("additionalProperties");
                fields.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
            }
            fields.values_mut().for_each(mark_free);
        }
        Value::Array(items) => items.iter_mut().for_each(mark_free),
        _ => {}
    }
}

/// A kind that is served and not stored. One that nobody has described may hold anything; a test allows none.
fn served(group: &'static str, kind: &'static str, marks: Value) -> Value {
    if let Some(schema) = kinds::schema_of(group, kind) {
        return published(schema, marks);
    }
    json!({
        "type": "object", "description": format!("{kind}, as Kubernetes documents it; served for tools."),
        "x-kubernetes-preserve-unknown-fields": true, "x-kubernetes-group-version-kind": [marks],
    })
}

fn list(resource: &Resource, item: &str) -> Value {
    let kind = format!("{}List", resource.kind);
    json!({
        "type": "object", "description": format!("A list of {} objects.", resource.kind), "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The versioned schema of this list."},
            "kind": {"type": "string", "description": "The kind of this list."},
            "metadata": {"description": "Metadata of the list.", "allOf": [reference(LIST_META)]},
            "items": {"type": "array", "description": "The objects.", "items": reference(item)},
        },
        "x-kubernetes-group-version-kind": [kind_marks(resource.group, resource.version, &kind)],
    })
}

fn list_meta() -> Value {
    json!({
        "type": "object", "description": "Metadata of a list.",
        "properties": {
            "continue": {"type": "string", "description": "Where the next page begins, if there is one."},
            "remainingItemCount": {"type": "integer", "format": "int64", "description": "How many objects follow."},
            "resourceVersion": {"type": "string", "description": "The version that the list shows."},
        },
    })
}

/// The answer to everything that is no object: errors above all.
fn status() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let cause = json!({
        "type": "object", "description": "One thing that is wrong.",
        "properties": {
            "field": text("The path of the field."), "message": text("For people."), "reason": text("For programs."),
        },
    });
    let details = json!({
        "type": "object", "description": "More about the reason.",
        "properties": {
            "name": text("Name of the object."), "group": text("Its API group."), "kind": text("Its kind or resource."),
            "uid": text("Its uid."),
            "causes": {"type": "array", "description": "Everything that is wrong.", "items": cause},
            "retryAfterSeconds": {"type": "integer", "format": "int32", "description": "When to try again."},
        },
    });
    json!({
        "type": "object", "description": "The outcome of a request that answers with no object.",
        "required": ["kind", "apiVersion", "status"],
        "properties": {
            "apiVersion": {"type": "string", "enum": ["v1"], "description": "v1"},
            "kind": {"type": "string", "enum": ["Status"], "description": "Status"},
            "metadata": {"description": "Empty.", "allOf": [reference(LIST_META)]},
            "status": {"type": "string", "enum": ["Success", "Failure"], "description": "How it went."},
            "message": text("For people."),
            "reason": text("For programs: NotFound, Conflict, Invalid and so on."),
            "code": {"type": "integer", "format": "int32", "description": "The HTTP status code."},
            "details": details,
        },
        "x-kubernetes-group-version-kind": [kind_marks("", "v1", "Status")],
    })
}

pub fn delete_options() -> Value {
    json!({
        "type": "object", "description": "How to delete.",
        "properties": {
            "apiVersion": {"type": "string", "description": "v1"},
            "kind": {"type": "string", "description": "DeleteOptions"},
            "gracePeriodSeconds": {
                "type": "integer", "format": "int64", "minimum": 0, "description": "Taken and not used.",
            },
            "preconditions": {
                "type": "object", "description": "What must hold, else 409.",
                "properties": {
                    "uid": {"type": "string", "description": "The uid that the object must have."},
                    "resourceVersion": {"type": "string", "description": "The version that it must have."},
                },
            },
            "propagationPolicy": {
                "type": "string", "enum": ["Background", "Foreground", "Orphan"],
                "description": "What becomes of what it owns.",
            },
            "dryRun": {
                "type": "array", "items": {"type": "string", "enum": ["All"]}, "maxItems": 1,
                "description": "All: do everything, store nothing.",
            },
        },
    })
}

fn scale() -> Value {
    json!({
        "type": "object", "description": "Whether an instance may run, for tools that scale.",
        "properties": {
            "apiVersion": {"type": "string", "description": "autoscaling/v1"},
            "kind": {"type": "string", "description": "Scale"},
            "metadata": {
                "type": "object", "description": "Standard object metadata.",
                "properties": {
                    "name": {"type": "string", "description": "Name of the object."},
                    "namespace": {"type": "string", "description": "Its namespace."},
                    "uid": {"type": "string", "description": "Its uid."},
                    "resourceVersion": {"type": "string", "description": "Its version."},
                    "creationTimestamp": {"type": "string", "format": "date-time", "description": "When it was made."},
                },
            },
            "spec": {
                "type": "object", "description": "What should be.",
                "properties": {"replicas": {
                    "type": "integer", "format": "int32", "minimum": 0, "maximum": 1,
                    "description": "0: power Stopped. 1: Auto, or Running where that was set.",
                }},
            },
            "status": {
                "type": "object", "description": "What is seen.",
                "properties": {
                    "replicas": {"type": "integer", "format": "int32", "description": "1 while its container runs."},
                    "selector": {"type": "string", "description": "Its labels, as a selector."},
                },
            },
        },
        "x-kubernetes-group-version-kind": [kind_marks("autoscaling", "v1", "Scale")],
    })
}
