//! Writing: create, replace, patch, delete, and everything that is refused.

use http::Method;
use serde_json::{Value, json};

use super::tokens::bearer;
use crate::support::api_server::{ApiServer, instance, running};
use crate::support::client::{Client, INSTANCES};

const NAMESPACES: &str = "/api/v1/namespaces";
const HOSTS: &str = "/apis/portreeve.dev/v1/dockerhosts";

fn host(name: &str) -> Value {
    json!({
        "apiVersion": "portreeve.dev/v1", "kind": "DockerHost", "metadata": {"name": name},
        "spec": {"endpoint": "unix:///var/run/docker.sock"},
    })
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

async fn patch_json(client: &Client, path: &str, patch: Value) -> crate::support::client::Answer {
    client.send(Method::PATCH, path, &[("content-type", "application/json-patch+json")], patch.to_string()).await
}

#[tokio::test]
async fn a_new_object_is_what_the_user_wrote_and_what_only_the_server_sets() {
    let server = ApiServer::start().await;
    let mut body = instance("a");
    body["metadata"]["uid"] = "mine".into();
    body["metadata"]["generation"] = 7.into();
    body["status"] = json!({"phase": "Running"});
    let made = server.client.post(INSTANCES, &body).await.expect(201);
    assert_eq!(made["spec"], body["spec"], "nothing is filled in");
    let ready = &made["status"]["conditions"][0];
    assert_eq!(
        (&ready["type"], &ready["status"], &ready["reason"]),
        (&json!("Ready"), &json!("Unknown"), &json!("New"))
    );
    assert_eq!(made["status"].as_object().map(serde_json::Map::len), Some(1), "users write no status: {made}");
    assert_ne!(made["metadata"]["uid"], "mine");
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(made["metadata"]["finalizers"], json!(["portreeve.dev/container"]));
    assert_eq!(server.client.get(&format!("{INSTANCES}/a")).await.expect(200), made);

    let again = server.client.post(INSTANCES, &body).await.expect(409);
    assert_eq!(again["message"], "instances.portreeve.dev \"a\" already exists");
    let yaml = "apiVersion: portreeve.dev/v1\nkind: Instance\nmetadata: {name: b}\nspec: {image: 'app:1'}\n";
    let headers = [("content-type", "application/yaml")];
    server.client.send(Method::POST, INSTANCES, &headers, yaml).await.expect(201);
    let mut named = instance("");
    named["metadata"] = json!({"generateName": "c-"});
    let name = server.client.post(INSTANCES, &named).await.expect(201)["metadata"]["name"].clone();
    assert!(name.as_str().unwrap().starts_with("c-") && name.as_str().unwrap().len() == 7, "{name}");
}

#[tokio::test]
async fn bad_objects_are_refused_with_every_problem_and_change_nothing() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let before = server.store.revision();
    let mut body = instance("a");
    body["spec"] = json!({"image": 5, "ports": [{"name": "web", "containerPort": 99999}], "power": "Maybe"});
    let status = client.post(INSTANCES, &body).await.expect(422);
    assert_eq!(status["reason"], "Invalid");
    let fields: Vec<_> = status["details"]["causes"].as_array().unwrap().iter().map(|c| c["field"].clone()).collect();
    assert_eq!(fields, ["spec.image", "spec.ports[0].containerPort", "spec.power"]);
    for (body, code) in [
        (json!({"kind": "DockerHost", "metadata": {"name": "a"}}), 400),
        (json!({"apiVersion": "v2", "metadata": {"name": "a"}}), 400),
        (json!({"metadata": {"name": "a", "namespace": "other"}}), 400),
        (json!({"metadata": {"name": "a", "resourceVersion": "1"}}), 400),
        (json!({"metadata": {"name": ".."}, "spec": {"image": "a"}}), 422),
        (json!({"metadata": {"name": "a", "labels": {"x y": "z"}}, "spec": {"image": "a"}}), 422),
        (json!({"metadata": {"name": "a"}}), 422),
        (json!({"metadata": "a"}), 400),
        (json!([]), 400),
        (json!({"metadata": {"name": "a"}, "spec": {"image": "a", "owner": "x".repeat(1 << 20)}}), 413),
    ] {
        let status = client.post(INSTANCES, &body).await.expect(code);
        assert_eq!(status["kind"], "Status");
    }
    let annotated = json!({"metadata": {"name": "a"}, "spec": {"image": "a", "args": vec!["x".repeat(2000); 200]}});
    assert_eq!(client.post(INSTANCES, &annotated).await.expect(413)["reason"], "RequestEntityTooLarge");
    for (media_type, text, code) in [
        ("application/json", "{", 400),
        ("text/plain", "{}", 415),
        ("application/json", &"[".repeat(100_000), 400),
        ("application/json", "\u{0}", 400),
    ] {
        client.send(Method::POST, INSTANCES, &[("content-type", media_type)], text.to_owned()).await.expect(code);
    }
    // A long key above many items: the work may not be their product.
    let wide = json!({"metadata": {"name": "a"}, "x".repeat(100_000): vec![0; 75_000]});
    let refused = client.post(&format!("{INSTANCES}?fieldValidation=Strict"), &wide).await.expect(400);
    assert!(refused["message"].as_str().unwrap().len() < 1000, "the answer repeats what was sent");
    let elsewhere =
        client.post("/apis/portreeve.dev/v1/namespaces/nowhere/instances", &instance("a")).await.expect(404);
    assert_eq!(elsewhere["message"], "namespaces \"nowhere\" not found");
    assert_eq!(server.store.revision(), before);
}

