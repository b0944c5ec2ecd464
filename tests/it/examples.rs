//! Every manifest under `examples/` is one that the server takes: parsed without unknown fields, and valid.

use std::path::{Path, PathBuf};

use portreeve::model::{self, DockerHost, FieldError, Instance, Kind, RoutePath};
use serde_json::Value;

/// All manifests, with the file that each is from.
fn manifests() -> Vec<(PathBuf, Value)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut files: Vec<_> = std::fs::read_dir(dir).expect("examples/").map(|e| e.expect("an entry").path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    assert!(files.len() >= 3, "no examples found");
    files
        .into_iter()
        .flat_map(|file| {
            let text = std::fs::read_to_string(&file).expect("readable");
            let documents: Vec<Value> =
                serde_yaml::from_multiple(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            assert!(!documents.is_empty(), "{} is empty", file.display());
            documents.into_iter().map(move |d| (file.clone(), d))
        })
        .collect()
}

/// Reads a manifest as its type and writes it again: what the type does not know is missing then.
fn round_trip<T: serde::Serialize + serde::de::DeserializeOwned>(value: &Value) -> (T, Value) {
    let typed: T = serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"));
    let again = serde_json::to_value(&typed).expect("it can be written");
    (typed, again)
}

/// The paths in `given` that `kept` lacks.
fn lost(path: &str, given: &Value, kept: Option<&Value>) -> Vec<String> {
    match (given, kept) {
        (_, None) => vec![path.to_owned()],
        (Value::Object(map), Some(kept)) => {
            map.iter().flat_map(|(k, v)| lost(&format!("{path}.{k}"), v, kept.get(k))).collect()
        }
        (Value::Array(items), Some(kept)) => {
            items.iter().enumerate().flat_map(|(i, v)| lost(&format!("{path}[{i}]"), v, kept.get(i))).collect()
        }
        _ => vec![],
    }
}

#[test]
fn every_example_is_understood_and_valid() {
    let mut kinds = vec![];
    for (file, value) in manifests() {
        let (kind, again, errors): (Kind, Value, Vec<FieldError>) = match value["kind"].as_str() {
            Some("Instance") => {
                let (instance, again) = round_trip::<Instance>(&value);
                (Kind::Instance, again, model::validate_instance(&instance))
            }
            Some("DockerHost") => {
                let (host, again) = round_trip::<DockerHost>(&value);
                (Kind::DockerHost, again, model::validate_docker_host(&host))
            }
            other => panic!("{}: no test for kind {other:?}", file.display()),
        };
        assert_eq!(value["apiVersion"], kind.api_version(), "{}", file.display());
        assert_eq!(errors, [], "{}", file.display());
        assert_eq!(lost("", &value, Some(&again)), [""; 0], "{}: unknown fields", file.display());
        kinds.push(kind);
    }
    assert!(kinds.contains(&Kind::Instance) && kinds.contains(&Kind::DockerHost));
}

#[test]
fn the_per_user_system_routes_its_gateway_and_its_shell() {
    let all = manifests();
    let (_, value) = all.iter().find(|(f, _)| f.ends_with("matrix-os.yaml")).expect("examples/matrix-os.yaml");
    let instance: Instance = serde_json::from_value(value.clone()).expect("an Instance");
    let routes = instance.resolved_routes("example.com");
    assert_eq!(routes[0].host, "alice.example.com");
    let path = |prefix: &str, port: &str| RoutePath { prefix: prefix.into(), port: port.into() };
    assert_eq!(routes[0].paths, [path("/api", "gateway"), path("/ws", "gateway"), path("/", "shell")]);
    assert_eq!((instance.spec.memory_bytes(), instance.spec.cpu_milli()), (256 << 20, 500));
    assert_eq!(instance.fill(&instance.spec.volumes[0].host_path), "/data/users/alice/app");
}

#[test]
fn the_readme_shows_the_quickstart_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let example = read("examples/quickstart.yaml");
    let manifest = example.lines().filter(|l| !l.starts_with('#')).collect::<Vec<_>>().join("\n");
    assert!(read("README.md").contains(&manifest), "README.md shows another manifest than examples/quickstart.yaml");
}
