//! Server-side apply as kubectl does it: conflicts, taking over, migration, and several managers of one object.

use super::*;

impl Kubectl {
    /// The owned fields of a manager's entry, as JSON text; empty when it has none.
    async fn owned(&self, manager: &str) -> String {
        let object = self.ok("get inst alice --show-managed-fields -o json").await;
        let object: Value = serde_json::from_str(&object).expect("JSON");
        let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        entries.iter().find(|e| e["manager"] == manager).map(|e| e["fieldsV1"].to_string()).unwrap_or_default()
    }

    async fn field(&self, path: &str) -> String {
        self.ok(&format!("get inst alice -o jsonpath={{{path}}}")).await
    }
}

const DONE: &str = "instance.portreeve.dev/alice serverside-applied\n";

#[tokio::test]
async fn managers_conflict_share_and_give_up() {
    let Some(k) = Kubectl::new().await else { return };
    assert_eq!(k.ok_with("apply --server-side -f -", MANIFEST).await, DONE);
    let version = k.field(".metadata.resourceVersion").await;
    assert_eq!(k.ok_with("apply --server-side -f -", MANIFEST).await, DONE);
    assert_eq!(k.field(".metadata.resourceVersion").await, version, "nothing was written");
    assert!(k.owned("kubectl").await.contains("f:containerPort"));
    assert!(!k.ok("get inst alice -o yaml").await.contains("managedFields"), "kubectl hides it");

    let changed = MANIFEST.replace("app:1", "app:2");
    let error = k.fails_with("apply --server-side --field-manager=ci -f -", &changed).await;
    assert!(error.contains("Apply failed with 1 conflict: conflict with \"kubectl\": .spec.image"), "{error}");
    assert!(error.contains("--force-conflicts"), "{error}");
    assert_eq!(k.ok_with("apply --server-side --field-manager=ci --force-conflicts -f -", &changed).await, DONE);
    assert_eq!(k.field(".spec.image").await, "app:2");
    assert!(!k.owned("kubectl").await.contains("f:image") && k.owned("ci").await.contains("f:image"));
    let error = k.fails_with("apply --server-side -f -", MANIFEST).await;
    assert!(error.contains("conflict with \"ci\": .spec.image"), "{error}");

    // Both own the label; it goes with the last of them.
    let bare = |image: &str| {
        format!("apiVersion: portreeve.dev/v1\nkind: Instance\nmetadata: {{name: alice}}\nspec: {{image: '{image}'}}\n")
    };
    k.ok_with("apply --server-side --field-manager=ci -f -", &bare("app:2")).await;
    assert_eq!(k.field(".metadata.labels.tier").await, "free");
    k.ok_with("apply --server-side -f -", &bare("app:2")).await;
    assert_eq!(k.field(".metadata.labels.tier").await, "");
    assert_eq!(k.field(".spec.ports").await, "");

    // A patch is an update of kubectl-patch, and conflicts as such.
    k.ok(r#"patch inst alice --type=merge -p {"spec":{"image":"app:3"}}"#).await;
    let error = k.fails_with("apply --server-side -f -", &bare("app:2")).await;
    assert!(error.contains("conflict with \"kubectl-patch\" using portreeve.dev/v1: .spec.image"), "{error}");
}

#[tokio::test]
async fn items_of_env_and_ports_are_shared_by_two_managers() {
    let Some(k) = Kubectl::new().await else { return };
    let manifest = |spec: &str| {
        format!("apiVersion: portreeve.dev/v1\nkind: Instance\nmetadata: {{name: alice}}\nspec: {{{spec}}}\n")
    };
    let base = manifest(
        "image: 'app:1', env: [{name: A, value: '1'}, {name: B, value: '2'}], ports: [{name: web, containerPort: 80}]",
    );
    k.ok_with("apply --server-side --field-manager=m1 -f -", &base).await;
    let more = manifest(
        "env: [{name: C, value: '3'}, {name: B, value: '2'}], ports: [{name: web, hostPort: 30000}, {name: api, containerPort: 81}]",
    );
    k.ok_with("apply --server-side --field-manager=m2 -f -", &more).await;
    assert_eq!(k.field(".spec.env[*].name").await, "A C B");
    assert_eq!(k.field(".spec.ports[0]").await, r#"{"containerPort":80,"hostPort":30000,"name":"web"}"#);

    let clash = manifest("env: [{name: A, value: 'x'}], ports: [{name: web, containerPort: 1}]");
    let error = k.fails_with("apply --server-side --field-manager=m3 -f -", &clash).await;
    for line in ["2 conflicts", "- .spec.env[name=\"A\"].value", "- .spec.ports[name=\"web\"].containerPort"] {
        assert!(error.contains(line), "{line}: {error}");
    }
    let fewer = manifest("image: 'app:1', env: [], ports: [{name: web, containerPort: 80}]");
    k.ok_with("apply --server-side --field-manager=m1 -f -", &fewer).await;
    assert_eq!(k.field(".spec.env[*].name").await, "C B", "A was m1's alone, B is m2's too");
    let gone = manifest("env: [{name: C, value: '3'}]");
    k.ok_with("apply --server-side --field-manager=m2 -f -", &gone).await;
    assert_eq!(k.field(".spec.env[*].name").await, "C");
    assert_eq!(k.field(".spec.ports").await, r#"[{"containerPort":80,"name":"web"}]"#);
}

#[tokio::test]
async fn client_side_apply_migrates_to_server_side_and_back() {
    let Some(k) = Kubectl::new().await else { return };
    k.ok_with("apply -f -", MANIFEST).await;
    assert!(k.owned("kubectl-client-side-apply").await.contains("f:image"));
    // A changed field that the last client-side apply set is no conflict.
    let changed = MANIFEST.replace("app:1", "app:2").replace("  labels: {tier: free}\n", "");
    assert_eq!(k.ok_with("apply --server-side -f -", &changed).await, DONE);
    assert_eq!(k.field(".spec.image").await, "app:2");
    assert_eq!(k.field(".metadata.labels").await, "", "the label was its own, and is given up");
    assert_eq!(k.owned("kubectl-client-side-apply").await, "", "kubectl has moved the entry");
    assert!(k.owned("kubectl").await.contains("f:image"));

    // The annotation is kept true, so that client-side apply goes on from there.
    let annotation = k.ok("get inst alice -o jsonpath={.metadata.annotations}").await;
    assert!(annotation.contains("app:2") && !annotation.contains("tier"), "{annotation}");
    assert_eq!(k.ok_with("apply -f -", &changed).await, "instance.portreeve.dev/alice unchanged\n");

    // Another's change since then is a conflict all the same.
    k.ok(r#"patch inst alice --type=merge -p {"spec":{"image":"app:9"}}"#).await;
    let error = k.fails_with("apply --server-side -f -", &changed).await;
    assert!(error.contains("conflict with \"kubectl-patch\""), "{error}");
}

#[tokio::test]
async fn diff_on_the_server_shows_and_changes_nothing() {
    let Some(k) = Kubectl::new().await else { return };
    k.ok_with("apply --server-side -f -", MANIFEST).await;
    let before = k.ok("get inst alice -o json --show-managed-fields").await;
    assert_eq!(k.ok_with("diff --server-side -f -", MANIFEST).await, "");
    let changed = MANIFEST.replace("app:1", "app:2");
    let out = k.run(&["diff", "--server-side", "-f", "-"], &changed).await;
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("-  image: app:1") && text.contains("+  image: app:2"), "{text}");
    assert_eq!(k.ok("get inst alice -o json --show-managed-fields").await, before);
    let new = MANIFEST.replace("alice", "bob");
    let out = k.run(&["diff", "--server-side", "-f", "-"], &new).await;
    assert!(String::from_utf8_lossy(&out.stdout).contains("+  name: bob"));
    k.fails_with("get inst bob", "").await;
}

#[tokio::test]
async fn status_and_other_kinds_are_applied_too() {
    let Some(k) = Kubectl::new().await else { return };
    k.ok_with("apply --server-side -f -", MANIFEST).await;
    let status = "apiVersion: portreeve.dev/v1\nkind: Instance\nmetadata: {name: alice}\nstatus: {phase: Running}\n";
    k.ok_with("apply --server-side --subresource=status --field-manager=hand -f -", status).await;
    assert_eq!(k.field(".status.phase").await, "Running");
    assert_eq!(k.owned("hand").await, r#"{"f:status":{"f:phase":{}}}"#);
    let host =
        "apiVersion: portreeve.dev/v1\nkind: DockerHost\nmetadata: {name: local}\nspec: {endpoint: 'unix:///x'}\n";
    k.ok_with("apply --server-side -f -", host).await;
    let team = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team, labels: {a: b}}\n";
    k.ok_with("apply --server-side -f -", team).await;
    k.ok_with("apply --server-side -f -", &team.replace(", labels: {a: b}", "")).await;
    assert_eq!(k.ok("get ns team -o jsonpath={.metadata.labels}").await, r#"{"kubernetes.io/metadata.name":"team"}"#);
}
