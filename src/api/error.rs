//! Refusals, and the one place that turns them into a Kubernetes `Status`.
//!
//! Every error answer of the API is a `Status` object; kubectl prints its `message` and branches on its `reason`.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::model::{FieldError, Key, Kind};
use crate::store::StoreError;

/// What an error is about, in the words that clients know it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub group: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
    pub name: String,
}

impl Subject {
    pub fn of(kind: Kind, name: impl Into<String>) -> Subject {
        let info = kind.info();
        Subject { group: info.group, plural: info.plural, kind: info.name, name: name.into() }
    }

    pub fn pod(name: impl Into<String>) -> Subject {
        Subject { group: "", plural: "pods", kind: "Pod", name: name.into() }
    }

    /// `instances.portreeve.dev`
    pub fn qualified(&self) -> String {
        qualify(self.plural, self.group)
    }

    fn details(&self) -> Value {
        let mut details = json!({"name": self.name, "kind": self.plural});
        if !self.group.is_empty() {
            details["group"] = self.group.into();
        }
        details
    }
}

impl From<&Key> for Subject {
    fn from(key: &Key) -> Subject {
        Subject::of(key.kind, key.name.clone())
    }
}

/// `instances.portreeve.dev`, or the bare text in the core group.
fn qualify(text: &str, group: &str) -> String {
    if group.is_empty() { text.to_owned() } else { format!("{text}.{group}") }
}

/// A refusal or a failure, ready to be answered. Boxed, because results pass through many hands and few are errors.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub struct ApiError(Box<Problem>);

#[derive(Clone, Debug)]
struct Problem {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Option<Value>,
}

impl ApiError {
    pub fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> ApiError {
        ApiError(Box::new(Problem { code, reason, message: message.into(), details: None }))
    }

    fn with_details(mut self, details: Value) -> ApiError {
        self.0.details = Some(details);
        self
    }

    pub fn code(&self) -> StatusCode {
        self.0.code
    }

    /// The word that clients branch on.
    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub fn unauthorized() -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// `why` follows `instances.portreeve.dev "x" is forbidden: `.
    pub fn forbidden(subject: &Subject, why: &str) -> ApiError {
        let named = if subject.name.is_empty() { String::new() } else { format!(" {:?}", subject.name) };
        let message = format!("{}{named} is forbidden: {why}", subject.qualified());
        ApiError::new(StatusCode::FORBIDDEN, "Forbidden", message).with_details(subject.details())
    }

    pub fn not_found(subject: &Subject) -> ApiError {
        let message = format!("{} {:?} not found", subject.qualified(), subject.name);
        ApiError::new(StatusCode::NOT_FOUND, "NotFound", message).with_details(subject.details())
    }

    /// There is something of that name, and yet not this.
    pub fn not_found_because(subject: &Subject, why: &str) -> ApiError {
        let message = format!("{} {:?} not found: {why}", subject.qualified(), subject.name);
        ApiError::new(StatusCode::NOT_FOUND, "NotFound", message).with_details(subject.details())
    }

