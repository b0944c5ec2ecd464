//! Values of Secrets and ConfigMaps for a container: whether all are there, which the plan decides on, and fetching
//! them, which happens only right before a container is made.
//!
//! ```text
//! cache ──names of values──▶ missing (pure) ──▶ plan: no container is made without them
//! opening store ──values──▶ open ──▶ ContainerSpec::env_opened ──▶ daemon
//! ```
//!
//! Invariant: a value is in no error, label, event, log or status; only its key is named.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::docker::engine::{ContainerSpec, EngineError, EngineErrorKind, EnvSource};
use crate::docker::login::{self, Login};
use crate::model::{ConfigMap, DOCKER_CONFIG, Instance, Key, Kind, Secret, SecretText, is_variable_name};
use crate::store::{Store, StoreError};

/// The names of the values of Secrets and ConfigMaps; what is not there is not in it.
pub type ValueNames = BTreeMap<Key, Arc<BTreeSet<String>>>;

/// What Linux takes for one `NAME=value`, with its end.
const MOST_BYTES_EACH: usize = 128 * 1024 - 1;
/// Half of what Linux gives to arguments and environment together.
const MOST_BYTES: usize = 1024 * 1024;
/// How many of several things are named.
const NAMED: usize = 3;

/// Something that a container needs and that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub reason: &'static str,
    pub message: String,
}

/// The reason for a Secret or ConfigMap that is not there, or without the value that is needed.
fn missing_reason(kind: Kind) -> &'static str {
    if kind == Kind::ConfigMap { "ConfigMapMissing" } else { "SecretMissing" }
}

/// The reasons that a change of a Secret or ConfigMap may end.
pub const REASONS: [&str; 4] = ["SecretMissing", "ConfigMapMissing", "InvalidConfiguration", "ImagePullFailed"];

/// `Secret default/db`
fn shown(key: &Key) -> String {
    format!("{} {}/{}", key.kind, key.namespace, key.name)
}

impl EnvSource {
    /// The Secret or ConfigMap.
    pub fn source(&self) -> &Key {
        match self {
            EnvSource::All { source, .. } | EnvSource::One { source, .. } => source,
        }
    }

    fn lacks(&self, names: &ValueNames) -> Option<String> {
        let found = names.get(self.source());
        match self {
            EnvSource::All { optional: true, .. } | EnvSource::One { optional: true, .. } => None,
            EnvSource::All { source, .. } => {
                found.is_none().then(|| format!("there is no {}, which spec.envFrom names", shown(source)))
            }
            EnvSource::One { source, key, variable, .. } => match found {
                None => Some(format!("there is no {} with the key {key}, which {variable} is to have", shown(source))),
                Some(names) if !names.contains(key) => {
                    Some(format!("{} has no key {key}, which {variable} is to have", shown(source)))
                }
                Some(_) => None,
            },
        }
    }
}

/// What is not there of all that the container needs.
pub fn missing(spec: &ContainerSpec, names: &ValueNames) -> Option<Missing> {
    let mut lacking = spec.env_sources.iter().filter_map(|s| Some((s.source().kind, s.lacks(names)?)));
    let (kind, first) = lacking.next()?;
    let mut told: Vec<String> = vec![first];
    told.extend(lacking.by_ref().take(NAMED - 1).map(|(_, why)| why));
    let more = lacking.count();
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    Some(Missing { reason: missing_reason(kind), message: told.join("; ") })
}

/// The Secret with the login that a pull is to have.
pub fn pull_secret(desired: &Instance) -> Option<Key> {
    let name = &desired.spec.image_pull_secret;
    (!name.is_empty()).then(|| Key::new(Kind::Secret, &desired.metadata.namespace, name))
}

/// What is not there for a pull with this login.
pub fn missing_login(login: &Key, names: &ValueNames) -> Option<Missing> {
    let message = match names.get(login) {
        None => format!("there is no {}, which spec.imagePullSecret names", shown(login)),
        Some(names) if !names.contains(DOCKER_CONFIG.1) => format!(
            "{}, which spec.imagePullSecret names, has no key {}: it must be of type {}",
            shown(login),
            DOCKER_CONFIG.1,
            DOCKER_CONFIG.0
        ),
        Some(_) => return None,
    };
    Some(Missing { reason: missing_reason(Kind::Secret), message })
}

