//! Every way that `get` has to choose, to order and to print.

use serde_json::{Value, json};

use super::harness::{Shell, has, play, rows, scenarios};
use crate::support::api_server::running;

#[tokio::test]
async fn get() {
    play(scenarios![
        get_a_table,
        get_wide,
        get_json_and_yaml,
        get_names,
        get_jsonpath_and_templates,
        get_custom_columns,
        get_all_namespaces,
        get_by_labels,
        get_by_fields,
        get_by_an_unknown_field_is_refused,
        get_sorted,
        get_labels_as_columns,
        get_in_chunks,
        get_several_kinds,
        get_printed_without_the_server,
        get_a_missing_name,
        get_subresources,
        get_from_files_and_lists,
    ])
    .await;
}

/// Three instances: a and b are free, c is paid.
async fn three(k: &Shell<'_>) {
    for (name, tier, image) in [("a", "free", "z:1"), ("b", "free", "y:1"), ("c", "paid", "x:1")] {
        let meta = json!({"name": name, "labels": {"tier": tier}});
        let spec = json!({"image": image, "ports": [{"name": "web", "containerPort": 80}]});
        k.make(&json!({"apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": meta, "spec": spec})).await;
    }
}

async fn get_a_table(k: &Shell<'_>) {
    assert_eq!(k.run("get inst", "").await.err, format!("No resources found in {} namespace.\n", k.namespace));
    three(k).await;
    let table = k.ok("get inst").await;
    let rows = rows(&table);
    assert_eq!(rows[0], ["NAME", "PHASE", "READY", "NODE", "IMAGE", "LAST", "ACTIVE", "URL", "AGE"]);
    assert_eq!(rows[1..].iter().map(|r| (r[0], r[4])).collect::<Vec<_>>(), [("a", "z:1"), ("b", "y:1"), ("c", "x:1")]);
    assert_eq!(k.ok("get inst --no-headers").await.lines().count(), 3);
}

async fn get_wide(k: &Shell<'_>) {
    three(k).await;
    let (narrow, wide) = (k.ok("get inst a").await, k.ok("get inst a -o wide").await);
    assert!(!narrow.contains("PORTS"), "{narrow}");
    has(&wide, &["PORTS", "web:80"]);
}

async fn get_json_and_yaml(k: &Shell<'_>) {
    three(k).await;
    let mut stored = k.object("instances/a").await;
    let json: Value = serde_json::from_str(&k.ok("get inst a -o json --show-managed-fields").await).expect("JSON");
    assert_eq!(json, stored);
    let yaml: Value = serde_yaml::from_str(&k.ok("get inst a -o yaml").await).expect("YAML");
    stored["metadata"].as_object_mut().expect("metadata").remove("managedFields");
    assert_eq!(yaml, stored);
    let list: Value = serde_json::from_str(&k.ok("get inst -o json").await).expect("JSON");
    assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&json!("List"), Some(3)));
    assert_eq!(list["items"][2]["kind"], "Instance");
}

async fn get_names(k: &Shell<'_>) {
    three(k).await;
    let names = k.ok("get inst -o name").await;
    assert_eq!(names, "instance.portreeve.dev/a\ninstance.portreeve.dev/b\ninstance.portreeve.dev/c\n");
    assert_eq!(k.ok("get instance.v1.portreeve.dev/b -o name").await, "instance.portreeve.dev/b\n");
    assert_eq!(k.ok("get instances.portreeve.dev c -o name").await, "instance.portreeve.dev/c\n");
}

async fn get_jsonpath_and_templates(k: &Shell<'_>) {
    three(k).await;
    assert_eq!(k.ok("get inst -o jsonpath={.items[*].spec.image}").await, "z:1 y:1 x:1");
    let filter = "get inst -o 'jsonpath={range .items[?(@.metadata.labels.tier==\"free\")]}{.metadata.name};{end}'";
    assert_eq!(k.ok(filter).await, "a;b;");
    assert_eq!(k.ok("get inst a -o 'go-template={{.kind}}/{{.spec.image}}'").await, "Instance/z:1");
    k.file("path.txt", "{.metadata.name}");
    assert_eq!(k.ok("get inst a -o jsonpath-file=path.txt").await, "a");
}

