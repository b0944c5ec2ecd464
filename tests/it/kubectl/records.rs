//! Secrets, config maps, namespaces, hosts and events: the commands made for them, and `describe` of each kind.

use serde_json::{Value, json};

use super::harness::{ALICE, SETTINGS, Shell, has, play, rows, scenarios};

#[tokio::test]
async fn records() {
    play(scenarios![
        create_secret_generic,
        create_secret_tls,
        create_secret_docker_registry,
        create_configmap_from_files,
        a_secret_goes_through_yaml,
        a_secret_is_edited_without_being_shown,
        immutable_records_stay,
        describe_an_instance,
        describe_records,
        describe_a_host_and_a_namespace,
        describe_nothing_is_not_found,
        events_of_one_object,
        events_by_type_and_table,
        events_of_the_new_group,
        namespaces_are_made_and_deleted,
        hosts_are_made_shown_and_deleted,
    ])
    .await;
}

async fn create_secret_generic(k: &Shell<'_>) {
    k.file("key.bin", "from a file");
    k.file("env", "A=1\nB=2\n");
    let said =
        k.ok("create secret generic db --from-literal=password=hunter2 --from-file=key.bin --type=my/type").await;
    assert_eq!(said, "secret/db created\n");
    let made = k.object("secrets/db").await;
    assert_eq!(made["data"], json!({"password": "aHVudGVyMg==", "key.bin": "ZnJvbSBhIGZpbGU="}));
    assert_eq!(made["type"], "my/type");
    k.ok("create secret generic env --from-env-file=env").await;
    assert_eq!(k.object("secrets/env").await["data"], json!({"A": "MQ==", "B": "Mg=="}));
    let table = k.ok("get secrets --no-headers").await;
    assert_eq!(
        rows(&table).iter().map(|r| r[..3].to_vec()).collect::<Vec<_>>(),
        [["db", "my/type", "2"], ["env", "Opaque", "2"]]
    );
    assert_eq!(k.ok("get secrets --field-selector type=Opaque -o name").await, "secret/env\n");
}

async fn create_secret_tls(k: &Shell<'_>) {
    let config: Value = serde_json::from_str(&k.ok("config view --raw -o json").await).expect("JSON");
    let pem = |field: &str| {
        use base64::Engine as _;
        let text = config["users"][0]["user"][field].as_str().expect("a text");
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).expect("base64")).expect("PEM")
    };
    k.file("tls.pem", &pem("client-certificate-data"));
    k.file("tls.key", &pem("client-key-data"));
    assert_eq!(k.ok("create secret tls site --cert=tls.pem --key=tls.key").await, "secret/site created\n");
    let made = k.object("secrets/site").await;
    assert_eq!((&made["type"], made["data"].as_object().map(|d| d.len())), (&json!("kubernetes.io/tls"), Some(2)));
    let half = "apiVersion: v1\nkind: Secret\nmetadata: {name: half}\ntype: kubernetes.io/tls\ndata: {tls.crt: ''}\n";
    has(&k.fails_with("create -f -", half).await, &["data[tls.key]", "Required value"]);
}

async fn create_secret_docker_registry(k: &Shell<'_>) {
    let line =
        "create secret docker-registry login --docker-server=r.example --docker-username=u --docker-password=hunter2";
    assert_eq!(k.ok(line).await, "secret/login created\n");
    assert_eq!(k.object("secrets/login").await["type"], "kubernetes.io/dockerconfigjson");
    let wrong = "apiVersion: v1\nkind: Secret\nmetadata: {name: w}\ntype: kubernetes.io/dockerconfigjson\nstringData: {.dockerconfigjson: hunter2}\n";
    let error = k.fails_with("create -f -", wrong).await;
    assert!(error.contains("is invalid") && !error.contains("hunter2"), "{error}");
    assert_eq!(k.names("secrets").await, ["login"]);
}

async fn create_configmap_from_files(k: &Shell<'_>) {
    k.file("conf/a.conf", "debug=true\n");
    k.file("conf/b.conf", "x");
    k.ok("create configmap all --from-file=conf --from-literal=c=d").await;
    assert_eq!(k.object("configmaps/all").await["data"], json!({"a.conf": "debug=true\n", "b.conf": "x", "c": "d"}));
    std::fs::write(k.dir.join("raw"), [0xff, 0xfe]).expect("a file");
    k.ok("create configmap raw --from-file=raw").await;
    assert_eq!(k.object("configmaps/raw").await["binaryData"], json!({"raw": "//4="}));
    let table = k.ok("get cm --no-headers").await;
    assert_eq!(rows(&table).iter().map(|r| r[..2].to_vec()).collect::<Vec<_>>(), [["all", "3"], ["raw", "1"]]);
}

