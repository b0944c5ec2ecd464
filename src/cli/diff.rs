//! `portreeve diff`: what `apply` would change, as the server would store it, line by line. Exit code 3 when there is any.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::apply::{completed, place};
use super::client::JSON;
use super::error::{Error, Exit, Result};
use super::kinds::by_kind;
use super::manifest::load;
use super::merge::{LAST_APPLIED, annotated, last_applied, three_way};
use super::output::{print, yaml};
use super::server_side::ServerSideArgs;
use super::session::Session;
use super::url::with_query;

/// Show what applying manifests would change; exits with 3 when anything would.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  portreeve diff -f alice.yaml
  portreeve diff -R -f instances/
  portreeve diff -f alice.yaml --server-side")]
pub struct DiffArgs {
    /// A manifest, a directory of manifests, or - for standard input; may be repeated
    #[arg(short, long, required = true, value_name = "FILE|DIR|-")]
    pub filename: Vec<PathBuf>,
    /// Also the directories within directories
    #[arg(short = 'R', long)]
    pub recursive: bool,
    #[command(flatten)]
    pub server_side: ServerSideArgs,
}

/// Lines around a change that are shown.
const CONTEXT: usize = 3;
/// Above this many lines a side, differences are shown as one block: the comparison costs their product.
const MAX_LINES: usize = 4000;

pub async fn run(args: &DiffArgs, session: &Session) -> Result<Exit> {
    let mut exit = Exit::Done;
    for manifest in load(&args.filename, args.recursive)? {
        let client = &session.client;
        let resource = by_kind(client, &manifest.api_version, &manifest.kind).await?;
        let namespace = place(&manifest, &resource, session)?;
        let path = resource.object(&namespace, &manifest.name)?;
        let plain = completed(&manifest, &resource, &namespace);
        let applied = || args.server_side.apply(client, &path, &plain, true);
        let wanted = annotated(&plain);
        let query = [("dryRun", "All"), ("fieldManager", "portreeve-apply"), ("fieldValidation", "Strict")];
        let (mut live, mut merged) = match client.get(&path, JSON).await {
            Ok(live) if args.server_side.server_side => (Some(live), applied().await?),
            Err(e) if args.server_side.server_side && e.is_not_found() => (None, applied().await?),
            Ok(live) => {
                let patch = three_way(last_applied(&live).as_ref(), &wanted, &live);
                let merged = match patch == json!({}) {
                    true => live.clone(),
                    false => client.merge_patch(&with_query(&path, &query), &patch).await?,
                };
                (Some(live), merged)
            }
            Err(e) if e.is_not_found() => {
                let collection = resource.collection(Some(&namespace));
                (None, client.post(&with_query(&collection, &query), &wanted).await?)
            }
            Err(e) => return Err(e),
        };
        if manifest.kind == "Secret" {
            mask(live.as_mut(), &mut merged);
        }
        let before = live.as_ref().map_or(Ok(String::new()), text)?;
        let name = resource.named(&manifest.name);
        if let Some(changes) = unified(&before, &text(&merged)?, &format!("live/{name}"), &format!("merged/{name}")) {
            print(&changes)?;
            exit = Exit::Different;
        }
    }
    Ok(exit)
}

/// Hides the values of a Secret on both sides, so that only which of them differ can be seen. Annotations may repeat them,
/// as client-side apply's does; that one is never shown.
fn mask(live: Option<&mut Value>, merged: &mut Value) {
    let mut none = Value::Null;
    let live = live.unwrap_or(&mut none);
    for field in ["data", "stringData"] {
        let entries = |object: &Value| object[field].as_object().cloned().unwrap_or_default();
        let (before, after) = (entries(live), entries(merged));
        let hide = |side: &mut Value, other: &Map<String, Value>, changed: &str| {
            for (key, value) in side.get_mut(field).and_then(Value::as_object_mut).into_iter().flatten() {
                let differs = other.get(key).is_some_and(|o| o != value);
                *value = if differs { format!("*** ({changed})").into() } else { "***".into() };
            }
        };
        hide(live, &after, "before");
        hide(merged, &before, "after");
    }
}

