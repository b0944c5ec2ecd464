//! `instances/scale`: 0 is `power: Stopped`, 1 is Auto (or Running, when that is what the instance has).

use axum::extract::Request;
use axum::response::Response;
use http::Method;
use serde_json::{Value, json};

use super::admit::{self, Part};
use super::apply::request::apply_scale;
use super::error::{ApiError, Subject};
use super::handler::Call;
use super::patch::{self, Patch};
use super::query::WriteOptions;
use super::reply::Reply;
use super::update::{Candidate, modify};
use super::{body, list, object};
use crate::model::{FieldError, Key};

/// The Scale of an instance.
fn scale_of(instance: &Value) -> Value {
    let power = instance.pointer("/spec/power").and_then(Value::as_str);
    let phase = instance.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    let wanted = i64::from(power != Some("Stopped"));
    let running = i64::from(matches!(phase, "Starting" | "Running" | "Stopping" | "Upgrading"));
    let meta = |name: &str| object::meta(instance).and_then(|m| m.get(name)).cloned().unwrap_or_default();
    let labels = object::meta(instance).and_then(|m| m.get("labels")).and_then(Value::as_object);
    let selector: Vec<String> =
        labels.into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta("name"), "namespace": meta("namespace"), "uid": meta("uid"),
            "resourceVersion": meta("resourceVersion"), "creationTimestamp": meta("creationTimestamp"),
        },
        "spec": {"replicas": wanted},
        "status": {"replicas": running, "selector": selector.join(",")},
    })
}

/// The Scale that a request wants, from the instance as it is.
type Wanted = Box<dyn Fn(&Value) -> Result<Value, ApiError> + Send + Sync>;

/// GET, PUT and PATCH of the Scale.
pub async fn answer(call: &Call, key: &Key, request: Request) -> Result<Response, ApiError> {
    let options = WriteOptions::of(&call.query)?;
    let subject = Subject::from(key);
    let media_type = body::media_type(request.headers());
    let wanted: Wanted = match *request.method() {
        Method::GET => return list::fetch(&call.state, key).await.map(|i| Reply::ok(scale_of(&i)).into_response()),
        // `kubectl scale --current-replicas` sends no Content-Type.
        Method::PUT => {
            let scale = body::parse(&media_type, &body::read(request.into_body()).await?)?.value;
            if scale.get("kind").and_then(Value::as_str) != Some("Scale") {
                return Err(ApiError::bad_request("the request body is no Scale of autoscaling/v1"));
            }
            Box::new(move |_| Ok(scale.clone()))
        }
        Method::PATCH if media_type == patch::APPLY => {
            let bytes = body::read(request.into_body()).await?;
            let reply = apply_scale(call, key, &bytes, |live, scale| power(&subject, live, scale)).await?;
            return Ok(Reply::ok(scale_of(&reply.body)).into_response());
        }
        Method::PATCH => {
            let patch = Patch::parse(key.kind, &media_type, &body::read(request.into_body()).await?)?;
            let subject = subject.clone();
            Box::new(move |old| patch.apply(&subject, &scale_of(old)).map(|(scale, _)| scale))
        }
        _ => return Err(ApiError::method_not_allowed("")),
    };
    let writer = call.writer(key.kind, &options);
    let changed = modify(call, key, Part::Main, &writer, options.dry_run, |old| scaled(&subject, old, &wanted(old)?));
    Ok(Reply::ok(scale_of(&changed.await?.body)).into_response())
}

/// The power that a Scale asks for, if it does.
fn power(subject: &Subject, old: &Value, scale: &Value) -> Result<Option<&'static str>, ApiError> {
    let invalid = |error: FieldError| ApiError::invalid(&Subject { kind: "Scale", ..subject.clone() }, &[error]);
    let replicas = match scale.pointer("/spec/replicas") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(n)) if n.is_i64() => n.as_i64().unwrap_or_default(),
        Some(other) => {
            let why = "must be an integer";
            return Err(invalid(FieldError::invalid("spec.replicas", other, why)));
        }
    };
    let power = old.pointer("/spec/power").and_then(Value::as_str);
    Ok(Some(match (replicas, power) {
        (0, _) => "Stopped",
        (1, Some("Running")) => "Running",
        (1, _) => "Auto",
        (other, _) => {
            let why = "must be 0 (stopped) or 1: an instance is one container";
            return Err(invalid(FieldError::invalid("spec.replicas", other, why)));
        }
    }))
}

/// The instance with the power that a Scale asks for: none is 0.
fn scaled(subject: &Subject, old: &Value, scale: &Value) -> Result<Candidate, ApiError> {
    admit::same_type(scale, "autoscaling/v1", "Scale")?;
    let named = object::text(scale, "name");
    admit::same_name(if named.is_empty() { &subject.name } else { named }, &subject.name)?;
    let power = power(subject, old, scale)?.unwrap_or("Stopped");
    let mut new = old.clone();
    let now = old.pointer("/spec/power").and_then(Value::as_str);
    // An instance without a power has Auto: writing it down would be a change.
    if now.unwrap_or("Auto") != power {
        new["spec"]["power"] = power.into();
    }
    for field in ["resourceVersion", "uid"] {
        let held = object::text(scale, field).to_owned();
        object::meta_mut(&mut new).insert(field.into(), held.into());
    }
    Ok(Candidate { object: admit::typed(crate::model::Kind::Instance, new)?, warnings: vec![], managers: None })
}
