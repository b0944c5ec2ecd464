//! The requests of tools that people point at a cluster, in their order: what each of them needs of the answers holds. The
//! tools are not run here; what they ask is as their sources say.

use std::collections::{BTreeMap, BTreeSet};

use http::{Method, header};
use serde_json::{Value, json};

use super::tokens::bearer;
use crate::support::api_server::{ApiServer, instance, running};
use crate::support::client::{Answer, Client, INSTANCES, Lines};

const ALICE: &str = "/apis/portreeve.dev/v1/namespaces/shop/instances/alice";
const SETTINGS: &str = "/api/v1/namespaces/shop/configmaps/settings";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                          application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// Flux's kustomize-controller, with the owner label that it prunes by.
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
async fn flux_rehearses_applies_waits_takes_over_and_prunes() {
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
async fn flux_takes_over_what_kubectl_has_applied() {
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

/// Group, version, resource, kind, whether it is namespaced, and the verbs of each resource, as aggregated discovery
/// tells them.
async fn aggregated(client: &Client) -> Vec<(String, String, String, String, bool, BTreeSet<String>)> {
    let mut found = vec![];
    for path in ["/api", "/apis"] {
        let list = client.send(Method::GET, path, &[("accept", AGGREGATED)], "").await.expect(200);
        for group in list["items"].as_array().expect("items") {
            let name = group["metadata"]["name"].as_str().unwrap_or_default();
            for version in group["versions"].as_array().expect("versions") {
                for resource in version["resources"].as_array().expect("resources") {
                    let text =
                        |pointer: &str| resource.pointer(pointer).and_then(Value::as_str).expect("a text").to_owned();
                    let version = version["version"].as_str().expect("a version").to_owned();
                    found.push((
                        name.to_owned(),
                        version,
                        text("/resource"),
                        text("/responseKind/kind"),
                        text("/scope") == "Namespaced",
                        verbs(resource),
                    ));
                }
            }
        }
    }
    found
}

fn verbs(resource: &Value) -> BTreeSet<String> {
    let verbs = resource["verbs"].as_array().expect("verbs");
    verbs.iter().map(|v| v.as_str().expect("a verb").to_owned()).collect()
}

fn collection(group: &str, version: &str, resource: &str) -> String {
    match group {
        "" => format!("/api/{version}/{resource}"),
        _ => format!("/apis/{group}/{version}/{resource}"),
    }
}

/// A server with at least one object of each kind.
async fn furnished() -> ApiServer {
    let server = ApiServer::start().await;
    server.put_host("local", true).await;
    server.client.post(INSTANCES, &instance("a")).await.expect(201);
    server.runs("default", "a", "local", 100, 64).await;
    change(&server, "first").await;
    server
}

/// Something happens to each kind.
async fn change(server: &ApiServer, name: &str) {
    let client = &server.client;
    let core = |kind: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    let mut event = core("Event");
    event["metadata"]["namespace"] = "default".into();
    event["involvedObject"] = json!({"kind": "Instance", "name": "a", "namespace": "default"});
    client.post("/api/v1/namespaces/default/events", &event).await.expect(201);
    client.post("/api/v1/namespaces", &core("Namespace")).await.expect(201);
    client.post("/api/v1/namespaces/default/secrets", &core("Secret")).await.expect(201);
    client.post("/api/v1/namespaces/default/configmaps", &core("ConfigMap")).await.expect(201);
    bearer(server, name, json!({"role": "viewer"})).await;
    let labels = json!({"metadata": {"labels": {"seen": name}}});
    client.merge(&format!("{INSTANCES}/a"), &labels).await.expect(200);
    client.merge("/apis/portreeve.dev/v1/dockerhosts/local", &labels).await.expect(200);
}

#[tokio::test]
async fn argo_cd_finds_lists_and_follows_every_kind() {
    let server = furnished().await;
    let client = &server.client;
    let version = client.get("/version").await.expect(200);
    for part in ["major", "minor"] {
        assert!(version[part].as_str().is_some_and(|v| v.parse::<u32>().is_ok()), "{version}");
    }

    // Both ways of discovery lead to the same resources.
    let new = aggregated(client).await;
    let mut old = BTreeSet::new();
    let groups = client.get("/apis").await.expect(200)["groups"].as_array().expect("groups").clone();
    let versions = groups.iter().flat_map(|g| g["versions"].as_array().expect("versions"));
    let named: Vec<_> = versions.map(|v| v["groupVersion"].as_str().expect("a text").to_owned()).collect();
    for group_version in std::iter::once("v1".to_owned()).chain(named) {
        let root = if group_version.contains('/') { "apis" } else { "api" };
        let list = client.get(&format!("/{root}/{group_version}")).await.expect(200);
        assert_eq!(list["groupVersion"], group_version);
        let (group, version) = group_version.rsplit_once('/').unwrap_or(("", &group_version));
        for row in list["resources"].as_array().expect("resources") {
            let text = |name: &str| row[name].as_str().expect("a text").to_owned();
            if !text("name").contains('/') {
                let namespaced = row["namespaced"].as_bool().expect("whether it is namespaced");
                old.insert((group.to_owned(), version.to_owned(), text("name"), text("kind"), namespaced, verbs(row)));
            }
        }
    }
    assert_eq!(new.iter().cloned().collect::<BTreeSet<_>>(), old);

    // It keeps what can be listed and watched: lists it, and follows it from the version of the list.
    let mut watches: BTreeMap<String, Lines> = BTreeMap::new();
    for (group, version, resource, kind, _, verbs) in &new {
        let path = collection(group, version, resource);
        if !(verbs.contains("list") && verbs.contains("watch")) {
            continue;
        }
        let list = client.get(&format!("{path}?limit=500")).await.expect(200);
        assert_eq!(list["kind"], format!("{kind}List"), "{path}");
        // A watcher that begins again by itself takes no other.
        let at = list["metadata"]["resourceVersion"].as_str().filter(|v| !["", "0"].contains(v));
        let at = at.unwrap_or_else(|| panic!("{path} has no version to follow it from"));
        let items = list["items"].as_array().expect("items");
        assert_eq!(items.is_empty(), resource == "services", "{path}: {list}");
        for item in items {
            let meta = &item["metadata"];
            // The namespace that is there before any request is written past the API here, without one.
            assert!(meta["uid"].is_string() || resource == "namespaces" && meta["name"] == "default", "{item}");
            assert!(meta["resourceVersion"].is_string(), "{item}");
        }
        let query = format!("allowWatchBookmarks=true&resourceVersion={at}&timeoutSeconds=600&watch=true");
        watches.insert(path.clone(), client.watch(&format!("{path}?{query}")).await);
    }
    change(&server, "second").await;
    // The first event each is of that change, and has a version to go on from.
    for (path, mut watch) in watches {
        if path == "/api/v1/services" {
            continue;
        }
        let event = watch.next().await.unwrap_or_else(|| panic!("{path} told nothing"));
        let meta = &event["object"]["metadata"];
        // A Lease has no labels: that of the host is told all the same.
        let leases = path.ends_with("/leases") && meta["name"] == "local";
        assert!(meta["name"] == "second" || meta["labels"]["seen"] == "second" || leases, "{path}: {event}");
        assert!(meta["resourceVersion"].is_string(), "{path}: {event}");
        assert!(["ADDED", "MODIFIED"].contains(&event["type"].as_str().expect("a type")), "{path}: {event}");
    }

    // Where it is told to keep to what it may, it asks for all namespaces by a star.
    let may = async |client: &Client| {
        let attributes = json!({"namespace": "*", "verb": "list", "resource": "instances", "group": "portreeve.dev"});
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        client.post(path, &review).await.expect(201)["status"]["allowed"].clone()
    };
    let everywhere = bearer(&server, "everywhere", json!({"role": "viewer"})).await;
    let somewhere = bearer(&server, "somewhere", json!({"role": "viewer", "namespaces": ["default"]})).await;
    assert_eq!(
        (may(client).await, may(&everywhere).await, may(&somewhere).await),
        (true.into(), true.into(), false.into())
    );

    // A schema for every kind that it can compare.
    let index = client.get("/openapi/v3").await.expect(200);
    for (group, version, resource, kind, _, verbs) in &new {
        if !verbs.contains("patch") {
            continue;
        }
        let document = collection(group, version, "").trim_matches('/').to_owned();
        let url = index["paths"][&document]["serverRelativeURL"].as_str().expect("a document").to_owned();
        let schemas = client.get(&url).await.expect(200)["components"]["schemas"].clone();
        let wanted = json!({"group": group, "version": version, "kind": kind});
        let mut kinds = schemas.as_object().expect("schemas").values();
        let names = |s: &Value| s["x-kubernetes-group-version-kind"].as_array().is_some_and(|k| k.contains(&wanted));
        assert!(kinds.any(names), "no schema of {resource} says that it is one of {wanted}");
    }
}

#[tokio::test]
async fn k9s_asks_what_it_may_and_shows_every_kind_as_a_table() {
    // With the plain form after it, as all its lists.
    const TABLE: [(&str, &str); 1] = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io, application/json")];
    let server = furnished().await;
    let client = &server.client;
    let version = client.get("/version").await.expect(200);
    assert!(version["gitVersion"].as_str().is_some_and(|v| v.starts_with("v1.")), "{version}");
    // By this it decides whether to show what is used.
    let groups = client.get("/apis").await.expect(200);
    let measured = groups["groups"].as_array().expect("groups").iter().find(|g| g["name"] == "metrics.k8s.io");
    assert_eq!(measured.expect("the group")["versions"][0]["version"], "v1beta1");

    let viewer = bearer(&server, "watcher", json!({"role": "viewer"})).await;
    let may = async |client: &Client, verb: &str, group: &str, resource: &str| {
        // As Go writes it, with what is not set.
        let review = json!({
            "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {"creationTimestamp": null},
            "spec": {"resourceAttributes": {"namespace": "default", "verb": verb, "group": group, "resource": resource}},
            "status": {"allowed": false},
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        client.post(path, &review).await.expect(201)["status"]["allowed"] == true
    };
    for (group, version, resource, kind, namespaced, verbs) in aggregated(client).await {
        if !verbs.contains("list") {
            continue;
        }
        // Records of access tokens are no viewer's to see.
        let seen = resource != "accesstokens" && resource != "secrets";
        for verb in ["get", "list", "watch"].into_iter().filter(|v| verbs.contains(*v)) {
            assert!(may(client, verb, &group, &resource).await, "{verb} {resource}");
            assert_eq!(may(&viewer, verb, &group, &resource).await, seen, "a viewer: {verb} {resource}");
        }
        assert!(!may(&viewer, "delete", &group, &resource).await, "a viewer: delete {resource}");

        let all = collection(&group, &version, &resource);
        let answer = client.send(Method::GET, &all, &TABLE, "").await;
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json", "{all}");
        let table = answer.expect(200);
        assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")), "{all}");
        let columns = table["columnDefinitions"].as_array().expect("columns");
        assert_eq!(columns[0]["name"] == "Name", !resource.starts_with("events"), "{all}: {columns:?}");
        let rows = table["rows"].as_array().expect("rows");
        assert_eq!(rows.is_empty(), resource == "services", "{all}: {table}");
        for row in rows {
            assert_eq!(row["cells"].as_array().map(Vec::len), Some(columns.len()), "{all}: {row}");
            let meta = &row["object"]["metadata"];
            // It tells its rows apart by these.
            assert!(meta["name"].is_string() && meta["namespace"].is_string() == namespaced, "{all}: {row}");
        }
        let Some(row) = rows.first() else { continue };
        let meta = &row["object"]["metadata"];
        let name = meta["name"].as_str().expect("a name");
        let (root, _) = all.rsplit_once('/').expect("a path");
        let one = match meta["namespace"].as_str() {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{resource}/{name}"),
            None => format!("{all}/{name}"),
        };
        let table = client.send(Method::GET, &one, &TABLE, "").await.expect(200);
        assert_eq!(table["rows"].as_array().map(Vec::len), Some(1), "{one}");
        assert_eq!(&table["rows"][0]["cells"][0], &row["cells"][0], "{one}");
        let plain = client.get(&one).await.expect(200);
        assert_eq!((&plain["kind"], &plain["metadata"]["name"]), (&json!(kind), &json!(name)), "{one}");
    }
}

#[tokio::test]
async fn a_client_of_metadata_reads_changes_and_deletes_without_more() {
    // As client-go's metadata client and the cache of controller-runtime ask.
    let accept = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,\
                  application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
    let lists = accept.replace("Metadata;", "MetadataList;");
    let server = furnished().await;
    let client = &server.client;
    let is = |object: &Value, kind: &str, fields: &[&str]| {
        assert_eq!((&object["kind"], &object["apiVersion"]), (&json!(kind), &json!("meta.k8s.io/v1")), "{object}");
        assert_eq!(object.as_object().expect("an object").keys().collect::<Vec<_>>(), fields, "{object}");
    };
    let one = ["apiVersion", "kind", "metadata"];
    for (collection, name) in [
        (INSTANCES, "a"),
        ("/api/v1/namespaces/default/secrets", "first"),
        ("/api/v1/namespaces/default/pods", "a"),
        ("/api/v1/nodes", "local"),
        ("/apis/events.k8s.io/v1/namespaces/default/events", "first"),
    ] {
        let path = format!("{collection}/{name}");
        let list = client.send(Method::GET, collection, &[("accept", &lists)], "").await.expect(200);
        is(&list, "PartialObjectMetadataList", &["apiVersion", "items", "kind", "metadata"]);
        assert!(list["metadata"]["resourceVersion"].is_string(), "{list}");
        let item = list["items"].as_array().expect("items").iter().find(|i| i["metadata"]["name"] == name);
        is(item.expect("it is listed"), "PartialObjectMetadata", &one);
        let found = client.send(Method::GET, &path, &[("accept", accept)], "").await.expect(200);
        is(&found, "PartialObjectMetadata", &one);
        assert_eq!(Some(&found["metadata"]["uid"]), item.map(|i| &i["metadata"]["uid"]), "{path}");
        if collection.ends_with("pods") {
            continue;
        }
        let headers = [("accept", accept), ("content-type", "application/merge-patch+json")];
        let patch = json!({"metadata": {"labels": {"by": "metadata"}}}).to_string();
        let patched = client.send(Method::PATCH, &path, &headers, patch).await.expect(200);
        is(&patched, "PartialObjectMetadata", &one);
        assert_eq!(patched["metadata"]["labels"]["by"], "metadata");
        if collection.ends_with("nodes") {
            continue;
        }
        // Another of the name that was seen is not to be deleted.
        let headers = [("accept", accept), ("content-type", "application/json")];
        let only = |uid: &Value| json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}});
        let other = only(&json!("another")).to_string();
        client.send(Method::DELETE, &path, &headers, other).await.expect(409);
        let deleted = client.send(Method::DELETE, &path, &headers, only(&found["metadata"]["uid"]).to_string()).await;
        match deleted.expect(200) {
            status if status["kind"] == "Status" => assert_eq!(status["status"], "Success"),
            marked => is(&marked, "PartialObjectMetadata", &one),
        }
    }
}
