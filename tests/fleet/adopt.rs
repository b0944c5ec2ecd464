//! Taking over a container that runs already, on a real daemon: it is not made anew, and nothing beside it is touched.

use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, PATIENCE, within};
use crate::daemon::Daemon;

/// A container that somebody made without us, and what goes with it, while it lives.
struct Stranger {
    daemon: Daemon,
    name: &'static str,
    id: String,
}

impl Stranger {
    /// With a port, a named volume at /data and one without a name, as `docker run --restart unless-stopped` makes it.
    fn new(name: &'static str, port: u16) -> Stranger {
        let mut stranger = Stranger { daemon: crate::daemon::first(), name, id: String::new() };
        stranger.clean();
        let daemon = &stranger.daemon;
        daemon.call("POST", "/volumes/create", Some(&json!({"Name": format!("{name}_data")})));
        let spec = json!({
            "Image": "portreeve/app:1", "Env": ["GREETING=hello"], "ExposedPorts": {"8080/tcp": {}}, "Volumes": {"/cache": {}},
            "HostConfig": {
                "Binds": [format!("{name}_data:/data")], "RestartPolicy": {"Name": "unless-stopped"},
                "PortBindings": {"8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": port.to_string()}]},
            },
        });
        let made = daemon.call("POST", &format!("/containers/create?name={name}"), Some(&spec));
        let id = made["Id"].as_str().expect("an id").to_owned();
        daemon.act(&id, "start");
        stranger.id = id;
        stranger
    }

    fn now(&self) -> Value {
        self.daemon.get(&format!("/containers/{}/json", self.id))
    }

    fn is_gone(&self) -> bool {
        self.daemon.ask("GET", &format!("/containers/{}/json", self.id), None).expect("an answer").status == 404
    }

    /// The volume at a path, by its name.
    fn volume(&self, path: &str) -> String {
        let now = self.now();
        let mounts = now["Mounts"].as_array().expect("mounts");
        let at = mounts.iter().find(|m| m["Destination"] == path).expect("a mount");
        at["Name"].as_str().expect("a name").to_owned()
    }

    fn clean(&self) {
        let _ = self.daemon.ask("DELETE", &format!("/containers/{}?force=1&v=1", self.name), None);
        let _ = self.daemon.ask("DELETE", &format!("/volumes/{}_data", self.name), None);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.clean();
    }
}

/// What must not change in one that nobody asked for.
fn untouched(of: &Value) -> [Value; 4] {
    [&of["Id"], &of["State"], &of["HostConfig"], &of["NetworkSettings"]["Networks"]].map(Clone::clone)
}

