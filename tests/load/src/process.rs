//! What a process has used, as the kernel counts it.

use std::fs;

use anyhow::{Context, Result};

/// Microseconds of one of the kernel's ticks, of which there are a hundred a second for programs everywhere.
const TICK: u64 = 10_000;

/// CPU time of all threads, in user and kernel, in microseconds.
pub fn cpu(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("reading the CPU of {pid}"))?;
    parse_cpu(&text).context("the kernel's stat line is not as usual")
}

fn parse_cpu(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some((next()? + next()?) * TICK)
}

/// Resident KiB.
pub fn resident(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("reading resident memory")?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_user_and_kernel_time_whatever_the_name() {
        let line = "42 (a) b)) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20 0 1 0 9 1 2 3";
        assert_eq!(parse_cpu(line), Some(420_000));
        assert_eq!(parse_cpu("42 (x) S 1"), None);
    }
}
