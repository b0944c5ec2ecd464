//! `create`, and what is refused with which words.

use serde_json::{Value, json};

use super::harness::{ALICE, SETTINGS, Shell, has, play, scenarios};

#[tokio::test]
async fn create() {
    play(scenarios![
        create_from_a_file,
        create_twice_is_already_exists,
        create_with_a_generated_name,
        create_dry_runs_make_nothing,
        create_refuses_unknown_fields_strictly,
        create_warns_of_unknown_fields,
        create_ignores_unknown_fields_when_told,
        create_refuses_duplicate_fields,
        create_tells_every_invalid_field,
        create_refuses_a_bad_name,
        create_in_a_missing_namespace_is_not_found,
        create_refuses_another_namespace_than_the_request,
        create_saves_its_configuration,
        create_several_goes_on_after_a_failure,
        create_of_what_is_not_served_is_refused,
    ])
    .await;
}

async fn create_from_a_file(k: &Shell<'_>) {
    k.file("alice.yaml", ALICE);
    assert_eq!(k.ok("create -f alice.yaml").await, "instance.portreeve.dev/alice created\n");
    let made = k.object("instances/alice").await;
    assert_eq!((&made["metadata"]["generation"], &made["spec"]["image"]), (&json!(1), &json!("app:1")));
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "kubectl-create");
    assert!(made["metadata"].get("annotations").is_none(), "create leaves no annotation: {made}");
}

async fn create_twice_is_already_exists(k: &Shell<'_>) {
    k.alice().await;
    let before = k.object("instances/alice").await;
    let error = k.fails_with("create -f -", &ALICE.replace("app:1", "app:2")).await;
    has(&error, &["(AlreadyExists)", "instances.portreeve.dev \"alice\" already exists"]);
    assert_eq!(k.object("instances/alice").await, before);
    k.ok("create configmap c --from-literal=a=b").await;
    has(&k.fails("create configmap c --from-literal=a=c").await, &["configmaps \"c\" already exists"]);
    assert_eq!(k.object("configmaps/c").await["data"]["a"], "b");
}

async fn create_with_a_generated_name(k: &Shell<'_>) {
    let manifest = ALICE.replace("name: alice", "generateName: user-");
    let (one, two) =
        (k.ok_with("create -f - -o name", &manifest).await, k.ok_with("create -f - -o name", &manifest).await);
    assert_ne!(one, two);
    let mut named = [one, two].map(|n| n.trim().trim_start_matches("instance.portreeve.dev/").to_owned());
    named.sort();
    assert!(named.iter().all(|n| n.starts_with("user-") && n.len() == 10), "{named:?}");
    assert_eq!(k.names("instances").await, named);
}

async fn create_dry_runs_make_nothing(k: &Shell<'_>) {
    has(&k.ok_with("create -f - --dry-run=client", ALICE).await, &["alice created (dry run)"]);
    has(&k.ok_with("create -f - --dry-run=server", ALICE).await, &["alice created (server dry run)"]);
    let shown: Value =
        serde_json::from_str(&k.ok_with("create -f - --dry-run=server -o json", ALICE).await).expect("JSON");
    assert!(shown["metadata"]["uid"].is_string(), "the server has filled it in: {shown}");
    has(&k.fails_with("create -f - --dry-run=server", &ALICE.replace("8080", "0")).await, &["is invalid"]);
    assert!(k.names("instances").await.is_empty());
    k.ok("create secret generic s --from-literal=a=b --dry-run=server").await;
    assert!(k.names("secrets").await.is_empty());
}

fn wrong() -> String {
    ALICE
        .replace("image: app:1", "image: app:1\n  imagge: app:2")
        .replace("containerPort", "protocol: TCP, containerPort")
}

async fn create_refuses_unknown_fields_strictly(k: &Shell<'_>) {
    for flag in ["", "--validate=true", "--validate=strict"] {
        let error = k.fails_with(&format!("create -f - {flag}"), &wrong()).await;
        has(&error, &["(BadRequest)", "strict decoding error", "\"spec.imagge\"", "\"spec.ports[0].protocol\""]);
    }
    assert!(k.names("instances").await.is_empty());
}

async fn create_warns_of_unknown_fields(k: &Shell<'_>) {
    let ran = k.run("create -f - --validate=warn", &wrong()).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), "instance.portreeve.dev/alice created\n"));
    has(&ran.err, &["Warning: unknown field \"spec.imagge\"", "Warning: unknown field \"spec.ports[0].protocol\""]);
    assert!(k.object("instances/alice").await["spec"].get("imagge").is_none());
}

