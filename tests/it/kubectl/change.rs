//! What changes one object: `replace`, `edit`, `patch`, `label`, `annotate`, `scale`.

use serde_json::{Value, json};

use super::harness::{ALICE, SETTINGS, Shell, has, play, scenarios};

#[tokio::test]
async fn change() {
    play(scenarios![
        replace_puts_the_whole,
        replace_of_nothing_is_not_found,
        replace_with_a_stale_version_conflicts,
        replace_by_force_makes_anew,
        edit_changes_what_the_editor_changed,
        edit_without_a_change_is_cancelled,
        edit_keeps_what_is_refused,
        patch_merge,
        patch_json,
        patch_json_test_fails,
        patch_strategic_is_refused_for_own_kinds,
        patch_strategic_for_core_kinds,
        patch_refuses_what_is_wrong,
        patch_status_apart,
        patch_from_a_file_and_dry,
        label_sets_overwrites_and_removes,
        label_with_a_stale_version_conflicts,
        label_all_and_by_selector,
        annotate_sets_overwrites_and_removes,
        annotate_all_and_by_selector,
        scale_stops_and_starts,
        scale_with_preconditions,
        scale_refuses_more_than_one,
    ])
    .await;
}

async fn replace_puts_the_whole(k: &Shell<'_>) {
    k.alice().await;
    k.ok("patch inst alice --type=merge -p {\"spec\":{\"owner\":\"bob\"}}").await;
    assert_eq!(
        k.ok_with("replace -f -", &ALICE.replace("app:1", "app:2")).await,
        "instance.portreeve.dev/alice replaced\n"
    );
    let spec = k.object("instances/alice").await["spec"].clone();
    assert_eq!((&spec["image"], spec.get("owner")), (&json!("app:2"), None));
}

async fn replace_of_nothing_is_not_found(k: &Shell<'_>) {
    has(&k.fails_with("replace -f -", ALICE).await, &["(NotFound)", "instances.portreeve.dev \"alice\" not found"]);
    assert!(k.names("instances").await.is_empty());
}

async fn replace_with_a_stale_version_conflicts(k: &Shell<'_>) {
    k.alice().await;
    let stale = k.ok("get inst alice -o json").await;
    k.ok("patch inst alice --type=merge -p {\"spec\":{\"owner\":\"bob\"}}").await;
    let error = k.fails_with("replace -f -", &stale).await;
    has(
        &error,
        &[
            "(Conflict)",
            "Operation cannot be fulfilled on instances.portreeve.dev \"alice\": the object has been modified",
        ],
    );
    assert_eq!(k.object("instances/alice").await["spec"]["owner"], "bob");
}

async fn replace_by_force_makes_anew(k: &Shell<'_>) {
    k.alice().await;
    let before = k.object("instances/alice").await["metadata"]["uid"].clone();
    k.file("alice.yaml", &ALICE.replace("app:1", "app:2"));
    let said = k.ok_while_finishing("replace --force -f alice.yaml", "", "alice").await;
    has(&said, &["\"alice\" deleted", "instance.portreeve.dev/alice replaced"]);
    let after = k.object("instances/alice").await;
    assert_ne!(after["metadata"]["uid"], before);
    assert_eq!((&after["spec"]["image"], &after["metadata"]["generation"]), (&json!("app:2"), &json!(1)));
}

async fn edit_changes_what_the_editor_changed(k: &Shell<'_>) {
    k.alice().await;
    let ran = k.edit("s/app:1/app:2/", "inst alice").await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "instance.portreeve.dev/alice edited\n"), "{ran:?}");
    assert_eq!(k.object("instances/alice").await["spec"]["image"], "app:2");
    k.ok_with("create -f -", SETTINGS).await;
    let ran = k.edit("s/dark/light/", "cm settings -o json").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    has(&ran.out, &["\"mode\": \"light\""]);
    assert_eq!(k.object("configmaps/settings").await["data"], json!({"mode": "light", "size": "4"}));
}