#[tokio::test]
async fn unknown_and_duplicate_fields_are_told_as_the_client_wishes() {
    let server = ApiServer::start().await;
    let text = r#"{"metadata": {"name": "NAME"}, "spec": {"image": "a", "foo": 1, "image": "b"}}"#;
    let send = async |name: &str, query: &str| {
        let path = format!("{INSTANCES}?{query}");
        server
            .client
            .send(Method::POST, &path, &[("content-type", "application/json")], text.replace("NAME", name))
            .await
    };
    let strict = send("a", "fieldValidation=Strict").await.expect(400);
    assert_eq!(
        strict["message"],
        "Instance in version \"v1\" cannot be handled as a Instance: strict decoding error: \
         unknown field \"spec.foo\", duplicate field \"spec.image\""
    );
    let warned = send("b", "").await;
    let expected = [r#"299 - "unknown field \"spec.foo\"""#, r#"299 - "duplicate field \"spec.image\"""#];
    assert_eq!(warned.warnings(), expected);
    assert_eq!(warned.expect(201)["spec"], json!({"image": "b"}), "unknown fields are dropped, the last key counts");
    let ignored = send("c", "fieldValidation=Ignore").await;
    assert!(ignored.warnings().is_empty());
    ignored.expect(201);
    send("d", "fieldValidation=Perhaps").await.expect(422);
}

#[tokio::test]
async fn dry_run_does_everything_but_store() {
    let server = ApiServer::start().await;
    let client = &server.client;
    client.post(INSTANCES, &instance("a")).await.expect(201);
    let before = server.store.revision();
    let made = client.post(&format!("{INSTANCES}?dryRun=All"), &instance("b")).await.expect(201);
    assert_eq!(made["metadata"]["generation"], 1);
    client.post(&format!("{INSTANCES}?dryRun=All"), &instance("a")).await.expect(409);
    let patched = client.merge(&format!("{INSTANCES}/a?dryRun=All"), &json!({"spec": {"image": "app:2"}})).await;
    assert_eq!(patched.expect(200)["spec"]["image"], "app:2");
    client.delete(&format!("{INSTANCES}/a?dryRun=All")).await.expect(200);
    let body = json!({"dryRun": ["All"]}).to_string();
    let path = format!("{INSTANCES}/a");
    client.send(Method::DELETE, &path, &[("content-type", "application/json")], body).await.expect(200);
    client.post(&format!("{INSTANCES}?dryRun=Some"), &instance("c")).await.expect(422);
    assert_eq!(server.store.revision(), before);
}

#[tokio::test]
async fn replacing_holds_to_the_version_and_keeps_what_is_the_servers() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let path = format!("{INSTANCES}/a");
    let made = client.post(INSTANCES, &instance("a")).await.expect(201);
    server.put_status("a", running()).await;
    client.put(&path, &made).await.expect(409);
    let mut new = client.get(&path).await.expect(200);
    new["spec"]["image"] = "app:2".into();
    new["metadata"]["uid"] = Value::Null;
    new["status"] = json!({"phase": "Lost"});
    new["metadata"]["finalizers"] = json!([]);
    let replaced = client.put(&path, &new).await.expect(200);
    assert_eq!(replaced["metadata"]["generation"], 2);
    assert_eq!(replaced["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(replaced["metadata"]["finalizers"], made["metadata"]["finalizers"], "only a deletion lets it go");
    assert_eq!(replaced["status"]["phase"], "Running", "the main path writes no status");
    assert_eq!(client.put(&path, &replaced).await.expect(200), replaced, "nothing changed, nothing written");

    new["metadata"]["resourceVersion"] = Value::Null;
    let refused = client.put(&path, &new).await.expect(422);
    assert_eq!(refused["details"]["causes"][0]["field"], "metadata.resourceVersion");
    client.put(&format!("{INSTANCES}/b"), &instance("b")).await.expect(404);
    new["metadata"]["resourceVersion"] = "1".into();
    client.put(&format!("{INSTANCES}/b"), &new).await.expect(400);
    new["metadata"]["name"] = "b".into();
    client.put(&format!("{INSTANCES}/b"), &new).await.expect(404);
}

#[tokio::test]
async fn patches_merge_or_edit_and_generation_follows_the_desire() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let path = format!("{INSTANCES}/a");
    let made = client.post(INSTANCES, &instance("a")).await.expect(201);
    let labelled = client.merge(&path, &json!({"metadata": {"labels": {"x": "y"}}})).await.expect(200);
    assert_eq!(labelled["metadata"]["generation"], 1, "labels are no desire");
    assert!(version(&labelled) > version(&made));
    let same = client.merge(&path, &json!({"metadata": {"labels": {"x": "y", "z": null}}})).await.expect(200);
    assert_eq!(version(&same), version(&labelled), "a patch that changes nothing is not written");

    let edit = json!([{"op": "test", "path": "/spec/image", "value": "app:1"},
                      {"op": "replace", "path": "/spec/image", "value": "app:2"}]);
    let edited = patch_json(client, &path, edit.clone()).await.expect(200);
    assert_eq!((&edited["spec"]["image"], &edited["metadata"]["generation"]), (&json!("app:2"), &json!(2)));
    assert_eq!(patch_json(client, &path, edit).await.expect(422)["reason"], "Invalid");

    let stale = json!({"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "spec": {"image": "x"}});
    assert_eq!(client.merge(&path, &stale).await.expect(409)["reason"], "Conflict");
    assert_eq!(client.merge(&path, &json!({"spec": {"image": null}})).await.expect(422)["reason"], "Invalid");
    assert_eq!(client.merge(&format!("{path}?fieldValidation=Strict"), &json!({"spec": {"q": 1}})).await.status, 400);
    for media_type in ["application/strategic-merge-patch+json", "application/json"] {
        let status = client.send(Method::PATCH, &path, &[("content-type", media_type)], "{}").await.expect(415);
        assert!(status["message"].as_str().unwrap().contains("application/merge-patch+json"), "{status}");
    }
    let strategic = [("content-type", "application/strategic-merge-patch+json")];
    let patch = json!({"metadata": {"labels": {"a": "b"}}}).to_string();
    client.send(Method::PATCH, &format!("{NAMESPACES}/default"), &strategic, patch).await.expect(200);
}

#[tokio::test]
async fn many_writers_without_a_version_all_get_through() {
    let server = ApiServer::start().await;
    server.client.post(INSTANCES, &instance("a")).await.expect(201);
    let writes = (0..8).map(|i| {
        let client = server.client.clone();
        async move {
            let patch = json!({"metadata": {"labels": {format!("l{i}"): "x"}}});
            client.merge(&format!("{INSTANCES}/a"), &patch).await.expect(200);
        }
    });
    futures::future::join_all(writes).await;
    let labels = server.client.get(&format!("{INSTANCES}/a")).await.json()["metadata"]["labels"].clone();
    assert_eq!(labels.as_object().unwrap().len(), 8, "{labels}");
}

#[tokio::test]
async fn status_and_scale_change_their_own_part_only() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let made = client.post(INSTANCES, &instance("a")).await.expect(201);
    let mut body = made.clone();
    body["status"] = running();
    body["spec"]["image"] = "evil:1".into();
    let written = client.put(&format!("{INSTANCES}/a/status"), &body).await.expect(200);
    assert_eq!(written["status"]["phase"], "Running");
    assert_eq!(written["spec"], made["spec"]);
    assert_eq!(written["metadata"]["generation"], 1);
    let wrong =
        client.merge(&format!("{INSTANCES}/a/status"), &json!({"status": {"phase": "Flying"}})).await.expect(422);
    assert_eq!(wrong["details"]["causes"][0]["reason"], "FieldValueNotSupported");

    let scale = format!("{INSTANCES}/a/scale");
    let read = client.get(&scale).await.expect(200);
    assert_eq!(
        (&read["kind"], &read["spec"]["replicas"], &read["status"]["replicas"]),
        (&json!("Scale"), &json!(1), &json!(1))
    );
    let down = client.merge(&scale, &json!({"spec": {"replicas": 0}})).await.expect(200);
    assert_eq!(down["spec"]["replicas"], 0);
    let stopped = client.get(&format!("{INSTANCES}/a")).await.expect(200);
    assert_eq!((&stopped["spec"]["power"], &stopped["metadata"]["generation"]), (&json!("Stopped"), &json!(2)));
    let mut up = client.get(&scale).await.expect(200);
    up["spec"]["replicas"] = 1.into();
    client.put(&scale, &up).await.expect(200);
    client.put(&scale, &up).await.expect(409);
    assert_eq!(client.get(&format!("{INSTANCES}/a")).await.json()["spec"]["power"], "Auto");
    client.merge(&scale, &json!({"spec": {"replicas": 2}})).await.expect(422);

    client.delete("/api/v1/namespaces").await.expect(405);

    // What is no Scale of this instance stops nothing.
    let read = client.get(&scale).await.expect(200);
    for (pointer, value, code) in [
        ("", json!([]), 400),
        ("", json!({}), 400),
        ("", instance("a"), 400),
        ("/kind", json!("Instance"), 400),
        ("/apiVersion", json!("v1"), 400),
        ("/metadata/name", json!("b"), 400),
        ("/metadata/uid", json!("another"), 409),
    ] {
        let mut body = read.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        client.put(&scale, &body).await.expect(code);
    }
    assert_eq!(client.get(&format!("{INSTANCES}/a")).await.json()["spec"]["power"], "Auto");
}

#[tokio::test]
async fn deleting_waits_for_finalizers_and_is_idempotent() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let path = format!("{INSTANCES}/a");
    let made = client.post(INSTANCES, &instance("a")).await.expect(201);
    let wrong = json!({"preconditions": {"uid": "another"}}).to_string();
    client.send(Method::DELETE, &path, &[("content-type", "application/json")], wrong).await.expect(409);
    let marked = client.delete(&path).await.expect(200);
    assert_eq!(marked["kind"], "Instance");
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["generation"], 2);
    assert_eq!(client.delete(&path).await.expect(200), marked, "again changes nothing");
    let more = json!({"metadata": {"finalizers": ["portreeve.dev/container", "x.dev/y"]}});
    client.merge(&path, &more).await.expect(422);
    let last = client.merge(&path, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert_eq!(last["metadata"]["uid"], made["metadata"]["uid"]);
    client.get(&path).await.expect(404);
    client.delete(&path).await.expect(404);

    client.post(HOSTS, &host("h")).await.expect(201);
    let body = json!({"propagationPolicy": "Background"}).to_string();
    let gone = client.send(Method::DELETE, &format!("{HOSTS}/h"), &[("content-type", "application/json")], body).await;
    let gone = gone.expect(200);
    assert_eq!((&gone["status"], &gone["details"]["name"]), (&json!("Success"), &json!("h")));
    assert!(gone["details"]["uid"].is_string());
}

#[tokio::test]
async fn what_becomes_of_dependents_is_noted_as_a_finalizer_and_may_be_said_anew() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let path = format!("{INSTANCES}/a");
    client.post(INSTANCES, &instance("a")).await.expect(201);
    let delete = async |options: Value| {
        client.send(Method::DELETE, &path, &[("content-type", "application/json")], options.to_string()).await
    };
    for bad in
        [json!({"propagationPolicy": "Sideways"}), json!({"propagationPolicy": "Orphan", "orphanDependents": true})]
    {
        delete(bad).await.expect(422);
    }
    delete(json!({"orphanDependents": "yes"})).await.expect(400);
    let kept = client.get(&path).await.expect(200);
    assert!(kept["metadata"]["deletionTimestamp"].is_null(), "bad options change nothing");

    let dry = delete(json!({"propagationPolicy": "Orphan", "dryRun": ["All"]})).await.expect(200);
    assert_eq!(dry["metadata"]["finalizers"], json!(["portreeve.dev/container", "orphan"]));
    let first = delete(json!({"orphanDependents": true})).await.expect(200);
    assert_eq!(first["metadata"]["finalizers"], dry["metadata"]["finalizers"], "the word for it before");
    let again = delete(json!({"propagationPolicy": "Foreground"})).await.expect(200);
    assert_eq!(again["metadata"]["finalizers"], json!(["portreeve.dev/container", "foregroundDeletion"]));
    assert_eq!(again["metadata"]["deletionTimestamp"], first["metadata"]["deletionTimestamp"]);
    assert_eq!(again["metadata"]["generation"], first["metadata"]["generation"]);
    // Nobody names it, so that only its container is left to wait for; a delete that says nothing leaves it at that.
    server.until_finalizers(&path, &json!(["portreeve.dev/container"])).await;
    delete(json!(null)).await.expect(200);
    server.until_finalizers(&path, &json!(["portreeve.dev/container"])).await;
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = ApiServer::start().await;
    for (name, zone) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut body = host(name);
        body["metadata"]["labels"] = json!({"zone": zone});
        server.client.post(HOSTS, &body).await.expect(201);
    }
    let deleted = server.client.delete(&format!("{HOSTS}?labelSelector=zone%3Dx")).await.expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let left = server.client.get(HOSTS).await.expect(200);
    assert_eq!(left["items"][0]["metadata"]["name"], "c");
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn of_a_collection_no_more_is_deleted_than_is_asked_for() {
    let server = ApiServer::start().await;
    let client = &server.client;
    for name in ["a", "b", "c"] {
        client.post(HOSTS, &host(name)).await.expect(201);
    }
    for bad in ["continue=xyz", "limit=some", "gracePeriodSeconds=abc", "resourceVersionMatch=Exact"] {
        let answer = client.delete(&format!("{HOSTS}?{bad}")).await;
        assert!([400, 422].contains(&answer.status.as_u16()), "{bad}: {}", answer.status);
    }
    let json = [("content-type", "application/json")];
    for bad in [json!({"kind": "Foo", "apiVersion": "v1"}), json!({"gracePeriodSeconds": "soon"}), json!([])] {
        client.send(Method::DELETE, &format!("{HOSTS}/a"), &json, bad.to_string()).await.expect(400);
    }
    assert_eq!(client.get(HOSTS).await.expect(200)["items"].as_array().unwrap().len(), 3, "nothing of that deletes");

    let first = client.delete(&format!("{HOSTS}?limit=1")).await.expect(200);
    assert_eq!((first["items"].as_array().unwrap().len(), &first["items"][0]["metadata"]["name"]), (1, &json!("a")));
    let next = first["metadata"]["continue"].as_str().expect("there is more");
    client.delete(&format!("{HOSTS}?limit=1&continue={next}")).await.expect(200);
    let left = client.get(HOSTS).await.expect(200);
    assert_eq!((left["items"].as_array().unwrap().len(), &left["items"][0]["metadata"]["name"]), (1, &json!("c")));
}

