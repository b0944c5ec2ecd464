//! Who gets in, and what is left on disk for the next start.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use http::{Method, StatusCode};
use portreeve::api::Credentials;
use portreeve::clock::SystemClock;
use serde_json::json;

use crate::support::api_server::{ApiServer, PATIENCE, instance};
use crate::support::client::INSTANCES;

#[tokio::test]
async fn strangers_learn_nothing_but_the_health() {
    let server = ApiServer::start().await;
    let mut stranger = server.client.clone();
    for token in [None, Some("prt_wrong".to_owned())] {
        stranger.token = token;
        for path in ["/livez", "/healthz", "/readyz"] {
            let answer = stranger.get(path).await;
            assert_eq!((answer.status, answer.text().as_str()), (StatusCode::OK, "ok"), "{path}");
        }
        for path in ["/", "/version", "/api", "/apis", "/openapi/v2", "/no/such/path", INSTANCES] {
            let status = stranger.get(path).await.expect(401);
            assert_eq!(status["reason"], "Unauthorized", "{path}");
        }
        stranger.post(INSTANCES, &instance("a")).await.expect(401);
    }
    assert!(server.cache.instances().is_empty());
}

#[tokio::test]
async fn a_client_certificate_is_as_good_as_a_token() {
    let server = ApiServer::start().await;
    let mut by_certificate = server.client.clone();
    by_certificate.token = None;
    by_certificate.certificate = true;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    for client in [&by_certificate, &server.client] {
        let review = client.post(path, &json!({})).await.expect(201);
        assert_eq!(review["status"]["userInfo"]["username"], "admin");
        assert_eq!(review["status"]["userInfo"]["groups"], json!(["system:masters", "system:authenticated"]));
    }
}

#[tokio::test]
async fn a_certificate_of_another_ca_ends_the_handshake() {
    let server = ApiServer::start().await;
    let other = ApiServer::start().await;
    let mut rogue = other.client.clone();
    rogue.address = server.client.address.clone();
    assert!(rogue.connect().await.is_err(), "another CA's server certificate was believed");
    // Trusts the right server, shows the wrong certificate.
    let mut config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&server.kubeconfig).unwrap()).unwrap();
    let others: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&other.kubeconfig).unwrap()).unwrap();
    for name in ["client-certificate-data", "client-key-data"] {
        config["users"][0]["user"][name] = others["users"][0]["user"][name].clone();
    }
    let path = server.dir.path().join("rogue.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let mut rogue = crate::support::client::Client::from_kubeconfig(&path);
    rogue.certificate = true;
    // With TLS 1.3 the client learns of it on its first read.
    let refused = async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let Ok(mut stream) = rogue.connect().await else { return true };
        let sent = stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut byte = [0];
        sent.is_err() || !matches!(stream.read(&mut byte).await, Ok(1))
    };
    assert!(tokio::time::timeout(PATIENCE, refused).await.unwrap(), "a rogue certificate was answered");
}

#[tokio::test]
async fn impersonation_takes_rights_away() {
    let server = ApiServer::start().await;
    let headers = [("impersonate-user", "nobody")];
    let status = server.client.send(Method::GET, INSTANCES, &headers, "").await.expect(403);
    assert_eq!(
        status["message"],
        "instances.portreeve.dev is forbidden: User \"nobody\" cannot list resource \"instances\" in API group \
         \"portreeve.dev\" in the namespace \"default\""
    );
}

#[tokio::test]
async fn credentials_are_private_and_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let listen = "127.0.0.1:7443".parse().unwrap();
    let now = SystemClock::new().now();
    let load = |listen, now| Credentials::load_or_create(&data, listen, None, now).unwrap();
    let path = load(listen, now).kubeconfig_path;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join("pki")), 0o700);
    let mut files = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(data.join("pki")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files.insert(path.clone(), std::fs::read_to_string(&path).unwrap());
    }
    assert_eq!(mode(&path), 0o600);
    let kubeconfig = std::fs::read_to_string(&path).unwrap();
    let changed = || -> Vec<String> {
        let same = |(path, text): &(&std::path::PathBuf, &String)| std::fs::read_to_string(path).unwrap() != **text;
        files.iter().filter(same).map(|(p, _)| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };

    load(listen, now);
    assert_eq!(changed(), [""; 0], "a second start made something anew");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), kubeconfig);

    load("127.0.0.2:7443".parse().unwrap(), now);
    assert_eq!(changed(), ["serving.key", "serving.pem"], "another address needs another serving certificate only");

    // Half of a new pair, as a crash leaves it: made whole again, not used.
    std::fs::write(data.join("pki/admin.key"), files[&data.join("pki/ca.key")].as_bytes()).unwrap();
    load(listen, now);
    assert!(changed().contains(&"admin.pem".to_owned()));

    let later = now + jiff::SignedDuration::from_hours(24 * 340);
    let before = std::fs::read_to_string(data.join("pki/serving.pem")).unwrap();
    load(listen, later);
    assert_ne!(std::fs::read_to_string(data.join("pki/serving.pem")).unwrap(), before, "nearly expired, yet kept");
}

