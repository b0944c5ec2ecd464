//! `cordon`, `uncordon` and `drain`, in both spellings, against the real API. The test plays the controller.

use std::process::Stdio;

use portreeve::model::{EVICT_ANNOTATION, Key};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::objects::{against, fails, said};
use super::*;
use crate::support::api_server::{ApiServer, PATIENCE, instance, running};
use crate::support::client::INSTANCES;

/// Hosts `local` and `other`, and instances on `local`: `alice`, who can move, and `pending`, who has no container yet.
async fn server() -> ApiServer {
    let server = ApiServer::start().await;
    for name in ["local", "other"] {
        let meta = json!({"name": name, "uid": format!("uid-{name}"), "generation": 1});
        let spec = json!({"endpoint": "unix:///x"});
        server
            .put(json!({"apiVersion": "portreeve.dev/v1", "kind": "DockerHost", "metadata": meta, "spec": spec}))
            .await;
    }
    add(&server, "alice", json!([]), running()).await;
    add(&server, "pending", json!([]), json!({"phase": "Pending", "node": "local"})).await;
    server
}

async fn add(server: &ApiServer, name: &str, volumes: Value, status: Value) {
    let mut manifest = instance(name);
    manifest["metadata"]["labels"] = json!({"app": name});
    manifest["spec"]["volumes"] = volumes;
    server.client.post(INSTANCES, &manifest).await.expect(201);
    server.put_status(name, status).await;
}

/// One whose data binds it.
async fn add_keeper(server: &ApiServer) {
    add(server, "keeper", json!([{"name": "home", "mountPath": "/home"}]), running()).await;
}

async fn host(server: &ApiServer, name: &str) -> Value {
    server.client.get(&format!("/apis/portreeve.dev/v1/dockerhosts/{name}")).await.expect(200)
}

async fn is_closed(server: &ApiServer) -> bool {
    host(server, "local").await["spec"]["unschedulable"] == true
}

async fn mark(server: &ApiServer, name: &str) -> Value {
    let object = server.client.get(&format!("{INSTANCES}/{name}")).await.expect(200);
    // Without the time of the mark.
    match object["metadata"]["annotations"][EVICT_ANNOTATION].as_str() {
        Some(mark) => mark.split(' ').next().into(),
        None => Value::Null,
    }
}

/// Moves an instance as its controller does, once it is marked.
async fn move_away(server: &ApiServer, name: &str) {
    let mut watch = server.store.watch("instances/", server.store.revision()).await.expect("a watch");
    let marked = async {
        while mark(server, name).await != "local" {
            watch.next().await.expect("a change");
        }
    };
    tokio::time::timeout(PATIENCE, marked).await.expect("it is evicted");
    let mut elsewhere = running();
    elsewhere["node"] = json!("other");
    server.put_status(name, elsewhere).await;
}

#[tokio::test]
async fn cordoning_is_told_and_done_once_in_both_spellings() {
    let server = server().await;
    let name = "dockerhost.portreeve.dev/local";
    assert_eq!(said(&server, &["cordon", "local", "--dry-run=client"]).await, format!("{name} cordoned (dry run)\n"));
    let rehearsed = said(&server, &["cordon", "local", "--dry-run=server"]).await;
    assert_eq!(rehearsed, format!("{name} cordoned (server dry run)\n"));
    assert!(!is_closed(&server).await, "a dry run changes nothing");
    assert_eq!(said(&server, &["host", "cordon", "local"]).await, format!("{name} cordoned\n"));
    assert!(is_closed(&server).await);
    let before = host(&server, "local").await["metadata"]["resourceVersion"].clone();
    assert_eq!(said(&server, &["cordon", "local"]).await, format!("{name} already cordoned\n"));
    assert_eq!(host(&server, "local").await["metadata"]["resourceVersion"], before);
    assert_eq!(said(&server, &["uncordon", "local", "-o", "name"]).await, format!("{name}\n"));
    assert_eq!(host(&server, "local").await["spec"].get("unschedulable"), None);
    assert_eq!(said(&server, &["host", "uncordon", "local"]).await, format!("{name} already uncordoned\n"));

    let output = against(&server, &["cordon", "nobody", "local"], "").await;
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), format!("{name} cordoned\n")));
    assert_eq!(stderr(&output), "Error from server (NotFound): dockerhosts.portreeve.dev \"nobody\" not found\n");
}

