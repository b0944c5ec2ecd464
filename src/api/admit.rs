//! Admission of one object: decode, unknown fields, server-set metadata, schema, rules between fields; in that order,
//! and every problem at once.
//!
//! Pure but for random names and uids. Rules between objects are `cross`'s. Nothing is filled in inside the spec.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{ApiError, Subject};
use super::object::{self, meta_mut, text};
use super::query::FieldValidation;
use super::{access, namespaces, openapi};
use crate::model::{
    AccessToken, Condition, ConditionStatus, ConfigMap, DockerHost, FINALIZER, FieldError, FieldErrors, FieldReason,
    Instance, Kind, OPAQUE, Secret, schema, validate_access_token, validate_config_map, validate_docker_host,
    validate_host_name, validate_instance, validate_name, validate_secret,
};

/// Which part of an object a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status, if the kind has one of its own.
    Main,
    Status,
    /// The `spec.finalizers` of a Namespace.
    Finalize,
}

/// Checks that a body that says what it is says what its path takes.
pub fn same_type(object: &Value, api_version: &str, kind: &str) -> Result<(), ApiError> {
    for (field, expected) in [("apiVersion", api_version), ("kind", kind)] {
        match object.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(given)) if given.is_empty() || given == expected => {}
            Some(given) => {
                let message = format!("{field} in the request body is {given}, but this path takes {expected:?}");
                return Err(ApiError::bad_request(message));
            }
        }
    }
    Ok(())
}

/// Checks that the body is an object of this kind, and says so in it.
pub fn typed(kind: Kind, mut object: Value) -> Result<Value, ApiError> {
    if !object.is_object() {
        return Err(ApiError::bad_request("the request body is not an object"));
    }
    same_type(&object, &kind.api_version(), kind.info().name)?;
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.info().name.into();
    if object.get("metadata").is_some_and(|m| !m.is_object() && !m.is_null()) {
        return Err(ApiError::bad_request("metadata in the request body is not an object"));
    }
    object::strip_nulls(&mut object);
    meta_mut(&mut object);
    if kind == Kind::Secret {
        // Before anything keeps account of fields: what stays is data.
        merge_string_data(&mut object);
    }
    Ok(object)
}

/// Drops unknown fields, telling of them and of duplicate keys as the client wishes. Returns the warnings.
///
/// The first look at all that is written: what is too large, has lists that are too long, or has more wrong with it than is
/// told, goes no further. Later steps (owners of fields, rules between fields) cost more than their input's length.
///
/// # Errors
/// 413 and 422 for what is beyond those bounds; 400 for unknown fields and duplicates, in the mode `Strict`.
pub fn known_fields(
    kind: Kind,
    object: &mut Value,
    duplicates: &[String],
    mode: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    let subject = Subject::of(kind, text(object, "name"));
    known_fields_by(schema::schema(kind), &subject, kind.info().version, object, duplicates, mode)
}

/// As [`known_fields`], by the schema of a kind in a version; `subject` is what refusals are about.
pub fn known_fields_by(
    schema: &Value,
    subject: &Subject,
    version: &str,
    object: &mut Value,
    duplicates: &[String],
    mode: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    object::fits(object)?;
    let schema::Checked { errors, unknown } = schema::check_by(schema, object);
    // Behind so many problems that not all are told, there may be a list that is too long.
    if errors.is_full() || errors.iter().any(|e| e.reason == FieldReason::TooMany && !e.field.is_empty()) {
        return Err(ApiError::invalid(subject, &errors));
    }
    schema::prune_by(schema, object);
    let kind = subject.kind;
    let unknown = unknown.iter().map(|path| format!("unknown field {:?}", shortened(path)));
    let duplicate = duplicates.iter().map(|path| format!("duplicate field {:?}", shortened(path)));
    // An answer is no place for thousands of lines, nor a header for a book.
    let texts: Vec<String> = unknown.chain(duplicate).take(64).collect();
    match mode {
        FieldValidation::Ignore => Ok(vec![]),
        FieldValidation::Warn => Ok(texts),
        FieldValidation::Strict if texts.is_empty() => Ok(vec![]),
        FieldValidation::Strict => Err(ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {}",
            texts.join(", ")
        ))),
    }
}

