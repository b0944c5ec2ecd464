//! `portreeve adopt`: takes over containers that run already, as they are, and lets them go again.
//!
//! ```text
//! dockerhosts/HOST/containers ──▶ choose (which) ──▶ manifest (as what) ──▶ POST, all or none ──▶ wait
//! ```
//!
//! Nothing of a container is touched from here: the controllers take it over, and only as it was told.

mod choose;
mod compose;
mod release;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::apply::DryRun;
use super::client::JSON;
use super::error::{Error, Exit, Result};
use super::kinds::ResourceType;
use super::output::{ObjectFormat, list, print};
use super::power::WaitFlags;
use super::session::Session;
use super::state;
use super::table::{Layout, printable};
use super::until::{Seen, Target, until};
use super::url::with_query;
use crate::model::{HostContainer, HostContainerList, Instance, InstanceSpec, Kind, Power, Quantity, validate_name};
use choose::{Chosen, Wanted};

/// Take over running containers as Instances, without making them anew.
///
/// A container goes on running as it is: its id, its start, its ports and volumes stay; its restart policy becomes `no`,
/// because Portreeve starts it again. When its spec changes, another takes its place, with the same volumes and ports;
/// what it wrote outside its volumes is gone then. Without a choice, all that could be adopted is listed.
///
/// A container with what an Instance cannot say (host network, devices, ports of Docker's choice, ...) is refused, with
/// the reason. If one is refused, none is adopted.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  # what is there, and what could be taken over
  portreeve adopt

  # see what would be made of it, then do it
  portreeve adopt web --dry-run=client -o yaml
  portreeve adopt web

  # on another host, under another name, asleep when the proxy sees no use for 30 minutes
  portreeve adopt 4c01db0b339c --host worker-1 --name alice --power Auto

  # by label, or the services of a compose file
  portreeve adopt -l tier=free --memory 512Mi
  portreeve adopt -f compose.yaml --leave-networks

  # let it go again: the record goes, the container stays as it is
  portreeve adopt --release alice")]
pub struct AdoptArgs {
    /// The containers, by name or id; with --release the Instances
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
    /// The host that they run on [default: the only one]
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// The name of the Instance [default: the container's]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// All with this label of Docker's; may be repeated
    #[arg(short = 'l', long = "selector", value_name = "KEY=VALUE")]
    pub selector: Vec<String>,
    /// The running containers of a compose file's services; what they are is read from them, not from the file
    #[arg(short, long = "filename", value_name = "FILE")]
    pub filename: Option<PathBuf>,
    /// The compose project [default: the file's name field, else its directory's name]
    #[arg(long, value_name = "PROJECT", requires = "filename")]
    pub project: Option<String>,
    /// The memory limit, set in place [default: the container's own, else all that its host has]
    #[arg(long, value_name = "QUANTITY")]
    pub memory: Option<Quantity>,
    /// The CPU limit, set in place [default: the container's own, else all that its host has]
    #[arg(long, value_name = "QUANTITY")]
    pub cpu: Option<Quantity>,
    /// Running: always on. Auto: sleeps without use; only use through Portreeve's proxy counts
    #[arg(long, value_enum, default_value_t = AdoptPower::Running)]
    pub power: AdoptPower,
    /// Also those that share a network with other containers: one made in their place will not be in it
    #[arg(long)]
    pub leave_networks: bool,
    /// Delete the Instances and leave their adopted containers as they are
    #[arg(long, conflicts_with_all = ["host", "name", "selector", "filename", "memory", "cpu", "output", "leave_networks"])]
    pub release: bool,
    /// Change nothing: `client` shows what would be made, `server` also has it checked
    #[arg(long, value_enum, default_value_t = DryRun::None)]
    pub dry_run: DryRun,
    /// Print the Instances: name, json, yaml or jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<ObjectFormat>,
    #[command(flatten)]
    pub wait: WaitFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum AdoptPower {
    Running,
    Auto,
}

pub async fn run(args: &AdoptArgs, session: &Session) -> Result<Exit> {
    if args.release {
        return release::run(args, session).await;
    }
    let wanted = Wanted::of(args)?;
    let host = host(args, session).await?;
    let path = format!("{}/containers", ResourceType::from(Kind::DockerHost).object("", &host)?);
    let answer = session.client.get(&path, JSON).await?;
    let there: HostContainerList = serde_json::from_value(answer)
        .map_err(|e| Error::failed(format!("the containers of {host} cannot be read: {e}")))?;
    let Some(wanted) = wanted else {
        print(&Layout::default().lines(&overview(&there.items)))?;
        return Ok(Exit::Done);
    };
    let chosen = choose::choose(&wanted, &there.items)?;
    if args.name.is_some() && chosen.len() != 1 {
        return Err(Error::usage(format!("--name is for one container, and {} are chosen", chosen.len())));
    }
    let mut refused = false;
    for one in &chosen {
        for why in why_not(one, args) {
            eprintln!("error: container {:?} {}", printable(&one.container.name), printable(&why));
            refused = true;
        }
    }
    if refused {
        return Err(Error::failed("nothing was adopted"));
    }
    let manifests = chosen.iter().map(|one| manifest(one, &host, args, session)).collect::<Result<Vec<_>>>()?;
    for one in &chosen {
        for note in &one.container.notes {
            eprintln!("note: container {:?} {}", printable(&one.container.name), printable(note));
        }
    }
    make(args, session, &chosen, manifests).await
}

/// The host that was named, or the only one.
async fn host(args: &AdoptArgs, session: &Session) -> Result<String> {
    if let Some(host) = &args.host {
        return Ok(host.clone());
    }
    let hosts = session.client.get(&ResourceType::from(Kind::DockerHost).collection(None), JSON).await?;
    let names = hosts["items"].as_array().into_iter().flatten().filter_map(|h| h["metadata"]["name"].as_str());
    match names.collect::<Vec<_>>().as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Err(Error::failed("there is no DockerHost")),
        several => Err(Error::usage(format!("--host: name one of {}", several.join(", ")))),
    }
}

