//! `cargo xtask bench`: what a wake, an instance, the API, a fleet and a proxied request cost, measured on the release build.
//!
//! ```text
//! wake ──► serve, one instance that sleeps ─┐
//!      └─► raw: its container's twin       ─┴─► a private Docker daemon        memory, api ──► serve, no daemon
//! provision ─► serve, three such daemons over mutual TLS; raw: as many twins          sick ─► one of them hangs
//! density ─► serve, one such daemon with hundreds of instances
//! fleet ─► serve ──► simulated daemons by the hundred                          place ──► the scheduler by itself
//! proxy ─► serve, one simulated daemon; nginx, HAProxy and Caddy beside it
//! ```
//!
//! Both use the demo's modules and clean up as it does: also after an error, an interrupt, or an earlier run that was
//! killed. `--binary PATH` measures another build, of an older version for example. Figures are only worth comparing with those of the same run.

mod api;
mod density;
mod first_byte;
mod fleet;
mod memory;
mod place;
mod provision;
mod proxy;
mod raw;
mod sick;
mod stats;
mod wake;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::args::Args;
use crate::demo::engine::{self, Engine};
use crate::demo::place::{Place, Record};
use crate::demo::{clean, server};
use crate::fleet::down;
use crate::fleet::state::Fleet;
use crate::image::{self, APP};
use crate::{build, sys};
use server::Server;

/// Of the directory and of the fleet.
const NAME: &str = "bench";
const ROUNDS: usize = 12;
const CYCLES: usize = 6;
/// Of provisioning: each makes everything anew.
const PROVISIONS: usize = 5;
const DOMAIN: &str = "localhost";