async fn a_secret_goes_through_yaml(k: &Shell<'_>) {
    let yaml = k.ok("create secret generic s --from-literal=a=b --dry-run=client -o yaml").await;
    assert_eq!(k.ok_with("apply -f -", &yaml).await, "secret/s created\n");
    let again = k.ok("create secret generic s --from-literal=a=c --dry-run=client -o yaml").await;
    assert_eq!(k.ok_with("apply -f -", &again).await, "secret/s configured\n");
    assert_eq!(k.object("secrets/s").await["data"], json!({"a": "Yw=="}));
}

async fn a_secret_is_edited_without_being_shown(k: &Shell<'_>) {
    k.ok("create secret generic s --from-literal=a=hunter2").await;
    let ran = k.edit("s/aHVudGVyMg==/aHVudGVyMw==/", "secret s").await;
    assert_eq!(ran.out, "secret/s edited\n", "{ran:?}");
    assert_eq!(k.object("secrets/s").await["data"]["a"], "aHVudGVyMw==");
    let error = k.fails("patch secret s --type=merge -p {\"data\":{\"a\":\"hunter2!\"}}").await;
    assert!(error.contains("data") && !error.contains("hunter2"), "{error}");
}

async fn immutable_records_stay(k: &Shell<'_>) {
    k.ok_with("create -f -", &format!("{SETTINGS}immutable: true\n")).await;
    let error = k.fails("patch cm settings -p {\"data\":{\"mode\":\"light\"}}").await;
    has(&error, &["is invalid", "data", "Forbidden", "immutable"]);
    k.ok("label cm settings a=b").await;
    assert_eq!(k.object("configmaps/settings").await["data"]["mode"], "dark");
}

/// An event about `alice`, as a controller tells it.
async fn tell(k: &Shell<'_>, name: &str, kind: &str, reason: &str, about: &str) {
    let uid = k.object(&format!("instances/{about}")).await["metadata"]["uid"].clone();
    let event = json!({
        "kind": "Event", "apiVersion": "v1", "metadata": {"name": name, "namespace": k.namespace}, "type": kind,
        "reason": reason, "message": "as it was", "count": 3, "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-02T00:00:00Z", "source": {"component": "portreeve"},
        "involvedObject": {"kind": "Instance", "namespace": k.namespace, "name": about, "uid": uid,
                           "apiVersion": "portreeve.dev/v1"},
    });
    k.server.put(event).await;
}

async fn describe_an_instance(k: &Shell<'_>) {
    k.alice().await;
    tell(k, "alice.1", "Warning", "PullFailed", "alice").await;
    let page = k.ok("describe inst alice").await;
    has(
        &page,
        &[
            "Name:         alice",
            "Labels:       tier=free",
            "Kind:         Instance",
            "app:1",
            "PullFailed",
            "as it was",
        ],
    );
    assert!(!page.contains("Managed Fields"), "{page}");
    has(&k.ok("describe inst -l tier=free").await, &["Name:         alice"]);
}

async fn describe_records(k: &Shell<'_>) {
    k.ok("create secret generic db --from-literal=password=hunter2").await;
    let page = k.ok("describe secret db").await;
    assert!(page.contains("password:  7 bytes") && !page.contains("hunter2"), "{page}");
    k.ok_with("create -f -", SETTINGS).await;
    has(&k.ok("describe cm settings").await, &["mode:\n----\ndark", "set=s"]);
}

async fn describe_a_host_and_a_namespace(k: &Shell<'_>) {
    let host = json!({"apiVersion": "portreeve.dev/v1", "kind": "DockerHost", "metadata": {"name": "shown"},
                      "spec": {"endpoint": "unix:///x"}});
    k.ok_with("create -f -", &host.to_string()).await;
    has(&k.ok("describe dockerhost shown").await, &["Name:         shown", "Kind:         DockerHost", "unix:///x"]);
    has(&k.ok("describe node shown").await, &["Name:               shown", "Unschedulable:      false"]);
    let page = k.ok(&format!("describe ns {}", k.namespace)).await;
    has(&page, &[&format!("Name:         {}", k.namespace), "Status:       Active", "kubernetes.io/metadata.name="]);
    k.ok("delete dockerhost shown").await;
}

async fn describe_nothing_is_not_found(k: &Shell<'_>) {
    for (kind, resource) in
        [("inst", "instances.portreeve.dev"), ("secret", "secrets"), ("node", "nodes"), ("pod", "pods")]
    {
        has(&k.fails(&format!("describe {kind} nothing")).await, &[&format!("{resource} \"nothing\" not found")]);
    }
}

