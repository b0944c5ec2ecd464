//! `cargo xtask bench fleet`: what a fleet at rest costs, and how long it takes to come up: the real control plane over
//! simulated Docker daemons (`tests/sim`), with recorded times, on sockets.
//!
//! ```text
//! load ──apply──► portreeve serve ──HTTP on unix sockets──► portreeve-sim: N daemons, calls counted
//!                                                             ▲
//! the baseline, afterwards: portreeve-sim poll, a list of each every 10 s
//! ```

pub mod sim;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Bench;
use super::api::{Load, load_average};
use crate::{build, clock, process, sys};
use sim::{Calls, Sim};

const IMAGE: &str = "portreeve/app:1";
/// Clients that create instances.
const CLIENTS: usize = 16;
/// Between two lists of one daemon by the baseline.
const POLL: Duration = Duration::from_secs(10);
/// All that is waited for, and for each instance more.
const PATIENCE: Duration = Duration::from_secs(300);
const PATIENCE_EACH: Duration = Duration::from_millis(150);
/// A container is looked at.
const LOOK: &str = "GET /containers/{}/json";
/// The most that the round of looks after a burst may take.
const ROUND: Duration = Duration::from_secs(3600);
/// The most that a machine like ours gives to one process.
const DESCRIPTORS: u64 = 20_000;

pub struct Options {
    pub hosts: usize,
    /// On each.
    pub instances: usize,
    /// For how long the fleet at rest is watched.
    pub watched: Duration,
    /// Whether to wait before until everybody was looked at once more.
    pub settle: bool,
    /// Times as recorded, else all at once.
    pub recorded: bool,
    /// In place of the release build of `portreeve-sim`, and of the load generator.
    pub sim: Option<PathBuf>,
    pub load: Option<PathBuf>,
}

/// What `/metrics` tells, and the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    at: std::time::Instant,
    pub running: u64,
    hosts_ready: u64,
    revision: u64,
    reconciles: u64,
    failures: u64,
    /// Microseconds.
    cpu: u64,
    pub resident_kib: u64,
}

pub fn measure(bench: &mut Bench, options: &Options) -> Result<Value> {
    let (hosts, each) = (options.hosts, options.instances);
    let count = hosts * each;
    sys::raise_descriptors(DESCRIPTORS)?;
    let (sim, load) = programs(options)?;
    let out = bench.out;
    let dir = bench.place.dir.clone();
    let sockets = dir.join("hosts");
    fs::create_dir_all(&sockets)?;
    // One listener for each instance, and connections: beyond, they have no ports and nobody asks whether they are up.
    let apps = (count as u64) < DESCRIPTORS * 3 / 4;
    let sim = Sim::start(&sim, &sockets, hosts, IMAGE, options.recorded, apps)?;
    let server = bench.serve(None)?;
    let pid = server.identity().context("the server has ended")?.pid;
    let job = json!({"kubeconfig": server.kubeconfig, "portreeve_pid": pid, "dir": dir});
    let load = Load { program: load, job };
    let machine = format!("{} processors, load {}", std::thread::available_parallelism()?, load_average());
    out.line(&format!("{hosts} hosts of {each} instances; {machine}\n"));

    fs::write(dir.join("hosts.jsonl"), docker_hosts(&sim)?)?;
    load.ask(&json!({"post": {"path": "/apis/portreeve.dev/v1/dockerhosts", "file": "hosts.jsonl", "clients": 4}}))?;
    until(&load, pid, PATIENCE, "the hosts", |look| (look.hosts_ready, hosts as u64))?;

    fs::write(dir.join("instances.jsonl"), instances(count, apps))?;
    let path = "/apis/portreeve.dev/v1/namespaces/default/instances";
    let begin = look(&load, pid)?;
    let posted = load.ask(&json!({"post": {"path": path, "file": "instances.jsonl", "clients": CLIENTS}}))?;
    let patience = PATIENCE + PATIENCE_EACH * u32::try_from(count)?;
    let up = until(&load, pid, patience, "the instances", |look| (look.running, count as u64))?;
    let came = sim.calls()?;
    settled(&load, pid, &sim)?;
    let rested = if options.settle { rested(&sim, count)? } else { Duration::ZERO };

    let (before, calls_before) = (look(&load, pid)?, sim.calls()?);
    clock::wait_unless_interrupted("watching", options.watched * 2, || {
        if before.at.elapsed() >= options.watched { Ok(()) } else { Err("not yet".into()) }
    })?;
    let (after, calls_after) = (look(&load, pid)?, sim.calls()?);
    bench.stop()?;
    let polled = sim.poll(POLL, options.watched.min(Duration::from_secs(60)))?;

    let rest = Rest { hosts, before, after, calls: calls_after.since(&calls_before), polled };
    let converged = (up.at - begin.at).as_secs_f64();
    let cpu = (up.cpu - begin.cpu) as f64 / count as f64;
    let posted = posted["seconds"].as_f64().unwrap_or_default();
    let rate = count as f64 / converged;
    out.line(&format!("created in {posted:.1} s; all up {converged:.1} s after the first: {rate:.1} a second"));
    let resident = up.resident_kib as f64 / 1024.0;
    out.line(&format!(
        "the control plane meanwhile: CPU {:.2} ms an instance; resident at the end of it {resident:.0} MiB",
        cpu / 1000.0
    ));
    out.line(&format!(
        "Docker calls meanwhile: {:.1} an instance\n{}",
        came.total() as f64 / count as f64,
        came.table(count as f64)
    ));
    if options.settle {
        out.line(&format!("all looked at once more {:.1} minutes after that", rested.as_secs_f64() / 60.0));
    }
    let told = rest.say(out);
    Ok(json!({
        "hosts": hosts, "instancesPerHost": each, "recordedTimes": options.recorded, "machine": machine,
        "converge": {"seconds": converged, "createdSeconds": posted, "cpuMicrosPerInstance": cpu,
            "residentMiB": resident, "calls": came.0},
        "atRest": told, "loadAfter": load_average(), "settledSeconds": rested.as_secs_f64(),
    }))
}