pub fn run(mut args: Args) -> Result<ExitCode> {
    let format = args.option("-o")?;
    let rounds = args.option("--rounds")?;
    let binary = args.option("--binary")?.map(PathBuf::from);
    let cycles = args.option("--cycles")?;
    let only = args.option("--only")?;
    let etcd = args.option("--etcd")?.map(PathBuf::from);
    let sim = args.option("--sim")?.map(PathBuf::from);
    let scale = Scale::take(&mut args)?;
    let verb = args.word();
    args.finish()?;
    let json = match format.as_deref() {
        None => false,
        Some("json") => true,
        Some(other) => bail!("-o {other}: only json"),
    };
    let is = |verbs: &[&str]| verb.as_deref().is_some_and(|verb| verbs.contains(&verb));
    if etcd.is_some() && !is(&["api"]) || only.is_some() && !is(&["api", "proxy"]) {
        bail!("--only is for bench api and bench proxy, --etcd for bench api");
    }
    if cycles.is_some() && !is(&["api", "place", "proxy", "sick"]) {
        bail!("--cycles is for bench api, bench place, bench proxy and bench sick");
    }
    if sim.is_some() && !is(&["fleet", "place", "proxy"]) {
        bail!("--sim is for bench fleet, bench place and bench proxy");
    }
    if !is(&["fleet"]) && scale.is_given(is(&["density"]), is(&["proxy"])) {
        bail!("--hosts, --instances, --seconds, --latency, --at-once and --load are for bench fleet");
    }
    let parts = if is(&["proxy"]) { &proxy::PARTS[..] } else { &api::PARTS };
    if let Some(only) = only.as_deref().filter(|o| !parts.contains(o)) {
        bail!("--only {only}: one of {}", parts.join(", "));
    }
    let what = match (verb.as_deref(), rounds) {
        (Some("api"), None) => {
            let cycles = fleet::number("--cycles", cycles, CYCLES, 30)?;
            What::Api(api::Options { cycles, only, etcd })
        }
        (Some("fleet"), None) => What::Fleet(scale.options(sim)?),
        (Some("proxy"), None) => {
            let cycles = fleet::number("--cycles", cycles, CYCLES, 30)?;
            What::Proxy(proxy::Options { cycles, only, load: scale.load, sim })
        }
        (Some("density"), None) => {
            What::Density(fleet::number("--instances", scale.instances, density::INSTANCES, density::MOST)?)
        }
        (Some("sick"), None) => What::Sick(fleet::number("--cycles", cycles, CYCLES, 30)?),
        (Some("place"), None) => {
            What::Place(place::Options { cycles: fleet::number("--cycles", cycles, CYCLES, 30)?, sim })
        }
        (Some("wake"), rounds) => What::Wake(fleet::number("--rounds", rounds, ROUNDS, 1000)?),
        (Some("provision"), rounds) => What::Provision(fleet::number("--rounds", rounds, PROVISIONS, 100)?),
        (Some("memory"), None) => What::Memory,
        (Some("memory" | "api" | "fleet" | "place" | "proxy" | "density" | "sick"), Some(_)) => {
            bail!("--rounds is for bench wake and bench provision")
        }
        _ => bail!("bench wake, provision, sick, density, memory, api, fleet, place or proxy? See cargo xtask help"),
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
    /// So many rounds.
    Provision(usize),
    Memory,
    Api(api::Options),
    Fleet(fleet::Options),
    Proxy(proxy::Options),
    Place(place::Options),
    /// So many instances.
    Density(usize),
    /// So many cycles.
    Sick(usize),
}

/// The options of `bench fleet`, as they are written.
struct Scale {
    hosts: Option<String>,
    instances: Option<String>,
    seconds: Option<String>,
    latency: Option<String>,
    at_once: bool,
    load: Option<PathBuf>,
}

impl Scale {
    fn take(args: &mut Args) -> Result<Scale> {
        Ok(Scale {
            hosts: args.option("--hosts")?,
            instances: args.option("--instances")?,
            seconds: args.option("--seconds")?,
            latency: args.option("--latency")?,
            at_once: args.flag("--at-once"),
            load: args.option("--load")?.map(PathBuf::from),
        })
    }

    /// Whether there is any, but for the number of instances and the load generator where these are another's options, too.
    fn is_given(&self, instances_too: bool, load_too: bool) -> bool {
        let load = self.load.as_ref().filter(|_| !load_too);
        let instances = self.instances.as_ref().filter(|_| !instances_too);
        let texts = [self.hosts.as_ref(), instances, self.seconds.as_ref(), self.latency.as_ref()];
        texts.iter().any(Option::is_some) || self.at_once || load.is_some()
    }

    fn options(self, sim: Option<PathBuf>) -> Result<fleet::Options> {
        let recorded = match self.latency.as_deref() {
            None | Some("recorded") => true,
            Some("none") => false,
            Some(other) => bail!("--latency {other}: recorded or none"),
        };
        Ok(fleet::Options {
            hosts: fleet::number("--hosts", self.hosts, 100, 1000)?,
            instances: fleet::number("--instances", self.instances, 100, 1000)?,
            watched: Duration::from_secs(fleet::number("--seconds", self.seconds, 600, 86_400)? as u64),
            settle: !self.at_once,
            recorded,
            sim,
            load: self.load,
        })
    }
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
        self.program = match (binary, what) {
            (Some(path), _) => path,
            // It needs no server.
            (None, What::Place(_)) => PathBuf::new(),
            (None, _) => server::build(true)?,
        };
        match what {
            What::Wake(rounds) => wake::measure(self, *rounds),
            What::Provision(rounds) => provision::measure(self, *rounds),
            What::Memory => memory::measure(self),
            What::Api(options) => api::measure(self, options),
            What::Fleet(options) => fleet::measure(self, options),
            What::Place(options) => place::measure(self, options),
            What::Proxy(options) => proxy::measure(self, options),
            What::Density(instances) => density::measure(self, *instances),
            What::Sick(cycles) => sick::measure(self, *cycles),
        }
    }

    /// A daemon of our own, with the app's image.
    fn engine(&mut self) -> Result<Engine> {
        Ok(engine::of(&self.fleet(1)?.hosts[0]))
    }

    /// So many daemons of our own, with the app's image.
    fn fleet(&mut self, hosts: usize) -> Result<Fleet> {
        let archive = image::archive(&build::app()?, &APP)?;
        self.record.private = true;
        self.place.write(&self.record)?;
        let fleet = engine::private_fleet(NAME, hosts)?;
        self.record.socket = fleet.hosts[0].socket.clone();
        self.place.write(&self.record)?;
        for host in &fleet.hosts {
            engine::of(host).docker.load(&archive)?;
        }
        Ok(fleet)
    }

    /// Starts the control plane on the run's data directory and waits until it answers.
    fn serve(&mut self, engine: Option<&Engine>) -> Result<&mut Server> {
        self.serve_with(engine, DOMAIN, &[])
    }

    /// With another domain, and these arguments as well.
    fn serve_with(&mut self, engine: Option<&Engine>, domain: &str, more: &[String]) -> Result<&mut Server> {
        let server = Server::start_with(&self.program, &self.place, engine, domain, more)?;
        let server = self.server.insert(server);
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
