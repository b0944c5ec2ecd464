//! The requests of tools that people point at a cluster, in their order: what each of them needs of the answers holds. The
//! tools are not run here; what they ask is as their sources say.

mod flux;

use std::collections::{BTreeMap, BTreeSet};

use http::{Method, header};
use serde_json::{Value, json};

use super::tokens::bearer;
use crate::support::api_server::{ApiServer, instance};
use crate::support::client::{Client, INSTANCES, Lines};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                          application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

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