#[tokio::test]
async fn an_object_has_one_controller_and_owners_that_can_be_found() {
    let server = ApiServer::start().await;
    let owner = |name: &str, controls: bool| json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": name, "uid": format!("uid-{name}"), "controller": controls});
    let owned = |owners: Value| {
        let mut body = instance("a");
        body["metadata"]["ownerReferences"] = owners;
        body
    };
    let two = server.client.post(INSTANCES, &owned(json!([owner("x", true), owner("y", true)]))).await.expect(422);
    assert_eq!(two["details"]["causes"][0]["field"], "metadata.ownerReferences");
    let why = two["message"].as_str().unwrap();
    assert!(why.contains("Only one reference can have Controller set to true") && why.contains("for x and y"), "{why}");
    let nobody = server.client.post(INSTANCES, &owned(json!([owner("", false)]))).await.expect(422);
    assert_eq!(nobody["details"]["causes"][0]["field"], "metadata.ownerReferences[0].name");
    server.client.post(INSTANCES, &owned(json!([owner("x", true), owner("y", false)]))).await.expect(201);
    let both = owned(json!([owner("x", true), owner("y", true)]));
    let both = json!({"metadata": {"ownerReferences": both["metadata"]["ownerReferences"]}});
    server.client.merge(&format!("{INSTANCES}/a"), &both).await.expect(422);
}