/// What clients send of a kind that is not stored, as its schema has it: without nulls and without unknown fields.
/// `api_version`: that of the path, as one kind may be served at several.
///
/// # Errors
/// 400 for what cannot be decoded as this kind.
pub fn served(
    group: &'static str,
    kind: &'static str,
    api_version: &str,
    mut object: Value,
) -> Result<Value, ApiError> {
    if !object.is_object() {
        return Err(ApiError::bad_request("the request body is not an object"));
    }
    same_type(&object, api_version, kind)?;
    object::strip_nulls(&mut object);
    let Some(schema) = openapi::schema_of(group, kind) else {
        return Err(ApiError::internal(format!("{kind} has no schema")));
    };
    let errors = schema::check_by(schema, &object).errors;
    if !errors.is_empty() {
        let texts: Vec<String> = errors.iter().take(64).map(ToString::to_string).collect();
        let version = api_version.rsplit('/').next().unwrap_or_default();
        let message = format!("{kind} in version {version:?} cannot be handled as a {kind}: {}", texts.join(", "));
        return Err(ApiError::bad_request(message));
    }
    schema::prune_by(schema, &mut object);
    Ok(object)
}

fn shortened(path: &str) -> String {
    const MOST: usize = 256;
    match path.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &path[..end]),
        None => path.to_owned(),
    }
}

/// The body's namespace is the URL's, or absent.
pub fn place(kind: Kind, object: &mut Value, namespace: Option<&str>) -> Result<(), ApiError> {
    let given = text(object, "namespace").to_owned();
    let expected = if kind.info().namespaced { namespace.unwrap_or_default() } else { "" };
    if !given.is_empty() && given != expected {
        let message = format!(
            "the namespace of the provided object does not match the namespace sent on the request: {given:?}, {expected:?}"
        );
        return Err(ApiError::bad_request(message));
    }
    if expected.is_empty() {
        meta_mut(object).remove("namespace");
    } else {
        meta_mut(object).insert("namespace".into(), expected.into());
    }
    Ok(())
}

/// Makes a new object ready to be stored: what only the server sets is set, what it refuses is refused.
pub fn create(kind: Kind, object: &mut Value, now: Timestamp) -> Result<(), ApiError> {
    if !text(object, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let prefix = text(object, "generateName").to_owned();
    let meta = meta_mut(object);
    for name in ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        meta.remove(name);
    }
    if meta.get("name").and_then(Value::as_str).is_none_or(str::is_empty) && !prefix.is_empty() {
        meta.insert("name".into(), generated_name(&prefix).into());
    }
    meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    meta.insert("creationTimestamp".into(), object::time(now));
    meta.insert("generation".into(), 1.into());
    without_status(kind, object);
    own_marks(kind, object);
    if kind == Kind::Instance {
        object["status"] = json!({"conditions": [not_looked_at(now)]});
    }
    Ok(())
}

/// The first status: tools that wait (Helm, Argo CD) take an object without conditions for ready.
fn not_looked_at(now: Timestamp) -> Condition {
    Condition {
        type_: "Ready".into(),
        status: ConditionStatus::Unknown,
        reason: "New".into(),
        message: "no controller has looked at it yet".into(),
        observed_generation: 0,
        last_transition_time: now.into(),
    }
}

/// Drops a status that has a path of its own.
pub fn without_status(kind: Kind, object: &mut Value) {
    if kind.info().has_status
        && let Some(fields) = object.as_object_mut()
    {
        fields.remove("status");
    }
}

/// What every object of a kind carries.
fn own_marks(kind: Kind, object: &mut Value) {
    match kind {
        Kind::Instance if !object::is_deleting(object) => {
            if !object::finalizers(object).contains(&FINALIZER) {
                let list = meta_mut(object).entry("finalizers").or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.push(FINALIZER.into());
                }
            }
        }
        Kind::Namespace => namespaces::own_marks(object),
        Kind::AccessToken => access::tokens::set_expiry(object),
        Kind::Secret => {
            if object.get("type").is_none_or(|t| t == "") {
                object["type"] = OPAQUE.into();
            }
        }
        Kind::Instance | Kind::DockerHost | Kind::Event | Kind::ConfigMap => {}
    }
}

/// Puts `stringData` into `data`. One that is not as it should be stays, for the schema to refuse.
pub fn merge_string_data(object: &mut Value) {
    let texts = object.get("stringData").and_then(Value::as_object);
    if !texts.is_some_and(|texts| texts.values().all(Value::is_string))
        || object.get("data").is_some_and(|d| !d.is_object())
    {
        return;
    }
    let Some(Value::Object(texts)) = object.as_object_mut().and_then(|o| o.remove("stringData")) else { return };
    for (key, text) in texts {
        object["data"][key] = STANDARD.encode(text.as_str().unwrap_or_default()).into();
    }
}

