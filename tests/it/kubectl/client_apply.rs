//! `apply` as kubectl computes it itself, `diff`, and the same with many objects: lists, directories, kustomize, pruning.

use serde_json::json;

use super::harness::{ALICE, SETTINGS, Shell, has, play, scenarios};

const TWO: &str = "apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: one, labels: {set: s}}, data: {a: b}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: two, labels: {set: s}}, data: {a: b}}
";

#[tokio::test]
async fn client_apply() {
    play(scenarios![
        apply_is_created_unchanged_configured,
        apply_removes_what_is_left_out,
        apply_keeps_what_others_added,
        apply_replaces_lists_as_wholes,
        apply_of_core_kinds,
        apply_a_list,
        apply_a_directory,
        apply_a_kustomization,
        apply_dry_runs_change_nothing,
        apply_refuses_what_is_wrong,
        apply_prunes_by_label,
        apply_prunes_an_apply_set,
        apply_shows_and_sets_what_was_last_applied,
        apply_after_create_warns_once,
        diff_has_its_exit_codes,
        diff_of_a_new_object,
    ])
    .await;
}

async fn apply_is_created_unchanged_configured(k: &Shell<'_>) {
    assert_eq!(k.ok_with("apply -f -", ALICE).await, "instance.portreeve.dev/alice created\n");
    let before = k.object("instances/alice").await;
    assert_eq!(k.ok_with("apply -f -", ALICE).await, "instance.portreeve.dev/alice unchanged\n");
    assert_eq!(k.object("instances/alice").await, before);
    assert_eq!(
        k.ok_with("apply -f -", &ALICE.replace("app:1", "app:2")).await,
        "instance.portreeve.dev/alice configured\n"
    );
    let after = k.object("instances/alice").await;
    assert_eq!((&after["spec"]["image"], &after["metadata"]["generation"]), (&json!("app:2"), &json!(2)));
}

async fn apply_removes_what_is_left_out(k: &Shell<'_>) {
    k.ok_with("apply -f -", ALICE).await;
    k.ok_with(
        "apply -f -",
        &ALICE.replace("  resources: {memory: 64Mi}\n", "").replace("  labels: {tier: free}\n", ""),
    )
    .await;
    let after = k.object("instances/alice").await;
    assert!(after["spec"].get("resources").is_none() && after["metadata"].get("labels").is_none(), "{after}");
}

async fn apply_keeps_what_others_added(k: &Shell<'_>) {
    k.ok_with("apply -f -", ALICE).await;
    k.ok("label inst alice other=x").await;
    k.ok("patch inst alice --type=merge -p {\"spec\":{\"owner\":\"bob\"}}").await;
    k.ok_with("apply -f -", &ALICE.replace("app:1", "app:2")).await;
    let after = k.object("instances/alice").await;
    assert_eq!((&after["metadata"]["labels"]["other"], &after["spec"]["owner"]), (&json!("x"), &json!("bob")));
}

async fn apply_replaces_lists_as_wholes(k: &Shell<'_>) {
    k.ok_with("apply -f -", ALICE).await;
    let other = ALICE.replace("{name: web, containerPort: 8080}", "{name: api, containerPort: 9090}");
    k.ok_with("apply -f -", &other).await;
    assert_eq!(k.object("instances/alice").await["spec"]["ports"], json!([{"name": "api", "containerPort": 9090}]));
    assert_eq!(k.ok_with("apply -f -", &other).await, "instance.portreeve.dev/alice unchanged\n");
}

async fn apply_of_core_kinds(k: &Shell<'_>) {
    assert_eq!(k.ok_with("apply -f -", SETTINGS).await, "configmap/settings created\n");
    assert_eq!(k.ok_with("apply -f -", SETTINGS).await, "configmap/settings unchanged\n");
    let fewer = SETTINGS.replace(", size: '4'", "");
    assert_eq!(k.ok_with("apply -f -", &fewer).await, "configmap/settings configured\n");
    assert_eq!(k.object("configmaps/settings").await["data"], json!({"mode": "dark"}));
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: Yg==}\n";
    assert_eq!(k.ok_with("apply -f -", secret).await, "secret/s created\n");
    assert_eq!(k.ok_with("apply -f -", secret).await, "secret/s unchanged\n");
}

