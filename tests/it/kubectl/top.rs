//! `top pod` and `top node`, with the real meter over simulated daemons.

use serde_json::json;

use super::harness::{ALICE, Shell, has, play, rows, scenarios};
use crate::support::api_server::HOSTS;

#[tokio::test]
async fn top() {
    play(scenarios![
        top_pod_tells_what_instances_use,
        top_pod_selects_and_sums,
        top_pod_of_all_namespaces,
        top_pod_of_a_sleeper_says_why_there_is_nothing,
        top_node_divides_by_what_instances_may_use,
        top_node_shows_a_silent_host_as_unknown,
        metrics_are_listed_and_explained,
        metrics_are_only_read,
        a_viewer_sees_the_use_of_his_namespace,
    ])
    .await;
}

/// `alice` runs, and so does `bob`; `carol` sleeps.
async fn furnish(k: &Shell<'_>) {
    for host in HOSTS {
        k.server.put_host(host, true).await;
    }
    for (name, labels) in [("alice", json!({"tier": "free"})), ("bob", json!({"tier": "paid"})), ("carol", json!({}))] {
        let mut object: serde_json::Value = serde_yaml::from_str(ALICE).expect("a manifest");
        object["metadata"] = json!({"name": name, "labels": labels});
        k.make(&object).await;
    }
    k.server.runs(&k.namespace, "alice", "local", 400, 96).await;
    k.server.runs(&k.namespace, "bob", "other", 150, 32).await;
    k.status("carol", json!({"phase": "Asleep", "node": "local", "containerID": "c0ffee"})).await;
    k.server.seen().await;
}

/// Whether a cell says so many thousandths of a core: real clocks are not read at the same moment.
fn about(cell: &str, milli: i64) -> bool {
    cell.strip_suffix('m').and_then(|n| n.parse::<i64>().ok()).is_some_and(|n| (milli - 5..milli + 15).contains(&n))
}

async fn top_pod_tells_what_instances_use(k: &Shell<'_>) {
    furnish(k).await;
    let table = k.ok("top pod").await;
    let lines = rows(&table);
    assert_eq!(lines[0], ["NAME", "CPU(cores)", "MEMORY(bytes)"]);
    assert_eq!(lines.len(), 3, "who sleeps uses nothing: {table}");
    assert!(lines[1][0] == "alice" && about(lines[1][1], 400) && lines[1][2] == "96Mi", "{table}");
    assert!(lines[2][0] == "bob" && about(lines[2][1], 150) && lines[2][2] == "32Mi", "{table}");
    let one = k.ok("top pod alice --no-headers").await;
    assert_eq!((rows(&one).len(), rows(&one)[0][0], rows(&one)[0][2]), (1, "alice", "96Mi"), "{one}");
}

async fn top_pod_selects_and_sums(k: &Shell<'_>) {
    furnish(k).await;
    assert_eq!(rows(&k.ok("top pod -l tier=paid --no-headers").await)[0][0], "bob");
    assert_eq!(rows(&k.ok("top pods --sort-by=memory --no-headers").await)[0][0], "alice");
    let containers = k.ok("top pod alice --containers").await;
    assert_eq!(rows(&containers)[0][..2], ["POD", "NAME"], "{containers}");
    assert_eq!(rows(&containers)[1][..2], ["alice", "main"], "{containers}");
    let sum = k.ok("top pod --sum").await;
    let last = rows(&sum).pop().expect("a last line").clone();
    assert_eq!(*last.last().expect("a cell"), "128Mi", "{sum}");
    let here = k.ok("top pod --field-selector spec.nodeName=other --no-headers").await;
    assert_eq!((rows(&here).len(), rows(&here)[0][0]), (1, "bob"), "{here}");
}

async fn top_pod_of_all_namespaces(k: &Shell<'_>) {
    furnish(k).await;
    let table = k.ok("top pod -A").await;
    let own = rows(&table).into_iter().filter(|r| r[0] == k.namespace).count();
    assert_eq!((rows(&table)[0][0], own), ("NAMESPACE", 2), "{table}");
}

async fn top_pod_of_a_sleeper_says_why_there_is_nothing(k: &Shell<'_>) {
    furnish(k).await;
    has(&k.fails("top pod carol").await, &["(NotFound)", "\"carol\" not found: it is asleep and uses nothing"]);
    let nobody = k.fails("top pod nobody").await;
    has(&nobody, &["pods.metrics.k8s.io \"nobody\" not found"]);
}