async fn events_of_one_object(k: &Shell<'_>) {
    k.alice().await;
    k.ok_with("create -f -", &ALICE.replace("alice", "bob")).await;
    tell(k, "alice.1", "Warning", "PullFailed", "alice").await;
    tell(k, "bob.1", "Normal", "Started", "bob").await;
    let events = k.ok("events --for inst/alice").await;
    assert!(events.contains("PullFailed") && events.contains("(x3 over") && !events.contains("Started"), "{events}");
    let selected = k.ok("get events --field-selector involvedObject.name=bob -o jsonpath={.items[*].reason}").await;
    assert_eq!(selected, "Started");
}

async fn events_by_type_and_table(k: &Shell<'_>) {
    assert_eq!(k.run("events", "").await.err, format!("No events found in {} namespace.\n", k.namespace));
    k.alice().await;
    tell(k, "alice.1", "Warning", "PullFailed", "alice").await;
    tell(k, "alice.2", "Normal", "Started", "alice").await;
    let warnings = k.ok("events --types=Warning").await;
    assert!(warnings.contains("PullFailed") && !warnings.contains("Started"), "{warnings}");
    let table = k.ok("get events --sort-by=.reason").await;
    assert_eq!(rows(&table)[0], ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
    assert_eq!(
        rows(&table)[1..].iter().map(|r| r[2..4].to_vec()).collect::<Vec<_>>(),
        [["PullFailed", "instance/alice"], ["Started", "instance/alice"]]
    );
    assert_eq!(k.ok("get events --field-selector type=Normal -o name").await, "event/alice.2\n");
}

async fn events_of_the_new_group(k: &Shell<'_>) {
    k.alice().await;
    tell(k, "alice.1", "Warning", "PullFailed", "alice").await;
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "alice.2", "namespace": k.namespace},
        "type": "Normal", "eventTime": "2026-01-01T00:00:00.000001Z", "reportingController": "example.com/c",
        "reportingInstance": "c-0", "action": "Start", "reason": "Started", "note": "it runs",
        "regarding": {"apiVersion": "portreeve.dev/v1", "kind": "Instance", "namespace": k.namespace, "name": "alice"},
    })
    .to_string();
    assert_eq!(k.ok_with("create -f -", &event).await, "event.events.k8s.io/alice.2 created\n");
    let table = k.ok("get events.events.k8s.io --sort-by=.reason").await;
    assert_eq!(rows(&table)[0], ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
    assert_eq!(rows(&table)[2][1..], ["Normal", "Started", "instance/alice", "it", "runs"]);
    let notes = k.ok("get events.events.k8s.io -o jsonpath={.items[*].note}").await;
    assert!(notes.contains("it runs"), "{notes}");
    assert_eq!(k.ok("get events alice.2 -o jsonpath={.message}").await, "it runs");
    has(&k.ok("events --for inst/alice").await, &["PullFailed", "it runs"]);
    has(&k.ok("explain event.regarding --api-version=events.k8s.io/v1").await, &["The object that it happened to"]);
    has(&k.ok("delete events.events.k8s.io alice.2").await, &["event.events.k8s.io \"alice.2\" deleted"]);
}

async fn namespaces_are_made_and_deleted(k: &Shell<'_>) {
    let name = format!("{}-new", k.namespace);
    assert_eq!(k.ok(&format!("create namespace {name}")).await, format!("namespace/{name} created\n"));
    has(&k.fails(&format!("create ns {name}")).await, &["(AlreadyExists)"]);
    let shown = k.ok(&format!("get ns {name} -o jsonpath={{.status.phase}}/{{.metadata.labels}}")).await;
    assert_eq!(shown, format!("Active/{{\"kubernetes.io/metadata.name\":\"{name}\"}}"));
    has(&k.ok(&format!("delete ns {name}")).await, &[&format!("namespace \"{name}\" deleted")]);
    has(&k.fails(&format!("get ns {name}")).await, &[&format!("namespaces \"{name}\" not found")]);
    has(&k.fails("delete ns default --timeout=5s").await, &["default"]);
}

async fn hosts_are_made_shown_and_deleted(k: &Shell<'_>) {
    let host =
        "apiVersion: portreeve.dev/v1\nkind: DockerHost\nmetadata: {name: made}\nspec: {endpoint: 'unix:///x'}\n";
    assert_eq!(k.ok_with("apply -f -", host).await, "dockerhost.portreeve.dev/made created\n");
    assert_eq!(k.ok_with("apply -f -", host).await, "dockerhost.portreeve.dev/made unchanged\n");
    has(&k.ok("get dh made").await, &["unix:///x"]);
    has(&k.ok("get node made -o name").await, &["node/made"]);
    has(&k.fails_with("apply -f -", &host.replace("unix:///x", "gopher://x")).await, &["is invalid", "spec.endpoint"]);
    has(&k.ok("delete dh made").await, &["dockerhost.portreeve.dev \"made\" deleted"]);
    has(&k.fails("get node made").await, &["nodes \"made\" not found"]);
}
