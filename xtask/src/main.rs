//! The repository's own chores. `cargo xtask help` lists them.
//!
//! ```text
//! main ─► demo    from nothing to instances that sleep and wake, and back
//!      ─► fleet   real Docker daemons in network namespaces of their own
//!      ─► bench   what a wake, an instance, the API and a fleet cost
//!      ─► test    every check, with real daemons
//!      ─► image   the test image, made without a registry
//! ```

/// As `println!`, but a reader that has gone is no reason to stop: there is still something to clean up.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod args;
mod bench;
mod build;
mod clock;
mod demo;
mod docker;
mod fleet;
mod http;
mod image;
mod packages;
mod process;
mod sys;
mod test;

use std::process::ExitCode;

use args::Args;

const HELP: &str = "\
cargo xtask <command>

  demo [--exit] [--domain DOMAIN] [--docker-address IP] [--binary PATH]
                        two instances in a real Docker daemon, one of which sleeps
                        and wakes; removed again at Ctrl-C, or at once with --exit
  test [--fast]         every check and every test, also those with real Docker
                        daemons; --fast leaves out those and the documentation

  bench wake [--rounds N] [-o json]
                        a request to an instance that sleeps, and to one that is frozen,
                        beside what the daemon alone takes for its container
  bench provision [--rounds N] [-o json]
                        36 instances on three real daemons from nothing to their first
                        byte, beside the same containers made by hand
  bench sick [--cycles N] [-o json]
                        the same and wakes on two of three real daemons, while the third
                        hangs and while it is well
  bench density [--instances N] [-o json]
                        300 instances on one real daemon, each with a network of its own, beside
                        a few made by hand before them and beside them
  bench memory [-o json]
                        resident memory with 2 and with 1,000 instances
  bench api [--cycles N] [--only creates|lists|watches|fsyncs] [--etcd PATH] [-o json]
                        durable creates, lists of 10,000 objects and 1,000 watchers,
                        beside etcd on the same disk
  bench fleet [--hosts N] [--instances N] [--seconds N] [--at-once]
              [--latency recorded|none] [-o json]
                        100 simulated hosts of 100 instances: how long they take to come up, and
                        what they cost at rest, beside listing each host every 10 s; at rest is
                        half an hour after, when each was looked at once more, but for --at-once
                        (--sim PATH, --load PATH instead of the release builds)
  bench place [--cycles N] [--sim PATH] [-o json]
                        placement decisions on 1,000 hosts, beside a bare search
  bench proxy [--cycles N] [--only PART] [-o json]
                        requests and WebSockets through the proxy, beside Debian's nginx, HAProxy
                        and Caddy; with each mode of access, and with few and many routes
                        (--sim PATH, --load PATH instead of the release builds)
                        (all but bench place: --binary PATH instead of the release build)

  fleet up N [--name NAME] [--disk SIZE|HOST=SIZE]... [--registry] [--volatile] [--bare]
                        N Docker daemons, each in a network namespace of its own; with
                        --registry, a registry for images that all of them reach; with
                        --volatile, daemons that wait for no disk, nor survive a power cut
  fleet down            stops them and removes everything
  fleet status          [-o json]
  fleet docker HOST -- ARGS
                        the docker command against one of them
  fleet kill|start|restart|pause|resume HOST
                        the daemon: SIGKILL, start, restart, SIGSTOP, SIGCONT
  fleet poweroff|poweron HOST
                        the whole host, with its containers
  fleet partition|heal HOST
                        takes the host off the network, and back
  fleet registry start|stop
                        the registry; its images stay
  fleet disk-full|disk-free HOST
                        fills the host's disk (see --disk), and empties it
  image [--out DIR]     builds the test images as docker archives

Every fleet verb takes --name NAME (default: default).
";

fn main() -> ExitCode {
    let mut args = Args::from_env();
    let verb = if args.flag("--help") || args.flag("-h") { None } else { args.word() };
    let done = match verb.as_deref() {
        // what the fleet consists of: these end as any process does
        Some(fleet::host::VERB) => fleet::host::run(args),
        Some(fleet::init::VERB) => fleet::init::run(args),
        Some(fleet::registry::VERB) => fleet::registry::run(args),
        Some(fleet::switch::VERB) => fleet::switch::run(args),
        verb => {
            sys::catch_interrupts();
            match verb {
                Some("demo") => demo::run(args),
                Some("bench") => bench::run(args),
                Some("test") => test::run(args),
                Some("fleet") => fleet::run(args),
                Some("image") => image::run(args),
                None | Some("help") => {
                    print!("{HELP}");
                    Ok(ExitCode::SUCCESS)
                }
                Some(other) => {
                    eprint!("unknown command: {other}\n\n{HELP}");
                    return ExitCode::from(2);
                }
            }
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
