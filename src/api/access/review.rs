//! Who am I, and may I: answered to everyone with credentials.

use serde_json::{Value, json};

use super::super::admit;
use super::super::body::Parsed;
use super::super::error::ApiError;
use super::super::handler::Call;
use super::super::registry::What;
use super::super::reply::Reply;
use super::authorize::{self, Attributes, Right};

pub fn answer(call: &Call, parsed: Parsed) -> Result<Reply, ApiError> {
    let resource = call.place.resource;
    let mut review = admit::served(resource.group, resource.kind, &resource.group_version(), parsed.value)?;
    review["kind"] = resource.kind.into();
    review["apiVersion"] = resource.group_version().into();
    if !review.get("metadata").is_some_and(Value::is_object) {
        review["metadata"] = json!({});
    }
    review["status"] = match call.place.resource.what {
        What::SelfSubjectReviews => {
            let mut info = json!({"username": call.user.name, "groups": call.user.groups});
            if !call.user.uid.is_empty() {
                info["uid"] = call.user.uid.as_str().into();
            }
            if !call.user.extra.is_empty() {
                info["extra"] = json!(call.user.extra);
            }
            json!({"userInfo": info})
        }
        What::SelfSubjectAccessReviews => access(call, &review)?,
        What::SelfSubjectRulesReviews => rules(call, &review),
        What::Stored(_) | What::Pods | What::Nodes | What::EventsV1 | What::ReadOnly(_) | What::Measured(_) => {
            return Err(ApiError::no_such_path());
        }
    };
    Ok(Reply::created(review))
}

/// What the user may do, in the shape of role rules.
fn rules(call: &Call, review: &Value) -> Value {
    let namespace = review.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or_default();
    let resources = match authorize::rights(&call.user, namespace) {
        None => vec![json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})],
        Some(rights) => rights.iter().map(right).collect(),
    };
    let paths = match authorize::paths(&call.user) {
        None => json!({"verbs": ["*"], "nonResourceURLs": ["*"]}),
        Some(paths) => json!({"verbs": ["get"], "nonResourceURLs": paths}),
    };
    json!({"resourceRules": resources, "nonResourceRules": [paths], "incomplete": false})
}

fn right(right: &Right) -> Value {
    let mut rule = json!({"verbs": right.verbs, "apiGroups": [right.group], "resources": right.resources});
    if !right.names.is_empty() {
        rule["resourceNames"] = json!(right.names);
    }
    rule
}

fn access(call: &Call, review: &Value) -> Result<Value, ApiError> {
    let spec = |pointer: &str| review.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let has = |name: &str| review.get("spec").and_then(|s| s.get(name)).is_some_and(Value::is_object);
    let decision = if has("resourceAttributes") {
        let of = |name: &str| spec(&format!("/spec/resourceAttributes/{name}"));
        let resource = match (of("resource"), of("subresource")) {
            (resource, "") => resource.to_owned(),
            (resource, sub) => format!("{resource}/{sub}"),
        };
        let (verb, group, namespace, name) = (of("verb"), of("group"), of("namespace"), of("name"));
        authorize::decide(&call.user, &Attributes { verb, group, resource: &resource, namespace, name })
    } else if has("nonResourceAttributes") {
        let of = |name: &str| spec(&format!("/spec/nonResourceAttributes/{name}"));
        authorize::decide_path(&call.user, of("verb"), of("path"))
    } else {
        return Err(ApiError::bad_request("spec needs one of resourceAttributes and nonResourceAttributes"));
    };
    Ok(json!({"allowed": decision.allowed, "reason": decision.reason}))
}
