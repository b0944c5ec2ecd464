//! The paths of a document: one operation for each verb of each resource and subresource.

use serde_json::{Map, Value, json};

use super::super::registry::{Resource, Subresource, What};
use super::kinds;
use super::schemas::{self, DELETE_OPTIONS, PATCH, STATUS, kind_marks, reference};

/// Verb, HTTP method, the action as Kubernetes marks it, and the word that operation ids begin with.
type Verb = (&'static str, &'static str, &'static str, &'static str);

const ON_COLLECTION: [Verb; 3] = [
    ("list", "get", "list", "list"),
    ("create", "post", "post", "create"),
    ("deletecollection", "delete", "deletecollection", "deleteCollection"),
];
const ON_OBJECT: [Verb; 4] = [
    ("get", "get", "get", "read"),
    ("update", "put", "put", "replace"),
    ("patch", "patch", "patch", "patch"),
    ("delete", "delete", "delete", "delete"),
];
const ON_SUBRESOURCE: [Verb; 4] = [
    ("get", "get", "get", "read"),
    ("update", "put", "put", "replace"),
    ("patch", "patch", "patch", "patch"),
    ("create", "post", "post", "create"),
];
/// Subresources whose connection becomes something else.
const STREAMS: [&str; 3] = ["attach", "exec", "portforward"];

/// Where an operation is.
struct Place<'a> {
    resource: &'a Resource,
    sub: Option<&'a Subresource>,
    everywhere: bool,
}

/// All paths of one resource below `/api/v1` or `/apis/GROUP/VERSION`.
pub fn add(resource: &Resource, base: &str, paths: &mut Map<String, Value>) {
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{}", resource.plural);
    let place = Place { resource, sub: None, everywhere: false };
    insert(&place, &collection, &ON_COLLECTION, resource.verbs, false, paths);
    if resource.namespaced {
        let all = Place { resource, sub: None, everywhere: true };
        insert(&all, &format!("{base}/{}", resource.plural), &ON_COLLECTION[..1], resource.verbs, false, paths);
    }
    if !matches!(resource.what, What::Stored(_)) && !resource.verbs.contains(&"get") {
        return; // Reviews have no names.
    }
    let object = format!("{collection}/{{name}}");
    insert(&place, &object, &ON_OBJECT, resource.verbs, true, paths);
    for sub in &resource.subresources {
        let place = Place { resource, sub: Some(sub), everywhere: false };
        insert(&place, &format!("{object}/{}", sub.name), &ON_SUBRESOURCE, sub.verbs, true, paths);
    }
}

fn insert(place: &Place, path: &str, all: &[Verb], served: &[&str], named: bool, paths: &mut Map<String, Value>) {
    let mut entry = Map::new();
    for verb in all.iter().filter(|(verb, ..)| served.contains(verb)) {
        entry.insert(verb.1.into(), operation(place, verb));
    }
    if entry.is_empty() {
        return;
    }
    let parameter = |name: &str, description: &str| json!({"name": name, "in": "path", "required": true, "description": description, "schema": {"type": "string"}});
    let mut parameters = vec![];
    if place.resource.namespaced && !place.everywhere {
        parameters.push(parameter("namespace", "The namespace."));
    }
    if named {
        parameters.push(parameter("name", "The name of the object."));
    }
    entry.insert("parameters".into(), parameters.into());
    paths.insert(path.to_owned(), entry.into());
}

fn operation(place: &Place, verb: &Verb) -> Value {
    let (_, method, action, word) = *verb;
    let resource = place.resource;
    let stream = place.sub.is_some_and(|s| STREAMS.contains(&s.name));
    let (group, version, kind) = place.sub.map_or((resource.group, resource.version, resource.kind), |s| s.speaks);
    let mut operation = json!({
        "operationId": operation_id(place, word),
        "tags": [camel(&format!("{}_{}", if resource.group.is_empty() { "core" } else { resource.group }, resource.version))],
        "x-kubernetes-action": if stream { "connect" } else { action },
        "x-kubernetes-group-version-kind": kind_marks(group, version, kind),
        "responses": responses(place, verb),
    });
    let parameters = match (place.sub.map(|s| s.name), action) {
        (Some("log"), _) => log_parameters(),
        (Some(name), _) if STREAMS.contains(&name) => stream_parameters(kind),
        (_, "list") => list_parameters(resource.verbs.contains(&"watch")),
        (_, "deletecollection") => [selectors(), vec![dry_run()]].concat(),
        (_, "delete") => vec![dry_run()],
        (_, "post" | "put") => write_parameters(),
        (_, "patch") => {
            let force = query("force", "boolean", "With a server-side apply: take fields from other managers.");
            [write_parameters(), vec![force]].concat()
        }
        _ => vec![],
    };
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(content) = request_content(place, method, stream) {
        // The body of a delete may be missing.
        operation["requestBody"] = json!({"required": method != "delete", "content": content});
    }
    operation
}

/// `listPortreeveDevV1NamespacedInstance`, as client generators expect it.
fn operation_id(place: &Place, word: &str) -> String {
    let resource = place.resource;
    let group = if resource.group.is_empty() { "core" } else { resource.group.trim_end_matches(".k8s.io") };
    let scope = if resource.namespaced && !place.everywhere { "Namespaced" } else { "" };
    let sub = place.sub.map_or(String::new(), |s| camel(s.name));
    let end = if place.everywhere { "ForAllNamespaces" } else { "" };
    format!("{word}{}{}{scope}{}{sub}{end}", camel(group), camel(resource.version), resource.kind)
}

