//! `delete` in its forms. There are no controllers here: the tests let go of an instance as its controller does.

use serde_json::{Value, json};

use super::harness::{ALICE, SETTINGS, Shell, has, play, scenarios};
use crate::support::api_server::{PATIENCE, instance, running};

#[tokio::test]
async fn remove() {
    play(scenarios![
        delete_by_name_waits_for_the_end,
        delete_without_waiting_leaves_it_terminating,
        delete_waits_no_longer_than_told,
        delete_from_a_file,
        delete_by_label,
        delete_all_of_a_kind,
        delete_a_missing_name,
        delete_with_each_cascade,
        delete_with_dependents,
        delete_at_once,
        delete_dry_runs_delete_nothing,
        delete_keeps_to_finalizers,
        delete_twice_is_the_same_deletion,
        delete_pods_by_label,
        delete_all_pods,
    ])
    .await;
}

async fn delete_by_name_waits_for_the_end(k: &Shell<'_>) {
    k.alice().await;
    has(&k.ok_while_finishing("delete inst alice", "", "alice").await, &["instance.portreeve.dev \"alice\" deleted"]);
    assert!(k.is_gone("instances/alice").await);
}

async fn delete_without_waiting_leaves_it_terminating(k: &Shell<'_>) {
    k.alice().await;
    k.ok("delete inst/alice --wait=false").await;
    let left = k.object("instances/alice").await;
    assert!(left["metadata"]["deletionTimestamp"].is_string(), "{left}");
    assert_eq!(left["metadata"]["generation"], 2, "deletion is a change");
    has(&k.ok("get inst alice").await, &["Terminating"]);
}

async fn delete_waits_no_longer_than_told(k: &Shell<'_>) {
    k.alice().await;
    has(&k.fails("delete inst alice --timeout=1s").await, &["timed out waiting for the condition on instances/alice"]);
    assert!(k.object("instances/alice").await["metadata"]["deletionTimestamp"].is_string());
}

async fn delete_from_a_file(k: &Shell<'_>) {
    let two = format!("{SETTINGS}---\n{ALICE}");
    k.ok_with("create -f -", &two).await;
    let said = k.ok_while_finishing("delete -f -", &two, "alice").await;
    has(&said, &["configmap \"settings\" deleted", "instance.portreeve.dev \"alice\" deleted"]);
    assert!(k.is_gone("instances/alice").await && k.is_gone("configmaps/settings").await);
}

async fn three(k: &Shell<'_>) {
    for (name, set) in [("a", "x"), ("b", "x"), ("c", "y")] {
        k.make(&json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "labels": {"set": set}}}))
            .await;
    }
}

async fn delete_by_label(k: &Shell<'_>) {
    three(k).await;
    assert_eq!(k.ok("delete cm -l set=x").await.lines().count(), 2);
    assert_eq!(k.names("configmaps").await, ["c"]);
    assert_eq!(k.ok("delete cm -l set=x").await, "No resources found\n");
    k.ok("delete cm --field-selector metadata.name=c").await;
    assert!(k.names("configmaps").await.is_empty());
}

async fn delete_all_of_a_kind(k: &Shell<'_>) {
    three(k).await;
    k.ok("create secret generic s --from-literal=a=b").await;
    has(
        &k.ok("delete cm,secret --all").await,
        &["configmap \"a\" deleted", "configmap \"c\" deleted", "secret \"s\" deleted"],
    );
    assert!(k.names("configmaps").await.is_empty() && k.names("secrets").await.is_empty());
    has(&k.fails("delete cm").await, &["resource(s) were provided, but no name was specified"]);
}

async fn delete_a_missing_name(k: &Shell<'_>) {
    three(k).await;
    let ran = k.run("delete cm a nothing", "").await;
    assert_eq!(ran.code, Some(1));
    has(&ran.err, &["Error from server (NotFound): configmaps \"nothing\" not found"]);
    assert_eq!(k.names("configmaps").await, ["b", "c"]);
    assert_eq!(k.ok("delete inst nobody --ignore-not-found").await, "");
    has(&k.fails("delete inst nobody").await, &["instances.portreeve.dev \"nobody\" not found"]);
}

async fn delete_with_each_cascade(k: &Shell<'_>) {
    three(k).await;
    for (name, cascade) in [("a", "background"), ("b", "foreground"), ("c", "orphan")] {
        k.ok(&format!("delete cm {name} --cascade={cascade} --timeout=10s")).await;
    }
    assert!(k.names("configmaps").await.is_empty());
    for cascade in ["foreground", "orphan"] {
        k.alice().await;
        k.ok_while_finishing(&format!("delete inst alice --cascade={cascade}"), "", "alice").await;
        assert!(k.is_gone("instances/alice").await, "{cascade}");
    }
}

/// Each owner with a ConfigMap that names it.
async fn delete_with_dependents(k: &Shell<'_>) {
    three(k).await;
    for name in ["a", "b", "c"] {
        let uid = k.object(&format!("configmaps/{name}")).await["metadata"]["uid"].clone();
        let owner =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "blockOwnerDeletion": true});
        let metadata = json!({"name": format!("{name}-child"), "ownerReferences": [owner]});
        k.make(&json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata})).await;
    }
    k.ok("delete cm a --cascade=orphan --timeout=20s").await;
    k.ok("delete cm b --cascade=foreground --timeout=20s").await;
    assert_eq!(
        k.names("configmaps").await,
        ["a-child", "c", "c-child"],
        "one is left alone, one goes before its owner"
    );
    assert!(k.object("configmaps/a-child").await["metadata"]["ownerReferences"].is_null());
    k.ok("delete cm c").await;
    k.ok("wait --for=delete cm/c-child --timeout=20s").await;
    assert_eq!(k.names("configmaps").await, ["a-child"]);
}

