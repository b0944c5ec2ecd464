//! Large answers in gzip, for those who take it; small ones, watches and logs never.

use std::io::Read;

use flate2::read::GzDecoder;
use http::{Method, header};
use serde_json::{Value, json};

use crate::support::api_server::ApiServer;
use crate::support::client::{Answer, Client};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn with(client: &Client, path: &str, encodings: &str) -> Answer {
    client.send(Method::GET, path, &[("accept-encoding", encodings)], "").await
}

fn unpacked(answer: &Answer) -> Value {
    assert_eq!(answer.headers[header::CONTENT_ENCODING], "gzip");
    let mut plain = vec![];
    GzDecoder::new(&answer.bytes[..]).read_to_end(&mut plain).expect("gzip");
    serde_json::from_slice(&plain).expect("JSON")
}

/// A server with ConfigMaps of 100 KiB each.
async fn server(count: usize) -> ApiServer {
    let server = ApiServer::start().await;
    for i in 0..count {
        let map = json!({"metadata": {"name": format!("m{i}")}, "data": {"k": "lorem ipsum ".repeat(100 << 10).split_at(100 << 10).0}});
        server.client.post(MAPS, &map).await.expect(201);
    }
    server
}

#[tokio::test]
async fn a_large_list_is_packed_for_those_who_take_it() {
    let server = server(3).await;
    let client = &server.client;
    let plain = client.get(MAPS).await;
    assert!(plain.headers.get(header::CONTENT_ENCODING).is_none());
    assert_eq!(plain.headers[header::CONTENT_LENGTH].to_str().unwrap(), plain.bytes.len().to_string());
    let packed = with(client, MAPS, "deflate, gzip;q=0.9").await;
    assert!(packed.bytes.len() * 20 < plain.bytes.len(), "{} bytes", packed.bytes.len());
    assert!(packed.headers.get_all(header::VARY).iter().any(|v| v == "Accept-Encoding"));
    assert_eq!(unpacked(&packed), plain.json());
    for refused in ["identity", "gzip;q=0", "br"] {
        assert!(with(client, MAPS, refused).await.headers.get(header::CONTENT_ENCODING).is_none(), "{refused}");
    }
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"), ("accept-encoding", "gzip")];
    let small = client.send(Method::GET, MAPS, &table, "").await;
    assert!(small.headers.get(header::CONTENT_ENCODING).is_none(), "a small answer stays as it is");
    let one = with(client, &format!("{MAPS}/m0"), "gzip").await;
    assert!(one.headers.get(header::CONTENT_ENCODING).is_none(), "100 KiB are below what is worth it");
}

#[tokio::test]
async fn what_streams_is_never_packed() {
    let server = server(3).await;
    let path = format!("{MAPS}?watch=1");
    let mut watch = server.client.watch_as(&path, &[("accept-encoding", "gzip")]).await;
    for _ in 0..3 {
        assert_eq!(watch.told().await.0, "ADDED");
    }
    let change = json!({"metadata": {"labels": {"a": "b"}}});
    server.client.merge(&format!("{MAPS}/m0"), &change).await.expect(200);
    assert_eq!(watch.told().await, ("MODIFIED".into(), "m0".into()));
}

#[tokio::test]
async fn a_document_is_known_by_its_weak_tag_too() {
    let server = server(0).await;
    let path = "/openapi/v3/api/v1";
    let tag = server.client.get(path).await.headers[header::ETAG].to_str().unwrap().to_owned();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", W/{tag}")] {
        let headers = [("accept-encoding", "gzip"), ("if-none-match", known.as_str())];
        let answer = server.client.send(Method::GET, path, &headers, "").await;
        assert_eq!((answer.status.as_u16(), answer.bytes.len()), (304, 0), "{known}");
    }
}
