//! What Flux's kustomize-controller asks: it rehearses, applies, waits, takes over from kubectl, and prunes.

use http::Method;
use serde_json::{Value, json};

use crate::support::api_server::{ApiServer, instance, running};
use crate::support::client::{Answer, Client, INSTANCES};

const ALICE: &str = "/apis/portreeve.dev/v1/namespaces/shop/instances/alice";
const SETTINGS: &str = "/api/v1/namespaces/shop/configmaps/settings";

/// The controller with its client.
struct Flux<'c>(&'c Client);

impl Flux<'_> {
    async fn patch(&self, path: &str, query: &str, object: &Value) -> Answer {
        let path = format!("{path}?{query}fieldManager=kustomize-controller&force=true");
        let headers = [("content-type", "application/apply-patch+yaml"), ("accept", "application/json")];
        self.0.send(Method::PATCH, &path, &headers, object.to_string()).await
    }

    async fn rehearse(&self, path: &str, object: &Value) -> Answer {
        self.patch(path, "dryRun=All&", object).await
    }

    /// What one reconciliation does about an object: it looks, rehearses, and applies what differs.
    async fn reconcile(&self, path: &str, object: &Value) -> &'static str {
        let found = self.0.get(path).await;
        let before = if found.status == 404 { Value::Null } else { found.expect(200) };
        let answer = self.rehearse(path, object).await;
        assert!(answer.status.is_success(), "{}", answer.text());
        let rehearsed = answer.json();
        let bare = |object: &Value| {
            let mut object = object.clone();
            let meta = object["metadata"].as_object_mut().expect("metadata");
            meta.retain(|name, _| ["name", "namespace", "labels", "annotations"].contains(&name.as_str()));
            object.as_object_mut().expect("an object").remove("status");
            object
        };
        // By this it tells what would be new from what would be changed.
        let is_new = rehearsed["metadata"]["resourceVersion"].as_str().is_none_or(str::is_empty);
        assert_eq!(is_new, before.is_null(), "{rehearsed}");
        if !is_new && bare(&before) == bare(&rehearsed) {
            return "unchanged";
        }
        let applied = self.patch(path, "", object).await;
        assert_eq!(applied.status.as_u16(), if is_new { 201 } else { 200 }, "{}", applied.text());
        assert_eq!(bare(&applied.json()), bare(&rehearsed), "what was rehearsed is what is applied");
        if is_new { "created" } else { "configured" }
    }

    /// What kstatus makes of an object of a kind that it does not know.
    async fn state(&self, path: &str) -> &'static str {
        let answer = self.0.get(path).await;
        if answer.status == 404 {
            return "NotFound";
        }
        let object = answer.expect(200);
        if object["metadata"]["deletionTimestamp"].is_string() {
            return "Terminating";
        }
        let observed = &object["status"]["observedGeneration"];
        if observed.is_number() && *observed != object["metadata"]["generation"] {
            return "InProgress";
        }
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let status = |kind: &str| conditions.iter().find(|c| c["type"] == kind).map(|c| c["status"].clone());
        match (status("Reconciling"), status("Stalled"), status("Ready")) {
            (Some(r), _, _) if r == "True" => "InProgress",
            (_, Some(s), _) if s == "True" => "Failed",
            (_, _, Some(r)) if r != "True" => "InProgress",
            _ => "Current",
        }
    }
}

fn owned(mut object: Value) -> Value {
    object["metadata"]["labels"]["kustomize.toolkit.fluxcd.io/name"] = "apps".into();
    object
}

fn alice(spec: Value) -> Value {
    let meta = json!({"name": "alice", "namespace": "shop", "labels": {}});
    owned(json!({"apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": meta, "spec": spec}))
}

/// The status that the controller writes when what this generation asks for runs.
fn runs(generation: u64) -> Value {
    let mut status = running();
    status["observedGeneration"] = generation.into();
    status
}

async fn tell(server: &ApiServer, status: Value) {
    server.client.merge(&format!("{ALICE}/status"), &json!({"status": status})).await.expect(200);
}

