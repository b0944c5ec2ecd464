//! ConfigMaps: values that anyone who reads the object may see.

use http::Method;
use serde_json::json;

use crate::support::api_server::ApiServer;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn texts_and_bytes_are_kept_as_written() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let body =
        json!({"metadata": {"name": "app.settings"}, "data": {"a.conf": "x=1\n"}, "binaryData": {"logo": "/w=="}});
    let made = client.post(MAPS, &body).await.expect(201);
    assert_eq!((&made["data"], &made["binaryData"]), (&body["data"], &body["binaryData"]));
    let headers = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = client.send(Method::GET, MAPS, &headers, "").await.expect(200);
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..2], [json!("app.settings"), json!(2)]);
    let patched = client.merge(&format!("{MAPS}/app.settings"), &json!({"data": {"a.conf": null, "b": "y"}})).await;
    assert_eq!(patched.expect(200)["data"], json!({"b": "y"}));
}

#[tokio::test]
async fn bad_keys_and_bytes_and_changes_of_immutable_ones_are_refused() {
    let server = ApiServer::start().await;
    let client = &server.client;
    for (body, field) in [
        (json!({"metadata": {"name": "a"}, "data": {"a b": "x"}}), "data[a b]"),
        (json!({"metadata": {"name": "a"}, "data": {"a": 5}}), "data.a"),
        (json!({"metadata": {"name": "a"}, "data": {"a": "x"}, "binaryData": {"a": ""}}), "binaryData[a]"),
        (json!({"metadata": {"name": "a"}, "binaryData": {"a": "%%"}}), "binaryData.a"),
    ] {
        let told = client.post(MAPS, &body).await.expect(422);
        assert_eq!(told["details"]["causes"][0]["field"], field, "{told}");
    }
    client.post(MAPS, &json!({"metadata": {"name": "a"}, "immutable": true, "data": {"a": "x"}})).await.expect(201);
    let path = format!("{MAPS}/a");
    client.merge(&path, &json!({"metadata": {"labels": {"x": "y"}}})).await.expect(200);
    for patch in [json!({"data": {"a": "y"}}), json!({"binaryData": {"b": "eA=="}}), json!({"immutable": false})] {
        let told = client.merge(&path, &patch).await.expect(422);
        assert!(told["message"].as_str().unwrap().contains("immutable"), "{told}");
    }
    // Typed clients write so: whole, without a version.
    let body = json!({"metadata": {"name": "a"}, "immutable": true, "data": {"a": "x"}, "binaryData": {}});
    client.put(&path, &body).await.expect(200);
}
