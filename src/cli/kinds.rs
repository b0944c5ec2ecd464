//! Which resource a word on the command line or a manifest means, and its address in the API.
//!
//! Portreeve's own kinds are known here; any other word is looked up in the server's discovery, so that a kind which
//! only the server knows (its views of instances as pods, a newer kind) works as well.

use serde_json::Value;

use super::client::{Client, JSON, not_served};
use super::error::{Error, Result};
use super::url::encode;
use crate::model::{GROUP, Kind};

/// One kind as the API serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceType {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub namespaced: bool,
}

impl From<Kind> for ResourceType {
    fn from(kind: Kind) -> ResourceType {
        let info = kind.info();
        ResourceType {
            group: info.group.into(),
            version: info.version.into(),
            plural: info.plural.into(),
            singular: info.singular.into(),
            kind: info.name.into(),
            namespaced: info.namespaced,
        }
    }
}

impl ResourceType {
    pub fn instances() -> ResourceType {
        Kind::Instance.into()
    }

    /// The path of the collection: in one namespace, or in all when `None` (and for cluster-scoped kinds).
    pub fn collection(&self, namespace: Option<&str>) -> String {
        let base = group_path(&self.group, &self.version);
        match namespace.filter(|_| self.namespaced) {
            Some(ns) => format!("{base}/namespaces/{}/{}", encode(ns), self.plural),
            None => format!("{base}/{}", self.plural),
        }
    }

    /// The path of one object.
    pub fn object(&self, namespace: &str, name: &str) -> Result<String> {
        if matches!(name, "" | "." | "..") {
            return Err(Error::usage(format!("{name:?} is not the name of a {}", self.singular)));
        }
        Ok(format!("{}/{}", self.collection(Some(namespace)), encode(name)))
    }

    /// `instance.portreeve.dev/alice`, as kubectl names an object in its messages.
    pub fn named(&self, name: &str) -> String {
        format!("{}/{name}", self.qualified())
    }

    /// `instance.portreeve.dev`, or `namespace` for the core group.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.singular.clone() } else { format!("{}.{}", self.singular, self.group) }
    }
}

fn group_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// The resource that a word means: plural, singular, short name or kind, in any case, with or without its group.
pub async fn by_word(client: &Client, word: &str) -> Result<ResourceType> {
    if let Some(kind) = known(word) {
        return Ok(kind.into());
    }
    for (group, version) in [("", "v1"), (GROUP, "v1")] {
        for found in discover(client, group, version).await? {
            if found.answers_to(word) {
                return Ok(found.resource);
            }
        }
    }
    Err(Error::failed(format!("the server doesn't have a resource type {word:?}")))
}

/// The kind that a word means, of those that this program knows.
pub fn known(word: &str) -> Option<Kind> {
    let word = word.to_ascii_lowercase();
    Kind::all().find(|kind| {
        let info = kind.info();
        let bare = match word.split_once('.') {
            Some((bare, group)) if group == info.group => bare,
            Some(_) => return false,
            None => word.as_str(),
        };
        bare == info.plural || bare == info.singular || info.short_names.contains(&bare)
    })
}

/// The kinds of a category, such as `all`.
pub fn category(word: &str) -> Vec<ResourceType> {
    Kind::all().filter(|k| k.info().categories.contains(&word)).map(ResourceType::from).collect()
}

/// The resource of a manifest's `apiVersion` and `kind`.
pub async fn by_kind(client: &Client, api_version: &str, kind: &str) -> Result<ResourceType> {
    if let Some(known) = Kind::all().find(|k| k.info().name == kind && k.api_version() == api_version) {
        return Ok(known.into());
    }
    let no_match = || Error::failed(format!("no matches for kind {kind:?} in version {api_version:?}"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if group.contains('/') || version.is_empty() || version.contains('/') {
        return Err(no_match());
    }
    discover(client, group, version)
        .await?
        .into_iter()
        .find(|d| d.resource.kind == kind)
        .map(|d| d.resource)
        .ok_or_else(no_match)
}

struct Discovered {
    resource: ResourceType,
    short_names: Vec<String>,
}

impl Discovered {
    fn answers_to(&self, word: &str) -> bool {
        let word = word.to_ascii_lowercase();
        word == self.resource.plural || word == self.resource.singular || self.short_names.contains(&word)
    }
}

/// The resources of a group version; none when the server has no such group.
async fn discover(client: &Client, group: &str, version: &str) -> Result<Vec<Discovered>> {
    let path = group_path(&encode(group), &encode(version));
    match client.get(&path, JSON).await {
        Ok(list) => Ok(read_discovery(group, version, &list)),
        Err(e) if not_served(&e) => Ok(vec![]),
        Err(e) => Err(e),
    }
}

fn read_discovery(group: &str, version: &str, list: &Value) -> Vec<Discovered> {
    let text = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    let resources = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    resources
        .iter()
        .filter(|r| !text(r, "name").contains('/'))
        .map(|r| {
            let kind = text(r, "kind");
            let singular = match text(r, "singularName") {
                s if s.is_empty() => kind.to_ascii_lowercase(),
                s => s,
            };
            let short = r["shortNames"].as_array().map(Vec::as_slice).unwrap_or_default();
            Discovered {
                resource: ResourceType {
                    group: group.into(),
                    version: version.into(),
                    plural: text(r, "name"),
                    singular,
                    kind,
                    namespaced: r["namespaced"].as_bool().unwrap_or(false),
                },
                short_names: short.iter().filter_map(|s| s.as_str().map(str::to_owned)).collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_name_of_a_kind_is_understood() {
        for word in ["instances", "instance", "inst", "Instance", "instances.portreeve.dev"] {
            assert_eq!(known(word), Some(Kind::Instance), "{word}");
        }
        assert_eq!(known("dh"), Some(Kind::DockerHost));
        assert_eq!(known("ns"), Some(Kind::Namespace));
        for word in ["instances.apps", "pods", "", "all"] {
            assert_eq!(known(word), None, "{word}");
        }
        assert_eq!(category("all"), [ResourceType::instances()]);
    }

    #[test]
    fn paths_follow_group_and_scope() {
        let host = ResourceType::from(Kind::DockerHost);
        let inst = ResourceType::instances();
        assert_eq!(inst.object("a b", "x").unwrap(), "/apis/portreeve.dev/v1/namespaces/a%20b/instances/x");
        assert_eq!(inst.collection(None), "/apis/portreeve.dev/v1/instances");
        assert_eq!(host.object("default", "local").unwrap(), "/apis/portreeve.dev/v1/dockerhosts/local");
        assert_eq!(ResourceType::from(Kind::Namespace).collection(None), "/api/v1/namespaces");
        assert!(inst.object("a", "..").is_err());
    }

    #[test]
    fn discovery_tells_of_kinds_unknown_here() {
        let list = json!({"resources": [
            {"name": "pods", "singularName": "", "namespaced": true, "kind": "Pod", "shortNames": ["po"]},
            {"name": "pods/log", "namespaced": true, "kind": "Pod"},
        ]});
        let found = read_discovery("", "v1", &list);
        assert_eq!(found.len(), 1);
        assert!(found[0].answers_to("po") && found[0].answers_to("Pod") && !found[0].answers_to("p"));
        assert_eq!(found[0].resource.collection(Some("x")), "/api/v1/namespaces/x/pods");
    }
}
