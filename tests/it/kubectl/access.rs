//! Who may do what, as kubectl asks it and as it is told to those who may not.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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
        a_token_is_managed_by_apply,
        a_token_is_managed_by_server_side_apply,
        a_certificate_has_the_roles_of_its_groups,
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
    has(&k.ok("auth whoami").await, &["admin", "system:masters", "system:authenticated"]);
    let said = k.ok("auth whoami --as bob --as-group team -o jsonpath={.status.userInfo}").await;
    let user: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(user, json!({"username": "bob", "groups": ["team", "system:authenticated"]}));
    let said = k.ok("auth whoami --as bob --as-uid 7 -o jsonpath={.status.userInfo.uid}").await;
    assert_eq!(said, "7");
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

/// `apply` makes a token and keeps it as it is told; its secret is in the output of the one apply that makes it.
async fn applied_token(k: &Shell<'_>, apply: &str) {
    let manifest = |role: &str| {
        format!(
            "apiVersion: portreeve.dev/v1\nkind: AccessToken\nmetadata: {{name: {0}}}\n\
             spec: {{role: {role}, namespaces: [{0}], lifetime: 1h}}\n",
            k.namespace
        )
    };
    let secret = k.ok_with(&format!("{apply} -f - -o jsonpath={{.status.token}}"), &manifest("viewer")).await;
    assert!(secret.starts_with(&format!("prt_{}.", k.namespace)), "{secret}");
    let bearer = k.stranger();
    bearer.ok(&format!("--token={secret} get inst")).await;
    has(&bearer.fails(&format!("--token={secret} create configmap c")).await, &["orbidden"]);
    let path = format!("/apis/portreeve.dev/v1/accesstokens/{}", k.namespace);
    let before = k.server.client.get(&path).await.expect(200);
    assert!(!before.to_string().contains(&secret), "{before}");
    assert_eq!(k.ok_with(&format!("{apply} -f - -o jsonpath={{.status.token}}"), &manifest("viewer")).await, "");
    assert_eq!(k.server.client.get(&path).await.expect(200), before, "the same again changes nothing");
    // A change of what it may takes effect at once, with the same secret.
    k.ok_with(&format!("{apply} -f -"), &manifest("editor")).await;
    bearer.ok(&format!("--token={secret} create configmap c")).await;
    let error = k.fails_with(&format!("{apply} -f -"), &manifest("root")).await;
    has(&error, &["spec.role: Unsupported value: \"root\""]);
    bearer.ok(&format!("--token={secret} get inst")).await;
    k.ok_with("delete -f -", &manifest("editor")).await;
    assert!(refused(&bearer.fails(&format!("--token={secret} get inst")).await));
}

async fn a_token_is_managed_by_apply(k: &Shell<'_>) {
    applied_token(k, "apply").await;
}

async fn a_token_is_managed_by_server_side_apply(k: &Shell<'_>) {
    applied_token(k, "apply --server-side").await;
}

/// The name and the organizations of a certificate that the server's CA signs, as base64 of certificate and key.
fn certificate(k: &Shell<'_>, name: &str, organizations: &[&str]) -> (String, String) {
    let pem = |file: &str| std::fs::read_to_string(k.server.dir.path().join("pki").join(file)).expect(file);
    let ca_key = rcgen::KeyPair::from_pem(&pem("ca.key")).expect("a key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(&pem("ca.pem"), ca_key).expect("a CA");
    let mut params = rcgen::CertificateParams::new(vec![]).expect("parameters");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let (kept, custom) = (rcgen::DnType::OrganizationName, rcgen::DnType::CustomDnType(vec![2, 5, 4, 10]));
    // A name holds one value of a type; the same type written by its number is another to rcgen.
    for (i, organization) in organizations.iter().enumerate() {
        params.distinguished_name.push(if i == 0 { kept.clone() } else { custom.clone() }, *organization);
    }
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().expect("a key");
    let signed = params.signed_by(&key, &issuer).expect("a certificate");
    (STANDARD.encode(signed.pem()), STANDARD.encode(key.serialize_pem()))
}

async fn a_certificate_has_the_roles_of_its_groups(k: &Shell<'_>) {
    k.alice().await;
    let own = format!("portreeve:editor:{}", k.namespace);
    let with = |name: &str, organizations: &[&str]| {
        let (certificate, key) = certificate(k, name, organizations);
        k.with_user(name, json!({"client-certificate-data": certificate, "client-key-data": key}))
    };
    let editor = with("eve", &["team", &own]);
    if k.minor >= 28 {
        let said = editor.ok("auth whoami -o jsonpath={.status.userInfo}").await;
        let user: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(user, json!({"username": "eve", "groups": ["team", own, "system:authenticated"]}));
    }
    editor.ok("label inst alice a=b").await;
    editor.ok("create configmap c").await;
    assert_eq!(editor.ok("auth can-i delete instances").await, "yes\n");
    for refused in ["get inst -n default", "get nodes", "get accesstokens", "create ns other", "get inst --as admin"] {
        has(&editor.fails(refused).await, &["orbidden", "User \"eve\""]);
    }
    let viewer = with("vic", &["portreeve:viewer"]);
    has(&viewer.ok("get inst -A").await, &["alice"]);
    has(&viewer.fails("label inst alice c=d").await, &["orbidden", "User \"vic\" cannot patch"]);
    let admin = with("ada", &["portreeve:admin"]);
    assert_eq!(admin.ok("auth can-i '*' '*'").await, "yes\n");
    admin.ok("get accesstokens").await;
    // What only looks like a role is none, and no group is no right.
    for (name, organizations) in [("ned", &[][..]), ("nat", &["portreeve:admin:default", "admin"])] {
        has(&with(name, organizations).fails("get inst").await, &["orbidden", &format!("User \"{name}\"")]);
    }
    // A token beside it changes nothing: the certificate counts.
    let error = viewer.fails("--token=wrong label inst alice c=d").await;
    has(&error, &["User \"vic\" cannot patch"]);
}
