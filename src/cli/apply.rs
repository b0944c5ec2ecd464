//! `portreeve apply`: makes the server hold what manifests say.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::client::{Client, JSON};
use super::error::{Error, Exit, Result};
use super::kinds::{ResourceType, by_kind};
use super::manifest::{Manifest, load};
use super::merge::{annotated, last_applied, three_way};
use super::output::{ObjectFormat, list, print};
use super::server_side::{ServerSideArgs, differs};
use super::session::Session;
use super::state;
use super::until::{Seen, Target, until};
use super::url::with_query;
use crate::model::{Kind, Span, is_true};

/// Create objects, or change them to what manifests say.
///
/// What a manifest no longer says, and the manifest applied before did, is taken away; what neither says stays.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve apply -f alice.yaml
  portreeve apply -R -f instances/
  kubectl kustomize overlays/prod | portreeve apply -f -

  # only tell what would change, checked by the server
  portreeve apply -f alice.yaml --dry-run=server

  # and wait until it serves
  portreeve apply -f alice.yaml --wait --timeout 2m

  # share the object with others: each owns the fields that it applies
  portreeve apply -f alice.yaml --server-side --field-manager ci")]
pub struct ApplyArgs {
    /// A manifest, a directory of manifests, or - for standard input; may be repeated
    #[arg(short, long = "filename", required = true, value_name = "FILE|DIR|-")]
    pub filename: Vec<PathBuf>,
    /// Also the directories within directories
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Change nothing: `client` compares only, `server` also checks and shows the result
    #[arg(long, value_enum, default_value_t = DryRun::None)]
    pub dry_run: DryRun,
    #[command(flatten)]
    pub server_side: ServerSideArgs,
    /// Print the objects: name, json, yaml or jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<ObjectFormat>,
    /// Wait until each is as its manifest wants it: Instances serve or rest, others are Ready
    #[arg(long)]
    pub wait: bool,
    /// How long to wait for each
    #[arg(long, value_name = "DURATION", default_value = "5m", requires = "wait")]
    pub timeout: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    None,
    Client,
    Server,
}

/// What applying one manifest came to.
enum Outcome {
    Created,
    Configured,
    Unchanged,
}

pub async fn run(args: &ApplyArgs, session: &Session) -> Result<Exit> {
    if args.server_side.server_side && args.dry_run == DryRun::Client {
        return Err(Error::usage("--dry-run=client does not go with --server-side; use --dry-run=server"));
    }
    let mut objects = vec![];
    for manifest in load(&args.filename, args.recursive)? {
        let resource = by_kind(&session.client, &manifest.api_version, &manifest.kind)
            .await
            .map_err(|e| Error::failed(format!("{}: {e}", manifest.source)))?;
        objects.push((place(&manifest, &resource, session)?, resource, manifest));
    }
    let (mut shown, mut exit, mut to_wait) = (vec![], Exit::Done, vec![]);
    for (namespace, resource, manifest) in &objects {
        let done = if args.server_side.server_side {
            on_server(&session.client, resource, namespace, manifest, args).await
        } else {
            one(&session.client, resource, namespace, manifest, args.dry_run).await
        };
        match done {
            Ok((outcome, object)) => {
                if args.output.is_some() {
                    shown.push(object);
                } else {
                    print(&format!("{} {}\n", resource.named(&manifest.name), said(&outcome, args.dry_run)))?;
                }
                to_wait.push((namespace, resource, manifest));
            }
            // the others are independent of it, and a second apply heals what is missing
            Err(e) => {
                e.report();
                exit = Exit::Failed;
            }
        }
    }
    if let Some(format) = &args.output {
        let value = if objects.len() == 1 { shown.pop() } else { Some(list(shown)) };
        if let Some(value) = value {
            print(&format.render(None, &value)?)?;
        }
    }
    if args.wait && args.dry_run == DryRun::None {
        for (namespace, resource, manifest) in to_wait {
            let target = Target { resource, namespace, name: &manifest.name };
            wait_ready(&session.client, &target, args.timeout.duration()).await?;
        }
    }
    Ok(exit)
}

fn said(outcome: &Outcome, dry_run: DryRun) -> String {
    let word = match outcome {
        Outcome::Created => "created",
        Outcome::Configured => "configured",
        Outcome::Unchanged => "unchanged",
    };
    match dry_run {
        DryRun::None => word.into(),
        DryRun::Client => format!("{word} (dry run)"),
        DryRun::Server => format!("{word} (server dry run)"),
    }
}

