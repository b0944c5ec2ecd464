//! `adopt`, against the real API over simulated daemons. The test plays the controller.

use portreeve::docker::engine::{ContainerSpec, Mount, PortMap};
use serde_json::{Value, json};

use super::objects::{against, fails, said, stored};
use super::*;
use crate::support::api_server::{ApiServer, PATIENCE, running};
use crate::support::sim_engine::image::SimImage;

const CONTAINERS: &str = "/apis/portreeve.dev/v1/dockerhosts/local/containers";

/// A host `local` with `web`, `shop-db-1` and `shop-web-1` (of a compose project, in one network), and `ephemeral`.
async fn server() -> ApiServer {
    let server = ApiServer::start().await;
    let meta = json!({"name": "local", "uid": "u", "generation": 1});
    let spec = json!({"endpoint": "unix:///x", "address": "127.0.0.1"});
    server.put(json!({"apiVersion": "portreeve.dev/v1", "kind": "DockerHost", "metadata": meta, "spec": spec})).await;
    let engine = server.fleet.host("local");
    engine.add_image("app:1", SimImage::server());
    engine.create_network_by_hand("shop_default", "172.30.0.0/24");
    engine.restore_volume_by_hand("web_data", [].into());
    let port = |n: u16| vec![PortMap { container_port: 80, host_ip: "0.0.0.0".into(), host_port: n }];
    let base = || ContainerSpec { image: "app:1".into(), network: "bridge".into(), ..ContainerSpec::default() };
    let compose = |service: &str| {
        let of = [("com.docker.compose.project", "shop"), ("com.docker.compose.service", service)];
        of.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    };
    engine.create_by_hand(ContainerSpec {
        name: "web".into(),
        env: vec!["TOKEN=hunter2".into()],
        ports: port(8080),
        mounts: vec![Mount::Volume { name: "web_data".into(), target: "/data".into(), read_only: false }],
        ..base()
    });
    for (name, service, n) in [("shop-db-1", "db", 8081), ("shop-web-1", "web", 8082)] {
        let (network, labels) = ("shop_default".into(), compose(service));
        engine.create_by_hand(ContainerSpec { name: name.into(), ports: port(n), network, labels, ..base() });
    }
    engine.create_by_hand(ContainerSpec { name: "ephemeral".into(), ports: port(0), ..base() });
    server
}

fn id(server: &ApiServer, name: &str) -> String {
    server.fleet.host("local").seen(name).expect("a container").id
}

async fn none_is_made(server: &ApiServer) {
    assert_eq!(said(server, &["get", "inst", "-o", "name"]).await, "");
}

#[tokio::test]
async fn what_is_there_is_told_and_nothing_is_done() {
    let server = server().await;
    let told = said(&server, &["adopt"]).await;
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].starts_with("CONTAINER ") && lines.len() == 5, "{told}");
    assert!(
        lines[1].starts_with("ephemeral ") && lines[1].contains("no: publishes 80/tcp at a port of Docker's choice")
    );
    assert!(lines[2].starts_with("shop-db-1 ") && lines[2].contains("yes; shares shop_default (with shop-web-1)"));
    assert!(lines[4].starts_with("web ") && lines[4].ends_with("yes"), "{told}");
    none_is_made(&server).await;
    assert_eq!(server.fleet.writes(), 0);
}

