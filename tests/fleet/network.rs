//! Networks at density, and who can reach whom: what `specs/network.md` promises, on real daemons.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, condition, instance_with, within};
use crate::daemon::{Daemon, Second, second};

/// More than a daemon has subnets of its own for.
const MANY: usize = 45;

fn subnet(object: &Value) -> String {
    object["status"]["subnet"].as_str().unwrap_or_default().to_owned()
}

/// Of the instance's only network, as the daemon has it.
fn daemons_subnet(daemon: &Daemon, name: &str) -> Value {
    let networks = daemon.networks(name);
    let [network] = networks.as_slice() else { panic!("networks of {name}: {networks:#?}") };
    network["IPAM"]["Config"][0]["Subnet"].clone()
}

#[test]
fn more_instances_than_the_daemon_has_networks_by_itself_run_at_once() {
    let mut plane = ControlPlane::start(31_600);
    let names: Vec<String> = (0..MANY).map(|n| format!("dense-{n}")).collect();
    for name in &names {
        let spec =
            json!({"ports": [], "probes": {}, "power": "Running", "resources": {"memory": "8Mi", "cpu": "100m"}});
        plane.apply(&instance_with(name, &spec));
    }
    let mut subnets = BTreeSet::new();
    for name in &names {
        let object = plane.until_serves(name);
        let subnet = subnet(&object);
        assert!(subnet.starts_with("10.213.") && subnet.ends_with("/28"), "{name}: {subnet:?}");
        assert_eq!(daemons_subnet(&plane.daemon, name), json!(subnet));
        assert!(subnets.insert(subnet.clone()), "{name} shares {subnet}");
    }
    plane.run(&["delete", "inst", names[0].as_str(), "--timeout", "240s"]);
    assert!(plane.daemon.networks(&names[0]).is_empty());
}

#[test]
fn a_subnet_that_somebody_has_is_given_up_for_another() {
    let (name, mut plane) = ("crowded", ControlPlane::start(31_620));
    let strangers = ["10.212.0.0/25", "10.212.0.128/26", "10.212.0.192/27", "10.212.0.224/28"];
    let here = crate::daemon::first();
    let _strangers: Vec<_> = strangers.iter().enumerate().map(|(n, s)| Stranger::new(&here, n, s)).collect();
    let spec = json!({
        "endpoint": here.endpoint(), "address": here.address, "portRange": "31620-31639",
        "subnetPool": "10.212.0.0/24", "capacity": {"instances": 16},
    });
    let host =
        json!({"apiVersion": "portreeve.dev/v1", "kind": "DockerHost", "metadata": {"name": "local"}, "spec": spec});
    plane.apply(&host);
    plane.apply(&instance_with(name, &json!({})));
    let object = plane.until_serves(name);
    assert_eq!(subnet(&object), "10.212.0.240/28", "the only one that nobody has");
    assert_eq!(daemons_subnet(&plane.daemon, name), "10.212.0.240/28");
    assert!(object["status"]["refusedSubnets"].is_null(), "{:#}", object["status"]);
    plane.page(name, "/");

    // A second one has no place, and is told so in the daemon's words and ours.
    plane.apply(&instance_with("crowded-out", &json!({})));
    plane.until("crowded-out", "it is told", |o| {
        condition(o, "Ready")["message"].as_str().is_some_and(|m| m.contains("Pool overlaps with other one"))
            || condition(o, "UpToDate")["message"].as_str().is_some_and(|m| m.contains("without a free subnet"))
    });
}

/// A network of somebody else.
struct Stranger<'a> {
    daemon: &'a Daemon,
    name: String,
}

impl Stranger<'_> {
    fn new<'a>(daemon: &'a Daemon, n: usize, subnet: &str) -> Stranger<'a> {
        let name = format!("stranger-{n}");
        let body = json!({"Name": name, "Driver": "bridge", "IPAM": {"Config": [{"Subnet": subnet}]}});
        daemon.call("POST", "/networks/create", Some(&body));
        Stranger { daemon, name }
    }
}

impl Drop for Stranger<'_> {
    fn drop(&mut self) {
        let _ = self.daemon.ask("DELETE", &format!("/networks/{}", self.name), None);
    }
}

/// The rules that examples/worker-firewall gives to a host, while this lives.
struct Firewall<'a>(&'a Second);

impl Firewall<'_> {
    fn new<'a>(host: &'a Second, rules: &[&str]) -> Firewall<'a> {
        let firewall = Firewall(host);
        for _ in 0..2 {
            let done = firewall.run(rules);
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        firewall
    }

    fn run(&self, args: &[&str]) -> std::process::Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/worker-firewall/portreeve-firewall.sh");
        let namespace = format!("--net=/proc/{}/ns/net", self.0.pid());
        Command::new("nsenter").arg(namespace).arg(script).args(args).output().expect("nsenter runs")
    }
}

