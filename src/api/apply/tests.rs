//! Cases as Kubernetes documents them, and the laws that hold for whatever is applied by whomever.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::typed::{Schema, claimed, compare, list_problems};
use super::{Applied, FieldSet, Managers, Operation, Writer, apply};
use crate::model::{FieldErrors, Kind, schema};

mod laws;

pub fn instance() -> Schema<'static> {
    Schema::new(schema::schema(Kind::Instance))
}

pub fn now(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub fn applier(manager: &str) -> Writer {
    Writer {
        operation: Operation::Apply,
        manager: manager.into(),
        subresource: String::new(),
        api_version: "portreeve.dev/v1".into(),
    }
}

pub fn updater(manager: &str) -> Writer {
    Writer { operation: Operation::Update, ..applier(manager) }
}

/// An object and the entries of its writers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    pub object: Value,
    pub managers: Managers,
}

impl World {
    pub fn new() -> World {
        World { object: json!({"metadata": {"name": "a"}}), managers: Managers::default() }
    }

    /// Applies a spec; the conflicts are told as `manager.path`.
    pub fn apply(&mut self, who: &str, config: &Value, force: bool) -> Result<(), Vec<String>> {
        match apply(instance(), &self.object, config, &self.managers, &applier(who), force) {
            Ok(Applied { object, managers }) => {
                *self = World { object, managers };
                Ok(())
            }
            Err(conflicts) => Err(conflicts
                .iter()
                .flat_map(|c| c.fields.paths(99).into_iter().map(|p| format!("{}{p}", c.with.manager)))
                .collect()),
        }
    }

    pub fn update(&mut self, who: &str, object: Value, second: i64) {
        self.managers.track(instance(), &self.object, &object, &updater(who), now(second));
        self.object = object;
    }

    pub fn owned(&self, writer: &Writer) -> Value {
        self.managers.fields_of(writer).print()
    }
}

fn spec(spec: Value) -> Value {
    json!({"metadata": {"name": "a"}, "spec": spec})
}

#[test]
fn an_applier_claims_leaves_items_and_keys_of_maps() {
    let object = json!({
        "apiVersion": "portreeve.dev/v1", "kind": "Instance",
        "metadata": {
            "name": "a", "namespace": "n", "uid": "u", "labels": {"a": "b"}, "finalizers": ["x/y"],
            "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n", "uid": "1"}],
        },
        "spec": {
            "image": "i", "args": ["a", "b"], "env": [{"name": "A", "value": "1"}], "resources": {}, "ports": [],
            "placement": {"nodeSelector": {"zone": "z"}}, "routes": [{"host": "h", "paths": []}],
        },
    });
    let set = claimed(instance(), &object).difference(&super::managers::untracked());
    let expected = json!({
        "f:metadata": {
            "f:labels": {"f:a": {}},
            "f:finalizers": {"v:\"x/y\"": {}},
            "f:ownerReferences": {"k:{\"uid\":\"1\"}": {".": {}, "f:apiVersion": {}, "f:kind": {}, "f:name": {}, "f:uid": {}}},
        },
        "f:spec": {
            "f:image": {}, "f:args": {}, "f:resources": {}, "f:ports": {}, "f:routes": {},
            "f:env": {"k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}},
            "f:placement": {"f:nodeSelector": {"f:zone": {}}},
        },
    });
    assert_eq!(set.print(), expected);
}

#[test]
fn an_updater_gets_what_it_wrote_with_what_it_made_on_the_way() {
    let mut world = World::new();
    world.update("kubectl-create", spec(json!({"image": "a", "ports": [{"name": "web", "containerPort": 80}]})), 1);
    let created = json!({"f:spec": {".": {}, "f:image": {}, "f:ports": {
        ".": {}, "k:{\"name\":\"web\"}": {".": {}, "f:name": {}, "f:containerPort": {}},
    }}});
    assert_eq!(world.owned(&updater("kubectl-create")), created);
    world.update("kubectl-edit", spec(json!({"image": "b", "ports": [{"name": "web", "containerPort": 80}]})), 2);
    assert_eq!(world.owned(&updater("kubectl-edit")), json!({"f:spec": {"f:image": {}}}));
    assert!(
        world.owned(&updater("kubectl-create"))["f:spec"].get("f:image").is_none(),
        "what is rewritten changes hands"
    );
    world.update("kubectl-edit", spec(json!({"image": "b"})), 3);
    assert_eq!(world.owned(&updater("kubectl-create")), json!({"f:spec": {}}), "what is removed is nobody's");
}

#[test]
fn a_field_that_its_only_owner_gives_up_goes_and_a_shared_one_stays() {
    let mut world = World::new();
    world
        .apply("m1", &spec(json!({"image": "a", "user": "1", "owner": "bob", "resources": {"pids": 5}})), false)
        .unwrap();
    world.apply("m2", &spec(json!({"user": "1"})), false).unwrap();
    world.apply("m1", &spec(json!({"image": "a"})), false).unwrap();
    assert_eq!(world.object["spec"], json!({"image": "a", "user": "1"}));
    world.apply("m2", &spec(json!({})), false).unwrap();
    assert_eq!(world.object["spec"], json!({"image": "a"}));
}