#[tokio::test]
async fn a_container_becomes_an_instance_that_says_what_it_is() {
    let server = server().await;
    let web = id(&server, "web");
    let plan = said(&server, &["adopt", "web", "--dry-run=client"]).await;
    assert!(plan.contains("web         web        app:1   8080->80   web_data:/data"), "{plan}");
    let shown = said(&server, &["adopt", &web[..12], "--dry-run=server", "-o", "json", "--name", "alice"]).await;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    none_is_made(&server).await;
    assert_eq!(shown["metadata"]["name"], "alice");
    assert_eq!(shown["spec"]["adopt"], json!({"node": "local", "containerID": web}));
    assert_eq!(shown["spec"]["env"], json!([{"name": "TOKEN", "value": "hunter2"}]));
    assert_eq!(shown["spec"]["volumes"], json!([{"name": "v0", "mountPath": "/data", "volumeName": "web_data"}]));
    assert_eq!((&shown["spec"]["power"], &shown["spec"]["resources"]["memory"]), (&json!("Running"), &json!("8192Mi")));

    let made = said(&server, &["adopt", "web", "--power", "Auto", "--memory", "64Mi", "--wait=false"]).await;
    assert_eq!(made, "instance.portreeve.dev/web created\n");
    let object = stored(&server, "web").await;
    assert_eq!(
        (&object["spec"]["power"], &object["spec"]["resources"]["memory"]),
        (&Value::Null, &json!("64Mi")),
        "Auto is the default"
    );
    let (code, why) = fails(&server, &["adopt", "web", "--name", "again"], "").await;
    assert!(code == 1 && why.contains("is instances/default/web's already"), "{why}");
    assert_eq!(server.fleet.writes(), 0, "nothing is done to it from here");
}

#[tokio::test]
async fn waiting_ends_when_it_is_taken_or_refused() {
    let adopting = async |status: fn(&ApiServer) -> Value| {
        let server = server().await;
        let run = against(&server, &["adopt", "web", "--timeout", "20s"], "");
        let control = async {
            let key = portreeve::model::Key::instance("default", "web").to_string();
            let there = async {
                while server.store.get(&key).await.expect("a read").is_none() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, there).await.expect("it is made");
            server.put_status("web", status(&server)).await;
        };
        tokio::join!(run, control).0
    };
    let output = adopting(|_| {
        let time = "2026-01-01T00:00:00Z";
        let ready = json!({"type": "Ready", "status": "False", "reason": "NotAdoptable", "message": "is not running"});
        let mut status = json!({"phase": "Failed", "conditions": [ready]});
        status["conditions"][0]["lastTransitionTime"] = json!(time);
        status
    })
    .await;
    assert!(output.status.code() == Some(1) && stderr(&output).contains("is not running"), "{}", stderr(&output));
    let output = adopting(|server| {
        let mut status = running();
        status["observedGeneration"] = json!(9);
        status["adopted"] = json!({"node": "local", "containerID": id(server, "web"), "specHash": "x"});
        status
    })
    .await;
    assert_eq!(stdout(&output), "instance.portreeve.dev/web adopted\n", "{}", stderr(&output));
}

#[tokio::test]
async fn if_one_is_refused_none_is_adopted() {
    let server = server().await;
    for (args, why) in [
        (&["adopt", "web", "ephemeral"][..], "container \"ephemeral\" publishes 80/tcp at a port of Docker's choice"),
        (&["adopt", "web", "nothing"], "no container \"nothing\""),
        (&["adopt", "shop-db-1"], "shares the network shop_default (with shop-web-1)"),
        (&["adopt", "-l", "com.docker.compose.project=shop"], "--leave-networks accepts that"),
        (&["adopt", "web", "--host", "nowhere"], "\"nowhere\" not found"),
    ] {
        let (code, told) = fails(&server, args, "").await;
        assert!(code == 1 && told.contains(why), "{args:?}: {told}");
    }
    for args in [
        &["adopt", "web", "-l", "a=b"][..],
        &["adopt", "web", "ephemeral", "--release", "--host", "x"],
        &["adopt", "--release"],
        &["adopt", "-l", "com.docker.compose.project=shop", "--name", "x", "--leave-networks"],
        &["adopt", "web", "--name", "No_Name"],
    ] {
        assert_eq!(fails(&server, args, "").await.0, 2, "{args:?}");
    }
    none_is_made(&server).await;
}

