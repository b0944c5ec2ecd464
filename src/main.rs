//! The one binary: parses the command line and hands over to the control plane or to a verb.
//!
//! Exit codes: 0 done, 1 failed, 2 usage, 3 differences found by `diff`, 124 timed out; `exec` passes its command's.

use std::process::ExitCode;

use clap::Parser;
use portreeve::cli::args::{Cli, Verb};

fn main() -> ExitCode {
    let Cli { global, verb } = Cli::parse();
    match verb {
        Verb::Serve(args) => {
            eprintln!("error: this build has no control plane to serve from {}", args.data_dir.display());
            ExitCode::FAILURE
        }
        verb => portreeve::cli::run(&global, &verb),
    }
}
