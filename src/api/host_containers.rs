//! `dockerhosts/containers`: the containers of a host that are nobody's, and what each would be as an Instance. For
//! `portreeve adopt`; no role but the administrators' reads it, as what is in it was never given to Portreeve.
//!
//! ```text
//! GET ──▶ HostContainers (serve, over the daemon) ──▶ list
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use axum::response::Response;
use http::Method;
use serde_json::{Value, json};

use super::error::{ApiError, Subject};
use super::handler::Call;
use super::reply::Reply;
use crate::model::{HostContainer, Key};

/// Why a host's containers cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostSilent {
    #[error("there is no DockerHost {0:?}")]
    NoHost(String),
    #[error("the containers of {host} cannot be listed: {why}")]
    Unreachable { host: String, why: String },
}

impl From<HostSilent> for ApiError {
    fn from(e: HostSilent) -> ApiError {
        match &e {
            HostSilent::NoHost(name) => ApiError::not_found(&Subject::from(&Key::host(name.clone()))),
            HostSilent::Unreachable { .. } => ApiError::unavailable(e.to_string()),
        }
    }
}

/// Looks at hosts. An answer comes within half a minute, whatever the host does.
#[async_trait]
pub trait HostContainers: Send + Sync + 'static {
    /// All of a host that are no control plane's, by name.
    async fn list(&self, host: &str) -> Result<Vec<HostContainer>, HostSilent>;
}

/// Where no host is looked at.
struct Nowhere;

#[async_trait]
impl HostContainers for Nowhere {
    async fn list(&self, host: &str) -> Result<Vec<HostContainer>, HostSilent> {
        Err(HostSilent::Unreachable { host: host.to_owned(), why: "nobody looks".to_owned() })
    }
}

pub fn nowhere() -> Arc<dyn HostContainers> {
    Arc::new(Nowhere)
}

/// GET, and nothing else.
pub async fn answer(call: &Call, key: &Key, method: &Method) -> Result<Response, ApiError> {
    if method != Method::GET {
        return Err(ApiError::method_not_allowed("what is on a host is only read"));
    }
    let items = call.state.containers.list(&key.name).await?;
    let items = serde_json::to_value(items).unwrap_or(Value::Null);
    let body = json!({"kind": "HostContainerList", "apiVersion": "portreeve.dev/v1", "metadata": {}, "items": items});
    Ok(Reply::ok(body).into_response())
}
