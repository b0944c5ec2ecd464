//! Following changes: `get -w` in its forms, `wait`, and `events -w`.

use serde_json::json;

use super::harness::{ALICE, Shell, has, play, scenarios};
use crate::support::api_server::running;

#[tokio::test]
async fn watching() {
    play(scenarios![
        watch_a_list,
        watch_only_what_comes,
        watch_one_name_with_event_types,
        watch_by_label_sees_entering_and_leaving,
        watch_as_json,
        watch_events_as_json,
        watch_pods_sees_each_container,
        events_are_followed,
        wait_for_a_condition,
        wait_for_a_false_condition,
        wait_for_a_condition_of_this_generation,
        wait_for_a_pod,
        wait_for_all_of_a_selector,
        wait_for_a_jsonpath,
        wait_for_deletion,
        wait_for_creation,
        wait_times_out,
        wait_for_a_missing_name_fails,
    ])
    .await;
}

async fn watch_a_list(k: &Shell<'_>) {
    k.alice().await;
    let mut watch = k.start("get inst -w");
    watch.line_with("Pending").await;
    k.status("alice", json!({"phase": "Running"})).await;
    watch.line_with("Running").await;
    k.ok_with("create -f -", &ALICE.replace("alice", "bob")).await;
    watch.line_with("bob").await;
}

async fn watch_only_what_comes(k: &Shell<'_>) {
    k.alice().await;
    let mut watch = k.start("get inst --watch-only --output-watch-events --no-headers");
    // That the watch has begun can only be seen by its first event.
    let first = async {
        for n in 0.. {
            k.status("alice", json!({"phase": "Starting", "restarts": n})).await;
            // A kubectl takes a while to begin.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let line = tokio::select! { line = watch.line_with("alice") => line, () = first => unreachable!() };
    has(&line, &["MODIFIED", "Starting"]);
    k.ok_with("create -f -", &ALICE.replace("alice", "bob")).await;
    has(&watch.line_with("bob").await, &["ADDED"]);
}

async fn events_are_followed(k: &Shell<'_>) {
    let event = |name: &str, text: &str| {
        json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "reason": "Told", "type": "Normal", "message": text,
            "involvedObject": {"kind": "Instance", "apiVersion": "portreeve.dev/v1", "name": "alice", "namespace": k.namespace},
            "lastTimestamp": "2026-01-01T00:00:00Z",
        })
    };
    k.make(&event("first", "what was")).await;
    let mut watch = k.start("events -w --for instance/alice");
    watch.line_with("what was").await;
    k.make(&event("second", "what comes")).await;
    has(&watch.line_with("what comes").await, &["Normal", "Told", "Instance/alice"]);
}

async fn watch_one_name_with_event_types(k: &Shell<'_>) {
    k.alice().await;
    let mut watch = k.start("get inst alice -w --output-watch-events");
    has(&watch.line_with("alice").await, &["ADDED", "Pending"]);
    k.ok("label inst alice seen=yes").await;
    has(&watch.line_with("alice").await, &["MODIFIED"]);
    k.ok_while_finishing("delete inst alice", "", "alice").await;
    watch.line_with("DELETED").await;
}

async fn watch_by_label_sees_entering_and_leaving(k: &Shell<'_>) {
    k.alice().await;
    let mut watch = k.start("get inst -l tier=free -w --output-watch-events");
    watch.line_with("ADDED").await;
    k.ok("label inst alice tier=paid --overwrite").await;
    watch.line_with("DELETED").await;
    k.ok("label inst alice tier=free --overwrite").await;
    watch.line_with("ADDED").await;
}

async fn watch_as_json(k: &Shell<'_>) {
    k.alice().await;
    let mut watch = k.start("get inst -w -o jsonpath={.metadata.name}={.spec.image}{\"\\n\"}");
    assert_eq!(watch.line_with("alice").await, "alice=app:1");
    k.ok("patch inst alice --type=merge -p {\"spec\":{\"image\":\"app:2\"}}").await;
    assert_eq!(watch.line_with("alice").await, "alice=app:2");
}

async fn watch_events_as_json(k: &Shell<'_>) {
    k.alice().await;
    let mut watch =
        k.start("get inst -w --output-watch-events -o jsonpath={.type}/{.object.kind}/{.object.spec.image}{\"\\n\"}");
    assert_eq!(watch.line_with("Instance").await, "ADDED/Instance/app:1");
    k.ok("patch inst alice --type=merge -p {\"spec\":{\"image\":\"app:2\"}}").await;
    assert_eq!(watch.line_with("Instance").await, "MODIFIED/Instance/app:2");
}

async fn watch_pods_sees_each_container(k: &Shell<'_>) {
    k.alice().await;
    let mut watch = k.start("get pods -w --output-watch-events --no-headers");
    k.status("alice", running()).await;
    has(&watch.line_with("alice").await, &["ADDED", "1/1", "Running"]);
    let mut anew = running();
    anew["containerID"] = "beef".into();
    k.status("alice", anew).await;
    has(&watch.line_with("alice").await, &["DELETED"]);
    has(&watch.line_with("alice").await, &["ADDED", "1/1", "Running"]);
    k.status("alice", json!({"containerID": null})).await;
    has(&watch.line_with("alice").await, &["DELETED"]);
}

