//! Objects from their creation to their end, through typed clients.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy, ValidationDirective,
};
use kube::core::params::VersionMatch;
use kube::{Api, ResourceExt};
use portreeve::model::{Phase, Power};
use serde_json::json;

use super::{Instance, client, instance, made, refusal};
use crate::support::api_server::{ApiServer, running};

fn config_map(name: &str, set: &str) -> ConfigMap {
    let body = json!({"metadata": {"name": name, "labels": {"set": set}}, "data": {"mode": "dark", "size": "4"}});
    serde_json::from_value(body).expect("a ConfigMap")
}

fn names<K: kube::Resource>(items: &[K]) -> Vec<String> {
    items.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test]
async fn a_typed_object_is_made_read_and_replaced_against_conflicts() {
    let server = ApiServer::start().await;
    let api: Api<Instance> = Api::default_namespaced(client(&server.kubeconfig).await);
    let dry = PostParams { dry_run: true, ..Default::default() };
    let tried = api.create(&dry, &instance("a")).await.expect("a dry run");
    assert!(tried.uid().is_some() && api.get_opt("a").await.expect("an answer").is_none());
    let first = made(&api, "a").await;
    assert_eq!((first.spec.image.as_str(), first.metadata.generation), ("app:1", Some(1)));
    assert_eq!(first.namespace().as_deref(), Some("default"));
    assert!(first.creation_timestamp().is_some() && first.resource_version().is_some());
    assert_eq!(refusal(api.create(&PostParams::default(), &instance("a")).await).1, "AlreadyExists");

    let mut second = api.get("a").await.expect("an instance");
    assert_eq!(second.resource_version(), first.resource_version());
    second.spec.image = "app:2".into();
    let second = api.replace("a", &PostParams::default(), &second).await.expect("replaced");
    assert_eq!((second.spec.image.as_str(), second.metadata.generation), ("app:2", Some(2)));
    let mut stale = first.clone();
    stale.spec.image = "app:3".into();
    let refused = refusal(api.replace("a", &PostParams::default(), &stale).await);
    assert_eq!((refused.0, refused.1.as_str()), (409, "Conflict"));
    assert!(refused.2.contains("the object has been modified"), "{}", refused.2);
    assert_eq!(api.get("a").await.expect("an instance").spec.image, "app:2");
    // Nothing changes, and nothing is written.
    let same = api.replace("a", &PostParams::default(), &second).await.expect("replaced");
    assert_eq!(same.resource_version(), second.resource_version());

    let mut bad = instance("b");
    bad.spec.image = String::new();
    bad.spec.ports[0].container_port = 0;
    let refused = refusal(api.create(&PostParams::default(), &bad).await);
    assert_eq!((refused.0, refused.1.as_str()), (422, "Invalid"));
    assert!(refused.2.contains("spec.image") && refused.2.contains("spec.ports[0].containerPort"), "{}", refused.2);
    assert_eq!(refusal(api.get("b").await).1, "NotFound");
    let mut generated = instance("");
    generated.metadata.name = None;
    generated.metadata.generate_name = Some("app-".into());
    let generated = api.create(&PostParams::default(), &generated).await.expect("a generated name").name_any();
    assert!(generated.starts_with("app-") && generated.len() > 4, "{generated}");
}

#[tokio::test]
async fn an_entry_is_made_once_and_then_changed() {
    let server = ApiServer::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client(&server.kubeconfig).await);
    for (size, count) in [("4", 1), ("5", 2)] {
        let entry = api.entry("c").await.expect("an entry");
        let mut entry = entry.or_insert(|| config_map("c", "s"));
        let data = entry.get_mut().data.get_or_insert_default();
        data.insert("size".into(), size.into());
        data.insert(format!("turn-{count}"), "done".into());
        entry.commit(&PostParams::default()).await.expect("committed");
    }
    let data = api.get("c").await.expect("a ConfigMap").data.expect("data");
    assert_eq!((data["size"].as_str(), data.len()), ("5", 4), "{data:?}");
}

