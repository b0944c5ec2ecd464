//! The unmodified kubectl on PATH against the API, with the kubeconfig that the server wrote.

mod access;
mod apply;
mod change;
mod client_apply;
mod create;
mod discovery;
mod get;
mod harness;
mod helm;
mod namespaces;
mod nodes;
mod records;
mod remove;
mod server_side;
mod streams;
mod top;
mod watching;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use crate::support::api_server::{ApiServer, PATIENCE, running};
use crate::support::client::INSTANCES;
use crate::support::without;

const MANIFEST: &str = "apiVersion: portreeve.dev/v1
kind: Instance
metadata:
  name: alice
  labels: {tier: free}
spec:
  image: app:1
  resources: {memory: 64Mi}
  ports:
  - {name: web, containerPort: 8080}
";

struct Kubectl {
    program: PathBuf,
    server: ApiServer,
    home: tempfile::TempDir,
}

impl Kubectl {
    /// `None` where there is no kubectl, having said so.
    async fn new() -> Option<Kubectl> {
        Kubectl::found("kubectl", &["version", "--client"]).await
    }

    /// The same of any client that takes a kubeconfig; `probe` succeeds where it is installed.
    async fn found(program: &str, probe: &[&str]) -> Option<Kubectl> {
        let found = Command::new(program).args(probe).stdout(Stdio::null()).status().await;
        if !found.is_ok_and(|s| s.success()) {
            without(program);
            return None;
        }
        Some(Kubectl::of(program.into(), ApiServer::start().await))
    }

    fn of(program: PathBuf, server: ApiServer) -> Kubectl {
        Kubectl { program, server, home: tempfile::tempdir().expect("a directory") }
    }

    /// Every kubectl: those on PATH, named `kubectl` or `kubectl.1.27`, and those of such names beside what `kubectl` is a
    /// link to. The plain one comes last.
    fn every_program() -> Vec<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
        let plain = places.iter().map(|p| p.join("kubectl")).find(|p| p.is_file());
        let linked = plain.as_ref().and_then(|p| p.canonicalize().ok());
        places.extend(linked.and_then(|p| p.parent().map(PathBuf::from)));
        let numbered = |name: &str| {
            let version = name.strip_prefix("kubectl.");
            version.is_some_and(|v| v.split('.').all(|n| n.parse::<u16>().is_ok()))
        };
        let mut found = BTreeMap::new();
        for entry in places.iter().filter_map(|p| p.read_dir().ok()).flatten().flatten() {
            if let Some(name) = entry.file_name().to_str().filter(|n| numbered(n)) {
                found.insert(name.to_owned(), entry.path());
            }
        }
        found.into_values().chain(plain).collect()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        // A home of its own, so that no cache of another server is used or left.
        command.args(args).env("HOME", self.home.path()).env("KUBECONFIG", &self.server.kubeconfig);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn run(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command(args);
        command.stdin(Stdio::piped());
        let mut child = command.spawn().expect("kubectl");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(input.as_bytes()).await.expect("input");
        drop(stdin);
        tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("kubectl ended").expect("output")
    }

    /// The standard output of a command that succeeds.
    #[track_caller]
    fn ok(&self, args: &str) -> impl Future<Output = String> {
        self.ok_with(args, "")
    }

    async fn ok_with(&self, args: &str, input: &str) -> String {
        let out = self.run(&args.split_whitespace().collect::<Vec<_>>(), input).await;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "kubectl {args}: {text}{}", String::from_utf8_lossy(&out.stderr));
        text
    }

    /// The standard error of a command that fails.
    async fn fails_with(&self, args: &str, input: &str) -> String {
        let out = self.run(&args.split_whitespace().collect::<Vec<_>>(), input).await;
        assert!(!out.status.success(), "kubectl {args} succeeded: {}", String::from_utf8_lossy(&out.stdout));
        String::from_utf8_lossy(&out.stderr).into_owned()
    }
}

