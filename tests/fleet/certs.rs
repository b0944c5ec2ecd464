//! A real daemon that is configured by the worker's script alone: added to the fleet, and kept through renewals of its
//! certificates, whichever side comes first.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, PATIENCE, condition, free_port, within};

/// A worker: a directory in place of its root, and a dockerd that reads its configuration there.
struct Worker {
    root: PathBuf,
    child: Option<Child>,
}

impl Worker {
    /// What is in the script takes effect with the next start. It runs as on a machine with systemd, except for the
    /// socket that systemd would hand over.
    fn install(&self, script: &Path) {
        fs::create_dir_all(&self.root).expect("made");
        let out = Command::new("sh").arg(script).env("DESTDIR", &self.root).output().expect("a shell");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let path = self.root.join("etc/docker/daemon.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).expect("the configuration")).expect("JSON");
        assert_eq!(config["hosts"][0], "fd://");
        config["hosts"][0] = json!(format!("unix://{}", self.root.join("docker.sock").display()));
        fs::write(&path, config.to_string()).expect("written");
    }

    fn start(&mut self) {
        let at = |name: &str| self.root.join(name).display().to_string();
        let log = fs::File::options().create(true).append(true).open(self.root.join("log")).expect("a log");
        // Its own /etc/docker, and nothing of this machine's network.
        let script = "mount --bind \"$0/etc/docker\" /etc/docker && exec dockerd \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(&self.root);
        command.args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")]);
        command.args(["--bridge", "none", "--iptables=false", "--ip6tables=false", "--storage-driver", "vfs"]);
        // Of a containerd that takes long to end, dockerd asks for its stacks, which it writes there.
        command.env("TMPDIR", &self.root);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        // SAFETY: a system call; nothing is allocated between fork and exec.
        unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::TERM))?)) };
        self.child = Some(command.spawn().expect("dockerd runs"));
    }

    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // A kill would leave its containerd behind.
        let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        if within(PATIENCE, || child.try_wait().expect("a child").ok_or_else(String::new)).is_err() {
            let _ = child.kill();
        }
        let _ = child.wait();
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.root.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// A worker that its script has made one, its certificates in `certs`; and where its daemon listens.
fn installed(plane: &ControlPlane, certs: &Path, script: &Path) -> (Worker, String) {
    let mut worker = Worker { root: plane.directory().join("worker"), child: None };
    let port = free_port().to_string();
    let wanted = ["host", "certs", "worker", "--ip", "127.0.0.1", "--port", &port, "-o", &text(script)];
    plane.run(&[&wanted, &["--certs-dir", &text(certs)][..]].concat());
    worker.install(script);
    worker.start();
    (worker, format!("tcp://127.0.0.1:{port}"))
}

fn host(plane: &ControlPlane) -> Value {
    serde_json::from_str(&plane.run(&["get", "dh", "worker", "-o", "json"])).expect("JSON")
}

/// Waits until the control plane finds the daemon so, over a connection that it made after the restart.
fn until_ready(plane: &ControlPlane, worker: &Worker, ready: &str) -> Value {
    let seen = within(PATIENCE, || {
        let host = host(plane);
        if condition(&host, "Ready")["status"] == ready { Ok(host) } else { Err(format!("{host:#}")) }
    });
    seen.unwrap_or_else(|why| panic!("the worker is not Ready={ready}: {why}\n{}", worker.log()))
}

fn restart(plane: &ControlPlane, worker: &mut Worker) -> Value {
    worker.stop();
    until_ready(plane, worker, "False");
    worker.start();
    until_ready(plane, worker, "True")
}