/// Fetches the login to an image's registry. `store`: one that opens what is sealed.
pub async fn open_login(store: &dyn Store, secret: &Key, image: &str) -> Result<Login, OpenError> {
    let source = Source::get(store, secret).await?.ok_or(OpenError::Gone)?;
    let config = source.value(DOCKER_CONFIG.1).ok_or(OpenError::Gone)?;
    login::find(config, image).map_err(|e| unfit(secret, EngineErrorKind::Invalid, e.to_string()))
}

/// Values that were fetched, and what was left out of them.
#[derive(Debug, Default)]
pub struct Opened {
    /// `NAME=value`
    pub env: Vec<SecretText>,
    /// Keys that cannot be names of variables, each with its object; only the first few.
    pub left_out: Vec<String>,
}

/// Why values were not fetched.
#[derive(Debug)]
pub enum OpenError {
    /// It was there a moment ago.
    Gone,
    /// A value that cannot be given to a container, or that does not open.
    Unfit(EngineError),
    Store(StoreError),
}

/// A Secret or ConfigMap with its values.
enum Source {
    Secret(Secret),
    ConfigMap(ConfigMap),
}

impl Source {
    async fn get(store: &dyn Store, key: &Key) -> Result<Option<Source>, OpenError> {
        let record = match store.get(&key.to_string()).await {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(None),
            Err(StoreError::Sealed { why, .. }) => return Err(unfit(key, EngineErrorKind::Server, why)),
            Err(e) => return Err(OpenError::Store(e)),
        };
        fn read<T: DeserializeOwned>(key: &Key, value: &[u8]) -> Result<T, OpenError> {
            // The reader's own words could repeat a part of what it read.
            let unreadable = |_| unfit(key, EngineErrorKind::Server, "what is stored of it cannot be read".into());
            serde_json::from_slice(value).map_err(unreadable)
        }
        Ok(Some(match key.kind {
            Kind::ConfigMap => Source::ConfigMap(read(key, &record.value)?),
            _ => Source::Secret(read(key, &record.value)?),
        }))
    }

    fn value(&self, name: &str) -> Option<&[u8]> {
        match self {
            Source::Secret(secret) => secret.data.get(name).map(|v| v.expose()),
            Source::ConfigMap(map) => {
                map.data.get(name).map(String::as_bytes).or_else(|| map.binary_data.get(name).map(|v| v.expose()))
            }
        }
    }

    fn names(&self) -> Vec<&String> {
        match self {
            Source::Secret(secret) => secret.data.keys().collect(),
            Source::ConfigMap(map) => map.data.keys().chain(map.binary_data.keys()).collect(),
        }
    }
}

fn unfit(source: &Key, kind: EngineErrorKind, message: String) -> OpenError {
    OpenError::Unfit(EngineError { op: "open", object: shown(source), kind, message })
}

/// Fetches the values that a container is to have. `store`: one that opens what is sealed.
pub async fn open(store: &dyn Store, spec: &ContainerSpec) -> Result<Opened, OpenError> {
    let mut found: BTreeMap<&Key, Option<Source>> = BTreeMap::new();
    for key in spec.env_sources.iter().map(EnvSource::source) {
        if !found.contains_key(key) {
            found.insert(key, Source::get(store, key).await?);
        }
    }
    let plain: BTreeSet<&str> = spec.env.iter().filter_map(|e| Some(e.split_once('=')?.0)).collect();
    let mut values: BTreeMap<String, SecretText> = BTreeMap::new();
    let mut opened = Opened::default();
    for from in &spec.env_sources {
        let source = found.get(from.source()).and_then(Option::as_ref);
        match from {
            EnvSource::All { source: key, prefix, optional } => {
                let Some(source) = source else {
                    if *optional {
                        continue;
                    }
                    return Err(OpenError::Gone);
                };
                for name in source.names() {
                    let variable = format!("{prefix}{name}");
                    if !is_variable_name(&variable) {
                        opened.left_out.push(format!("{variable} of {}", shown(key)));
                    } else if !plain.contains(variable.as_str())
                        && let Some(value) = source.value(name)
                    {
                        values.insert(variable.clone(), assignment(key, name, &variable, value)?);
                    }
                }
            }
            EnvSource::One { variable, source: key, key: name, optional } => match source.and_then(|s| s.value(name)) {
                Some(value) => drop(values.insert(variable.clone(), assignment(key, name, variable, value)?)),
                None if *optional => {}
                None => return Err(OpenError::Gone),
            },
        }
    }
    opened.left_out.truncate(NAMED);
    opened.env = values.into_values().collect();
    let bytes: usize = opened.env.iter().map(|text| text.expose().len()).sum();
    match spec.env_sources.last() {
        Some(last) if bytes > MOST_BYTES => Err(unfit(
            last.source(),
            EngineErrorKind::Invalid,
            format!("with it the environment has {bytes} bytes of Secrets and ConfigMaps; {MOST_BYTES} are allowed"),
        )),
        _ => Ok(opened),
    }
}

