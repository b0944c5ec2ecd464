//! Server-side apply over HTTP: who owns what, who is told of a conflict, and what is refused.

use http::Method;
use serde_json::{Value, json};

use crate::support::api_server::{ApiServer, PATIENCE, instance, running};
use crate::support::client::{Answer, Client, INSTANCES};

const APPLY: [(&str, &str); 1] = [("content-type", "application/apply-patch+yaml")];

async fn apply(client: &Client, name: &str, query: &str, body: impl ToString) -> Answer {
    client.send(Method::PATCH, &format!("{INSTANCES}/{name}?{query}"), &APPLY, body.to_string()).await
}

fn config(spec: Value) -> Value {
    json!({"apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": {"name": "a"}, "spec": spec})
}

fn entry<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().find(|e| e["manager"] == manager).unwrap_or(&Value::Null)
}

#[tokio::test]
async fn applying_makes_changes_and_then_leaves_alone() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let yaml = "apiVersion: portreeve.dev/v1\nkind: Instance\nmetadata: {name: a}\nspec: {image: 'app:1', user: '1'}\n";
    let made = apply(client, "a", "fieldManager=m1", yaml).await.expect(201);
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["metadata"]["finalizers"], json!(["portreeve.dev/container"]));
    let owned = entry(&made, "m1");
    assert_eq!(owned["fieldsV1"], json!({"f:spec": {"f:image": {}, "f:user": {}}}), "what the server adds is nobody's");
    assert_eq!((&owned["operation"], &owned["apiVersion"]), (&json!("Apply"), &json!("portreeve.dev/v1")));
    assert!(owned["time"].is_string(), "{owned}");

    let revision = server.store.revision();
    assert_eq!(apply(client, "a", "fieldManager=m1", yaml).await.expect(200), made);
    assert_eq!(server.store.revision(), revision, "an apply that changes nothing writes nothing");

    let fewer = config(json!({"image": "app:2"}));
    let dry = apply(client, "a", "fieldManager=m1&dryRun=All", &fewer).await.expect(200);
    assert_eq!(dry["spec"], json!({"image": "app:2"}));
    assert_eq!(server.store.revision(), revision);
    let changed = apply(client, "a", "fieldManager=m1", &fewer).await.expect(200);
    assert_eq!(changed["spec"], json!({"image": "app:2"}), "what is given up goes");
    assert_eq!(changed["metadata"]["generation"], 2);
    let dry = apply(client, "b", "fieldManager=m1&dryRun=All", r#"{"spec": {"image": "x"}}"#).await.expect(201);
    assert_eq!(dry["metadata"]["name"], "b");
    client.get(&format!("{INSTANCES}/b")).await.expect(404);
}

#[tokio::test]
async fn a_conflict_names_the_owner_and_the_field_and_force_takes_it() {
    let server = ApiServer::start().await;
    let client = &server.client;
    apply(client, "a", "fieldManager=m1", config(json!({"image": "app:1", "user": "1"}))).await.expect(201);
    let wanted = config(json!({"image": "app:2"}));
    let status = apply(client, "a", "fieldManager=m2", &wanted).await.expect(409);
    assert_eq!(status["reason"], "Conflict");
    assert_eq!(status["message"], "Apply failed with 1 conflict: conflict with \"m1\": .spec.image");
    let cause = json!({"reason": "FieldManagerConflict", "message": "conflict with \"m1\"", "field": ".spec.image"});
    assert_eq!(status["details"]["causes"], json!([cause]));

    let patched = format!("{INSTANCES}/a?fieldManager=m3");
    client.merge(&patched, &json!({"spec": {"owner": "bob"}})).await.expect(200);
    let more = config(json!({"image": "app:2", "owner": "eve", "user": "2"}));
    let status = apply(client, "a", "fieldManager=m2", &more).await.expect(409);
    let message = "Apply failed with 3 conflicts: conflicts with \"m1\":\n- .spec.image\n- .spec.user\nconflicts with \
                   \"m3\" using portreeve.dev/v1:\n- .spec.owner";
    assert_eq!(status["message"], message);

    let taken = apply(client, "a", "fieldManager=m2&force=true", &wanted).await.expect(200);
    assert_eq!(taken["spec"]["image"], "app:2");
    assert_eq!(entry(&taken, "m1")["fieldsV1"], json!({"f:spec": {"f:user": {}}}));
    assert_eq!(entry(&taken, "m2")["fieldsV1"], json!({"f:spec": {"f:image": {}}}));
    apply(client, "a", "fieldManager=m1", config(json!({"image": "app:1"}))).await.expect(409);
}

