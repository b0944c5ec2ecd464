//! Server-side apply with every kubectl. What a conflict is in detail is asked in `apply.rs`.

use serde_json::{Value, json};

use super::harness::{ALICE, SETTINGS, Shell, has, play, scenarios};

#[tokio::test]
async fn server_side() {
    play(scenarios![
        server_side_apply_twice_writes_once,
        server_side_conflict_and_force,
        server_side_gives_up_what_is_left_out,
        server_side_migrates_from_client_side,
        server_side_migrates_a_secret_of_texts,
        server_side_of_core_kinds,
        server_side_of_nodes,
        server_side_of_nodes_migrates,
        server_side_of_no_node,
        server_side_diff_and_dry_run,
        server_side_refuses_what_is_wrong,
    ])
    .await;
}

async fn managers(k: &Shell<'_>, what: &str) -> Vec<String> {
    let object = k.object(what).await;
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    // Entries come by the second of their write, then by name: which comes first is not the matter here.
    let mut named: Vec<String> =
        entries.iter().map(|e| format!("{} {}", e["manager"], e["operation"]).replace('"', "")).collect();
    named.sort();
    named
}

async fn server_side_apply_twice_writes_once(k: &Shell<'_>) {
    assert_eq!(k.ok_with("apply --server-side -f -", ALICE).await, "instance.portreeve.dev/alice serverside-applied\n");
    let before = k.object("instances/alice").await;
    k.ok_with("apply --server-side -f -", ALICE).await;
    assert_eq!(k.object("instances/alice").await, before);
    assert_eq!(managers(k, "instances/alice").await, ["kubectl Apply"]);
}

async fn server_side_conflict_and_force(k: &Shell<'_>) {
    k.ok_with("apply --server-side -f -", ALICE).await;
    let changed = ALICE.replace("app:1", "app:2");
    let error = k.fails_with("apply --server-side --field-manager=ci -f -", &changed).await;
    has(&error, &["Apply failed with 1 conflict: conflict with \"kubectl\": .spec.image"]);
    assert_eq!(k.object("instances/alice").await["spec"]["image"], "app:1");
    k.ok_with("apply --server-side --field-manager=ci --force-conflicts -f -", &changed).await;
    assert_eq!(k.object("instances/alice").await["spec"]["image"], "app:2");
    assert_eq!(managers(k, "instances/alice").await, ["ci Apply", "kubectl Apply"]);
}

async fn server_side_gives_up_what_is_left_out(k: &Shell<'_>) {
    k.ok_with("apply --server-side -f -", ALICE).await;
    k.ok_with("apply --server-side -f -", &ALICE.replace("  resources: {memory: 64Mi}\n", "")).await;
    assert_eq!(k.object("instances/alice").await["spec"].get("resources"), None::<&Value>);
}

async fn server_side_migrates_from_client_side(k: &Shell<'_>) {
    k.ok_with("apply -f -", ALICE).await;
    let changed = ALICE.replace("app:1", "app:2");
    k.ok_with("apply --server-side -f -", &changed).await;
    assert_eq!(k.object("instances/alice").await["spec"]["image"], "app:2");
    // Up to 1.27 kubectl migrates as well; no entry of client-side apply is left in any.
    assert!(!managers(k, "instances/alice").await.iter().any(|m| m.starts_with("kubectl-client-side-apply")));
    assert_eq!(k.ok_with("apply -f -", &changed).await, "instance.portreeve.dev/alice unchanged\n");
}

/// Texts are stored as data, which is what the last client-side apply must be held against.
async fn server_side_migrates_a_secret_of_texts(k: &Shell<'_>) {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData: {password: one, user: app}\n";
    k.ok_with("apply -f -", secret).await;
    k.ok_with("apply --server-side -f -", &secret.replace("one", "two")).await;
    assert_eq!(k.object("secrets/db").await["data"], json!({"password": "dHdv", "user": "YXBw"}));
}

async fn server_side_of_core_kinds(k: &Shell<'_>) {
    assert_eq!(k.ok_with("apply --server-side -f -", SETTINGS).await, "configmap/settings serverside-applied\n");
    let more = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {more: x}\n";
    k.ok_with("apply --server-side --field-manager=ci -f -", more).await;
    let data = k.object("configmaps/settings").await["data"].clone();
    assert_eq!(data, json!({"mode": "dark", "size": "4", "more": "x"}));
    k.ok_with("apply --server-side -f -", &SETTINGS.replace(", size: '4'", "")).await;
    assert_eq!(k.object("configmaps/settings").await["data"], json!({"mode": "dark", "more": "x"}));
}

async fn server_side_diff_and_dry_run(k: &Shell<'_>) {
    k.ok_with("apply --server-side -f -", ALICE).await;
    let before = k.object("instances/alice").await;
    let changed = ALICE.replace("app:1", "app:2");
    let ran = k.run("diff --server-side -f -", &changed).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    has(&ran.out, &["-  image: app:1", "+  image: app:2"]);
    has(
        &k.ok_with("apply --server-side --dry-run=server -f -", &changed).await,
        &["serverside-applied (server dry run)"],
    );
    assert_eq!(k.object("instances/alice").await, before);
    assert_eq!(k.run("diff --server-side -f -", ALICE).await.code, Some(0));
}

