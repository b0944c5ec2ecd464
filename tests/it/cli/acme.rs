//! `portreeve serve --acme`, against a real ACME server: certificates by both kinds of challenge, kept over a restart, renewed
//! in time; and names that are refused.
//!
//! The daemon is simulated, with real listeners in place of apps.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use portreeve::clock::SystemClock;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixListener};

use super::serve::Served;
use super::*;
use crate::docker::app;
use crate::support::client::{Client, INSTANCES};
use crate::support::pebble::{self, BLOCKED, Pebble, Place};
use crate::support::sim_engine::SimEngine;
use crate::support::sim_engine::wire::Host;
use crate::support::sim_engine::wire::pace::Pace;
use crate::support::without;

const APP: &str = "portreeve/app:1";
/// A start of Pebble, and some orders, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(50);

/// A simulated daemon on a socket.
struct Daemon {
    socket: PathBuf,
    serving: tokio::task::JoinHandle<()>,
    _directory: TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn daemon() -> Daemon {
    let directory = home();
    let socket = directory.path().join("docker.sock");
    let sim = SimEngine::new("local", SystemClock::new(), 11);
    sim.add_image(APP, app());
    let host = Host::new(sim, Pace::None, true);
    let serving = tokio::spawn(host.serve(UnixListener::bind(&socket).expect("bind")));
    Daemon { socket, serving, _directory: directory }
}

/// A control plane that orders.
struct Plane {
    served: Served,
    home: TempDir,
    daemon: Daemon,
    plain: SocketAddr,
    secure: SocketAddr,
    client: Client,
}

/// A range of host ports that no other of these tests has.
async fn start(home: TempDir, daemon: Daemon, place_url: &str, flags: &[&str], ports: &str) -> Plane {
    let docker = format!("--docker=unix://{}", daemon.socket.display());
    let server = format!("--acme-server={place_url}");
    let range = format!("--port-range={ports}");
    let listen = ["serve", "--api-listen=127.0.0.1:0", "--proxy-listen=127.0.0.1:0", "--proxy-tls-listen=127.0.0.1:0"];
    let acme = ["--domain=example.com", "--https-redirect", "--acme", "--acme-agree-tos", &server, &docker, &range];
    let mut served = Served::spawn(portreeve(home.path(), &[&listen[..], &acme[..], flags].concat()));
    let serving = served.logs("serving").await;
    let at = |name: &str| -> SocketAddr {
        let (_, rest) = serving.split_once(&format!(" {name}=")).unwrap_or_else(|| panic!("no {name}: {serving}"));
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    let (plain, secure) = (at("proxy"), at("proxy_tls"));
    let client = Client::from_kubeconfig(&home.path().join("data/admin.kubeconfig"));
    Plane { served, home, daemon, plain, secure, client }
}

impl Plane {
    async fn apply(&self, name: &str, host: &str) {
        let routes = if host.is_empty() { json!([]) } else { json!([{"host": host}]) };
        let manifest = json!({
            "apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": {"name": name},
            "spec": {"image": APP, "ports": [{"name": "web", "containerPort": 8080}], "routes": routes},
        });
        self.client.post(INSTANCES, &manifest).await.expect(201);
    }

    async fn metric(&self, line: &str) -> Option<String> {
        let text = self.client.get("/metrics").await.text();
        text.lines().find_map(|l| l.strip_prefix(line)).map(|value| value.trim().to_owned())
    }

    /// What `why` tells of its routes: reason, message and the time of the next try.
    async fn problems(&self, name: &str) -> Vec<[String; 3]> {
        let told = self.client.get(&format!("{INSTANCES}/{name}/why")).await.expect(200);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let found = told["routeProblems"].as_array().into_iter().flatten();
        found.map(|problem| [&problem["reason"], &problem["message"], &problem["next"]].map(text)).collect()
    }

    /// What the first Event about an instance's certificate tells: its reason and its message.
    async fn told(&self, name: &str) -> Option<[String; 2]> {
        let events = self.client.get("/api/v1/namespaces/default/events").await.expect(200);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let of_it = |e: &&Value| e["involvedObject"]["name"] == name && text(&e["reason"]).starts_with("Certificate");
        let found = events["items"].as_array().expect("a list").iter().find(of_it);
        found.map(|e| [text(&e["reason"]), text(&e["message"])])
    }

    /// The message of that Event, which is to be for this reason.
    async fn event(&self, name: &str, reason: &str, pebble: &Pebble) -> String {
        let [why, message] = until("event", pebble, async || self.told(name).await).await;
        assert_eq!(why, reason, "{message}\n{}", pebble.said());
        message
    }
}

/// Until it is there.
async fn until<T>(what: &str, pebble: &Pebble, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            match look().await {
                Some(found) => return found,
                None => tokio::time::sleep(POLL).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no {what}; {}", pebble.said()))
}

/// What a visitor of the name is shown and answered, who trusts those whom the ACME server vouches for.
async fn visit(root: &CertificateDer<'_>, to: SocketAddr, name: &str) -> Option<(CertificateDer<'static>, String)> {
    let mut stream = pebble::tls(root, to, name).await.ok()?;
    let shown = stream.get_ref().1.peer_certificates()?[0].clone().into_owned();
    let answer = pebble::get(&mut stream, name, "/").await.ok()?;
    answer.starts_with("HTTP/1.1 200").then_some((shown, answer))
}

async fn plain(to: SocketAddr, host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Files below, with their rights.
fn files(dir: &Path, found: &mut Vec<(PathBuf, u32)>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        found.push((path.clone(), std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777));
        if path.is_dir() {
            files(&path, found);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_reached_by_a_certificate_that_was_ordered_and_a_restart_orders_no_other() {
    if !pebble::is_there() {
        return without("pebble");
    }
    let place = Place::new();
    let (url, ca) = (place.url(), format!("--acme-ca={}", place.ca_file().display()));
    let flags = [ca.as_str(), "--acme-email=ops@example.com"];
    let plane = start(home(), daemon(), &url, &flags, "28000-28019").await;
    let pebble = place.start(plane.plain.port(), 1, json!({})).await;
    let root = pebble.root().await;
    assert!(visit(&root, plane.secure, "alice.example.com").await.is_none(), "no route, no handshake");
    plane.apply("alice", "").await;
    let seen = until("page of alice", &pebble, async || visit(&root, plane.secure, "alice.example.com").await).await;
    assert!(visit(&root, plane.secure, "mallory.example.com").await.is_none(), "a name that nobody has");
    let told = plane.event("alice", "CertificateIssued", &pebble).await;
    assert!(told.starts_with("a certificate for alice.example.com was issued; it is good until "), "{told}");
    assert_eq!(plane.metric("portreeve_acme_orders_total{result=\"issued\"}").await.as_deref(), Some("1"));
    let redirected = plain(plane.plain, "alice.example.com", "/.well-known/acme-challenge/strange").await;
    assert!(redirected.starts_with("HTTP/1.1 308"), "only what is under way is answered: {redirected}");
    let mut kept = vec![];
    files(&plane.home.path().join("data/acme"), &mut kept);
    assert!(kept.iter().all(|(path, mode)| *mode == if path.is_dir() { 0o700 } else { 0o600 }), "{kept:?}");
    assert_eq!(kept.iter().filter(|(path, _)| !path.is_dir()).count(), 3, "account, ledger, certificate: {kept:?}");

    let Plane { served, home, daemon, .. } = plane;
    drop(served);
    let plane = start(home, daemon, &url, &flags, "28000-28019").await;
    let again = until("page of alice", &pebble, async || visit(&root, plane.secure, "alice.example.com").await).await;
    assert_eq!(again.0, seen.0, "the same certificate");
    // What is ordered from now on would come after what a restart orders by itself.
    let before = pebble.orders();
    plane.apply("bob", BLOCKED).await;
    let told = plane.event("bob", "CertificateRefused", &pebble).await;
    assert!(
        told.starts_with("no certificate for blocked.example.com: ")
            && told.contains("; it has none; it is tried again at 2"),
        "{told}"
    );
    assert!(told.contains("policy"), "in the ACME server's words: {told}");
    let found = async || plane.problems("bob").await.into_iter().find(|[reason, ..]| reason == "CertificateRefused");
    let [_, why, next] = until("problem of bob's route", &pebble, found).await;
    assert!(why.starts_with("it has no certificate yet: ") && why.contains("policy"), "{why}");
    let second = next.trim_end_matches('Z');
    assert!(!second.is_empty() && told.contains(&format!("it is tried again at {second}")), "{next}: {told}");
    assert_eq!(plane.problems("alice").await, [[""; 3]; 0], "it has one");
    let failing = async || plane.metric("portreeve_acme_names{state=\"failing\"}").await.filter(|value| value == "1");
    until("name that fails, in the metrics", &pebble, failing).await;
    assert_eq!(plane.metric("portreeve_acme_orders_total{result=\"issued\"}").await.as_deref(), Some("0"));
    let asked = pebble.said().lines().filter(|line| line.contains("POST /sign-me-up")).count();
    assert!((1..=4).contains(&asked), "one account, with some refused nonces: {asked}");
    assert!(pebble.orders() > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_is_proof_too_and_a_certificate_is_renewed_before_it_ends() {
    if !pebble::is_there() {
        return without("pebble");
    }
    let (place, key) = (Place::new(), home());
    let file = key.path().join("eab");
    std::fs::write(&file, "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\n").unwrap();
    let flags = [
        format!("--acme-ca={}", place.ca_file().display()),
        "--acme-challenge=tls-alpn-01".to_owned(),
        "--acme-eab-key-id=kid-1".to_owned(),
        format!("--acme-eab-key-file={}", file.display()),
    ];
    let flags = flags.each_ref().map(String::as_str);
    let plane = start(home(), daemon(), &place.url(), &flags, "28020-28039").await;
    let more = json!({
        "certificateValidityPeriod": 30,
        "externalAccountBindingRequired": true,
        "externalAccountMACKeys": {"kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"},
    });
    let pebble = place.start(1, plane.secure.port(), more).await;
    let root = pebble.root().await;
    plane.apply("alice", "shop.example.net").await;
    let look = async || visit(&root, plane.secure, "shop.example.net").await;
    plane.event("alice", "CertificateIssued", &pebble).await;
    let first = until("page of alice", &pebble, look).await;
    until("renewal", &pebble, async || look().await.filter(|seen| seen.0 != first.0)).await;
    assert!(pebble.orders() >= 2, "{}", pebble.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_does_not_lead_here_is_told_in_the_words_of_the_acme_server_and_tried_again_later() {
    if !pebble::is_there() {
        return without("pebble");
    }
    let place = Place::new();
    let ca = format!("--acme-ca={}", place.ca_file().display());
    let plane = start(home(), daemon(), &place.url(), &[&ca], "28040-28059").await;
    // Nobody listens where it looks.
    let nobody = closed_port().rsplit(':').next().unwrap().parse().unwrap();
    let pebble = place.start(nobody, nobody, json!({})).await;
    let root = pebble.root().await;
    plane.apply("alice", "").await;
    let told = plane.event("alice", "CertificateRefused", &pebble).await;
    assert!(told.contains("connection refused") && told.contains("; it has none; it is tried again at 2"), "{told}");
    assert!(visit(&root, plane.secure, "alice.example.com").await.is_none());
    assert_eq!(plane.metric("portreeve_acme_orders_total{result=\"failed\"}").await.as_deref(), Some("1"));
    // The next name has its turn, and the first has not been tried again by then.
    plane.apply("bob", "").await;
    plane.event("bob", "CertificateRefused", &pebble).await;
    assert_eq!(plane.metric("portreeve_acme_orders_total{result=\"failed\"}").await.as_deref(), Some("2"));
}