#[tokio::test]
async fn other_writes_are_tracked_by_their_manager_and_part() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let path = format!("{INSTANCES}/a");
    let headers = [("content-type", "application/json"), ("user-agent", "robot/2.0 (x)")];
    let made = client.send(Method::POST, INSTANCES, &headers, instance("a").to_string()).await.expect(201);
    assert_eq!(entry(&made, "robot")["operation"], "Update");
    let fields = &entry(&made, "robot")["fieldsV1"];
    assert!(fields["f:spec"].get("f:image").is_some() && fields.get("f:status").is_none(), "{made}");

    let status = json!({"metadata": {"name": "a"}, "status": {"phase": "Running", "node": "x"}});
    client.merge(&format!("{path}/status?fieldManager=hand"), &status).await.expect(200);
    client.merge(&format!("{path}/scale?fieldManager=scaler"), &json!({"spec": {"replicas": 0}})).await.expect(200);
    let seen = client.get(&path).await.expect(200);
    assert_eq!(entry(&seen, "hand")["subresource"], "status");
    assert_eq!(entry(&seen, "hand")["fieldsV1"], json!({"f:status": {"f:node": {}, "f:phase": {}}}));
    assert_eq!(entry(&seen, "scaler")["subresource"], "scale");
    assert_eq!(entry(&seen, "scaler")["fieldsV1"], json!({"f:spec": {"f:power": {}}}));

    // What controllers write past the API leaves the entries as they are.
    server.put_status("a", running()).await;
    let after = client.get(&path).await.expect(200);
    assert_eq!(after["metadata"]["managedFields"], seen["metadata"]["managedFields"]);

    // An update that brings no entries keeps them; one that brings some sets them; none resets.
    let mut body = after.clone();
    body["metadata"].as_object_mut().unwrap().remove("managedFields");
    body["spec"]["owner"] = "bob".into();
    let put = client.put(&format!("{path}?fieldManager=m"), &body).await.expect(200);
    assert_eq!(entry(&put, "m")["fieldsV1"], json!({"f:spec": {"f:owner": {}}}));
    assert!(!entry(&put, "robot").is_null());
    for reset in [json!([]), json!([{}])] {
        let own = json!([{"manager": "me", "operation": "Apply", "apiVersion": "portreeve.dev/v1",
                          "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:image": {}}}}]);
        let set = client.merge(&path, &json!({"metadata": {"managedFields": own}})).await.expect(200);
        assert_eq!(set["metadata"]["managedFields"], own);
        let none = client.merge(&path, &json!({"metadata": {"managedFields": reset}})).await.expect(200);
        assert!(none["metadata"].get("managedFields").is_none(), "{none}");
    }
    let bad = json!({"metadata": {"managedFields": [{"manager": "m", "operation": "Eat", "fieldsType": "FieldsV1"}]}});
    let status = client.merge(&path, &bad).await.expect(422);
    assert_eq!(status["details"]["causes"][0]["field"], "metadata.managedFields[0].operation");

    // After a reset, what is there is someone's as soon as the first one applies.
    let status = apply(client, "a", "fieldManager=m", config(json!({"image": "other"}))).await.expect(409);
    let message = status["message"].as_str().unwrap();
    assert!(message.contains("\"before-first-apply\" using portreeve.dev/v1: .spec.image"), "{message}");
}