fn overview(all: &[HostContainer]) -> Vec<Vec<String>> {
    let mut rows = vec![["CONTAINER", "ID", "IMAGE", "ADOPTABLE"].map(str::to_owned).to_vec()];
    rows.extend(all.iter().map(|c| {
        let id = c.container_id.get(..12).unwrap_or(&c.container_id).to_owned();
        let can = match c.refusals.first() {
            Some(why) => format!("no: {why}"),
            None if !c.shared_networks.is_empty() => format!("yes; shares {}", c.shared_networks.join(", ")),
            None => "yes".to_owned(),
        };
        vec![c.name.clone(), id, c.image.clone(), can]
    }));
    rows
}

/// Why one of the chosen cannot be adopted as asked for.
fn why_not(one: &Chosen<'_>, args: &AdoptArgs) -> Vec<String> {
    let mut why = one.container.refusals.clone();
    if !args.leave_networks {
        let shared = one.container.shared_networks.iter();
        why.extend(shared.map(|network| {
            format!("shares the network {network}, in which one made in its place would not be; --leave-networks accepts that")
        }));
    }
    if one.container.spec.is_none() && why.is_empty() {
        why.push("is not described".to_owned());
    }
    why
}

/// The Instance that takes a container over.
fn manifest(one: &Chosen<'_>, host: &str, args: &AdoptArgs, session: &Session) -> Result<Value> {
    let container = one.container;
    let mut spec: InstanceSpec = container.spec.clone().unwrap_or_default();
    let name = args.name.clone().unwrap_or_else(|| choose::fit_name(&container.name));
    if let Some(e) = validate_name("metadata.name", &name) {
        return Err(Error::usage(format!("container {:?}: {e}; --name gives another", container.name)));
    }
    spec.power = match args.power {
        AdoptPower::Running => Power::Running,
        AdoptPower::Auto => Power::Auto,
    };
    spec.resources.memory = args.memory.clone().or(spec.resources.memory);
    spec.resources.cpu = args.cpu.clone().or(spec.resources.cpu);
    let mut spec = serde_json::to_value(spec).map_err(|e| Error::failed(e.to_string()))?;
    spec["adopt"] = json!({"node": host, "containerID": container.container_id});
    Ok(json!({
        "apiVersion": "portreeve.dev/v1", "kind": "Instance",
        "metadata": {"name": name, "namespace": session.namespace}, "spec": spec,
    }))
}

