//! `portreeve wait`: until a condition holds, a field has a value, or the object is gone.

use std::str::FromStr;

use clap::Args;
use serde_json::Value;

use super::delete::gone;
use super::error::{Error, Exit, Result};
use super::jsonpath::JsonPath;
use super::output::print;
use super::selection::select;
use super::session::Session;
use super::until::{Seen, Target, until};
use crate::model::Span;

/// Wait for a condition of objects.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve wait inst/alice --for condition=Ready
  portreeve wait inst alice bob --for condition=Degraded=False --timeout 1m
  portreeve wait inst/alice --for jsonpath='{.status.phase}'=Asleep
  portreeve wait inst/alice --for delete")]
pub struct WaitArgs {
    /// Kind and names: `inst alice`, `inst/alice dh/local`
    #[arg(value_name = "KIND NAME", required = true)]
    pub targets: Vec<String>,
    /// condition=TYPE[=STATUS], jsonpath={PATH}[=VALUE], create or delete
    #[arg(long = "for", value_name = "WHAT")]
    pub goal: Goal,
    /// How long to wait for each
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub timeout: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Goal {
    Condition {
        type_: String,
        status: String,
    },
    /// `None`: any value but nothing.
    Path {
        path: JsonPath,
        value: Option<String>,
    },
    Create,
    Delete,
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Goal, String> {
        match text.split_once('=') {
            None if text == "delete" => Ok(Goal::Delete),
            None if text == "create" => Ok(Goal::Create),
            Some(("condition", rest)) if !rest.is_empty() => {
                let (type_, status) = rest.split_once('=').unwrap_or((rest, "True"));
                Ok(Goal::Condition { type_: type_.into(), status: status.into() })
            }
            Some(("jsonpath", rest)) => {
                let (path, value) = match rest.rfind('}') {
                    Some(end) => (&rest[..=end], rest[end + 1..].strip_prefix('=')),
                    None => rest.split_once('=').map_or((rest, None), |(p, v)| (p, Some(v))),
                };
                let path = path.parse().map_err(|e: super::jsonpath::BadPath| e.to_string())?;
                Ok(Goal::Path { path, value: value.map(str::to_owned) })
            }
            _ => Err("expected condition=TYPE[=STATUS], jsonpath={PATH}[=VALUE], create or delete".into()),
        }
    }
}

impl Goal {
    fn judge(&self, object: Option<&Value>) -> Result<Seen> {
        let missing = || Error::failed("it does not exist");
        match self {
            Goal::Delete => Ok(gone(object, "")),
            Goal::Create => Ok(object.map_or(Seen::NotYet("it does not exist".into()), |_| Seen::Done)),
            Goal::Condition { type_, status } => Ok(condition(object.ok_or_else(missing)?, type_, status)),
            Goal::Path { path, value } => {
                let found = path.render(object.ok_or_else(missing)?);
                let met = value.as_ref().map_or(!found.is_empty(), |v| *v == found);
                Ok(if met { Seen::Done } else { Seen::NotYet(format!("the value is {found:?}")) })
            }
        }
    }
}

/// A condition that speaks of an older spec does not count.
fn condition(object: &Value, type_: &str, status: &str) -> Seen {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(found) = conditions.iter().find(|c| c["type"].as_str().is_some_and(|t| t.eq_ignore_ascii_case(type_)))
    else {
        return Seen::NotYet(format!("it has no condition {type_}"));
    };
    let is = found["status"].as_str().unwrap_or("Unknown");
    let older = found["observedGeneration"].as_i64().zip(object["metadata"]["generation"].as_i64());
    if older.is_some_and(|(observed, generation)| observed < generation) {
        return Seen::NotYet(format!("{type_}={is} speaks of an older spec"));
    }
    if is.eq_ignore_ascii_case(status) {
        return Seen::Done;
    }
    Seen::NotYet(format!("{type_}={is}: {}", found["message"].as_str().unwrap_or_default()))
}

pub async fn run(args: &WaitArgs, session: &Session) -> Result<Exit> {
    for selection in select(&session.client, &args.targets).await? {
        let resource = &selection.resource;
        if selection.names.is_empty() {
            return Err(Error::usage(format!("say which {}", resource.plural)));
        }
        for name in &selection.names {
            let target = Target { resource, namespace: &session.namespace, name };
            let judge = |object: Option<&Value>| {
                args.goal.judge(object).map_err(|e| Error::failed(format!("{}: {e}", target.display())))
            };
            until(&session.client, &target, args.timeout.duration(), judge).await?;
            print(&format!("{} condition met\n", target.display()))?;
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn judged(goal: &str, object: Option<Value>) -> Result<Seen> {
        goal.parse::<Goal>().unwrap().judge(object.as_ref())
    }

    #[test]
    fn goals_are_met_by_what_they_name() {
        let object = json!({
            "metadata": {"generation": 2},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "observedGeneration": 2},
                {"type": "Old", "status": "True", "observedGeneration": 1},
            ]},
        });
        for (goal, met) in [
            ("condition=Ready", true),
            ("condition=ready=true", true),
            ("condition=Ready=False", false),
            ("condition=Old", false),
            ("condition=None", false),
            ("jsonpath={.status.phase}=Running", true),
            ("jsonpath=.status.phase=Running", true),
            ("jsonpath={.status.phase}", true),
            ("jsonpath={.status.phase}=Asleep", false),
            ("jsonpath={.status.none}", false),
            ("create", true),
            ("delete", false),
        ] {
            assert_eq!(judged(goal, Some(object.clone())).unwrap() == Seen::Done, met, "{goal}");
        }
        assert_eq!(judged("delete", None).unwrap(), Seen::Done);
        assert!(judged("condition=Ready", None).is_err(), "what does not exist will not become ready by waiting");
    }

    #[test]
    fn unknown_goals_are_refused() {
        for bad in ["", "ready", "condition=", "condition", "jsonpath={..a}"] {
            assert!(bad.parse::<Goal>().is_err(), "{bad}");
        }
    }
}
