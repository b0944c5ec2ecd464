//! PUT, and the one way in which a stored object changes: read, compute, check, compare and swap.
//!
//! A write that changes nothing is not written: the resourceVersion stays and no watch hears of it.

use serde_json::Value;

use super::body::Parsed;
use super::create::ATTEMPTS;
use super::error::{ApiError, Subject};
use super::handler::Call;
use super::query::WriteOptions;
use super::reply::Reply;
use super::{ApiState, admit, cross, object};
use crate::model::{FieldError, GROUP, Key, Kind};
use crate::store::{Op, Precondition, StoreError, Txn};

pub use super::admit::Part;

/// What a write wants the object to be.
pub struct Candidate {
    /// With the resourceVersion that the client holds to; empty or absent when it holds to none.
    pub object: Value,
    pub warnings: Vec<String>,
}

/// Changes one object. `compute` gets the stored object and may be called again when another write came first.
pub async fn modify(
    state: &ApiState,
    key: &Key,
    part: Part,
    dry_run: bool,
    compute: impl Fn(&Value) -> Result<Candidate, ApiError>,
) -> Result<Reply, ApiError> {
    let subject = Subject::from(key);
    for _ in 0..ATTEMPTS {
        let Some(record) = state.store.get(&key.to_string()).await? else {
            return Err(ApiError::not_found(&subject));
        };
        let old = object::decode(key.kind, &record)?;
        let Candidate { object: candidate, warnings } = compute(&old)?;
        let held = object::text(&candidate, "resourceVersion");
        if !held.is_empty() && held != object::text(&old, "resourceVersion") {
            return Err(ApiError::conflict(&subject));
        }
        let mut new = admit::update(key.kind, part, &old, candidate)?;
        if object::same(&old, &new) {
            return Ok(Reply::ok(old).with_warnings(warnings));
        }
        let mut errors = admit::problems(key.kind, &new);
        errors.extend(cross::on_write(state, key.kind, Some(&old), &new).await);
        if !errors.is_empty() {
            return Err(ApiError::invalid(&subject, &errors));
        }
        let gone = object::is_deleting(&new) && object::finalizers(&new).is_empty();
        let value = object::encode(&new)?;
        if dry_run {
            return Ok(Reply::ok(new).with_warnings(warnings));
        }
        let name = key.to_string();
        let txn = Txn {
            when: vec![Precondition::Unchanged { key: name.clone(), modified: record.modified }],
            then: vec![if gone { Op::Delete { key: name } } else { Op::Put { key: name, value } }],
        };
        match state.store.txn(txn).await {
            Ok(revision) => {
                object::set_version(&mut new, revision);
                return Ok(Reply::ok(new).with_warnings(warnings));
            }
            Err(StoreError::Conflict { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(ApiError::conflict(&subject))
}

/// PUT of an object or of its status.
pub async fn replace(call: &Call, key: &Key, part: Part, parsed: Parsed) -> Result<Reply, ApiError> {
    let options = WriteOptions::of(&call.query)?;
    let kind = key.kind;
    let mut body = admit::typed(kind, parsed.value)?;
    admit::place(kind, &mut body, call.place.namespace.as_deref())?;
    if object::text(&body, "name").is_empty() {
        object::meta_mut(&mut body).insert("name".into(), key.name.clone().into());
    }
    admit::same_name(object::text(&body, "name"), &key.name)?;
    let warnings = admit::known_fields(kind, &mut body, &parsed.duplicates, options.fields)?;
    modify(&call.state, key, part, options.dry_run, |_| {
        if object::text(&body, "resourceVersion").is_empty() && needs_version(kind) {
            let error = FieldError::invalid("metadata.resourceVersion", "0x0", "must be specified for an update");
            return Err(ApiError::invalid(&Subject::from(key), &[error]));
        }
        Ok(Candidate { object: body.clone(), warnings: warnings.clone() })
    })
    .await
}

/// Kubernetes allows unconditional updates of some core kinds only.
fn needs_version(kind: Kind) -> bool {
    kind.info().group == GROUP
}
