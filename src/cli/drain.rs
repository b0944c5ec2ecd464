//! `portreeve drain`: closes hosts to new instances and has those that are there move to others.
//!
//! ```text
//! cordon ──▶ who is there? ──▶ evict each ──▶ moved · refused for now (429) · refused
//!                  ▲                                        │
//!                  └──────────── again, a second later ◀────┘
//! ```
//!
//! Level-triggered: each round looks at who is on the host now, so one that came in the last moment is found too, and
//! nothing hangs on an answer that was lost: evicting twice is evicting once. However it ends, the host stays closed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::apply::DryRun;
use super::client::JSON;
use super::cordon::{HostFlags, close};
use super::error::{Error, Exit, Result};
use super::exec::ended_by_signal;
use super::kinds::ResourceType;
use super::session::Session;
use super::url::{self, with_query};
use crate::clock::{SharedClock, SystemClock};
use crate::model::{Kind, Span};

/// Between two looks at who is still there.
pub const ROUND: Duration = Duration::from_secs(1);
/// When an eviction is asked for again: after a refusal that names no time, and of one that has not left yet.
const AGAIN: Duration = Duration::from_secs(5);

/// Move all instances off hosts, for maintenance.
///
/// First the hosts are cordoned; they stay so, also when this is interrupted. What cannot move yet is asked again; what
/// holds data of its host is named with the reason.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve drain h1
  portreeve host drain h1 h2 --timeout 10m

  # what could not move, and why
  portreeve drain h1 --dry-run=server")]
pub struct DrainArgs {
    /// The DockerHosts
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Only instances whose labels match
    #[arg(short = 'l', long, visible_alias = "pod-selector", value_name = "LABELS")]
    pub selector: Option<String>,
    /// How long all of it may take; 0s: as long as it takes
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub timeout: Span,
    /// For fingers that know kubectl: there are none
    #[arg(long, hide = true)]
    pub ignore_daemonsets: bool,
    #[command(flatten)]
    pub flags: HostFlags,
}

pub async fn run(args: &DrainArgs, session: &Session) -> Result<Exit> {
    // before anything is changed: a name that was mistyped stops all
    for name in &args.names {
        session.client.get(&ResourceType::from(Kind::DockerHost).object("", name)?, JSON).await?;
    }
    for name in &args.names {
        close(name, &args.flags, true, session).await?;
    }
    if args.flags.dry_run != DryRun::None {
        return rehearse(args, session).await;
    }
    let stay = || {
        let one = args.names.len() == 1;
        eprintln!("{} {} cordoned", args.names.join(", "), if one { "stays" } else { "stay" });
    };
    let mut drain = Drain { args, session, clock: SystemClock::new(), host: String::new(), there: BTreeMap::new() };
    let limit = match args.timeout.duration() {
        Duration::ZERO => Duration::from_secs(u64::from(u32::MAX)),
        limit => limit,
    };
    let ended = tokio::select! {
        ended = tokio::time::timeout(limit, drain.all()) => Some(ended),
        signal = ended_by_signal() => {
            eprintln!("interrupted: what was evicted goes on moving");
            stay();
            return Ok(Exit::Command(128 + signal));
        }
    };
    match ended {
        Some(Ok(Ok(Exit::Done))) => Ok(Exit::Done),
        Some(Ok(other)) => {
            stay();
            other
        }
        Some(Err(_)) | None => {
            stay();
            Err(Error::TimedOut(drain.overdue(limit)))
        }
    }
}

/// Namespace and name.
pub type Id = (String, String);

/// How far the eviction of one instance is.
#[derive(Debug, Default)]
struct Leaving {
    /// The server has agreed; it is on its way.
    agreed: bool,
    /// Refused in a way that asking again does not mend.
    refused: bool,
    /// Why it cannot leave at present; said once.
    why: Option<String>,
    /// When it is asked for (again), by the monotonic clock.
    due: Duration,
}

/// What came of asking for one eviction.
#[derive(Debug)]
enum Answer {
    Agreed,
    NotNow { why: String, again: Duration },
    Gone,
    Refused(Error),
}

struct Drain<'a> {
    args: &'a DrainArgs,
    session: &'a Session,
    clock: SharedClock,
    /// The host that is being emptied.
    host: String,
    there: BTreeMap<Id, Leaving>,
}

