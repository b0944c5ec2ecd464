//! Verbs that change desired state and wait for the status to follow. The test plays the controller.

use serde_json::{Value, json};

use super::objects::{against, fails, said, stored};
use super::*;
use crate::support::api_server::{ApiServer, PATIENCE, instance, running};

/// A server with one instance, whose status is given.
async fn server_with(status: Value) -> ApiServer {
    let server = ApiServer::start().await;
    let output = against(&server, &["apply", "-f", "-"], &instance("alice").to_string()).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    server.put_status("alice", status).await;
    server
}

fn at_rest(phase: &str) -> Value {
    json!({
        "phase": phase, "containerID": "c0ffee", "observedGeneration": 9,
        "conditions": [{"type": "Ready", "status": "False", "message": "wakes on the next request", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    })
}

fn serving(container: &str, image: &str) -> Value {
    let mut status = running();
    status["containerID"] = json!(container);
    status["observedGeneration"] = json!(9);
    status["image"] = json!({"reference": image});
    status
}

/// Plays the controller: once the stored instance is as asked, its status becomes this.
async fn follow(server: &ApiServer, asked: impl Fn(&Value) -> bool, status: Value) {
    let key = portreeve::model::Key::instance("default", "alice").to_string();
    let mut watch = server.store.watch("instances/", server.store.revision()).await.expect("a watch");
    let change = async {
        loop {
            let record = server.store.get(&key).await.expect("a read").expect("the instance");
            let object: Value = serde_json::from_slice(&record.value).expect("JSON");
            if asked(&object) {
                return;
            }
            watch.next().await.expect("a change");
        }
    };
    tokio::time::timeout(PATIENCE, change).await.expect("the command asks for it");
    server.put_status("alice", status).await;
}

fn annotated(object: &Value, annotation: &str) -> bool {
    object["metadata"]["annotations"][annotation].is_string()
}

#[tokio::test]
async fn waking_ends_when_the_instance_serves() {
    let server = server_with(at_rest("Asleep")).await;
    let (said, ()) = tokio::join!(
        said(&server, &["wake", "alice"]),
        follow(&server, |o| annotated(o, portreeve::model::WAKE_ANNOTATION), serving("c0ffee", "app:1"))
    );
    assert_eq!(said, "instance.portreeve.dev/alice awake\n");
}

#[tokio::test]
async fn sleep_names_the_run_that_is_to_end_and_waits_for_it() {
    let mut awake = serving("c0ffee", "app:1");
    awake["startedAt"] = json!("2026-01-01T00:00:00Z");
    let server = server_with(awake).await;
    let mark = |o: &Value| o["metadata"]["annotations"][portreeve::model::SLEEP_ANNOTATION].clone();
    let (slept, ()) = tokio::join!(
        said(&server, &["sleep", "alice"]),
        follow(&server, |o| mark(o) == "c0ffee 2026-01-01T00:00:00Z", at_rest("Asleep"))
    );
    assert_eq!(slept, "instance.portreeve.dev/alice asleep\n");
    said(&server, &["wake", "alice", "--wait=false"]).await;
    assert_eq!(mark(&stored(&server, "alice").await), Value::Null, "who wakes it does not want it asleep");
    said(&server, &["sleep", "alice"]).await;
    assert_eq!(mark(&stored(&server, "alice").await), Value::Null, "it sleeps already");

    for (power, word) in
        [("Running", "never sleeps (spec.power: Running)"), ("Stopped", "never sleeps (spec.power: Stopped)")]
    {
        let patch = json!({"spec": {"power": power}});
        server.client.merge(&format!("{}/alice", crate::support::client::INSTANCES), &patch).await.expect(200);
        let (code, errors) = fails(&server, &["sleep", "alice"], "").await;
        assert!(code == 1 && errors.contains(word), "{errors}");
    }
    let (code, errors) = fails(&server, &["sleep", "nobody"], "").await;
    assert!(code == 1 && errors.contains("not found"), "{errors}");
}

#[tokio::test]
async fn a_wait_that_is_too_long_exits_with_124_and_the_last_status() {
    let server = server_with(at_rest("Asleep")).await;
    let (code, errors) = fails(&server, &["wake", "alice", "--timeout", "300ms"], "").await;
    assert_eq!(code, 124);
    assert_eq!(
        errors,
        "error: timed out after 0.3s waiting for instance.portreeve.dev/alice: Asleep: wakes on the next request\n"
    );
}

#[tokio::test]
async fn a_stopped_instance_is_started_and_not_woken() {
    let server = server_with(serving("c0ffee", "app:1")).await;
    let (stopped, ()) = tokio::join!(
        said(&server, &["stop", "alice"]),
        follow(&server, |o| o["spec"]["power"] == "Stopped", at_rest("Stopped"))
    );
    assert_eq!(stopped, "instance.portreeve.dev/alice stopped\n");
    for verb in ["wake", "restart"] {
        let (code, errors) = fails(&server, &[verb, "alice"], "").await;
        assert!(code == 1 && errors.contains("portreeve start alice"), "{errors}");
    }
    let (started, ()) = tokio::join!(
        said(&server, &["start", "alice"]),
        follow(&server, |o| o["spec"]["power"] == "Auto", serving("c0ffee", "app:1"))
    );
    assert_eq!(started, "instance.portreeve.dev/alice started\n");
}

#[tokio::test]
async fn a_restart_ends_with_another_container() {
    let server = server_with(serving("c0ffee", "app:1")).await;
    let (code, errors) = fails(&server, &["restart", "alice", "--timeout", "300ms"], "").await;
    assert!(code == 124 && errors.contains("Running"), "the old container does not count: {errors}");
    let asked = |o: &Value| o["metadata"]["annotations"][portreeve::model::RESTART_ANNOTATION].clone();
    let first = asked(&stored(&server, "alice").await);
    assert!(first.is_string());
    let (said, ()) = tokio::join!(
        said(&server, &["restart", "alice"]),
        follow(&server, |o| asked(o) != first, serving("beef", "app:1"))
    );
    assert_eq!(said, "instance.portreeve.dev/alice restarted\n");
}

#[tokio::test]
async fn an_upgrade_ends_with_the_new_image() {
    let server = server_with(serving("c0ffee", "app:1")).await;
    let (said, ()) = tokio::join!(
        said(&server, &["upgrade", "alice", "--image", "app:2"]),
        follow(&server, |o| o["spec"]["image"] == "app:2", serving("beef", "app:2"))
    );
    assert_eq!(said, "instance.portreeve.dev/alice upgraded\n");
    let (code, errors) = fails(&server, &["upgrade", "alice", "--image", "a b"], "").await;
    assert!(code == 1 && errors.contains("spec.image"), "{errors}");
}

#[tokio::test]
async fn applying_with_wait_ends_when_the_spec_is_in_force() {
    let server = ApiServer::start().await;
    let manifest = instance("alice").to_string();
    let (code, errors) = fails(&server, &["apply", "-f", "-", "--wait", "--timeout", "300ms"], &manifest).await;
    assert!(code == 124 && errors.contains("Pending"), "{errors}");
    let (output, ()) = tokio::join!(
        against(&server, &["apply", "-f", "-", "--wait"], &manifest),
        follow(&server, |_| true, serving("c0ffee", "app:1"))
    );
    assert_eq!(stdout(&output), "instance.portreeve.dev/alice unchanged\n");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[tokio::test]
async fn waiting_for_a_goal_ends_at_the_goal() {
    let server = server_with(at_rest("Asleep")).await;
    let (met, ()) = tokio::join!(
        said(&server, &["wait", "inst/alice", "--for", "condition=Ready"]),
        follow(&server, |_| true, serving("c0ffee", "app:1"))
    );
    assert_eq!(met, "instance.portreeve.dev/alice condition met\n");
    assert!(said(&server, &["wait", "inst/alice", "--for", "jsonpath={.status.phase}=Running"]).await.contains("met"));
    let (code, _) = fails(&server, &["wait", "inst/alice", "--for", "delete", "--timeout", "300ms"], "").await;
    assert_eq!(code, 124);
    assert!(said(&server, &["wait", "inst/bob", "--for", "delete"]).await.contains("met"));
    let (code, errors) = fails(&server, &["wait", "inst/bob", "--for", "condition=Ready"], "").await;
    assert!(code == 1 && errors.contains("does not exist"), "{errors}");
}
