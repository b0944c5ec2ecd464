//! What a daemon says on the wire, told once: status codes, shapes and the order of events, which our client makes
//! nothing of but its users' tools do. Run over the simulated daemon's HTTP and over real ones.
//!
//! Everything made here has a name that begins with [`PREFIX`], and is removed before and after.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

const PREFIX: &str = "pr.wire.";
const NETWORK: &str = "pr.wire.net";
const PATIENCE: Duration = Duration::from_secs(90);

/// A daemon's socket and what may be used on it.
pub struct Subject<'a> {
    pub socket: &'a Path,
    /// A local image that holds the test app, and the app's path in it.
    pub image: &'a str,
    pub app: &'a str,
    pub host_ip: &'a str,
    /// Free there.
    pub host_port: u16,
}

/// All of it, in turn.
pub async fn holds(s: &Subject<'_>) {
    s.clear().await;
    versions_are_agreed_on(s).await;
    let network = json!({"Name": NETWORK, "CheckDuplicate": true, "Driver": "bridge"});
    assert_eq!(s.call("POST", "/networks/create", network).await.0, 201);
    lives_are_told_by_their_codes(s).await;
    what_is_not_there_is_404(s).await;
    names_and_prefixes_lead_to_containers(s).await;
    one_of_four_removals_wins(s).await;
    networks_tell_why_not(s).await;
    volumes_tell_why_not(s).await;
    commands_need_what_runs(s).await;
    events_come_in_the_order_of_what_was_done(s).await;
    descriptions_have_the_recorded_shape(s).await;
    s.clear().await;
}

impl Subject<'_> {
    async fn open(&self, method: &str, path: &str, body: Value) -> http::Response<Incoming> {
        let stream = UnixStream::connect(self.socket).await.expect("the daemon's socket");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).expect("a method"))
            .uri(if path.starts_with("/v1.") { path.to_owned() } else { format!("/v1.41{path}") })
            .header(header::HOST, "docker")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("a request");
        tokio::time::timeout(PATIENCE, sender.send_request(request)).await.expect("in time").expect("an answer")
    }

    /// Status, and the body if it is JSON.
    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let response = self.open(method, path, body).await;
        let status = response.status().as_u16();
        let bytes = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.expect("in time");
        (status, serde_json::from_slice(&bytes.expect("a body").to_bytes()).unwrap_or_default())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, Value::Null).await
    }

    async fn post(&self, path: &str) -> u16 {
        self.call("POST", path, Value::Null).await.0
    }

    async fn delete(&self, path: &str) -> u16 {
        self.call("DELETE", path, Value::Null).await.0
    }

    /// As much as our client asks for.
    fn body(&self, args: &[&str]) -> Value {
        json!({
            "Image": self.image, "Entrypoint": [self.app], "Cmd": args, "Env": ["A=b"],
            "Labels": {"portreeve.dev/wire": "yes"}, "ExposedPorts": {"8080/tcp": {}},
            "Healthcheck": {"Test": ["NONE"]}, "Tty": false, "OpenStdin": false,
            "HostConfig": {
                "NetworkMode": NETWORK, "Init": true, "Memory": 64 << 20, "MemorySwap": 64 << 20,
                "NanoCpus": 500_000_000, "PidsLimit": 64, "RestartPolicy": {"Name": "no"}, "CapDrop": ["ALL"],
                "PortBindings": {"8080/tcp": [{"HostIp": self.host_ip, "HostPort": self.host_port.to_string()}]},
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
            },
        })
    }

    async fn make(&self, name: &str, args: &[&str]) -> String {
        let (status, told) =
            self.call("POST", &format!("/containers/create?name={PREFIX}{name}"), self.body(args)).await;
        assert_eq!(status, 201, "{told}");
        assert!(told["Warnings"].is_array() || told["Warnings"].is_null(), "{told}");
        let id = told["Id"].as_str().expect("an id").to_owned();
        assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        id
    }

    async fn clear(&self) {
        let filters = "%7B%22name%22%3A%5B%22pr.wire.%22%5D%7D";
        let (status, listed) = self.get(&format!("/containers/json?all=1&filters={filters}")).await;
        assert_eq!(status, 200);
        for id in listed.as_array().expect("a list").iter().filter_map(|c| c["Id"].as_str()) {
            let status = self.delete(&format!("/containers/{id}?force=1&v=1")).await;
            assert!(matches!(status, 204 | 404), "{status}");
        }
        for path in ["/networks/pr.wire.net", "/networks/pr.wire.other", "/volumes/pr.wire.data"] {
            let status = self.delete(path).await;
            assert!(matches!(status, 204 | 404), "{path}: {status}");
        }
    }
}