async fn delete_at_once(k: &Shell<'_>) {
    three(k).await;
    k.ok("delete cm a --now").await;
    k.ok("delete cm b --grace-period=5").await;
    k.ok("delete cm c --force --grace-period=0").await;
    assert!(k.names("configmaps").await.is_empty());
}

async fn delete_dry_runs_delete_nothing(k: &Shell<'_>) {
    k.alice().await;
    let before = k.object("instances/alice").await;
    // Newer ones name the namespace between the two.
    has(&k.ok("delete inst alice --dry-run=server").await, &["\"alice\" deleted", "(server dry run)"]);
    has(&k.ok("delete inst alice --dry-run=client").await, &["\"alice\" deleted", "(dry run)"]);
    has(&k.ok("delete inst --all --dry-run=server").await, &["\"alice\" deleted", "(server dry run)"]);
    assert_eq!(k.object("instances/alice").await, before);
}

async fn delete_keeps_to_finalizers(k: &Shell<'_>) {
    k.ok_with("create -f -", &SETTINGS.replace("labels:", "finalizers: [example.com/hold], labels:")).await;
    k.ok("delete cm settings --wait=false").await;
    assert!(k.object("configmaps/settings").await["metadata"]["deletionTimestamp"].is_string());
    let more =
        "patch cm settings --type=merge -p {\"metadata\":{\"finalizers\":[\"example.com/hold\",\"example.com/more\"]}}";
    has(&k.fails(more).await, &["metadata.finalizers", "Forbidden"]);
    k.ok("patch cm settings --type=json -p [{\"op\":\"remove\",\"path\":\"/metadata/finalizers\"}]").await;
    assert!(k.is_gone("configmaps/settings").await);
}

async fn delete_twice_is_the_same_deletion(k: &Shell<'_>) {
    k.alice().await;
    k.ok("delete inst alice --wait=false").await;
    let before = k.object("instances/alice").await;
    k.ok("delete inst alice --wait=false").await;
    assert_eq!(k.object("instances/alice").await, before);
}

/// Instances `a` and `b` of set `x` and `c` of set `y`, which run, and `d` of `x`, which has no container.
async fn four_instances(k: &Shell<'_>) {
    for (name, set) in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "x")] {
        let mut object = instance(name);
        object["metadata"]["labels"] = json!({"set": set});
        k.make(&object).await;
        if name != "d" {
            k.status(name, running()).await;
        }
    }
}

/// A command that deletes these Pods, in this order, and waits until their containers are made anew, as their controller
/// does.
async fn delete_pods(k: &Shell<'_>, line: &str, names: &[&str]) {
    let mut delete = k.start(&format!("{line} -v=6"));
    for name in names {
        delete.line_with(&format!("pod \"{name}\" deleted")).await;
    }
    for name in names {
        // kubectl looks at each Pod, and then lists it and watches. One that is made anew between the two it waits for
        // for ever, with any server.
        delete.error_with(&["watch=true", &format!("fieldSelector=metadata.name%3D{name}")]).await;
        let marked = k.object(&format!("instances/{name}")).await;
        assert!(marked["metadata"]["annotations"]["portreeve.dev/recreate"].is_string(), "{marked}");
        let mut anew = running();
        anew["containerID"] = "beef".into();
        k.status(name, anew).await;
    }
    let ended = tokio::time::timeout(PATIENCE, delete.child.wait()).await.expect("it ended in time");
    assert!(ended.expect("an exit code").success(), "{line}");
}

/// The names and uids of the Pods.
async fn pods(k: &Shell<'_>) -> Vec<(Value, Value)> {
    let list = k.object("pods").await;
    let items = list["items"].as_array().expect("items");
    items.iter().map(|p| (p["metadata"]["name"].clone(), p["metadata"]["uid"].clone())).collect()
}

async fn delete_pods_by_label(k: &Shell<'_>) {
    four_instances(k).await;
    let before = pods(k).await;
    delete_pods(k, "delete pods -l set=x", &["a", "b"]).await;
    let after = pods(k).await;
    assert_eq!(after.len(), 3);
    let same: Vec<_> = after.iter().zip(&before).map(|(now, then)| now == then).collect();
    assert_eq!(same, [false, false, true], "{before:?} became {after:?}");
    for name in ["a", "b", "c", "d"] {
        let meta = k.object(&format!("instances/{name}")).await["metadata"].clone();
        assert!(meta["deletionTimestamp"].is_null(), "{meta}");
        assert_eq!(meta["annotations"].is_null(), ["c", "d"].contains(&name), "{meta}");
    }
}

async fn delete_all_pods(k: &Shell<'_>) {
    four_instances(k).await;
    let before = pods(k).await;
    delete_pods(k, "delete pods --all", &["a", "b", "c"]).await;
    let after = pods(k).await;
    assert!(after.iter().zip(&before).all(|(now, then)| now.0 == then.0 && now.1 != then.1), "{before:?}: {after:?}");
    assert_eq!(k.names("instances").await, ["a", "b", "c", "d"]);
}