#[test]
fn what_nobody_owns_is_not_removed_with_what_stood_beside_it() {
    let mut world = World::new();
    let labelled = |labels: Value| json!({"metadata": {"name": "a", "labels": labels}, "spec": {"image": "a"}});
    world.apply("m1", &labelled(json!({"mine": "1"})), false).unwrap();
    world.object["metadata"]["labels"]["found"] = "there".into();
    world.apply("m1", &spec(json!({"image": "a"})), false).unwrap();
    assert_eq!(world.object["metadata"], json!({"name": "a", "labels": {"found": "there"}}));
    world.apply("m1", &labelled(json!({"mine": "1"})), false).unwrap();
    world.object["metadata"]["labels"].as_object_mut().unwrap().remove("found");
    world.apply("m1", &spec(json!({"image": "a"})), false).unwrap();
    assert_eq!(world.object["metadata"], json!({"name": "a"}), "what is left empty goes");
}

#[test]
fn conflicts_are_with_every_other_manager_and_only_about_what_would_change() {
    let mut world = World::new();
    world.apply("m1", &spec(json!({"image": "a", "user": "1"})), false).unwrap();
    let patched = |o: &Value, user: &str| {
        let mut o = o.clone();
        o["spec"]["owner"] = user.into();
        o
    };
    world.update("m2", patched(&world.object, "bob"), 1);
    let before = world.clone();
    let wanted = spec(json!({"image": "b", "user": "1", "owner": "eve"}));
    assert_eq!(world.apply("m3", &wanted, false).unwrap_err(), ["m1.spec.image", "m2.spec.owner"]);
    assert_eq!(world, before, "a refused apply changes nothing");
    world.apply("m3", &wanted, true).unwrap();
    assert_eq!(world.owned(&applier("m1")), json!({"f:spec": {"f:user": {}}}), "the equal field stays shared");
    assert_eq!(world.managers.fields_of(&updater("m2")), FieldSet::default());
    assert_eq!(world.apply("m1", &spec(json!({"image": "a", "user": "1"})), false).unwrap_err(), ["m3.spec.image"]);
    // The same name as an updater is another writer.
    assert!(world.apply("m2", &spec(json!({"owner": "bob"})), false).is_err());
}

#[test]
fn items_of_keyed_lists_are_shared_field_by_field_and_go_as_wholes() {
    let mut world = World::new();
    let base = spec(json!({"image": "a", "ports": [{"name": "web", "containerPort": 80}]}));
    world.apply("m1", &base, false).unwrap();
    let more = spec(json!({"ports": [{"name": "web", "hostPort": 30000}, {"name": "api", "containerPort": 81}]}));
    world.apply("m2", &more, false).unwrap();
    assert_eq!(
        world.object["spec"]["ports"],
        json!([{"name": "web", "containerPort": 80, "hostPort": 30000}, {"name": "api", "containerPort": 81}])
    );
    // m1 gives up the item: what m2 owns of it stays, and its key above all.
    world.apply("m1", &spec(json!({"image": "a"})), false).unwrap();
    assert_eq!(world.object["spec"]["ports"][0], json!({"name": "web", "hostPort": 30000}));
    world.apply("m2", &spec(json!({"ports": [{"name": "api", "containerPort": 81}]})), false).unwrap();
    assert_eq!(world.object["spec"]["ports"], json!([{"name": "api", "containerPort": 81}]));
    // An updater's change inside an item does not keep the item, as in Kubernetes.
    let mut edited = world.object.clone();
    edited["spec"]["ports"][0]["hostPort"] = 7.into();
    world.update("m3", edited, 1);
    world.apply("m2", &spec(json!({})), false).unwrap();
    assert_eq!(world.object["spec"], json!({"image": "a"}));
    assert_eq!(world.managers.fields_of(&updater("m3")), FieldSet::default());
}

#[test]
fn atomic_lists_are_one_field_and_sets_are_their_values() {
    let mut world = World::new();
    world.apply("m1", &spec(json!({"image": "a", "args": ["x", "y"]})), false).unwrap();
    assert_eq!(world.apply("m2", &spec(json!({"args": ["x"]})), false).unwrap_err(), ["m1.spec.args"]);
    let finalized = |list: Value| json!({"metadata": {"name": "a", "finalizers": list}});
    world.object["metadata"]["finalizers"] = json!(["portreeve.dev/container"]);
    world.apply("m2", &finalized(json!(["a/b"])), false).unwrap();
    world.apply("m3", &finalized(json!(["c/d", "a/b"])), false).unwrap();
    assert_eq!(world.object["metadata"]["finalizers"], json!(["portreeve.dev/container", "c/d", "a/b"]));
    world.apply("m2", &finalized(json!([])), false).unwrap();
    world.apply("m3", &finalized(json!(["c/d"])), false).unwrap();
    assert_eq!(world.object["metadata"]["finalizers"], json!(["portreeve.dev/container", "c/d"]));
}

