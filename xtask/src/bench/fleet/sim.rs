//! The process with the simulated daemons, and the calls that it has counted.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::Request;
use crate::{process, sys};

/// Calls by method and path.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Calls(pub BTreeMap<String, u64>);

impl Calls {
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    pub fn writes(&self) -> u64 {
        self.0.iter().filter(|(name, _)| !name.starts_with("GET ")).map(|(_, count)| count).sum()
    }

    /// Of one method and path.
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    pub fn since(&self, before: &Calls) -> Calls {
        let more = |(name, count): (&String, &u64)| {
            let more = count - before.0.get(name).copied().unwrap_or_default();
            (more > 0).then(|| (name.clone(), more))
        };
        Calls(self.0.iter().filter_map(more).collect())
    }

    /// Divided, the most frequent first.
    pub fn table(&self, by: f64) -> String {
        let mut rows: Vec<_> = self.0.iter().collect();
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        rows.iter().map(|(name, count)| format!("  {name:<34}{:>12.1}\n", **count as f64 / by)).collect()
    }
}

pub struct Sim {
    child: Child,
    program: PathBuf,
    control: PathBuf,
}

impl Sim {
    /// Starts the daemons, with sockets in the directory, and waits until they answer.
    pub fn start(program: &Path, dir: &Path, hosts: usize, image: &str, recorded: bool, apps: bool) -> Result<Sim> {
        let apps = apps.then_some("127.64.0.0");
        let job = json!({"engines": {"dir": dir, "hosts": hosts, "image": image, "recorded": recorded, "apps": apps}});
        let mut command = Command::new(program);
        command.arg(job.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        sys::end_with_parent(&mut command);
        let mut child = command.spawn().with_context(|| format!("running {}", program.display()))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let sim = Sim { child, program: program.to_owned(), control: dir.join("control.sock") };
        if line.is_empty() {
            bail!("the simulated daemons did not start");
        }
        Ok(sim)
    }

    fn get(&self, target: &str) -> Result<Value> {
        let answer = Request::get(target).over_unix(&self.control)?;
        if answer.status != 200 {
            bail!("the simulated daemons: {target}: {}: {}", answer.status, answer.text());
        }
        serde_json::from_slice(&answer.body).context("reading what the simulated daemons tell")
    }

    /// Name, socket and address of each.
    pub fn hosts(&self) -> Result<Vec<Value>> {
        Ok(serde_json::from_value(self.get("/hosts")?)?)
    }

    pub fn calls(&self) -> Result<Calls> {
        Ok(serde_json::from_value(self.get("/counts")?["calls"].take())?)
    }

    /// What lists of all of them cost, in a process of its own.
    pub fn poll(&self, every: Duration, lasts: Duration) -> Result<Value> {
        let hosts = self.hosts()?;
        let sockets: Vec<&Value> = hosts.iter().map(|host| &host["socket"]).collect();
        let job = json!({"poll": {"sockets": sockets, "every_seconds": every.as_secs(), "seconds": lasts.as_secs()}});
        // A thousand sockets still fit into one argument.
        let told = process::output(Command::new(&self.program).arg(job.to_string()))?;
        serde_json::from_str(&told).context("reading what the baseline tells")
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // It keeps nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_since_are_those_that_came_and_reads_are_no_writes() {
        let of = |text: &str| serde_json::from_str::<Calls>(text).unwrap();
        let before = of(r#"{"GET /info": 5, "POST /containers/create": 2}"#);
        let after = of(r#"{"GET /info": 9, "POST /containers/create": 2, "DELETE /containers/{}": 1}"#);
        let since = after.since(&before);
        assert_eq!((since.total(), since.writes(), since.0.len()), (5, 1, 2));
        assert!(since.table(2.0).starts_with("  GET /info"), "{}", since.table(2.0));
    }
}
