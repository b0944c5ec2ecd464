//! Events by two names: what is posted to `events.k8s.io/v1` is read at core/v1, and the other way round.

use http::Method;
use serde_json::{Value, json};

use crate::support::api_server::ApiServer;
use crate::support::protobuf::{PROTOBUF, bytes, message};

const HERE: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const CORE: &str = "/api/v1/namespaces/default/events";

fn event(name: &str, about: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name},
        "eventTime": "2026-01-01T00:00:00.123456Z", "reportingController": "example.com/c", "reportingInstance": "c-0",
        "action": "Pull", "reason": "PullFailed", "note": "no such image", "type": "Warning",
        "regarding": {"kind": "Instance", "name": about, "namespace": "default"},
    })
}

#[tokio::test]
async fn what_is_posted_to_one_group_is_read_at_both() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let made = client.post(HERE, &event("a.1", "a")).await.expect(201);
    assert_eq!((made["apiVersion"].as_str(), made["note"].as_str()), (Some("events.k8s.io/v1"), Some("no such image")));
    let core = client.get(&format!("{CORE}/a.1")).await.expect(200);
    assert_eq!(core["apiVersion"], "v1");
    assert_eq!(core["involvedObject"]["name"], "a");
    assert_eq!((&core["message"], &core["reportingComponent"]), (&json!("no such image"), &json!("example.com/c")));
    for name in ["note", "regarding", "reportingController"] {
        assert!(core.get(name).is_none(), "{core}");
    }
    assert_eq!(core["metadata"]["uid"], made["metadata"]["uid"]);

    let old = json!({
        "kind": "Event", "metadata": {"name": "b.1"}, "type": "Normal", "reason": "Started", "message": "it runs", "count": 3,
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:01:00Z", "source": {"component": "x"},
        "involvedObject": {"kind": "Instance", "name": "b", "namespace": "default"},
    });
    client.post(CORE, &old).await.expect(201);
    let shown = client.get(&format!("{HERE}/b.1")).await.expect(200);
    assert_eq!(
        [&shown["deprecatedCount"], &shown["deprecatedSource"], &shown["deprecatedLastTimestamp"], &shown["note"]],
        [&json!(3), &json!({"component": "x"}), &json!("2026-01-01T00:01:00Z"), &json!("it runs")]
    );
    let list = client.get(&format!("{HERE}?fieldSelector=regarding.name%3Db")).await.expect(200);
    assert_eq!((list["kind"].as_str(), list["items"].as_array().unwrap().len()), (Some("EventList"), 1));
    assert_eq!(list["items"][0], shown);
    client.get(&format!("{HERE}?fieldSelector=involvedObject.name%3Db")).await.expect(400);
    let all = client.get("/apis/events.k8s.io/v1/events?limit=1").await.expect(200);
    assert_eq!(all["items"][0]["regarding"]["name"], "a");
    assert!(all["metadata"]["continue"].is_string());

    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = |path: &'static str| client.send(Method::GET, path, &accept, "");
    let (here, core) = (table(HERE).await.expect(200), table(CORE).await.expect(200));
    assert_eq!(here["columnDefinitions"], core["columnDefinitions"]);
    let cells =
        |table: &Value| table["rows"].as_array().unwrap().iter().map(|r| r["cells"].clone()).collect::<Vec<_>>();
    assert_eq!(cells(&here), cells(&core));
    assert_eq!(cells(&here)[0].as_array().unwrap()[1..5], ["Warning", "PullFailed", "instance/a", "no such image"]);

    let gone = client.delete(&format!("{HERE}/a.1")).await.expect(200);
    assert_eq!(gone["details"]["group"], "events.k8s.io");
    let missing = client.get(&format!("{CORE}/a.1")).await.expect(404);
    assert_eq!(missing["details"]["kind"], "events");
    let missing = client.get(&format!("{HERE}/a.1")).await.expect(404);
    assert_eq!(missing["message"], "events.events.k8s.io \"a.1\" not found");
    client.delete(HERE).await.expect(200);
    assert_eq!(client.get(CORE).await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn every_way_of_writing_reaches_the_same_record() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let one = format!("{HERE}/a.1");
    let mut watch = client.watch(&format!("{HERE}?watch=1")).await;
    let made = client.post(HERE, &event("a.1", "a")).await.expect(201);
    assert_eq!(watch.next().await.unwrap(), json!({"type": "ADDED", "object": made}));

    let series = |count: i64| json!({"count": count, "lastObservedTime": "2026-01-01T00:05:00.000000Z"});
    let merged = client.merge(&one, &json!({"series": series(2)})).await.expect(200);
    assert_eq!(merged["series"]["count"], 2);
    assert_eq!(watch.next().await.unwrap(), json!({"type": "MODIFIED", "object": merged}));
    let strategic = [("content-type", "application/strategic-merge-patch+json")];
    let patch = json!({"series": {"count": 3}}).to_string();
    let patched = client.send(Method::PATCH, &one, &strategic, patch).await.expect(200);
    assert_eq!(patched["series"], series(3));
    let operations = json!([{"op": "test", "path": "/note", "value": "no such image"},
                            {"op": "replace", "path": "/note", "value": "gone"}]);
    let json_patch = [("content-type", "application/json-patch+json")];
    let patched = client.send(Method::PATCH, &one, &json_patch, operations.to_string()).await.expect(200);
    assert_eq!(patched["note"], "gone");
    let mut put = patched.clone();
    put["note"] = "put".into();
    assert_eq!(client.put(&one, &put).await.expect(200)["note"], "put");
    client.put(&one, &put).await.expect(409);
    let apply = [("content-type", "application/apply-patch+yaml")];
    let config =
        json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a.1"}, "note": "applied"});
    let path = format!("{one}?fieldManager=m&force=true");
    let applied = client.send(Method::PATCH, &path, &apply, config.to_string()).await.expect(200);
    assert_eq!(applied["note"], "applied");
    assert_eq!(client.get(&format!("{CORE}/a.1")).await.expect(200)["message"], "applied");
}

