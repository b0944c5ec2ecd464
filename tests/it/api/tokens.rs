//! Access tokens: told once, kept as a hash, good for what their role says and no longer than they are there.

use std::sync::Arc;

use futures::StreamExt;
use http::Method;
use http_body_util::BodyExt;
use portreeve::model::{Key, Kind};
use portreeve::store::{MemoryStore, SledOptions, SledStore};
use serde_json::{Value, json};

use super::Scripted;
use super::reach::exec_as;
use crate::support::api_server::{ApiServer, PATIENCE, instance, running};
use crate::support::client::{Client, INSTANCES};
use crate::support::faulty_store::{Fault, FaultyStore};

const TOKENS: &str = "/apis/portreeve.dev/v1/accesstokens";
const POD: &str = "/api/v1/namespaces/default/pods/a";
const UPGRADE: [(&str, &str); 5] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("sec-websocket-protocol", "v5.channel.k8s.io"),
];

fn token(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "portreeve.dev/v1", "kind": "AccessToken", "metadata": {"name": name}, "spec": spec})
}

/// A client with a new token of this name and spec.
pub async fn bearer(server: &ApiServer, name: &str, spec: Value) -> Client {
    let created = server.client.post(TOKENS, &token(name, spec)).await.expect(201);
    let mut client = server.client.clone();
    client.token = Some(created["status"]["token"].as_str().expect("the secret").to_owned());
    client
}

/// A server with an instance that runs.
async fn server() -> ApiServer {
    let server = ApiServer::start_with(Arc::new(Scripted::default())).await;
    server.client.post(INSTANCES, &instance("a")).await.expect(201);
    server.put_status("a", running()).await;
    server
}

#[tokio::test]
async fn the_secret_is_told_once_and_only_its_hash_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(&dir.path().join("store"), SledOptions::default()).await.unwrap();
    let server = ApiServer::start_in(dir, store, Arc::new(Scripted::default())).await;
    let mut watch = server.client.watch(&format!("{TOKENS}?watch=1")).await;
    let created = server.client.post(TOKENS, &token("ci", json!({"role": "viewer"}))).await.expect(201);
    let secret = created["status"]["token"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("prt_ci."), "{secret}");
    let told = watch.next().await.unwrap();
    assert_eq!(told["object"]["status"]["hash"], created["status"]["hash"]);
    for shown in [told, server.client.get(&format!("{TOKENS}/ci")).await.expect(200)] {
        assert!(!shown.to_string().contains(&secret), "{shown}");
    }
    let rename = json!({"spec": {"user": "bob"}, "status": {"hash": "00", "token": "x"}});
    let changed = server.client.merge(&format!("{TOKENS}/ci"), &rename).await.expect(200);
    assert_eq!(changed["status"], json!({"hash": created["status"]["hash"]}), "the status is the server's");
    server.client.put(&format!("{TOKENS}/ci/status"), &changed).await.expect(404);

    let mut ci = server.client.clone();
    ci.token = Some(secret.clone());
    let me = ci.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await.expect(201);
    assert_eq!(
        me["status"]["userInfo"],
        json!({"username": "bob", "groups": ["portreeve:viewer", "system:authenticated"]})
    );

    let hash = created["status"]["hash"].as_str().unwrap().as_bytes();
    let random = secret.strip_prefix("prt_ci.").unwrap().as_bytes();
    let on_disk = crate::support::bytes_below(server.dir.path());
    assert!(on_disk.windows(hash.len()).any(|w| w == hash), "the hash is not where it was looked for");
    assert!(!on_disk.windows(random.len()).any(|w| w == random), "the secret is on the disk");
}

#[tokio::test]
async fn a_dry_run_makes_no_secret() {
    let server = ApiServer::start().await;
    let made = server.client.post(&format!("{TOKENS}?dryRun=All"), &token("ci", json!({"role": "viewer"}))).await;
    assert!(made.expect(201)["status"].get("token").is_none());
    server.client.get(&format!("{TOKENS}/ci")).await.expect(404);
    for spec in [json!({}), json!({"role": "root"}), json!({"role": "admin", "namespaces": ["a"]})] {
        server.client.post(TOKENS, &token("ci", spec)).await.expect(422);
    }
    server.client.post(TOKENS, &json!({"metadata": {"name": "ci"}})).await.expect(422);
}

