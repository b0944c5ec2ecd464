//! A host of the fleet as its owner sees it, behind the program's back: the daemon's API over its socket, and the
//! faults that `xtask fleet` can make. Faults are for h2 and h4 only, and for one test at a time on each: [`second`].

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Condvar, Mutex, PoisonError};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::control_plane::{PATIENCE, within};
use crate::engine::variable;
use crate::http;

pub struct Daemon {
    pub socket: PathBuf,
    /// Where it publishes ports.
    pub address: String,
}

/// The host that tests share, and must not harm.
pub fn first() -> Daemon {
    let endpoint = variable("PORTREEVE_TEST_DOCKER");
    let socket = endpoint.strip_prefix("unix://").expect("the daemon's socket").into();
    Daemon { socket, address: variable("PORTREEVE_TEST_ADDRESS") }
}

/// A host for faults, alone, while the guard lives. Whole and clean again afterwards. In every test its record is h2.
pub struct Second {
    pub daemon: Daemon,
    fleet: String,
    /// Its name in the fleet.
    name: String,
    dir: PathBuf,
    /// Its daemon's address on the network, and the directory of the certificates for it.
    tcp: (String, String),
    /// The instances that a test places there.
    names: Vec<String>,
    /// Given back last.
    _alone: Alone,
}

/// The hosts for faults, by their place in the fleet's file: h2, whose disk can be full, and h4 where there is one.
const FOR_FAULTS: [usize; 2] = [1, 3];
static LENT: (Mutex<Vec<usize>>, Condvar) = (Mutex::new(vec![]), Condvar::new());

struct Alone(usize);

impl Alone {
    /// The first of these that nobody has.
    fn with(any: &[usize]) -> Alone {
        let (lent, returned) = &LENT;
        let mut lent = lent.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(free) = any.iter().find(|host| !lent.contains(host)) {
                lent.push(*free);
                return Alone(*free);
            }
            lent = returned.wait(lent).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let (lent, returned) = &LENT;
        lent.lock().unwrap_or_else(PoisonError::into_inner).retain(|host| *host != self.0);
        returned.notify_all();
    }
}

pub fn second(names: &[&str]) -> Second {
    // The other one first: one test can use h2 alone.
    let [with_disk, other] = FOR_FAULTS;
    lend(&[other, with_disk], names)
}

/// The one whose disk can be full.
pub fn second_with_disk(names: &[&str]) -> Second {
    lend(&FOR_FAULTS[..1], names)
}

fn lend(any: &[usize], names: &[&str]) -> Second {
    let text = std::fs::read_to_string(variable("PORTREEVE_TEST_FLEET")).expect("the fleet's file");
    let fleet: Value = serde_json::from_str(&text).expect("JSON");
    let there: Vec<usize> = any.iter().copied().filter(|host| fleet["hosts"].get(host).is_some()).collect();
    let alone = Alone::with(&there);
    let host = &fleet["hosts"][alone.0];
    let string = |v: &Value| v.as_str().expect("a string").to_owned();
    let daemon = Daemon { socket: string(&host["socket"]).into(), address: string(&host["address"]) };
    let names = names.iter().map(|&n| n.to_owned()).collect();
    let tcp = (string(&host["tcp"]), string(&fleet["certs"]));
    let (fleet, name) = (string(&fleet["name"]), string(&host["name"]));
    Second { daemon, fleet, name, dir: string(&host["dir"]).into(), tcp, names, _alone: alone }
}

/// The host that is spoken to as a remote one; what is done there harms nobody.
pub struct Third {
    pub daemon: Daemon,
    dir: PathBuf,
    names: Vec<String>,
}

/// `names`: the instances that a test places there.
pub fn third(names: &[&str]) -> Third {
    let text = std::fs::read_to_string(variable("PORTREEVE_TEST_FLEET")).expect("the fleet's file");
    let fleet: Value = serde_json::from_str(&text).expect("JSON");
    let host = &fleet["hosts"][2];
    let string = |v: &Value| v.as_str().expect("a fleet of three hosts").to_owned();
    let daemon = Daemon { socket: string(&host["socket"]).into(), address: string(&host["address"]) };
    Third { daemon, dir: string(&host["dir"]).into(), names: names.iter().map(|&n| n.to_owned()).collect() }
}

impl Third {
    /// Of its first process, which is in its namespaces.
    pub fn pid(&self) -> u64 {
        first_process(&self.dir)
    }
}

impl Drop for Third {
    fn drop(&mut self) {
        for name in &self.names {
            self.daemon.sweep(name);
        }
    }
}

fn first_process(dir: &Path) -> u64 {
    let text = std::fs::read_to_string(dir.join("init.pid")).expect("the host's first process");
    let process: Value = serde_json::from_str(&text).expect("JSON");
    process["pid"].as_u64().expect("a pid")
}

