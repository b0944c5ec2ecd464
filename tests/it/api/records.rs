//! Reading: lists, pages, selectors, forms.

use http::Method;
use serde_json::{Value, json};

use crate::support::api_server::{ApiServer, heavy, instance, running};
use crate::support::client::INSTANCES;

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect()
}

async fn with_instances(names: &[&str]) -> ApiServer {
    let server = ApiServer::start().await;
    for name in names {
        let mut body = instance(name);
        body["metadata"]["labels"] = json!({"first": name[..1]});
        server.client.post(INSTANCES, &body).await.expect(201);
    }
    server
}

#[tokio::test]
async fn a_list_shows_what_a_get_shows_and_tells_its_length() {
    let server = with_instances(&["a", "b"]).await;
    let client = &server.client;
    client.merge(&format!("{INSTANCES}/b"), &json!({"metadata": {"annotations": {"x": "\"}\\{ß"}}})).await.expect(200);
    // As controllers write: without what the API adds.
    server
        .put(json!({"kind": "Instance", "metadata": {"namespace": "default", "name": "c"}, "spec": {"image": "x"}}))
        .await;
    let answer = client.send(Method::GET, INSTANCES, &[], "").await;
    let told: usize = answer.headers["content-length"].to_str().unwrap().parse().unwrap();
    assert_eq!(told, answer.bytes.len());
    let listed = answer.expect(200);
    assert_eq!((&listed["kind"], &listed["apiVersion"]), (&json!("InstanceList"), &json!("portreeve.dev/v1")));
    assert_eq!(names(&listed), ["a", "b", "c"]);
    for item in listed["items"].as_array().unwrap() {
        let name = item["metadata"]["name"].as_str().unwrap();
        assert_eq!(client.get(&format!("{INSTANCES}/{name}")).await.expect(200), *item);
    }
    for (query, expected) in [
        ("labelSelector=first%3Da", &["a"][..]),
        ("labelSelector=first+in+(a,b)", &["a", "b"]),
        ("labelSelector=!first", &["c"]),
        ("fieldSelector=metadata.name!%3Db,status.phase%3D", &["a", "c"]),
    ] {
        assert_eq!(names(&client.get(&format!("{INSTANCES}?{query}")).await.expect(200)), expected, "{query}");
    }
}

#[tokio::test]
async fn heavy_records_are_read_a_few_at_a_time_and_told_as_all_others() {
    let server = ApiServer::start().await;
    let all: Vec<String> = (0..15).map(|n| format!("h{n:02}")).collect();
    for name in &all {
        server.put(heavy(name, 0)).await;
    }
    let first = server.client.get(&format!("{INSTANCES}?limit=13")).await.expect(200);
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (all[..13].iter().map(|n| &**n).collect(), &json!(2))
    );
    let token = first["metadata"]["continue"].as_str().unwrap();
    let rest = server.client.get(&format!("{INSTANCES}?limit=13&continue={token}")).await.expect(200);
    assert_eq!(names(&rest), all[13..]);
    let mut watch = server.client.watch(&format!("{INSTANCES}?watch=1")).await;
    for name in &all {
        assert_eq!(watch.told().await, ("ADDED".into(), name.clone()));
    }
}