/// The object without what no manifest says and every write changes.
fn text(object: &Value) -> Result<String> {
    let mut object = object.clone();
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    if let Some(meta) = object["metadata"].as_object_mut() {
        for field in ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation"] {
            meta.remove(field);
        }
        if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
            if annotations.is_empty() {
                meta.remove("annotations");
            }
        }
    }
    yaml(&object).map_err(|e| Error::failed(e.to_string()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edit {
    Keep,
    Remove,
    Add,
}

/// A unified diff of two texts; `None` when they are equal.
fn unified(before: &str, after: &str, before_name: &str, after_name: &str) -> Option<String> {
    if before == after {
        return None;
    }
    let (a, b): (Vec<_>, Vec<_>) = (before.lines().collect(), after.lines().collect());
    let script = script(&a, &b);
    let mut out = format!("--- {before_name}\n+++ {after_name}\n");
    let changed: Vec<usize> =
        script.iter().enumerate().filter(|(_, (edit, ..))| *edit != Edit::Keep).map(|(i, _)| i).collect();
    let mut next = 0;
    while let Some(&first) = changed.get(next) {
        let mut last = first;
        while let Some(&following) = changed.get(next + 1).filter(|f| **f <= last + 2 * CONTEXT) {
            last = following;
            next += 1;
        }
        next += 1;
        let hunk = &script[first.saturating_sub(CONTEXT)..script.len().min(last + CONTEXT + 1)];
        let count = |not: Edit| hunk.iter().filter(|(edit, ..)| *edit != not).count();
        let (removed, added) = (count(Edit::Add), count(Edit::Remove));
        // an empty side is numbered by the line before it
        let at = |line: usize, count: usize| if count == 0 { line } else { line + 1 };
        let (_, i, j) = hunk[0];
        out.push_str(&format!("@@ -{},{removed} +{},{added} @@\n", at(i, removed), at(j, added)));
        for (edit, i, j) in hunk {
            let (sign, line) = match edit {
                Edit::Keep => (' ', a[*i]),
                Edit::Remove => ('-', a[*i]),
                Edit::Add => ('+', b[*j]),
            };
            out.push_str(&format!("{sign}{line}\n"));
        }
    }
    Some(out)
}

/// The shortest way from `a` to `b`: each edit with the positions in both where it happens.
fn script(a: &[&str], b: &[&str]) -> Vec<(Edit, usize, usize)> {
    let (mut i, mut j, mut out) = (0, 0, vec![]);
    if a.len() <= MAX_LINES && b.len() <= MAX_LINES {
        // common[i][j]: the length of the longest common subsequence of a[i..] and b[j..]
        let mut common = vec![vec![0u16; b.len() + 1]; a.len() + 1];
        for i in (0..a.len()).rev() {
            for j in (0..b.len()).rev() {
                common[i][j] =
                    if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
            }
        }
        while i < a.len() && j < b.len() {
            if a[i] == b[j] {
                out.push((Edit::Keep, i, j));
                (i, j) = (i + 1, j + 1);
            } else if common[i + 1][j] >= common[i][j + 1] {
                out.push((Edit::Remove, i, j));
                i += 1;
            } else {
                out.push((Edit::Add, i, j));
                j += 1;
            }
        }
    }
    out.extend((i..a.len()).map(|i| (Edit::Remove, i, j)));
    out.extend((j..b.len()).map(|j| (Edit::Add, a.len(), j)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_shown_with_their_surroundings() {
        let before: String = (1..=20).map(|n| format!("l{n}\n")).collect();
        let after = before.replace("l2\n", "new\n").replace("l19\n", "");
        let shown = unified(&before, &after, "a", "b").unwrap();
        assert_eq!(
            shown,
            "--- a\n+++ b\n@@ -1,5 +1,5 @@\n l1\n-l2\n+new\n l3\n l4\n l5\n@@ -16,5 +16,4 @@\n l16\n l17\n l18\n-l19\n l20\n"
        );
        assert_eq!(unified(&before, &before, "a", "b"), None);
        assert_eq!(unified("", "x\n", "a", "b").unwrap(), "--- a\n+++ b\n@@ -0,0 +1,1 @@\n+x\n");
    }

    #[test]
    fn values_of_a_secret_are_never_shown() {
        let mut live = json!({"data": {"same": "b25l", "changed": "aHVudGVyMg==", "gone": "b25l"}});
        let mut merged = json!({"data": {"same": "b25l", "changed": "bmV3", "new": "b25l"}});
        mask(Some(&mut live), &mut merged);
        assert_eq!(live, json!({"data": {"same": "***", "changed": "*** (before)", "gone": "***"}}));
        assert_eq!(merged, json!({"data": {"same": "***", "changed": "*** (after)", "new": "***"}}));
        mask(None, &mut merged);
        assert_eq!(merged["data"]["changed"], "***");
    }

    proptest::proptest! {
        #[test]
        fn the_script_leads_from_one_text_to_the_other(a in "[abc\n]{0,12}", b in "[abc\n]{0,12}") {
            let (a, b): (Vec<_>, Vec<_>) = (a.lines().collect(), b.lines().collect());
            let script = script(&a, &b);
            let side = |not: Edit| script.iter().filter(|(e, ..)| *e != not)
                .map(|(e, i, j)| if *e == Edit::Add { b[*j] } else { a[*i] }).collect::<Vec<_>>();
            proptest::prop_assert_eq!(side(Edit::Add), a.clone());
            proptest::prop_assert_eq!(side(Edit::Remove), b.clone());
        }
    }

    #[test]
    fn what_every_write_changes_is_no_difference() {
        let object = |version: &str| json!({"kind": "X", "metadata": {"name": "a", "resourceVersion": version, "annotations": {LAST_APPLIED: version}}, "status": {"v": version}});
        assert_eq!(text(&object("1")).unwrap(), text(&object("2")).unwrap());
    }
}
