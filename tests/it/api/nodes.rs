//! Nodes with several writers: what is applied to one reaches its DockerHost, and each field has its owner there.

use http::Method;
use serde_json::{Value, json};

use crate::support::api_server::ApiServer;
use crate::support::client::{Answer, Client};

const HOST: &str = "/apis/portreeve.dev/v1/dockerhosts/a";
const NODE: &str = "/api/v1/nodes/a";
const APPLY: [(&str, &str); 1] = [("content-type", "application/apply-patch+yaml")];

async fn apply(client: &Client, path: &str, query: &str, body: &Value) -> Answer {
    client.send(Method::PATCH, &format!("{path}?{query}"), &APPLY, body.to_string()).await
}

fn host(spec: Value) -> Value {
    json!({"apiVersion": "portreeve.dev/v1", "kind": "DockerHost", "metadata": {"name": "a"}, "spec": spec})
}

fn node(change: Value) -> Value {
    let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}});
    json_patch::merge(&mut node, &change);
    node
}

/// A server whose DockerHost `a` was applied by `m1`.
async fn server() -> ApiServer {
    let server = ApiServer::start().await;
    let made = host(json!({"endpoint": "unix:///x", "portRange": "30000-30100"}));
    apply(&server.client, HOST, "fieldManager=m1", &made).await.expect(201);
    server
}

/// Manager, subresource, version and fields of each entry.
fn owners(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |e: &Value, name: &str| e[name].as_str().unwrap_or("-").to_owned();
    entries
        .iter()
        .map(|e| {
            format!("{} {} {} {}", text(e, "manager"), text(e, "subresource"), text(e, "apiVersion"), e["fieldsV1"])
        })
        .collect()
}

fn taint(value: &str) -> Value {
    json!([{"key": "k", "value": value, "effect": "NoSchedule"}])
}

