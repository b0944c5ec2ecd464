//! The command line: every verb and its flags. `main` parses it; [`super::run`] does what it says.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::{ArgAction, Args, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

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

impl Cli {
    /// The command line of this process, and its environment. An error or a request for help ends the process.
    pub fn of_process() -> Cli {
        let command = without_unset(Cli::command(), &|name| std::env::var_os(name));
        Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|e| e.exit())
    }
}

/// Without the variables that say nothing: those that are empty, as files of variables have them for what is not set, and flags
/// that are set to false. To clap a flag that is false in the environment is given, and so asks for what that flag requires.
fn without_unset(mut command: Command, variable: &dyn Fn(&OsStr) -> Option<OsString>) -> Command {
    let verbs: Vec<String> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    for verb in verbs {
        command = command.mut_subcommand(verb, |verb| without_unset(verb, variable));
    }
    command.mut_args(|arg| {
        let value = arg.get_env().and_then(variable);
        let flag = matches!(arg.get_action(), ArgAction::SetTrue);
        let says_nothing = |value: OsString| {
            let text = value.to_string_lossy().to_ascii_lowercase();
            text.is_empty() || flag && matches!(text.as_str(), "n" | "no" | "f" | "false" | "off" | "0")
        };
        if value.is_some_and(says_nothing) { arg.env(Resettable::Reset) } else { arg }
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a flag of `serve` is looked up in the environment where its variable has this value.
    fn is_read(flag: &str, value: &str) -> bool {
        let command = without_unset(Cli::command(), &|_| Some(value.into()));
        let serve = command.find_subcommand("serve").unwrap();
        serve.get_arguments().find(|arg| arg.get_id() == flag).unwrap().get_env().is_some()
    }

    #[test]
    fn variables_that_say_nothing_are_not_read() {
        for value in ["", "false", "False", "0", "no", "off"] {
            assert!(!is_read("https_redirect", value), "{value}");
        }
        for value in ["true", "1", "yes", "perhaps"] {
            assert!(is_read("https_redirect", value), "{value}");
        }
        assert!(!is_read("proxy_certs", ""));
        for value in ["0", "false", "/certs"] {
            assert!(is_read("proxy_certs", value), "{value}");
        }
    }
}
