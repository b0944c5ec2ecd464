//! `cargo xtask bench sick`: whether a host that hangs slows the others. Two of three real daemons get new instances and wake
//! one that sleeps, with the third well and with it hung, in turn.
//!
//! The third has instances, and each time their spec is changed as well, so that there is work for it, which its hanging
//! holds up. A measurement begins at the moment at which it hangs, before anybody can have noticed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::api::load_average;
use super::stats::Summary;
use super::{Bench, DOMAIN, first_byte, provision};
use crate::clock;
use crate::demo::engine::{self, Engine};
use crate::demo::server::Server;
use crate::fleet::power;
use crate::fleet::state::{Fleet, Host};

const HOSTS: usize = 3;
/// The last of them.
const SICK: &str = "h3";
/// New instances, on the two that are well.
const NEW: usize = 12;
/// Instances on the third.
const BOUND: usize = 6;
const WAKES: usize = 3;
const NAPPER: &str = "napper";
const PATIENCE: Duration = Duration::from_secs(240);

/// What was measured while the third was well or hung.
#[derive(Clone, Copy, Debug, Serialize)]
struct Half {
    /// Seconds from the apply of all to the last one's first byte.
    provision: f64,
    /// Milliseconds from a request to its first byte, the median.
    wake: f64,
    slowest_wake: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Cycle {
    well: Half,
    hung: Half,
}

pub fn measure(bench: &mut Bench, cycles: usize) -> Result<Value> {
    let out = bench.out;
    let fleet = bench.fleet(HOSTS)?;
    let engines: Vec<Engine> = fleet.hosts.iter().map(engine::of).collect();
    let dir = bench.place.dir.clone();
    let server = &*bench.serve(None)?;
    apply(server, &dir, &provision::hosts(&fleet))?;
    provision::ready(server, &fleet)?;
    apply(server, &dir, &provision::manifest(std::iter::once(napper())))?;
    apply(server, &dir, &bound(0))?;
    let run = Run { server, fleet: &fleet, engines: &engines, dir: &dir };
    run.all_well()?;
    // What is made first is no measurement.
    run.half(0)?;

    let machine = format!("{} processors, load {}", std::thread::available_parallelism()?, load_average());
    out.line(&format!(
        "{NEW} new instances and {WAKES} wakes on two hosts, {BOUND} instances on the third; {machine}\n"
    ));
    out.line("  cycle      new s, well      hung     ratio    wake ms, well      hung   slowest     ratio");
    let mut all = Vec::new();
    for number in 1..=cycles {
        let cycle = run.cycle(number)?;
        let Cycle { well, hung } = cycle;
        out.line(&format!(
            "{number:>7}{:>17.2}{:>10.2}{:>10.2}{:>17.0}{:>10.0}{:>10.0}{:>10.2}",
            well.provision,
            hung.provision,
            hung.provision / well.provision,
            well.wake,
            hung.wake,
            hung.slowest_wake,
            hung.wake / well.wake
        ));
        all.push(cycle);
    }
    let of = |field: fn(&Cycle) -> f64| Summary::of(all.iter().map(field)).context("no cycles");
    let provision = of(|c| c.hung.provision / c.well.provision)?;
    let wake = of(|c| c.hung.wake / c.well.wake)?;
    let told = |s: &Summary| format!("{:.2}  [{:.2} .. {:.2}]", s.median, s.min, s.max);
    out.line(&format!("\nhung by well, median: new instances {}; wakes {}", told(&provision), told(&wake)));
    Ok(json!({
        "machine": machine, "loadAfter": load_average(), "new": NEW, "bound": BOUND, "cycles": all,
        "provisionRatio": provision, "wakeRatio": wake,
    }))
}

struct Run<'a> {
    server: &'a Server,
    fleet: &'a Fleet,
    engines: &'a [Engine],
    dir: &'a Path,
}

