//! `cargo xtask bench provision`: from nothing to the first byte of each of many instances on three daemons, and beside it
//! the same containers made by hand, the daemons' own limit.
//!
//! Both alternate on the same daemons. By hand means: for each container a network, a create and a start, so many at a time
//! on each host as was the fastest in a first try. We reach the daemons over mutual TLS, as a fleet does; the hand does it
//! over their sockets.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};

use super::api::load_average;
use super::raw::{FIRST_PORT, Raw, Shape};
use super::stats::Summary;
use super::{Bench, DOMAIN, first_byte};
use crate::demo::engine::{self, Engine};
use crate::demo::server::Server;
use crate::docker::Object;
use crate::fleet::state::Fleet;
use crate::{clock, sys};

const HOSTS: usize = 3;
/// Instances on each host: fewer than the networks for which a daemon has addresses by itself.
const EACH: usize = 12;
const ALL: usize = HOSTS * EACH;
/// How many the hand makes at a time on one host.
pub const AT_A_TIME: [usize; 3] = [1, 2, 4];
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(2);

#[derive(Clone, Debug, Serialize)]
struct Round {
    /// Seconds until the last of all had answered.
    portreeve: f64,
    raw: f64,
    ratio: f64,
}

pub fn measure(bench: &mut Bench, rounds: usize) -> Result<Value> {
    let out = bench.out;
    let fleet = bench.fleet(HOSTS)?;
    let engines: Vec<Engine> = fleet.hosts.iter().map(engine::of).collect();
    let manifest = bench.place.dir.join("provision.yaml");
    fs::write(&manifest, hosts(&fleet))?;
    let server = &*bench.serve(None)?;
    let file = manifest.to_str().context("the manifest's path is not UTF-8")?;
    server.cli(&["apply", "-f", file])?;
    ready(server, &fleet)?;

    // The first is no measurement; what it makes tells what the hand is to make.
    fs::write(&manifest, instances(0))?;
    ours(server, file, 0)?;
    let mut shapes = Vec::new();
    for (engine, host) in engines.iter().zip(&fleet.hosts) {
        let made = engine.docker.labelled(Object::Container, "portreeve.dev/uid")?;
        let one = made.first().with_context(|| format!("{} was given no instance", host.name))?;
        shapes.push(Shape::of(engine, one)?);
    }
    cleared(server, file, &engines)?;
    let mut tries = Vec::new();
    for at_a_time in AT_A_TIME {
        tries.push((by_hand(&engines, &shapes, at_a_time, EACH)?, at_a_time));
    }
    let at_a_time = tries.iter().min_by_key(|(took, _)| *took).map_or(1, |(_, at_a_time)| *at_a_time);

    let machine = format!("{} processors, load {}", thread::available_parallelism()?, load_average());
    out.line(&format!("{ALL} instances on {HOSTS} hosts, by hand {at_a_time} at a time on each; {machine}\n"));
    out.line("  round   portreeve s     raw s   portreeve/s     raw/s     ratio");
    let mut all = Vec::new();
    for number in 1..=rounds {
        fs::write(&manifest, instances(number))?;
        let portreeve = ours(server, file, number)?.as_secs_f64();
        cleared(server, file, &engines)?;
        let raw = by_hand(&engines, &shapes, at_a_time, EACH)?.as_secs_f64();
        let (ratio, count) = (portreeve / raw, ALL as f64);
        out.line(&format!(
            "{number:>7}{portreeve:>14.2}{raw:>10.2}{:>14.1}{:>10.1}{ratio:>10.2}",
            count / portreeve,
            count / raw
        ));
        all.push(Round { portreeve, raw, ratio });
    }
    let of = |field: fn(&Round) -> f64| Summary::of(all.iter().map(field)).context("no rounds");
    let (portreeve, raw, ratio) = (of(|r| r.portreeve)?, of(|r| r.raw)?, of(|r| r.ratio)?);
    out.line(&format!(
        "\n median{:>14.2}{:>10.2}{:>14.1}{:>10.1}{:>10.2}  [{:.2} .. {:.2}]",
        portreeve.median,
        raw.median,
        ALL as f64 / portreeve.median,
        ALL as f64 / raw.median,
        ratio.median,
        ratio.min,
        ratio.max
    ));
    Ok(json!({
        "unit": "s", "machine": machine, "instances": ALL, "hosts": HOSTS, "handsPerHost": at_a_time, "rounds": all,
        "portreeve": portreeve, "raw": raw, "ratio": ratio,
    }))
}

/// Waits until its hosts are.
pub fn ready(server: &Server, fleet: &Fleet) -> Result<()> {
    let names = fleet.hosts.iter().map(|host| host.name.as_str());
    let wait = ["wait", "--for=condition=Ready", "--timeout=60s", "dockerhosts"];
    server.cli(&wait.into_iter().chain(names).collect::<Vec<_>>()).map(drop)
}

