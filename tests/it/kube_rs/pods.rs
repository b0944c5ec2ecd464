//! The Pod view with Kubernetes' own types: logs, exec, attach, port-forward, eviction.

use std::sync::Arc;

use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, DeleteParams, EvictParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, ResourceExt};
use portreeve::model::EVICT_ANNOTATION;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Instance, client, made, refusal, soon};
use crate::api::{Scripted, uses};
use crate::support::api_server::{ApiServer, running};

struct World {
    server: ApiServer,
    pods: Api<Pod>,
    open: Arc<std::sync::atomic::AtomicU32>,
}

async fn world() -> World {
    let scripted = Scripted::default();
    let open = scripted.open.clone();
    let server = ApiServer::start_with(Arc::new(scripted)).await;
    let client = client(&server.kubeconfig).await;
    made(&Api::<Instance>::default_namespaced(client.clone()), "a").await;
    let pods = Api::default_namespaced(client);
    let up = await_condition(Api::clone(&pods), "a", conditions::is_pod_running());
    let (up, ()) = tokio::join!(soon("a running pod", up), server.put_status("a", running()));
    up.expect("watched");
    World { server, pods, open }
}

async fn text(mut stream: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut text = String::new();
    soon("the end of a stream", stream.read_to_string(&mut text)).await.expect("text");
    text
}

#[tokio::test]
async fn a_pod_tells_of_its_instance() {
    let world = world().await;
    let pod = world.pods.get("a").await.expect("a pod");
    assert_eq!(pod.owner_references()[0].kind, "Instance");
    let spec = pod.spec.as_ref().expect("a spec");
    assert_eq!((spec.node_name.as_deref(), spec.containers[0].name.as_str()), (Some("local"), "main"));
    let on = |node: &str| ListParams::default().fields(&format!("spec.nodeName={node}"));
    assert_eq!(world.pods.list(&on("local")).await.expect("pods").items.len(), 1);
    assert!(world.pods.list(&on("elsewhere")).await.expect("pods").items.is_empty());
    assert_eq!(refusal(world.pods.create(&PostParams::default(), &pod).await).0, 405);
    // Deleting means another incarnation: its instance stays, and its end is seen.
    let uid = pod.uid().expect("a uid");
    let gone = await_condition(world.pods.clone(), "a", conditions::is_deleted(&uid));
    let replaced = async {
        world.pods.delete("a", &DeleteParams::default()).await.expect("deleted");
        let mut status = running();
        status["containerID"] = "another".into();
        world.server.put_status("a", status).await;
    };
    let (gone, ()) = tokio::join!(soon("another incarnation", gone), replaced);
    gone.expect("watched");
    assert_ne!(world.pods.get("a").await.expect("a pod").uid(), Some(uid));
}

#[tokio::test]
async fn logs_are_read_and_followed() {
    let world = world().await;
    let last = LogParams { tail_lines: Some(1), ..Default::default() };
    assert_eq!(world.pods.logs("a", &last).await.expect("logs"), "two\n");
    let container = LogParams { container: Some("sidecar".into()), ..Default::default() };
    assert_eq!(refusal(world.pods.logs("a", &container).await).0, 400);
    let follow = LogParams { follow: true, ..Default::default() };
    let mut lines = world.pods.log_stream("a", &follow).await.expect("a stream").lines();
    for wanted in ["one", "two"] {
        let line = soon("a line", lines.try_next()).await.expect("an unbroken stream");
        assert_eq!(line.as_deref(), Some(wanted), "while it goes on");
    }
    world.server.shutdown.cancel();
    assert!(soon("the end", lines.next()).await.is_none());
}

