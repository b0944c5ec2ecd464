//! Whether a user may: one table of rules, read by every request and by the reviews. Pure.
//!
//! Rights come from groups alone, whatever credential brought them: a certificate's organizations, an access token's
//! role (as the groups of [`role_group`]), or the groups that are impersonated. What no rule allows is refused, and a
//! kind that is added later is in the class of its scope at once.

use super::super::error::{ApiError, Subject};
use super::super::registry::{self, What};
use super::authenticate::User;
use crate::model::{GROUP, Role, SYSTEM_NAMESPACE};

/// The group that may do everything, as Kubernetes names it.
pub const ADMINS: &str = "system:masters";
/// What begins the groups that stand for roles: `portreeve:viewer`, `portreeve:editor:team-a`.
const ROLE_GROUPS: &str = "portreeve:";

/// What a request wants to do, in the words of Kubernetes' role rules.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    /// `instances`, or `instances/scale`
    pub resource: &'a str,
    /// Empty for cluster-scoped kinds and for all namespaces. For one Namespace its own name.
    pub namespace: &'a str,
    pub name: &'a str,
}

/// Whether it is allowed, and what says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    /// For people; empty when no rule says anything.
    pub reason: String,
}

impl Decision {
    fn allow(user: &User, by: &str) -> Decision {
        Decision { allowed: true, reason: format!("{} is in the group {by}", user.name) }
    }

    fn refuse() -> Decision {
        Decision { allowed: false, reason: String::new() }
    }
}

/// Resources that are alike to the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// What lives in a namespace, and views of it.
    Namespaced,
    /// What lives in a namespace and is not for viewers.
    Secrets,
    Namespaces,
    /// Other kinds of the whole cluster.
    Cluster,
    /// Credentials: no rule speaks of them, so they are the admins' alone.
    Access,
    /// Questions about oneself.
    Reviews,
}

fn class(group: &str, plural: &str) -> Option<Class> {
    match (group, plural) {
        ("", "secrets") => return Some(Class::Secrets),
        ("", "namespaces") => return Some(Class::Namespaces),
        (GROUP, "accesstokens") => return Some(Class::Access),
        _ => {}
    }
    let resource = registry::all().iter().find(|r| r.group == group && r.plural == plural)?;
    Some(match resource.what {
        What::SelfSubjectReviews | What::SelfSubjectAccessReviews | What::SelfSubjectRulesReviews => Class::Reviews,
        _ if resource.namespaced => Class::Namespaced,
        _ => Class::Cluster,
    })
}

/// Of what a role was granted for, what a rule covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// All of it: any namespace and all at once, or the one namespace.
    Granted,
    /// Namespaces, each by its name; never all at once.
    OneByOne,
    /// Only what was granted for the whole cluster.
    WholeCluster,
    /// The Namespace that the role was granted for.
    Itself,
}

/// A row of the table. A greater role has the rules of the lesser ones, too.
struct Rule {
    role: Role,
    class: Class,
    reach: Reach,
    verbs: &'static [&'static str],
    /// Subresources; empty is the object itself.
    parts: &'static [&'static str],
}

const READ: &[&str] = &["get", "list", "watch"];
const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Status is written by the controllers, which do not come this way: it says which container an instance is and where
/// the proxy finds it, so whoever may write it reaches into everything.
const RULES: &[Rule] = &[
    Rule {
        role: Role::Viewer,
        class: Class::Namespaced,
        reach: Reach::Granted,
        verbs: READ,
        parts: &["", "status", "scale", "log", "why"],
    },
    Rule { role: Role::Viewer, class: Class::Cluster, reach: Reach::WholeCluster, verbs: READ, parts: &["", "status"] },
    Rule {
        role: Role::Viewer,
        class: Class::Namespaces,
        reach: Reach::WholeCluster,
        verbs: READ,
        parts: &["", "status"],
    },
    Rule { role: Role::Viewer, class: Class::Namespaces, reach: Reach::Itself, verbs: READ, parts: &["", "status"] },
    Rule { role: Role::Editor, class: Class::Namespaced, reach: Reach::Granted, verbs: ALL, parts: &["", "scale"] },
    Rule {
        role: Role::Editor,
        class: Class::Namespaced,
        reach: Reach::Granted,
        verbs: &["create"],
        parts: &["exec", "attach", "portforward", "eviction"],
    },
    Rule { role: Role::Editor, class: Class::Secrets, reach: Reach::OneByOne, verbs: ALL, parts: &[""] },
];

