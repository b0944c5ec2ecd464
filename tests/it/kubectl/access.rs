//! Who may do what, as kubectl asks it and as it is told to those who may not.

use serde_json::json;

use super::harness::{ALICE, Shell, has, play, scenarios};

#[tokio::test]
async fn access() {
    play(scenarios![
        can_i_as_an_administrator,
        can_i_as_someone_else,
        can_i_lists_rules,
        whoami_tells_name_and_groups,
        impersonation_is_honoured,
        a_wrong_token_is_unauthorized,
        a_viewer_reads_one_namespace,
        a_viewer_is_forbidden_to_write,
        a_viewer_may_not_impersonate,
        an_editor_writes_in_one_namespace,
        an_editor_reaches_no_host,
        a_revoked_token_is_unauthorized,
    ])
    .await;
}

async fn can_i_as_an_administrator(k: &Shell<'_>) {
    for question in ["delete instances", "get pods --subresource=log", "create namespaces", "'*' '*'", "get /healthz"] {
        assert_eq!(k.ok(&format!("auth can-i {question}")).await, "yes\n", "{question}");
    }
}

async fn can_i_as_someone_else(k: &Shell<'_>) {
    for question in ["delete instances", "list secrets -A", "'*' '*'", "get instances/alice"] {
        let ran = k.run(&format!("auth can-i {question} --as nobody"), "").await;
        assert_eq!(ran.code, Some(1), "{question}: {ran:?}");
        has(&ran.out, &["no"]);
    }
    assert_eq!(k.run("auth can-i delete instances --as nobody -q", "").await.out, "");
    assert_eq!(k.ok("auth can-i get instances --as x --as-group system:masters").await, "yes\n");
}

async fn can_i_lists_rules(k: &Shell<'_>) {
    has(&k.ok("auth can-i --list").await, &["*.*", "[*]"]);
    let list = k.ok("auth can-i --list --as nobody").await;
    assert!(list.contains("selfsubjectaccessreviews.authorization.k8s.io") && !list.contains("instances"), "{list}");
}

async fn whoami_tells_name_and_groups(k: &Shell<'_>) {
    if k.minor < 28 {
        has(&k.fails("auth whoami").await, &["the selfsubjectreviews API is not enabled"]);
        return;
    }
    has(&k.ok("auth whoami").await, &["admin", "system:masters", "system:authenticated"]);
    let said = k.ok("auth whoami --as bob --as-group team -o jsonpath={.status.userInfo}").await;
    let user: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(user, json!({"username": "bob", "groups": ["team", "system:authenticated"]}));
}

async fn impersonation_is_honoured(k: &Shell<'_>) {
    k.alice().await;
    let error = k.fails("get inst --as nobody").await;
    has(
        &error,
        &[&format!(
            "(Forbidden): instances.portreeve.dev is forbidden: User \"nobody\" cannot list resource \"instances\" in API group \
             \"portreeve.dev\" in the namespace \"{}\"",
            k.namespace
        )],
    );
    has(
        &k.fails("delete inst alice --as nobody").await,
        &["instances.portreeve.dev \"alice\" is forbidden", "cannot delete"],
    );
    has(&k.fails("get ns --as nobody").await, &["namespaces is forbidden", "at the cluster scope"]);
    has(&k.ok("get inst --as x --as-group system:masters").await, &["alice"]);
    assert!(k.object("instances/alice").await["metadata"].get("deletionTimestamp").is_none());
}

async fn a_wrong_token_is_unauthorized(k: &Shell<'_>) {
    assert!(refused(&k.stranger().fails("--token=wrong get inst").await));
}

/// That the server knows no such credentials: in the words of the server, or of the discovery that some kubectls begin with.
fn refused(error: &str) -> bool {
    error.contains("Unauthorized") || error.contains("the server has asked for the client to provide credentials")
}

/// A token for the namespace of the scenario.
async fn token(k: &Shell<'_>, role: &str) -> String {
    let manifest = json!({"apiVersion": "portreeve.dev/v1", "kind": "AccessToken", "metadata": {"name": k.namespace},
                          "spec": {"role": role, "namespaces": [k.namespace], "lifetime": "1h"}});
    k.ok_with("create -f - -o jsonpath={.status.token}", &manifest.to_string()).await
}

async fn a_viewer_reads_one_namespace(k: &Shell<'_>) {
    k.alice().await;
    let (token, viewer) = (token(k, "viewer").await, k.stranger());
    has(&viewer.ok(&format!("--token={token} get inst")).await, &["alice"]);
    has(&viewer.ok(&format!("--token={token} describe inst alice")).await, &["app:1"]);
    for refused in ["get inst -A", "get inst -n default", "get secrets", "get accesstokens"] {
        let error = viewer.fails(&format!("--token={token} {refused}")).await;
        has(&error, &["Error from server (Forbidden)", &format!("User \"{}\" cannot list", k.namespace)]);
    }
    assert_eq!(viewer.ok(&format!("--token={token} auth can-i list instances")).await, "yes\n");
    has(&viewer.run(&format!("--token={token} auth can-i delete instances"), "").await.out, &["no"]);
}

