//! One command of a test run: its output shown line by line, its tests counted, its end enforced.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::totals::Totals;
use crate::{clock, process, sys};

/// No step takes so long unless it hangs.
const LIMIT: Duration = Duration::from_secs(45 * 60);
/// Between asking to stop and killing.
const GRACE: Duration = Duration::from_secs(10);

/// Returns the tests counted, and whether the command succeeded.
pub fn run(command: Command) -> Result<(Totals, bool)> {
    run_into(command, std::io::stdout(), std::io::stderr())
}

/// The same with its output, both streams, kept for later.
pub fn run_quietly(command: Command) -> (Result<(Totals, bool)>, Vec<u8>) {
    let kept = Kept::default();
    let result = run_into(command, kept.clone(), kept.clone());
    let output = std::mem::take(&mut *kept.0.lock().unwrap_or_else(PoisonError::into_inner));
    (result, output)
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn run_into(mut command: Command, stdout: impl Write + Send, stderr: impl Write + Send) -> Result<(Totals, bool)> {
    // a group of its own: an interrupt reaches it through us, in order
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().with_context(|| format!("running {}", process::line(&command)))?;
    let out = child.stdout.take().context("no pipe")?;
    let err = child.stderr.take().context("no pipe")?;
    thread::scope(|scope| {
        let counted = scope.spawn(|| show(out, stdout));
        scope.spawn(|| show(err, stderr));
        let status = wait(&mut child);
        let totals = counted.join().unwrap_or_default();
        Ok((totals, status?.success()))
    })
}

fn show(input: impl Read, mut output: impl Write) -> Totals {
    let mut totals = Totals::default();
    let mut line = Vec::new();
    let mut input = BufReader::new(input);
    while matches!(input.read_until(b'\n', &mut line), Ok(1..)) {
        // whoever reads us may have gone; the run goes on
        let _ = output.write_all(&line).and_then(|()| output.flush());
        totals.read(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    totals
}

fn wait(child: &mut Child) -> Result<ExitStatus> {
    let start = clock::now();
    let mut asked = None;
    loop {
        if let Some(status) = child.try_wait()? {
            if asked.is_some() {
                // what the command started may outlive it
                sys::signal_group(child.id(), libc::SIGKILL);
            }
            return Ok(status);
        }
        let late = start.elapsed() > LIMIT;
        match asked {
            None if late || sys::interrupted() => {
                eprintln!("{}: stopping", if late { "the step takes too long" } else { "interrupted" });
                sys::signal_group(child.id(), libc::SIGTERM);
                asked = Some(clock::now());
            }
            Some(since) if clock::now().duration_since(since) > GRACE => {
                sys::signal_group(child.id(), libc::SIGKILL);
            }
            _ => {}
        }
        thread::sleep(Duration::from_millis(50));
    }
}
