//! PUT, and the one way in which a stored object changes: read, compute, check, compare and swap.
//!
//! A write that changes nothing is not written: the resourceVersion stays and no watch hears of it.

use jiff::Timestamp;
use serde_json::Value;

use super::access::policy;
use super::apply::{Managers, NODE_VIEW, Schema, Writer};
use super::body::Parsed;
use super::create::ATTEMPTS;
use super::error::{ApiError, Subject};
use super::handler::Call;
use super::query::WriteOptions;
use super::reply::Reply;
use super::{admit, cross, namespaces, object};
use crate::model::{FieldError, GROUP, Key, Kind, namespace_use_mark, schema};
use crate::store::{Op, Precondition, StoreError, Txn};

pub use super::admit::Part;

/// What a write wants the object to be.
pub struct Candidate {
    /// With the resourceVersion that the client holds to; empty or absent when it holds to none.
    pub object: Value,
    pub warnings: Vec<String>,
    /// Who owns which fields afterwards, if an apply has found it out; else the difference is tracked.
    pub managers: Option<Managers>,
}

/// Changes one object. `compute` gets the stored object and may be called again when another write came first.
pub async fn modify(
    call: &Call,
    key: &Key,
    part: Part,
    writer: &Writer,
    dry_run: bool,
    compute: impl Fn(&Value) -> Result<Candidate, ApiError>,
) -> Result<Reply, ApiError> {
    let (state, subject) = (&call.state, Subject::from(key));
    for _ in 0..ATTEMPTS {
        let Some(record) = state.store.get(&key.to_string()).await? else {
            return Err(ApiError::not_found(&subject));
        };
        let old = object::decode(key.kind, &record)?;
        let Candidate { object: mut candidate, warnings, managers } = compute(&old)?;
        let held = object::text(&candidate, "resourceVersion");
        if !held.is_empty() && held != object::text(&old, "resourceVersion") {
            return Err(ApiError::conflict(&subject));
        }
        let before = Managers::stored(&old);
        let managers = match (managers, object::take_managers(&mut candidate)) {
            (Some(managers), _) => Owners::Applied(managers),
            (None, Some(list)) if part == Part::Main && ["", NODE_VIEW].contains(&writer.subresource.as_str()) => {
                Owners::Tracked(Managers::parse(&list).map_err(|e| ApiError::invalid(&subject, &[e]))?)
            }
            (None, _) => Owners::Tracked(before.clone()),
        };
        let mut bare = old.clone();
        object::take_managers(&mut bare);
        let mut new = admit::update(key.kind, part, &bare, candidate)?;
        let changed = !object::same(&bare, &new);
        let managers = managers.after(key.kind, part, (&bare, &new), changed, &before, writer, state.clock.now());
        if !changed && managers == before {
            return Ok(Reply::ok(old).with_warnings(warnings));
        }
        object::put_managers(&mut new, &managers);
        let mut errors = admit::new_problems(key.kind, &bare, &new);
        errors.extend(cross::on_write(state, &call.user, key.kind, Some(&old), &new).await);
        if !errors.is_empty() {
            return Err(ApiError::invalid(&subject, &errors));
        }
        policy::check(&call.user, key, Some(&old), &new)?;
        if part == Part::Finalize {
            namespaces::check_finalize(state, key, &old, &new).await?;
        }
        let gone = object::is_deleting(&new) && !object::is_held(key.kind, &new);
        let value = object::encode(&new)?;
        if dry_run {
            return Ok(Reply::ok(new).with_warnings(warnings));
        }
        let name = key.to_string();
        let mut txn = Txn {
            when: vec![Precondition::Unchanged { key: name.clone(), modified: record.modified }],
            then: vec![if gone { Op::Delete { key: name } } else { Op::Put { key: name, value } }],
        };
        if gone && key.kind == Kind::Namespace {
            txn.then.push(Op::Delete { key: namespace_use_mark(&key.name) });
        }
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

/// The owners of fields, before the write's own changes.
enum Owners {
    Applied(Managers),
    Tracked(Managers),
}

impl Owners {
    /// The owners after the write.
    #[expect(clippy::too_many_arguments, reason = "all that a write is")]
    fn after(
        self,
        kind: Kind,
        part: Part,
        (old, new): (&Value, &Value),
        changed: bool,
        before: &Managers,
        writer: &Writer,
        now: Timestamp,
    ) -> Managers {
        match self {
            Owners::Applied(mut managers) => {
                if changed || !managers.same_fields(before) {
                    managers.stamp(writer, now);
                }
                managers
            }
            Owners::Tracked(mut managers) => {
                // Of an object that nobody owns anything of, nothing is tracked: a few entries would look as if the
                // rest were free for the taking.
                if changed && !managers.is_empty() {
                    let (mut old, mut new) = (old.clone(), new.clone());
                    // What the server itself notes in the status of what is written to the main path is nobody's.
                    if part == Part::Main {
                        admit::without_status(kind, &mut old);
                        admit::without_status(kind, &mut new);
                    }
                    managers.track(Schema::new(schema::schema(kind)), &old, &new, writer, now);
                }
                managers
            }
        }
    }
}

/// PUT of an object or of a part of it.
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
    modify(call, key, part, &call.writer(kind, &options), options.dry_run, |_| {
        if object::text(&body, "resourceVersion").is_empty() && needs_version(kind) {
            let error = FieldError::invalid("metadata.resourceVersion", "0x0", "must be specified for an update");
            return Err(ApiError::invalid(&Subject::from(key), &[error]));
        }
        Ok(Candidate { object: body.clone(), warnings: warnings.clone(), managers: None })
    })
    .await
}

/// Kubernetes allows unconditional updates of some core kinds only.
fn needs_version(kind: Kind) -> bool {
    kind.info().group == GROUP
}