#[tokio::test]
async fn status_and_scale_are_applied_to_their_own_part() {
    let server = ApiServer::start().await;
    let client = &server.client;
    apply(client, "a", "fieldManager=m1", config(json!({"image": "app:1"}))).await.expect(201);
    let mut with_status = config(json!({"image": "evil"}));
    with_status["metadata"]["labels"] = json!({"evil": "1"});
    with_status["status"] = json!({"phase": "Running"});
    let seen = apply(client, "a/status", "fieldManager=m2", &with_status).await.expect(200);
    assert_eq!((&seen["spec"]["image"], &seen["status"]["phase"]), (&json!("app:1"), &json!("Running")));
    assert_eq!(entry(&seen, "m2")["fieldsV1"], json!({"f:status": {"f:phase": {}}}));
    assert!(seen["metadata"].get("labels").is_none());
    apply(client, "a/status", "fieldManager=m3", json!({"status": {"phase": "Lost"}})).await.expect(409);
    let main = apply(client, "a", "fieldManager=m3", &json!({"status": {"phase": "Lost"}})).await.expect(200);
    assert_eq!(main["status"]["phase"], "Running", "the main path writes no status");
    assert!(entry(&main, "m3").is_null());
    apply(client, "none/status", "fieldManager=m2", json!({"status": {"phase": "Lost"}})).await.expect(404);

    let scale = |n: i64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "a"}, "spec": {"replicas": n}});
    let scaled = apply(client, "a/scale", "fieldManager=s1", scale(0)).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 0);
    let seen = client.get(&format!("{INSTANCES}/a")).await.expect(200);
    assert_eq!(seen["spec"]["power"], "Stopped");
    assert_eq!(entry(&seen, "s1")["subresource"], "scale");
    apply(client, "a/scale", "fieldManager=s2", scale(1)).await.expect(409);
    apply(client, "a/scale", "fieldManager=s2&force=true", scale(1)).await.expect(200);
    apply(client, "a/scale", "fieldManager=s2", scale(2)).await.expect(422);
    apply(client, "a/scale", "fieldManager=s2", config(json!({}))).await.expect(400);
    apply(client, "none/scale", "fieldManager=s2", json!({"spec": {"replicas": 1}})).await.expect(404);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let made = apply(client, "a", "fieldManager=m1", config(json!({"image": "app:1"}))).await.expect(201);
    let version = made["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let revision = server.store.revision();
    let with = |field: &str, value: Value| {
        let mut config = config(json!({"image": "app:2"}));
        config["metadata"][field] = value;
        config.to_string()
    };
    let bomb = format!(
        "a: &a [{}]\nb: &b [{}]\nc: &c [{}]\nd: &d [{}]\ne: [{}]\n",
        ["x"; 50].join(","),
        ["*a"; 50].join(","),
        ["*b"; 50].join(","),
        ["*c"; 50].join(","),
        ["*d"; 50].join(",")
    );
    let plain = config(json!({"image": "app:2"})).to_string();
    for (query, body, code, words) in [
        ("", plain.clone(), 422, "fieldManager: Required value: is required for apply patch"),
        ("fieldManager=", plain.clone(), 422, "fieldManager: Required value"),
        (&*format!("fieldManager={}", "m".repeat(129)), plain.clone(), 422, "fieldManager: Too long"),
        ("fieldManager=a%07", plain.clone(), 422, "printable"),
        ("fieldManager=m&dryRun=Some", plain.clone(), 422, "dryRun"),
        ("fieldManager=m", with("managedFields", json!([])), 400, "metadata.managedFields must be nil"),
        ("fieldManager=m", with("name", json!("b")), 400, "does not match the name on the URL"),
        ("fieldManager=m", with("namespace", json!("b")), 400, "namespace"),
        ("fieldManager=m1", with("resourceVersion", json!("1")), 409, "the object has been modified"),
        ("fieldManager=m1", with("uid", json!("other")), 409, "Precondition failed: UID"),
        (
            "fieldManager=m1&fieldValidation=Strict",
            config(json!({"foo": 1})).to_string(),
            400,
            "unknown field \"spec.foo\"",
        ),
        (
            "fieldManager=m1",
            config(json!({"env": [{"name": "A"}, {"name": "A"}]})).to_string(),
            422,
            "spec.env[1]: Duplicate value",
        ),
        (
            "fieldManager=m1",
            config(json!({"ports": [{"containerPort": 1}]})).to_string(),
            422,
            "spec.ports[0].name: Required value",
        ),
        ("fieldManager=m1", config(json!({"image": "x", "ports": "y"})).to_string(), 422, "spec.ports"),
        ("fieldManager=m1", config(json!({"power": "Off"})).to_string(), 422, "spec.image: Required value"),
        ("fieldManager=m1", "kind: [".into(), 400, "YAML"),
        ("fieldManager=m1", "[]".into(), 400, "not an object"),
        ("fieldManager=m1", "kind: DockerHost".into(), 400, "kind"),
        ("fieldManager=m1", bomb, 400, "YAML"),
    ] {
        let status = apply(client, "a", query, &body).await.expect(code);
        let message = status["message"].as_str().unwrap();
        assert!(message.contains(words), "{query} {body:.80}: {message}");
    }
    assert_eq!(server.store.revision(), revision);
    assert_eq!(client.get(&format!("{INSTANCES}/a")).await.expect(200), made);

    apply(client, "a", "fieldManager=m1", with("resourceVersion", json!(version))).await.expect(200);
    let absent = with("resourceVersion", json!("1")).replace("\"name\":\"a\"", "\"name\":\"b\"");
    apply(client, "b", "fieldManager=m1", absent).await.expect(409);
    let elsewhere = "/apis/portreeve.dev/v1/namespaces/none/instances/a?fieldManager=m";
    let status = client.send(Method::PATCH, elsewhere, &APPLY, r#"{"spec": {"image": "a"}}"#).await.expect(404);
    assert_eq!(status["details"]["kind"], "namespaces");
    let merge = client.merge(&format!("{INSTANCES}/a?force=true"), &json!({})).await.expect(422);
    assert_eq!(merge["details"]["causes"][0]["field"], "force");
}

#[tokio::test]
async fn many_who_apply_at_once_all_get_their_field() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let one = async |i: usize| {
        let mut body = json!({"metadata": {"labels": {}}, "spec": {"image": "app:1"}});
        body["metadata"]["labels"][format!("l{i}")] = "x".into();
        let answer = apply(client, "a", &format!("fieldManager=m{i}"), &body).await;
        assert!(answer.status == 200 || answer.status == 201, "{}", answer.status);
    };
    let all = futures::future::join_all((0..8).map(one));
    tokio::time::timeout(PATIENCE, all).await.expect("in time");
    let seen = client.get(&format!("{INSTANCES}/a")).await.expect(200);
    assert_eq!(seen["metadata"]["labels"].as_object().unwrap().len(), 8);
    assert_eq!(seen["metadata"]["managedFields"].as_array().unwrap().len(), 8);
}

