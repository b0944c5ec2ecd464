//! `logs` of several instances and of earlier runs, through the real API to a stand-in for containers.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use portreeve::api::attach::{AttachOptions, Connection, ExecIo, ExecOptions, LogOptions};
use portreeve::api::{Attach, AttachError};
use portreeve::model::Key;
use serde_json::json;

use super::objects::{against, fails, said};
use super::*;
use crate::support::api_server::{ApiServer, instance, running};

/// Lines of every instance, cut in the middle; `broken` has a host that is away. Nothing ran before.
struct Writers;

#[async_trait::async_trait]
impl Attach for Writers {
    async fn logs(
        &self,
        key: &Key,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, AttachError>>, AttachError> {
        if key.name == "broken" {
            return Err(AttachError::Unreachable { key: key.clone(), why: "no route".into() });
        }
        if options.previous {
            return Err(AttachError::NoPreviousRun(key.clone()));
        }
        let count = options.tail.unwrap_or(100);
        let name = key.name.clone();
        let pieces = (0..count).flat_map(move |n| [format!("{name} wri"), format!("tes {n}\n")]);
        // each piece for itself, so that those of two writers come in turns
        let pieces = stream::iter(pieces).then(async |piece| {
            tokio::task::yield_now().await;
            Ok(Bytes::from(piece))
        });
        Ok(pieces.boxed())
    }
    async fn exec(&self, key: &Key, _: ExecOptions) -> Result<ExecIo, AttachError> {
        Err(AttachError::NoContainer(key.clone()))
    }
    async fn attach(&self, key: &Key, _: AttachOptions) -> Result<ExecIo, AttachError> {
        Err(AttachError::NoContainer(key.clone()))
    }
    async fn connect(&self, key: &Key, _: u16) -> Result<Connection, AttachError> {
        Err(AttachError::NoContainer(key.clone()))
    }
}

async fn server(names: &[&str]) -> ApiServer {
    let server = ApiServer::start_with(Arc::new(Writers)).await;
    for name in names {
        let mut manifest = instance(name);
        manifest["metadata"]["labels"] = json!({"set": "s"});
        server.client.post(crate::support::client::INSTANCES, &manifest).await.expect(201);
        server.put_status(name, running()).await;
    }
    server
}

#[tokio::test]
async fn followed_logs_of_several_merge_in_whole_lines() {
    let server = server(&["alice", "bob", "carol"]).await;
    let text = said(&server, &["logs", "-f", "alice", "bob", "carol", "--prefix"]).await;
    for name in ["alice", "bob", "carol"] {
        let prefix = format!("[pod/{name}/main] ");
        let own: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix(&prefix)).collect();
        let expected: Vec<String> = (0..100).map(|n| format!("{name} writes {n}")).collect();
        assert_eq!(own, expected);
    }
    assert_eq!(text.lines().count(), 300);
}

#[tokio::test]
async fn a_selector_finds_whose_logs_and_shows_their_ends_one_after_the_other() {
    let server = server(&["alice", "bob"]).await;
    let text = said(&server, &["logs", "-l", "set=s"]).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 20, "ten of each, as kubectl");
    assert!(lines[..10].iter().all(|l| l.starts_with("alice ")) && lines[10..].iter().all(|l| l.starts_with("bob ")));
    assert_eq!(said(&server, &["logs", "-l", "set=s", "--tail=-1"]).await.lines().count(), 200);
    let none = against(&server, &["logs", "-l", "set=none"], "").await;
    assert_eq!((none.status.code(), stdout(&none).as_str()), (Some(0), ""));
    assert_eq!(stderr(&none), "No resources found in default namespace.\n");
}

#[tokio::test]
async fn too_many_are_not_followed_unless_asked_for() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let server = server(&names).await;
    let (code, errors) = fails(&server, &["logs", "-f", "-l", "set=s"], "").await;
    assert!(code == 1 && errors.contains("attempting to follow 6 log streams"), "{errors}");
    let text = said(&server, &["logs", "-f", "-l", "set=s", "--max-log-requests", "6"]).await;
    assert_eq!(text.lines().count(), 60);
}

#[tokio::test]
async fn one_that_cannot_be_read_does_not_hide_the_others() {
    let server = server(&["alice", "broken", "carol"]).await;
    for follow in ["--follow", "--prefix"] {
        let args = ["logs", "-l", "set=s", "--tail", "2", follow];
        let output = against(&server, &args, "").await;
        assert_eq!((output.status.code(), stdout(&output).lines().count()), (Some(1), 4), "{}", stderr(&output));
        assert!(stderr(&output).starts_with("broken: Error from server (ServiceUnavailable)"), "{}", stderr(&output));
        let output = against(&server, &[&args[..], &["--ignore-errors"]].concat(), "").await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let (code, errors) = fails(&server, &["logs", "-p", "alice"], "").await;
    let expected =
        "Error from server (BadRequest): previous terminated container \"main\" in pod \"alice\" not found\n";
    assert_eq!((code, errors.as_str()), (1, expected));
    let (code, errors) = fails(&server, &["logs", "alice", "-c", "sidecar"], "").await;
    assert!(code == 1 && errors.contains("container sidecar is not valid for pod alice"), "{errors}");
}