#[tokio::test]
async fn exec_carries_input_output_and_exit_codes() {
    let world = world().await;
    let mut cat = world.pods.exec("a", ["cat"], &AttachParams::default().stdin(true).stderr(false)).await.expect("cat");
    let (mut input, output, status) =
        (cat.stdin().expect("input"), cat.stdout().expect("output"), cat.take_status().expect("a status"));
    let said: String = (0..5_000).map(|n| format!("{n}\n")).collect();
    let say = async {
        input.write_all(said.as_bytes()).await.expect("taken");
        input.shutdown().await.expect("its end");
    };
    let ((), heard) = tokio::join!(say, text(output));
    assert_eq!(heard.len(), said.len());
    assert_eq!(soon("a status", status).await.expect("a status").status.as_deref(), Some("Success"));
    cat.join().await.expect("an orderly end");

    let mut exit = world.pods.exec("a", ["exit", "7"], &AttachParams::default()).await.expect("exit");
    let status = exit.take_status().expect("a status");
    assert_eq!(text(exit.stderr().expect("errors")).await, "bad\n");
    let status = soon("a status", status).await.expect("a status");
    assert_eq!((status.status.as_deref(), status.reason.as_deref()), (Some("Failure"), Some("NonZeroExitCode")));
    let causes = status.details.and_then(|d| d.causes).expect("causes");
    assert_eq!((causes[0].reason.as_deref(), causes[0].message.as_deref()), (Some("ExitCode"), Some("7")));
    exit.join().await.expect("an orderly end");

    // A terminal: its size arrives, and its exit code is the width.
    let mut size = world.pods.exec("a", ["size"], &AttachParams::interactive_tty()).await.expect("size");
    let (mut input, status) = (size.stdin().expect("input"), size.take_status().expect("a status"));
    let mut window = size.terminal_size().expect("a terminal");
    let new = kube::api::TerminalSize { width: 80, height: 24 };
    futures::SinkExt::send(&mut window, new).await.expect("sent");
    input.shutdown().await.expect("its end");
    let status = soon("a status", status).await.expect("a status");
    assert_eq!(status.details.and_then(|d| d.causes).expect("causes")[0].message.as_deref(), Some("80"));
    size.abort();

    let mut attached = world.pods.attach("a", &AttachParams::default()).await.expect("attached");
    let (out, err) = (attached.stdout().expect("output"), attached.stderr().expect("errors"));
    assert_eq!(tokio::join!(text(out), text(err)), ("out\n".into(), "err\n".into()));
    attached.join().await.expect("an orderly end");
    uses(&world.open, 0).await;
}

#[tokio::test]
async fn ports_are_forwarded_and_unknown_ones_explained() {
    let world = world().await;
    let mut forward = world.pods.portforward("a", &[8080, 8081]).await.expect("forwarded");
    let mut upper = forward.take_stream(8080).expect("a port");
    let mut greeter = forward.take_stream(8081).expect("a port");
    upper.write_all(b"abc").await.expect("taken");
    for (stream, wanted) in [(&mut greeter, "hello"), (&mut upper, "ABC")] {
        let mut heard = vec![0; wanted.len()];
        soon("an answer", stream.read_exact(&mut heard)).await.expect("bytes");
        assert_eq!(String::from_utf8_lossy(&heard), wanted);
    }
    drop((upper, greeter));
    soon("the end", forward.join()).await.expect("an orderly end");
    uses(&world.open, 0).await;
    // The app's own end is told once it is the only connection.
    let mut forward = world.pods.portforward("a", &[8081]).await.expect("forwarded");
    assert_eq!(text(forward.take_stream(8081).expect("a port")).await, "hello");

    let mut forward = world.pods.portforward("a", &[9]).await.expect("forwarded");
    let why = soon("an error", forward.take_error(9).expect("a port")).await.expect("told");
    assert!(why.contains("has no port 9; it declares 8080 (web)"), "{why}");
    forward.abort();
}

#[tokio::test]
async fn an_eviction_is_taken_or_told_why_it_cannot_be() {
    let world = world().await;
    let instances: Api<Instance> = Api::default_namespaced(world.pods.clone().into_client());
    let volume = |list: Value| Patch::Merge(json!({"spec": {"volumes": list}}));
    let data = volume(json!([{"name": "home", "mountPath": "/home"}]));
    instances.patch("a", &PatchParams::default(), &data).await.expect("a volume");
    let (code, reason, message) = refusal(world.pods.evict("a", &EvictParams::default()).await);
    assert_eq!((code, reason.as_str()), (429, "TooManyRequests"));
    assert!(message.contains("the data of its volume"), "{message}");
    instances.patch("a", &PatchParams::default(), &volume(json!(null))).await.expect("no volume");
    // Not in its delete options, which kube-rs 5.0 sends under a name that no server reads.
    let dry = PostParams { dry_run: true, ..Default::default() };
    let tried = EvictParams { post_options: dry, ..Default::default() };
    world.pods.evict("a", &tried).await.expect("a dry run");
    let mark = async || instances.get("a").await.expect("an instance").annotations().get(EVICT_ANNOTATION).cloned();
    assert_eq!(mark().await, None);
    assert!(world.pods.evict("a", &EvictParams::default()).await.expect("evicted").is_success());
    let marked = mark().await.expect("a mark");
    assert!(marked.starts_with("local 20"), "{marked}");
    let going = world.pods.get("a").await.expect("the pod").metadata.deletion_timestamp;
    assert_eq!(going.map(|t| t.0.to_string()).as_deref(), marked.strip_prefix("local "), "from the mark on");
    assert!(world.pods.evict("a", &EvictParams::default()).await.expect("evicted").is_success());
    assert_eq!(mark().await, Some(marked), "asking again is no other eviction");
}
