//! `cargo xtask test`: every check and every test, in one go, leaving nothing behind.
//!
//! A step that fails does not keep the next from running: one run shows all that is wrong. The last line is
//! `N passed, N failed`, summed over all test programs; a failed step without a failed test counts as one.

mod hosts;
mod leaks;
mod step;
mod totals;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::args::Args;
use crate::fleet::state::{self, Fleet};
use crate::fleet::{down, switch, up};
use crate::packages;
use crate::sys::{self, ProcessRef};
use crate::{build, clock};
use leaks::Leaks;
use totals::Totals;

/// Enough to move something from one host to another; the second has a disk that can be full.
const HOSTS: &str = "2";
const DISK: &str = "h2=1G";
/// That the API must take without a 5xx and without an answer that its document does not allow. The script by itself
/// makes many more, which would be half of a warm run.
const GENERATED_REQUESTS: &str = "600";

/// Two thousand kubectls live for a tenth of a second each, a third of which is the collection of what they will never
/// fill the memory with. The Go runtime is asked to leave it, up to a bound.
const KUBECTL_ENV: [(&str, &str); 2] = [("GOGC", "off"), ("GOMEMLIMIT", "256MiB")];

pub fn run(mut args: Args) -> Result<ExitCode> {
    let fast = args.flag("--fast");
    args.finish()?;
    let program = build::this_program()?;
    if !fast {
        if !sys::is_root() {
            bail!("the tests with real Docker daemons need root; cargo xtask test --fast leaves them out");
        }
        packages::ensure_daemon()?;
        packages::ensure_registry()?;
        packages::ensure_python()?;
    }
    sys::become_subreaper();
    leaks::clean_orphans()?;
    if sys::is_root() {
        down::clean_orphans()?;
    }
    let mut run = Run::new(program)?;
    run.checks();
    if !fast {
        // The fleet's tests mostly wait.
        run.clients_beside(Run::fleet);
        run.documentation();
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
    leaks: Leaks,
    totals: Totals,
    lines: Vec<String>,
    start: Instant,
}

impl Run {
    fn new(program: PathBuf) -> Result<Run> {
        let name = format!("test-{}", std::process::id());
        let place = std::env::temp_dir().join(format!("portreeve-{name}"));
        let temp = place.join("tmp");
        fs::create_dir_all(&temp).with_context(|| format!("making {}", temp.display()))?;
        state::record(&place.join("owner"), &ProcessRef::this()?)?;
        let leaks = Leaks::new(&name, &temp);
        Ok(Run { program, name, place, temp, leaks, totals: Totals::default(), lines: Vec::new(), start: clock::now() })
    }

    fn checks(&mut self) {
        self.cargo("format", "fmt --all --check", &[]);
        self.cargo("lints", "clippy --workspace --all-targets -- -D warnings", &[]);
        // Two for each core: some of them wait for a disk or another process.
        let threads = 2 * thread::available_parallelism().map_or(1, usize::from);
        let words = format!("test --workspace --no-fail-fast -- --test-threads={threads}");
        self.cargo("tests", &words, &KUBECTL_ENV.map(|(name, value)| (name, Path::new(value))));
    }

    /// Clients that others wrote, from PyPI, while other work is done; what they print comes after it.
    fn clients_beside(&mut self, work: impl FnOnce(&mut Run)) {
        const NAME: &str = "clients of others";
        let program = match build::target_dir() {
            Ok(dir) => dir.join("debug/portreeve"),
            Err(error) => return self.step(NAME, |_| Err(error)),
        };
        let script = build::root().join("tests/clients/run.sh");
        let mut command = Command::new("bash");
        command.arg(script).arg(program).arg(GENERATED_REQUESTS);
        self.mark(&mut command);
        let clients = thread::spawn(move || {
            let start = clock::now();
            (step::run_quietly(command), start.elapsed())
        });
        work(self);
        let before = self.totals.failed;
        say!("\n==> {NAME}: tests/clients/run.sh ... {GENERATED_REQUESTS}");
        let Ok(((result, output), took)) = clients.join() else {
            return self.note(NAME, false, before, Duration::ZERO);
        };
        // whoever reads us may have gone; the run goes on
        let _ = std::io::stdout().write_all(&output);
        let ok = self.counted(result);
        self.note(NAME, ok, before, took);
    }

    fn documentation(&mut self) {
        self.cargo("documentation", "doc --no-deps", &[("RUSTDOCFLAGS", Path::new("-D warnings"))]);
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
        // They mostly wait.
        let words = "test --test fleet --no-fail-fast -- --test-threads=12";
        let first = &fleet.hosts[0];
        let mut env = common.to_vec();
        env.push(("PORTREEVE_TEST_DOCKER", Path::new(&first.endpoint)));
        env.push(("PORTREEVE_TEST_ADDRESS", Path::new(&first.address)));
        self.cargo("tests with real daemons", words, &env);

        // what speaks to a daemon, once more as to a remote one
        let Some(remote) = fleet.hosts.last() else { return };
        let mut env = common.to_vec();
        env.push(("PORTREEVE_TEST_DOCKER", Path::new(&remote.tcp)));
        env.push(("PORTREEVE_TEST_TLS", &fleet.certs));
        env.push(("PORTREEVE_TEST_ADDRESS", Path::new(&remote.address)));
        self.cargo("tests over mutual TLS", &format!("{words} engine::"), &env);
    }

    /// One run of cargo, with its output shown and its tests counted.
    fn cargo(&mut self, name: &str, words: &str, env: &[(&str, &Path)]) {
        let mut command: Command = build::cargo();
        command.args(words.split(' ')).envs(env.iter().copied());
        self.command(name, &format!("cargo {words}"), command);
    }

    /// One command, with its output shown and its tests counted.
    fn command(&mut self, name: &str, words: &str, mut command: Command) {
        self.mark(&mut command);
        if sys::interrupted() {
            return;
        }
        say!("\n==> {name}: {words}");
        let before = self.totals.failed;
        let start = clock::now();
        let ok = self.counted(step::run(command));
        self.note(name, ok, before, start.elapsed());
    }

    /// What a command starts can be told by this from all else, and keeps its temporary files in the run's place.
    fn mark(&self, command: &mut Command) {
        command.env("TMPDIR", &self.temp).env(leaks::MARK, &self.name);
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
