//! `portreeve serve` as visitors meet it: TLS from a directory of certificates, and a socket that outlives the server.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use portreeve::clock::SystemClock;
use portreeve::pki::{self, Pair};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::serve::Served;
use super::*;
use crate::support::api_server::PATIENCE;
use crate::support::client::Client;

const NAME: &str = "alice.example.com";

fn write(ca: &Pair, directory: &Path) {
    let pair = pki::make_server(ca, "proxy", &[NAME.to_owned()], SystemClock::new().now()).unwrap();
    // As a tool that renews does it: each file at once.
    for (name, text) in [("a.key", pair.key), ("a.crt", pair.certificate)] {
        std::fs::write(directory.join("new"), text).unwrap();
        std::fs::rename(directory.join("new"), directory.join(name)).unwrap();
    }
}

/// The certificate that is shown, and what is answered.
async fn ask(ca: &Pair, address: &str) -> (CertificateDer<'static>, String) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.certificate.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut stream =
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), tcp).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    (stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned(), answer)
}

#[tokio::test]
async fn visitors_are_shown_certificates_of_a_directory_and_renewed_ones_without_a_restart() {
    let home = home();
    let certs = home.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    let start = ["serve", "--store=memory", "--docker=none", "--api-listen=127.0.0.1:0", "--proxy-listen=127.0.0.1:0"];
    let secure = ["--proxy-tls-listen=127.0.0.1:0", "--https-redirect", "--proxy-certs", certs.to_str().unwrap()];
    let start = [&start[..], &secure[..]].concat();
    let none = run(home.path(), &start).await;
    assert_eq!(none.status.code(), Some(1));
    assert!(stderr(&none).contains("holds no certificate that can be used"), "{}", stderr(&none));

    let ca = pki::make_ca("visitors' authority", SystemClock::new().now()).unwrap();
    write(&ca, &certs);
    let mut served = Served::spawn(portreeve(home.path(), &start));
    let serving = served.logs("serving").await;
    let at = |name: &str| {
        let (_, rest) = serving.split_once(&format!(" {name}=")).unwrap_or_else(|| panic!("no {name}: {serving}"));
        rest.split(' ').next().unwrap().to_owned()
    };
    let (plain, secure) = (at("proxy"), at("proxy_tls"));
    let (first, answer) = ask(&ca, &secure).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let spec = json!({"image": "app:1", "power": "Stopped", "ports": [{"name": "http", "containerPort": 80}]});
    let meta = json!({"name": "alice"});
    let alice = json!({"apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": meta, "spec": spec});
    let file = home.path().join("alice.json");
    std::fs::write(&file, alice.to_string()).unwrap();
    assert!(run(home.path(), &["apply", "-f", file.to_str().unwrap()]).await.status.success());
    let without_tls = async |host: &str| {
        let mut visitor = TcpStream::connect(&plain).await.unwrap();
        let request = format!("GET /a HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        visitor.write_all(request.as_bytes()).await.unwrap();
        let mut sent = String::new();
        visitor.read_to_string(&mut sent).await.unwrap();
        sent
    };
    let sent = without_tls("alice.localhost").await;
    assert!(sent.starts_with("HTTP/1.1 308") && sent.contains("location: https://alice.localhost:"), "{sent}");
    assert!(without_tls("nobody.localhost").await.starts_with("HTTP/1.1 404"));

    write(&ca, &certs);
    served.signal(Signal::HUP);
    let renewed = async {
        while ask(&ca, &secure).await.0 == first {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, renewed).await.expect("it is shown");
    let admin = Client::from_kubeconfig(&home.path().join("data/admin.kubeconfig"));
    let metrics = admin.send(http::Method::GET, "/metrics", &[], "").await;
    let metrics = String::from_utf8(metrics.bytes.to_vec()).unwrap();
    assert!(metrics.contains("portreeve_proxy_certificate_expiry_timestamp_seconds{file="), "{metrics}");
}

/// A server on a socket that another process holds, as a service manager starts it.
fn on(socket: &TcpListener, home: &Path, flags: &[&str]) -> Served {
    let program = env!("CARGO_BIN_EXE_portreeve");
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
    let mut command = portreeve(home, &[]);
    let mut shell = tokio::process::Command::new("sh");
    shell.args(["-c", script, program]).args(flags).kill_on_drop(true);
    let envs = command.as_std_mut().get_envs();
    shell.env_clear().envs(envs.filter_map(|(name, value)| Some((name, value?))));
    shell.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    Served::spawn(shell)
}

#[tokio::test]
async fn a_restart_on_a_socket_that_is_passed_on_turns_no_visitor_away() {
    let home = home();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let listen = format!("--proxy-listen={address}");
    let flags = ["serve", "--docker=none", "--api-listen=127.0.0.1:0", &listen];
    let mut served = on(&socket, home.path(), &flags);
    served.logs("serving").await;

    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let visits = (0..4).map(|_| {
        let (stop, answered) = (stop.clone(), answered.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                // Each over a connection of its own.
                let mut visitor = TcpStream::connect(address).await.expect("a connection");
                visitor
                    .write_all(b"GET / HTTP/1.1\r\nhost: nobody\r\nconnection: close\r\n\r\n")
                    .await
                    .expect("written");
                let mut answer = String::new();
                visitor.read_to_string(&mut answer).await.expect("an answer");
                assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
                answered.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    let visits: Vec<_> = visits.collect();
    let more = async || {
        let before = answered.load(Ordering::SeqCst);
        while answered.load(Ordering::SeqCst) < before + 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    for _ in 0..3 {
        tokio::time::timeout(PATIENCE, more()).await.expect("they are answered");
        served.signal(Signal::TERM);
        assert!(tokio::time::timeout(PATIENCE, served.child.wait()).await.expect("it ends").unwrap().success());
        served = on(&socket, home.path(), &flags);
    }
    tokio::time::timeout(PATIENCE, more()).await.expect("they are answered");
    stop.store(true, Ordering::SeqCst);
    for visit in visits {
        tokio::time::timeout(PATIENCE, visit).await.expect("it ends").expect("every visit was answered");
    }
}

#[tokio::test]
async fn a_socket_that_is_passed_on_for_nothing_is_told_at_the_start() {
    let (home, socket) = (home(), TcpListener::bind("127.0.0.1:0").unwrap());
    let flags = ["serve", "--docker=none", "--store=memory", "--api-listen=127.0.0.1:0", "--proxy-listen=127.0.0.1:0"];
    let mut served = on(&socket, home.path(), &flags);
    served.logs("where nothing is to listen").await;
    assert_eq!(served.child.wait().await.unwrap().code(), Some(1));
}

#[tokio::test]
async fn a_route_that_is_closed_to_everybody_is_told_by_why_and_by_an_event_until_its_secret_is_there() {
    let home = home();
    let start = ["serve", "--store=memory", "--docker=none", "--api-listen=127.0.0.1:0", "--proxy-listen=127.0.0.1:0"];
    let mut served = Served::spawn(portreeve(home.path(), &start));
    let serving = served.logs("serving").await;
    let (_, rest) = serving.split_once(" proxy=").unwrap_or_else(|| panic!("no proxy: {serving}"));
    let proxy = rest.split(' ').next().unwrap();
    let auth = json!({"mode": "Token", "token": {"secretKeyRef": {"name": "door", "key": "token"}}});
    let spec = json!({"image": "app:1", "power": "Stopped", "ports": [{"name": "http", "containerPort": 80}],
        "routes": [{"auth": auth}]});
    let apply = async |manifest: serde_json::Value| {
        let file = home.path().join("manifest.json");
        std::fs::write(&file, manifest.to_string()).unwrap();
        let applied = run(home.path(), &["apply", "-f", file.to_str().unwrap()]).await;
        assert!(applied.status.success(), "{}", stderr(&applied));
    };
    let meta = json!({"name": "alice"});
    apply(json!({"apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": meta, "spec": spec})).await;
    let visit = async || {
        let mut visitor = TcpStream::connect(proxy).await.unwrap();
        let request =
            b"GET / HTTP/1.1\r\nhost: alice.localhost\r\nauthorization: Bearer x\r\nconnection: close\r\n\r\n";
        visitor.write_all(request).await.unwrap();
        let mut answer = String::new();
        visitor.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let told = async |page: &str, wanted: bool| {
        let found = async {
            loop {
                let told = run(home.path(), &["why", "alice"]).await;
                if stdout(&told).contains(page) == wanted {
                    return stdout(&told);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{page:?}: {wanted}"))
    };
    let words = "nobody is let in: there is no Secret \"door\" in the namespace \"default\"";
    let page = told(words, true).await;
    assert!(page.contains("Routes:") && page.contains("alice.localhost: SecretUnavailable ("), "{page}");
    for _ in 0..5 {
        assert!(visit().await.starts_with("HTTP/1.1 401"));
    }
    let admin = Client::from_kubeconfig(&home.path().join("data/admin.kubeconfig"));
    let event = async {
        loop {
            let all = admin.get("/api/v1/namespaces/default/events").await.expect(200);
            let of_it = |e: &&serde_json::Value| e["reason"] == "SecretUnavailable";
            if let Some(found) = all["items"].as_array().unwrap().iter().find(of_it) {
                return found.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let event = tokio::time::timeout(PATIENCE, event).await.expect("an Event");
    assert_eq!((&event["count"], &event["type"]), (&json!(1), &json!("Warning")), "{event}");
    assert_eq!(event["message"], format!("spec.routes[0].auth.token.secretKeyRef: {words}"));
    assert_eq!(event["involvedObject"]["name"], "alice");

    let meta = json!({"name": "door"});
    apply(json!({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"token": "x"}})).await;
    told(words, false).await;
    assert!(visit().await.starts_with("HTTP/1.1 503"), "let in, and told that it is stopped");
}
