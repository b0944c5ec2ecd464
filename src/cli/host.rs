//! `portreeve host`: the verbs about hosts under one roof. Each is a verb of its own, too, as kubectl has it.

use clap::{Args, Subcommand};

use super::cordon::{self, CordonArgs, UncordonArgs};
use super::drain::{self, DrainArgs};
use super::error::{Exit, Result};
use super::session::Session;

/// Close hosts to new instances, open them again, empty them.
///
/// `portreeve get hosts` lists them.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve host cordon h1
  portreeve host drain h1 --timeout 10m
  portreeve host uncordon h1")]
pub struct HostArgs {
    #[command(subcommand)]
    pub verb: HostVerb,
}

#[derive(Subcommand, Debug)]
pub enum HostVerb {
    Cordon(CordonArgs),
    Uncordon(UncordonArgs),
    Drain(DrainArgs),
}

pub async fn run(args: &HostArgs, session: &Session) -> Result<Exit> {
    match &args.verb {
        HostVerb::Cordon(args) => cordon::cordon(args, session).await,
        HostVerb::Uncordon(args) => cordon::uncordon(args, session).await,
        HostVerb::Drain(args) => drain::run(args, session).await,
    }
}