#[tokio::test]
async fn pages_of_a_list_are_of_one_version() {
    let server = ApiServer::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client(&server.kubeconfig).await);
    for n in 0..25 {
        let set = if n % 2 == 0 { "even" } else { "odd" };
        api.create(&PostParams::default(), &config_map(&format!("c-{n:02}"), set)).await.expect("made");
    }
    let mut page = api.list(&ListParams::default().limit(10)).await.expect("a page");
    let version = page.metadata.resource_version.clone().expect("a version");
    assert_eq!(page.metadata.remaining_item_count, Some(15));
    // What happens between pages is not in them.
    api.delete("c-20", &DeleteParams::default()).await.expect("deleted");
    api.create(&PostParams::default(), &config_map("c-21a", "odd")).await.expect("made");
    let mut seen = names(&page.items);
    while let Some(token) = page.metadata.continue_.clone().filter(|t| !t.is_empty()) {
        let next = ListParams::default().limit(10).continue_token(&token);
        page = api.list(&next).await.expect("a page");
        assert_eq!(page.metadata.resource_version.as_ref(), Some(&version));
        seen.extend(names(&page.items));
    }
    assert_eq!(seen, (0..25).map(|n| format!("c-{n:02}")).collect::<Vec<_>>());
    let exact = ListParams::default().at(&version).matching(VersionMatch::Exact);
    assert_eq!(names(&api.list(&exact).await.expect("the old state").items), seen);
    let odd = api.list(&ListParams::default().labels("set=odd")).await.expect("a selection");
    assert_eq!(odd.items.len(), 13);
    let one = api.list_metadata(&ListParams::default().fields("metadata.name=c-03")).await.expect("metadata");
    assert_eq!((one.items.len(), one.items[0].labels()["set"].as_str()), (1, "odd"));
    assert_eq!(api.get_metadata("c-03").await.expect("metadata").uid(), one.items[0].uid());
    let everywhere: Api<ConfigMap> = Api::all(api.into_client());
    assert_eq!(everywhere.list(&ListParams::default()).await.expect("a list").items.len(), 25);
}

#[tokio::test]
async fn patches_of_every_kind_change_what_they_name() {
    let server = ApiServer::start().await;
    let client = client(&server.kubeconfig).await;
    let api: Api<Instance> = Api::default_namespaced(client.clone());
    made(&api, "a").await;
    let plain = PatchParams::default();
    let merged =
        json!({"metadata": {"labels": {"l": "x"}}, "spec": {"power": "Stopped", "env": [{"name": "A", "value": "1"}]}});
    let merged = api.patch("a", &plain, &Patch::Merge(&merged)).await.expect("merged");
    assert_eq!((merged.spec.power, merged.spec.env.len(), merged.labels()["l"].as_str()), (Power::Stopped, 1, "x"));
    let operations = json!([
        {"op": "test", "path": "/spec/image", "value": "app:1"},
        {"op": "replace", "path": "/spec/image", "value": "app:2"},
        {"op": "remove", "path": "/spec/env/0"},
    ]);
    let operations = Patch::Json::<()>(serde_json::from_value(operations).expect("a JSON patch"));
    let patched = api.patch("a", &plain, &operations).await.expect("patched");
    assert_eq!((patched.spec.image.as_str(), patched.spec.env.len()), ("app:2", 0));
    let (code, reason, _) = refusal(api.patch("a", &plain, &operations).await);
    assert_eq!((code, reason.as_str()), (422, "Invalid"), "its test fails now");
    let strategic = Patch::Strategic(json!({"spec": {"image": "app:4"}}));
    assert_eq!(refusal(api.patch("a", &plain, &strategic).await).0, 415, "not for a custom kind");
    let unknown = Patch::Merge(json!({"spec": {"imag": "app:5"}}));
    let strict = PatchParams { field_validation: Some(ValidationDirective::Strict), ..Default::default() };
    let (code, _, message) = refusal(api.patch("a", &strict, &unknown).await);
    assert!(code == 400 && message.contains("spec.imag"), "{code} {message}");
    let tried = PatchParams { dry_run: true, ..Default::default() };
    let tried = api.patch("a", &tried, &Patch::Merge(json!({"spec": {"image": "app:6"}}))).await.expect("a dry run");
    assert_eq!((tried.spec.image.as_str(), api.get("a").await.expect("a").spec.image.as_str()), ("app:6", "app:2"));

    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let mut map = config_map("c", "s");
    map.metadata.finalizers = Some(vec!["x/one".into()]);
    maps.create(&PostParams::default(), &map).await.expect("made");
    let patch = Patch::Strategic(json!({"metadata": {"finalizers": ["x/two"]}, "data": {"mode": null}}));
    let patched = maps.patch("c", &plain, &patch).await.expect("patched");
    assert_eq!(BTreeSet::from_iter(patched.finalizers()), BTreeSet::from([&"x/one".to_owned(), &"x/two".to_owned()]));
    assert_eq!(patched.data.expect("data").into_keys().collect::<Vec<_>>(), ["size"]);
    // Bytes come back as they went.
    let secrets: Api<Secret> = Api::default_namespaced(client);
    let bytes = k8s_openapi::ByteString(vec![0, 159, 255]);
    let mut secret = Secret { data: Some([("key".to_owned(), bytes.clone())].into()), ..Default::default() };
    secret.metadata.name = Some("s".into());
    let stored = secrets.create(&PostParams::default(), &secret).await.expect("a secret");
    assert_eq!((stored.data.expect("data")["key"].clone(), stored.type_.as_deref()), (bytes, Some("Opaque")));
}