/// `NAME=value`, if the value is one that a variable can have.
fn assignment(source: &Key, name: &str, variable: &str, value: &[u8]) -> Result<SecretText, OpenError> {
    let refuse = |why: &str| {
        Err(unfit(source, EngineErrorKind::Invalid, format!("the value at key {name}, for {variable}, {why}")))
    };
    let Ok(text) = std::str::from_utf8(value) else {
        return refuse("is no text (UTF-8), which a variable needs");
    };
    if text.contains('\0') {
        return refuse("has a NUL, which no variable can have");
    }
    if variable.len() + 1 + text.len() > MOST_BYTES_EACH {
        return refuse("is longer than the 128 KiB that a variable can have");
    }
    Ok(SecretText::new(format!("{variable}={text}")))
}

/// A daemon's words about a container, without the values that it was given, should it have repeated one.
pub fn without_values(mut error: EngineError, opened: &[SecretText]) -> EngineError {
    for value in opened.iter().filter_map(|text| Some(text.expose().split_once('=')?.1)) {
        // Shorter ones are part of any sentence, and would only tell where they are not.
        if value.len() >= 4 && error.message.contains(value) {
            error.message = error.message.replace(value, "(hidden)");
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::store::{MemoryStore, Op, SharedStore, Txn};

    fn spec(env: Value, env_from: Value) -> ContainerSpec {
        let instance = serde_json::from_value(json!({
            "metadata": {"name": "alice", "namespace": "default"},
            "spec": {"image": "app:1", "env": env, "envFrom": env_from},
        }));
        super::super::container_spec("c", &instance.unwrap())
    }

    fn secret_var(variable: &str, name: &str, key: &str, optional: bool) -> Value {
        json!({"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key, "optional": optional}}})
    }

    async fn store(objects: &[(&str, Value)]) -> SharedStore {
        let store = MemoryStore::new();
        let put = |(key, value): &(&str, Value)| Op::Put { key: (*key).into(), value: value.to_string().into() };
        store.txn(Txn { when: vec![], then: objects.iter().map(put).collect() }).await.unwrap();
        store
    }

    async fn opened(store: &SharedStore, spec: &ContainerSpec) -> Vec<String> {
        let mut filled = spec.clone();
        filled.env_opened = open(&**store, spec).await.unwrap().env;
        filled.environment()
    }

    async fn refused(store: &SharedStore, spec: &ContainerSpec) -> String {
        match open(&**store, spec).await {
            Err(OpenError::Unfit(e)) => e.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_there_is_told_with_object_and_key() {
        let names = |list: &[(&str, &[&str])]| -> ValueNames {
            let entry = |(key, names): &(&str, &[&str])| {
                (key.parse().unwrap(), Arc::new(names.iter().map(|n| (*n).to_owned()).collect()))
            };
            list.iter().map(entry).collect()
        };
        let one = spec(json!([secret_var("A", "db", "password", false)]), json!([]));
        let told = |names: &ValueNames| missing(&one, names).map(|m| (m.reason, m.message));
        let why = "there is no Secret default/db with the key password, which A is to have".to_owned();
        assert_eq!(told(&names(&[("secrets/other/db", &["password"])])), Some(("SecretMissing", why)));
        let why = "Secret default/db has no key password, which A is to have".to_owned();
        assert_eq!(told(&names(&[("secrets/default/db", &["user"])])), Some(("SecretMissing", why)));
        assert_eq!(told(&names(&[("secrets/default/db", &["password"])])), None);
        let optional = spec(
            json!([secret_var("A", "db", "password", true)]),
            json!([{"configMapRef": {"name": "c", "optional": true}}]),
        );
        assert_eq!(missing(&optional, &ValueNames::new()), None);
        let many: Vec<Value> = (0..5).map(|n| json!({"configMapRef": {"name": format!("c{n}")}})).collect();
        let lost = missing(&spec(json!([]), many.into()), &ValueNames::new()).unwrap();
        assert_eq!(lost.reason, "ConfigMapMissing");
        assert!(lost.message.starts_with("there is no ConfigMap default/c0,"), "{}", lost.message);
        assert!(lost.message.ends_with("default/c2, which spec.envFrom names; and 2 more"), "{}", lost.message);
    }

    #[tokio::test]
    async fn a_plain_variable_wins_over_a_named_value_and_that_over_all_of_a_source() {
        // "s1", "s2", "s3" and bytes that are no text, which nobody asks for
        let store = store(&[
            ("secrets/default/s", json!({"data": {"A": "czE=", "B": "czI=", "C": "czM=", "1st": "eA=="}})),
            ("configmaps/default/c", json!({"data": {"B": "c1", "D": "c2"}, "binaryData": {"raw": "/w=="}})),
        ])
        .await;
        let spec = spec(
            json!([
                {"name": "A", "value": "plain"}, {"name": "E", "value": "e"}, secret_var("E", "s", "C", false),
                {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "D"}}},
                secret_var("D", "s", "gone", true), secret_var("F", "gone", "x", true),
            ]),
            json!([{"secretRef": {"name": "s"}}, {"configMapRef": {"name": "gone", "optional": true}}]),
        );
        assert_eq!(opened(&store, &spec).await, ["A=plain", "B=s2", "C=c2", "E=s3"]);
        let left_out = open(&*store, &spec).await.unwrap().left_out;
        assert_eq!(left_out, ["1st of Secret default/s"]);
        let spec = self::spec(json!([]), json!([{"prefix": "X_", "secretRef": {"name": "s"}}]));
        assert_eq!(opened(&store, &spec).await, ["X_1st=x", "X_A=s1", "X_B=s2", "X_C=s3"]);
        let shown = format!("{:?}", open(&*store, &spec).await.unwrap());
        assert!(shown.contains("(hidden)") && !shown.contains("s2"), "{shown}");
    }

    #[tokio::test]
    async fn values_that_no_variable_can_have_are_refused_by_key_and_not_repeated() {
        let store = store(&[
            ("configmaps/default/c", json!({"data": {"nul": "hunter2\0", "long": "x".repeat(MOST_BYTES_EACH)}, "binaryData": {"raw": "/w=="}})),
            ("configmaps/default/broken", json!({"data": "hunter2"})),
        ])
        .await;
        let named = |key: &str| {
            spec(json!([{"name": "V", "valueFrom": {"configMapKeyRef": {"name": "c", "key": key}}}]), json!([]))
        };
        for (key, why) in [("nul", "has a NUL"), ("long", "is longer than the 128 KiB"), ("raw", "is no text")] {
            let told = refused(&store, &named(key)).await;
            assert!(
                told.starts_with(&format!("open ConfigMap default/c: the value at key {key}, for V, {why}")),
                "{told}"
            );
            assert!(!told.contains("hunter2"), "{told}");
        }
        let told = refused(&store, &spec(json!([]), json!([{"configMapRef": {"name": "broken"}}]))).await;
        assert_eq!(told, "open ConfigMap default/broken: what is stored of it cannot be read");
        assert!(matches!(open(&*store, &named("gone")).await, Err(OpenError::Gone)));
    }

    #[test]
    fn a_daemon_that_repeats_a_value_is_not_repeated() {
        let error = EngineError {
            op: "create container",
            object: "x".into(),
            kind: EngineErrorKind::Invalid,
            message: "bad env A=hunter2 here".into(),
        };
        let told = without_values(error, &[SecretText::new("A=hunter2".into()), SecretText::new("B=e".into())]);
        assert_eq!(told.message, "bad env A=(hidden) here");
    }
}
