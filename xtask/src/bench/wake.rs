//! `cargo xtask bench wake`: a request to an instance that is asleep, and one to an instance that is frozen, and beside
//! each what the daemon alone takes.
//!
//! Both alternate on one daemon, so that whatever else the machine does meets both alike; a round's ratio compares
//! neighbours.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};

use super::raw::{self, Raw, Shape};
use super::stats::Summary;
use super::{Bench, DOMAIN, Out, first_byte};
use crate::clock;
use crate::demo::engine::Engine;
use crate::demo::server::Server;
use crate::docker::Object;

const PATIENCE: Duration = Duration::from_secs(120);
const MANIFEST: &str = "\
apiVersion: portreeve.dev/v1
kind: Instance
metadata:
  name: wake
spec:
  image: portreeve/app:1
  imagePullPolicy: IfNotPresent
  ports:
    - {name: http, containerPort: 8080}
  resources: {memory: 64Mi, cpu: 500m}
  probes:
    startup:
      http: {port: http, path: /health}
      timeout: 60s
  idle: {after: 1s}
";

/// One wake of each, in milliseconds.
#[derive(Clone, Debug, Serialize)]
struct Round {
    portreeve: f64,
    raw: f64,
    /// The part of `raw` in which the daemon worked.
    raw_start: f64,
    ratio: f64,
}

pub fn measure(bench: &mut Bench, rounds: usize) -> Result<Value> {
    let out = bench.out;
    let engine = bench.engine()?;
    let manifest = bench.place.dir.join("wake.yaml");
    fs::write(&manifest, MANIFEST)?;
    let server = bench.serve(Some(&engine))?;
    server.cli(&["apply", "-f", manifest.to_str().context("the manifest's path is not UTF-8")?])?;
    let server = &*server;
    let container = first_sleep(server, &engine)?;
    let twin = Raw::twin(&engine, &Shape::of(&engine, &container)?, "bench-raw", raw::FIRST_PORT)?;

    out.line("asleep: milliseconds to the first byte of the answer\n");
    let asleep = table(out, "start", rounds, || one(server, &engine, &container, &twin))?;
    let frozen = measure_frozen(out, server, &engine, &twin, rounds)?;
    let machine = machine(&engine)?;
    out.line(&format!("on {}", machine.as_str().unwrap_or_default()));
    let mut told = asleep;
    told["machine"] = machine;
    told["frozen"] = frozen;
    Ok(told)
}

/// The same container frozen, with all that it needs to go on.
fn measure_frozen(out: Out, server: &Server, engine: &Engine, twin: &Raw, rounds: usize) -> Result<Value> {
    let manifest = server.kubeconfig.with_file_name("frozen.yaml");
    fs::write(&manifest, MANIFEST.replace("idle: {after: 1s}", "idle: {after: 1h, freezeAfter: 1s}"))?;
    server.cli(&["apply", "-f", manifest.to_str().context("the manifest's path is not UTF-8")?])?;
    visit(server)?;
    let container = container_of(server, engine)?;
    twin.start()?;
    out.line("\nfrozen: milliseconds to the first byte of the answer\n");
    let told = table(out, "unpause", rounds, || {
        in_phase(server, "Frozen")?;
        // the word comes before the deed
        clock::wait_unless_interrupted("the pause", PATIENCE, || match raw::paused(engine, &container) {
            Ok(true) => Ok(()),
            Ok(false) => Err("its container is not paused".into()),
            Err(e) => Err(format!("{e:#}")),
        })?;
        let portreeve = visit(server)?;
        in_phase(server, "Frozen")?;
        twin.pause()?;
        Ok(Round::of(portreeve, &twin.unpause()?))
    })?;
    twin.stop()?;
    Ok(told)
}

