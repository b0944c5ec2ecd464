//! The promise of the schema: what it lets through, the Rust types can read.

use portreeve::model::{AccessToken, ConfigMap, DockerHost, Event, Instance, Kind, Namespace, Secret, schema};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

fn rich(kind: Kind) -> Value {
    match kind {
        Kind::Instance => json!({
            "apiVersion": "portreeve.dev/v1", "kind": "Instance",
            "metadata": {"name": "a", "labels": {"x": "y"}, "finalizers": ["f"], "generation": 3,
                         "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [{"manager": "m"}],
                         "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n", "uid": "u"}]},
            "spec": {
                "image": "a", "imagePullPolicy": "Never", "args": ["x"], "env": [{"name": "A", "value": "b"}],
                "ports": [{"name": "web", "containerPort": 80, "hostPort": 30000}],
                "volumes": [{"name": "d", "mountPath": "/d", "readOnly": true, "reclaim": "Delete"}],
                "resources": {"memory": "64Mi", "cpu": 1, "pids": 9, "shm": "1Mi"},
                "probes": {"startup": {"http": {"port": "web"}, "timeout": "5s"}}, "power": "Auto",
                "idle": {"after": "1h"}, "routes": [{"host": "h", "paths": [{"prefix": "/", "port": "web"}]}],
                "placement": {"node": "n", "nodeSelector": {"a": "b"}}, "security": {"capAdd": ["KILL"], "noNewPrivileges": false},
            },
            "status": {"phase": "Running", "restarts": 2, "ports": [{"name": "web", "hostPort": 1}],
                       "lastExit": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:00Z"},
                       "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }),
        Kind::DockerHost => json!({
            "metadata": {"name": "h"},
            "spec": {"endpoint": "tcp://a:1", "tls": {"directory": "/x"}, "capacity": {"memory": "1Gi", "instances": 3}},
            "status": {"runtimes": ["runc"], "capacity": {"cpu": "2"}, "daemonID": "x"},
        }),
        Kind::Namespace => {
            json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["k"]}, "status": {
                "phase": "Active",
                "conditions": [{"type": "C", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            }})
        }
        Kind::Event => json!({
            "metadata": {"name": "e"}, "involvedObject": {"kind": "K", "name": "n"}, "count": 2, "type": "Normal",
            "firstTimestamp": "2026-01-01T00:00:00Z", "source": {"component": "c"}, "action": "a",
            "eventTime": "2026-01-01T00:00:00.000001Z", "related": {"kind": "K"},
            "series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000001Z"},
        }),
        Kind::Secret => json!({
            "metadata": {"name": "s"}, "type": "Opaque", "data": {"a": "eA=="}, "stringData": {"b": "y"},
            "immutable": true,
        }),
        Kind::ConfigMap => json!({
            "metadata": {"name": "c"}, "data": {"a": "x"}, "binaryData": {"b": "eA=="}, "immutable": false,
        }),
        Kind::AccessToken => json!({
            "metadata": {"name": "t"}, "spec": {"user": "ci", "role": "editor", "namespaces": ["a"], "lifetime": "30d"},
            "status": {"hash": "00", "token": "prt_t.x", "expires": "2026-01-01T00:00:00Z"},
        }),
    }
}

fn decodes(kind: Kind, value: Value) -> Result<(), serde_json::Error> {
    match kind {
        Kind::Instance => serde_json::from_value::<Instance>(value).map(drop),
        Kind::DockerHost => serde_json::from_value::<DockerHost>(value).map(drop),
        Kind::Namespace => serde_json::from_value::<Namespace>(value).map(drop),
        Kind::Event => serde_json::from_value::<Event>(value).map(drop),
        Kind::AccessToken => serde_json::from_value::<AccessToken>(value).map(drop),
        Kind::Secret => serde_json::from_value::<Secret>(value).map(drop),
        Kind::ConfigMap => serde_json::from_value::<ConfigMap>(value).map(drop),
    }
}

/// Every place in a value, as JSON pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, v)| places(v, &format!("{at}/{name}"), found)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| places(v, &format!("{at}/{i}"), found)),
        _ => {}
    }
}

fn anything() -> impl Strategy<Value = Value> {
    let odd = select(vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(65535),
        json!(65536),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1.5),
        json!(1e300),
        json!(""),
        json!("text"),
        json!("5s"),
        json!("1Gi"),
        json!("9999999999999999999"),
        json!("1e18"),
        json!("Running"),
        json!("2026-01-01T00:00:00Z"),
        json!("0000-00-00T00:00:00Z"),
        json!([]),
        json!({}),
        json!([1]),
        json!(["a"]),
        json!({"a": "b"}),
        json!({"name": "a"}),
        json!([[]]),
        json!([{}]),
    ]);
    prop_oneof![
        odd,
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_passes_the_schema_can_be_read(
        kind in select(Kind::all().collect::<Vec<_>>()),
        edits in vec((any::<Index>(), anything()), 1..4),
    ) {
        let mut value = rich(kind);
        for (place, new) in edits {
            let mut found = vec![];
            places(&value, "", &mut found);
            *value.pointer_mut(place.get::<String>(&found)).expect("a place of its own") = new;
        }
        schema::prune(kind, &mut value);
        let checked = schema::check(kind, &value);
        prop_assert_eq!(&checked.unknown, &Vec::<String>::new(), "pruned, yet unknown");
        if checked.errors.is_empty() {
            let read = decodes(kind, value.clone());
            prop_assert!(read.is_ok(), "{kind} passed the schema but cannot be read: {:?}: {value}", read);
        }
    }
}

#[test]
fn the_examples_of_the_property_are_good_ones() {
    for kind in Kind::all() {
        assert_eq!(schema::check(kind, &rich(kind)), schema::Checked::default(), "{kind}");
        decodes(kind, rich(kind)).unwrap();
    }
}