#[test]
fn a_running_container_is_taken_over_and_lives_on_as_one_of_ours() {
    let web = Stranger::new("adopt-web", 31_382);
    let neighbour = Stranger::new("adopt-neighbour", 31_383);
    let (before, beside) = (web.now(), neighbour.now());
    let mut plane = ControlPlane::start(31_380);
    let name = "adopted";
    plane.owns(name);
    let plan = plane.run(&["adopt", "adopt-web", "--name", name, "--dry-run=server"]);
    assert!(plan.contains("31382->8080") && plan.contains("adopt-web_data:/data"), "{plan}");
    assert_eq!(untouched(&web.now()), untouched(&before), "a dry run does nothing");

    let power = ["--power", "Auto", "--memory", "64Mi"];
    let said = plane.run(&[&["adopt", "adopt-web", "--name", name][..], &power].concat());
    assert_eq!(said, format!("instance.portreeve.dev/{name} adopted\n"));
    // First it is noted whose it is, then its settings follow.
    let settled = within(PATIENCE, || {
        let taken = web.now();
        if taken["HostConfig"]["RestartPolicy"]["Name"] == "no" {
            Ok(taken)
        } else {
            Err(taken["HostConfig"].to_string())
        }
    });
    let taken = settled.unwrap_or_else(|why| plane.fail(name, &why));
    assert_eq!((&taken["Id"], &taken["State"]["StartedAt"]), (&before["Id"], &before["State"]["StartedAt"]));
    assert_eq!(taken["Name"], "/adopt-web");
    assert_eq!(taken["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(plane.page(name, "/").field("boots"), "1", "served through the proxy");
    plane.append(name, "note", "kept");

    // It sleeps and wakes in the same container, across the end of the server.
    plane.run(&["sleep", name]);
    assert_eq!(web.now()["State"]["Status"], "exited");
    plane.kill9();
    plane.serve();
    assert_eq!(plane.get(name)["status"]["phase"], "Asleep");
    assert_eq!(plane.page(name, "/").field("boots"), "2");
    assert_eq!(web.now()["State"]["Status"], "running");

    // When it dies by itself it is started again.
    web.daemon.act(&web.id, "kill");
    plane.until(name, "it is started again", |o| o["status"]["restarts"] == 1 && crate::control_plane::serves(o));
    assert_eq!(plane.page(name, "/").field("boots"), "3");
    assert_eq!(plane.get(name)["status"]["containerID"], web.id.as_str());

    // Another image is another container, with the same port and all of the data.
    let unnamed = web.volume("/cache");
    plane.run(&["upgrade", name, "--image", "portreeve/app:2"]);
    let page = plane.page(name, "/");
    assert_eq!((page.header("x-app-version"), page.field("boots").as_str()), ("2", "4"));
    assert_eq!(plane.page(name, "/data/note").text(), "kept");
    assert!(web.is_gone());
    let own = plane.daemon.container(name);
    assert_eq!(own["HostConfig"]["PortBindings"]["8080/tcp"][0]["HostPort"], "31382");
    let env = own["Config"]["Env"].as_array().expect("variables").clone();
    assert!(env.contains(&json!("GREETING=hello")), "{env:?}");
    for (path, volume) in [("/data", "adopt-web_data"), ("/cache", &unnamed)] {
        let mounts = own["Mounts"].as_array().expect("mounts");
        assert!(mounts.iter().any(|m| m["Destination"] == path && m["Name"] == volume), "{path}: {own:#}");
    }

    // It goes, and the data that it found stays; nobody else was touched.
    plane.run(&["delete", "inst", name, "--timeout", "240s"]);
    assert!(plane.daemon.containers(name).is_empty());
    for volume in [&unnamed, "adopt-web_data"] {
        assert_eq!(plane.daemon.get(&format!("/volumes/{volume}"))["Name"], *volume);
    }
    plane.daemon.call("DELETE", &format!("/volumes/{unnamed}"), None);
    assert_eq!(untouched(&neighbour.now()), untouched(&beside));
}

#[test]
fn one_that_is_let_go_stays_as_it_is_and_one_that_cannot_be_taken_is_not_touched() {
    let web = Stranger::new("adopt-back", 31_742);
    let plane = ControlPlane::start(31_740);
    plane.run(&["adopt", "adopt-back"]);
    let taken = web.now();
    let run = taken["State"].clone();
    let said = plane.run(&["adopt", "--release", "adopt-back"]);
    assert_eq!(said, "instance.portreeve.dev/adopt-back released\n");
    assert_eq!(web.now()["State"], run, "the record is gone, and the container is not");
    assert_eq!(plane.get("adopt-back"), Value::Null);

    // A port of Docker's choice.
    let name = "adopt-ephemeral";
    let _ = web.daemon.ask("DELETE", &format!("/containers/{name}?force=1"), None);
    let spec = json!({
        "Image": "portreeve/app:1", "ExposedPorts": {"8080/tcp": {}},
        "HostConfig": {"PortBindings": {"8080/tcp": [{"HostPort": ""}]}},
    });
    web.daemon.call("POST", &format!("/containers/create?name={name}"), Some(&spec));
    web.daemon.act(name, "start");
    let before = web.daemon.get(&format!("/containers/{name}/json"));
    let refused = plane.cli(&["adopt", name], "").expect_err("it is refused");
    assert!(refused.contains("a port of Docker's choice"), "{refused}");
    assert_eq!(untouched(&web.daemon.get(&format!("/containers/{name}/json"))), untouched(&before));
    web.daemon.call("DELETE", &format!("/containers/{name}?force=1"), None);
}
