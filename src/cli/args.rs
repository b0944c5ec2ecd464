//! The command line: every verb and its flags. `main` parses it; [`super::run`] does what it says.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::adopt::AdoptArgs;
use super::apply::ApplyArgs;
use super::attach::AttachArgs;
use super::completion::CompletionArgs;
use super::cordon::{CordonArgs, UncordonArgs};
use super::cp::CpArgs;
use super::delete::DeleteArgs;
use super::describe::DescribeArgs;
use super::diff::DiffArgs;
use super::drain::DrainArgs;
use super::exec::ExecArgs;
use super::explain::{ExplainArgs, SchemaArgs};
use super::get::GetArgs;
use super::host::HostArgs;
use super::label::LabelArgs;
use super::logs::LogsArgs;
use super::port_forward::PortForwardArgs;
use super::power::{RestartArgs, SleepArgs, StartArgs, StopArgs, UpgradeArgs, WakeArgs};
use super::serve::ServeArgs;
use super::token::TokenArgs;
use super::top::TopArgs;
use super::version::{KubeconfigArgs, VersionArgs};
use super::wait::WaitArgs;
use super::why::WhyArgs;
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
    Apply(ApplyArgs),
    Diff(DiffArgs),
    Get(GetArgs),
    Describe(DescribeArgs),
    Why(WhyArgs),
    Delete(DeleteArgs),
    Label(LabelArgs),
    Wait(WaitArgs),
    Top(TopArgs),
    Logs(LogsArgs),
    Exec(ExecArgs),
    Attach(AttachArgs),
    Cp(CpArgs),
    PortForward(PortForwardArgs),
    Start(StartArgs),
    Stop(StopArgs),
    Restart(RestartArgs),
    Wake(WakeArgs),
    Sleep(SleepArgs),
    Upgrade(UpgradeArgs),
    Cordon(CordonArgs),
    Uncordon(UncordonArgs),
    Drain(DrainArgs),
    Host(HostArgs),
    Adopt(Box<AdoptArgs>),
    Explain(ExplainArgs),
    Schema(SchemaArgs),
    Token(TokenArgs),
    Kubeconfig(KubeconfigArgs),
    Completion(CompletionArgs),
    Version(VersionArgs),
}