impl Second {
    /// Its record.
    pub fn record(&self, ports: &str) -> Value {
        let spec = json!({"endpoint": self.daemon.endpoint(), "address": self.daemon.address, "portRange": ports});
        json!({"apiVersion": "portreeve.dev/v1", "kind": "DockerHost", "metadata": {"name": "h2"}, "spec": spec})
    }

    /// Its record, with its daemon reached over the network, which can be cut.
    pub fn record_over_tls(&self, ports: &str) -> Value {
        let mut record = self.record(ports);
        record["spec"]["endpoint"] = json!(self.tcp.0);
        record["spec"]["tls"] = json!({"directory": self.tcp.1});
        record
    }

    /// Of its first process, which is in its namespaces.
    pub fn pid(&self) -> u64 {
        first_process(&self.dir)
    }

    /// Its daemon's address on the network.
    pub fn network_address(&self) -> SocketAddr {
        let (_, address) = self.tcp.0.split_once("://").expect("a URL");
        address.parse().expect("an address and a port")
    }

    /// Listens on a free port of the host's own address, for which its certificate is good.
    pub fn listen(&self) -> TcpListener {
        let namespace = File::open(format!("/proc/{}/ns/net", self.pid())).expect("the host's network");
        let ip = self.network_address().ip();
        // A thread that ends takes the namespace along; the socket stays where it was made.
        let listening = std::thread::spawn(move || {
            let entered = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            entered.map(|()| TcpListener::bind((ip, 0)).expect("a free port"))
        });
        listening.join().expect("no panic").expect("the host's network")
    }

    /// `kill`, `start`, `pause`, `resume`, `partition`, `heal`, `disk-full`, `disk-free`, …
    #[track_caller]
    pub fn fault(&self, verb: &str) {
        let done = self.act(verb);
        assert!(done.status.success(), "fleet {verb} {}: {}", self.name, String::from_utf8_lossy(&done.stderr));
    }

    fn act(&self, verb: &str) -> std::process::Output {
        let mut command = Command::new(variable("PORTREEVE_XTASK"));
        command.args(["fleet", verb, &self.name, "--name", &self.fleet]).output().expect("xtask runs")
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // whichever fault it was; the cures of the others are refused, which is fine
            for cure in ["poweron", "resume", "start", "disk-free", "heal"] {
                let _ = self.act(cure);
            }
        }
        for name in &self.names {
            self.daemon.sweep(name);
        }
    }
}

impl Daemon {
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<http::Answer> {
        self.exchange(method, path, true, body.map(Value::to_string).unwrap_or_default().as_bytes())
    }