#[tokio::test]
async fn the_services_of_a_compose_file_are_found_by_its_labels() {
    let server = server().await;
    let directory = server.dir.path().join("Shop");
    std::fs::create_dir(&directory).expect("a directory");
    let file = directory.join("compose.yaml");
    std::fs::write(&file, "services: {db: {image: x}, web: {image: y}}\n").expect("a file");
    let file = file.to_str().expect("a path");
    let made = said(&server, &["adopt", "-f", file, "--leave-networks", "--wait=false"]).await;
    assert_eq!(made, "instance.portreeve.dev/shop-db-1 created\ninstance.portreeve.dev/shop-web-1 created\n");
    assert_eq!(stored(&server, "shop-db-1").await["spec"]["image"], "app:1", "what it is, not what the file says");
    let (_, why) = fails(&server, &["adopt", "-f", file, "--project", "other"], "").await;
    assert!(why.contains("the service \"db\" of the project \"other\" has no container"), "{why}");
}

#[tokio::test]
async fn letting_go_marks_the_container_and_deletes_the_record() {
    let server = server().await;
    said(&server, &["adopt", "web", "--wait=false"]).await;
    let (_, why) = fails(&server, &["adopt", "--release", "web"], "").await;
    assert!(why.contains("has adopted no container"), "{why}");
    let web = id(&server, "web");
    let mut status = running();
    status["containerID"] = json!(web);
    status["adopted"] = json!({"node": "local", "containerID": web, "specHash": "x", "restartPolicy": "always"});
    server.put_status("web", status).await;
    let output = against(&server, &["adopt", "--release", "web", "--wait=false"], "").await;
    assert_eq!(stdout(&output), "instance.portreeve.dev/web released\n", "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("docker update --restart always {}", &web[..12])), "{}", stderr(&output));
    let object = stored(&server, "web").await;
    assert_eq!(object["metadata"]["annotations"][portreeve::model::RELEASE_ANNOTATION], web);
    assert!(object["metadata"]["deletionTimestamp"].is_string(), "the controller does the rest");
}

#[tokio::test]
async fn only_administrators_see_and_take_what_is_on_a_host() {
    let server = server().await;
    let config = said(&server, &["token", "create", "eve", "--role", "editor", "-o", "kubeconfig"]).await;
    let file = server.dir.path().join("eve");
    std::fs::write(&file, config).expect("a file");
    let file = file.to_str().expect("a path");
    let (code, why) = fails(&server, &["adopt", "web", "--host", "local", "--kubeconfig", file], "").await;
    assert!(code == 1 && why.contains("dockerhosts/containers"), "{why}");
    let manifest = json!({
        "apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": {"name": "a"},
        "spec": {"image": "app:1", "adopt": {"node": "local", "containerID": id(&server, "web")}},
    });
    let (code, why) = fails(&server, &["apply", "-f", "-", "--kubeconfig", file], &manifest.to_string()).await;
    assert!(code == 1 && why.contains("spec.adopt: takes the container"), "{why}");
    let mut volume = manifest.clone();
    volume["spec"] = json!({"image": "app:1", "volumes": [{"name": "v", "mountPath": "/v", "volumeName": "web_data"}]});
    let (code, why) = fails(&server, &["apply", "-f", "-", "--kubeconfig", file], &volume.to_string()).await;
    assert!(code == 1 && why.contains("spec.volumes[0].volumeName"), "{why}");
    none_is_made(&server).await;
    assert_eq!(server.client.get(CONTAINERS).await.expect(200)["items"].as_array().map(Vec::len), Some(4));

    // Nor is it given to one that is there, and no container to two.
    said(&server, &["adopt", "web", "--wait=false"]).await;
    let (_, why) = fails(&server, &["apply", "-f", "-"], &manifest.to_string()).await;
    assert!(why.contains("spec.adopt.containerID") && why.contains("already claimed by instance default/web"), "{why}");
    let mut later = manifest.clone();
    later["spec"]["adopt"] = Value::Null;
    assert_eq!(against(&server, &["apply", "-f", "-"], &later.to_string()).await.status.code(), Some(0));
    let mut other = manifest;
    other["spec"]["adopt"]["containerID"] = json!(id(&server, "ephemeral"));
    let (_, why) = fails(&server, &["apply", "-f", "-"], &other.to_string()).await;
    assert!(why.contains("may be set only when the Instance is made"), "{why}");
}
