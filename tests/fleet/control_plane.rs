//! The real program, `portreeve serve`, in a process of its own with a data directory of its own, against the fleet's
//! first daemon. Tests speak to it as users do: by the command line, and through the proxy.
//!
//! Tests share the daemon, so each takes names and a range of host ports that no other takes. What fails shows the
//! object, its events and what the server said. At the end, instances are deleted through the program, the server is
//! killed, and whatever is left under the instances' names is removed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use portreeve::clock::{SharedClock, SystemClock};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::daemon::{self, Daemon};
use crate::engine::variable;
use crate::http::{self, Answer};

/// Bound on everything that a test waits for: two cores may build, test and run three daemons at once.
pub const PATIENCE: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(100);

pub struct ControlPlane {
    pub daemon: Daemon,
    dir: TempDir,
    child: Option<Child>,
    api: u16,
    pub proxy: u16,
    ports: String,
    /// What the server logs, as RUST_LOG says it.
    filter: &'static str,
    /// Instances that were applied, to be cleaned up.
    names: Vec<String>,
}

/// Time since some moment.
pub fn now() -> Duration {
    static CLOCK: OnceLock<SharedClock> = OnceLock::new();
    CLOCK.get_or_init(SystemClock::new).monotonic()
}

/// Tries until it is so.
pub fn within<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let end = now() + limit;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(why) if now() > end => return Err(format!("not within {limit:?}: {why}")),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// Tests share daemons, where a second container of a name, or on a port, is refused: a test that takes what another has
/// taken fails, whether they meet or not.
#[track_caller]
fn take(what: String) {
    static TAKEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(!taken.contains(&what), "another test has {what} too");
    taken.insert(what);
}

