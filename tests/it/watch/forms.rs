//! Watches in the forms that clients ask for, and the parameters that make no sense.

use std::time::Duration;

use http::Method;
use portreeve::model::Key;
use serde_json::{Value, json};

use super::{label, make};
use crate::support::api_server::{ApiServer, heavy, instance, running};
use crate::support::client::{INSTANCES, Lines};

const METADATA: [(&str, &str); 1] = [("accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")];
const TABLE: [(&str, &str); 1] = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
/// Existing objects, and then a bookmark that says that these were all.
const INITIAL: &str = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

/// The type and the object of the next event.
async fn event(watch: &mut Lines) -> (String, Value) {
    let mut event = watch.next().await.expect("an event");
    (event["type"].as_str().expect("a type").to_owned(), event["object"].take())
}

/// What holds of every object in this form, the object itself and a mark alike.
#[track_caller]
fn is_metadata_only(object: &Value) {
    let fields: Vec<_> = object.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(fields, ["apiVersion", "kind", "metadata"], "{object}");
    assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1")));
    assert!(object["metadata"]["resourceVersion"].is_string(), "{object}");
}

#[tokio::test]
async fn a_watch_of_metadata_tells_nothing_else() {
    let server = ApiServer::start().await;
    make(&server, "a", "x").await;
    let mut watch = server.client.watch_as(&format!("{INSTANCES}?watch=1&{INITIAL}"), &METADATA).await;
    let of_a = async || server.client.get(&format!("{INSTANCES}/a")).await.expect(200)["metadata"].clone();

    let (kind, added) = event(&mut watch).await;
    is_metadata_only(&added);
    assert_eq!((kind.as_str(), &added["metadata"]), ("ADDED", &of_a().await));
    let (kind, mark) = event(&mut watch).await;
    is_metadata_only(&mark);
    assert_eq!(kind, "BOOKMARK");
    assert_eq!(mark["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));

    // A change of what is not shown is a change all the same.
    server.put_status("a", running()).await;
    let (kind, modified) = event(&mut watch).await;
    is_metadata_only(&modified);
    assert_eq!((kind.as_str(), &modified["metadata"]), ("MODIFIED", &of_a().await));
    server.remove(&Key::instance("default", "a")).await;
    let (kind, deleted) = event(&mut watch).await;
    is_metadata_only(&deleted);
    assert_eq!((kind.as_str(), &deleted["metadata"]["uid"]), ("DELETED", &added["metadata"]["uid"]));
    assert_eq!(deleted["metadata"]["resourceVersion"], server.store.revision().0.to_string());
}

#[tokio::test]
async fn a_watch_of_a_views_metadata_is_that_of_the_view() {
    let server = ApiServer::start().await;
    make(&server, "a", "x").await;
    server.put_status("a", running()).await;
    let mut watch = server.client.watch_as(&format!("/api/v1/pods?watch=1&{INITIAL}"), &METADATA).await;
    let (kind, added) = event(&mut watch).await;
    is_metadata_only(&added);
    let pod = server.client.get("/api/v1/namespaces/default/pods/a").await.expect(200);
    assert_eq!((kind.as_str(), &added["metadata"]), ("ADDED", &pod["metadata"]));
    is_metadata_only(&event(&mut watch).await.1);
}

#[tokio::test]
async fn a_bookmark_between_rows_is_a_table_that_shows_nothing() {
    let server = ApiServer::start().await;
    make(&server, "a", "x").await;
    let from = server.store.revision().0.to_string();
    let path = format!("{INSTANCES}?watch=1&allowWatchBookmarks=true&resourceVersion={from}");
    let mut watch = server.client.watch_as(&path, &TABLE).await;
    // From here on, time jumps to the next timer whenever nothing else can happen.
    tokio::time::pause();
    let mark = watch.next_within(Duration::from_secs(90)).await.expect("an event");
    tokio::time::resume();
    assert_eq!((&mark["type"], &mark["object"]["kind"]), (&json!("BOOKMARK"), &json!("Table")));
    let columns = mark["object"]["columnDefinitions"].as_array().expect("the first event tells the columns");
    // Reflectors look for the version in the only row, printers in the table; neither shows the row.
    assert_eq!(mark["object"]["metadata"]["resourceVersion"], from);
    let rows = mark["object"]["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 1, "{mark}");
    assert_eq!(rows[0]["cells"].as_array().map(Vec::len), Some(columns.len()));
    is_metadata_only(&rows[0]["object"]);
    assert_eq!(rows[0]["object"]["metadata"], json!({"resourceVersion": from}));

    label(&server, "a", "y").await;
    let (kind, row) = event(&mut watch).await;
    assert_eq!((kind.as_str(), &row["columnDefinitions"]), ("MODIFIED", &Value::Null));
    assert_eq!(row["rows"][0]["object"]["metadata"]["labels"], json!({"l": "y"}));
}

#[tokio::test]
async fn a_row_carries_as_much_of_its_object_as_was_asked_for() {
    let server = ApiServer::start().await;
    make(&server, "a", "x").await;
    let stored = server.client.get(&format!("{INSTANCES}/a")).await.expect(200);
    let partial =
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": stored["metadata"]});
    for (query, carried) in [
        ("", &partial),
        ("&includeObject=Metadata", &partial),
        ("&includeObject=Object", &stored),
        ("&includeObject=None", &Value::Null),
    ] {
        let mut watch = server.client.watch_as(&format!("{INSTANCES}?watch=1{query}"), &TABLE).await;
        let (_, table) = event(&mut watch).await;
        assert_eq!(&table["rows"][0]["object"], carried, "{query}");
    }
    let path = format!("{INSTANCES}?watch=1&includeObject=Some");
    server.client.send(Method::GET, &path, &TABLE, "").await.expect(422);
}

#[tokio::test]
async fn a_watch_may_leave_out_what_is_there() {
    let server = ApiServer::start().await;
    make(&server, "a", "x").await;
    let without = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut from_now = server.client.watch(&format!("{INSTANCES}?watch=1&{without}")).await;
    // It is another matter than a watch from nothing or from 0, which begins with what is there.
    let mut from_zero = server.client.watch(&format!("{INSTANCES}?watch=1&{without}&resourceVersion=0")).await;
    make(&server, "b", "x").await;
    for watch in [&mut from_now, &mut from_zero] {
        let (kind, object) = event(watch).await;
        assert_eq!((kind.as_str(), &object["metadata"]["name"]), ("ADDED", &json!("b")), "neither a nor a mark");
    }
}

#[tokio::test]
async fn what_no_watch_can_be_is_refused_before_it_begins() {
    let server = ApiServer::start().await;
    let client = &server.client;
    make(&server, "a", "x").await;
    for (query, code, words) in [
        ("sendInitialEvents=true", 422, "resourceVersionMatch: Forbidden: sendInitialEvents requires"),
        ("sendInitialEvents=false", 422, "resourceVersionMatch: Forbidden: sendInitialEvents requires"),
        ("sendInitialEvents=true&resourceVersionMatch=Exact", 422, "sendInitialEvents requires"),
        ("resourceVersionMatch=NotOlderThan", 422, "resourceVersionMatch is forbidden for watch unless"),
        ("resourceVersionMatch=Exact&resourceVersion=1", 422, "resourceVersionMatch is forbidden for watch unless"),
        ("timeoutSeconds=soon", 400, "timeoutSeconds"),
        ("timeoutSeconds=1.5", 400, "timeoutSeconds"),
        ("resourceVersion=newest", 400, "invalid resource version \"newest\""),
        ("resourceVersion=-1", 400, "invalid resource version \"-1\""),
        ("labelSelector=a%20b", 400, "a b"),
        ("fieldSelector=spec.image%3Dx", 400, "field label not supported: spec.image"),
    ] {
        let status = client.get(&format!("{INSTANCES}?watch=1&{query}")).await.expect(code);
        let message = status["message"].as_str().expect("a message");
        assert!(message.contains(words), "{query}: {message}");
        if code == 422 {
            assert_eq!(status["details"]["causes"][0]["field"], "resourceVersionMatch", "{status}");
            assert_eq!(status["details"]["causes"][0]["reason"], "FieldValueForbidden", "{status}");
            assert_eq!(status["details"]["kind"], "ListOptions", "{status}");
        }
    }
    let path = format!("{INSTANCES}?watch=1&{INITIAL}");
    let status = client.send(Method::GET, &path, &TABLE, "").await.expect(406);
    assert_eq!(status["reason"], "NotAcceptable");
    let version = server.store.revision().0 + 1000;
    for query in ["", "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"] {
        let path = format!("{INSTANCES}?watch=1&resourceVersion={version}{query}");
        let status = client.get(&path).await.expect(504);
        assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge", "{status}");
        assert!(status["details"]["retryAfterSeconds"].is_u64(), "{status}");
    }
}

#[tokio::test]
async fn a_watch_is_asked_for_by_the_name_of_the_flag_alone() {
    let server = ApiServer::start().await;
    make(&server, "a", "x").await;
    for query in ["watch", "watch=", "watch=1", "watch=True"] {
        let mut watch = server.client.watch(&format!("{INSTANCES}?{query}")).await;
        assert_eq!(watch.told().await, ("ADDED".into(), "a".into()), "{query}");
    }
    for query in ["watch=0", "watch=false", "watch=FALSE"] {
        assert_eq!(
            server.client.get(&format!("{INSTANCES}?{query}")).await.expect(200)["kind"],
            "InstanceList",
            "{query}"
        );
    }
    let mut marked = server.client.watch(&format!("{INSTANCES}?watch&{}", INITIAL.replace("=true", ""))).await;
    assert_eq!((event(&mut marked).await.0, event(&mut marked).await.0), ("ADDED".into(), "BOOKMARK".into()));
}

/// A server with as many large records as no connection holds unread, and a watch that has told the first of them.
async fn in_the_middle_of_many() -> (ApiServer, Lines, usize) {
    const COUNT: usize = 100;
    let server = ApiServer::start().await;
    for n in 0..COUNT {
        server.put(heavy(&format!("h{n:02}"), 0)).await;
    }
    let mut watch = server.client.watch(&format!("{INSTANCES}?watch=1&{INITIAL}")).await;
    assert_eq!(watch.told().await, ("ADDED".into(), "h00".into()));
    (server, watch, COUNT)
}

#[tokio::test]
async fn existing_objects_are_told_as_of_one_version_however_many_they_are() {
    let (server, mut watch, count) = in_the_middle_of_many().await;
    let began = server.store.revision();
    server.put(heavy("h99", 1)).await;
    server.remove(&Key::instance("default", "h98")).await;
    server.put(heavy("h97x", 1)).await;
    for n in 1..count {
        let (kind, object) = event(&mut watch).await;
        assert_eq!((kind, &object["metadata"]["name"]), ("ADDED".into(), &json!(format!("h{n:02}"))));
        assert_eq!(object["metadata"]["annotations"]["turn"], "0", "it was changed later");
    }
    let (kind, mark) = event(&mut watch).await;
    assert_eq!((kind.as_str(), &mark["metadata"]["resourceVersion"]), ("BOOKMARK", &json!(began.0.to_string())));
    for told in [("MODIFIED", "h99"), ("DELETED", "h98"), ("ADDED", "h97x")] {
        assert_eq!(watch.told().await, (told.0.into(), told.1.into()));
    }
}

#[tokio::test]
async fn existing_objects_whose_history_goes_meanwhile_are_never_said_to_be_all() {
    let (server, mut watch, count) = in_the_middle_of_many().await;
    server.put(heavy("h99", 1)).await;
    server.store.compact(server.store.revision()).await.expect("compacted");
    let mut added = 1;
    let last = loop {
        match event(&mut watch).await {
            (kind, _) if kind == "ADDED" => added += 1,
            last => break last,
        }
    };
    assert_eq!((last.0.as_str(), &last.1["code"], &last.1["reason"]), ("ERROR", &json!(410), &json!("Expired")));
    assert!(added < count, "all were told from a history that was gone");
    assert!(watch.next().await.is_none(), "the stream ends after it");
}

#[tokio::test]
async fn a_time_of_zero_seconds_is_none() {
    let server = ApiServer::start().await;
    let mut watch = server.client.watch(&format!("{INSTANCES}?watch=1&timeoutSeconds=0")).await;
    server.client.post(INSTANCES, &instance("a")).await.expect(201);
    assert_eq!(watch.told().await, ("ADDED".into(), "a".into()));
}