impl Drop for Firewall<'_> {
    fn drop(&mut self) {
        let _ = self.run(&["remove"]);
    }
}

/// What an instance gets that opens a connection: `open`, or why not.
fn dial(plane: &ControlPlane, from: &str, to: &str) -> String {
    plane.page(from, &format!("/dial?to={to}")).text().trim().to_owned()
}

#[test]
fn instances_reach_neither_one_another_nor_their_host_behind_the_firewall() {
    let (near, far, closed) = ("near", "far", "closed");
    let host = second(&[near, far, closed]);
    let mut plane = ControlPlane::start(31_800);
    plane.apply(&host.record("31660-31679"));
    let on_h2 = json!({"power": "Running", "placement": {"node": "h2"}});
    for name in [near, far, closed] {
        let mut spec = on_h2.clone();
        if name == closed {
            spec["network"] = json!({"egress": "None"});
        }
        plane.apply(&instance_with(name, &spec));
    }
    let objects = [near, far, closed].map(|name| plane.until_serves(name));
    let port = objects[1]["status"]["ports"][0]["hostPort"].as_u64().expect("a port");
    let network = format!("pr.default.{far}");
    let container = host.daemon.container(far);
    let inside = container["NetworkSettings"]["Networks"][&network]["IPAddress"].as_str().expect("an address");
    let neighbour = format!("{inside}:8080");
    let published = format!("{}:{port}", host.daemon.address);
    let docker = format!("{}:2376", host.daemon.address);
    // This machine, as an instance sees it: where a control plane may be.
    let (listeners, here) = listeners(&host.daemon.address);
    let [api, other] = here;

    // Without help of the host: what Docker's own rules keep apart, with `--userland-proxy=false`, and no more.
    assert_ne!(dial(&plane, near, &neighbour), "open", "another's container");
    assert_ne!(dial(&plane, near, &published), "open", "another's published port");
    assert_eq!(dial(&plane, near, &api), "open");
    assert_eq!(dial(&plane, near, &docker), "open", "Docker guards nothing of its host; mutual TLS does");
    // Without an egress nothing beyond the host answers, and routes still lead to it.
    assert_ne!(dial(&plane, closed, &api), "open");
    assert_ne!(dial(&plane, closed, &neighbour), "open");

    let _firewall = Firewall::new(&host, &["apply", "10.213.0.0/16", &api]);
    for name in [near, closed] {
        for (to, what) in [
            (&neighbour, "another's container"),
            (&published, "another's published port"),
            (&docker, "the host's Docker API"),
            (&api, "what is named"),
        ] {
            assert_ne!(dial(&plane, name, to), "open", "{name} reaches {what}");
        }
    }
    assert_eq!(dial(&plane, near, &other), "open", "all else is as it was");
    for name in [near, far, closed] {
        plane.page(name, "/");
    }
    // A restart of the daemon makes its own rules anew, and leaves ours.
    host.fault("kill");
    host.fault("start");
    let ready = within(crate::control_plane::PATIENCE, || match dial_when_up(&plane, near, &docker) {
        Some(said) if said != "open" => Ok(()),
        said => Err(format!("{said:?}")),
    });
    ready.unwrap_or_else(|why| panic!("after a restart of the daemon: {why}"));
    // An egress that opens is another network, with the same subnet and port.
    let (before, ports) = (subnet(&objects[2]), objects[2]["status"]["ports"].clone());
    plane.apply(&instance_with(closed, &on_h2));
    let opened = plane.until(closed, "its network is made anew", |o| {
        condition(o, "Ready")["status"] == "True" && dial_when_up(&plane, closed, &other).is_some_and(|s| s == "open")
    });
    drop(listeners);
    assert_eq!((subnet(&opened), &opened["status"]["ports"]), (before, &ports));
}

fn dial_when_up(plane: &ControlPlane, from: &str, to: &str) -> Option<String> {
    let answer = plane.request("GET", from, &format!("/dial?to={to}"), "").ok()?;
    (answer.status == 200).then(|| answer.text().trim().to_owned())
}

/// Two ports of this machine on the fleet's network, which lead nowhere but open.
fn listeners(address: &str) -> ([std::net::TcpListener; 2], [String; 2]) {
    let (net, _) = address.rsplit_once('.').expect("an IPv4 address");
    let listen = || std::net::TcpListener::bind((format!("{net}.1"), 0)).expect("this machine's address in the fleet");
    let all = [listen(), listen()];
    let names = [0, 1].map(|n| all[n].local_addr().expect("an address").to_string());
    (all, names)
}
