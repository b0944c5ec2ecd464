//! POST: new records.
//!
//! A namespaced object is only made in a namespace that is there and stays there: the transaction holds to the
//! namespace's version, and leaves a mark that a concurrent deletion of the namespace holds to in turn.

use bytes::Bytes;
use serde_json::{Value, json};

use super::access::tokens;
use super::apply::{Managers, Schema};
use super::body::Parsed;
use super::error::{ApiError, Subject};
use super::handler::Call;
use super::query::WriteOptions;
use super::reply::Reply;
use super::{ApiState, admit, cross, object};
use crate::model::{Key, Kind, schema};
use crate::store::{Op, Precondition, Record, StoreError, Txn};

/// How often a write is tried against others that come first.
pub const ATTEMPTS: usize = 16;

/// The key that changes with every object made in a namespace.
pub fn use_mark(namespace: &str) -> String {
    format!("meta/api/namespace-use/{namespace}")
}

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
        errors.extend(cross::on_write(state, kind, None, &new).await);
        if !errors.is_empty() {
            return Err(ApiError::invalid(&Subject::from(&key), &errors));
        }
        let mut txn = Txn {
            when: vec![Precondition::Absent { key: key.to_string() }],
            then: vec![Op::Put { key: key.to_string(), value: object::encode(&new)? }],
        };
        if !key.namespace.is_empty() {
            let home = open_namespace(state, &key).await?;
            txn.when.push(Precondition::Unchanged { key: home.key.to_string(), modified: home.modified });
            txn.then.push(Op::Put { key: use_mark(&key.namespace), value: Bytes::from(key.to_string()) });
        }
        let taken = if dry_run {
            state.store.get(&key.to_string()).await?.is_some().then(|| key.to_string())
        } else {
            match state.store.txn(txn).await {
                Ok(revision) => {
                    object::set_version(&mut new, revision);
                    if let Some(secret) = &secret {
                        tokens::tell(&mut new, secret);
                    }
                    None
                }
                Err(StoreError::Conflict { key, .. }) => Some(key),
                Err(e) => return Err(e.into()),
            }
        };
        match taken {
            None => return Ok(Reply::created(new)),
            Some(by) if by == key.to_string() && fixed_name => return Err(ApiError::already_exists(&(&key).into())),
            // The generated name was taken, or the namespace changed: again.
            Some(_) => {}
        }
    }
    Err(ApiError::timeout("the object could not be created: too many writes came in between"))
}

/// The namespace's record, if objects may be made in it.
async fn open_namespace(state: &ApiState, key: &Key) -> Result<Record, ApiError> {
    let home = Key::new(Kind::Namespace, "", key.namespace.clone());
    let Some(record) = state.store.get(&home.to_string()).await? else {
        return Err(ApiError::not_found(&Subject::from(&home)));
    };
    let namespace: Value = object::decode(Kind::Namespace, &record)?;
    if object::is_deleting(&namespace) {
        let why = format!("unable to create new content in namespace {} because it is being terminated", home.name);
        let cause = format!("namespace {} is being terminated", home.name);
        let refusal = ApiError::forbidden(&Subject::from(key), &why);
        return Err(refusal.with_cause("NamespaceTerminating", &cause, "metadata.namespace"));
    }
    Ok(record)
}

/// `Status` of success, as a delete answers it.
pub fn success(subject: &Subject, uid: &str) -> Value {
    let mut details = json!({"name": subject.name, "kind": subject.plural, "uid": uid});
    if !subject.group.is_empty() {
        details["group"] = subject.group.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
