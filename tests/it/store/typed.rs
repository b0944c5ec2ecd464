//! Typed reads and the compare-and-swap writes of the controllers.

use portreeve::model::{Instance, InstanceStatus, Key, Phase, Resource};
use portreeve::store::{MemoryStore, Revision, SharedStore, StoreError, typed};

use super::{put, write};

/// As a user wrote it: odd order, odd spaces, fields of a newer version, a number too large for a double.
const WRITTEN: &str = r#"{ "spec": {"image":"app:1", "future": {"z": 1.0e0, "a": 123456789012345678901234567890}},
  "metadata": {"namespace":"default", "name":"alice", "finalizers":["portreeve.dev/container"], "x-new": [1 , 2]} }"#;

fn alice() -> Key {
    Key::instance("default", "alice")
}

async fn stored(store: &SharedStore) -> String {
    let record = store.get(&alice().to_string()).await.unwrap().expect("the object");
    String::from_utf8(record.value.to_vec()).unwrap()
}

fn is_conflict<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Conflict { .. }))
}

#[tokio::test]
async fn an_object_reads_back_with_its_version_and_is_stored_without() {
    let store = MemoryStore::new();
    let mut instance = Instance::default();
    instance.metadata.namespace = "default".into();
    instance.metadata.name = "alice".into();
    instance.metadata.resource_version = "77".into();
    let created = typed::create(&*store, &instance).await.unwrap();
    assert_eq!(created.metadata.resource_version, "1");
    assert!(!stored(&store).await.contains("resourceVersion"));
    assert_eq!(typed::get::<Instance>(&*store, &alice()).await.unwrap(), Some(created.clone()));
    assert!(is_conflict(&typed::create(&*store, &instance).await), "it was created twice");

    // The same content again writes nothing; another does, once.
    assert_eq!(typed::update(&*store, &created).await.unwrap(), created);
    assert_eq!(store.revision(), Revision(1));
    let mut changed = created.clone();
    changed.spec.image = "app:2".into();
    assert_eq!(typed::update(&*store, &changed).await.unwrap().metadata.resource_version, "2");
    assert!(is_conflict(&typed::update(&*store, &changed).await), "an old version was written");
    assert_eq!(typed::get::<Instance>(&*store, &Key::instance("default", "bob")).await.unwrap(), None);
}

#[tokio::test]
async fn a_status_write_keeps_every_other_byte() {
    let store = MemoryStore::new();
    write(&store, vec![put(&alice().to_string(), WRITTEN)]).await;
    let mut status = InstanceStatus { phase: Phase::Running, node: "n1".into(), ..Default::default() };
    let at = typed::replace_status(&*store, &alice(), Revision(1), &status).await.unwrap();
    assert_eq!(at, Revision(2));
    let (before, after) =
        stored(&store).await.split_once(r#","status":{"#).map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_eq!(before, WRITTEN.strip_suffix(" }").unwrap());
    assert_eq!(after, r#""node":"n1","phase":"Running"} }"#);

    // Equal again: nothing is written, even if the API has since printed the members in another order.
    assert_eq!(typed::replace_status(&*store, &alice(), at, &status).await.unwrap(), at);
    let reordered =
        stored(&store).await.replace(r#""node":"n1","phase":"Running""#, r#""phase":"Running", "node":"n1""#);
    let at = write(&store, vec![put(&alice().to_string(), reordered)]).await;
    assert_eq!(typed::replace_status(&*store, &alice(), at, &status).await.unwrap(), at);

    status.phase = Phase::Asleep;
    let mut object: Instance = typed::get(&*store, &alice()).await.unwrap().unwrap();
    object.status = status;
    // What the caller holds besides the status is not written.
    object.spec.image = "evil:1".into();
    let updated = typed::update_status(&*store, &object).await.unwrap();
    assert_eq!(updated.metadata.resource_version, "4");
    assert!(is_conflict(&typed::update_status(&*store, &object).await), "an old version was written");
    let text = stored(&store).await;
    assert!(text.contains(r#""phase":"Asleep""#) && text.contains(r#""image":"app:1""#), "{text}");
}

#[tokio::test]
async fn finalizers_are_replaced_alone_and_the_last_one_lets_a_deleted_object_go() {
    let store = MemoryStore::new();
    let key = alice().to_string();
    let at = write(&store, vec![put(&key, WRITTEN)]).await;
    let two = ["portreeve.dev/container".to_owned(), "b".to_owned()];
    assert_eq!(typed::replace_finalizers(&*store, &alice(), at, &two[..1]).await.unwrap(), at, "no change");
    let at = typed::replace_finalizers(&*store, &alice(), at, &two).await.unwrap();
    assert_eq!(
        stored(&store).await,
        WRITTEN.replace(r#"["portreeve.dev/container"]"#, r#"["portreeve.dev/container","b"]"#)
    );
    assert!(is_conflict(&typed::replace_finalizers(&*store, &alice(), Revision(1), &[]).await));

    // Without a deletion asked for, an object without finalizers stays.
    let at = typed::replace_finalizers(&*store, &alice(), at, &[]).await.unwrap();
    assert_eq!(stored(&store).await, WRITTEN.replace(r#" "finalizers":["portreeve.dev/container"],"#, ""));
    assert_eq!(typed::replace_finalizers(&*store, &alice(), at, &[]).await.unwrap(), at);

    let deleting = WRITTEN.replace(r#""x-new""#, r#""deletionTimestamp":"2026-01-01T00:00:00Z", "x-new""#);
    let at = write(&store, vec![put(&key, deleting)]).await;
    let gone = typed::replace_finalizers(&*store, &alice(), at, &[]).await.unwrap();
    assert_eq!(gone, Revision(at.0 + 1));
    assert_eq!(store.get(&key).await.unwrap(), None);
    assert!(is_conflict(&typed::replace_finalizers(&*store, &alice(), at, &[]).await));
}

#[tokio::test]
async fn an_unreadable_object_is_left_out_of_lists_and_named_when_asked_for() {
    let store = MemoryStore::new();
    write(&store, vec![put(&alice().to_string(), WRITTEN), put("instances/team/bad", r#"{"spec":1}"#)]).await;
    let listing = typed::list::<Instance>(&*store, None).await.unwrap();
    assert_eq!(listing.items.iter().map(Resource::key).collect::<Vec<_>>(), [alice()]);
    assert_eq!((listing.revision, &*listing.items[0].metadata.resource_version), (Revision(1), "1"));
    assert!(typed::list::<Instance>(&*store, Some("team")).await.unwrap().items.is_empty());
    let error = typed::get::<Instance>(&*store, &Key::instance("team", "bad")).await.unwrap_err();
    assert!(error.to_string().contains("instances/team/bad: what is stored is not of kind Instance"), "{error}");
    let error = typed::replace_status(&*store, &Key::instance("team", "bad"), Revision(1), &1).await;
    assert_eq!(error, Ok(Revision(2)), "a status can be spliced in whatever the spec is");
    write(&store, vec![put("instances/team/bad", "no")]).await;
    let error = typed::replace_status(&*store, &Key::instance("team", "bad"), Revision(3), &1).await.unwrap_err();
    assert!(error.to_string().contains("instances/team/bad: what is stored is not a JSON object"), "{error}");
}
