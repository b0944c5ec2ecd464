//! What a path names. Paths are parsed, not routed, so that every kind and every later view has the same rules.

use super::registry::{self, Resource};

/// A parsed path.
#[derive(Clone, Debug)]
pub enum Target {
    Version,
    /// `/metrics`
    Metrics,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(&'static str),
    /// `/api/v1`, `/apis/GROUP/VERSION`
    Resources(&'static str, &'static str),
    /// `/openapi/v2`
    OpenApiV2,
    /// `/openapi/v3`
    OpenApiIndex,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`
    OpenApi(&'static str, &'static str),
    Records(Place),
}

/// A collection, an object, or a part of an object.
#[derive(Clone, Debug)]
pub struct Place {
    pub resource: &'static Resource,
    /// `None`: a cluster-scoped kind, or all namespaces.
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

/// Parses a path; `None` when it names nothing that is served.
pub fn parse(path: &str) -> Option<Target> {
    let path = path.strip_prefix('/')?;
    let segments: Vec<&str> = path.strip_suffix('/').unwrap_or(path).split('/').collect();
    if segments.iter().any(|s| s.is_empty()) {
        return None;
    }
    Some(match segments[..] {
        ["version"] => Target::Version,
        ["metrics"] => Target::Metrics,
        ["api"] => Target::CoreVersions,
        ["apis"] => Target::Groups,
        ["openapi", "v2"] => Target::OpenApiV2,
        ["openapi", "v3"] => Target::OpenApiIndex,
        ["openapi", "v3", "api", version] => openapi("", version)?,
        ["openapi", "v3", "apis", group, version] => openapi(group, version)?,
        ["apis", group] => Target::Group(served(|g, _| g == group)?.0),
        ["api", version] => resources("", version)?,
        ["apis", group, version] => resources(group, version)?,
        ["api", version, ref rest @ ..] => Target::Records(place("", version, rest)?),
        ["apis", group, version, ref rest @ ..] => Target::Records(place(group, version, rest)?),
        _ => return None,
    })
}

fn served(wanted: impl Fn(&str, &str) -> bool) -> Option<(&'static str, &'static str)> {
    registry::groups().into_iter().find(|(group, version)| wanted(group, version))
}

fn resources(group: &str, version: &str) -> Option<Target> {
    served(|g, v| g == group && v == version).map(|(g, v)| Target::Resources(g, v))
}

fn openapi(group: &str, version: &str) -> Option<Target> {
    served(|g, v| g == group && v == version).map(|(g, v)| Target::OpenApi(g, v))
}

fn place(group: &str, version: &str, rest: &[&str]) -> Option<Place> {
    let own = |s: &&str| Some((*s).to_owned());
    let found =
        |plural: &str, namespaced: bool| registry::find(group, version, plural).filter(|r| r.namespaced == namespaced);
    // `namespaces/x/instances` first: `namespaces/x/status` is a part of the namespace itself.
    if let ["namespaces", namespace, plural, tail @ ..] = rest
        && let Some(resource) = found(plural, true)
    {
        let (name, subresource) = match tail {
            [] => (None, None),
            [name] => (own(name), None),
            [name, sub] => (own(name), own(sub)),
            _ => return None,
        };
        return Some(Place { resource, namespace: own(namespace), name, subresource });
    }
    let (resource, name, subresource) = match rest {
        [plural] => (registry::find(group, version, plural)?, None, None),
        [plural, name] => (found(plural, false)?, own(name), None),
        [plural, name, sub] => (found(plural, false)?, own(name), own(sub)),
        _ => return None,
    };
    if let Some(sub) = &subresource {
        resource.subresource(sub)?;
    }
    Some(Place { resource, namespace: None, name, subresource })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(path: &str) -> Option<String> {
        match parse(path)? {
            Target::Records(p) => {
                Some(format!("{} {:?} {:?} {:?}", p.resource.plural, p.namespace, p.name, p.subresource))
            }
            _ => None,
        }
    }

    #[test]
    fn paths_name_collections_objects_and_their_parts() {
        let i = "/apis/portreeve.dev/v1";
        for (path, expected) in [
            (format!("{i}/instances"), Some(r#"instances None None None"#)),
            (format!("{i}/namespaces/a/instances"), Some(r#"instances Some("a") None None"#)),
            (format!("{i}/namespaces/a/instances/x/status"), Some(r#"instances Some("a") Some("x") Some("status")"#)),
            (format!("{i}/dockerhosts/x"), Some(r#"dockerhosts None Some("x") None"#)),
            ("/api/v1/namespaces/a".into(), Some(r#"namespaces None Some("a") None"#)),
            ("/api/v1/namespaces/a/status".into(), Some(r#"namespaces None Some("a") Some("status")"#)),
            ("/api/v1/namespaces/a/pods/x/log".into(), Some(r#"pods Some("a") Some("x") Some("log")"#)),
            (format!("{i}/instances/x"), None),
            (format!("{i}/namespaces/a/dockerhosts/x"), None),
            ("/api/v1/namespaces//pods".into(), None),
            ("/api/v2/pods".into(), None),
        ] {
            assert_eq!(placed(&path).as_deref(), expected, "{path}");
        }
    }
}