async fn server_side_refuses_what_is_wrong(k: &Shell<'_>) {
    let unknown = k.fails_with("apply --server-side -f -", &ALICE.replace("image:", "colour: red\n  image:")).await;
    has(&unknown, &["spec.colour"]);
    let twice = ALICE.to_owned() + "  - {name: web, containerPort: 1}\n";
    has(&k.fails_with("apply --server-side -f -", &twice).await, &["spec.ports"]);
    assert!(k.names("instances").await.is_empty());
}

/// Makes the DockerHost of the scenario's name by client-side apply.
async fn host(k: &Shell<'_>) -> Value {
    let host = json!({"apiVersion": "portreeve.dev/v1", "kind": "DockerHost", "metadata": {"name": k.namespace},
                      "spec": {"endpoint": "unix:///x"}});
    k.ok_with("apply -f -", &host.to_string()).await;
    host
}

fn node(k: &Shell<'_>, value: &str) -> String {
    let name = &k.namespace;
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{zone: {value}}}}}\n\
         spec: {{taints: [{{key: k, value: {value}, effect: NoSchedule}}]}}\n"
    )
}

/// The spec of the DockerHost.
async fn spec(k: &Shell<'_>) -> Value {
    let path = format!("/apis/portreeve.dev/v1/dockerhosts/{}", k.namespace);
    k.server.client.get(&path).await.expect(200)["spec"].take()
}

async fn server_side_of_nodes(k: &Shell<'_>) {
    host(k).await;
    let name = &k.namespace;
    assert_eq!(
        k.ok_with("apply --server-side -f -", &node(k, "one")).await,
        format!("node/{name} serverside-applied\n")
    );
    let taints = json!([{"key": "k", "value": "one", "effect": "NoSchedule"}]);
    assert_eq!(spec(k).await, json!({"endpoint": "unix:///x", "taints": taints}));
    k.ok(&format!("cordon {name}")).await;
    k.ok(&format!("label node {name} disk=ssd --field-manager=ops")).await;
    k.ok(&format!("taint node {name} k=y:NoSchedule --overwrite --field-manager=ops")).await;
    let error = k.fails_with("apply --server-side -f -", &node(k, "one")).await;
    has(&error, &["conflict with \"ops\" using v1: .spec.taints"]);
    k.ok_with("apply --server-side --force-conflicts -f -", &node(k, "one")).await;
    assert_eq!(spec(k).await, json!({"endpoint": "unix:///x", "taints": taints, "unschedulable": true}));
    let ran = k.run("diff --server-side -f -", &node(k, "one")).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    k.ok_with("apply --server-side -f -", &node(k, "one").replace("zone: one", "tier: one")).await;
    let labels = k.ok(&format!("get node {name} -o jsonpath={{.metadata.labels}}")).await;
    assert_eq!(serde_json::from_str::<Value>(&labels).expect("JSON"), json!({"disk": "ssd", "tier": "one"}));
    let owners = k
        .ok(&format!("get node {name} --show-managed-fields -o jsonpath={{.metadata.managedFields[*].manager}}"))
        .await;
    has(&owners, &["kubectl", "ops"]);
    let foreign = node(k, "one").replace("spec: {", "spec: {podCIDR: 10.0.0.0/8, ");
    let error = k.fails_with("apply --server-side --validate=false -f -", &foreign).await;
    has(&error, &["spec.podCIDR: Forbidden"]);
}

async fn server_side_of_nodes_migrates(k: &Shell<'_>) {
    let host = host(k).await.to_string();
    k.ok_with("apply -f -", &node(k, "one")).await;
    k.ok_with("apply -f -", &host).await;
    assert_eq!(spec(k).await["taints"][0]["value"], "one", "each has its own last applied configuration");
    k.ok_with("apply --server-side -f -", &node(k, "two")).await;
    assert_eq!(spec(k).await["taints"][0]["value"], "two");
    k.ok_with("apply --server-side -f -", &node(k, "three").replace(", labels: {zone: three}", "")).await;
    let labels = k.ok(&format!("get node {} -o jsonpath={{.metadata.labels}}", k.namespace)).await;
    assert_eq!(labels, "", "what client-side apply had set went with the migration");
    // And back, as often as one likes: neither of the two undoes the other.
    let said = k.ok_with("apply -f -", &node(k, "three").replace(", labels: {zone: three}", "")).await;
    assert_eq!(said, format!("node/{} unchanged\n", k.namespace));
    k.ok_with("apply -f -", &host).await;
    assert_eq!(spec(k).await["taints"][0]["value"], "three");
}

async fn server_side_of_no_node(k: &Shell<'_>) {
    let error = k.fails_with("apply --server-side -f -", &node(k, "one")).await;
    has(&error, &["does not allow this method", "there is no node", "dockerhosts.portreeve.dev"]);
}
