//! Discovery in both forms, and clients that know a kind only from it.

use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiResource, Discovery, Scope, oneshot, verbs};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::{client, refusal};
use crate::support::api_server::ApiServer;

/// What a discovery came to: resource, scope, verbs, in order of names.
fn told(discovery: &Discovery) -> Vec<String> {
    let mut lines = vec![];
    for group in discovery.groups() {
        for version in group.versions() {
            for (resource, what) in group.versioned_resources(version) {
                let scope = if what.scope == Scope::Namespaced { "namespaced" } else { "cluster" };
                let mut parts: Vec<_> = what.subresources.iter().map(|(r, _)| r.plural.as_str()).collect();
                parts.sort_unstable();
                let mut can = what.operations.clone();
                can.sort_unstable();
                let (at, kind) = (&resource.api_version, &resource.kind);
                lines.push(format!("{at} {} {kind} {scope} {can:?} {parts:?}", resource.plural));
            }
        }
    }
    lines.sort_unstable();
    lines
}

#[tokio::test]
async fn both_forms_of_discovery_tell_the_same() {
    let server = ApiServer::start().await;
    let client = client(&server.kubeconfig).await;
    let legacy = Discovery::new(client.clone()).run().await.expect("legacy discovery");
    let aggregated = Discovery::new(client.clone()).run_aggregated().await.expect("aggregated discovery");
    assert_eq!(told(&legacy), told(&aggregated));
    for group in ["", "portreeve.dev", "coordination.k8s.io", "authorization.k8s.io", "authentication.k8s.io"] {
        assert!(aggregated.has_group(group), "{group:?}");
    }
    let gvk = GroupVersionKind::gvk("portreeve.dev", "v1", "Instance");
    for discovery in [&legacy, &aggregated] {
        // One group, though it has two versions, and the newer one is preferred.
        let authentication: Vec<_> = discovery.groups().filter(|g| g.name() == "authentication.k8s.io").collect();
        let [group] = authentication.as_slice() else { panic!("{} groups of one name", authentication.len()) };
        assert_eq!(group.versions().collect::<Vec<_>>(), ["v1", "v1beta1"]);
        assert_eq!(group.preferred_version(), Some("v1"));
        let (resource, what) = discovery.resolve_gvk(&gvk).expect("instances");
        assert_eq!((resource.plural.as_str(), what.scope == Scope::Namespaced), ("instances", true));
        for verb in [verbs::CREATE, verbs::DELETE_COLLECTION, verbs::PATCH, verbs::UPDATE, verbs::WATCH] {
            assert!(what.supports_operation(verb), "{verb}");
        }
    }
    let version = client.apiserver_version().await.expect("a version");
    assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "34"));
}

#[tokio::test]
async fn a_kind_that_is_only_known_from_discovery_can_be_used() {
    let server = ApiServer::start().await;
    let client = client(&server.kubeconfig).await;
    let gvk = GroupVersionKind::gvk("portreeve.dev", "v1", "DockerHost");
    let (resource, what) = oneshot::pinned_kind(&client, &gvk).await.expect("a kind");
    assert!(what.scope == Scope::Cluster);
    let hosts: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let body = json!({"spec": {"endpoint": "unix:///nowhere.sock"}});
    let made = hosts.create(&PostParams::default(), &DynamicObject::new("h", &resource).data(body)).await;
    assert_eq!(made.expect("a host").data["spec"]["endpoint"], "unix:///nowhere.sock");
    assert_eq!(hosts.list(&ListParams::default()).await.expect("a list").items[0].name_any(), "h");
    // The Node of the same name, by the types of Kubernetes itself.
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    nodes.cordon("h").await.expect("cordoned");
    assert_eq!(nodes.get("h").await.expect("a node").spec.expect("a spec").unschedulable, Some(true));
    assert_eq!(hosts.get("h").await.expect("the host").data["spec"]["unschedulable"], true);
    let freed = nodes.uncordon("h").await.expect("uncordoned");
    assert_ne!(freed.spec.and_then(|s| s.unschedulable), Some(true));
    let gvk = GroupVersionKind::gvk("portreeve.dev", "v1", "Nonsense");
    let unknown: Api<DynamicObject> = Api::all_with(client, &ApiResource::from_gvk(&gvk));
    assert_eq!(refusal(unknown.list(&ListParams::default()).await).0, 404);
}
