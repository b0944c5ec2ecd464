//! The environment of an Instance: plain values, and references to values of Secrets and ConfigMaps of its namespace.
//!
//! A reference is all that a record ever holds: the values are looked up when a container is made.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_subdomain;
use super::meta::is_default;
use super::secret::key_rule;
use super::validate::quoted;
use super::{FieldError, FieldErrors, Instance, InstanceSpec, Kind};

/// One environment variable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Name: a C identifier.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Value, taken as it is.
    #[serde(default)]
    pub value: String,
    /// Where the value is, instead of value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<ValueFrom>,
}

/// Where a variable's value is: exactly one of secretKeyRef and configMapKeyRef.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValueFrom {
    /// A value of a Secret of the Instance's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
    /// A value of a ConfigMap of the Instance's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

/// One value of a Secret or ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KeyRef {
    /// Name of the Secret or ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key of the value.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// Whether to do without the variable when the object or its key is not there. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub optional: bool,
}

/// All values of a Secret or ConfigMap as variables: exactly one of secretRef and configMapRef.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvFrom {
    /// What every variable's name begins with, before the key.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 253))]
    pub prefix: String,
    /// A Secret of the Instance's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SourceRef>,
    /// A ConfigMap of the Instance's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<SourceRef>,
}

/// A Secret or ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SourceRef {
    /// Name of the Secret or ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Whether to do without when it is not there. Default: false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub optional: bool,
}

impl ValueFrom {
    /// The kind of the object, and the value in it.
    pub fn source(&self) -> Option<(Kind, &KeyRef)> {
        let secret = self.secret_key_ref.as_ref().map(|r| (Kind::Secret, r));
        secret.or(self.config_map_key_ref.as_ref().map(|r| (Kind::ConfigMap, r)))
    }
}

impl EnvFrom {
    /// The object, and its kind.
    pub fn source(&self) -> Option<(Kind, &SourceRef)> {
        let secret = self.secret_ref.as_ref().map(|r| (Kind::Secret, r));
        secret.or(self.config_map_ref.as_ref().map(|r| (Kind::ConfigMap, r)))
    }
}

impl InstanceSpec {
    /// The Secrets and ConfigMaps of its namespace that it names, some perhaps more than once: kind and name.
    pub fn sources(&self) -> impl Iterator<Item = (Kind, &str)> {
        let whole = self.env_from.iter().filter_map(|e| e.source().map(|(kind, r)| (kind, r.name.as_str())));
        let single = self.env.iter().filter_map(|e| e.value_from.as_ref()?.source());
        let login = Some(self.image_pull_secret.as_str()).filter(|name| !name.is_empty());
        let login = login.map(|name| (Kind::Secret, name));
        whole.chain(single.map(|(kind, r)| (kind, r.name.as_str()))).chain(login)
    }
}

/// Whether a variable may have this name.
pub fn is_variable_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

const NAME_RULE: &str = "must consist of letters, digits, '_', '-' or '.', and not begin with a digit";
const SUBDOMAIN_RULE: &str = "must be a DNS subdomain (RFC 1123): lower case letters, digits, '-' and '.', beginning and ending with a \
                              letter or digit";

/// The rules of all that names Secrets and ConfigMaps: `spec.env`, `spec.envFrom`, `spec.imagePullSecret`.
pub(super) fn validate_env(instance: &Instance, errors: &mut FieldErrors) {
    if !instance.spec.image_pull_secret.is_empty() {
        errors.extend(source_name("spec.imagePullSecret", &instance.spec.image_pull_secret));
    }
    for (i, env) in instance.spec.env.iter().enumerate() {
        let path = format!("spec.env[{i}]");
        if !is_variable_name(&env.name) {
            errors.push(FieldError::invalid(format!("{path}.name"), quoted(&env.name), NAME_RULE));
        }
        if env.value.contains('\0') {
            errors.push(FieldError::invalid(format!("{path}.value"), "a text with NUL", "must not contain NUL"));
        }
        let Some(from) = &env.value_from else { continue };
        let path = format!("{path}.valueFrom");
        if !env.value.is_empty() {
            errors.push(FieldError::forbidden(&path, "may not be specified when `value` is not empty"));
        }
        match (&from.secret_key_ref, &from.config_map_key_ref) {
            (None, None) => errors.push(FieldError::required(&path, "one of secretKeyRef and configMapKeyRef")),
            (Some(_), Some(_)) => {
                errors.push(FieldError::forbidden(&path, "only one of secretKeyRef and configMapKeyRef may be set"));
            }
            (Some(r), None) => validate_key_ref(&format!("{path}.secretKeyRef"), r, errors),
            (None, Some(r)) => validate_key_ref(&format!("{path}.configMapKeyRef"), r, errors),
        }
    }
    for (i, env) in instance.spec.env_from.iter().enumerate() {
        let path = format!("spec.envFrom[{i}]");
        if !env.prefix.is_empty() && !is_variable_name(&env.prefix) {
            errors.push(FieldError::invalid(format!("{path}.prefix"), quoted(&env.prefix), NAME_RULE));
        }
        match (&env.secret_ref, &env.config_map_ref) {
            (None, None) => errors.push(FieldError::required(&path, "one of secretRef and configMapRef")),
            (Some(_), Some(_)) => {
                errors.push(FieldError::forbidden(&path, "only one of secretRef and configMapRef may be set"));
            }
            (Some(r), None) => errors.extend(source_name(&format!("{path}.secretRef.name"), &r.name)),
            (None, Some(r)) => errors.extend(source_name(&format!("{path}.configMapRef.name"), &r.name)),
        }
    }
}

