//! The one binary: parses the command line and hands over to the control plane or to a verb.
//!
//! Exit codes: 0 done, 1 failed, 2 usage, 3 differences found by `diff`, 124 timed out; `exec` passes its command's.

use std::process::ExitCode;

use portreeve::cli::args::{Cli, Verb};

fn main() -> ExitCode {
    let Cli { global, verb } = Cli::of_process();
    match verb {
        Verb::Serve(args) => serve(*args),
        verb => portreeve::cli::run(&global, &verb),
    }
}

fn serve(args: portreeve::cli::serve::ServeArgs) -> ExitCode {
    portreeve::telemetry::init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: cannot start the runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    let served = runtime.block_on(portreeve::serve::run(args));
    // What must end has been waited for. A thread that hangs in the kernel, over a file system that does not answer, is left.
    runtime.shutdown_background();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