#[test]
fn repeated_items_are_refused_when_applied_and_made_one_when_found() {
    let mut problems = FieldErrors::default();
    let doubled = json!({
        "metadata": {"finalizers": ["a/b", "a/b"]},
        "spec": {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}], "ports": [{"containerPort": 1}]},
    });
    list_problems(instance(), &doubled, "", &mut problems);
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "metadata.finalizers[1]: Duplicate value: \"a/b\"",
            "spec.env[1]: Duplicate value: {\"name\":\"A\"}",
            "spec.ports[0].name: Required value",
        ]
    );
    let mut world = World::new();
    world.update("m1", spec(doubled["spec"].clone()), 1);
    world.apply("m2", &spec(json!({"env": [{"name": "A", "value": "3"}]})), true).unwrap();
    assert_eq!(world.object["spec"]["env"], json!([{"name": "A", "value": "3"}]));
}

#[test]
fn values_that_do_not_fit_the_schema_are_leaves() {
    for (old, new) in [
        (json!({"image": "a", "ports": 5}), json!({"image": "a", "ports": [{"name": "x"}]})),
        (json!({"image": "a", "env": [{"value": "x"}]}), json!({"image": "a", "env": [{"name": "x"}]})),
        (json!({"image": "a", "resources": []}), json!({"image": "a", "resources": {"pids": 1}})),
    ] {
        let change = compare(instance(), &spec(old.clone()), &spec(new.clone()));
        assert_eq!(change.written.len(), 1, "{old} and {new}");
        let mut world = World { object: spec(old), managers: Managers::default() };
        world.apply("m", &spec(new.clone()), false).unwrap();
        assert_eq!(world.object["spec"], new);
    }
}

#[test]
fn too_many_updaters_become_one_the_oldest_first() {
    let mut world = World::new();
    for i in 0..14 {
        let mut object = world.object.clone();
        object["metadata"]["annotations"][format!("a{i}")] = "x".into();
        world.update(&format!("m{i:02}"), object, i);
    }
    let names: Vec<Value> = world.managers.print().as_array().unwrap().iter().map(|e| e["manager"].clone()).collect();
    assert_eq!(names, ["ancient-changes", "m05", "m06", "m07", "m08", "m09", "m10", "m11", "m12", "m13"]);
    let ancient = world.owned(&updater("ancient-changes"));
    assert_eq!(
        ancient["f:metadata"]["f:annotations"],
        json!({".": {}, "f:a0": {}, "f:a1": {}, "f:a2": {}, "f:a3": {}, "f:a4": {}})
    );
}

#[test]
fn entries_are_printed_as_kubernetes_prints_them_and_read_back() {
    let mut world = World::new();
    world.update("m2", spec(json!({"image": "a"})), 5);
    world.apply("m1", &spec(json!({"image": "a"})), false).unwrap();
    world.managers.stamp(&applier("m1"), now(9));
    let printed = world.managers.print();
    let expected = json!([
        {"manager": "m1", "operation": "Apply", "apiVersion": "portreeve.dev/v1", "time": "2027-01-15T08:00:09Z",
         "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:image": {}}}},
        {"manager": "m2", "operation": "Update", "apiVersion": "portreeve.dev/v1", "time": "2027-01-15T08:00:05Z",
         "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {".": {}, "f:image": {}}}},
    ]);
    assert_eq!(printed, expected);
    assert_eq!(Managers::parse(&printed).unwrap(), world.managers);
    assert!(Managers::parse(&json!([])).unwrap().is_empty());
    assert!(Managers::parse(&json!([{}])).unwrap().is_empty());
}

#[test]
fn entries_of_clients_are_judged() {
    let entry = |field: &str, value: Value| {
        let mut entry = json!({
            "manager": "m", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:a": {}},
        });
        entry[field] = value;
        Managers::parse(&json!([entry]))
    };
    assert!(entry("manager", json!("x")).is_ok());
    for (field, value) in [
        ("operation", json!("Delete")),
        ("fieldsType", json!("V2")),
        ("manager", json!(5)),
        ("manager", json!("x".repeat(129))),
        ("manager", json!("a\nb")),
        ("time", json!("noon")),
        ("fieldsV1", json!({"a": {}})),
    ] {
        let problem = entry(field, value.clone()).expect_err(&format!("{field}: {value}"));
        assert_eq!(problem.field, format!("metadata.managedFields[0].{field}"));
    }
    assert!(Managers::parse(&json!({})).is_err());
    assert!(Managers::parse(&json!([5])).is_err());
}

#[test]
fn the_manager_of_a_program_is_its_name() {
    use super::{manager_of_agent, manager_problem};
    assert_eq!(manager_of_agent("kubectl/v1.33.0 (linux/amd64)"), "kubectl");
    assert_eq!(manager_of_agent("curl"), "curl");
    assert_eq!(manager_of_agent("a\tb/1"), "ab");
    assert_eq!(manager_of_agent(""), "unknown");
    assert_eq!(manager_of_agent(&"ä".repeat(100)).len(), 128);
    assert!(manager_problem("f", "Firefox on Linux").is_none());
    assert!(manager_problem("f", "a\u{7f}").is_some());
}