#[tokio::test]
async fn it_rehearses_applies_waits_takes_over_and_prunes() {
    let server = ApiServer::start().await;
    let flux = Flux(&server.client);
    let namespace = owned(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {}}}));
    let wanted = alice(json!({"image": "app:1", "ports": [{"name": "web", "containerPort": 8080}]}));

    // Namespaces come first: nothing can be rehearsed in one that is not there.
    let status = flux.rehearse(ALICE, &wanted).await.expect(404);
    assert_eq!(status["message"], "namespaces \"shop\" not found");
    assert_eq!(flux.reconcile("/api/v1/namespaces/shop", &namespace).await, "created");
    assert_eq!(flux.state("/api/v1/namespaces/shop").await, "Current");
    assert_eq!(flux.reconcile("/api/v1/namespaces/shop", &namespace).await, "unchanged");

    // The wait for an instance ends when its status speaks of this generation, and no sooner.
    assert_eq!(flux.reconcile(ALICE, &wanted).await, "created");
    tell(
        &server,
        json!({"observedGeneration": 1, "conditions": [
            {"type": "Ready", "status": "False", "reason": "Starting", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ]}),
    )
    .await;
    assert_eq!(flux.state(ALICE).await, "InProgress");
    tell(&server, runs(1)).await;
    assert_eq!(flux.state(ALICE).await, "Current");
    let revision = server.store.revision();
    assert_eq!(flux.reconcile(ALICE, &wanted).await, "unchanged");
    assert_eq!(server.store.revision(), revision, "a rehearsal writes nothing");
    let newer = alice(json!({"image": "app:2", "ports": [{"name": "web", "containerPort": 8080}]}));
    assert_eq!(flux.reconcile(ALICE, &newer).await, "configured");
    assert_eq!(flux.state(ALICE).await, "InProgress", "Ready speaks of the generation before");
    tell(&server, runs(2)).await;
    assert_eq!(flux.state(ALICE).await, "Current");

    // What someone else changes is changed back, and taken from them.
    let edited = json!({"spec": {"image": "app:3"}});
    server.client.merge(&format!("{ALICE}?fieldManager=kubectl-edit"), &edited).await.expect(200);
    assert_eq!(flux.reconcile(ALICE, &newer).await, "configured");
    let stored = server.client.get(ALICE).await.expect(200);
    assert_eq!(stored["spec"]["image"], "app:2");
    let entries = stored["metadata"]["managedFields"].as_array().expect("entries");
    assert!(entries.iter().all(|e| e["manager"] != "kubectl-edit"), "{entries:?}");

    // What cannot be changed says so: by this word it knows that the object is to be made anew.
    let fixed = |mode: &str| {
        let meta = json!({"name": "settings", "namespace": "shop", "labels": {}});
        let data = json!({"mode": mode});
        owned(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "immutable": true, "data": data}))
    };
    assert_eq!(flux.reconcile(SETTINGS, &fixed("dark")).await, "created");
    let status = flux.rehearse(SETTINGS, &fixed("light")).await.expect(422);
    assert_eq!(status["reason"], "Invalid");
    assert!(status["message"].as_str().is_some_and(|m| m.contains("is immutable")), "{status}");
    server.client.delete(SETTINGS).await.expect(200);
    assert_eq!(flux.reconcile(SETTINGS, &fixed("light")).await, "created");

    // What is no longer wanted goes, if it bears the label.
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}).to_string();
    let headers = [("content-type", "application/json")];
    for path in [SETTINGS, ALICE] {
        let found = server.client.get(path).await.expect(200);
        assert_eq!(found["metadata"]["labels"]["kustomize.toolkit.fluxcd.io/name"], "apps");
        server.client.send(Method::DELETE, path, &headers, options.clone()).await.expect(200);
    }
    assert_eq!((flux.state(SETTINGS).await, flux.state(ALICE).await), ("NotFound", "Terminating"));
    server.client.merge(ALICE, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(flux.state(ALICE).await, "NotFound");
}

#[tokio::test]
async fn it_takes_over_what_kubectl_has_applied() {
    const LAST: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let server = ApiServer::start().await;
    let path = format!("{INSTANCES}/a");
    let mut applied = instance("a");
    applied["spec"]["owner"] = "bob".into();
    applied["metadata"]["annotations"] = json!({LAST: applied.to_string()});
    let made = server.client.post(&format!("{INSTANCES}?fieldManager=kubectl-client-side-apply"), &applied).await;
    let mut entries = made.expect(201)["metadata"]["managedFields"].clone();
    let entry = &mut entries[0];
    assert_eq!((&entry["manager"], &entry["operation"]), (&json!("kubectl-client-side-apply"), &json!("Update")));
    (entry["manager"], entry["operation"]) = ("kustomize-controller".into(), "Apply".into());
    let patch = json!([
        {"op": "remove", "path": format!("/metadata/annotations/{}", LAST.replace('/', "~1"))},
        {"op": "replace", "path": "/metadata/managedFields", "value": entries},
    ]);
    let headers = [("content-type", "application/json-patch+json")];
    let by_flux = format!("{path}?fieldManager=kustomize-controller");
    let taken = server.client.send(Method::PATCH, &by_flux, &headers, patch.to_string()).await.expect(200);
    assert!(taken["metadata"]["annotations"][LAST].is_null(), "{taken}");

    // From now on what is left out of the manifest goes.
    let flux = Flux(&server.client);
    assert_eq!(flux.reconcile(&path, &instance("a")).await, "configured");
    let stored = server.client.get(&path).await.expect(200);
    assert_eq!(stored["spec"], instance("a")["spec"]);
    assert_eq!(flux.reconcile(&path, &instance("a")).await, "unchanged");
}
