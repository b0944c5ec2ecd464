//! Everything that is served under `/api` and `/apis`: one table, read by routing, authorization, discovery and OpenAPI.
//!
//! Stored kinds come from [`crate::model::KindInfo`]; views and reviews are rows of their own.

use std::sync::LazyLock;

use super::views::{View, events_v1, metrics};
use crate::model::Kind;

/// What stands behind a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Records of the store.
    Stored(Kind),
    /// The core/v1 view of Instances.
    Pods,
    /// The core/v1 view of DockerHosts.
    Nodes,
    /// The events.k8s.io/v1 view of Events.
    EventsV1,
    /// A view that is only read.
    ReadOnly(View),
    /// What something uses now: measured when it is read.
    Measured(View),
    /// Who am I?
    SelfSubjectReviews,
    /// May I?
    SelfSubjectAccessReviews,
    /// What may I?
    SelfSubjectRulesReviews,
}

/// A part of an object with a path of its own.
#[derive(Debug)]
pub struct Subresource {
    pub name: &'static str,
    /// Group, version and kind of what is read and written there.
    pub speaks: (&'static str, &'static str, &'static str),
    pub verbs: &'static [&'static str],
}

#[derive(Debug)]
pub struct Resource {
    pub what: What,
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub verbs: &'static [&'static str],
    pub subresources: Vec<Subresource>,
}

impl Resource {
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    pub fn group_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }
}

const RECORD_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Namespaces end one by one, as in Kubernetes.
const NAMESPACE_VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

static RESOURCES: LazyLock<Vec<Resource>> = LazyLock::new(|| {
    let mut all: Vec<Resource> = Kind::all().map(stored).collect();
    all.push(Resource {
        what: What::Pods,
        group: "",
        version: "v1",
        plural: "pods",
        singular: "pod",
        kind: "Pod",
        namespaced: true,
        short_names: &["po"],
        categories: &[],
        verbs: &["delete", "get", "list", "watch"],
        subresources: vec![
            Subresource { name: "attach", speaks: ("", "v1", "PodAttachOptions"), verbs: &["create", "get"] },
            Subresource { name: "eviction", speaks: ("policy", "v1", "Eviction"), verbs: &["create"] },
            Subresource { name: "exec", speaks: ("", "v1", "PodExecOptions"), verbs: &["create", "get"] },
            Subresource { name: "log", speaks: ("", "v1", "Pod"), verbs: &["get"] },
            Subresource { name: "portforward", speaks: ("", "v1", "PodPortForwardOptions"), verbs: &["create", "get"] },
        ],
    });
    all.push(Resource {
        what: What::Nodes,
        group: "",
        version: "v1",
        plural: "nodes",
        singular: "node",
        kind: "Node",
        namespaced: false,
        short_names: &["no"],
        categories: &[],
        verbs: &["get", "list", "patch", "update", "watch"],
        subresources: vec![Subresource { name: "status", speaks: ("", "v1", "Node"), verbs: &["get"] }],
    });
    all.push(Resource {
        what: What::EventsV1,
        group: events_v1::GROUP,
        version: events_v1::VERSION,
        plural: "events",
        singular: "event",
        kind: "Event",
        namespaced: true,
        short_names: &["ev"],
        categories: &[],
        verbs: RECORD_VERBS,
        subresources: vec![],
    });
    all.push(Resource {
        what: What::ReadOnly(View::Leases),
        group: "coordination.k8s.io",
        version: "v1",
        plural: "leases",
        singular: "lease",
        kind: "Lease",
        namespaced: true,
        short_names: &[],
        categories: &[],
        verbs: &["get", "list", "watch"],
        subresources: vec![],
    });
    all.push(Resource {
        what: What::ReadOnly(View::Services),
        group: "",
        version: "v1",
        plural: "services",
        singular: "service",
        kind: "Service",
        namespaced: true,
        short_names: &["svc"],
        categories: &[],
        verbs: &["get", "list", "watch"],
        subresources: vec![],
    });
    for (view, plural, singular, namespaced) in
        [(View::PodMetrics, "pods", "podmetrics", true), (View::NodeMetrics, "nodes", "nodemetrics", false)]
    {
        all.push(Resource {
            what: What::Measured(view),
            group: metrics::GROUP,
            version: metrics::VERSION,
            plural,
            // Not `pod`, which is the core kind's.
            singular,
            kind: view.kind(),
            namespaced,
            short_names: &[],
            categories: &[],
            verbs: &["get", "list"],
            subresources: vec![],
        });
    }
    let (authentication, authorization) = ("authentication.k8s.io", "authorization.k8s.io");
    for (what, group, version, plural, kind) in [
        (What::SelfSubjectReviews, authentication, "v1", "selfsubjectreviews", "SelfSubjectReview"),
        // the only one that kubectl 1.27 asks
        (What::SelfSubjectReviews, authentication, "v1beta1", "selfsubjectreviews", "SelfSubjectReview"),
        (What::SelfSubjectAccessReviews, authorization, "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
        (What::SelfSubjectRulesReviews, authorization, "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    ] {
        all.push(Resource {
            what,
            group,
            version,
            plural,
            singular: plural.trim_end_matches('s'),
            kind,
            namespaced: false,
            short_names: &[],
            categories: &[],
            verbs: &["create"],
            subresources: vec![],
        });
    }
    all
});

fn stored(kind: Kind) -> Resource {
    let info = kind.info();
    let mut subresources = vec![];
    if kind == Kind::Instance {
        subresources.push(Subresource { name: "scale", speaks: ("autoscaling", "v1", "Scale"), verbs: STATUS_VERBS });
    }
    if kind == Kind::DockerHost {
        let speaks = (info.group, info.version, "HostContainerList");
        subresources.push(Subresource { name: "containers", speaks, verbs: &["get"] });
    }
    if kind == Kind::Namespace {
        let speaks = (info.group, info.version, info.name);
        subresources.push(Subresource { name: "finalize", speaks, verbs: &["update"] });
    }
    // What the server has made of an access token is nobody's to write.
    if info.has_status && kind != Kind::AccessToken {
        subresources.push(Subresource {
            name: "status",
            speaks: (info.group, info.version, info.name),
            verbs: STATUS_VERBS,
        });
    }
    if kind == Kind::Instance {
        let speaks = (info.group, info.version, "InstanceExplanation");
        subresources.push(Subresource { name: "why", speaks, verbs: &["get"] });
    }
    Resource {
        what: What::Stored(kind),
        group: info.group,
        version: info.version,
        plural: info.plural,
        singular: info.singular,
        kind: info.name,
        namespaced: info.namespaced,
        short_names: info.short_names,
        categories: info.categories,
        verbs: if kind == Kind::Namespace { NAMESPACE_VERBS } else { RECORD_VERBS },
        subresources,
    }
}

pub fn all() -> &'static [Resource] {
    &RESOURCES
}

pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.group == group && r.version == version && r.plural == plural)
}

/// The served group versions, the core group first, our own next.
pub fn groups() -> Vec<(&'static str, &'static str)> {
    let mut groups = vec![("", "v1")];
    for resource in all() {
        if !groups.contains(&(resource.group, resource.version)) {
            groups.push((resource.group, resource.version));
        }
    }
    groups
}

/// Each group once, with its versions, the preferred one first.
pub fn versions() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut all: Vec<(&str, Vec<&str>)> = vec![];
    for (group, version) in groups() {
        match all.iter_mut().find(|(known, _)| *known == group) {
            Some((_, versions)) => versions.push(version),
            None => all.push((group, vec![version])),
        }
    }
    all
}
