//! `apply` and `diff` with `--server-side`.

use serde_json::{Value, json};

use super::objects::{against, fails, stored};
use super::*;
use crate::support::api_server::{ApiServer, instance, running};

async fn applied(server: &ApiServer, manifest: &Value, more: &[&str]) -> String {
    let output = against(server, &[&["apply", "--server-side", "-f", "-"], more].concat(), &manifest.to_string()).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    stdout(&output)
}

#[tokio::test]
async fn the_server_merges_and_a_conflict_says_what_to_do() {
    let server = ApiServer::start().await;
    let mut manifest = instance("alice");
    manifest["spec"]["user"] = json!("1");
    let dry = applied(&server, &manifest, &["--dry-run=server"]).await;
    assert_eq!(dry, "instance.portreeve.dev/alice created (server dry run)\n");
    assert_eq!(applied(&server, &manifest, &[]).await, "instance.portreeve.dev/alice created\n");
    server.put_status("alice", running()).await;
    assert_eq!(applied(&server, &manifest, &[]).await, "instance.portreeve.dev/alice unchanged\n");
    manifest["spec"]["image"] = json!("app:2");
    manifest["spec"].as_object_mut().unwrap().remove("user");
    assert_eq!(applied(&server, &manifest, &[]).await, "instance.portreeve.dev/alice configured\n");
    assert_eq!(stored(&server, "alice").await["spec"]["user"], json!(null));

    let other = json!({"apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": {"name": "alice"}, "spec": {"image": "app:3"}});
    let args = ["apply", "--server-side", "--field-manager", "ci", "-f", "-"];
    let (code, said) = fails(&server, &args, &other.to_string()).await;
    assert_eq!(code, 1);
    assert!(said.contains("conflict with \"portreeve\": .spec.image") && said.contains("--force-conflicts"), "{said}");
    let done = applied(&server, &other, &["--field-manager", "ci", "--force-conflicts"]).await;
    assert_eq!(done, "instance.portreeve.dev/alice configured\n");
    assert_eq!(stored(&server, "alice").await["spec"]["image"], "app:3");
    for wrong in [&["--force-conflicts"][..], &["--server-side", "--dry-run=client"]] {
        let args = [&["apply", "-f", "-"], wrong].concat();
        assert_eq!(fails(&server, &args, &manifest.to_string()).await.0, 2, "{wrong:?}");
    }
}

#[tokio::test]
async fn what_apply_set_before_is_taken_over_without_conflict() {
    let server = ApiServer::start().await;
    let mut manifest = instance("alice");
    manifest["spec"]["user"] = json!("1");
    let before = against(&server, &["apply", "-f", "-"], &manifest.to_string()).await;
    assert_eq!(before.status.code(), Some(0), "{}", stderr(&before));
    manifest["spec"]["image"] = json!("app:2");
    manifest["spec"].as_object_mut().unwrap().remove("user");
    let shown = against(&server, &["diff", "--server-side", "-f", "-"], &manifest.to_string()).await;
    assert_eq!(shown.status.code(), Some(3), "{}", stderr(&shown));
    assert!(stdout(&shown).contains("-  user:") && stdout(&shown).contains("+  image: app:2"), "{}", stdout(&shown));
    assert_eq!(stored(&server, "alice").await["spec"]["user"], "1", "a diff changes nothing");
    assert_eq!(applied(&server, &manifest, &[]).await, "instance.portreeve.dev/alice configured\n");
    let now = stored(&server, "alice").await;
    assert_eq!((&now["spec"]["image"], &now["spec"]["user"]), (&json!("app:2"), &json!(null)));
    let same = against(&server, &["diff", "--server-side", "-f", "-"], &manifest.to_string()).await;
    assert_eq!((same.status.code(), stdout(&same).as_str()), (Some(0), ""), "{}", stderr(&same));
}