fn programs(options: &Options) -> Result<(PathBuf, PathBuf)> {
    if let (Some(sim), Some(load)) = (&options.sim, &options.load) {
        return Ok((sim.clone(), load.clone()));
    }
    // With the server, whose dependencies are its own: by themselves they would have them built anew with fewer features.
    let words = "build --release --package portreeve --package portreeve-load --package portreeve-sim --bins";
    process::show(build::cargo().args(words.split(' '))).context("building the simulated daemons")?;
    let dir = build::target_dir()?.join("release");
    let of = |given: &Option<PathBuf>, name: &str| given.clone().unwrap_or_else(|| dir.join(name));
    Ok((of(&options.sim, "portreeve-sim"), of(&options.load, "portreeve-load")))
}

/// One a line.
pub fn docker_hosts(sim: &Sim) -> Result<String> {
    let mut lines = String::new();
    for host in sim.hosts()? {
        let socket = host["socket"].as_str().context("a host without a socket")?;
        let object = json!({
            "apiVersion": "portreeve.dev/v1", "kind": "DockerHost", "metadata": {"name": host["name"]},
            "spec": {"endpoint": format!("unix://{socket}"), "address": host["address"], "capacity": {"cpu": "64"}},
        });
        writeln!(lines, "{object}")?;
    }
    Ok(lines)
}

fn instances(count: usize, ports: bool) -> String {
    let mut lines = String::new();
    for number in 0..count {
        let mut object = json!({
            "apiVersion": "portreeve.dev/v1", "kind": "Instance",
            "metadata": {"name": format!("user-{number:06}"), "labels": {"tier": "free"}},
            "spec": {
                "owner": format!("user-{number:06}"), "power": "Running", "image": IMAGE,
                "env": [{"name": "DESK_USER", "value": format!("user-{number:06}")}],
                "resources": {"memory": "32Mi", "cpu": "50m"},
            },
        });
        if ports {
            object["spec"]["ports"] = json!([{"name": "http", "containerPort": 8080}]);
        }
        let _ = writeln!(lines, "{object}");
    }
    lines
}

