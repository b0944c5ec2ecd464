//! What only Namespaces have: nothing comes into one that ends, and one ends when nothing is left in it.
//!
//! DELETE takes an empty one away at once and marks any other; the rest is the namespace controller's. The rules that
//! make this safe against objects made at the same moment are in `model::namespace`.

use serde_json::{Value, json};

use super::ApiState;
use super::error::{ApiError, Subject};
use super::object;
use crate::model::{
    FieldError, Key, Kind, NAMESPACE_FINALIZER, SYSTEM_NAMESPACE, TERMINATING, is_label_key, namespace_use_mark,
};
use crate::store::splice;
use crate::store::{ListRequest, Op, Precondition, Record, StoreError, Txn};

/// The most Events that go along with an empty namespace in one transaction.
const MOST_EVENTS: usize = 100;

/// The record of the namespace of `key`, if objects may be made in it.
pub async fn open(state: &ApiState, key: &Key) -> Result<Record, ApiError> {
    let home = Key::new(Kind::Namespace, "", key.namespace.clone());
    let Some(record) = state.store.get(&home.to_string()).await? else {
        return Err(ApiError::not_found(&Subject::from(&home)));
    };
    // Asked at each create: only what matters is read.
    let since = splice::at(&record.value, &["metadata", "deletionTimestamp"])
        .map_err(|e| ApiError::internal(format!("{}: the stored object cannot be read: {e}", record.key)))?;
    if since.is_some_and(|since| !matches!(since, b"null" | b"\"\"")) {
        let why = format!("unable to create new content in namespace {} because it is being terminated", home.name);
        let cause = format!("namespace {} is being terminated", home.name);
        let refusal = ApiError::forbidden(&Subject::from(key), &why);
        return Err(refusal.with_cause("NamespaceTerminating", &cause, "metadata.namespace"));
    }
    Ok(record)
}

/// Refuses to delete those that must stay.
pub fn check_delete(key: &Key) -> Result<(), ApiError> {
    if key.name == "default" || key.name == SYSTEM_NAMESPACE {
        return Err(ApiError::forbidden(&Subject::from(key), "this namespace may not be deleted"));
    }
    Ok(())
}

/// Makes a transaction that deletes a namespace safe, and `true`, when it is empty but for some Events and nobody else
/// holds it; else `false`, and the transaction is as before.
pub async fn vacate(state: &ApiState, key: &Key, old: &Value, txn: &mut Txn) -> Result<bool, ApiError> {
    if finalizers(old).iter().any(|f| *f != NAMESPACE_FINALIZER) {
        return Ok(false);
    }
    // The mark first: whatever is made after this changes it.
    let mark = namespace_use_mark(&key.name);
    let unused = match state.store.get(&mark).await? {
        Some(Record { modified, .. }) => Precondition::Unchanged { key: mark.clone(), modified },
        None => Precondition::Absent { key: mark.clone() },
    };
    if !contents(state, key, |kind| kind != Kind::Event).await?.is_empty() {
        return Ok(false);
    }
    let prefix = Kind::Event.prefix(Some(&key.name));
    let events = state.sealed.list(ListRequest { prefix, limit: Some(MOST_EVENTS), ..Default::default() }).await?;
    if events.more {
        return Ok(false);
    }
    for record in &events.records {
        if object::is_held(Kind::Event, &object::decode(Kind::Event, record)?) {
            return Ok(false);
        }
    }
    txn.then.extend(events.records.iter().map(|record| Op::Delete { key: record.key.to_string() }));
    txn.when.push(unused);
    txn.then.push(Op::Delete { key: mark });
    Ok(true)
}

/// How many objects of each kind are in a namespace, such as `2 instances`.
async fn contents(state: &ApiState, key: &Key, of: impl Fn(Kind) -> bool) -> Result<Vec<String>, StoreError> {
    let mut found = vec![];
    for kind in Kind::all().filter(|k| k.info().namespaced && of(*k)) {
        let prefix = kind.prefix(Some(&key.name));
        let request = ListRequest { prefix, limit: Some(1), count: true, ..Default::default() };
        let page = state.sealed.list(request).await?;
        if !page.records.is_empty() {
            let count = page.records.len() + page.remaining.unwrap_or_default();
            found.push(format!("{count} {}", kind.info().plural));
        }
    }
    Ok(found)
}

/// A namespace that ends is let go of only when it is empty: its contents would be nobody's, and their containers
/// would run on.
pub async fn check_finalize(state: &ApiState, key: &Key, old: &Value, new: &Value) -> Result<(), ApiError> {
    let held = |object| finalizers(object).contains(&NAMESPACE_FINALIZER);
    if !held(old) || held(new) {
        return Ok(());
    }
    let left = contents(state, key, |_| true).await?;
    if left.is_empty() {
        return Ok(());
    }
    let why = format!(
        "the finalizer {NAMESPACE_FINALIZER:?} stays until the namespace is empty; it holds {}: what does not go has \
         finalizers of its own",
        left.join(", ")
    );
    Err(ApiError::conflict_because(&Subject::from(key), &why))
}

fn finalizers(namespace: &Value) -> Vec<&str> {
    let list = namespace.pointer("/spec/finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What every Namespace carries. What is not as it should be stays, for the schema to refuse.
pub fn own_marks(object: &mut Value) {
    let name = object::text(object, "name").to_owned();
    let labels = object::meta_mut(object).entry("labels").or_insert_with(|| json!({}));
    if labels.is_object() {
        labels["kubernetes.io/metadata.name"] = name.into();
    }
    let ends = object::is_deleting(object);
    if !ends {
        hold(object);
    }
    if object.get("status").is_none_or(|s| s.is_object() && s.get("phase").is_none()) {
        object["status"]["phase"] = phase(ends).into();
    }
}

/// Puts our own finalizer on it.
fn hold(object: &mut Value) {
    if object.get("spec").is_some_and(|s| !s.is_object()) || finalizers(object).contains(&NAMESPACE_FINALIZER) {
        return;
    }
    match object["spec"].get_mut("finalizers") {
        None => object["spec"]["finalizers"] = json!([NAMESPACE_FINALIZER]),
        Some(Value::Array(list)) => list.push(NAMESPACE_FINALIZER.into()),
        Some(_) => {}
    }
}

/// Marks the stored object as one that ends.
pub fn terminate(object: &mut Value) {
    hold(object);
    if object.get("status").is_some_and(Value::is_object) {
        object["status"]["phase"] = TERMINATING.into();
    } else {
        object["status"] = json!({"phase": TERMINATING});
    }
}

fn phase(ends: bool) -> &'static str {
    if ends { TERMINATING } else { "Active" }
}

/// The phase follows from the metadata, and is nobody's to choose.
pub fn phase_problem(old: &Value, new: &Value) -> Option<FieldError> {
    let at = |o: &Value| o.pointer("/status/phase").cloned();
    let expected = phase(object::is_deleting(old));
    let given = at(new).filter(|given| at(old).as_ref() != Some(given) && given != expected)?;
    Some(FieldError::invalid("status.phase", given, &format!("must be {expected:?}: deletion alone changes it")))
}

pub fn problems(object: &Value) -> Vec<FieldError> {
    let named = finalizers(object).into_iter().enumerate().filter(|(_, f)| !is_label_key(f));
    let problem =
        |(i, f)| FieldError::invalid(format!("spec.finalizers[{i}]"), format!("{f:?}"), "must be a qualified name");
    named.map(problem).collect()
}