#[tokio::test]
async fn a_viewer_reads_and_does_nothing_else() {
    let server = server().await;
    let viewer = bearer(&server, "v", json!({"role": "viewer"})).await;
    for path in [INSTANCES, POD, "/apis/portreeve.dev/v1/dockerhosts", "/api/v1/namespaces", "/version", "/apis"] {
        viewer.get(path).await.expect(200);
    }
    assert_eq!(viewer.get(&format!("{POD}/log")).await.text(), "one\ntwo\n");
    let one = format!("{INSTANCES}/a");
    let exec = format!("{POD}/exec?command=cat&stdin=true&stdout=true");
    for (method, path) in [
        (Method::POST, INSTANCES.to_owned()),
        (Method::POST, format!("{INSTANCES}?dryRun=All")),
        (Method::PUT, format!("{one}?dryRun=All")),
        (Method::PATCH, format!("{one}?dryRun=All")),
        (Method::DELETE, format!("{one}?dryRun=All")),
        (Method::DELETE, INSTANCES.to_owned()),
        (Method::PUT, format!("{one}/scale")),
        (Method::PUT, format!("{one}/status")),
        (Method::POST, exec.clone()),
        (Method::GET, TOKENS.to_owned()),
        (Method::GET, format!("{TOKENS}/v")),
        (Method::GET, format!("{TOKENS}?watch=1")),
        (Method::POST, TOKENS.to_owned()),
        (Method::POST, "/api/v1/namespaces".to_owned()),
    ] {
        let status = viewer.send(method.clone(), &path, &[], "{}").await.expect(403);
        assert_eq!(status["reason"], "Forbidden", "{method} {path}");
    }
    // A WebSocket begins with a GET: that does not make it a read.
    let status = viewer.send(Method::GET, &exec, &UPGRADE, "").await.expect(403);
    assert_eq!(
        status["message"],
        "pods \"a\" is forbidden: User \"v\" cannot create resource \"pods/exec\" in API group \"\" in the namespace \
         \"default\""
    );
    assert!(server.cache.instance(&Key::instance("default", "a")).is_some());
}