/// Has all of them checked before the first is made: none is half done.
async fn make(args: &AdoptArgs, session: &Session, chosen: &[Chosen<'_>], manifests: Vec<Value>) -> Result<Exit> {
    let resource = ResourceType::instances();
    let collection = resource.collection(Some(&session.namespace));
    let name = |m: &Value| m["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let write = [("fieldManager", "portreeve"), ("fieldValidation", "Strict")];
    let mut shown = manifests.clone();
    if args.dry_run != DryRun::Client {
        let tried = with_query(&collection, &[&write[..], &[("dryRun", "All")]].concat());
        for (manifest, shown) in manifests.iter().zip(&mut shown) {
            *shown = session.client.post(&tried, manifest).await?;
        }
    }
    if args.output.is_none() && args.dry_run != DryRun::None {
        print(&Layout::default().lines(&plan(chosen, &manifests)))?;
        return Ok(Exit::Done);
    }
    if args.dry_run == DryRun::None {
        for (manifest, shown) in manifests.iter().zip(&mut shown) {
            *shown = session.client.post(&with_query(&collection, &write), manifest).await?;
            if args.output.is_none() && !args.wait.wait {
                print(&format!("{} created\n", resource.named(&name(manifest))))?;
            }
        }
    }
    if args.dry_run == DryRun::None && args.wait.wait {
        for manifest in &manifests {
            let name = name(manifest);
            let target = Target { resource: &resource, namespace: &session.namespace, name: &name };
            until(&session.client, &target, args.wait.timeout.duration(), |object| taken(object, &target)).await?;
            if args.output.is_none() {
                print(&format!("{} adopted\n", resource.named(&name)))?;
            }
        }
    }
    if let Some(format) = &args.output {
        let value = if shown.len() == 1 { shown.remove(0) } else { list(shown) };
        print(&format.render(Some(&resource), &value)?)?;
    }
    Ok(Exit::Done)
}

/// Adopted and as it should be, or refused.
fn taken(object: Option<&Value>, target: &Target<'_>) -> Result<Seen> {
    let Some(object) = object else {
        return Err(Error::failed(format!("{} was deleted meanwhile", target.display())));
    };
    let instance: Instance = serde_json::from_value(object.clone())
        .map_err(|e| Error::failed(format!("{} cannot be read: {e}", target.display())))?;
    let ready = crate::model::condition(&instance.status.conditions, "Ready");
    if let Some(told) = ready.filter(|c| c.reason == "NotAdoptable") {
        return Err(Error::failed(format!("{}: {}; delete it, or wait", target.display(), told.message)));
    }
    if instance.status.adopted.is_none() {
        return Ok(Seen::NotYet(state::describe(&instance)));
    }
    Ok(state::settled(Some(object)))
}

fn plan(chosen: &[Chosen<'_>], manifests: &[Value]) -> Vec<Vec<String>> {
    let mut rows = vec![["CONTAINER", "INSTANCE", "IMAGE", "PORTS", "VOLUMES"].map(str::to_owned).to_vec()];
    rows.extend(chosen.iter().zip(manifests).map(|(one, manifest)| {
        let spec = one.container.spec.clone().unwrap_or_default();
        let ports = spec.ports.iter().map(|p| format!("{}->{}", p.host_port.unwrap_or_default(), p.container_port));
        let volumes = spec.volumes.iter().map(|v| {
            let from = if v.host_path.is_empty() { &v.volume_name } else { &v.host_path };
            format!("{from}:{}", v.mount_path)
        });
        let joined = |all: Vec<String>| if all.is_empty() { "<none>".to_owned() } else { all.join(",") };
        let instance = manifest["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        vec![one.container.name.clone(), instance, spec.image, joined(ports.collect()), joined(volumes.collect())]
    }));
    rows
}