/// A refusal: its status, and the daemon's words.
#[track_caller]
fn refused((status, told): (u16, Value), expected: u16, words: &str) {
    let message = told["message"].as_str().unwrap_or_default();
    assert_eq!(status, expected, "{told}");
    assert!(message.to_lowercase().contains(&words.to_lowercase()), "{message:?} without {words:?}");
}

async fn versions_are_agreed_on(s: &Subject<'_>) {
    let pong = s.open("GET", "/_ping", Value::Null).await;
    assert_eq!(pong.status(), 200);
    let told = pong.headers()["api-version"].to_str().expect("text").to_owned();
    assert_eq!(pong.into_body().collect().await.expect("a body").to_bytes(), "OK");
    let (status, version) = s.get("/version").await;
    assert_eq!((status, version["ApiVersion"].as_str()), (200, Some(told.as_str())));
    refused(s.get("/v1.99/info").await, 400, "client version 1.99 is too new");
    refused(s.get("/v1.41/nowhere").await, 404, "page not found");
    let (status, info) = s.get("/info").await;
    assert!(status == 200 && info["ID"].as_str().is_some_and(|id| !id.is_empty()), "{info}");
}

async fn lives_are_told_by_their_codes(s: &Subject<'_>) {
    let id = s.make("life", &[]).await;
    let at = |verb: &str| format!("/containers/{id}/{verb}");
    let again = s.call("POST", "/containers/create?name=pr.wire.life", s.body(&[])).await;
    refused(again, 409, "is already in use by container");
    assert_eq!((s.post(&at("start")).await, s.post(&at("start")).await), (204, 304));
    let second = s.make("second", &[]).await;
    refused(
        s.call("POST", &format!("/containers/{second}/start"), Value::Null).await,
        500,
        "port is already allocated",
    );
    let (_, left) = s.get(&format!("/containers/{second}/json")).await;
    assert_eq!((left["State"]["Status"].as_str(), &left["State"]["ExitCode"]), (Some("created"), &json!(128)));
    assert_eq!(s.delete(&format!("/containers/{second}")).await, 204);

    refused(
        s.call("DELETE", &format!("/containers/{id}"), Value::Null).await,
        409,
        "cannot remove a running container",
    );
    assert_eq!((s.post(&at("pause")).await, s.get(&at("json")).await.1["State"]["Status"] == "paused"), (204, true));
    assert_eq!(s.post(&at("pause")).await, 409);
    assert_eq!((s.post(&at("unpause")).await, s.post(&at("unpause")).await), (204, 500), "dockerd says 500 here");
    assert_eq!((s.post(&at("stop?t=5")).await, s.post(&at("stop?t=5")).await), (204, 304));
    refused(s.call("POST", &at("kill"), Value::Null).await, 409, "is not running");
    let own = s.call("POST", &at("rename?name=pr.wire.life"), Value::Null).await;
    refused(own, 400, "same name as its current name");
    assert_eq!(s.post(&at("rename?name=pr.wire.other")).await, 204);
    let update = json!({"Memory": 96 << 20, "MemorySwap": 96 << 20, "RestartPolicy": {"Name": "no"}});
    let (status, told) = s.call("POST", &at("update"), update).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!(s.get(&at("json")).await.1["HostConfig"]["Memory"], json!(96 << 20));
    assert_eq!(s.delete(&format!("/containers/{id}?v=1")).await, 204);
}

async fn what_is_not_there_is_404(s: &Subject<'_>) {
    let nobody = "0af9".repeat(16);
    for verb in ["start", "stop", "kill", "pause", "rename?name=pr.wire.x"] {
        let told = s.call("POST", &format!("/containers/{nobody}/{verb}"), Value::Null).await;
        refused(told, 404, "No such container");
    }
    let attach = s.open("POST", &format!("/containers/{nobody}/attach?stream=1&stdout=1"), Value::Null).await;
    assert_eq!(attach.status(), 404);
    let words = attach.into_body().collect().await.expect("a body").to_bytes();
    assert!(words.starts_with(b"No such container: "), "this one is no JSON: {words:?}");
    for path in ["json", "stats?stream=false", "logs?stdout=1"] {
        refused(s.get(&format!("/containers/{nobody}/{path}")).await, 404, "No such container");
    }
    refused(s.call("DELETE", &format!("/containers/{nobody}"), Value::Null).await, 404, "No such container");
    refused(s.get("/images/portreeve-no-such-image:1/json").await, 404, "No such image");
    refused(s.get("/networks/pr.wire.nothing").await, 404, "not found");
    refused(s.get("/volumes/pr.wire.nothing").await, 404, "no such volume");
    refused(s.get(&format!("/exec/{nobody}/json")).await, 404, "No such exec instance");
    let mut missing = s.body(&[]);
    missing["Image"] = "portreeve-no-such-image:1".into();
    refused(s.call("POST", "/containers/create?name=pr.wire.x", missing).await, 404, "No such image");
}