#[tokio::test]
async fn every_kind_is_applied() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let event = json!({"metadata": {"name": "e.1"}, "reason": "X", "message": "m", "involvedObject": {"name": "a"}});
    for (path, body, owned) in [
        (
            "/apis/portreeve.dev/v1/dockerhosts/h",
            json!({"spec": {"endpoint": "unix:///x"}, "metadata": {"labels": {"a": "b"}}}),
            json!({"f:metadata": {"f:labels": {"f:a": {}}}, "f:spec": {"f:endpoint": {}}}),
        ),
        (
            "/api/v1/namespaces/team",
            json!({"metadata": {"labels": {"a": "b"}}}),
            json!({"f:metadata": {"f:labels": {"f:a": {}}}}),
        ),
        (
            "/api/v1/namespaces/default/events/e.1",
            event,
            json!({"f:reason": {}, "f:message": {}, "f:involvedObject": {}}),
        ),
    ] {
        let path = format!("{path}?fieldManager=m");
        let made = client.send(Method::PATCH, &path, &APPLY, body.to_string()).await.expect(201);
        assert_eq!(entry(&made, "m")["fieldsV1"], owned, "{path}");
        let again = client.send(Method::PATCH, &path, &APPLY, body.to_string()).await.expect(200);
        assert_eq!(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    }
    // The namespace that the server made itself: its own label is nobody's, and so stays.
    let path = "/api/v1/namespaces/team?fieldManager=m";
    let bare = client.send(Method::PATCH, path, &APPLY, "{}").await.expect(200);
    assert_eq!(bare["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "team"}));
    assert!(bare["metadata"].get("managedFields").is_none());
}