#[tokio::test]
async fn status_and_scale_are_apart_from_the_spec() {
    let server = ApiServer::start().await;
    let api: Api<Instance> = Api::default_namespaced(client(&server.kubeconfig).await);
    made(&api, "a").await;
    let status = Patch::Merge(json!({"status": running(), "spec": {"image": "stray:1"}}));
    let told = api.patch_status("a", &PatchParams::default(), &status).await.expect("a status");
    assert_eq!(told.status.as_ref().map(|s| s.phase), Some(Phase::Running));
    assert_eq!((told.spec.image.as_str(), told.metadata.generation), ("app:1", Some(1)));
    let mut next = api.get_status("a").await.expect("an instance");
    next.status.get_or_insert_default().phase = Phase::Asleep;
    next.spec.image = "stray:2".into();
    let next = api.replace_status("a", &PostParams::default(), &next).await.expect("a status");
    assert_eq!((next.status.as_ref().map(|s| s.phase), next.spec.image.as_str()), (Some(Phase::Asleep), "app:1"));
    // The main path leaves it alone.
    let mut spec = next.clone();
    spec.status = None;
    spec.spec.image = "app:2".into();
    let spec = api.replace("a", &PostParams::default(), &spec).await.expect("replaced");
    assert_eq!((spec.status.map(|s| s.phase), spec.spec.image.as_str()), (Some(Phase::Asleep), "app:2"));
    assert_eq!(refusal(api.replace_status("a", &PostParams::default(), &next).await).1, "Conflict");

    let mut scale = api.get_scale("a").await.expect("a scale");
    assert_eq!(scale.spec.as_ref().and_then(|s| s.replicas), Some(1));
    let zero = Patch::Merge(json!({"spec": {"replicas": 0}}));
    let patched = api.patch_scale("a", &PatchParams::default(), &zero).await.expect("scaled");
    assert_eq!(patched.spec.as_ref().and_then(|s| s.replicas), Some(0));
    assert_eq!(api.get("a").await.expect("an instance").spec.power, Power::Stopped);
    assert_eq!(refusal(api.replace_scale("a", &PostParams::default(), &scale).await).1, "Conflict");
    scale.metadata.resource_version = patched.metadata.resource_version;
    api.replace_scale("a", &PostParams::default(), &scale).await.expect("scaled");
    assert_eq!(api.get("a").await.expect("an instance").spec.power, Power::Auto);
}

