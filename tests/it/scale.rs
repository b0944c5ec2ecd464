//! The real binary over many simulated daemons: everything comes up once, everybody is led to their own, and then nobody
//! writes any more. `cargo xtask bench fleet` is the same with hundreds of hosts, and with figures.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use portreeve::clock::SystemClock;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::client::{Client, INSTANCES};
use crate::support::sim_engine::image::SimImage;
use crate::support::sim_engine::wire::call::Call;
use crate::support::sim_engine::wire::hosts::{Hosts, Plan, counts};

const HOSTS: usize = 20;
const EACH: usize = 10;
const APP: &str = "portreeve/app:1";
const PATIENCE: Duration = Duration::from_secs(120);
/// Twice the time between two questions to a host that does not tell of itself, and more.
const QUIET: Duration = Duration::from_secs(10);
const DOCKER_HOSTS: &str = "/apis/portreeve.dev/v1/dockerhosts";

/// Writes of the Docker API.
fn writes(calls: &BTreeMap<&'static str, u64>) -> u64 {
    calls.iter().filter(|(name, _)| !name.starts_with("GET ")).map(|(_, count)| count).sum()
}

async fn until(what: &str, mut so: impl AsyncFnMut() -> Result<(), String>) {
    let mut last = String::new();
    let waited = tokio::time::timeout(PATIENCE, async {
        while let Err(why) = so().await {
            last = why;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    if waited.await.is_err() {
        panic!("{what}: not within {PATIENCE:?}: {last}");
    }
}

/// The body of a page of an instance, through the proxy.
async fn page(proxy: &str, name: &str) -> String {
    let stream = TcpStream::connect(proxy).await.expect("the proxy");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection);
    let request = http::Request::get("/").header("host", format!("{name}.localhost"));
    let request = request.body(Empty::<bytes::Bytes>::new()).expect("a request");
    let asked = async {
        let answer = sender.send_request(request).await.expect("an answer");
        answer.into_body().collect().await.expect("a body").to_bytes()
    };
    let body = tokio::time::timeout(PATIENCE, asked).await.expect("in time");
    String::from_utf8_lossy(&body).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_on_twenty_hosts_come_up_once_and_then_nobody_writes() {
    let home = tempfile::tempdir().expect("a directory");
    let clock = SystemClock::new();
    // Addresses of this run alone: another of this machine may be under way.
    let pid = std::process::id();
    let plan = Plan {
        count: HOSTS,
        images: vec![(APP.to_owned(), SimImage::server())],
        recorded: false,
        apps: true,
        base: Ipv4Addr::new(127, 64 + (pid % 128) as u8, (pid / 128 % 256) as u8, 0),
        seed: 5,
    };
    let fleet = Hosts::up(home.path(), &clock, &plan).await.expect("the daemons");
    let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
    command.args([
        "serve",
        "--store=memory",
        "--docker=none",
        "--api-listen=127.0.0.1:0",
        "--proxy-listen=127.0.0.1:0",
    ]);
    command.env_clear().env("PORTREEVE_DATA_DIR", home.path().join("data")).env("NO_COLOR", "1").kill_on_drop(true);
    let mut served = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the binary");
    let mut log = BufReader::new(served.stderr.take().expect("its log")).lines();
    let proxy = tokio::time::timeout(PATIENCE, async {
        loop {
            let line = log.next_line().await.expect("text").expect("it goes on until it serves");
            if let Some((_, rest)) = line.split_once("proxy=") {
                return rest.split(' ').next().unwrap_or_default().to_owned();
            }
        }
    });
    let proxy = proxy.await.expect("it serves");
    tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });

    let client = Client::from_kubeconfig(&home.path().join("data/admin.kubeconfig"));
    for place in fleet.places.iter() {
        let host = json!({
            "apiVersion": "portreeve.dev/v1", "kind": "DockerHost", "metadata": {"name": place.name},
            "spec": {"endpoint": format!("unix://{}", place.socket.display()), "address": place.address.to_string()},
        });
        client.post(DOCKER_HOSTS, &host).await.expect(201);
    }
    let names: Vec<String> = (0..HOSTS * EACH).map(|n| format!("user-{n:03}")).collect();
    for name in &names {
        let instance = json!({
            "apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": {"name": name},
            "spec": {
                "image": APP, "power": "Running", "ports": [{"name": "web", "containerPort": 8080}],
                "resources": {"memory": "16Mi", "cpu": "10m"},
            },
        });
        client.post(INSTANCES, &instance).await.expect(201);
    }
    let ready = |item: &Value| {
        let conditions = item["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    until("every instance serves", async || {
        let list = client.get(INSTANCES).await.expect(200);
        let items = list["items"].as_array().ok_or("no list")?;
        let count = items.iter().filter(|i| ready(i)).count();
        if count == names.len() { Ok(()) } else { Err(format!("{count} of {}", names.len())) }
    })
    .await;
    let calls = counts(&fleet.places);
    for call in [Call::CreateNetwork, Call::CreateContainer, Call::Start] {
        assert_eq!(calls[call.name()], names.len() as u64, "{} for each, and no more: {calls:?}", call.name());
    }
    for name in &names {
        assert_eq!(page(&proxy, name).await, format!("pr.default.{name}"), "led to another's");
    }

    // What is reserved is told with the next look at each host's record; then all is said.
    let revision = async || {
        let list = client.get(&format!("{INSTANCES}?limit=1")).await.expect(200);
        list["metadata"]["resourceVersion"].as_str().expect("a version").to_owned()
    };
    until("what is reserved is told", async || {
        let list = client.get(DOCKER_HOSTS).await.expect(200);
        let told = |item: &Value| item["status"]["allocated"]["instances"].as_u64().unwrap_or_default();
        let sum: u64 = list["items"].as_array().ok_or("no list")?.iter().map(told).sum();
        if sum == names.len() as u64 { Ok(()) } else { Err(format!("{sum} of {}", names.len())) }
    })
    .await;
    // Everybody's last look has ended when nobody asks any more.
    let asked = || counts(&fleet.places).values().sum::<u64>();
    let mut quiet = (asked(), clock.monotonic());
    until("nobody asks anything", async || {
        let now = (asked(), clock.monotonic());
        if now.0 != quiet.0 {
            quiet = now;
        }
        if now.1 - quiet.1 >= QUIET { Ok(()) } else { Err(format!("{} calls", now.0)) }
    })
    .await;
    let (before, said) = (writes(&counts(&fleet.places)), revision().await);
    // Each host is listed once more, a minute after its last event. From then on, hosts are heard of without being asked: a
    // question to each every few seconds would be many times as many calls.
    let mut begun = (asked(), clock.monotonic());
    until("hosts are listened to", async || {
        let now = (asked(), clock.monotonic());
        if now.0 - begun.0 >= HOSTS as u64 {
            begun = now;
        }
        if now.1 - begun.1 >= 2 * QUIET { Ok(()) } else { Err(format!("{:?}", counts(&fleet.places))) }
    })
    .await;
    assert_eq!(writes(&counts(&fleet.places)), before, "no daemon is told to change anything");
    assert_eq!(revision().await, said, "and nothing is written");
}