async fn apply_a_list(k: &Shell<'_>) {
    assert_eq!(k.ok_with("apply -f -", TWO).await, "configmap/one created\nconfigmap/two created\n");
    let changed = TWO.replacen("a: b", "a: c", 1);
    assert_eq!(k.ok_with("apply -f -", &changed).await, "configmap/one configured\nconfigmap/two unchanged\n");
    assert_eq!(k.object("configmaps/one").await["data"]["a"], "c");
}

async fn apply_a_directory(k: &Shell<'_>) {
    k.file("all/1.yaml", ALICE);
    k.file("all/2.yml", SETTINGS);
    k.file(
        "all/deep/3.json",
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "deep"}}).to_string(),
    );
    k.file("all/read.me", "not this");
    k.ok("apply -f all").await;
    assert_eq!(k.names("configmaps").await, ["settings"]);
    has(&k.ok("apply -R -f all").await, &["configmap/deep created", "alice unchanged", "settings unchanged"]);
    assert_eq!(k.names("configmaps").await, ["deep", "settings"]);
    assert_eq!(k.names("instances").await, ["alice"]);
}

async fn apply_a_kustomization(k: &Shell<'_>) {
    k.file("k/alice.yaml", ALICE);
    k.file(
        "k/kustomization.yaml",
        "resources: [alice.yaml]\nnamePrefix: my-\nconfigMapGenerator:\n- {name: conf, literals: [a=b]}\n\
         patches:\n- target: {kind: Instance}\n  patch: '[{\"op\":\"replace\",\"path\":\"/spec/image\",\"value\":\"app:7\"}]'\n",
    );
    has(&k.ok("kustomize k").await, &["name: my-alice", "image: app:7"]);
    has(&k.ok("apply -k k").await, &["instance.portreeve.dev/my-alice created", "configmap/my-conf-"]);
    assert_eq!(k.object("instances/my-alice").await["spec"]["image"], "app:7");
    assert!(!k.ok("apply -k k").await.contains("configured"));
    k.ok("delete -k k --wait=false").await;
    assert!(k.names("configmaps").await.is_empty());
    assert!(k.object("instances/my-alice").await["metadata"]["deletionTimestamp"].is_string());
}

async fn apply_dry_runs_change_nothing(k: &Shell<'_>) {
    has(&k.ok_with("apply -f - --dry-run=server", ALICE).await, &["alice created (server dry run)"]);
    has(&k.ok_with("apply -f - --dry-run=client", ALICE).await, &["alice created (dry run)"]);
    assert!(k.names("instances").await.is_empty());
    k.ok_with("apply -f -", ALICE).await;
    let before = k.object("instances/alice").await;
    let changed = ALICE.replace("app:1", "app:2");
    has(&k.ok_with("apply -f - --dry-run=server", &changed).await, &["alice configured (server dry run)"]);
    let shown =
        k.ok_with("apply -f - --dry-run=server -o jsonpath={.spec.image}/{.metadata.generation}", &changed).await;
    assert_eq!(shown, "app:2/2");
    has(&k.ok_with("apply -f - --dry-run=client", &changed).await, &["alice configured (dry run)"]);
    assert_eq!(k.object("instances/alice").await, before);
}

async fn apply_refuses_what_is_wrong(k: &Shell<'_>) {
    k.ok_with("apply -f -", ALICE).await;
    let before = k.object("instances/alice").await;
    let error = k.fails_with("apply -f -", &ALICE.replace("image:", "colour: red\n  image:")).await;
    has(&error, &["(BadRequest)", "unknown field \"spec.colour\""]);
    let error = k.fails_with("apply -f -", &ALICE.replace("8080", "70000")).await;
    has(&error, &["The Instance \"alice\" is invalid", "spec.ports[0].containerPort"]);
    assert_eq!(k.object("instances/alice").await, before);
}

