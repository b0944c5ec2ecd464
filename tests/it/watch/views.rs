//! Watches of views: what is told is what the view shows, whatever happened to the record behind it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{label, make, told};
use crate::support::api_server::{ApiServer, running};
use crate::support::client::Lines;

const PODS: &str = "/api/v1/namespaces/default/pods";

/// The status of an instance whose container on this node has this id.
fn on(node: &str, container: &str) -> Value {
    let mut status = running();
    status["node"] = node.into();
    status["containerID"] = container.into();
    status
}

#[tokio::test]
async fn a_pod_comes_with_its_container_and_goes_with_it() {
    let server = ApiServer::start().await;
    make(&server, "a", "x").await;
    let mut watch = server.client.watch(&format!("{PODS}?watch=1")).await;
    // An instance without a container is no Pod, and what happens to it is nothing.
    label(&server, "a", "y").await;
    server.put_status("a", on("local", "one")).await;
    let first = watch.next().await.expect("an event");
    assert_eq!((&first["type"], &first["object"]["kind"]), (&json!("ADDED"), &json!("Pod")));
    server.put_status("a", on("local", "two")).await;
    let (gone, second) = (watch.next().await.expect("an event"), watch.next().await.expect("an event"));
    assert_eq!((&gone["type"], &second["type"]), (&json!("DELETED"), &json!("ADDED")));
    let uid = |event: &Value| event["object"]["metadata"]["uid"].clone();
    assert_eq!(uid(&gone), uid(&first), "the one that is gone is the one that was there");
    assert_ne!(uid(&second), uid(&first));
    let version = |event: &Value| event["object"]["metadata"]["resourceVersion"].clone();
    let now = json!(server.store.revision().0.to_string());
    assert_eq!((version(&gone), version(&second)), (now.clone(), now), "both are of the write that made the change");
    let listed = server.client.get(&format!("{PODS}/a")).await.expect(200);
    assert_eq!(listed, second["object"], "what is told is what is shown");
    server.put_status("a", json!({"phase": "Pending"})).await;
    assert_eq!(watch.told().await, told("DELETED", "a"));
}

#[tokio::test]
async fn a_pod_that_moves_leaves_the_watch_of_its_node_for_that_of_another() {
    let server = ApiServer::start().await;
    make(&server, "a", "x").await;
    server.put_status("a", on("local", "one")).await;
    let follow = async |selector: &str| server.client.watch(&format!("/api/v1/pods?watch=1&{selector}")).await;
    let mut here = follow("fieldSelector=spec.nodeName%3Dlocal").await;
    let mut there = follow("fieldSelector=spec.nodeName%3Dother").await;
    let mut labelled = follow("labelSelector=l%3Dx").await;
    let mut running = follow("fieldSelector=status.phase%3DRunning").await;
    for watch in [&mut here, &mut labelled, &mut running] {
        assert_eq!(watch.told().await, told("ADDED", "a"));
    }
    server.put_status("a", on("other", "two")).await;
    assert_eq!(here.told().await, told("DELETED", "a"));
    assert_eq!(there.told().await, told("ADDED", "a"));
    for watch in [&mut labelled, &mut running] {
        assert_eq!((watch.told().await, watch.told().await), (told("DELETED", "a"), told("ADDED", "a")));
    }
    label(&server, "a", "y").await;
    assert_eq!((labelled.told().await, running.told().await), (told("DELETED", "a"), told("MODIFIED", "a")));
    let mut stopped = on("other", "two");
    stopped["phase"] = "Stopped".into();
    server.put_status("a", stopped).await;
    assert_eq!(running.told().await, told("DELETED", "a"));
}

#[tokio::test]
async fn a_cordoned_node_enters_the_watch_of_those() {
    let server = ApiServer::start().await;
    server.put_host("local", true).await;
    let follow = async |set: bool| {
        server.client.watch(&format!("/api/v1/nodes?watch=1&fieldSelector=spec.unschedulable%3D{set}")).await
    };
    let (mut cordoned, mut open) = (follow(true).await, follow(false).await);
    assert_eq!(open.told().await, told("ADDED", "local"));
    for set in [true, false] {
        let patch = json!({"spec": {"unschedulable": set}});
        server.client.merge("/apis/portreeve.dev/v1/dockerhosts/local", &patch).await.expect(200);
        let (entered, left) = if set { (&mut cordoned, &mut open) } else { (&mut open, &mut cordoned) };
        assert_eq!((entered.told().await, left.told().await), (told("ADDED", "local"), told("DELETED", "local")));
    }
}

#[tokio::test]
async fn both_names_of_an_event_are_told_of_it() {
    let server = ApiServer::start().await;
    let follow = async |path: &str| server.client.watch(&format!("{path}&watch=1")).await;
    let mut watches: [(Lines, &str); 2] = [
        (follow("/api/v1/events?fieldSelector=involvedObject.name%3Da").await, "/object/involvedObject/name"),
        (follow("/apis/events.k8s.io/v1/events?fieldSelector=regarding.name%3Da").await, "/object/regarding/name"),
    ];
    for about in ["b", "a"] {
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": format!("e{about}")},
            "involvedObject": {"kind": "Instance", "name": about, "namespace": "default"},
        });
        server.client.post("/api/v1/namespaces/default/events", &event).await.expect(201);
    }
    for (watch, about) in &mut watches {
        let event = watch.next().await.expect("an event");
        assert_eq!(event.pointer(about), Some(&json!("a")), "{event}");
        assert_eq!(event["object"]["metadata"]["name"], "ea");
    }
}

#[tokio::test]
async fn a_view_that_shows_nothing_tells_how_far_it_has_seen() {
    let server = ApiServer::start().await;
    let list = server.client.get("/api/v1/services").await.expect(200);
    let from = list["metadata"]["resourceVersion"].as_str().expect("a version");
    let path = format!("/api/v1/services?watch=1&allowWatchBookmarks=true&resourceVersion={from}");
    let mut watch = server.client.watch(&path).await;
    make(&server, "a", "x").await;
    server.put_status("a", running()).await;
    let newest = server.store.revision().0.to_string();
    // From here on, time jumps to the next timer whenever nothing else can happen.
    tokio::time::pause();
    let mark = watch.next_within(Duration::from_secs(90)).await.expect("an event");
    assert_eq!((&mark["type"], &mark["object"]["kind"]), (&json!("BOOKMARK"), &json!("Service")));
    assert_eq!(mark["object"]["metadata"], json!({"resourceVersion": newest}));
}
