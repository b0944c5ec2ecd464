//! What the demo shows: instances come up, answer, fall asleep, and wake on the next request.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::server::{Seen, Server};
use crate::clock;
use crate::http::{Answer, Request};

/// How long anything may take that includes starting a container.
const PATIENCE: Duration = Duration::from_secs(120);

/// Shows each instance's phases until all are up. One that idles quickly may sleep again by then.
pub fn settled(server: &mut Server) -> Result<()> {
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    let start = clock::now();
    clock::wait_unless_interrupted("the instances", PATIENCE, || {
        if let Err(dead) = server.check_alive() {
            return Ok(Err(dead));
        }
        let seen = server.instances().map_err(|e| format!("{e:#}"))?;
        for instance in &seen {
            let phase = if instance.ready { "Running, ready" } else { instance.phase.as_str() };
            if !phase.is_empty() && shown.get(&instance.name).map(String::as_str) != Some(phase) {
                let seconds = start.elapsed().as_secs_f64();
                say!("  {seconds:>5.1} s  {:<8} {phase}", instance.name);
                shown.insert(instance.name.clone(), phase.to_owned());
            }
        }
        match seen.iter().find(|i| !(i.ready || i.phase == "Asleep")) {
            None if !seen.is_empty() => Ok(Ok(())),
            waiting => Err(waiting.map_or("none is there".into(), describe)),
        }
    })?
}

fn describe(instance: &Seen) -> String {
    format!("{} is {}: {}", instance.name, instance.phase, instance.message)
}

/// Requests through the proxy, as a browser would send them.
pub struct Visitor<'a> {
    pub server: &'a Server,
    pub domain: &'a str,
}

impl Visitor<'_> {
    pub fn url(&self, instance: &str) -> String {
        format!("http://{instance}.{}:{}/", self.domain, self.server.proxy.port())
    }

    fn send(&self, instance: &str, method: &str, target: &str, body: &[u8]) -> Result<(Answer, Duration)> {
        let host = format!("{instance}.{}:{}", self.domain, self.server.proxy.port());
        let request = Request { method, host: &host, body, timeout: PATIENCE, ..Request::get(target) };
        let start = clock::now();
        let answer = request.over_tcp(self.server.proxy)?;
        if answer.status != 200 {
            bail!("{method} http://{host}{target}: {}: {}", answer.status, answer.text());
        }
        Ok((answer, start.elapsed()))
    }

    /// One page, and how long it took.
    pub fn visit(&self, instance: &str) -> Result<(String, Duration)> {
        let (answer, took) = self.send(instance, "GET", "/", b"")?;
        Ok((answer.text().lines().collect::<Vec<_>>().join(", "), took))
    }

    fn phase(&self, instance: &str) -> Result<String, String> {
        let seen = self.server.instances().map_err(|e| format!("{e:#}"))?;
        seen.into_iter().find(|i| i.name == instance).map(|i| i.phase).ok_or_else(|| "it is gone".into())
    }

    /// Visits `sleepy`, waits until it sleeps, and visits it again.
    pub fn sleep_and_wake(&self, instance: &str) -> Result<()> {
        let note = b"written before the sleep";
        self.send(instance, "POST", "/data/note", note)?;
        let (page, took) = self.visit(instance)?;
        say!("  GET {}  {}\n      {page}", self.url(instance), millis(took));
        let last = clock::now();
        clock::wait_unless_interrupted(&format!("{instance} falling asleep"), PATIENCE, || {
            match self.phase(instance)?.as_str() {
                "Asleep" => Ok(()),
                phase => Err(format!("it is {phase}")),
            }
        })?;
        say!(
            "  {instance} fell asleep {:.1} s after its last request: no process is left",
            last.elapsed().as_secs_f64()
        );
        let (page, took) = self.visit(instance)?;
        say!("  GET {}  {} with the wake\n      {page}", self.url(instance), millis(took));
        let (kept, _) = self.send(instance, "GET", "/data/note", b"").context("reading what was written before")?;
        if kept.body != note {
            bail!("{instance} lost its data: {:?} became {:?}", String::from_utf8_lossy(note), kept.text());
        }
        say!("  and what it wrote before is still there");
        Ok(())
    }
}

fn millis(took: Duration) -> String {
    format!("200 after {} ms", took.as_millis())
}
