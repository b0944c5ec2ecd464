//! `portreeve apply` and `kubectl apply` of one manifest: neither fights the other.

use std::process::Stdio;

use serde_json::json;

use super::objects::{against, said, stored};
use super::*;
use crate::support::api_server::{ApiServer, instance};
use crate::support::without;

#[tokio::test]
async fn what_one_applied_is_unchanged_for_the_other() {
    let found = Command::new("kubectl").args(["version", "--client"]).stdout(Stdio::null()).status().await;
    if !found.is_ok_and(|s| s.success()) {
        return without("kubectl");
    }
    let server = ApiServer::start().await;
    let file = server.dir.path().join("manifest.json").display().to_string();
    let kubectl = async || {
        let mut command = Command::new("kubectl");
        command.args(["apply", "-f", &file]).env("KUBECONFIG", &server.kubeconfig).env("HOME", server.dir.path());
        let output = finish(&mut command).await;
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let ours = async || said(&server, &["apply", "-f", &file]).await;

    // with characters that Go escapes, texts that look like numbers, and a field that goes away later
    let mut manifest = instance("alice");
    manifest["spec"]["args"] = json!(["<a & b>", "é\u{2028}", "\u{1}\t\"", "1e3"]);
    manifest["spec"]["user"] = json!("1000");
    std::fs::write(&file, manifest.to_string()).expect("written");
    assert_eq!(ours().await, "instance.portreeve.dev/alice created\n");
    assert_eq!(kubectl().await, "instance.portreeve.dev/alice unchanged\n");

    manifest["spec"].as_object_mut().expect("an object").remove("user");
    manifest["spec"]["image"] = json!("app:2");
    std::fs::write(&file, manifest.to_string()).expect("written");
    assert_eq!(kubectl().await, "instance.portreeve.dev/alice configured\n");
    assert_eq!(ours().await, "instance.portreeve.dev/alice unchanged\n");
    assert_eq!(stored(&server, "alice").await["spec"]["user"], json!(null));

    let diff = against(&server, &["diff", "-f", &file], "").await;
    assert_eq!((diff.status.code(), stdout(&diff).as_str()), (Some(0), ""), "{}", stderr(&diff));
}
