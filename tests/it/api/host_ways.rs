//! How a host is reached: what a DockerHost may say of it, and who gets at the Secrets that open the way.

use serde_json::{Value, json};

use super::tokens::bearer;
use crate::support::api_server::{ApiServer, instance};

const HOSTS: &str = "/apis/portreeve.dev/v1/dockerhosts";
const SYSTEM: &str = "portreeve-system";

fn host(spec: Value) -> Value {
    json!({"apiVersion": "portreeve.dev/v1", "kind": "DockerHost", "metadata": {"name": "w1"}, "spec": spec})
}

#[tokio::test]
async fn a_way_that_is_not_one_is_refused_by_its_field_and_changes_nothing() {
    let server = ApiServer::start().await;
    let tcp = "tcp://10.0.0.3:2376";
    for (spec, field) in [
        (json!({"endpoint": tcp}), "spec.tls"),
        (json!({"endpoint": tcp, "tls": {"secret": "a", "directory": "/certs"}}), "spec.tls.secret"),
        (json!({"endpoint": tcp, "tls": {"secret": "a/../b"}}), "spec.tls.secret"),
        (json!({"endpoint": tcp, "tls": {"secret": "a"}, "ssh": {"secret": "a"}}), "spec.ssh"),
        (json!({"endpoint": "ssh://-oProxyCommand=touch@10.0.0.3"}), "spec.endpoint"),
        (json!({"endpoint": "ssh://root@10.0.0.3 -oProxyCommand=touch"}), "spec.endpoint"),
        (json!({"endpoint": "ssh://root@worker-1"}), "spec.address"),
        (json!({"endpoint": "ssh://root@10.0.0.3", "tls": {"secret": "a"}}), "spec.tls"),
        (json!({"endpoint": "ssh://root@10.0.0.3", "ssh": {"knownHosts": "/a -oX=y"}}), "spec.ssh.knownHosts"),
    ] {
        let status = server.client.post(HOSTS, &host(spec.clone())).await.expect(422);
        assert_eq!(status["details"]["causes"][0]["field"], field, "{spec}: {status}");
    }
    server.client.get(&format!("{HOSTS}/w1")).await.expect(404);

    let made =
        server.client.post(HOSTS, &host(json!({"endpoint": tcp, "tls": {"secret": "w1-tls"}}))).await.expect(201);
    assert_eq!(made["spec"]["tls"], json!({"secret": "w1-tls"}), "nothing is filled in");
    let by_ssh = json!({"spec": {"endpoint": "ssh://deploy@10.0.0.3:22", "tls": null, "ssh": {"secret": "w1-ssh"}}});
    server.client.merge(&format!("{HOSTS}/w1"), &by_ssh).await.expect(200);
    let node = server.client.get("/api/v1/nodes/w1").await.expect(200);
    assert_eq!(node["status"]["addresses"][0], json!({"type": "InternalIP", "address": "10.0.0.3"}));
}

#[tokio::test]
async fn the_secrets_of_hosts_are_the_administrators_alone() {
    let server = ApiServer::start().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}});
    server.client.post("/api/v1/namespaces", &namespace).await.expect(201);
    let secrets = format!("/api/v1/namespaces/{SYSTEM}/secrets");
    let secret = json!({"metadata": {"name": "w1-tls"}, "stringData": {"key.pem": "hunter2"}});
    server.client.post(&secrets, &secret).await.expect(201);
    let all = bearer(&server, "all", json!({"role": "editor"})).await;
    let own = bearer(&server, "own", json!({"role": "editor", "namespaces": [SYSTEM]})).await;
    let instances = format!("/apis/portreeve.dev/v1/namespaces/{SYSTEM}/instances");
    let mut thief = instance("thief");
    thief["metadata"]["namespace"] = SYSTEM.into();
    thief["spec"]["envFrom"] = json!([{"secretRef": {"name": "w1-tls"}}]);
    for editor in [all, own] {
        editor.get(&secrets).await.expect(403);
        editor.get(&format!("{secrets}/w1-tls")).await.expect(403);
        editor.merge(&format!("{secrets}/w1-tls"), &json!({"stringData": {"key.pem": "mine"}})).await.expect(403);
        editor.post(&instances, &thief).await.expect(403);
        editor.get(&instances).await.expect(200);
    }
    server.client.delete(&format!("/api/v1/namespaces/{SYSTEM}")).await.expect(403);
    server.client.get(&format!("{secrets}/w1-tls")).await.expect(200);
}
