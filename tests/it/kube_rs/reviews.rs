//! Who one is and what one may do, leases, and events: with Kubernetes' own types.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SelfSubjectRulesReview,
    SelfSubjectRulesReviewSpec,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Service};
use k8s_openapi::api::events;
use kube::api::{ListParams, PostParams};
use kube::config::Kubeconfig;
use kube::runtime::events::{self as recorder, EventType, Recorder};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::{Instance, client, config, instance, made, refusal};
use crate::support::api_server::ApiServer;

async fn may(client: &Client, verb: &str, resource: &str, part: Option<&str>) -> bool {
    let text = |t: &str| Some(t.to_owned());
    let attributes = ResourceAttributes {
        group: text("portreeve.dev"),
        namespace: text("default"),
        resource: text(resource),
        subresource: part.map(str::to_owned),
        verb: text(verb),
        ..Default::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..Default::default() };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let review = reviews.create(&PostParams::default(), &review).await.expect("a review");
    review.status.expect("a status").allowed
}

#[tokio::test]
async fn one_learns_who_one_is_and_what_one_may_do() {
    let server = ApiServer::start().await;
    let admin = client(&server.kubeconfig).await;
    let reviews: Api<SelfSubjectReview> = Api::all(admin.clone());
    let me = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await.expect("a review");
    let me = me.status.and_then(|s| s.user_info).expect("a user");
    assert!(me.username.is_some_and(|u| !u.is_empty()) && me.groups.is_some_and(|g| !g.is_empty()));
    assert!(may(&admin, "delete", "instances", None).await);

    // A viewer, by a token of its own.
    let token = json!({
        "apiVersion": "portreeve.dev/v1", "kind": "AccessToken", "metadata": {"name": "look"},
        "spec": {"role": "viewer"},
    });
    let token = server.client.post("/apis/portreeve.dev/v1/accesstokens", &token).await.expect(201);
    let token = token["status"]["token"].as_str().unwrap_or_else(|| panic!("no token in {token}"));
    let mut read = Kubeconfig::read_from(&server.kubeconfig).expect("a kubeconfig");
    let info = read.auth_infos[0].auth_info.as_mut().expect("a user");
    *info = Default::default();
    info.token = Some(token.into());
    let viewer = Client::try_from(config(read).await).expect("a client");
    assert!(may(&viewer, "list", "instances", None).await && !may(&viewer, "delete", "instances", None).await);
    let instances: Api<Instance> = Api::default_namespaced(viewer.clone());
    assert!(instances.list(&ListParams::default()).await.expect("a list").items.is_empty());
    let (code, reason, message) = refusal(instances.create(&PostParams::default(), &instance("a")).await);
    assert_eq!((code, reason.as_str()), (403, "Forbidden"), "{message}");
    let rules: Api<SelfSubjectRulesReview> = Api::all(viewer);
    let spec = SelfSubjectRulesReviewSpec { namespace: Some("default".into()) };
    let review = SelfSubjectRulesReview { spec, ..Default::default() };
    let told = rules.create(&PostParams::default(), &review).await.expect("a review").status.expect("a status");
    assert!(told.resource_rules.iter().any(|r| r.verbs.contains(&"list".into())), "{told:?}");
    assert!(told.resource_rules.iter().all(|r| !r.verbs.contains(&"delete".into())), "{told:?}");
}

#[tokio::test]
async fn leases_services_and_events_are_read_by_their_types() {
    let server = ApiServer::start().await;
    let client = client(&server.kubeconfig).await;
    server
        .put(json!({
            "apiVersion": "portreeve.dev/v1", "kind": "DockerHost", "metadata": {"name": "h", "uid": "u"},
            "spec": {"endpoint": "unix:///nowhere.sock"},
            "status": {"lastHeartbeatTime": "2026-01-01T00:00:00Z", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let lease = leases.get("h").await.expect("a lease").spec.expect("a spec");
    assert!(lease.holder_identity.as_deref() == Some("h") && lease.renew_time.is_some(), "{lease:?}");
    assert_eq!(leases.list(&ListParams::default()).await.expect("leases").items[0].name_any(), "h");
    let wanted =
        Lease { metadata: kube::api::ObjectMeta { name: Some("mine".into()), ..Default::default() }, spec: None };
    assert_eq!(refusal(leases.create(&PostParams::default(), &wanted).await).0, 405, "they are read only");
    let services: Api<Service> = Api::all(client.clone());
    assert!(services.list(&ListParams::default()).await.expect("services").items.is_empty());

    // An event about an instance, as kube-rs' own types write it, is found again by what it is about.
    let about = made(&Api::default_namespaced(client.clone()), "a").await;
    let events: Api<Event> = Api::default_namespaced(client);
    let event = Event {
        metadata: kube::api::ObjectMeta { generate_name: Some("a.".into()), ..Default::default() },
        involved_object: kube::Resource::object_ref(&about, &()),
        reason: Some("Seen".into()),
        message: Some("by a controller".into()),
        type_: Some("Normal".into()),
        ..Default::default()
    };
    events.create(&PostParams::default(), &event).await.expect("an event");
    let of = ListParams::default().fields("involvedObject.kind=Instance,involvedObject.name=a");
    let found = events.list(&of).await.expect("events").items;
    assert_eq!(found.iter().map(|e| e.reason.as_deref()).collect::<Vec<_>>(), [Some("Seen")]);
}

#[tokio::test]
async fn a_recorder_tells_and_counts_what_it_tells_again() {
    let server = ApiServer::start().await;
    let client = client(&server.kubeconfig).await;
    let about = made(&Api::default_namespaced(client.clone()), "a").await;
    let recorder = Recorder::new(client.clone(), "example.com/controller".into());
    let told = recorder::Event {
        type_: EventType::Warning,
        reason: "PullFailed".into(),
        note: Some("no such image".into()),
        action: "Pull".into(),
        secondary: None,
    };
    for _ in 0..3 {
        recorder.publish(&told, &kube::Resource::object_ref(&about, &())).await.expect("told");
    }
    let events: Api<events::v1::Event> = Api::default_namespaced(client.clone());
    let of = ListParams::default().fields("regarding.kind=Instance,regarding.name=a");
    let found = events.list(&of).await.expect("events").items;
    assert_eq!(found.len(), 1, "repeats are a series: {found:?}");
    assert_eq!(found[0].note.as_deref(), Some("no such image"));
    assert_eq!(found[0].series.as_ref().expect("a series").count, 3);
    // kubectl describe and kubectl events read it at core/v1.
    let events: Api<Event> = Api::default_namespaced(client);
    let of = ListParams::default().fields("involvedObject.kind=Instance,involvedObject.name=a");
    let found = events.list(&of).await.expect("events").items;
    assert_eq!(found[0].message.as_deref(), Some("no such image"));
    assert_eq!(found[0].reporting_component.as_deref(), Some("example.com/controller"));
}
