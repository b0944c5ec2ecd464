//! `cargo xtask test`: every check and every test, in one go, leaving nothing behind.
//!
//! A step that fails does not keep the next from running: one run shows all that is wrong. The last line is
//! `N passed, N failed`, summed over all test programs; a failed step without a failed test counts as one.

mod hosts;
mod leaks;
mod step;
mod totals;

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::args::Args;
use crate::fleet::state::{self, Fleet};
use crate::fleet::{down, switch, up, volatile};
use crate::packages;
use crate::sys::{self, ProcessRef};
use crate::{build, clock};
use leaks::Leaks;
use totals::Totals;

/// One that tests share, one for faults, whose disk can be full, one that is spoken to as a remote one meanwhile, and
/// another for faults.
const HOSTS: &str = "4";
const DISK: &str = "h2=1G";
/// That the API must take without a 5xx and without an answer that its document does not allow. The script by itself
/// makes many more, which would be half of a warm run.
const GENERATED_REQUESTS: &str = "400";

/// Two thousand kubectls live for a tenth of a second each, a third of which is the collection of what they will never
/// fill the memory with. The Go runtime is asked to leave it, up to a bound.
const KUBECTL_ENV: [(&str, &str); 2] = [("GOGC", "off"), ("GOMEMLIMIT", "256MiB")];

/// They mostly wait, so that many run at once; with more, processes of kubectl would wait for seconds too.
const FLEET_TESTS: &str = "test --test fleet --no-fail-fast --";

pub fn run(mut args: Args) -> Result<ExitCode> {
    let fast = args.flag("--fast");
    args.finish()?;
    let program = build::this_program()?;
    let mut first = None;
    if !fast {
        if !sys::is_root() {
            bail!("the tests with real Docker daemons need root; cargo xtask test --fast leaves them out");
        }
        packages::ensure_daemon()?;
        packages::ensure_registry()?;
        packages::ensure_ssh()?;
        packages::ensure_acme()?;
        packages::ensure_browser()?;
        packages::ensure_python()?;
        first = Some(packages::ensure_kubectl()?);
    }
    sys::become_subreaper();
    leaks::clean_orphans()?;
    if sys::is_root() {
        down::clean_orphans()?;
    }
    let mut run = Run::new(program, first)?;
    run.checks();
    if !fast {
        run.cargo("documentation", "doc --no-deps", &[("RUSTDOCFLAGS", Path::new("-D warnings"))]);
        // The fleet's tests mostly wait, and their bounds are for a machine that has nothing else to do: what runs
        // beside them gets what they leave.
        run.beside(vec![clients(&build::target_dir()?)], Run::fleet);
    }
    run.finish()
}

struct Run {
    program: PathBuf,
    /// The fleet's name, and part of the directory's: no other run has the same.
    name: String,
    /// The run's directory.
    place: PathBuf,
    /// In it, for the tests' temporary files.
    temp: PathBuf,
    /// Where all that is needed is found. `None`: as on any machine, and what is not there is not shown.
    path: Option<OsString>,
    leaks: Leaks,
    totals: Totals,
    lines: Vec<String>,
    start: Instant,
}

/// A command as a step.
struct Job {
    name: &'static str,
    /// As it is shown.
    words: String,
    command: Command,
}

impl Job {
    fn cargo(name: &'static str, words: impl Into<String>, env: &[(&str, &Path)]) -> Job {
        let words = words.into();
        let mut command = build::cargo();
        command.args(words.split(' ')).envs(env.iter().copied());
        Job { name, words: format!("cargo {words}"), command }
    }
}

/// Clients that others wrote, from PyPI. They are installed once, as our own dependencies are built once.
fn clients(target: &Path) -> Job {
    let mut command = Command::new("nice");
    command.args(["-n", "19", "bash"]);
    command.arg(build::root().join("tests/clients/run.sh"));
    command.arg(target.join("debug/portreeve")).arg(GENERATED_REQUESTS).arg(target.join("clients"));
    Job { name: "clients of others", words: format!("tests/clients/run.sh ... {GENERATED_REQUESTS}"), command }
}

