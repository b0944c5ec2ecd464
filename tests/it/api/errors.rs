//! Every code of the API's errors with its reason, its message and its details, as clients branch on them.

use http::Method;
use serde_json::{Value, json};

use super::tokens::bearer;
use crate::support::api_server::{ApiServer, instance, running};
use crate::support::client::{Answer, Client, INSTANCES};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// That an answer is a whole `Status`.
#[track_caller]
fn status(answer: Answer, code: u16, reason: &str) -> Value {
    assert_eq!(answer.headers["content-type"], "application/json");
    let status = answer.expect(code);
    let head = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code});
    for (name, value) in head.as_object().unwrap() {
        assert_eq!(&status[name], value, "{name} of {status}");
    }
    assert!(status["metadata"].is_object(), "{status}");
    assert!(status["message"].as_str().is_some_and(|m| !m.is_empty()), "{status}");
    status
}

async fn patch(client: &Client, path: &str, media_type: &str, body: impl Into<bytes::Bytes>) -> Answer {
    client.send(Method::PATCH, path, &[("content-type", media_type)], body).await
}

#[tokio::test]
async fn what_is_not_allowed_on_a_resource_is_405() {
    let server = ApiServer::start().await;
    let client = &server.client;
    let base = "the server does not allow this method on the requested resource";
    for (method, path, why) in [
        (Method::PUT, INSTANCES, ""),
        (Method::PATCH, INSTANCES, ""),
        (Method::POST, "/apis/portreeve.dev/v1/instances", ""),
        (Method::DELETE, "/apis/portreeve.dev/v1/instances", ""),
        (Method::POST, "/version", ""),
        (Method::DELETE, "/apis", ""),
        (Method::PUT, "/openapi/v3", ""),
        (Method::POST, "/api/v1/nodes", "write that one"),
        (Method::DELETE, "/api/v1/nodes/a", "write that one"),
        (Method::PUT, "/api/v1/nodes/a/status", "DockerHost"),
        (Method::POST, "/api/v1/namespaces/default/pods", "write the instance of the same name"),
        (Method::PATCH, "/api/v1/namespaces/default/pods/a", "write the instance of the same name"),
        (Method::DELETE, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a", "only read"),
        (Method::POST, "/apis/portreeve.dev/v1/namespaces/default/instances/a/scale", ""),
        (Method::GET, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", ""),
    ] {
        let headers = if method == Method::PATCH { [("content-type", "application/merge-patch+json")] } else { JSON };
        let answer = client.send(method.clone(), path, &headers, "{}").await;
        let told = status(answer, 405, "MethodNotAllowed");
        let message = told["message"].as_str().unwrap();
        assert!(message.starts_with(base) && message.contains(why), "{method} {path}: {message}");
    }
}

#[tokio::test]
async fn a_form_that_is_not_served_is_406() {
    let server = ApiServer::start().await;
    for (path, accept) in [
        (INSTANCES.to_owned(), "text/html"),
        (INSTANCES.to_owned(), "application/vnd.kubernetes.protobuf"),
        (format!("{INSTANCES}/a"), "application/yaml"),
        ("/api/v1/nodes".to_owned(), "image/png, text/*"),
        (
            format!("{INSTANCES}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"),
            "application/json;as=Table;v=v1;g=meta.k8s.io",
        ),
    ] {
        let answer = server.client.send(Method::GET, &path, &[("accept", accept)], "").await;
        let told = status(answer, 406, "NotAcceptable");
        assert_eq!(told["message"], "only the following media types are accepted: application/json", "{accept}");
    }
}

#[tokio::test]
async fn what_is_too_large_is_413_and_changes_nothing() {
    let server = ApiServer::start().await;
    let client = &server.client;
    client.post(MAPS, &json!({"metadata": {"name": "m"}})).await.expect(201);
    let before = server.store.revision();
    let map = |bytes: usize| json!({"metadata": {"name": "n"}, "data": {"k": "x".repeat(bytes)}});
    // More than is stored, and more than is read.
    for bytes in [300 << 10, 800 << 10] {
        let body = map(bytes);
        status(client.post(MAPS, &body).await, 413, "RequestEntityTooLarge");
        status(
            client.put(&format!("{MAPS}/m"), &body).await,
            if bytes > 700 << 10 { 413 } else { 400 },
            if bytes > 700 << 10 { "RequestEntityTooLarge" } else { "BadRequest" },
        );
        let of_m = json!({"data": body["data"]}).to_string();
        for media_type in ["application/merge-patch+json", "application/strategic-merge-patch+json"] {
            let answer = patch(client, &format!("{MAPS}/m"), media_type, of_m.clone()).await;
            status(answer, 413, "RequestEntityTooLarge");
        }
        let answer = patch(client, &format!("{MAPS}/m?fieldManager=a"), "application/apply-patch+yaml", of_m).await;
        status(answer, 413, "RequestEntityTooLarge");
    }
    let operations: Vec<Value> =
        (0..1001).map(|_| json!({"op": "test", "path": "/kind", "value": "ConfigMap"})).collect();
    let answer =
        patch(client, &format!("{MAPS}/m"), "application/json-patch+json", json!(operations).to_string()).await;
    status(answer, 413, "RequestEntityTooLarge");
    assert_eq!(server.store.revision(), before);
}

#[tokio::test]
async fn a_body_in_no_known_form_is_415_and_names_those_there_are() {
    let server = ApiServer::start().await;
    let client = &server.client;
    client.post(INSTANCES, &instance("a")).await.expect(201);
    client.post(MAPS, &json!({"metadata": {"name": "m"}})).await.expect(201);
    let (own, core) = (format!("{INSTANCES}/a"), format!("{MAPS}/m"));
    let patches = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
    let core_patches = "application/json-patch+json, application/merge-patch+json, \
                        application/strategic-merge-patch+json, application/apply-patch+yaml";
    for (path, media_type, accepted) in [
        (&own, "application/strategic-merge-patch+json", patches),
        (&own, "application/json", patches),
        (&own, "", patches),
        (&format!("{own}/scale"), "application/strategic-merge-patch+json", patches),
        (&core, "application/json", core_patches),
        (&"/api/v1/nodes/a".to_owned(), "text/plain", core_patches),
    ] {
        let headers = if media_type.is_empty() { vec![] } else { vec![("content-type", media_type)] };
        let told = status(client.send(Method::PATCH, path, &headers, "{}").await, 415, "UnsupportedMediaType");
        let message = "the body of the request was in an unknown format - accepted media types include: ";
        assert_eq!(told["message"], format!("{message}{accepted}"), "{path} {media_type}");
    }
    for (method, path) in [(Method::POST, INSTANCES), (Method::PUT, own.as_str()), (Method::DELETE, own.as_str())] {
        let answer = client.send(method, path, &[("content-type", "text/plain")], "{}").await;
        let told = status(answer, 415, "UnsupportedMediaType");
        assert!(told["message"].as_str().unwrap().contains("application/json"), "{told}");
    }
}

#[tokio::test]
async fn a_version_that_is_no_more_is_410_and_one_to_come_504() {
    let server = ApiServer::start().await;
    let client = &server.client;
    for name in ["a", "b", "c"] {
        client.post(INSTANCES, &instance(name)).await.expect(201);
    }
    let page = client.get(&format!("{INSTANCES}?limit=1")).await.expect(200);
    let (token, old) =
        (page["metadata"]["continue"].as_str().unwrap(), page["metadata"]["resourceVersion"].as_str().unwrap());
    client.merge(&format!("{INSTANCES}/a"), &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    server.store.compact(server.store.revision()).await.unwrap();
    let exact = format!("{INSTANCES}?resourceVersionMatch=Exact&resourceVersion={old}");
    let told = status(client.get(&exact).await, 410, "Expired");
    assert!(told["message"].as_str().unwrap().starts_with(&format!("too old resource version: {old} (")), "{told}");
    let told = status(client.get(&format!("{INSTANCES}?limit=1&continue={token}")).await, 410, "Expired");
    assert!(told["message"].as_str().unwrap().contains("continue parameter is too old"), "{told}");

    for query in
        ["resourceVersion=99999", "resourceVersion=99999&resourceVersionMatch=Exact", "watch=1&resourceVersion=99999"]
    {
        let told = status(client.get(&format!("{INSTANCES}?{query}")).await, 504, "Timeout");
        assert_eq!(told["details"]["retryAfterSeconds"], 1, "{query}: {told}");
        assert_eq!(told["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
        assert!(
            told["message"].as_str().unwrap().starts_with("Too large resource version: 99999, current: "),
            "{told}"
        );
    }
}

#[tokio::test]
async fn who_takes_more_than_a_share_is_429_and_may_come_again() {
    let server = ApiServer::start().await;
    let viewer = bearer(&server, "v", json!({"role": "viewer"})).await;
    let mut watches = vec![];
    // As many as one user may have open at a time.
    for _ in 0..500 {
        watches.push(viewer.watch(&format!("{INSTANCES}?watch=1")).await);
    }
    let answer = viewer.get(&format!("{INSTANCES}?watch=1")).await;
    assert_eq!(answer.headers["retry-after"], "1");
    let told = status(answer, 429, "TooManyRequests");
    assert_eq!(told["details"]["retryAfterSeconds"], 1);
    viewer.get(INSTANCES).await.expect(200);
    drop(server.client.watch(&format!("{INSTANCES}?watch=1")).await);
}

#[tokio::test]
async fn an_eviction_that_cannot_be_done_is_429_without_a_time() {
    let server = ApiServer::start().await;
    let mut keeper = instance("a");
    keeper["spec"]["volumes"] = json!([{"name": "v", "mountPath": "/v"}]);
    server.client.post(INSTANCES, &keeper).await.expect(201);
    server.put_status("a", running()).await;
    let before = server.store.revision();
    let path = "/api/v1/namespaces/default/pods/a/eviction";
    let answer = server.client.post(path, &json!({"metadata": {"name": "a"}})).await;
    assert!(answer.headers.get("retry-after").is_none(), "drain waits by itself, and shows its user why");
    status(answer, 429, "TooManyRequests");
    // A body that is none is no eviction.
    for body in [
        json!([]),
        json!("x"),
        json!({"kind": "DeleteOptions"}),
        json!({"deleteOptions": []}),
        json!({"deleteOptions": {"dryRun": "All"}}),
        json!({"metadata": {"name": 7}}),
    ] {
        status(server.client.post(path, &body).await, 400, "BadRequest");
    }
    assert_eq!(server.store.revision(), before);
}

#[tokio::test]
async fn a_question_in_another_shape_is_400() {
    let server = ApiServer::start().await;
    for (review, body) in [
        ("selfsubjectrulesreviews", json!({"spec": 5})),
        ("selfsubjectrulesreviews", json!({"spec": {"namespace": ["a"]}})),
        ("selfsubjectaccessreviews", json!({"spec": {"resourceAttributes": {"verb": 1}}})),
        ("selfsubjectaccessreviews", json!({"spec": {}})),
        ("selfsubjectaccessreviews", json!({"kind": "SelfSubjectRulesReview", "spec": {}})),
        ("selfsubjectaccessreviews", json!([])),
        ("selfsubjectaccessreviews", json!({"metadata": {"name": {}}, "spec": {"resourceAttributes": {}}})),
    ] {
        status(server.client.post(&format!("{REVIEWS}/{review}"), &body).await, 400, "BadRequest");
    }
    // What is not known is passed by, and not repeated.
    let body = json!({"spec": {"namespace": "a", "odd": 1}, "odd": 1, "status": {"incomplete": true}});
    let told = server.client.post(&format!("{REVIEWS}/selfsubjectrulesreviews"), &body).await.expect(201);
    assert_eq!(
        (&told["spec"], told.get("odd"), &told["status"]["incomplete"]),
        (&json!({"namespace": "a"}), None, &json!(false))
    );
}

#[tokio::test]
async fn however_much_is_wrong_the_answer_is_small() {
    let server = ApiServer::start().await;
    let client = &server.client;
    client.post(INSTANCES, &instance("a")).await.expect(201);
    let path = format!("{INSTANCES}/a");
    let before = client.get(&path).await.expect(200);
    let causes = |status: &Value| status["details"]["causes"].as_array().unwrap().clone();
    // A list that is too long is one problem, whatever is in it, however it is written.
    for (field, item) in [("ownerReferences", json!({})), ("finalizers", json!("a b"))] {
        let mut body = instance("b");
        body["metadata"][field] = vec![item; 40_000].into();
        let lists = json!({"metadata": {field: body["metadata"][field]}});
        let mut full = before.clone();
        full["metadata"][field] = body["metadata"][field].clone();
        body["metadata"]["name"] = "a".into();
        for answer in [
            client.post(INSTANCES, &body).await,
            client.put(&path, &full).await,
            client.merge(&path, &lists).await,
            patch(
                client,
                &path,
                "application/json-patch+json",
                json!([{"op": "add", "path": format!("/metadata/{field}"), "value": body["metadata"][field]}])
                    .to_string(),
            )
            .await,
            patch(client, &format!("{path}?fieldManager=m&force=1"), "application/apply-patch+yaml", body.to_string())
                .await,
        ] {
            let told = causes(&status(answer, 422, "Invalid"));
            assert_eq!(told.len(), 1, "{told:?}");
            let message = "Too many: 40000: must have at most 64 items";
            let cause =
                json!({"reason": "FieldValueTooMany", "field": format!("metadata.{field}"), "message": message});
            assert_eq!(told[0], cause);
        }
    }
    // Maps have no most: the first problems are told, and that there are more.
    let mut body = instance("b");
    body["metadata"]["labels"] =
        (0..20_000).map(|i| (format!("{i} "), json!("-"))).collect::<serde_json::Map<_, _>>().into();
    body["spec"]["image"] = format!("{} x", "y".repeat(500)).into();
    let answer = client.post(INSTANCES, &body).await;
    assert!(answer.bytes.len() < 64 << 10, "{} bytes", answer.bytes.len());
    let told = causes(&status(answer, 422, "Invalid"));
    assert_eq!(told.len(), 65);
    let message = "Too many: more than 64 problems were found, only the first are told";
    assert_eq!(told[64], json!({"reason": "FieldValueTooMany", "field": "", "message": message}));
    // A list that is too long is found also behind so many others, and nothing goes further: not to the unknown field.
    let mut body = instance("b");
    body["metadata"]["annotations"] =
        (0..65).map(|i| (format!("a{i}"), json!(i))).collect::<serde_json::Map<_, _>>().into();
    body["metadata"]["finalizers"] = vec!["a b"; 40_000].into();
    body["spec"]["odd"] = true.into();
    let apply = format!("{INSTANCES}/b?fieldManager=m&fieldValidation=Strict");
    for answer in [
        client.post(&format!("{INSTANCES}?fieldValidation=Strict"), &body).await,
        patch(client, &apply, "application/apply-patch+yaml", body.to_string()).await,
    ] {
        assert_eq!(causes(&status(answer, 422, "Invalid")).len(), 65);
    }
    // One value is not repeated whole.
    let mut body = instance("b");
    body["spec"]["power"] = "x".repeat(200 << 10).into();
    let answer = client.post(INSTANCES, &body).await;
    assert!(answer.bytes.len() < 8 << 10, "{} bytes", answer.bytes.len());
    status(answer, 422, "Invalid");
    assert_eq!(client.get(&path).await.expect(200), before);
}

#[tokio::test]
async fn what_is_too_large_is_told_so_before_anything_else_that_is_wrong_with_it() {
    let server = ApiServer::start().await;
    let mut body = instance("a");
    body["spec"] = json!({"image": 7, "nothing": "x".repeat(300 << 10)});
    for query in ["", "?fieldValidation=Strict"] {
        status(server.client.post(&format!("{INSTANCES}{query}"), &body).await, 413, "RequestEntityTooLarge");
    }
}
