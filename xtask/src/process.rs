//! Running commands: what failed, with its own words.

use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::sys;

/// Runs to the end and returns what it printed; failure carries its standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().with_context(|| format!("running {}", line(command)))?;
    if !status.success() {
        bail!("{}: {status}: {}", line(command), String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Runs with our own standard output and error, to the end or to an interrupt.
pub fn show(command: &mut Command) -> Result<()> {
    let mut child = command.stdin(Stdio::null()).spawn().with_context(|| format!("running {}", line(command)))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if sys::interrupted() {
            // it may have had the terminal's Ctrl-C already
            let _ = child.kill();
        }
        thread::sleep(Duration::from_millis(20));
    };
    if sys::interrupted() {
        bail!("interrupted");
    }
    if !status.success() {
        bail!("{}: {status}", line(command));
    }
    Ok(())
}

/// `ip ARGS`, or any other tool, given as one line. Not for text with blanks in it.
pub fn tool(words: &str) -> Result<String> {
    let mut words = words.split_whitespace();
    output(command(words.next().unwrap_or_default()).args(words))
}

/// A command that is also found in the system directories, which are not on every user's PATH.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path());
    if !program.contains('/')
        && let Some(path) = find(program)
    {
        command = Command::new(path);
        command.env("PATH", search_path());
    }
    command
}

pub fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
}

/// Where a program is, if anywhere.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = search_path();
    path.split(':').filter(|d| !d.is_empty()).map(|d| std::path::Path::new(d).join(program)).find(|p| p.is_file())
}

/// The command as one would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quote = |w: std::borrow::Cow<'_, str>| {
        if w.is_empty() || w.contains([' ', '"', '\'']) { format!("{w:?}") } else { w.into_owned() }
    };
    words.map(|w| quote(w.to_string_lossy())).collect::<Vec<_>>().join(" ")
}