impl Run<'_> {
    fn sick(&self) -> Result<&Host> {
        self.fleet.host(SICK)
    }

    /// Well and hung, the other way round every second time.
    fn cycle(&self, number: usize) -> Result<Cycle> {
        let (first, second) = (number * 2, number * 2 + 1);
        if number.is_multiple_of(2) {
            let hung = self.hung(first)?;
            Ok(Cycle { well: self.well(second)?, hung })
        } else {
            Ok(Cycle { well: self.well(first)?, hung: self.hung(second)? })
        }
    }

    /// The third's work is done before: both halves have the processors to themselves.
    fn well(&self, turn: usize) -> Result<Half> {
        apply(self.server, self.dir, &bound(turn))?;
        self.all_well()?;
        self.half(turn)
    }

    fn hung(&self, turn: usize) -> Result<Half> {
        power::pause(self.fleet, self.sick()?)?;
        apply(self.server, self.dir, &bound(turn))?;
        let half = self.half(turn);
        power::resume(self.fleet, self.sick()?)?;
        self.all_well()?;
        half
    }

    /// Begins with the wakes, which fall into the time before the host is known to hang.
    fn half(&self, turn: usize) -> Result<Half> {
        let mut wakes = Vec::new();
        for _ in 0..WAKES {
            wakes.push(self.wake()?.as_secs_f64() * 1000.0);
        }
        let file = self.dir.join("new.yaml");
        fs::write(&file, news(turn))?;
        let file = file.to_str().context("the manifest's path is not UTF-8")?;
        let begin = clock::now();
        self.server.cli(&["apply", "-f", file])?;
        let proxy = self.server.proxy;
        let visits = std::thread::scope(|scope| {
            let visitor = |n| scope.spawn(move || provision::visit(proxy, &name(turn, n)));
            let visits: Vec<_> = (0..NEW).map(visitor).collect();
            visits
                .into_iter()
                .map(|v| v.join().map_err(|_| anyhow::anyhow!("a visitor panicked"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        let last = visits.into_iter().max().context("nobody was visited")?;
        self.server.cli(&["delete", "-f", file, "--timeout=240s"])?;
        let wakes = Summary::of(wakes).context("no wakes")?;
        let provision = last.duration_since(begin).as_secs_f64();
        Ok(Half { provision, wake: wakes.median, slowest_wake: wakes.max })
    }

    fn wake(&self) -> Result<Duration> {
        self.until("the sleeper sleeps", |name, phase, _| name != NAPPER || phase == "Asleep")?;
        let host = format!("{NAPPER}.{DOMAIN}:{}", self.server.proxy.port());
        let start = clock::now();
        let at = first_byte::get(self.server.proxy, &host, "/health", PATIENCE, PATIENCE)?;
        Ok(at.duration_since(start))
    }

    /// Waits until every instance is as it should be, and nothing is under way on any host.
    fn all_well(&self) -> Result<()> {
        provision::ready(self.server, self.fleet)?;
        self.until("all is well", |name, phase, ready| name == NAPPER || (phase == "Running" && ready))?;
        let labelled = |e: &Engine| e.docker.labelled(crate::docker::Object::Container, "portreeve.dev/uid");
        let count: usize = self.engines.iter().map(|e| Ok(labelled(e)?.len())).sum::<Result<usize>>()?;
        anyhow::ensure!(count == BOUND + 1, "{count} containers, not {}", BOUND + 1);
        Ok(())
    }

    fn until(&self, what: &str, so: impl Fn(&str, &str, bool) -> bool) -> Result<()> {
        clock::wait_unless_interrupted(what, PATIENCE, || {
            let seen = self.server.instances().map_err(|e| format!("{e:#}"))?;
            match seen.iter().find(|i| !so(&i.name, &i.phase, i.ready)) {
                None => Ok(()),
                Some(i) => Err(format!("{} is {}: {}", i.name, i.phase, i.message)),
            }
        })
    }
}

fn apply(server: &Server, dir: &Path, manifest: &str) -> Result<()> {
    let file = dir.join("sick.yaml");
    fs::write(&file, manifest)?;
    server.cli(&["apply", "-f", file.to_str().context("the manifest's path is not UTF-8")?]).map(drop)
}

fn name(turn: usize, number: usize) -> String {
    format!("t{turn}-i{number}")
}

fn instance(name: &str, host: &str, more: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": {"name": name},
        "spec": {
            "image": "portreeve/app:1", "imagePullPolicy": "IfNotPresent", "power": "Running",
            "ports": [{"name": "http", "containerPort": 8080}],
            "resources": {"memory": "64Mi", "cpu": "500m"}, "placement": {"node": host},
            "probes": {"startup": {"http": {"port": "http", "path": "/health"}, "timeout": "60s"}},
        },
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    object
}

fn napper() -> Value {
    instance(NAPPER, "h1", &json!({"power": "Auto", "idle": {"after": "1s"}}))
}

fn news(turn: usize) -> String {
    let host = |number: usize| if number.is_multiple_of(2) { "h1" } else { "h2" };
    provision::manifest((0..NEW).map(|number| instance(&name(turn, number), host(number), &json!({}))))
}

/// Another spec each time, so that each is to be made anew.
fn bound(turn: usize) -> String {
    let env = json!({"env": [{"name": "TURN", "value": turn.to_string()}]});
    provision::manifest((0..BOUND).map(|number| instance(&format!("bound-{number}"), SICK, &env)))
}