    /// A path that names nothing that is served.
    pub fn no_such_path() -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
    }

    pub fn method_not_allowed(why: &str) -> ApiError {
        let message = "the server does not allow this method on the requested resource";
        let message = if why.is_empty() { message.to_owned() } else { format!("{message}: {why}") };
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub fn not_acceptable(accepted: &str) -> ApiError {
        let message = format!("only the following media types are accepted: {accepted}");
        ApiError::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// `deleting`: what is there is on its way out.
    pub fn already_exists(subject: &Subject, deleting: bool) -> ApiError {
        let going = if deleting { "object is being deleted: " } else { "" };
        let message = format!("{going}{} {:?} already exists", subject.qualified(), subject.name);
        ApiError::new(StatusCode::CONFLICT, "AlreadyExists", message).with_details(subject.details())
    }

    /// The object is at another version than the client thought.
    pub fn conflict(subject: &Subject) -> ApiError {
        ApiError::conflict_because(
            subject,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub fn conflict_because(subject: &Subject, why: &str) -> ApiError {
        let message = format!("Operation cannot be fulfilled on {} {:?}: {why}", subject.qualified(), subject.name);
        ApiError::new(StatusCode::CONFLICT, "Conflict", message).with_details(subject.details())
    }

    /// Others own fields that an apply would change: each cause is a message and a field.
    pub fn apply_conflict(message: String, causes: Vec<(String, String)>) -> ApiError {
        let error = ApiError::new(StatusCode::CONFLICT, "Conflict", message);
        causes.iter().fold(error, |e, (message, field)| e.with_cause("FieldManagerConflict", message, field))
    }

    pub fn expired(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::GONE, "Expired", message)
    }

    pub fn unsupported_media(accepted: &[&str]) -> ApiError {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    pub fn too_large(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    pub fn timeout(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message).with_details(json!({"retryAfterSeconds": 1}))
    }

    /// The server stops, or something it needs is away: worth another try.
    pub fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    /// What cannot be done at present, and is worth asking for again.
    pub fn not_now(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
    }

    /// The client takes more than its share; it may try again after `wait`, rounded up to seconds.
    pub fn too_many(message: impl Into<String>, wait: std::time::Duration) -> ApiError {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
            .with_details(json!({"retryAfterSeconds": seconds}))
    }

    pub fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// All problems of one object.
    pub fn invalid(subject: &Subject, errors: &[FieldError]) -> ApiError {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let what = match &texts[..] {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let kind = qualify(subject.kind, subject.group);
        let mut details = subject.details();
        details["kind"] = subject.kind.into();
        details["causes"] = errors
            .iter()
            .map(|e| json!({"reason": e.reason.as_str(), "message": e.message, "field": e.field}))
            .collect();
        let message = format!("{kind} {:?} is invalid: {what}", subject.name);
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).with_details(details)
    }

    /// Adds a cause that clients branch on, such as `NamespaceTerminating`.
    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> ApiError {
        let details = self.0.details.get_or_insert_with(|| json!({}));
        let mut cause = json!({"reason": reason, "message": message});
        if !field.is_empty() {
            cause["field"] = field.into();
        }
        match details.get_mut("causes").and_then(Value::as_array_mut) {
            Some(causes) => causes.push(cause),
            None => details["causes"] = json!([cause]),
        }
        self
    }

    /// The `Status` object.
    pub fn to_status(&self) -> Value {
        let problem = &self.0;
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": problem.message, "reason": problem.reason, "code": problem.code.as_u16(),
        });
        if let Some(details) = &problem.details {
            status["details"] = details.clone();
        }
        status
    }
}

impl From<StoreError> for ApiError {
    fn from(e: StoreError) -> ApiError {
        match e {
            StoreError::Conflict { ref key, .. } => {
                ApiError::new(StatusCode::CONFLICT, "Conflict", format!("{key} was changed by someone else; try again"))
            }
            StoreError::Compacted { asked, oldest } => {
                ApiError::expired(format!("too old resource version: {asked} ({oldest})"))
            }
            StoreError::Future { asked, newest } => {
                let message = format!("Too large resource version: {asked}, current: {newest}");
                ApiError::timeout(message).with_cause("ResourceVersionTooLarge", "Too large resource version", "")
            }
            StoreError::TooLarge { size, limit, .. } => {
                ApiError::too_large(format!("the object has {size} bytes; at most {limit} are stored"))
            }
            StoreError::NoSpace(_) => {
                ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage", e.to_string())
            }
            // Another try will not open it either.
            StoreError::Sealed { .. } => ApiError::internal(e.to_string()),
            StoreError::Failed(_) | StoreError::Damaged(_) => ApiError::unavailable(e.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_status().to_string()));
        *response.status_mut() = self.0.code;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match self.0.code {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let wait = self.0.details.as_ref().and_then(|d| d["retryAfterSeconds"].as_u64());
                // Without a time clients hand the refusal to their user, instead of trying again by themselves.
                if wait.is_some() || self.0.code == StatusCode::SERVICE_UNAVAILABLE {
                    headers.insert(header::RETRY_AFTER, wait.unwrap_or(1).into());
                }
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_invalid_field_stands_alone_and_several_in_brackets() {
        let subject = Subject::of(Kind::Instance, "x");
        let one = [FieldError::required("spec.image", "")];
        let error = ApiError::invalid(&subject, &one);
        assert_eq!(error.to_string(), r#"Instance.portreeve.dev "x" is invalid: spec.image: Required value"#);
        assert_eq!(error.to_status()["details"]["kind"], "Instance");
        assert_eq!(error.to_status()["details"]["causes"][0]["reason"], "FieldValueRequired");
        let two = [one[0].clone(), FieldError::duplicate("spec.ports[1]", 80)];
        let text = ApiError::invalid(&subject, &two).to_string();
        assert!(
            text.ends_with("is invalid: [spec.image: Required value, spec.ports[1]: Duplicate value: 80]"),
            "{text}"
        );
    }

    #[test]
    fn errors_name_the_plural_resource_with_its_group() {
        let status = ApiError::not_found(&Subject::of(Kind::Instance, "x")).to_status();
        assert_eq!(status["message"], r#"instances.portreeve.dev "x" not found"#);
        assert_eq!(status["details"], json!({"name": "x", "group": "portreeve.dev", "kind": "instances"}));
        let core = ApiError::already_exists(&Subject::of(Kind::Namespace, "x"), false);
        assert_eq!(core.to_string(), r#"namespaces "x" already exists"#);
    }
}
