//! Verbs about objects, against the real API over the memory store.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::*;
use crate::support::api_server::{ApiServer, PATIENCE, instance, running};

/// Runs the binary against a server, with what is piped in.
pub async fn against(server: &ApiServer, args: &[&str], input: &str) -> Output {
    use tokio::io::AsyncWriteExt;
    let mut command = portreeve(server.dir.path(), args);
    command.env("PORTREEVE_KUBECONFIG", &server.kubeconfig);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It may end before it reads: what it says then is for the test to look at.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    tokio::time::timeout(PATIENCE * 2, child.wait_with_output()).await.expect("it ends in time").expect("it ends")
}

/// What it says on stdout, when it must succeed.
pub async fn said(server: &ApiServer, args: &[&str]) -> String {
    let output = against(server, args, "").await;
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

/// How it fails: exit code and stderr.
pub async fn fails(server: &ApiServer, args: &[&str], input: &str) -> (i32, String) {
    let output = against(server, args, input).await;
    (output.status.code().expect("not killed"), stderr(&output))
}

async fn applied(server: &ApiServer, manifest: &Value, more: &[&str]) -> String {
    let args = [&["apply", "-f", "-"], more].concat();
    let output = against(server, &args, &manifest.to_string()).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    stdout(&output)
}

pub async fn stored(server: &ApiServer, name: &str) -> Value {
    let text = said(server, &["get", "inst", name, "-o", "json"]).await;
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test]
async fn applying_creates_then_changes_then_leaves_alone() {
    let server = ApiServer::start().await;
    let mut manifest = instance("alice");
    manifest["spec"]["user"] = json!("1000");
    assert_eq!(applied(&server, &manifest, &[]).await, "instance.portreeve.dev/alice created\n");
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    let first = stored(&server, "alice").await;
    assert_eq!(applied(&server, &manifest, &[]).await, "instance.portreeve.dev/alice unchanged\n");
    assert_eq!(version(&stored(&server, "alice").await), version(&first), "nothing was written");

    // someone else's field stays, the manifest's own former field goes
    said(&server, &["stop", "alice", "--wait=false"]).await;
    manifest["spec"]["image"] = json!("app:2");
    manifest["spec"].as_object_mut().expect("an object").remove("user");
    assert_eq!(applied(&server, &manifest, &[]).await, "instance.portreeve.dev/alice configured\n");
    let spec = stored(&server, "alice").await["spec"].clone();
    assert_eq!((&spec["image"], &spec["power"], &spec["user"]), (&json!("app:2"), &json!("Stopped"), &Value::Null));
    assert_eq!(applied(&server, &manifest, &[]).await, "instance.portreeve.dev/alice unchanged\n");
}

#[tokio::test]
async fn dry_runs_and_diffs_tell_what_would_change_and_change_nothing() {
    let server = ApiServer::start().await;
    let mut manifest = instance("alice");
    assert!(applied(&server, &manifest, &["--dry-run=client"]).await.ends_with("created (dry run)\n"));
    assert!(applied(&server, &manifest, &["--dry-run=server"]).await.ends_with("created (server dry run)\n"));
    let (code, said) = fails(&server, &["get", "inst", "alice"], "").await;
    assert_eq!(
        (code, said.as_str()),
        (1, "Error from server (NotFound): instances.portreeve.dev \"alice\" not found\n")
    );

    let new = against(&server, &["diff", "-f", "-"], &manifest.to_string()).await;
    assert_eq!(new.status.code(), Some(3), "{}", stderr(&new));
    assert!(stdout(&new).contains("+  image: app:1\n"), "{}", stdout(&new));
    applied(&server, &manifest, &[]).await;
    let same = against(&server, &["diff", "-f", "-"], &manifest.to_string()).await;
    assert_eq!((same.status.code(), stdout(&same).as_str()), (Some(0), ""), "{}", stderr(&same));
    manifest["spec"]["image"] = json!("app:2");
    let changed = against(&server, &["diff", "-f", "-"], &manifest.to_string()).await;
    let shown = stdout(&changed);
    assert_eq!(changed.status.code(), Some(3));
    assert!(shown.contains("-  image: app:1\n+  image: app:2\n"), "{shown}");
    assert_eq!(shown.lines().filter(|l| l.starts_with(['+', '-'])).count(), 4, "only the image differs:\n{shown}");
    assert_eq!(stored(&server, "alice").await["spec"]["image"], "app:1");
}

#[tokio::test]
async fn a_diff_of_a_secret_shows_which_values_change_and_no_value() {
    let server = ApiServer::start().await;
    let mut secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"},
        "stringData": {"password": "hunter2-and-more", "user": "bobby-tables"},
    });
    let hidden = |shown: &str| {
        // in base64, too
        for value in ["hunter2", "aHVudGVyMi", "bobby", "Ym9iYnkt", "changed-it", "Y2hhbmdlZC"] {
            assert!(!shown.contains(value), "{value} in {shown}");
        }
    };
    let new = stdout(&against(&server, &["diff", "-f", "-"], &secret.to_string()).await);
    assert!(new.contains("+  password: \"***\"\n"), "{new}");
    hidden(&new);
    applied(&server, &secret, &[]).await;
    secret["stringData"]["password"] = json!("changed-it");
    for more in [&["diff", "-f", "-"][..], &["diff", "--server-side", "--force-conflicts", "-f", "-"]] {
        let output = against(&server, more, &secret.to_string()).await;
        let shown = stdout(&output);
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        assert!(shown.contains("-  password: \"*** (before)\"\n+  password: \"*** (after)\"\n"), "{shown}");
        assert!(shown.contains("   user: \"***\"\n"), "{shown}");
        hidden(&shown);
        hidden(&stderr(&output));
    }
}

