//! No editor reaches a host through an Instance, however the write is put; what an administrator has granted may stay.

use http::Method;
use serde_json::{Value, json};

use super::tokens::bearer;
use crate::support::api_server::{ApiServer, instance};
use crate::support::client::{Answer, Client};

const TEAM: &str = "/apis/portreeve.dev/v1/namespaces/team-a/instances";
const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

/// A server with the namespace `team-a`, its editor, and the editor of the whole cluster.
async fn server() -> (ApiServer, [Client; 2]) {
    let server = ApiServer::start().await;
    server.client.post("/api/v1/namespaces", &json!({"metadata": {"name": "team-a"}})).await.expect(201);
    let team = bearer(&server, "team", json!({"role": "editor", "namespaces": ["team-a"]})).await;
    let all = bearer(&server, "all", json!({"role": "editor"})).await;
    (server, [team, all])
}

/// What each field that reaches the host is set to, and the path that a refusal names.
fn reaching() -> Vec<(Value, &'static str)> {
    let volume = |path: &str, read_only: bool| json!({"volumes": [{"name": "v", "mountPath": "/v", "hostPath": path, "readOnly": read_only}]});
    vec![
        (volume("/", false), "spec.volumes[0].hostPath"),
        (volume("/etc", true), "spec.volumes[0].hostPath"),
        (volume("/var/run/docker.sock", true), "spec.volumes[0].hostPath"),
        (json!({"security": {"privileged": true}}), "spec.security.privileged"),
        (json!({"security": {"capAdd": ["CHOWN", "SYS_ADMIN"]}}), "spec.security.capAdd[1]"),
        (json!({"security": {"capAdd": ["ALL"], "capDrop": ["ALL"]}}), "spec.security.capAdd[0]"),
        (json!({"security": {"noNewPrivileges": false}}), "spec.security.noNewPrivileges"),
        (json!({"runtime": "runc"}), "spec.runtime"),
        (asking(JWKS), "spec.routes[0].auth.jwt.jwksURL"),
        (
            json!({"routes": [{}, {"host": "b.test", "auth": {"mode": "ForwardAuth", "forwardAuth": {"url": "http://127.0.0.1:2375/"}}}]}),
            "spec.routes[1].auth.forwardAuth.url",
        ),
        (json!({"ports": [{"name": "web", "containerPort": 80, "hostPort": 22}]}), "spec.ports[0].hostPort"),
    ]
}

const JWKS: &str = "https://issuer.test/jwks";

/// A route whose access makes the control plane ask a URL.
fn asking(url: &str) -> Value {
    json!({"routes": [{"auth": {"mode": "JWT", "jwt": {"issuer": "https://issuer.test", "jwksURL": url}}}]})
}

fn with(name: &str, change: &Value) -> Value {
    let mut object = instance(name);
    json_patch::merge(&mut object["spec"], change);
    object
}

async fn patch(client: &Client, path: &str, media_type: &str, body: &Value) -> Answer {
    client.send(Method::PATCH, path, &[("content-type", media_type)], body.to_string()).await
}

#[track_caller]
fn refused(answer: Answer, field: &str) -> Value {
    let status = answer.expect(403);
    assert_eq!(status["reason"], "Forbidden");
    assert_eq!(status["details"]["causes"][0]["field"], field, "{status}");
    assert!(status["message"].as_str().is_some_and(|m| m.contains(&format!("{field}: "))), "{status}");
    status
}

