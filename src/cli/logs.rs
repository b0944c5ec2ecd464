//! `portreeve logs`: what an instance's container wrote, wherever it runs.

use clap::Args;

use super::error::{Exit, Result};
use super::output::print_bytes;
use super::session::Session;
use super::url::{encode, with_query};
use crate::model::Span;

/// Print an instance's log.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve logs alice
  portreeve logs -f --tail 20 alice
  portreeve logs --since 10m --timestamps alice")]
pub struct LogsArgs {
    /// The instance
    pub name: String,
    /// Go on with what is written from now on
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..))]
    pub tail: Option<u32>,
    /// Only what is younger than this
    #[arg(long, value_name = "DURATION")]
    pub since: Option<Span>,
    /// Each line with its time
    #[arg(long)]
    pub timestamps: bool,
}

pub async fn run(args: &LogsArgs, session: &Session) -> Result<Exit> {
    let mut stream = session.client.stream(&path(args, &session.namespace), "*/*").await?;
    while let Some(chunk) = stream.chunk().await? {
        print_bytes(&chunk)?;
    }
    Ok(Exit::Done)
}

fn path(args: &LogsArgs, namespace: &str) -> String {
    let path = format!("/api/v1/namespaces/{}/pods/{}/log", encode(namespace), encode(&args.name));
    let tail = args.tail.map(|n| n.to_string());
    // the server counts in whole seconds: rather too much than a line too few
    let since = args.since.as_ref().map(|s| s.duration().as_millis().div_ceil(1000).max(1).to_string());
    let mut query = vec![];
    if args.follow {
        query.push(("follow", "true"));
    }
    if let Some(tail) = &tail {
        query.push(("tailLines", tail));
    }
    if let Some(since) = &since {
        query.push(("sinceSeconds", since));
    }
    if args.timestamps {
        query.push(("timestamps", "true"));
    }
    with_query(&path, &query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_the_query() {
        let mut args = LogsArgs { name: "a/b".into(), follow: false, tail: None, since: None, timestamps: false };
        assert_eq!(path(&args, "ns"), "/api/v1/namespaces/ns/pods/a%2Fb/log");
        args.follow = true;
        args.timestamps = true;
        args.tail = Some(5);
        args.since = Some("1500ms".parse().unwrap());
        assert!(path(&args, "ns").ends_with("log?follow=true&tailLines=5&sinceSeconds=2&timestamps=true"));
    }
}