#[tokio::test]
async fn apply_get_patch_and_delete() {
    let Some(k) = Kubectl::new().await else { return };
    assert_eq!(k.ok_with("apply -f -", MANIFEST).await, "instance.portreeve.dev/alice created\n");
    assert_eq!(k.ok_with("apply -f -", MANIFEST).await, "instance.portreeve.dev/alice unchanged\n");
    let changed = MANIFEST.replace("app:1", "app:2");
    assert!(k.ok_with("diff -f -", MANIFEST).await.is_empty());
    assert_eq!(k.ok_with("apply -f -", &changed).await, "instance.portreeve.dev/alice configured\n");

    let table = k.ok("get inst").await;
    let mut lines = table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    assert_eq!(lines.next().unwrap(), ["NAME", "PHASE", "READY", "NODE", "IMAGE", "LAST", "ACTIVE", "URL", "AGE"]);
    let row = lines.next().unwrap();
    assert!(row.len() > 7, "{table}");
    assert_eq!(row[..7], ["alice", "Pending", "Unknown", "<none>", "app:2", "<none>", "<none>"]);
    let wide = k.ok("get inst -o wide").await;
    assert!(wide.contains("PORTS") && wide.contains("web:8080") && wide.contains("64Mi"), "{wide}");
    let yaml = k.ok("get inst alice -o yaml").await;
    assert!(yaml.contains("memory: 64Mi") && yaml.contains("- portreeve.dev/container"), "{yaml}");
    assert!(k.ok("get instances -A").await.contains("default"));
    assert!(k.ok("get all").await.contains("alice"));

    k.ok(r#"patch inst alice --type=merge -p {"spec":{"owner":"bob"}}"#).await;
    k.ok(r#"patch inst alice --type=json -p [{"op":"add","path":"/spec/user","value":"1000"}]"#).await;
    k.ok("label inst alice tier=paid --overwrite").await;
    k.ok("annotate inst alice note=x").await;
    let path = "jsonpath={.spec.owner}/{.spec.user}/{.metadata.labels.tier}/{.metadata.annotations.note}";
    assert_eq!(k.ok(&format!("get inst alice -o {path}")).await, "bob/1000/paid/x");
    assert_eq!(k.ok_with("replace -f -", &changed).await, "instance.portreeve.dev/alice replaced\n");
    k.ok("scale inst alice --replicas=0").await;
    k.ok("scale inst alice --current-replicas=0 --replicas=1").await;

    assert!(k.ok("delete inst alice --wait=false").await.contains("deleted"));
    assert!(k.ok("get inst").await.contains("Terminating"));
    let path = format!("{INSTANCES}/alice");
    k.server.client.merge(&path, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    assert!(k.fails_with("get inst alice", "").await.contains("instances.portreeve.dev \"alice\" not found"));
}

#[tokio::test]
async fn a_wrong_field_is_refused_with_its_path() {
    let Some(k) = Kubectl::new().await else { return };
    let typo = MANIFEST.replace("containerPort", "containerPrt");
    let error = k.fails_with("apply -f -", &typo).await;
    assert!(error.contains(r#"unknown field "spec.ports[0].containerPrt""#), "{error}");
    let error = k.fails_with("create -f -", &MANIFEST.replace("8080", "99999")).await;
    assert!(error.contains("spec.ports[0].containerPort in body should be less than or equal to 65535"), "{error}");
    let strategic = k.ok_with("create -f -", MANIFEST).await;
    assert!(strategic.contains("created"));
    let error = k.fails_with("patch inst alice -p {}", "").await;
    assert!(error.contains("is not supported by portreeve.dev/v1, Kind=Instance"), "{error}");
}

#[tokio::test]
async fn watching_sees_a_change() {
    let Some(k) = Kubectl::new().await else { return };
    k.ok_with("apply -f -", MANIFEST).await;
    let mut watch = k.command(&["get", "inst", "-w"]).spawn().expect("kubectl");
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    let mut line_with = async |wanted: &str| {
        let mut last = String::new();
        let found = async {
            loop {
                last = lines.next_line().await.expect("output").unwrap_or_else(|| panic!("no {wanted}; last: {last}"));
                if last.contains(wanted) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no {wanted} in time"));
    };
    line_with("Pending").await;
    k.server.put_status("alice", running()).await;
    line_with("Running").await;
    watch.kill().await.expect("killed");

    // `wait` and `delete` are informers: list, then watch.
    k.ok("wait inst/alice --for=condition=Ready --timeout=10s").await;
    let deleting = k.command(&["delete", "inst", "alice"]).spawn().expect("kubectl");
    let path = format!("{INSTANCES}/alice");
    let marked = async {
        while k.server.client.get(&path).await.expect(200)["metadata"].get("deletionTimestamp").is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, marked).await.expect("the deletion began");
    k.server.client.merge(&path, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    let out = tokio::time::timeout(PATIENCE, deleting.wait_with_output()).await.expect("it ended").unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[tokio::test]
async fn explain_describe_and_events_read_as_for_any_kind() {
    let Some(k) = Kubectl::new().await else { return };
    let explained = k.ok("explain instance.spec").await;
    for text in ["image\t<string> -required-", "ports\t<[]Object>", "enum: Auto, Running, Stopped", "The image to run"]
    {
        assert!(explained.contains(text), "{text:?} is missing: {explained}");
    }
    assert!(k.ok("explain dockerhost --recursive").await.contains("endpoint"));
    assert!(k.ok("api-resources").await.contains("dockerhosts"));
    assert!(k.ok("version").await.contains("Server Version: v1."));

    k.ok_with("apply -f -", MANIFEST).await;
    let uid = k.ok("get inst alice -o jsonpath={.metadata.uid}").await;
    let event: Value = json!({
        "kind": "Event", "metadata": {"name": "alice.1", "namespace": "default"}, "type": "Warning",
        "reason": "PullFailed", "message": "no such image", "count": 3, "lastTimestamp": "2026-01-01T00:00:00Z",
        "involvedObject": {"kind": "Instance", "namespace": "default", "name": "alice", "uid": uid,
                           "apiVersion": "portreeve.dev/v1"},
        "source": {"component": "portreeve"},
    });
    k.server.put(event).await;
    let described = k.ok("describe inst alice").await;
    assert!(described.contains("app:1") && described.contains("PullFailed"), "{described}");
    let events = k.ok("events --for inst/alice").await;
    assert!(events.contains("PullFailed") && events.contains("no such image"), "{events}");
    let table = k.ok("get events").await;
    assert!(table.contains("instance/alice") && table.contains("REASON"), "{table}");
}

#[tokio::test]
async fn hosts_and_namespaces_work_as_well() {
    let Some(k) = Kubectl::new().await else { return };
    let host =
        "apiVersion: portreeve.dev/v1\nkind: DockerHost\nmetadata: {name: local}\nspec: {endpoint: 'unix:///x'}\n";
    k.ok_with("apply -f -", host).await;
    let hosts = k.ok("get dh").await;
    assert!(hosts.contains("unix:///x") && hosts.contains("INSTANCES"), "{hosts}");
    assert!(k.ok("delete dh local").await.contains("deleted"));
    let team = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n";
    k.ok_with("apply -f -", team).await;
    k.ok_with("apply -f -", &team.replace("{name: team}", "{name: team, labels: {a: b}}")).await;
    let namespaces = k.ok("get ns --show-labels").await;
    assert!(namespaces.contains("team") && namespaces.contains("a=b"), "{namespaces}");
    k.ok_with("apply -n team -f -", MANIFEST).await;
    assert!(k.ok("auth can-i delete instances").await.contains("yes"));
    assert!(k.ok("auth can-i --list").await.contains("*.*"));
    assert_eq!(k.fails_with("auth can-i delete instances --as nobody", "").await, "");
    k.ok("create namespace typed").await;
    assert!(k.ok("auth whoami").await.contains("admin"));
}

#[tokio::test]
async fn logs_and_exec_reach_the_container() {
    let Some(k) = Kubectl::new().await else { return };
    drop(k);
    let server = ApiServer::start_with(std::sync::Arc::new(super::api::Scripted::default())).await;
    let k = Kubectl::of("kubectl".into(), server);
    k.ok_with("apply -f -", MANIFEST).await;
    assert!(k.fails_with("logs alice", "").await.contains("pods \"alice\" not found"));
    k.server.put_status("alice", running()).await;
    assert_eq!(k.ok("logs alice").await, "one\ntwo\n");
    assert_eq!(k.ok("logs alice --tail=1").await, "two\n");
    assert!(k.ok("get pods").await.contains("1/1"));
    k.ok("wait pod/alice --for=condition=Ready --timeout=10s").await;
    assert_eq!(k.ok_with("exec -i alice -- cat", "hello").await, "hello");
    let out = k.run(&["exec", "alice", "--", "exit", "7"], "").await;
    assert_eq!(out.status.code(), Some(7), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(k.fails_with("exec alice -- refuse", "").await.contains("not running"));
}

#[tokio::test]
async fn a_viewer_of_one_namespace_is_told_what_they_may() {
    let Some(mut k) = Kubectl::new().await else { return };
    k.ok_with("apply -f -", MANIFEST).await;
    let token = "apiVersion: portreeve.dev/v1\nkind: AccessToken\nmetadata: {name: vera}\n\
                 spec: {role: viewer, namespaces: [default], lifetime: 719h}\n";
    let secret = k.ok_with("create -f - -o jsonpath={.status.token}", token).await;
    assert!(k.ok_with("apply -f -", token).await.contains("accesstoken.portreeve.dev/vera"));
    let table = k.ok("get accesstokens").await;
    assert!(table.contains("EXPIRES") && table.contains("29d") && !table.contains(&secret), "{table}");
    let explained = k.ok("explain accesstoken.spec").await;
    assert!(explained.contains("enum: viewer, editor, admin"), "{explained}");

    let admin = k.server.kubeconfig.clone();
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&admin).expect("read")).expect("JSON");
    config["users"][0]["user"] = json!({"token": secret});
    k.server.kubeconfig = k.home.path().join("vera.kubeconfig");
    std::fs::write(&k.server.kubeconfig, config.to_string()).expect("written");

    let whoami = k.ok("auth whoami").await;
    assert!(whoami.contains("vera") && whoami.contains("portreeve:viewer:default"), "{whoami}");
    for (question, answer) in [
        ("list instances", true),
        ("get instances/alice", true),
        ("get pods --subresource=log", true),
        ("get ns/default", true),
        ("list instances -A", false),
        ("list instances -n kube-system", false),
        ("create pods --subresource=exec", false),
        ("get secrets", false),
        ("list accesstokens", false),
        ("delete instances", false),
        ("* *", false),
    ] {
        let out = k.run(&["auth", "can-i"].into_iter().chain(question.split(' ')).collect::<Vec<_>>(), "").await;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert_eq!((said.trim() == "yes", out.status.success()), (answer, answer), "{question}: {said}");
    }
    let list = k.ok("auth can-i --list").await;
    let row = |resource: &str| list.lines().find(|l| l.starts_with(resource)).unwrap_or_default().to_owned();
    assert!(row("instances.portreeve.dev ").ends_with("[get list watch]"), "{list}");
    assert!(row("namespaces ").contains("[default]") && row("namespaces ").ends_with("[get list watch]"), "{list}");
    assert!(row("selfsubjectaccessreviews.").ends_with("[create]"), "{list}");
    assert!(!list.contains("secrets") && !list.contains("accesstokens") && !list.contains("exec"), "{list}");

    assert!(k.ok("get inst").await.contains("alice"));
    k.ok("get ns default").await;
    let error = k.fails_with("get inst -A", "").await;
    assert!(error.contains("cannot list resource \"instances\" in API group \"portreeve.dev\" at the cluster scope"));
    for refused in
        ["delete inst alice", "scale inst alice --replicas=0", "get ns", "get accesstokens", "get inst --as admin"]
    {
        let error = k.fails_with(refused, "").await;
        assert!(error.contains("Error from server (Forbidden)"), "{refused}: {error}");
    }
    let error = k.fails_with("apply --dry-run=server -f -", &MANIFEST.replace("app:1", "app:2")).await;
    assert!(error.contains("cannot patch resource"), "{error}");

    let mut watch = k.command(&["get", "inst", "-w"]).spawn().expect("kubectl");
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    for _ in 0..2 {
        tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("a line in time").expect("output");
    }
    k.server.client.delete("/apis/portreeve.dev/v1/accesstokens/vera").await.expect(200);
    tokio::time::timeout(PATIENCE, watch.wait()).await.expect("the watch ended").expect("waited");
    assert!(k.fails_with("get inst", "").await.contains("Unauthorized"));
}

#[tokio::test]
async fn secrets_and_config_maps_are_made_shown_and_changed() {
    let Some(k) = Kubectl::new().await else { return };
    let file = k.home.path().join("app.conf");
    std::fs::write(&file, "debug=true\n").expect("a file");
    let file = file.to_str().expect("a path");
    k.ok("create secret generic db --from-literal=password=hunter2").await;
    k.ok("create secret docker-registry login --docker-server=registry.example --docker-username=u --docker-password=hunter2").await;
    k.ok(&format!("create configmap settings --from-file={file} --from-literal=a=b")).await;
    let table = k.ok("get secrets").await;
    assert!(table.lines().next().expect("a head").split_whitespace().eq(["NAME", "TYPE", "DATA", "AGE"]), "{table}");
    assert!(table.contains("kubernetes.io/dockerconfigjson"), "{table}");
    let page = k.ok("describe secret db").await;
    assert!(page.contains("password:  7 bytes") && !page.contains("hunter2"), "{page}");
    assert_eq!(k.ok("get secret db -o jsonpath={.data.password}").await, "aHVudGVyMg==");
    let map = k.ok("describe cm settings").await;
    assert!(map.contains("debug=true"), "{map}");
    let manifest = "apiVersion: v1\nkind: Secret\nmetadata: {name: two}\nstringData: {a: one, b: two}\n";
    assert_eq!(k.ok_with("apply -f -", manifest).await, "secret/two created\n");
    // As with Kubernetes' own server: kubectl finds no stringData in what is there, and sends it every time.
    assert_eq!(k.ok_with("apply -f -", manifest).await, "secret/two configured\n");
    assert_eq!(k.ok_with("apply -f -", &manifest.replace("b: two", "b: three")).await, "secret/two configured\n");
    assert_eq!(k.ok("get secret two -o jsonpath={.data.b}").await, "dGhyZWU=");
    k.ok(r#"patch secret two -p {"data":{"a":null}}"#).await;
    assert_eq!(k.ok("get secret two -o jsonpath={.data}").await, r#"{"b":"dGhyZWU="}"#);
    k.ok("label secret two tier=db").await;
    k.ok("delete secret two login --wait").await;
    k.ok("delete cm --all").await;
    assert!(k.ok("get secrets").await.contains("db"));
    let wrong = k.fails_with("create secret tls t --cert=/dev/null --key=/dev/null", "").await;
    assert!(!wrong.is_empty());
}