async fn top_node_divides_by_what_instances_may_use(k: &Shell<'_>) {
    furnish(k).await;
    let table = k.ok("top node").await;
    let lines = rows(&table);
    assert_eq!(lines[0][0], "NAME");
    assert_eq!((lines[1][0], lines[2][0]), ("local", "other"), "{table}");
    // Other scenarios run instances there, too, so what is used is only held against what is shown of it.
    let number = |text: &str| text.trim_end_matches(['m', '%', 'M', 'i']).parse::<f64>().expect("a number");
    for line in &lines[1..] {
        assert!((number(line[2]) - number(line[1]) / 20.0).abs() <= 1.0, "of 2 cores: {table}");
        assert!((number(line[4]) - number(line[3]) / 10.24).abs() <= 1.0, "of 1 GiB: {table}");
    }
    assert!(number(lines[1][1]) >= 395.0 && number(lines[1][3]) >= 96.0, "{table}");
    assert_eq!(rows(&k.ok("top node other --no-headers").await)[0][0], "other");
    assert_eq!(rows(&k.ok("top node -l zone=local --no-headers").await).len(), 1);
    k.ok("top nodes --sort-by=cpu --show-capacity").await;
}

async fn top_node_shows_a_silent_host_as_unknown(k: &Shell<'_>) {
    furnish(k).await;
    k.server.put_host("other", false).await;
    let table = k.ok("top node").await;
    let other = rows(&table).into_iter().find(|r| r[0] == "other").expect("a line");
    assert!(other[1..].iter().all(|cell| *cell == "<unknown>"), "{table}");
    let local = rows(&table).into_iter().find(|r| r[0] == "local").expect("a line");
    assert!(local[1].ends_with('m'), "{table}");
    has(&k.fails("top pod bob").await, &["(NotFound)", "\"bob\" not found: the host \"other\" does not answer"]);
    has(&k.ok("top pod").await, &["alice"]);
    k.server.put_host("other", true).await;
}

async fn metrics_are_listed_and_explained(k: &Shell<'_>) {
    furnish(k).await;
    let table = k.ok("get podmetrics").await;
    assert_eq!(rows(&table)[0], ["NAME", "CPU", "MEMORY", "WINDOW"], "{table}");
    assert_eq!((rows(&table)[1][0], rows(&table)[1][2]), ("alice", "96Mi"), "{table}");
    has(&k.ok("get nodes.metrics.k8s.io local -o yaml").await, &["kind: NodeMetrics", "usage:", "window:"]);
    // the core kinds keep their names
    has(&k.ok("get pods").await, &["STATUS", "carol"]);
    has(&k.ok("get nodes").await, &["STATUS", "local"]);
    has(&k.ok("api-resources --api-group=metrics.k8s.io").await, &["PodMetrics", "NodeMetrics"]);
    has(&k.ok("explain podmetrics.containers.usage").await, &["working set"]);
    has(&k.ok("get --raw /apis/metrics.k8s.io/v1beta1").await, &["APIResourceList", "\"nodes\""]);
}

async fn metrics_are_only_read(k: &Shell<'_>) {
    furnish(k).await;
    has(&k.fails("delete podmetrics alice").await, &["does not allow this method"]);
    has(&k.fails("label podmetrics alice a=b").await, &["does not allow this method"]);
    let watch = k.run("get --raw /apis/metrics.k8s.io/v1beta1/nodes?watch=1", "").await;
    assert!(watch.code != Some(0), "{watch:?}");
}

async fn a_viewer_sees_the_use_of_his_namespace(k: &Shell<'_>) {
    furnish(k).await;
    let viewer = format!("--as vera --as-group portreeve:viewer:{}", k.namespace);
    has(&k.ok(&format!("top pod {viewer}")).await, &["alice", "bob"]);
    has(&k.fails(&format!("top pod -A {viewer}")).await, &["(Forbidden)", "metrics.k8s.io"]);
    has(&k.fails(&format!("top node {viewer}")).await, &["(Forbidden)", "at the cluster scope"]);
    has(&k.ok("top node --as vera --as-group portreeve:viewer").await, &["local"]);
    assert_eq!(k.ok(&format!("auth can-i list pods.metrics.k8s.io {viewer}")).await, "yes\n");
}
