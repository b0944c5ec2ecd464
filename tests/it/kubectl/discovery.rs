//! What kubectl learns of the server before it asks for objects.

use super::harness::{Shell, has, play, rows, scenarios};

#[tokio::test]
async fn discovery() {
    play(scenarios![
        version_is_a_kubernetes_version,
        api_resources_lists_every_kind,
        api_resources_by_group_verb_and_scope,
        api_versions_lists_every_group,
        raw_discovery_and_health,
        raw_of_nothing_is_not_found,
        config_view_hides_credentials,
        explain_a_kind,
        explain_a_view,
        explain_recursively_for_every_kind,
        explain_a_field_and_its_enum,
        explain_of_no_field_is_refused,
        an_unknown_resource_is_said_to_be_none,
    ])
    .await;
}

async fn version_is_a_kubernetes_version(k: &Shell<'_>) {
    let version: serde_json::Value = serde_json::from_str(&k.ok("version -o json").await).expect("JSON");
    let server = &version["serverVersion"];
    assert_eq!((&server["major"], &server["minor"]), (&"1".into(), &"34".into()), "{version}");
    assert!(server["gitVersion"].as_str().is_some_and(|v| v.starts_with("v1.34.")), "{version}");
}

async fn api_resources_lists_every_kind(k: &Shell<'_>) {
    let table = k.ok("api-resources --no-headers").await;
    for wanted in [
        &["instances", "inst", "portreeve.dev/v1", "true", "Instance"][..],
        &["dockerhosts", "dh", "portreeve.dev/v1", "false", "DockerHost"],
        &["accesstokens", "portreeve.dev/v1", "false", "AccessToken"],
        &["configmaps", "cm", "v1", "true", "ConfigMap"],
        &["secrets", "v1", "true", "Secret"],
        &["namespaces", "ns", "v1", "false", "Namespace"],
        &["nodes", "no", "v1", "false", "Node"],
        &["pods", "po", "v1", "true", "Pod"],
        &["events", "ev", "v1", "true", "Event"],
        &["events", "ev", "events.k8s.io/v1", "true", "Event"],
    ] {
        assert!(rows(&table).contains(&wanted.to_vec()), "{wanted:?} is missing: {table}");
    }
}

async fn api_resources_by_group_verb_and_scope(k: &Shell<'_>) {
    let names = k.ok("api-resources --api-group=portreeve.dev --namespaced=true -o name").await;
    assert_eq!(names, "instances.portreeve.dev\n");
    let names = k.ok("api-resources --verbs=delete,patch --api-group=portreeve.dev --namespaced=false -o name").await;
    assert_eq!(names, "accesstokens.portreeve.dev\ndockerhosts.portreeve.dev\n");
    let wide = k.ok("api-resources -o wide").await;
    has(&wide, &["create,delete,deletecollection,get,list,patch,update,watch", "all"]);
}

async fn api_versions_lists_every_group(k: &Shell<'_>) {
    let versions = k.ok("api-versions").await;
    for wanted in ["v1", "portreeve.dev/v1", "authorization.k8s.io/v1", "authentication.k8s.io/v1", "events.k8s.io/v1"]
    {
        assert!(versions.lines().any(|l| l == wanted), "{wanted}: {versions}");
    }
}

async fn raw_discovery_and_health(k: &Shell<'_>) {
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(k.ok(&format!("get --raw {path}")).await, "ok", "{path}");
    }
    has(&k.ok("get --raw /api").await, &["\"APIVersions\"", "\"v1\""]);
    has(&k.ok("get --raw /apis/portreeve.dev/v1").await, &["instances/scale", "Scale", "autoscaling"]);
    has(&k.ok("get --raw /openapi/v3").await, &["apis/portreeve.dev/v1", "hash="]);
    k.alice().await;
    let raw: serde_json::Value =
        serde_json::from_str(&k.ok(&format!("get --raw {}", k.path("instances/alice"))).await).expect("JSON");
    assert_eq!(raw, k.object("instances/alice").await);
}

async fn raw_of_nothing_is_not_found(k: &Shell<'_>) {
    has(&k.fails("get --raw /apis/nothing.example/v1").await, &["NotFound"]);
    let error = k.fails(&format!("delete --raw {}", k.path("instances/none"))).await;
    has(&error, &["(NotFound)", "instances.portreeve.dev \"none\" not found"]);
    let error = k.fails_with(&format!("create --raw {} -f -", k.path("configmaps")), "{").await;
    has(&error, &["(BadRequest)", "not valid JSON"]);
    assert!(k.names("configmaps").await.is_empty());
}

async fn config_view_hides_credentials(k: &Shell<'_>) {
    let view = k.ok("config view --minify").await;
    has(&view, &["server: https://127.0.0.1", "REDACTED", "DATA+OMITTED", &format!("namespace: {}", k.namespace)]);
    assert_eq!(k.ok("config current-context").await, "portreeve\n");
    let get_token = "config view --raw -o jsonpath={.users[0].user.token}";
    assert!(k.ok(get_token).await.len() > 20, "the raw view has it");
}

