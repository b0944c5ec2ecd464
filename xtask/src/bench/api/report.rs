//! From rounds to tables: medians of each side, and of the ratios of neighbours.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::Out;
use super::super::stats::Summary;

/// A number in each round.
fn values<'r>(rounds: &'r [Value], pointer: &'r str) -> impl Iterator<Item = f64> + 'r {
    rounds.iter().filter_map(move |round| round.pointer(pointer)?.as_f64())
}

fn median(rounds: &[Value], pointer: &str) -> Result<f64> {
    Ok(Summary::of(values(rounds, pointer)).with_context(|| format!("no {pointer}"))?.median)
}

/// Of the same round: ours by the other's.
fn ratio(rounds: &[Value], ours: &str, theirs: &str) -> Result<Summary> {
    let both = rounds.iter().filter_map(|r| Some((r.pointer(ours)?.as_f64()?, r.pointer(theirs)?.as_f64()?)));
    Summary::of(both.filter(|(_, b)| *b > 0.0).map(|(a, b)| a / b)).with_context(|| format!("no {ours} by {theirs}"))
}

fn shown(s: Summary) -> String {
    format!("{:.2} [{:.2} .. {:.2}]", s.median, s.min, s.max)
}

/// A line of one measure: the sides' medians and the ratio.
struct Row {
    name: String,
    /// Without leading side.
    field: &'static str,
    /// What the figures are divided by to be shown.
    unit: f64,
    /// Beside portreeve: the others, and each a ratio.
    against: &'static [&'static str],
}

impl Row {
    fn say(&self, out: Out, rounds: &[Value]) -> Result<Value> {
        let ours = median(rounds, &format!("/portreeve{}", self.field))?;
        let mut told = json!({"name": self.name, "portreeve": ours / self.unit});
        let mut text = format!("{:<34}{:>10.2}", self.name, ours / self.unit);
        for other in self.against {
            let theirs = median(rounds, &format!("/{other}{}", self.field))?;
            let by = ratio(rounds, &format!("/portreeve{}", self.field), &format!("/{other}{}", self.field))?;
            text.push_str(&format!("{:>11.2}   {:<24}", theirs / self.unit, shown(by)));
            told[*other] = json!({"median": theirs / self.unit, "ratio": by});
        }
        out.line(text.trim_end());
        Ok(told)
    }
}

fn head(out: Out, title: &str, against: &[&str]) {
    let mut line = format!("{title:<34}{:>10}", "portreeve");
    for other in against {
        line.push_str(&format!("{other:>11}   {:<24}", "ratio [min .. max]"));
    }
    out.line(line.trim_end());
}

fn row(name: &str, field: &'static str, unit: f64, against: &'static [&'static str]) -> Row {
    Row { name: name.into(), field, unit, against }
}

pub fn creates(out: Out, told: &Value, clients: &[usize]) -> Result<Value> {
    const BOTH: &[&str] = &["etcd", "disk"];
    let all = told.as_array().context("no rounds")?;
    let mut summary = vec![];
    for count in clients {
        let rounds: Vec<Value> = all.iter().filter(|r| r["clients"] == *count).cloned().collect();
        head(out, &format!("durable creates, {count} clients"), BOTH);
        for row in [
            row("per second", "/per_second", 1.0, BOTH),
            row("p50 ms", "/latency/p50", 1000.0, BOTH),
            row("p99 ms", "/latency/p99", 1000.0, BOTH),
            row("server CPU us per create", "/cpu_us", 1.0, &["etcd"]),
        ] {
            let mut told = row.say(out, &rounds)?;
            told["clients"] = (*count).into();
            summary.push(told);
        }
        out.line("");
    }
    Ok(json!({"summary": summary, "rounds": told}))
}

pub fn lists(out: Out, told: &Value) -> Result<Value> {
    const ETCD: &[&str] = &["etcd"];
    let rounds = told.as_array().context("no rounds")?;
    head(out, "lists of 10,000 objects", ETCD);
    let mut summary = vec![];
    for row in [
        row("whole, p50 ms", "/whole/latency/p50", 1000.0, ETCD),
        row("whole, server CPU ms", "/whole/cpu_us", 1000.0, ETCD),
        row("whole, MB", "/whole/bytes", 1e6, ETCD),
        row("first page of 500, p50 ms", "/page/latency/p50", 1000.0, ETCD),
        row("first page, p99 ms", "/page/latency/p99", 1000.0, ETCD),
        row("first page, server CPU ms", "/page/cpu_us", 1000.0, ETCD),
        row("create alone, p50 ms", "/alone/p50", 1000.0, ETCD),
        row("create alone, p99 ms", "/alone/p99", 1000.0, ETCD),
        row("create beside lists, p50 ms", "/beside/p50", 1000.0, ETCD),
        row("create beside lists, p99 ms", "/beside/p99", 1000.0, ETCD),
    ] {
        summary.push(row.say(out, rounds)?);
    }
    out.line("");
    Ok(json!({"summary": summary, "rounds": told}))
}

pub fn watches(out: Out, told: &Value) -> Result<Value> {
    const BOTH: &[&str] = &["etcd", "limit"];
    let mut summary = vec![];
    for (part, title, against) in
        [("rounds", "1,000 watchers", BOTH), ("stalled", "and one more that reads nothing", &BOTH[..1])]
    {
        let rounds = told[part].as_array().context("no rounds")?;
        head(out, title, against);
        for row in [
            row("paced: p50 delay ms", "/paced/delay/p50", 1000.0, against),
            row("paced: p99 delay ms", "/paced/delay/p99", 1000.0, against),
            row("paced: CPU us per delivery", "/paced/cpu_us", 1.0, against),
            row("burst: deliveries per second", "/burst/per_second", 1.0, against),
            row("burst: p99 delay ms", "/burst/delay/p99", 1000.0, against),
            row("burst: CPU us per delivery", "/burst/cpu_us", 1.0, against),
        ] {
            let mut told = row.say(out, rounds)?;
            told["part"] = part.into();
            summary.push(told);
        }
        out.line("");
    }
    let kib = &told["kibPerWatcher"];
    let of = |side: &str| kib[side].as_f64().unwrap_or_default();
    out.line(&format!("resident KiB per watcher: portreeve {:.1}, etcd {:.1}\n", of("portreeve"), of("etcd")));
    Ok(json!({"summary": summary, "told": told}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_neighbours_and_their_median_is_not_the_medians_ratio() {
        let of = |a: f64, b: f64| json!({"portreeve": {"x": a}, "etcd": {"x": b}});
        let rounds = [of(1.0, 1.0), of(10.0, 5.0), of(3.0, 6.0)];
        let told = ratio(&rounds, "/portreeve/x", "/etcd/x").unwrap();
        assert_eq!((told.min, told.median, told.max), (0.5, 1.0, 2.0));
        assert_eq!(median(&rounds, "/portreeve/x").unwrap(), 3.0);
        assert!(median(&rounds, "/nobody/x").is_err());
    }
}
