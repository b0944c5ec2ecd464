//! The end of a namespace as kubectl shows it and waits for it.

use serde_json::json;

use super::{Kubectl, MANIFEST};

#[tokio::test]
async fn delete_ns_waits_for_its_instances_and_ends() {
    let Some(k) = Kubectl::new().await else { return };
    k.ok("create ns team").await;
    k.ok_with("apply -n team -f -", MANIFEST).await;
    k.ok("create configmap settings -n team --from-literal=a=b").await;
    assert!(k.ok("delete ns team --wait=false").await.contains("deleted"));
    let row = k.ok("get ns team --no-headers").await;
    assert_eq!(row.split_whitespace().take(2).collect::<Vec<_>>(), ["team", "Terminating"]);
    let refused = k.fails_with("create configmap more -n team", "").await;
    assert!(refused.contains("because it is being terminated"), "{refused}");
    let taken = k.fails_with("create ns team", "").await;
    assert!(taken.contains("(AlreadyExists): object is being deleted: namespaces \"team\" already exists"), "{taken}");
    let wait = "wait ns/team --for=condition=NamespaceContentRemaining --timeout=15s";
    k.ok(wait).await;
    let described = k.ok("describe ns team").await;
    assert!(described.contains("instances.portreeve.dev has 1 resource instances"), "{described}");

    let inside = "/apis/portreeve.dev/v1/namespaces/team/instances/alice";
    let let_go = async {
        // Its controller's part, there being no daemon.
        k.server.client.merge(inside, &json!({"metadata": {"finalizers": null}})).await.expect(200);
    };
    tokio::join!(k.ok("wait ns/team --for=delete --timeout=15s"), let_go);
    assert!(k.fails_with("get ns team", "").await.contains("NotFound"));
    k.ok("create ns team").await;
    assert!(k.ok("delete ns team").await.contains("deleted"), "an empty one goes at once, and delete ends");
    assert!(k.fails_with("delete ns default", "").await.contains("may not be deleted"));
    assert!(k.ok("cluster-info").await.contains("is running at"));
}
