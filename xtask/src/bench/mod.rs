//! `cargo xtask bench`: what a wake, an instance and the API cost, measured on the release build.
//!
//! ```text
//! wake ──► serve, one instance that sleeps ─┐
//!      └─► raw: its container's twin       ─┴─► a private Docker daemon        memory, api ──► serve, no daemon
//! ```
//!
//! Both use the demo's modules and clean up as it does: also after an error, an interrupt, or an earlier run that was
//! killed. `--binary PATH` measures another build, of an older version for example. Figures are only worth comparing with those of the same run.

mod api;
mod first_byte;
mod memory;
mod raw;
mod stats;
mod wake;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::args::Args;
use crate::demo::engine::{self, Engine};
use crate::demo::place::{Place, Record};
use crate::demo::{clean, server};
use crate::fleet::down;
use crate::image::{self, APP};
use crate::{build, sys};
use server::Server;

/// Of the directory and of the fleet.
const NAME: &str = "bench";
const ROUNDS: usize = 12;
const CYCLES: usize = 6;
const DOMAIN: &str = "localhost";

pub fn run(mut args: Args) -> Result<ExitCode> {
    let format = args.option("-o")?;
    let rounds = args.option("--rounds")?;
    let binary = args.option("--binary")?.map(PathBuf::from);
    let cycles = args.option("--cycles")?;
    let only = args.option("--only")?;
    let etcd = args.option("--etcd")?.map(PathBuf::from);
    let verb = args.word();
    args.finish()?;
    let json = match format.as_deref() {
        None => false,
        Some("json") => true,
        Some(other) => bail!("-o {other}: only json"),
    };
    if verb.as_deref() != Some("api") && (cycles.is_some() || only.is_some() || etcd.is_some()) {
        bail!("--cycles, --only and --etcd are for bench api");
    }
    if let Some(only) = only.as_deref().filter(|o| !api::PARTS.contains(o)) {
        bail!("--only {only}: one of {}", api::PARTS.join(", "));
    }
    let what = match (verb.as_deref(), rounds) {
        (Some("api"), None) => {
            let text = cycles.unwrap_or_else(|| CYCLES.to_string());
            let cycles = text.parse().ok().filter(|n| (1..=30).contains(n));
            let cycles = cycles.with_context(|| format!("--cycles {text}: a number from 1 to 30"))?;
            What::Api(api::Options { cycles, only, etcd })
        }
        (Some("wake"), None) => What::Wake(ROUNDS),
        (Some("wake"), Some(rounds)) => {
            let count = rounds.parse().ok().filter(|n| (1..=1000).contains(n));
            What::Wake(count.with_context(|| format!("--rounds {rounds}: a number from 1 to 1000"))?)
        }
        (Some("memory"), None) => What::Memory,
        (Some("memory" | "api"), Some(_)) => bail!("--rounds is for bench wake"),
        _ => bail!("bench wake, bench memory, or bench api? See cargo xtask help"),
    };

    let place = Place::take(NAME)?;
    if sys::is_root() {
        down::clean_orphans()?;
    }
    clean::leftovers(&place)?;
    sys::become_subreaper();
    let mut bench =
        Bench { place, record: Record::default(), server: None, program: PathBuf::new(), out: Out { json } };
    let result = bench.measure(&what, binary);
    // before the cleaning, which may fail as well
    match &result {
        _ if sys::interrupted() => eprintln!("interrupted"),
        Err(error) => eprintln!("error: {error:#}"),
        Ok(report) if json => say!("{report:#}"),
        Ok(_) => {}
    }
    bench.end()?;
    Ok(if result.is_ok() && !sys::interrupted() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

enum What {
    /// So many rounds.
    Wake(usize),
    Memory,
    Api(api::Options),
}

/// One run: what it has made, so that it can be removed.
struct Bench {
    place: Place,
    record: Record,
    server: Option<Server>,
    program: PathBuf,
    out: Out,
}

/// Where lines for people go.
#[derive(Clone, Copy)]
struct Out {
    json: bool,
}

impl Out {
    /// With `-o json` it goes to standard error.
    fn line(self, text: &str) {
        if self.json {
            eprintln!("{text}");
        } else {
            say!("{text}");
        }
    }
}

impl Bench {
    fn measure(&mut self, what: &What, binary: Option<PathBuf>) -> Result<Value> {
        self.program = match binary {
            Some(path) => path,
            None => server::build(true)?,
        };
        match what {
            What::Wake(rounds) => wake::measure(self, *rounds),
            What::Memory => memory::measure(self),
            What::Api(options) => api::measure(self, options),
        }
    }

    /// A daemon of our own, with the app's image.
    fn engine(&mut self) -> Result<Engine> {
        let archive = image::archive(&build::app()?, &APP)?;
        self.record.private = true;
        self.place.write(&self.record)?;
        let engine = engine::private(NAME)?;
        self.record.socket = engine.docker.socket.clone();
        self.place.write(&self.record)?;
        engine.docker.load(&archive)?;
        Ok(engine)
    }

    /// Starts the control plane on the run's data directory and waits until it answers.
    fn serve(&mut self, engine: Option<&Engine>) -> Result<&mut Server> {
        let server = self.server.insert(Server::start(&self.program, &self.place, engine, DOMAIN)?);
        self.record.server = server.identity();
        self.place.write(&self.record)?;
        server.ready()?;
        Ok(server)
    }

    fn stop(&mut self) -> Result<()> {
        if let Some(server) = self.server.take() {
            server.stop()?;
        }
        self.record.server = None;
        self.place.write(&self.record)
    }

    /// The reverse of everything. The daemon goes with all that was made in it.
    fn end(mut self) -> Result<()> {
        self.stop()?;
        clean::clean(&self.place, &self.record)?;
        self.place.leave()
    }
}
