//! Instances that claim one host: the proxy and the status name the same one, whoever else may come; the others are told, and
//! have it when it is free.

use std::time::Duration;

use portreeve::controllers::instance::{HOSTNAME_CONFLICT, ROUTES_ACCEPTED};
use portreeve::model::{Condition, Event, Instance, Key, Resource, condition};
use portreeve::store::typed;
use serde_json::{Value, json};

use super::{MINUTE, converged, in_virtual_time, sleeper};
use crate::support::world::World;

const SECOND: Duration = Duration::from_secs(1);

/// What of an instance's address is not as the proxy has it.
pub fn disagreement(world: &World, i: &Instance) -> Option<String> {
    let hosts: Vec<String> = i.resolved_routes(world.cache().domain()).into_iter().map(|route| route.host).collect();
    let is_its = |host: &&String| world.cache().route(host).is_some_and(|holder| holder.metadata.uid == i.metadata.uid);
    let url = hosts.iter().find(is_its).map(|host| format!("https://{host}")).unwrap_or_default();
    let all = hosts.iter().all(|host| is_its(&host));
    let told = conflict(i).is_some();
    (i.status.url != url || told == all)
        .then(|| format!("{} tells {:?} (conflict: {told}), and the proxy has it at {url:?}", i.key(), i.status.url))
}

fn conflict(i: &Instance) -> Option<&Condition> {
    condition(&i.status.conditions, ROUTES_ACCEPTED)
}

fn with_hosts(hosts: &[&str]) -> Value {
    let mut spec = sleeper();
    spec["routes"] = hosts.iter().map(|host| json!({"host": host})).collect();
    spec
}

async fn until_told(world: &World, name: &str, url: &str, in_conflict: bool) {
    let told = async |w: &World| {
        let i = w.get(name).await.expect("it is there");
        i.status.url == url && conflict(&i).is_some() == in_conflict
    };
    world.until(&format!("{name} tells {url:?}"), MINUTE, told).await;
}

async fn events(world: &World, reason: &str, name: &str) -> Vec<String> {
    let all: Vec<Event> = typed::list(&*world.store, None).await.unwrap().items;
    let of = all.into_iter().filter(|e| e.reason == reason && e.involved_object.name == name);
    of.map(|e| e.message).collect()
}

#[test]
fn who_was_there_first_has_a_host_and_the_next_one_gets_it_when_that_one_goes() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 31).await;
        world.start();
        world.apply("zoe", with_hosts(&["shop.{domain}"])).await;
        tokio::time::sleep(2 * SECOND).await;
        // Past the API, which refuses it: as of two writes at once.
        world.apply("bob", with_hosts(&["SHOP.example.com", "bob.{domain}"])).await;
        tokio::time::sleep(2 * SECOND).await;
        world.apply("amy", with_hosts(&["shop.{domain}"])).await;
        converged(&world, MINUTE).await;
        until_told(&world, "zoe", "https://shop.example.com", false).await;
        until_told(&world, "bob", "https://bob.example.com", true).await;
        until_told(&world, "amy", "", true).await;
        assert_eq!(world.cache().route("shop.example.com").unwrap().metadata.name, "zoe");
        let amy = world.get("amy").await.unwrap();
        let told = conflict(&amy).unwrap();
        assert_eq!(told.reason, HOSTNAME_CONFLICT);
        assert!(told.message.starts_with("shop.example.com is instance zoe's, which was there first"), "{told:?}");
        assert_eq!(events(&world, HOSTNAME_CONFLICT, "amy").await, std::slice::from_ref(&told.message));
        let why = world.why("amy").await;
        assert!(why.conditions.contains(told), "{why:?}");
        world.assert_quiet(5 * MINUTE).await;

        // Nobody does anything for those who wait.
        world.delete("zoe").await;
        until_told(&world, "bob", "https://shop.example.com", false).await;
        assert_eq!(world.cache().route("shop.example.com").unwrap().metadata.name, "bob");
        let is_bobs = async |w: &World| {
            conflict(&w.get("amy").await.unwrap())
                .is_some_and(|c| c.message.starts_with("shop.example.com is instance bob's"))
        };
        world.until("amy is told who has it now", MINUTE, is_bobs).await;
        assert_eq!(events(&world, ROUTES_ACCEPTED, "bob").await.len(), 1);
        world.crash().await;

        // It gives it up while nobody looks.
        world.change("bob", |i| drop(i.spec.routes.remove(0))).await;
        world.start();
        until_told(&world, "amy", "https://shop.example.com", false).await;
        until_told(&world, "bob", "https://bob.example.com", false).await;
        converged(&world, MINUTE).await;
        world.assert_quiet(5 * MINUTE).await;
        world.crash().await;
    });
}

#[test]
fn a_younger_one_of_any_namespace_takes_nothing_over_and_learns_no_name() {
    in_virtual_time(|| async {
        let mut world = World::new(&["h1"], 32).await;
        world.start();
        let elder: Instance = serde_json::from_value(json!({
            "apiVersion": "portreeve.dev/v1", "kind": "Instance",
            "metadata": {"name": "bob", "namespace": "team-b", "uid": "uid-elder", "generation": 1,
                         "creationTimestamp": world.clock.now().to_string()},
            "spec": sleeper(),
        }))
        .unwrap();
        typed::create(&*world.store, &elder).await.unwrap();
        let is_up = async |w: &World| {
            typed::get::<Instance>(&*w.store, &Key::instance("team-b", "bob")).await.unwrap().unwrap().status.url
                == "https://bob.example.com"
        };
        world.until("it has its host", MINUTE, is_up).await;
        tokio::time::sleep(2 * SECOND).await;
        world.apply("bob", sleeper()).await;
        until_told(&world, "bob", "", true).await;
        let holder = world.cache().route("bob.example.com").unwrap();
        assert_eq!(holder.metadata.namespace, "team-b", "namespace default is no better than another");
        assert!(is_up(&world).await);
        let told = world.get("bob").await.unwrap();
        let mut texts = vec![conflict(&told).unwrap().message.clone()];
        texts.extend(events(&world, HOSTNAME_CONFLICT, "bob").await);
        for text in texts {
            assert!(text.starts_with("bob.example.com is another instance's") && !text.contains("team-b"), "{text}");
        }
        world.crash().await;
    });
}
