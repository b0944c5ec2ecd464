//! `portreeve why`: why an instance is as it is, and what comes next.

use clap::Args;
use serde_json::Value;

use super::client::JSON;
use super::describe::since;
use super::error::{Error, Exit, Result};
use super::kinds::ResourceType;
use super::output::{ObjectFormat, print};
use super::session::Session;
use super::table::{Layout, printable};
use crate::clock::SystemClock;
use crate::model::{ConditionStatus, InstanceExplanation, Kind, RouteProblem, Time, Wanted};

/// Tell why an instance is awake, asleep, pending or failing, and what comes next.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve why alice
  portreeve why alice -n team-a

  # for programs: when it will fall asleep
  portreeve why alice -o jsonpath='{.next.at}'")]
pub struct WhyArgs {
    /// The instance
    #[arg(value_name = "NAME")]
    pub name: String,

    /// How to print it: json, yaml or jsonpath=TEMPLATE, rather than in sentences
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<ObjectFormat>,
}

pub async fn run(args: &WhyArgs, session: &Session) -> Result<Exit> {
    let object = ResourceType::from(Kind::Instance).object(&session.namespace, &args.name)?;
    let answer = session.client.get(&format!("{object}/why"), JSON).await?;
    match &args.output {
        Some(format) => print(&format.render(None, &answer)?)?,
        None => {
            let told = serde_json::from_value(answer).map_err(|e| Error::failed(format!("the answer: {e}")))?;
            print(&page(&args.name, &told, SystemClock::new().now().into()))?;
        }
    }
    Ok(Exit::Done)
}

/// Pure.
fn page(name: &str, told: &InstanceExplanation, now: Time) -> String {
    let place = if told.node.is_empty() { String::new() } else { format!(" on {}", printable(&told.node)) };
    let wanted = match told.wanted {
        Wanted::Awake => "is to be awake",
        Wanted::Frozen => "is to be frozen",
        Wanted::Asleep => "is to be asleep",
        Wanted::Off => "is to be off",
    };
    let mut out = format!("{name} is {:?}{place} and {wanted}: {}.\n", told.phase, printable(&told.because));
    let moment = |at: Time| since(&Value::from(at.to_string()), now);
    let mut rows = vec![];
    let next = printable(&told.next.message);
    rows.push(vec!["Next:".to_owned(), told.next.at.map_or(next.clone(), |at| format!("{next}, {}", until(at, now)))]);
    for (i, signal) in told.signals.iter().enumerate() {
        let title = if i == 0 { "Signals:" } else { "" };
        rows.push(vec![title.to_owned(), format!("{}: {}, {}", signal.source, signal.message, moment(signal.at))]);
    }
    if told.signals.is_empty() {
        rows.push(vec!["Signals:".to_owned(), "nobody has used it yet".to_owned()]);
    }
    for (i, problem) in told.route_problems.iter().enumerate() {
        let title = if i == 0 { "Routes:" } else { "" };
        rows.push(vec![title.to_owned(), route_problem(problem, now)]);
    }
    for condition in &told.conditions {
        let is = match condition.status {
            ConditionStatus::True => "",
            ConditionStatus::False => "not ",
            ConditionStatus::Unknown => "unknown whether ",
        };
        let why = printable(&condition.message);
        let since = moment(condition.last_transition_time);
        let title = format!("{is}{}:", condition.type_);
        rows.push(vec![title, format!("{} ({why}), since {since}", condition.reason)]);
    }
    out.push_str(&Layout::default().lines(&rows));
    out
}

fn route_problem(problem: &RouteProblem, now: Time) -> String {
    let RouteProblem { host, reason, field, message, since: begun, next } = problem;
    let field = if field.is_empty() { String::new() } else { format!("; {field}") };
    let begun = begun.map(|at| format!(", since {}", since(&Value::from(at.to_string()), now))).unwrap_or_default();
    let next = next.map(|at| format!("; tried again {}", until(at, now))).unwrap_or_default();
    format!("{host}: {reason} ({}{field}){begun}{next}", printable(message))
}

/// A moment to come, and in how long.
fn until(at: Time, now: Time) -> String {
    let left = at.timestamp().as_second() - now.timestamp().as_second();
    if left <= 0 { "now".to_owned() } else { format!("{at} (in {})", super::describe::short(left)) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_told_in_sentences() {
        let told = serde_json::from_value(json!({
            "phase": "Running", "node": "worker-1", "wanted": "Awake", "because": "it was used, or first seen, within the last 30m",
            "signals": [{"source": "proxy", "at": "2026-01-01T10:00:00Z", "message": "the last request"}],
            "next": {"at": "2026-01-01T10:30:00Z", "message": "it falls asleep unless it is used"},
            "routeProblems": [
                {"host": "a.test", "reason": "SecretUnavailable", "field": "spec.routes[0].auth.token.secretKeyRef",
                    "message": "nobody is let in: there is no Secret \"door\"", "since": "2026-01-01T10:01:00Z"},
                {"host": "b.test", "reason": "CertificateRefused", "message": "no", "next": "2026-01-01T10:15:00Z"},
            ],
            "conditions": [{"type": "Ready", "status": "True", "reason": "Serving", "message": "it answers",
                "lastTransitionTime": "2026-01-01T09:00:00Z"}],
        }));
        let page = page("alice", &told.unwrap(), "2026-01-01T10:05:00Z".parse::<jiff::Timestamp>().unwrap().into());
        assert_eq!(
            page,
            "alice is Running on worker-1 and is to be awake: it was used, or first seen, within the last 30m.\n\
             Next:      it falls asleep unless it is used, 2026-01-01T10:30:00Z (in 25m)\n\
             Signals:   proxy: the last request, 2026-01-01T10:00:00Z (5m ago)\n\
             Routes:    a.test: SecretUnavailable (nobody is let in: there is no Secret \"door\"; spec.routes[0].auth.token.secretKeyRef), since 2026-01-01T10:01:00Z (4m ago)\n\
             \x20          b.test: CertificateRefused (no); tried again 2026-01-01T10:15:00Z (in 10m)\n\
             Ready:     Serving (it answers), since 2026-01-01T09:00:00Z (65m ago)\n"
        );
    }
}