impl Drain<'_> {
    /// One host after the other.
    async fn all(&mut self) -> Result<Exit> {
        let mut exit = Exit::Done;
        for name in &self.args.names {
            self.host.clone_from(name);
            self.there.clear();
            if self.empty().await? {
                self.args.flags.say(&ResourceType::from(Kind::DockerHost).named(name), "drained")?;
            } else {
                exit = Exit::Failed;
            }
        }
        Ok(exit)
    }

    /// Whether everything has left; else what is there has been refused.
    async fn empty(&mut self) -> Result<bool> {
        loop {
            let there = on_host(&self.host, self.args.selector.as_deref(), self.session).await?;
            self.tell_departures(&there)?;
            if self.there.values().all(|leaving| leaving.refused) {
                return Ok(self.there.is_empty());
            }
            self.ask().await?;
            tokio::time::sleep(ROUND).await;
        }
    }

    /// Forgets those that are no longer there, and takes up those that are.
    fn tell_departures(&mut self, there: &BTreeSet<Id>) -> Result<()> {
        let gone: Vec<Id> = self.there.keys().filter(|id| !there.contains(*id)).cloned().collect();
        for id in gone {
            if self.there.remove(&id).is_some_and(|leaving| leaving.agreed) {
                self.args.flags.say(&ResourceType::instances().named(&id.1), "evicted")?;
            }
        }
        for id in there {
            self.there.entry(id.clone()).or_default();
        }
        Ok(())
    }

    /// Asks for the evictions that are due.
    async fn ask(&mut self) -> Result<()> {
        for ((namespace, name), leaving) in &mut self.there {
            if leaving.refused || self.clock.monotonic() < leaving.due {
                continue;
            }
            if !leaving.agreed && leaving.why.is_none() {
                eprintln!("evicting instance {namespace}/{name}");
            }
            let answer = evict(namespace, name, false, self.session).await?;
            leaving.due = self.clock.monotonic() + AGAIN;
            match answer {
                // the next look finds it gone
                Answer::Gone => {}
                Answer::Agreed => leaving.agreed = true,
                Answer::NotNow { why, again } => {
                    leaving.due = self.clock.monotonic() + again.max(ROUND);
                    if leaving.why.is_none() {
                        eprintln!("cannot evict instance {namespace}/{name} yet: {why}");
                    }
                    leaving.why = Some(why);
                }
                Answer::Refused(e) => {
                    eprintln!("cannot evict instance {namespace}/{name}: {e}");
                    leaving.refused = true;
                }
            }
        }
        Ok(())
    }

    /// What a time-out leaves behind.
    fn overdue(&self, limit: Duration) -> String {
        let mut text = format!("timed out after {}s draining {}", limit.as_secs_f64(), self.host);
        for ((namespace, name), leaving) in &self.there {
            let why = match &leaving.why {
                Some(why) if !leaving.agreed => why.as_str(),
                _ if leaving.refused => "refused",
                _ => "it has not moved yet",
            };
            text.push_str(&format!("\n  {namespace}/{name}: {why}"));
        }
        text
    }
}

/// One pass that changes nothing: what would be evicted, and what could not move.
async fn rehearse(args: &DrainArgs, session: &Session) -> Result<Exit> {
    let mut exit = Exit::Done;
    for host in &args.names {
        let mut stays = false;
        for (namespace, name) in on_host(host, args.selector.as_deref(), session).await? {
            let answer = match args.flags.dry_run {
                DryRun::Server => evict(&namespace, &name, true, session).await?,
                DryRun::None | DryRun::Client => Answer::Agreed,
            };
            let why = match answer {
                Answer::Agreed => {
                    args.flags.say(&ResourceType::instances().named(&name), "evicted")?;
                    continue;
                }
                Answer::Gone => continue,
                Answer::NotNow { why, .. } => why,
                Answer::Refused(e) => e.to_string(),
            };
            eprintln!("cannot evict instance {namespace}/{name}: {why}");
            stays = true;
        }
        if stays {
            exit = Exit::Failed;
        } else {
            args.flags.say(&ResourceType::from(Kind::DockerHost).named(host), "drained")?;
        }
    }
    Ok(exit)
}

/// The instances that are bound to a host, whether they have a container yet or not.
pub async fn on_host(host: &str, selector: Option<&str>, session: &Session) -> Result<BTreeSet<Id>> {
    let field = format!("status.node={host}");
    let mut query = vec![("fieldSelector", field.as_str())];
    query.extend(selector.map(|labels| ("labelSelector", labels)));
    let list = session.client.get(&with_query(&ResourceType::instances().collection(None), &query), JSON).await?;
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |item: &Value, field: &str| item["metadata"][field].as_str().map(str::to_owned);
    Ok(items.iter().filter_map(|i| Some((text(i, "namespace")?, text(i, "name")?))).collect())
}

/// Asks for one eviction. Errs when the server cannot be asked.
async fn evict(namespace: &str, name: &str, dry_run: bool, session: &Session) -> Result<Answer> {
    let path = format!("{}/eviction", url::pod(namespace, name));
    // here, too, and not in the query
    let options = if dry_run { json!({"dryRun": ["All"]}) } else { json!({}) };
    let body = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"namespace": namespace, "name": name},
        "deleteOptions": options,
    });
    match session.client.post(&path, &body).await {
        Ok(_) => Ok(Answer::Agreed),
        Err(e) if e.is_not_found() => Ok(Answer::Gone),
        Err(Error::Server(status)) if status.code == 429 => {
            Ok(Answer::NotNow { why: status.message.clone(), again: status.retry_after.unwrap_or(AGAIN) })
        }
        Err(e @ Error::Server(_)) => Ok(Answer::Refused(e)),
        Err(e) => Err(e),
    }
}
