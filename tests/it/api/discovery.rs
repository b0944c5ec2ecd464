//! Discovery and OpenAPI.

use http::{Method, header};
use serde_json::{Value, json};

use crate::support::api_server::ApiServer;

#[tokio::test]
async fn both_forms_of_discovery_tell_the_same_resources() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let legacy = client.get("/apis/portreeve.dev/v1").await.expect(200);
    let names: Vec<&str> =
        legacy["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "instances",
            "instances/scale",
            "instances/status",
            "instances/why",
            "dockerhosts",
            "dockerhosts/containers",
            "dockerhosts/status",
            "accesstokens"
        ]
    );
    assert_eq!(legacy["resources"][0]["shortNames"], json!(["inst"]));
    assert_eq!(legacy["resources"][1]["group"], "autoscaling");

    let aggregated = |version| format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    // kubectl 1.27 to 1.29 know only the second.
    for (path, version) in [("/api", "v2"), ("/apis", "v2"), ("/api", "v2beta1"), ("/apis", "v2beta1")] {
        let accept = format!("{},application/json", aggregated(version));
        let accept = accept.as_str();
        let answer = client.send(Method::GET, path, &[("accept", accept)], "").await;
        assert_eq!(answer.headers[header::CONTENT_TYPE], aggregated(version));
        assert_eq!(answer.headers[header::VARY], "Accept");
        assert_eq!(answer.json()["apiVersion"], format!("apidiscovery.k8s.io/{version}"));
        let tag = answer.headers[header::ETAG].to_str().unwrap().to_owned();
        let headers = [("accept", accept), ("if-none-match", tag.as_str())];
        let again = client.send(Method::GET, path, &headers, "").await;
        assert_eq!(again.status, 304);
        assert!(!again.headers.contains_key(header::CONTENT_TYPE), "kubectl would take it for the cached answer's");
    }
    let accept = aggregated("v2");
    let groups = client.send(Method::GET, "/apis", &[("accept", &accept)], "").await.json();
    let own = groups["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "portreeve.dev").unwrap();
    assert_eq!(own["versions"][0]["resources"][0]["subresources"][1]["subresource"], "status");

    let list = client.get("/apis").await.expect(200);
    assert_eq!(list["kind"], "APIGroupList");
    assert_eq!(client.get("/api").await.expect(200)["kind"], "APIVersions");
    assert_eq!(client.get("/apis/portreeve.dev").await.expect(200)["kind"], "APIGroup");
    assert_eq!(client.get("/version").await.expect(200)["major"], "1");
    client.get("/apis/apps").await.expect(404);
}

#[tokio::test]
async fn openapi_lets_kubectl_write_and_explain() {
    let server = ApiServer::start().await;
    let index = server.client.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/portreeve.dev/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert!(url.contains("?hash="), "{url}");
    let document = server.client.get(&url).await.expect(200);
    let patch = &document["paths"]["/apis/portreeve.dev/v1/namespaces/{namespace}/instances/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Instance");
    assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
    let spec = &document["components"]["schemas"]["dev.portreeve.v1.Instance"]["properties"]["spec"];
    assert_eq!(spec["required"], json!(["image"]));
    assert_eq!(spec["properties"]["power"]["enum"], json!(["Auto", "Running", "Stopped"]));
    assert_eq!(spec["properties"]["ports"]["x-kubernetes-list-map-keys"], json!(["name"]));

    // Every reference leads somewhere.
    fn references(node: &Value, found: &mut Vec<String>) {
        match node {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|v| references(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }
    for path in index["paths"].as_object().unwrap().keys() {
        let document = server.client.get(&format!("/openapi/v3/{path}")).await.expect(200);
        let mut found = vec![];
        references(&document, &mut found);
        for reference in found {
            assert!(document.pointer(&reference[1..]).is_some(), "{path}: {reference} leads nowhere");
        }
    }
}

#[tokio::test]
async fn the_old_openapi_document_is_empty_in_both_of_its_forms() {
    let server = ApiServer::start().await;
    const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    // As client-go asks for it, now and up to 1.26, and as it is answered.
    for accept in [PROTOBUF, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"] {
        let answer = server.client.send(Method::GET, "/openapi/v2", &[("accept", accept)], "").await;
        assert_eq!((answer.status.as_u16(), &answer.headers[header::CONTENT_TYPE]), (200, &PROTOBUF.parse().unwrap()));
        assert_eq!(answer.headers[header::VARY], "Accept");
        assert!(answer.bytes.starts_with(b"\x0a\x032.0"), "the first field is the version: {:?}", answer.bytes);
    }
    for accept in ["application/json", "application/json, */*", "*/*"] {
        let answer = server.client.send(Method::GET, "/openapi/v2", &[("accept", accept)], "").await;
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json", "{accept}");
        assert_eq!(answer.headers[header::VARY], "Accept");
        let document = answer.expect(200);
        assert_eq!((&document["swagger"], &document["definitions"]), (&json!("2.0"), &json!({})));
    }
}
