//! `cargo xtask bench proxy`: what a request through the proxy costs, beside nginx, HAProxy and Caddy on the same app.
//!
//! ```text
//!                            ┌─► portreeve serve ─┐     one instance, on a host with a simulated daemon
//! load (visitors, h2load) ───┼─► nginx            ├──► load upstream
//!                            ├─► haproxy          │
//!                            └─► caddy ───────────┘
//! ```
//!
//! One is measured at a time, while the others rest. Each cycle measures all of them in turn; the ratios compare those of a cycle.
//! Two parts compare the proxy with itself: [`routes`], with few and with many of them, and [`access`], with each mode of it.

mod access;
mod own;
mod peers;
mod report;
mod routes;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::api::load_average;
use super::fleet::sim::Sim;
use super::{Bench, Out};
use crate::{build, process, sys};
use peers::{Peer, Root, Site};
use report::Ratio;

const IMAGE: &str = "portreeve/app:1";
const DOMAIN: &str = "bench.test";
const INSTANCE: &str = "alice";
/// Where the app is: the address of the one simulated host.
const APP: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Of one measure.
const SECONDS: u64 = 2;
const PATIENCE: Duration = Duration::from_secs(120);
/// Of the requests that are made as fast as they are answered.
const CONNECTIONS: usize = 32;
/// Two for each WebSocket through one process, of the 20,000 that a machine like ours gives to it.
const DESCRIPTORS: u64 = 20_000;
const SOCKETS: usize = 9_000;
const RATE: u32 = 2_000;

pub struct Options {
    pub cycles: usize,
    /// One of [`PARTS`]; all without.
    pub only: Option<String>,
    pub load: Option<PathBuf>,
    pub sim: Option<PathBuf>,
}

pub const PARTS: [&str; 11] = [
    "http-1k",
    "http-1m",
    "https-1k",
    "https-1m",
    "paced-1k",
    "paced-https-1k",
    "websocket",
    "h2-1k",
    "idle",
    ACCESS,
    ROUTES,
];
/// These two with servers of their own.
const ACCESS: &str = "jwt-1k";
const ROUTES: &str = "routes";

/// A proxy as the measures see it.
struct Entry {
    name: &'static str,
    pid: i32,
    http: SocketAddr,
    https: SocketAddr,
}

/// Who asks, and what all share.
struct Visitors<'a> {
    load: &'a Path,
    root: &'a Root,
    host: String,
    certificate: PathBuf,
}

impl Options {
    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}

/// The programs that a measure runs, and where it may write.
struct Tools {
    dir: PathBuf,
    portreeve: PathBuf,
    load: PathBuf,
    sim: PathBuf,
}

pub fn measure(bench: &mut Bench, options: &Options) -> Result<Value> {
    sys::raise_descriptors(DESCRIPTORS)?;
    let (sim, load) = programs(options)?;
    let tools = Tools { dir: bench.place.dir.clone(), portreeve: bench.program.clone(), load, sim };
    let mut result = json!({});
    if PARTS.iter().any(|part| ![ACCESS, ROUTES].contains(part) && options.wants(part)) {
        result = beside(bench, options, &tools)?;
    }
    if options.wants(ACCESS) {
        result[ACCESS] = access::measure(bench.out, &tools, options.cycles)?;
    }
    if options.wants(ROUTES) {
        result[ROUTES] = routes::measure(bench.out, &tools, options.cycles)?;
    }
    Ok(result)
}

