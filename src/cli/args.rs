//! The command line: every verb and its flags. `main` parses it; [`super::run`] does what it says.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::serve::ServeArgs;
use crate::model::Span;

/// A reconciling operator over plain Docker hosts: one private app per user, asleep until asked for.
#[derive(Parser, Debug)]
#[command(name = "portreeve", version, arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb that speaks to the server takes.
#[derive(Args, Clone, Debug, Default)]
pub struct Global {
    /// The kubeconfig to use [default: $PORTREEVE_KUBECONFIG, $KUBECONFIG, the data directory's, ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Connection")]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context to use [default: its current context]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Connection")]
    pub context: Option<String>,
    /// The namespace [default: the context's, else `default`]
    #[arg(short, long, global = true, help_heading = "Connection")]
    pub namespace: Option<String>,
    /// How long one request may take; streams may go on [default: 30s]
    #[arg(long, global = true, value_name = "DURATION", help_heading = "Connection")]
    pub request_timeout: Option<Span>,
}

#[derive(Subcommand, Debug)]
pub enum Verb {
    Serve(Box<ServeArgs>),
    Completion(CompletionArgs),
    Version(VersionArgs),
}

/// Print a shell's completion script.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  # bash, for this session
  source <(portreeve completion bash)

  # zsh and fish, for every session
  portreeve completion zsh > \"${fpath[1]}/_portreeve\"
  portreeve completion fish > ~/.config/fish/completions/portreeve.fish")]
pub struct CompletionArgs {
    pub shell: ShellName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ShellName {
    Bash,
    Zsh,
    Fish,
}

/// Print this program's version, and the server's when one is reached.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve version
  portreeve version --client")]
pub struct VersionArgs {
    /// Do not ask the server
    #[arg(long)]
    pub client: bool,
}
