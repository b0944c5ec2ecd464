//! PATCH: JSON merge patches (RFC 7386), JSON patches (RFC 6902) and strategic merge patches, applied to the object as
//! clients see it.
//!
//! A patch may not make an object that a body could not: the work of `copy` and `move` and the depth of the result are
//! bounded.

use json_patch::{CopyOperation, MoveOperation, PatchOperation, jsonptr::Pointer};
use serde_json::Value;

use super::admit::{self, Part};
use super::body::{self, Parsed};
use super::error::{ApiError, Subject};
use super::handler::Call;
use super::query::{WriteOptions, bad_options};
use super::reply::Reply;
use super::strategic;
use super::update::{Candidate, modify};
use crate::model::{FieldError, GROUP, Key, Kind, MAX_OBJECT_BYTES};

const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// Server-side apply: no patch of what is there, so [`Patch`] does not know it.
pub const APPLY: &str = "application/apply-patch+yaml";
/// Most operations of one JSON patch.
const MOST_OPERATIONS: usize = 1000;
/// Deepest place that a JSON patch may write to; the parsers' own bound.
const MOST_DEPTH: usize = 128;

/// Most bytes of JSON that the operations of one JSON patch copy and move in all.
const MOST_CARRIED: usize = 4 * MAX_OBJECT_BYTES;

/// A parsed patch.
pub enum Patch {
    Merge(Parsed),
    Strategic(Parsed),
    Json(Vec<PatchOperation>),
}

impl Patch {
    pub fn parse(kind: Kind, media_type: &str, bytes: &[u8]) -> Result<Patch, ApiError> {
        // Core kinds take strategic patches; of custom ones, clients expect that they do not.
        Patch::parse_as(kind.info().group != GROUP, media_type, bytes)
    }

    /// Parses a patch of a view that is a core kind.
    pub fn parse_core(media_type: &str, bytes: &[u8]) -> Result<Patch, ApiError> {
        Patch::parse_as(true, media_type, bytes)
    }

    fn parse_as(core: bool, media_type: &str, bytes: &[u8]) -> Result<Patch, ApiError> {
        match media_type {
            MERGE => Ok(Patch::Merge(object_patch(bytes)?)),
            STRATEGIC if core => Ok(Patch::Strategic(object_patch(bytes)?)),
            JSON => {
                let Parsed { value, .. } = body::parse_json(bytes)?;
                let operations: Vec<PatchOperation> = serde_json::from_value(value)
                    .map_err(|e| ApiError::bad_request(format!("the request body is not a JSON patch: {e}")))?;
                if operations.len() > MOST_OPERATIONS {
                    let message = format!("the patch has more than the {MOST_OPERATIONS} operations allowed");
                    return Err(ApiError::too_large(message));
                }
                Ok(Patch::Json(operations))
            }
            _ if core => Err(ApiError::unsupported_media(&[JSON, MERGE, STRATEGIC, APPLY])),
            _ => Err(ApiError::unsupported_media(&[JSON, MERGE, APPLY])),
        }
    }

    /// The duplicate keys of the patch.
    pub fn duplicates(&self) -> &[String] {
        match self {
            Patch::Merge(parsed) | Patch::Strategic(parsed) => &parsed.duplicates,
            Patch::Json(_) => &[],
        }
    }

    /// The patched object, and the duplicate keys of the patch.
    pub fn apply(&self, subject: &Subject, object: &Value) -> Result<(Value, &[String]), ApiError> {
        let mut patched = object.clone();
        match self {
            Patch::Merge(parsed) => {
                json_patch::merge(&mut patched, &parsed.value);
                Ok((patched, &parsed.duplicates))
            }
            Patch::Strategic(parsed) => {
                strategic::merge(&mut patched, &parsed.value)
                    .map_err(|why| ApiError::bad_request(format!("the strategic merge patch is invalid: {why}")))?;
                Ok((patched, &parsed.duplicates))
            }
            Patch::Json(operations) => {
                apply_json(subject, operations, &mut patched)?;
                Ok((patched, &[]))
            }
        }
    }
}

fn object_patch(bytes: &[u8]) -> Result<Parsed, ApiError> {
    let parsed = body::parse_json(bytes)?;
    if !parsed.value.is_object() {
        return Err(ApiError::bad_request("the request body is not an object"));
    }
    Ok(parsed)
}

fn apply_json(subject: &Subject, operations: &[PatchOperation], object: &mut Value) -> Result<(), ApiError> {
    let mut carried = 0;
    for (i, operation) in operations.iter().enumerate() {
        let refused = |why: String| {
            let error = FieldError::invalid(format!("patch[{i}]"), format!("{:?}", operation.path().as_str()), &why);
            ApiError::invalid(subject, &[error])
        };
        let written = match operation {
            PatchOperation::Add(add) => depth(&add.value),
            PatchOperation::Replace(replace) => depth(&replace.value),
            PatchOperation::Copy(CopyOperation { from, .. }) | PatchOperation::Move(MoveOperation { from, .. }) => {
                let source = from.resolve(object).map_err(|e| refused(e.to_string()))?;
                // A move makes nothing more, but costs a walk through all that is moved.
                carried += source.to_string().len();
                depth(source)
            }
            PatchOperation::Remove(_) | PatchOperation::Test(_) => 0,
        };
        if carried > MOST_CARRIED {
            let message = format!("the patch copies and moves more than the {MOST_CARRIED} bytes allowed");
            return Err(ApiError::too_large(message));
        }
        if levels(operation.path()) + written > MOST_DEPTH {
            return Err(refused(format!("must not be deeper than {MOST_DEPTH} levels")));
        }
        if let PatchOperation::Test(test) = operation
            && test.value.is_null()
            && is_unset(object, &test.path)
        {
            continue;
        }
        json_patch::patch(object, std::slice::from_ref(operation)).map_err(|e| refused(e.to_string()))?;
    }
    Ok(())
}