/// The parts that all proxies have.
fn beside(bench: &mut Bench, options: &Options, tools: &Tools) -> Result<Value> {
    let (out, dir, load) = (bench.out, &tools.dir, &tools.load);
    let root = Root::fetch(dir)?;
    let upstream = Upstream::start(load, 1)?;
    let host = format!("{INSTANCE}.{DOMAIN}");
    let (certificate, key) = certificate(dir, &host)?;
    let site = Site { dir, upstream: upstream.apps[0], host: &host, certificate: &certificate, key: &key };
    let peers = Peer::all(&root, &site)?;

    let sockets = dir.join("hosts");
    fs::create_dir_all(&sockets)?;
    let sim = Sim::start(&tools.sim, &sockets, 1, IMAGE, false, false)?;
    let https = peers::free_address()?;
    let certificates = certificate.parent().context("the certificate's directory")?.display().to_string();
    let more = ["--proxy-tls-listen".to_owned(), https.to_string(), "--proxy-certs".to_owned(), certificates];
    let server = bench.serve_with(None, DOMAIN, &more)?;
    own::apply(server, &sim, dir, &[own::instance(INSTANCE, Some(upstream.apps[0]), &json!([]))])?;
    let pid = server.identity().context("the server has ended")?.pid;
    let mut entries = vec![Entry { name: "portreeve", pid, http: server.proxy, https }];
    entries.extend(peers.iter().map(|p| Entry { name: p.name, pid: p.pid(), http: p.http, https: p.https }));

    let versions: Vec<&str> = peers.iter().map(|p| p.version.as_str()).collect();
    let machine = format!("{} processors; {}", std::thread::available_parallelism()?, versions.join(", "));
    let before = load_average();
    out.line(&format!("{machine}; load {before}\n"));
    let visitors = Visitors { load, root: &root, host: host.clone(), certificate: certificate.clone() };
    let mut result = json!({"machine": machine, "loadBefore": before});
    // First, while all are as they begin.
    if options.wants("idle") {
        result["idle"] = idle(out, &visitors, &entries)?;
    }
    let others = ["idle", ACCESS, ROUTES];
    let parts: Vec<&str> = PARTS.into_iter().filter(|p| !others.contains(p) && options.wants(p)).collect();
    let mut rounds = vec![];
    for cycle in 0..options.cycles {
        if parts.is_empty() {
            break;
        }
        let mut round = json!({"cycle": cycle, "load": load_average()});
        for part in &parts {
            // Who is first is so in turn.
            for at in 0..entries.len() {
                let entry = &entries[(at + cycle) % entries.len()];
                round[part][entry.name] =
                    visitors.measure(part, entry).with_context(|| format!("{part} of {}", entry.name))?;
                if sys::interrupted() {
                    bail!("interrupted");
                }
            }
            eprint!(".");
        }
        rounds.push(round);
    }
    eprintln!();
    let names: Vec<&str> = entries.iter().map(|e| e.name).collect();
    result["parts"] = report::say(out, &parts, &names, Ratio::FirstByEach, &rounds)?;
    result["rounds"] = rounds.into();
    result["loadAfter"] = load_average().into();
    bench.stop()?;
    Ok(result)
}

impl Visitors<'_> {
    fn measure(&self, part: &str, entry: &Entry) -> Result<Value> {
        let closed = |path: &str, bytes: usize, connections: usize| json!({"closed": {"path": path, "bytes": bytes, "connections": connections, "seconds": SECONDS}});
        let paced =
            json!({"paced": {"path": "/1k", "bytes": 1 << 10, "connections": 64, "seconds": SECONDS, "rate": RATE}});
        match part {
            "http-1k" => self.ask(entry, false, &closed("/1k", 1 << 10, CONNECTIONS)),
            "http-1m" => self.ask(entry, false, &closed("/1m", 1 << 20, 8)),
            "https-1k" => self.ask(entry, true, &closed("/1k", 1 << 10, CONNECTIONS)),
            "https-1m" => self.ask(entry, true, &closed("/1m", 1 << 20, 8)),
            "paced-1k" => self.ask(entry, false, &paced),
            "paced-https-1k" => self.ask(entry, true, &paced),
            "websocket" => {
                self.ask(entry, false, &json!({"echo": {"connections": 64, "bytes": 64, "seconds": SECONDS}}))
            }
            "h2-1k" => self.h2load(entry),
            other => bail!("{other}: no such part"),
        }
    }

    fn ask(&self, entry: &Entry, tls: bool, what: &Value) -> Result<Value> {
        let address = if tls { entry.https } else { entry.http };
        let ca = tls.then_some(&self.certificate);
        let job = json!({"address": address, "host": self.host, "ca": ca, "pid": entry.pid, "what": what});
        ask(self.load, &job)
    }

    /// HTTP/2: four connections of sixteen requests at a time, by the tool that nginx's and HAProxy's own people use.
    fn h2load(&self, entry: &Entry) -> Result<Value> {
        let before = tree_cpu(entry.pid)?;
        let mut command = self.root.command("bin/h2load");
        command.args(["-t", "1", "-c", "4", "-m", "16", "-D", &SECONDS.to_string()]);
        command.arg("--tls13-ciphers=TLS_AES_128_GCM_SHA256").arg("--groups=X25519");
        command.arg(format!("--connect-to={}", entry.https));
        command.arg(format!("https://{}:{}/1k", self.host, entry.https.port()));
        let text = process::output(&mut command)?;
        let cpu = tree_cpu(entry.pid)? - before;
        report::h2load(&text, cpu).with_context(|| format!("h2load said {text}"))
    }
}