#[tokio::test]
async fn what_is_applied_to_a_node_is_its_hosts_and_given_up_again() {
    let server = server().await;
    let client = &server.client;
    let wanted =
        node(json!({"metadata": {"labels": {"zone": "x"}}, "spec": {"taints": taint("1"), "unschedulable": true}}));
    // The manager of the DockerHost applies its Node, too: each is an apply of its own.
    let applied = apply(client, NODE, "fieldManager=m1", &wanted).await.expect(200);
    assert_eq!((&applied["kind"], &applied["spec"]), (&json!("Node"), &wanted["spec"]));
    let stored = client.get(HOST).await.expect(200);
    let spec =
        json!({"endpoint": "unix:///x", "portRange": "30000-30100", "taints": taint("1"), "unschedulable": true});
    assert_eq!((&stored["spec"], &stored["metadata"]["labels"]), (&spec, &json!({"zone": "x"})));
    let of_node = r#"{"f:metadata":{"f:labels":{"f:zone":{}}},"f:spec":{"f:taints":{},"f:unschedulable":{}}}"#;
    assert_eq!(
        owners(&stored),
        [
            r#"m1 - portreeve.dev/v1 {"f:spec":{"f:endpoint":{},"f:portRange":{}}}"#.to_owned(),
            format!("m1 node portreeve.dev/v1 {of_node}"),
        ]
    );
    assert_eq!(owners(&applied), [format!("m1 - v1 {of_node}")]);

    let revision = server.store.revision();
    assert_eq!(apply(client, NODE, "fieldManager=m1", &wanted).await.expect(200), applied);
    let fewer = node(json!({"spec": {"unschedulable": false}, "status": {"phase": "not for the main path"}}));
    let dry = apply(client, NODE, "fieldManager=m1&dryRun=All", &fewer).await.expect(200);
    assert_eq!(dry["spec"].get("taints"), None);
    assert_eq!(server.store.revision(), revision);
    apply(client, NODE, "fieldManager=m1", &fewer).await.expect(200);
    let stored = client.get(HOST).await.expect(200);
    let spec = json!({"endpoint": "unix:///x", "portRange": "30000-30100", "unschedulable": false});
    assert_eq!((&stored["spec"], stored["metadata"].get("labels")), (&spec, None));
    // An apply of the DockerHost does not take away what was applied to the Node, nor does another write.
    apply(client, HOST, "fieldManager=m1", &host(json!({"endpoint": "unix:///x"}))).await.expect(200);
    client.merge(&format!("{NODE}?fieldManager=m2"), &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    let stored = client.get(HOST).await.expect(200);
    assert_eq!(stored["spec"], json!({"endpoint": "unix:///x", "unschedulable": false}));
    assert_eq!(
        owners(&client.get(NODE).await.expect(200)),
        [r#"m1 - v1 {"f:spec":{"f:unschedulable":{}}}"#, r#"m2 - v1 {"f:metadata":{"f:labels":{".":{},"f:a":{}}}}"#]
    );
}

#[tokio::test]
async fn writers_of_a_node_and_of_its_host_have_conflicts_with_each_other() {
    let server = server().await;
    let client = &server.client;
    let with = |value: &str| host(json!({"endpoint": "unix:///x", "portRange": "30000-30100", "taints": taint(value)}));
    apply(client, HOST, "fieldManager=m1", &with("1")).await.expect(200);
    client.merge(&format!("{NODE}?fieldManager=cordon"), &json!({"spec": {"unschedulable": true}})).await.expect(200);
    let wanted = node(json!({"spec": {"taints": taint("2"), "unschedulable": false}}));
    let told = apply(client, NODE, "fieldManager=m1", &wanted).await.expect(409);
    assert_eq!(
        told["message"],
        "Apply failed with 2 conflicts: conflicts with \"cordon\" using v1:\n- .spec.unschedulable\nconflicts with \
         \"m1\" with subresource \"dockerhost\":\n- .spec.taints"
    );
    apply(client, NODE, "fieldManager=m1&force=true", &wanted).await.expect(200);
    let told = apply(client, HOST, "fieldManager=m1", &with("3")).await.expect(409);
    assert_eq!(
        told["message"],
        "Apply failed with 1 conflict: conflict with \"m1\" with subresource \"node\": .spec.taints"
    );
    let stored = client.get(HOST).await.expect(200);
    assert_eq!((&stored["spec"]["taints"], &stored["spec"]["unschedulable"]), (&taint("2"), &json!(false)));
    // Who shares a value has no conflict.
    apply(client, NODE, "fieldManager=m9", &node(json!({"spec": {"taints": taint("2")}}))).await.expect(200);
    // Nobody's host becomes someone's before it is changed.
    server.put(json!({"kind": "DockerHost", "metadata": {"name": "b", "uid": "u"}, "spec": {"endpoint": "unix:///y", "taints": taint("1")}})).await;
    let mut wanted = node(json!({"spec": {"taints": taint("2")}}));
    wanted["metadata"]["name"] = "b".into();
    let told = apply(client, "/api/v1/nodes/b", "fieldManager=m1", &wanted).await.expect(409);
    let message = told["message"].as_str().unwrap();
    assert!(
        message.contains("\"before-first-apply\" with subresource \"dockerhost\" using v1: .spec.taints"),
        "{message}"
    );
}

#[tokio::test]
async fn an_apply_that_a_node_cannot_take_is_refused_and_changes_nothing() {
    let server = server().await;
    let client = &server.client;
    let before = client.get(HOST).await.expect(200);
    let labels = node(json!({"metadata": {"labels": {"a": "b"}}}));
    let told = apply(client, "/api/v1/nodes/new", "fieldManager=m", &json!({"apiVersion": "v1", "kind": "Node"})).await;
    let message = told.expect(405)["message"].as_str().unwrap().to_owned();
    assert!(message.contains("there is no node \"new\"") && message.contains("dockerhosts.portreeve.dev"), "{message}");
    for (query, body, code, wanted) in [
        ("", labels.clone(), 422, "fieldManager: Required value"),
        ("fieldManager=m", node(json!({"spec": {"podCIDR": "10.0.0.0/8"}})), 422, "spec.podCIDR: Forbidden"),
        ("fieldManager=m", node(json!({"metadata": {"finalizers": ["a/b"]}})), 422, "metadata.finalizers: Forbidden"),
        ("fieldManager=m", node(json!({"data": {"a": "b"}})), 422, "data: Forbidden"),
        ("fieldManager=m", node(json!({"spec": []})), 400, "spec in the request body is not an object"),
        ("fieldManager=m", node(json!({"kind": "DockerHost"})), 400, "kind"),
        ("fieldManager=m", node(json!({"apiVersion": "portreeve.dev/v1"})), 400, "apiVersion"),
        ("fieldManager=m", node(json!({"metadata": {"name": "b"}})), 400, "does not match"),
        ("fieldManager=m", node(json!({"metadata": {"managedFields": []}})), 400, "managedFields must be nil"),
        ("fieldManager=m", node(json!({"metadata": {"labels": {"a b": "c"}}})), 422, "metadata.labels"),
        (
            "fieldManager=m",
            node(json!({"spec": {"taints": [{"key": "k", "effect": "Maybe"}]}})),
            422,
            "spec.taints[0].effect",
        ),
        ("fieldManager=m", node(json!({"metadata": {"resourceVersion": "1"}})), 409, "modified"),
        ("fieldManager=m", node(json!({"metadata": {"uid": "other"}})), 409, "UID"),
        ("fieldManager=m", json!([]), 400, "not an object"),
        (
            "fieldManager=m&fieldValidation=Strict",
            node(json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule", "colour": "red"}]}})),
            400,
            "unknown field \"spec.taints[0].colour\"",
        ),
    ] {
        let told = apply(client, NODE, query, &body).await.expect(code);
        let message = told["message"].as_str().unwrap();
        assert!(message.contains(wanted), "{wanted}: {message}");
    }
    apply(client, &format!("{NODE}/status"), "fieldManager=m", &labels).await.expect(405);
    for put in [node(json!({"spec": "x"})), node(json!({"metadata": [], "spec": {}}))] {
        client.put(NODE, &put).await.expect(400);
    }
    assert_eq!(client.get(HOST).await.expect(200), before);
}

#[tokio::test]
async fn the_owners_that_a_node_shows_can_be_written_and_no_others() {
    let server = server().await;
    let client = &server.client;
    let wanted = node(json!({"metadata": {"labels": {"zone": "x"}}}));
    apply(client, NODE, "fieldManager=m2", &wanted).await.expect(200);
    let shown = client.get(NODE).await.expect(200);
    let revision = server.store.revision();
    client.put(&format!("{NODE}?fieldManager=m3"), &shown).await.expect(200);
    assert_eq!(server.store.revision(), revision, "what comes back as it was changes nothing");
    let handed = json!([{"op": "replace", "path": "/metadata/managedFields", "value": [
        {"manager": "m4", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
         "fieldsV1": {"f:metadata": {"f:labels": {"f:zone": {}}}, "f:spec": {"f:endpoint": {}}}}]}]);
    let json = [("content-type", "application/json-patch+json")];
    client.send(Method::PATCH, NODE, &json, handed.to_string()).await.expect(200);
    let labels = r#"{"f:metadata":{"f:labels":{"f:zone":{}}}}"#;
    assert_eq!(
        owners(&client.get(HOST).await.expect(200)),
        [
            r#"m1 - portreeve.dev/v1 {"f:spec":{"f:endpoint":{},"f:portRange":{}}}"#.to_owned(),
            format!("m4 node portreeve.dev/v1 {labels}"),
        ]
    );
    let reset = json!({"metadata": {"managedFields": []}});
    assert_eq!(owners(&client.merge(NODE, &reset).await.expect(200)), [""; 0]);
    assert_eq!(owners(&client.get(HOST).await.expect(200)).len(), 1);
    client.merge(NODE, &json!({"metadata": {"managedFields": [{"manager": 1}]}})).await.expect(422);
}
