//! `portreeve top` against the real API, over simulated daemons in real time.

use serde_json::Value;

use super::objects::{against, fails, said};
use super::*;
use crate::support::api_server::{ApiServer, instance};

/// Alice runs on `local`, bob and carol on `other`; dora sleeps.
async fn furnished() -> ApiServer {
    let server = ApiServer::start().await;
    for host in ["local", "other"] {
        server.put_host(host, true).await;
    }
    for name in ["alice", "bob", "carol", "dora"] {
        let mut manifest = instance(name);
        manifest["metadata"]["labels"] = serde_json::json!({"who": name});
        let output = against(&server, &["apply", "-f", "-"], &manifest.to_string()).await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    server.runs("default", "alice", "local", 500, 256).await;
    server.runs("default", "bob", "other", 100, 128).await;
    server.runs("default", "carol", "other", 50, 384).await;
    let asleep = serde_json::json!({"phase": "Asleep", "node": "local", "containerID": "c0ffee"});
    server.put_status("dora", asleep).await;
    server.seen().await;
    server
}

fn table(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

/// Whether a cell says so many thousandths of a core: real clocks are not read at the same moment.
fn about(cell: &str, milli: i64) -> bool {
    cell.strip_suffix('m')
        .and_then(|n| n.parse::<i64>().ok())
        .is_some_and(|n| (milli - 5..milli * 11 / 10).contains(&n))
}

#[tokio::test]
async fn instances_tell_what_they_use() {
    let server = furnished().await;
    let shown = said(&server, &["top", "instances"]).await;
    let rows = table(&shown);
    assert_eq!(rows[0], ["NAME", "CPU(cores)", "MEMORY(bytes)"]);
    let column = |n: usize| rows[1..].iter().map(|row| row[n]).collect::<Vec<_>>();
    assert_eq!((column(0), column(2)), (vec!["alice", "bob", "carol"], vec!["256Mi", "128Mi", "384Mi"]), "{shown}");
    assert!(about(rows[1][1], 500) && about(rows[2][1], 100) && about(rows[3][1], 50), "{shown}");

    let names = async |args: &[&str]| {
        let shown = said(&server, &[&["top", "instances", "--no-headers"], args].concat()).await;
        shown.lines().map(|l| l.split_whitespace().next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["--sort-by", "cpu"]).await, ["alice", "bob", "carol"]);
    assert_eq!(names(&["--sort-by", "memory"]).await, ["carol", "alice", "bob"]);
    assert_eq!(names(&["-l", "who in (bob,dora)"]).await, ["bob"]);
    assert_eq!(names(&["carol"]).await, ["carol"]);
    let everywhere = said(&server, &["top", "inst", "-A"]).await;
    assert_eq!(table(&everywhere)[1][..2], ["default", "alice"], "{everywhere}");

    let json: Value = serde_json::from_str(&said(&server, &["top", "instances", "-o", "json"]).await).unwrap();
    assert_eq!((&json["kind"], json["items"].as_array().unwrap().len()), (&"PodMetricsList".into(), 3));
    let yaml: Value = serde_yaml::from_str(&said(&server, &["top", "instances", "bob", "-o", "yaml"]).await).unwrap();
    assert_eq!(yaml["containers"][0]["usage"]["memory"], "128Mi");

    let (code, errors) = fails(&server, &["top", "instances", "dora"], "").await;
    assert_eq!(code, 1);
    assert_eq!(
        errors,
        "Error from server (NotFound): pods.metrics.k8s.io \"dora\" not found: it is asleep and uses nothing; a request \
         wakes it\n"
    );
    let nobody = against(&server, &["top", "instances", "-l", "who=dora"], "").await;
    assert_eq!((nobody.status.code(), stdout(&nobody).as_str()), (Some(0), ""));
    assert_eq!(stderr(&nobody), "No instances are awake in default namespace.\n");
}

#[tokio::test]
async fn hosts_tell_what_share_of_them_is_used_and_which_are_silent() {
    let server = furnished().await;
    let shown = said(&server, &["top", "hosts"]).await;
    let rows = table(&shown);
    assert_eq!(rows[0], ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"]);
    assert_eq!((rows[1][0], rows[1][3], rows[1][4]), ("local", "256Mi", "25%"), "{shown}");
    assert!(about(rows[1][1], 500) && matches!(rows[1][2], "25%" | "24%"), "{shown}");
    assert_eq!((rows[2][0], rows[2][3], rows[2][4]), ("other", "512Mi", "50%"), "{shown}");
    let first = said(&server, &["top", "hosts", "--sort-by", "memory", "--no-headers"]).await;
    assert!(first.starts_with("other "), "{first}");
    assert_eq!(table(&said(&server, &["top", "hosts", "-l", "zone=local"]).await).len(), 2);
    assert_eq!(table(&said(&server, &["top", "hosts", "other"]).await)[1][0], "other");

    server.put_host("other", false).await;
    let shown = said(&server, &["top", "hosts", "--sort-by", "cpu"]).await;
    assert_eq!(table(&shown)[2], ["other", "<unknown>", "<unknown>", "<unknown>", "<unknown>"], "{shown}");
    let (code, errors) = fails(&server, &["top", "hosts", "other"], "").await;
    assert_eq!(code, 1);
    assert!(errors.contains("(NotFound)") && errors.contains("\"other\" does not answer"), "{errors}");
    let (code, errors) = fails(&server, &["top", "hosts", "nobody"], "").await;
    assert_eq!(
        (code, errors.as_str()),
        (1, "Error from server (NotFound): nodes.metrics.k8s.io \"nobody\" not found\n")
    );
}