/// As `kubectl get ns team-a -w` and informers ask for one.
#[tokio::test]
async fn who_may_get_a_namespace_may_list_and_watch_that_one_alone() {
    let (_server, [team, _]) = server().await;
    let named = |name: &str, more: &str| format!("/api/v1/namespaces?fieldSelector=metadata.name{name}{more}");
    let list = team.get(&named("%3Dteam-a", "")).await.expect(200);
    let names: Vec<_> = list["items"].as_array().unwrap().iter().map(|n| n["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["team-a"]);
    let mut watch = team.watch(&named("%3D%3Dteam-a", "&watch=1")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["metadata"]["name"], "team-a");
    // Another, all but one, and none of both: nobody learns of others.
    for other in ["%3Ddefault", "!%3Dteam-a", "%3Ddefault,metadata.name%3Dteam-a"] {
        team.get(&named(other, "")).await.expect(403);
    }
    let both = team.get(&named("%3Dteam-a,metadata.name%3Ddefault", "")).await.expect(200);
    assert_eq!(both["items"], json!([]));
    team.get("/api/v1/namespaces").await.expect(403);
}

#[tokio::test]
async fn an_editor_makes_no_instance_that_reaches_its_host() {
    let (server, editors) = server().await;
    for editor in &editors {
        for (change, field) in reaching() {
            let object = with("x", &change);
            for query in ["", "?dryRun=All"] {
                refused(editor.post(&format!("{TEAM}{query}"), &object).await, field);
            }
            for query in ["", "&dryRun=All", "&force=true"] {
                let path = format!("{TEAM}/x?fieldManager=m{query}");
                refused(patch(editor, &path, APPLY, &object).await, field);
            }
        }
    }
    server.client.get(&format!("{TEAM}/x")).await.expect(404);
    let status = refused(editors[0].post(TEAM, &with("x", &reaching()[3].0)).await, "spec.security.privileged");
    assert_eq!(
        status["message"],
        "instances.portreeve.dev \"x\" is forbidden: User \"team\" may not give an instance access to its host, only \
         administrators may: spec.security.privileged: gives all rights on the host"
    );
    // What is wrong is told before what is not allowed, as by Kubernetes.
    editors[0].post(TEAM, &with("x", &json!({"security": {"capAdd": ["cap_sys_admin"]}}))).await.expect(422);
    for (i, (change, _)) in reaching().iter().enumerate() {
        server.client.post(TEAM, &with(&format!("x{i}"), change)).await.expect(201);
    }
}

#[tokio::test]
async fn an_editor_changes_no_instance_into_one_that_reaches_its_host() {
    let (_server, editors) = server().await;
    let path = format!("{TEAM}/x");
    for editor in &editors {
        let made = patch(editor, &format!("{path}?fieldManager=m"), APPLY, &instance("x")).await;
        assert!(made.status.is_success());
        let before = editor.get(&path).await.expect(200);
        for (change, field) in reaching() {
            let mut put = before.clone();
            json_patch::merge(&mut put["spec"], &change);
            let (name, value) = change.as_object().unwrap().iter().next().unwrap();
            let operations = json!([{"op": "add", "path": format!("/spec/{name}"), "value": value}]);
            for query in ["", "dryRun=All&"] {
                let path = format!("{path}?{query}fieldManager=m");
                refused(editor.put(&path, &put).await, field);
                refused(patch(editor, &path, MERGE, &json!({"spec": change})).await, field);
                refused(patch(editor, &path, JSON, &operations).await, field);
                refused(patch(editor, &path, APPLY, &with("x", &change)).await, field);
            }
            // Of custom kinds there is no strategic patch, so that is no way either.
            let strategic = "application/strategic-merge-patch+json";
            patch(editor, &path, strategic, &json!({"spec": change})).await.expect(415);
        }
        assert_eq!(editor.get(&path).await.expect(200), before);
    }
}

#[tokio::test]
async fn what_an_administrator_has_granted_may_stay_and_may_go() {
    let (server, [team, _]) = server().await;
    let path = format!("{TEAM}/x");
    let all = reaching().into_iter().fold(json!({}), |mut all, (change, _)| {
        json_patch::merge(&mut all, &change);
        all
    });
    let granted = server.client.post(TEAM, &with("x", &all)).await.expect(201);
    let mut put = granted.clone();
    put["spec"]["image"] = "app:2".into();
    put["metadata"]["labels"] = json!({"a": "b"});
    let put = team.put(&path, &put).await.expect(200);
    assert_eq!(put["spec"]["security"], granted["spec"]["security"]);
    team.merge(&path, &json!({"spec": {"idle": {"after": "1m"}}})).await.expect(200);
    patch(&team, &path, JSON, &json!([{"op": "replace", "path": "/spec/image", "value": "app:3"}])).await.expect(200);
    patch(&team, &format!("{path}?fieldManager=m&force=true"), APPLY, &with("x", &all)).await.expect(200);
    let scale =
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "x"}, "spec": {"replicas": 0}});
    team.put(&format!("{path}/scale"), &scale).await.expect(200);
    // The same and more is more.
    let more = json!({"spec": {"security": {"capAdd": ["ALL", "SYS_PTRACE"]}}});
    refused(team.merge(&path, &more).await, "spec.security.capAdd[1]");
    let writable = json!({"spec": {"volumes": [{"name": "v", "mountPath": "/v", "hostPath": "/var/run/docker.sock"}]}});
    refused(team.merge(&path, &writable).await, "spec.volumes[0].hostPath");
    // What is given up does not come back.
    team.merge(&path, &json!({"spec": {"security": {"privileged": null}}})).await.expect(200);
    refused(team.merge(&path, &json!({"spec": {"security": {"privileged": true}}})).await, "spec.security.privileged");
    team.delete(&path).await.expect(200);
}

#[tokio::test]
async fn an_impersonated_editor_counts_as_an_editor() {
    let (server, _) = server().await;
    let body = with("x", &json!({"security": {"privileged": true}})).to_string();
    let send = |groups: &'static [&'static str]| {
        let mut headers = vec![("content-type", "application/json"), ("impersonate-user", "bob")];
        headers.extend(groups.iter().map(|g| ("impersonate-group", *g)));
        let (server, body) = (&server, body.clone());
        async move { server.client.send(Method::POST, &format!("{TEAM}?dryRun=All"), &headers, body).await }
    };
    let status = refused(send(&["portreeve:editor:team-a"]).await, "spec.security.privileged");
    assert!(status["message"].as_str().unwrap().contains("User \"bob\" may not"), "{status}");
    send(&["portreeve:admin"]).await.expect(201);
}

