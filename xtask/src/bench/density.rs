//! `cargo xtask bench density`: hundreds of instances on one real daemon, each with a network of its own: from nothing to the
//! answer of each under its own name; all of them woken in one moment; and back to nothing.
//!
//! Beside it a few containers made by hand on the same daemon, when it is empty and when all are there: what it takes
//! itself, and how much slower it is with so many.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::api::load_average;
use super::memory::resident;
use super::raw::Shape;
use super::{Bench, DOMAIN, provision};
use crate::demo::engine;
use crate::demo::server::Server;
use crate::docker::Object;
use crate::fleet::state::{Fleet, Host};
use crate::http::Request;
use crate::{clock, sys};

pub const INSTANCES: usize = 300;
/// Subnets of the host's pool, and more than a bridge has been seen to carry.
pub const MOST: usize = 1000;
/// By hand: fewer than the networks for which a daemon has addresses by itself.
const BY_HAND: usize = 24;
const PATIENCE: Duration = Duration::from_secs(120);
const PATIENCE_EACH: Duration = Duration::from_secs(6);

pub fn measure(bench: &mut Bench, count: usize) -> Result<Value> {
    let out = bench.out;
    let fleet = bench.fleet(1)?;
    let host = &fleet.hosts[0];
    let engines = [engine::of(host)];
    let manifest = bench.place.dir.join("density.yaml");
    let file = manifest.to_str().context("the manifest's path is not UTF-8")?.to_owned();
    fs::write(&manifest, one_host(&fleet))?;
    let server = &*bench.serve(None)?;
    server.cli(&["apply", "-f", &file])?;
    provision::ready(server, &fleet)?;

    // The first is no measurement; what it makes tells what the hand is to make.
    fs::write(&manifest, instances(1, "Running"))?;
    server.cli(&["apply", "-f", &file])?;
    visit(server.proxy, 0, PATIENCE)?;
    let one = engines[0].docker.labelled(Object::Container, "portreeve.dev/uid")?;
    let shapes = [Shape::of(&engines[0], one.first().context("no container")?)?];
    server.cli(&["delete", "-f", &file, "--timeout=120s"])?;
    provision::nothing_left(&engines)?;

    let machine = format!("{} processors, load {}", thread::available_parallelism()?, load_average());
    out.line(&format!("{count} instances on one host; {machine}\n"));
    let before = resident_of(server, host)?;
    let tries = provision::AT_A_TIME.map(|n| Ok((provision::by_hand(&engines, &shapes, n, BY_HAND)?, n)));
    let tries = tries.into_iter().collect::<Result<Vec<_>>>()?;
    let (empty, hands) = *tries.iter().min_by_key(|(took, _)| *took).context("no tries")?;

    fs::write(&manifest, instances(count, "Running"))?;
    let begin = clock::now();
    server.cli(&["apply", "-f", &file])?;
    let applied = begin.elapsed();
    let mut answered = visit_all(server.proxy, count)?;
    answered.sort_unstable();
    let after = |n: usize| answered[n - 1].duration_since(begin).as_secs_f64();
    all_ready(server, count)?;
    distinct_networks(server, host, count)?;
    let with = resident_of(server, host)?;
    let full = provision::by_hand(&engines, &shapes, hands, BY_HAND)?;

    fs::write(&manifest, instances(count, "Auto"))?;
    server.cli(&["apply", "-f", &file])?;
    let names: Vec<String> = (0..count).map(name).collect();
    let limit = format!("--timeout={}s", patience(count).as_secs());
    server.cli(&[&["sleep", &limit][..], &names.iter().map(String::as_str).collect::<Vec<_>>()].concat())?;
    let crowd = crowd(server.proxy, count)?;
    all_ready(server, count)?;

    let gone = clock::now();
    server.cli(&["delete", "-f", &file, &format!("--timeout={}s", patience(count).as_secs())])?;
    let gone = gone.elapsed();
    provision::nothing_left(&engines)?;
    let networks = engines[0].docker.call("GET", "/v1.41/networks", None)?;
    ensure!(
        networks.as_array().map(Vec::len) == Some(3),
        "other networks than the daemon's own are left: {networks:#}"
    );

    let rate = |n: usize, seconds: f64| n as f64 / seconds;
    let few = BY_HAND.min(count);
    let last = after(count) - if count > few { after(count - few) } else { 0.0 };
    out.line(&format!(
        "applied in {:.1} s; all answered {:.1} s after the first word",
        applied.as_secs_f64(),
        after(count)
    ));
    out.line(&format!(
        "a second: {:.2} of all; the first {few}: {:.2}; the last {few}: {:.2}",
        rate(count, after(count)),
        rate(few, after(few)),
        rate(few, last)
    ));
    let (empty, full) = (rate(BY_HAND, empty.as_secs_f64()), rate(BY_HAND, full.as_secs_f64()));
    out.line(&format!(
        "by hand, {BY_HAND} of them, {hands} at a time: {empty:.2} on the empty host, {full:.2} beside all"
    ));
    let Crowd { answered: woken, told, last: latest } = &crowd;
    let (first, half) = (woken.first().copied().unwrap_or_default(), woken.get(count / 2).copied().unwrap_or_default());
    out.line(&format!(
        "asleep, and asked for all at once, one request each: {} answered by their app, the first after {first:.1} s, half \
         within {half:.1} s, the last after {latest:.1} s; {told} told to come back; none lost, all awake",
        woken.len()
    ));
    out.line(&format!(
        "deleted in {:.1} s: {:.2} a second; nothing is left",
        gone.as_secs_f64(),
        rate(count, gone.as_secs_f64())
    ));
    out.line("\nresident, MiB       portreeve   dockerd  containerd");
    for (what, r) in [("without them", before), ("with them", with)] {
        let mib = r.map(|kib| kib as f64 / 1024.0);
        out.line(&format!("{what:<18}{:>11.0}{:>10.0}{:>12.0}", mib[0], mib[1], mib[2]));
    }
    Ok(json!({
        "machine": machine, "loadAfter": load_average(), "instances": count, "appliedSeconds": applied.as_secs_f64(),
        "answeredSeconds": after(count), "firstPerSecond": rate(few, after(few)), "lastPerSecond": rate(few, last),
        "byHand": {"count": BY_HAND, "atATime": hands, "emptyPerSecond": empty, "fullPerSecond": full},
        "crowd": {"answered": woken.len(), "toldToComeBack": told, "halfSeconds": half, "lastSeconds": latest},
        "deletedSeconds": gone.as_secs_f64(), "residentKiB": {"before": before, "with": with},
    }))
}

