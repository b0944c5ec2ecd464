//! What strangers' connections may not do: stay, and keep others out.

use std::time::Duration;

use http::Method;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::tokens::bearer;
use crate::support::api_server::{ApiServer, PATIENCE, instance};
use crate::support::client::INSTANCES;

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