#[tokio::test]
async fn what_the_server_refuses_is_told_and_the_rest_is_done() {
    let server = ApiServer::start().await;
    let mut bad = instance("bad");
    bad["spec"]["image"] = json!("");
    let mut unknown = instance("unknown");
    unknown["spec"]["imgae"] = json!("x");
    let input = [instance("good"), bad, unknown].map(|m| m.to_string()).join("\n");
    let output = against(&server, &["apply", "-f", "-"], &input).await;
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), "instance.portreeve.dev/good created\n"));
    let errors = stderr(&output);
    assert!(errors.contains("The Instance \"bad\" is invalid"), "{errors}");
    assert!(errors.contains("spec.image"), "{errors}");
    assert!(
        errors.contains("Error from server (BadRequest): ") && errors.contains("unknown field \"spec.imgae\""),
        "{errors}"
    );

    let elsewhere =
        "apiVersion: portreeve.dev/v1\nkind: Instance\nmetadata: {name: a, namespace: nowhere}\nspec: {image: a}";
    let (code, errors) = fails(&server, &["apply", "-f", "-"], elsewhere).await;
    assert_eq!((code, errors.as_str()), (1, "Error from server (NotFound): namespaces \"nowhere\" not found\n"));
    let (code, errors) = fails(&server, &["apply", "-f", "-", "-n", "default"], elsewhere).await;
    assert!(code == 1 && errors.contains("not the one given by --namespace"), "{errors}");
    let (code, errors) =
        fails(&server, &["apply", "-f", "-"], "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}").await;
    assert_eq!(
        (code, errors.as_str()),
        (1, "error: standard input: no matches for kind \"Deployment\" in version \"apps/v1\"\n")
    );
}

#[tokio::test]
async fn objects_are_shown_in_every_form() {
    let server = ApiServer::start().await;
    assert_eq!(against(&server, &["get", "inst"], "").await.stderr, b"No resources found in default namespace.\n");
    for name in ["alice", "bob"] {
        let mut manifest = instance(name);
        manifest["metadata"]["labels"] = json!({"who": name});
        applied(&server, &manifest, &[]).await;
    }
    server.put_status("alice", running()).await;
    let shown = said(&server, &["get", "inst"]).await;
    let rows: Vec<Vec<&str>> = shown.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..3], ["NAME", "PHASE", "READY"], "{shown}");
    assert_eq!(rows[1][..3], ["alice", "Running", "True"], "{shown}");
    assert_eq!(rows.len(), 3);
    assert!(said(&server, &["get", "inst", "-o", "wide"]).await.contains("PORTS"));
    assert!(said(&server, &["get", "inst", "-A"]).await.starts_with("NAMESPACE"));
    assert_eq!(
        said(&server, &["get", "inst", "-o", "name"]).await,
        "instance.portreeve.dev/alice\ninstance.portreeve.dev/bob\n"
    );
    assert_eq!(said(&server, &["get", "inst", "-l", "who=bob", "-o", "name"]).await, "instance.portreeve.dev/bob\n");
    assert_eq!(said(&server, &["get", "inst/alice", "-o", "jsonpath={.status.phase}"]).await, "Running");
    let yaml = said(&server, &["get", "inst", "alice", "-o", "yaml"]).await;
    let read: Value = serde_yaml::from_str(&yaml).expect("YAML");
    assert_eq!((&read["kind"], &read["spec"]["image"]), (&json!("Instance"), &json!("app:1")));
    let both = said(&server, &["get", "inst,ns"]).await;
    assert!(both.contains("\ninstance.portreeve.dev/bob ") && both.contains("\nnamespace/default "), "{both}");
    // a kind that only the server knows
    assert!(said(&server, &["get", "po", "alice"]).await.contains("alice"));
    let (code, errors) = fails(&server, &["get", "gadgets"], "").await;
    assert_eq!((code, errors.as_str()), (1, "error: the server doesn't have a resource type \"gadgets\"\n"));
    let partly = against(&server, &["get", "inst", "alice", "carol"], "").await;
    assert_eq!(partly.status.code(), Some(1));
    assert!(stdout(&partly).contains("alice") && stderr(&partly).contains("\"carol\" not found"));
}

