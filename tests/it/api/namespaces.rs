//! The life of a Namespace: contents, end, what is told meanwhile, and who may hold it up.

use futures::future::join_all;
use http::Method;
use portreeve::model::{Key, Kind, namespace_use_mark};
use portreeve::store::ListRequest;
use serde_json::{Value, json};

use crate::support::api_server::{ApiServer, instance};
use crate::support::client::{Client, Lines};

const NAMESPACES: &str = "/api/v1/namespaces";
const TEAM: &str = "/api/v1/namespaces/team";
const INSIDE: &str = "/apis/portreeve.dev/v1/namespaces/team/instances";

async fn make(client: &Client, name: &str) -> Value {
    client.post(NAMESPACES, &json!({"metadata": {"name": name}})).await.expect(201)
}

/// Follows one Namespace from the version of an answer on.
async fn follow(client: &Client, from: &Value) -> Lines {
    let (meta, text) = (&from["metadata"], |v: &Value| v.as_str().unwrap().to_owned());
    let (name, version) = (text(&meta["name"]), text(&meta["resourceVersion"]));
    let path = format!("{NAMESPACES}?watch=1&fieldSelector=metadata.name%3D{name}&resourceVersion={version}");
    client.watch(&path).await
}

/// The next state of it that is as wanted; `None`: until it is gone.
async fn until(lines: &mut Lines, wanted: Option<&dyn Fn(&Value) -> bool>) -> Value {
    loop {
        let event = lines.next().await.expect("an event");
        let gone = event["type"] == "DELETED";
        match wanted {
            None if gone => return event["object"].clone(),
            Some(wanted) if !gone && wanted(&event["object"]) => return event["object"].clone(),
            Some(_) if gone => panic!("gone: {event}"),
            _ => {}
        }
    }
}

fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    object.pointer("/status/conditions")?.as_array()?.iter().find(|c| c["type"] == type_)
}

/// What the store holds of a namespace, its mark included.
async fn stored(server: &ApiServer, namespace: &str) -> Vec<String> {
    let mut found = vec![];
    for kind in Kind::all().filter(|k| k.info().namespaced) {
        let request = ListRequest { prefix: kind.prefix(Some(namespace)), ..Default::default() };
        found.extend(server.store.list(request).await.unwrap().records.iter().map(|r| r.key.to_string()));
    }
    found.extend(server.store.get(&namespace_use_mark(namespace)).await.unwrap().map(|r| r.key.to_string()));
    found
}

#[tokio::test]
async fn an_empty_one_goes_at_once_and_default_never() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let made = make(client, "team").await;
    assert_eq!((&made["status"]["phase"], &made["spec"]["finalizers"]), (&json!("Active"), &json!(["kubernetes"])));
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "team");
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Instance", "name": "a"}});
    client.post(&format!("{TEAM}/events"), &event).await.expect(201);
    client.delete(&format!("{TEAM}?dryRun=All")).await.expect(200);
    assert_eq!(client.get(TEAM).await.expect(200)["status"]["phase"], "Active");
    let answer = client.delete(TEAM).await.expect(200);
    assert_eq!((&answer["kind"], &answer["status"]), (&json!("Status"), &json!("Success")));
    client.get(TEAM).await.expect(404);
    assert_eq!(stored(&server, "team").await, [""; 0], "its events went along");
    client.post(INSIDE, &instance("a")).await.expect(404);

    let held = json!({"metadata": {"finalizers": ["example.com/x"]}});
    client.merge(&format!("{NAMESPACES}/default"), &held).await.expect(200);
    client.delete(&format!("{NAMESPACES}/default")).await.expect(403);
    client.post(INSIDE.replace("team", "default").as_str(), &instance("a")).await.expect(201);
}