/// What became of one request to each of many sleepers, in seconds.
struct Crowd {
    /// By the app, in order.
    answered: Vec<f64>,
    /// 503 with `Retry-After`, and nothing else.
    told: usize,
    last: f64,
}

/// Asks each once, all at the same moment. Fails when one is answered by another, or not at all.
fn crowd(proxy: SocketAddr, count: usize) -> Result<Crowd> {
    let begin = clock::now();
    let ask = |number: usize| -> Result<(bool, f64)> {
        let host = format!("{}.{DOMAIN}:{}", name(number), proxy.port());
        let answer = Request { host: &host, timeout: patience(count), ..Request::get("/") }.over_tcp(proxy)?;
        let took = begin.elapsed().as_secs_f64();
        match answer.status {
            200 if answer.text().contains(&format!("version: {}\n", name(number))) => Ok((true, took)),
            503 => Ok((false, took)),
            other => bail!("{}: {other}: {}", name(number), answer.text()),
        }
    };
    let all: Vec<(bool, f64)> = thread::scope(|scope| {
        let asking: Vec<_> = (0..count).map(|number| scope.spawn(move || ask(number))).collect();
        let answers = asking.into_iter().map(|a| a.join().map_err(|_| anyhow::anyhow!("a visitor panicked"))?);
        answers.collect::<Result<_>>()
    })?;
    let mut answered: Vec<f64> = all.iter().filter(|(ours, _)| *ours).map(|(_, took)| *took).collect();
    answered.sort_by(f64::total_cmp);
    let last = all.iter().map(|(_, took)| *took).fold(0.0, f64::max);
    Ok(Crowd { told: count - answered.len(), answered, last })
}

fn patience(count: usize) -> Duration {
    PATIENCE + PATIENCE_EACH * u32::try_from(count).unwrap_or(u32::MAX)
}