async fn apply_prunes_by_label(k: &Shell<'_>) {
    let prune =
        "apply -f - --prune -l set=s --prune-allowlist=core/v1/ConfigMap --prune-allowlist=portreeve.dev/v1/Instance";
    k.ok_with("apply -f -", TWO).await;
    k.ok_with("apply -f -", &SETTINGS.replace("set: s", "set: t")).await;
    let one = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, labels: {set: s}}\ndata: {a: b}\n";
    has(&k.ok_with(prune, one).await, &["configmap/one unchanged", "configmap/two pruned"]);
    assert_eq!(k.names("configmaps").await, ["one", "settings"]);
}

async fn apply_prunes_an_apply_set(k: &Shell<'_>) {
    let apply = async |manifest: &str| {
        k.file("set.yaml", manifest);
        let mut command = k.command(&format!("apply -n {} -f set.yaml --prune --applyset=mine", k.namespace));
        let output = command.env("KUBECTL_APPLYSET", "true").output().await.expect("kubectl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    has(&apply(TWO).await, &["configmap/one created", "configmap/two created"]);
    let parent = k.object("secrets/mine").await;
    has(&parent.to_string(), &["applyset.kubernetes.io/id"]);
    has(
        &apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one}\ndata: {a: b}\n").await,
        &["configmap/two pruned"],
    );
    assert_eq!(k.names("configmaps").await, ["one"]);
}

async fn apply_shows_and_sets_what_was_last_applied(k: &Shell<'_>) {
    k.ok_with("apply -f -", ALICE).await;
    has(&k.ok("apply view-last-applied inst/alice").await, &["image: app:1", "tier: free"]);
    k.file("two.yaml", &ALICE.replace("app:1", "app:2"));
    k.ok("apply set-last-applied -f two.yaml").await;
    has(&k.ok("apply view-last-applied inst/alice -o json").await, &["app:2"]);
    assert_eq!(k.object("instances/alice").await["spec"]["image"], "app:1");
}

async fn apply_after_create_warns_once(k: &Shell<'_>) {
    k.alice().await;
    let ran = k.run("apply -f -", ALICE).await;
    has(&ran.err, &["missing the kubectl.kubernetes.io/last-applied-configuration annotation"]);
    assert_eq!(ran.out, "instance.portreeve.dev/alice configured\n");
    let ran = k.run("apply -f -", ALICE).await;
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("instance.portreeve.dev/alice unchanged\n", ""));
    assert_eq!(k.object("instances/alice").await["metadata"]["generation"], 1);
}

async fn diff_has_its_exit_codes(k: &Shell<'_>) {
    k.ok_with("apply -f -", ALICE).await;
    let before = k.object("instances/alice").await;
    let ran = k.run("diff -f -", ALICE).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{ran:?}");
    let ran = k.run("diff -f -", &ALICE.replace("app:1", "app:2")).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    has(&ran.out, &["-  image: app:1", "+  image: app:2", "-  generation: 1", "+  generation: 2"]);
    let ran = k.run("diff -f -", &ALICE.replace("8080", "70000")).await;
    assert!(ran.code.is_some_and(|c| c > 0) && ran.out.is_empty(), "{ran:?}");
    has(&ran.err, &["spec.ports[0].containerPort"]);
    assert_eq!(k.object("instances/alice").await, before);
}

async fn diff_of_a_new_object(k: &Shell<'_>) {
    let ran = k.run("diff -f -", SETTINGS).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    has(&ran.out, &["+kind: ConfigMap", "+  mode: dark"]);
    assert!(k.names("configmaps").await.is_empty());
}