#[tokio::test]
async fn a_full_one_is_closed_emptied_and_goes_when_its_instances_are_gone() {
    let server = ApiServer::start().await;
    let client = &server.client;
    make(client, "team").await;
    client.post(INSIDE, &instance("a")).await.expect(201);
    let named = |name: &str| json!({"metadata": {"name": name}});
    client.post(&format!("{TEAM}/secrets"), &named("s")).await.expect(201);
    client.post(&format!("{TEAM}/configmaps"), &named("c")).await.expect(201);
    let mut outside = instance("a");
    outside["metadata"]["namespace"] = "default".into();
    outside["spec"]["routes"] = json!([{"host": "outside.localhost"}]);
    client.post(&INSIDE.replace("team", "default"), &outside).await.expect(201);

    let marked = client.delete(TEAM).await.expect(200);
    assert_eq!((&marked["kind"], &marked["status"]["phase"]), (&json!("Namespace"), &json!("Terminating")));
    assert!(
        marked["metadata"]["deletionTimestamp"].is_string() && marked["spec"]["finalizers"] == json!(["kubernetes"])
    );
    let mut lines = follow(client, &marked).await;

    for path in [INSIDE.to_owned(), format!("{INSIDE}?dryRun=All")] {
        let refused = client.post(&path, &instance("b")).await.expect(403);
        let message = "instances.portreeve.dev \"b\" is forbidden: unable to create new content in namespace team \
                       because it is being terminated";
        assert_eq!((&refused["reason"], &refused["message"]), (&json!("Forbidden"), &json!(message)));
        assert_eq!(refused["details"]["causes"][0]["reason"], "NamespaceTerminating");
    }
    for path in [NAMESPACES.to_owned(), format!("{NAMESPACES}?dryRun=All")] {
        let taken = client.post(&path, &named("team")).await.expect(409);
        let message = "object is being deleted: namespaces \"team\" already exists";
        assert_eq!((&taken["reason"], &taken["message"]), (&json!("AlreadyExists"), &json!(message)));
    }
    let told = until(&mut lines, Some(&|o| condition(o, "NamespaceContentRemaining").is_some())).await;
    let content = condition(&told, "NamespaceContentRemaining").unwrap();
    assert_eq!((&content["status"], &content["reason"]), (&json!("True"), &json!("SomeResourcesRemain")));
    assert_eq!(content["message"], "Some resources are remaining: instances.portreeve.dev has 1 resource instances");
    let finalizers = condition(&told, "NamespaceFinalizersRemaining").unwrap();
    let message = finalizers["message"].as_str().unwrap();
    assert!(message.ends_with(": portreeve.dev/container in 1 resource instances"), "{message}");
    assert_eq!(stored(&server, "team").await.len(), 2, "the instance and the mark");
    let left = client.get(&format!("{INSIDE}/a")).await.expect(200);
    assert!(left["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(left["metadata"]["generation"], 2);
    let again = client.delete(TEAM).await.expect(200);
    assert_eq!(again["status"]["phase"], "Terminating");
    let headers = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = client.send(Method::GET, TEAM, &headers, "").await.expect(200);
    assert_eq!(table["rows"][0]["cells"][1], "Terminating");
    let ending = client.get(&format!("{NAMESPACES}?fieldSelector=status.phase%3DTerminating")).await.expect(200);
    assert_eq!(ending["items"].as_array().unwrap().len(), 1);

    // Metadata and contents may still be written: that is how finalizers are taken off.
    client.merge(TEAM, &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    client.merge(&format!("{INSIDE}/a"), &json!({"metadata": {"finalizers": null}})).await.expect(200);
    until(&mut lines, None).await;
    client.get(TEAM).await.expect(404);
    assert_eq!(stored(&server, "team").await, [""; 0]);
    let bystander = client.get(&format!("{}/a", INSIDE.replace("team", "default"))).await.expect(200);
    assert_eq!(bystander["metadata"].get("deletionTimestamp"), None, "another namespace's is another");
    let new = make(client, "team").await;
    assert_ne!(new["metadata"]["uid"], marked["metadata"]["uid"]);
    client.post(INSIDE, &instance("a")).await.expect(201);
}

#[tokio::test]
async fn others_may_hold_it_at_finalize_and_nobody_lets_go_of_contents() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let made = make(client, "team").await;
    let finalize = format!("{TEAM}/finalize");
    let with = |finalizers: Value| {
        let mut body = made.clone();
        body["metadata"] = json!({"name": "team", "labels": {"not": "written"}});
        body["spec"] = json!({"finalizers": finalizers});
        body
    };
    let held = client.put(&finalize, &with(json!(["example.com/x"]))).await.expect(200);
    assert_eq!(held["spec"]["finalizers"], json!(["example.com/x", "kubernetes"]), "ours comes back");
    assert_eq!(held["metadata"]["labels"].get("not"), None);
    // Only there.
    client.merge(TEAM, &json!({"spec": {"finalizers": []}, "metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(client.get(TEAM).await.expect(200)["spec"]["finalizers"], held["spec"]["finalizers"]);
    for (bad, code) in [(json!(["a b"]), 422), (json!("x"), 422), (json!([1]), 422)] {
        client.put(&finalize, &with(bad)).await.expect(code);
    }
    client.get(&finalize).await.expect(405);
    client.merge(&finalize, &json!({"spec": {}})).await.expect(405);
    client.put(&finalize.replace("team", "none"), &json!({"metadata": {"name": "none"}})).await.expect(404);

    let mut status = client.get(TEAM).await.expect(200);
    status["status"]["phase"] = "Terminating".into();
    let refused = client.put(&format!("{TEAM}/status"), &status).await.expect(422);
    assert_eq!(refused["details"]["causes"][0]["field"], "status.phase");
    let time = "2026-01-01T00:00:00Z";
    status["status"] = json!({"conditions": [{"type": "Mine", "status": "True", "lastTransitionTime": time}]});
    let written = client.put(&format!("{TEAM}/status"), &status).await.expect(200);
    assert_eq!((&written["status"]["phase"], condition(&written, "Mine").is_some()), (&json!("Active"), true));

    client.post(INSIDE, &instance("a")).await.expect(201);
    client.merge(TEAM, &json!({"metadata": {"finalizers": ["example.com/y"]}})).await.expect(200);
    let marked = client.delete(TEAM).await.expect(200);
    let mut lines = follow(client, &marked).await;
    let refused = client.put(&finalize, &with(json!([]))).await.expect(409);
    assert!(refused["message"].as_str().unwrap().contains("it holds 1 instances"), "{refused}");
    client.merge(&format!("{INSIDE}/a"), &json!({"metadata": {"finalizers": null}})).await.expect(200);
    let emptied = until(&mut lines, Some(&|o| o["spec"]["finalizers"] == json!(["example.com/x"]))).await;
    let content = condition(&emptied, "NamespaceContentRemaining").unwrap();
    assert_eq!((&content["status"], &content["reason"]), (&json!("False"), &json!("ContentRemoved")));
    assert!(condition(&emptied, "Mine").is_some(), "others' conditions stay");
    client.post(INSIDE, &instance("a")).await.expect(403);
    // Two hold it, each is let go of by itself.
    client.merge(TEAM, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    client.get(TEAM).await.expect(200);
    let last = client.put(&finalize, &with(json!([]))).await.expect(200);
    assert_eq!(last["spec"]["finalizers"], json!([]));
    client.get(TEAM).await.expect(404);
    until(&mut lines, None).await;
    assert_eq!(stored(&server, "team").await, [""; 0]);
}

/// Whatever comes first, what is made in a namespace goes with it.
#[tokio::test]
async fn objects_made_while_it_is_deleted_are_in_it_or_refused() {
    let server = ApiServer::start().await;
    let client = &server.client;
    for round in 0..8 {
        let name = format!("race{round}");
        let mut lines = follow(client, &make(client, &name).await).await;
        let maps = format!("{NAMESPACES}/{name}/configmaps");
        let makers = (0..6).map(|n| {
            let maps = &maps;
            async move { client.post(maps, &json!({"metadata": {"name": format!("c{n}")}})).await.status.as_u16() }
        });
        let end = async { client.delete(&format!("{NAMESPACES}/{name}")).await.status.as_u16() };
        let (codes, ended) = tokio::join!(join_all(makers), end);
        assert!(codes.iter().all(|c| [201, 403, 404].contains(c)) && ended == 200, "{codes:?} {ended}");
        until(&mut lines, None).await;
        assert_eq!(stored(&server, &name).await, [""; 0], "{codes:?}");
        let key = Key::new(Kind::Namespace, "", name).to_string();
        assert!(server.store.get(&key).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn there_are_no_services_and_asking_for_them_is_no_error() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let host = json!({"metadata": {"name": "h"}, "spec": {"endpoint": "unix:///x"}});
    client.post("/apis/portreeve.dev/v1/dockerhosts", &host).await.expect(201);
    for path in ["/api/v1/services", "/api/v1/namespaces/kube-system/services?labelSelector=a%3Db"] {
        let list = client.get(path).await.expect(200);
        assert_eq!((&list["kind"], &list["items"]), (&json!("ServiceList"), &json!([])));
    }
    client.get("/api/v1/namespaces/default/services/h").await.expect(404);
    client.post("/api/v1/namespaces/default/services", &json!({})).await.expect(405);
    let mut lines = client.watch("/api/v1/services?watch=1&timeoutSeconds=1").await;
    assert_eq!(lines.next().await, None);
}
