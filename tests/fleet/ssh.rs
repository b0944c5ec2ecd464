//! A host that is reached by ssh: a real sshd in the network namespace of the fleet's third host, with keys of its own.
//! Its `DOCKER_HOST` is that host's daemon, as the docker command there finds its own.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use futures::StreamExt;
use portreeve::clock::SystemClock;
use portreeve::docker::Pool;
use portreeve::docker::engine::{Engine, EngineErrorKind};
use portreeve::model::{DockerHost, HostSsh};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::control_plane::{ControlPlane, PATIENCE, condition, instance_with, now, within};
use crate::daemon::{Daemon, Second, second, third};
use crate::engine::engine_conformance::{self, Subject};
use crate::engine::{APP, variable};

/// Of every sshd here: each host has addresses of its own, and each test a port.
struct Sshd {
    dir: PathBuf,
    address: String,
    port: u16,
    socket: PathBuf,
    /// Of the host's first process, which is in its network namespace.
    pid: u64,
    child: Option<Child>,
}

fn tool(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
}

impl Sshd {
    /// Makes keys for a client and for the host, and starts it.
    fn start(dir: &Path, daemon: &Daemon, pid: u64, port: u16) -> Sshd {
        fs::create_dir_all(dir).expect("a directory");
        let at = |name: &str| dir.join(name).to_str().expect("UTF-8").to_owned();
        for key in ["id", "host", "other-host"] {
            tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", key, "-f", &at(key)]);
        }
        fs::write(dir.join("shadow"), "root:*:19000:0:99999:7:::\nsshd:!:19000::::::\n").expect("written");
        // What this machine's root has its shell do at each login is no part of the test.
        let accounts =
            format!("root:x:0:0::{}:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n", dir.display());
        fs::write(dir.join("passwd"), accounts).expect("written");
        let (address, socket) = (daemon.address.clone(), daemon.socket.clone());
        let mut sshd = Sshd { dir: dir.to_owned(), address, port, socket, pid, child: None };
        sshd.serve("host");
        sshd
    }

    /// Starts it with a host key.
    fn serve(&mut self, key: &str) {
        let at = |name: &str| self.dir.join(name).display().to_string();
        let config = format!(
            "ListenAddress {}:{}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
             PasswordAuthentication no\nPermitRootLogin prohibit-password\nSetEnv DOCKER_HOST=unix://{}\n",
            self.address,
            self.port,
            at(key),
            at("id.pub"),
            self.socket.display()
        );
        fs::write(self.dir.join("config"), config).expect("written");
        let log = fs::File::options().create(true).append(true).open(self.dir.join("log")).expect("a log");
        // Its own /run, and accounts that no distribution has locked; all that it starts ends with it.
        let script = "mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && mount --bind \"$0/shadow\" /etc/shadow && \
                      mount --bind \"$0/passwd\" /etc/passwd && exec \"$(command -v sshd)\" -D -e -f \"$0/config\"";
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid));
        command.args(["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]);
        command.args(["--mount-proc", "sh", "-c", script]).arg(&self.dir);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        // SAFETY: a system call; nothing is allocated between fork and exec.
        unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
        self.child = Some(command.spawn().expect("nsenter runs"));
        let up = within(PATIENCE, || {
            std::net::TcpStream::connect((self.address.as_str(), self.port)).map(drop).map_err(|e| e.to_string())
        });
        up.unwrap_or_else(|why| panic!("sshd: {why}\n{}", self.log()));
    }

    /// With every session.
    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn endpoint(&self) -> String {
        format!("ssh://root@{}:{}", self.address, self.port)
    }

    fn text(&self, file: &str) -> String {
        fs::read_to_string(self.dir.join(file)).expect("a file")
    }

    /// A line of known_hosts.
    fn known(&self, key: &str) -> String {
        format!("[{}]:{} {}", self.address, self.port, self.text(&format!("{key}.pub")))
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("sshd:\n{}", self.log());
        }
    }
}

/// What a Secret holds of type kubernetes.io/ssh-auth.
fn secret(sshd: &Sshd, known: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/ssh-auth",
        "metadata": {"name": "worker-ssh", "namespace": "portreeve-system"},
        "stringData": {"ssh-privatekey": sshd.text("id"), "known_hosts": known},
    })
}

/// Waits until the host is so for this reason; its message.
fn until_host(plane: &ControlPlane, ready: &str, reason: &str) -> String {
    let seen = within(PATIENCE, || {
        let text = plane.cli(&["get", "dh", "worker", "-o", "json"], "")?;
        let host: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
        let told = condition(&host, "Ready");
        if told["status"] == ready && told["reason"] == reason {
            Ok(told["message"].as_str().unwrap_or_default().to_owned())
        } else {
            Err(format!("{host:#}"))
        }
    });
    seen.unwrap_or_else(|why| panic!("the worker is not {ready}, {reason}: {why}"))
}

