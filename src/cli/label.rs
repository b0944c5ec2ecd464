//! `portreeve label`: sets and takes away labels.

use clap::Args;
use serde_json::{Map, Value, json};

use super::client::JSON;
use super::error::{Error, Exit, Result};
use super::output::print;
use super::selection::select;
use super::session::Session;
use super::url::with_query;

/// Set labels (KEY=VALUE) or take them away (KEY-).
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve label inst alice tier=paid
  portreeve label inst/alice inst/bob tier-
  portreeve label dh local zone=fsn1 --overwrite")]
pub struct LabelArgs {
    /// Kind and names, then labels: `inst alice tier=paid old-`
    #[arg(required = true, num_args = 2.., value_name = "KIND NAME KEY=VALUE|KEY-")]
    pub words: Vec<String>,
    /// Also change labels that have another value
    #[arg(long)]
    pub overwrite: bool,
}

pub async fn run(args: &LabelArgs, session: &Session) -> Result<Exit> {
    let (targets, changes) = split(&args.words)?;
    let mut exit = Exit::Done;
    for selection in select(&session.client, &targets).await? {
        let resource = &selection.resource;
        if selection.names.is_empty() {
            return Err(Error::usage(format!("say which {}", resource.plural)));
        }
        for name in &selection.names {
            let path = resource.object(&session.namespace, name)?;
            match change(&path, &changes, args.overwrite, session).await {
                Ok(said) => print(&format!("{} {said}\n", resource.named(name)))?,
                Err(e @ (Error::Server(_) | Error::Failed(_))) => {
                    e.report();
                    exit = Exit::Failed;
                }
                Err(e) => return Err(e),
            }
        }
    }
    Ok(exit)
}

type Changes = Vec<(String, Option<String>)>;

/// The words before the first change are targets; from there on all must be changes.
fn split(words: &[String]) -> Result<(Vec<String>, Changes)> {
    let change = |word: &str| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Some((key.to_owned(), Some(value.to_owned()))),
        Some(_) => None,
        None => word.strip_suffix('-').filter(|key| !key.is_empty()).map(|key| (key.to_owned(), None)),
    };
    let first = words.iter().position(|w| change(w).is_some()).unwrap_or(words.len());
    let (targets, rest) = words.split_at(first);
    let changes: Option<Changes> = rest.iter().map(|w| change(w)).collect();
    match changes {
        Some(changes) if !changes.is_empty() && !targets.is_empty() => Ok((targets.to_vec(), changes)),
        _ => Err(Error::usage("expected KIND NAME... and then KEY=VALUE or KEY-")),
    }
}

async fn change(path: &str, changes: &Changes, overwrite: bool, session: &Session) -> Result<&'static str> {
    let object = session.client.get(path, JSON).await?;
    let patch = patch(&object, changes, overwrite).map_err(Error::Failed)?;
    if patch == json!({}) {
        return Ok("not labeled");
    }
    // the version makes sure that no label is overwritten which came after our look
    let body = json!({"metadata": {"labels": patch, "resourceVersion": object["metadata"]["resourceVersion"]}});
    session.client.merge_patch(&with_query(path, &[("fieldManager", "portreeve-label")]), &body).await?;
    Ok("labeled")
}

fn patch(object: &Value, changes: &Changes, overwrite: bool) -> std::result::Result<Value, String> {
    let mut patch = Map::new();
    for (key, wanted) in changes {
        match (object["metadata"]["labels"][key].as_str(), wanted) {
            (Some(have), Some(want)) if have == want => {}
            (Some(have), Some(_)) if !overwrite => {
                return Err(format!("the label {key:?} is already {have:?}; use --overwrite to change it"));
            }
            (None, None) => {}
            (_, wanted) => drop(patch.insert(key.clone(), json!(wanted))),
        }
    }
    Ok(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn targets_end_where_changes_begin() {
        let (targets, changes) = split(&words("inst alice a=b=c old-")).unwrap();
        assert_eq!(targets, words("inst alice"));
        assert_eq!(changes, [("a".into(), Some("b=c".into())), ("old".into(), None)]);
        for bad in ["inst alice", "a=b c=d", "inst alice a=b bob"] {
            assert!(split(&words(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_label_is_overwritten_only_when_asked() {
        let object = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
        let changes = vec![("a".to_owned(), Some("2".to_owned())), ("b".into(), None), ("c".into(), None)];
        assert!(patch(&object, &changes, false).unwrap_err().contains("--overwrite"));
        assert_eq!(patch(&object, &changes, true).unwrap(), json!({"a": "2", "b": null}));
    }
}
