//! The verbs. They speak only the HTTP API, with a kubeconfig; nothing here reaches into the server.
//!
//! ```text
//! main ──▶ args (what was asked) ──▶ one file per verb ──▶ client ──HTTPS──▶ api
//! ```

use std::io::Write;
use std::process::ExitCode;

pub mod args;
mod completion;
pub mod serve;

use args::{Global, Verb};

/// Does what a verb other than `serve` asks for, and reports errors on stderr.
pub fn run(_global: Global, verb: Verb) -> ExitCode {
    let text = match verb {
        Verb::Serve(_) => unreachable!("main starts the server itself"),
        Verb::Completion(args) => completion::script(&args),
        Verb::Version(_) => format!("portreeve {}\n", env!("CARGO_PKG_VERSION")).into_bytes(),
    };
    match std::io::stdout().write_all(&text) {
        Ok(()) => ExitCode::SUCCESS,
        // the reader has what it wanted
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: cannot write: {e}");
            ExitCode::FAILURE
        }
    }
}