#[test]
fn a_host_is_added_by_ssh_serves_and_is_left_alone_under_another_key() {
    let third = third(&["by-ssh"]);
    let mut plane = ControlPlane::start(31_920);
    let mut sshd = Sshd::start(&plane.directory().join("sshd"), &third.daemon, third.pid(), 2201);
    let name = "by-ssh";
    let endpoint = sshd.endpoint();
    let added = ["host", "add", "worker", "--endpoint", &endpoint, "--secret", "worker-ssh", "--timeout", "20s"];
    let told = plane.cli(&added, "").expect_err("there is no Secret");
    assert!(told.contains("there is no Secret portreeve-system/worker-ssh"), "{told}");
    assert_eq!(until_host(&plane, "False", "CredentialsInvalid"), "there is no Secret portreeve-system/worker-ssh");

    // whoever answers there is nobody that we know
    plane.apply(&secret(&sshd, "elsewhere.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJJ1"));
    let why = until_host(&plane, "False", "LoginRefused");
    assert!(
        why.contains("is not known") && why.contains("the key known_hosts of Secret portreeve-system/worker-ssh"),
        "{why}"
    );
    assert!(!sshd.log().contains("Accepted publickey"), "{}", sshd.log());
    plane.apply(&secret(&sshd, &sshd.known("host")));
    let why = until_host(&plane, "True", "Connected");
    assert!(why.contains("Docker"), "{why}");
    let host: Value = serde_json::from_str(&plane.run(&["get", "dh", "worker", "-o", "json"])).expect("JSON");
    assert_eq!(host["spec"]["address"], Value::Null, "it is the endpoint's");

    plane.run(&["label", "dh", "worker", "way=ssh"]);
    let spec = json!({"power": "Running", "placement": {"nodeSelector": {"way": "ssh"}}});
    plane.apply(&instance_with(name, &spec));
    let object = plane.until_serves(name);
    assert_eq!(object["status"]["node"], "worker");
    let container = third.daemon.container(name)["Id"].clone();
    assert_eq!(object["status"]["containerID"], container);
    assert_eq!(plane.page(name, "/").field("version"), "1");
    assert!(plane.run(&["logs", name]).contains("starting version"));
    assert_eq!(plane.run(&["exec", name, "--", "/app", "echo", "a & b"]).trim_end(), "a & b");
    // the end of what goes in is not the end of what comes out
    let long = "0123456789abcdef\n".repeat(1 << 14);
    let back = plane.cli(&["exec", "-i", name, "--", "/app", "cat"], &long).unwrap_or_else(|e| panic!("{e}"));
    assert!(back == long, "{} of {} bytes came back", back.len(), long.len());

    // another machine, or someone in between: nothing is said to it
    let before = sshd.log().matches("Accepted publickey").count();
    sshd.stop();
    sshd.serve("other-host");
    let why = until_host(&plane, "False", "LoginRefused");
    assert!(why.contains("another host key than the known one is shown there, so nothing was sent"), "{why}");
    assert_eq!(sshd.log().matches("Accepted publickey").count(), before);
    assert_eq!(third.daemon.container(name)["Id"], container, "what runs there runs on");
    assert!(condition(&plane.get(name), "HostLost").is_null(), "it is nobody's absence");

    // renewed while it runs: the next connection takes it
    plane.apply(&secret(&sshd, &sshd.known("other-host")));
    until_host(&plane, "True", "Connected");
    assert_eq!(plane.until_serves(name)["status"]["containerID"], container);
    plane.page(name, "/");
    let log = fs::read_to_string(plane.log()).expect("the server's log");
    let key = sshd.text("id");
    let middle = key.lines().nth(2).expect("a line of the key");
    assert!(!log.contains(middle), "the key is in the log");
    plane.run(&["delete", "inst", name]);
    plane.run(&["delete", "dh", "worker"]);
}

/// The second host's engine by ssh, with files of this machine; what it needs lives as long as the sshd.
fn engine(second: &Second, dir: &Path, port: u16) -> (Arc<dyn Engine>, Sshd) {
    let sshd = Sshd::start(dir, &second.daemon, second.pid(), port);
    fs::write(dir.join("known"), sshd.known("host")).expect("written");
    let path = |name: &str| dir.join(name).to_str().expect("UTF-8").to_owned();
    let mut host = DockerHost::default();
    host.metadata.name = "by-ssh".to_owned();
    host.spec.endpoint = sshd.endpoint();
    host.spec.ssh = Some(HostSsh { identity_file: path("id"), known_hosts: path("known"), ..HostSsh::default() });
    (Pool::new(SystemClock::new()).engine(&host).unwrap_or_else(|e| panic!("{e}")), sshd)
}

#[tokio::test]
async fn a_real_daemon_conforms_by_ssh() {
    let second = second(&[]);
    let dir = TempDir::new().expect("a directory");
    let (engine, _sshd) = engine(&second, dir.path(), 2202);
    let image = variable("PORTREEVE_TEST_IMAGE");
    let subject = Subject {
        engine: engine.as_ref(),
        image: &image,
        app: APP,
        host_ip: &second.daemon.address,
        host_port: 38_519,
        bind: "/run/portreeve-conformance/bound",
        bad_bind: "/proc/portreeve-conformance",
    };
    engine_conformance::holds(&subject).await;
}

#[tokio::test]
async fn a_host_that_vanishes_is_noticed_by_its_stream_of_events() {
    let second = second(&[]);
    let dir = TempDir::new().expect("a directory");
    let (engine, _sshd) = engine(&second, dir.path(), 2203);
    let mut events = engine.events(("portreeve.dev/cluster", "nobody"), None).await.unwrap_or_else(|e| panic!("{e}"));
    second.fault("partition");
    let cut = now();
    let ended = tokio::time::timeout(PATIENCE, events.next()).await.expect("it ends").expect("with a word");
    let error = ended.expect_err("nobody is there to tell of anything");
    let noticed = now() - cut;
    second.fault("heal");
    eprintln!("by ssh: noticed after {noticed:.1?}: {error}");
    assert_eq!(error.kind, EngineErrorKind::Timeout, "{error}");
    assert!(error.message.contains("not responding"), "{error}");
}