/// With as much of a processor as all together ask for.
fn one_host(fleet: &Fleet) -> String {
    provision::hosts(fleet).replace("\"cpu\":\"64\"", "\"cpu\":\"512\"")
}

fn name(number: usize) -> String {
    format!("dense-{number:04}")
}

/// Each tells its own name as its version.
fn instances(count: usize, power: &str) -> String {
    provision::manifest((0..count).map(|number| {
        json!({
            "apiVersion": "portreeve.dev/v1", "kind": "Instance", "metadata": {"name": name(number)},
            "spec": {
                "image": "portreeve/app:1", "imagePullPolicy": "IfNotPresent", "power": power,
                "env": [{"name": "APP_VERSION", "value": name(number)}],
                "ports": [{"name": "http", "containerPort": 8080}],
                "resources": {"memory": "16Mi", "cpu": "500m"},
                "probes": {"startup": {"http": {"port": "http", "path": "/health"}, "timeout": "120s"}},
            },
        })
    }))
}

/// The moment at which it answered under its own name.
fn visit(proxy: SocketAddr, number: usize, limit: Duration) -> Result<Instant> {
    let (start, name) = (clock::now(), name(number));
    let host = format!("{name}.{DOMAIN}:{}", proxy.port());
    loop {
        let said = match (Request { host: &host, ..Request::get("/") }).over_tcp(proxy) {
            Ok(answer) if answer.status == 200 => {
                let text = answer.text();
                ensure!(text.contains(&format!("version: {name}\n")), "{name} is answered by another: {text}");
                return Ok(clock::now());
            }
            Ok(answer) => format!("{}: {}", answer.status, answer.text()),
            Err(error) => format!("{error:#}"),
        };
        if sys::interrupted() {
            bail!("interrupted");
        }
        if start.elapsed() > limit {
            bail!("{name} does not answer: {said}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// When each answered. All are visited at once; the proxy holds who waits.
fn visit_all(proxy: SocketAddr, count: usize) -> Result<Vec<Instant>> {
    thread::scope(|scope| {
        let visits: Vec<_> =
            (0..count).map(|number| scope.spawn(move || visit(proxy, number, patience(count)))).collect();
        let answered = visits.into_iter().map(|v| v.join().map_err(|_| anyhow::anyhow!("a visitor panicked"))?);
        answered.collect()
    })
}

fn all_ready(server: &Server, count: usize) -> Result<()> {
    clock::wait_unless_interrupted("all Ready", PATIENCE, || {
        let seen = server.instances().map_err(|e| format!("{e:#}"))?;
        let ready = seen.iter().filter(|i| i.ready && i.phase == "Running").count();
        if ready == count { Ok(()) } else { Err(format!("{ready} of {count}")) }
    })
}

/// Each has one network, with the subnet that its status tells, and none shares it.
fn distinct_networks(server: &Server, host: &Host, count: usize) -> Result<()> {
    let list: Value = serde_json::from_str(&server.cli(&["get", "instances", "-o", "json"])?)?;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let told: BTreeSet<(String, String)> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|i| (format!("pr.default.{}", text(&i["metadata"]["name"])), text(&i["status"]["subnet"])))
        .collect();
    let networks = engine::of(host).docker.call("GET", "/v1.41/networks", None)?;
    let ours = networks.as_array().into_iter().flatten().filter(|n| text(&n["Name"]).starts_with("pr."));
    let there: BTreeSet<(String, String)> =
        ours.map(|n| (text(&n["Name"]), text(&n["IPAM"]["Config"][0]["Subnet"]))).collect();
    ensure!(
        told == there,
        "the daemon's networks are not those of the instances: {:#?}",
        told.symmetric_difference(&there).collect::<Vec<_>>()
    );
    let subnets: BTreeSet<&String> = there.iter().map(|(_, subnet)| subnet).collect();
    ensure!(subnets.len() == count, "{} subnets for {count} instances", subnets.len());
    Ok(())
}

/// Of the control plane, dockerd and containerd, in KiB.
fn resident_of(server: &Server, host: &Host) -> Result<[u64; 3]> {
    let pids = host.find_pids();
    let ours = server.identity().context("the server has ended")?.pid;
    let of = |pid: Option<i32>| resident(pid.context("the daemon has ended")?);
    Ok([resident(ours)?, of(pids.dockerd)?, of(pids.containerd)?])
}
