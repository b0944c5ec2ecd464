//! What users asked for comes to be, stays so, and goes again without a trace: against everybody who meddles with the
//! daemon, and against the end of the server.

use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, PATIENCE, instance, instance_with, serves, within};

fn id(container: &Value) -> String {
    container["Id"].as_str().expect("an id").to_owned()
}

fn image(name: &str, reference: &str) -> Value {
    instance_with(name, &json!({"image": reference, "volumes": [{"name": "data", "mountPath": "/data"}]}))
}

#[test]
fn an_instance_becomes_a_container_as_its_spec_says() {
    let mut plane = ControlPlane::start(31_000);
    let name = "provisioned";
    let shared = plane.directory().join("shared");
    let spec = json!({
        "env": [{"name": "GREETING", "value": "hello there"}, {"name": "PORTS", "value": "8080,9090"}],
        "ports": [{"name": "http", "containerPort": 8080}, {"name": "admin", "containerPort": 9090}],
        "volumes": [
            {"name": "data", "mountPath": "/data"},
            {"name": "shared", "mountPath": "/shared", "hostPath": format!("{}/{{name}}", shared.display())},
        ],
        "resources": {"memory": "48Mi", "cpu": "250m", "pids": 77},
        "containerLabels": {"traefik.http.routers.app.rule": "Host(`{name}.example.com`)"},
        "routes": [{"paths": [{"prefix": "/", "port": "http"}, {"prefix": "/health", "port": "admin"}]}],
    });
    plane.apply(&instance_with(name, &spec));
    let object = plane.until_serves(name);

    let container = plane.daemon.container(name);
    assert_eq!(container["Id"], object["status"]["containerID"]);
    assert_eq!(container["Name"], "/pr.default.provisioned");
    let labels = &container["Config"]["Labels"];
    assert_eq!(labels["portreeve.dev/uid"], object["metadata"]["uid"]);
    assert_eq!(labels["portreeve.dev/namespace"], "default");
    assert_eq!(labels["traefik.http.routers.app.rule"], "Host(`provisioned.example.com`)");
    assert!(labels["portreeve.dev/cluster"].as_str().is_some_and(|c| !c.is_empty()), "{labels}");

    let host = &container["HostConfig"];
    assert_eq!((host["Memory"].as_i64(), host["MemorySwap"].as_i64()), (Some(48 << 20), Some(48 << 20)));
    assert_eq!((host["NanoCpus"].as_i64(), host["PidsLimit"].as_i64()), (Some(250_000_000), Some(77)));
    assert_eq!((&host["Init"], &host["RestartPolicy"]["Name"]), (&json!(true), &json!("no")));
    assert_eq!(host["CapDrop"], json!(["ALL"]));
    assert!(!host["CapAdd"].to_string().contains("NET_RAW"), "{}", host["CapAdd"]);
    assert!(host["SecurityOpt"].to_string().contains("no-new-privileges"), "{}", host["SecurityOpt"]);
    assert_eq!(host["Privileged"], false);

    let bound = object["status"]["ports"].as_array().expect("ports");
    for (port, inside) in bound.iter().zip(["8080/tcp", "9090/tcp"]) {
        let number = port["hostPort"].as_u64().expect("a port");
        assert!((31_000..31_020).contains(&number), "{port}");
        let published = json!([{"HostIp": plane.daemon.address, "HostPort": number.to_string()}]);
        assert_eq!(container["NetworkSettings"]["Ports"][inside], published);
    }
    let networks = container["NetworkSettings"]["Networks"].as_object().expect("networks");
    assert_eq!(networks.keys().collect::<Vec<_>>(), ["pr.default.provisioned"], "a network of its own, and no other");

    let page = plane.page(name, "/");
    assert_eq!((page.field("version").as_str(), page.field("hostname").as_str()), ("1", name));
    assert!(plane.page(name, "/env").text().contains("GREETING=hello there\n"));
    assert_eq!(plane.page(name, "/").header("x-app-port"), "8080");
    assert_eq!(plane.page(name, "/health").header("x-app-port"), "9090", "the longest prefix leads on");
    plane.append(name, "note", "kept");
    assert_eq!(plane.page(name, "/data/note").text(), "kept");
    assert!(shared.join(name).is_dir(), "the path on the host is made");
    assert_eq!(plane.daemon.volumes(name), ["pr.default.provisioned.data"]);
}