#[tokio::test]
async fn an_editor_of_one_namespace_has_nothing_in_another() {
    let server = server().await;
    for name in ["team-a", "team-b"] {
        server.client.post("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await.expect(201);
    }
    let editor = bearer(&server, "e", json!({"role": "editor", "namespaces": ["team-a"]})).await;
    let instances = |ns: &str| format!("/apis/portreeve.dev/v1/namespaces/{ns}/instances");
    editor.post(&instances("team-a"), &instance("x")).await.expect(201);
    editor.merge(&format!("{}/x", instances("team-a")), &json!({"spec": {"image": "app:2"}})).await.expect(200);
    editor.get("/api/v1/namespaces/team-a").await.expect(200);
    let forged = json!({"status": {"phase": "Running", "containerID": "anothers", "node": "local"}});
    for (method, path, body) in [
        (Method::PATCH, format!("{}/x/status", instances("team-a")), forged.to_string()),
        (Method::POST, instances("team-b"), instance("x").to_string()),
        (Method::GET, instances("team-b"), String::new()),
        (Method::GET, format!("{INSTANCES}/a"), String::new()),
        (Method::DELETE, format!("{INSTANCES}/a"), String::new()),
        (Method::GET, format!("{POD}/log"), String::new()),
        (Method::GET, "/apis/portreeve.dev/v1/instances".into(), String::new()),
        (Method::GET, "/apis/portreeve.dev/v1/instances?watch=1".into(), String::new()),
        (Method::GET, "/api/v1/namespaces/team-b".into(), String::new()),
        (Method::GET, "/api/v1/namespaces".into(), String::new()),
        (Method::DELETE, "/api/v1/namespaces/team-a".into(), String::new()),
        (Method::PATCH, "/api/v1/namespaces/team-a".into(), "{}".into()),
        (Method::GET, "/apis/portreeve.dev/v1/dockerhosts".into(), String::new()),
        (Method::POST, TOKENS.into(), token("mine", json!({"role": "admin"})).to_string()),
    ] {
        let json = [("content-type", "application/merge-patch+json")];
        let headers = if method == Method::PATCH { &json[..] } else { &[] };
        editor.send(method, &path, headers, body).await.expect(403);
    }
    let status = editor.send(Method::GET, INSTANCES, &[("impersonate-user", "admin")], "").await.expect(403);
    assert_eq!(
        status["message"],
        "users \"admin\" is forbidden: User \"e\" cannot impersonate resource \"users\" in API group \"\" at the \
         cluster scope"
    );
    // A body that says another namespace than the path is no way around.
    let mut elsewhere = instance("y");
    elsewhere["metadata"]["namespace"] = "team-b".into();
    editor.post(&instances("team-a"), &elsewhere).await.expect(400);
    // What the token may do is read with each request.
    let role = json!({"spec": {"namespaces": ["team-b"]}});
    server.client.merge(&format!("{TOKENS}/e"), &role).await.expect(200);
    editor.get(&instances("team-a")).await.expect(403);
    editor.get(&instances("team-b")).await.expect(200);
}

/// What is open with a token: a watch, a followed log and a session in a container.
struct Open {
    watch: crate::support::client::Lines,
    log: hyper::body::Incoming,
    socket: super::reach::Socket,
}

impl Open {
    async fn with(client: &Client) -> Open {
        let mut watch = client.watch(&format!("{INSTANCES}?watch=1")).await;
        assert_eq!(watch.told().await, ("ADDED".into(), "a".into()));
        let mut log = client.open(Method::GET, &format!("{POD}/log?follow=true"), &[], "").await.into_body();
        let first = log.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "one\n");
        let socket = exec_as(client, "command=cat&stdin=true&stdout=true", "v5.channel.k8s.io").await;
        Open { watch, log, socket }
    }

    /// Until all of it has ended.
    async fn ends(mut self) {
        let ended = async {
            while self.watch.next().await.is_some() {}
            while let Some(frame) = self.log.frame().await {
                frame.expect("ended, not cut off");
            }
            while let Some(Ok(_)) = self.socket.next().await {}
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("what the token has opened was closed");
    }
}

#[tokio::test]
async fn a_revoked_token_ends_with_all_that_it_has_opened() {
    let server = server().await;
    let editor = bearer(&server, "e", json!({"role": "editor"})).await;
    let open = Open::with(&editor).await;
    let other = bearer(&server, "e2", json!({"role": "viewer"})).await;
    let mut others = other.watch(&format!("{INSTANCES}?watch=1")).await;
    others.told().await;
    // A label changes nothing of who its bearer is.
    server.client.merge(&format!("{TOKENS}/e"), &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    server.client.merge(&format!("{INSTANCES}/a"), &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    let mut open = open;
    assert_eq!(open.watch.told().await, ("MODIFIED".into(), "a".into()));
    server.client.delete(&format!("{TOKENS}/e")).await.expect(200);
    editor.get(INSTANCES).await.expect(401);
    open.ends().await;
    // Made again under the same name, it has another secret.
    bearer(&server, "e", json!({"role": "editor"})).await;
    editor.get(INSTANCES).await.expect(401);
    server.client.merge(&format!("{INSTANCES}/a"), &json!({"metadata": {"labels": {"a": "c"}}})).await.expect(200);
    while others.told().await.0 != "MODIFIED" {}
}

#[tokio::test]
async fn a_token_that_loses_rights_ends_what_it_has_opened() {
    let server = server().await;
    let editor = bearer(&server, "e", json!({"role": "editor"})).await;
    let open = Open::with(&editor).await;
    server.client.merge(&format!("{TOKENS}/e"), &json!({"spec": {"role": "viewer"}})).await.expect(200);
    open.ends().await;
    editor.get(INSTANCES).await.expect(200);
}

#[tokio::test]
async fn an_expired_token_ends_with_all_that_it_has_opened() {
    let server = server().await;
    let editor = bearer(&server, "e", json!({"role": "editor", "lifetime": "4s"})).await;
    let record = server.client.get(&format!("{TOKENS}/e")).await.expect(200);
    assert!(record["status"]["expires"].is_string());
    let open = Open::with(&editor).await;
    open.ends().await;
    editor.get(INSTANCES).await.expect(401);
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = server.client.send(Method::GET, TOKENS, &table, "").await.expect(200);
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..5], ["e", "e", "editor", "<all>", "expired"]);
}

#[tokio::test]
async fn who_did_what_is_written_down_without_bodies() {
    let server = server().await;
    let before = server.audit(1).await.len();
    let editor = bearer(&server, "e", json!({"role": "editor"})).await;
    editor.get(INSTANCES).await.expect(200);
    editor.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await.expect(201);
    editor.merge(&format!("{INSTANCES}/a"), &json!({"spec": {"owner": "hush"}})).await.expect(200);
    let options = json!({"dryRun": ["All"]}).to_string();
    editor.send(Method::DELETE, &format!("{INSTANCES}/a"), &[], options).await.expect(200);
    editor.delete("/api/v1/namespaces/default").await.expect(403);
    let as_bob = [("impersonate-user", "bob"), ("content-type", "application/json")];
    server.client.send(Method::POST, INSTANCES, &as_bob, instance("x").to_string()).await.expect(403);
    drop(exec_as(&editor, "command=cat&stdin=true&stdout=true", "v5.channel.k8s.io").await);
    let answer = editor.post(INSTANCES, &json!({"metadata": {"generateName": "gen-"}, "spec": {"image": "i"}})).await;
    let id = answer.headers["audit-id"].to_str().unwrap().to_owned();
    let made = answer.expect(201)["metadata"]["name"].as_str().unwrap().to_owned();

    let lines = server.audit(before + 7).await.split_off(before);
    let told: Vec<String> = lines
        .iter()
        .map(|l| {
            let text = |name: &str| l[name].as_str().unwrap_or("-").to_owned();
            let (who, by) = (text("user"), text("impersonatedBy"));
            let (verb, resource, name) = (text("verb"), text("resource"), text("name"));
            format!("{who} {by} {verb} {resource} {} {name} {} {}", text("namespace"), l["dryRun"], l["code"])
        })
        .collect();
    assert_eq!(
        told,
        [
            "admin - create accesstokens - e false 201".to_owned(),
            "e - patch instances default a false 200".into(),
            "e - delete instances default a true 200".into(),
            "e - delete namespaces default default false 403".into(),
            "bob admin create instances default - false 403".into(),
            "e - create pods/exec default a false 101".into(),
            format!("e - create instances default {made} false 201"),
        ]
    );
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["requestID"], &last["source"], &last["group"]),
        (&json!(id), &json!("127.0.0.1"), &json!("portreeve.dev"))
    );
    let text = std::fs::read_to_string(server.dir.path().join("audit.log")).unwrap();
    let secret = editor.token.unwrap();
    assert!(!text.contains("hush") && !text.contains(&secret));
}