#[tokio::test]
async fn claims_of_others_are_respected() {
    let server = ApiServer::start().await;
    let client = &server.client;
    client.post(HOSTS, &host("local")).await.expect(201);
    let mut first = instance("a");
    first["spec"]["routes"] = json!([{"host": "shop.example.com"}]);
    first["spec"]["ports"][0]["hostPort"] = 30005.into();
    first["spec"]["placement"] = json!({"node": "local"});
    client.post(INSTANCES, &first).await.expect(201);
    server.put_status("a", running()).await;
    let mut second = first.clone();
    second["metadata"]["name"] = "b".into();
    let refused = client.post(INSTANCES, &second).await.expect(422);
    let fields: Vec<_> = refused["details"]["causes"].as_array().unwrap().iter().map(|c| c["field"].clone()).collect();
    assert_eq!(fields, ["spec.routes[0].host", "spec.ports[0].hostPort"], "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("already claimed by instance default/a"));
    client.merge(&format!("{INSTANCES}/a"), &json!({"spec": {"image": "app:2"}})).await.expect(200);

    let held = client.delete(&format!("{HOSTS}/local")).await.expect(409);
    assert!(held["message"].as_str().unwrap().contains("1 instances are bound to it, such as default/a"), "{held}");

    // Of a collection, one that is refused keeps no other from going.
    for name in ["k", "m"] {
        client.post(HOSTS, &host(name)).await.expect(201);
    }
    let refused = client.delete(HOSTS).await.expect(409);
    let message = refused["message"].as_str().unwrap();
    assert!(message.starts_with("1 of 3 dockerhosts.portreeve.dev were not deleted: "), "{message}");
    assert!(
        message.ends_with("1 instances are bound to it, such as default/a; move or delete them first"),
        "{message}"
    );
    assert_eq!((&refused["reason"], &refused["details"]["causes"][0]["field"]), (&json!("Conflict"), &json!("local")));
    let left = client.get(HOSTS).await.expect(200);
    assert_eq!((&left["items"][0]["metadata"]["name"], left["items"].as_array().unwrap().len()), (&json!("local"), 1));
}

#[tokio::test]
async fn a_host_is_one_instances_be_it_written_down_or_not() {
    let server = ApiServer::start().await;
    let team = |name: &str| format!("/apis/portreeve.dev/v1/namespaces/{name}/instances");
    for name in ["team-a", "team-b"] {
        server.client.post(NAMESPACES, &json!({"metadata": {"name": name}})).await.expect(201);
    }
    let editor = bearer(&server, "editor", json!({"role": "editor", "namespaces": ["team-b"]})).await;
    let with_host = |name: &str, host: &str| {
        let mut made = instance(name);
        made["spec"]["routes"] = json!([{"host": "own.{name}.{namespace}.example.com"}, {"host": host}]);
        made
    };
    let told = |refused: &Value, field: &str| {
        let causes = refused["details"]["causes"].as_array().unwrap();
        assert_eq!((causes.len(), &causes[0]["field"]), (1, &json!(field)), "{refused}");
        causes[0]["message"].as_str().unwrap().to_owned()
    };

    // Both by their names.
    server.client.post(&team("team-a"), &instance("alice")).await.expect(201);
    let refused = editor.post(&team("team-b"), &instance("alice")).await.expect(422);
    let why = told(&refused, "spec.routes");
    assert!(why.contains("\"alice.localhost\": already claimed by another instance; it is the default"), "{why}");
    assert!(!refused.to_string().contains("team-a"), "it tells whose it is: {refused}");
    let refused = server.client.post(&team("team-b"), &instance("alice")).await.expect(422);
    let why = told(&refused, "spec.routes");
    assert!(why.contains("already claimed by instance team-a/alice"), "{why}");
    let refused = server.client.post(&team("team-b"), &with_host("alice", "")).await.expect(422);
    assert!(told(&refused, "spec.routes[1].host").contains("it is the default"), "{refused}");

    // One by its name, the other written down; in either order.
    server.client.post(&team("team-a"), &with_host("thief", "Bob.{domain}")).await.expect(201);
    for namespace in ["team-b", "default"] {
        let refused = server.client.post(&team(namespace), &instance("bob")).await.expect(422);
        assert!(told(&refused, "spec.routes").contains("bob.localhost"), "{refused}");
    }
    let refused = server.client.post(&team("team-b"), &with_host("other", "alice.localhost")).await.expect(422);
    assert!(!told(&refused, "spec.routes[1].host").contains("it is the default"), "{refused}");

    // A change is held to what it claims anew, a port for the default host among it.
    let mut portless = instance("alice");
    portless["spec"]["ports"] = json!([]);
    server.client.post(&team("team-b"), &portless).await.expect(201);
    let path = format!("{}/alice", team("team-b"));
    let ports = json!({"spec": {"ports": instance("alice")["spec"]["ports"]}});
    told(&server.client.merge(&path, &ports).await.expect(422), "spec.routes");

    // One that has to share, as two writes came at once, can be changed otherwise, and not towards another's.
    let mut slipped = with_host("slipped", "alice.localhost");
    slipped["metadata"] = json!({"name": "slipped", "namespace": "team-b", "uid": "u", "generation": 1});
    server.put(slipped).await;
    server.seen().await;
    let path = format!("{}/slipped", team("team-b"));
    server.client.merge(&path, &json!({"spec": {"image": "app:2"}})).await.expect(200);
    let routes = json!({"spec": {"routes": [{"host": "alice.localhost"}, {"host": "bob.localhost"}]}});
    told(&server.client.merge(&path, &routes).await.expect(422), "spec.routes[1].host");
    let routes = json!({"spec": {"routes": [{"host": "free.localhost"}]}});
    server.client.merge(&path, &routes).await.expect(200);
}

#[tokio::test]
async fn what_a_later_rule_refuses_can_be_read_changed_otherwise_and_deleted() {
    let server = ApiServer::start().await;
    let mut old = instance("old");
    old["metadata"] = json!({"name": "old", "namespace": "default", "uid": "u", "generation": 1});
    old["spec"]["image"] = "UPPER/case".into();
    old["spec"]["routes"] = json!([{"paths": [{"prefix": "/a", "port": "web"}, {"prefix": "//", "port": "web"}]}]);
    server.client.post(INSTANCES, &old).await.expect(422);
    server.put(old.clone()).await;
    server.seen().await;
    let path = format!("{INSTANCES}/old");
    assert_eq!(server.client.get(&path).await.expect(200)["spec"], old["spec"]);
    // As `portreeve wake` does.
    let wake = json!({"metadata": {"annotations": {"portreeve.dev/wake": "2026-01-01T00:00:00Z"}}});
    server.client.merge(&path, &wake).await.expect(200);
    server.client.merge(&path, &json!({"spec": {"power": "Stopped"}})).await.expect(200);
    for (change, field) in [
        (json!({"spec": {"image": "UPPER/case:2"}}), "spec.image"),
        (json!({"spec": {"image": ""}}), "spec.image"),
        (json!({"spec": {"routes": [{"paths": [{"prefix": "//", "port": "web"}]}]}}), "spec.routes[0].paths[0].prefix"),
        (json!({"spec": {"resources": {"memory": "1Mi"}}}), "spec.resources.memory"),
    ] {
        let refused = server.client.merge(&path, &change).await.expect(422);
        let fields: Vec<_> = refused["details"]["causes"].as_array().unwrap().iter().map(|c| &c["field"]).collect();
        assert!(fields.contains(&&json!(field)), "{refused}");
    }
    server.client.merge(&path, &json!({"spec": {"image": "lower/case"}})).await.expect(200);
    server.client.merge(&path, &json!({"spec": {"image": "UPPER/case"}})).await.expect(422);
    server.client.delete(&path).await.expect(200);
}