#[tokio::test]
async fn a_watch_shows_every_change() {
    let server = ApiServer::start().await;
    applied(&server, &instance("alice"), &[]).await;
    let mut command = portreeve(server.dir.path(), &["get", "inst", "-w"]);
    command.env("PORTREEVE_KUBECONFIG", &server.kubeconfig).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut next = async || {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("a line in time");
        line.expect("readable").expect("not the end")
    };
    assert!(next().await.starts_with("NAME"));
    assert!(next().await.starts_with("alice"));
    server.put_status("alice", running()).await;
    let line = next().await;
    assert!(line.starts_with("alice") && line.contains("Running"), "{line}");
    applied(&server, &instance("bob"), &[]).await;
    assert!(next().await.starts_with("bob"));
    child.kill().await.expect("killed");
}

#[tokio::test]
async fn a_description_tells_conditions_and_events() {
    let server = ApiServer::start().await;
    applied(&server, &instance("alice"), &[]).await;
    server.put_status("alice", running()).await;
    let uid = stored(&server, "alice").await["metadata"]["uid"].clone();
    server
        .put(json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "alice.1", "namespace": "default"},
            "involvedObject": {"kind": "Instance", "name": "alice", "namespace": "default", "uid": uid},
            "type": "Normal", "reason": "Started", "message": "started the container", "count": 1,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z",
        }))
        .await;
    let page = said(&server, &["describe", "inst", "alice"]).await;
    for part in [
        "Name:          alice\n",
        "  Image: app:1\n",
        "Conditions:\n",
        "  Ready   True",
        "Started",
        "started the container",
    ] {
        assert!(page.contains(part), "{part:?} is missing:\n{page}");
    }
    assert!(!page.contains("last-applied"), "{page}");
}

#[tokio::test]
async fn deleting_waits_until_the_container_is_gone() {
    let server = ApiServer::start().await;
    applied(&server, &instance("alice"), &[]).await;
    let (code, errors) = fails(&server, &["delete", "inst", "alice", "--timeout", "300ms"], "").await;
    assert_eq!(code, 124, "{errors}");
    assert!(errors.contains("kept by portreeve.dev/container"), "{errors}");

    let mut command = portreeve(server.dir.path(), &["delete", "inst", "alice"]);
    command.env("PORTREEVE_KUBECONFIG", &server.kubeconfig).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("a line in time").expect("readable");
    assert_eq!(line.as_deref(), Some("instance.portreeve.dev \"alice\" deleted"));
    assert!(child.try_wait().expect("a child").is_none(), "it waits for the container");
    // its controller lets go of it
    server.remove(&portreeve::model::Key::instance("default", "alice")).await;
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends in time").expect("it ends");
    assert_eq!(ended.code(), Some(0));
    assert_eq!(fails(&server, &["delete", "inst", "alice"], "").await.0, 1);
    assert_eq!(said(&server, &["delete", "inst", "alice", "--ignore-not-found"]).await, "");
    assert_eq!(fails(&server, &["delete", "inst"], "").await.0, 2, "never all by accident");
}

#[tokio::test]
async fn labels_are_set_and_not_overwritten_by_accident() {
    let server = ApiServer::start().await;
    applied(&server, &instance("alice"), &[]).await;
    assert_eq!(said(&server, &["label", "inst", "alice", "tier=free"]).await, "instance.portreeve.dev/alice labeled\n");
    let (code, errors) = fails(&server, &["label", "inst/alice", "tier=paid"], "").await;
    assert!(code == 1 && errors.contains("--overwrite"), "{errors}");
    said(&server, &["label", "inst/alice", "tier=paid", "--overwrite"]).await;
    assert_eq!(stored(&server, "alice").await["metadata"]["labels"], json!({"tier": "paid"}));
    said(&server, &["label", "inst/alice", "tier-"]).await;
    assert!(stored(&server, "alice").await["metadata"]["labels"].get("tier").is_none());
}

#[tokio::test]
async fn only_the_right_server_is_spoken_to_and_only_with_the_right_credentials() {
    let server = ApiServer::start().await;
    let text = std::fs::read_to_string(&server.kubeconfig).expect("a kubeconfig");
    let config: Value = serde_yaml::from_str(&text).expect("YAML");
    let address = config["clusters"][0]["cluster"]["server"]
        .as_str()
        .expect("an address")
        .trim_start_matches("https://")
        .to_owned();
    std::fs::write(&server.kubeconfig, kubeconfig(&address)).expect("written");
    let (code, errors) = fails(&server, &["get", "inst"], "").await;
    assert!(code == 1 && errors.contains(&format!("error: cannot trust https://{address}")), "{errors}");

    let mut config = config;
    config["users"][0]["user"] = json!({"token": "prt_wrong"});
    std::fs::write(&server.kubeconfig, config.to_string()).expect("written");
    let (code, errors) = fails(&server, &["get", "inst"], "").await;
    assert!(code == 1 && errors.contains("(Unauthorized)"), "{errors}");
    std::fs::write(&server.kubeconfig, text).expect("written");
    assert!(said(&server, &["version"]).await.contains("\nServer: v1."));
}