#[tokio::test]
async fn pages_show_one_version_and_tell_what_is_left() {
    let server = with_instances(&["a", "b", "c", "d"]).await;
    let client = &server.client;
    let first = client.get(&format!("{INSTANCES}?limit=2")).await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    client.delete(&format!("{INSTANCES}/c")).await.expect(200);
    server.remove(&portreeve::model::Key::instance("default", "d")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = client.get(&format!("{INSTANCES}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(names(&second), ["c", "d"], "the second page shows the first one's version");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert!(second["metadata"].get("continue").is_none());
    for (limit, left) in [("1", Some(1)), ("2", None), ("500", None)] {
        let page = client.get(&format!("{INSTANCES}?limit={limit}&continue={token}")).await.expect(200);
        assert_eq!(page["metadata"].get("remainingItemCount"), left.map(Value::from).as_ref(), "{limit}");
    }
    let selected = client.get(&format!("{INSTANCES}?limit=1&labelSelector=first%3Da")).await.expect(200);
    assert!(selected["metadata"].get("remainingItemCount").is_none(), "nobody has counted what a selector shows");
    assert_eq!(client.get(&format!("{INSTANCES}?limit=2&continue=x")).await.expect(400)["reason"], "BadRequest");

    let newest: u64 =
        client.get(INSTANCES).await.json()["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    server.store.compact(portreeve::store::Revision(newest)).await.unwrap();
    let gone = client.get(&format!("{INSTANCES}?limit=2&continue={token}")).await.expect(410);
    assert_eq!(gone["reason"], "Expired");
}

#[tokio::test]
async fn versions_are_honoured() {
    let server = with_instances(&["a"]).await;
    let client = &server.client;
    let old = client.get(INSTANCES).await.json()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    client.post(INSTANCES, &instance("b")).await.expect(201);
    let exact = format!("{INSTANCES}?resourceVersion={old}&resourceVersionMatch=Exact");
    assert_eq!(names(&client.get(&exact).await.expect(200)), ["a"]);
    let at_least = format!("{INSTANCES}?resourceVersion={old}&resourceVersionMatch=NotOlderThan");
    assert_eq!(names(&client.get(&at_least).await.expect(200)), ["a", "b"]);
    assert_eq!(names(&client.get(&format!("{INSTANCES}?resourceVersion=0")).await.expect(200)), ["a", "b"]);
    let future = client.get(&format!("{INSTANCES}?resourceVersion=99999")).await.expect(504);
    assert_eq!(future["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    client.get(&format!("{INSTANCES}?resourceVersion=x")).await.expect(400);
    for (query, reason, field, why) in [
        (
            "resourceVersionMatch=Exact",
            "FieldValueForbidden",
            "resourceVersionMatch",
            "unless resourceVersion is provided",
        ),
        (
            "resourceVersion=0&resourceVersionMatch=Exact",
            "FieldValueForbidden",
            "resourceVersionMatch",
            "for resourceVersion",
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Near",
            "FieldValueNotSupported",
            "resourceVersionMatch",
            "NotOlderThan",
        ),
        ("sendInitialEvents=true", "FieldValueForbidden", "sendInitialEvents", "is forbidden for list"),
    ] {
        let status = client.get(&format!("{INSTANCES}?{query}")).await.expect(422);
        let (details, cause) = (&status["details"], &status["details"]["causes"][0]);
        assert_eq!(
            (&details["kind"], &cause["reason"], &cause["field"]),
            (&json!("ListOptions"), &json!(reason), &json!(field))
        );
        assert!(cause["message"].as_str().unwrap().contains(why), "{status}");
    }
    for (query, code) in
        [("timeoutSeconds=soon", 400), ("limit=some", 400), ("timeoutSeconds=-1", 200), ("limit=-1", 200)]
    {
        client.get(&format!("{INSTANCES}?{query}")).await.expect(code);
    }
}

#[tokio::test]
async fn selectors_choose_and_wrong_ones_are_refused() {
    let server = with_instances(&["ab", "ac", "b"]).await;
    let client = &server.client;
    for (query, expected) in [
        ("labelSelector=first%3Da", vec!["ab", "ac"]),
        ("labelSelector=first%20notin%20(a)", vec!["b"]),
        ("labelSelector=first%3Da&limit=1", vec!["ab"]),
        ("fieldSelector=metadata.name%3Dab", vec!["ab"]),
        ("fieldSelector=metadata.name%3Da", vec![]),
        ("fieldSelector=metadata.name!%3Dab", vec!["ac", "b"]),
    ] {
        let list = client.get(&format!("{INSTANCES}?{query}")).await.expect(200);
        assert_eq!(names(&list), expected, "{query}");
        let everywhere = client.get(&format!("/apis/portreeve.dev/v1/instances?{query}")).await.expect(200);
        assert_eq!(names(&everywhere), expected, "{query} in all namespaces");
    }
    let wrong = client.get(&format!("{INSTANCES}?fieldSelector=spec.image%3Dx")).await.expect(400);
    assert_eq!(wrong["message"], "field label not supported: spec.image");
    client.get(&format!("{INSTANCES}?labelSelector=a%20b")).await.expect(400);
    let empty = client.get("/apis/portreeve.dev/v1/namespaces/nowhere/instances").await.expect(200);
    assert_eq!(empty["items"], json!([]), "a missing namespace is an empty list");
}

#[tokio::test]
async fn events_are_found_by_what_they_are_about() {
    let server = ApiServer::start().await;
    for (name, about) in [("a.1", "a"), ("b.1", "b")] {
        let event = json!({
            "kind": "Event", "metadata": {"name": name, "namespace": "default"}, "type": "Normal", "reason": "Started",
            "message": "the container runs", "involvedObject": {"kind": "Instance", "name": about, "uid": "u"},
        });
        server.put(event).await;
    }
    let path = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Da%2CinvolvedObject.uid%3Du";
    let found = server.client.get(path).await.expect(200);
    assert_eq!(names(&found), ["a.1"]);
    assert_eq!(found["items"][0]["apiVersion"], "v1");
}

#[tokio::test]
async fn tables_show_what_people_look_for() {
    let server = with_instances(&["a"]).await;
    server.put_status("a", running()).await;
    let accept = [("accept", "application/json; g=meta.k8s.io; v=v1; as=Table")];
    for path in [INSTANCES.to_owned(), format!("{INSTANCES}/a")] {
        let table = server.client.send(Method::GET, &path, &accept, "").await.expect(200);
        let columns: Vec<_> =
            table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
        assert_eq!(columns[..7], ["Name", "Phase", "Ready", "Node", "Image", "Last Active", "URL"]);
        let row = &table["rows"][0];
        assert_eq!(row["cells"].as_array().unwrap()[..5], ["a", "Running", "True", "local", "app:1"]);
        assert_eq!(row["cells"][8], "web:8080->30001");
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
        assert!(row["object"].get("spec").is_none());
    }
    let whole = server.client.send(Method::GET, &format!("{INSTANCES}?includeObject=Object"), &accept, "").await;
    assert_eq!(whole.expect(200)["rows"][0]["object"]["spec"]["image"], "app:1");
    let accept = [("accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")];
    let partial = server.client.send(Method::GET, INSTANCES, &accept, "").await.expect(200);
    assert_eq!(partial["items"][0]["kind"], "PartialObjectMetadata");
    let refused = server.client.send(Method::GET, INSTANCES, &[("accept", "text/html")], "").await.expect(406);
    assert_eq!(refused["reason"], "NotAcceptable");
}

#[tokio::test]
async fn absent_things_are_named_in_the_words_of_kubernetes() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let missing = client.get(&format!("{INSTANCES}/x")).await.expect(404);
    assert_eq!(missing["message"], "instances.portreeve.dev \"x\" not found");
    assert_eq!(missing["details"], json!({"name": "x", "group": "portreeve.dev", "kind": "instances"}));
    client.get(&format!("{INSTANCES}/x/nothing")).await.expect(404);
    client.get("/apis/portreeve.dev/v1/things").await.expect(404);
    client.put(INSTANCES, &json!({})).await.expect(405);
    client.post("/apis/portreeve.dev/v1/instances", &instance("a")).await.expect(405);
    client.post("/api/v1/namespaces/default/pods", &json!({})).await.expect(405);
}
