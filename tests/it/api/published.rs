//! What is published of the API for editors and generators: `specs/openapi.json` and `specs/schema/`. Both are made from
//! what the server serves; a stale file fails here. `PORTREEVE_BLESS=1 cargo test --test it published` writes them anew.

use std::path::{Path, PathBuf};

use portreeve::model::{Kind, schema};
use serde_json::{Map, Value, json};

use crate::support::api_server::ApiServer;

fn specs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("specs")
}

/// Compares a file with what it should hold, or writes it.
fn published(path: &Path, value: &Value) {
    let text = format!("{value:#}\n");
    if std::env::var_os("PORTREEVE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("the directory");
        std::fs::write(path, &text).expect("written");
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == text, "{} is stale: PORTREEVE_BLESS=1 cargo test --test it published", path.display());
}

#[tokio::test]
async fn the_published_openapi_document_is_what_the_server_serves() {
    let server = ApiServer::start().await;
    let index = server.client.get("/openapi/v3").await.expect(200);
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    let mut whole = Value::Null;
    for place in index["paths"].as_object().unwrap().values() {
        let url = place["serverRelativeURL"].as_str().unwrap();
        let mut document = server.client.get(url).await.expect(200);
        paths.extend(document["paths"].as_object().unwrap().clone());
        schemas.extend(document["components"]["schemas"].as_object().unwrap().clone());
        document["paths"] = json!({});
        document["components"]["schemas"] = json!({});
        whole = document;
    }
    let mut ids: Vec<&str> = paths
        .values()
        .flat_map(|p| p.as_object().unwrap().values())
        .filter_map(|operation| operation.get("operationId")?.as_str())
        .collect();
    ids.sort_unstable();
    let twice = ids.windows(2).find(|pair| pair[0] == pair[1]);
    assert_eq!(twice, None, "an operation id that is given twice names no operation");
    whole["paths"] = paths.into();
    whole["components"]["schemas"] = schemas.into();
    published(&specs().join("openapi.json"), &whole);
}

/// What editors use: unlike the API, they should mark a field that does not exist while it is typed.
fn strict(node: &mut Value) {
    let Some(object) = node.as_object_mut() else { return };
    if object.contains_key("properties") && !object.contains_key("additionalProperties") {
        object.insert("additionalProperties".into(), false.into());
    }
    for inner in object.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        strict(inner);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(name) {
            strict(inner);
        }
    }
}

#[test]
fn the_published_schemas_are_those_that_objects_are_checked_against() {
    let mut files = vec![];
    for kind in Kind::all() {
        let info = kind.info();
        let mut schema = schema::schema(kind).clone();
        strict(&mut schema);
        schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
        schema["title"] = info.name.into();
        schema["properties"]["apiVersion"]["enum"] = json!([kind.api_version()]);
        schema["properties"]["kind"]["enum"] = json!([info.name]);
        schema["required"] = json!(["apiVersion", "kind", "metadata"]);
        let name = format!("{}.json", info.name.to_lowercase());
        published(&specs().join("schema").join(&name), &schema);
        files.push(name);
    }
    let any: Vec<Value> = files.iter().map(|name| json!({"$ref": name})).collect();
    let all = json!({"$schema": "http://json-schema.org/draft-07/schema#", "title": "Portreeve", "oneOf": any});
    published(&specs().join("schema").join("all.json"), &all);
    files.push("all.json".into());
    for entry in std::fs::read_dir(specs().join("schema")).expect("specs/schema") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        assert!(files.contains(&name), "specs/schema/{name} is of no kind");
    }
}
