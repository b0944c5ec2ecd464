//! `cargo xtask bench api`: durable creates, lists and watch fan-out over the API, beside etcd on the same disk.
//!
//! ```text
//! load (a program of its own, tests/load) ─┬─► portreeve serve   HTTP/1.1 over TLS, a token
//!                                          ├─► etcd              gRPC, plain
//!                                          └─► fdatasync, and bytes written to sockets: the limits
//! ```
//!
//! The load generator takes its measures in turns; here the ratios of neighbours are summed up.

mod etcd;
mod fsyncs;
mod report;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Bench;
use crate::{build, process, sys};
use etcd::Etcd;

/// Clients at a time.
const CLIENTS: [usize; 3] = [1, 16, 64];
/// Of one measure.
const SECONDS: u64 = 2;
const OBJECTS: u64 = 10_000;
const WATCHERS: usize = 1000;
/// Descriptors: a thousand watchers of each of three servers, and their other ends.
const DESCRIPTORS: u64 = 8192;

/// What to measure, and how often.
pub struct Options {
    pub cycles: usize,
    /// One of [`PARTS`]; all without.
    pub only: Option<String>,
    /// In place of the one that is found, or of Debian's.
    pub etcd: Option<PathBuf>,
}

pub const PARTS: [&str; 4] = ["creates", "lists", "watches", "fsyncs"];

/// The load generator, and whom it speaks to.
pub struct Load {
    pub program: PathBuf,
    pub job: Value,
}

impl Load {
    /// As [`Load::ask`], of what shows its progress in dots.
    fn run(&self, what: &Value) -> Result<Value> {
        let told = self.ask(what);
        eprintln!();
        told
    }

    pub fn ask(&self, what: &Value) -> Result<Value> {
        let mut job = self.job.clone();
        job["what"] = what.clone();
        let mut command = Command::new(&self.program);
        command.arg(job.to_string()).stdin(Stdio::null()).stderr(Stdio::inherit());
        sys::end_with_parent(&mut command);
        let text = command.output().with_context(|| format!("running {}", self.program.display()))?;
        if !text.status.success() {
            bail!("{}: {}", self.program.display(), text.status);
        }
        serde_json::from_slice(&text.stdout).context("reading what the load generator told")
    }
}

pub fn measure(bench: &mut Bench, options: &Options) -> Result<Value> {
    sys::raise_descriptors(DESCRIPTORS)?;
    let mut command = build::cargo();
    // With the server, whose dependencies are its own: by itself it would have them built anew with fewer features.
    process::show(command.args([
        "build",
        "--release",
        "--package",
        "portreeve",
        "--package",
        "portreeve-load",
        "--bins",
    ]))
    .context("building the load generator")?;
    let program = build::target_dir()?.join("release/portreeve-load");
    let etcd = Etcd::start(options.etcd.as_deref(), &bench.place.dir)?;
    let out = bench.out;
    let dir = bench.place.dir.clone();
    let server = bench.serve(None)?;
    let pid = server.identity().context("the server has ended")?.pid;
    let job = json!({
        "kubeconfig": server.kubeconfig, "portreeve_pid": pid, "etcd": etcd.address, "etcd_pid": etcd.pid(), "dir": dir,
    });
    let load = Load { program, job };
    let wanted = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    let cycles = options.cycles;
    let mut result = json!({"machine": machine(&etcd)?, "loadBefore": load_average()});
    out.line(&format!("{}; load {}\n", result["machine"].as_str().unwrap_or_default(), load_average()));
    // First, while the servers are as they begin: what a watcher takes of memory is told by a difference.
    if wanted("watches") {
        let told = load.run(&json!({"watches": {"watchers": WATCHERS, "cycles": cycles}}))?;
        result["watches"] = report::watches(out, &told)?;
    }
    if wanted("creates") {
        let told = load.run(&json!({"creates": {"clients": CLIENTS, "cycles": cycles, "seconds": SECONDS}}))?;
        result["creates"] = report::creates(out, &told, &CLIENTS)?;
    }
    if wanted("fsyncs") {
        result["fsyncs"] = fsyncs::count(out, &load, &[("portreeve", pid), ("etcd", etcd.pid())])?;
    }
    if wanted("lists") {
        let told = load.run(&json!({"lists": {"objects": OBJECTS, "cycles": cycles, "seconds": SECONDS}}))?;
        result["lists"] = report::lists(out, &told)?;
    }
    result["loadAfter"] = load_average().into();
    etcd.stop()?;
    Ok(result)
}

fn machine(etcd: &Etcd) -> Result<Value> {
    let kernel = process::output(Command::new("uname").arg("-r"))?;
    let processors = std::thread::available_parallelism()?;
    Ok(format!("{processors} processors, Linux {}, etcd {}", kernel.trim(), etcd.version).into())
}

/// Of the last minute.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}
