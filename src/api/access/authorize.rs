//! Whether a user may: one place, asked by every request and by the reviews.
//!
//! In this form there is one role: members of [`ADMINS`] may do everything, everyone else nothing but ask who they are.

use super::super::error::ApiError;
use super::authenticate::User;

/// The group that may do everything, as Kubernetes names it.
pub const ADMINS: &str = "system:masters";

/// What a request wants to do, in the words of Kubernetes' role rules.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    /// `instances`, or `instances/scale`
    pub resource: &'a str,
    /// Empty for cluster-scoped kinds and for all namespaces.
    pub namespace: &'a str,
    pub name: &'a str,
}

/// Whether the rules allow it.
pub fn allowed(user: &User, _wanted: &Attributes<'_>) -> bool {
    may_do_all(user)
}

pub fn may_do_all(user: &User) -> bool {
    user.groups.iter().any(|g| g == ADMINS)
}

/// Refuses with 403 and the sentence that Kubernetes says.
pub fn authorize(user: &User, wanted: &Attributes<'_>) -> Result<(), ApiError> {
    if allowed(user, wanted) {
        return Ok(());
    }
    let scope = match wanted.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let why = format!(
        "User {:?} cannot {} resource {:?} in API group {:?} {scope}",
        user.name, wanted.verb, wanted.resource, wanted.group
    );
    let plural = wanted.resource.split('/').next().unwrap_or_default();
    let qualified = if wanted.group.is_empty() { plural.to_owned() } else { format!("{plural}.{}", wanted.group) };
    let named = if wanted.name.is_empty() { String::new() } else { format!(" {:?}", wanted.name) };
    Err(ApiError::new(http::StatusCode::FORBIDDEN, "Forbidden", format!("{qualified}{named} is forbidden: {why}")))
}