/// The namespace that a manifest's object goes to.
pub fn place(manifest: &Manifest, resource: &ResourceType, session: &Session) -> Result<String> {
    match &manifest.namespace {
        Some(own) if resource.namespaced && session.namespace_given && *own != session.namespace => {
            Err(Error::failed(format!(
                "{}: the namespace of the object ({own}) is not the one given by --namespace ({})",
                manifest.source, session.namespace
            )))
        }
        Some(own) => Ok(own.clone()),
        None => Ok(session.namespace.clone()),
    }
}

/// The manifest with the namespace that it goes to.
pub fn completed(manifest: &Manifest, resource: &ResourceType, namespace: &str) -> Value {
    let mut value = manifest.value.clone();
    if resource.namespaced {
        value["metadata"]["namespace"] = json!(namespace);
    }
    value
}

async fn on_server(
    client: &Client,
    resource: &ResourceType,
    namespace: &str,
    manifest: &Manifest,
    args: &ApplyArgs,
) -> Result<(Outcome, Value)> {
    let path = resource.object(namespace, &manifest.name)?;
    let live = match client.get(&path, JSON).await {
        Ok(live) => Some(live),
        Err(e) if e.is_not_found() => None,
        Err(e) => return Err(e),
    };
    let wanted = completed(manifest, resource, namespace);
    let applied = args.server_side.apply(client, &path, &wanted, args.dry_run == DryRun::Server).await?;
    let outcome = match live {
        None => Outcome::Created,
        Some(live) if differs(&live, &applied) => Outcome::Configured,
        Some(_) => Outcome::Unchanged,
    };
    Ok((outcome, applied))
}

async fn one(
    client: &Client,
    resource: &ResourceType,
    namespace: &str,
    manifest: &Manifest,
    dry_run: DryRun,
) -> Result<(Outcome, Value)> {
    let path = resource.object(namespace, &manifest.name)?;
    let wanted = annotated(&completed(manifest, resource, namespace));
    let mut query = vec![("fieldManager", "portreeve-apply"), ("fieldValidation", "Strict")];
    if dry_run == DryRun::Server {
        query.push(("dryRun", "All"));
    }
    // someone else may create or delete it between our look and our write: then look again, a few times
    for _ in 0..4 {
        let written = match client.get(&path, JSON).await {
            Ok(live) => {
                let patch = three_way(last_applied(&live).as_ref(), &wanted, &live);
                if patch == json!({}) {
                    return Ok((Outcome::Unchanged, live));
                }
                if dry_run == DryRun::Client {
                    let mut merged = live;
                    json_patch::merge(&mut merged, &patch);
                    return Ok((Outcome::Configured, merged));
                }
                client.merge_patch(&with_query(&path, &query), &patch).await.map(|o| (Outcome::Configured, o))
            }
            Err(e) if e.is_not_found() => {
                if dry_run == DryRun::Client {
                    return Ok((Outcome::Created, wanted));
                }
                let collection = resource.collection(Some(namespace));
                client.post(&with_query(&collection, &query), &wanted).await.map(|o| (Outcome::Created, o))
            }
            Err(e) => return Err(e),
        };
        match written {
            // a missing namespace is NotFound as well, but is about another object
            Err(e) if e.has_reason("AlreadyExists") || e.has_reason("Conflict") => {}
            Err(Error::Server(s)) if s.code == 404 && s.message.contains(&format!("{:?}", manifest.name)) => {}
            other => return other,
        }
    }
    Err(Error::failed(format!("{} is being changed by others all the time; try again", resource.named(&manifest.name))))
}

/// Waits until an object is as its spec wants it: the Ready condition, or for an Instance also its rest.
pub async fn wait_ready(client: &Client, target: &Target<'_>, timeout: Duration) -> Result<()> {
    let (instance, host) = (ResourceType::from(Kind::Instance), ResourceType::from(Kind::DockerHost));
    if *target.resource == instance {
        until(client, target, timeout, |o| Ok(state::settled(o))).await
    } else if *target.resource == host {
        until(client, target, timeout, |o| Ok(host_ready(o))).await
    } else {
        Ok(())
    }
}

fn host_ready(object: Option<&Value>) -> Seen {
    let Some(host) = object.and_then(|o| serde_json::from_value::<crate::model::DockerHost>(o.clone()).ok()) else {
        return Seen::NotYet("it does not exist".into());
    };
    let current = host.status.observed_generation >= host.metadata.generation;
    if current && is_true(&host.status.conditions, "Ready") {
        return Seen::Done;
    }
    let why = crate::model::condition(&host.status.conditions, "Ready").map(|c| c.message.clone());
    Seen::NotYet(why.filter(|w| !w.is_empty()).unwrap_or_else(|| "not Ready".into()))
}
