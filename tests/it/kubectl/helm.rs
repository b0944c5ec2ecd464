//! The unmodified Helm against the API: the chart among the examples is installed, upgraded, rolled back and taken away.

use std::time::Duration;

use serde_json::json;

use super::Kubectl;
use crate::support::api_server::running;
use crate::support::client::INSTANCES;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/helm");

async fn helm() -> Option<Kubectl> {
    Kubectl::found("helm", &["version"]).await
}

/// Those that are there; what is to go goes, as if a controller had taken its container away.
async fn names(helm: &Kubectl) -> Vec<String> {
    let client = &helm.server.client;
    let list = client.get(INSTANCES).await.expect(200);
    let mut names = vec![];
    for item in list["items"].as_array().expect("items") {
        let name = item["metadata"]["name"].as_str().expect("a name");
        if item["metadata"]["deletionTimestamp"].is_null() {
            names.push(name.to_owned());
        } else {
            let done = json!({"metadata": {"finalizers": null}});
            client.merge(&format!("{INSTANCES}/{name}"), &done).await.expect(200);
        }
    }
    names
}

#[tokio::test]
async fn a_chart_is_installed_upgraded_rolled_back_and_taken_away() {
    let Some(helm) = helm().await else { return };
    let tried = helm.ok(&format!("install demo {CHART} --dry-run=server")).await;
    assert!(tried.contains("name: bob"), "{tried}");
    assert_eq!(names(&helm).await, [""; 0], "a dry run made something");

    assert!(helm.ok(&format!("install demo {CHART}")).await.contains("STATUS: deployed"));
    assert_eq!(names(&helm).await, ["alice", "bob"]);
    let releases = helm.server.client.get("/api/v1/namespaces/default/secrets?labelSelector=owner%3Dhelm").await;
    assert_eq!(releases.expect(200)["items"][0]["type"], "helm.sh/release.v1");

    helm.ok(&format!("upgrade demo {CHART} --set users={{alice,carol}} --set image=app:2")).await;
    assert_eq!(names(&helm).await, ["alice", "carol"]);
    let alice = format!("{INSTANCES}/alice");
    assert_eq!(helm.server.client.get(&alice).await.expect(200)["spec"]["image"], "app:2");
    // what somebody else set meanwhile is theirs, and stays
    helm.server.client.merge(&alice, &json!({"metadata": {"annotations": {"note": "mine"}}})).await.expect(200);

    helm.ok("rollback demo 1").await;
    assert_eq!(names(&helm).await, ["alice", "bob"]);
    let back = helm.server.client.get(&alice).await.expect(200);
    assert_eq!(
        (&back["spec"]["image"], &back["metadata"]["annotations"]["note"]),
        (&json!("traefik/whoami:v1.10"), &json!("mine"))
    );
    let status = helm.ok("status demo").await;
    assert!(status.contains("v1/Instance") && status.contains("alice"), "{status}");
    let history: serde_json::Value = serde_json::from_str(&helm.ok("history demo -o json").await).expect("JSON");
    assert_eq!(history.as_array().map(Vec::len), Some(3), "{history}");

    helm.ok("uninstall demo").await;
    assert_eq!(names(&helm).await, [""; 0]);
}

/// It reads our conditions as those of any kind.
#[tokio::test]
async fn an_installation_waits_for_its_instances() {
    let Some(helm) = helm().await else { return };
    let late = helm.fails_with(&format!("install early {CHART} --set users={{alice}} --wait --timeout 2s"), "").await;
    assert!(late.contains("alice") && late.contains("not ready"), "{late}");
    helm.ok("uninstall early").await;
    names(&helm).await;

    let install = format!("install demo {CHART} --set users={{alice}} --wait --timeout 60s");
    let controller = async {
        let alice = format!("{INSTANCES}/alice");
        while helm.server.client.get(&alice).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        helm.server.put_status("alice", running()).await;
    };
    let (said, ()) = tokio::join!(helm.ok(&install), controller);
    assert!(said.contains("STATUS: deployed"), "{said}");
}
