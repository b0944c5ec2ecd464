//! AccessToken: a credential for the API, with a role. The secret itself is in no field that is stored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::meta::{is_default, resource};
use super::{FieldError, Kind, Span, Time, validate_name};

resource! {
    /// A credential for the API: who presents its secret is its user, with its role. The secret is told once, in
    /// status.token of the answer that creates it.
    AccessToken, Kind::AccessToken, AccessTokenSpec, AccessTokenStatus
}

/// What someone may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads everything but secrets and access tokens, logs included.
    #[default]
    Viewer,
    /// Also writes what lives in namespaces, reads secrets there, and enters containers.
    Editor,
    /// Everything; this is root on every host.
    Admin,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Viewer, Role::Editor, Role::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Editor => "editor",
            Role::Admin => "admin",
        }
    }
}

/// The desired state of an AccessToken.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessTokenSpec {
    /// The name that its user goes by, in refusals and in the audit log. Default: the name of the AccessToken.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 253))]
    pub user: String,
    /// viewer, editor or admin.
    pub role: Role,
    /// The namespaces in which the role holds. Empty: the whole cluster. The role admin takes none.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub namespaces: Vec<String>,
    /// How long it is good for, from its creation: `30d`, `12h`. Default: until it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Span>,
}

/// What the server has made of an AccessToken; set by the server alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessTokenStatus {
    /// The secret. Only in the answer that creates the AccessToken; it is not kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub token: String,
    /// The SHA-256 of the secret, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hash: String,
    /// When it ends: its creation and its lifetime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
    /// When it was last used, to the hour: it is written down at most once an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Time>,
}

impl AccessToken {
    /// The name that its user goes by.
    pub fn user(&self) -> &str {
        if self.spec.user.is_empty() { &self.metadata.name } else { &self.spec.user }
    }
}

/// The rules between the fields of an AccessToken.
pub fn validate_access_token(token: &AccessToken) -> Vec<FieldError> {
    /// Ten years: what shall last longer has no lifetime.
    const LONGEST_DAYS: u64 = 3650;
    let spec = &token.spec;
    let mut errors = vec![];
    let shown = format!("{:?}", spec.user);
    if spec.user.starts_with("system:") {
        errors.push(FieldError::invalid("spec.user", &shown, "must not begin with system:, which is the server's own"));
    }
    if spec.user.chars().any(|c| c.is_control() || c.is_whitespace()) {
        errors.push(FieldError::invalid("spec.user", &shown, "must not contain blanks or control characters"));
    }
    for (i, namespace) in spec.namespaces.iter().enumerate() {
        let field = format!("spec.namespaces[{i}]");
        if spec.namespaces[..i].contains(namespace) {
            errors.push(FieldError::duplicate(&field, format!("{namespace:?}")));
        }
        errors.extend(validate_name(&field, namespace));
    }
    if spec.role == Role::Admin && !spec.namespaces.is_empty() {
        let why = "the role admin holds for the whole cluster; leave namespaces out, or use editor";
        errors.push(FieldError::forbidden("spec.namespaces", why));
    }
    if let Some(lifetime) = &spec.lifetime {
        let seconds = lifetime.duration().as_secs();
        if !(1..=LONGEST_DAYS * 86_400).contains(&seconds) {
            let why = format!("must be at least a second and at most {LONGEST_DAYS}d");
            errors.push(FieldError::invalid("spec.lifetime", format!("\"{lifetime}\""), &why));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(spec: AccessTokenSpec) -> Vec<String> {
        validate_access_token(&AccessToken { spec, ..Default::default() }).into_iter().map(|e| e.field).collect()
    }

    #[test]
    fn what_would_mean_something_else_than_it_says_is_refused() {
        let span = |text: &str| Some(text.parse().unwrap());
        let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let base = AccessTokenSpec { role: Role::Editor, ..Default::default() };
        assert_eq!(token(base.clone()), [""; 0]);
        for (spec, field) in [
            (AccessTokenSpec { user: "system:masters".into(), ..base.clone() }, "spec.user"),
            (AccessTokenSpec { user: "a\nb".into(), ..base.clone() }, "spec.user"),
            (AccessTokenSpec { namespaces: names(&["a:b"]), ..base.clone() }, "spec.namespaces[0]"),
            (AccessTokenSpec { namespaces: names(&["a", "a"]), ..base.clone() }, "spec.namespaces[1]"),
            (AccessTokenSpec { role: Role::Admin, namespaces: names(&["a"]), ..base.clone() }, "spec.namespaces"),
            (AccessTokenSpec { lifetime: span("0s"), ..base.clone() }, "spec.lifetime"),
            (AccessTokenSpec { lifetime: span("4000d"), ..base.clone() }, "spec.lifetime"),
        ] {
            assert_eq!(token(spec.clone()), [field], "{spec:?}");
        }
    }
}
