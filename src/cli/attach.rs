//! `portreeve attach`: what an instance's container writes from now on.

use clap::Args;

use super::error::{Exit, Result};
use super::exec::converse;
use super::session::Session;
use super::url::{encode, with_query};

/// Show what an instance writes from now on.
///
/// Ends with the container. An instance has no standard input to write to: use exec to talk to it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve attach alice")]
pub struct AttachArgs {
    /// The instance
    pub name: String,
}

pub async fn run(args: &AttachArgs, session: &Session) -> Result<Exit> {
    let path = format!("/api/v1/namespaces/{}/pods/{}/attach", encode(&session.namespace), encode(&args.name));
    converse(session, &with_query(&path, &[("stdout", "true"), ("stderr", "true")]), false, false).await
}