#[tokio::test]
async fn all_that_is_done_to_tokens_is_written_down() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let before = server.audit(0).await.len();
    let editor = bearer(&server, "e", json!({"role": "editor"})).await;
    let one = format!("{TOKENS}/e");
    client.post(&format!("{TOKENS}?dryRun=All"), &token("d", json!({"role": "admin"}))).await.expect(201);
    client.post(TOKENS, &token("e", json!({"role": "viewer"}))).await.expect(409);
    client.post(TOKENS, &token("bad", json!({"role": "root"}))).await.expect(422);
    client.merge(&one, &json!({"spec": {"role": "viewer"}})).await.expect(200);
    let stored = client.get(&one).await.expect(200);
    client.put(&one, &stored).await.expect(200);
    let apply = [("content-type", "application/apply-patch+yaml")];
    let applied = token("f", json!({"role": "viewer"})).to_string();
    let made = client.send(Method::PATCH, &format!("{TOKENS}/f?fieldManager=m"), &apply, applied).await.expect(201);
    editor.post(TOKENS, &token("mine", json!({"role": "admin"}))).await.expect(403);
    editor.merge(&one, &json!({"spec": {"role": "admin"}})).await.expect(403);
    editor.delete(&one).await.expect(403);
    client.delete(&one).await.expect(200);
    client.delete(&one).await.expect(404);
    client.delete(TOKENS).await.expect(200);
    let lines = server.audit(before + 13).await.split_off(before);
    let told: Vec<String> = lines
        .iter()
        .map(|l| {
            assert_eq!((&l["resource"], &l["group"]), (&json!("accesstokens"), &json!("portreeve.dev")));
            let text = |name: &str| l[name].as_str().unwrap_or("-").to_owned();
            format!("{} {} {} {} {}", text("user"), text("verb"), text("name"), l["dryRun"], l["code"])
        })
        .collect();
    assert_eq!(
        told,
        [
            "admin create e false 201",
            "admin create d true 201",
            "admin create e false 409",
            "admin create bad false 422",
            "admin patch e false 200",
            "admin update e false 200",
            "admin patch f false 201",
            "e create - false 403",
            "e patch e false 403",
            "e delete e false 403",
            "admin delete e false 200",
            "admin delete e false 404",
            "admin deletecollection - false 200",
        ]
    );
    let text = std::fs::read_to_string(server.dir.path().join("audit.log")).unwrap();
    for secret in [editor.token.as_deref().unwrap(), made["status"]["token"].as_str().unwrap()] {
        assert!(!text.contains(secret));
    }
    assert!(!text.contains(stored["status"]["hash"].as_str().unwrap()), "nor what it is compared with");
}

