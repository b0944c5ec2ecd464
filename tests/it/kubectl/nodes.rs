//! Nodes through kubectl: the typed commands that only core kinds have.

use serde_json::{Value, json};

use super::Kubectl;
use super::harness::players;
use crate::support::api_server::{ApiServer, running};
use crate::support::without;

const HOST: &str = "/apis/portreeve.dev/v1/dockerhosts/local";

/// Runs one story with each kubectl whose turn it is, each against a server of its own.
async fn with_kubectls(story: impl AsyncFn(&Kubectl)) {
    let programs = players().await;
    if programs.is_empty() {
        without("kubectl");
    }
    for program in programs {
        eprintln!("with {}", program.display());
        story(&Kubectl::of(program, ApiServer::start().await)).await;
    }
}

/// A host as its controller has found it, with the instance `alice` on it.
async fn furnish(k: &Kubectl) {
    k.server
        .put(json!({
            "apiVersion": "portreeve.dev/v1", "kind": "DockerHost",
            "metadata": {"name": "local", "uid": "11111111-2222-4333-8444-555555555555", "generation": 1,
                         "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"zone": "a"}},
            "spec": {"endpoint": "unix:///x", "address": "10.0.0.7"},
            "status": {
                "version": "27.3.1", "os": "Debian 12", "kernel": "6.1.0", "architecture": "amd64", "daemonID": "d",
                "capacity": {"memory": "4Gi", "cpu": "4", "instances": 100},
                "conditions": [{"type": "Ready", "status": "True", "reason": "Connected", "message": "Docker answers",
                                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        }))
        .await;
    let mut alice = crate::support::api_server::instance("alice");
    alice["spec"]["resources"] = json!({"memory": "512Mi", "cpu": "250m"});
    alice["spec"]["env"] = json!([
        {"name": "GREETING", "value": "hello"},
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
    ]);
    alice["spec"]["placement"] = json!({"nodeSelector": {"zone": "a"}});
    k.server.client.post(crate::support::client::INSTANCES, &alice).await.expect(201);
    k.server.put_status("alice", running()).await;
    for (name, kind, api, about, uid) in [
        ("h.1", "DockerHost", "portreeve.dev/v1", "local", "11111111-2222-4333-8444-555555555555".to_owned()),
        ("i.1", "Instance", "portreeve.dev/v1", "alice", uid_of(k, "alice").await),
    ] {
        k.server
            .put(json!({
                "kind": "Event", "metadata": {"name": name, "namespace": "default"}, "type": "Normal",
                "reason": format!("Told{kind}"), "message": "something happened", "count": 1,
                "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z",
                "involvedObject": {"kind": kind, "name": about, "uid": uid, "apiVersion": api,
                                   "namespace": if kind == "Instance" { "default" } else { "" }},
                "source": {"component": "portreeve"},
            }))
            .await;
    }
}

async fn uid_of(k: &Kubectl, name: &str) -> String {
    let path = format!("{}/{name}", crate::support::client::INSTANCES);
    k.server.client.get(&path).await.expect(200)["metadata"]["uid"].as_str().unwrap().to_owned()
}

async fn host(k: &Kubectl) -> Value {
    k.server.client.get(HOST).await.expect(200)
}

#[tokio::test]
async fn nodes_are_listed_and_described_in_full() {
    with_kubectls(async |k| {
        furnish(k).await;
        let wide = k.ok("get nodes -o wide").await;
        let mut lines = wide.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
        assert_eq!(lines.next().unwrap()[..5], ["NAME", "STATUS", "ROLES", "AGE", "VERSION"], "{wide}");
        let row = lines.next().unwrap();
        assert_eq!((row[0], row[1], row[2]), ("local", "Ready", "<none>"), "{wide}");
        for text in ["10.0.0.7", "Debian 12", "6.1.0", "docker://27.3.1", "+portreeve-"] {
            assert!(wide.contains(text), "{text} is missing: {wide}");
        }
        assert!(k.ok("get no local -o jsonpath={.status.allocatable.memory}").await.contains("4Gi"));
        assert!(k.ok("get leases -n kube-node-lease").await.contains("local"));
        assert!(k.ok("get leases -n default").await.is_empty());

        let out = k.run(&["describe", "node", "local"], "").await;
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success() && out.stderr.is_empty(), "{text}{}", String::from_utf8_lossy(&out.stderr));
        for wanted in [
            "Labels:             zone=a",
            "HolderIdentity:  local",
            "RenewTime:",
            "KubeletHasSufficient",
            "InternalIP:  10.0.0.7",
            "Container Runtime Version:  docker://27.3.1",
            "Non-terminated Pods:          (1 in total)",
            "alice",
            "250m (6%)",
            "512Mi (12%)",
            "ToldDockerHost",
        ] {
            // No condition is claimed that is not known.
            let expected = wanted != "KubeletHasSufficient";
            assert_eq!(text.contains(wanted), expected, "{wanted}: {text}");
        }
        assert!(!text.contains("Failed to"), "{text}");
        let more = json!({
            "metadata": {"annotations": {"example.com/note": "hers"}},
            "spec": {"volumes": [{"name": "data", "mountPath": "/data"}]},
        });
        k.server.client.merge(&format!("{}/alice", crate::support::client::INSTANCES), &more).await.expect(200);
        let described = k.ok("describe pod alice").await;
        // However kubectl aligns them.
        let described = described.split_whitespace().collect::<Vec<_>>().join(" ");
        for wanted in [
            "Node: local/127.0.0.1",
            "Annotations: example.com/note: hers",
            "Status: Running",
            "IP: 127.0.0.1",
            "Controlled By: Instance/alice",
            "Host Port: 30001/TCP",
            "State: Running",
            "cpu: 250m memory: 512Mi",
            "GREETING: hello",
            "PASSWORD: <set to the key 'password' in secret 'db'> Optional: false",
            "/data from data (rw)",
            "ContainersReady True",
            "ClaimName: pr.default.alice.data",
            "QoS Class: Guaranteed",
            "Node-Selectors: zone=a",
            "ToldInstance",
        ] {
            assert!(described.contains(wanted), "{wanted} is missing: {described}");
        }
        assert!(k.ok("events --for node/local").await.contains("ToldDockerHost"));
        assert!(k.ok("events --for pod/alice").await.contains("ToldInstance"));
        assert!(k.ok("get pods -A --field-selector spec.nodeName=local").await.contains("alice"));
        assert!(k.ok("get pods -A --field-selector spec.nodeName=other").await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_is_written_to_a_node_reaches_its_host() {
    with_kubectls(async |k| {
        furnish(k).await;
        k.ok("cordon local").await;
        assert_eq!(host(k).await["spec"]["unschedulable"], true);
        assert!(k.ok("get nodes").await.contains("Ready,SchedulingDisabled"));
        for (selector, there) in [("=true", true), ("!=true", false), ("=false", false), ("!=false", true)] {
            let found = k.ok(&format!("get nodes --field-selector spec.unschedulable{selector}")).await;
            assert_eq!(found.contains("local"), there, "{selector} of a cordoned node: {found}");
        }
        k.ok("uncordon local").await;
        for (selector, there) in [("=true", false), ("!=true", true), ("=false", true), ("!=false", false)] {
            let found = k.ok(&format!("get nodes --field-selector spec.unschedulable{selector}")).await;
            assert_eq!(found.contains("local"), there, "{selector} of an uncordoned node: {found}");
        }
        assert_eq!(host(k).await["spec"]["unschedulable"], Value::Null);

        k.ok("taint nodes local maintenance=yes:NoSchedule disk=slow:PreferNoSchedule").await;
        let taints = json!([{"key": "maintenance", "value": "yes", "effect": "NoSchedule"},
                            {"key": "disk", "value": "slow", "effect": "PreferNoSchedule"}]);
        let stored = host(k).await["spec"]["taints"].clone();
        assert!(taints.as_array().unwrap().iter().all(|t| stored.as_array().unwrap().contains(t)), "{stored}");
        assert!(k.ok("describe node local").await.contains("maintenance=yes:NoSchedule"));
        k.ok("taint nodes local maintenance- disk:PreferNoSchedule-").await;
        assert_eq!(host(k).await["spec"]["taints"], Value::Null);

        k.ok("label node local disk=ssd zone=b --overwrite").await;
        k.ok("annotate node local note=x").await;
        k.ok("label node local disk-").await;
        let meta = host(k).await["metadata"].clone();
        assert_eq!((&meta["labels"], &meta["annotations"]), (&json!({"zone": "b"}), &json!({"note": "x"})));
        assert_eq!(meta["generation"], host(k).await["metadata"]["generation"]);
        k.ok(r#"patch node local --type=merge -p {"spec":{"unschedulable":true}}"#).await;
        k.ok(r#"patch node local --type=json -p [{"op":"remove","path":"/spec/unschedulable"}]"#).await;
        let whole = k.ok("get node local -o json").await.replace("\"zone\": \"b\"", "\"zone\": \"c\"");
        k.ok_with("replace -f -", &whole).await;
        assert_eq!(host(k).await["metadata"]["labels"]["zone"], "c");
        assert_eq!(host(k).await["spec"], json!({"endpoint": "unix:///x", "address": "10.0.0.7"}));

        let refused = k.fails_with(r#"patch node local -p {"spec":{"podCIDR":"10.0.0.0/8"}}"#, "").await;
        assert!(refused.contains("spec.podCIDR: Forbidden"), "{refused}");
        let refused = k.fails_with("taint nodes local bad=x:NoSuchEffect", "").await;
        assert!(refused.contains("invalid taint effect"), "{refused}");
        for refused in [
            k.fails_with("delete node local --wait=false", "").await,
            k.fails_with("create -f -", r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"new"}}"#).await,
        ] {
            assert!(refused.contains("DockerHost") || refused.contains("MethodNotAllowed"), "{refused}");
        }
        k.fails_with("cordon nobody", "").await;
    })
    .await;
}

/// The annotation of an instance, as soon as it has it.
async fn marked(k: &Kubectl, name: &str, annotation: &str) -> String {
    let path = format!("{}/{name}", crate::support::client::INSTANCES);
    let found = async {
        loop {
            let object = k.server.client.get(&path).await.expect(200);
            if let Some(mark) = object["metadata"]["annotations"][annotation].as_str() {
                return mark.to_owned();
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::support::api_server::PATIENCE, found).await.expect("the mark came")
}

#[tokio::test]
async fn draining_moves_what_can_move_and_names_what_cannot() {
    with_kubectls(async |k| {
        furnish(k).await;
        k.ok("drain local --dry-run=server").await;
        let alice = format!("{}/alice", crate::support::client::INSTANCES);
        let untouched = k.server.client.get(&alice).await.expect(200);
        assert_eq!(untouched["metadata"]["annotations"], Value::Null, "a dry run left a mark");

        k.ok("uncordon local").await;
        let mut keeper = crate::support::api_server::instance("keeper");
        keeper["spec"]["volumes"] = json!([{"name": "home", "mountPath": "/home"}]);
        keeper["metadata"]["labels"] = json!({"keeps": "data"});
        k.server.client.post(crate::support::client::INSTANCES, &keeper).await.expect(201);
        k.server.put_status("keeper", running()).await;

        let drain = ["drain", "local", "--timeout=3s"];
        let controller = async {
            assert!(marked(k, "alice", "portreeve.dev/evict").await.starts_with("local 20"));
            assert!(k.ok("get pod alice -o jsonpath={.metadata.deletionTimestamp}").await.starts_with("20"));
            k.server.put_status("alice", json!({"phase": "Pending"})).await;
        };
        let (out, ()) = tokio::join!(k.run(&drain, ""), controller);
        let (said, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(!out.status.success(), "{said}");
        assert!(said.contains("pod/alice evicted"), "{said}{errors}");
        assert!(
            errors.contains(r#"the data of its volume \"home\""#) || errors.contains(r#"volume "home""#),
            "{errors}"
        );
        assert_eq!(host(k).await["spec"]["unschedulable"], true);
        let kept = k.server.client.get(&format!("{}/keeper", crate::support::client::INSTANCES)).await.expect(200);
        assert_eq!(kept["metadata"]["annotations"], Value::Null);

        // Deletions in place of evictions make each container anew where its data is.
        let drain = ["drain", "local", "--disable-eviction", "--pod-selector=keeps=data", "--timeout=30s"];
        let controller = async {
            assert!(marked(k, "keeper", "portreeve.dev/recreate").await.starts_with("c0ffee "));
            let mut anew = running();
            anew["containerID"] = "beef".into();
            k.server.put_status("keeper", anew).await;
        };
        let (out, ()) = tokio::join!(k.run(&drain, ""), controller);
        let (said, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(said.contains("pod/keeper deleted"), "{said}{errors}");
    })
    .await;
}

#[tokio::test]
async fn deleting_a_pod_makes_its_container_anew_and_waits_for_it() {
    with_kubectls(async |k| {
        furnish(k).await;
        let controller = async {
            let mark = marked(k, "alice", "portreeve.dev/recreate").await;
            assert!(mark.starts_with("c0ffee "), "{mark}");
            assert!(k.ok("get pod alice -o jsonpath={.metadata.deletionTimestamp}").await.starts_with("20"));
            // A second delete is the same delete.
            k.ok("delete pod alice --wait=false").await;
            assert_eq!(marked(k, "alice", "portreeve.dev/recreate").await, mark);
            let mut anew = running();
            anew["containerID"] = "beef".into();
            k.server.put_status("alice", anew).await;
        };
        let (out, ()) = tokio::join!(k.run(&["delete", "pod", "alice"], ""), controller);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(k.ok("get pod alice -o jsonpath={.metadata.deletionTimestamp}").await, "");
        assert!(k.ok("get inst alice").await.contains("Running"));
        let refused = k.fails_with("label pod alice a=b", "").await;
        assert!(refused.contains("does not allow this method"), "{refused}");
        k.fails_with("delete pod nobody", "").await;
    })
    .await;
}
