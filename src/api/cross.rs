//! Admission across objects: what one object may not claim because another has it, and what may not go because
//! another needs it. Reads the cache, so it is a courtesy to users and no guarantee; the controllers and the proxy
//! have rules of their own for two claims on one thing.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::ApiState;
use super::error::{ApiError, Subject};
use crate::model::{FieldError, Instance, Key, Kind};

const CATCH_UP: Duration = Duration::from_secs(2);

/// Problems that a write would make with other objects. `old`: the stored object of an update, whose claims stand.
pub async fn on_write(state: &ApiState, kind: Kind, old: Option<&Value>, new: &Value) -> Vec<FieldError> {
    if kind != Kind::Instance {
        return vec![];
    }
    let decode = |v: &Value| Instance::deserialize(v).ok();
    let Some(new) = decode(new) else { return vec![] };
    let old = old.and_then(decode);
    let adopts = new.spec.adopt.is_some() && old.is_none();
    let claims = adopts || !new.spec.routes.is_empty() || new.spec.ports.iter().any(|p| p.host_port.is_some());
    if claims {
        catch_up(state).await;
    }
    let mut errors = vec![];
    routes(state, old.as_ref(), &new, &mut errors);
    host_ports(state, old.as_ref(), &new, &mut errors);
    if adopts {
        adoption(state, &new, &mut errors);
    }
    errors
}

/// Lets the cache see what has been written so far, so that of two writes in a row the second is refused. A cache that
/// does not keep up costs the check its sharpness, never the write its success.
async fn catch_up(state: &ApiState) {
    drop(tokio::time::timeout(CATCH_UP, state.cache.wait_for(state.store.revision())).await);
}

fn same_object(a: &Instance, b: &Instance) -> bool {
    a.metadata.namespace == b.metadata.namespace && a.metadata.name == b.metadata.name
}

/// A host that is written down explicitly may not be another instance's.
fn routes(state: &ApiState, old: Option<&Instance>, new: &Instance, errors: &mut Vec<FieldError>) {
    if new.spec.routes.is_empty() {
        return;
    }
    let before: Vec<String> =
        old.map(|o| o.resolved_routes(&state.domain)).unwrap_or_default().into_iter().map(|r| r.host).collect();
    for (i, route) in new.resolved_routes(&state.domain).iter().enumerate() {
        if before.contains(&route.host) {
            continue;
        }
        if let Some(owner) = state.cache.route(&route.host).filter(|o| !same_object(o, new)) {
            let why = format!("already claimed by instance {}/{}", owner.metadata.namespace, owner.metadata.name);
            errors.push(FieldError::invalid(format!("spec.routes[{i}].host"), format!("{:?}", route.host), &why));
        }
    }
}

/// A fixed host port may not be one that another instance of the same host has fixed or bound.
fn host_ports(state: &ApiState, old: Option<&Instance>, new: &Instance, errors: &mut Vec<FieldError>) {
    let node = |i: &Instance| match i.status.node.as_str() {
        "" if i.to_adopt().is_some() => i.to_adopt().map(|adopt| adopt.node.clone()).unwrap_or_default(),
        "" => i.spec.placement.node.clone(),
        bound => bound.to_owned(),
    };
    let home = node(new);
    if home.is_empty() {
        return;
    }
    for (i, port) in new.spec.ports.iter().enumerate() {
        let Some(wanted) = port.host_port else { continue };
        if old.is_some_and(|o| o.spec.ports.iter().any(|p| p.host_port == Some(wanted))) {
            continue;
        }
        let owner = state.cache.instances().into_iter().find(|other| {
            !same_object(other, new)
                && node(other) == home
                && (other.spec.ports.iter().any(|p| p.host_port == Some(wanted))
                    || other.status.ports.iter().any(|p| p.host_port == wanted))
        });
        if let Some(owner) = owner {
            let why =
                format!("already claimed by instance {}/{} on {home}", owner.metadata.namespace, owner.metadata.name);
            errors.push(FieldError::invalid(format!("spec.ports[{i}].hostPort"), wanted, &why));
        }
    }
}

/// One container is one instance's, on a host that there is.
fn adoption(state: &ApiState, new: &Instance, errors: &mut Vec<FieldError>) {
    let Some(adopt) = &new.spec.adopt else { return };
    if state.cache.host(&adopt.node).is_none() {
        errors.push(FieldError::invalid("spec.adopt.node", format!("{:?}", adopt.node), "there is no such DockerHost"));
    }
    let owner = state.cache.instances().into_iter().find(|i| !same_object(i, new) && i.claims(&adopt.container_id));
    if let Some(owner) = owner {
        let why = format!("already claimed by instance {}/{}", owner.metadata.namespace, owner.metadata.name);
        errors.push(FieldError::invalid("spec.adopt.containerID", format!("{:?}", adopt.container_id), &why));
    }
}

/// Refuses to delete what others hold on to.
pub async fn on_delete(state: &ApiState, key: &Key) -> Result<(), ApiError> {
    if key.kind != Kind::DockerHost {
        return Ok(());
    }
    catch_up(state).await;
    let bound = state.cache.on_node(&key.name);
    if let Some(first) = bound.first() {
        let why = format!(
            "{} instances are bound to it, such as {}/{}; move or delete them first",
            bound.len(),
            first.metadata.namespace,
            first.metadata.name
        );
        return Err(ApiError::conflict_because(&Subject::from(key), &why));
    }
    Ok(())
}