/// Rounds beside one another, after one that does not count. `call`: what the daemon is asked for.
fn table(out: Out, call: &str, rounds: usize, mut one: impl FnMut() -> Result<Round>) -> Result<Value> {
    out.line(&format!("  round   portreeve        raw{:>14}      ratio", format!("of it {call}")));
    let mut all = Vec::new();
    for number in 0..=rounds {
        let round = one()?;
        let name = if number == 0 { "warm-up".into() } else { number.to_string() };
        let Round { portreeve, raw, raw_start, ratio } = round;
        out.line(&format!("{name:>7}{portreeve:>12.1}{raw:>11.1}{raw_start:>14.1}{ratio:>11.2}"));
        if number > 0 {
            all.push(round);
        }
    }
    let of = |field: fn(&Round) -> f64| Summary::of(all.iter().map(field)).context("no rounds");
    let (portreeve, raw) = (of(|r| r.portreeve)?, of(|r| r.raw)?);
    let (start, ratio) = (of(|r| r.raw_start)?, of(|r| r.ratio)?);
    let more = of(|r| r.portreeve - r.raw)?;
    out.line(&format!(
        "\n median{:>12.1}{:>11.1}{:>14.1}{:>11.2}  [{:.2} .. {:.2}]",
        portreeve.median, raw.median, start.median, ratio.median, ratio.min, ratio.max
    ));
    out.line(&format!("portreeve - raw: {:.1} [{:.1} .. {:.1}] ms", more.median, more.min, more.max));
    Ok(json!({
        "unit": "ms", "rounds": all,
        "portreeve": portreeve, "raw": raw, "rawStart": start, "difference": more, "ratio": ratio,
    }))
}

/// Waits until the instance has answered and sleeps again; returns its container's id.
fn first_sleep(server: &Server, engine: &Engine) -> Result<String> {
    asleep(server)?;
    visit(server)?;
    asleep(server)?;
    container_of(server, engine)
}

fn container_of(server: &Server, engine: &Engine) -> Result<String> {
    let instance = server.instances()?.pop().context("the instance is gone")?;
    let label = format!("portreeve.dev/uid={}", instance.uid);
    let mut containers = engine.docker.labelled(Object::Container, &label)?;
    match (containers.pop(), containers.len()) {
        (Some(id), 0) => Ok(id),
        _ => bail!("the instance has not one container"),
    }
}

fn asleep(server: &Server) -> Result<()> {
    in_phase(server, "Asleep")
}

fn in_phase(server: &Server, phase: &str) -> Result<()> {
    clock::wait_unless_interrupted(&format!("the instance being {phase}"), PATIENCE, || {
        let seen = server.instances().map_err(|e| format!("{e:#}"))?;
        match seen.first() {
            Some(instance) if instance.phase == phase => Ok(()),
            Some(instance) => Err(format!("it is {}: {}", instance.phase, instance.message)),
            None => Err("it is gone".into()),
        }
    })
}

/// One request through the proxy, to the first byte of its answer.
fn visit(server: &Server) -> Result<Duration> {
    let host = format!("wake.{DOMAIN}:{}", server.proxy.port());
    let start = clock::now();
    let at = first_byte::get(server.proxy, &host, "/health", PATIENCE, PATIENCE)?;
    Ok(at.duration_since(start))
}

/// Begins and ends with both asleep.
fn one(server: &Server, engine: &Engine, container: &str, twin: &Raw) -> Result<Round> {
    if raw::running(engine, container)? {
        bail!("the instance is Asleep, but its container runs");
    }
    let portreeve = visit(server)?;
    if !raw::running(engine, container)? {
        bail!("an answer came, but the instance's container does not run");
    }
    asleep(server)?;

    let raw = twin.start()?;
    twin.stop()?;
    Ok(Round::of(portreeve, &raw))
}

impl Round {
    fn of(portreeve: Duration, raw: &raw::Start) -> Round {
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        Round {
            portreeve: millis(portreeve),
            raw: millis(raw.total),
            raw_start: millis(raw.call),
            ratio: portreeve.as_secs_f64() / raw.total.as_secs_f64(),
        }
    }
}

/// What the figures depend on.
fn machine(engine: &Engine) -> Result<Value> {
    let version = engine.docker.call("GET", "/version", None)?;
    let processors = std::thread::available_parallelism()?;
    let text = |name: &str| version[name].as_str().unwrap_or("?").to_owned();
    Ok(format!("{processors} processors, Docker {}, Linux {}", text("Version"), text("KernelVersion")).into())
}