impl Run {
    /// `first`: a directory of programs that come before the machine's own.
    fn new(program: PathBuf, first: Option<PathBuf>) -> Result<Run> {
        let name = format!("test-{}", std::process::id());
        let place = std::env::temp_dir().join(format!("portreeve-{name}"));
        fs::create_dir_all(&place).with_context(|| format!("making {}", place.display()))?;
        if sys::is_root()
            && let Err(error) = volatile::mount(&place)
        {
            say!("the tests' files are on this machine's disk, which may slow them down: {error:#}");
        }
        let temp = place.join("tmp");
        fs::create_dir_all(&temp).with_context(|| format!("making {}", temp.display()))?;
        state::record(&place.join("owner"), &ProcessRef::this()?)?;
        let leaks = Leaks::new(&name, &temp);
        let others = std::env::var_os("PATH").unwrap_or_default();
        let places = |first| std::env::join_paths(std::iter::once(first).chain(std::env::split_paths(&others)));
        let path = first.map(places).transpose()?;
        let (totals, lines, start) = (Totals::default(), Vec::new(), clock::now());
        Ok(Run { program, name, place, temp, path, leaks, totals, lines, start })
    }

    fn checks(&mut self) {
        self.cargo("format", "fmt --all --check", &[]);
        self.cargo("lints", "clippy --workspace --all-targets -- -D warnings", &[]);
        // not among all targets: it is not run without daemons
        self.cargo("lints of the tests with real daemons", "clippy --test fleet -- -D warnings", &[]);
        // Two for each core: some of them wait for a disk or another process.
        let threads = 2 * thread::available_parallelism().map_or(1, usize::from);
        let words = format!("test --workspace --no-fail-fast -- --test-threads={threads}");
        self.cargo("tests", &words, &KUBECTL_ENV.map(|(name, value)| (name, Path::new(value))));
    }

    /// Does some work while other commands run; what they print comes after it.
    fn beside(&mut self, others: Vec<Job>, work: impl FnOnce(&mut Run)) {
        let start = |mut job: Job| {
            self.mark(&mut job.command);
            let (name, words, command) = (job.name, job.words, job.command);
            let thread = thread::spawn(move || {
                let start = clock::now();
                (step::run_quietly(command), start.elapsed())
            });
            (name, words, thread)
        };
        let begun: Vec<_> = others.into_iter().map(start).collect();
        work(self);
        for (name, words, thread) in begun {
            let before = self.totals.failed;
            say!("\n==> {name}: {words}");
            let Ok(((result, output), took)) = thread.join() else {
                self.note(name, false, before, Duration::ZERO);
                continue;
            };
            // whoever reads us may have gone; the run goes on
            let _ = std::io::stdout().write_all(&output);
            let ok = self.counted(result);
            self.note(name, ok, before, took);
        }
    }

    /// Brings the daemons up, runs the tests against them, takes them down.
    fn fleet(&mut self) {
        if sys::interrupted() {
            return;
        }
        let mut fleet = None;
        self.step("daemons up", |run| {
            let mut plan = up::Plan::new(&run.name, HOSTS, &[DISK.into()])?;
            plan.registry = true;
            plan.volatile = true;
            plan.owner = Some(ProcessRef::this()?);
            fleet = Some(up::up(&plan)?);
            Ok(())
        });
        if let Some(fleet) = fleet {
            self.leaks.link = Some(switch::link(&fleet));
            self.step("faults of hosts", |_| hosts::check(&fleet, fleet.host("h2")?));
            self.step("faults of the registry", |_| hosts::check_registry(&fleet));
            self.fleet_tests(&fleet);
            self.step("nothing left in the daemons", |_| leaks::in_daemons(&fleet));
        }
        self.step("daemons down", |run| down::down(&run.name));
    }