#[tokio::test]
async fn wrong_credentials_are_told_to_wait_and_good_ones_are_not() {
    let server = ApiServer::start().await;
    let mut guesser = server.client.clone();
    guesser.token = Some("prt_admin.guess".into());
    let mut codes = vec![];
    for _ in 0..25 {
        codes.push(guesser.get(INSTANCES).await);
    }
    assert_eq!(codes[0].status, 401);
    let last = codes.last().unwrap();
    assert_eq!((last.status.as_u16(), &last.headers["retry-after"]), (429, &"3".parse().unwrap()));
    assert_eq!(last.json()["reason"], "TooManyRequests");
    server.client.get(INSTANCES).await.expect(200);
}

#[tokio::test]
async fn what_is_no_access_token_opens_nothing() {
    let server = ApiServer::start().await;
    let viewer = bearer(&server, "v", json!({"role": "viewer"})).await;
    let key = Key::new(Kind::AccessToken, "", "v");
    server.put(json!({"kind": "AccessToken", "metadata": {"name": "v"}, "spec": 1})).await;
    viewer.get(INSTANCES).await.expect(401);
    server.remove(&key).await;
    viewer.get(INSTANCES).await.expect(401);
}

#[tokio::test]
async fn the_last_use_is_written_once_an_hour_and_not_with_each_request() {
    let server = server().await;
    let client = bearer(&server, "ci", json!({"role": "viewer"})).await;
    let of = |object: &Value| object["status"]["lastUsed"].as_str().map(str::to_owned);
    let path = format!("{TOKENS}/ci");
    let unused = server.client.get(&path).await.expect(200);
    assert_eq!(of(&unused), None);
    client.get(INSTANCES).await.expect(200);
    let used = server.used("ci", None).await;
    for _ in 0..3 {
        client.get(INSTANCES).await.expect(200);
    }
    assert_eq!(server.client.get(&path).await.expect(200), used, "no further write");

    // An hour later, which the record is told here.
    let key = portreeve::model::Key::new(portreeve::model::Kind::AccessToken, "", "ci").to_string();
    let record = server.store.get(&key).await.unwrap().unwrap();
    let mut object: Value = serde_json::from_slice(&record.value).unwrap();
    object["status"]["lastUsed"] = json!("2026-01-01T00:00:00Z");
    server.put(object).await;
    let others = client.get(INSTANCES);
    let (one, other) = tokio::join!(others, client.get(INSTANCES));
    one.expect(200);
    other.expect(200);
    let later = server.used("ci", Some("2026-01-01T00:00:00Z")).await;
    assert_eq!(later["status"]["hash"], used["status"]["hash"]);
    // A stranger who knows the name uses nothing.
    let version = later["metadata"]["resourceVersion"].clone();
    let mut stranger = client.clone();
    stranger.token = Some("prt_ci.wrong".into());
    stranger.get(INSTANCES).await.expect(401);
    assert_eq!(server.client.get(&path).await.expect(200)["metadata"]["resourceVersion"], version);
}

#[tokio::test]
async fn a_store_that_does_not_write_keeps_no_bearer_of_a_token_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let faulty = FaultyStore::over(MemoryStore::new());
    let server = ApiServer::start_in(dir, faulty.clone(), Arc::new(Scripted::default())).await;
    let key = |name: &str| Key::new(Kind::AccessToken, "", name).to_string();
    let [slow, failing] = ["slow", "failing"].map(|name| bearer(&server, name, json!({"role": "viewer"})));
    let (slow, failing) = tokio::join!(slow, failing);
    // Of the two, only one is come upon: while it hangs, no other is made.
    faulty.plan(&key("slow"), 0, Fault::Hang);
    faulty.plan(&key("slow"), 0, Fault::Hang);
    let answered = async {
        while faulty.planned() > 1 {
            slow.get(INSTANCES).await.expect(200);
        }
        for _ in 0..3 {
            slow.get(INSTANCES).await.expect(200);
        }
    };
    tokio::time::timeout(PATIENCE / 4, answered).await.expect("no request waits for the write");
    assert_eq!(faulty.planned(), 1);

    faulty.plan(&key("failing"), 0, Fault::Refused);
    while faulty.planned() > 1 {
        failing.get(INSTANCES).await.expect(200);
    }
    // The next use is written down.
    let used = async {
        while server.client.get(&format!("{TOKENS}/failing")).await.expect(200)["status"].get("lastUsed").is_none() {
            failing.get(INSTANCES).await.expect(200);
        }
    };
    tokio::time::timeout(PATIENCE, used).await.expect("the next use was written down");
    let unused = server.client.get(&format!("{TOKENS}/slow")).await.expect(200);
    assert!(unused["status"].get("lastUsed").is_none(), "{unused}");
}