async fn edit_without_a_change_is_cancelled(k: &Shell<'_>) {
    k.alice().await;
    let before = k.object("instances/alice").await;
    let ran = k.edit("s/nothing/else/", "inst alice").await;
    assert_eq!(ran.code, Some(0));
    has(&format!("{}{}", ran.out, ran.err), &["Edit cancelled, no changes made"]);
    assert_eq!(k.object("instances/alice").await, before);
}

async fn edit_keeps_what_is_refused(k: &Shell<'_>) {
    k.alice().await;
    let before = k.object("instances/alice").await;
    let ran = k.edit("s/8080/70000/", "inst alice").await;
    assert_eq!(ran.code, Some(1));
    has(&ran.err, &["instances.portreeve.dev \"alice\" is invalid", "A copy of your changes has been stored to"]);
    let kept = std::fs::read_dir(&k.dir).expect("a directory").flatten().map(|e| e.path());
    let kept = kept.filter(|p| p.extension().is_some_and(|e| e == "yaml"));
    let kept: String = kept.map(|p| std::fs::read_to_string(p).expect("a copy")).collect();
    has(&kept, &["spec.ports[0].containerPort", "containerPort: 70000"]);
    assert_eq!(k.object("instances/alice").await, before);
}

async fn patch_merge(k: &Shell<'_>) {
    k.alice().await;
    let patch = "patch inst alice --type=merge -p {\"spec\":{\"owner\":\"bob\",\"resources\":null}}";
    assert_eq!(k.ok(patch).await, "instance.portreeve.dev/alice patched\n");
    assert_eq!(k.ok(patch).await, "instance.portreeve.dev/alice patched (no change)\n");
    let after = k.object("instances/alice").await;
    assert_eq!((&after["spec"]["owner"], after["spec"].get("resources")), (&json!("bob"), None));
    assert_eq!(after["metadata"]["generation"], 2);
    has(&k.fails("patch inst nobody --type=merge -p {}").await, &["\"nobody\" not found"]);
}

async fn patch_json(k: &Shell<'_>) {
    k.alice().await;
    let operations = json!([{"op": "test", "path": "/spec/image", "value": "app:1"},
                            {"op": "replace", "path": "/spec/image", "value": "app:2"},
                            {"op": "add", "path": "/spec/ports/-", "value": {"name": "api", "containerPort": 81}},
                            {"op": "move", "from": "/metadata/labels/tier", "path": "/metadata/labels/level"}]);
    k.ok(&format!("patch inst alice --type=json -p '{operations}'")).await;
    let after = k.object("instances/alice").await;
    assert_eq!((&after["spec"]["image"], &after["spec"]["ports"][1]["name"]), (&json!("app:2"), &json!("api")));
    assert_eq!(after["metadata"]["labels"], json!({"level": "free"}));
}

