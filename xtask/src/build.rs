//! Building this repository's programs with cargo.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// The repository's root.
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Where cargo puts what it builds: settings of many places decide, so cargo is asked.
pub fn target_dir() -> Result<PathBuf> {
    let text = process::output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("reading cargo metadata")?;
    Ok(metadata["target_directory"].as_str().context("cargo metadata names no target directory")?.into())
}

/// This program's own path, as asked at the start: a later build replaces the file, and then nobody could tell.
pub fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("finding this program's own path")
}

/// The test program, linked so that it needs nothing else in its container.
///
/// The target is named although it is the host's: that keeps the flag from build scripts and procedural macros, and
/// what others have built stays as it is.
pub fn app() -> Result<Vec<u8>> {
    let host = host_triple()?;
    let mut command = cargo();
    command.args(["rustc", "--quiet", "--package", "portreeve-app", "--release", "--target", &host]);
    command.args(["--", "-C", "target-feature=+crt-static"]);
    process::show(&mut command).context("building the test program")?;
    let path = target_dir()?.join(host).join("release/portreeve-app");
    fs::read(&path).with_context(|| format!("reading {}", path.display()))
}

fn host_triple() -> Result<String> {
    let text = process::output(Command::new("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|l| l.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}