fn ready(status: &str) -> serde_json::Value {
    json!({"conditions": [{"type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
}

async fn wait_for_a_condition(k: &Shell<'_>) {
    k.alice().await;
    let mut wait = k.start("wait inst/alice --for=condition=Ready --timeout=15s");
    k.status("alice", ready("False")).await;
    k.status("alice", ready("True")).await;
    assert_eq!(wait.line_with("alice").await, "instance.portreeve.dev/alice condition met");
    assert!(wait.child.wait().await.expect("it ended").success());
}

async fn wait_for_a_false_condition(k: &Shell<'_>) {
    k.alice().await;
    k.status("alice", ready("False")).await;
    has(&k.ok("wait inst/alice --for=condition=Ready=False --timeout=15s").await, &["condition met"]);
}

async fn wait_for_a_condition_of_this_generation(k: &Shell<'_>) {
    k.alice().await;
    // What the status as a whole speaks of, and what its condition does.
    let seen = |status: u64, condition: u64| {
        let mut seen = ready("True");
        seen["observedGeneration"] = status.into();
        seen["conditions"][0]["observedGeneration"] = condition.into();
        seen
    };
    k.status("alice", seen(1, 1)).await;
    k.ok("wait inst/alice --for=condition=Ready --timeout=15s").await;
    k.ok("patch inst alice --type=merge -p {\"spec\":{\"image\":\"app:2\"}}").await;
    let mut wait = k.start("wait inst/alice --for=condition=Ready --timeout=60s");
    for behind in [seen(1, 1), seen(2, 1)] {
        k.status("alice", behind).await;
        // Another that has looked and given up: meanwhile the first has not seen its condition either.
        has(&k.fails("wait inst/alice --for=condition=Ready --timeout=1s").await, &["timed out waiting"]);
        assert!(wait.child.try_wait().expect("it is known").is_none(), "it took an old condition for a new one");
    }
    k.status("alice", seen(2, 2)).await;
    assert_eq!(wait.line_with("alice").await, "instance.portreeve.dev/alice condition met");
}

async fn wait_for_a_pod(k: &Shell<'_>) {
    k.alice().await;
    has(&k.fails("wait pod/alice --for=condition=Ready --timeout=5s").await, &["pods \"alice\" not found"]);
    let mut starting = running();
    starting["conditions"][0]["status"] = "False".into();
    k.status("alice", starting).await;
    let mut wait = k.start("wait pods -l tier=free --for=condition=Ready --timeout=60s");
    has(&k.fails("wait pod/alice --for=condition=Ready --timeout=1s").await, &["timed out waiting"]);
    assert!(wait.child.try_wait().expect("it is known").is_none(), "the Pod was not ready");
    k.status("alice", running()).await;
    assert_eq!(wait.line_with("alice").await, "pod/alice condition met");
}

async fn wait_for_all_of_a_selector(k: &Shell<'_>) {
    k.alice().await;
    k.ok_with("create -f -", &ALICE.replace("alice", "bob")).await;
    for name in ["alice", "bob"] {
        k.status(name, ready("True")).await;
    }
    assert_eq!(k.ok("wait inst -l tier=free --for=condition=Ready --timeout=15s").await.lines().count(), 2);
    assert_eq!(k.ok("wait inst --all --for=condition=Ready --timeout=15s").await.lines().count(), 2);
}

async fn wait_for_a_jsonpath(k: &Shell<'_>) {
    k.alice().await;
    let mut wait = k.start("wait inst/alice --for=jsonpath={.status.phase}=Running --timeout=15s");
    k.status("alice", json!({"phase": "Running"})).await;
    wait.line_with("condition met").await;
}

async fn wait_for_deletion(k: &Shell<'_>) {
    k.alice().await;
    k.ok("delete inst alice --wait=false").await;
    // It may find the instance gone at once, and says nothing then.
    tokio::join!(k.ok("wait inst/alice --for=delete --timeout=15s"), k.finish("alice"));
    assert!(k.is_gone("instances/alice").await);
    assert_eq!(k.ok("wait inst/alice --for=delete --timeout=15s").await, "");
}

async fn wait_for_creation(k: &Shell<'_>) {
    if k.minor < 31 {
        k.fails("wait inst/alice --for=create --timeout=1s").await;
        return;
    }
    let mut wait = k.start("wait inst/alice --for=create --timeout=15s");
    k.alice().await;
    wait.line_with("condition met").await;
}

async fn wait_times_out(k: &Shell<'_>) {
    k.alice().await;
    let error = k.fails("wait inst/alice --for=condition=Ready --timeout=1s").await;
    has(&error, &["timed out waiting for the condition on instances/alice"]);
}

async fn wait_for_a_missing_name_fails(k: &Shell<'_>) {
    let error = k.fails("wait inst/nobody --for=condition=Ready --timeout=5s").await;
    has(&error, &["instances.portreeve.dev \"nobody\" not found"]);
}
