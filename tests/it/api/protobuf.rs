//! What typed clients in Go send as protobuf: written objects and the options of a deletion.

use http::Method;
use serde_json::{Value, json};

use crate::support::api_server::ApiServer;
use crate::support::protobuf::{PROTOBUF, bytes, message};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const ONE: &str = "/api/v1/namespaces/default/secrets/db";

/// A Secret of one entry.
fn secret(version: &str, key: &str, value: &[u8]) -> Vec<u8> {
    let meta = [bytes(1, b"db"), bytes(3, b"default"), bytes(6, version.as_bytes())].concat();
    let entry = [bytes(1, key.as_bytes()), bytes(2, value)].concat();
    message("v1", "Secret", &[bytes(1, &meta), bytes(2, &entry), bytes(3, b"Opaque")].concat())
}

/// The options of a deletion: preconditions, and whether it is to be tried only.
fn options(uid: &str, version: &str, dry_run: bool) -> Vec<u8> {
    let conditions = [bytes(1, uid.as_bytes()), bytes(2, version.as_bytes())].concat();
    let mut raw = [bytes(2, &conditions), bytes(4, b"Background")].concat();
    if dry_run {
        raw.extend(bytes(5, b"All"));
    }
    message("v1", "DeleteOptions", &raw)
}

#[tokio::test]
async fn a_secret_is_made_and_replaced() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let made = client.send(Method::POST, SECRETS, &PROTOBUF, secret("", "password", b"one")).await.expect(201);
    assert_eq!(made["data"], json!({"password": "b25l"}));
    let version = made["metadata"]["resourceVersion"].as_str().expect("a version");
    // long enough that its length takes two bytes
    let long = [b'x'; 300];
    let replaced = client.send(Method::PUT, ONE, &PROTOBUF, secret(version, "token", &long)).await.expect(200);
    let entries = replaced["data"].as_object().expect("entries");
    assert_eq!((entries.len(), entries["token"].as_str().map(str::len)), (1, Some(400)), "{replaced}");
    let stale = client.send(Method::PUT, ONE, &PROTOBUF, secret(version, "token", b"late")).await.expect(409);
    assert_eq!(stale["reason"], "Conflict");
    let mut torn = secret("", "password", b"one");
    torn.truncate(torn.len() - 9);
    client.send(Method::PUT, ONE, &PROTOBUF, torn).await.expect(400);
    assert_eq!(client.get(ONE).await.expect(200), replaced, "what was refused changed nothing");
}

#[tokio::test]
async fn the_options_of_a_deletion_are_heeded() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db"}});
    let made = client.post(SECRETS, &body).await.expect(201);
    let text = |field: &str| made["metadata"][field].as_str().expect("a text").to_owned();
    let (uid, version) = (text("uid"), text("resourceVersion"));
    let delete = async |options: Vec<u8>| client.send(Method::DELETE, ONE, &PROTOBUF, options).await;
    assert_eq!(delete(options("another", &version, false)).await.expect(409)["reason"], "Conflict");
    assert_eq!(delete(options(&uid, "1", false)).await.expect(409)["reason"], "Conflict");
    delete(options(&uid, &version, true)).await.expect(200);
    assert_eq!(client.get(ONE).await.expect(200), made, "refused or only tried");
    let done: Value = delete(options(&uid, &version, false)).await.expect(200);
    assert_eq!(done["status"], "Success", "{done}");
    client.get(ONE).await.expect(404);
}
