//! Secrets: as Kubernetes serves them, and sealed wherever they are kept.

use std::sync::Arc;

use http::Method;
use portreeve::model::{Key, Kind};
use portreeve::store::{Keyring, MemoryStore, Op, Precondition, SealingStore, SledOptions, SledStore, StoreError, Txn};
use serde_json::{Value, json};

use crate::support::api_server::ApiServer;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const VALUE: &str = "hunter2-and-more";
/// `VALUE` in base64.
const ENCODED: &str = "aHVudGVyMi1hbmQtbW9yZQ==";

fn secret(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {
            "name": name, "labels": {"tier": "db"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": format!("{{\"stringData\":\"{VALUE}\"}}")},
        },
        "stringData": {"password": VALUE},
    })
}

async fn stored(server: &ApiServer, name: &str) -> Value {
    let key = Key::new(Kind::Secret, "default", name).to_string();
    let record = server.store.get(&key).await.unwrap().expect("the record");
    serde_json::from_slice(&record.value).unwrap()
}

#[tokio::test]
async fn string_data_becomes_data_and_nothing_of_it_is_kept_in_the_open() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let made = client.post(SECRETS, &secret("db")).await.expect(201);
    assert_eq!((&made["data"], &made["type"]), (&json!({"password": ENCODED}), &json!("Opaque")));
    assert!(made.get("stringData").is_none(), "{made}");
    let got = client.get(&format!("{SECRETS}/db")).await.expect(200);
    assert_eq!(got, made);
    let listed =
        client.get(&format!("{SECRETS}?labelSelector=tier%3Ddb&fieldSelector=type%3DOpaque")).await.expect(200);
    assert_eq!(listed["items"][0], made);

    let kept = stored(&server, "db").await;
    let text = kept.to_string();
    assert!(!text.contains(VALUE) && !text.contains(ENCODED) && !text.contains("stringData"), "{text}");
    assert_eq!((&kept["keys"], &kept["metadata"]["labels"]["tier"]), (&json!(["password"]), &json!("db")));

    // A write that says the same writes nothing, though its seal would look different.
    let before = server.store.revision();
    let same = client.merge(&format!("{SECRETS}/db"), &json!({"stringData": {"password": VALUE}})).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    assert_eq!(server.store.revision(), before);

    let patch = json!({"stringData": {"user": "bob"}, "data": {"password": "bmV3"}});
    let changed = client.merge(&format!("{SECRETS}/db"), &patch).await.expect(200);
    assert_eq!(changed["data"], json!({"password": "bmV3", "user": "Ym9i"}));
    let gone = client.delete(&format!("{SECRETS}/db")).await.expect(200);
    assert_eq!(gone["status"], "Success");
}

#[tokio::test]
async fn a_table_counts_and_a_watch_shows() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let mut watch = client.watch(&format!("{SECRETS}?watch=1")).await;
    client.post(SECRETS, &secret("db")).await.expect(201);
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["data"]["password"]), (&json!("ADDED"), &json!(ENCODED)));
    let headers = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = client.send(Method::GET, &format!("{SECRETS}?includeObject=None"), &headers, "").await.expect(200);
    let names: Vec<_> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(names, ["Name", "Type", "Data", "Age"]);
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("db"), json!("Opaque"), json!(1)]);
    assert!(!table.to_string().contains(ENCODED));
}