#[tokio::test]
async fn deleting_keeps_preconditions_and_finalizers() {
    let server = ApiServer::start().await;
    let client = client(&server.kubeconfig).await;
    let api: Api<Instance> = Api::default_namespaced(client.clone());
    let object = made(&api, "a").await;
    let only = |uid: Option<String>, version: Option<String>| {
        DeleteParams::default().preconditions(Preconditions { uid, resource_version: version })
    };
    assert_eq!(refusal(api.delete("a", &only(Some("another".into()), None)).await).1, "Conflict");
    let changed = Patch::Merge(json!({"metadata": {"labels": {"l": "x"}}}));
    let newer = api.patch("a", &PatchParams::default(), &changed).await.expect("a label");
    assert_eq!(refusal(api.delete("a", &only(None, object.resource_version())).await).1, "Conflict");
    let tried = api.delete("a", &DeleteParams { dry_run: true, ..Default::default() }).await.expect("a dry run");
    assert!(tried.is_left() && api.get("a").await.expect("an instance").metadata.deletion_timestamp.is_none());
    let begun = api.delete("a", &only(newer.uid(), newer.resource_version())).await.expect("begun");
    let begun = begun.left().expect("it has a finalizer, so it stays for now");
    assert!(begun.metadata.deletion_timestamp.is_some());
    let freed = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch("a", &PatchParams::default(), &freed).await.expect("freed");
    assert!(api.get_opt("a").await.expect("an answer").is_none());
    assert_eq!(refusal(api.delete("a", &DeleteParams::default()).await).1, "NotFound");

    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let map = maps.create(&PostParams::default(), &config_map("c", "s")).await.expect("made");
    let gone = maps.delete("c", &DeleteParams::default()).await.expect("deleted").right().expect("gone at once");
    assert!(gone.is_success(), "{gone:?}");
    assert_eq!(gone.details.map(|d| d.uid), map.uid());
    for (n, propagation) in [PropagationPolicy::Foreground, PropagationPolicy::Background, PropagationPolicy::Orphan]
        .into_iter()
        .enumerate()
    {
        let name = format!("c-{n}");
        maps.create(&PostParams::default(), &config_map(&name, "s")).await.expect("made");
        let how = DeleteParams { propagation_policy: Some(propagation), ..Default::default() };
        maps.delete(&name, &how).await.expect("deleted");
        assert!(maps.get_opt(&name).await.expect("an answer").is_none(), "{name} has no dependents to wait for");
    }
}

#[tokio::test]
async fn a_collection_is_deleted_as_its_selectors_say() {
    let server = ApiServer::start().await;
    let client = client(&server.kubeconfig).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    for (name, set) in [("a", "one"), ("b", "one"), ("c", "two")] {
        maps.create(&PostParams::default(), &config_map(name, set)).await.expect("made");
    }
    let one = ListParams::default().labels("set=one");
    let gone = maps.delete_collection(&DeleteParams::default(), &one).await.expect("deleted");
    assert_eq!(names(&gone.left().expect("a list").items), ["a", "b"]);
    assert_eq!(names(&maps.list(&ListParams::default()).await.expect("a list").items), ["c"]);
    let none = maps.delete_collection(&DeleteParams::default(), &one).await.expect("nothing to do");
    assert!(none.left().expect("a list").items.is_empty());
}

#[tokio::test]
async fn a_namespace_goes_with_what_is_in_it() {
    use kube::runtime::wait::{await_condition, conditions};
    let server = ApiServer::start().await;
    let client = client(&server.kubeconfig).await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let team: Namespace = serde_json::from_value(json!({"metadata": {"name": "team"}})).expect("a namespace");
    let team = namespaces.create(&PostParams::default(), &team).await.expect("a namespace");
    assert_eq!(team.status.expect("a status").phase.as_deref(), Some("Active"));
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "team");
    maps.create(&PostParams::default(), &config_map("c", "s")).await.expect("made");
    let uid = team.metadata.uid.expect("a uid");
    namespaces.delete("team", &DeleteParams::default()).await.expect("begun");
    let gone = await_condition(namespaces, "team", conditions::is_deleted(&uid));
    super::soon("the end of the namespace", gone).await.expect("watched");
    assert!(maps.list(&ListParams::default()).await.expect("a list").items.is_empty());
    let (code, reason, _) = refusal(maps.create(&PostParams::default(), &config_map("d", "s")).await);
    assert_eq!((code, reason.as_str()), (404, "NotFound"));
}
