//! What strangers' connections may not do: stay, and keep others out.

use std::time::Duration;

use http::Method;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::tokens::bearer;
use crate::support::api_server::{ApiServer, PATIENCE, heavy, instance};
use crate::support::client::{INSTANCES, ends_well};

#[tokio::test]
async fn thousands_of_silent_strangers_keep_nobody_out() {
    let server = ApiServer::start().await;
    let mut watch = server.client.watch(&format!("{INSTANCES}?watch=1")).await;
    let mut strangers = vec![];
    for _ in 0..3000 {
        strangers.push(TcpStream::connect(&server.client.address).await.expect("a connection"));
    }
    // From the same address, and sooner than any of them is given up by itself.
    let made = tokio::time::timeout(Duration::from_secs(5), server.client.post(INSTANCES, &instance("a"))).await;
    made.expect("an answer at once").expect(201);
    assert_eq!(watch.told().await, ("ADDED".into(), "a".into()), "who is known stays");
    let mut rest = vec![];
    let first = tokio::time::timeout(PATIENCE, strangers[0].read_to_end(&mut rest)).await;
    drop(first.expect("the first of them made room long ago"));
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_refused_stranger_is_left_without_a_connection() {
    let server = ApiServer::start().await;
    for path in [INSTANCES, "/livez"] {
        let mut stream = server.client.connect().await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE / 2, stream.read_to_string(&mut answer)).await.expect("closed").unwrap();
        let code = if path == INSTANCES { "401" } else { "200" };
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")) && answer.contains("connection: close"), "{answer}");
    }
    let io = TokioIo::new(server.client.connect_with(&[b"h2"]).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get(format!("https://{}{INSTANCES}", server.client.address));
    let refused = sender.send_request(request.body(Empty::<bytes::Bytes>::new()).unwrap()).await.unwrap();
    assert_eq!(refused.status(), 401);
    let status = refused.into_body().collect().await.expect("a whole answer").to_bytes();
    assert!(status.starts_with(b"{"), "{status:?}");
    let ended = tokio::time::timeout(PATIENCE / 2, connection).await.expect("closed").unwrap();
    ended.expect("in order");
}

#[tokio::test]
async fn a_refused_impersonation_is_in_the_audit() {
    let server = ApiServer::start().await;
    let editor = bearer(&server, "e", json!({"role": "editor"})).await;
    let before = server.audit(1).await.len();
    let huge = "x".repeat(5000);
    let tried = [("impersonate-user", "admin"), ("impersonate-group", "system:masters"), ("impersonate-user", &huge)];
    for ((header, value), told) in tried.into_iter().zip(1..) {
        let name = if header == "impersonate-user" { &value[..value.len().min(253)] } else { "" };
        // A read, which is not told by itself.
        editor.send(Method::GET, INSTANCES, &[(header, value)], "").await.expect(403);
        let lines = server.audit(before + told).await;
        let line =
            lines.iter().rev().find(|l| l["verb"] == "impersonate" && l["name"].as_str().unwrap_or_default() == name);
        let line = line.unwrap_or_else(|| panic!("no line of {name:?}: {lines:?}"));
        for (field, value) in [("user", "e"), ("resource", "users"), ("source", "127.0.0.1")] {
            assert_eq!(line[field], value, "{line}");
        }
        assert_eq!(line["code"], 403);
    }
    let admin = &server.client;
    admin.send(Method::GET, INSTANCES, &[("impersonate-group", "a")], "").await.expect(400);
    let told = server.audit(before + 4).await;
    assert!(told.iter().any(|l| l["verb"] == "impersonate" && l["user"] == "admin" && l["code"] == 400), "{told:?}");
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_broken_off_and_its_neighbours_are_not() {
    const STALL: Duration = Duration::from_millis(1500);
    let server = ApiServer::start_patient(STALL).await;
    let client = &server.client;
    // More than all buffers between the two hold.
    for i in 0..160 {
        server.put(heavy(&format!("heavy-{i}"), 0)).await;
    }
    let alone = client.open(Method::GET, INSTANCES, &[], "").await;
    let mut sender = client.http2().await;
    let shared = sender.send_request(client.request_over_http2(INSTANCES)).await.unwrap();
    let read = sender.send_request(client.request_over_http2(INSTANCES)).await.unwrap();
    let mut watch = client.watch(&format!("{INSTANCES}?watch=1&fieldSelector=metadata.name=zz-end")).await;
    assert!(ends_well(read.into_body()).await, "who reads gets it all");
    // What is tested is that nobody reads for so long.
    tokio::time::sleep(3 * STALL).await;
    assert!(!ends_well(alone.into_body()).await);
    assert!(!ends_well(shared.into_body()).await, "also where its connection goes on");
    let neighbour = sender.send_request(client.request_over_http2("/livez")).await;
    assert_eq!(neighbour.expect("the connection of the stalled stream goes on").status(), 200);
    client.post(INSTANCES, &instance("zz-end")).await.expect(201);
    assert_eq!(watch.told().await, ("ADDED".into(), "zz-end".into()), "a watch that has nothing to tell stays");
}

#[tokio::test]
async fn one_user_does_not_take_the_connections_of_all() {
    let server = ApiServer::start().await;
    let editor = bearer(&server, "e", json!({"role": "editor"})).await;
    let request = format!(
        "GET {INSTANCES}/none HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\r\n",
        editor.token.as_deref().unwrap()
    );
    let ask = async || {
        let mut stream = editor.connect().await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let size = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await.expect("an answer").unwrap();
        let code = String::from_utf8_lossy(&answer[..size]).split(' ').nth(1).unwrap_or_default().to_owned();
        (code, stream)
    };
    let mut open = vec![];
    let refused = loop {
        match ask().await {
            (code, stream) if code == "404" => open.push(stream),
            other => break other,
        }
        assert!(open.len() < 2000, "one user has them all");
    };
    assert_eq!((refused.0.as_str(), open.len()), ("429", 512));
    server.client.get(INSTANCES).await.expect(200);
    let mut one = open.pop().expect("one");
    one.shutdown().await.unwrap();
    drop(one);
    let again = async {
        while ask().await.0 != "404" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("room for another when one has gone");
}