async fn names_and_prefixes_lead_to_containers(s: &Subject<'_>) {
    let id = s.make("prefix", &[]).await;
    for way in [id.as_str(), &id[..12], "pr.wire.prefix"] {
        let (status, told) = s.get(&format!("/containers/{way}/json")).await;
        assert_eq!((status, told["Id"].as_str()), (200, Some(id.as_str())), "{way}");
    }
    refused(s.get("/containers/pr.wire.pre/json").await, 404, "No such container");
    assert_eq!(s.delete(&format!("/containers/{}", &id[..12])).await, 204, "a prefix is enough to lose it");
}

async fn one_of_four_removals_wins(s: &Subject<'_>) {
    let id = s.make("removed", &[]).await;
    assert_eq!(s.post(&format!("/containers/{id}/start")).await, 204);
    let path = format!("/containers/{id}?force=1&v=1");
    let statuses = futures::future::join_all((0..4).map(|_| s.delete(&path))).await;
    let count = |status: u16| statuses.iter().filter(|s| **s == status).count();
    assert_eq!((count(204), count(409) + count(404)), (1, 3), "{statuses:?}");
    assert!(count(409) > 0, "{statuses:?}");
}

async fn networks_tell_why_not(s: &Subject<'_>) {
    let asked = |name: &str, subnet: &str| json!({"Name": name, "CheckDuplicate": true, "Driver": "bridge", "IPAM": {"Config": [{"Subnet": subnet}]}});
    let other = asked("pr.wire.other", "10.215.7.16/28");
    let (status, told) = s.call("POST", "/networks/create", other.clone()).await;
    assert!(status == 201 && told["Id"].as_str().is_some_and(|id| id.len() == 64), "{status} {told}");
    refused(s.call("POST", "/networks/create", other).await, 409, "already exists");
    let overlapping = asked("pr.wire.third", "10.215.7.0/24");
    refused(s.call("POST", "/networks/create", overlapping).await, 403, "Pool overlaps with other one");
    let id = s.make("inside", &[]).await;
    assert_eq!(s.post(&format!("/containers/{id}/start")).await, 204);
    refused(s.call("DELETE", "/networks/pr.wire.net", Value::Null).await, 403, "has active endpoints");
    let again = s.call("POST", "/networks/pr.wire.net/connect", json!({"Container": id})).await;
    refused(again, 403, "already exists in network");
    let (_, told) = s.get("/networks/pr.wire.net").await;
    assert!(told["Containers"].get(&id).is_some(), "{told}");
    assert_eq!(s.delete(&format!("/containers/{id}?force=1")).await, 204);
    assert_eq!(s.delete("/networks/pr.wire.other").await, 204);
    refused(s.call("DELETE", "/networks/pr.wire.other", Value::Null).await, 404, "not found");
}

async fn volumes_tell_why_not(s: &Subject<'_>) {
    let asked = json!({"Name": "pr.wire.data", "Driver": "local"});
    for _ in 0..2 {
        let (status, told) = s.call("POST", "/volumes/create", asked.clone()).await;
        assert_eq!((status, told["Name"].as_str()), (201, Some("pr.wire.data")), "{told}");
    }
    let mut body = s.body(&[]);
    body["HostConfig"]["Mounts"] = json!([{"Type": "volume", "Source": "pr.wire.data", "Target": "/data"}]);
    let (status, told) = s.call("POST", "/containers/create?name=pr.wire.user", body).await;
    assert_eq!(status, 201, "{told}");
    refused(s.call("DELETE", "/volumes/pr.wire.data", Value::Null).await, 409, "volume is in use");
    assert_eq!(s.delete("/containers/pr.wire.user?v=1").await, 204);
    assert_eq!(s.get("/volumes/pr.wire.data").await.0, 200, "a named volume stays");
    assert_eq!(s.delete("/volumes/pr.wire.data").await, 204);
    refused(s.call("DELETE", "/volumes/pr.wire.data", Value::Null).await, 404, "no such volume");
}

async fn commands_need_what_runs(s: &Subject<'_>) {
    let id = s.make("exec", &[]).await;
    let path = format!("/containers/{id}/exec");
    let echo = json!({"AttachStdout": true, "Cmd": [s.app, "echo", "hello"]});
    refused(s.call("POST", &path, echo.clone()).await, 409, "is not running");
    assert_eq!(s.post(&format!("/containers/{id}/start")).await, 204);
    let (status, told) = s.call("POST", &path, echo).await;
    assert_eq!(status, 201, "{told}");
    let exec = told["Id"].as_str().expect("an id").to_owned();
    let start = json!({"Detach": false, "Tty": false});
    let started = s.open("POST", &format!("/exec/{exec}/start"), start).await;
    assert_eq!(started.status(), 200, "without an upgrade");
    let said = started.into_body().collect().await.expect("its output").to_bytes();
    assert_eq!(&said[..], b"\x01\0\0\0\0\0\0\x06hello\n", "one frame of standard output");
    assert_eq!(s.get(&format!("/exec/{exec}/json")).await.1["ContainerID"], json!(id));
    assert_eq!(s.delete(&format!("/containers/{id}?force=1")).await, 204);
}