/// Whether a field's object is there and the field is not. A test for null holds then, as it does at Kubernetes: clients ask
/// so whether a list has still to be made.
fn is_unset(object: &Value, path: &Pointer) -> bool {
    path.split_back().is_some_and(|(parent, field)| match parent.resolve(object) {
        Ok(Value::Object(fields)) => !fields.contains_key(field.decoded().as_ref()),
        _ => false,
    })
}

fn levels(path: &Pointer) -> usize {
    path.tokens().count()
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// PATCH of an object or of its status.
pub async fn patch(call: &Call, key: &Key, part: Part, patch: Patch) -> Result<Reply, ApiError> {
    let options = WriteOptions::of(&call.query)?;
    let subject = Subject::from(key);
    if call.query.flag("force") {
        let problem = FieldError::forbidden("force", "may not be specified for non-apply patch");
        return Err(bad_options("PatchOptions", problem));
    }
    modify(call, key, part, &call.writer(key.kind, &options), options.dry_run, |old| {
        let (patched, duplicates) = patch.apply(&subject, old)?;
        let mut object = admit::typed(key.kind, patched)?;
        admit::place(key.kind, &mut object, call.place.namespace.as_deref())?;
        let warnings = admit::known_fields(key.kind, &mut object, duplicates, options.fields)?;
        Ok(Candidate { object, warnings, managers: None })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn applied(patch: Value, to: Value) -> Result<Value, ApiError> {
        let patch = Patch::parse(Kind::Instance, JSON, patch.to_string().as_bytes())?;
        patch.apply(&Subject::of(Kind::Instance, "x"), &to).map(|(v, _)| v)
    }

    #[test]
    fn a_json_patch_is_applied_whole_or_refused() {
        let patch = json!([{"op": "test", "path": "/a", "value": 1}, {"op": "add", "path": "/b", "value": 2}]);
        assert_eq!(applied(patch.clone(), json!({"a": 1})).unwrap(), json!({"a": 1, "b": 2}));
        assert_eq!(applied(patch, json!({"a": 2})).unwrap_err().code(), 422);
        assert_eq!(applied(json!([{"op": "gone"}]), json!({})).unwrap_err().code(), 400);
    }

    #[test]
    fn a_test_for_null_holds_where_there_is_nothing() {
        let add = |test: &str| json!([{"op": "test", "path": test, "value": null}, {"op": "add", "path": "/m/f", "value": 1}]);
        for (at, object) in
            [("/m/f", json!({"m": {}})), ("/m/f", json!({"m": {"f": null}})), ("/m/~1", json!({"m": {}}))]
        {
            assert_eq!(applied(add(at), object).unwrap(), json!({"m": {"f": 1}}), "{at}");
        }
        for (at, object) in [("/m/f", json!({"m": {"f": 0}})), ("/n/f", json!({"m": {}})), ("/m/0", json!({"m": []}))] {
            assert_eq!(applied(add(at), object).unwrap_err().code(), 422, "{at}");
        }
    }

    #[test]
    fn copies_and_moves_have_a_bound() {
        let bomb: Vec<_> = (0..60).map(|i| json!({"op": "copy", "from": "", "path": format!("/x{i}")})).collect();
        assert_eq!(applied(bomb.into(), json!({"a": "b"})).unwrap_err().code(), 413);
        let whole = "x".repeat(MAX_OBJECT_BYTES / 2);
        let to_and_fro = |times| {
            (0..times)
                .map(|i| json!({"op": "move", "from": format!("/{}", i % 2), "path": format!("/{}", (i + 1) % 2)}))
        };
        let moved = applied(to_and_fro(4).collect(), json!({"0": whole})).unwrap();
        assert_eq!(moved, json!({"0": whole}));
        let refused = applied(to_and_fro(1000).collect(), json!({"0": whole})).unwrap_err();
        assert_eq!(refused.to_string(), "the patch copies and moves more than the 1048576 bytes allowed");
        let pit: Vec<_> = (0..200).map(|i| json!({"op": "add", "path": "/a".repeat(i + 1), "value": {}})).collect();
        assert_eq!(applied(pit.into(), json!({})).unwrap_err().code(), 422);
    }

    #[test]
    fn own_kinds_take_no_strategic_patch() {
        assert_eq!(Patch::parse(Kind::Instance, STRATEGIC, b"{}").err().unwrap().code(), 415);
        assert!(Patch::parse(Kind::Namespace, STRATEGIC, b"{}").is_ok());
        assert_eq!(Patch::parse(Kind::Namespace, "", b"{}").err().unwrap().code(), 415);
    }
}