#[test]
fn whatever_is_done_to_a_container_behind_our_back_is_repaired() {
    let mut plane = ControlPlane::start(31_020);
    let name = "drifting";
    plane
        .apply(&instance_with(name, &json!({"power": "Running", "volumes": [{"name": "data", "mountPath": "/data"}]})));
    let ports = plane.until_serves(name)["status"]["ports"].clone();
    plane.append(name, "note", "kept");

    type Harm = fn(&ControlPlane, &str);
    let harms: [(&str, Harm); 5] = [
        ("removed", |p, id| drop(p.daemon.call("DELETE", &format!("/containers/{id}?force=1"), None))),
        ("renamed", |p, id| p.daemon.act(id, "rename?name=somebody-else")),
        ("starved", |p, id| {
            let limits = json!({"Memory": 16 << 20, "MemorySwap": 16 << 20});
            p.daemon.call("POST", &format!("/containers/{id}/update"), Some(&limits));
        }),
        ("unplugged", |p, id| {
            let network = "/networks/pr.default.drifting";
            let body = json!({"Container": id, "Force": true});
            p.daemon.call("POST", &format!("{network}/disconnect"), Some(&body));
            p.daemon.call("DELETE", network, None);
        }),
        ("stopped", |p, id| p.daemon.act(id, "stop?t=1")),
    ];
    for (what, harm) in harms {
        harm(&plane, &id(&plane.daemon.container(name)));
        right_again(&plane, name, what);
    }
    // last, because a second end in a row waits for its time
    plane.daemon.act(&id(&plane.daemon.container(name)), "kill");
    right_again(&plane, name, "killed");

    let object = plane.until_serves(name);
    assert_eq!(object["status"]["ports"], ports, "addresses last as long as the instance");
    assert_eq!(plane.page(name, "/data/note").text(), "kept");
}

/// Container, limits, network and status are as they should be, well before the next full listing, which is a quarter of
/// an hour away: an event has told of the harm.
fn right_again(plane: &ControlPlane, name: &str, what: &str) {
    let repaired = within(PATIENCE, || {
        let all = plane.daemon.containers(name);
        let [listed] = all.as_slice() else { return Err(format!("{what}: {} containers", all.len())) };
        let id = listed["Id"].as_str().unwrap_or_default();
        let answer =
            plane.daemon.ask("GET", &format!("/containers/{id}/json"), None).map_err(|e| format!("{what}: {e}"))?;
        let container: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let object = plane.get(name);
        let networks = container["NetworkSettings"]["Networks"].as_object().map(|n| n.keys().cloned().collect());
        let right = container["State"]["Running"] == true
            && container["Name"] == json!(format!("/pr.default.{name}"))
            && container["HostConfig"]["Memory"].as_i64() == Some(32 << 20)
            && networks == Some(vec![format!("pr.default.{name}")])
            && serves(&object)
            && object["status"]["containerID"] == container["Id"]
            && object["status"]["startedAt"].as_str().map(seconds)
                == container["State"]["StartedAt"].as_str().map(seconds);
        if right { Ok(()) } else { Err(format!("{what}: {container:#}")) }
    });
    if let Err(why) = repaired {
        plane.fail(name, &why);
    }
    assert_eq!(plane.page(name, "/health").text(), "ok\n", "{what}");
}

/// A time, as far as all agree how it is written.
fn seconds(time: &str) -> &str {
    time.get(..19).unwrap_or(time)
}

#[test]
fn data_and_addresses_survive_another_image() {
    let mut plane = ControlPlane::start(31_040);
    let name = "upgraded";
    plane.apply(&image(name, "portreeve/app:1"));
    let before = plane.until_serves(name);
    assert_eq!(plane.page(name, "/").header("x-app-version"), "1");
    plane.append(name, "note", "kept");

    plane.apply(&image(name, "portreeve/app:2"));
    let after = plane.until_serves(name);
    let page = plane.page(name, "/");
    assert_eq!((page.header("x-app-version"), page.field("boots").as_str()), ("2", "2"));
    assert_eq!(plane.page(name, "/data/note").text(), "kept");
    assert_eq!(before["status"]["ports"], after["status"]["ports"]);
    assert_ne!(before["status"]["containerID"], after["status"]["containerID"]);
    assert_eq!(plane.daemon.container(name)["Config"]["Image"], "portreeve/app:2");
}