async fn get_custom_columns(k: &Shell<'_>) {
    three(k).await;
    let table =
        k.ok("get inst -o custom-columns=WHO:.metadata.name,PORT:.spec.ports[0].containerPort,NO:.spec.user").await;
    assert_eq!(rows(&table)[..2], [vec!["WHO", "PORT", "NO"], vec!["a", "80", "<none>"]]);
}

async fn get_all_namespaces(k: &Shell<'_>) {
    three(k).await;
    let other = json!({"apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": {"name": "elsewhere"},
                       "spec": {"image": "x"}});
    k.server.client.post("/apis/portreeve.dev/v1/namespaces/default/instances", &other).await.expect(201);
    let table = k.ok("get inst -A").await;
    let found: Vec<_> = rows(&table).iter().map(|r| [r[0].to_owned(), r[1].to_owned()]).collect();
    assert!(
        found.contains(&["NAMESPACE".into(), "NAME".into()]) && found.contains(&["default".into(), "elsewhere".into()])
    );
    assert!(found.contains(&[k.namespace.clone(), "c".into()]), "{table}");
    assert!(!k.ok("get inst").await.contains("elsewhere"));
    has(&k.ok("get inst -n default").await, &["elsewhere"]);
    k.server
        .client
        .merge(
            "/apis/portreeve.dev/v1/namespaces/default/instances/elsewhere",
            &json!({"metadata": {"finalizers": null}}),
        )
        .await;
    k.ok("delete inst elsewhere -n default --wait=false").await;
}

async fn get_by_labels(k: &Shell<'_>) {
    three(k).await;
    for (selector, names) in [
        ("tier=free", "a b"),
        ("tier!=free", "c"),
        ("'tier in (free,paid),tier notin (paid)'", "a b"),
        ("tier", "a b c"),
        ("!tier", ""),
        ("tier==paid", "c"),
    ] {
        let found = k.ok(&format!("get inst -l {selector} -o jsonpath={{.items[*].metadata.name}}")).await;
        assert_eq!(found, names, "{selector}");
    }
    has(&k.fails("get inst -l 'tier in'").await, &["unable to parse requirement"]);
}

async fn get_by_fields(k: &Shell<'_>) {
    three(k).await;
    for (selector, names) in [
        ("metadata.name=b", "b"),
        ("metadata.name!=b", "a c"),
        ("metadata.namespace=nowhere", ""),
        ("metadata.name=a,metadata.name=b", ""),
    ] {
        let found =
            k.ok(&format!("get inst --field-selector {selector} -o jsonpath={{.items[*].metadata.name}}")).await;
        assert_eq!(found, names, "{selector}");
    }
    let both = k.ok("get inst --field-selector metadata.name!=b -l tier=free -o name").await;
    assert_eq!(both, "instance.portreeve.dev/a\n");
}

async fn get_by_an_unknown_field_is_refused(k: &Shell<'_>) {
    let error = k.fails("get inst --field-selector spec.image=x").await;
    has(&error, &["(BadRequest)", "field label not supported: spec.image"]);
}

async fn get_sorted(k: &Shell<'_>) {
    three(k).await;
    let order = async |by: &str| {
        let table = k.ok(&format!("get inst --no-headers --sort-by={by}")).await;
        rows(&table).iter().map(|r| r[0]).collect::<Vec<_>>().concat()
    };
    assert_eq!(order(".spec.image").await, "cba");
    assert_eq!(order("{.metadata.name}").await, "abc");
    assert_eq!(k.ok("get inst --sort-by=.spec.image -o jsonpath={.items[*].metadata.name}").await, "c b a");
}

