//! DELETE: at once without finalizers, else marked and left to those who hold it.

use serde_json::{Value, json};

use super::create::{ATTEMPTS, success};
use super::error::{ApiError, Subject};
use super::handler::Call;
use super::list;
use super::query::{Query, WriteOptions, is_dry_run};
use super::reply::Reply;
use super::views::View;
use super::{ApiState, cross, namespaces, object};
use crate::model::{Key, Kind};
use crate::store::{Op, Precondition, StoreError, Txn};

/// What a delete asks for, from the query and the body.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub dry_run: bool,
    uid: Option<String>,
    version: Option<String>,
}

impl DeleteOptions {
    /// `body`: a `DeleteOptions` object, or null.
    pub fn of(query: &Query, body: &Value) -> Result<DeleteOptions, ApiError> {
        if !body.is_object() && !body.is_null() {
            return Err(ApiError::bad_request("the body of a delete is a DeleteOptions object"));
        }
        let mut dry_run = WriteOptions::of(query)?.dry_run;
        if let Some(values) = body.get("dryRun").filter(|v| !v.is_null()) {
            let bad = || ApiError::bad_request("dryRun in DeleteOptions is a list of texts");
            for value in values.as_array().ok_or_else(bad)? {
                dry_run |= is_dry_run(value.as_str().ok_or_else(bad)?)?;
            }
        }
        let policy = body.get("propagationPolicy").and_then(Value::as_str).or(query.get("propagationPolicy"));
        if let Some(other) = policy.filter(|p| !matches!(*p, "Background" | "Foreground" | "Orphan")) {
            let message =
                format!("Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\"");
            return Err(super::query::bad_option("propagationPolicy", message));
        }
        let precondition = |name: &str| {
            let value = body.get("preconditions").and_then(|p| p.get(name)).and_then(Value::as_str);
            value.filter(|v| !v.is_empty()).map(str::to_owned)
        };
        Ok(DeleteOptions { dry_run, uid: precondition("uid"), version: precondition("resourceVersion") })
    }

    pub fn check(&self, subject: &Subject, old: &Value) -> Result<(), ApiError> {
        let wanted = [("UID", "uid", &self.uid), ("ResourceVersion", "resourceVersion", &self.version)];
        for (name, field, wanted) in wanted {
            let actual = object::text(old, field);
            if let Some(wanted) = wanted.as_deref().filter(|w| *w != actual) {
                let why =
                    format!("Precondition failed: {name} in precondition: {wanted}, {name} in object meta: {actual}");
                return Err(ApiError::conflict_because(subject, &why));
            }
        }
        Ok(())
    }
}

/// DELETE of one object.
pub async fn delete(call: &Call, key: &Key, options: &DeleteOptions) -> Result<Reply, ApiError> {
    remove(&call.state, key, options).await.map(Reply::ok)
}

/// Deletes, or begins to; the answer is a `Status` when the object is gone, else the object.
async fn remove(state: &ApiState, key: &Key, options: &DeleteOptions) -> Result<Value, ApiError> {
    let subject = Subject::from(key);
    let name = key.to_string();
    for _ in 0..ATTEMPTS {
        let Some(record) = state.store.get(&name).await? else {
            return Err(ApiError::not_found(&subject));
        };
        let old = object::decode(key.kind, &record)?;
        options.check(&subject, &old)?;
        let is_namespace = key.kind == Kind::Namespace;
        let unheld = object::finalizers(&old).is_empty();
        if object::is_deleting(&old) && (is_namespace || !unheld) {
            return Ok(old);
        }
        if is_namespace {
            namespaces::check_delete(key)?;
        }
        cross::on_delete(state, key).await?;
        let mut txn =
            Txn { when: vec![Precondition::Unchanged { key: name.clone(), modified: record.modified }], then: vec![] };
        let mut new = old.clone();
        let gone = unheld && (!is_namespace || namespaces::vacate(state, key, &old, &mut txn).await?);
        if gone {
            txn.then.push(Op::Delete { key: name.clone() });
        } else {
            let generation = object::meta(&old).and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or(0);
            let meta = object::meta_mut(&mut new);
            meta.insert("deletionTimestamp".into(), object::time(state.clock.now()));
            meta.insert("deletionGracePeriodSeconds".into(), 0.into());
            meta.insert("generation".into(), (generation + 1).into());
            if is_namespace {
                namespaces::terminate(&mut new);
            }
            txn.then.push(Op::Put { key: name.clone(), value: object::encode(&new)? });
        }
        let revision = if options.dry_run { Ok(record.modified) } else { state.store.txn(txn).await };
        match revision {
            Ok(_) if gone => return Ok(success(&subject, object::text(&old, "uid"))),
            Ok(revision) => {
                object::set_version(&mut new, revision);
                return Ok(new);
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(ApiError::conflict(&subject))
}

/// DELETE of a collection: the objects that a list with the same selectors shows.
pub async fn delete_collection(call: &Call, kind: Kind, options: &DeleteOptions) -> Result<Reply, ApiError> {
    let selector = call.selector(View::Records(kind))?;
    let namespace = call.place.namespace.as_deref();
    let listing =
        list::collect(&call.state, View::Records(kind), namespace, &selector, &list::Window::default()).await?;
    let mut items = vec![];
    for object in listing.items {
        let key = object::key_of(kind, &object);
        match remove(&call.state, &key, options).await {
            Ok(_) => items.push(object),
            // Gone meanwhile is as good.
            Err(e) if e.code() == http::StatusCode::NOT_FOUND => {}
            Err(e) => return Err(e),
        }
    }
    let revision = call.state.store.revision().0.to_string();
    Ok(Reply::ok(json!({
        "kind": format!("{kind}List"), "apiVersion": kind.api_version(),
        "metadata": {"resourceVersion": revision}, "items": items,
    })))
}
