//! The verbs. They speak only the HTTP API, with a kubeconfig; nothing here reaches into the server.
//!
//! ```text
//! main ──▶ args (what was asked) ──▶ one file per verb ──▶ client ──HTTPS──▶ api
//! ```
//!
//! A verb gets its arguments and a session, writes results to stdout and talk to stderr, and returns how it ended; only
//! [`run`] turns that into an exit code.

mod adopt;
mod apply;
pub mod args;
mod attach;
mod client;
mod completion;
mod connect;
mod cordon;
mod cp;
mod delete;
mod describe;
mod diff;
mod drain;
mod error;
mod exec;
mod explain;
pub mod front;
mod get;
mod host;
mod jsonpath;
mod kinds;
mod kubeconfig;
mod label;
mod logs;
mod manifest;
mod merge;
mod output;
mod port_forward;
mod power;
mod selection;
pub mod serve;
mod server_side;
mod session;
mod state;
mod table;
mod terminal;
mod token;
mod top;
mod until;
mod url;
mod version;
mod wait;
mod why;

use std::process::ExitCode;

use args::{Global, Verb};
use error::{Error, Exit, Result};
use power::PowerVerb;
use session::Session;

/// Does what a verb other than `serve` asks for, and reports errors on stderr.
pub fn run(global: &Global, verb: &Verb) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(dispatch(global, verb));
    // a thread may still hang in a read of stdin, which nothing ends
    runtime.shutdown_background();
    match outcome {
        Ok(exit) => exit.into(),
        Err(e) => {
            e.report();
            e.exit_code()
        }
    }
}

async fn dispatch(global: &Global, verb: &Verb) -> Result<Exit> {
    let session = || Session::open(global);
    match verb {
        Verb::Serve(_) => Err(Error::usage("the server is started by main")),
        Verb::Apply(args) => apply::run(args, &session()?).await,
        Verb::Diff(args) => diff::run(args, &session()?).await,
        Verb::Get(args) => get::run(args, &session()?).await,
        Verb::Describe(args) => describe::run(args, &session()?).await,
        Verb::Why(args) => why::run(args, &session()?).await,
        Verb::Delete(args) => delete::run(args, &session()?).await,
        Verb::Label(args) => label::run(args, &session()?).await,
        Verb::Wait(args) => wait::run(args, &session()?).await,
        Verb::Top(args) => top::run(args, &session()?).await,
        Verb::Logs(args) => logs::run(args, &session()?).await,
        Verb::Exec(args) => exec::run(args, &session()?).await,
        Verb::Attach(args) => attach::run(args, &session()?).await,
        Verb::Cp(args) => cp::run(args, &session()?).await,
        Verb::PortForward(args) => port_forward::run(args, &session()?).await,
        Verb::Start(args) => power::run(PowerVerb::Start, &args.power, &session()?).await,
        Verb::Stop(args) => power::run(PowerVerb::Stop, &args.power, &session()?).await,
        Verb::Restart(args) => power::run(PowerVerb::Restart, &args.power, &session()?).await,
        Verb::Wake(args) => power::run(PowerVerb::Wake, &args.power, &session()?).await,
        Verb::Sleep(args) => power::run(PowerVerb::Sleep, &args.power, &session()?).await,
        Verb::Cordon(args) => cordon::cordon(args, &session()?).await,
        Verb::Uncordon(args) => cordon::uncordon(args, &session()?).await,
        Verb::Drain(args) => drain::run(args, &session()?).await,
        Verb::Host(args) => host::run(args, global).await,
        Verb::Upgrade(args) => power::upgrade(args, &session()?).await,
        Verb::Adopt(args) => adopt::run(args, &session()?).await,
        Verb::Explain(args) => explain::explain(args),
        Verb::Schema(args) => explain::print_schema(args),
        Verb::Token(args) => token::run(args, global).await,
        Verb::Kubeconfig(args) => version::kubeconfig(args, global),
        Verb::Completion(args) => completion::run(args),
        Verb::Version(args) => version::version(args, global).await,
    }
}