async fn create_ignores_unknown_fields_when_told(k: &Shell<'_>) {
    for flag in ["--validate=ignore", "--validate=false"] {
        let name = if flag.ends_with("ignore") { "one" } else { "two" };
        let ran = k.run(&format!("create -f - {flag}"), &wrong().replace("alice", name)).await;
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{flag}");
    }
    assert_eq!(k.names("instances").await, ["one", "two"]);
}

async fn create_refuses_duplicate_fields(k: &Shell<'_>) {
    // kubectl itself makes one of two of the same name, unless it sends what it is given.
    let body = r#"{"apiVersion":"portreeve.dev/v1","kind":"Instance","metadata":{"name":"dup"},"spec":{"image":"a","image":"b"}}"#;
    let path = k.path("instances");
    let error = k.fails_with(&format!("create --raw {path}?fieldValidation=Strict -f -"), body).await;
    has(&error, &["(BadRequest)", "duplicate field \"spec.image\""]);
    assert!(k.names("instances").await.is_empty());
    let ran = k.run(&format!("create --raw {path}?fieldValidation=Warn -f -"), body).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    has(&ran.err, &["Warning: duplicate field \"spec.image\""]);
    assert_eq!(k.object("instances/dup").await["spec"]["image"], "b");
}

async fn create_tells_every_invalid_field(k: &Shell<'_>) {
    let manifest = ALICE.replace("8080", "70000").replace("app:1", "''").replace("64Mi", "much");
    let error = k.fails_with("create -f -", &manifest).await;
    has(
        &error,
        &[
            "The Instance \"alice\" is invalid",
            "spec.ports[0].containerPort",
            "65535",
            "spec.image",
            "spec.resources.memory",
        ],
    );
    let error = k
        .fails_with("create -f -", "apiVersion: portreeve.dev/v1\nkind: Instance\nmetadata: {name: a}\nspec: {}\n")
        .await;
    has(&error, &["spec.image: Required value"]);
    assert!(k.names("instances").await.is_empty());
}

async fn create_refuses_a_bad_name(k: &Shell<'_>) {
    has(
        &k.fails_with("create -f -", &ALICE.replace("alice", "Al_ice")).await,
        &["is invalid", "metadata.name", "Al_ice"],
    );
    let error = k.fails_with("create -f -", &ALICE.replace("tier: free", "'bad key!': x")).await;
    has(&error, &["metadata.labels"]);
    assert!(k.names("instances").await.is_empty());
}

async fn create_in_a_missing_namespace_is_not_found(k: &Shell<'_>) {
    let error = k.fails_with("create -n nowhere -f -", ALICE).await;
    has(&error, &["(NotFound)", "namespaces \"nowhere\" not found"]);
    has(&k.fails("create configmap c -n nowhere").await, &["namespaces \"nowhere\" not found"]);
}

async fn create_refuses_another_namespace_than_the_request(k: &Shell<'_>) {
    let elsewhere = ALICE.replace("name: alice", "name: alice\n  namespace: default");
    has(
        &k.fails_with(&format!("create -n {} -f -", k.namespace), &elsewhere).await,
        &["the namespace from the provided object"],
    );
    assert!(k.names("instances").await.is_empty());
}

async fn create_saves_its_configuration(k: &Shell<'_>) {
    k.ok_with("create --save-config -f -", ALICE).await;
    let before = k.object("instances/alice").await;
    let ran = k.run("apply -f -", ALICE).await;
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("instance.portreeve.dev/alice unchanged\n", ""));
    assert_eq!(k.object("instances/alice").await, before);
}

async fn create_several_goes_on_after_a_failure(k: &Shell<'_>) {
    let three = format!("{SETTINGS}---\n{}---\n{}", ALICE.replace("8080", "0"), SETTINGS.replace("settings", "more"));
    let ran = k.run("create -f -", &three).await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), "configmap/settings created\nconfigmap/more created\n"));
    assert_eq!(k.names("configmaps").await, ["more", "settings"]);
    assert!(k.names("instances").await.is_empty());
}

async fn create_of_what_is_not_served_is_refused(k: &Shell<'_>) {
    // There is a kind of that name, which is only shown; and there is none.
    has(&k.fails("run alice --image=app:1").await, &["(MethodNotAllowed)", "write the instance of the same name"]);
    has(&k.fails("create deployment alice --image=app:1").await, &["could not find the requested resource"]);
    k.alice().await;
    has(&k.fails("create service clusterip alice --tcp=80").await, &["only read"]);
    assert!(k.names("pods").await.is_empty());
}
