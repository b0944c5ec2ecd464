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
    let object = if view == View::Records(Kind::Event) {
        "involvedObject"
    } else if view == View::EventsV1 {
        "regarding"
    } else {
        return Ok(selector);
    };
    let (its_kind, its_version) = (format!("{object}.kind"), format!("{object}.apiVersion"));
    let kind = selector.required(&its_kind).map(str::to_owned);
    if matches!(kind.as_deref(), None | Some("Pod")) {
        uid_of_instance(state, object, &mut selector, namespace).await?;
    }
    let kind = match kind.as_deref() {
        Some("Node") => Kind::DockerHost,
        Some("Pod") => Kind::Instance,
        _ => return Ok(selector),
    };
    selector.require(&its_kind, kind.info().name);
    if selector.required(&its_version) == Some("v1") {
        selector.require(&its_version, &format!("{GROUP}/{}", kind.info().version));
    }
    Ok(selector)
}

/// The uid of a Pod is that of one container; the events are of the instance. `describe pod` names no kind.
async fn uid_of_instance(
    state: &ApiState,
    object_field: &str,
    selector: &mut Selector,
    namespace: Option<&str>,
) -> Result<(), ApiError> {
    let its_uid = format!("{object_field}.uid");
    let required = |field: &str| selector.required(&format!("{object_field}.{field}")).filter(|v| !v.is_empty());
    let (Some(uid), Some(name)) = (required("uid"), required("name")) else {
        return Ok(());
    };
    let namespace = required("namespace").or(namespace).unwrap_or_default();
    let Some(record) = state.store.get(&Key::instance(namespace, name).to_string()).await? else { return Ok(()) };
    let instance = object::decode(Kind::Instance, &record)?;
    if pods::project(&instance).is_some_and(|pod| object::text(&pod, "uid") == uid) {
        selector.require(&its_uid, object::text(&instance, "uid"));
    }
    Ok(())
}
