//! The API as controllers written with kube-rs meet it: a typed client that shares no line with ours, over TLS, with the
//! kubeconfig that the server writes.

mod apply;
mod discovery;
mod objects;
mod pods;
mod reviews;
mod runtime;
mod watching;

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use kube::api::{ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Config};
use portreeve::model::{InstanceSpec, InstanceStatus, Port};
use serde::{Deserialize, Serialize};

use crate::support::api_server::PATIENCE;

/// Our kind as kube-rs' derive would make it: their metadata, our spec and status.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    spec: InstanceSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<InstanceStatus>,
}

impl kube::Resource for Instance {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Instance".into()
    }
    fn group((): &()) -> Cow<'_, str> {
        "portreeve.dev".into()
    }
    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }
    fn plural((): &()) -> Cow<'_, str> {
        "instances".into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// An instance as a program makes it.
fn instance(name: &str) -> Instance {
    let web = Port { name: "web".into(), container_port: 8080, host_port: None };
    Instance {
        api_version: "portreeve.dev/v1".into(),
        kind: "Instance".into(),
        metadata: ObjectMeta { name: Some(name.into()), ..Default::default() },
        spec: InstanceSpec { image: "app:1".into(), ports: vec![web], ..Default::default() },
        status: None,
    }
}

/// The administrator.
async fn client(kubeconfig: &Path) -> Client {
    let read = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig that kube-rs can read");
    Client::try_from(config(read).await).expect("a client")
}

/// What it would be for a controller, but that it shows every refusal: by itself it tries 429, 503 and 504 for minutes.
async fn config(read: Kubeconfig) -> Config {
    let mut config =
        Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.expect("a configuration");
    config.default_retry = false;
    config
}

async fn made(api: &Api<Instance>, name: &str) -> Instance {
    api.create(&PostParams::default(), &instance(name)).await.expect("an instance")
}

/// The code and reason of an error that the server told.
#[track_caller]
fn refusal<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.reason, status.message),
        other => panic!("no Status, but {other:?}"),
    }
}

/// What comes within the bound on everything that a test waits for.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Between two looks at what tells nobody when it changes.
const GLANCE: Duration = Duration::from_millis(10);
