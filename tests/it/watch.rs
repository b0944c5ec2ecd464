//! Watches as a client sees them.

mod forms;
mod views;

use std::collections::BTreeMap;
use std::time::Duration;

use portreeve::model::Key;
use portreeve::store::Revision;
use serde_json::json;

use crate::support::api_server::{ApiServer, heavy, instance};
use crate::support::client::{INSTANCES, ends_well};

async fn make(server: &ApiServer, name: &str, label: &str) -> u64 {
    let mut body = instance(name);
    body["metadata"]["labels"] = json!({"l": label});
    let made = server.client.post(INSTANCES, &body).await.expect(201);
    made["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

async fn label(server: &ApiServer, name: &str, label: &str) {
    let patch = json!({"metadata": {"labels": {"l": label}}});
    server.client.merge(&format!("{INSTANCES}/{name}"), &patch).await.expect(200);
}

fn told(kind: &str, name: &str) -> (String, String) {
    (kind.into(), name.into())
}

#[tokio::test]
async fn without_a_version_existing_objects_come_first() {
    let server = ApiServer::start().await;
    make(&server, "a", "x").await;
    for query in ["watch=1", "watch=true&resourceVersion=0"] {
        let mut watch = server.client.watch(&format!("{INSTANCES}?{query}")).await;
        assert_eq!(watch.told().await, told("ADDED", "a"), "{query}");
    }
    let mut watch = server.client.watch(&format!("{INSTANCES}?watch=1")).await;
    assert_eq!(watch.told().await, told("ADDED", "a"));
    make(&server, "b", "x").await;
    assert_eq!(watch.told().await, told("ADDED", "b"));
    label(&server, "a", "y").await;
    assert_eq!(watch.told().await, told("MODIFIED", "a"));
    server.remove(&Key::instance("default", "a")).await;
    let gone = watch.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(gone["object"]["metadata"]["resourceVersion"], server.store.revision().0.to_string());
}

#[tokio::test]
async fn from_a_version_only_later_changes_come() {
    let server = ApiServer::start().await;
    let first = make(&server, "a", "x").await;
    make(&server, "b", "x").await;
    let mut watch = server.client.watch(&format!("{INSTANCES}?watch=1&resourceVersion={first}")).await;
    assert_eq!(watch.told().await, told("ADDED", "b"));
}

#[tokio::test]
async fn leaving_a_selector_is_deleted_and_entering_it_added() {
    let server = ApiServer::start().await;
    make(&server, "a", "x").await;
    make(&server, "b", "y").await;
    let mut watch = server.client.watch(&format!("{INSTANCES}?watch=1&labelSelector=l%3Dx")).await;
    assert_eq!(watch.told().await, told("ADDED", "a"));
    label(&server, "a", "y").await;
    assert_eq!(watch.told().await, told("DELETED", "a"));
    label(&server, "b", "x").await;
    assert_eq!(watch.told().await, told("ADDED", "b"));
    let mut one = server.client.watch(&format!("{INSTANCES}?watch=1&fieldSelector=metadata.name%3Da")).await;
    assert_eq!(one.told().await, told("ADDED", "a"));
    make(&server, "aa", "x").await;
    label(&server, "a", "z").await;
    assert_eq!(one.told().await, told("MODIFIED", "a"), "aa is another object");
}

#[tokio::test]
async fn too_old_a_version_is_told_inside_the_stream() {
    let server = ApiServer::start().await;
    let first = make(&server, "a", "x").await;
    make(&server, "b", "x").await;
    server.store.compact(Revision(first + 1)).await.unwrap();
    let mut watch = server.client.watch(&format!("{INSTANCES}?watch=1&resourceVersion={}", first - 1)).await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!((&event["object"]["code"], &event["object"]["reason"]), (&json!(410), &json!("Expired")));
    assert!(watch.next().await.is_none(), "the stream ends after it");
    server.client.get(&format!("{INSTANCES}?watch=1&resourceVersion=99999")).await.expect(504);
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let server = ApiServer::start().await;
    make(&server, "a", "x").await;
    let path = format!("{INSTANCES}?watch=1&sendInitialEvents=true&allowWatchBookmarks=true");
    server.client.get(&path).await.expect(422);
    let mut watch = server.client.watch(&format!("{path}&resourceVersionMatch=NotOlderThan")).await;
    assert_eq!(watch.told().await, told("ADDED", "a"));
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(mark["object"]["kind"], "Instance");
    make(&server, "b", "x").await;
    assert_eq!(watch.told().await, told("ADDED", "b"));
}

#[tokio::test]
async fn a_quiet_watch_tells_its_version_when_asked_to() {
    let server = ApiServer::start().await;
    make(&server, "a", "x").await;
    let mut watch =
        server.client.watch(&format!("{INSTANCES}?watch=1&allowWatchBookmarks=true&labelSelector=l%3Dx")).await;
    assert_eq!(watch.told().await, told("ADDED", "a"));
    make(&server, "b", "y").await;
    let newest = server.store.revision().0.to_string();
    // From here on, time jumps to the next timer whenever nothing else can happen.
    tokio::time::pause();
    let mark = watch.next_within(Duration::from_secs(90)).await.unwrap();
    assert_eq!((&mark["type"], &mark["object"]["kind"]), (&json!("BOOKMARK"), &json!("Instance")));
    assert_eq!(mark["object"]["metadata"], json!({"resourceVersion": newest}), "past what the selector hides");
}

#[tokio::test]
async fn a_table_watch_tells_its_columns_once() {
    let server = ApiServer::start().await;
    make(&server, "a", "x").await;
    make(&server, "b", "x").await;
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let mut watch = server.client.watch_as(&format!("{INSTANCES}?watch=1"), &accept).await;
    let first = watch.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    let second = watch.next().await.unwrap();
    assert!(second["object"]["columnDefinitions"].is_null());
    assert_eq!(second["object"]["rows"][0]["object"]["metadata"]["name"], "b");
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_over_and_when_the_server_stops() {
    let mut server = ApiServer::start().await;
    let mut short = server.client.watch(&format!("{INSTANCES}?watch=1&timeoutSeconds=1")).await;
    assert!(short.next().await.is_none());
    let mut long = server.client.watch(&format!("{INSTANCES}?watch=1")).await;
    server.shutdown.cancel();
    assert!(long.next().await.is_none(), "cut off instead of ended");
    let patience = crate::support::api_server::PATIENCE;
    tokio::time::timeout(patience, &mut server.serving).await.expect("the server stopped").unwrap();
}

#[tokio::test]
async fn a_reader_that_lags_behind_the_history_is_told_so_and_costs_no_memory() {
    let server = ApiServer::start().await;
    make(&server, "a", "x").await;
    let from = server.store.revision().0;
    let mut watch = server.client.watch(&format!("{INSTANCES}?watch=1&resourceVersion={from}")).await;
    label(&server, "a", "first").await;
    assert_eq!(watch.told().await, told("MODIFIED", "a"));
    // More than the connection's buffers hold, while the client reads nothing.
    let big = "y".repeat(100_000);
    for i in 0..120 {
        let object = json!({
            "kind": "Instance", "metadata": {"name": "a", "namespace": "default", "annotations": {"x": format!("{i}{big}")}},
        });
        server.put(object).await;
    }
    server.store.compact(server.store.revision()).await.unwrap();
    let mut events = 0;
    let last = loop {
        let event = watch.next().await.expect("an ERROR before the end");
        if event["type"] == "ERROR" {
            break event;
        }
        events += 1;
    };
    assert_eq!(last["object"]["code"], 410);
    assert!(events < 120, "all events were held for a client that did not read");
}

/// What a client that follows a watch up to `zz-end`, the last object in time and by name, believes to be there: each
/// name with its version.
async fn believed(lines: &mut crate::support::client::Lines) -> BTreeMap<String, String> {
    let mut known = BTreeMap::new();
    loop {
        let event = lines.next().await.expect("an event");
        let meta = &event["object"]["metadata"];
        let name = meta["name"].as_str().expect("a name").to_owned();
        let version = meta["resourceVersion"].as_str().expect("a version").to_owned();
        let end = match event["type"].as_str().expect("a type") {
            "ADDED" => {
                assert!(known.insert(name.clone(), version).is_none(), "{name} was added twice");
                name == "zz-end"
            }
            "MODIFIED" => {
                let before =
                    known.insert(name.clone(), version.clone()).unwrap_or_else(|| panic!("{name} was unknown"));
                assert!(before.parse::<u64>().unwrap() < version.parse().unwrap(), "{name} went back in time");
                false
            }
            "DELETED" => {
                assert!(known.remove(&name).is_some(), "{name} was deleted unknown");
                false
            }
            other => panic!("{other}: {event}"),
        };
        if end {
            return known;
        }
    }
}

#[tokio::test]
async fn a_watch_folded_is_the_list() {
    let server = ApiServer::start().await;
    let all = format!("{INSTANCES}?watch=1");
    let some = format!("{INSTANCES}?watch=1&labelSelector=l%3Dx");
    make(&server, "i0", "x").await;
    let mut early = (server.client.watch(&all).await, server.client.watch(&some).await);
    // A fixed mix of creations, changes of label and deletions, from several writers at once.
    let writers = (0u64..4).map(|writer| {
        let server = &server;
        async move {
            let mut seed = writer * 7919 + 1;
            for _ in 0..40 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let name = format!("i{}", seed >> 60);
                let label = if seed >> 40 & 1 == 0 { "x" } else { "y" };
                let path = format!("{INSTANCES}/{name}");
                let patch = json!({"metadata": {"labels": {"l": label}}});
                match seed >> 50 & 3 {
                    0 => server.remove(&Key::instance("default", name)).await,
                    1 => drop(server.client.merge(&path, &patch).await),
                    _ => {
                        let mut body = instance(&name);
                        body["metadata"]["labels"] = json!({"l": label});
                        drop(server.client.post(INSTANCES, &body).await);
                    }
                }
            }
        }
    });
    futures::future::join_all(writers).await;
    make(&server, "zz-end", "x").await;
    let mut late = (server.client.watch(&all).await, server.client.watch(&some).await);
    for (query, watches) in [("", [&mut early.0, &mut late.0]), ("?labelSelector=l%3Dx", [&mut early.1, &mut late.1])] {
        let list = server.client.get(&format!("{INSTANCES}{query}")).await.expect(200);
        let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
        let listed: BTreeMap<_, _> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| (text(&i["metadata"]["name"]), text(&i["metadata"]["resourceVersion"])))
            .collect();
        assert!(listed.len() > 3, "the mix left too little to compare: {listed:?}");
        for watch in watches {
            let known = believed(watch).await;
            assert_eq!(known, listed, "{query}");
        }
    }
}

#[tokio::test]
async fn one_stalled_watcher_slows_nobody_and_is_cut_off() {
    const STALL: Duration = Duration::from_millis(1500);
    let server = ApiServer::start_patient(STALL).await;
    let client = &server.client;
    let path = format!("{INSTANCES}?watch=1&resourceVersion={}", server.store.revision().0);
    // One that takes nothing on a connection of its own, and one on a connection that it shares.
    let alone = client.open(http::Method::GET, &path, &[], "").await;
    let mut sender = client.http2().await;
    let shared = sender.send_request(client.request_over_http2(&path)).await.unwrap();
    assert_eq!((alone.status().as_u16(), shared.status().as_u16()), (200, 200));

    // More than all buffers between them hold; then on, for longer than a reader may take nothing.
    let mut lively = client.watch(&path).await;
    let mut turn = 0;
    let mut told = async |server: &ApiServer| {
        server.put(heavy("heavy", turn)).await;
        let event = lively.next().await.expect("an event");
        assert_eq!(event["object"]["metadata"]["annotations"]["turn"], turn.to_string(), "none is missing");
        turn += 1;
    };
    for _ in 0..160 {
        told(&server).await;
    }
    let beyond = async {
        loop {
            told(&server).await;
        }
    };
    drop(tokio::time::timeout(2 * STALL, beyond).await);
    assert!(!ends_well(alone.into_body()).await, "one that stalls is broken off, not ended");
    assert!(!ends_well(shared.into_body()).await, "also where its connection goes on");
    let neighbour = sender.send_request(client.request_over_http2("/livez")).await;
    assert_eq!(neighbour.expect("the connection of the stalled stream goes on").status(), 200);
}
