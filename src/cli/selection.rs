//! Which objects the words after a verb mean: `inst`, `inst alice bob`, `inst/alice dh/local`, `inst,dh`, `all`.

use super::client::Client;
use super::error::{Error, Result};
use super::kinds::{ResourceType, by_word, category};

/// A kind, and names of it; no names means all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub resource: ResourceType,
    pub names: Vec<String>,
}

/// Words split into kinds and names, before the kinds are looked up.
#[derive(Debug, PartialEq, Eq)]
struct Words<'a>(Vec<(&'a str, Vec<&'a str>)>);

fn split(words: &[String]) -> Result<Words<'_>> {
    if words.iter().any(|w| w.contains('/')) {
        let mut pairs: Vec<(&str, Vec<&str>)> = vec![];
        for word in words {
            let (kind, name) = word.split_once('/').unwrap_or((word, ""));
            if kind.is_empty() || name.is_empty() || name.contains('/') {
                return Err(Error::usage(format!("{word:?} is not KIND/NAME, as the other words are")));
            }
            match pairs.last_mut() {
                Some((last, names)) if *last == kind => names.push(name),
                _ => pairs.push((kind, vec![name])),
            }
        }
        return Ok(Words(pairs));
    }
    let Some((kinds, names)) = words.split_first() else { return Ok(Words(vec![])) };
    let kinds: Vec<_> = kinds.split(',').filter(|k| !k.is_empty()).collect();
    if kinds.len() > 1 && !names.is_empty() {
        return Err(Error::usage("names can be given for one kind only"));
    }
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    Ok(Words(kinds.into_iter().map(|k| (k, names.clone())).collect()))
}

/// What the words mean; no words mean all instances.
pub async fn select(client: &Client, words: &[String]) -> Result<Vec<Selection>> {
    let Words(pairs) = split(words)?;
    if pairs.is_empty() {
        return Ok(vec![Selection { resource: ResourceType::instances(), names: vec![] }]);
    }
    let mut selections = vec![];
    for (kind, names) in pairs {
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let resources = match category(kind) {
            found if found.is_empty() => vec![by_word(client, kind).await?],
            found => found,
        };
        selections.extend(resources.into_iter().map(|resource| Selection { resource, names: names.clone() }));
    }
    Ok(selections)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn kinds_and_names_are_told_apart_as_kubectl_does() {
        let split = |text: &str| -> Vec<(String, Vec<String>)> {
            let words = words(text);
            let Words(pairs) = split(&words).unwrap();
            pairs.into_iter().map(|(k, n)| (k.to_owned(), n.into_iter().map(str::to_owned).collect())).collect()
        };
        let pair = |kind: &str, names: &str| (kind.to_owned(), words(names));
        assert_eq!(split("inst"), [pair("inst", "")]);
        assert_eq!(split("inst a b"), [pair("inst", "a b")]);
        assert_eq!(split("inst,dh"), [pair("inst", ""), pair("dh", "")]);
        assert_eq!(split("inst/a inst/b dh/c"), [pair("inst", "a b"), pair("dh", "c")]);
        assert_eq!(split(""), []);
    }

    #[test]
    fn mixtures_are_refused() {
        for text in ["inst/a b", "inst,dh a", "inst/", "/a", "a/b/c"] {
            assert!(split(&words(text)).is_err(), "{text}");
        }
    }
}
