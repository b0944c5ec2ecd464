//! The kinds that Portreeve stores, and the key that names one object.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Every stored kind. A kind's facts live in [`Kind::info`], so adding one is one table row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    Instance,
    DockerHost,
    Namespace,
    Event,
    AccessToken,
    Secret,
    ConfigMap,
}

/// The fixed facts of a kind, as Kubernetes discovery tells them.
#[derive(Debug)]
pub struct KindInfo {
    pub kind: Kind,
    /// `Instance`
    pub name: &'static str,
    /// `instance`
    pub singular: &'static str,
    /// `instances`: the URL segment and the store prefix
    pub plural: &'static str,
    /// Empty for the core group.
    pub group: &'static str,
    pub version: &'static str,
    pub namespaced: bool,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    /// Whether `/status` exists: then the main path never writes status, and status never writes spec.
    pub has_status: bool,
}

/// The API group of Portreeve's own kinds.
pub const GROUP: &str = "portreeve.dev";

static KINDS: [KindInfo; 7] = [
    KindInfo {
        kind: Kind::Instance,
        name: "Instance",
        singular: "instance",
        plural: "instances",
        group: GROUP,
        version: "v1",
        namespaced: true,
        short_names: &["inst"],
        categories: &["all"],
        has_status: true,
    },
    KindInfo {
        kind: Kind::DockerHost,
        name: "DockerHost",
        singular: "dockerhost",
        plural: "dockerhosts",
        group: GROUP,
        version: "v1",
        namespaced: false,
        short_names: &["dh"],
        categories: &[],
        has_status: true,
    },
    KindInfo {
        kind: Kind::Namespace,
        name: "Namespace",
        singular: "namespace",
        plural: "namespaces",
        group: "",
        version: "v1",
        namespaced: false,
        short_names: &["ns"],
        categories: &[],
        has_status: true,
    },
    KindInfo {
        kind: Kind::Event,
        name: "Event",
        singular: "event",
        plural: "events",
        group: "",
        version: "v1",
        namespaced: true,
        short_names: &["ev"],
        categories: &[],
        has_status: false,
    },
    KindInfo {
        kind: Kind::AccessToken,
        name: "AccessToken",
        singular: "accesstoken",
        plural: "accesstokens",
        group: GROUP,
        version: "v1",
        namespaced: false,
        short_names: &[],
        categories: &[],
        has_status: true,
    },
    KindInfo {
        kind: Kind::Secret,
        name: "Secret",
        singular: "secret",
        plural: "secrets",
        group: "",
        version: "v1",
        namespaced: true,
        short_names: &[],
        categories: &[],
        has_status: false,
    },
    KindInfo {
        kind: Kind::ConfigMap,
        name: "ConfigMap",
        singular: "configmap",
        plural: "configmaps",
        group: "",
        version: "v1",
        namespaced: true,
        short_names: &["cm"],
        categories: &[],
        has_status: false,
    },
];

impl Kind {
    /// Every kind, in the order of discovery.
    pub fn all() -> impl Iterator<Item = Kind> {
        KINDS.iter().map(|k| k.kind)
    }

    pub fn info(self) -> &'static KindInfo {
        match self {
            Kind::Instance => &KINDS[0],
            Kind::DockerHost => &KINDS[1],
            Kind::Namespace => &KINDS[2],
            Kind::Event => &KINDS[3],
            Kind::AccessToken => &KINDS[4],
            Kind::Secret => &KINDS[5],
            Kind::ConfigMap => &KINDS[6],
        }
    }

    /// The kind of a URL's group and plural.
    pub fn from_plural(group: &str, plural: &str) -> Option<Kind> {
        KINDS.iter().find(|k| k.group == group && k.plural == plural).map(|k| k.kind)
    }

    /// The kind that an object's `apiVersion` and `kind` say.
    pub fn from_api(api_version: &str, name: &str) -> Option<Kind> {
        Kind::all().find(|kind| kind.info().name == name && kind.api_version() == api_version)
    }

    /// `portreeve.dev/v1`, or `v1` for the core group.
    pub fn api_version(self) -> String {
        let info = self.info();
        if info.group.is_empty() { info.version.into() } else { format!("{}/{}", info.group, info.version) }
    }

    /// `instances.portreeve.dev`, or `events` for the core group: how Kubernetes errors name a resource.
    pub fn qualified(self) -> String {
        let info = self.info();
        if info.group.is_empty() { info.plural.into() } else { format!("{}.{}", info.plural, info.group) }
    }

    /// The store prefix of all objects of this kind (in one namespace, if given), with its trailing slash.
    pub fn prefix(self, namespace: Option<&str>) -> String {
        match namespace {
            Some(ns) if self.info().namespaced => format!("{}/{ns}/", self.info().plural),
            _ => format!("{}/", self.info().plural),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info().name)
    }
}

/// The name of one object: all that a work queue ever holds.
///
/// As text, and in the store: `instances/default/alice`, `dockerhosts/local`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: Kind,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Key {
        let namespace = if kind.info().namespaced { namespace.into() } else { String::new() };
        Key { kind, namespace, name: name.into() }
    }

    pub fn instance(namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key::new(Kind::Instance, namespace, name)
    }

    pub fn host(name: impl Into<String>) -> Key {
        Key::new(Kind::DockerHost, "", name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind.info().namespaced {
            write!(f, "{}/{}/{}", self.kind.info().plural, self.namespace, self.name)
        } else {
            write!(f, "{}/{}", self.kind.info().plural, self.name)
        }
    }
}

/// A store key that names no object of a known kind.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not the key of a known kind")]
pub struct BadKey(String);

impl FromStr for Key {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Key, BadKey> {
        let bad = || BadKey(text.to_owned());
        let (plural, rest) = text.split_once('/').ok_or_else(bad)?;
        let info = KINDS.iter().find(|k| k.plural == plural).ok_or_else(bad)?;
        if info.namespaced {
            let (namespace, name) = rest.split_once('/').ok_or_else(bad)?;
            if namespace.is_empty() || name.is_empty() || name.contains('/') {
                return Err(bad());
            }
            Ok(Key::new(info.kind, namespace, name))
        } else if rest.is_empty() || rest.contains('/') {
            Err(bad())
        } else {
            Ok(Key::new(info.kind, "", rest))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_text_reads_back() {
        for key in [Key::instance("default", "alice"), Key::host("local"), Key::new(Kind::Namespace, "x", "team-a")] {
            assert_eq!(key.to_string().parse::<Key>().unwrap(), key);
        }
        for bad in ["", "instances", "instances/default", "instances/default/", "pods/a/b", "dockerhosts/a/b"] {
            assert!(bad.parse::<Key>().is_err(), "{bad:?} was taken for a key");
        }
    }

    #[test]
    fn every_kind_finds_itself_by_its_url() {
        for kind in Kind::all() {
            assert_eq!(Kind::from_plural(kind.info().group, kind.info().plural), Some(kind));
        }
    }
}