async fn events_come_in_the_order_of_what_was_done(s: &Subject<'_>) {
    let filters = json!({"type": ["container"], "label": ["portreeve.dev/wire=yes"]}).to_string();
    let filters: String = filters.bytes().map(|b| format!("%{b:02X}")).collect();
    let mut stream = s.open("GET", &format!("/events?filters={filters}"), Value::Null).await.into_body();
    let id = s.make("told", &[]).await;
    for verb in ["start", "pause", "unpause", "stop?t=5", "start", "rename?name=pr.wire.retold"] {
        assert_eq!(s.post(&format!("/containers/{id}/{verb}")).await, 204, "{verb}");
    }
    assert_eq!(s.delete(&format!("/containers/{id}?force=1")).await, 204);
    let (mut held, mut actions) = (Vec::new(), Vec::new());
    while actions.last().is_none_or(|action| action != "destroy") {
        let frame = tokio::time::timeout(PATIENCE, stream.frame()).await;
        let frame = frame.unwrap_or_else(|_| panic!("no destroy after {actions:?}"));
        held.extend_from_slice(frame.expect("goes on").expect("unbroken").data_ref().expect("data"));
        while let Some(end) = held.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = held.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).expect("a line of JSON");
            assert_eq!((&event["Type"], &event["Actor"]["ID"]), (&json!("container"), &json!(id)), "{event}");
            assert!(event["scope"] == "local" && event["time"].is_i64() && event["timeNano"].is_i64(), "{event}");
            assert_eq!(event["status"], event["Action"], "as older clients read it");
            actions.push(event["Action"].as_str().expect("a word").to_owned());
        }
    }
    let expected =
        ["create", "start", "pause", "unpause", "kill", "die", "stop", "start", "rename", "kill", "die", "destroy"];
    assert_eq!(actions, expected);
}

/// Paths of all fields, but of maps whose keys are data.
fn paths(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    const MAPS: [&str; 7] = ["Labels", "Ports", "PortBindings", "ExposedPorts", "Networks", "Data", "Runtimes"];
    if let Value::Object(fields) = value {
        for (name, field) in fields {
            let path = format!("{at}/{name}");
            if !MAPS.contains(&name.as_str()) {
                paths(field, &path, found);
            }
            found.insert(path);
        }
    }
}

/// Fields of a daemon of the recorded version are just those that the simulation answers with.
async fn descriptions_have_the_recorded_shape(s: &Subject<'_>) {
    if s.get("/version").await.1["ApiVersion"] != "1.41" {
        return;
    }
    let id = s.make("shape", &[]).await;
    assert_eq!(s.post(&format!("/containers/{id}/start")).await, 204);
    let fields = |value: &Value| {
        let mut found = BTreeSet::new();
        paths(value, "", &mut found);
        found
    };
    let recorded: Value = serde_json::from_str(include_str!("sim_engine/wire/recorded/inspect.json")).expect("JSON");
    let told = s.get(&format!("/containers/{id}/json")).await.1;
    assert_eq!(fields(&told), fields(&recorded), "of a container");
    let (told, recorded) = (told.to_string().len(), 4500..7000);
    assert!(recorded.contains(&told), "a description has {told} bytes");
    let endpoint = s.get(&format!("/containers/{id}/json")).await.1["NetworkSettings"]["Networks"][NETWORK].clone();
    assert_eq!(fields(&endpoint).len(), 13, "of an endpoint: {endpoint}");

    let (_, listed) = s.get("/containers/json?all=1").await;
    let own = listed.as_array().expect("a list").iter().find(|c| c["Id"] == *id).expect("itself").clone();
    let recorded: Value = serde_json::from_str(include_str!("sim_engine/wire/recorded/listed.json")).expect("JSON");
    assert_eq!(fields(&own), fields(&recorded), "of a line of a listing");
    assert!((600..1200).contains(&own.to_string().len()), "a line of a listing has {} bytes", own.to_string().len());
    let recorded: Value = serde_json::from_str(include_str!("sim_engine/wire/recorded/info.json")).expect("JSON");
    let (recorded, told) = (fields(&recorded), fields(&s.get("/info").await.1));
    assert_eq!(told, recorded, "of the daemon");
    assert_eq!(s.delete(&format!("/containers/{id}?force=1")).await, 204);
}
