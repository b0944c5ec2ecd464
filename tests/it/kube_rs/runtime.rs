//! What controllers are built of: conditions that are waited for, finalizers, and a whole controller.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::Action;
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{Controller, watcher};
use kube::{Api, ResourceExt};
use portreeve::model::{InstanceStatus, Phase};
use serde_json::json;
use tokio::sync::mpsc;

use super::{GLANCE, Instance, client, made, soon};
use crate::support::api_server::{ApiServer, running};

const CLEANUP: &str = "example.com/cleanup";

fn runs(object: Option<&Instance>) -> bool {
    object.and_then(|i| i.status.as_ref()).is_some_and(|s| s.phase == Phase::Running)
}

#[tokio::test]
async fn conditions_are_waited_for_from_absence_to_the_end() {
    let server = ApiServer::start().await;
    let api: Api<Instance> = Api::default_namespaced(client(&server.kubeconfig).await);
    let waiting = tokio::spawn(await_condition(Api::clone(&api), "a", runs));
    made(&api, "a").await;
    assert!(!waiting.is_finished());
    server.put_status("a", running()).await;
    let seen = soon("running", waiting).await.expect("no panic").expect("watched").expect("an instance");
    assert_eq!(seen.status.expect("a status").node, "local");
    // Fulfilled already.
    soon("running", await_condition(api.clone(), "a", runs)).await.expect("watched");
    let uid = seen.metadata.uid.expect("a uid");
    let end = await_condition(api.clone(), "a", conditions::is_deleted(&uid));
    let delete = async {
        api.delete("a", &DeleteParams::default()).await.expect("begun");
        let freed = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        api.patch("a", &PatchParams::default(), &freed).await.expect("freed");
    };
    tokio::join!(soon("its end", end), delete).0.expect("watched");
}

/// One turn of a controller that cleans up.
async fn turn<K>(api: &Api<K>, name: &str) -> &'static str
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned + 'static,
{
    let mut did = "nothing";
    let object = Arc::new(api.get(name).await.expect("the object"));
    finalizer(api, CLEANUP, object, |event| {
        did = match event {
            Event::Apply(_) => "apply",
            Event::Cleanup(_) => "cleanup",
        };
        async { Ok::<_, Infallible>(Action::await_change()) }
    })
    .await
    .expect("a turn");
    did
}

#[tokio::test]
async fn a_finalizer_is_set_kept_and_taken_off() {
    let server = ApiServer::start().await;
    let client = client(&server.kubeconfig).await;
    // One that begins without finalizers, and one that has ours already.
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let map = serde_json::from_value(json!({"metadata": {"name": "c"}})).expect("a ConfigMap");
    maps.create(&PostParams::default(), &map).await.expect("made");
    assert_eq!(turn(&maps, "c").await, "nothing", "it claims the object first");
    assert_eq!(maps.get("c").await.expect("c").finalizers(), [CLEANUP]);
    assert_eq!(turn(&maps, "c").await, "apply");
    assert!(maps.delete("c", &DeleteParams::default()).await.expect("begun").is_left());
    assert_eq!(turn(&maps, "c").await, "cleanup");
    assert!(maps.get_opt("c").await.expect("an answer").is_none());

    let api: Api<Instance> = Api::default_namespaced(client);
    made(&api, "a").await;
    assert_eq!(turn(&api, "a").await, "nothing");
    assert_eq!(api.get("a").await.expect("a").finalizers(), ["portreeve.dev/container", CLEANUP]);
    api.delete("a", &DeleteParams::default()).await.expect("begun");
    assert_eq!(turn(&api, "a").await, "cleanup");
    assert_eq!(api.get("a").await.expect("a").finalizers(), ["portreeve.dev/container"]);
}

/// What a controller is given.
struct Context {
    api: Api<Instance>,
    seen: mpsc::Sender<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("the server: {0}")]
struct Failed(#[from] kube::Error);

/// Says in the status what the labels say in the spec.
async fn reconcile(object: Arc<Instance>, context: Arc<Context>) -> Result<Action, Failed> {
    let node = object.labels().get("node").cloned().unwrap_or_default();
    if object.status.as_ref().is_none_or(|s| s.node != node) {
        let status = InstanceStatus { phase: Phase::Running, node, ..Default::default() };
        let apply = Patch::Apply(json!({"apiVersion": "portreeve.dev/v1", "kind": "Instance", "status": status}));
        context.api.patch_status(&object.name_any(), &PatchParams::apply("test").force(), &apply).await?;
    }
    // A test that has ended hears no more.
    let _ = context.seen.send(object.name_any()).await;
    Ok(Action::await_change())
}

#[tokio::test]
async fn a_controller_brings_every_object_to_rest() {
    let server = ApiServer::start().await;
    let api: Api<Instance> = Api::default_namespaced(client(&server.kubeconfig).await);
    for name in ["a", "b", "c"] {
        made(&api, name).await;
    }
    let (seen, mut heard) = mpsc::channel(64);
    let context = Arc::new(Context { api: api.clone(), seen });
    let controller = Controller::new(api.clone(), watcher::Config::default().streaming_lists())
        .run(reconcile, |_, _: &Failed, _| Action::requeue(Duration::from_millis(50)), context)
        .for_each(|_| async {});
    let running = tokio::spawn(controller);
    let label = |node: &str| Patch::Merge(json!({"metadata": {"labels": {"node": node}}}));
    for name in ["a", "b", "c"] {
        api.patch(name, &PatchParams::default(), &label(&format!("node-{name}"))).await.expect("a label");
    }
    for name in ["a", "b", "c"] {
        let wanted = format!("node-{name}");
        let there = async {
            while api.get(name).await.expect("an instance").status.is_none_or(|s| s.node != wanted) {
                soon("a turn", heard.recv()).await.expect("it runs");
            }
        };
        soon(&wanted, there).await;
    }
    // At rest: nothing more is written.
    let before = server.store.revision();
    while tokio::time::timeout(GLANCE * 20, heard.recv()).await.is_ok() {}
    assert_eq!(server.store.revision(), before);
    running.abort();
}
