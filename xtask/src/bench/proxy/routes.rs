//! What a request costs beside many routes: the same requests through a server that knows few and one that knows many, and
//! through two of nginx with as many server names.
//!
//! ```text
//! visitors ─► few: 100 instances that run, of ten hosts each: these are asked for  ─┐
//!         └─► many: the same, among 9,900 that are stopped, of ten hosts each     ─┴─► load upstream, a port for each that runs
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::own::{self, Own};
use super::peers::{Peer, Root, Site};
use super::report::{self, Ratio};
use super::{CONNECTIONS, DOMAIN, SECONDS, Tools, Upstream, ask, certificate};
use crate::bench::api::load_average;
use crate::bench::{Out, memory};
use crate::{clock, sys};

/// Hosts of each instance.
const HOSTS: usize = 10;
/// Instances that run, of either server.
const RUNNING: usize = 100;
/// All instances of the server with many routes.
const INSTANCES: usize = 10_000;
/// For which nobody asks.
const REST: Duration = Duration::from_secs(10);
/// Routes of the two.
const NAMES: [&str; 2] = ["1000", "100000"];
/// What is asked, of whom, and how it is answered.
const PARTS: [&str; 3] = ["routes", "unknown hosts", "nginx"];

/// The two that are compared.
struct Kind {
    own: Own,
    nginx: Peer,
    resident_kib: u64,
}

pub fn measure(out: Out, tools: &Tools, cycles: usize) -> Result<Value> {
    let root = Root::fetch(&tools.dir)?;
    let upstream = Upstream::start(&tools.load, RUNNING)?;
    let few = Kind::start(tools, &root, &upstream, "few", RUNNING)?;
    let many = Kind::start(tools, &root, &upstream, "many", INSTANCES)?;
    let each = |few: u64, many: u64| many.saturating_sub(few) * 1024 / ((INSTANCES - RUNNING) * HOSTS) as u64;
    let ours = each(few.resident_kib, many.resident_kib);
    let theirs = each(memory::resident(few.nginx.pid())?, memory::resident(many.nginx.pid())?);
    let before = load_average();
    out.line(&format!("{}; load {before}\n", few.nginx.version));
    let mib = |kib: u64| kib as f64 / 1024.0;
    out.line(&format!(
        "resident, MiB: {:.1} with {} routes, {:.1} with {}: {ours} bytes a route, {} an instance of {HOSTS}; nginx: \
         {theirs} a name\n",
        mib(few.resident_kib),
        NAMES[0],
        mib(many.resident_kib),
        NAMES[1],
        ours * HOSTS as u64,
    ));
    let kinds = [few, many];
    let rest = [kinds[0].at_rest()?, kinds[1].at_rest()?];
    out.line(&format!("CPU of the server while nobody asks, ms a second: {:.1}, {:.1}\n", rest[0], rest[1]));
    let mut rounds = vec![];
    for cycle in 0..cycles {
        let mut round = json!({"cycle": cycle, "load": load_average()});
        for part in PARTS {
            for at in 0..kinds.len() {
                let at = (at + cycle) % kinds.len();
                let told = kinds[at].ask(tools, part).with_context(|| format!("{part} of {}", NAMES[at]))?;
                round[part][NAMES[at]] = told;
                if sys::interrupted() {
                    bail!("interrupted");
                }
            }
        }
        rounds.push(round);
        eprint!(".");
    }
    eprintln!();
    let parts = report::say(out, &PARTS, &NAMES, Ratio::EachByFirst, &rounds)?;
    Ok(json!({
        "parts": parts, "rounds": rounds, "restMsPerSecond": rest, "loadBefore": before, "loadAfter": load_average(),
        "residentKiB": kinds.map(|kind| kind.resident_kib), "bytesPerRoute": ours, "nginxBytesPerName": theirs,
    }))
}

impl Kind {
    fn start(tools: &Tools, root: &Root, upstream: &Upstream, name: &str, instances: usize) -> Result<Kind> {
        let own = Own::start(tools, name)?;
        let objects: Vec<Value> = names(instances).map(|number| object(number, upstream)).collect();
        let look = own.create(&tools.load, &objects, RUNNING as u64)?;
        let hosts: Vec<String> = names(instances).flat_map(hosts).collect();
        let (certificate, key) = certificate(&own.dir, DOMAIN)?;
        let hosts = hosts.join(" ");
        let site =
            Site { dir: &own.dir, upstream: upstream.apps[0], host: &hosts, certificate: &certificate, key: &key };
        let nginx = Peer::nginx(root, &site)?;
        Ok(Kind { own, nginx, resident_kib: look.resident_kib })
    }

    /// Milliseconds of CPU a second that are none of any request.
    fn at_rest(&self) -> Result<f64> {
        let (begin, before) = (clock::now(), sys::cpu_micros(self.own.pid)?);
        clock::wait_unless_interrupted("nobody asking", REST * 2, || {
            if begin.elapsed() >= REST { Ok(()) } else { Err("not yet".into()) }
        })?;
        Ok((sys::cpu_micros(self.own.pid)? - before) as f64 / 1000.0 / begin.elapsed().as_secs_f64())
    }

    fn ask(&self, tools: &Tools, part: &str) -> Result<Value> {
        let unknown = part == "unknown hosts";
        let hosts: Vec<String> = match unknown {
            true => (0..RUNNING * HOSTS).map(|number| format!("u{number}.elsewhere.test")).collect(),
            false => names(RUNNING).flat_map(hosts).collect(),
        };
        let (address, pid) = match part {
            "nginx" => (self.nginx.http, self.nginx.pid()),
            _ => (self.own.server.proxy, self.own.pid),
        };
        let (status, bytes) = if unknown { (404, None) } else { (200, Some(1 << 10)) };
        let closed =
            json!({"path": "/1k", "bytes": bytes, "status": status, "connections": CONNECTIONS, "seconds": SECONDS});
        let job = json!({"address": address, "host": DOMAIN, "hosts": hosts, "pid": pid, "what": {"closed": closed}});
        ask(&tools.load, &job)
    }
}

/// The numbers of the instances: those that run are spread among the others, and are the same of both servers.
fn names(instances: usize) -> impl Iterator<Item = usize> {
    let apart = INSTANCES / RUNNING;
    (0..INSTANCES).filter(move |number| instances == INSTANCES || number % apart == 0)
}

fn hosts(number: usize) -> impl Iterator<Item = String> {
    (0..HOSTS).map(move |host| match host {
        0 => format!("user-{number:05}.{DOMAIN}"),
        host => format!("www{host}.user-{number:05}.custom.test"),
    })
}

fn object(number: usize, upstream: &Upstream) -> Value {
    let apart = INSTANCES / RUNNING;
    let app: Option<SocketAddr> = number.is_multiple_of(apart).then(|| upstream.apps[number / apart]);
    let routes: Vec<Value> = hosts(number).map(|host| json!({"host": host})).collect();
    own::instance(&format!("user-{number:05}"), app, &routes.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_routes_are_as_many_as_is_said_and_those_asked_for_are_of_both() {
        let of = |instances| names(instances).flat_map(hosts).collect::<BTreeSet<_>>();
        let (few, many) = (of(RUNNING), of(INSTANCES));
        assert_eq!([few.len().to_string(), many.len().to_string()], NAMES);
        assert!(few.is_subset(&many));
    }
}
