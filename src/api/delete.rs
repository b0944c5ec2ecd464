//! DELETE: at once without finalizers, else marked and left to those who hold it.
//!
//! What is deleted is read and written as it is stored, so that a Secret whose seal does not open can go.

use futures::{StreamExt, stream};
use http::StatusCode;
use serde_json::{Value, json};

use super::create::{ATTEMPTS, success};
use super::error::{ApiError, Subject};
use super::handler::Call;
use super::list;
use super::query::{Query, WriteOptions, bad_option, is_dry_run};
use super::reply::Reply;
use super::views::View;
use super::{ApiState, cross, namespaces, object};
use crate::model::{Key, Kind, Time};
use crate::store::removal::{Cascade, MARKS, Removal, marked, removal};
use crate::store::{Op, Precondition, Record, StoreError, Txn};

/// Objects of a collection that are deleted at a time.
const AT_ONCE: usize = 16;
/// Most refusals of a collection that are told one by one.
const MOST_TOLD: usize = 10;

/// What a delete asks for, from the query and the body.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub dry_run: bool,
    /// What becomes of those who name it as their owner; `None`: what is noted in the object, or they go, too.
    cascade: Option<Cascade>,
    uid: Option<String>,
    version: Option<String>,
}

impl DeleteOptions {
    /// `body`: a `DeleteOptions` object, or null.
    pub fn of(query: &Query, body: &Value) -> Result<DeleteOptions, ApiError> {
        if !body.is_object() && !body.is_null() {
            return Err(ApiError::bad_request("the body of a delete is a DeleteOptions object"));
        }
        let kind = body.get("kind").and_then(Value::as_str).filter(|kind| !matches!(*kind, "" | "DeleteOptions"));
        if let Some(kind) = kind {
            return Err(ApiError::bad_request(format!("the body of a delete is a DeleteOptions object, not a {kind}")));
        }
        // How long an end may take is for the Instance to say; what is no number of seconds is no delete's option.
        query.signed("gracePeriodSeconds")?;
        if body.get("gracePeriodSeconds").is_some_and(|seconds| !seconds.is_null() && !seconds.is_i64()) {
            return Err(ApiError::bad_request("gracePeriodSeconds in DeleteOptions is a number of seconds"));
        }
        let mut dry_run = WriteOptions::of(query)?.dry_run;
        if let Some(values) = body.get("dryRun").filter(|v| !v.is_null()) {
            let bad = || ApiError::bad_request("dryRun in DeleteOptions is a list of texts");
            for value in values.as_array().ok_or_else(bad)? {
                dry_run |= is_dry_run(value.as_str().ok_or_else(bad)?)?;
            }
        }
        let precondition = |name: &str| {
            let value = body.get("preconditions").and_then(|p| p.get(name)).and_then(Value::as_str);
            value.filter(|v| !v.is_empty()).map(str::to_owned)
        };
        let (uid, version) = (precondition("uid"), precondition("resourceVersion"));
        Ok(DeleteOptions { dry_run, cascade: cascade(query, body)?, uid, version })
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

/// `propagationPolicy`, and the word for it before there was one.
fn cascade(query: &Query, body: &Value) -> Result<Option<Cascade>, ApiError> {
    let policy = body.get("propagationPolicy").and_then(Value::as_str).or(query.get("propagationPolicy"));
    let orphans = match body.get("orphanDependents") {
        Some(Value::Bool(orphans)) => Some(*orphans),
        None | Some(Value::Null) => None,
        Some(_) => return Err(ApiError::bad_request("orphanDependents in DeleteOptions is true or false")),
    };
    Ok(Some(match (policy, orphans) {
        (Some(_), Some(_)) => {
            let message = "Invalid value: orphanDependents and deletionPropagation cannot be both set".to_owned();
            return Err(bad_option("propagationPolicy", message));
        }
        (Some("Background"), None) | (None, Some(false)) => Cascade::Background,
        (Some("Foreground"), None) => Cascade::Foreground,
        (Some("Orphan"), None) | (None, Some(true)) => Cascade::Orphan,
        (Some(other), None) => {
            let message =
                format!("Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\"");
            return Err(bad_option("propagationPolicy", message));
        }
        (None, None) => return Ok(None),
    }))
}

/// What a deletion has come to.
enum Removed {
    /// The object as it was.
    Gone(Value),
    /// The object as it waits for its finalizers.
    Marked(Value),
}

/// DELETE of one object: the answer is a `Status` when it is gone, else the object.
pub async fn delete(call: &Call, key: &Key, options: &DeleteOptions) -> Result<Reply, ApiError> {
    let reply = match remove(&call.state, key, options).await? {
        Removed::Gone(object) => success(&Subject::from(key), object::text(&object, "uid")),
        Removed::Marked(object) => object,
    };
    Ok(Reply::ok(reply))
}

/// Deletes, or begins to.
async fn remove(state: &ApiState, key: &Key, options: &DeleteOptions) -> Result<Removed, ApiError> {
    let subject = Subject::from(key);
    let name = key.to_string();
    for _ in 0..ATTEMPTS {
        let Some(record) = state.sealed.get(&name).await? else {
            return Err(ApiError::not_found(&subject));
        };
        let Some(mut shown) = shown(state, key.kind, &record).await? else { continue };
        options.check(&subject, &shown)?;
        let now = Time::from(state.clock.now()).to_string();
        let is_namespace = key.kind == Kind::Namespace;
        // A Namespace takes along what is in it, whatever is asked for.
        let Removal { op, finalizers } = removal(&record, &now, options.cascade.filter(|_| !is_namespace))?;
        if object::is_deleting(&shown) && (is_namespace || op.is_none()) {
            return Ok(Removed::Marked(shown));
        }
        if is_namespace {
            namespaces::check_delete(key)?;
        }
        cross::on_delete(state, key).await?;
        let mut txn =
            Txn { when: vec![Precondition::Unchanged { key: name.clone(), modified: record.modified }], then: vec![] };
        let gone = finalizers.is_empty() && (!is_namespace || namespaces::vacate(state, key, &shown, &mut txn).await?);
        if !gone {
            let value = match &op {
                Some(Op::Put { value, .. }) => value.clone(),
                _ => marked(&record, &now)?,
            };
            let marked = object::decode(key.kind, &Record { value, ..record.clone() })?;
            for mark in MARKS.into_iter().chain(["finalizers"]) {
                if let Some(value) = object::meta(&marked).and_then(|m| m.get(mark)) {
                    object::meta_mut(&mut shown).insert(mark.into(), value.clone());
                }
            }
        }
        if is_namespace && !gone {
            namespaces::terminate(&mut shown);
            txn.then.push(Op::Put { key: name.clone(), value: object::encode(&shown)? });
        } else {
            txn.then.extend(op);
        }
        // Past the seal, which holds to nothing that is written here.
        let revision = if options.dry_run { Ok(record.modified) } else { state.sealed.txn(txn).await };
        match revision {
            Ok(_) if gone => return Ok(Removed::Gone(shown)),
            Ok(revision) => {
                object::set_version(&mut shown, revision);
                return Ok(Removed::Marked(shown));
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(ApiError::conflict(&subject))
}

/// The object of a record that was read sealed, as clients see it: of one whose seal does not open, all but what is
/// sealed. `None` when it has changed meanwhile.
async fn shown(state: &ApiState, kind: Kind, record: &Record) -> Result<Option<Value>, ApiError> {
    match state.store.get(&record.key).await {
        Ok(opened) => {
            opened.filter(|o| o.modified == record.modified).map(|opened| object::decode(kind, &opened)).transpose()
        }
        Err(StoreError::Sealed { .. }) => {
            let mut object = object::decode(kind, record)?;
            if let Some(fields) = object.as_object_mut() {
                fields.retain(|name, _| !matches!(name.as_str(), "sealed" | "keys"));
            }
            Ok(Some(object))
        }
        Err(e) => Err(e.into()),
    }
}

/// DELETE of a collection: the objects that a list with the same query shows, and no others. One that is refused keeps
/// no other from going; what was refused is told at the end.
pub async fn delete_collection(call: &Call, view: View, options: &DeleteOptions) -> Result<Reply, ApiError> {
    let (kind, state) = (view.source(), &call.state);
    let listing = list::asked(call, &state.sealed, view, |object| object::key_of(kind, &object)).await?;
    let meta = list::list_meta(&listing);
    let (count, keys) = (listing.items.len(), listing.items.into_iter());
    // Several at once, so that they share the store's syncs.
    let mut removed = stream::iter(keys)
        .map(|key| async move {
            let removed = remove(state, &key, options).await;
            (key.name, removed)
        })
        .buffered(AT_ONCE);
    let (mut items, mut refused) = (vec![], vec![]);
    while let Some((name, removed)) = removed.next().await {
        match removed {
            Ok(Removed::Gone(object) | Removed::Marked(object)) => items.push(object),
            // Gone meanwhile is as good.
            Err(e) if e.code() == StatusCode::NOT_FOUND => {}
            // The store takes nothing: it will not take the others either.
            Err(e) if [StatusCode::SERVICE_UNAVAILABLE, StatusCode::INSUFFICIENT_STORAGE].contains(&e.code()) => {
                return Err(e);
            }
            Err(e) => refused.push((name, e)),
        }
    }
    if !refused.is_empty() {
        return Err(refusal(kind, count, refused));
    }
    Ok(Reply::ok(json!({
        "kind": format!("{kind}List"), "apiVersion": kind.api_version(), "metadata": meta, "items": items,
    })))
}

/// Why some of a collection are still there. Its code is that of the first.
fn refusal(kind: Kind, count: usize, mut refused: Vec<(String, ApiError)>) -> ApiError {
    if refused.len() == 1 && count == 1 {
        return refused.remove(0).1;
    }
    let (first, many) = (&refused[0].1, refused.len());
    let texts: Vec<String> = refused.iter().take(MOST_TOLD).map(|(_, e)| e.to_string()).collect();
    let more = if many > MOST_TOLD { format!("; and {} more", many - MOST_TOLD) } else { String::new() };
    let message =
        format!("{many} of {count} {} were not deleted: {}{more}", Subject::of(kind, "").qualified(), texts.join("; "));
    let error = ApiError::new(first.code(), first.reason(), message);
    let told = refused.iter().take(MOST_TOLD);
    told.fold(error, |error, (name, e)| error.with_cause(e.reason(), &e.to_string(), name))
}
