//! The query of a request, and the filters in it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::answer::Refused;

/// Names and values, decoded, in their order.
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decoded(name), decoded(value))
                })
                .collect(),
        )
    }

    /// The first of the name; empty when there is none.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// As Go's daemon reads a flag.
    pub fn flag(&self, name: &str) -> bool {
        !matches!(self.get(name).to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// Whether a flag that is on by default is given as off.
    pub fn is_off(&self, name: &str) -> bool {
        matches!(self.get(name).to_ascii_lowercase().as_str(), "0" | "no" | "false" | "none")
    }

    /// A time in seconds with a fraction; `None` when there is none.
    pub fn time(&self, name: &str) -> Result<Option<jiff::Timestamp>, Refused> {
        let text = self.get(name);
        if text.is_empty() || text == "0" {
            return Ok(None);
        }
        let (seconds, nanos) = text.split_once('.').unwrap_or((text, "0"));
        let time = seconds.parse().ok().zip(format!("{nanos:0<9}").parse().ok());
        let time = time.and_then(|(seconds, nanos)| jiff::Timestamp::new(seconds, nanos).ok());
        time.map(Some).ok_or_else(|| Refused::bad(format!("invalid value for {name:?}: {text}")))
    }

    pub fn filters(&self) -> Result<Filters, Refused> {
        Filters::parse(self.get("filters"))
    }
}

pub fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, hex.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (first, _) => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `{"label": ["a=b"]}`, or the older `{"label": {"a=b": true}}`.
#[derive(Debug, Default)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    fn parse(text: &str) -> Result<Filters, Refused> {
        if text.is_empty() {
            return Ok(Filters::default());
        }
        let value: BTreeMap<String, Value> =
            serde_json::from_str(text).map_err(|e| Refused::bad(format!("invalid filter: {e}")))?;
        let list = |value: Value| match value {
            Value::Array(words) => words.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Value::Object(words) => words.into_iter().map(|(word, _)| word).collect(),
            _ => Vec::new(),
        };
        Ok(Filters(value.into_iter().map(|(name, value)| (name, list(value))).collect()))
    }

    fn of(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// One of the values of this filter is it, or there is no such filter.
    pub fn is(&self, name: &str, value: &str) -> bool {
        let wanted = self.of(name);
        wanted.is_empty() || wanted.iter().any(|w| w == value)
    }

    /// One of the values of this filter is a part of it, or there is no such filter.
    pub fn contains(&self, name: &str, value: &str) -> bool {
        let wanted = self.of(name);
        wanted.is_empty() || wanted.iter().any(|w| value.contains(w.trim_start_matches('/')))
    }

    /// All labels of the filter are carried.
    pub fn labels(&self, carried: &BTreeMap<String, String>) -> bool {
        self.of("label").iter().all(|wanted| match wanted.split_once('=') {
            Some((key, value)) => carried.get(key).is_some_and(|v| v == value),
            None => carried.contains_key(wanted),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_in_both_their_forms() {
        for text in [r#"{"label":["a/b=c","d"]}"#, r#"{"label":{"a/b=c":true,"d":true}}"#] {
            let coded: String = text.bytes().map(|b| format!("%{b:02x}")).collect();
            let Ok(filters) = Query::parse(&format!("all=1&filters={coded}")).filters() else { panic!("{text}") };
            let carried = |pairs: &[(&str, &str)]| {
                filters.labels(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
            };
            assert!(carried(&[("a/b", "c"), ("d", ""), ("e", "f")]));
            assert!(!carried(&[("a/b", "x"), ("d", "")]) && !carried(&[("a/b", "c")]));
        }
        assert!(Query::parse("filters=no").filters().is_err());
        assert!(Query::parse("all=1").flag("all") && !Query::parse("all=false").flag("all"));
    }
}