    fn fleet_tests(&mut self, fleet: &Fleet) {
        let (program, file) = (self.program.clone(), fleet.path());
        let registry = PathBuf::from(fleet.registry.clone().unwrap_or_default());
        let common: [(&str, &Path); 4] = [
            ("PORTREEVE_TEST_REGISTRY", &registry),
            ("PORTREEVE_TEST_IMAGE", Path::new("portreeve/app:1")),
            ("PORTREEVE_TEST_FLEET", &file),
            ("PORTREEVE_XTASK", &program),
        ];
        let first = &fleet.hosts[0];
        let mut env = common.to_vec();
        env.push(("PORTREEVE_TEST_DOCKER", Path::new(&first.endpoint)));
        env.push(("PORTREEVE_TEST_ADDRESS", Path::new(&first.address)));
        let words = format!("{FLEET_TESTS} --test-threads=12");
        let all = |run: &mut Run| run.cargo("tests with real daemons", &words, &env);

        // what speaks to a daemon, once more as to a remote one
        let Some(remote) = fleet.hosts.get(2) else { return };
        let mut env = common.to_vec();
        env.push(("PORTREEVE_TEST_DOCKER", Path::new(&remote.tcp)));
        env.push(("PORTREEVE_TEST_TLS", &fleet.certs));
        env.push(("PORTREEVE_TEST_ADDRESS", Path::new(&remote.address)));
        let again = Job::cargo("tests over mutual TLS", format!("{FLEET_TESTS} engine::"), &env);
        self.beside(vec![again], all);
    }

    /// One run of cargo, with its output shown and its tests counted.
    fn cargo(&mut self, name: &'static str, words: &str, env: &[(&str, &Path)]) {
        if sys::interrupted() {
            return;
        }
        let Job { name, words, mut command } = Job::cargo(name, words, env);
        self.mark(&mut command);
        say!("\n==> {name}: {words}");
        let before = self.totals.failed;
        let start = clock::now();
        let ok = self.counted(step::run(command));
        self.note(name, ok, before, start.elapsed());
    }

    /// What a command starts can be told by this from all else, and keeps its temporary files in the run's place.
    fn mark(&self, command: &mut Command) {
        command.env("TMPDIR", &self.temp).env(leaks::MARK, &self.name);
        if let Some(path) = &self.path {
            command.env("PATH", path).env("PORTREEVE_TEST_COMPLETE", "1");
        }
    }

    fn counted(&mut self, result: Result<(Totals, bool)>) -> bool {
        match result {
            Ok((totals, ok)) => {
                self.totals.add(&totals);
                ok
            }
            Err(error) => {
                eprintln!("error: {error:#}");
                false
            }
        }
    }

    /// A step of our own.
    fn step(&mut self, name: &str, work: impl FnOnce(&mut Run) -> Result<()>) {
        say!("\n==> {name}");
        let (before, start) = (self.totals.failed, clock::now());
        let result = work(self);
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        self.note(name, result.is_ok(), before, start.elapsed());
        // also where all are listed: what is far above may be cut off
        self.lines.extend(result.err().map(|error| format!("        {error:#}")));
    }

    fn note(&mut self, name: &str, ok: bool, failed_before: u64, took: Duration) {
        if !ok && self.totals.failed == failed_before {
            self.totals.failed += 1;
        }
        let (word, seconds) = (if ok { "ok" } else { "FAILED" }, took.as_secs_f64());
        say!("<== {name}: {word}, {seconds:.1} s");
        self.lines.push(format!("{word:<8}{seconds:>7.1} s  {name}"));
    }

    fn finish(mut self) -> Result<ExitCode> {
        if sys::interrupted()
            && let Err(e) = self.leaks.clear()
        {
            say!("clearing up after the interruption: {e:#}");
        }
        self.step("nothing left on this machine", |run| run.leaks.check());
        // its content has just been reported if there was any
        volatile::unmount(&self.place);
        let _ = fs::remove_dir_all(&self.place);
        say!("\n{}", self.lines.join("\n"));
        say!("in all {:.0} s; {} ignored", self.start.elapsed().as_secs_f64(), self.totals.ignored);
        if sys::interrupted() {
            say!("interrupted");
        }
        say!("{} passed, {} failed", self.totals.passed, self.totals.failed);
        let good = self.totals.failed == 0 && !sys::interrupted();
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
