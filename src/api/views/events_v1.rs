//! Events as `events.k8s.io/v1`, which the recorders of client-go and kube-rs write: the records of core/v1's Events by other
//! names. What is posted here is read there and the other way round.
//!
//! ```text
//! request ──▶ read: check by this group's names ▸ rename ──▶ create · modify · apply ──▶ project ──▶ answer
//! ```
//!
//! Called by `handler`. Everything that comes in is checked by the names of this group before it is renamed, so that
//! refusals speak of the fields that the client wrote. Who owns which fields is kept, and shown, by core/v1's names.

use std::sync::LazyLock;

use axum::extract::Request;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::super::admit::{self, Part};
use super::super::apply::request as applying;
use super::super::body::{self, Parsed};
use super::super::error::{ApiError, Subject};
use super::super::handler::{self, Call};
use super::super::negotiate;
use super::super::patch::{self, Patch};
use super::super::query::{FieldValidation, WriteOptions};
use super::super::reply::Reply;
use super::super::table::Include;
use super::super::update::{Candidate, modify};
use super::super::{create, delete};
use super::{Facts, View, object};
use crate::model::{FieldError, Key, Kind, schema};

pub const GROUP: &str = "events.k8s.io";
pub const VERSION: &str = "v1";
const VIEW: View = View::EventsV1;
/// Most characters of a note.
const MOST_NOTE: usize = 1024;

/// The fields by their names in core/v1 and here; all others have one name.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

pub const SELECTABLE: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let mut schema = schema::schema(Kind::Event).clone();
    let Some(fields) = schema["properties"].as_object_mut() else { return schema };
    rename(fields, NAMES.into_iter());
    for (name, text) in [
        ("eventTime", "When it first happened, to the microsecond. Required of a new Event."),
        ("deprecatedSource", "Who saw it, where core/v1 told it."),
        ("deprecatedFirstTimestamp", "When it first happened, to the second, where core/v1 told it."),
        ("deprecatedLastTimestamp", "When it last happened, to the second, where core/v1 told it."),
        ("deprecatedCount", "How often it has happened, where core/v1 told it."),
    ] {
        fields[name]["description"] = text.into();
    }
    schema
});

/// The schema of core/v1's Events by the names of this group.
pub fn schema() -> &'static Value {
    &SCHEMA
}

fn rename<'a>(fields: &mut Map<String, Value>, names: impl Iterator<Item = (&'a str, &'a str)>) {
    for (from, to) in names {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.into(), value);
        }
    }
}

/// The record as this group shows it.
pub fn project(mut record: Value) -> Value {
    if let Some(fields) = record.as_object_mut() {
        rename(fields, NAMES.into_iter());
    }
    record["apiVersion"] = VIEW.api_version().into();
    record
}

/// What is shown by this group, as it is stored.
pub fn as_record(mut event: Value) -> Value {
    if let Some(fields) = event.as_object_mut() {
        rename(fields, NAMES.into_iter().map(|(core, here)| (here, core)));
    }
    event["apiVersion"] = Kind::Event.api_version().into();
    event
}

/// All requests but sessions: there are no parts.
pub async fn answer(call: Call, request: Request) -> Result<Response, ApiError> {
    let method = request.method().clone();
    if method == http::Method::GET {
        return handler::projected(call, VIEW, &method).await;
    }
    // Before anything is done: an answer that cannot be given must not follow a deed.
    let (form, include) = (negotiate::form(&call.headers)?, Include::of(&call.query)?);
    let Some(namespace) = call.place.namespace.clone() else {
        return Err(ApiError::method_not_allowed("name a namespace"));
    };
    let media_type = body::media_type(request.headers());
    let key = |name: &str| Key::new(Kind::Event, &namespace, name);
    let reply = match (method.as_str(), call.place.name.as_deref()) {
        ("POST", None) => post(&call, handler::parsed(request).await?).await?,
        ("DELETE", None) => {
            let options = handler::delete_options(&call, request).await?;
            let mut reply = delete::delete_collection(&call, VIEW, &options).await?;
            if let Some(items) = reply.body["items"].as_array_mut() {
                items.iter_mut().for_each(|item| *item = project(item.take()));
            }
            reply.body["apiVersion"] = VIEW.api_version().into();
            reply
        }
        ("PUT", Some(name)) => {
            let parsed = handler::parsed(request).await?;
            write(&call, &key(name), &parsed.duplicates, |_| Ok(parsed.value.clone())).await?
        }
        ("PATCH", Some(name)) => {
            let bytes = body::read(request.into_body()).await?;
            if media_type == patch::APPLY {
                apply(&call, &key(name), &bytes).await?
            } else {
                let patch = Patch::parse_core(&media_type, &bytes)?;
                let subject = VIEW.subject(name);
                let duplicates = patch.duplicates().to_vec();
                let change = |event: &Value| patch.apply(&subject, event).map(|(patched, _)| patched);
                write(&call, &key(name), &duplicates, change).await?
            }
        }
        ("DELETE", Some(name)) => {
            let options = handler::delete_options(&call, request).await?;
            let mut reply = delete::delete(&call, &key(name), &options).await.map_err(|e| VIEW.told(e, name))?;
            if reply.body["kind"] == "Status" {
                reply.body["details"]["group"] = GROUP.into();
            } else {
                reply.body = project(reply.body);
            }
            reply
        }
        _ => return Err(ApiError::method_not_allowed("")),
    };
    Ok(reply.render(VIEW, form, include, &Facts::of(&call.state)))
}

