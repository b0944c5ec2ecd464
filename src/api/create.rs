//! POST: new records.
//!
//! A namespaced object is only made in a namespace that is there and stays there: the transaction holds to the
//! namespace's version, and leaves a mark that a concurrent deletion of the namespace holds to in turn.

use bytes::Bytes;
use serde_json::{Value, json};

use super::access::{policy, tokens};
use super::apply::{Managers, Schema};
use super::body::Parsed;
use super::error::{ApiError, Subject};
use super::handler::Call;
use super::query::WriteOptions;
use super::reply::Reply;
use super::{admit, cross, namespaces, object};
use crate::model::{Kind, namespace_use_mark, schema};
use crate::store::{Op, Precondition, StoreError, Txn};

/// How often a write is tried against others that come first.
pub const ATTEMPTS: usize = 16;

pub async fn create(call: &Call, kind: Kind, parsed: Parsed) -> Result<Reply, ApiError> {
    let options = WriteOptions::of(&call.query)?;
    let namespace = call.place.namespace.as_deref();
    let mut body = admit::typed(kind, parsed.value)?;
    admit::place(kind, &mut body, namespace)?;
    let warnings = admit::known_fields(kind, &mut body, &parsed.duplicates, options.fields)?;
    object::take_managers(&mut body);
    admit::without_status(kind, &mut body);
    let mut managers = Managers::default();
    // The metadata is not anyone's, only what is in it.
    let nothing = json!({"metadata": {}});
    let writer = call.writer(kind, &options);
    managers.track(Schema::new(schema::schema(kind)), &nothing, &body, &writer, call.state.clock.now());
    store(call, kind, &body, &managers, options.dry_run).await.map(|reply| reply.with_warnings(warnings))
}

/// Makes a new object of a body that has been checked for unknown fields. What the server adds is nobody's.
pub async fn store(
    call: &Call,
    kind: Kind,
    body: &Value,
    managers: &Managers,
    dry_run: bool,
) -> Result<Reply, ApiError> {
    let state = &call.state;
    let fixed_name = !object::text(body, "name").is_empty();
    for _ in 0..ATTEMPTS {
        let mut new = body.clone();
        admit::create(kind, &mut new, state.clock.now())?;
        call.session.deed.names(object::text(&new, "name"));
        let secret = match kind {
            Kind::AccessToken => Some(tokens::issue(&mut new)?),
            _ => None,
        };
        object::put_managers(&mut new, managers);
        let key = object::key_of(kind, &new);
        let mut errors = admit::problems(kind, &new);
        errors.extend(cross::on_write(state, &call.user, kind, None, &new).await);
        if !errors.is_empty() {
            return Err(ApiError::invalid(&Subject::from(&key), &errors));
        }
        policy::check(&call.user, &key, None, &new)?;
        let mut txn = Txn {
            when: vec![Precondition::Absent { key: key.to_string() }],
            then: vec![Op::Put { key: key.to_string(), value: object::encode(&new)? }],
        };
        if !key.namespace.is_empty() {
            let home = namespaces::open(state, &key).await?;
            txn.when.push(Precondition::Unchanged { key: home.key.to_string(), modified: home.modified });
            txn.then.push(Op::Put { key: namespace_use_mark(&key.namespace), value: Bytes::from(key.to_string()) });
        }
        let taken = if dry_run {
            state.store.get(&key.to_string()).await?.map(|record| (key.to_string(), Some(record)))
        } else {
            match state.store.txn(txn).await {
                Ok(revision) => {
                    object::set_version(&mut new, revision);
                    if let Some(secret) = &secret {
                        tokens::tell(&mut new, secret);
                    }
                    None
                }
                Err(StoreError::Conflict { key, current }) => Some((key, current.map(|record| *record))),
                Err(e) => return Err(e.into()),
            }
        };
        match taken {
            None => return Ok(Reply::created(new)),
            Some((by, Some(there))) if by == key.to_string() && fixed_name => {
                let deleting = object::is_deleting(&object::decode(kind, &there)?);
                return Err(ApiError::already_exists(&(&key).into(), deleting));
            }
            // The generated name was taken, it has gone meanwhile, or the namespace changed: again.
            Some(_) => {}
        }
    }
    Err(ApiError::timeout("the object could not be created: too many writes came in between"))
}

/// `Status` of success, as a delete answers it.
pub fn success(subject: &Subject, uid: &str) -> Value {
    let mut details = json!({"name": subject.name, "kind": subject.plural, "uid": uid});
    if !subject.group.is_empty() {
        details["group"] = subject.group.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
