//! What holds for every object and every order of writers.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::managers::untracked;
use super::super::typed::{claimed, list_problems};
use super::{World, applier, instance, updater};
use crate::model::FieldErrors;

fn named(name: &'static str, fields: &'static [&'static str]) -> impl Strategy<Value = Option<(String, Value)>> {
    let item =
        (prop::sample::select(vec!["a", "b", "c"]), prop::collection::vec(prop::option::of(0..3u8), fields.len()));
    prop::option::of(prop::collection::vec(item, 0..4).prop_map(move |items| {
        let mut list: Vec<Value> = vec![];
        for (key, values) in items {
            if list.iter().any(|i| i["name"] == key) {
                continue;
            }
            let mut item = json!({"name": key});
            for (field, value) in fields.iter().zip(values) {
                if let Some(value) = value {
                    item[*field] = value.into();
                }
            }
            list.push(item);
        }
        (name.to_owned(), list.into())
    }))
}

fn texts(name: &'static str) -> impl Strategy<Value = Option<(String, Value)>> {
    let list = prop::collection::btree_set(prop::sample::select(vec!["x/a", "x/b", "x/c"]), 0..3);
    prop::option::of(list.prop_map(move |list| (name.to_owned(), list.into_iter().collect::<Vec<_>>().into())))
}

fn map(name: &'static str, keys: &'static [&'static str]) -> impl Strategy<Value = Option<(String, Value)>> {
    let entry = (prop::sample::select(keys), 0..3u8);
    prop::option::of(prop::collection::vec(entry, 0..3).prop_map(move |entries| {
        let map: Map<String, Value> = entries.into_iter().map(|(k, v)| (k.to_owned(), v.into())).collect();
        (name.to_owned(), map.into())
    }))
}

fn leaf(name: &'static str) -> impl Strategy<Value = Option<(String, Value)>> {
    prop::option::of((0..3u8).prop_map(move |v| (name.to_owned(), v.into())))
}

/// What someone may apply or write.
fn config() -> impl Strategy<Value = Value> {
    let spec = (
        (leaf("image"), leaf("owner"), texts("args")),
        (named("env", &["value"]), named("ports", &["containerPort", "hostPort"]), map("resources", &["cpu", "pids"])),
    );
    let meta = (map("labels", &["l", "m"]), texts("finalizers"));
    (spec, meta).prop_map(|(((a, b, c), (d, e, f)), (g, h))| {
        let mut meta: Map<String, Value> = [g, h].into_iter().flatten().collect();
        meta.insert("name".into(), "a".into());
        let spec: Map<String, Value> = [a, b, c, d, e, f].into_iter().flatten().collect();
        json!({"metadata": meta, "spec": spec})
    })
}

#[derive(Clone, Debug)]
enum Step {
    Apply { who: &'static str, config: Value, force: bool },
    Update { who: &'static str, object: Value },
}

fn step() -> impl Strategy<Value = Step> {
    let who = || prop::sample::select(vec!["m1", "m2", "m3"]);
    prop_oneof![
        3 => (who(), config(), any::<bool>()).prop_map(|(who, config, force)| Step::Apply { who, config, force }),
        1 => (who(), config()).prop_map(|(who, object)| Step::Update { who, object }),
    ]
}

fn after(steps: &[Step]) -> World {
    let mut world = World::new();
    for (i, step) in steps.iter().enumerate() {
        match step {
            // A refusal is a law of its own below.
            Step::Apply { who, config, force } => drop(world.apply(who, config, *force)),
            Step::Update { who, object } => world.update(who, object.clone(), i as i64),
        }
    }
    world
}

/// `config` with every list of named items turned around.
fn turned(config: &Value) -> Value {
    let mut turned = config.clone();
    for name in ["env", "ports"] {
        if let Some(list) = turned["spec"].get_mut(name).and_then(Value::as_array_mut) {
            list.reverse();
        }
    }
    turned
}

/// Every list of named items sorted.
fn sorted(object: &Value) -> Value {
    let mut sorted = object.clone();
    for (part, name) in [("spec", "env"), ("spec", "ports"), ("metadata", "finalizers")] {
        if let Some(list) = sorted.get_mut(part).and_then(|p| p.get_mut(name)?.as_array_mut()) {
            list.sort_by_key(ToString::to_string);
        }
    }
    sorted
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn applying_twice_changes_nothing(steps in prop::collection::vec(step(), 0..8), config in config()) {
        let mut world = after(&steps);
        world.apply("m1", &config, true).unwrap();
        let once = world.clone();
        world.apply("m1", &config, false).expect("no conflict with what is there");
        prop_assert_eq!(world, once);
    }

    #[test]
    fn the_applied_is_there_and_owned(steps in prop::collection::vec(step(), 0..8), config in config()) {
        let mut world = after(&steps);
        world.apply("m1", &config, true).unwrap();
        let claims = claimed(instance(), &config).difference(&untracked());
        prop_assert_eq!(world.managers.fields_of(&applier("m1")), claims.clone());
        let kept = claimed(instance(), &world.object);
        prop_assert!(claims.paths(999).iter().all(|p| {
            // An empty list or map that is applied to a full one claims it and adds nothing.
            kept.paths(999).iter().any(|k| k == p || k.starts_with(&format!("{p}.")) || k.starts_with(&format!("{p}[")))
        }), "{:?} of {}", claims.paths(999), world.object);
        let mut problems = FieldErrors::default();
        list_problems(instance(), &world.object, "", &mut problems);
        prop_assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn every_leaf_that_a_client_set_has_an_owner(steps in prop::collection::vec(step(), 1..12)) {
        let world = after(&steps);
        let mut owned = super::super::FieldSet::default();
        for who in ["m1", "m2", "m3"] {
            owned = owned.union(&world.managers.fields_of(&applier(who))).union(&world.managers.fields_of(&updater(who)));
        }
        let leaves = claimed(instance(), &world.object).difference(&untracked());
        let free = leaves.difference(&owned).paths(999);
        // What is empty may be what is left when its content was given up.
        let filled: Vec<_> = free.iter().filter(|p| {
            let pointer = p.replace('.', "/");
            !world.object.pointer(&pointer).is_some_and(|v| *v == json!([]) || *v == json!({}))
        }).collect();
        prop_assert!(filled.is_empty(), "{filled:?} of {} has no owner: {:?}", world.object, world.managers);
    }

    #[test]
    fn what_only_one_owns_goes_when_it_is_given_up(steps in prop::collection::vec(step(), 0..8), config in config()) {
        let mut world = after(&steps);
        world.apply("m1", &config, true).unwrap();
        let mine = world.managers.fields_of(&applier("m1"));
        let others = world.managers.others(&applier("m1")).fold(super::super::FieldSet::default(), |a, e| a.union(&e.fields));
        let before = claimed(instance(), &world.object);
        world.apply("m1", &json!({"metadata": {"name": "a"}}), false).expect("giving up conflicts with nobody");
        let left = claimed(instance(), &world.object);
        let sole = mine.difference(&others);
        let still = left.intersection(&sole).paths(999);
        let key = |path: &String| path.ends_with("].name");
        let holds = |path: &String| left.paths(999).iter().any(|p| p != path && p.starts_with(path.as_str()));
        let still: Vec<_> = still.iter().filter(|p| !key(p) && !holds(p)).filter(|p| {
            let value = world.object.pointer(&p.replace('.', "/"));
            !value.is_some_and(|v| *v == json!([]) || *v == json!({}))
        }).collect();
        prop_assert!(still.is_empty(), "{still:?} stays in {}", world.object);
        // What others applied is as it was, whole.
        for who in ["m2", "m3"] {
            let theirs = world.managers.fields_of(&applier(who)).intersection(&before);
            prop_assert_eq!(theirs.intersection(&left), theirs);
        }
    }

    #[test]
    fn who_loses_a_field_by_force_conflicts_afterwards(a in config(), b in config()) {
        let mut world = World::new();
        world.apply("m1", &a, false).unwrap();
        let plain = world.clone().apply("m2", &b, false);
        world.apply("m2", &b, true).unwrap();
        if let Err(conflicts) = plain {
            let again = world.apply("m1", &a, false).unwrap_err();
            for conflict in conflicts {
                let path = conflict.trim_start_matches("m1");
                prop_assert!(again.contains(&format!("m2{path}")), "{path} of {again:?}");
            }
        } else {
            world.apply("m1", &a, false).expect("still no conflict");
        }
    }

    #[test]
    fn the_order_of_items_decides_about_order_alone(steps in prop::collection::vec(step(), 0..6), config in config()) {
        let mut world = after(&steps);
        let mut other = world.clone();
        let (one, two) = (world.apply("m1", &config, false), other.apply("m1", &turned(&config), false));
        prop_assert_eq!(one, two);
        prop_assert_eq!(sorted(&world.object), sorted(&other.object));
        prop_assert_eq!(world.managers, other.managers);
    }
}
