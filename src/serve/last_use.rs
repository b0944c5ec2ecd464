//! When each instance was last used, kept over restarts without a write for each use: written now and then, and at the end,
//! to a file beside the store. It is no state that anything depends on: without it everybody awake has their grace.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::model::Key;
use crate::pki::files::write_private;
use crate::proxy::Activity;

const FILE: &str = "last-use.json";
/// So much use at most is forgotten when the process is killed: who was used then falls asleep so much earlier than it might.
const EVERY: Duration = Duration::from_secs(60);
/// Some hundred bytes for each of many instances: more is no file of ours.
const MOST_BYTES: u64 = 64 << 20;

/// Takes up what the process before this one has left. What cannot be read is nothing, and is told. Blocks on the disk.
pub fn load(data_dir: &Path, activity: &Activity) {
    let path = data_dir.join(FILE);
    match std::fs::metadata(&path) {
        Ok(found) if found.len() <= MOST_BYTES => {}
        Ok(_) => return tracing::warn!(file = %path.display(), "too large; it is not read"),
        Err(_) => return,
    }
    let read = std::fs::read(&path).map_err(|e| e.to_string());
    let parsed = read.and_then(|bytes| parse(&bytes).map_err(|e| e.to_string()));
    match parsed {
        Ok(before) => activity.remember(before),
        Err(error) => tracing::warn!(file = %path.display(), error, "when instances were last used is not known"),
    }
}

/// Seconds without use, by key.
fn parse(bytes: &[u8]) -> serde_json::Result<HashMap<Key, Duration>> {
    let read: BTreeMap<String, serde_json::Value> = serde_json::from_slice(bytes)?;
    let known =
        read.into_iter().filter_map(|(key, idle)| Some((key.parse().ok()?, Duration::from_secs(idle.as_u64()?))));
    Ok(known.collect())
}

fn text(known: &HashMap<Key, Duration>) -> String {
    let sorted: BTreeMap<String, u64> = known.iter().map(|(key, idle)| (key.to_string(), idle.as_secs())).collect();
    serde_json::to_string(&sorted).unwrap_or_default()
}

/// Writes now and then until `stop`, and once more then.
pub async fn run(data_dir: &Path, activity: Arc<Activity>, stop: CancellationToken) {
    let path = data_dir.join(FILE);
    let mut failing = false;
    loop {
        let last = stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none();
        let (text, to) = (text(&activity.snapshot()), path.clone());
        let written = tokio::task::spawn_blocking(move || write_private(&to, text.as_bytes())).await;
        let error = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let (Some(error), false) = (&error, failing) {
            tracing::warn!(file = %path.display(), error, "cannot keep when instances were last used");
        }
        failing = error.is_some();
        if last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn what_is_written_is_read_and_what_is_not_ours_is_nothing() {
        let known = HashMap::from([(Key::instance("a", "x"), Duration::from_secs(7))]);
        assert_eq!(parse(text(&known).as_bytes()).unwrap(), known);
        assert_eq!(
            parse(br#"{"nonsense": 1, "instances/a/x": 7}"#).unwrap(),
            known,
            "a kind that is not there any more"
        );

        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let stop = CancellationToken::new();
            stop.cancel();
            let before = Activity::new(SystemClock::new());
            before.touch(&Key::instance("a", "x"));
            run(dir.path(), before, stop).await;
            let after = Activity::new(SystemClock::new());
            load(dir.path(), &after);
            assert!(after.recall(&Key::instance("a", "x"), true));
            for broken in ["", "{", "[1]", r#"{"instances/a/x": -1}"#] {
                std::fs::write(dir.path().join(FILE), broken).unwrap();
                let after = Activity::new(SystemClock::new());
                load(dir.path(), &after);
                assert!(!after.recall(&Key::instance("a", "x"), true), "{broken:?}");
            }
        });
    }
}
