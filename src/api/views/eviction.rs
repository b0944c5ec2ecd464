//! `pods/eviction`: the instance is to move to another host. Refused with 429, which makes `kubectl drain` try again,
//! while it cannot: its data is bound to its host, or no other host can take it.
//!
//! Nothing is moved here. The mark that is left on the record is the controller's to act upon, and names the node that
//! is to be left: evicting twice is evicting once.

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::super::body::Parsed;
use super::super::delete::DeleteOptions;
use super::super::error::{ApiError, Subject};
use super::super::handler::Call;
use super::super::query::WriteOptions;
use super::super::reply::Reply;
use super::super::update::{Candidate, Part, modify};
use super::super::{admit, object};
use super::{View, pods};
use crate::model::{EVICT_ANNOTATION, Instance, Key, Kind, Time};

/// Where instances can go: the scheduler, as the API sees it.
pub trait Destinations: Send + Sync {
    /// Whether a host other than its own could take the instance.
    ///
    /// # Errors
    /// Why none can, for people.
    fn elsewhere(&self, instance: &Instance) -> Result<(), String>;
}

/// A fleet in which there is always room: for servers without a scheduler.
pub struct Anywhere;

impl Destinations for Anywhere {
    fn elsewhere(&self, _: &Instance) -> Result<(), String> {
        Ok(())
    }
}

/// POST of an Eviction.
pub async fn evict(call: &Call, name: &str, parsed: Parsed) -> Result<Reply, ApiError> {
    let body = admit::served("policy", "Eviction", "policy/v1", parsed.value)?;
    let given = object::text(&body, "name");
    admit::same_name(if given.is_empty() { name } else { given }, name)?;
    // The options of an eviction, dry run among them, are in its body.
    let options = DeleteOptions::of(&call.query, body.get("deleteOptions").unwrap_or(&Value::Null))?;
    if options.dry_run {
        call.session.deed.is_dry();
    }
    let key = Key::instance(call.place.namespace.clone().unwrap_or_default(), name);
    let subject = Subject::pod(name);
    let now = Time::from(call.state.clock.now());
    let writer = call.writer(Kind::Instance, &WriteOptions::of(&call.query)?);
    let written = modify(call, &key, Part::Main, &writer, options.dry_run, |instance| {
        let typed = Instance::deserialize(instance)
            .map_err(|e| ApiError::internal(format!("{key}: the stored object cannot be read: {e}")))?;
        let node = &typed.status.node;
        if node.is_empty() {
            return Err(ApiError::not_found(&subject));
        }
        if let Some(pod) = pods::project(instance) {
            options.check(&subject, &pod)?;
        }
        let cannot =
            |why: String| ApiError::not_now(format!("instance {}/{name} cannot leave {node}: {why}", key.namespace));
        if let Some(data) = typed.local_data() {
            return Err(cannot(format!(
                "{data} would be left behind; leave it where it is, or back the data up, delete the instance, and \
                 create it anew on another host"
            )));
        }
        call.state.destinations.elsewhere(&typed).map_err(cannot)?;
        let mut new = instance.clone();
        // Asking again is no other eviction.
        if typed.evicted_from() != Some(node) {
            pods::annotate(&mut new, EVICT_ANNOTATION, format!("{node} {now}"));
        }
        Ok(Candidate { object: new, warnings: vec![], managers: None })
    });
    written.await.map_err(|e| View::Pods.told(e, name))?;
    Ok(Reply::created(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})))
}
