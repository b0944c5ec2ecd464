//! How far a pull is, in one short sentence, from what the daemon tells about each layer. Used by [`super::pull`].
//!
//! The daemon tells layer by layer and several times a second; a person wants the sum. Bounded: a daemon's images have
//! at most 127 layers, and further ones are not counted.

use std::collections::BTreeMap;

const MOST_LAYERS: usize = 256;

/// All that was told of one pull.
#[derive(Debug, Default)]
pub struct Progress {
    layers: BTreeMap<String, Layer>,
}

#[derive(Debug, Default)]
struct Layer {
    stage: Stage,
    /// Bytes, compressed.
    fetched: i64,
    /// 0 until it is known.
    size: i64,
}

#[derive(Debug, Default, PartialEq)]
enum Stage {
    #[default]
    Waiting,
    Fetching,
    /// The registry broke off; in the daemon's words, when it will try again.
    Retrying(String),
    Extracting,
    Done,
}

impl Progress {
    /// Takes in one step and tells where the pull is. `bytes`: done, and in all.
    pub fn hear(&mut self, layer: Option<&str>, status: &str, bytes: Option<(i64, i64)>) -> String {
        if let Some(id) = layer
            && let Some(stage) = stage(status)
            && (self.layers.len() < MOST_LAYERS || self.layers.contains_key(id))
        {
            let layer = self.layers.entry(id.to_owned()).or_default();
            match (status, bytes) {
                ("Downloading", Some((fetched, size))) => (layer.fetched, layer.size) = (fetched, size.max(fetched)),
                ("Download complete", _) => layer.fetched = layer.size,
                _ => {}
            }
            layer.stage = stage;
        }
        if self.layers.is_empty() { status.to_owned() } else { self.sum() }
    }

    fn sum(&self) -> String {
        let layers = self.layers.values();
        let done = layers.clone().filter(|l| l.stage == Stage::Done).count();
        let (fetched, size) = layers
            .clone()
            .fold((0, 0), |(f, s): (i64, i64), l| (f.saturating_add(l.fetched), s.saturating_add(l.size)));
        let mut text = format!("{done} of {} layers", self.layers.len());
        if size > 0 {
            text.push_str(&format!(", {} of {} MiB fetched", mebibytes(fetched), mebibytes(size)));
        }
        let retrying = layers.clone().find_map(|l| match &l.stage {
            Stage::Retrying(when) => Some(when),
            Stage::Waiting | Stage::Fetching | Stage::Extracting | Stage::Done => None,
        });
        match retrying {
            Some(when) => text.push_str(&format!("; the registry broke off: {when}")),
            None if layers.clone().any(|l| l.stage == Stage::Extracting) => text.push_str(", extracting"),
            None => {}
        }
        text
    }
}

/// `None` for what is said of the whole pull.
fn stage(status: &str) -> Option<Stage> {
    Some(match status {
        "Pulling fs layer" | "Waiting" => Stage::Waiting,
        "Downloading" | "Verifying Checksum" | "Download complete" => Stage::Fetching,
        "Extracting" => Stage::Extracting,
        "Pull complete" | "Already exists" => Stage::Done,
        retrying if retrying.starts_with("Retrying in ") => Stage::Retrying(retrying.to_owned()),
        _ => return None,
    })
}

/// With one decimal.
fn mebibytes(bytes: i64) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_layers_is_summed() {
        let mut progress = Progress::default();
        assert_eq!(progress.hear(Some("1"), "Pulling from app", None), "Pulling from app", "a tag is no layer");
        assert_eq!(progress.hear(Some("a"), "Already exists", None), "1 of 1 layers");
        assert_eq!(progress.hear(Some("b"), "Pulling fs layer", None), "1 of 2 layers");
        let mib = 1 << 20;
        progress.hear(Some("b"), "Downloading", Some((mib / 2, 4 * mib)));
        let text = progress.hear(Some("c"), "Downloading", Some((mib, 2 * mib)));
        assert_eq!(text, "1 of 3 layers, 1.5 of 6.0 MiB fetched");
        let text = progress.hear(Some("b"), "Retrying in 5 seconds", None);
        assert_eq!(text, "1 of 3 layers, 1.5 of 6.0 MiB fetched; the registry broke off: Retrying in 5 seconds");
        progress.hear(Some("b"), "Download complete", None);
        // its bytes are of what is unpacked by now
        let text = progress.hear(Some("b"), "Extracting", Some((9 * mib, 9 * mib)));
        assert_eq!(text, "1 of 3 layers, 5.0 of 6.0 MiB fetched, extracting");
        let text = progress.hear(Some("b"), "Pull complete", None);
        assert_eq!(text, "2 of 3 layers, 5.0 of 6.0 MiB fetched");
        assert_eq!(progress.hear(None, "Digest: sha256:0", None), text);
    }

    #[test]
    fn a_daemon_that_tells_nonsense_costs_no_memory() {
        let mut progress = Progress::default();
        for n in 0..10_000 {
            progress.hear(Some(&n.to_string()), "Downloading", Some((i64::MAX, -1)));
        }
        assert_eq!(progress.layers.len(), MOST_LAYERS);
    }
}