    fn exchange(&self, method: &str, path: &str, json: bool, body: &[u8]) -> std::io::Result<http::Answer> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        http::exchange(&mut stream, method, &format!("/v1.41{path}"), "docker", json, body)
    }

    /// A success, whose end may be told only in the stream of its progress.
    #[track_caller]
    fn transfer(&self, method: &str, path: &str, json: bool, body: &[u8]) -> Vec<u8> {
        self.try_transfer(method, path, json, body).unwrap_or_else(|why| panic!("{why}"))
    }

    fn try_transfer(&self, method: &str, path: &str, json: bool, body: &[u8]) -> Result<Vec<u8>, String> {
        let answer = self.exchange(method, path, json, body).map_err(|e| format!("{method} {path}: {e}"))?;
        let failed = answer.status >= 400 || (method == "POST" && answer.text().contains("\"errorDetail\""));
        if failed { Err(format!("{method} {path}: {} {}", answer.status, answer.text())) } else { Ok(answer.body) }
    }

    #[track_caller]
    pub fn push(&self, repository: &str, tag: &str) {
        let path = format!("/images/{repository}/push?tag={tag}");
        // it wants to know who we are; and its way to the registry may have been cut off a moment ago
        let pushed = within(PATIENCE, || self.try_transfer("POST", &path, true, b"{}"));
        pushed.unwrap_or_else(|why| panic!("{why}"));
    }

    /// An image as an archive, by the name that it will have where it is loaded.
    #[track_caller]
    pub fn save(&self, image: &str) -> Vec<u8> {
        self.transfer("GET", &format!("/images/{image}/get"), true, b"")
    }

    #[track_caller]
    pub fn load(&self, archive: &[u8]) {
        self.transfer("POST", "/images/load?quiet=1", false, archive);
    }

    /// Puts a file into a container's root.
    #[track_caller]
    pub fn copy_in(&self, container: &str, file: &str, content: &[u8]) {
        self.transfer("PUT", &format!("/containers/{container}/archive?path=/"), false, &tar(file, content));
    }

    /// An answer that is a success, as JSON; null without a body.
    #[track_caller]
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.ask(method, path, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        assert!(answer.status < 400, "{method} {path}: {} {}", answer.status, answer.text());
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.call("GET", path, None)
    }

    /// Does something to a container: `kill`, `stop?t=1`, `rename?name=x`.
    #[track_caller]
    pub fn act(&self, container: &str, what: &str) {
        self.call("POST", &format!("/containers/{container}/{what}"), None);
    }

    /// The containers of an instance, whatever their state.
    pub fn containers(&self, instance: &str) -> Vec<Value> {
        let list = self.get(&format!("/containers/json?all=1&filters={}", of(instance)));
        list.as_array().expect("a list").clone()
    }

    /// Its only container.
    #[track_caller]
    pub fn container(&self, instance: &str) -> Value {
        let all = self.containers(instance);
        assert_eq!(all.len(), 1, "containers of {instance}: {all:#?}");
        self.get(&format!("/containers/{}/json", all[0]["Id"].as_str().expect("an id")))
    }

    pub fn networks(&self, instance: &str) -> Vec<Value> {
        self.get(&format!("/networks?filters={}", of(instance))).as_array().expect("a list").clone()
    }

    /// Names.
    pub fn volumes(&self, instance: &str) -> Vec<String> {
        let list = self.get(&format!("/volumes?filters={}", of(instance)));
        let volumes = list["Volumes"].as_array().into_iter().flatten();
        volumes.map(|v| v["Name"].as_str().expect("a name").to_owned()).collect()
    }

    /// A container that is not ours and holds a port, while it lives.
    pub fn squatter(&self, name: &str, port: u16) -> Squatter<'_> {
        self.remove(&format!("/containers/{name}?force=1"));
        let spec = json!({
            "Image": variable("PORTREEVE_TEST_IMAGE"),
            "ExposedPorts": {"8080/tcp": {}},
            "HostConfig": {"PortBindings": {"8080/tcp": [{"HostIp": self.address, "HostPort": port.to_string()}]}},
        });
        self.call("POST", &format!("/containers/create?name={name}"), Some(&spec));
        let squatter = Squatter { daemon: self, name: name.to_owned() };
        self.act(name, "start");
        squatter
    }

    /// Another name of an image, while it lives.
    pub fn tag(&self, image: &str, repository: &str) -> Tag<'_> {
        self.call("POST", &format!("/images/{image}/tag?repo={repository}&tag=1"), None);
        Tag { daemon: self, reference: format!("{repository}:1") }
    }

    /// Removes all that an instance left; what is gone or out of reach is left.
    pub fn sweep(&self, instance: &str) {
        let ids = |path: &str, list: &str, field: &str| -> Vec<String> {
            let Ok(answer) = self.ask("GET", &format!("{path}filters={}", of(instance)), None) else { return vec![] };
            let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let list = if list.is_empty() { &json } else { &json[list] };
            list.as_array().into_iter().flatten().filter_map(|o| o[field].as_str()).map(str::to_owned).collect()
        };
        for id in ids("/containers/json?all=1&", "", "Id") {
            self.remove(&format!("/containers/{id}?force=1&v=1"));
        }
        for id in ids("/networks?", "", "Id") {
            self.remove(&format!("/networks/{id}"));
        }
        for name in ids("/volumes?", "Volumes", "Name") {
            self.remove(&format!("/volumes/{name}"));
        }
    }

    /// Takes a name of an image away, and the image with its last one.
    pub fn untag(&self, reference: &str) {
        self.remove(&format!("/images/{reference}?force=1"));
    }

    fn remove(&self, path: &str) {
        let _ = self.ask("DELETE", path, None);
    }
}

/// The filter for what is an instance's, percent-encoded. The conformance of the engine is tried on the same
/// daemon, with names of its own choice in a namespace of its own.
fn of(instance: &str) -> String {
    let labels = [format!("portreeve.dev/name={instance}"), "portreeve.dev/namespace=default".to_owned()];
    let text = json!({"label": labels}).to_string();
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

/// An archive of one file.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", content.len()));
    put(136, "00000000000");
    // the checksum counts its own field as blanks
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = [&header, content].concat();
    // the last block is filled up, and two empty ones follow
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

pub struct Squatter<'a> {
    daemon: &'a Daemon,
    name: String,
}

impl Drop for Squatter<'_> {
    fn drop(&mut self) {
        self.daemon.remove(&format!("/containers/{}?force=1&v=1", self.name));
    }
}

pub struct Tag<'a> {
    daemon: &'a Daemon,
    reference: String,
}

impl Drop for Tag<'_> {
    fn drop(&mut self) {
        self.daemon.remove(&format!("/images/{}?noprune=1&force=1", self.reference));
    }
}