/// A port that nobody listens on, below those that the kernel gives to clients: it is still free after a restart.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(131);
    loop {
        let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let port = 20_000 + u16::try_from(number).expect("below 10000");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The least instance: the test app on its port, small.
pub fn instance(name: &str) -> Value {
    json!({
        "apiVersion": "portreeve.dev/v1",
        "kind": "Instance",
        "metadata": {"name": name},
        "spec": {
            "image": variable("PORTREEVE_TEST_IMAGE"),
            "imagePullPolicy": "IfNotPresent",
            "ports": [{"name": "http", "containerPort": 8080}],
            "resources": {"memory": "32Mi", "cpu": "500m"},
            "probes": {"startup": {"http": {"port": "http", "path": "/health"}, "timeout": "30s"}},
        },
    })
}

/// The same with more or other fields in its spec.
pub fn instance_with(name: &str, spec: &Value) -> Value {
    let mut manifest = instance(name);
    for (field, value) in spec.as_object().expect("fields") {
        manifest["spec"][field] = value.clone();
    }
    manifest
}

pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

/// Whether the status speaks of the spec as it is now.
fn current(object: &Value) -> bool {
    object["status"]["observedGeneration"] == object["metadata"]["generation"]
}

pub fn serves(object: &Value) -> bool {
    current(object) && object["status"]["phase"] == "Running" && condition(object, "Ready")["status"] == "True"
}

/// Whether it is in this phase for this reason.
pub fn is(object: &Value, phase: &str, reason: &str) -> bool {
    current(object) && object["status"]["phase"] == phase && condition(object, "Ready")["reason"] == reason
}

impl ControlPlane {
    /// With twenty host ports from `first_port` on.
    pub fn start(first_port: u16) -> ControlPlane {
        ControlPlane::start_logging(first_port, "info,portreeve::controllers=debug")
    }

    /// The same with another choice of what is logged.
    pub fn start_logging(first_port: u16, filter: &'static str) -> ControlPlane {
        take(format!("host ports from {first_port} on"));
        let mut plane = ControlPlane {
            daemon: daemon::first(),
            dir: tempfile::tempdir().expect("a directory"),
            child: None,
            api: free_port(),
            proxy: free_port(),
            ports: format!("{first_port}-{}", first_port + 19),
            filter,
            names: vec![],
        };
        plane.serve();
        plane
    }

    /// Starts the server, and waits until it serves and knows its daemon.
    pub fn serve(&mut self) {
        let data = self.data();
        fs::create_dir_all(&data).expect("the data directory");
        let log = File::options().create(true).append(true).open(self.log()).expect("the log");
        let mut command = self.command();
        command.arg("serve").arg("--data-dir").arg(&data);
        command.args(["--api-listen", &format!("127.0.0.1:{}", self.api)]);
        command.args(["--proxy-listen", &format!("127.0.0.1:{}", self.proxy)]);
        command.args(["--domain", "test.example", "--docker", &self.daemon.endpoint()]);
        command.args(["--docker-address", &self.daemon.address, "--port-range", &self.ports]);
        command.env("RUST_LOG", self.filter);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log")).stderr(log);
        self.child = Some(command.spawn().expect("the program runs"));
        let ready = within(PATIENCE, || {
            if let Some(status) = self.child.as_mut().and_then(|c| c.try_wait().expect("a child")) {
                panic!("the server ended with {status}:\n{}", self.said());
            }
            if !self.kubeconfig().exists() {
                return Err("it has written no kubeconfig".into());
            }
            let host = self.get_kind("dockerhost", "local")?.ok_or("the daemon has no record")?;
            if condition(&host, "Ready")["status"] == "True" { Ok(()) } else { Err(format!("{host:#}")) }
        });
        ready.unwrap_or_else(|why| panic!("the server is not ready: {why}\n{}", self.said()));
    }

    /// The server's end without a word to anybody.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("a server");
        child.kill().expect("killed");
        child.wait().expect("ended");
    }

    /// A directory for what the test needs; the daemon sees it, too.
    pub fn directory(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("server")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data().join("admin.kubeconfig")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portreeve"));
        command.env("HOME", self.dir.path()).env("KUBECONFIG", self.kubeconfig()).env_remove("RUST_LOG");
        command
    }

    /// Runs the command line; its standard output, or its standard error when it fails.
    pub fn cli(&self, args: &[&str], input: &str) -> Result<String, String> {
        let mut command = self.command();
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program runs");
        // it may refuse before it reads
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        let output = child.wait_with_output().expect("output");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(format!("portreeve {}: {}: {}", args.join(" "), output.status, text(&output.stderr)))
        }
    }

    #[track_caller]
    pub fn apply(&mut self, manifest: &Value) {
        if manifest["kind"] == "Instance" {
            self.owns(manifest["metadata"]["name"].as_str().expect("a name"));
        }
        self.cli(&["apply", "-f", "-"], &manifest.to_string()).unwrap_or_else(|e| panic!("{e}"));
    }

    /// Cleans up this instance at the end.
    pub fn owns(&mut self, name: &str) {
        if !self.names.iter().any(|n| n == name) {
            take(format!("an instance {name}"));
            self.names.push(name.to_owned());
        }
    }

    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        self.cli(args, "").unwrap_or_else(|e| panic!("{e}"))
    }

    fn get_kind(&self, kind: &str, name: &str) -> Result<Option<Value>, String> {
        let text = self.cli(&["get", kind, name, "-o", "json", "--ignore-not-found"], "")?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        serde_json::from_str(&text).map(Some).map_err(|e| format!("{e}: {text}"))
    }

    #[track_caller]
    pub fn get(&self, name: &str) -> Value {
        self.get_kind("instance", name).unwrap_or_else(|e| panic!("{e}")).unwrap_or(Value::Null)
    }

    /// Waits until the instance is so; returns it.
    #[track_caller]
    pub fn until(&self, name: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
        let seen = within(PATIENCE, || {
            let object = self.get_kind("instance", name)?.unwrap_or(Value::Null);
            if so(&object) { Ok(object) } else { Err(format!("{:#}", object["status"])) }
        });
        seen.unwrap_or_else(|why| panic!("{name}: {what}: {why}\n{}", self.tale(name)))
    }

    #[track_caller]
    pub fn until_serves(&self, name: &str) -> Value {
        self.until(name, "it serves", serves)
    }

    /// Waits until the instance is in the phase for the reason; returns what it tells its user.
    #[track_caller]
    pub fn until_is(&self, name: &str, phase: &str, reason: &str) -> String {
        let object = self.until(name, &format!("{phase}, {reason}"), |o| is(o, phase, reason));
        condition(&object, "Ready")["message"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the instance has been so for some time on end: a daemon that many tests share may be out of reach for
    /// a while. For what does not come back by itself once it has ceased.
    #[track_caller]
    pub fn comes_to_stay(&self, name: &str, time: Duration, so: impl Fn(&Value) -> bool) {
        let mut since = None;
        let stayed = within(PATIENCE, || {
            let object = self.get_kind("instance", name)?.unwrap_or(Value::Null);
            if !so(&object) {
                since = None;
                return Err(format!("{:#}", object["status"]));
            }
            let at = now();
            let so_far = at - *since.get_or_insert(at);
            if so_far >= time { Ok(()) } else { Err(format!("so for {so_far:?} only")) }
        });
        stayed.unwrap_or_else(|why| self.fail(name, &why));
    }

    /// Every state of every instance from now on.
    pub fn watch(&self) -> Watch {
        let mut command = self.command();
        command.args(["get", "inst", "-w", "-o", "json"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program runs");
        let out = child.stdout.take().expect("a pipe");
        let seen: Arc<Mutex<Vec<Value>>> = Arc::default();
        let list = seen.clone();
        let reader = std::thread::spawn(move || {
            for object in serde_json::Deserializer::from_reader(BufReader::new(out)).into_iter().map_while(Result::ok) {
                list.lock().expect("no panic while held").push(object);
            }
        });
        Watch { child, seen, reader: Some(reader) }
    }

    /// The events about an instance.
    #[track_caller]
    pub fn events(&self, name: &str) -> Vec<Value> {
        let list: Value = serde_json::from_str(&self.run(&["get", "events", "-o", "json"])).expect("JSON");
        let events = list["items"].as_array().expect("a list").iter();
        events.filter(|e| e["involvedObject"]["name"] == name).cloned().collect()
    }

    /// Fails, with all that is known about the instance.
    #[track_caller]
    pub fn fail(&self, name: &str, why: &str) -> ! {
        panic!("{name}: {why}\n{}", self.tale(name))
    }

    /// What is known about an instance.
    fn tale(&self, name: &str) -> String {
        let events = self.cli(&["get", "events"], "").unwrap_or_else(|e| e);
        format!("object: {:#}\nevents:\n{events}\nserver:\n{}", self.get(name), self.said())
    }

    /// The end of the server's log.
    fn said(&self) -> String {
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// A connection to the proxy.
    pub fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.proxy))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// The host name of an instance.
    pub fn host(name: &str) -> String {
        format!("{name}.test.example")
    }

    /// A request of a browser.
    pub fn request(&self, method: &str, name: &str, path: &str, body: &str) -> Result<Answer, String> {
        let mut stream = self.connect().map_err(|e| e.to_string())?;
        http::exchange(&mut stream, method, path, &ControlPlane::host(name), false, body.as_bytes())
            .map_err(|e| format!("{method} {path}: {e}"))
    }

    /// A browser's request, and its reload where the start took longer than a request is held.
    #[track_caller]
    pub fn page(&self, name: &str, path: &str) -> Answer {
        let answer = within(PATIENCE, || match self.request("GET", name, path, "") {
            // It took longer than a request is held, or its host was out of reach for a moment.
            Ok(held) if held.status == 504 || held.text().starts_with("Still starting") => Err(held.text()),
            answer => Ok(answer),
        });
        let answer = answer.flatten().unwrap_or_else(|e| panic!("{e}\n{}", self.tale(name)));
        assert_eq!(answer.status, 200, "{path}: {}\n{}", answer.text(), self.tale(name));
        answer
    }

    #[track_caller]
    pub fn append(&self, name: &str, file: &str, text: &str) {
        let answer = self.request("POST", name, &format!("/data/{file}"), text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

/// A `get -w` under way.
pub struct Watch {
    child: Child,
    seen: Arc<Mutex<Vec<Value>>>,
    reader: Option<JoinHandle<()>>,
}

impl Watch {
    /// Waits until it has shown the instance: what happens from now on is in what it has seen.
    #[track_caller]
    pub fn begun(self, name: &str) -> Self {
        let shown = within(PATIENCE, || {
            let all = self.seen.lock().expect("no panic while held");
            if all.iter().any(|o| o["metadata"]["name"] == name) { Ok(()) } else { Err(format!("{all:#?}")) }
        });
        shown.unwrap_or_else(|why| panic!("the watch shows not that there is {name}: {why}"));
        self
    }

    /// What it has shown of an instance so far, up to a state that serves the latest spec: shown a little after it is so.
    #[track_caller]
    pub fn seen(&self, name: &str) -> Vec<Value> {
        let done = within(PATIENCE, || {
            let all = self.seen.lock().expect("no panic while held").clone();
            let of: Vec<Value> = all.into_iter().filter(|o| o["metadata"]["name"] == name).collect();
            if of.last().is_some_and(serves) { Ok(of) } else { Err(format!("{of:#?}")) }
        });
        done.unwrap_or_else(|why| panic!("the watch shows not that {name} serves: {why}"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if self.child.is_some() && !std::thread::panicking() {
            let _ = self.cli(&["delete", "inst", "--all", "--timeout", "30s"], "");
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in &self.names {
            self.daemon.sweep(name);
        }
    }
}
