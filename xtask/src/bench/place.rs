//! `cargo xtask bench place`: placement decisions by themselves (`tests/sim`), beside the bare search that is their limit.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::stats::Summary;
use super::{Bench, Out};
use crate::{build, process};

const HOSTS: usize = 1000;
const INSTANCES: [usize; 3] = [1_000, 10_000, 100_000];

pub struct Options {
    pub cycles: usize,
    /// In place of the release build of `portreeve-sim`.
    pub sim: Option<PathBuf>,
}

pub fn measure(bench: &Bench, options: &Options) -> Result<Value> {
    let program = match &options.sim {
        Some(program) => program.clone(),
        None => {
            // With the server, whose dependencies are its own.
            let words = "build --release --package portreeve --package portreeve-sim --bins";
            process::show(build::cargo().args(words.split(' '))).context("building the scheduler's harness")?;
            build::target_dir()?.join("release/portreeve-sim")
        }
    };
    let job = json!({"place": {"hosts": HOSTS, "instances": INSTANCES, "cycles": options.cycles}});
    let told = process::output(Command::new(&program).arg(job.to_string()))?;
    let told: Value = serde_json::from_str(&told).context("reading what the harness tells")?;
    report(bench.out, &told)
}

fn of(cycles: &[Value], pointer: &str) -> Result<Summary> {
    let values = cycles.iter().filter_map(|cycle| cycle.pointer(pointer)?.as_f64());
    Summary::of(values).with_context(|| format!("no {pointer}"))
}

/// Ours by the limit, of the same cycle.
fn ratio(cycles: &[Value], ours: &str, limit: &str) -> Result<Summary> {
    let rate = |cycle: &Value, what: &str| cycle[what]["perSecond"].as_f64();
    let both = cycles.iter().filter_map(|cycle| Some(rate(cycle, ours)? / rate(cycle, limit)?));
    Summary::of(both).with_context(|| format!("no {ours} by {limit}"))
}

fn report(out: Out, told: &Value) -> Result<Value> {
    out.line(&format!("placement on {HOSTS} hosts\n"));
    out.line("   placed           what     a second    p50 us    p99 us   of a scan, median [min .. max]");
    let mut rows = vec![];
    for series in told["series"].as_array().context("no series")? {
        let (placed, cycles) = (&series["instances"], series["cycles"].as_array().context("no cycles")?);
        for what in ["scan", "heap", "place", "whole"] {
            let rate = of(cycles, &format!("/{what}/perSecond"))?;
            let (p50, p99) = (of(cycles, &format!("/{what}/p50"))?, of(cycles, &format!("/{what}/p99"))?);
            let by = ratio(cycles, what, "scan")?;
            out.line(&format!(
                "{placed:>9}{what:>15}{:>13.0}{:>10.2}{:>10.2}   {:.6} [{:.6} .. {:.6}]",
                rate.median, p50.median, p99.median, by.median, by.min, by.max
            ));
            rows.push(json!({
                "placed": placed, "what": what, "perSecond": rate, "p50Micros": p50, "p99Micros": p99, "ofAScan": by,
            }));
        }
    }
    out.line("\nscan, heap: a bare argmin, the limit; place: on a load that is known; whole: the load reckoned first");
    Ok(json!({"hosts": HOSTS, "rows": rows}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_cycle() {
        let of = |scan: f64, place: f64| json!({"scan": {"perSecond": scan}, "place": {"perSecond": place}});
        let told = ratio(&[of(10.0, 5.0), of(100.0, 10.0), of(4.0, 4.0)], "place", "scan").unwrap();
        assert_eq!((told.min, told.median, told.max), (0.1, 0.5, 1.0));
        assert!(ratio(&[], "place", "scan").is_err());
    }
}
