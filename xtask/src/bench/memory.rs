//! `cargo xtask bench memory`: what `portreeve serve` keeps resident with few and with many instances.
//!
//! There is no daemon: the instances are stored, listed in the cache and reconciled (power Stopped), and nothing runs.
//! Each number is read twice: after the instances were created, and in a new process that found them in the store. The
//! second holds no leftovers of the work of creating them.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::Bench;
use crate::clock;
use crate::demo::server::Server;

const FEW: usize = 2;
const MANY: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(180);
/// Readings this far apart that hardly differ: the process has come to rest.
const REST: Duration = Duration::from_secs(2);

/// Resident memory in KiB, as the kernel counts it.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    instances: usize,
    created: u64,
    restarted: u64,
}

pub fn measure(bench: &mut Bench) -> Result<Value> {
    let out = bench.out;
    let binary = fs::metadata(&bench.program).context("reading the size of the binary")?.len();
    let few = sample(bench, 0, FEW)?;
    let many = sample(bench, FEW, MANY)?;
    let each = |few: u64, many: u64| many.saturating_sub(few) * 1024 / (MANY - FEW) as u64;
    let (created, restarted) = (each(few.created, many.created), each(few.restarted, many.restarted));
    out.line("resident memory of portreeve serve (VmRSS)\n");
    out.line("   instances     created   restarted");
    for sample in [few, many] {
        let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
        out.line(&format!("{:>12}{:>12}{:>12}", sample.instances, mib(sample.created), mib(sample.restarted)));
    }
    out.line(&format!("{:>12}{:>12}{:>12}", "each", format!("{created} B"), format!("{restarted} B")));
    out.line(&format!("\nbinary: {:.1} MiB", binary as f64 / f64::from(1 << 20)));
    Ok(json!({
        "unit": "KiB", "samples": [few, many], "binaryBytes": binary,
        "bytesPerInstance": { "created": created, "restarted": restarted },
    }))
}

/// Creates the instances from `from` up to `to`; the server is left stopped.
fn sample(bench: &mut Bench, from: usize, to: usize) -> Result<Sample> {
    let file = bench.place.dir.join("instances.yaml");
    fs::write(&file, manifest(from, to))?;
    let server = bench.serve(None)?;
    server.cli(&["apply", "-f", file.to_str().context("the manifest's path is not UTF-8")?])?;
    let created = resting(server, to)?;
    bench.stop()?;
    let restarted = resting(bench.serve(None)?, to)?;
    bench.stop()?;
    Ok(Sample { instances: to, created, restarted })
}

/// As much as a usual instance says.
fn manifest(from: usize, to: usize) -> String {
    let mut text = String::new();
    for number in from..to {
        let _ = write!(
            text,
            "\
---
apiVersion: portreeve.dev/v1
kind: Instance
metadata:
  name: user-{number:04}
  labels: {{tier: free}}
spec:
  owner: user-{number:04}
  power: Stopped
  image: registry.example/desk:1.2.3
  env:
    - {{name: DESK_USER, value: user-{number:04}}}
  ports:
    - {{name: http, containerPort: 8080}}
  volumes:
    - {{name: home, mountPath: /home/app}}
  resources: {{memory: 256Mi, cpu: 500m}}
  probes:
    startup:
      http: {{port: http, path: /health}}
      timeout: 60s
  idle: {{after: 30m}}
"
        );
    }
    text
}

/// Resident KiB once every instance has been reconciled and the process is at rest.
fn resting(server: &mut Server, count: usize) -> Result<u64> {
    clock::wait_unless_interrupted("the instances being reconciled", PATIENCE, || {
        let seen = server.instances().map_err(|e| format!("{e:#}"))?;
        let done = seen.iter().filter(|i| !i.phase.is_empty()).count();
        if done == count { Ok(()) } else { Err(format!("{done} of {count}")) }
    })?;
    let pid = server.identity().context("the server has ended")?.pid;
    let mut before = (clock::now(), resident(pid)?);
    clock::wait_unless_interrupted("the server coming to rest", PATIENCE, || {
        if before.0.elapsed() < REST {
            return Err("not yet".into());
        }
        let now = resident(pid).map_err(|e| format!("{e:#}"))?;
        let change = now.abs_diff(before.1);
        before = (clock::now(), now);
        // 1 %: timers and the listing above still breathe
        if change * 100 <= now { Ok(now) } else { Err(format!("it still changed by {change} KiB")) }
    })
}

pub fn resident(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("reading the server's memory")?;
    parse(&text).context("the kernel does not say how much is resident")
}

fn parse(status: &str) -> Option<u64> {
    status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_kernels_lines() {
        assert_eq!(parse("Name:\tx\nVmHWM:\t  99 kB\nVmRSS:\t   14236 kB\nRssAnon:\t1 kB\n"), Some(14_236));
        assert_eq!(parse("Name:\tx\n"), None);
    }

    #[test]
    fn the_manifest_holds_each_instance_once() {
        let text = manifest(2, 5);
        assert_eq!(text.matches("kind: Instance").count(), 3);
        assert!(text.contains("name: user-0002\n") && !text.contains("user-0005"));
    }
}