/// What an update may not change.
fn forbidden_changes(kind: Kind, old: &Value, new: &Value) -> Vec<FieldError> {
    let values: &[&str] = match kind {
        Kind::Secret => &["data"],
        Kind::ConfigMap => &["data", "binaryData"],
        Kind::Namespace => return namespaces::phase_problem(old, new).into_iter().collect(),
        Kind::Instance => {
            let adopt = |o: &Value| o.pointer("/spec/adopt").cloned();
            // It may be taken away: what was adopted stays the instance's.
            return match adopt(new) {
                Some(wanted) if adopt(old).as_ref() != Some(&wanted) => {
                    vec![FieldError::forbidden("spec.adopt", "may be set only when the Instance is made")]
                }
                _ => vec![],
            };
        }
        Kind::DockerHost | Kind::Event | Kind::AccessToken => return vec![],
    };
    let immutable = |o: &Value| o.get("immutable").is_some_and(|i| i == true);
    let filled = |o: &Value, field: &str| o.get(field).filter(|v| v.as_object().is_none_or(|m| !m.is_empty())).cloned();
    let mut errors = vec![];
    if kind == Kind::Secret && old.get("type") != new.get("type") {
        errors.push(FieldError::invalid("type", new["type"].clone(), "field is immutable"));
    }
    if immutable(old) {
        let why = "field is immutable when `immutable` is set";
        if !immutable(new) {
            errors.push(FieldError::forbidden("immutable", why));
        }
        let changed = values.iter().filter(|field| filled(old, field) != filled(new, field));
        errors.extend(changed.map(|field| FieldError::forbidden(*field, why)));
    }
    errors
}

/// Names from a prefix are long enough to be rarely taken, and are tried again when they are.
fn generated_name(prefix: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let random = uuid::Uuid::new_v4().into_bytes();
    let suffix = random.iter().take(5).map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()]));
    prefix.chars().take(58).chain(suffix).collect()
}

/// The body's name is the URL's.
pub fn same_name(given: &str, expected: &str) -> Result<(), ApiError> {
    if given == expected {
        return Ok(());
    }
    let message = format!("the name of the object ({given}) does not match the name on the URL ({expected})");
    Err(ApiError::bad_request(message))
}

/// Merges a candidate into the stored object: what only the server sets keeps its value, and only `part` changes.
/// Both carry their resourceVersion; the result carries the stored one.
pub fn update(kind: Kind, part: Part, old: &Value, candidate: Value) -> Result<Value, ApiError> {
    let subject = Subject::from(&object::key_of(kind, old));
    same_name(text(&candidate, "name"), text(old, "name"))?;
    let (given, stored) = (text(&candidate, "uid"), text(old, "uid"));
    if !given.is_empty() && given != stored {
        let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {stored}");
        return Err(ApiError::conflict_because(&subject, &why));
    }
    let mut new = match part {
        Part::Main => candidate,
        Part::Status => {
            let mut new = old.clone();
            set_or_remove(&mut new, "status", candidate.get("status").cloned());
            new
        }
        Part::Finalize => {
            let mut new = old.clone();
            let wanted = candidate.pointer("/spec/finalizers").cloned();
            new["spec"] = json!({"finalizers": wanted.unwrap_or_else(|| json!([]))});
            new
        }
    };
    for name in
        ["uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"]
    {
        let value = object::meta(old).and_then(|m| m.get(name)).cloned();
        match value {
            Some(value) => meta_mut(&mut new).insert(name.into(), value),
            None => meta_mut(&mut new).remove(name),
        };
    }
    if part == Part::Main && kind.info().has_status {
        set_or_remove(&mut new, "status", old.get("status").cloned());
    }
    if part == Part::Main && kind == Kind::Namespace {
        set_or_remove(&mut new, "spec", old.get("spec").cloned());
    }
    own_marks(kind, &mut new);
    if object::is_deleting(old) {
        let before = object::finalizers(old);
        let added: Vec<_> = object::finalizers(&new).into_iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            );
            return Err(ApiError::invalid(&subject, &[FieldError::forbidden("metadata.finalizers", &why)]));
        }
    }
    let forbidden = forbidden_changes(kind, old, &new);
    if !forbidden.is_empty() {
        return Err(ApiError::invalid(&subject, &forbidden));
    }
    if !object::same_desire(old, &new) {
        let generation = object::meta(old).and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or(0);
        meta_mut(&mut new).insert("generation".into(), (generation + 1).into());
    }
    Ok(new)
}

fn set_or_remove(object: &mut Value, name: &str, value: Option<Value>) {
    match value {
        Some(value) => object[name] = value,
        None => {
            object.as_object_mut().expect("decoded objects are objects").remove(name);
        }
    }
}

/// Every problem of a changed object by itself, but for those that it had before: what was stored when a rule was not made
/// yet can still be changed otherwise, put to sleep and deleted. What cannot be read is nothing to go on.
pub fn new_problems(kind: Kind, old: &Value, new: &Value) -> FieldErrors {
    let found = problems(kind, new);
    if found.is_empty() || found.is_full() || !schema::check(kind, new).errors.is_empty() {
        return found;
    }
    let standing = problems(kind, old);
    found.into_iter().filter(|problem| !standing.contains(problem)).collect()
}

