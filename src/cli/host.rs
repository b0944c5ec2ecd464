//! `portreeve host`: the verbs about hosts under one roof. Those that kubectl has, too, are verbs of their own as well.

mod add;
mod certs;
mod firewall;
mod installer;
mod keeping;
mod remove;
mod secret;

use clap::{Args, Subcommand};

use super::args::Global;
use super::cordon::{self, CordonArgs, UncordonArgs};
use super::drain::{self, DrainArgs};
use super::error::{Exit, Result};
use super::session::Session;
use add::HostAddArgs;
use certs::{HostCertsArgs, HostRotateArgs};
use remove::HostRemoveArgs;

/// Make hosts part of the fleet: their certificates, their records, their retirement.
///
/// `portreeve get hosts` lists them.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  # from a bare VPS with Docker to a host of the fleet
  portreeve host certs worker-1 --ip 10.0.0.3 | ssh root@10.0.0.3 sh
  portreeve host add worker-1 --endpoint tcp://10.0.0.3:2376

  # certificates end: before they do
  portreeve host rotate worker-1 | ssh root@10.0.0.3 sh

  # and out of it again
  portreeve host remove worker-1 --timeout 10m
  portreeve host remove worker-2 --lost    # gone for good, and what was on it")]
pub struct HostArgs {
    #[command(subcommand)]
    pub verb: HostVerb,
}

#[derive(Subcommand, Debug)]
pub enum HostVerb {
    Certs(HostCertsArgs),
    Add(Box<HostAddArgs>),
    Rotate(HostRotateArgs),
    Cordon(CordonArgs),
    Uncordon(UncordonArgs),
    Drain(DrainArgs),
    Remove(HostRemoveArgs),
}

pub async fn run(args: &HostArgs, global: &Global) -> Result<Exit> {
    let session = || Session::open(global);
    match &args.verb {
        HostVerb::Certs(args) => certs::certs(args),
        HostVerb::Rotate(args) => {
            let session = if args.secret { Some(session()?) } else { None };
            certs::rotate(args, session.as_ref()).await
        }
        HostVerb::Add(args) => add::run(args, &session()?).await,
        HostVerb::Cordon(args) => cordon::cordon(args, &session()?).await,
        HostVerb::Uncordon(args) => cordon::uncordon(args, &session()?).await,
        HostVerb::Drain(args) => drain::run(args, &session()?).await,
        HostVerb::Remove(args) => remove::run(args, &session()?).await,
    }
}