async fn patch_json_test_fails(k: &Shell<'_>) {
    k.alice().await;
    let before = k.object("instances/alice").await;
    let operations = r#"[{"op":"remove","path":"/spec/ports"},{"op":"test","path":"/spec/image","value":"no"}]"#;
    has(&k.fails(&format!("patch inst alice --type=json -p {operations}")).await, &["is invalid", "/spec/image"]);
    has(&k.fails(r#"patch inst alice --type=json -p [{"op":"remove","path":"/spec/none"}]"#).await, &["is invalid"]);
    assert_eq!(k.object("instances/alice").await, before);
}

async fn patch_strategic_is_refused_for_own_kinds(k: &Shell<'_>) {
    k.alice().await;
    let before = k.object("instances/alice").await;
    for line in ["patch inst alice -p {\"spec\":{\"owner\":\"x\"}}", "patch inst alice --type=strategic -p {}"] {
        has(&k.fails(line).await, &["is not supported by portreeve.dev/v1, Kind=Instance"]);
    }
    assert_eq!(k.object("instances/alice").await, before);
}

async fn patch_strategic_for_core_kinds(k: &Shell<'_>) {
    k.ok_with("create -f -", SETTINGS).await;
    k.ok("patch cm settings -p {\"data\":{\"mode\":null,\"new\":\"x\"}}").await;
    assert_eq!(k.object("configmaps/settings").await["data"], json!({"size": "4", "new": "x"}));
    k.ok("patch cm settings -p {\"data\":{\"$patch\":\"replace\",\"only\":\"y\"}}").await;
    assert_eq!(k.object("configmaps/settings").await["data"], json!({"only": "y"}));
    k.ok("patch cm settings -p {\"metadata\":{\"finalizers\":[\"a.b/c\"]}}").await;
    k.ok("patch cm settings -p {\"metadata\":{\"$deleteFromPrimitiveList/finalizers\":[\"a.b/c\"]}}").await;
    assert_eq!(k.object("configmaps/settings").await["metadata"].get("finalizers"), None::<&Value>);
}

async fn patch_refuses_what_is_wrong(k: &Shell<'_>) {
    k.alice().await;
    let before = k.object("instances/alice").await;
    let error = k.fails("patch inst alice --type=merge -p {\"spec\":{\"image\":5}}").await;
    has(
        &error,
        &["The Instance \"alice\" is invalid: spec.image: Invalid value: \"integer\"", "must be of type string"],
    );
    let ran = k.run("patch inst alice --type=merge -p {\"spec\":{\"imagge\":\"x\"}}", "").await;
    has(&ran.err, &["Warning: unknown field \"spec.imagge\""]);
    let error = k.fails("patch inst alice --type=merge -p {\"metadata\":{\"name\":\"bob\"}}").await;
    has(&error, &["(BadRequest)", "the name of the object (bob) does not match the name on the URL (alice)"]);
    has(&k.fails("patch inst alice --type=merge -p {\"metadata\":{\"resourceVersion\":\"1\"}}").await, &["(Conflict)"]);
    assert_eq!(k.object("instances/alice").await, before);
}

async fn patch_status_apart(k: &Shell<'_>) {
    k.alice().await;
    k.ok("patch inst alice --type=merge -p {\"status\":{\"phase\":\"Running\"}}").await;
    assert_ne!(k.object("instances/alice").await["status"]["phase"], "Running");
    k.ok("patch inst alice --subresource=status --type=merge -p {\"status\":{\"phase\":\"Running\"},\"spec\":{\"image\":\"x\"}}").await;
    let after = k.object("instances/alice").await;
    assert_eq!((&after["status"]["phase"], &after["spec"]["image"]), (&json!("Running"), &json!("app:1")));
}

async fn patch_from_a_file_and_dry(k: &Shell<'_>) {
    k.alice().await;
    k.file("patch.yaml", "spec: {owner: bob}\n");
    let dry =
        k.ok("patch inst alice --type=merge --patch-file=patch.yaml --dry-run=server -o jsonpath={.spec.owner}").await;
    assert_eq!((dry.as_str(), k.object("instances/alice").await["spec"].get("owner")), ("bob", None));
    k.ok("patch inst alice --type=merge --patch-file=patch.yaml").await;
    assert_eq!(k.object("instances/alice").await["spec"]["owner"], "bob");
}

async fn label_sets_overwrites_and_removes(k: &Shell<'_>) {
    k.alice().await;
    assert_eq!(k.ok("label inst alice a=b").await, "instance.portreeve.dev/alice labeled\n");
    has(&k.fails("label inst alice a=c").await, &["'a' already has a value (b), and --overwrite is false"]);
    k.ok("label inst alice a=c tier- --overwrite").await;
    let after = k.object("instances/alice").await;
    assert_eq!((&after["metadata"]["labels"], &after["metadata"]["generation"]), (&json!({"a": "c"}), &json!(1)));
    assert_eq!(k.ok("label inst alice --list").await, "a=c\n");
    has(&k.fails("label inst alice 'a=not good'").await, &["a valid label"]);
}

async fn label_with_a_stale_version_conflicts(k: &Shell<'_>) {
    k.alice().await;
    let version = k.ok("get inst alice -o jsonpath={.metadata.resourceVersion}").await;
    k.ok(&format!("label inst alice a=b --resource-version={version}")).await;
    let error = k.fails(&format!("label inst alice a=c --overwrite --resource-version={version}")).await;
    has(&error, &["(Conflict)", "the object has been modified"]);
    assert_eq!(k.object("instances/alice").await["metadata"]["labels"]["a"], "b");
}

async fn label_all_and_by_selector(k: &Shell<'_>) {
    k.alice().await;
    k.ok_with("create -f -", &ALICE.replace("alice", "bob").replace("free", "paid")).await;
    assert_eq!(k.ok("label inst --all all=yes").await.lines().count(), 2);
    k.ok("label inst -l tier=paid one=yes").await;
    assert_eq!(k.ok("get inst -l all=yes,one=yes -o name").await, "instance.portreeve.dev/bob\n");
    k.ok("label inst --all dry=yes --dry-run=server").await;
    assert_eq!(k.ok("get inst -l dry -o name").await, "");
}

async fn annotate_sets_overwrites_and_removes(k: &Shell<'_>) {
    k.alice().await;
    // 1.27 says "annotate".
    has(&k.ok("annotate inst alice note='two words'").await, &["instance.portreeve.dev/alice annotate"]);
    has(&k.fails("annotate inst alice note=x").await, &["already has a value (two words)"]);
    k.ok("annotate inst alice note=x other=y --overwrite").await;
    k.ok("annotate inst alice other-").await;
    let after = k.object("instances/alice").await;
    assert_eq!(
        (&after["metadata"]["annotations"], &after["metadata"]["generation"]),
        (&json!({"note": "x"}), &json!(1))
    );
}

async fn annotate_all_and_by_selector(k: &Shell<'_>) {
    k.alice().await;
    k.ok_with("create -f -", &ALICE.replace("alice", "bob").replace("free", "paid")).await;
    assert_eq!(k.ok("annotate inst --all note=x").await.lines().count(), 2);
    has(&k.fails("annotate inst --all note=y").await, &["already has a value (x)"]);
    k.ok("annotate inst -l tier=paid note=y --overwrite").await;
    let notes = "get inst -o jsonpath={.items[*].metadata.annotations.note}";
    assert_eq!(k.ok(notes).await, "x y");
    k.ok("annotate inst --all note- --dry-run=server").await;
    assert_eq!(k.ok(notes).await, "x y");
    k.ok("annotate inst --all note-").await;
    assert_eq!(k.ok(notes).await, "");
}

async fn scale_stops_and_starts(k: &Shell<'_>) {
    k.alice().await;
    assert_eq!(k.ok("scale inst alice --replicas=0").await, "instance.portreeve.dev/alice scaled\n");
    assert_eq!(k.object("instances/alice").await["spec"]["power"], "Stopped");
    k.file("alice.yaml", ALICE);
    k.ok("scale --replicas=1 -f alice.yaml").await;
    let after = k.object("instances/alice").await;
    assert_ne!(after["spec"]["power"], "Stopped", "{after}");
    // Since 1.34 it says which.
    let why = if k.minor < 34 { "no objects passed to scale" } else { "instances.portreeve.dev \"nobody\" not found" };
    has(&k.fails("scale inst nobody --replicas=0").await, &[why]);
}

async fn scale_with_preconditions(k: &Shell<'_>) {
    k.alice().await;
    has(&k.fails("scale inst alice --current-replicas=0 --replicas=0").await, &["Expected replicas to be 0, was 1"]);
    has(&k.fails("scale inst alice --resource-version=1 --replicas=0").await, &["Expected resource version to be 1"]);
    assert!(k.object("instances/alice").await["spec"].get("power").is_none());
    k.ok("scale inst alice --current-replicas=1 --replicas=0").await;
    assert_eq!(k.object("instances/alice").await["spec"]["power"], "Stopped");
}

async fn scale_refuses_more_than_one(k: &Shell<'_>) {
    k.alice().await;
    let error = k.fails("scale inst alice --replicas=2").await;
    has(&error, &["The Scale \"alice\" is invalid: spec.replicas: Invalid value: 2"]);
    assert!(k.object("instances/alice").await["spec"].get("power").is_none());
    k.ok_with("create -f -", SETTINGS).await;
    has(&k.fails("scale cm settings --replicas=1").await, &["the server could not find the requested resource"]);
}