async fn a_viewer_is_forbidden_to_write(k: &Shell<'_>) {
    k.ok_with("apply -f -", ALICE).await;
    let before = k.object("instances/alice").await;
    let (token, viewer) = (token(k, "viewer").await, k.stranger());
    for (line, verb) in [
        ("delete inst alice", "cannot delete resource \"instances\""),
        ("scale inst alice --replicas=0", "cannot patch resource \"instances/scale\""),
        ("label inst alice a=b", "cannot patch resource \"instances\""),
        ("create configmap c", "cannot create resource \"configmaps\" in API group \"\""),
        ("create ns other", "cannot create resource \"namespaces\" in API group \"\" at the cluster scope"),
    ] {
        let error = viewer.fails(&format!("--token={token} {line}")).await;
        has(&error, &["orbidden", verb]);
    }
    let error = viewer.fails_with(&format!("--token={token} apply -f -"), &ALICE.replace("app:1", "app:2")).await;
    has(&error, &["cannot patch resource \"instances\""]);
    let error = viewer.fails_with(&format!("--token={token} apply -f -"), &ALICE.replace("alice", "bob")).await;
    has(&error, &["cannot create resource \"instances\""]);
    assert_eq!(k.object("instances/alice").await, before);
    assert_eq!(k.names("instances").await, ["alice"]);
}

async fn a_viewer_may_not_impersonate(k: &Shell<'_>) {
    let (token, viewer) = (token(k, "viewer").await, k.stranger());
    has(&viewer.fails(&format!("--token={token} get inst --as admin")).await, &["(Forbidden)", "impersonate"]);
}

async fn an_editor_writes_in_one_namespace(k: &Shell<'_>) {
    let (token, editor) = (token(k, "editor").await, k.stranger());
    assert_eq!(
        editor.ok_with(&format!("--token={token} apply -f -"), ALICE).await,
        "instance.portreeve.dev/alice created\n"
    );
    editor.ok(&format!("--token={token} scale inst alice --replicas=0")).await;
    assert_eq!(k.object("instances/alice").await["spec"]["power"], "Stopped");
    has(&editor.fails_with(&format!("--token={token} apply -n default -f -"), ALICE).await, &["(Forbidden)"]);
    has(&editor.fails(&format!("--token={token} get accesstokens")).await, &["(Forbidden)"]);
}

async fn an_editor_reaches_no_host(k: &Shell<'_>) {
    let (token, editor) = (token(k, "editor").await, k.stranger());
    let root =
        format!("{ALICE}  security: {{privileged: true}}\n  volumes:\n  - {{name: r, mountPath: /r, hostPath: /}}\n");
    for line in ["apply -f -", "apply --server-side -f -", "create -f -", "apply --dry-run=server -f -"] {
        let error = editor.fails_with(&format!("--token={token} {line}"), &root).await;
        has(
            &error,
            &[
                "instances.portreeve.dev \"alice\" is forbidden",
                "only administrators may",
                "spec.volumes[0].hostPath: mounts \"/\" of the host",
                "spec.security.privileged: gives all rights on the host",
            ],
        );
    }
    assert!(k.is_gone("instances/alice").await);
    editor.ok_with(&format!("--token={token} apply -f -"), ALICE).await;
    for (line, field) in [
        (
            r#"patch inst alice --type=merge -p '{"spec":{"security":{"capAdd":["SYS_ADMIN"]}}}'"#,
            "spec.security.capAdd[0]",
        ),
        (r#"patch inst alice --type=json -p '[{"op":"add","path":"/spec/runtime","value":"runc"}]'"#, "spec.runtime"),
        ("apply -f -", "spec.security.privileged"),
        ("apply --server-side --force-conflicts -f -", "spec.security.privileged"),
        ("replace -f -", "spec.security.privileged"),
    ] {
        has(&editor.fails_with(&format!("--token={token} {line}"), &root).await, &["is forbidden", field]);
    }
    // The same as an administrator who acts as an editor, and then as one.
    let as_editor = format!("--as bob --as-group portreeve:editor:{}", k.namespace);
    has(&k.fails_with(&format!("apply -f - {as_editor}"), &root).await, &["User \"bob\" may not"]);
    k.ok_with("apply -f -", &root).await;
    // What was granted stays while an editor changes the rest; the right to the verb is told as it is.
    editor.ok_with(&format!("--token={token} apply -f -"), &root.replace("app:1", "app:2")).await;
    let spec = k.object("instances/alice").await["spec"].take();
    assert_eq!((&spec["image"], &spec["security"]["privileged"]), (&json!("app:2"), &json!(true)));
    assert_eq!(editor.ok(&format!("--token={token} auth can-i create instances")).await, "yes\n");
}

async fn a_revoked_token_is_unauthorized(k: &Shell<'_>) {
    let (token, viewer) = (token(k, "viewer").await, k.stranger());
    viewer.ok(&format!("--token={token} get inst")).await;
    k.ok(&format!("delete accesstoken {}", k.namespace)).await;
    assert!(refused(&viewer.fails(&format!("--token={token} get inst")).await));
}