#[test]
fn a_server_killed_while_it_provisions_goes_on_where_it_was() {
    let mut plane = ControlPlane::start(31_060);
    let names: Vec<String> = (0..5).map(|n| format!("interrupted-{n}")).collect();
    for (round, name) in names.iter().enumerate() {
        plane.apply(&instance(name));
        // at another moment of the work each time: nothing made yet, network, container, running
        let begun = within(PATIENCE, || match round {
            0 => Ok(()),
            1 if plane.daemon.networks(name).is_empty() => Err("no network".to_owned()),
            2 | 3 if plane.daemon.containers(name).is_empty() => Err("no container".to_owned()),
            4 if !plane.daemon.containers(name).iter().any(|c| c["State"] == "running") => Err("not up".to_owned()),
            _ => Ok(()),
        });
        begun.expect("the work begins");
        plane.kill9();
        plane.serve();
    }
    for name in &names {
        plane.until_serves(name);
        plane.daemon.container(name);
        assert_eq!(plane.daemon.networks(name).len(), 1, "networks of {name}");
        assert_eq!(plane.page(name, "/").field("hostname"), *name);
    }
}

#[test]
fn a_deleted_instance_leaves_only_the_data_that_it_was_to_retain() {
    let mut plane = ControlPlane::start(31_080);
    let name = "deleted";
    let volumes = json!([
        {"name": "data", "mountPath": "/data", "reclaim": "Retain"},
        {"name": "scratch", "mountPath": "/scratch", "reclaim": "Delete"},
    ]);
    plane.apply(&instance_with(name, &json!({"volumes": volumes})));
    plane.until_serves(name);
    plane.append(name, "note", "kept");
    let mut made = plane.daemon.volumes(name);
    made.sort();
    assert_eq!(made, ["pr.default.deleted.data", "pr.default.deleted.scratch"]);

    plane.run(&["delete", "inst", name, "--timeout", "240s"]);
    assert!(plane.get(name).is_null());
    assert!(plane.daemon.containers(name).is_empty() && plane.daemon.networks(name).is_empty());
    assert_eq!(plane.daemon.volumes(name), ["pr.default.deleted.data"]);

    // the same name finds its data again
    plane.apply(&instance_with(name, &json!({"volumes": volumes})));
    plane.until_serves(name);
    assert_eq!(plane.page(name, "/data/note").text(), "kept");
}

#[test]
fn a_value_of_a_secret_arrives_in_the_container_and_in_nothing_that_is_said_of_it() {
    const VALUE: &str = "hunter2-and-more";
    const ENCODED: &str = "aHVudGVyMi1hbmQtbW9yZQ==";
    let mut plane = ControlPlane::start_logging(31_220, "trace");
    let name = "confided";
    let env = json!([{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}]);
    plane.apply(&instance_with(
        name,
        &json!({"env": env, "envFrom": [{"prefix": "SET_", "configMapRef": {"name": "settings"}}]}),
    ));
    plane.until_is(name, "Failed", "ConfigMapMissing");
    assert!(plane.daemon.containers(name).is_empty(), "made without its values");

    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"MODE": "fast"}});
    plane.cli(&["apply", "-f", "-"], &map.to_string()).expect("applied");
    plane.until_is(name, "Failed", "SecretMissing");
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}, "stringData": {"password": VALUE}});
    plane.cli(&["apply", "-f", "-"], &secret.to_string()).expect("applied");
    let object = plane.until_serves(name);
    let page = plane.page(name, "/env").text();
    assert!(page.contains(&format!("PASSWORD={VALUE}\n")) && page.contains("SET_MODE=fast\n"), "{page}");

    let labels = plane.daemon.container(name)["Config"]["Labels"].to_string();
    let log = std::fs::read(plane.log()).expect("the log");
    let log = String::from_utf8_lossy(&log);
    assert!(log.contains("create container pr.default.confided"), "the log tells what is done");
    for said in [&labels, &object.to_string(), &format!("{:?}", plane.events(name)), &*log] {
        for value in [VALUE, ENCODED] {
            let place = said.find(value).map(|i| said[i.saturating_sub(200)..i].to_owned());
            assert_eq!(place, None, "the value is told");
        }
    }
}