#[tokio::test]
async fn reviews_tell_the_right_to_the_verb() {
    let (_server, [team, _]) = server().await;
    let attributes =
        json!({"namespace": "team-a", "verb": "create", "group": "portreeve.dev", "resource": "instances"});
    let review = json!({"spec": {"resourceAttributes": attributes}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(team.post(path, &review).await.expect(201)["status"]["allowed"], true);
    team.post(TEAM, &instance("x")).await.expect(201);
}

#[tokio::test]
async fn values_of_another_namespace_cannot_be_named() {
    let (server, [team, _]) = server().await;
    let secret = json!({"metadata": {"name": "db"}, "stringData": {"k": "v"}});
    server.client.post("/api/v1/namespaces/default/secrets", &secret).await.expect(201);
    let one = |name: &str| json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}}]});
    let config = |name: &str| json!({"envFrom": [{"configMapRef": {"name": name}}]});
    for name in ["default/db", "../default/db", "default%2fdb", "default:db", "/db", ""] {
        for change in [one(name), config(name), json!({"envFrom": [{"secretRef": {"name": name}}]})] {
            team.post(TEAM, &with("x", &change)).await.expect(422);
        }
        if !name.is_empty() {
            team.post(TEAM, &with("x", &json!({"imagePullSecret": name}))).await.expect(422);
        }
    }
    // A namespace is no field of a reference: named strictly it is an error, else it is dropped.
    let mut change = one("db");
    change["env"][0]["valueFrom"]["secretKeyRef"]["namespace"] = "default".into();
    team.post(&format!("{TEAM}?fieldValidation=Strict"), &with("x", &change)).await.expect(400);
    let made = team.post(TEAM, &with("x", &change)).await.expect(201);
    assert_eq!(made["spec"]["env"], one("db")["env"]);
}

/// What else a route's access says is the editors' own; the URL that was granted stays, and another is not.
#[tokio::test]
async fn an_editor_may_say_who_comes_in_and_not_whom_the_server_asks() {
    let (server, [team, _]) = server().await;
    let token = json!({"routes": [{"auth": {"mode": "Token", "token": {"secretKeyRef": {"name": "door", "key": "token"}},
        "loginURL": "https://login.test/?back={url}"}, "limits": {"requestsPerSecond": 5, "burst": 10, "connections": 3}}]});
    team.post(TEAM, &with("a", &token)).await.expect(201);
    server.client.post(TEAM, &with("b", &asking(JWKS))).await.expect(201);
    let change = |field: &str, value: Value| json!([{"op": "add", "path": format!("/spec/routes/0/auth/{field}"), "value": value}]);
    let path = format!("{TEAM}/b");
    patch(&team, &path, JSON, &change("jwt/cookie", "__session".into())).await.expect(200);
    let other = change("jwt/jwksURL", "https://issuer.test/other".into());
    refused(patch(&team, &path, JSON, &other).await, "spec.routes[0].auth.jwt.jwksURL");
    // Taken away, it does not come back.
    team.merge(&path, &json!({"spec": {"routes": null}})).await.expect(200);
    refused(team.merge(&path, &json!({"spec": asking(JWKS)})).await, "spec.routes[0].auth.jwt.jwksURL");
}

#[tokio::test]
async fn rules_of_access_are_checked_with_the_paths_of_their_fields() {
    let server = ApiServer::start().await;
    let auth = |auth: Value| json!({"routes": [{"auth": auth}]});
    for (spec, field) in [
        (auth(json!({"mode": "Everyone"})), "spec.routes[0].auth.mode"),
        (auth(json!({"mode": "Token"})), "spec.routes[0].auth.token"),
        (auth(json!({"token": {"secretKeyRef": {"name": "a", "key": "b"}}})), "spec.routes[0].auth.token"),
        (auth(json!({"mode": "Token", "token": {}})), "spec.routes[0].auth.token.secretKeyRef"),
        (asking("http://169.254.169.254/latest"), "spec.routes[0].auth.jwt.jwksURL"),
        (auth(json!({"loginURL": "https://login.test"})), "spec.routes[0].auth.loginURL"),
        (json!({"routes": [{"limits": {"requestsPerSecond": 0}}]}), "spec.routes[0].limits.requestsPerSecond"),
        (json!({"routes": [{"limits": {"burst": 5}}]}), "spec.routes[0].limits.requestsPerSecond"),
    ] {
        let path = "/apis/portreeve.dev/v1/namespaces/default/instances";
        let status = server.client.post(path, &with("a", &spec)).await.expect(422);
        assert_eq!(status["details"]["causes"][0]["field"], field, "{spec}: {status}");
    }
}