/// What everyone with credentials may read: the same for all, and of no one.
const ABOUT_THE_API: &[&str] =
    &["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi/*", "/readyz", "/version"];

/// Counts over all namespaces: for those who may read in all of them.
const METRICS: &str = "/metrics";

/// A role that one group gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grant<'a> {
    role: Role,
    /// `None`: the whole cluster.
    namespace: Option<&'a str>,
    group: &'a str,
}

/// The group that stands for a role, in one namespace or in the whole cluster.
pub fn role_group(role: Role, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("{ROLE_GROUPS}{}:{namespace}", role.as_str()),
        None => format!("{ROLE_GROUPS}{}", role.as_str()),
    }
}

/// What a user's groups give. A group that only looks like a role gives nothing.
fn grants(user: &User) -> impl Iterator<Item = Grant<'_>> {
    user.groups.iter().filter_map(|group| {
        if group == ADMINS {
            return Some(Grant { role: Role::Admin, namespace: None, group });
        }
        let (name, namespace) = match group.strip_prefix(ROLE_GROUPS)?.split_once(':') {
            Some((name, namespace)) => (name, Some(namespace)),
            None => (group.strip_prefix(ROLE_GROUPS)?, None),
        };
        let role = Role::ALL.into_iter().find(|role| role.as_str() == name)?;
        // There is no admin of one namespace, and no namespace without a name.
        let meant = namespace.is_none_or(|n| !n.is_empty() && role != Role::Admin);
        meant.then_some(Grant { role, namespace, group })
    })
}

/// A role that counts in all namespaces.
fn of_the_cluster(user: &User) -> Option<Grant<'_>> {
    grants(user).find(|grant| grant.namespace.is_none())
}

/// Whether a user may do everything.
pub fn is_admin(user: &User) -> bool {
    grants(user).any(|g| g.role == Role::Admin)
}

impl Rule {
    /// Whether it says nothing about what is in a namespace: whoever may read the system's Secrets, or have an instance
    /// read them, is root on every host.
    fn stops_at(&self, namespace: &str) -> bool {
        let within = matches!(self.class, Class::Namespaced | Class::Secrets);
        namespace == SYSTEM_NAMESPACE && within && (self.class == Class::Secrets || self.verbs != READ)
    }

    fn covers(&self, grant: &Grant<'_>, wanted: &Attributes<'_>) -> bool {
        if self.stops_at(wanted.namespace) {
            return false;
        }
        match (self.reach, grant.namespace) {
            (Reach::Granted, None) => true,
            (Reach::OneByOne, None) => !wanted.namespace.is_empty(),
            (Reach::Granted | Reach::OneByOne, Some(own)) => wanted.namespace == own,
            (Reach::WholeCluster, granted) => granted.is_none(),
            (Reach::Itself, granted) => granted.is_some_and(|own| wanted.name == own),
        }
    }
}

/// Whether a user may do this to a resource.
pub fn decide(user: &User, wanted: &Attributes<'_>) -> Decision {
    if let Some(grant) = grants(user).find(|g| g.role == Role::Admin) {
        return Decision::allow(user, grant.group);
    }
    let (plural, part) = wanted.resource.split_once('/').unwrap_or((wanted.resource, ""));
    let Some(class) = class(wanted.group, plural) else { return Decision::refuse() };
    if class == Class::Reviews {
        let allowed = wanted.verb == "create" && part.is_empty();
        return Decision { allowed, reason: "everyone may ask about themselves".into() };
    }
    let rules = RULES.iter().filter(|r| r.class == class && r.verbs.contains(&wanted.verb) && r.parts.contains(&part));
    for rule in rules {
        if let Some(grant) = grants(user).find(|g| g.role >= rule.role && rule.covers(g, wanted)) {
            return Decision::allow(user, grant.group);
        }
    }
    Decision::refuse()
}