/// Every problem of one object by itself.
pub fn problems(kind: Kind, object: &Value) -> FieldErrors {
    let mut errors = FieldErrors::default();
    let name = text(object, "name");
    errors.extend(match kind {
        Kind::Event | Kind::Secret | Kind::ConfigMap if object::is_subdomain(name) => None,
        Kind::DockerHost => validate_host_name("metadata.name", name),
        Kind::Instance | Kind::Namespace | Kind::Event | Kind::Secret | Kind::ConfigMap | Kind::AccessToken => {
            validate_name("metadata.name", name)
        }
    });
    metadata_problems(object, &mut errors);
    let checked = schema::check(kind, object);
    let decodes = checked.errors.is_empty();
    errors.extend(checked.errors);
    if decodes {
        let more = match kind {
            Kind::Instance => Instance::deserialize(object).map(|i| validate_instance(&i)),
            Kind::DockerHost => DockerHost::deserialize(object).map(|h| validate_docker_host(&h)),
            // Without a spec the schema has nothing to ask for a role in.
            Kind::AccessToken if object.pointer("/spec/role").is_none() => {
                Ok(vec![FieldError::required("spec.role", "")])
            }
            Kind::AccessToken => AccessToken::deserialize(object).map(|t| validate_access_token(&t)),
            Kind::Secret => Secret::deserialize(object).map(|s| validate_secret(&s)),
            Kind::ConfigMap => ConfigMap::deserialize(object).map(|m| validate_config_map(&m)),
            Kind::Namespace => Ok(namespaces::problems(object)),
            Kind::Event => Ok(vec![]),
        };
        match more {
            Ok(more) => errors.extend(more),
            // The schema promises that this cannot be; should it be, the object must not get in.
            Err(e) => errors.push(FieldError::invalid("", "object", &e.to_string())),
        }
    }
    errors
}

/// Most bytes of all annotations of an object, keys and values: Kubernetes' own bound.
pub const MOST_ANNOTATION_BYTES: usize = 256 * 1024;

fn metadata_problems(object: &Value, errors: &mut FieldErrors) {
    let map = |name: &str| object::meta(object).and_then(|m| m.get(name)).and_then(Value::as_object);
    for (key, value) in map("labels").into_iter().flatten() {
        if !object::is_label_key(key) {
            let why = "a label key must consist of an optional DNS subdomain and '/', and up to 63 of A-Za-z0-9-_.";
            errors.add(|| FieldError::invalid("metadata.labels", format!("{key:?}"), why));
        }
        if let Some(value) = value.as_str().filter(|v| !object::is_label_value(v)) {
            let why =
                "a label value must be empty or up to 63 of A-Za-z0-9-_., beginning and ending with a letter or digit";
            errors.add(|| FieldError::invalid("metadata.labels", format!("{value:?}"), why));
        }
    }
    let mut bytes = 0;
    for (key, value) in map("annotations").into_iter().flatten() {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        if !object::is_label_key(&key.to_ascii_lowercase()) {
            let why =
                "an annotation key must consist of an optional DNS subdomain and '/', and up to 63 of A-Za-z0-9-_.";
            errors.add(|| FieldError::invalid("metadata.annotations", format!("{key:?}"), why));
        }
    }
    if bytes > MOST_ANNOTATION_BYTES {
        let why = format!("must have at most {MOST_ANNOTATION_BYTES} bytes in all");
        errors.push(FieldError::invalid("metadata.annotations", format!("{bytes} bytes"), &why));
    }
    for (i, finalizer) in object::finalizers(object).iter().enumerate() {
        if !object::is_label_key(finalizer) {
            let field = format!("metadata.finalizers[{i}]");
            errors.push(FieldError::invalid(field, format!("{finalizer:?}"), "must be a qualified name"));
        }
    }
    owner_problems(object, errors);
}

/// Whoever looks for the one that manages an object takes the first that says so.
fn owner_problems(object: &Value, errors: &mut FieldErrors) {
    let owners = object::meta(object).and_then(|m| m.get("ownerReferences")).and_then(Value::as_array);
    let mut controller: Option<&Value> = None;
    for (i, owner) in owners.into_iter().flatten().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.get(field).and_then(Value::as_str) == Some("") {
                let field = format!("metadata.ownerReferences[{i}].{field}");
                errors.add(|| FieldError::invalid(field, "\"\"", "must not be empty"));
            }
        }
        if owner.get("controller") != Some(&Value::Bool(true)) {
            continue;
        }
        if let Some(first) = controller {
            let name = |owner: &Value| owner.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            let (first, second) = (name(first), name(owner));
            let why = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {second}"
            );
            errors.add(|| FieldError::invalid("metadata.ownerReferences", "true", &why));
        }
        controller = controller.or(Some(owner));
    }
}
