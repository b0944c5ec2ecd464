//! Admission across objects: what one object may not claim because another has it, and what may not go because
//! another needs it. Reads the cache, so it is a courtesy to users and no guarantee; the controllers and the proxy
//! have rules of their own for two claims on one thing.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::ApiState;
use super::access::authenticate::User;
use super::access::authorize::{Attributes, decide};
use super::error::{ApiError, Subject};
use crate::model::{FieldError, Instance, Key, Kind};

const CATCH_UP: Duration = Duration::from_secs(2);

/// A write, as it is looked at beside other objects.
struct Write<'a> {
    state: &'a ApiState,
    user: &'a User,
    /// The stored object of an update, whose claims stand.
    old: Option<&'a Instance>,
    new: &'a Instance,
}

/// Problems that a user's write would make with other objects. `old`: the stored object of an update.
pub async fn on_write(state: &ApiState, user: &User, kind: Kind, old: Option<&Value>, new: &Value) -> Vec<FieldError> {
    if kind != Kind::Instance {
        return vec![];
    }
    let decode = |v: &Value| Instance::deserialize(v).ok();
    let Some(new) = decode(new) else { return vec![] };
    let old = old.and_then(decode);
    let write = Write { state, user, old: old.as_ref(), new: &new };
    let (adopts, hosts) = (new.spec.adopt.is_some() && old.is_none(), write.new_hosts());
    if adopts || !hosts.is_empty() || new.spec.ports.iter().any(|p| p.host_port.is_some()) {
        catch_up(state).await;
    }
    let mut errors = vec![];
    write.routes(hosts, &mut errors);
    write.host_ports(&mut errors);
    if adopts {
        write.adoption(&mut errors);
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

impl Write<'_> {
    /// The hosts that it claims and did not claim before: those stand, so that one who has to share can be edited otherwise.
    /// Each with the index of its route.
    fn new_hosts(&self) -> Vec<(usize, String)> {
        let of = |i: &Instance| i.resolved_routes(&self.state.domain).into_iter().map(|r| r.host).collect::<Vec<_>>();
        let before = self.old.map(of).unwrap_or_default();
        of(self.new).into_iter().enumerate().filter(|(_, host)| !before.contains(host)).collect()
    }

    /// No host may be another instance's, be it written down or the one that it has by its name.
    fn routes(&self, hosts: Vec<(usize, String)>, errors: &mut Vec<FieldError>) {
        for (i, host) in hosts {
            let owner = self.state.cache.route(&host).filter(|o| !same_object(o, self.new));
            let Some(owner) = owner else { continue };
            let mut why = self.claimed_by(&owner);
            let field = match self.new.spec.routes.get(i) {
                None => "spec.routes".to_owned(),
                Some(_) => format!("spec.routes[{i}].host"),
            };
            if self.new.spec.routes.get(i).is_none_or(|route| route.host.is_empty()) {
                why.push_str(
                    "; it is the default, {name}.{domain}: give the route a host of its own, or take another name",
                );
            }
            errors.push(FieldError::invalid(field, format!("{host:?}"), &why));
        }
    }

    /// Whose it is, for those alone who may see that one.
    fn claimed_by(&self, owner: &Instance) -> String {
        let (namespace, name) = (&owner.metadata.namespace, &owner.metadata.name);
        let info = Kind::Instance.info();
        let seen = Attributes { verb: "get", group: info.group, resource: info.plural, namespace, name };
        if decide(self.user, &seen).allowed {
            format!("already claimed by instance {namespace}/{name}")
        } else {
            "already claimed by another instance".to_owned()
        }
    }

    /// A fixed host port may not be one that another instance of the same host has fixed or bound.
    fn host_ports(&self, errors: &mut Vec<FieldError>) {
        let new = self.new;
        let home = node(new);
        if home.is_empty() {
            return;
        }
        for (i, port) in new.spec.ports.iter().enumerate() {
            let Some(wanted) = port.host_port else { continue };
            if self.old.is_some_and(|o| o.spec.ports.iter().any(|p| p.host_port == Some(wanted))) {
                continue;
            }
            let owner = self.state.cache.instances().into_iter().find(|other| {
                !same_object(other, new)
                    && node(other) == home
                    && (other.spec.ports.iter().any(|p| p.host_port == Some(wanted))
                        || other.status.ports.iter().any(|p| p.host_port == wanted))
            });
            if let Some(owner) = owner {
                let why = format!("{} on {home}", self.claimed_by(&owner));
                errors.push(FieldError::invalid(format!("spec.ports[{i}].hostPort"), wanted, &why));
            }
        }
    }

    /// One container is one instance's, on a host that there is.
    fn adoption(&self, errors: &mut Vec<FieldError>) {
        let Some(adopt) = &self.new.spec.adopt else { return };
        let cache = &self.state.cache;
        if cache.host(&adopt.node).is_none() {
            let (field, value) = ("spec.adopt.node", format!("{:?}", adopt.node));
            errors.push(FieldError::invalid(field, value, "there is no such DockerHost"));
        }
        let mut others = cache.instances().into_iter().filter(|i| !same_object(i, self.new));
        if let Some(owner) = others.find(|i| i.claims(&adopt.container_id)) {
            let (field, value) = ("spec.adopt.containerID", format!("{:?}", adopt.container_id));
            errors.push(FieldError::invalid(field, value, &self.claimed_by(&owner)));
        }
    }
}

/// The host that an instance is on, or is to be on; empty if any will do.
fn node(instance: &Instance) -> String {
    match instance.status.node.as_str() {
        "" => match instance.to_adopt() {
            Some(adopt) => adopt.node.clone(),
            None => instance.spec.placement.node.clone(),
        },
        bound => bound.to_owned(),
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