/// Whether a user may do this to a path that is no resource.
pub fn decide_path(user: &User, verb: &str, path: &str) -> Decision {
    if let Some(grant) = grants(user).find(|g| g.role == Role::Admin) {
        return Decision::allow(user, grant.group);
    }
    let fits = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == *pattern,
    };
    if verb == "get"
        && path == METRICS
        && let Some(grant) = of_the_cluster(user)
    {
        return Decision::allow(user, grant.group);
    }
    let allowed = verb == "get" && ABOUT_THE_API.iter().any(fits);
    Decision { allowed, reason: String::new() }
}

/// Refuses a path that names no records.
pub fn authorize_path(user: &User, verb: &str, path: &str) -> Result<(), ApiError> {
    if decide_path(user, verb, path).allowed {
        return Ok(());
    }
    let why = format!("User {:?} cannot {verb} path {path:?}", user.name);
    Err(ApiError::new(http::StatusCode::FORBIDDEN, "Forbidden", format!("forbidden: {why}")))
}

/// Refuses with 403 and the sentence that Kubernetes says.
pub fn authorize(user: &User, wanted: &Attributes<'_>) -> Result<(), ApiError> {
    if decide(user, wanted).allowed {
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
    let known = registry::all().iter().find(|r| r.group == wanted.group && r.plural == plural);
    Err(match known {
        Some(r) => {
            let name = wanted.name.to_owned();
            ApiError::forbidden(&Subject { group: r.group, plural: r.plural, kind: r.kind, name }, &why)
        }
        None => ApiError::new(http::StatusCode::FORBIDDEN, "Forbidden", format!("{plural} is forbidden: {why}")),
    })
}

/// One sentence of what a user may do, as a rules review tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    pub verbs: &'static [&'static str],
    pub group: &'static str,
    /// `instances`, `instances/scale`
    pub resources: Vec<String>,
    /// The only objects that it is about; empty: all.
    pub names: Vec<String>,
}

/// What a user may do in one namespace and in the cluster; `None`: everything.
pub fn rights(user: &User, namespace: &str) -> Option<Vec<Right>> {
    if is_admin(user) {
        return None;
    }
    let mut found: Vec<Right> = vec![];
    for grant in grants(user).filter(|g| g.namespace.is_none_or(|own| own == namespace)) {
        for rule in RULES.iter().filter(|r| grant.role >= r.role && !r.stops_at(namespace)) {
            let names = match (rule.reach, grant.namespace) {
                (Reach::WholeCluster, Some(_)) | (Reach::Itself, None) => continue,
                (Reach::Itself, Some(own)) => vec![own.to_owned()],
                _ => vec![],
            };
            for (group, _) in registry::groups() {
                let of_rule =
                    registry::all().iter().filter(|r| r.group == group && class(group, r.plural) == Some(rule.class));
                let resources: Vec<String> = of_rule
                    .flat_map(|r| {
                        let parts = rule.parts.iter().filter(|p| p.is_empty() || r.subresource(p).is_some());
                        parts.map(|p| if p.is_empty() { r.plural.to_owned() } else { format!("{}/{p}", r.plural) })
                    })
                    .collect();
                let right = Right { verbs: rule.verbs, group, resources, names: names.clone() };
                if !right.resources.is_empty() && !found.contains(&right) {
                    found.push(right);
                }
            }
        }
    }
    for resource in registry::all().iter().filter(|r| class(r.group, r.plural) == Some(Class::Reviews)) {
        let resources = vec![resource.plural.to_owned()];
        found.push(Right { verbs: &["create"], group: resource.group, resources, names: vec![] });
    }
    Some(found)
}

/// The paths that a user may read; `None`: every path, with every verb.
pub fn paths(user: &User) -> Option<Vec<&'static str>> {
    let metrics = of_the_cluster(user).map(|_| METRICS);
    (!is_admin(user)).then(|| ABOUT_THE_API.iter().copied().chain(metrics).collect())
}

#[cfg(test)]
mod tests;
