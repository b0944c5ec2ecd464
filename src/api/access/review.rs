//! Who am I, and may I: answered to everyone with credentials.

use serde_json::{Value, json};

use super::super::body::Parsed;
use super::super::error::ApiError;
use super::super::handler::Call;
use super::super::registry::What;
use super::super::reply::Reply;
use super::authorize::{self, Attributes};

pub fn answer(call: &Call, parsed: Parsed) -> Result<Reply, ApiError> {
    let mut review = parsed.value;
    if !review.is_object() {
        return Err(ApiError::bad_request("the request body is not an object"));
    }
    review["kind"] = call.place.resource.kind.into();
    review["apiVersion"] = call.place.resource.group_version().into();
    if !review.get("metadata").is_some_and(Value::is_object) {
        review["metadata"] = json!({});
    }
    review["status"] = match call.place.resource.what {
        What::SelfSubjectReviews => {
            json!({"userInfo": {"username": call.user.name, "groups": call.user.groups}})
        }
        What::SelfSubjectAccessReviews => access(call, &review)?,
        What::SelfSubjectRulesReviews => rules(call),
        What::Stored(_) | What::Pods => return Err(ApiError::no_such_path()),
    };
    Ok(Reply::created(review))
}

/// What the user may do, in the shape of role rules.
fn rules(call: &Call) -> Value {
    let any = |verb: &str| {
        let wanted = Attributes { verb, group: "", resource: "", namespace: "", name: "" };
        authorize::allowed(&call.user, &wanted)
    };
    let (mut resources, mut paths) = (vec![], vec![]);
    if any("*") {
        resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

fn access(call: &Call, review: &Value) -> Result<Value, ApiError> {
    let spec = |pointer: &str| review.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let wanted_of = review.get("spec").and_then(Value::as_object);
    let resource = match (spec("/spec/resourceAttributes/resource"), spec("/spec/resourceAttributes/subresource")) {
        (resource, "") => resource.to_owned(),
        (resource, sub) => format!("{resource}/{sub}"),
    };
    let has = |name: &str| wanted_of.is_some_and(|s| s.get(name).is_some_and(Value::is_object));
    let attributes = if has("resourceAttributes") {
        Attributes {
            verb: spec("/spec/resourceAttributes/verb"),
            group: spec("/spec/resourceAttributes/group"),
            resource: &resource,
            namespace: spec("/spec/resourceAttributes/namespace"),
            name: spec("/spec/resourceAttributes/name"),
        }
    } else if has("nonResourceAttributes") {
        let path = spec("/spec/nonResourceAttributes/path");
        Attributes {
            verb: spec("/spec/nonResourceAttributes/verb"),
            group: "",
            resource: path,
            namespace: "",
            name: "",
        }
    } else {
        return Err(ApiError::bad_request("spec needs one of resourceAttributes and nonResourceAttributes"));
    };
    let allowed = authorize::allowed(&call.user, &attributes);
    let reason =
        if allowed { format!("{} is in the group {}", call.user.name, authorize::ADMINS) } else { String::new() };
    Ok(json!({"allowed": allowed, "reason": reason}))
}
