//! `instances/why`: why an Instance is as it is, for `portreeve why`. Made anew for each question.

use std::sync::Arc;

use async_trait::async_trait;
use axum::response::Response;
use http::Method;
use serde_json::{Value, json};

use super::error::{ApiError, Subject};
use super::handler::Call;
use super::reply::Reply;
use crate::model::{Instance, InstanceExplanation, Key};

/// Knows what the controllers and the front door know. Waits for the store at most.
#[async_trait]
pub trait Explains: Send + Sync + 'static {
    async fn explain(&self, instance: &Instance) -> InstanceExplanation;
}

/// Where nobody controls: what the record says.
struct Silent;

#[async_trait]
impl Explains for Silent {
    async fn explain(&self, instance: &Instance) -> InstanceExplanation {
        InstanceExplanation {
            phase: instance.status.phase,
            because: "nobody looks after it here".into(),
            conditions: instance.status.conditions.clone(),
            ..Default::default()
        }
    }
}

pub fn silent() -> Arc<dyn Explains> {
    Arc::new(Silent)
}

/// GET, and nothing else.
pub async fn answer(call: &Call, key: &Key, method: &Method) -> Result<Response, ApiError> {
    if method != Method::GET {
        return Err(ApiError::method_not_allowed("why an Instance is as it is, is only read"));
    }
    let instance = call.state.cache.instance(key).ok_or_else(|| ApiError::not_found(&Subject::from(key)))?;
    let mut body = serde_json::to_value(call.state.explains.explain(&instance).await).unwrap_or(Value::Null);
    body["kind"] = json!("InstanceExplanation");
    body["apiVersion"] = json!("portreeve.dev/v1");
    body["metadata"] = json!({"name": key.name, "namespace": key.namespace});
    Ok(Reply::ok(body).into_response())
}
