//! GPUs that no machine of a test has: each daemon is told of two, and finds the hook of NVIDIA's container toolkit, by which
//! it knows that it can give them. The hook gives nothing; a container sees in `NVIDIA_VISIBLE_DEVICES` which would be its.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use anyhow::Result;

use super::state::Host;
use crate::process;

/// As `nvidia-smi -L` names them.
const DEVICES: [&str; 2] = ["GPU-8dbd3a9f", "GPU-c41f2b07"];
/// A daemon that finds this program has the driver for GPUs.
const HOOK: &str = "nvidia-container-runtime-hook";

pub fn played(host: &Host, daemon: &mut Command) -> Result<()> {
    let programs = host.dir.join("bin");
    fs::create_dir_all(&programs)?;
    let hook = programs.join(HOOK);
    fs::write(&hook, "#!/bin/sh\nexit 0\n")?;
    fs::set_permissions(&hook, Permissions::from_mode(0o755))?;
    let others = process::search_path();
    daemon.env("PATH", format!("{}:{others}", programs.display()));
    for device in DEVICES {
        daemon.arg("--node-generic-resource").arg(format!("NVIDIA-GPU={device}"));
    }
    Ok(())
}
