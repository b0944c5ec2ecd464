//! How visitors come in: TLS by the name that they ask for, HTTP/2, what proxies before us pass on, and being sent elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use http::{Request, Response, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portreeve::clock::SystemClock;
use portreeve::pki::{self, Pair};
use portreeve::proxy::{Activity, Answer, Certificate, Front, Limits, Trusted};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use super::world::*;

/// All of the proxy's domain. The names are for the client, which takes no wildcard right below the root.
const WILD: [&str; 4] = ["*.test", "test", "alice.test", "bob.test"];

/// Who signs certificates, and who trusts them.
pub struct Authority(Pair);

impl Authority {
    pub fn new() -> Authority {
        Authority(pki::make_ca("visitors' authority", SystemClock::new().now()).unwrap())
    }

    fn certificate(&self, names: &[&str]) -> Certificate {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let pair = pki::make_server(&self.0, "proxy", &names, SystemClock::new().now()).unwrap();
        let key = pki::certified(pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap();
        let (ends, names) = pki::end_and_names(&key.cert[0]).unwrap();
        Certificate { source: names[0].clone(), key: Arc::new(key), names, ends }
    }

    /// A connection with TLS, `asked` for by name, after `first` was written.
    pub async fn connect(
        &self,
        to: SocketAddr,
        asked: &'static str,
        alpn: &str,
        first: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.0.certificate.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![alpn.into()];
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(first).await?;
        let connector = TlsConnector::from(Arc::new(config));
        soon("a handshake", connector.connect(ServerName::try_from(asked).unwrap(), stream)).await
    }

    pub async fn http2(&self, world: &World, asked: &'static str) -> http2::SendRequest<Body> {
        let stream = self.connect(world.secure, asked, "h2", b"").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn http1(&self, world: &World, asked: &'static str) -> http1::SendRequest<Body> {
        let stream = self.connect(world.secure, asked, "http/1.1", b"").await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        sender
    }
}

/// A proxy with a certificate for all of its domain.
pub async fn secured(front: Front, limits: Limits) -> (World, Authority) {
    let (world, authority) = (World::behind(front, limits, Activity::new(SystemClock::new())).await, Authority::new());
    world.certificates.replace(vec![authority.certificate(&WILD)]);
    (world, authority)
}

pub fn get2(host: &str, path: &str) -> http::request::Builder {
    Request::get(format!("https://{host}{path}")).version(Version::HTTP_2)
}

pub async fn text(response: Response<Incoming>) -> String {
    let body = soon("the body", response.into_body().collect()).await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// Answers with its request, a line for each header.
async fn show(request: Request<Incoming>) -> Response<Body> {
    let mut lines: Vec<_> = request.headers().iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
    lines.sort();
    Response::new(full(format!("{:?} {}\n{}", request.version(), request.uri(), lines.join("\n"))))
}

fn trusting_this_machine() -> Front {
    Front { trusted: Trusted::new(vec!["127.0.0.0/8".parse().unwrap()]), ..Front::default() }
}

#[tokio::test]
async fn tls_is_spoken_with_both_versions_of_http_and_the_app_is_told() {
    let ((world, authority), app) = (secured(Front::default(), Limits::default()).await, App::new(show).await);
    world.put(&awake("alice", app.address)).await;
    let expected = |cookie: &str| {
        format!(
            "HTTP/1.1 /a?b=c\n{cookie}host: alice.test\nx-forwarded-for: 127.0.0.1\nx-forwarded-host: alice.test\n\
             x-forwarded-proto: https"
        )
    };
    let mut one = authority.http1(&world, "alice.test").await;
    let response = one.send_request(request("GET", "alice.test", "/a?b=c", "")).await.unwrap();
    assert_eq!(text(response).await, expected(""));

    let mut two = authority.http2(&world, "alice.test").await;
    let asks = get2("alice.test", "/a?b=c").header("cookie", "a=1").header("cookie", "b=2").body(full("")).unwrap();
    let response = two.send_request(asks).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    assert_eq!(text(response).await, expected("cookie: a=1; b=2\n"));
    // What another version of HTTP has no place for.
    let connect = Request::connect("alice.test:443").version(Version::HTTP_2).body(full("")).unwrap();
    assert_eq!(two.send_request(connect).await.unwrap().status(), StatusCode::NOT_IMPLEMENTED);
    assert_eq!(two.send_request(get2("nobody.test", "/").body(full("")).unwrap()).await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_hundred_requests_share_a_connection_and_a_wake() {
    let ((world, authority), app) = (secured(Front::default(), Limits::default()).await, App::hello("alice").await);
    world.put(&asleep("alice", app.address)).await;
    world.waker.plan(awake("alice", app.address), Duration::from_millis(50));
    let sender = authority.http2(&world, "alice.test").await;
    let one = async |n: usize| {
        let body = "x".repeat(n * 1000);
        let asks = Request::post(format!("https://alice.test/{n}")).body(full(body)).unwrap();
        assert_eq!(text(sender.clone().send_request(asks).await.unwrap()).await, format!("alice POST /{n}"));
    };
    soon("all answers", futures::future::join_all((0..100).map(one))).await;
    world.until_closed("alice").await;
}

#[tokio::test]
async fn everybody_gets_the_certificate_of_the_name_asked_for_and_a_new_one_when_it_is_there() {
    let ((world, authority), app) = (secured(Front::default(), Limits::default()).await, App::hello("alice").await);
    world.put(&awake("alice", app.address)).await;
    let (wild, own) = (authority.certificate(&WILD), authority.certificate(&["alice.example"]));
    world.certificates.replace(vec![wild.clone(), own.clone()]);
    let shown = async |asked| {
        let stream = authority.connect(world.secure, asked, "http/1.1", b"").await.ok()?;
        Some(stream.get_ref().1.peer_certificates().unwrap()[0].clone())
    };
    assert_eq!(shown("bob.test").await.as_ref(), Some(&wild.key.cert[0]));
    assert_eq!(shown("alice.example").await.as_ref(), Some(&own.key.cert[0]));
    assert_eq!(shown("bob.example").await, None, "no certificate is for it");

    let mut before = authority.http1(&world, "alice.test").await;
    let renewed = authority.certificate(&WILD);
    world.certificates.replace(vec![renewed.clone()]);
    assert_eq!(shown("bob.test").await.as_ref(), Some(&renewed.key.cert[0]));
    let response = before.send_request(request("GET", "alice.test", "/", "")).await.unwrap();
    assert_eq!(text(response).await, "alice GET /", "a connection that is there stays");
}

#[tokio::test]
async fn a_request_over_the_connection_of_another_name_is_sent_away() {
    let ((world, authority), app) = (secured(Front::default(), Limits::default()).await, App::hello("alice").await);
    world.put(&awake("alice", app.address)).await;
    world.certificates.replace(vec![authority.certificate(&WILD), authority.certificate(&["shop.example"])]);
    let mut sender = authority.http2(&world, "shop.example").await;
    let misdirected = sender.send_request(get2("alice.test", "/").body(full("")).unwrap()).await.unwrap();
    assert_eq!(misdirected.status(), StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(world.activity.idle(&key("alice")), None, "it never came to the app");
    let mut sender = authority.http2(&world, "bob.test").await;
    let shared = sender.send_request(get2("alice.test", "/").body(full("")).unwrap()).await.unwrap();
    assert_eq!(shared.status(), StatusCode::OK, "its certificate is for both");
}

#[tokio::test]
async fn a_websocket_passes_through_tls() {
    let (world, authority) = secured(Front::default(), Limits::default()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.put(&awake("alice", listener.local_addr().unwrap())).await;
    let app = tokio::spawn(async move {
        let mut socket = tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if !message.is_close() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let stream = authority.connect(world.secure, "alice.test", "http/1.1", b"").await.unwrap();
    let asks = Request::get("wss://alice.test/socket")
        .header("host", "alice.test")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", generate_key())
        .body(())
        .unwrap();
    let (mut socket, _) = soon("the handshake", tokio_tungstenite::client_async(asks, stream)).await.unwrap();
    for size in [1, 100_000] {
        let message = Message::text("x".repeat(size));
        socket.send(message.clone()).await.unwrap();
        assert_eq!(soon("the echo", socket.next()).await.unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
    soon("the app's end", app).await.unwrap();
    drop(socket);
    world.until_closed("alice").await;
}

#[tokio::test]
async fn who_comes_without_tls_is_sent_to_it_and_wakes_nobody() {
    let front = Front { redirect: Some(8443), ..trusting_this_machine() };
    let ((world, authority), app) = (secured(front, Limits::default()).await, App::hello("alice").await);
    world.put(&awake("alice", app.address)).await;
    for host in ["alice.test", "alice.test:80"] {
        let reply = world.connect().await.send(request("POST", host, "/a?b=c", "")).await;
        let location = "https://alice.test:8443/a?b=c".as_bytes();
        assert_eq!((reply.status, reply.headers["location"].as_bytes()), (StatusCode::PERMANENT_REDIRECT, location));
    }
    assert_eq!(world.get("nobody.test", "/").await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.activity.idle(&key("alice")), None);
    // A proxy before us took the TLS.
    let mut told = request("GET", "alice.test", "/", "");
    told.headers_mut().insert("x-forwarded-proto", "https".parse().unwrap());
    assert_eq!(world.connect().await.send(told).await.status, StatusCode::OK);
    let mut secure = authority.http1(&world, "alice.test").await;
    assert_eq!(secure.send_request(request("GET", "alice.test", "/", "")).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_proxy_that_reads_no_http_says_whose_connection_it_passes_on() {
    let front = Front { proxy_protocol: true, ..trusting_this_machine() };
    let ((world, authority), app) = (secured(front, Limits::default()).await, App::new(show).await);
    world.put(&awake("alice", app.address)).await;
    const ONE: &[u8] = b"PROXY TCP4 203.0.113.5 10.0.0.1 40000 443\r\n";
    // Version 2, of a visitor who speaks TLS with the proxy.
    let two = [
        &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x14\xcb\0\x71\x06\x0a\0\0\x01\x9c\x40\x01\xbb"[..],
        b"\x20\0\x05\x01\0\0\0\0",
    ];
    for (header, visitor, proto) in [(ONE, "203.0.113.5", "http"), (&two.concat(), "203.0.113.6", "https")] {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream
            .write_all(&[header, b"GET / HTTP/1.1\r\nHost: alice.test\r\nConnection: close\r\n\r\n"].concat())
            .await
            .unwrap();
        let mut answer = String::new();
        soon("the answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.contains(&format!("x-forwarded-for: {visitor}\n")), "{answer}");
        assert!(answer.ends_with(&format!("x-forwarded-proto: {proto}")), "{answer}");
    }
    let stream = authority.connect(world.secure, "alice.test", "http/1.1", ONE).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let shown = text(sender.send_request(request("GET", "alice.test", "/", "")).await.unwrap()).await;
    assert!(shown.contains("x-forwarded-for: 203.0.113.5\n") && shown.ends_with("https"), "{shown}");

    // Who passes on and does not say whose it is has not read what is in the fields.
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let forging = b"GET / HTTP/1.1\r\nHost: alice.test\r\nX-Forwarded-For: 9.9.9.9\r\nConnection: close\r\n\r\n";
    stream.write_all(&[b"PROXY UNKNOWN\r\n", &forging[..]].concat()).await.unwrap();
    let mut answer = String::new();
    soon("the answer", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.contains("x-forwarded-for: 127.0.0.1\n"), "{answer}");

    // Without a header nothing is answered.
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: alice.test\r\n\r\n").await.unwrap();
    let mut answer = vec![];
    let _ = soon("the end", stream.read_to_end(&mut answer)).await;
    assert_eq!(answer, b"");
    assert_eq!(refused(&world, "proxy_protocol"), 1);
}

#[tokio::test]
async fn only_a_trusted_proxy_may_pass_connections_on() {
    let front = Front { proxy_protocol: true, ..Front::default() };
    let world = World::behind(front, Limits::default(), Activity::new(SystemClock::new())).await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let _ = stream.write_all(b"PROXY TCP4 203.0.113.5 10.0.0.1 40000 443\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut answer = vec![];
    let _ = soon("the end", stream.read_to_end(&mut answer)).await;
    assert_eq!(answer, b"");
    assert_eq!(refused(&world, "proxy_protocol"), 1);
}

fn refused(world: &World, reason: &str) -> u64 {
    let (mut registry, mut text) = (Registry::default(), String::new());
    world.stats.register(&mut registry);
    encode(&mut text, &registry).unwrap();
    let line = format!("proxy_refused_connections_total{{reason=\"{reason}\"}} ");
    text.lines().find_map(|l| l.strip_prefix(&line)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn whoever_says_nothing_is_let_go() {
    let limits = Limits { handshake: Duration::from_millis(50), ..Limits::default() };
    let (world, _) = secured(Front::default(), limits).await;
    let mut silent = TcpStream::connect(world.secure).await.unwrap();
    assert_eq!(soon("the end", silent.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(refused(&world, "tls"), 1);
}

#[tokio::test]
async fn an_idle_connection_is_asked_to_end_and_a_busy_one_is_not() {
    let limits = Limits { header_read: Duration::from_millis(100), ..Limits::default() };
    let ((world, authority), app) = (
        secured(Front::default(), limits).await,
        App::new(|request: Request<Incoming>| async move {
            if request.uri().path() == "/stream" {
                let (mut sender, body) = streamed();
                tokio::spawn(async move {
                    let mut n = 0;
                    while sender.send(Ok(http_body::Frame::data(format!("{n}\n").into()))).await.is_ok() && n < 10 {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        n += 1;
                    }
                });
                return Response::new(body);
            }
            Response::new(full("short"))
        })
        .await,
    );
    world.put(&awake("alice", app.address)).await;
    let mut sender = authority.http2(&world, "alice.test").await;
    let long = sender.send_request(get2("alice.test", "/stream").body(full("")).unwrap()).await.unwrap();
    assert_eq!(text(long).await.lines().count(), 11, "a stream outlasts idleness many times");
    soon("the end of an idle connection", async {
        while !sender.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn more_requests_than_may_be_under_way_are_told_so_and_places_come_back() {
    let limits = Limits { streams_in_all: 1, ..Limits::default() };
    let ((world, authority), app) = (secured(Front::default(), limits).await, App::hello("alice").await);
    world.put(&asleep("alice", app.address)).await;
    let sender = authority.http2(&world, "alice.test").await;
    let held = tokio::spawn(sender.clone().send_request(get2("alice.test", "/held").body(full("")).unwrap()));
    until("a request waits", || world.open("alice") == 1).await;
    let ask = || sender.clone().send_request(get2("alice.test", "/more").body(full("")).unwrap());
    assert_eq!(ask().await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    world.put(&awake("alice", app.address)).await;
    assert_eq!(text(held.await.unwrap().unwrap()).await, "alice GET /held");
    world.until_closed("alice").await;
    soon("its place", async {
        while ask().await.unwrap().status() != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_stop_lets_requests_over_http2_finish() {
    let ((mut world, authority), app) = (secured(Front::default(), Limits::default()).await, App::hello("alice").await);
    world.put(&awake("alice", app.address)).await;
    let (mut sending, body) = streamed();
    let mut sender = authority.http2(&world, "alice.test").await;
    let asks = Request::post("https://alice.test/upload").body(body).unwrap();
    let answer = tokio::spawn(sender.send_request(asks));
    until("the request is under way", || world.open("alice") == 1).await;
    world.shutdown.cancel();
    sending.send(Ok(http_body::Frame::data("late".into()))).await.unwrap();
    drop(sending);
    assert_eq!(text(answer.await.unwrap().unwrap()).await, "alice POST /upload");
    soon("the proxy's end", world.proxy.take().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_path_on_the_domain_leads_to_an_instance_where_that_is_wanted() {
    let limits = Limits { page_after: Duration::from_millis(20), ..Limits::default() };
    let ((world, _), app) = (secured(Front { paths: true, ..Front::default() }, limits).await, App::new(show).await);
    world.put(&with_paths(awake("alice", app.address), &[("/deep", "web")])).await;
    let mut visitor = world.connect().await;
    let mut forging = request("GET", "test", "/proxy/alice/deep/x?y=/proxy/alice", "");
    forging.headers_mut().insert("x-forwarded-prefix", "/forged".parse().unwrap());
    let reply = visitor.send(forging).await;
    assert_eq!(
        reply.text(),
        "HTTP/1.1 /deep/x?y=/proxy/alice\nhost: test\nx-forwarded-for: 127.0.0.1\nx-forwarded-host: test\n\
         x-forwarded-prefix: /proxy/alice\nx-forwarded-proto: http"
    );
    let reply = visitor.send(request("GET", "test", "/proxy/alice?a=b", "")).await;
    assert_eq!(
        (reply.status, reply.headers["location"].as_bytes()),
        (StatusCode::PERMANENT_REDIRECT, &b"/proxy/alice/?a=b"[..])
    );
    for nowhere in [
        "/proxy/alice/.well-known/portreeve/progress",
        "/proxy/alice/",
        "/proxy/nobody/deep",
        "/proxy/nobody",
        "/proxy/..",
        "/proxy/",
        "/deep",
    ] {
        assert_eq!(visitor.send(request("GET", "test", nowhere, "")).await.status, StatusCode::NOT_FOUND, "{nowhere}");
    }
    // The page of a sleeper follows it from there as well.
    world.put(&asleep("bob", app.address)).await;
    let mut looks = request("GET", "test", "/proxy/bob/a", "");
    looks.headers_mut().insert("accept", "text/html".parse().unwrap());
    assert!(visitor.send(looks).await.text().contains("This app is starting"));
    world.waker.plan(awake("bob", app.address), Duration::from_millis(20));
    let follows = request("GET", "test", "/.well-known/portreeve/progress?path=%2Fproxy%2Fbob%2Fa", "");
    assert!(visitor.send(follows).await.text().ends_with("event: ready\ndata: \n\n"));

    let plain = World::new().await;
    plain.put(&awake("alice", app.address)).await;
    assert_eq!(plain.get("test", "/proxy/alice/").await.status, StatusCode::NOT_FOUND, "unless it is asked for");
}

#[tokio::test]
async fn an_acme_server_is_answered_before_everything_else_and_wakes_nobody() {
    let front = Front { redirect: Some(443), ..Front::default() };
    let (world, _) = secured(front, Limits::default()).await;
    world.put(&asleep("alice", world.address)).await;
    let under_way = world
        .challenges
        .answer("alice.test", Answer::Http { token: "token".into(), authorization: "token.print".into() });
    let path = "/.well-known/acme-challenge/token";
    let reply = world.get("alice.test", path).await;
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, "token.print"));
    assert_eq!(reply.headers["content-type"], "application/octet-stream");
    assert_eq!(world.get("bob.test", path).await.status, StatusCode::NOT_FOUND);
    let other = world.get("alice.test", "/.well-known/acme-challenge/other").await;
    assert_eq!(other.status, StatusCode::PERMANENT_REDIRECT);
    drop(under_way);
    assert_eq!(world.get("alice.test", path).await.status, StatusCode::PERMANENT_REDIRECT);
    assert_eq!(world.waker.calls("alice"), 0);
}

#[tokio::test]
async fn an_acme_server_is_shown_what_it_looks_for_by_name_and_nothing_else_is_spoken() {
    let (world, authority) = secured(Front::default(), Limits::default()).await;
    let looks = |name| authority.connect(world.secure, name, "acme-tls/1", b"");
    assert!(looks("alice.test").await.is_err(), "nothing is under way");
    // In place of one with the digest: the client of this test takes no certificate that it cannot judge.
    let made = authority.certificate(&["alice.test"]);
    let under_way = world.challenges.answer("alice.test", Answer::Tls(made.key.clone()));
    let mut stream = looks("alice.test").await.unwrap();
    let session = stream.get_ref().1;
    assert_eq!(session.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    assert_eq!(session.peer_certificates().unwrap()[0], made.key.cert[0]);
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: alice.test\r\n\r\n").await;
    let mut rest = vec![];
    let _ = soon("the end", stream.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"", "nobody is served");
    assert!(looks("bob.test").await.is_err(), "another name");
    let visitor = authority.connect(world.secure, "alice.test", "h2", b"").await.unwrap();
    assert_ne!(visitor.get_ref().1.peer_certificates().unwrap()[0], made.key.cert[0], "visitors are shown their own");
    drop(under_way);
    assert!(looks("alice.test").await.is_err());
}
