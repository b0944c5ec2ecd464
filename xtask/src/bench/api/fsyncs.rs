//! How often each server tells the disk to keep something, per create: counted by the kernel's tracing of its calls.
//!
//! Tracing slows the server down, so nothing else is measured meanwhile.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::Out;
use super::Load;
use crate::{clock, process, sys};

const CALLS: &str = "fsync,fdatasync,sync_file_range,msync,sync,syncfs";
/// Clients, and creates by all of them together.
const RUNS: [(usize, u64); 2] = [(1, 300), (64, 6000)];

pub fn count(out: Out, load: &Load, servers: &[(&str, i32)]) -> Result<Value> {
    if process::find("strace").is_none() {
        out.line("there is no strace: syncs are not counted\n");
        return Ok(Value::Null);
    }
    out.line("calls that tell the disk to keep something\n");
    out.line("  clients     server   creates  fsync, fdatasync  creates for each  others");
    let mut rows = vec![];
    for (clients, creates) in RUNS {
        for (name, pid) in servers {
            let trace = Trace::attach(*pid)?;
            load.run(&json!({"count": {"peer": name, "clients": clients, "creates": creates}}))?;
            let (syncs, others) = trace.end()?;
            let each = creates as f64 / syncs.max(1) as f64;
            out.line(&format!("{clients:>9}{name:>11}{creates:>10}{syncs:>18}{each:>18.2}{others:>8}"));
            let row = json!({"clients": clients, "server": name, "creates": creates, "syncs": syncs, "others": others});
            rows.push(row);
        }
    }
    out.line("");
    Ok(rows.into())
}

struct Trace {
    child: Child,
    file: std::path::PathBuf,
}

impl Trace {
    fn attach(pid: i32) -> Result<Trace> {
        let file = std::env::temp_dir().join(format!("portreeve-bench-syncs-{pid}"));
        let mut command = process::command("strace");
        command.args(["-f", "-qq", "-e", &format!("trace={CALLS}"), "-p", &pid.to_string(), "-o"]).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        sys::end_with_parent(&mut command);
        let child = command.spawn().context("running strace")?;
        let tracer = child.id().to_string();
        clock::wait("strace", Duration::from_secs(10), || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| e.to_string())?;
            for task in tasks.flatten() {
                let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
                let by = status.lines().find_map(|l| l.strip_prefix("TracerPid:")).unwrap_or_default();
                if by.trim() != tracer {
                    return Err("not every thread is traced yet".into());
                }
            }
            Ok(())
        })?;
        Ok(Trace { child, file })
    }

    /// Lets go, and returns how many calls were begun that wait for the disk, and how many that only begin to write.
    fn end(mut self) -> Result<(usize, usize)> {
        let _ = process::output(Command::new("kill").args(["-INT", &self.child.id().to_string()]));
        self.child.wait()?;
        let text = fs::read_to_string(&self.file)?;
        fs::remove_file(&self.file)?;
        Ok(calls(&text))
    }
}

/// A call that another thread's line interrupts is told in two lines.
fn calls(text: &str) -> (usize, usize) {
    let begun = text.lines().filter(|l| l.contains("sync") && !l.contains("resumed>"));
    let (whole, others): (Vec<_>, Vec<_>) =
        begun.partition(|l| !l.contains("sync_file_range(") && !l.contains("msync("));
    (whole.len(), others.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_is_told_in_two_lines_counts_once() {
        let text = "7 fdatasync(9) = 0\n8 fsync(4 <unfinished ...>\n7 sync_file_range(9, 0, 1, 2) = 0\n7 fdatasync(9) = 0\n\
                    8 <... fsync resumed>) = 0\n";
        assert_eq!(calls(text), (3, 1));
    }
}
