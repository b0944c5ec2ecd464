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

/// A process and all below it.
#[allow(dead_code, reason = "the simulated daemons use this file as well, and have no children")]
fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(parent) = all.get(at) {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        at += 1;
    }
    all
}

/// As [`cpu`], of all of them.
#[allow(dead_code, reason = "as for `tree`")]
pub fn tree_cpu(pid: u32) -> Result<u64> {
    tree(pid).into_iter().map(cpu).sum()
}

/// Resident KiB of all of them; what several share counts once.
#[allow(dead_code, reason = "as for `tree`")]
pub fn tree_kib(pid: u32) -> Result<u64> {
    let one = |pid| -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("reading resident memory")?;
        let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).context("no Pss")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    };
    tree(pid).into_iter().map(one).sum()
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