#[tokio::test]
async fn a_drain_ends_when_all_have_left_also_those_without_a_container() {
    let server = server().await;
    let (said, (), ()) = tokio::join!(
        said(&server, &["drain", "local", "--timeout", "60s"]),
        move_away(&server, "alice"),
        move_away(&server, "pending"),
    );
    let mut lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.remove(0), "dockerhost.portreeve.dev/local cordoned");
    assert_eq!(lines.pop(), Some("dockerhost.portreeve.dev/local drained"));
    lines.sort_unstable();
    assert_eq!(lines, ["instance.portreeve.dev/alice evicted", "instance.portreeve.dev/pending evicted"]);
}

#[tokio::test]
async fn what_cannot_move_is_told_once_and_asked_again_until_the_time_is_up() {
    let server = server().await;
    add_keeper(&server).await;
    let args = ["host", "drain", "local", "--timeout=9s", "-l", "app in (alice,keeper)"];
    let (output, ()) = tokio::join!(against(&server, &args, ""), move_away(&server, "alice"));
    let (out, err) = (stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(124), "{err}");
    assert!(out.contains("instance.portreeve.dev/alice evicted\n") && !out.contains("drained"), "{out}");
    assert_eq!(mark(&server, "pending").await, Value::Null, "it has not the label");
    assert_eq!(err.matches("cannot evict instance default/keeper yet: ").count(), 1, "{err}");
    assert!(err.contains("the data of its volume \"home\"") && err.contains("local stays cordoned\n"), "{err}");
    assert!(err.contains("error: timed out after 9s draining local\n  default/keeper: instance default/keeper cannot"));
    assert!(is_closed(&server).await);
    // again and again
    let audit = server.audit(1).await;
    let asked = audit.iter().filter(|l| l.to_string().contains("keeper") && l.to_string().contains("eviction")).count();
    assert!(asked >= 2, "{audit:#?}");
}

#[tokio::test]
async fn a_rehearsed_drain_ends_and_names_what_could_not_move() {
    let server = server().await;
    let movable = "instance.portreeve.dev/alice evicted (server dry run)\ninstance.portreeve.dev/pending evicted (server dry run)\n";
    let cordoned = "dockerhost.portreeve.dev/local cordoned (server dry run)\n";
    assert_eq!(
        said(&server, &["drain", "local", "--dry-run=server"]).await,
        format!("{cordoned}{movable}dockerhost.portreeve.dev/local drained (server dry run)\n")
    );
    add_keeper(&server).await;
    let output = against(&server, &["drain", "local", "--dry-run=server"], "").await;
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), format!("{cordoned}{movable}")));
    let told = stderr(&output);
    assert!(told.starts_with("cannot evict instance default/keeper: ") && told.contains("volume \"home\""), "{told}");
    let names = said(&server, &["drain", "local", "--dry-run=client", "-o", "name"]).await;
    let instances = ["alice", "keeper", "pending"].map(|n| format!("instance.portreeve.dev/{n}\n")).concat();
    assert_eq!(names, format!("dockerhost.portreeve.dev/local\n{instances}dockerhost.portreeve.dev/local\n"));
    assert!(!is_closed(&server).await);
    for name in ["alice", "keeper", "pending"] {
        assert_eq!(mark(&server, name).await, Value::Null, "a dry run marks nothing");
    }
}

#[tokio::test]
async fn a_name_that_is_mistyped_stops_a_drain_before_it_changes_anything() {
    let server = server().await;
    let (code, errors) = fails(&server, &["drain", "local", "nobody"], "").await;
    assert!(code == 1 && errors.contains("\"nobody\" not found"), "{errors}");
    assert!(!is_closed(&server).await);
    // one that goes meanwhile is no failure: it has left
    let key = Key::instance("default", "pending");
    server.remove(&key).await;
    let (said, ()) = tokio::join!(said(&server, &["drain", "local"]), move_away(&server, "alice"));
    assert!(said.ends_with("dockerhost.portreeve.dev/local drained\n"), "{said}");
}

#[tokio::test]
async fn an_interrupted_drain_leaves_the_host_closed_and_says_so() {
    let server = server().await;
    add_keeper(&server).await;
    let mut command = portreeve(server.dir.path(), &["drain", "local", "-l", "app=keeper"]);
    command.env("PORTREEVE_KUBECONFIG", &server.kubeconfig);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut errors = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let mut line = async || {
        tokio::time::timeout(PATIENCE, errors.next_line()).await.expect("in time").expect("text").unwrap_or_default()
    };
    while !line().await.starts_with("cannot evict instance default/keeper yet") {}
    let pid =
        rustix::process::Pid::from_raw(i32::try_from(child.id().expect("it runs")).expect("a pid")).expect("not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signalled");
    assert_eq!(line().await, "interrupted: what was evicted goes on moving");
    assert_eq!(line().await, "local stays cordoned");
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.expect("in time").expect("it ends");
    assert_eq!(ended.code(), Some(130));
    assert!(is_closed(&server).await);
}