#[tokio::test]
async fn what_is_refused_is_refused_without_repeating_it() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let before = server.store.revision();
    for (body, field) in [
        (json!({"metadata": {"name": "a"}, "data": {"k": VALUE}}), "data.k"),
        (json!({"metadata": {"name": "a"}, "data": {"k": 5}}), "data.k"),
        (json!({"metadata": {"name": "a"}, "stringData": {"k": 5}}), "stringData.k"),
        (json!({"metadata": {"name": "a"}, "stringData": {"a/b": VALUE}}), "data[a/b]"),
        (
            json!({"metadata": {"name": "a"}, "type": "kubernetes.io/tls", "stringData": {"tls.crt": VALUE}}),
            "data[tls.key]",
        ),
        (
            json!({"metadata": {"name": "a"}, "type": "kubernetes.io/dockerconfigjson",
                   "stringData": {".dockerconfigjson": VALUE}}),
            "data[.dockerconfigjson]",
        ),
        (json!({"metadata": {"name": "A b"}}), "metadata.name"),
    ] {
        let answer = client.post(SECRETS, &body).await;
        assert!(!answer.text().contains(VALUE) && !answer.text().contains(ENCODED), "{}", answer.text());
        assert_eq!(answer.expect(422)["details"]["causes"][0]["field"], field, "{body}");
    }
    assert_eq!(server.store.revision(), before);
    let made =
        json!({"metadata": {"name": "a.b.c"}, "type": "kubernetes.io/basic-auth", "stringData": {"username": "x"}});
    client.post(SECRETS, &made).await.expect(201);
    let path = format!("{SECRETS}/a.b.c");
    let typed = client.merge(&path, &json!({"type": "Opaque"})).await.expect(422);
    assert!(
        typed["message"].as_str().unwrap().contains("type: Invalid value: \"Opaque\": field is immutable"),
        "{typed}"
    );
    client.merge(&path, &json!({"immutable": true})).await.expect(200);
    client.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    for patch in [json!({"stringData": {"username": "y"}}), json!({"data": null}), json!({"immutable": null})] {
        let told = client.merge(&path, &patch).await.expect(422);
        assert!(told["message"].as_str().unwrap().contains("field is immutable when `immutable` is set"), "{told}");
    }
}