async fn explain_a_kind(k: &Shell<'_>) {
    for kind in ["instance", "dockerhost", "accesstoken", "namespace", "secret", "configmap", "event"] {
        let page = k.ok(&format!("explain {kind}")).await;
        has(
            &page.to_ascii_lowercase(),
            &[&format!("kind:       {kind}"), "version:    v1", "description:", "metadata"],
        );
    }
}

async fn explain_a_view(k: &Shell<'_>) {
    for (kind, texts) in [
        (
            "pod",
            &[
                "KIND:       Pod",
                "VERSION:    v1",
                "The container of the Instance of the same name",
                "metadata\t<",
                "spec\t<",
                "status\t<",
            ][..],
        ),
        ("node", &["KIND:       Node", "The DockerHost of the same name", "spec\t<", "status\t<"]),
        ("lease", &["KIND:       Lease", "When a DockerHost was last heard of", "spec\t<"]),
        ("service", &["KIND:       Service", "There are none"]),
        (
            "pod.spec.containers",
            &["FIELD: containers <[]Object>", "name\t<string>", "The image, as the Instance names it"],
        ),
        ("pod.status.phase", &["FIELD: phase <string>", "Running also while the instance sleeps"]),
        ("pod.spec.tolerations.effect", &["FIELD: effect <string>"]),
        ("pod.metadata.ownerReferences", &["FIELD: ownerReferences <[]Object>"]),
        ("node.spec.taints", &["FIELD: taints <[]Object>", "effect\t<string>", "-required-", "NoSchedule"]),
        ("node.status.capacity.pods", &["Number of instances"]),
        ("lease.spec.renewTime", &["FIELD: renewTime <string>", "last heard of"]),
    ] {
        has(&k.ok(&format!("explain {kind}")).await, texts);
    }
    has(&k.fails("explain pod.spec.dnsPolicy").await, &["field \"dnsPolicy\" does not exist"]);
}

async fn explain_recursively_for_every_kind(k: &Shell<'_>) {
    for (kind, fields) in [
        (
            "instance",
            &["containerPort\t<integer> -required-", "idle\t<Object>", "nodeSelector\t<map[string]string>"][..],
        ),
        ("dockerhost", &["endpoint\t<string>", "capacity\t<Object>"]),
        ("accesstoken", &["role\t<string>", "namespaces\t<[]string>"]),
        ("secret", &["stringData\t<map[string]string>", "immutable\t<boolean>"]),
        ("configmap", &["binaryData\t<map[string]string>", "data\t<map[string]string>"]),
        ("namespace", &["finalizers\t<[]string>", "phase\t<string>"]),
        ("event", &["involvedObject\t<", "reason\t<string>"]),
        (
            "pod",
            &["containerStatuses\t<[]Object>", "exitCode\t<integer>", "hostPort\t<integer>", "tolerations\t<[]Object>"],
        ),
        ("node", &["unschedulable\t<boolean>", "containerRuntimeVersion\t<string>", "allocatable\t<Object>"]),
        ("lease", &["holderIdentity\t<string>", "leaseDurationSeconds\t<integer>"]),
        ("service", &["metadata\t<"]),
    ] {
        has(&k.ok(&format!("explain {kind} --recursive")).await, fields);
    }
}

async fn explain_a_field_and_its_enum(k: &Shell<'_>) {
    has(&k.ok("explain inst.spec.ports.containerPort").await, &["FIELD: containerPort <integer>", "DESCRIPTION:"]);
    let power = k.ok("explain inst.spec.power").await;
    has(&power, &["FIELD: power <string>"]);
    // Up to 1.29 kubectl shows no enum of a field that is asked for by itself.
    if k.minor >= 30 {
        has(&power, &["ENUM:\n    Auto\n    Running\n    Stopped\n"]);
    }
    has(&k.ok("explain --api-version=portreeve.dev/v1 instances.spec.image").await, &["The image to run"]);
}

async fn explain_of_no_field_is_refused(k: &Shell<'_>) {
    has(&k.fails("explain inst.spec.nothing").await, &["field \"nothing\" does not exist"]);
    has(&k.fails("explain nothings").await, &["the server doesn't have a resource type \"nothings\""]);
}

async fn an_unknown_resource_is_said_to_be_none(k: &Shell<'_>) {
    has(&k.fails("get nothings").await, &["the server doesn't have a resource type \"nothings\""]);
    let wrong = "apiVersion: portreeve.dev/v9\nkind: Instance\nmetadata: {name: alice}\n";
    has(
        &k.fails_with("create -f -", wrong).await,
        &["no matches for kind \"Instance\" in version \"portreeve.dev/v9\""],
    );
    assert!(k.names("instances").await.is_empty());
}