fn camel(text: &str) -> String {
    let words = text.split(['.', '-']).map(|word| {
        let mut letters = word.chars();
        letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
    });
    words.collect()
}

fn responses(place: &Place, (_, method, action, _): &Verb) -> Value {
    let json = |schema: Value| json!({"application/json": {"schema": schema}});
    let ok = |schema: Value| json!({"description": "OK", "content": json(schema)});
    let object = reference(&place.sub.map_or_else(|| schemas::name_of(place.resource), schemas::name_at));
    let list = || reference(&format!("{}List", schemas::name_of(place.resource)));
    let mut responses = match place.sub.map(|s| s.name) {
        Some("log") => json!({"200": {"description": "OK", "content": {"text/plain": {"schema": {"type": "string"}}}}}),
        Some(name) if STREAMS.contains(&name) => json!({"101": {"description": "Switching Protocols"}}),
        _ => match (*action, *method) {
            ("list" | "deletecollection", _) => json!({"200": ok(list())}),
            ("post", _) if place.sub.is_some() => json!({"201": ok(reference(STATUS))}),
            ("post", _) => json!({"201": ok(object)}),
            // A server-side apply of what is not there creates it.
            ("patch", _) => json!({"200": ok(object.clone()), "201": ok(object)}),
            // The object while finalizers hold it, else a Status.
            ("delete", _) => json!({"200": ok(json!({"anyOf": [reference(STATUS), object]}))}),
            _ => json!({"200": ok(object)}),
        },
    };
    responses["401"] = json!({"description": "Unauthorized", "content": json(reference(STATUS))});
    responses["default"] = json!({"description": "What went wrong.", "content": json(reference(STATUS))});
    responses
}

fn request_content(place: &Place, method: &str, stream: bool) -> Option<Value> {
    let schema = || {
        let name = place.sub.map_or_else(|| schemas::name_of(place.resource), schemas::name_at);
        json!({"schema": reference(&name)})
    };
    match method {
        _ if stream => None,
        "post" | "put" => Some(json!({"application/json": schema(), "application/yaml": schema()})),
        "patch" => {
            let patch = || json!({"schema": reference(PATCH)});
            let operations = json!({"schema": {"type": "array", "items": {"type": "object"}}});
            let mut content = json!({
                "application/apply-patch+yaml": patch(), "application/json-patch+json": operations,
                "application/merge-patch+json": patch(),
            });
            if place.resource.group.is_empty() || place.resource.what == What::EventsV1 {
                content["application/strategic-merge-patch+json"] = patch();
            }
            Some(content)
        }
        "delete" => Some(json!({"application/json": {"schema": reference(DELETE_OPTIONS)}})),
        _ => None,
    }
}

fn query(name: &str, type_: &str, description: &str) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": {"type": type_}})
}

fn choice(name: &str, values: &[&str], description: &str) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": {"type": "string", "enum": values}})
}

fn dry_run() -> Value {
    choice("dryRun", &["All"], "All: do everything, store nothing.")
}

fn write_parameters() -> Vec<Value> {
    vec![
        dry_run(),
        query("fieldManager", "string", "Who writes: at most 128 printable characters."),
        choice("fieldValidation", &["Ignore", "Warn", "Strict"], "What unknown and duplicate fields do."),
    ]
}

fn selectors() -> Vec<Value> {
    vec![
        query("labelSelector", "string", "Only objects with these labels."),
        query("fieldSelector", "string", "Only objects with these fields."),
    ]
}

fn list_parameters(watched: bool) -> Vec<Value> {
    let own = vec![
        query("limit", "integer", "Most objects of a page."),
        query("continue", "string", "Where to go on, from the page before."),
        query("resourceVersion", "string", "The version to show, or to watch from."),
        choice("resourceVersionMatch", &["Exact", "NotOlderThan"], "How resourceVersion is meant."),
    ];
    let watching = vec![
        query("watch", "boolean", "Stream changes instead of listing."),
        query("timeoutSeconds", "integer", "When a watch ends."),
        query("allowWatchBookmarks", "boolean", "Tell the version now and then when nothing changes."),
        query("sendInitialEvents", "boolean", "Begin a watch with what is there."),
    ];
    [selectors(), own, if watched { watching } else { vec![] }].concat()
}

/// The options of a session, which are a kind to clients and parameters on the wire.
fn stream_parameters(kind: &'static str) -> Vec<Value> {
    let options = kinds::schema_of("", kind).and_then(|schema| schema["properties"].as_object());
    let own = options.into_iter().flatten().filter(|(name, _)| !["apiVersion", "kind"].contains(&name.as_str()));
    own.map(|(name, schema)| {
        let mut schema = schema.clone();
        let description = schema["description"].take();
        if let Some(fields) = schema.as_object_mut() {
            fields.retain(|name, _| name != "description" && !name.starts_with("x-"));
        }
        json!({"name": name, "in": "query", "description": description, "schema": schema})
    })
    .collect()
}

fn log_parameters() -> Vec<Value> {
    vec![
        query("container", "string", "The container: main."),
        query("follow", "boolean", "Go on with new lines."),
        query("previous", "boolean", "Of the run before this one."),
        query("tailLines", "integer", "Only the last lines."),
        query("limitBytes", "integer", "At most so many bytes."),
        query("sinceSeconds", "integer", "Only lines younger than this."),
        query("sinceTime", "string", "Only lines after this RFC 3339 time."),
        query("timestamps", "boolean", "Begin each line with its time."),
    ]
}