/// A document for each.
pub fn manifest(objects: impl Iterator<Item = Value>) -> String {
    objects.map(|object| format!("---\n{object}\n")).collect()
}

pub fn hosts(fleet: &Fleet) -> String {
    let items = fleet.hosts.iter().map(|host| {
        json!({
            "apiVersion": "portreeve.dev/v1", "kind": "DockerHost", "metadata": {"name": host.name},
            "spec": {"endpoint": host.tcp, "tls": {"directory": fleet.certs}, "address": host.address,
                     "capacity": {"cpu": "64"}},
        })
    });
    manifest(items)
}

fn name(round: usize, number: usize) -> String {
    format!("r{round}-i{number}")
}

fn instances(round: usize) -> String {
    let items = (0..ALL).map(|number| {
        json!({
            "apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": {"name": name(round, number)},
            "spec": {
                "image": "portreeve/app:1", "imagePullPolicy": "IfNotPresent", "power": "Running",
                "ports": [{"name": "http", "containerPort": 8080}],
                "resources": {"memory": "64Mi", "cpu": "500m"},
                "probes": {"startup": {"http": {"port": "http", "path": "/health"}, "timeout": "60s"}},
            },
        })
    });
    manifest(items)
}

/// Applies them, and visits all until each has answered; the time to the last.
fn ours(server: &Server, manifest: &str, round: usize) -> Result<Duration> {
    let start = clock::now();
    server.cli(&["apply", "-f", manifest])?;
    let last = thread::scope(|scope| {
        let visits: Vec<_> =
            (0..ALL).map(|number| scope.spawn(move || visit(server.proxy, &name(round, number)))).collect();
        visits.into_iter().try_fold(start, |last, visit| {
            let at = visit.join().map_err(|_| anyhow::anyhow!("a visitor panicked"))??;
            Ok::<Instant, anyhow::Error>(last.max(at))
        })
    })?;
    Ok(last.duration_since(start))
}

/// The moment of the first byte. The proxy holds the request while there is something to wait for.
pub fn visit(proxy: SocketAddr, name: &str) -> Result<Instant> {
    let start = clock::now();
    let host = format!("{name}.{DOMAIN}:{}", proxy.port());
    loop {
        match first_byte::get(proxy, &host, "/health", PATIENCE, PATIENCE) {
            Ok(at) => return Ok(at),
            Err(error) if start.elapsed() > PATIENCE => return Err(error.context(name.to_owned())),
            Err(_) if sys::interrupted() => bail!("interrupted"),
            Err(_) => thread::sleep(POLL),
        }
    }
}

/// Deletes them, and waits until nothing of them is left on the daemons.
fn cleared(server: &Server, manifest: &str, engines: &[Engine]) -> Result<()> {
    server.cli(&["delete", "-f", manifest, "--timeout=120s"])?;
    nothing_left(engines)
}

/// Of any instance.
pub fn nothing_left(engines: &[Engine]) -> Result<()> {
    for engine in engines {
        for object in [Object::Container, Object::Network] {
            let left = engine.docker.labelled(object, "portreeve.dev/uid")?;
            if !left.is_empty() {
                bail!("{} of {object:?} are left after the deletion", left.len());
            }
        }
    }
    Ok(())
}

/// Makes as many without us, and removes them; the time from the first call to the last's first byte.
pub fn by_hand(engines: &[Engine], shapes: &[Shape], at_a_time: usize, each: usize) -> Result<Duration> {
    let start = clock::now();
    let nexts: Vec<AtomicUsize> = engines.iter().map(|_| AtomicUsize::new(0)).collect();
    let made = thread::scope(|scope| {
        let hosts = engines.iter().zip(shapes).zip(&nexts);
        let hands = hosts.flat_map(|host| std::iter::repeat_n(host, at_a_time));
        let hands: Vec<_> = hands
            .map(|((engine, shape), next)| scope.spawn(move || hand(engine, shape, (next, each), start)))
            .collect();
        hands
            .into_iter()
            .map(|hand| hand.join().map_err(|_| anyhow::anyhow!("a hand panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    let took = made.iter().flatten().map(|(_, at)| *at).max().context("nothing was made")?;
    for (twin, _) in made.into_iter().flatten() {
        twin.remove()?;
    }
    Ok(took)
}

/// One of those who make the containers of a host.
fn hand<'a>(
    engine: &'a Engine,
    shape: &Shape,
    (next, each): (&AtomicUsize, usize),
    start: Instant,
) -> Result<Vec<(Raw<'a>, Duration)>> {
    let mut made = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= each {
            return Ok(made);
        }
        let port = FIRST_PORT + u16::try_from(number)?;
        let twin = Raw::twin(engine, shape, &format!("bench-raw-{number}"), port)?;
        twin.start()?;
        made.push((twin, start.elapsed()));
    }
}