async fn get_labels_as_columns(k: &Shell<'_>) {
    three(k).await;
    let table = k.ok("get inst --show-labels").await;
    assert!(table.lines().nth(3).is_some_and(|l| l.ends_with("tier=paid")), "{table}");
    let table = k.ok("get inst -L tier").await;
    assert!(table.lines().next().is_some_and(|l| l.ends_with("TIER")), "{table}");
    assert!(table.lines().nth(1).is_some_and(|l| l.ends_with("free")), "{table}");
}

async fn get_in_chunks(k: &Shell<'_>) {
    three(k).await;
    let whole = k.ok("get inst -o name").await;
    for size in [0, 1, 2, 500] {
        assert_eq!(k.ok(&format!("get inst -o name --chunk-size={size}")).await, whole, "{size}");
    }
    // As the server pages them.
    let page: Value =
        serde_json::from_str(&k.ok(&format!("get --raw {}?limit=2", k.path("instances"))).await).expect("JSON");
    assert_eq!(page["metadata"]["remainingItemCount"], 1, "{page}");
}

async fn get_several_kinds(k: &Shell<'_>) {
    three(k).await;
    k.ok("create configmap settings --from-literal=a=b").await;
    let table = k.ok("get inst,cm").await;
    has(&table, &["instance.portreeve.dev/a", "configmap/settings"]);
    assert_eq!(k.ok("get inst/a cm/settings -o name").await, "instance.portreeve.dev/a\nconfigmap/settings\n");
    let all = k.ok("get all").await;
    // The only resource of the category, therefore without its name.
    assert_eq!(rows(&all)[1..].iter().map(|r| r[0]).collect::<Vec<_>>(), ["a", "b", "c"]);
}

async fn get_printed_without_the_server(k: &Shell<'_>) {
    three(k).await;
    let table = k.ok("get inst --server-print=false").await;
    let rows = rows(&table);
    assert_eq!(rows[0], ["NAME", "AGE"]);
    assert_eq!(rows[1..].iter().map(|r| r[0]).collect::<Vec<_>>(), ["a", "b", "c"]);
    k.status("a", running()).await;
    has(&k.ok("get pods --server-print=false").await, &["NAME", "AGE", "a "]);
    has(&k.ok("get ns --server-print=false").await, &[&k.namespace]);
}

async fn get_a_missing_name(k: &Shell<'_>) {
    three(k).await;
    let ran = k.run("get inst a nobody", "").await;
    assert_eq!(ran.code, Some(1));
    has(&ran.out, &["z:1"]);
    assert_eq!(ran.err, "Error from server (NotFound): instances.portreeve.dev \"nobody\" not found\n");
    let ran = k.run("get inst nobody --ignore-not-found", "").await;
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "", ""));
    has(&k.fails("get cm nothing").await, &["configmaps \"nothing\" not found"]);
}

async fn get_subresources(k: &Shell<'_>) {
    three(k).await;
    assert_eq!(k.ok("get inst a --subresource=scale -o jsonpath={.kind}{.spec.replicas}").await, "Scale1");
    has(&k.ok("get inst a --subresource=scale").await, &["NAME", "AGE", "a "]);
    k.status("a", json!({"phase": "Running"})).await;
    assert_eq!(k.ok("get inst a --subresource=status -o jsonpath={.status.phase}").await, "Running");
}

async fn get_from_files_and_lists(k: &Shell<'_>) {
    three(k).await;
    let manifest = |name: &str| {
        format!("apiVersion: portreeve.dev/v1\nkind: Instance\nmetadata: {{name: {name}}}\nspec: {{image: any}}\n")
    };
    k.file("two.yaml", &format!("{}---\n{}", manifest("a"), manifest("c")));
    assert_eq!(k.ok("get -f two.yaml -o jsonpath={.items[*].spec.image}").await, "z:1 x:1");
    k.file("gone.yaml", &manifest("gone"));
    has(&k.fails("get -f gone.yaml").await, &["\"gone\" not found"]);
}
