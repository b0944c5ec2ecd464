//! `portreeve token`, against the real API, and its kubeconfig with this program and with kubectl.

use serde_json::Value;

use super::objects::{against, fails, said};
use super::*;
use crate::support::api_server::{ApiServer, instance};
use crate::support::client::INSTANCES;
use crate::support::without;

#[tokio::test]
async fn a_token_is_made_used_listed_and_revoked() {
    let server = ApiServer::start().await;
    server.client.post(INSTANCES, &instance("alice")).await.expect(201);
    let create = ["token", "create", "bob", "--role", "viewer", "-n", "default", "--expires", "719h"];
    let made = against(&server, &[&create[..], &["-o", "kubeconfig"]].concat(), "").await;
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let talk = stderr(&made);
    assert!(talk.starts_with("accesstoken.portreeve.dev/bob created: viewer in default until 20"), "{talk}");
    let path = server.dir.path().join("bob.kubeconfig");
    std::fs::write(&path, &made.stdout).unwrap();
    let bob = ["--kubeconfig", path.to_str().unwrap()];
    let with = |args: &'static [&'static str]| [&bob[..], args].concat();

    assert!(said(&server, &with(&["get", "inst"])).await.contains("alice"));
    let home = tempfile::tempdir().unwrap();
    let kubectl = tokio::process::Command::new("kubectl")
        .args(["get", "inst", "-o", "name"])
        .env("KUBECONFIG", &path)
        .env("HOME", home.path())
        .output();
    match kubectl.await {
        Ok(told) => assert_eq!(stdout(&told), "instance.portreeve.dev/alice\n", "{}", stderr(&told)),
        Err(_) => without("kubectl"),
    }
    let (code, text) = fails(&server, &with(&["stop", "alice"]), "").await;
    assert_eq!(
        (code, text.as_str()),
        (
            1,
            "Error from server (Forbidden): instances.portreeve.dev \"alice\" is forbidden: User \"bob\" cannot patch \
             resource \"instances\" in API group \"portreeve.dev\" in the namespace \"default\"\n"
        )
    );
    fails(&server, &with(&["get", "inst", "-A"]), "").await;
    let (code, text) = fails(&server, &with(&["token", "list"]), "").await;
    assert!(code == 1 && text.contains("cannot list resource \"accesstokens\""), "{text}");
    let (code, text) = fails(&server, &create, "").await;
    assert!(code == 1 && text.contains("already exists"), "{text}");

    let secret = said(&server, &["token", "create", "ci", "--role", "admin"]).await;
    assert!(secret.starts_with("prt_ci.") && secret.ends_with('\n'), "{secret}");
    let bare = said(&server, &["token", "create", "z", "--role", "viewer", "-o", "token"]).await;
    assert!(bare.starts_with("prt_z.") && bare.ends_with('\n') && bare.lines().count() == 1, "{bare}");
    let name = said(&server, &["token", "create", "x", "--role", "editor", "--namespaces", "a,b", "-o", "name"]).await;
    assert_eq!(name, "accesstoken.portreeve.dev/x\n");
    let json = said(&server, &["token", "create", "y", "--role", "viewer", "--user", "eve", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json["status"]["token"].as_str().unwrap().starts_with("prt_y."));

    server.used("bob", None).await;
    let list: Value = serde_json::from_str(&said(&server, &["token", "list", "-o", "json"]).await).unwrap();
    assert!(list["items"][0]["status"]["lastUsed"].is_string(), "bob's was used: {list}");
    assert!(list["items"][1]["status"].get("lastUsed").is_none(), "ci's was not: {list}");
    let table = said(&server, &["token", "list"]).await;
    let used: Vec<&str> = table.lines().skip(1).map(|l| l.split_whitespace().nth(5).unwrap()).collect();
    assert!(table.contains("LAST USED") && used == ["<1h", "never", "never", "never", "never"], "{table}");
    let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().take(5).collect()).collect();
    assert_eq!(
        rows,
        [
            ["NAME", "USER", "ROLE", "NAMESPACES", "EXPIRES"],
            ["bob", "bob", "viewer", "default", "29d"],
            ["ci", "ci", "admin", "<all>", "never"],
            ["x", "x", "editor", "a,b", "never"],
            ["y", "eve", "viewer", "<all>", "never"],
            ["z", "z", "viewer", "<all>", "never"],
        ],
        "{table}"
    );

    let output = against(&server, &["token", "revoke", "nobody", "bob"], "").await;
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), "accesstoken.portreeve.dev/bob revoked\n"));
    assert!(stderr(&output).contains("\"nobody\" not found"), "{}", stderr(&output));
    let (code, text) = fails(&server, &with(&["get", "inst"]), "").await;
    assert!(code == 1 && text.contains("Unauthorized"), "{text}");
}
