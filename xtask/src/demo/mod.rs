//! `cargo xtask demo`: from nothing to two instances that sleep and wake, and back to nothing.
//!
//! ```text
//! engine ─► a Docker daemon ◄── server: portreeve serve ◄── show: the real command line, requests through the proxy
//! place: what a later run must know if this one is killed        clean: uses it
//! ```
//!
//! [`crate::bench`] uses all but `show`.

pub mod clean;
pub mod engine;
pub mod place;
pub mod server;
mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::args::Args;
use crate::fleet::down;
use crate::image::{self, APP};
use crate::{build, clock, sys};
use engine::Engine;
use place::{Place, Record};
use server::Server;
use show::Visitor;

const NAME: &str = "demo";
const EXAMPLE: &str = "examples/quickstart";

pub fn run(mut args: Args) -> Result<ExitCode> {
    let exit = args.flag("--exit");
    let domain = args.option("--domain")?.unwrap_or_else(|| "localhost".into());
    let address = args.option("--docker-address")?;
    let binary = args.option("--binary")?.map(PathBuf::from);
    args.finish()?;
    let start = clock::now();
    let place = Place::take(NAME)?;
    if sys::is_root() {
        down::clean_orphans()?;
    }
    clean::leftovers(&place)?;
    sys::become_subreaper();

    let mut demo = Demo { place, record: Record::default(), server: None, domain };
    let result = demo.show(address, binary, exit, start);
    let stopped = sys::interrupted();
    match (&result, stopped) {
        (_, true) => say!("\nstopping"),
        (Err(error), false) => eprintln!("error: {error:#}"),
        (Ok(()), false) => {}
    }
    demo.end()?;
    say!("everything is removed");
    Ok(if result.is_ok() || (stopped && !exit) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Demo {
    place: Place,
    record: Record,
    server: Option<Server>,
    domain: String,
}

impl Demo {
    fn show(&mut self, address: Option<String>, binary: Option<PathBuf>, exit: bool, start: Instant) -> Result<()> {
        // first, as it can fail for want of rights or packages, and the builds take minutes
        let engine = self.engine(address)?;
        let program = match binary {
            Some(path) => path,
            None => {
                say!("==> building portreeve (the dev profile: the shortest first build)");
                server::build(false)?
            }
        };
        say!("==> building the app's image, without a registry");
        let archive = image::archive(&build::app()?, &APP)?;
        self.record.image_is_ours = !engine.docker.has_image(APP.reference)?;
        self.place.write(&self.record)?;
        if self.record.image_is_ours {
            engine.docker.load(&archive)?;
        }

        let server = self.server.insert(Server::start(&program, &self.place, Some(&engine), &self.domain)?);
        self.record.server = server.identity();
        self.place.write(&self.record)?;
        server.ready()?;
        say!("==> portreeve serves its API at https://{} and users at http://{}", server.api, server.proxy);

        say!("==> portreeve apply -f {EXAMPLE}");
        let applied = server.cli(&["apply", "-f", EXAMPLE]);
        // also after a failure: some may have been made
        self.record.note(&server.instances()?);
        self.place.write(&self.record)?;
        for line in applied?.lines() {
            say!("  {line}");
        }
        show::settled(server)?;

        say!("==> requests through the proxy");
        let visitor = Visitor { server, domain: &self.domain };
        let (page, took) = visitor.visit("hello")?;
        say!("  GET {}  200 after {} ms\n      {page}", visitor.url("hello"), took.as_millis());
        visitor.sleep_and_wake("sleepy")?;
        say!("==> done, {:.0} s after the start", start.elapsed().as_secs_f64());
        if !exit {
            self.stay(&program)?;
        }
        Ok(())
    }

    fn engine(&mut self, address: Option<String>) -> Result<Engine> {
        if let Some(engine) = engine::running(address)? {
            say!("==> using the Docker daemon at {}", engine.docker.socket.display());
            self.record.socket = engine.docker.socket.clone();
            return Ok(engine);
        }
        say!("==> no Docker daemon answers here: starting a private one, in a network of its own");
        self.record.private = true;
        self.place.write(&self.record)?;
        let engine = engine::private(NAME)?;
        self.record.socket = engine.docker.socket.clone();
        Ok(engine)
    }

    /// Until Ctrl-C.
    fn stay(&mut self, program: &Path) -> Result<()> {
        let server = self.server.as_mut().context("the server was not started")?;
        let short = program.strip_prefix(build::root()).unwrap_or(program).display();
        let visitor = Visitor { server, domain: &self.domain };
        say!("\nOpen {} or {}, or try in another terminal:\n", visitor.url("hello"), visitor.url("sleepy"));
        say!("  export KUBECONFIG={}", server.kubeconfig.display());
        for words in
            ["get instances -w", "describe instance sleepy", "logs sleepy", "exec hello -- /app env", "stop hello"]
        {
            say!("  {short} {words}");
        }
        say!("\nCtrl-C stops everything and removes it.");
        while !sys::interrupted() {
            server.check_alive()?;
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// The reverse of everything.
    fn end(mut self) -> Result<()> {
        if let Some(server) = self.server.take() {
            // an interrupt may have come between an apply and its note
            self.record.note(&server.instances().unwrap_or_default());
            self.place.write(&self.record)?;
            if !self.record.uids.is_empty() {
                // the orderly way; what it leaves (kept volumes), or cannot do, the labels find
                let deleted = server.cli(&["delete", "-f", EXAMPLE]);
                if let Err(error) = deleted {
                    eprintln!("note: portreeve delete: {error:#}");
                }
            }
            server.stop()?;
        }
        self.record.server = None;
        clean::clean(&self.place, &self.record)?;
        self.place.leave()
    }
}
