//! Server-side apply with kube-rs: claims, conflicts, force, and fields that are given up.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use portreeve::model::Phase;
use serde_json::{Value, json};

use super::{Instance, client, instance, refusal};
use crate::support::api_server::ApiServer;

fn applied(name: &str, spec: Value) -> Patch<Value> {
    let meta = json!({"name": name});
    Patch::Apply(json!({"apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": meta, "spec": spec}))
}

/// Managers with what they do, in the order of the object.
fn managers<K: kube::Resource>(object: &K) -> Vec<(String, String, String)> {
    let of = |e: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry| {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        (text(&e.manager), text(&e.operation), text(&e.subresource))
    };
    let mut all: Vec<_> = object.managed_fields().iter().map(of).collect();
    all.sort_unstable();
    all
}

fn entry(manager: &str, operation: &str, part: &str) -> (String, String, String) {
    (manager.into(), operation.into(), part.into())
}

#[tokio::test]
async fn applying_claims_fields_and_gives_them_up() {
    let server = ApiServer::start().await;
    let api: Api<Instance> = Api::default_namespaced(client(&server.kubeconfig).await);
    let (one, two) = (PatchParams::apply("one"), PatchParams::apply("two"));
    let ports = json!([{"name": "web", "containerPort": 8080}]);
    let env = |names: &[&str]| json!(names.iter().map(|n| json!({"name": n, "value": "1"})).collect::<Vec<_>>());
    let first = applied("a", json!({"image": "app:1", "ports": ports, "env": env(&["A", "B"])}));
    let made = api.patch("a", &one, &first).await.expect("made by an apply");
    assert_eq!((made.spec.image.as_str(), made.spec.env.len()), ("app:1", 2));
    assert_eq!(managers(&made), [entry("one", "Apply", "")]);
    let same = api.patch("a", &one, &first).await.expect("the same");
    assert_eq!(same.resource_version(), made.resource_version(), "nothing was written");

    let (code, reason, message) = refusal(api.patch("a", &two, &applied("a", json!({"image": "app:2"}))).await);
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert!(message.contains("conflict with \"one\"") && message.contains(".spec.image"), "{message}");
    let shared = api.patch("a", &two, &applied("a", json!({"image": "app:1", "env": env(&["C"])}))).await;
    assert_eq!(shared.expect("the same value is shared").spec.env.len(), 3);
    let forced =
        api.patch("a", &two.clone().force(), &applied("a", json!({"image": "app:2", "env": env(&["C"])}))).await;
    let forced = forced.expect("taken");
    assert_eq!((forced.spec.image.as_str(), forced.spec.env.len()), ("app:2", 3));

    // What one applies no more goes, but for what two has.
    let less = applied("a", json!({"ports": ports, "env": env(&["A"])}));
    let less = api.patch("a", &one, &less).await.expect("given up");
    let names: Vec<_> = less.spec.env.iter().map(|e| e.name.as_str()).collect();
    assert_eq!((less.spec.image.as_str(), &names[..]), ("app:2", &["A", "C"][..]));
    let tried = api.patch("a", &one.clone().dry_run(), &applied("a", json!({"ports": ports}))).await.expect("tried");
    assert_eq!((tried.spec.env.len(), api.get("a").await.expect("an instance").spec.env.len()), (1, 2));
    let strict = one.clone().validation_strict();
    let (code, _, message) =
        refusal(api.patch("a", &strict, &applied("a", json!({"ports": ports, "imag": "x"}))).await);
    assert!(code == 400 && message.contains("imag"), "{code} {message}");
    assert_eq!(refusal(api.patch("a", &PatchParams::default(), &first).await).0, 422, "an apply must name its manager");
}

#[tokio::test]
async fn a_typed_apply_by_a_controller_keeps_status_and_spec_apart() {
    let server = ApiServer::start().await;
    let api: Api<Instance> = Api::default_namespaced(client(&server.kubeconfig).await);
    let user = PatchParams::apply("user").force();
    api.patch("a", &user, &Patch::Apply(instance("a"))).await.expect("applied");
    let status = json!({
        "apiVersion": "portreeve.dev/v1", "kind": "Instance", "status": {"phase": "Running", "node": "n"},
    });
    let robot = PatchParams::apply("robot").force();
    let told = api.patch_status("a", &robot, &Patch::Apply(&status)).await.expect("a status");
    assert_eq!(told.status.as_ref().map(|s| s.phase), Some(Phase::Running));
    assert_eq!(managers(&told), [entry("robot", "Apply", "status"), entry("user", "Apply", "")]);
    let again = api.patch("a", &user, &Patch::Apply(instance("a"))).await.expect("applied");
    assert_eq!(again.resource_version(), told.resource_version());
    // A read, a change and a replace belong to the program.
    let mut read = again;
    read.spec.image = "app:9".into();
    let by = PostParams { field_manager: Some("editor".into()), ..Default::default() };
    let replaced = api.replace("a", &by, &read).await.expect("replaced");
    assert!(managers(&replaced).contains(&entry("editor", "Update", "")), "{:?}", managers(&replaced));
    let (code, _, message) = refusal(api.patch("a", &PatchParams::apply("user"), &Patch::Apply(instance("a"))).await);
    assert!(code == 409 && message.contains("editor"), "{code} {message}");
}

#[tokio::test]
async fn a_core_kind_is_applied_by_its_own_type() {
    let server = ApiServer::start().await;
    let api: Api<ConfigMap> = Api::default_namespaced(client(&server.kubeconfig).await);
    let map = |data: Value| -> Patch<ConfigMap> {
        Patch::Apply(serde_json::from_value(json!({"metadata": {"name": "c"}, "data": data})).expect("a ConfigMap"))
    };
    let mine = PatchParams::apply("mine");
    api.patch("c", &mine, &map(json!({"a": "1", "b": "2"}))).await.expect("applied");
    api.patch("c", &PatchParams::apply("yours"), &map(json!({"c": "3"}))).await.expect("applied");
    let left = api.patch("c", &mine, &map(json!({"a": "1"}))).await.expect("applied").data.expect("data");
    assert_eq!(left.into_keys().collect::<Vec<_>>(), ["a", "c"]);
}
