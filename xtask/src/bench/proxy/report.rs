//! From rounds to tables: medians of each that was measured, and of the ratios within a cycle.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::super::Out;
use super::super::stats::Summary;

/// What is told of a part: its name, where it stands, and what it is divided by to be shown.
const FIELDS: [(&str, &str, f64); 4] = [
    ("a second", "/per_second", 1.0),
    ("p50, ms", "/delay/p50", 1000.0),
    ("p99, ms", "/delay/p99", 1000.0),
    ("CPU of each, us", "/cpu_us", 1.0),
];

/// What a ratio is of.
#[derive(Clone, Copy, PartialEq)]
pub enum Ratio {
    /// The first by each of the others.
    FirstByEach,
    /// Each of the others by the first.
    EachByFirst,
}

impl Ratio {
    fn title(self, first: &str, other: &str) -> String {
        match self {
            Ratio::FirstByEach => format!("by {other}"),
            Ratio::EachByFirst => format!("{other} by {first}"),
        }
    }

    fn of(self, first: f64, other: f64) -> f64 {
        match self {
            Ratio::FirstByEach => first / other,
            Ratio::EachByFirst => other / first,
        }
    }
}

pub fn say(out: Out, parts: &[&str], names: &[&str], ratio: Ratio, rounds: &[Value]) -> Result<Value> {
    let mut told = Map::new();
    for part in parts {
        let mut line = format!("{part:<18}");
        for name in names {
            line.push_str(&format!("{name:>11}"));
        }
        for name in &names[1..] {
            line.push_str(&format!("   {:<21}", ratio.title(names[0], name)));
        }
        out.line(line.trim_end());
        let mut rows = Map::new();
        for (title, field, unit) in FIELDS {
            if let Some((row, line)) = row(rounds, part, names, ratio, (title, field, unit))? {
                out.line(&line);
                rows.insert(title.to_owned(), row);
            }
        }
        out.line("");
        told.insert((*part).to_owned(), rows.into());
    }
    Ok(told.into())
}

/// `None` where nothing of the kind was measured.
fn row(
    rounds: &[Value],
    part: &str,
    names: &[&str],
    ratio: Ratio,
    (title, field, unit): (&str, &str, f64),
) -> Result<Option<(Value, String)>> {
    let value = |round: &Value, name: &str| round[part][name].pointer(field).and_then(Value::as_f64);
    if rounds.iter().all(|round| value(round, names[0]).is_none()) {
        return Ok(None);
    }
    let (mut row, mut line) = (json!({}), format!("  {title:<16}"));
    for name in names {
        let all = Summary::of(rounds.iter().filter_map(|round| value(round, name)));
        let median = all.with_context(|| format!("{part} of {name}: no {field}"))?.median / unit;
        line.push_str(&format!("{:>11}", figure(median)));
        row[*name] = json!({"median": median});
    }
    for name in &names[1..] {
        let ratios = rounds.iter().filter_map(|round| Some(ratio.of(value(round, names[0])?, value(round, name)?)));
        let by = Summary::of(ratios.filter(|r| r.is_finite())).context("no ratio")?;
        line.push_str(&format!("   {:<21}", format!("{:.2} [{:.2} .. {:.2}]", by.median, by.min, by.max)));
        row[*name]["ratio"] = json!(by);
    }
    Ok(Some((row, line.trim_end().to_owned())))
}

fn figure(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// From what h2load prints. `cpu`: microseconds of the proxy meanwhile.
pub fn h2load(text: &str, cpu: u64) -> Option<Value> {
    let finished = text.lines().find(|l| l.starts_with("finished in "))?;
    let per_second: f64 = finished.split(", ").nth(1)?.split(' ').next()?.parse().ok()?;
    let requests = text.lines().find(|l| l.starts_with("requests: "))?;
    let number = |what: &str| -> Option<f64> {
        let word = requests.trim_start_matches("requests: ").split(", ").find(|p| p.ends_with(what))?;
        word.split(' ').next()?.parse().ok()
    };
    let (succeeded, failed) = (number(" succeeded")?, number(" failed")?);
    (failed == 0.0 && succeeded > 0.0).then(|| json!({"per_second": per_second, "cpu_us": cpu as f64 / succeeded}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_h2load_prints_is_read_unless_something_failed() {
        let text = "finished in 2.00s, 12345.50 req/s, 13.00MB/s\nrequests: 24691 total, 24755 started, 24691 done, \
                    24691 succeeded, 0 failed, 0 errored, 0 timeout\nstatus codes: 24691 2xx\n";
        let told = h2load(text, 493_820).unwrap();
        assert_eq!((told["per_second"].as_f64(), told["cpu_us"].as_f64()), (Some(12345.5), Some(20.0)));
        assert!(h2load(&text.replace("0 failed", "1 failed"), 1).is_none());
        assert!(h2load("", 1).is_none());
    }

    #[test]
    fn a_ratio_is_of_one_cycle() {
        let round = |a: f64, b: f64| json!({"x": {"portreeve": {"cpu_us": a}, "nginx": {"cpu_us": b}}});
        let rounds = [round(1.0, 2.0), round(30.0, 20.0), round(4.0, 4.0)];
        let names = ["portreeve", "nginx"];
        let (row, line) = row(&rounds, "x", &names, Ratio::FirstByEach, FIELDS[3]).unwrap().unwrap();
        assert_eq!(row["nginx"]["ratio"]["median"], 1.0);
        assert_eq!((row["nginx"]["median"].as_f64(), row["portreeve"]["median"].as_f64()), (Some(4.0), Some(4.0)));
        assert!(line.ends_with("1.00 [0.50 .. 1.50]"), "{line}");
        assert!(super::row(&rounds, "x", &names, Ratio::FirstByEach, FIELDS[0]).unwrap().is_none());
        let (_, line) = super::row(&rounds[..1], "x", &names, Ratio::EachByFirst, FIELDS[3]).unwrap().unwrap();
        assert!(line.ends_with("2.00 [2.00 .. 2.00]"), "{line}");
    }
}