#[test]
fn a_worker_is_kept_by_a_secret_that_is_taken_away_and_replaced_while_it_runs() {
    let plane = ControlPlane::start(31_940);
    let dir = plane.directory();
    let (certs, script) = (dir.join("hosts"), dir.join("install.sh"));
    let (mut worker, endpoint) = installed(&plane, &certs, &script);
    let made = ["--certs-dir", &text(&certs)];
    let added = ["host", "add", "worker", "--endpoint", &endpoint, "--secret", "worker-tls"];
    let told = plane.cli(&[&added, &made[..]].concat(), "").unwrap_or_else(|e| panic!("{e}\n{}", worker.log()));
    assert!(told.starts_with("secret/worker-tls in portreeve-system filled\n"), "{told}");
    assert!(told.contains("ok TLS: the certificates are good until "), "{told}");
    let seen = host(&plane);
    assert_eq!(seen["spec"]["tls"], json!({"secret": "worker-tls"}));
    // the control plane has no directory
    let aside = dir.join("aside");
    fs::rename(&certs, &aside).expect("moved");

    let gone = "there is no Secret portreeve-system/worker-tls";
    plane.run(&["delete", "secret", "worker-tls", "-n", "portreeve-system"]);
    let seen = within(PATIENCE, || {
        let host = host(&plane);
        if condition(&host, "TLSValid")["status"] == "False" { Ok(host) } else { Err(format!("{host:#}")) }
    });
    let seen = seen.unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(condition(&seen, "TLSValid")["reason"], "CredentialsInvalid");
    assert_eq!(condition(&seen, "TLSValid")["message"], gone);
    worker.stop();
    until_ready(&plane, &worker, "False");
    worker.start();
    let seen = within(PATIENCE, || {
        let host = host(&plane);
        if condition(&host, "Ready")["reason"] == "CredentialsInvalid" { Ok(host) } else { Err(format!("{host:#}")) }
    });
    assert_eq!(condition(&seen.unwrap_or_else(|why| panic!("{why}")), "Ready")["message"], gone);

    // another pair on both sides, with no file of it where the control plane looks
    let before = fs::read(aside.join("worker/cert.pem")).expect("a certificate");
    let rotated = plane.run(&["host", "rotate", "worker", "--secret", "--certs-dir", &text(&aside)]);
    assert_ne!(fs::read(aside.join("worker/cert.pem")).expect("a certificate"), before);
    let seen = until_ready(&plane, &worker, "True");
    assert_eq!(condition(&seen, "TLSValid")["status"], "True", "{seen:#}");
    fs::write(&script, rotated).expect("written");
    worker.install(&script);
    restart(&plane, &mut worker);
    let key = fs::read_to_string(aside.join("worker/key.pem")).expect("a key");
    let log = fs::read_to_string(plane.log()).expect("the server's log");
    assert!(!log.contains(key.lines().nth(1).expect("a line of the key")), "the key is in the log");
    plane.run(&["delete", "dh", "worker"]);
}

#[test]
fn a_worker_is_added_by_its_script_and_kept_while_its_certificates_are_replaced() {
    let plane = ControlPlane::start(31_860);
    let dir = plane.directory();
    let (certs, script) = (dir.join("hosts"), dir.join("install.sh"));
    let own = |name: &str| certs.join("worker").join(name);
    let (mut worker, endpoint) = installed(&plane, &certs, &script);
    let made = ["--certs-dir", &text(&certs)];
    let added = ["host", "add", "worker", "--endpoint", &endpoint, "--certs-dir", &text(&certs), "--label", "zone=a"];
    let told = plane.cli(&added, "").unwrap_or_else(|e| panic!("{e}\n{}", worker.log()));
    for check in
        ["created", "ok TLS: the certificates are good until ", "ok daemon: Docker ", "ok identity: ", "ok capacity: "]
    {
        assert!(told.contains(check), "no {check:?}: {told}");
    }
    let seen = host(&plane);
    assert_eq!(condition(&seen, "TLSValid")["status"], "True", "{seen:#}");
    assert_eq!(seen["metadata"]["labels"]["zone"], "a");
    let again = plane.cli(&added, "").expect_err("it is there");
    assert!(again.contains("already exists"), "{again}");

    // from the same CA, and from another: each time before the worker follows, and after
    for other_ca in [false, true] {
        let before = fs::read(own("cert.pem")).expect("a certificate");
        if other_ca {
            plane.run(&[&["host", "rotate", "--all", "--ca"], &made[..]].concat());
            fs::copy(own("install.sh"), &script).expect("copied");
            // It only knows the signer of the one before.
            restart(&plane, &mut worker);
        } else {
            fs::write(&script, plane.run(&[&["host", "rotate", "worker"], &made[..]].concat())).expect("written");
        }
        assert_ne!(fs::read(own("cert.pem")).expect("a certificate"), before);
        assert_eq!(fs::read(own("previous-cert.pem")).expect("a certificate"), before);
        worker.install(&script);
        if other_ca {
            let refused = plane.cli(&[&["host", "rotate", "--all", "--ca"], &made[..]].concat(), "");
            assert!(refused.expect_err("it may not have followed").contains("--drop-previous"));
        }
        // The new one alone opens it now.
        for name in ["previous-cert.pem", "previous-key.pem"] {
            fs::remove_file(own(name)).expect("removed");
        }
        let seen = restart(&plane, &mut worker);
        assert_eq!(seen["status"]["daemonID"], host(&plane)["status"]["daemonID"]);
    }
    plane.run(&["delete", "dh", "worker"]);
}
