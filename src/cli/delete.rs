//! `portreeve delete`: asks for deletion, and by default waits until the objects are gone.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::apply::place;
use super::client::JSON;
use super::error::{Error, Exit, Result};
use super::kinds::{ResourceType, by_kind};
use super::manifest::load;
use super::output::print;
use super::selection::select;
use super::session::Session;
use super::until::{Seen, Target, until};
use super::url::with_query;
use crate::model::Span;

/// Delete objects.
///
/// An Instance is gone once its container is. Volumes stay unless the spec says `reclaim: Delete`. Objects that name a
/// deleted one as their only owner go, too: see --cascade.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve delete inst alice bob
  portreeve delete -f alice.yaml
  portreeve delete inst -l tier=trial --wait=false
  portreeve delete inst --all -n staging --dry-run
  portreeve delete cm defaults --cascade=orphan")]
pub struct DeleteArgs {
    /// Kind and names: `inst alice`, `inst/alice dh/local`
    #[arg(value_name = "KIND NAME", required_unless_present = "filename", conflicts_with = "filename")]
    pub targets: Vec<String>,
    /// The objects of manifests: a file, a directory or - for standard input; may be repeated
    #[arg(short, long, value_name = "FILE|DIR|-")]
    pub filename: Vec<PathBuf>,
    /// Also the directories within directories
    #[arg(short = 'R', long, requires = "filename")]
    pub recursive: bool,
    /// All objects of the kind whose labels match
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with_all = ["filename", "all"])]
    pub selector: Option<String>,
    /// All objects of the kind in the namespace
    #[arg(long, conflicts_with = "filename")]
    pub all: bool,
    /// What becomes of objects that they own: deleted after them, deleted before them, or left alone
    #[arg(long, value_name = "POLICY", value_enum, default_value_t)]
    pub cascade: Cascade,
    /// Wait until they are gone
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub wait: bool,
    /// How long to wait for each
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    pub timeout: Span,
    /// No error when an object does not exist
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Only let the server check and tell what would be deleted
    #[arg(long)]
    pub dry_run: bool,
}

/// `propagationPolicy`, by the words of kubectl.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Cascade {
    #[default]
    Background,
    Foreground,
    Orphan,
}

struct Victim {
    resource: ResourceType,
    namespace: String,
    name: String,
}

pub async fn run(args: &DeleteArgs, session: &Session) -> Result<Exit> {
    let victims = victims(args, session).await?;
    if victims.is_empty() {
        eprintln!("No resources found");
    }
    let (mut exit, mut going) = (Exit::Done, vec![]);
    let mut options = json!({"propagationPolicy": format!("{:?}", args.cascade)});
    if args.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    for victim in &victims {
        let path = victim.resource.object(&victim.namespace, &victim.name)?;
        match session.client.delete(&path, &options).await {
            Ok(answer) => {
                let dry = if args.dry_run { " (server dry run)" } else { "" };
                print(&format!("{} {:?} deleted{dry}\n", victim.resource.qualified(), victim.name))?;
                going.push((victim, uid(&answer)));
            }
            Err(e) if e.is_not_found() && args.ignore_not_found => {}
            Err(e @ Error::Server(_)) => {
                e.report();
                exit = Exit::Failed;
            }
            Err(e) => return Err(e),
        }
    }
    if args.wait && !args.dry_run {
        for (Victim { resource, namespace, name }, uid) in going {
            let target = Target { resource, namespace, name };
            until(&session.client, &target, args.timeout.duration(), |o| Ok(gone(o, &uid))).await?;
        }
    }
    Ok(exit)
}

/// The uid of what is being deleted: the answer is either the object or a Status about it.
fn uid(answer: &Value) -> String {
    let uid = answer["metadata"]["uid"].as_str().or(answer["details"]["uid"].as_str());
    uid.unwrap_or_default().to_owned()
}

/// Gone, or replaced by another object of the same name.
pub fn gone(object: Option<&Value>, uid: &str) -> Seen {
    let Some(object) = object else { return Seen::Done };
    let now = object["metadata"]["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && now != uid {
        return Seen::Done;
    }
    let waits: Vec<_> =
        object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let phase = object["status"]["phase"].as_str().unwrap_or("there");
    Seen::NotYet(match waits.as_slice() {
        [] => format!("still {phase}"),
        waits => format!("still {phase}, kept by {}", waits.join(", ")),
    })
}

async fn victims(args: &DeleteArgs, session: &Session) -> Result<Vec<Victim>> {
    let client = &session.client;
    let mut victims = vec![];
    if !args.filename.is_empty() {
        for manifest in load(&args.filename, args.recursive)? {
            let resource = by_kind(client, &manifest.api_version, &manifest.kind).await?;
            let namespace = place(&manifest, &resource, session)?;
            victims.push(Victim { resource, namespace, name: manifest.name });
        }
        return Ok(victims);
    }
    for selection in select(client, &args.targets).await? {
        let resource = selection.resource;
        let by_name = !selection.names.is_empty();
        let in_bulk = args.all || args.selector.is_some();
        if by_name == in_bulk {
            return Err(Error::usage(match by_name {
                true => "names cannot be combined with --all or -l",
                false => "say which: names, -l LABELS or --all",
            }));
        }
        let mut names = selection.names;
        if in_bulk {
            let query: Vec<_> = args.selector.as_deref().map(|l| ("labelSelector", l)).into_iter().collect();
            let list = client.get(&with_query(&resource.collection(Some(&session.namespace)), &query), JSON).await?;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            names.extend(items.iter().filter_map(|i| i["metadata"]["name"].as_str().map(str::to_owned)));
        }
        let namespace = &session.namespace;
        victims.extend(names.into_iter().map(|name| Victim {
            resource: resource.clone(),
            namespace: namespace.clone(),
            name,
        }));
    }
    Ok(victims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_object_of_the_same_name_is_not_the_deleted_one() {
        let object = json!({"metadata": {"uid": "u1", "finalizers": ["portreeve.dev/container"]}, "status": {"phase": "Stopping"}});
        assert_eq!(gone(None, "u1"), Seen::Done);
        assert_eq!(gone(Some(&object), "u0"), Seen::Done);
        assert_eq!(gone(Some(&object), "u1"), Seen::NotYet("still Stopping, kept by portreeve.dev/container".into()));
        assert_eq!(uid(&json!({"details": {"uid": "u1"}})), "u1");
        assert_eq!(uid(&object), "u1");
    }
}