pub fn look(load: &Load, pid: i32) -> Result<Look> {
    let told = load.ask(&json!({"get": {"path": "/metrics"}}))?;
    let text = told["text"].as_str().context("no metrics")?;
    let (cpu, resident_kib) = (sys::cpu_micros(pid)?, super::memory::resident(pid)?);
    Look::read(text, cpu, resident_kib).context("the metrics are not as usual")
}

impl Look {
    fn read(text: &str, cpu: u64, resident_kib: u64) -> Option<Look> {
        let value = |line: &str| Some(line.rsplit_once(' ')?.1.parse::<f64>().ok()? as u64);
        let one = |name: &str| value(text.lines().find(|l| l.split([' ', '{']).next() == Some(name))?);
        let running = text.lines().find(|l| l.starts_with("portreeve_instances{phase=\"Running\"}"));
        Some(Look {
            at: clock::now(),
            running: value(running?)?,
            hosts_ready: text.lines().filter(|l| l.starts_with("portreeve_host_ready{")).filter_map(value).sum(),
            revision: one("portreeve_store_revision")?,
            reconciles: one("portreeve_reconciles_total")?,
            failures: one("portreeve_reconcile_failures_total")?,
            cpu,
            resident_kib,
        })
    }
}

/// Waits until what is looked at is as much as wanted.
pub fn until(load: &Load, pid: i32, limit: Duration, what: &str, seen: impl Fn(&Look) -> (u64, u64)) -> Result<Look> {
    clock::wait_unless_interrupted(what, limit, || {
        let look = match look(load, pid) {
            Ok(look) => look,
            Err(e) => return Err(format!("{e:#}")),
        };
        let (now, wanted) = seen(&look);
        // Asking is work for it as well.
        if now >= wanted {
            return Ok(look);
        }
        std::thread::sleep(Duration::from_millis(500));
        Err(format!("{now} of {wanted}"))
    })
}

/// Waits until nothing was written for a while, neither to the store nor to a daemon: two checks of every host.
pub fn settled(load: &Load, pid: i32, sim: &Sim) -> Result<()> {
    let mut last = (clock::now(), look(load, pid)?.revision, sim.calls()?.writes());
    clock::wait_unless_interrupted("the fleet coming to rest", PATIENCE, || {
        if last.0.elapsed() < Duration::from_secs(10) {
            return Err("not yet".into());
        }
        let now = look(load, pid).and_then(|look| Ok((clock::now(), look.revision, sim.calls()?.writes())));
        let now = now.map_err(|e| format!("{e:#}"))?;
        let same = (now.1, now.2) == (last.1, last.2);
        let change = format!("{} writes of the store, {} of the daemons", now.1 - last.1, now.2 - last.2);
        last = now;
        if same { Ok(()) } else { Err(change) }
    })
}

/// Waits until everybody was looked at once more after what happened, and nobody hurries any longer: a burst loses events,
/// so that round follows each by itself, a quarter of an hour later. The time that it took.
fn rested(sim: &Sim, count: usize) -> Result<Duration> {
    let begin = clock::now();
    // What is looked at right after the burst is no such round.
    calm(sim, count, 0)?;
    calm(sim, count, count)?;
    Ok(begin.elapsed())
}

/// Waits for so many looks, and then for a minute of few: a round takes ten minutes, and a fleet at rest is gone through
/// in hours.
fn calm(sim: &Sim, count: usize, wanted: usize) -> Result<()> {
    let looks = || sim.calls().map(|calls| calls.of(LOOK)).map_err(|e| format!("{e:#}"));
    let first = sim.calls()?.of(LOOK);
    let mut minute = (clock::now(), first);
    clock::wait_unless_interrupted("everybody looked at once more", ROUND, || {
        if minute.0.elapsed() < Duration::from_secs(60) {
            return Err("not yet".into());
        }
        let now = looks()?;
        let (all, late) = (now - first, now - minute.1);
        if all >= wanted as u64 && late < count.div_ceil(100) as u64 {
            return Ok(());
        }
        minute = (clock::now(), now);
        Err(format!("{all} of {wanted} looked at, {late} of them in the last minute"))
    })
}