#[tokio::test]
async fn a_forged_or_moved_value_is_told_precisely() {
    let server = ApiServer::start().await;
    let client = &server.client;
    client.post(SECRETS, &secret("db")).await.expect(201);
    let whole = stored(&server, "db").await;
    let mut forged = whole.clone();
    let text = forged["sealed"]["box"].as_str().unwrap().to_owned();
    let other = if text.starts_with('A') { "B" } else { "A" };
    forged["sealed"]["box"] = format!("{other}{}", &text[1..]).into();
    let mut moved = whole.clone();
    moved["metadata"]["name"] = "thief".into();
    let mut plain = whole.clone();
    plain.as_object_mut().unwrap().remove("sealed");
    let mut strange = whole;
    strange["sealed"]["key"] = "0123456789abcdef".into();
    for (name, object, why) in [
        ("db", forged, "it was changed, or belongs to another record"),
        ("thief", moved, "it was changed, or belongs to another record"),
        ("db", plain, "it has no sealed part"),
        ("db", strange, "the key 0123456789abcdef, which is not in the seal key file"),
    ] {
        server.put(object).await;
        let told = client.get(&format!("{SECRETS}/{name}")).await.expect(500);
        let message = told["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("secrets/default/{name}: ")) && message.contains(why), "{message}");
    }
    assert_eq!(client.get("/api/v1/namespaces").await.status, 200, "the rest is served");
}

#[tokio::test]
async fn a_ring_without_the_key_of_a_record_is_found_out_before_it_serves() {
    let raw = MemoryStore::new();
    let ring = Arc::new(Keyring::ephemeral().unwrap());
    let sealing = SealingStore::over(raw.clone(), ring.clone(), "secrets/");
    assert_eq!(SealingStore::check(&*raw, None, "secrets/").await.unwrap(), 0);
    let put = |key: &str, value: &str| Txn {
        when: vec![Precondition::Absent { key: key.into() }],
        then: vec![Op::Put { key: key.into(), value: value.to_owned().into() }],
    };
    sealing.txn(put("secrets/default/db", r#"{"metadata": {"name": "db"}, "data": {"a": "eA=="}}"#)).await.unwrap();
    sealing.txn(put("configmaps/default/db", "{}")).await.unwrap();
    assert_eq!(&raw.get("configmaps/default/db").await.unwrap().unwrap().value[..], b"{}", "only secrets are sealed");
    assert_eq!(SealingStore::check(&*raw, Some(&ring), "secrets/").await.unwrap(), 1);
    let stranger = Keyring::ephemeral().unwrap();
    let told = SealingStore::check(&*raw, Some(&stranger), "secrets/").await.unwrap_err().to_string();
    assert_eq!(
        told,
        format!(
            "secrets/default/db: it is sealed with the key {}, which is not in the seal key file",
            ring.sealing_id()
        )
    );
    let refused = sealing.txn(put("secrets/default/x", "not JSON")).await.unwrap_err();
    assert!(matches!(refused, StoreError::Sealed { .. }), "{refused}");
    assert!(raw.get("secrets/default/x").await.unwrap().is_none());
}

#[tokio::test]
async fn no_file_of_the_store_holds_a_value() {
    let dir = tempfile::tempdir().unwrap();
    let raw = SledStore::open(&dir.path().join("store"), SledOptions::default()).await.unwrap();
    let sealing = SealingStore::over(raw.clone(), Arc::new(Keyring::ephemeral().unwrap()), "secrets/");
    let put = |key: &str, object: Value| Txn {
        when: vec![],
        then: vec![Op::Put { key: key.into(), value: object.to_string().into() }],
    };
    let mut object = secret("db");
    object.as_object_mut().unwrap().remove("stringData");
    for label in ["a", "b"] {
        object["data"] = json!({"password": ENCODED});
        object["metadata"]["labels"]["tier"] = label.into();
        sealing.txn(put("secrets/default/db", object.clone())).await.unwrap();
    }
    sealing.txn(put("configmaps/default/open", json!({"data": {"a": "in-the-open"}}))).await.unwrap();
    let read = sealing.get("secrets/default/db").await.unwrap().unwrap();
    let read: Value = serde_json::from_slice(&read.value).unwrap();
    assert_eq!((&read["data"]["password"], &read["metadata"]["labels"]["tier"]), (&json!(ENCODED), &json!("b")));
    let files = crate::support::bytes_below(dir.path());
    let holds = |text: &str| files.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(holds("in-the-open"), "the search finds nothing at all");
    assert!(!holds(VALUE) && !holds(ENCODED));
}

/// Lets the seal of a secret be of a key that nobody has any more.
async fn lose_the_key(server: &ApiServer, namespace: &str, name: &str) {
    let key = Key::new(Kind::Secret, namespace, name).to_string();
    let record = server.store.get(&key).await.unwrap().expect("the record");
    let mut object: Value = serde_json::from_slice(&record.value).unwrap();
    object["sealed"]["key"] = "0123456789abcdef".into();
    server.put(object).await;
}

#[tokio::test]
async fn what_does_not_open_can_be_deleted_and_its_namespace_too() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let one = format!("{SECRETS}/db");
    client.post(SECRETS, &secret("db")).await.expect(201);
    lose_the_key(&server, "default", "db").await;
    client.get(&one).await.expect(500);
    client.delete(&format!("{one}?dryRun=All")).await.expect(200);
    let wrong = json!({"preconditions": {"uid": "another"}}).to_string();
    client.send(Method::DELETE, &one, &[("content-type", "application/json")], wrong).await.expect(409);
    assert_eq!(client.delete(&one).await.expect(200)["status"], "Success");
    client.get(&one).await.expect(404);

    let mut held = secret("held");
    held["metadata"]["finalizers"] = json!(["example.com/x"]);
    client.post(SECRETS, &held).await.expect(201);
    let opened = client.delete(&format!("{SECRETS}/held?dryRun=All")).await.expect(200);
    assert_eq!(opened["data"]["password"], ENCODED, "what opens is shown");
    lose_the_key(&server, "default", "held").await;
    let marked = client.delete(&format!("{SECRETS}/held")).await.expect(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string() && marked["type"] == "Opaque", "{marked}");
    assert!(marked.get("sealed").is_none() && marked.get("keys").is_none(), "{marked}");
    let kept = stored(&server, "held").await;
    assert_eq!(kept["metadata"]["deletionTimestamp"], marked["metadata"]["deletionTimestamp"]);
    assert_eq!(kept["sealed"]["key"], "0123456789abcdef", "the box stays as it was");

    for name in ["a", "b", "c"] {
        client.post(SECRETS, &secret(name)).await.expect(201);
    }
    lose_the_key(&server, "default", "b").await;
    let gone = client.delete(&format!("{SECRETS}?labelSelector=tier%3Ddb&fieldSelector=metadata.name%21%3Dheld")).await;
    let names: Vec<_> =
        gone.expect(200)["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["a", "b", "c"]);

    client.post("/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).await.expect(201);
    client.post("/api/v1/namespaces/team/secrets", &secret("db")).await.expect(201);
    lose_the_key(&server, "team", "db").await;
    let from = server.store.revision().0;
    let mut watch = client.watch(&format!("/api/v1/namespaces?watch=1&resourceVersion={from}")).await;
    client.delete("/api/v1/namespaces/team").await.expect(200);
    while watch.told().await != ("DELETED".into(), "team".into()) {}
}