#[tokio::test]
async fn the_serving_certificate_is_renewed_while_it_serves_and_by_the_same_ca() {
    let dir = tempfile::tempdir().unwrap();
    let listen = "127.0.0.1:7443".parse().unwrap();
    let now = SystemClock::new().now();
    let credentials = Credentials::load_or_create(dir.path(), listen, None, now).unwrap();
    let read = |name: &str| std::fs::read_to_string(dir.path().join("pki").join(name)).unwrap();
    let (ca, first) = (read("ca.pem"), read("serving.pem"));
    assert!(!credentials.serving.reload(now).unwrap(), "nothing is new");
    assert!(credentials.serving.reload(now + jiff::SignedDuration::from_hours(24 * 340)).unwrap());
    let renewed = read("serving.pem");
    assert_ne!(renewed, first);
    for lost in [&["ca.pem"][..], &["ca.pem", "ca.key"]] {
        for name in lost {
            std::fs::remove_file(dir.path().join("pki").join(name)).unwrap();
        }
        let error = credentials.serving.reload(now).unwrap_err().to_string();
        assert!(error.contains("restart to change it"), "{error}");
        assert!(!dir.path().join("pki/ca.pem").exists(), "another CA was made");
        assert_eq!(read("serving.pem"), renewed);
        std::fs::write(dir.path().join("pki/ca.pem"), &ca).unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_dropped() {
    use tokio::io::AsyncReadExt;
    let server = ApiServer::start().await;
    let mut silent = server.client.connect().await.unwrap();
    let mut no_tls = tokio::net::TcpStream::connect(&server.client.address).await.unwrap();
    server.client.get("/livez").await;
    // From here on, time jumps to the next timer whenever nothing else can happen.
    tokio::time::pause();
    let mut rest = vec![];
    let both = async {
        drop(silent.read_to_end(&mut rest).await);
        drop(no_tls.read_to_end(&mut rest).await);
    };
    tokio::time::timeout(Duration::from_secs(600), both).await.expect("a silent connection was kept for ten minutes");
    assert!(rest.is_empty());
}

/// A refusal that is known before the body came must not break the connection under the next request.
#[tokio::test]
async fn a_refused_request_leaves_its_connection_usable() {
    let server = ApiServer::start().await;
    let io = hyper_util::rt::TokioIo::new(server.client.connect().await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = |length: usize| {
        let (body, hand) =
            futures::channel::mpsc::channel::<Result<hyper::body::Frame<bytes::Bytes>, std::io::Error>>(1);
        let request = http::Request::post("/apis/nobody.example/v1/things")
            .header("host", server.client.address.clone())
            .header("content-length", length)
            .header("authorization", format!("Bearer {}", server.client.token.as_deref().unwrap()));
        (request.body(http_body_util::StreamBody::new(hand)).unwrap(), body)
    };
    for _ in 0..20 {
        sender.ready().await.expect("the connection is kept");
        let (request, mut body) = request(6);
        let answer = sender.send_request(request);
        let send = async {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            drop(body.try_send(Ok(hyper::body::Frame::data(bytes::Bytes::from_static(b"{\"a\":1")))));
            drop(body);
        };
        let (answer, ()) = tokio::join!(answer, send);
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        assert!(!answer.headers().contains_key("connection"));
        http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    }
    // One that never comes whole is not waited for.
    let (request, _body) = request(1 << 30);
    let answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(answer.headers()["connection"], "close");
}

#[tokio::test]
async fn http_2_is_spoken_to_those_who_ask_for_it() {
    let server = ApiServer::start().await;
    let stream = server.client.connect_with(&[b"h2"]).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = http::Request::get(format!("https://{}{INSTANCES}", server.client.address))
            .header("authorization", format!("Bearer {}", server.client.token.as_deref().unwrap()))
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::OK);
    }
}

/// kubectl 1.27 asks at the older one.
#[tokio::test]
async fn whoever_asks_who_they_are_may_do_so_at_either_version() {
    let server = ApiServer::start().await;
    for (version, other) in [("v1", "v1beta1"), ("v1beta1", "v1")] {
        let path = format!("/apis/authentication.k8s.io/{version}/selfsubjectreviews");
        let review = |version: &str| json!({"kind": "SelfSubjectReview", "apiVersion": format!("authentication.k8s.io/{version}")});
        let told = server.client.post(&path, &review(version)).await.expect(201);
        assert_eq!(told["apiVersion"], review(version)["apiVersion"]);
        assert_eq!(told["status"]["userInfo"]["username"], "admin");
        server.client.post(&path, &review(other)).await.expect(400);
    }
}