/// The record that an Event of this group means, with warnings.
fn read(
    mut event: Value,
    subject: &Subject,
    duplicates: &[String],
    mode: FieldValidation,
) -> Result<(Value, Vec<String>), ApiError> {
    if !event.is_object() {
        return Err(ApiError::bad_request("the request body is not an object"));
    }
    admit::same_type(&event, &VIEW.api_version(), VIEW.kind())?;
    object::strip_nulls(&mut event);
    let warnings = admit::known_fields_by(schema(), subject, VERSION, &mut event, duplicates, mode)?;
    let errors = schema::check_by(schema(), &event).errors;
    if !errors.is_empty() {
        return Err(ApiError::invalid(subject, &errors));
    }
    Ok((as_record(event), warnings))
}

/// Refuses a new Event that has not what one of this group must have, or has what it must not, as Kubernetes does.
fn new_event(record: &Value, subject: &Subject) -> Result<(), ApiError> {
    let event = project(record.clone());
    let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut errors = vec![];
    for name in ["eventTime", "reportingController", "reportingInstance", "action", "reason"] {
        if text(name).is_empty() {
            errors.push(FieldError::required(name, ""));
        }
    }
    if !["Normal", "Warning"].contains(&text("type")) {
        errors.push(FieldError::invalid("type", format!("{:?}", text("type")), "must be Normal or Warning"));
    }
    if text("note").chars().count() > MOST_NOTE {
        errors.push(FieldError::invalid("note", "text", &format!("must have at most {MOST_NOTE} characters")));
    }
    for (_, name) in NAMES {
        // Clients in Go cannot leave out a message or a number: what is empty says nothing.
        let says_something = |v: &Value| *v != json!({}) && *v != json!(0);
        if name.starts_with("deprecated") && event.get(name).is_some_and(says_something) {
            errors.push(FieldError::forbidden(name, "is not for a new Event of this group"));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(subject, &errors)) }
}

async fn post(call: &Call, parsed: Parsed) -> Result<Reply, ApiError> {
    let options = WriteOptions::of(&call.query)?;
    let subject = VIEW.subject(object::text(&parsed.value, "name"));
    let (record, warnings) = read(parsed.value, &subject, &parsed.duplicates, options.fields)?;
    new_event(&record, &subject)?;
    let reply = create::create(call, Kind::Event, Parsed { value: record, duplicates: vec![] }).await?;
    Ok(shown(reply).with_warnings(warnings))
}

fn shown(mut reply: Reply) -> Reply {
    reply.body = project(reply.body);
    reply
}

/// Writes what a changed Event of this group means. `change` gets the Event as it is.
async fn write(
    call: &Call,
    key: &Key,
    duplicates: &[String],
    change: impl Fn(&Value) -> Result<Value, ApiError>,
) -> Result<Reply, ApiError> {
    let options = WriteOptions::of(&call.query)?;
    let subject = VIEW.subject(&key.name);
    let writer = call.writer(key.kind, &options);
    let written = modify(call, key, Part::Main, &writer, options.dry_run, |record| {
        let changed = change(&project(record.clone()))?;
        let (mut object, warnings) = read(changed, &subject, duplicates, options.fields)?;
        admit::place(key.kind, &mut object, call.place.namespace.as_deref())?;
        Ok(Candidate { object, warnings, managers: None })
    });
    written.await.map(shown).map_err(|e| VIEW.told(e, &key.name))
}

async fn apply(call: &Call, key: &Key, bytes: &[u8]) -> Result<Reply, ApiError> {
    let options = WriteOptions::of(&call.query)?;
    let parsed = applying::parse(bytes)?;
    let (record, warnings) = read(parsed.value, &VIEW.subject(&key.name), &parsed.duplicates, options.fields)?;
    let is_new = |record: &Value| new_event(record, &VIEW.subject(&key.name));
    let reply = applying::apply(call, key, Part::Main, record.to_string().as_bytes(), is_new).await?;
    Ok(shown(reply).with_warnings(warnings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_the_same_after_both_ways() {
        let mut record = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"}, "reason": "R"});
        for (core, _) in NAMES {
            record[core] = core.into();
        }
        let event = project(record.clone());
        assert_eq!(event["apiVersion"], "events.k8s.io/v1");
        for (core, here) in NAMES {
            assert!(event.get(core).is_none(), "{core}");
            assert_eq!(event[here], core);
        }
        assert_eq!(as_record(event), record);
    }

    #[test]
    fn every_name_is_one_of_the_model() {
        let core = schema::schema(Kind::Event)["properties"].as_object().unwrap();
        let here = schema()["properties"].as_object().unwrap();
        assert_eq!(core.len(), here.len());
        for (name, other) in NAMES {
            assert!(core.contains_key(name) && here.contains_key(other) && !here.contains_key(name), "{name}");
        }
        for path in SELECTABLE {
            let fields = path.split('.').try_fold(schema(), |node, name| node["properties"].get(name));
            assert!(fields.is_some(), "{path}");
        }
    }
}