/// A recorder of client-go sends what it leaves empty, too, and the newer ones send protobuf.
#[tokio::test]
async fn what_clients_in_go_send_is_taken() {
    let server = ApiServer::start().await;
    let mut sent = event("a.1", "a");
    for (name, empty) in [("deprecatedSource", json!({})), ("deprecatedFirstTimestamp", Value::Null)] {
        sent[name] = empty;
    }
    sent["deprecatedLastTimestamp"] = Value::Null;
    sent["metadata"]["creationTimestamp"] = Value::Null;
    sent["deprecatedCount"] = 0.into();
    server.client.post(HERE, &sent).await.expect(201);

    let time = [vec![1 << 3], vec![0x80, 0xf2, 0xd6, 0xca, 0x06], vec![2 << 3, 0]].concat();
    let about = [bytes(1, b"Instance"), bytes(2, b"default"), bytes(3, b"b")].concat();
    let texts =
        [(4, "example.com/c"), (5, "c-0"), (6, "Pull"), (7, "PullFailed"), (10, "no such image"), (11, "Warning")];
    let mut raw = [bytes(1, &[bytes(1, b"b.1"), bytes(2, b""), bytes(8, b"")].concat()), bytes(2, &time)].concat();
    raw.extend(texts.iter().flat_map(|(number, text)| bytes(*number, text.as_bytes())));
    let empty = [bytes(1, b""), bytes(2, b"")].concat();
    raw.extend([bytes(8, &about), bytes(12, &empty), bytes(13, b""), bytes(14, b""), vec![15 << 3, 0]].concat());
    let body = message("events.k8s.io/v1", "Event", &raw);
    let made = server.client.send(Method::POST, HERE, &PROTOBUF, body).await.expect(201);
    assert_eq!((&made["note"], &made["regarding"]["name"]), (&json!("no such image"), &json!("b")));
    assert_eq!(made["eventTime"], "2026-01-01T00:00:00.000000Z");
    assert!(made.get("deprecatedCount").is_none() && made["deprecatedSource"] == json!({}), "{made}");
}

#[tokio::test]
async fn what_no_event_of_the_group_may_be_is_refused_by_the_names_of_the_group() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let with = |field: &str, value: Value| {
        let mut event = event("a.1", "a");
        event[field] = value;
        event
    };
    for (body, field) in [
        (with("eventTime", Value::Null), "eventTime"),
        (with("action", "".into()), "action"),
        (with("reportingInstance", Value::Null), "reportingInstance"),
        (with("type", "Odd".into()), "type"),
        (with("note", "x".repeat(1025).into()), "note"),
        (with("deprecatedCount", 1.into()), "deprecatedCount"),
        (with("regarding", "a".into()), "regarding"),
    ] {
        let status = client.post(HERE, &body).await.expect(422);
        assert_eq!(status["details"]["causes"][0]["field"], field, "{status}");
        assert!(status["message"].as_str().unwrap().contains("Event.events.k8s.io"), "{status}");
    }
    let strict = format!("{HERE}?fieldValidation=Strict");
    let status = client.post(&strict, &with("message", "x".into())).await.expect(400);
    assert!(status["message"].as_str().unwrap().contains("unknown field \"message\""), "{status}");
    client.post(HERE, &with("apiVersion", "v1".into())).await.expect(400);
    let apply = [("content-type", "application/apply-patch+yaml")];
    let config = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "a.1"}, "note": "new"});
    let path = format!("{HERE}/a.1?fieldManager=m");
    let status = client.send(Method::PATCH, &path, &apply, config.to_string()).await.expect(422);
    assert_eq!(status["details"]["causes"][0]["field"], "eventTime", "{status}");
    client.post("/apis/events.k8s.io/v1/events", &event("a.1", "a")).await.expect(405);
    assert_eq!(client.get(CORE).await.expect(200)["items"], json!([]), "nothing was made");
}
