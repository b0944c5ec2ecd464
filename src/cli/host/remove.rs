//! `portreeve host remove`: a host leaves the fleet, emptied first; or, when it is lost for good, with what is on it given up.
//!
//! ```text
//! it answers ──▶ drain ─────────────────────────────────────────▶ delete the record
//! --lost     ──▶ taint "out of service" ──▶ nothing bound there? ─▶ delete the record
//! ```
//!
//! Level-triggered, as drain is: interrupted anywhere, it is asked again and goes on.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::{Value, json};

use super::super::apply::DryRun;
use super::super::client::JSON;
use super::super::cordon::HostFlags;
use super::super::drain::{self, DrainArgs, Id, ROUND, on_host};
use super::super::error::{Error, Exit, Result};
use super::super::kinds::ResourceType;
use super::super::session::Session;
use super::super::url::with_query;
use crate::clock::SystemClock;
use crate::model::{Instance, Kind, OUT_OF_SERVICE, Span};

/// Take a host out of the fleet: move its instances off, then delete its record.
///
/// What holds data of the host cannot move, is named, and keeps the host from being removed. A host that does not come
/// back is removed with --lost: its instances are made anew on other hosts without the data that they had there, and those
/// that were being deleted go. Should it come back after all, nothing of it may serve: added again, what is left on it is
/// removed but for the volumes.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve host remove h1 --timeout 10m

  # which data would be given up with a host that is lost
  portreeve host remove h1 --lost --dry-run=client

  portreeve host remove h1 --lost")]
pub struct HostRemoveArgs {
    /// The DockerHost
    pub name: String,
    /// It does not answer and will not come back: give up what is on it
    #[arg(long)]
    pub lost: bool,
    /// How long all of it may take; 0s: as long as it takes
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub timeout: Span,
    #[command(flatten)]
    pub flags: HostFlags,
}

pub async fn run(args: &HostRemoveArgs, session: &Session) -> Result<Exit> {
    let path = ResourceType::from(Kind::DockerHost).object("", &args.name)?;
    let host = session.client.get(&path, JSON).await?;
    if args.lost {
        if let Some(why) = refusal(&host) {
            return Err(Error::failed(format!("{}: {why}", args.name)));
        }
        tell_losses(args, session).await?;
    } else {
        let HostFlags { dry_run, output } = args.flags;
        let drain = DrainArgs {
            names: vec![args.name.clone()],
            selector: None,
            timeout: args.timeout.clone(),
            ignore_daemonsets: false,
            flags: HostFlags { dry_run, output },
        };
        let drained = drain::run(&drain, session).await?;
        if drained != Exit::Done {
            return Ok(drained);
        }
    }
    let named = ResourceType::from(Kind::DockerHost).named(&args.name);
    if args.flags.dry_run != DryRun::None {
        return args.flags.say(&named, "removed").map(|()| Exit::Done);
    }
    if args.lost {
        give_up(&host, &path, session).await?;
        until_nothing_is_bound(args, session).await?;
    }
    session.client.delete(&path, &json!({"propagationPolicy": "Background"})).await?;
    args.flags.say(&named, "removed").map(|()| Exit::Done)
}

/// Why a host must not be given up.
fn refusal(host: &Value) -> Option<String> {
    let conditions = host["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ready = conditions.iter().find(|c| c["type"] == "Ready")?;
    let (reason, message) = (ready["reason"].as_str()?, ready["message"].as_str().unwrap_or_default());
    match (ready["status"].as_str(), reason) {
        (Some("True"), _) => Some("it answers; without --lost its instances are moved off it".to_owned()),
        (_, crate::model::UNREACHABLE) => None,
        _ => Some(format!("it is not lost, but not ready ({reason}: {message}); what runs there may well run on")),
    }
}

/// Says whose data goes with the host, before anything is done.
async fn tell_losses(args: &HostRemoveArgs, session: &Session) -> Result<()> {
    for (namespace, name) in on_host(&args.name, None, session).await? {
        let path = ResourceType::instances().object(&namespace, &name)?;
        let object = match session.client.get(&path, JSON).await {
            Err(e) if e.is_not_found() => continue,
            answer => answer?,
        };
        let data = serde_json::from_value::<Instance>(object).ok().and_then(|i| i.local_data());
        let data = data.unwrap_or_else(|| "no data but what its container wrote".to_owned());
        eprintln!("gives up of instance {namespace}/{name}: {data}");
    }
    Ok(())
}

/// The operator's word, as `kubectl taint` would put it.
async fn give_up(host: &Value, path: &str, session: &Session) -> Result<()> {
    let mut taints = host["spec"]["taints"].as_array().cloned().unwrap_or_default();
    if taints.iter().any(|t| t["key"] == OUT_OF_SERVICE && t["effect"] == "NoExecute") {
        return Ok(());
    }
    taints.push(json!({"key": OUT_OF_SERVICE, "effect": "NoExecute"}));
    // of the version that was looked at: another's taint is not lost, and no host that has come back is given up unseen
    let patch = json!({
        "metadata": {"resourceVersion": host["metadata"]["resourceVersion"]}, "spec": {"taints": taints},
    });
    session.client.merge_patch(&with_query(path, &[("fieldManager", "portreeve")]), &patch).await?;
    Ok(())
}

async fn until_nothing_is_bound(args: &HostRemoveArgs, session: &Session) -> Result<()> {
    let clock = SystemClock::new();
    let end = Some(args.timeout.duration()).filter(|limit| !limit.is_zero()).map(|limit| clock.monotonic() + limit);
    let mut there: BTreeSet<Id> = BTreeSet::new();
    loop {
        let now = on_host(&args.name, None, session).await?;
        for (_, name) in there.difference(&now) {
            args.flags.say(&ResourceType::instances().named(name), "given up there")?;
        }
        if now.is_empty() {
            return Ok(());
        }
        if end.is_some_and(|end| clock.monotonic() >= end) {
            let left: Vec<String> = now.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
            return Err(Error::TimedOut(format!(
                "timed out; still bound to {}, where its condition HostLost says why: {}",
                args.name,
                left.join(", ")
            )));
        }
        there = now;
        tokio::time::sleep(ROUND).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_that_does_not_answer_is_given_up() {
        let host = |status: &str, reason: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": reason, "message": "m"}]}});
        assert_eq!(refusal(&host("False", "Unreachable")), None);
        assert_eq!(refusal(&json!({})), None, "never seen");
        assert!(refusal(&host("True", "Connected")).unwrap().contains("it answers"));
        assert!(refusal(&host("False", "DaemonChanged")).unwrap().contains("DaemonChanged: m"));
    }
}