fn validate_key_ref(path: &str, r: &KeyRef, errors: &mut FieldErrors) {
    errors.extend(source_name(&format!("{path}.name"), &r.name));
    if let Some(why) = key_rule(&r.key) {
        errors.push(FieldError::invalid(format!("{path}.key"), quoted(&r.key), why));
    }
}

/// The rule for the name of a Secret or ConfigMap that a field holds.
pub(super) fn source_name(field: &str, name: &str) -> Option<FieldError> {
    (!is_subdomain(name)).then(|| FieldError::invalid(field, quoted(name), SUBDOMAIN_RULE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn instance(spec: Value) -> Instance {
        let mut spec = spec;
        spec["image"] = "app:1".into();
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "b"}, "spec": spec})).unwrap()
    }

    fn errors(spec: Value) -> Vec<String> {
        crate::model::validate_instance(&instance(spec)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn references_lead_to_one_place_each() {
        let spec = json!({
            "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "db.prod", "key": ".x"}}},
                {"name": "C", "value": "", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k", "optional": true}}},
            ],
            "envFrom": [{"prefix": "P_", "secretRef": {"name": "s"}}, {"configMapRef": {"name": "c", "optional": true}}],
            "imagePullSecret": "login",
        });
        assert_eq!(errors(spec.clone()), [""; 0]);
        let named: Vec<_> = instance(spec).spec.sources().map(|(k, n)| format!("{k} {n}")).collect();
        assert_eq!(named, ["Secret s", "ConfigMap c", "Secret db.prod", "ConfigMap c", "Secret login"]);
    }

    #[test]
    fn every_bad_reference_is_told_with_its_path() {
        let both = json!({"secretKeyRef": {"name": "a", "key": "k"}, "configMapKeyRef": {"name": "a", "key": "k"}});
        let found = errors(json!({
            "env": [
                {"name": "A", "value": "1", "valueFrom": {"secretKeyRef": {"name": "a", "key": "k"}}},
                {"name": "B", "valueFrom": {}},
                {"name": "C", "valueFrom": both},
                {"name": "D", "valueFrom": {"secretKeyRef": {"name": "../a", "key": "a/b"}}},
                {"name": "E", "valueFrom": {"configMapKeyRef": {"name": "A", "key": ".."}}},
            ],
            "envFrom": [
                {},
                {"secretRef": {"name": "a"}, "configMapRef": {"name": "a"}},
                {"prefix": "1", "secretRef": {"name": ""}},
            ],
            "imagePullSecret": "a/b",
        }));
        let told: Vec<_> = found.iter().map(|e| e.splitn(3, ": ").take(2).collect::<Vec<_>>().join(": ")).collect();
        assert_eq!(
            told,
            [
                "spec.imagePullSecret: Invalid value",
                "spec.env[0].valueFrom: Forbidden",
                "spec.env[1].valueFrom: Required value",
                "spec.env[2].valueFrom: Forbidden",
                "spec.env[3].valueFrom.secretKeyRef.name: Invalid value",
                "spec.env[3].valueFrom.secretKeyRef.key: Invalid value",
                "spec.env[4].valueFrom.configMapKeyRef.name: Invalid value",
                "spec.env[4].valueFrom.configMapKeyRef.key: Invalid value",
                "spec.envFrom[0]: Required value",
                "spec.envFrom[1]: Forbidden",
                "spec.envFrom[2].prefix: Invalid value",
                "spec.envFrom[2].secretRef.name: Invalid value",
            ],
            "{found:#?}"
        );
    }
}
