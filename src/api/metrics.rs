//! `metrics.k8s.io`: what runs uses now, for `kubectl top`. Only read, never stored: nothing is measured unless somebody
//! asks, and nobody can watch it.
//!
//! ```text
//! GET ──▶ list or fetch, as of Pods and Nodes ──▶ LiveUse (serve, over the daemons) ──▶ the same items, with their use
//! ```
//!
//! An item that nothing can be told of is left out of a list, and is an error that says why when it is asked for by name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::response::Response;
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::columns::Facts;
use super::error::ApiError;
use super::handler::Call;
use super::items::Item;
use super::reply::Reply;
use super::table::Include;
use super::views::{self, View, metrics as shape};
use super::{list, negotiate, object};
use crate::model::Key;

/// What something uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// When it was measured.
    pub at: Timestamp,
    /// The time before that which the CPU is the mean of.
    pub window: Duration,
    /// Billionths of a core.
    pub nanocores: u64,
    /// Bytes of memory that cannot be taken from it: the working set.
    pub memory: u64,
}

/// Why there is no use to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoUse {
    /// It does not run.
    NotRunning,
    /// Its host did not say, or not in time.
    Unknown,
}

/// Measures. An answer comes within a few seconds, whatever the hosts do.
#[async_trait]
pub trait LiveUse: Send + Sync + 'static {
    /// Of each of these instances.
    async fn instances(&self, keys: &[Key]) -> BTreeMap<Key, Result<Use, NoUse>>;
    /// Of each of these hosts: what all instances on it use together. Those of which not all is known are left out.
    async fn hosts(&self, names: &[String]) -> BTreeMap<String, Use>;
}

/// Where nothing is measured.
struct Nobody;

#[async_trait]
impl LiveUse for Nobody {
    async fn instances(&self, _: &[Key]) -> BTreeMap<Key, Result<Use, NoUse>> {
        BTreeMap::new()
    }
    async fn hosts(&self, _: &[String]) -> BTreeMap<String, Use> {
        BTreeMap::new()
    }
}

pub fn nobody() -> Arc<dyn LiveUse> {
    Arc::new(Nobody)
}

/// GET of metrics, and nothing else.
pub async fn answer(call: &Call, view: View, method: &Method) -> Result<Response, ApiError> {
    let (form, include) = (negotiate::form(&call.headers)?, Include::of(&call.query)?);
    if method != Method::GET {
        return Err(ApiError::method_not_allowed("what is measured is only read"));
    }
    let reply = match &call.place.name {
        None if call.query.flag("watch") => {
            return Err(ApiError::method_not_allowed("live use is measured when it is asked for: list it again"));
        }
        None => {
            // No more of them is needed.
            let found =
                list::asked(call, &call.state.store, view, |mut of| json!({"metadata": of["metadata"].take()})).await?;
            let (measured, shape) = (measured(call, view, &found.items).await, list::shape(call, view, form)?);
            let items = measured.into_iter().map(|metrics| Item::made(&shape(metrics))).collect();
            list::reply(view, form, found.with(items))
        }
        Some(name) => Reply::ok(one(call, view, name).await?),
    };
    Ok(reply.render(view, form, include, &Facts::of(&call.state)))
}

/// The metrics of Pods or Nodes, of those that there are any of.
async fn measured(call: &Call, view: View, items: &[Value]) -> Vec<Value> {
    let now = call.state.clock.now();
    if view == View::NodeMetrics {
        let names: Vec<String> = items.iter().map(|node| object::text(node, "name").to_owned()).collect();
        let used = call.state.live.hosts(&names).await;
        return items
            .iter()
            .zip(&names)
            .filter_map(|(node, name)| Some(shape::of_node(node, used.get(name)?, now)))
            .collect();
    }
    let keys: Vec<Key> = items.iter().map(key).collect();
    let used = call.state.live.instances(&keys).await;
    let known = items.iter().zip(&keys).filter_map(|(pod, key)| Some((pod, used.get(key)?.as_ref().ok()?)));
    known.map(|(pod, used)| shape::of_pod(pod, used, now)).collect()
}

/// The metrics of one, or why there are none.
async fn one(call: &Call, view: View, name: &str) -> Result<Value, ApiError> {
    let namespace = call.place.namespace.as_deref();
    let shown = views::fetch(&call.state, view, namespace, name).await?;
    let now = call.state.clock.now();
    let silent = |host: &str| {
        let why = format!("the host {host:?} does not answer in time");
        ApiError::not_found_because(&view.subject(name), &why)
    };
    if view == View::NodeMetrics {
        let used = call.state.live.hosts(&[name.to_owned()]).await;
        return used.get(name).map(|used| shape::of_node(&shown, used, now)).ok_or_else(|| silent(name));
    }
    let key = key(&shown);
    match call.state.live.instances(std::slice::from_ref(&key)).await.get(&key) {
        Some(Ok(used)) => Ok(shape::of_pod(&shown, used, now)),
        Some(Err(NoUse::NotRunning)) => Err(ApiError::not_found_because(&view.subject(name), &shape::why_not(&shown))),
        Some(Err(NoUse::Unknown)) | None => {
            Err(silent(shown.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default()))
        }
    }
}

fn key(pod: &Value) -> Key {
    Key::instance(object::text(pod, "namespace"), object::text(pod, "name"))
}
