//! Events of an object, asked for by the name of its view: what happened to a Node happened to its DockerHost, and what
//! happened to a Pod to its Instance.
//!
//! `kubectl describe node` and `describe pod` select events by `involvedObject`; the recorded events name our own kinds.

use super::super::ApiState;
use super::super::error::ApiError;
use super::super::selector::Selector;
use super::{View, object, pods};
use crate::model::{GROUP, Key, Kind};

/// The selector of events with the view's kind, version and uid put in the terms of the records. `namespace`: the one
/// of the request's path.
pub async fn aliased(
    state: &ApiState,
    view: View,
    mut selector: Selector,
    namespace: Option<&str>,
) -> Result<Selector, ApiError> {
    if view != View::Records(Kind::Event) {
        return Ok(selector);
    }
    let kind = match selector.required("involvedObject.kind") {
        Some("Node") => Kind::DockerHost,
        Some("Pod") => Kind::Instance,
        _ => return Ok(selector),
    };
    if kind == Kind::Instance
        && let (Some(uid), Some(name)) =
            (selector.required("involvedObject.uid"), selector.required("involvedObject.name"))
    {
        let namespace = selector.required("involvedObject.namespace").or(namespace).unwrap_or_default();
        let record = state.store.get(&Key::instance(namespace, name).to_string()).await?;
        let instance = record.map(|r| object::decode(Kind::Instance, &r)).transpose()?;
        let pod = instance.as_ref().and_then(pods::project);
        // The uid of a Pod is that of one container; the events are of the instance.
        if let (Some(instance), Some(pod)) = (instance, pod)
            && object::text(&pod, "uid") == uid
        {
            selector.require("involvedObject.uid", object::text(&instance, "uid"));
        }
    }
    selector.require("involvedObject.kind", kind.info().name);
    if selector.required("involvedObject.apiVersion") == Some("v1") {
        selector.require("involvedObject.apiVersion", &format!("{GROUP}/{}", kind.info().version));
    }
    Ok(selector)
}
