//! `portreeve cordon` and `uncordon`: whether new instances come to a host. What runs there stays. [`super::drain`]
//! begins with it.

use clap::{Args, ValueEnum};
use serde_json::json;

use super::apply::DryRun;
use super::client::JSON;
use super::error::{Error, Exit, Result};
use super::kinds::ResourceType;
use super::output::print;
use super::session::Session;
use super::url::with_query;
use crate::model::Kind;

/// What the verbs about hosts have in common.
#[derive(Args, Debug)]
pub struct HostFlags {
    /// Only tell what would be done: from what is known here, or after the server's checks
    #[arg(long, value_enum, default_value_t = DryRun::None)]
    pub dry_run: DryRun,
    /// Print only the names of what was changed
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<NameOnly>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NameOnly {
    Name,
}

impl HostFlags {
    /// Tells that something was done, or its name alone.
    pub fn say(&self, name: &str, done: &str) -> Result<()> {
        match (self.output, self.dry_run) {
            (Some(NameOnly::Name), _) => print(&format!("{name}\n")),
            (None, DryRun::None) => print(&format!("{name} {done}\n")),
            (None, DryRun::Client) => print(&format!("{name} {done} (dry run)\n")),
            (None, DryRun::Server) => print(&format!("{name} {done} (server dry run)\n")),
        }
    }
}

/// Let no new instances come to hosts; those that are there stay.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve cordon h1
  portreeve host cordon h1 h2")]
pub struct CordonArgs {
    /// The DockerHosts
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub flags: HostFlags,
}

/// Let new instances come to hosts again.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve uncordon h1
  portreeve host uncordon h1 h2")]
pub struct UncordonArgs {
    /// The DockerHosts
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    #[command(flatten)]
    pub flags: HostFlags,
}

pub async fn cordon(args: &CordonArgs, session: &Session) -> Result<Exit> {
    each(&args.names, &args.flags, true, session).await
}

pub async fn uncordon(args: &UncordonArgs, session: &Session) -> Result<Exit> {
    each(&args.names, &args.flags, false, session).await
}

async fn each(names: &[String], flags: &HostFlags, closed: bool, session: &Session) -> Result<Exit> {
    let mut exit = Exit::Done;
    for name in names {
        match close(name, flags, closed, session).await {
            Ok(()) => {}
            Err(e @ (Error::Server(_) | Error::Failed(_))) => {
                e.report();
                exit = Exit::Failed;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(exit)
}

/// Closes a host to new instances, or opens it again, and says so.
pub async fn close(name: &str, flags: &HostFlags, closed: bool, session: &Session) -> Result<()> {
    let hosts = ResourceType::from(Kind::DockerHost);
    let path = hosts.object("", name)?;
    let done = if closed { "cordoned" } else { "uncordoned" };
    let host = session.client.get(&path, JSON).await?;
    if host["spec"]["unschedulable"].as_bool().unwrap_or(false) == closed {
        return flags.say(&hosts.named(name), &format!("already {done}"));
    }
    if flags.dry_run != DryRun::Client {
        let mut query = vec![("fieldManager", "portreeve")];
        if flags.dry_run == DryRun::Server {
            query.push(("dryRun", "All"));
        }
        let wanted = if closed { json!(true) } else { json!(null) };
        let patch = json!({"spec": {"unschedulable": wanted}});
        session.client.merge_patch(&with_query(&path, &query), &patch).await?;
    }
    flags.say(&hosts.named(name), done)
}