/// A fleet at rest, and the baseline of the same run.
struct Rest {
    hosts: usize,
    before: Look,
    after: Look,
    calls: Calls,
    polled: Value,
}

impl Rest {
    fn say(&self, out: super::Out) -> Value {
        let (before, after) = (&self.before, &self.after);
        let minutes = (after.at - before.at).as_secs_f64() / 60.0;
        let polls = self.polled["callsPerMinute"].as_f64().unwrap_or_default();
        let polling = self.polled["cpuShare"].as_f64().unwrap_or_default();
        let calls = self.calls.total() as f64 / minutes;
        let share = (after.cpu - before.cpu) as f64 / 6e7 / minutes;
        let (stored, written) = (after.revision - before.revision, self.calls.writes());
        let reconciles = (after.reconciles - before.reconciles) as f64 / minutes;
        let failures = after.failures - before.failures;
        let resident = after.resident_kib as f64 / 1024.0;
        out.line(&format!("at rest, {minutes:.1} minutes            portreeve    list polling    ratio"));
        // The kernel counts CPU in hundredths of a second: of a small fleet's baseline there may be none.
        let by = |a: f64, b: f64| if b > 0.0 { format!("{:.2}", a / b) } else { "-".to_owned() };
        out.line(&format!("Docker calls a minute          {calls:>12.0}{polls:>16.0}{:>9}", by(calls, polls)));
        out.line(&format!(
            "CPU, % of a core               {:>12.2}{:>16.2}{:>9}",
            share * 100.0,
            polling * 100.0,
            by(share, polling)
        ));
        out.line(&format!(
            "calls a minute and host        {:>12.1}{:>16.1}",
            calls / self.hosts as f64,
            polls / self.hosts as f64
        ));
        out.line(&format!("resident, MiB                  {resident:>12.1}"));
        out.line(&format!("reconciles a minute            {reconciles:>12.0}"));
        out.line(&format!("failures                       {failures:>12}"));
        out.line(&format!("writes of the store            {stored:>12}"));
        out.line(&format!("writes of the daemons          {written:>12}\n"));
        out.line(&format!("calls a minute by path\n{}", self.calls.table(minutes)));
        json!({
            "minutes": minutes, "callsPerMinute": calls, "cpuShare": share, "residentMiB": resident,
            "reconcilesPerMinute": reconciles, "failures": failures, "storeWrites": stored, "dockerWrites": written,
            "calls": self.calls.0, "polling": self.polled,
            "ratios": {"calls": calls / polls, "cpu": share / polling},
        })
    }
}

/// A number of an option, within bounds.
pub fn number(name: &str, given: Option<String>, default: usize, most: usize) -> Result<usize> {
    let Some(text) = given else { return Ok(default) };
    match text.parse() {
        Ok(n) if (1..=most).contains(&n) => Ok(n),
        _ => bail!("{name} {text}: a number from 1 to {most}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_at_is_read_from_the_metrics() {
        let text = "# TYPE portreeve_instances gauge\nportreeve_instances{phase=\"Pending\"} 1.0\n\
                    portreeve_instances{phase=\"Running\"} 42.0\nportreeve_host_ready{host=\"a\"} 1.0\n\
                    portreeve_host_ready{host=\"b\"} 0.0\nportreeve_host_ready{host=\"c\"} 1.0\nportreeve_reconciles_total 7\n\
                    portreeve_reconcile_failures_total 2\nportreeve_store_revision 99.0\n# EOF\n";
        let look = Look::read(text, 5, 6).unwrap();
        assert_eq!((look.running, look.hosts_ready, look.revision), (42, 2, 99));
        assert_eq!((look.reconciles, look.failures, look.cpu, look.resident_kib), (7, 2, 5, 6));
        assert!(Look::read("", 5, 6).is_none());
    }

    #[test]
    fn numbers_out_of_bounds_are_refused() {
        assert_eq!(number("--hosts", None, 100, 1000).unwrap(), 100);
        assert_eq!(number("--hosts", Some("7".into()), 100, 1000).unwrap(), 7);
        for bad in ["0", "1001", "x"] {
            assert!(number("--hosts", Some(bad.into()), 100, 1000).is_err(), "{bad}");
        }
    }
}
