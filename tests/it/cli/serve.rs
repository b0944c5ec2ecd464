//! `portreeve serve` with a certificate of one's own: shown to new connections as soon as it is replaced, and what is
//! broken never takes the place of what works.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use http::Method;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::*;
use crate::support::api_server::{PATIENCE, instance};
use crate::support::client::{Client, INSTANCES};

/// A CA of the operator's.
struct Authority {
    pem: String,
    key: KeyPair,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority { pem: params.self_signed(&key).unwrap().pem(), key }
    }

    /// A chain and its key, PEM. `localhost` is what the tests' client asks for.
    fn chain(&self) -> (String, String) {
        let mut params = CertificateParams::new(vec!["api.example.com".into(), "localhost".into()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issuer = Issuer::from_ca_cert_pem(&self.pem, &self.key).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        (format!("{}{}", leaf.pem(), self.pem), key.serialize_pem())
    }
}

fn leaf(chain: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()
}

/// The control plane, and what it logs.
/// A server that runs, and what it logs.
pub struct Served {
    pub child: tokio::process::Child,
    log: tokio::io::Lines<BufReader<tokio::process::ChildStderr>>,
}

impl Served {
    pub fn spawn(mut command: Command) -> Served {
        let mut child = command.stderr(Stdio::piped()).env("NO_COLOR", "1").spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Served { child, log }
    }

    /// The next line that holds a text.
    pub async fn logs(&mut self, wanted: &str) -> String {
        let mut last = String::new();
        let found = async {
            while !last.contains(wanted) {
                last = self.log.next_line().await.unwrap().unwrap_or_else(|| panic!("it ended without {wanted:?}"));
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no {wanted:?} in the log"));
        last
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Served {
    /// It has really ended before its directory goes: until then it may write there.
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        while matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

async fn shown(client: &Client) -> CertificateDer<'static> {
    let stream = client.connect().await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

async fn until_shown(client: &Client, chain: &str) {
    let wanted = leaf(chain);
    let seen = async {
        while shown(client).await != wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("the new certificate is shown");
}

fn lines(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn its_own_certificate_and_audit_log_are_taken_up_anew() {
    let home = home();
    let at = |name: &str| -> PathBuf { home.path().join(name) };
    let authority = Authority::new();
    let write = |chain: &str, key: &str| {
        std::fs::write(at("api.key"), key).unwrap();
        std::fs::write(at("api.pem"), chain).unwrap();
    };
    let (first, key) = authority.chain();
    write(&first, &key);
    let (pem, key, audit) = (at("api.pem"), at("api.key"), at("audit.log"));
    let mut command = portreeve(home.path(), &["serve", "--store=memory", "--docker=none"]);
    command.args(["--api-listen=127.0.0.1:0", "--proxy-listen=127.0.0.1:0"]);
    command.arg("--tls-cert").arg(&pem).arg("--tls-key").arg(&key).arg("--audit-log").arg(&audit);
    let mut served = Served::spawn(command);
    served.logs("serving").await;

    // Its kubeconfig trusts the operator's CA, and asks for the name that the certificate is for.
    let kubeconfig = at("data/admin.kubeconfig");
    let client = Client::from_kubeconfig(&kubeconfig);
    assert_eq!(shown(&client).await, leaf(&first));
    let ours = run(home.path(), &["get", "ns"]).await;
    assert!(stdout(&ours).contains("default"), "{}", stderr(&ours));
    let mut watch = client.watch("/api/v1/namespaces?watch=1&fieldSelector=metadata.name%3Dteam").await;

    let (second, key) = authority.chain();
    write(&second, &key);
    std::fs::rename(&audit, at("audit.log.1")).unwrap();
    served.signal(Signal::HUP);
    until_shown(&client, &second).await;
    client.post("/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).await.expect(201);
    assert_eq!(watch.told().await, ("ADDED".into(), "team".into()), "the connection was kept");

    let (third, key) = authority.chain();
    std::fs::write(&pem, &third).unwrap();
    served.signal(Signal::HUP);
    served.logs("the old one is kept").await;
    assert_eq!(shown(&client).await, leaf(&second), "a certificate without its key");
    // Its key comes, and nobody needs to say so.
    std::fs::write(at("api.key"), &key).unwrap();
    until_shown(&client, &third).await;

    served.signal(Signal::TERM);
    let ended = tokio::time::timeout(PATIENCE, served.child.wait()).await.expect("it ends").unwrap();
    assert!(ended.success());
    assert_eq!((lines(&audit), lines(&at("audit.log.1"))), (1, 0));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_told_at_the_start() {
    let home = home();
    let pem = home.path().join("api.pem").display().to_string();
    let start = ["serve", "--store=memory", "--docker=none", "--api-listen=127.0.0.1:0", "--proxy-listen=127.0.0.1:0"];
    let start = [&start[..], &["--tls-cert", &pem, "--tls-key", &pem]].concat();
    let missing = run(home.path(), &start).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains(&format!("reading {pem}: No such file")), "{}", stderr(&missing));
    std::fs::write(&pem, "nonsense").unwrap();
    let nonsense = run(home.path(), &start).await;
    assert_eq!(nonsense.status.code(), Some(1));
    assert!(stderr(&nonsense).contains("holds none"), "{}", stderr(&nonsense));
    let nowhere = run(home.path(), &[&start[..5], &["--audit-log", "/nowhere/audit.log"]].concat()).await;
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(stderr(&nowhere).contains("--audit-log names another"), "{}", stderr(&nowhere));
}

#[tokio::test]
async fn what_is_counted_is_scraped_by_those_who_may_read_everywhere() {
    let home = home();
    let mut command = portreeve(home.path(), &["serve", "--store=memory", "--docker=none"]);
    command.args(["--api-listen=127.0.0.1:0", "--proxy-listen=127.0.0.1:0"]);
    let mut served = Served::spawn(command);
    let serving = served.logs("serving").await;
    let proxy = serving.split_once("proxy=").and_then(|(_, rest)| rest.split(' ').next()).expect("its address");
    let admin = Client::from_kubeconfig(&home.path().join("data/admin.kubeconfig"));

    let metrics = async |client: &Client| client.send(Method::GET, "/metrics", &[], "").await;
    let value = async |name: &str| -> f64 {
        let text = String::from_utf8(metrics(&admin).await.bytes.to_vec()).unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}: {text}")).parse().unwrap()
    };
    let answer = metrics(&admin).await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text; version=1.0.0")
    );
    assert_eq!(value(r#"portreeve_instances{phase="Pending"}"#).await, 0.0);
    admin.post(INSTANCES, &instance("alice")).await.expect(201);
    let pending = async {
        while value(r#"portreeve_instances{phase="Pending"}"#).await < 1.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, pending).await.expect("it is counted");
    assert_eq!(value(r#"portreeve_api_responses_total{method="POST",code="201"}"#).await, 1.0);

    let before = value(r#"portreeve_proxy_responses_total{code="4xx"}"#).await;
    let mut visitor = tokio::net::TcpStream::connect(proxy).await.unwrap();
    visitor.write_all(b"GET / HTTP/1.1\r\nhost: nobody.localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    visitor.read_to_string(&mut page).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 404"), "{page}");
    assert_eq!(value(r#"portreeve_proxy_responses_total{code="4xx"}"#).await, before + 1.0);
    assert!(value("process_resident_memory_bytes").await > 1e6);
    // The kernel counts in ticks, at which a process that does so little may never have been seen yet; each scrape is work.
    let used = async { while value("process_cpu_seconds_total").await <= 0.0 {} };
    tokio::time::timeout(PATIENCE, used).await.expect("it is counted");

    let with = |token: Option<String>| {
        let mut client = admin.clone();
        (client.token, client.certificate) = (token, false);
        client
    };
    let bearer = async |spec: serde_json::Value| {
        let name = format!("t{}", spec.to_string().len());
        let token =
            json!({"apiVersion": "portreeve.dev/v1", "kind": "AccessToken", "metadata": {"name": name}, "spec": spec});
        let made = admin.post("/apis/portreeve.dev/v1/accesstokens", &token).await.expect(201);
        with(made["status"]["token"].as_str().map(str::to_owned))
    };
    let viewer = bearer(json!({"role": "viewer"})).await;
    assert_eq!(metrics(&viewer).await.status, 200);
    let of_one = bearer(json!({"role": "editor", "namespaces": ["default"]})).await;
    let refused = metrics(&of_one).await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("cannot get path \"/metrics\""), "{refused}");
    metrics(&with(None)).await.expect(401);
    served.signal(Signal::TERM);
    let ended = tokio::time::timeout(PATIENCE, served.child.wait()).await.expect("it ends").unwrap();
    assert!(ended.success());
}