/// One measure by the load generator.
fn ask(load: &Path, job: &Value) -> Result<Value> {
    let mut command = Command::new(load);
    command.args(["proxy", &job.to_string()]).stdin(Stdio::null()).stderr(Stdio::inherit());
    sys::end_with_parent(&mut command);
    serde_json::from_str(&process::output(&mut command)?).context("reading what the load generator told")
}

/// What idle WebSockets take. Afterwards they are gone, but not all of what they took.
fn idle(out: Out, visitors: &Visitors, entries: &[Entry]) -> Result<Value> {
    let mut told = json!({"sockets": SOCKETS});
    out.line(&format!("{SOCKETS} idle WebSockets         idle, MiB    with them, MiB    bytes each"));
    for entry in entries {
        let one = visitors.ask(entry, false, &json!({"idle": {"connections": SOCKETS}}));
        let one = one.with_context(|| format!("WebSockets through {}", entry.name))?;
        let number = |name: &str| one[name].as_f64().unwrap_or_default();
        out.line(&format!(
            "{:<24}{:>15.1}{:>18.1}{:>14.0}",
            entry.name,
            number("before_kib") / 1024.0,
            number("after_kib") / 1024.0,
            number("bytes_each")
        ));
        told[entry.name] = one;
    }
    out.line("");
    Ok(told)
}

fn tree_cpu(pid: i32) -> Result<u64> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    children.chain([pid]).map(sys::cpu_micros).sum()
}

fn programs(options: &Options) -> Result<(PathBuf, PathBuf)> {
    if let (Some(sim), Some(load)) = (&options.sim, &options.load) {
        return Ok((sim.clone(), load.clone()));
    }
    // With the server, whose dependencies are its own: by themselves they would have them built anew with fewer features.
    let words = "build --release --package portreeve --package portreeve-load --package portreeve-sim --bins";
    process::show(build::cargo().args(words.split(' '))).context("building the load generator")?;
    let dir = build::target_dir()?.join("release");
    Ok((dir.join("portreeve-sim"), dir.join("portreeve-load")))
}

/// A certificate for the host, and its key, in a directory of their own.
fn certificate(dir: &Path, host: &str) -> Result<(PathBuf, PathBuf)> {
    let dir = dir.join("certs");
    fs::create_dir_all(&dir)?;
    let (certificate, key) = (dir.join("bench.crt"), dir.join("bench.key"));
    let mut command = process::command("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "30",
    ]);
    command.args(["-subj", &format!("/CN={host}"), "-addext", &format!("subjectAltName=DNS:{host}")]);
    command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    command.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    process::output(&mut command).context("making a certificate")?;
    Ok((certificate, key))
}

struct Upstream {
    _child: Helper,
    apps: Vec<SocketAddr>,
}

impl Upstream {
    /// So many apps, each with a port of its own.
    fn start(load: &Path, apps: usize) -> Result<Upstream> {
        let (child, line) = Helper::start(load, &["upstream", &APP.to_string(), &apps.to_string()])?;
        let ports = line.split_whitespace().map(str::parse::<u16>);
        let ports = ports.collect::<Result<Vec<_>, _>>().context("the app did not start")?;
        Ok(Upstream { _child: child, apps: ports.into_iter().map(|port| (APP, port).into()).collect() })
    }
}

/// The load generator in another part: it serves until it is killed, and keeps nothing.
struct Helper(Child);

impl Helper {
    /// With the line that it tells first.
    fn start(load: &Path, args: &[&str]) -> Result<(Helper, String)> {
        let mut command = Command::new(load);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        sys::end_with_parent(&mut command);
        let child = command.spawn().with_context(|| format!("running {}", load.display()))?;
        let mut helper = Helper(child);
        let mut line = String::new();
        BufReader::new(helper.0.stdout.take().context("no output")?).read_line(&mut line)?;
        Ok((helper, line))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
